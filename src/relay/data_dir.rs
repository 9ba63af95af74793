//! The data directory: one process at a time, readable by its owner only.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, geteuid};

use super::random::fill_random;
use super::rotating_secret::FileSecrets;
use crate::accounts::credentials::TokenHash;
use crate::base::clock::Timestamp;
use crate::base::files;
use crate::base::files::faults::{Use, absolute, explain, foreign};
use crate::base::files::locks::wait_for_lock;
use crate::base::format::{self, FORMAT, Newer};
use crate::intake::idempotency::latest_day;

/// The certificate that the relay makes for itself.
pub(super) const SELF_SIGNED: &str = "self-signed.pem";
const SECRET_LEN: usize = 32;
/// Octets of a token before it is written down.
const TOKEN_LEN: usize = 32;

/// What is written in the folder all the time.
const WRITTEN: [&str; 9] =
    ["lock", "queue", "keys", "code-keys", "traces", "stats", "webhooks", "secret", "daily-secrets"];

/// A data directory that is ours.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Held as long as the folder is used.
    _lock: File,
}

impl DataDir {
    /// Makes the folder if there is none, and takes it.
    ///
    /// # Errors
    /// When another process has it, or it cannot be written.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let told = |error: io::Error| in_data_dir(path, &error);
        fs::create_dir_all(path).map_err(told)?;
        look_for_foreign(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(told)?;
        let lock = private_file(&path.join("lock")).map_err(told)?;
        if !wait_for_lock(&lock).with_context(|| format!("{shown}/lock cannot be locked"))? {
            bail!("another otp-relay uses the data directory {shown}; stop it, or set another data_dir");
        }
        take_on_format(path)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    pub(crate) fn queue(&self) -> PathBuf {
        self.path.join("queue")
    }

    /// Where the keys of sealed content are.
    pub(crate) fn keys(&self) -> PathBuf {
        self.path.join("keys")
    }

    /// Where the keys of codes' digests are.
    pub(crate) fn code_keys(&self) -> PathBuf {
        self.path.join("code-keys")
    }

    pub(crate) fn traces(&self) -> PathBuf {
        self.path.join("traces")
    }

    /// Where posts to webhooks are that were not taken yet.
    pub(crate) fn webhooks(&self) -> PathBuf {
        self.path.join("webhooks")
    }

    pub(crate) fn stats(&self) -> PathBuf {
        self.path.join("stats")
    }

    pub(crate) fn policies(&self) -> PathBuf {
        self.path.join("mta-sts")
    }

    /// Random bytes that stay the same for this folder.
    pub(crate) fn secret(&self) -> anyhow::Result<Vec<u8>> {
        let path = self.path.join("secret");
        let known = fs::read(&path).ok().filter(|bytes| bytes.len() == SECRET_LEN);
        match known {
            Some(bytes) => Ok(bytes),
            None => {
                let mut bytes = vec![0; SECRET_LEN];
                fill_random(&mut bytes)?;
                files::replace(&path, &bytes)?;
                Ok(bytes)
            }
        }
    }

    /// Secrets that are replaced daily.
    pub(crate) fn rotating_secrets(&self, now: Timestamp) -> FileSecrets {
        FileSecrets::new(self.path.join("daily-secrets"), latest_day(now))
    }

    /// Where the made-up certificate and its key are.
    pub(crate) fn self_signed(&self) -> (PathBuf, PathBuf) {
        self_signed_files(&self.path)
    }
}

/// Where the made-up certificate and its key are in a data directory.
pub(crate) fn self_signed_files(data_dir: &Path) -> (PathBuf, PathBuf) {
    (data_dir.join(SELF_SIGNED), data_dir.join("self-signed.key"))
}

const FORMAT_FILE: &str = "format";

/// The format of the folder; none where there is nothing in it yet.
///
/// # Errors
/// When a newer program wrote it, or it cannot be read.
pub(crate) fn format_of(path: &Path) -> anyhow::Result<Option<u32>> {
    let newer = |newer: Newer| anyhow::anyhow!("the data directory {} cannot be used: {newer}", path.display());
    match fs::read(path.join(FORMAT_FILE)) {
        Ok(text) => Ok(Some(format::check(Some(&text)).map_err(newer)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(path.join("queue").exists().then_some(format::FIRST))
        }
        Err(error) => Err(in_data_dir(path, &error).into()),
    }
}

/// Refuses a folder that a newer program wrote, and says before the first write that an older one cannot read it any more.
fn take_on_format(path: &Path) -> anyhow::Result<()> {
    let found = format_of(path)?;
    if found == Some(FORMAT) {
        return Ok(());
    }
    if let Some(found) = found {
        tracing::warn!(
            "the data directory {} has format {found} and gets format {FORMAT}: an earlier otp-relay cannot use it from now on",
            path.display()
        );
    }
    // The database has the number, too: a disk that is full keeps nothing from going on.
    if let Err(error) = files::replace(&path.join(FORMAT_FILE), format::text().as_bytes()) {
        tracing::warn!("{}", in_data_dir(path, &error));
    }
    Ok(())
}

/// What keeps the data directory from being used. What the system says stands in the words; its kind tells how the command ends.
pub(super) fn in_data_dir(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("the data directory cannot be used: {}", explain(path, Use::Write, error)))
}

/// Whether the folder, or what the relay has to write in it, is another user's. Root can work in it all the same, but the other
/// user cannot go on with what root leaves there.
fn look_for_foreign(path: &Path) -> io::Result<()> {
    if let Some(text) = foreign_inside(path)? {
        tracing::warn!("{text}");
    }
    Ok(())
}

/// The same as a value: what root is warned of.
fn foreign_inside(path: &Path) -> io::Result<Option<String>> {
    let inside = WRITTEN.iter().map(|name| path.join(name));
    let Some(text) = std::iter::once(path.to_owned()).chain(inside).find_map(|inner| foreign(&inner, path)) else {
        return Ok(None);
    };
    if geteuid().is_root() {
        return Ok(Some(format!("the data directory is not the relay's: {text}")));
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("the data directory cannot be used: {text}")))
}

