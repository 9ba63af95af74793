//! `backup`: what a new machine needs to go on in the place of this one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use super::client::{Access, Client, wait_for};
use super::exit::{Exit, OrExit as _};
use super::{config_file, load_config, say};
use crate::base::clock::{Clock as _, SystemClock};
use crate::base::files;
use crate::base::files::faults::{Use, explain};
use crate::relay::data_dir::is_in_use;
use crate::relay::{archive, verify};

/// Options of `backup`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Where to; a tar archive, readable by its owner only
    file: PathBuf,
    #[command(flatten)]
    access: Access,
}

pub(super) fn run(file: Option<&Path>, options: &Options) -> anyhow::Result<ExitCode> {
    let config = load_config(file)?;
    let configuration =
        config_file(file).context("there is no configuration file to back up").or_exit(Exit::Configuration)?;
    // Rows of a relay that is stopped are read from its folder.
    let rows = if is_in_use(&config.data_dir) {
        let client = Client::new(file, &options.access)?;
        wait_for(client.text("/v1/backup"))?.to_vec()
    } else {
        archive::lines(&verify::rows_for_backup(&config.data_dir)?).into_bytes()
    };
    let packed = archive::pack(&config, &configuration, &rows, SystemClock::default().wall())?;
    let written = files::replace(&options.file, &packed);
    written.map_err(|error| anyhow::anyhow!(explain(&options.file, Use::Write, &error)))?;
    say(&format!(
        "{}: {} bytes; whoever reads it can sign and log in as this relay. The queue, its keys and the traces are not in it",
        options.file.display(),
        packed.len()
    ));
    Ok(ExitCode::SUCCESS)
}
