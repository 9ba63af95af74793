//! Logging in at a server (RFC 4954): with SCRAM-SHA-256 (RFC 5802, 7677), PLAIN (RFC 4616) or LOGIN, the first of them
//! that is offered, and only in a session whose certificate was verified.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::{ClientSession, Fault, REPLY_TIMEOUT, Requirement, State, Step, Trust};
use crate::smtp::reply::{Reply, Severity};
use crate::smtp::sasl::{KEY_LEN, MECHANISMS, ScramKeys, hmac_sha256};

/// Longest command line (RFC 5321 section 4.5.3.1.4); a longer initial response waits for the server's go-ahead.
const COMMAND_LEN_MAX: usize = 512;
/// Rounds of PBKDF2 that a server may ask for: fewer protect nothing (RFC 7677 section 4), more would hold us up.
const ITERATIONS: (u32, u32) = (4096, 1_000_000);

/// Who logs in, and with what; one for all sessions with a server.
pub struct Account {
    user: String,
    password: Zeroizing<String>,
    /// The keys last derived, which takes milliseconds (RFC 5802 section 5.1 lets a client keep them).
    derived: Mutex<Option<CachedKeys>>,
}

struct CachedKeys {
    salt: Vec<u8>,
    iterations: NonZeroU32,
    keys: Arc<ScramKeys>,
}

/// No word of it is for others.
impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Account")
    }
}

impl PartialEq for Account {
    fn eq(&self, other: &Self) -> bool {
        self.user == other.user && self.password == other.password
    }
}

impl Eq for Account {}

impl Account {
    /// An account. Neither may contain NUL.
    pub fn new(user: String, password: Zeroizing<String>) -> Self {
        Self { user, password, derived: Mutex::new(None) }
    }

    fn plain(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("\0{}\0{}", self.user, self.password.as_str()))
    }

    /// Whether a text holds the password, as it is or as PLAIN and LOGIN send it.
    fn is_in(&self, text: &str) -> bool {
        let sent = [self.plain().as_bytes(), self.password.as_bytes()].map(|told| Zeroizing::new(BASE64.encode(told)));
        text.contains(self.password.as_str()) || sent.iter().any(|sent| text.contains(sent.trim_end_matches('=')))
    }

    /// The keys, if they are those last derived.
    fn known_keys(&self, salt: &[u8], iterations: NonZeroU32) -> Option<Arc<ScramKeys>> {
        let derived = self.derived.lock();
        let is_same = |known: &&CachedKeys| known.salt == salt && known.iterations == iterations;
        derived.as_ref().filter(is_same).map(|known| known.keys.clone())
    }
}

/// Keys that a session needs. The server says how much work it is to derive them, so that belongs on a thread of its own.
#[derive(Debug)]
pub struct Derivation {
    account: Arc<Account>,
    salt: Vec<u8>,
    iterations: NonZeroU32,
}

#[derive(Debug, Clone)]
pub struct DerivedKeys(Arc<ScramKeys>);

impl Derivation {
    /// Rounds of PBKDF2, unless others have derived the same meanwhile.
    pub fn rounds(&self) -> u32 {
        self.iterations.get()
    }

    /// Derives them, and keeps them for the sessions to come.
    pub fn run(self) -> DerivedKeys {
        let Self { account, salt, iterations } = self;
        if let Some(keys) = account.known_keys(&salt, iterations) {
            return DerivedKeys(keys);
        }
        let keys = Arc::new(ScramKeys::derive(&account.password, &salt, iterations));
        *account.derived.lock() = Some(CachedKeys { salt, iterations, keys: keys.clone() });
        DerivedKeys(keys)
    }
}

/// An account and what else one session needs to log in with it.
#[derive(Debug, Clone)]
pub struct Login {
    /// Who.
    pub account: Arc<Account>,
    /// Printable, without commas, and another for each session (RFC 5802 section 5.1).
    pub nonce: String,
}

/// How far an exchange is: what is answered to the next challenge.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Exchange {
    Plain,
    LoginUser,
    LoginPassword,
    ScramFirst,
    ScramFinal,
    /// Keys are being derived for the answer to this.
    ScramKeys(Box<ServerFirst>),
    /// The server has to prove that it knows the password, too.
    ScramProof([u8; KEY_LEN]),
    /// Nothing more is asked; only the outcome may follow.
    Answered,
}

