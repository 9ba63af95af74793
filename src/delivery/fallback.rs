//! Whether a session with an address goes without the TLS that it was to have: opportunistic encryption protects from
//! listeners only, and is no reason to lose a message (RFC 7435 section 3). Where somebody demands TLS nothing falls back.

use std::sync::Arc;

use super::quirks::TlsHistory;
use super::security::starttls;
use crate::destination::demand::Demand;
use crate::smtp::client_session::{Failure, Fault, Requirement, Stage, StartTls};

/// Connections in a row that are lost without a word before TLS is given up.
const LOSSES_MAX: u32 = 2;
/// Why it goes in clear text with a host that had TLS within a week.
const NOT_OFFERED: &str = "STARTTLS is not offered any more";

/// When an address is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    /// In the order of preference.
    Planned,
    /// After all others failed too, in clear text, because of this.
    InClear(Arc<str>),
}

#[derive(Debug)]
pub(super) struct MissingSession {
    pub(super) failure: Failure,
    /// Whether that was behind the handshake.
    pub(super) is_encrypted: bool,
}

/// What follows a connection that came to no session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Another connection to the same address.
    Again,
    /// This address in clear text, after all others, because of this.
    Later(Arc<str>),
    Over,
}

/// How far one address is.
#[derive(Debug)]
pub(super) struct Fallback {
    starttls: StartTls,
    /// Why the next connection goes in clear text.
    why: Option<Arc<str>>,
    losses: u32,
}

/// What a failure says of TLS.
enum Sign {
    Fails(String),
    /// The connection was lost; that may have had another reason.
    Lost(String),
    None,
}

impl Fallback {
    pub(super) fn new(demand: &Demand, history: TlsHistory, turn: &Turn) -> Self {
        let needed = starttls(demand);
        let (starttls, why) = match (needed, turn, history) {
            (StartTls::Never | StartTls::Required | StartTls::Expected | StartTls::Implicit, _, _) => (needed, None),
            (StartTls::IfOffered, Turn::InClear(why), _) => (StartTls::Never, Some(why.clone())),
            (StartTls::IfOffered, Turn::Planned, TlsHistory::Failed(why)) => (StartTls::Never, Some(why)),
            (StartTls::IfOffered, Turn::Planned, TlsHistory::Worked) => (StartTls::Expected, None),
            (StartTls::IfOffered, Turn::Planned, TlsHistory::Unknown) => (StartTls::IfOffered, None),
        };
        Self { starttls, why, losses: 0 }
    }

    /// What the next connection does about STARTTLS.
    pub(super) fn starttls(&self) -> StartTls {
        self.starttls
    }

    /// Why it goes in clear text, if it does so because TLS failed.
    pub(super) fn why(&self) -> Option<&Arc<str>> {
        self.why.as_ref()
    }

    /// A connection came to no session.
    pub(super) fn failed(&mut self, unopened: &MissingSession) -> After {
        if !matches!(self.starttls, StartTls::IfOffered | StartTls::Expected) {
            return After::Over;
        }
        let why: Arc<str> = match self.sign(unopened) {
            Sign::None => return After::Over,
            Sign::Lost(_) if self.losses + 1 < LOSSES_MAX => {
                self.losses += 1;
                return After::Again;
            }
            Sign::Fails(why) | Sign::Lost(why) => why.into(),
        };
        if self.starttls == StartTls::Expected {
            return After::Later(why);
        }
        (self.starttls, self.why) = (StartTls::Never, Some(why));
        After::Again
    }

    fn sign(&self, unopened: &MissingSession) -> Sign {
        let MissingSession { failure: Failure { stage, fault }, is_encrypted } = unopened;
        let is_of_tls = match stage {
            Stage::StartTls => true,
            // Where TLS is expected, HELO is none of it.
            Stage::Ehlo => *is_encrypted || self.starttls == StartTls::Expected && matches!(fault, Fault::Reply(_)),
            Stage::Connect | Stage::Tls | Stage::Banner | Stage::Auth | Stage::Reset => false,
            Stage::Mail | Stage::Rcpt | Stage::Data | Stage::Content => false,
        };
        if !is_of_tls {
            return Sign::None;
        }
        let place = if *is_encrypted { "EHLO behind the handshake" } else { stage.name() };
        match fault {
            Fault::Tls(error) => Sign::Fails(error.clone()),
            // It goes, and not because of TLS.
            Fault::Reply(reply) if reply.code == 421 => Sign::None,
            Fault::Reply(reply) => Sign::Fails(format!("{reply} to {place}")),
            Fault::Timeout if !is_encrypted => Sign::Fails(format!("no answer to {place}")),
            Fault::Timeout => Sign::Lost(format!("no answer to {place}")),
            Fault::Closed | Fault::Malformed(_) => Sign::Lost(format!("connection lost at {place}")),
            Fault::Unsupported(Requirement::StartTls) if self.starttls == StartTls::Expected => {
                Sign::Fails(NOT_OFFERED.to_owned())
            }
            Fault::Unsupported(_) | Fault::Ours(_) => Sign::None,
        }
    }
}

