//! Who else can read or change files with secrets. Told, never a reason not to start: the relay cannot know why they are as they
//! are, and codes have to go out.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::base::text::shell_argument;

/// Where containers and service managers put secrets, with modes of their own.
const MOUNTED: [&str; 3] = ["/run/secrets", "/var/run/secrets", "/run/credentials"];
/// Where systemd's are.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
/// ramfs, which systemd uses for them.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// What a file must keep from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeps {
    Secret,
    /// That it is not changed.
    Shape,
}

/// Whose groups count as the relay's own.
#[derive(Debug, Clone, Default)]
pub(super) struct Own {
    groups: Vec<u32>,
    credentials: Option<PathBuf>,
}

impl Own {
    /// The groups of this process, and the one of the data directory, for whoever checks the configuration as another user.
    pub(super) fn new(data_dir: &Path, variable: fn(&str) -> Option<String>) -> Self {
        let mut groups = vec![nix::unistd::getegid().as_raw()];
        groups.extend(nix::unistd::getgroups().unwrap_or_default().into_iter().map(nix::unistd::Gid::as_raw));
        groups.extend(fs::metadata(data_dir).map(|folder| folder.gid()));
        Self { groups, credentials: variable(CREDENTIALS).map(PathBuf::from) }
    }

    /// What is wrong with the modes of a file, and how to mend it; none if nothing is, or it cannot be told.
    pub(super) fn finding(&self, path: &Path, keeps: Keeps) -> Option<String> {
        let absolute = std::path::absolute(path).ok()?;
        let real = fs::canonicalize(path).ok()?;
        let is_mounted = |path: &Path| {
            MOUNTED.iter().any(|folder| path.starts_with(folder))
                || self.credentials.as_ref().is_some_and(|folder| path.starts_with(folder))
        };
        if is_mounted(&absolute) || is_mounted(&real) {
            return None;
        }
        let facts = Facts::of(&real)?;
        let (who, what) = match facts.exposed_to(Keeps::Shape, &self.groups) {
            Some(who) => (who, "change it"),
            None if keeps == Keeps::Secret => (facts.exposed_to(keeps, &self.groups)?, "read it"),
            None => return None,
        };
        let mode = if keeps == Keeps::Secret { "600" } else { "644" };
        Some(format!(
            "{who} can {what}; `chmod {mode} {}`, as the relay's user",
            shell_argument(&path.to_string_lossy())
        ))
    }
}

/// Owner, group and mode of a file or folder.
#[derive(Debug, Clone, Copy)]
struct Modes {
    owner: u32,
    group: u32,
    mode: u32,
}

impl Modes {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self { owner: metadata.uid(), group: metadata.gid(), mode: metadata.mode() })
    }
}

#[derive(Debug, Clone)]
struct Facts {
    file: Modes,
    /// The folders above it.
    folders: Vec<Modes>,
    /// Whether it lies in memory, or where nothing can be written: mounted, by whoever runs the container.
    is_on_mount: bool,
}