/// The server's first message, as far as it counts.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ServerFirst {
    text: String,
    nonce: String,
    salt: Vec<u8>,
    iterations: NonZeroU32,
}

/// What follows from a challenge.
enum ChallengeAnswer {
    Say(Zeroizing<Vec<u8>>),
    /// Keys are needed first.
    Derive(Derivation),
    /// It is none of the mechanism, or asks for too much.
    Refused(Requirement),
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exchange")
    }
}

impl Exchange {
    /// The best of the mechanisms offered.
    fn choose(offered: &[String]) -> Option<(&'static str, Self)> {
        let mechanism = MECHANISMS.into_iter().find(|known| offered.iter().any(|name| name == known))?;
        let exchange = match mechanism {
            "SCRAM-SHA-256" => Self::ScramFirst,
            "PLAIN" => Self::Plain,
            _ => Self::LoginUser,
        };
        Some((mechanism, exchange))
    }

    /// Whether the server has done what the mechanism asks of it, so that it may say that all is well.
    fn is_complete(&self) -> bool {
        *self == Self::Answered
    }

    fn answer(&mut self, login: &Login, challenge: &[u8]) -> ChallengeAnswer {
        let Login { account, nonce } = login;
        let (answer, next) = match self {
            Self::Plain => (Zeroizing::new(account.plain().as_bytes().to_vec()), Self::Answered),
            Self::LoginUser => (Zeroizing::new(account.user.clone().into_bytes()), Self::LoginPassword),
            Self::LoginPassword => (Zeroizing::new(account.password.as_bytes().to_vec()), Self::Answered),
            Self::ScramFirst => {
                let first = format!("n,,{}", client_first_bare(account, nonce));
                (Zeroizing::new(first.into_bytes()), Self::ScramFinal)
            }
            Self::ScramFinal => {
                let first = match ServerFirst::parse(nonce, challenge) {
                    Ok(first) => first,
                    Err(requirement) => return ChallengeAnswer::Refused(requirement),
                };
                let Some(keys) = account.known_keys(&first.salt, first.iterations) else {
                    let derivation =
                        Derivation { account: account.clone(), salt: first.salt.clone(), iterations: first.iterations };
                    *self = Self::ScramKeys(Box::new(first));
                    return ChallengeAnswer::Derive(derivation);
                };
                return ChallengeAnswer::Say(self.prove(login, &first, &keys));
            }
            Self::ScramProof(expected) => {
                let proof = challenge.strip_prefix(b"v=").and_then(|proof| BASE64.decode(proof).ok());
                if proof.is_none_or(|proof| verify_slices_are_equal(&proof, expected.as_slice()).is_err()) {
                    return ChallengeAnswer::Refused(Requirement::ServerProof);
                }
                (Zeroizing::default(), Self::Answered)
            }
            Self::ScramKeys(_) | Self::Answered => return ChallengeAnswer::Refused(Requirement::ServerProof),
        };
        *self = next;
        ChallengeAnswer::Say(answer)
    }

    /// The client's last message of SCRAM; the server's signature has to follow.
    fn prove(&mut self, login: &Login, first: &ServerFirst, keys: &ScramKeys) -> Zeroizing<Vec<u8>> {
        let without_proof = format!("c=biws,r={}", first.nonce);
        let bare = client_first_bare(&login.account, &login.nonce);
        let auth_message = format!("{bare},{},{without_proof}", first.text);
        *self = Self::ScramProof(hmac_sha256(keys.server_key(), auth_message.as_bytes()));
        let proof = BASE64.encode(keys.proof(auth_message.as_bytes()));
        Zeroizing::new(format!("{without_proof},p={proof}").into_bytes())
    }
}

fn client_first_bare(account: &Account, nonce: &str) -> String {
    let user = account.user.replace('=', "=3D").replace(',', "=2C");
    format!("n={user},r={nonce}")
}

impl ServerFirst {
    /// Reads it; `nonce` is ours, with which that of both has to begin.
    fn parse(nonce: &str, challenge: &[u8]) -> Result<Self, Requirement> {
        let first = Self::read(challenge).ok_or(Requirement::ServerProof)?;
        let is_ours = first.nonce.strip_prefix(nonce).is_some_and(|theirs| !theirs.is_empty());
        if !is_ours || first.salt.is_empty() || first.iterations.get() < ITERATIONS.0 {
            return Err(Requirement::ServerProof);
        }
        if first.iterations.get() > ITERATIONS.1 { Err(Requirement::FewerRounds) } else { Ok(first) }
    }