/// What is told of a session in clear text.
pub(super) fn describe(why: &str) -> Arc<str> {
    format!("in clear text: TLS failed ({why})").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::demand::Asker;
    use crate::smtp::reply::Reply;

    fn unopened(stage: Stage, fault: Fault, is_encrypted: bool) -> MissingSession {
        MissingSession { failure: Failure { stage, fault }, is_encrypted }
    }

    fn reply(code: u16) -> Fault {
        Fault::Reply(Reply::plain(code, "no"))
    }

    fn begun(history: TlsHistory) -> Fallback {
        Fallback::new(&Demand::Opportunistic, history, &Turn::Planned)
    }

    /// How many such failures lead to clear text, and why; none if they never do.
    fn falls_back(stage: Stage, fault: &Fault, is_encrypted: bool) -> Option<(u32, String)> {
        let mut fallback = begun(TlsHistory::Unknown);
        for failures in 1..=3 {
            let after = fallback.failed(&unopened(stage, fault.clone(), is_encrypted));
            match (after, fallback.starttls()) {
                (After::Again, StartTls::Never) => return Some((failures, fallback.why().unwrap().to_string())),
                (After::Again, _) => {}
                (After::Over | After::Later(_), _) => return None,
            }
        }
        None
    }

    #[test]
    fn a_refusal_counts_once_and_a_silent_loss_twice() {
        let check = |stage, fault: Fault, is_encrypted, expected: Option<(u32, &str)>| {
            let expected = expected.map(|(failures, why)| (failures, why.to_owned()));
            assert_eq!(falls_back(stage, &fault, is_encrypted), expected, "{stage:?} {fault:?} {is_encrypted}");
        };
        use Stage as S;
        check(S::StartTls, Fault::Tls("alert".into()), false, Some((1, "alert")));
        check(S::StartTls, Fault::Timeout, false, Some((1, "no answer to STARTTLS")));
        check(S::StartTls, Fault::Closed, false, Some((2, "connection lost at STARTTLS")));
        check(S::Ehlo, reply(500), true, Some((1, "500 no to EHLO behind the handshake")));
        check(S::Ehlo, reply(451), true, Some((1, "451 no to EHLO behind the handshake")));
        check(S::Ehlo, Fault::Tls("certificate required".into()), true, Some((1, "certificate required")));
        check(S::Ehlo, Fault::Closed, true, Some((2, "connection lost at EHLO behind the handshake")));
        check(S::Ehlo, Fault::Timeout, true, Some((2, "no answer to EHLO behind the handshake")));
        // What has nothing to do with TLS.
        check(S::Ehlo, Fault::Closed, false, None);
        check(S::Ehlo, reply(500), false, None);
        check(S::Ehlo, reply(421), true, None);
        check(S::StartTls, reply(421), false, None);
        check(S::StartTls, Fault::Unsupported(Requirement::StartTls), false, None);
        check(S::Connect, Fault::Closed, false, None);
        check(S::Banner, Fault::Timeout, false, None);
    }

    #[test]
    fn nothing_that_is_demanded_falls_back() {
        let (base, domain) = ("mx.example.test".into(), "example.test".into());
        let dane = Demand::Dane { records: Vec::new().into(), base, domain };
        let named = [Asker::Policy, Asker::Message, Asker::Configuration].map(Demand::Named);
        for demand in named.into_iter().chain([dane, Demand::Encrypted]) {
            let why: Arc<str> = "alert".into();
            for turn in [Turn::Planned, Turn::InClear(why.clone())] {
                for history in [TlsHistory::Unknown, TlsHistory::Worked, TlsHistory::Failed(why.clone())] {
                    let mut fallback = Fallback::new(&demand, history, &turn);
                    assert_eq!(fallback.starttls(), StartTls::Required);
                    let after = fallback.failed(&unopened(Stage::StartTls, Fault::Tls("alert".into()), false));
                    assert_eq!((after, fallback.starttls()), (After::Over, StartTls::Required), "{demand:?}");
                }
            }
        }
    }

    #[test]
    fn where_tls_worked_clear_text_comes_last() {
        let mut fallback = begun(TlsHistory::Worked);
        assert_eq!(fallback.starttls(), StartTls::Expected);
        assert_eq!(fallback.failed(&unopened(Stage::StartTls, Fault::Closed, false)), After::Again);
        assert_eq!(fallback.starttls(), StartTls::Expected);
        let why: Arc<str> = "454 no to STARTTLS".into();
        assert_eq!(fallback.failed(&unopened(Stage::StartTls, reply(454), false)), After::Later(why.clone()));
        // HELO would be clear text, too.
        let after = begun(TlsHistory::Worked).failed(&unopened(Stage::Ehlo, reply(500), false));
        assert_eq!(after, After::Later("500 no to EHLO".into()));
        let not_offered = unopened(Stage::StartTls, Fault::Unsupported(Requirement::StartTls), false);
        assert_eq!(begun(TlsHistory::Worked).failed(&not_offered), After::Later(NOT_OFFERED.into()));
        let mut last = Fallback::new(&Demand::Opportunistic, TlsHistory::Worked, &Turn::InClear(why.clone()));
        assert_eq!((last.starttls(), last.why()), (StartTls::Never, Some(&why)));
        assert_eq!(last.failed(&unopened(Stage::Ehlo, Fault::Closed, false)), After::Over);
    }

    #[test]
    fn where_tls_failed_lately_it_is_left_out() {
        let fallback = begun(TlsHistory::Failed("alert".into()));
        assert_eq!((fallback.starttls(), fallback.why().map(AsRef::as_ref)), (StartTls::Never, Some("alert")));
        assert_eq!(describe("alert").as_ref(), "in clear text: TLS failed (alert)");
    }
}
