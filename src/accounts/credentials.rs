//! Users and their passwords.
//!
//! Checking a password costs tens of milliseconds by design. It is done off the async threads, by a few at once; a
//! password that was right is remembered for a while by a keyed hash, so that an app which connects anew for every
//! code does not pay each time.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use argon2::PasswordVerifier as _;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use data_encoding::HEXLOWER_PERMISSIVE;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use super::user::{TRUSTED, User, token_hash};
use crate::base::bounded::Bounded;
use crate::smtp::sasl::{KEY_LEN, ScramVerifier};

/// Rounds for new hashes, and for users that do not exist where no user has any.
pub(crate) const SCRAM_ITERATIONS: NonZeroU32 = NonZeroU32::new(100_000).expect("not zero");
/// Octets of a salt.
pub(crate) const SALT_LEN: usize = 16;
/// How long a password that was right need not be checked again.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Passwords remembered at most.
const REMEMBERED_MAX: usize = 10_000;
/// Checks that may wait for their turn; more are told to come back.
const WAITING_MAX: usize = 256;

/// A password as the configuration holds it.
#[derive(Clone, PartialEq, Eq)]
pub enum PasswordHash {
    /// Serves every mechanism.
    Scram(ScramVerifier),
    /// `$argon2id$...`: PLAIN and LOGIN only.
    Argon2(Arc<str>),
}

impl PasswordHash {
    /// Reads either form.
    pub fn from_text(text: &str) -> Option<Self> {
        if let Some(verifier) = ScramVerifier::from_text(text) {
            return Some(Self::Scram(verifier));
        }
        let is_argon2 = text.starts_with("$argon2") && argon2::PasswordHash::new(text).is_ok();
        is_argon2.then(|| Self::Argon2(text.into()))
    }

    fn is_password(&self, password: &str) -> bool {
        match self {
            Self::Scram(verifier) => verifier.is_password(password),
            Self::Argon2(text) => argon2::PasswordHash::new(text)
                .is_ok_and(|hash| argon2::Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()),
        }
    }
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash")
    }
}

/// A user with what it needs to log in; none of it: it cannot.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its rights.
    pub user: Arc<User>,
    /// Its password.
    pub password: Option<PasswordHash>,
    /// Its token for the HTTP API.
    pub token: Option<TokenHash>,
}

/// The SHA-256 of a token for the HTTP API. A token is made from so many random bits that nothing slower is needed.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenHash")
    }
}

impl TokenHash {
    /// Of a token.
    pub fn of(token: &str) -> Self {
        Self::from_text(&token_hash(token)).unwrap_or(Self([0; 32]))
    }

    /// As the configuration holds it: 64 hexadecimal digits.
    pub fn from_text(text: &str) -> Option<Self> {
        let hash = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
        Some(Self(hash.try_into().ok()?))
    }

    /// Whether they are equal; takes as long for any two.
    pub fn is(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

/// Who is there, and by what. It holds while the configuration says the same: see `Credentials::renewed`.
#[derive(Debug, Clone)]
pub struct Login {
    /// Who, as it was at the time.
    pub user: Arc<User>,
    by: Proof,
}

/// What somebody showed to be a user.
#[derive(Debug, Clone)]
enum Proof {
    /// An address in a trusted network.
    Address,
    /// What this was made of.
    Password(PasswordHash),
    /// What this was made of.
    Token(TokenHash),
}

/// What a password check came to.
#[derive(Debug, Clone)]
pub enum PasswordCheck {
    /// Right.
    Accepted(Login),
    /// Wrong, or no such user; nobody is told which.
    Refused,
    /// Too many checks are waiting.
    Busy,
}

/// Who is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Admits {
    /// Who shows what a user's account asks for.
    #[default]
    Known,
    /// Whoever shows any password or token: in the sandbox. They all act as the user [`TRUSTED`], and tokens are the
    /// operator's.
    Anybody,
}

/// All users.
pub struct Credentials {
    admits: Admits,
    accounts: ArcSwap<HashMap<String, Account>>,
    /// The hashes of all users by their names' order, for names that are no user's.
    examples: ArcSwap<Vec<PasswordHash>>,
    /// Makes up salts for users that do not exist, the same ones each time.
    salt_key: hmac::Key,
    /// Hashes what is remembered; new in each process.
    memory_key: hmac::Key,
    remembered: Mutex<Bounded<[u8; KEY_LEN], Instant, REMEMBERED_MAX>>,
    running: Arc<Semaphore>,
    waiting: Semaphore,
    random: SystemRandom,
    changes: watch::Sender<()>,
}

impl Credentials {
    /// `secret` outlives the process and makes the salts of unknown users constant.
    pub fn new(accounts: HashMap<String, Account>, secret: &[u8]) -> Self {
        let random = SystemRandom::new();
        let mut key = [0; KEY_LEN];
        // Without random numbers nothing is remembered by a guessable key: the process ends here.
        random.fill(&mut key).expect("the operating system gives random numbers");
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        Self {
            admits: Admits::Known,
            examples: ArcSwap::from_pointee(examples(&accounts)),
            accounts: ArcSwap::from_pointee(accounts),
            salt_key: hmac::Key::new(hmac::HMAC_SHA256, secret),
            memory_key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            remembered: Mutex::default(),
            // One core is left for mail: whoever guesses passwords can ask for more checks than all cores can do.
            running: Arc::new(Semaphore::new((cores - 1).max(1))),
            waiting: Semaphore::new(WAITING_MAX),
            random,
            changes: watch::Sender::new(()),
        }
    }

