//! For whom a session is.

use std::sync::Arc;

use crate::destination::demand::TlsOption;
use crate::mail::address::{Mailbox, ReversePath};
use crate::mail::registrable::registrable_domain;

/// For whom a session is: the triplet a greylisting host knows it by.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    sender: String,
    recipient: String,
    domain: String,
    option: TlsOption,
}

impl Caller {
    /// Somebody who sends with this reverse-path to this recipient, whose mail finds its way by this domain.
    pub(super) fn new(reverse_path: &ReversePath, recipient: &Mailbox, domain: String) -> Self {
        Self {
            sender: reverse_path.as_str().to_ascii_lowercase(),
            recipient: recipient.plain_key(),
            domain,
            option: TlsOption::None,
        }
    }

    pub(super) fn sender(&self) -> &str {
        &self.sender
    }

    /// The recipient, as [`Mailbox::plain_key`] writes it.
    pub(super) fn recipient(&self) -> &str {
        &self.recipient
    }

    /// The recipient's domain, as [`Mailbox::domain_key`] writes it, or what stands for it in the sandbox.
    pub(super) fn domain(&self) -> &str {
        &self.domain
    }

    /// The registrable domain of the recipient's.
    pub(super) fn registrable_domain(&self) -> Arc<str> {
        registrable_domain(&self.domain).into()
    }

    /// What the message asks for about TLS.
    pub(super) fn option(&self) -> TlsOption {
        self.option
    }

    /// The same, for a message that has an option about TLS.
    pub(super) fn with_tls_option(self, option: TlsOption) -> Self {
        Self { option, ..self }
    }
}
