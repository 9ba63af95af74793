//! `restore`: writes a backup to where its configuration says.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::say;
use crate::base::clock::{Clock as _, SystemClock};
use crate::base::files;
use crate::base::files::faults::{Use, explain};
use crate::base::files::owner::Owner;
use crate::ledger::embedded::key_ring::{KeyRing, Sealing};
use crate::ledger::embedded::store::sled::SledStore;
use crate::ledger::embedded::store::{Change, Row, Store as _, Table};
use crate::relay::archive::{Backup, UnpackedFile, unpack};
use crate::relay::data_dir::{DataDir, keep_files_private};

/// Rows that are stored at once.
const ROWS_AT_ONCE: usize = 500;
/// The modes of folders that are made: whoever may read a file has to come to it; the data directory is the relay's alone.
const OPEN: u32 = 0o750;
const CLOSED: u32 = 0o700;

/// Options of `restore`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// What `backup` wrote
    file: PathBuf,
    /// Overwrite what is there
    #[arg(long)]
    force: bool,
}

pub(super) fn run(configuration: Option<&Path>, options: &Options) -> anyhow::Result<ExitCode> {
    keep_files_private();
    let archive = fs::File::open(&options.file);
    let archive = archive.map_err(|error| anyhow::anyhow!(explain(&options.file, Use::Read, &error)))?;
    let backup = unpack(archive, configuration)?;
    if !options.force {
        refuse_to_overwrite(&backup)?;
    }
    // Before the data directory, which may be below that of the configuration.
    if let Some(file) = backup.files.first() {
        make_folders_of(&file.path, OPEN, file.owner.as_ref())?;
    }
    make_folders_of(&backup.data_dir, OPEN, backup.data_owner.as_ref())?;
    let is_new = !backup.data_dir.exists();
    let folder = DataDir::open(&backup.data_dir)?;
    if let Some(owner) = backup.data_owner.as_ref().filter(|_| is_new) {
        give(&backup.data_dir, owner)?;
    }
    for file in &backup.files {
        write(file, &backup.data_dir)?;
    }
    let rows = backup.rows.len();
    store(&folder, backup.rows)?;
    hand_over(&backup.data_dir)?;
    say(&format!(
        "{} files and {rows} rows are restored; `otp-relay check --offline` looks at them",
        backup.files.len()
    ));
    backup.files.iter().for_each(|file| say(&format!("  {}", file.path.display())));
    Ok(ExitCode::SUCCESS)
}

fn refuse_to_overwrite(backup: &Backup) -> anyhow::Result<()> {
    let queue = backup.data_dir.join("queue");
    let paths = backup.files.iter().map(|file| &file.path).chain([&queue]);
    let there: Vec<String> = paths.filter(|path| path.exists()).map(|path| path.display().to_string()).collect();
    anyhow::ensure!(
        there.is_empty(),
        "nothing was restored, since these are there already: {}; --force overwrites files, and adds rows to the queue's database",
        there.join(", ")
    );
    Ok(())
}

fn write(file: &UnpackedFile, data_dir: &Path) -> anyhow::Result<()> {
    let mode = if file.path.starts_with(data_dir) { CLOSED } else { OPEN };
    make_folders_of(&file.path, mode, file.owner.as_ref())?;
    files::replace(&file.path, &file.octets)
        .and_then(|()| fs::set_permissions(&file.path, Permissions::from_mode(file.mode)))
        .and_then(|()| file.owner.as_ref().map_or(Ok(()), |owner| give(&file.path, owner)))
        .map_err(|error| anyhow::anyhow!(explain(&file.path, Use::Write, &error)))
}

/// Makes those that are missing above a path, from the outermost on.
fn make_folders_of(path: &Path, mode: u32, owner: Option<&Owner>) -> anyhow::Result<()> {
    let missing: Vec<&Path> = path.ancestors().skip(1).take_while(|folder| !folder.exists()).collect();
    let make = |folder: &Path| {
        fs::create_dir(folder)?;
        fs::set_permissions(folder, Permissions::from_mode(mode))?;
        owner.map_or(Ok(()), |owner| give(folder, owner))
    };
    for folder in missing.into_iter().rev() {
        make(folder).map_err(|error| anyhow::anyhow!(explain(folder, Use::Write, &error)))?;
    }
    Ok(())
}

/// Only root can.
fn give(path: &Path, owner: &Owner) -> std::io::Result<()> {
    if nix::unistd::geteuid().is_root() { owner.take(path) } else { Ok(()) }
}

fn store(folder: &DataDir, rows: Vec<(Table, Row)>) -> anyhow::Result<()> {
    let ring = KeyRing::open(&folder.keys(), Sealing::Off, SystemClock::default().wall())?;
    let mut store = SledStore::open(&folder.queue(), ring)?;
    let changes: Vec<Change> =
        rows.into_iter().map(|(table, (key, value))| Change::Side(table, key, Some(value))).collect();
    for some in changes.chunks(ROWS_AT_ONCE) {
        store.commit(&[some])?;
    }
    Ok(())
}

/// What root restored belongs to whoever has the data directory.
fn hand_over(data_dir: &Path) -> anyhow::Result<()> {
    let owner = fs::metadata(data_dir)?;
    if nix::unistd::geteuid().is_root() && owner.uid() != 0 {
        give_all(data_dir, (owner.uid(), owner.gid()))?;
    }
    Ok(())
}

fn give_all(path: &Path, owner: (u32, u32)) -> std::io::Result<()> {
    lchown(path, Some(owner.0), Some(owner.1))?;
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path)? {
            give_all(&entry?.path(), owner)?;
        }
    }
    Ok(())
}
