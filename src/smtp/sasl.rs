//! The server's side of SASL exchanges: PLAIN (RFC 4616), LOGIN (draft-murchison-sasl-login) and SCRAM-SHA-256
//! (RFC 5802, 7677). Knows no users: it asks for what it needs and says what it found. The client's side is in
//! `client_session::auth`; names and keys are the same.

use std::num::NonZeroU32;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::{hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

/// Longest user name.
pub const USER_MAX: usize = 256;
/// Longest password.
pub const PASSWORD_MAX: usize = 1024;
/// Octets of a SHA-256 key.
pub(crate) const KEY_LEN: usize = 32;

/// The mechanisms offered, in the order of EHLO.
pub const MECHANISMS: [&str; 3] = ["SCRAM-SHA-256", "PLAIN", "LOGIN"];

/// What a SCRAM server keeps of a password (RFC 5802 section 3).
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    /// Rounds of PBKDF2.
    pub(crate) iterations: NonZeroU32,
    /// The salt.
    pub salt: Vec<u8>,
    /// `H(ClientKey)`.
    pub(crate) stored_key: [u8; KEY_LEN],
    /// Proves the server to the client.
    pub(crate) server_key: [u8; KEY_LEN],
}

/// The keys of a SCRAM client (RFC 5802 section 3): whoever has them can log in.
pub(crate) struct ScramKeys {
    client: Zeroizing<[u8; KEY_LEN]>,
    server: Zeroizing<[u8; KEY_LEN]>,
}

impl ScramKeys {
    /// Derives them from a password; costs milliseconds.
    pub(crate) fn derive(password: &str, salt: &[u8], iterations: NonZeroU32) -> Self {
        let mut salted = Zeroizing::new([0_u8; KEY_LEN]);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password.as_bytes(), salted.as_mut());
        Self {
            client: Zeroizing::new(hmac_sha256(salted.as_ref(), b"Client Key")),
            server: Zeroizing::new(hmac_sha256(salted.as_ref(), b"Server Key")),
        }
    }

    /// `ClientProof` of an exchange.
    pub(crate) fn proof(&self, auth_message: &[u8]) -> [u8; KEY_LEN] {
        let mut proof = hmac_sha256(&sha256(self.client.as_ref()), auth_message);
        for (byte, key) in proof.iter_mut().zip(self.client.iter()) {
            *byte ^= key;
        }
        proof
    }

    pub(crate) fn server_key(&self) -> &[u8] {
        self.server.as_ref()
    }
}

impl std::fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScramKeys")
    }
}

impl ScramVerifier {
    /// Derives the keys; costs milliseconds.
    pub fn derive(password: &str, salt: &[u8], iterations: NonZeroU32) -> Self {
        let keys = ScramKeys::derive(password, salt, iterations);
        Self { iterations, salt: salt.to_vec(), stored_key: sha256(keys.client.as_ref()), server_key: *keys.server }
    }

    /// Whether this password was the one; costs as much as deriving.
    pub(crate) fn is_password(&self, password: &str) -> bool {
        let derived = Self::derive(password, &self.salt, self.iterations);
        verify_slices_are_equal(&derived.stored_key, &self.stored_key).is_ok()
    }

    /// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, as in the configuration.
    pub fn to_text(&self) -> String {
        format!(
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            BASE64.encode(&self.salt),
            BASE64.encode(self.stored_key),
            BASE64.encode(self.server_key)
        )
    }

