//! `restore`: writes a backup to where its configuration says.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::say;
use crate::base::clock::{Clock as _, SystemClock};
use crate::base::files;
use crate::base::files::faults::{Use, explain};
use crate::ledger::embedded::key_ring::{KeyRing, Sealing};
use crate::ledger::embedded::store::sled::SledStore;
use crate::ledger::embedded::store::{Change, Row, Store as _, Table};
use crate::relay::archive::{Backup, Unpacked, unpack};
use crate::relay::data_dir::{DataDir, keep_files_private};

/// Rows that are stored at once.
const ROWS_AT_ONCE: usize = 500;

/// Options of `restore`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// What `backup` wrote
    file: PathBuf,
    /// Overwrite what is there
    #[arg(long)]
    force: bool,
}

/// Runs it.
pub(super) fn run(configuration: Option<&Path>, options: &Options) -> anyhow::Result<ExitCode> {
    keep_files_private();
    let archive = fs::File::open(&options.file);
    let archive = archive.map_err(|error| anyhow::anyhow!(explain(&options.file, Use::Read, &error)))?;
    let backup = unpack(archive, configuration)?;
    if !options.force {
        refuse_to_overwrite(&backup)?;
    }
    let folder = DataDir::open(&backup.data_dir)?;
    for file in &backup.files {
        write(file)?;
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

fn write(file: &Unpacked) -> anyhow::Result<()> {
    let folder = file.path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)
        .and_then(|()| files::replace(&file.path, &file.octets))
        .and_then(|()| fs::set_permissions(&file.path, Permissions::from_mode(file.mode)))
        .map_err(|error| anyhow::anyhow!(explain(&file.path, Use::Write, &error)))
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

/// What root restored belongs to whoever has the data folder.
fn hand_over(data_dir: &Path) -> anyhow::Result<()> {
    let owner = fs::metadata(data_dir)?;
    if nix::unistd::geteuid().is_root() && owner.uid() != 0 {
        give(data_dir, (owner.uid(), owner.gid()))?;
    }
    Ok(())
}

fn give(path: &Path, owner: (u32, u32)) -> std::io::Result<()> {
    lchown(path, Some(owner.0), Some(owner.1))?;
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), owner)?;
        }
    }
    Ok(())
}
