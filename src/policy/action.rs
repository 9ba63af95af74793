//! What each cause asks for: when to try again, where, and who should know.

use crate::base::named::named;
use crate::event::Suppress;
use crate::event::cause::Cause;

/// When there is to be another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// None.
    Never,
    /// At the steps that fit the delays of known greylisting software.
    Ladder,
    /// At these seconds after the first refusal, then ever more rarely.
    Steps(&'static [u16]),
    /// These seconds after each attempt, the last of them repeated: what failed is asked anew each time.
    Pauses(&'static [u16]),
    /// Once more, when half of what is left of the life is over.
    Once,
}

named! {
    /// Who can mend it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Blame: name {
        /// Nobody has to.
        Nobody = "nobody",
        /// The recipient, or whoever wrote the address down.
        Recipient = "recipient",
        /// The app that composed the message.
        Message = "message",
        /// Whoever runs the relay: addresses, DNS records, keys, limits.
        Relay = "relay",
        /// The receiving system.
        Receiver = "receiver",
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    pub(crate) retry: Retry,
    /// Whether another MX host of the destination is tried at once; never after the content was sent.
    pub next_mx: bool,
    /// Whether another route, with another identity, may do better.
    pub(crate) next_route: bool,
    /// What becomes of the address.
    pub suppress: Suppress,
    /// Who can mend it.
    pub(crate) blame: Blame,
}

/// Whether the reply is the last word on this message, for this recipient, at this destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finality {
    /// 4xx, or what speaks for a host and not for the recipient, or no reply at all.
    Temporary,
    /// 5xx.
    Final,
}

impl Retry {
    /// In one word, as `explain` says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Ladder => "ladder",
            Self::Steps(_) => "steps",
            Self::Pauses(_) => "pauses",
            Self::Once => "once",
        }
    }

    /// The seconds of it, where they are fixed.
    pub fn seconds(self) -> &'static [u16] {
        match self {
            Self::Steps(seconds) | Self::Pauses(seconds) => seconds,
            Self::Never | Self::Ladder | Self::Once => &[],
        }
    }
}

const BUSY_S: &[u16] = &[5, 20, 60, 120, 300, 600];
const LIMITED_S: &[u16] = &[30, 75, 120, 180, 240, 300, 420, 600, 900];
const REPUTATION_S: &[u16] = &[30, 120, 300, 900, 1800];
const RECIPIENT_S: &[u16] = &[15, 60, 180, 600];
const OTHER_S: &[u16] = &[15, 60, 180, 300, 600];
const AT_ONCE_S: &[u16] = &[1, 15, 60, 180, 600];
/// After trouble with DNS: it is asked anew each time.
const DNS_S: &[u16] = &[2, 5, 10, 20];

/// The action that a cause asks for.
pub fn action(cause: Cause, finality: Finality) -> Action {
    use Blame as B;
    use Suppress as S;
    let again =
        |steps, blame| Action { retry: Retry::Steps(steps), next_mx: false, next_route: false, suppress: S::No, blame };
    let never = |suppress, blame| Action { retry: Retry::Never, suppress, ..again(&[], blame) };
    let temporary = match cause {
        Cause::Greylisted => Action { retry: Retry::Ladder, ..again(&[], B::Nobody) },
        Cause::RateLimited => Action { next_route: true, ..again(LIMITED_S, B::Relay) },
        Cause::MailboxFull => Action { retry: Retry::Once, suppress: S::Count, ..again(&[], B::Recipient) },
        Cause::MailboxUnavailableTemp => again(RECIPIENT_S, B::Receiver),
        Cause::BadMailbox | Cause::InactiveMailbox => again(RECIPIENT_S, B::Recipient),
        Cause::BadDomain => Action { next_mx: true, ..again(RECIPIENT_S, B::Recipient) },
        Cause::ContentRejected => again(OTHER_S, B::Message),
        Cause::ReputationBlocked => Action { next_route: true, ..again(REPUTATION_S, B::Relay) },
        Cause::AuthFailed => Action { next_route: true, ..again(OTHER_S, B::Relay) },
        Cause::PolicyRejected => Action { next_route: true, ..again(OTHER_S, B::Relay) },
        Cause::TlsRequired => Action { next_mx: true, ..again(AT_ONCE_S, B::Receiver) },
        Cause::ProtocolError => Action { next_mx: true, ..again(OTHER_S, B::Relay) },
        Cause::MessageTooLarge => again(OTHER_S, B::Message),
        Cause::ServerBusy => Action { next_mx: true, ..again(BUSY_S, B::Receiver) },
        Cause::DnsFailure => Action { retry: Retry::Pauses(DNS_S), next_mx: true, ..again(&[], B::Receiver) },
        Cause::OtherTemp | Cause::OtherPerm => Action { next_mx: true, ..again(OTHER_S, B::Receiver) },
        Cause::Unreachable | Cause::ConnectionLost => {
            Action { next_mx: true, next_route: true, ..again(BUSY_S, B::Receiver) }
        }
        Cause::OutcomeUnknown => again(BUSY_S, B::Receiver),
    };
    if finality == Finality::Temporary {
        return temporary;
    }
    match cause {
        // A limit passes, whatever digit it comes with.
        Cause::RateLimited => temporary,
        Cause::BadMailbox | Cause::InactiveMailbox => never(S::Address, B::Recipient),
        Cause::BadDomain => never(S::No, B::Recipient),
        Cause::MailboxFull => never(S::Count, B::Recipient),
        Cause::OtherPerm => never(S::No, B::Receiver),
        Cause::DnsFailure => never(S::No, B::Relay),
        Cause::Greylisted
        | Cause::MailboxUnavailableTemp
        | Cause::ContentRejected
        | Cause::ReputationBlocked
        | Cause::AuthFailed
        | Cause::PolicyRejected
        | Cause::TlsRequired
        | Cause::ProtocolError
        | Cause::MessageTooLarge
        | Cause::ServerBusy
        | Cause::OtherTemp
        | Cause::Unreachable
        | Cause::ConnectionLost
        | Cause::OutcomeUnknown => Action { retry: Retry::Never, next_mx: false, ..temporary },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_final_is_not_tried_again_unless_it_is_a_limit() {
        for cause in Cause::ALL {
            let retry = action(*cause, Finality::Final).retry;
            assert_eq!(retry != Retry::Never, *cause == Cause::RateLimited, "{cause:?}");
        }
    }

    #[test]
    fn only_what_speaks_of_the_recipient_suppresses() {
        for cause in Cause::ALL {
            let expected = match cause {
                Cause::BadMailbox | Cause::InactiveMailbox => Suppress::Address,
                Cause::MailboxFull => Suppress::Count,
                _ => Suppress::No,
            };
            assert_eq!(action(*cause, Finality::Final).suppress, expected, "{cause:?}");
        }
    }

    #[test]
    fn a_greylisted_triplet_stays_with_its_host() {
        assert!(!action(Cause::Greylisted, Finality::Temporary).next_mx);
        assert!(action(Cause::ServerBusy, Finality::Temporary).next_mx);
    }

    #[test]
    fn steps_rise() {
        for steps in [BUSY_S, LIMITED_S, REPUTATION_S, RECIPIENT_S, OTHER_S, AT_ONCE_S, DNS_S] {
            assert!(steps.windows(2).all(|pair| pair[0] < pair[1]), "{steps:?}");
        }
    }
}