    /// Reads [`ScramVerifier::to_text`]; none if it is not of that form.
    pub fn from_text(text: &str) -> Option<Self> {
        let (work, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = work.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let key = |text: &str| BASE64.decode(text).ok()?.try_into().ok();
        Some(Self {
            iterations: iterations.parse().ok()?,
            salt: BASE64.decode(salt).ok().filter(|salt| !salt.is_empty())?,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }
}

impl std::fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScramVerifier")
    }
}

/// What the exchange needs next.
pub enum Progress {
    /// Send this challenge, then feed the client's answer.
    Challenge(Vec<u8>),
    /// Check the password elsewhere; the exchange is over.
    CheckPassword {
        /// Who.
        user: String,
        /// With what.
        password: Zeroizing<String>,
    },
    /// Give the user's verifier and a fresh nonce to [`Exchange::verifier`].
    NeedVerifier {
        /// Who.
        user: String,
    },
    /// The client proved that it knows the password; the exchange is over.
    Proved {
        /// Who.
        user: String,
    },
    /// The client proved nothing; the exchange is over.
    Refused {
        /// Who, as far as it said.
        user: String,
    },
    /// What the client sent is no message of the mechanism; the exchange is over.
    Malformed,
}

/// Words only: an exchange carries passwords.
impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Challenge(_) => "Challenge",
            Self::CheckPassword { .. } => "CheckPassword",
            Self::NeedVerifier { .. } => "NeedVerifier",
            Self::Proved { .. } => "Proved",
            Self::Refused { .. } => "Refused",
            Self::Malformed => "Malformed",
        })
    }
}

/// One AUTH command from its mechanism to its end.
pub struct Exchange(State);

enum State {
    Plain,
    LoginUser,
    LoginPassword { user: String },
    ScramFirst,
    ScramVerifier { first: ClientFirst },
    ScramFinal { user: String, gs2_header: String, nonce: String, auth_start: String, verifier: ScramVerifier },
    ScramEnd { user: String },
    Over,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exchange")
    }
}

impl Exchange {
    /// Begins; none for a mechanism that is not offered. The first progress may already end the exchange.
    pub fn start(mechanism: &str, initial: Option<&[u8]>) -> Option<(Self, Progress)> {
        let (mut exchange, first_challenge) = match mechanism {
            "PLAIN" => (Self(State::Plain), &b""[..]),
            "LOGIN" => (Self(State::LoginUser), &b"Username:"[..]),
            "SCRAM-SHA-256" => (Self(State::ScramFirst), &b""[..]),
            _ => return None,
        };
        let progress = match initial {
            Some(initial) => exchange.respond(initial),
            None => Progress::Challenge(first_challenge.to_vec()),
        };
        Some((exchange, progress))
    }

    /// Feeds a decoded answer of the client.
    pub fn respond(&mut self, answer: &[u8]) -> Progress {
        let Ok(text) = std::str::from_utf8(answer) else {
            self.0 = State::Over;
            return Progress::Malformed;
        };
        match std::mem::replace(&mut self.0, State::Over) {
            State::Plain => plain(text).unwrap_or(Progress::Malformed),
            State::LoginUser if !text.is_empty() && text.len() <= USER_MAX => {
                self.0 = State::LoginPassword { user: text.to_owned() };
                Progress::Challenge(b"Password:".to_vec())
            }
            State::LoginPassword { user } if text.len() <= PASSWORD_MAX => {
                Progress::CheckPassword { user, password: Zeroizing::new(text.to_owned()) }
            }
            State::ScramFirst => match ClientFirst::parse(text) {
                Some(first) => {
                    let user = first.user.clone();
                    self.0 = State::ScramVerifier { first };
                    Progress::NeedVerifier { user }
                }
                None => Progress::Malformed,
            },
            State::ScramFinal { user, gs2_header, nonce, auth_start, verifier } => {
                let Some(proof) = ClientFinal::parse(text) else { return Progress::Malformed };
                if !proof.matches(&gs2_header, &nonce) {
                    return Progress::Malformed;
                }
                let auth_message = format!("{auth_start},{}", proof.without_proof);
                if !proof.proves(&verifier, &auth_message) {
                    return Progress::Refused { user };
                }
                self.0 = State::ScramEnd { user };
                let signature = hmac_sha256(&verifier.server_key, auth_message.as_bytes());
                Progress::Challenge(format!("v={}", BASE64.encode(signature)).into_bytes())
            }
            State::ScramEnd { user } if text.is_empty() => Progress::Proved { user },
            State::LoginUser | State::LoginPassword { .. } | State::ScramVerifier { .. } | State::ScramEnd { .. } => {
                Progress::Malformed
            }
            State::Over => Progress::Malformed,
        }
    }