impl Facts {
    fn of(real: &Path) -> Option<Self> {
        let in_memory = statfs(real).is_ok_and(|fs| matches!(fs.filesystem_type(), TMPFS_MAGIC | RAMFS_MAGIC));
        let read_only = statvfs(real).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_RDONLY));
        let folders = real.ancestors().skip(1).map(Modes::of).collect::<Option<_>>()?;
        Some(Self { file: Modes::of(real)?, folders, is_on_mount: in_memory || read_only })
    }

    /// Who beside the relay can do what it should not, by these groups of the relay's own.
    fn exposed_to(&self, keeps: Keeps, own: &[u32]) -> Option<&'static str> {
        let Modes { owner, group, mode } = self.file;
        if self.is_on_mount && owner == 0 {
            return None;
        }
        let bits = if keeps == Keeps::Secret { 0o6 } else { 0o2 };
        let foreign = |folder: &Modes| !own.contains(&folder.group);
        let lets_anybody = |folder: &Modes| folder.mode & 0o001 != 0;
        let lets_group = |folder: &Modes| lets_anybody(folder) || (folder.mode & 0o010 != 0 && foreign(folder));
        if mode & bits != 0 && self.folders.iter().all(lets_anybody) {
            return Some("anybody on this machine");
        }
        let is_open_to_group = mode & (bits << 3) != 0 && !own.contains(&group);
        (is_open_to_group && self.folders.iter().all(lets_group)).then_some("its group, which is not the relay's,")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 990;
    const FOREIGN: u32 = 100;

    fn check(mode: u32, group: u32, keeps: Keeps, expected: Option<&str>) {
        let modes = |group, mode| Modes { owner: 1000, group, mode };
        let facts = Facts { file: modes(group, mode), folders: vec![modes(FOREIGN, 0o755); 2], is_on_mount: false };
        let told = facts.exposed_to(keeps, &[OWN]);
        assert_eq!(told.map(|who| who.split([' ', ',']).next().unwrap()), expected, "{mode:o} {group} {keeps:?}");
    }

    #[test]
    fn modes_are_judged() {
        use Keeps::{Secret, Shape};
        for group in [OWN, FOREIGN] {
            check(0o600, group, Secret, None);
            check(0o400, group, Secret, None);
            check(0o604, group, Secret, Some("anybody"));
            check(0o644, group, Secret, Some("anybody"));
            check(0o602, group, Secret, Some("anybody"));
            check(0o601, group, Secret, None);
            check(0o644, group, Shape, None);
            check(0o646, group, Shape, Some("anybody"));
        }
        check(0o640, OWN, Secret, None);
        check(0o660, OWN, Secret, None);
        check(0o640, FOREIGN, Secret, Some("its"));
        check(0o640, FOREIGN, Shape, None);
        check(0o664, FOREIGN, Shape, Some("its"));
        check(0o664, OWN, Shape, None);
    }

    #[test]
    fn a_closed_folder_closes_what_is_in_it() {
        let modes = |group, mode| Modes { owner: 1000, group, mode };
        let exposed = |file: u32, folder: (u32, u32)| {
            let folders = vec![modes(folder.0, folder.1), modes(0, 0o755)];
            let facts = Facts { file: modes(FOREIGN, file), folders, is_on_mount: false };
            facts.exposed_to(Keeps::Secret, &[OWN]).is_some()
        };
        assert!(exposed(0o644, (FOREIGN, 0o755)) && exposed(0o640, (FOREIGN, 0o755)));
        assert!(!exposed(0o644, (FOREIGN, 0o700)) && !exposed(0o640, (FOREIGN, 0o700)));
        assert!(exposed(0o640, (FOREIGN, 0o750)), "its group gets in");
        assert!(!exposed(0o644, (OWN, 0o750)), "none but the relay's group gets in");
    }

    #[test]
    fn what_is_mounted_has_modes_of_its_own() {
        let facts = |owner, is_on_mount| Facts {
            file: Modes { owner, group: FOREIGN, mode: 0o644 },
            folders: vec![Modes { owner: 0, group: 0, mode: 0o755 }],
            is_on_mount,
        };
        assert!(facts(0, true).exposed_to(Keeps::Secret, &[]).is_none());
        assert!(facts(0, false).exposed_to(Keeps::Secret, &[]).is_some());
        assert!(facts(1000, true).exposed_to(Keeps::Secret, &[]).is_some());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        fs::write(&file, "secret").unwrap();
        let own = Own { credentials: Some(folder.path().to_owned()), ..Own::default() };
        assert_eq!(own.finding(&file, Keeps::Secret), None);
        assert_eq!(own.finding(&folder.path().join("none"), Keeps::Secret), None);
        let real = Facts::of(&file).unwrap();
        assert_eq!(
            (real.file.mode & 0o077, real.folders.is_empty()),
            (fs::metadata(&file).unwrap().mode() & 0o077, false)
        );
    }
}
