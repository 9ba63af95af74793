//! Reads all that a data directory holds, without a relay and without changing an octet.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::bail;

use super::data_dir::{format_of, is_in_use};
use crate::base::files::faults::{Use, explain};
use crate::dkim::Keys;
use crate::dkim::folder::Folder;
use crate::ledger::embedded::key_ring::KeyRing;
use crate::ledger::embedded::node;
use crate::ledger::embedded::store::sled::verify::{self as database, Contents};
use crate::ledger::side::{SideRow, SideTable};
use crate::ledger::suppression;
use crate::report::trace::decode;
use crate::{greylist, intake, tls};

/// What was found, a sentence a line.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub found: Vec<String>,
    pub faults: Vec<String>,
}

/// Reads a folder.
///
/// # Errors
/// When it is none, a relay uses it, or a newer program wrote it.
pub(crate) fn look(path: &Path) -> anyhow::Result<Report> {
    let shown = path.display();
    fs::read_dir(path).map_err(|error| anyhow::anyhow!(explain(path, Use::Read, &error)))?;
    if is_in_use(path) {
        bail!("a relay uses {shown}: stop it, or verify a copy of the folder");
    }
    let Some(format) = format_of(path)? else { bail!("{shown} is no data directory: it has neither format nor queue") };
    let mut report = Report::default();
    report.found.push(format!("format {format}"));
    look_at_queue(path, &mut report)?;
    look_at_traces(&path.join("traces"), &mut report)?;
    look_at_small_files(path, &mut report);
    look_at_dkim(path, &mut report);
    Ok(report)
}

/// The rows of suppressions and of what was learned, as a backup takes them.
pub(crate) fn rows_for_backup(path: &Path) -> anyhow::Result<Vec<(SideTable, SideRow)>> {
    let queue = path.join("queue");
    if !queue.exists() {
        return Ok(Vec::new());
    }
    let (mut keys, _) = keys(path)?;
    let mut side = database::queue(&queue, &mut keys)?.side;
    // Who waits where is over soon.
    side.retain(|(table, (key, _))| match table {
        SideTable::Suppression => true,
        SideTable::Greylist => matches!(key.first(), Some(b'd' | b'f')),
        SideTable::Idempotency | SideTable::Budget | SideTable::Verification | SideTable::Meta | SideTable::Ledger => {
            false
        }
    });
    Ok(side)
}

fn keys(path: &Path) -> anyhow::Result<(KeyRing, usize)> {
    let folder = path.join("keys");
    if !folder.exists() {
        fs::read_dir(path)?;
        return Ok((KeyRing::none(), 0));
    }
    KeyRing::look(&folder).map_err(|error| anyhow::anyhow!(explain(&folder, Use::Read, &error)))
}

fn look_at_queue(path: &Path, report: &mut Report) -> anyhow::Result<()> {
    let queue = path.join("queue");
    if !queue.exists() {
        return Ok(());
    }
    let (mut keys, damaged) = keys(path)?;
    report.found.push(format!("keys of content: {}", keys.len()));
    if damaged > 0 {
        report.faults.push(format!(
            "{damaged} files in keys hold no key; a crash leaves one at most, which the next start removes"
        ));
    }
    let contents = database::queue(&queue, &mut keys)?;
    let Contents { format, messages, entries, unreadable, set_aside, damaged, side } = contents;
    report.found.push(format!("queue: format {format}, {messages} messages, {entries} entries that were tried"));
    let mut tables: BTreeMap<SideTable, (usize, usize)> = BTreeMap::new();
    for (table, row) in &side {
        let (all, faulty) = tables.entry(*table).or_default();
        *all += 1;
        *faulty += usize::from(!reads(*table, row));
    }
    for (table, (all, faulty)) in tables {
        report.found.push(format!("{table:?}: {all} rows").to_lowercase());
        if faulty > 0 {
            report.faults.push(format!("{faulty} rows of {table:?} cannot be read").to_lowercase());
        }
    }
    for (count, text) in [
        (unreadable, "messages or rows of the queue cannot be read"),
        (set_aside, "records of the queue were set aside by earlier starts"),
        (damaged, "places of queue/db hold something else than was written there"),
    ] {
        if count > 0 {
            report.faults.push(format!("{count} {text}"));
        }
    }
    Ok(())
}

fn reads(table: SideTable, row: &SideRow) -> bool {
    let known = intake::reads(table, row).or_else(|| node::reads(table, row));
    known.unwrap_or_else(|| match table {
        SideTable::Greylist => greylist::table::reads(row),
        SideTable::Suppression => suppression::reads(row),
        SideTable::Idempotency | SideTable::Budget | SideTable::Verification | SideTable::Meta | SideTable::Ledger => {
            true
        }
    })
}

fn look_at_traces(path: &Path, report: &mut Report) -> anyhow::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let (mut all, mut faulty) = (0, 0);
    let damaged = database::traces(path, |value| {
        all += 1;
        faulty += usize::from(decode(value).is_none());
    })?;
    report.found.push(format!("traces: {all}"));
    if faulty > 0 {
        report.faults.push(format!("{faulty} traces cannot be read"));
    }
    if damaged > 0 {
        report.faults.push(format!("{damaged} places of traces/db hold something else than was written there"));
    }
    Ok(())
}

fn look_at_small_files(path: &Path, report: &mut Report) {
    let is_short = |name: &str, least: usize| {
        let read = fs::read(path.join(name));
        read.is_ok_and(|octets| octets.len() < least).then(|| format!("{name} is cut off"))
    };
    report
        .faults
        .extend([("secret", 32), ("api.token", 32)].into_iter().filter_map(|(name, least)| is_short(name, least)));
    let (certificate, key) = (path.join("self-signed.pem"), path.join("self-signed.key"));
    if certificate.exists() {
        match tls::acceptor(&certificate, &key) {
            Ok(_) => report.found.push("self-signed certificate".to_owned()),
            Err(error) => report.faults.push(error.to_string()),
        }
    }
}

fn look_at_dkim(path: &Path, report: &mut Report) {
    let folder = Folder::of(path);
    let (rotations, _) = folder.rotations();
    let mut keys = Keys::default();
    report.faults.extend(folder.overlay(&mut keys));
    if !rotations.is_empty() {
        report.found.push(format!("changes of DKIM keys: {}", rotations.len()));
    }
    for rotation in &rotations {
        let next = rotation.next.iter().flat_map(|next| &next.selectors).cloned().collect::<Vec<_>>();
        report.faults.extend(folder.records(&rotation.domain, &next).err());
    }
}