    /// Answers [`Progress::NeedVerifier`]. `nonce` is fresh, printable and without commas.
    pub fn verifier(&mut self, verifier: ScramVerifier, nonce: &str) -> Progress {
        let State::ScramVerifier { first } = std::mem::replace(&mut self.0, State::Over) else {
            return Progress::Malformed;
        };
        let nonce = format!("{}{nonce}", first.nonce);
        let server_first = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        self.0 = State::ScramFinal {
            user: first.user,
            gs2_header: first.gs2_header,
            nonce,
            auth_start: format!("{},{server_first}", first.bare),
            verifier,
        };
        Progress::Challenge(server_first.into_bytes())
    }
}

/// `[authzid] NUL authcid NUL passwd`; acting for somebody else is not offered.
fn plain(text: &str) -> Option<Progress> {
    let mut parts = text.split('\0');
    let (authzid, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    let is_own = authzid.is_empty() || authzid == user;
    let fits = !user.is_empty() && user.len() <= USER_MAX && password.len() <= PASSWORD_MAX;
    if parts.next().is_some() || !is_own || !fits {
        return None;
    }
    Some(Progress::CheckPassword { user: user.to_owned(), password: Zeroizing::new(password.to_owned()) })
}

struct ClientFirst {
    gs2_header: String,
    bare: String,
    user: String,
    nonce: String,
}

impl ClientFirst {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ',');
        let (binding, authzid, bare) = (parts.next()?, parts.next()?, parts.next()?);
        if !matches!(binding, "n" | "y") {
            return None;
        }
        let mut attributes = bare.split(',');
        let user = unescape(attributes.next()?.strip_prefix("n=")?)?;
        let nonce = attributes.next()?.strip_prefix("r=")?;
        let is_own = authzid.is_empty() || authzid.strip_prefix("a=").and_then(unescape).as_ref() == Some(&user);
        let nonce_fits = (8..=256).contains(&nonce.len()) && nonce.bytes().all(|b| b.is_ascii_graphic());
        if !is_own || !nonce_fits || user.is_empty() || user.len() > USER_MAX {
            return None;
        }
        Some(Self { gs2_header: format!("{binding},{authzid},"), bare: bare.to_owned(), user, nonce: nonce.to_owned() })
    }
}

/// `=2C` and `=3D` stand for comma and equals sign (RFC 5802 section 5.1).
fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut pieces = text.split('=');
    plain.push_str(pieces.next()?);
    for piece in pieces {
        let (character, rest) = [(',', "2C"), ('=', "3D")]
            .into_iter()
            .find_map(|(character, code)| piece.strip_prefix(code).map(|rest| (character, rest)))?;
        plain.push(character);
        plain.push_str(rest);
    }
    Some(plain)
}

struct ClientFinal<'a> {
    without_proof: &'a str,
    binding: Vec<u8>,
    nonce: &'a str,
    proof: [u8; KEY_LEN],
}

impl<'a> ClientFinal<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (without_proof, proof) = text.rsplit_once(",p=")?;
        let mut attributes = without_proof.split(',');
        Some(Self {
            without_proof,
            binding: BASE64.decode(attributes.next()?.strip_prefix("c=")?).ok()?,
            nonce: attributes.next()?.strip_prefix("r=")?,
            proof: BASE64.decode(proof).ok()?.try_into().ok()?,
        })
    }

    fn matches(&self, gs2_header: &str, nonce: &str) -> bool {
        self.binding == gs2_header.as_bytes() && self.nonce == nonce
    }

    fn proves(&self, verifier: &ScramVerifier, auth_message: &str) -> bool {
        let mut client_key = Zeroizing::new(hmac_sha256(&verifier.stored_key, auth_message.as_bytes()));
        for (byte, proof) in client_key.iter_mut().zip(self.proof) {
            *byte ^= proof;
        }
        verify_slices_are_equal(&sha256(client_key.as_ref()), &verifier.stored_key).is_ok()
    }
}

