//! What a relay without a configuration file needs to be of use at once: a user and DKIM keys, made at the first start
//! and kept in the data directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use super::data_dir::in_data_dir;
use super::random::fill_random;
use crate::accounts::credentials::{Account, PasswordHash, SALT_LEN, SCRAM_ITERATIONS};
use crate::accounts::user::{Senders, User};
use crate::base::files;
use crate::base::files::faults::{Use, absolute, explain};
use crate::config::Config;
use crate::dkim::{Key, Keys, record};
use crate::smtp::sasl::ScramVerifier;

/// The user's name.
pub(crate) const USER: &str = "app";
/// The selector of the RSA key; the Ed25519 key has `-ed25519` behind it.
pub(crate) const SELECTOR: &str = "otp1";
/// Characters of a made-up password: all that cannot be mistaken for another.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
const PASSWORD_LEN: usize = 26;

/// What was generated just now, to be shown once.
#[derive(Debug, Clone)]
pub(crate) struct Generated {
    /// The user's password, if the user is new.
    pub password: Option<String>,
    /// The TXT records of the DKIM keys.
    pub records: Vec<String>,
}

/// Completes the configuration of a relay that has no file. Returns what to show when something is new.
pub(crate) fn complete(config: &mut Config) -> anyhow::Result<Option<Generated>> {
    fs::create_dir_all(&config.data_dir).map_err(|error| in_data_dir(&config.data_dir, &error))?;
    let (hash, password) = password_hash(&config.data_dir.join("app.password-hash"))?;
    let senders = Senders::Patterns(vec![format!("*@{}", config.hostname)]);
    let user = User { senders, ..User::unlimited(USER) };
    config.accounts.insert(USER.to_owned(), Account { user: Arc::new(user), password: Some(hash), token: None });
    let (keys, records) = dkim_keys(&config.data_dir, &config.hostname)?;
    if let Some(fault) = config.sign_with(keys).into_iter().next() {
        anyhow::bail!("a change of DKIM keys cannot be used: {fault}");
    }
    Ok(password.is_some().then_some(Generated { password, records }))
}

fn password_hash(path: &Path) -> anyhow::Result<(PasswordHash, Option<String>)> {
    if let Ok(text) = fs::read_to_string(path) {
        let hash = PasswordHash::from_text(text.trim())
            .with_context(|| format!("{} holds no password hash; remove it to have one made", path.display()))?;
        return Ok((hash, None));
    }
    let (password, verifier) = new_password()?;
    files::replace(path, verifier.to_text().as_bytes()).map_err(|error| in_data_dir(path, &error))?;
    Ok((PasswordHash::Scram(verifier), Some(password)))
}

/// A password of 130 random bits, and what the configuration keeps of it.
pub(crate) fn new_password() -> anyhow::Result<(String, ScramVerifier)> {
    let mut bytes = [0; PASSWORD_LEN];
    fill_random(&mut bytes)?;
    let password: String = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect();
    let verifier = hash_password(&password)?;
    Ok((password, verifier))
}

/// What the configuration keeps of a password.
pub(crate) fn hash_password(password: &str) -> anyhow::Result<ScramVerifier> {
    let mut salt = [0; SALT_LEN];
    fill_random(&mut salt)?;
    Ok(ScramVerifier::derive(password, &salt, SCRAM_ITERATIONS))
}

fn dkim_keys(data_dir: &Path, domain: &str) -> anyhow::Result<(Keys, Vec<String>)> {
    let folder = data_dir.join("dkim");
    let mut keys = Vec::new();
    let mut records = Vec::new();
    for made in generate_keys(&folder, domain, SELECTOR, IfThere::Keep)? {
        let pem = zeroize::Zeroizing::new(fs::read_to_string(&made.path)?);
        keys.push(Key::from_pem(domain, &made.selector, &pem)?);
        records.push(record::zone_line(domain, &made.selector, &record::txt_record(&pem)?));
    }
    Ok((Keys::new(keys), records))
}

#[derive(Debug, Clone)]
pub(crate) struct KeyFile {
    pub(crate) selector: String,
    pub path: PathBuf,
}

/// What to do about a key file that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfThere {
    /// Leave it as it is.
    Keep,
    /// Say so and stop.
    Refuse,
}

/// Makes an RSA and an Ed25519 key for a domain. Each has a selector of its own: one name publishes one key.
///
/// # Errors
/// When a file cannot be written, or is there already and must not be.
pub(crate) fn generate_keys(
    folder: &Path,
    domain: &str,
    selector: &str,
    if_there: IfThere,
) -> anyhow::Result<Vec<KeyFile>> {
    let told = |path: &Path, error: io::Error| io::Error::new(error.kind(), explain(path, Use::Write, &error));
    fs::create_dir_all(folder).map_err(|error| told(folder, error))?;
    let file = |selector: String| KeyFile { path: folder.join(format!("{domain}.{selector}.pem")), selector };
    let files = vec![file(selector.to_owned()), file(format!("{selector}-ed25519"))];
    if if_there == IfThere::Refuse
        && let Some(there) = files.iter().find(|file| file.path.exists())
    {
        let there = absolute(&there.path);
        anyhow::bail!(
            "{} is there already, and DNS may have its record: name that file under [[dkim]] and see the record by \
             `otp-relay dkim record {domain}`, or take another selector for another key",
            there.display()
        );
    }
    let generators = [record::generate_rsa, record::generate_ed25519];
    for (file, generate) in files.iter().zip(generators) {
        if !file.path.exists() {
            let pem = zeroize::Zeroizing::new(generate()?);
            files::replace(&file.path, pem.as_bytes()).map_err(|error| told(&file.path, error))?;
        }
    }
    Ok(files)
}
