//! `data_dir/dkim`: keys that were made to take the place of others, and how far each change is, a file `DOMAIN.json` a domain.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::rotation::Rotation;
use super::{Key, Keys};
use crate::base::clock::Timestamp;
use crate::base::files;
use crate::base::files::faults::{Use, explain};

/// What the state of a change ends in.
const STATE: &str = "json";
/// Octets of it at most.
const STATE_LEN_MAX: u64 = 64 << 10;
/// Domains whose keys are being changed, at most.
const DOMAINS_MAX: usize = 1000;

#[derive(Debug, Clone)]
pub(crate) struct Folder(PathBuf);

/// Keys, and since when they have signed.
type Former = (Timestamp, Arc<[Key]>);

impl Folder {
    pub(crate) fn of(data_dir: &Path) -> Self {
        Self(data_dir.join("dkim"))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Where a key is, as those are named that the relay makes.
    pub(crate) fn key_file(&self, domain: &str, selector: &str) -> PathBuf {
        self.0.join(format!("{domain}.{selector}.pem"))
    }

    /// All changes under way or made, in the order of their domains; and sentences about those that cannot be read.
    pub(crate) fn rotations(&self) -> (Vec<Rotation>, Vec<String>) {
        let (mut rotations, mut faults) = (Vec::new(), Vec::new());
        let entries = fs::read_dir(&self.0).into_iter().flatten().filter_map(Result::ok);
        let states = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == STATE));
        for path in states.take(DOMAINS_MAX) {
            match read(&path) {
                Ok(rotation) => rotations.push(rotation),
                Err(fault) => faults.push(fault),
            }
        }
        rotations.sort_by(|a, b| a.domain.cmp(&b.domain));
        (rotations, faults)
    }

    /// The change of a domain's keys, a new one where there is none.
    pub(crate) fn rotation(&self, domain: &str) -> Result<Rotation, String> {
        let path = self.state_file(domain);
        if path.exists() { read(&path) } else { Ok(Rotation::new(domain)) }
    }

    /// Writes down how far it is.
    pub(crate) fn store(&self, rotation: &Rotation) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        files::replace(&self.state_file(&rotation.domain), rotation.to_json().as_bytes())
    }

    /// Gives what root has just made to the owner of the data directory, who is to use it.
    pub(crate) fn hand_over(&self) -> io::Result<()> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        let owner = fs::metadata(self.0.parent().unwrap_or(Path::new(".")))?;
        chown(&self.0, Some(owner.uid()), Some(owner.gid()))?;
        for entry in fs::read_dir(&self.0)? {
            chown(entry?.path(), Some(owner.uid()), Some(owner.gid()))?;
        }
        Ok(())
    }

    /// Puts the keys of changes in the place of those of their domains. Returns sentences about what cannot be used; there,
    /// all stays as it was.
    pub(crate) fn overlay(&self, keys: &mut Keys) -> Vec<String> {
        let (rotations, mut faults) = self.rotations();
        for rotation in &rotations {
            match self.generations(rotation, keys.of(&rotation.domain)) {
                Ok(generations) => keys.replace(&rotation.domain, generations),
                Err(fault) => faults.push(fault),
            }
        }
        faults
    }

    /// The records of these selectors: name below the domain, and text.
    pub(crate) fn records(&self, domain: &str, selectors: &[String]) -> Result<Vec<(String, String)>, String> {
        let keys = self.keys(domain, selectors)?;
        Ok(keys.iter().map(|key| (key.selector().to_owned(), key.record().to_owned())).collect())
    }

    fn generations(&self, rotation: &Rotation, configured: Option<Arc<[Key]>>) -> Result<Vec<Former>, String> {
        let Some(active) = &rotation.active else { return Ok(Vec::new()) };
        let mut generations = vec![(active.since, self.keys(&rotation.domain, &active.selectors)?)];
        for retired in rotation.retired.iter().filter(|retired| !retired.is_destroyed) {
            match retired.since {
                Some(since) => generations.push((since, self.keys(&rotation.domain, &retired.selectors)?)),
                None => generations.extend(configured.clone().map(|keys| (Timestamp::default(), keys))),
            }
        }
        Ok(generations)
    }

    fn keys(&self, domain: &str, selectors: &[String]) -> Result<Arc<[Key]>, String> {
        let key = |selector: &String| {
            let path = self.key_file(domain, selector);
            let pem = fs::read_to_string(&path).map_err(|error| explain(&path, Use::Read, &error))?;
            let pem = zeroize::Zeroizing::new(pem);
            Key::from_pem(domain, selector, &pem).map_err(|error| format!("{}: {error}", path.display()))
        };
        selectors.iter().map(key).collect()
    }

    fn state_file(&self, domain: &str) -> PathBuf {
        self.0.join(format!("{domain}.{STATE}"))
    }
}

fn read(path: &Path) -> Result<Rotation, String> {
    let told = |error: io::Error| explain(path, Use::Read, &error);
    if fs::metadata(path).map_err(told)?.len() > STATE_LEN_MAX {
        return Err(format!("{}: it is longer than any that the relay writes", path.display()));
    }
    let text = fs::read_to_string(path).map_err(told)?;
    Rotation::from_json(&text).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::record;
    use super::super::rotation::Sight;
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_795_255_200_000 + seconds * 1000)
    }

    #[test]
    fn keys_of_a_change_outrank_the_configured() {
        let data = tempfile::tempdir().unwrap();
        let folder = Folder::of(data.path());
        let configured = || {
            let pem = record::generate_ed25519().unwrap();
            Keys::new(vec![Key::from_pem("app.test", "otp1", &pem).unwrap()])
        };
        let selector = |keys: &Keys, at| keys.of_acceptance("app.test", at).unwrap()[0].selector().to_owned();
        fs::create_dir_all(folder.path()).unwrap();
        fs::write(folder.key_file("app.test", "next"), record::generate_ed25519().unwrap()).unwrap();
        let mut rotation = folder.rotation("app.test").unwrap();
        rotation.begin(vec!["next".into()], at(0)).unwrap();
        folder.store(&rotation).unwrap();
        let mut keys = configured();
        assert_eq!(folder.overlay(&mut keys), Vec::<String>::new());
        assert_eq!(selector(&keys, at(99)), "otp1", "they are not seen yet");
        for seconds in [0, 86_400] {
            rotation.step(Sight::Shown, &["otp1".into()], at(seconds));
        }
        folder.store(&rotation).unwrap();
        let mut keys = configured();
        assert_eq!(folder.overlay(&mut keys), Vec::<String>::new());
        let since = rotation.active.as_ref().unwrap().since;
        assert_eq!(selector(&keys, since), "next");
        assert_eq!(selector(&keys, at(86_399)), "otp1", "a retry keeps the key of its acceptance");
        fs::remove_file(folder.key_file("app.test", "next")).unwrap();
        let mut keys = configured();
        let faults = folder.overlay(&mut keys);
        assert!(faults[0].contains("app.test.next.pem: No such file"), "{faults:?}");
        assert_eq!(selector(&keys, since), "otp1");
    }
}
