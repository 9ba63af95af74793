//! Small files that a power cut leaves whole: each is the old one or the new one. Readable by their owner only.

pub(crate) mod faults;
pub(crate) mod locks;
pub(crate) mod owner;

use crate::base::clock::Timestamp;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// What a file's name ends in until it is whole.
const UNFINISHED: &str = ".unfinished";
/// Octets overwritten at most; the files that matter are shorter.
const OVERWRITTEN_MAX: usize = 4096;

/// Puts a file with this content in the place of the one that may be there, durably. The old one's octets are overwritten.
///
/// # Errors
/// When it cannot be written; then the old one is still there.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let old = OpenOptions::new().write(true).open(path);
    let unfinished = unfinished(path);
    // One that a crash left may have another mode.
    remove_if_there(&unfinished)?;
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&unfinished)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    sync_folder_of(path)?;
    old.map_or(Ok(()), overwrite)
}

/// Overwrites a file and removes it, durably. On a disk or file system that puts elsewhere what is written again, the old
/// octets stay until their place is used.
///
/// # Errors
/// When it is not known to be gone.
pub(crate) fn destroy(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).open(path) {
        Ok(file) => {
            overwrite(file)?;
            fs::remove_file(path)?;
        }
        // An earlier try came as far as this, unless the whole folder is missing.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    sync_folder_of(path)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Whether a file of this name was about to become another.
pub(crate) fn is_unfinished(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(UNFINISHED.as_bytes())
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(UNFINISHED);
    name.into()
}

fn overwrite(mut file: File) -> io::Result<()> {
    let len = usize::try_from(file.metadata()?.len()).unwrap_or(OVERWRITTEN_MAX).min(OVERWRITTEN_MAX);
    file.write_all(&vec![0; len])?;
    file.sync_all()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    sync_folder(folder.unwrap_or(Path::new(".")))
}

/// When a file was last written; none if it cannot be told.
pub(crate) fn written_at(path: &Path) -> Option<Timestamp> {
    let modified = fs::metadata(path).ok()?.modified().ok()?;
    let since = modified.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp::from_millis(u64::try_from(since.as_millis()).ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_the_old_octets_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(unfinished(&path), b"left by a crash").unwrap();
        replace(&path, b"one").unwrap();
        let mut old = File::open(&path).unwrap();
        replace(&path, b"two and more").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two and more");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut octets = Vec::new();
        old.read_to_end(&mut octets).unwrap();
        assert_eq!(octets, [0; 3]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_is_destroyed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        replace(&path, b"key").unwrap();
        let mut open = File::open(&path).unwrap();
        destroy(&path).unwrap();
        let mut octets = Vec::new();
        open.read_to_end(&mut octets).unwrap();
        assert_eq!((path.exists(), octets.as_slice()), (false, &[0; 3][..]));
        assert!(destroy(&path).is_ok(), "it is gone");
        assert!(destroy(&folder.path().join("missing/key")).is_err());
    }
}
