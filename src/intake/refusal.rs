//! Why mail is refused, and what the client is told.

use std::time::Duration;

use crate::base::clock::{Step, Timestamp};
use crate::base::shares::Portion;
use crate::base::text::shell_argument;
use crate::ledger::accept::NoRoom;
use crate::ledger::suppression::Suppression;
use crate::smtp::reply::{self, EnhancedCode, Reply};

/// When it is worth asking again where all users together sent too much.
const TOTAL_BUDGET_PAUSE: Duration = Duration::from_secs(60);

/// What is said of a domain whose mail hosts may not be connected to.
const PRIVATE_HOSTS: &str =
    "the mail hosts of the recipient's domain have private addresses; delivery.allow_private_destinations permits them";
/// What a routed address is told.
const ROUTED: &str = "the part before the @ routes elsewhere (%, ! or a quoted @); such addresses are not taken \
                      (submission.routed_addresses)";

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
    /// Its local part routes elsewhere.
    Routed,
    /// `delivery.only_to` does not cover it.
    NotInOnlyTo,
    /// The message is malformed.
    Message(&'static str),
    /// A line of more than 998 bytes.
    LongLine {
        /// Which, from 1.
        number: usize,
        /// Why it is not encoded.
        why: &'static str,
    },
    /// A option cannot be understood.
    Option(&'static str),
    /// Other content came under the same idempotency key.
    IdempotencyConflict,
    /// A message under the same idempotency key is being accepted.
    InWork,
    /// The recipient is not sent to.
    Suppressed {
        /// When this user's message bounced; none: somebody else's did, or it was put on the list.
        bounced: Option<Timestamp>,
        /// Until when; none: it stays.
        until: Option<Timestamp>,
        /// The address or `@domain` on the list.
        address: String,
    },
    /// The recipient has had what this user may send to it for now.
    Budget {
        /// So many messages.
        count: u32,
        /// In such a time.
        window: Duration,
        /// When the next may come.
        wait: Duration,
    },
    /// The recipient has had what all users together may send to it for now. Says no more: the others are nobody's concern.
    TotalBudget,
    /// The user sends faster than it may.
    Rate {
        /// So many at once.
        count: u32,
        /// When the next may come.
        wait: Duration,
    },
    /// It has been through too many hosts.
    Loop,
    /// `queue.entries_max` is reached.
    QueueFull {
        /// So many entries.
        entries_max: usize,
    },
    /// The disk is full, or a write failed and it is left alone for a moment.
    DiskFull,
    /// The user has as much of `queue.entries_max` as it may have beside others.
    Share(Portion),
    /// The store or the signer failed.
    Internal,
    /// The relay shuts down.
    ShuttingDown,
}

impl Refusal {
    /// By this row nothing is sent. A user hears what became of its own message; else, as over HTTP, until when.
    pub(super) fn suppressed(found: &Suppression, user: &str) -> Self {
        Self::Suppressed { bounced: found.bounced_for(user), until: found.until, address: found.address.clone() }
    }

    /// When it is worth trying again, where that is known.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Budget { wait, .. } | Self::Rate { wait, .. } => Some(*wait),
            // Always the same, since the true one would tell when others sent.
            Self::TotalBudget => Some(TOTAL_BUDGET_PAUSE),
            Self::Sender { .. }
            | Self::NoSuchDomain
            | Self::NullMx
            | Self::NoMailHost
            | Self::PrivateHosts
            | Self::AddressLiteral
            | Self::Routed
            | Self::LongLine { .. }
            | Self::NotInOnlyTo
            | Self::Message(_)
            | Self::Option(_)
            | Self::IdempotencyConflict
            | Self::InWork
            | Self::Suppressed { .. }
            | Self::Loop
            | Self::QueueFull { .. }
            | Self::DiskFull
            | Self::Share(_)
            | Self::Internal
            | Self::ShuttingDown => None,
        }
    }

    /// There is no room in a budget.
    pub(super) fn over_budget(why: NoRoom, now: Timestamp) -> Self {
        match why {
            NoRoom::Own { count, span, again_at } => Self::Budget { count, window: span, wait: again_at.since(now) },
            NoRoom::Total => Self::TotalBudget,
        }
    }

    /// The same with its times as the wall clock shows them.
    #[must_use]
    pub(super) fn by_wall(mut self, step: Step) -> Self {
        if let Self::Suppressed { bounced, until, .. } = &mut self {
            *bounced = bounced.map(|bounced| step.wall(bounced));
            *until = until.map(|until| step.wall(until));
        }
        self
    }

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
            Self::PrivateHosts => permanent(550, 1, 2, PRIVATE_HOSTS),
            Self::AddressLiteral => permanent(550, 1, 2, "addresses in brackets are not served"),
            Self::Routed => Reply::new(501, EnhancedCode(5, 1, 3), ROUTED),
            Self::NotInOnlyTo => permanent(550, 7, 1, "this relay delivers only to the recipients in delivery.only_to"),
            Self::Message(text) => permanent(554, 6, 0, *text),
            Self::LongLine { number, why } => {
                Reply::new(554, EnhancedCode(5, 6, 0), format!("line {number} has more than 998 bytes, {why}"))
            }
            Self::Option(text) => Reply::new(501, EnhancedCode(5, 5, 4), *text),
            Self::IdempotencyConflict => permanent(554, 6, 0, "this idempotency key was used for another message"),
            Self::InWork => Reply::new(
                451,
                EnhancedCode(4, 5, 0),
                "a message with this idempotency key is being accepted; try again",
            ),
            Self::Suppressed { bounced, until, address } => {
                Reply::new(550, EnhancedCode(5, 1, 1), suppressed_text(*bounced, *until, address))
            }
            Self::Budget { count, window, wait } => {
                let window = spoken(*window);
                let next = seconds(*wait);
                let text =
                    format!("{count} codes in {window} for this recipient (otp.recipient_budget); next in {next} s");
                Reply::new(450, EnhancedCode(4, 7, 28), text)
            }
            Self::TotalBudget => Reply::new(450, EnhancedCode(4, 7, 28), "too many codes for this recipient"),
            Self::Rate { wait, .. } => {
                let text = format!("this user's rate is used up (user.rate); next in {} s", seconds(*wait));
                Reply::new(452, EnhancedCode(4, 7, 0), text)
            }
            Self::Loop => permanent(554, 4, 6, "too many Received fields; this looks like a mail loop"),
            Self::Share(Portion { whole, share }) => {
                let text = format!("this user's share of the queue is full: {share} of {whole} (queue.entries_max)");
                Reply::new(452, EnhancedCode(4, 3, 1), text)
            }
            Self::QueueFull { entries_max } => {
                let text = format!("the queue is full (queue.entries_max = {entries_max}), try again later");
                Reply::new(452, EnhancedCode(4, 3, 1), text)
            }
            Self::DiskFull => Reply::new(452, EnhancedCode(4, 3, 1), "the disk is full or fails, try again later"),
            Self::Internal => reply::INTERNAL_ERROR,
            Self::ShuttingDown => reply::SHUTTING_DOWN,
        }
    }
}

fn suppressed_text(bounced: Option<Timestamp>, until: Option<Timestamp>, address: &str) -> String {
    let bounced = bounced.map(|bounced| format!(": hard bounce on {}", bounced.date())).unwrap_or_default();
    let until = until.map(|until| format!(", until {}", &until.rfc3339()[..16])).unwrap_or_default();
    format!("suppressed{bounced}{until}; to override: otp-relay suppression remove {}", shell_argument(address))
}

/// Whole seconds, upwards.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// `10m`, `90s`, `1h`.
fn spoken(window: Duration) -> String {
    match window.as_secs() {
        s if s >= 3600 && s % 3600 == 0 => format!("{}h", s / 3600),
        s if s >= 60 && s % 60 == 0 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}
