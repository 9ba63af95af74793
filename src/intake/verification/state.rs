//! One verification: pure, a value whose methods say what a send, a check and the time make of it.

use std::sync::Arc;
use std::time::Duration;

use super::Limits;
use crate::base::clock::Timestamp;
use crate::base::lane::Lane;
use crate::ledger::embedded::code_keys::CodeDigest;
use crate::mail::address::Mailbox;
use crate::mail::id::MessageId;

/// How long a check's answer is given again to a repeat of it.
pub(super) const REPEAT: Duration = Duration::from_secs(120);

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// A code may be typed.
    Pending,
    /// The right one was.
    Approved,
    /// Too many wrong ones were.
    Exhausted,
    /// All codes are over.
    Expired,
    /// The app withdrew it.
    Cancelled,
    /// No code can arrive any more.
    Undeliverable,
}

impl State {
    /// As in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Exhausted => "exhausted",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Undeliverable => "undeliverable",
        }
    }
}

/// Whose a verification is: all of it is compared octet for octet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// Which app.
    pub user: Arc<str>,
    /// The address as it was written, the domain in ASCII lower case.
    pub to: Arc<str>,
    /// What for.
    pub purpose: Arc<str>,
    /// The app's own session.
    pub session: Option<Arc<str>>,
}

impl Key {
    /// Of an address.
    pub(crate) fn new(user: &str, to: &Mailbox, purpose: &str, session: Option<&str>) -> Self {
        let to = format!("{}@{}", to.local_part(), to.domain().to_ascii_lowercase());
        Self { user: user.into(), to: to.into(), purpose: purpose.into(), session: session.map(Arc::from) }
    }
}

/// What is known of a send's arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    UnderWay,
    /// The recipient's host took it.
    Arrived(Timestamp),
    /// The recipient's host may have taken it.
    Perhaps(Timestamp),
    /// It cannot arrive any more: its code is void.
    Gone(Timestamp),
}

/// One code that was sent, or was to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Send {
    /// None before it is accepted, and where it was not.
    pub(super) message: Option<MessageId>,
    pub(super) digest: CodeDigest,
    /// Under which key.
    pub(super) bucket: u32,
    pub(super) at: Timestamp,
    pub(super) expires_at: Timestamp,
    pub(super) fate: Fate,
}

impl Send {
    fn is_live(&self, now: Timestamp) -> bool {
        !matches!(self.fate, Fate::Gone(_)) && self.expires_at > now
    }
}

/// What a check was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Whether the code was right; never twice for one verification, but for repeats.
    pub valid: bool,
    /// How it stands then.
    pub state: State,
    /// How many more checks there are.
    pub checks_left: u32,
}

/// A check that was answered a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AnsweredCheck {
    pub(super) key: Arc<str>,
    pub(super) digest: CodeDigest,
    pub(super) at: Timestamp,
    pub(super) answer: Answer,
}

/// What another `POST` for a pending verification comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// It is too early; nothing is sent.
    Early,
    /// A new code goes out.
    Send,
    /// As many codes were sent, or are live, as may be; so long.
    Enough(Duration),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verification {
    pub(super) id: Arc<str>,
    pub(super) key: Key,
    /// Under which the recipient's guesses are counted.
    pub(super) form: Arc<str>,
    pub(super) lane: Lane,
    pub(super) quiet: bool,
    /// How many checks it has in all.
    pub(super) checks: u32,
    pub(super) created_at: Timestamp,
    /// Idempotency keys of the requests that sent something.
    pub(super) asked: Vec<Arc<str>>,
    pub(super) sends: Vec<Send>,
    pub(super) spent: u32,
    pub(super) end: Option<(State, Timestamp)>,
    pub(super) answers: Vec<AnsweredCheck>,
}

impl Verification {
    /// When its last code is over.
    pub(super) fn expires_at(&self) -> Timestamp {
        let hopeful = self.sends.iter().filter(|send| self.quiet || !matches!(send.fate, Fate::Gone(_)));
        let last = hopeful.map(|send| send.expires_at).max();
        last.or_else(|| self.sends.iter().map(|send| send.expires_at).max()).unwrap_or(self.created_at)
    }