    fn read(challenge: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(challenge).ok()?;
        let mut attributes = text.split(',');
        Some(Self {
            text: text.to_owned(),
            nonce: attributes.next()?.strip_prefix("r=")?.to_owned(),
            salt: BASE64.decode(attributes.next()?.strip_prefix("s=")?).ok()?,
            iterations: attributes.next()?.strip_prefix("i=")?.parse().ok()?,
        })
    }
}

impl ClientSession {
    /// Begins to log in, if there is an account for this server; otherwise the session is ready.
    pub(super) fn log_in(&mut self, now: Instant) -> Step {
        let Some(login) = &self.settings.login else {
            self.state = State::Ready;
            return Step::Ready;
        };
        self.state = State::Auth;
        (self.since, self.timer) = (now, now + REPLY_TIMEOUT);
        if self.trust != Some(Trust::Verified) {
            return self.end(Fault::Unsupported(Requirement::VerifiedTls));
        }
        let Some((mechanism, mut exchange)) = Exchange::choose(&self.extensions.auth) else {
            return self.end(Fault::Unsupported(Requirement::Login));
        };
        let mut line = Zeroizing::new(format!("AUTH {mechanism}"));
        if exchange != Exchange::LoginUser {
            let mut begun = exchange.clone();
            let initial = match begun.answer(login, b"") {
                ChallengeAnswer::Say(initial) => initial,
                ChallengeAnswer::Derive(_) | ChallengeAnswer::Refused(_) => Zeroizing::default(),
            };
            let encoded = Zeroizing::new(BASE64.encode(&initial));
            if line.len() + encoded.len() + 3 <= COMMAND_LEN_MAX {
                line.push(' ');
                line.push_str(&encoded);
                exchange = begun;
            }
        }
        self.exchange = Some(exchange);
        self.say(&line);
        Step::Read
    }

    /// A reply while logging in.
    pub(super) fn auth_reply(&mut self, reply: Reply, now: Instant) -> Step {
        let (Some(exchange), Some(login)) = (&mut self.exchange, &self.settings.login) else {
            return self.end(Fault::Reply(reply));
        };
        match reply.severity() {
            Severity::Success if exchange.is_complete() => {
                self.exchange = None;
                self.state = State::Ready;
                Step::Ready
            }
            Severity::Success => self.end(Fault::Unsupported(Requirement::ServerProof)),
            Severity::Intermediate => {
                // For PLAIN and LOGIN it does not matter what it says.
                let challenge = BASE64.decode(reply.text.trim()).unwrap_or_default();
                (self.since, self.timer) = (now, now + REPLY_TIMEOUT);
                match exchange.answer(login, &challenge) {
                    ChallengeAnswer::Say(answer) => self.answer(&answer),
                    ChallengeAnswer::Derive(derivation) => Step::DeriveKeys(derivation),
                    ChallengeAnswer::Refused(requirement) => self.end(Fault::Unsupported(requirement)),
                }
            }
            Severity::Transient | Severity::Permanent => self.end(Fault::Reply(reply)),
        }
    }

    /// The keys that were asked for.
    pub(super) fn keys_derived(&mut self, keys: &DerivedKeys, now: Instant) -> Step {
        let (Some(exchange), Some(login)) = (&mut self.exchange, &self.settings.login) else {
            return self.end(Fault::Unsupported(Requirement::ServerProof));
        };
        let Exchange::ScramKeys(first) = exchange else {
            return self.end(Fault::Unsupported(Requirement::ServerProof));
        };
        let first = first.clone();
        let answer = exchange.prove(login, &first, &keys.0);
        (self.since, self.timer) = (now, now + REPLY_TIMEOUT);
        self.answer(&answer)
    }

    fn answer(&mut self, answer: &[u8]) -> Step {
        let line = Zeroizing::new(BASE64.encode(answer));
        self.say(&line);
        Step::Read
    }

    /// Some servers quote what they were told.
    pub(super) fn without_password(&self, reply: Reply) -> Reply {
        match &self.settings.login {
            Some(login) if login.account.is_in(&reply.text) => {
                Reply { text: "(the reply quotes the password)".into(), ..reply }
            }
            Some(_) | None => reply,
        }
    }