    /// The same with another rule of who is let in.
    #[must_use]
    pub(crate) fn admitting(self, admits: Admits) -> Self {
        Self { admits, ..self }
    }

    pub(crate) fn admits(&self) -> Admits {
        self.admits
    }

    /// Who is there, where anybody is let in.
    fn anybody(&self) -> Option<Login> {
        match self.admits {
            Admits::Known => None,
            Admits::Anybody => self.trusted(),
        }
    }

    /// Takes new users; what was remembered is forgotten.
    pub(crate) fn reconfigure(&self, accounts: HashMap<String, Account>) {
        self.examples.store(Arc::new(examples(&accounts)));
        self.accounts.store(Arc::new(accounts));
        *self.remembered.lock() = Bounded::default();
        self.changes.send_replace(());
    }

    /// Tells of every change of the users.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Who is there by an address in a trusted network.
    pub fn trusted(&self) -> Option<Login> {
        Some(Login { user: self.user(TRUSTED)?, by: Proof::Address })
    }

    /// Who is there by a SCRAM proof that was good for this verifier.
    pub fn proved(&self, name: &str, verifier: ScramVerifier) -> Option<Login> {
        let login = Login { user: self.user(name)?, by: Proof::Password(PasswordHash::Scram(verifier)) };
        let user = self.renewed(&login)?;
        Some(Login { user, ..login })
    }

    /// The user of a login as it is now; none: it was removed, or what it logged in by is not its own any more.
    pub(crate) fn renewed(&self, login: &Login) -> Option<Arc<User>> {
        let accounts = self.accounts.load();
        let account = accounts.get(&*login.user.name)?;
        let holds = match &login.by {
            Proof::Address => true,
            Proof::Password(hash) => account.password.as_ref() == Some(hash),
            Proof::Token(hash) => account.token.is_some_and(|own| own.is(hash)),
        };
        holds.then(|| account.user.clone())
    }

    /// The user of this name.
    pub fn user(&self, name: &str) -> Option<Arc<User>> {
        self.accounts.load().get(name).map(|account| account.user.clone())
    }

    /// All users, by name.
    pub(crate) fn users(&self) -> Vec<Arc<User>> {
        let mut users: Vec<_> = self.accounts.load().values().map(|account| account.user.clone()).collect();
        users.sort_by(|a, b| a.name.cmp(&b.name));
        users
    }

    /// Who is there by this token. All are compared, whichever it is.
    pub(crate) fn login_by_token(&self, token: &TokenHash) -> Option<Login> {
        if let Some(anybody) = self.anybody() {
            return Some(anybody);
        }
        let accounts = self.accounts.load();
        let with_token = accounts.values().filter(|account| account.token.is_some_and(|own| own.is(token)));
        let user = with_token.fold(None, |_, account| Some(account.user.clone()))?;
        Some(Login { user, by: Proof::Token(*token) })
    }

    /// Who is there by this password, if it was right not long ago.
    pub fn remembered(&self, name: &str, password: &str, now: Instant) -> Option<Login> {
        if let Some(anybody) = self.anybody() {
            return Some(anybody);
        }
        let Account { user, password: hash, .. } = self.accounts.load().get(name)?.clone();
        let hash = hash?;
        let is_remembered = self.is_remembered(&self.fingerprint(name, password, &hash), now);
        is_remembered.then_some(Login { user, by: Proof::Password(hash) })
    }