    pub(super) fn state(&self, now: Timestamp) -> State {
        match self.end {
            Some((state, _)) => state,
            None if self.expires_at() <= now => State::Expired,
            None => State::Pending,
        }
    }

    pub(super) fn checks_left(&self, now: Timestamp) -> u32 {
        if self.state(now) == State::Pending { self.checks.saturating_sub(self.spent) } else { 0 }
    }

    /// When another code may be asked for.
    pub(super) fn resend_at(&self, limits: &Limits) -> Timestamp {
        let waits = &limits.resend_after;
        let nth = self.sends.len().saturating_sub(1).min(waits.len().saturating_sub(1));
        let wait = waits.get(nth).copied().unwrap_or_default();
        self.sends.last().map_or(self.created_at, |send| send.at.plus(wait))
    }

    /// When the code of a send is known to have arrived.
    pub(super) fn arrived_at(&self, index: usize) -> Option<Timestamp> {
        self.sends.get(index).and_then(|send| if let Fate::Arrived(at) = send.fate { Some(at) } else { None })
    }

    /// The codes that may be typed.
    pub(super) fn live(&self, now: Timestamp) -> impl Iterator<Item = &Send> {
        self.sends.iter().filter(move |send| send.is_live(now))
    }

    /// What another request for a code comes to.
    pub(super) fn again(&self, limits: &Limits, now: Timestamp) -> Again {
        if now < self.resend_at(limits) {
            return Again::Early;
        }
        if self.sends.len() >= limits.sends as usize {
            return Again::Enough(self.expires_at().since(now));
        }
        // What has not left yet, the new code takes the place of: that is known once it is sent.
        let arrived = self.live(now).filter(|send| matches!(send.fate, Fate::Arrived(_) | Fate::Perhaps(_)));
        let ends: Vec<Timestamp> = arrived.map(|send| send.expires_at).collect();
        if ends.len() >= limits.live_codes && !self.quiet {
            let first = ends.into_iter().min().unwrap_or(now);
            return Again::Enough(first.since(now));
        }
        Again::Send
    }

    /// Counts a check, whose code was that of a live send or of none; the answer to it.
    pub(super) fn check(&mut self, matched: bool, now: Timestamp) -> Answer {
        let state = self.state(now);
        if state != State::Pending {
            return Answer { valid: false, state, checks_left: 0 };
        }
        self.spent += 1;
        if matched {
            self.end = Some((State::Approved, now));
        } else if self.spent >= self.checks {
            self.end = Some((State::Exhausted, now));
        }
        Answer { valid: matched, state: self.state(now), checks_left: self.checks_left(now) }
    }

    /// What became of a message. Where no code can arrive any more, that is the end, unless nobody may tell that.
    pub(super) fn on_fate(&mut self, index: usize, fate: Fate, now: Timestamp) {
        let Some(send) = self.sends.get_mut(index) else { return };
        send.fate = fate;
        let is_hopeless = self.sends.iter().all(|send| matches!(send.fate, Fate::Gone(_)));
        if is_hopeless && !self.quiet && self.state(now) == State::Pending {
            self.end = Some((State::Undeliverable, now));
        }
    }

    /// The answer to a check of this key that was given a moment ago.
    pub(super) fn answered(&self, key: &str, now: Timestamp) -> Option<&AnsweredCheck> {
        self.answers.iter().find(|answered| *answered.key == *key && now.since(answered.at) < REPEAT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1000)
    }

    fn send(seconds: u64, fate: Fate) -> Send {
        let digest = CodeDigest([0; 32]);
        Send { message: None, digest, bucket: 0, at: at(seconds), expires_at: at(seconds + 600), fate }
    }

