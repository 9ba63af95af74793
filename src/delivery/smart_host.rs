//! Smart hosts: other servers that carry mail for us, when and for which domains the configuration says. Each is a site
//! of its own; here is what is known of it. `policy::failover` decides which entries go by it.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;

use super::backoff::{Backoff, Change, Terms};
use crate::base::clock::Timestamp;
use crate::destination::demand::{Asker, Demand, Refusal, TlsOption};
use crate::destination::route::RouteError;
use crate::destination::via::{Patterns, SmartHostDomains};
use crate::mail::address::domain_pattern_covers;
use crate::policy::cause::concerns_message;
use crate::policy::failover::{Candidate, When};
use crate::smtp::client_session::{Account, Failure, Fault, Login, Requirement, Stage};

/// How long a smart host is left alone: a moment, since it is to be tried at least every ten seconds.
static TERMS: Terms = Terms {
    failures_max: 1,
    pauses: &[Duration::from_secs(5), Duration::from_secs(10)],
    trial: Duration::from_secs(10),
    behind_trial: Duration::from_secs(1),
};
/// Random octets of a nonce.
const NONCE_LEN: usize = 18;
/// Decay, a message, of how long the slowest recent one took: 7/8.
const FADING: (u32, u32) = (7, 8);

/// How a session with a smart host is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// Required, with a certificate valid for the configured name.
    Verify,
    /// As `Verify`, before the first reply (RFC 8314) rather than by STARTTLS.
    Implicit,
    /// If it is offered, with whoever answers.
    Opportunistic,
    /// Not.
    Never,
}

impl Tls {
    /// Whether the host is known for who it is, so that a password may be sent.
    pub(crate) fn is_verified(self) -> bool {
        match self {
            Self::Verify | Self::Implicit => true,
            Self::Opportunistic | Self::Never => false,
        }
    }

    /// What a session has to fulfil for a message with this option. Who runs the relay has named the host, and so vouches for
    /// its name; what the recipient's domain asks for is between that and the smart host.
    ///
    /// # Errors
    /// When the message asks for what is forbidden.
    pub(super) fn demand(self, option: TlsOption) -> Result<Demand, Refusal> {
        match (self, option) {
            (Self::Never, TlsOption::RequireTls) => Err(Refusal::Forbidden),
            (Self::Never, _) => Ok(Demand::Clear),
            (_, TlsOption::RequireTls) => Ok(Demand::Named(Asker::Message)),
            (Self::Verify | Self::Implicit, _) => Ok(Demand::Named(Asker::Configuration)),
            (Self::Opportunistic, _) => Ok(Demand::Opportunistic),
        }
    }
}

/// One `[[smart_host]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmartHost {
    /// `host:port`, by which entries and people know it.
    pub name: Arc<str>,
    /// Its name in A-labels, or its address.
    pub host: Arc<str>,
    /// Its port.
    pub port: u16,
    /// How sessions with it are encrypted.
    pub tls: Tls,
    /// Whom to log in.
    pub account: Option<Arc<Account>>,
    /// When it is used.
    pub when: When,
    /// For which recipient domains: patterns.
    pub domains: Vec<String>,
}

impl SmartHost {
    /// The one at a host, which is a name in A-labels or an address, and a port: its certificate is verified, nobody logs
    /// in, and it may carry mail for every domain when time gets short.
    pub fn at(host: &str, port: u16) -> Self {
        let name = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Self {
            name: name.into(),
            host: host.into(),
            port,
            tls: Tls::Verify,
            account: None,
            when: When::Deadline,
            domains: vec!["*".to_owned()],
        }
    }

    /// What a session needs to log in; none: nobody does.
    pub(super) fn login(&self) -> Result<Option<Login>, Failure> {
        let Some(account) = &self.account else { return Ok(None) };
        let mut nonce = [0; NONCE_LEN];
        let random = aws_lc_rs::rand::fill(&mut nonce);
        random.map_err(|_| Failure { stage: Stage::Auth, fault: Fault::Closed })?;
        Ok(Some(Login { account: account.clone(), nonce: URL_SAFE_NO_PAD.encode(nonce) }))
    }

    /// Whether it may carry mail for this domain (as `domain_key` writes it).
    pub(crate) fn covers(&self, domain: &str) -> bool {
        self.domains.iter().any(|pattern| domain_pattern_covers(pattern, domain))
    }
}

/// All of them, in order.
#[derive(Debug, Default)]
pub struct SmartHosts {
    all: ArcSwap<Vec<Arc<SmartHostState>>>,
    domains: Arc<SmartHostDomains>,
}

impl SmartHosts {
    /// Those of the configuration.
    pub fn new(hosts: Vec<SmartHost>) -> Self {
        let all = Self::default();
        all.replace(hosts);
        all
    }

