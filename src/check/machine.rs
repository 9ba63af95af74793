//! The machine: whether what is stored lasts and is stored quickly, and what the system lets the process do.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use nix::sys::statfs::{FsType, NFS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, statfs};

use super::finding::{Check, Finding};
use super::look::Look;
use crate::base::clock::monotonic_us;
use crate::config::findings::Severity;

/// Writes that are timed, and how long all of them may take.
const WRITES: usize = 100;
const WRITES_TIME_MAX: Duration = Duration::from_millis(1_500);
/// As much as a small message takes.
const WRITE_LEN: usize = 4096;
/// A commit that takes longer is felt.
const SLOW: Duration = Duration::from_millis(50);
/// Room below which it gets tight, and below which nothing is taken.
const ROOM_MIN: (u64, u64) = (1 << 30, 64 << 20);
/// Connections that may wait to be accepted.
const SOMAXCONN_MIN: u64 = 1024;
/// Ports for connections outwards.
const PORTS_MIN: u64 = 10_000;

pub(super) async fn look(look: &Look<'_>) {
    limits(look);
    let folder = look.config.data_dir.clone();
    let looking = tokio::task::spawn_blocking(move || of_folder(&folder));
    looking.await.unwrap_or_default().into_iter().for_each(|finding| look.add(finding));
}

fn of_folder(folder: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    let shown = folder.display().to_string();
    let mut add = |severity, text: String, mend: &str| {
        found.push(Finding::new(severity, Check::DataFolder, &shown, text).mend(mend));
    };
    let Ok(meta) = std::fs::metadata(folder) else {
        add(
            Severity::Note,
            "the data directory is not there yet, so how quickly it stores was not looked at".into(),
            "",
        );
        return found;
    };
    if meta.mode() & 0o077 != 0 {
        let text = format!("others may look into the data directory (mode {:04o})", meta.mode() & 0o7777);
        add(Severity::Warning, text, "run `chmod 700` on it; the relay does so at its start");
    }
    let own = nix::unistd::geteuid();
    if !own.is_root() && meta.uid() != own.as_raw() {
        let text = format!("the data directory belongs to another user ({})", meta.uid());
        add(Severity::Warning, text, "run the check as the user of the service, or give the folder to that user");
    }
    if let Ok(system) = statfs(folder) {
        if let Some((name, what)) = short_lived(system.filesystem_type()) {
            add(
                Severity::Warning,
                format!("the data directory is on {name}, which {what}"),
                "put it on a disk of this machine",
            );
        }
        let room = system.blocks_available().saturating_mul(u64::try_from(system.block_size()).unwrap_or(1));
        if room < ROOM_MIN.0 {
            let severity = if room < ROOM_MIN.1 { Severity::Error } else { Severity::Warning };
            add(severity, format!("there are {} MiB left for the data directory", room >> 20), "make room");
        }
    }
    if let Some((p50, p99)) = timed(folder).filter(|(_, p99)| *p99 > SLOW) {
        let text = format!(
            "a synced write takes {} ms, and {} ms one time in a hundred, for which every code waits",
            p50.as_millis(),
            p99.as_millis()
        );
        add(Severity::Warning, text, "put the data directory on a faster disk, or one with a battery behind its cache");
    }
    found
}

/// File systems on which a queue does not last, or is not safe.
fn short_lived(kind: FsType) -> Option<(&'static str, &'static str)> {
    match kind {
        TMPFS_MAGIC => Some(("tmpfs", "is lost when the machine stops")),
        OVERLAYFS_SUPER_MAGIC => Some(("an overlay (a container's own layer)", "is lost with the container")),
        NFS_SUPER_MAGIC => Some(("NFS", "keeps locks and synced writes only as well as its server does")),
        _ => None,
    }
}

/// The median and the 99th of a hundred synced writes; none where the folder is not ours to write in.
fn timed(folder: &Path) -> Option<(Duration, Duration)> {
    let path = folder.join(format!("check-{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).ok()?;
    let took = writes(&mut file);
    let _ = std::fs::remove_file(&path);
    let mut took = took?;
    took.sort();
    Some((*took.get(took.len() / 2)?, *took.get(took.len() * 99 / 100)?))
}

fn writes(file: &mut File) -> Option<Vec<Duration>> {
    let (octets, begin) = ([b'.'; WRITE_LEN], monotonic_us());
    let mut took = Vec::with_capacity(WRITES);
    let span = |since: i64| Duration::from_micros(u64::try_from(monotonic_us() - since).unwrap_or_default());
    while took.len() < WRITES && span(begin) < WRITES_TIME_MAX {
        let since = monotonic_us();
        file.write_all(&octets).and_then(|()| file.sync_data()).ok()?;
        took.push(span(since));
    }
    Some(took)
}

fn limits(look: &Look<'_>) {
    let add = |name: &str, text: String, mend: String| {
        look.add(Finding::new(Severity::Note, Check::Limits, name, text).mend(mend));
    };
    let read = |name: &str| -> Vec<u64> {
        let text = std::fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).unwrap_or_default();
        text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    };
    if let [waiting] = read("net.core.somaxconn")[..]
        && waiting < SOMAXCONN_MIN
    {
        let text = format!("{waiting} connections of clients may wait to be accepted");
        add("net.core.somaxconn", text, format!("set it to {SOMAXCONN_MIN} or more by sysctl"));
    }
    if let [from, to] = read("net.ipv4.ip_local_port_range")[..]
        && to.saturating_sub(from) < PORTS_MIN
    {
        let text = format!("there are {} ports for connections outwards", to.saturating_sub(from));
        add("net.ipv4.ip_local_port_range", text, "set it to 32768 60999 by sysctl".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_folder_is_looked_at_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let found = of_folder(folder.path());
        assert!(found.iter().any(|finding| finding.text.contains("(mode 0755)")), "{found:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let missing = of_folder(&folder.path().join("none"));
        assert!(missing.len() == 1 && missing[0].severity == Severity::Note, "{missing:?}");
        assert!(!folder.path().join("none").exists());
        assert!(short_lived(TMPFS_MAGIC).is_some() && short_lived(FsType(0xef53)).is_none());
        assert!(timed(folder.path()).is_some_and(|(p50, p99)| p50 <= p99));
    }
}