pub(super) fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; KEY_LEN] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    tag.as_ref().try_into().unwrap_or([0; KEY_LEN])
}

fn sha256(message: &[u8]) -> [u8; KEY_LEN] {
    digest(&SHA256, message).as_ref().try_into().unwrap_or([0; KEY_LEN])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exchange of RFC 7677 section 3: user "user", password "pencil".
    fn rfc7677_verifier() -> ScramVerifier {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        ScramVerifier::derive("pencil", &salt, NonZeroU32::new(4096).unwrap())
    }

    fn challenge(progress: Progress) -> String {
        match progress {
            Progress::Challenge(text) => String::from_utf8(text).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn until_final() -> Exchange {
        let (mut exchange, progress) =
            Exchange::start("SCRAM-SHA-256", Some(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")).unwrap();
        assert!(matches!(progress, Progress::NeedVerifier { user } if user == "user"));
        let server_first = challenge(exchange.verifier(rfc7677_verifier(), "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"));
        assert_eq!(
            server_first,
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        exchange
    }

    #[test]
    fn scram_as_in_rfc_7677() {
        let mut exchange = until_final();
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(challenge(exchange.respond(last.as_bytes())), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert!(matches!(exchange.respond(b""), Progress::Proved { user } if user == "user"));
        assert!(matches!(exchange.respond(b""), Progress::Malformed));
    }

    #[test]
    fn scram_refuses_what_it_should() {
        let wrong = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        assert!(matches!(until_final().respond(wrong.as_bytes()), Progress::Refused { .. }));
        let other_nonce = "c=biws,r=rOprNGfwEbeRWgbNEkqO,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert!(matches!(until_final().respond(other_nonce.as_bytes()), Progress::Malformed));
        for bad in [
            "p=tls-unique,,n=user,r=12345678",
            "n,,n=user",
            "n,,r=12345678",
            "n,a=other,n=user,r=12345678",
            "n,,n=u=ser,r=12345678",
        ] {
            let (_, progress) = Exchange::start("SCRAM-SHA-256", Some(bad.as_bytes())).unwrap();
            assert!(matches!(progress, Progress::Malformed), "{bad}");
        }
    }

    #[test]
    fn verifiers_read_back() {
        let verifier = rfc7677_verifier();
        assert_eq!(ScramVerifier::from_text(&verifier.to_text()), Some(verifier.clone()));
        assert!(verifier.is_password("pencil"));
        assert!(!verifier.is_password("Pencil"));
        for bad in ["", "SCRAM-SHA-256$0:AA==$:", "$argon2id$v=19$", "SCRAM-SHA-256$4096:AA==$AA==:AA=="] {
            assert_eq!(ScramVerifier::from_text(bad), None, "{bad}");
        }
    }

    #[test]
    fn plain_and_login() {
        let start = |initial: &[u8]| Exchange::start("PLAIN", Some(initial)).unwrap().1;
        assert!(
            matches!(start(b"\0shop\0pass"), Progress::CheckPassword { user, password } if user == "shop" && *password == "pass")
        );
        assert!(matches!(start(b"shop\0shop\0pass"), Progress::CheckPassword { .. }));
        assert!(matches!(start(b"admin\0shop\0pass"), Progress::Malformed));
        assert!(matches!(start(b"\0shop\0pa\0ss"), Progress::Malformed));
        assert!(matches!(start(b"\0shop"), Progress::Malformed));
        assert!(matches!(start(b"\xff\0shop\0pass"), Progress::Malformed));
        let (mut login, first) = Exchange::start("LOGIN", None).unwrap();
        assert_eq!(challenge(first), "Username:");
        assert_eq!(challenge(login.respond(b"shop")), "Password:");
        assert!(matches!(login.respond(b"pass"), Progress::CheckPassword { .. }));
        assert!(Exchange::start("GSSAPI", None).is_none());
    }
}