    /// Takes on others. What is known of those that stay as they are is kept.
    pub fn replace(&self, hosts: Vec<SmartHost>) {
        let old = self.all.load();
        let state = |settings: SmartHost| {
            let same = old.iter().find(|known| known.settings == settings);
            same.cloned().unwrap_or_else(|| Arc::new(SmartHostState::new(settings)))
        };
        let patterns = |when: Option<When>| {
            let hosts = hosts.iter().filter(|host| when.is_none_or(|when| host.when == when));
            hosts.flat_map(|host| host.domains.iter().cloned()).collect()
        };
        self.domains.replace(Patterns { always: patterns(Some(When::Always)), any: patterns(None) });
        self.all.store(Arc::new(hosts.into_iter().map(state).collect()));
    }

    /// For metrics: the name of each, and whether its back-off is closed (0), half-open (1) or open (2).
    pub(crate) fn levels(&self) -> Vec<(Arc<str>, u64)> {
        self.all.load().iter().map(|host| (host.settings.name.clone(), host.level())).collect()
    }

    /// The domains that they serve, now and after each change.
    pub(crate) fn domains(&self) -> Arc<SmartHostDomains> {
        self.domains.clone()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.load().is_empty()
    }

    /// Those that may carry mail for a domain.
    pub(super) fn for_domain(&self, domain: &str) -> Vec<Arc<SmartHostState>> {
        self.all.load().iter().filter(|host| host.settings.covers(domain)).cloned().collect()
    }
}

/// A smart host, and what is known of it.
#[derive(Debug)]
pub(super) struct SmartHostState {
    pub(super) settings: SmartHost,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    backoff: Backoff<Timestamp>,
    /// How long it takes to take a message.
    takes: Option<Duration>,
}

impl SmartHostState {
    fn new(settings: SmartHost) -> Self {
        Self { settings, state: Mutex::new(State { backoff: Backoff::new(&TERMS), takes: None }) }
    }

    /// As `policy::failover` wants it.
    pub(super) fn candidate(&self, tried: &[Arc<str>], now: Timestamp) -> Candidate {
        let state = self.state.lock();
        Candidate {
            when: self.settings.when,
            ready_at: state.backoff.ready_at(now).unwrap_or_default(),
            takes: state.takes,
            is_tried: tried.contains(&self.settings.name),
        }
    }

