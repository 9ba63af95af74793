//! Why mail is refused, and what the client is told.

use crate::smtp::reply::{self, EnhancedCode, Reply};

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The reverse-path or From address is not the user's.
    Sender {
        /// Which of the two.
        what: &'static str,
        /// What would be allowed.
        allowed: String,
    },
    /// The recipient's domain does not exist.
    NoSuchDomain,
    /// It says that it takes no mail.
    NullMx,
    /// No host takes its mail.
    NoMailHost,
    /// Only hosts with private addresses do.
    PrivateHosts,
    /// The recipient's domain is an address.
    AddressLiteral,
    /// `delivery.only_to` does not cover it.
    NotInOnlyTo,
    /// The message is malformed.
    Message(&'static str),
    /// It has been through too many hosts.
    Loop,
    /// `queue.entries_max` is reached, or the disk is full.
    Full,
    /// The store or the signer failed.
    Internal,
    /// The relay shuts down.
    ShuttingDown,
}

impl Refusal {
    /// What an SMTP client hears.
    pub fn reply(&self) -> Reply {
        let permanent = |code, subject, detail, text| Reply::new(code, EnhancedCode(5, subject, detail), text);
        match self {
            Self::Sender { what, allowed } => {
                Reply::new(550, EnhancedCode(5, 7, 1), format!("{what} not allowed for this user; {allowed}"))
            }
            Self::NoSuchDomain => permanent(550, 1, 2, "no such domain"),
            Self::NullMx => permanent(556, 1, 10, "the recipient's domain takes no mail (null MX)"),
            Self::NoMailHost => permanent(550, 1, 2, "no host takes mail for the recipient's domain"),
            Self::PrivateHosts => {
                permanent(550, 1, 2, "the mail hosts of the recipient's domain have private addresses")
            }
            Self::AddressLiteral => permanent(550, 1, 2, "addresses in brackets are not served"),
            Self::NotInOnlyTo => permanent(550, 7, 1, "this relay delivers only to the recipients in delivery.only_to"),
            Self::Message(text) => permanent(554, 6, 0, *text),
            Self::Loop => permanent(554, 4, 6, "too many Received fields; this looks like a mail loop"),
            Self::Full => reply::STORAGE_FULL,
            Self::Internal => reply::INTERNAL_ERROR,
            Self::ShuttingDown => reply::SHUTTING_DOWN,
        }
    }
}