    fn verification(sends: Vec<Send>) -> Verification {
        let to = Mailbox::parse("alice@Example.TEST").unwrap();
        Verification {
            id: "vrf_1".into(),
            key: Key::new("shop", &to, "login", None),
            form: "alice@example.test".into(),
            lane: Lane::Otp,
            quiet: false,
            checks: 5,
            created_at: at(0),
            asked: Vec::new(),
            sends,
            spent: 0,
            end: None,
            answers: Vec::new(),
        }
    }

    #[test]
    fn it_is_right_once_and_wrong_five_times() {
        let mut one = verification(vec![send(0, Fate::UnderWay)]);
        let answer = |valid, state, checks_left| Answer { valid, state, checks_left };
        assert_eq!(one.check(false, at(1)), answer(false, State::Pending, 4));
        assert_eq!(one.check(true, at(2)), answer(true, State::Approved, 0));
        assert_eq!(one.check(true, at(3)), answer(false, State::Approved, 0));
        let mut two = verification(vec![send(0, Fate::UnderWay)]);
        let states: Vec<State> = (0..6).map(|n| two.check(n == 5, at(n)).state).collect();
        assert_eq!(
            states,
            [State::Pending, State::Pending, State::Pending, State::Pending, State::Exhausted, State::Exhausted]
        );
        assert_eq!(verification(vec![send(0, Fate::UnderWay)]).check(true, at(600)), answer(false, State::Expired, 0));
    }

    #[test]
    fn what_can_not_arrive_is_void_and_the_last_of_it_is_the_end() {
        let mut one = verification(vec![send(0, Fate::UnderWay), send(60, Fate::UnderWay)]);
        one.on_fate(0, Fate::Gone(at(60)), at(60));
        assert_eq!((one.state(at(61)), one.live(at(61)).count(), one.expires_at()), (State::Pending, 1, at(660)));
        one.on_fate(1, Fate::Gone(at(70)), at(70));
        assert_eq!((one.state(at(71)), one.live(at(71)).count()), (State::Undeliverable, 0));
        let mut quiet = Verification { quiet: true, ..verification(vec![send(0, Fate::UnderWay)]) };
        quiet.on_fate(0, Fate::Gone(at(1)), at(1));
        assert_eq!(
            (quiet.state(at(2)), quiet.state(at(600)), quiet.live(at(2)).count()),
            (State::Pending, State::Expired, 0)
        );
    }

    #[test]
    fn codes_are_sent_again_in_time_and_not_too_often() {
        let limits = Limits::default();
        let arrived = |seconds| send(seconds, Fate::Arrived(at(seconds + 1)));
        let one = verification(vec![arrived(0)]);
        assert_eq!((one.again(&limits, at(29)), one.again(&limits, at(30))), (Again::Early, Again::Send));
        let two = verification(vec![arrived(0), arrived(30)]);
        assert_eq!((two.again(&limits, at(89)), two.again(&limits, at(90))), (Again::Early, Again::Send));
        let three = verification(vec![arrived(0), arrived(30), arrived(90)]);
        assert_eq!(three.again(&limits, at(209)), Again::Early);
        assert_eq!(three.again(&limits, at(210)), Again::Enough(Duration::from_secs(390)), "three are live");
        assert_eq!(three.again(&limits, at(600)), Again::Send, "two are");
        let waiting = verification(vec![arrived(0), arrived(30), send(90, Fate::UnderWay)]);
        assert_eq!(waiting.again(&limits, at(210)), Again::Send, "one is replaced");
        let five = verification((0..5).map(|n| send(n, Fate::Gone(at(9)))).collect());
        assert!(matches!(five.again(&limits, at(300)), Again::Enough(_)));
    }

    #[test]
    fn an_address_is_its_octets_and_a_domain_without_case() {
        let key = |to: &str| Key::new("shop", &Mailbox::parse(to).unwrap(), "login", None);
        assert_eq!(key("bob@Example.TEST"), key("bob@example.test"));
        for other in ["bob+x@example.test", "Bob@example.test", "\"bob\"@example.test", "b.ob@example.test"] {
            assert_ne!(key(other), key("bob@example.test"), "{other}");
        }
    }
}
