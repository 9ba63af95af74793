//! Which entries are meant.

use std::sync::Arc;

use crate::ledger::entry::{Message, State};
use crate::mail::address::{Mailbox, domain_key};
use crate::mail::id::MessageId;

/// Which live entries are meant; what is none, does not matter.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// In this state.
    pub state: Option<State>,
    /// To this domain, as [`domain_key`] writes it.
    pub domain: Option<String>,
    /// To this recipient, as [`Mailbox::plain_key`] writes it.
    pub recipient: Option<String>,
    /// Of this user.
    pub user: Option<Arc<str>>,
    /// With this supersession key.
    pub key: Option<Arc<str>>,
    /// Of this message.
    pub message: Option<MessageId>,
}

impl Filter {
    /// The live entries of one message.
    pub fn of_message(id: MessageId) -> Self {
        Self { message: Some(id), ..Self::default() }
    }

    /// Whether nothing but the state matters.
    pub(crate) fn is_of_state(&self) -> bool {
        let Self { state: _, domain, recipient, user, key, message } = self;
        domain.is_none() && recipient.is_none() && user.is_none() && key.is_none() && message.is_none()
    }

    pub(crate) fn covers_message(&self, message: &Message) -> bool {
        self.message.is_none_or(|id| id == message.id)
            && self.user.as_ref().is_none_or(|user| *user == message.user)
            && (self.key.is_none() || self.key == message.key)
    }

    /// Whether it covers an entry in this state, of a message that it covers.
    pub(crate) fn covers_entry(&self, mailbox: &Mailbox, state: Option<State>) -> bool {
        state.is_some()
            && self.state.is_none_or(|wanted| state == Some(wanted))
            && self.domain.as_ref().is_none_or(|domain| is_at(mailbox, domain))
            && self.recipient.as_ref().is_none_or(|plain| is_recipient(mailbox, plain))
    }
}

/// Whether it is at the domain; mostly without allocating, for this is asked of many entries under the lock.
fn is_at(mailbox: &Mailbox, domain: &str) -> bool {
    let own = mailbox.domain();
    own.eq_ignore_ascii_case(domain) || (!own.is_ascii() && domain_key(own).as_deref() == Some(domain))
}

fn is_recipient(mailbox: &Mailbox, plain: &str) -> bool {
    let domain = plain.rsplit_once('@').map_or("", |(_, domain)| domain);
    is_at(mailbox, domain) && mailbox.plain_key() == plain
}
