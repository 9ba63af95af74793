//! What a message needs of the server, and MAIL and RCPT with the parameters that the server offers.

use std::time::Duration;

use super::{ClientSession, EightBit, Requirement, Transaction};
use crate::mail::address::Mailbox;
use crate::mail::envelope::{DeliverBy, DeliverByMode, Ret};
use crate::smtp::extension::Feature;

impl ClientSession {
    pub(super) fn unmet(&self, transaction: &Transaction) -> Option<Requirement> {
        let extensions = &self.extensions;
        if needs_utf8(transaction) && !self.may_use(transaction, Feature::SmtpUtf8) {
            return Some(Requirement::SmtpUtf8);
        }
        if transaction.parameters.require_tls && !(extensions.require_tls && self.is_encrypted()) {
            return Some(Requirement::RequireTls);
        }
        if extensions.size_max.is_some_and(|limit| transaction.size > limit) {
            return Some(Requirement::Size);
        }
        let is_missing =
            transaction.eight_bit == EightBit::Declared && !self.may_use(transaction, Feature::EightBitMime);
        is_missing.then_some(Requirement::EightBitMime)
    }

    pub(super) fn mail_command(&self, transaction: &Transaction) -> Vec<u8> {
        let extensions = &self.extensions;
        let parameters = &transaction.parameters;
        let path = transaction.reverse_path.mailbox().map(|m| self.address(m, transaction)).unwrap_or_default();
        let mut line = format!("MAIL FROM:<{path}>");
        if extensions.size {
            line.push_str(&format!(" SIZE={}", transaction.size));
        }
        if self.may_use(transaction, Feature::EightBitMime) && transaction.eight_bit != EightBit::No {
            line.push_str(" BODY=8BITMIME");
        }
        if self.says_utf8(transaction) {
            line.push_str(" SMTPUTF8");
        }
        if parameters.require_tls {
            line.push_str(" REQUIRETLS");
        }
        if extensions.dsn {
            match parameters.ret {
                Some(Ret::Full) => line.push_str(" RET=FULL"),
                Some(Ret::Headers) => line.push_str(" RET=HDRS"),
                None => {}
            }
            if let Some(envid) = &parameters.envid {
                line.push_str(&format!(" ENVID={envid}"));
            }
        }
        if let (Some(least), Some(by)) = (extensions.deliver_by, transaction.deliver_by) {
            line.push_str(&deliver_by(by, least));
        }
        if let (true, Some(priority)) = (extensions.mt_priority, parameters.priority) {
            line.push_str(&format!(" MT-PRIORITY={priority}"));
        }
        line.push_str("\r\n");
        line.into_bytes()
    }

    pub(super) fn rcpt_command(&self, transaction: &Transaction) -> Vec<u8> {
        let recipient = &transaction.recipient;
        let mut line = format!("RCPT TO:<{}>", self.address(&recipient.mailbox, transaction));
        if self.extensions.dsn {
            if let Some(notify) = recipient.notify {
                line.push_str(&format!(" NOTIFY={}", notify.keyword()));
            }
            if let Some(orcpt) = &recipient.orcpt {
                line.push_str(&format!(" ORCPT={orcpt}"));
            }
        }
        line.push_str("\r\n");
        line.into_bytes()
    }

    /// Whether MAIL says SMTPUTF8, without which nothing may be other than ASCII (RFC 6531 section 3.4).
    fn says_utf8(&self, transaction: &Transaction) -> bool {
        self.may_use(transaction, Feature::SmtpUtf8) && (transaction.parameters.smtputf8 || needs_utf8(transaction))
    }

    /// With its domain in A-labels unless MAIL says SMTPUTF8.
    fn address(&self, mailbox: &Mailbox, transaction: &Transaction) -> String {
        if self.says_utf8(transaction) {
            return mailbox.as_str().to_owned();
        }
        mailbox.to_ascii().unwrap_or_else(|| mailbox.as_str().to_owned())
    }
}

/// Whether the message cannot be written in ASCII.
fn needs_utf8(transaction: &Transaction) -> bool {
    transaction.utf8_fields
        || !transaction.recipient.mailbox.has_ascii_local_part()
        || transaction.reverse_path.mailbox().is_some_and(|mailbox| !mailbox.has_ascii_local_part())
}

/// `BY=` with what is left of it (RFC 2852 section 4); nothing where the server asks for more time than is left.
fn deliver_by(by: DeliverBy, least: Duration) -> String {
    let (mode, too_little) = match by.mode {
        DeliverByMode::Return => {
            ('R', by.seconds <= 0 || i64::from(by.seconds) < i64::try_from(least.as_secs()).unwrap_or(0))
        }
        DeliverByMode::Notify => ('N', false),
    };
    if too_little {
        return String::new();
    }
    format!(" BY={};{mode}{}", by.seconds, if by.trace { "T" } else { "" })
}