    /// Checks a password, remembered or not. A user that does not exist takes as long as one that does.
    pub async fn check(&self, name: &str, password: &str, now: Instant) -> PasswordCheck {
        let account = self.accounts.load().get(name).cloned();
        let Ok(_waiting) = self.waiting.try_acquire() else { return PasswordCheck::Busy };
        let Ok(running) = self.running.clone().acquire_owned().await else { return PasswordCheck::Busy };
        let own = account.and_then(|account| Some((account.user, account.password?)));
        let hash = own.as_ref().map_or_else(|| self.made_up_hash(name), |(_, hash)| hash.clone());
        let fingerprint = self.fingerprint(name, password, &hash);
        let password = zeroize::Zeroizing::new(password.to_owned());
        let check = tokio::task::spawn_blocking(move || {
            let _running = running;
            hash.is_password(&password)
        });
        match (check.await, own) {
            (Ok(true), Some((user, hash))) => {
                self.remember(fingerprint, now);
                PasswordCheck::Accepted(Login { user, by: Proof::Password(hash) })
            }
            (Ok(_), _) => PasswordCheck::Refused,
            (Err(_), _) => PasswordCheck::Busy,
        }
    }

    /// What SCRAM needs of a user. One that does not exist, or cannot do SCRAM, gets a salt that is always the same and
    /// keys that no password fits.
    pub(crate) fn scram_verifier(&self, name: &str) -> ScramVerifier {
        match self.accounts.load().get(name).and_then(|account| account.password.clone()) {
            Some(PasswordHash::Scram(verifier)) => verifier,
            Some(PasswordHash::Argon2(_)) | None => self.made_up_verifier(name),
        }
    }

    /// A nonce for SCRAM: printable, without commas.
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn nonce(&self) -> Result<String, aws_lc_rs::error::Unspecified> {
        use base64::Engine as _;
        let mut bytes = [0; 18];
        self.random.fill(&mut bytes)?;
        Ok(base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes))
    }

    /// What the password of a name that is no user's is checked against; the outcome counts for nothing. Its cost is some
    /// user's, the same each time: where one user's check costs more than another's, the cost must not tell who exists.
    fn made_up_hash(&self, name: &str) -> PasswordHash {
        match self.example(name) {
            Some(hash @ PasswordHash::Argon2(_)) => hash,
            Some(PasswordHash::Scram(_)) | None => PasswordHash::Scram(self.made_up_verifier(name)),
        }
    }

    /// Some user's hash, chosen by the name.
    fn example(&self, name: &str) -> Option<PasswordHash> {
        let examples = self.examples.load();
        let choice =
            self.derive("example", name).as_ref()[..4].iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet));
        examples.get(choice.checked_rem(examples.len())?).cloned()
    }

    fn derive(&self, purpose: &str, name: &str) -> hmac::Tag {
        hmac::sign(&self.salt_key, format!("{purpose} {name}").as_bytes())
    }

    fn made_up_verifier(&self, name: &str) -> ScramVerifier {
        let iterations = match self.example(name) {
            Some(PasswordHash::Scram(verifier)) => verifier.iterations,
            Some(PasswordHash::Argon2(_)) | None => SCRAM_ITERATIONS,
        };
        let key = |purpose| self.derive(purpose, name).as_ref().try_into().unwrap_or([0; KEY_LEN]);
        ScramVerifier {
            iterations,
            salt: self.derive("salt", name).as_ref()[..SALT_LEN].to_vec(),
            stored_key: key("stored"),
            server_key: key("server"),
        }
    }

    /// Of a password that was checked against this hash: one that has another hash by now is another password.
    fn fingerprint(&self, name: &str, password: &str, hash: &PasswordHash) -> [u8; KEY_LEN] {
        let mut context = hmac::Context::with_key(&self.memory_key);
        match hash {
            PasswordHash::Scram(verifier) => context.update(&verifier.stored_key),
            PasswordHash::Argon2(text) => context.update(text.as_bytes()),
        }
        for part in [name, password] {
            context.update(&[0]);
            context.update(part.as_bytes());
        }
        context.sign().as_ref().try_into().unwrap_or([0; KEY_LEN])
    }

    fn is_remembered(&self, fingerprint: &[u8; KEY_LEN], now: Instant) -> bool {
        self.remembered.lock().get(fingerprint).is_some_and(|until| *until > now)
    }

    fn remember(&self, fingerprint: [u8; KEY_LEN], now: Instant) {
        self.remembered.lock().insert(fingerprint, now + REMEMBERED, |until| *until <= now);
    }
}

fn examples(accounts: &HashMap<String, Account>) -> Vec<PasswordHash> {
    let mut named: Vec<_> =
        accounts.iter().filter_map(|(name, account)| Some((name, account.password.clone()?))).collect();
    named.sort_by_key(|(name, _)| *name);
    named.into_iter().map(|(_, hash)| hash).collect()
}

#[cfg(test)]
mod tests;