    fn level(&self) -> u64 {
        let backoff = self.state.lock().backoff;
        match (backoff.is_failing(), backoff.is_on_trial()) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => 2,
        }
    }

    /// What a session needs to log in; none: nobody does.
    pub(super) fn login(&self) -> Result<Option<Login>, Failure> {
        self.settings.login()
    }

    /// Asks to try it now.
    pub(super) fn enter(&self, now: Timestamp) -> Result<(), Timestamp> {
        self.state.lock().backoff.enter(now)
    }

    /// It took a message, after so long; or refused one, which says that it is well, too.
    pub(super) fn answered(&self, took: Option<Duration>) {
        let mut state = self.state.lock();
        if let Some(took) = took {
            let faded = state.takes.map_or(took, |before| before * FADING.0 / FADING.1);
            state.takes = Some(took.max(faded));
        }
        if state.backoff.succeeded() == Change::News {
            tracing::info!(smart_host = %self.settings.name, "the smart host works again");
        }
    }

    /// It did not answer, or not as it should.
    pub(super) fn failed(&self, failure: &Failure, said: &str, now: Timestamp) {
        let is_news = self.state.lock().backoff.failed(now) == Change::News;
        let (smart_host, stage) = (&self.settings.name, failure.stage.name());
        let is_configuration = match &failure.fault {
            Fault::Reply(reply) => failure.stage == Stage::Auth && reply.code >= 500,
            Fault::Unsupported(_) | Fault::Tls(_) => true,
            Fault::Timeout | Fault::Closed | Fault::Malformed(_) | Fault::Ours(_) => false,
        };
        if is_configuration && is_news {
            tracing::error!(%smart_host, stage, said, "the smart host cannot be used; look at its [[smart_host]]");
        } else if is_news {
            tracing::warn!(%smart_host, stage, said, "the smart host fails; it is tried again within ten seconds");
        }
    }

    /// An attempt by it came to a failure, of which `said` is told.
    pub(super) fn came_to(&self, failure: &Failure, said: &str, now: Timestamp) {
        if self.is_to_blame(failure) {
            self.failed(failure, said, now);
        } else if failure.stage != Stage::Connect {
            self.answered(None);
        }
    }

    /// Whether it speaks against the smart host: it did not answer, or wants no session with us. Where its certificate is
    /// judged only because a message requires that, it is well enough for others.
    fn is_to_blame(&self, failure: &Failure) -> bool {
        match &failure.fault {
            Fault::Reply(reply) => !concerns_message(failure.stage) || reply.code == 421,
            Fault::Ours(_) => false,
            Fault::Unsupported(
                Requirement::SmtpUtf8 | Requirement::RequireTls | Requirement::Size | Requirement::EightBitMime,
            ) => false,
            Fault::Unsupported(Requirement::StartTls) | Fault::Tls(_) => self.settings.tls.is_verified(),
            Fault::Unsupported(
                Requirement::VerifiedTls | Requirement::Login | Requirement::ServerProof | Requirement::FewerRounds,
            )
            | Fault::Timeout
            | Fault::Closed
            | Fault::Malformed(_) => true,
        }
    }

    /// There is no way to it.
    pub(super) fn not_found(&self, error: &RouteError, now: Timestamp) {
        if self.state.lock().backoff.failed(now) == Change::News {
            tracing::warn!(smart_host = %self.settings.name, %error, "the smart host has no address");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::reply::Reply;

    #[test]
    fn what_a_session_with_a_smart_host_has_to_fulfil() {
        let named = |asker| Ok(Demand::Named(asker));
        for option in [TlsOption::None, TlsOption::Relaxed] {
            assert_eq!(Tls::Verify.demand(option), named(Asker::Configuration));
            assert_eq!(Tls::Implicit.demand(option), named(Asker::Configuration));
            assert_eq!(Tls::Opportunistic.demand(option), Ok(Demand::Opportunistic));
            assert_eq!(Tls::Never.demand(option), Ok(Demand::Clear));
        }
        assert_eq!(Tls::Verify.demand(TlsOption::RequireTls), named(Asker::Message));
        assert_eq!(Tls::Implicit.demand(TlsOption::RequireTls), named(Asker::Message));
        assert_eq!(Tls::Opportunistic.demand(TlsOption::RequireTls), named(Asker::Message));
        assert_eq!(Tls::Never.demand(TlsOption::RequireTls), Err(Refusal::Forbidden));
    }

    #[test]
    fn what_speaks_against_a_smart_host() {
        let check = |tls, stage, fault: Fault, expected| {
            let host = SmartHostState::new(SmartHost { tls, ..SmartHost::at("smtp.example.com", 587) });
            host.came_to(&Failure { stage, fault: fault.clone() }, "", Timestamp::from_millis(1000));
            assert_eq!(host.level(), expected, "{tls:?} {stage:?} {fault:?}");
        };
        let (open, closed) = (2, 0);
        let reply = |code| Fault::Reply(Reply::plain(code, "no"));
        check(Tls::Verify, Stage::Connect, Fault::Timeout, open);
        check(Tls::Verify, Stage::Content, Fault::Closed, open);
        check(Tls::Verify, Stage::Auth, reply(535), open);
        check(Tls::Verify, Stage::Rcpt, reply(550), closed);
        check(Tls::Verify, Stage::Rcpt, reply(421), open);
        check(Tls::Verify, Stage::StartTls, Fault::Tls("expired".to_owned()), open);
        check(Tls::Opportunistic, Stage::StartTls, Fault::Tls("expired".to_owned()), closed);
        check(Tls::Opportunistic, Stage::Ehlo, Fault::Unsupported(Requirement::StartTls), closed);
        check(Tls::Verify, Stage::Auth, Fault::Unsupported(Requirement::Login), open);
        check(Tls::Verify, Stage::Mail, Fault::Unsupported(Requirement::Size), closed);
        check(Tls::Verify, Stage::Connect, Fault::Ours("no descriptors".to_owned()), closed);
    }

    #[test]
    fn a_smart_host_that_is_tried_again_answers_for_all() {
        let host = SmartHostState::new(SmartHost::at("smtp.example.com", 587));
        let at = Timestamp::from_millis;
        let failure = Failure { stage: Stage::Connect, fault: Fault::Timeout };
        host.came_to(&failure, "", at(1000));
        assert_eq!((host.enter(at(5999)), host.enter(at(6000)), host.level()), (Err(at(6000)), Ok(()), 1));
        // What it says of a recipient shows that it is well.
        let refusal = Failure { stage: Stage::Rcpt, fault: Fault::Reply(Reply::plain(550, "no such user")) };
        host.came_to(&refusal, "", at(6001));
        assert_eq!((host.enter(at(6001)), host.level()), (Ok(()), 0));
    }

    #[test]
    fn what_is_known_of_a_smart_host_stays_while_its_settings_do() {
        let hosts = SmartHosts::new(vec![SmartHost::at("a.example", 25), SmartHost::at("::1", 587)]);
        let names: Vec<String> = hosts.levels().iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["a.example:25", "[::1]:587"]);
        let before = hosts.for_domain("example.org");
        let other = SmartHost { tls: Tls::Never, ..SmartHost::at("::1", 587) };
        hosts.replace(vec![SmartHost::at("a.example", 25), other]);
        let after = hosts.for_domain("example.org");
        assert_eq!([0, 1].map(|index| Arc::ptr_eq(&before[index], &after[index])), [true, false]);
    }
}