    fn say(&mut self, line: &str) {
        self.output.0.reserve(line.len() + 2);
        self.output.0.extend_from_slice(line.as_bytes());
        self.output.0.extend_from_slice(b"\r\n");
    }

    /// Whether the output may hold a password: then it is to be wiped once it is sent.
    pub(crate) fn is_logging_in(&self) -> bool {
        self.state == State::Auth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(user: &str, password: &str) -> Login {
        let account = Arc::new(Account::new(user.to_owned(), Zeroizing::new(password.to_owned())));
        Login { account, nonce: "rOprNGfwEbeRWgbNEkqO".to_owned() }
    }

    /// What is said to a challenge; where keys are needed, with those, and how many rounds they took.
    fn answer(exchange: &mut Exchange, login: &Login, challenge: &str) -> Result<(String, u32), Requirement> {
        let text = |answer: Zeroizing<Vec<u8>>| String::from_utf8(answer.to_vec()).unwrap();
        match exchange.answer(login, challenge.as_bytes()) {
            ChallengeAnswer::Say(answer) => Ok((text(answer), 0)),
            ChallengeAnswer::Derive(derivation) => {
                let (rounds, keys) = (derivation.rounds(), derivation.run());
                let Exchange::ScramKeys(first) = exchange.clone() else { panic!() };
                Ok((text(exchange.prove(login, &first, &keys.0)), rounds))
            }
            ChallengeAnswer::Refused(requirement) => Err(requirement),
        }
    }

    const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    #[test]
    fn scram_as_in_rfc_7677() {
        let login = login("user", "pencil");
        let mut exchange = Exchange::ScramFirst;
        assert_eq!(answer(&mut exchange, &login, "").unwrap().0, "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (last, rounds) = answer(&mut exchange, &login, SERVER_FIRST).unwrap();
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!((last.as_str(), rounds), (expected, 4096));
        let again = answer(&mut Exchange::ScramFinal, &login, SERVER_FIRST).unwrap();
        assert_eq!((again.0.as_str(), again.1), (expected, 0), "the keys are known");
        assert!(!exchange.is_complete());
        let proof = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(answer(&mut exchange, &login, proof).unwrap().0, "");
        assert!(exchange.is_complete());
        assert_eq!(answer(&mut exchange, &login, ""), Err(Requirement::ServerProof));
    }

    #[test]
    fn a_server_that_does_not_keep_to_scram_is_left() {
        let login = login("user", "pencil");
        for (bad, why) in [
            (SERVER_FIRST.replace("i=4096", "i=1"), "too few rounds"),
            (SERVER_FIRST.replace("r=rOpr", "r=xOpr"), "another's nonce"),
            ("r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".to_owned(), "only our nonce"),
            (SERVER_FIRST.replace("s=", "x="), "no salt"),
            (String::new(), "nothing"),
        ] {
            assert_eq!(answer(&mut Exchange::ScramFinal, &login, &bad), Err(Requirement::ServerProof), "{why}");
        }
        for rounds in ["1000001", "4000000000"] {
            let bad = SERVER_FIRST.replace("4096", rounds);
            assert_eq!(answer(&mut Exchange::ScramFinal, &login, &bad), Err(Requirement::FewerRounds), "{rounds}");
        }
        let mut proof = Exchange::ScramProof([1; KEY_LEN]);
        let wrong = answer(&mut proof, &login, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert_eq!(wrong, Err(Requirement::ServerProof));
    }

    #[test]
    fn the_best_mechanism_is_chosen() {
        let choose = |offered: &str| {
            let offered: Vec<String> = offered.split(' ').map(str::to_owned).collect();
            Exchange::choose(&offered).map(|(mechanism, _)| mechanism)
        };
        assert_eq!(choose("LOGIN PLAIN SCRAM-SHA-256"), Some("SCRAM-SHA-256"));
        assert_eq!(choose("LOGIN PLAIN"), Some("PLAIN"));
        assert_eq!(choose("LOGIN"), Some("LOGIN"));
        assert_eq!(choose("GSSAPI CRAM-MD5"), None);
    }

    #[test]
    fn nothing_is_shown_of_an_account() {
        let shown = format!("{:?}", login("user", "pencil"));
        assert!(!shown.contains("user") && !shown.contains("pencil"), "{shown}");
    }
}
