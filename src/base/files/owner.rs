//! Whose a file is, by names: numbers differ from machine to machine.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User};
use serde::{Deserialize, Serialize};

/// A user and a group, by their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub user: String,
    pub group: String,
}

impl Owner {
    /// Whose a file is; none where the system has no names for that.
    pub(crate) fn of(metadata: &Metadata) -> Option<Self> {
        let user = User::from_uid(Uid::from_raw(metadata.uid())).ok()??.name;
        let group = Group::from_gid(Gid::from_raw(metadata.gid())).ok()??.name;
        Some(Self { user, group })
    }

    /// Makes the file theirs; nothing happens where one of them is not known here.
    pub(crate) fn take(&self, path: &Path) -> io::Result<()> {
        let user = User::from_name(&self.user).ok().flatten();
        let group = Group::from_name(&self.group).ok().flatten();
        let (Some(user), Some(group)) = (user, group) else { return Ok(()) };
        lchown(path, Some(user.uid.as_raw()), Some(group.gid.as_raw()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_has_names_and_one_that_is_not_known_changes_nothing() {
        // Root's, on every machine.
        let root = Owner::of(&std::fs::metadata("/etc/passwd").unwrap()).unwrap();
        assert_eq!((root.user.as_str(), root.group.as_str()), ("root", "root"));
        let file = tempfile::NamedTempFile::new().unwrap();
        let before = file.path().metadata().unwrap().uid();
        let nobody = Owner { user: "no-such-user".to_owned(), group: "root".to_owned() };
        nobody.take(file.path()).unwrap();
        assert_eq!(file.path().metadata().unwrap().uid(), before);
        Owner::of(&file.path().metadata().unwrap()).unwrap().take(file.path()).unwrap();
    }
}