/// What [`DataDir::open`] would say of the folder, but for another process that uses it, without making it; a warning, if
/// there is one.
pub(crate) fn look(path: &Path) -> io::Result<Option<String>> {
    let told = |errno: Errno| in_data_dir(path, &errno.into());
    if path.exists() {
        if !path.is_dir() {
            return Err(told(Errno::EEXIST));
        }
        let warning = foreign_inside(path)?;
        format_of(path).map_err(io::Error::other)?;
        // One's own gets the right mode.
        return match access(path, AccessFlags::W_OK) {
            Err(Errno::EROFS) => Err(told(Errno::EROFS)),
            Ok(()) | Err(_) => Ok(warning),
        };
    }
    let whole = absolute(path);
    let nearest = whole.ancestors().find(|part| part.exists()).unwrap_or(&whole);
    if !nearest.is_dir() {
        return Err(told(Errno::ENOTDIR));
    }
    access(nearest, AccessFlags::W_OK | AccessFlags::X_OK).map(|()| None).map_err(told)
}

/// Whether another process uses the folder.
pub(crate) fn is_in_use(path: &Path) -> bool {
    let lock = File::open(path.join("lock")).map(|file| file.try_lock());
    matches!(lock, Ok(Err(TryLockError::WouldBlock)))
}

/// The operator's token for the HTTP API, made if there is none; what is known of it here.
pub(crate) fn token(path: &Path) -> anyhow::Result<TokenHash> {
    let shown = path.display();
    let token = match fs::read_to_string(path) {
        Ok(text) => zeroize::Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let token = zeroize::Zeroizing::new(new_token()?);
            files::replace(path, format!("{}\n", *token).as_bytes())
                .with_context(|| format!("the token file {shown} cannot be written"))?;
            token
        }
        Err(error) => {
            let text = format!("the token file cannot be read: {}", explain(path, Use::Read, &error));
            return Err(io::Error::new(error.kind(), text).into());
        }
    };
    anyhow::ensure!(
        token.trim().len() >= TOKEN_LEN,
        "the token in {shown} is too short; remove the file to have one made"
    );
    Ok(TokenHash::of(token.trim()))
}

/// A token of 256 random bits.
pub(crate) fn new_token() -> anyhow::Result<String> {
    use base64::Engine as _;
    let mut bytes = [0; TOKEN_LEN];
    fill_random(&mut bytes)?;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

fn private_file(path: &Path) -> io::Result<File> {
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Files made from now on, by whatever library, are readable by their owner only.
pub(crate) fn keep_files_private() {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
}

/// Raises the limit of open files as far as the system allows; returns it.
pub(crate) fn raise_file_limit() -> Option<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return Some(hard);
    }
    Some(soft)
}

/// Keeps the memory of this process, which holds codes and keys, out of core dumps and from other processes of the same
/// user.
pub(crate) fn keep_memory_private() {
    use nix::sys::resource::{Resource, setrlimit};
    let limited = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    // A limit does not hold back a dump that the system pipes to a program.
    let hidden = nix::sys::prctl::set_dumpable(false);
    if let Err(error) = limited.and(hidden) {
        tracing::warn!(%error, "core dumps cannot be switched off");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_a_newer_program_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("format"), format!("{}\n", FORMAT + 1)).unwrap();
        let error = DataDir::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("which a newer otp-relay wrote"), "{error}");
        assert!(!folder.path().join("queue").exists());
    }

    #[test]
    fn a_folder_of_before_gets_its_number() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("queue")).unwrap();
        assert_eq!(format_of(folder.path()).unwrap(), Some(format::FIRST));
        drop(DataDir::open(folder.path()).unwrap());
        assert_eq!(format_of(folder.path()).unwrap(), Some(FORMAT));
    }

    #[test]
    fn a_folder_is_taken_once_and_private() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let folder = DataDir::open(&path).unwrap();
        let error = DataDir::open(&path).unwrap_err().to_string();
        assert!(error.contains("another otp-relay uses the data directory"), "{error}");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        let secret = folder.secret().unwrap();
        assert_eq!(secret, folder.secret().unwrap());
        assert_eq!(mode(&path.join("secret")), 0o600);
        drop(folder);
        assert_eq!(fs::read_to_string(path.join("format")).unwrap(), format::text());
        assert_eq!(DataDir::open(&path).unwrap().secret().unwrap(), secret);
    }
}
