//! Why a file or folder cannot be used, in words that say how to mend it: whose it is, with which mode, and who asks.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, Group, Uid, User, access, geteuid};

/// What is to be done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Reading it.
    Read,
    /// Writing it, or making files in it.
    Write,
}

/// Why this cannot be done, and how to mend it, in one line that names the whole path.
pub(crate) fn explain(path: &Path, wanted: Use, error: &io::Error) -> String {
    let path = absolute(path);
    let shown = path.display();
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are described in the system's words")]
    match error.kind() {
        io::ErrorKind::NotFound => format!("{shown}: No such file or directory"),
        io::ErrorKind::ReadOnlyFilesystem => {
            format!("{shown} is on a file system that is mounted read-only; name a place that can be written")
        }
        io::ErrorKind::NotADirectory => format!("{shown}: a part of this path is a file, not a folder"),
        io::ErrorKind::IsADirectory => format!("{shown} is a folder, not a file"),
        io::ErrorKind::PermissionDenied => forbidden(&path, wanted),
        _ => format!("{shown}: {error}"),
    }
}

/// The path from the root on.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Whose a file or folder is, if it is not this process's own: how to get it, or the `whole` in which it lies, or as whom to run.
pub(crate) fn foreign(path: &Path, whole: &Path) -> Option<String> {
    let (path, whole) = (&absolute(path), absolute(whole));
    let (owner, me) = (fs::symlink_metadata(path).ok()?.uid(), geteuid());
    (owner != me.as_raw()).then(|| {
        let (who, own) = (user_name(Uid::from_raw(owner)), user_name(me));
        format!(
            "{}, and this process runs as {own}; `sudo chown -R {own} {}`, or run it as {who}",
            owned(path),
            quoted(&whole)
        )
    })
}

pub(crate) fn user_name(uid: Uid) -> String {
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// `FILE belongs to root:root (mode 0600)`.
fn owned(path: &Path) -> String {
    let Ok(metadata) = fs::symlink_metadata(path) else { return format!("{} cannot be looked at", path.display()) };
    let gid = nix::unistd::Gid::from_raw(metadata.gid());
    let group = Group::from_gid(gid).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name);
    let (owner, mode) = (user_name(Uid::from_raw(metadata.uid())), metadata.mode() & 0o7777);
    format!("{} belongs to {owner}:{group} (mode {mode:04o})", path.display())
}

fn forbidden(path: &Path, wanted: Use) -> String {
    let culprit = culprit(path, wanted);
    if let Some(text) = foreign(&culprit, &culprit) {
        return text;
    }
    let mode = if culprit.is_dir() { "u+rwx" } else { "u+rw" };
    format!("{}, its own user; `chmod {mode} {}`", owned(&culprit), quoted(&culprit))
}

/// The outermost part of a path that stands in the way.
fn culprit(path: &Path, wanted: Use) -> PathBuf {
    let may = |path: &Path, flags| access(path, flags).is_ok();
    let mut parts: Vec<&Path> = path.ancestors().collect();
    parts.reverse();
    let closed = parts.iter().find(|part| part.is_dir() && !may(part, AccessFlags::X_OK));
    let flags = match wanted {
        Use::Read => AccessFlags::R_OK,
        Use::Write => AccessFlags::W_OK,
    };
    // What is not there yet would be made in the nearest folder that is.
    let last = path.ancestors().find(|part| fs::symlink_metadata(part).is_ok()).unwrap_or(path);
    // A file that may be written is replaced by another one in its folder.
    let above = last.parent().filter(|_| wanted == Use::Write && may(last, flags));
    closed.copied().or(above).unwrap_or(last).to_owned()
}

/// A path as one argument of a command that people paste into a shell; bare where nothing in it needs quotes.
pub(crate) fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,".contains(c);
    if text.chars().all(is_plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Whether a PEM file holds a key that only a passphrase opens (PKCS #8, or the older form with `Proc-Type`).
pub(crate) fn is_encrypted_key(pem: &[u8]) -> bool {
    let holds = |needle: &[u8]| pem.windows(needle.len()).any(|part| part == needle);
    holds(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || holds(b"Proc-Type: 4,ENCRYPTED")
}

/// How to open such a key for a program that has nobody to ask.
pub(crate) fn decrypting(path: &Path) -> String {
    let path = absolute(path);
    let (from, to) = (quoted(&path), quoted(&path.with_extension("open.pem")));
    format!(
        "{} is encrypted, and the relay cannot ask for its passphrase; `(umask 077; openssl pkey -in {from} -out {to})` \
         writes it without one: name that file",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn described(path: &Path, kind: io::ErrorKind) -> String {
        explain(path, Use::Read, &kind.into())
    }

    #[test]
    fn the_whole_path_is_told() {
        let text = described(Path::new("certs/relay.key"), io::ErrorKind::NotFound);
        assert_eq!(
            text,
            format!("{}/certs/relay.key: No such file or directory", std::env::current_dir().unwrap().display())
        );
        assert!(described(Path::new("/x"), io::ErrorKind::ReadOnlyFilesystem).starts_with("/x is on a file system"));
        assert_eq!(described(Path::new("/x"), io::ErrorKind::StorageFull), "/x: no storage space");
    }

    #[test]
    fn an_own_file_wants_another_mode() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a key");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
        let text = described(&file, io::ErrorKind::PermissionDenied);
        let me = user_name(geteuid());
        assert!(text.contains(&format!("belongs to {me}:")) && text.contains("(mode 0000)"), "{text}");
        assert!(geteuid().is_root() || text.ends_with(&format!("`chmod u+rw '{}'`", file.display())), "{text}");
        assert_eq!(foreign(&file, &file), None);
    }

    #[test]
    fn a_foreign_file_names_its_owner() {
        // Root's, on every machine.
        let Some(text) = foreign(Path::new("/etc/passwd"), Path::new("/etc/passwd")) else {
            assert!(geteuid().is_root());
            return;
        };
        assert!(text.starts_with("/etc/passwd belongs to root:root (mode 0644), and this process runs as "), "{text}");
        assert!(text.ends_with("or run it as root"), "{text}");
    }

    #[test]
    fn keys_with_a_passphrase_are_known() {
        assert!(is_encrypted_key(b"\n-----BEGIN ENCRYPTED PRIVATE KEY-----\nMII"));
        assert!(is_encrypted_key(b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES"));
        assert!(!is_encrypted_key(b"-----BEGIN PRIVATE KEY-----\nMII"));
        let text = decrypting(Path::new("/k/a b.pem"));
        assert!(text.contains("openssl pkey -in '/k/a b.pem' -out '/k/a b.open.pem'"), "{text}");
    }
}
