//! A backup: a tar archive with the configuration, the files that it names, what the data directory holds of keys and tokens, and
//! rows of the database. Never the queue, the keys of content, or traces.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::base::clock::Timestamp;
use crate::base::files::faults::{Use, absolute, explain};
use crate::base::files::owner::Owner;
use crate::base::format::{self, FORMAT};
use crate::config::Config;
use crate::ledger::side::{SideRow, SideTable};

/// What is taken of the data directory: files, and whole folders.
const OF_DATA: [&str; 8] =
    ["api.token", "app.password-hash", "secret", "self-signed.pem", "self-signed.key", "dkim", "acme", "mta-sts"];
/// Octets of one file, and files in all.
const FILE_LEN_MAX: u64 = 16 << 20;
const FILES_MAX: usize = 20_000;
/// Octets of the rows.
const ROWS_LEN_MAX: u64 = 1 << 30;
const ABOUT: &str = "about.json";
const CONFIGURATION: &str = "relay.toml";
const ROWS: &str = "rows.ndjson";
const BESIDE: &str = "beside";
const ROOT: &str = "root";
const DATA: &str = "data";

/// What an archive says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct About {
    format: u32,
    version: String,
    pub configuration: PathBuf,
    /// Whose the data directory was; none where it has no name.
    #[serde(default)]
    data_owner: Option<Owner>,
}

/// A stored row; key and value in base64.
#[derive(Serialize, Deserialize)]
struct RowJson {
    table: String,
    key: String,
    value: String,
}

const TABLES: [(&str, SideTable); 2] = [("suppression", SideTable::Suppression), ("greylist", SideTable::Greylist)];

/// Rows as an archive has them, a JSON object a line.
pub(crate) fn lines(rows: &[(SideTable, SideRow)]) -> String {
    let mut text = String::new();
    for (table, (key, value)) in rows {
        let Some((name, _)) = TABLES.iter().find(|(_, known)| known == table) else { continue };
        let row = RowJson { table: (*name).to_owned(), key: BASE64.encode(key), value: BASE64.encode(value) };
        // It is three texts.
        text += &(serde_json::to_string(&row).unwrap_or_default() + "\n");
    }
    text
}

/// Packs everything; `rows` as [`lines`] writes them.
pub(crate) fn pack(config: &Config, file: &Path, rows: &[u8], now: Timestamp) -> anyhow::Result<Vec<u8>> {
    let mut packing = ArchiveWriter { tar: tar::Builder::new(Vec::new()), now };
    let configuration = absolute(file);
    let data_owner = fs::metadata(&config.data_dir).ok().and_then(|metadata| Owner::of(&metadata));
    let about = About { format: FORMAT, version: env!("CARGO_PKG_VERSION").to_owned(), configuration, data_owner };
    packing.add(ABOUT, 0o600, None, &serde_json::to_vec_pretty(&about)?)?;
    packing.add_file(CONFIGURATION, file)?;
    packing.add(ROWS, 0o600, None, rows)?;
    for (name, path) in files(config, file) {
        packing.add_file(&name, &path)?;
    }
    packing.tar.into_inner().context("the archive cannot be finished")
}

/// The files of a backup by their names in it.
fn files(config: &Config, file: &Path) -> BTreeMap<String, PathBuf> {
    let data = absolute(&config.data_dir);
    let folder = absolute(file).parent().map(Path::to_owned).unwrap_or_default();
    let mut found = BTreeMap::new();
    for path in config.paths.iter().map(|path| absolute(path)).filter(|path| path.is_file()) {
        let (below, rest) = match (path.strip_prefix(&data), path.strip_prefix(&folder), path.strip_prefix("/")) {
            (Ok(rest), _, _) => (DATA, rest),
            (_, Ok(rest), _) => (BESIDE, rest),
            (_, _, Ok(rest)) => (ROOT, rest),
            _ => continue,
        };
        found.insert(format!("{below}/{}", rest.display()), path.clone());
    }
    let token = absolute(&config.token_file());
    let of_data = OF_DATA.iter().map(|name| data.join(name)).chain([token]).flat_map(|path| below(&path));
    for path in of_data.take(FILES_MAX) {
        if let Ok(rest) = path.strip_prefix(&data) {
            found.insert(format!("{DATA}/{}", rest.display()), path.clone());
        }
    }
    found
}

/// The files at a path: itself, or those in the folder and in folders of it.
fn below(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    entries.flat_map(|path| if path.is_symlink() { Vec::new() } else { below(&path) }).collect()
}

struct ArchiveWriter {
    tar: tar::Builder<Vec<u8>>,
    now: Timestamp,
}

impl ArchiveWriter {
    fn add_file(&mut self, name: &str, path: &Path) -> anyhow::Result<()> {
        let told = |error: io::Error| anyhow::anyhow!(explain(path, Use::Read, &error));
        let metadata = fs::metadata(path).map_err(told)?;
        ensure!(metadata.len() <= FILE_LEN_MAX, "{} is longer than {} MiB", path.display(), FILE_LEN_MAX >> 20);
        let octets = zeroize::Zeroizing::new(fs::read(path).map_err(told)?);
        self.add(name, metadata.permissions().mode() & 0o777, Owner::of(&metadata), &octets)
    }

    fn add(&mut self, name: &str, mode: u32, owner: Option<Owner>, octets: &[u8]) -> anyhow::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        // A name that is too long for the archive is none.
        if let Some(Owner { user, group }) = owner
            && header.set_username(&user).is_ok()
            && header.set_groupname(&group).is_err()
        {
            header.set_username("")?;
        }
        header.set_mtime(self.now.as_secs());
        header.set_size(octets.len() as u64);
        self.tar.append_data(&mut header, name, octets).with_context(|| format!("{name} cannot be packed"))
    }
}

/// A file to be written.
#[derive(Debug)]
pub(crate) struct UnpackedFile {
    pub path: PathBuf,
    pub mode: u32,
    pub(crate) owner: Option<Owner>,
    pub octets: zeroize::Zeroizing<Vec<u8>>,
}

/// An archive that was read as a whole.
#[derive(Debug)]
pub(crate) struct Backup {
    /// Where the data directory is to be.
    pub(crate) data_dir: PathBuf,
    pub(crate) data_owner: Option<Owner>,
    /// The configuration and all other files.
    pub files: Vec<UnpackedFile>,
    pub(crate) rows: Vec<(SideTable, SideRow)>,
}

/// Reads an archive. The configuration goes to `file`, or to where it was; all else to where it says.
///
/// # Errors
/// When it is no backup, a newer program made it, or it has something else in it.
pub(crate) fn unpack(archive: impl io::Read, file: Option<&Path>) -> anyhow::Result<Backup> {
    let mut members = read(archive)?;
    let mut take = |name: &str| members.remove(name).with_context(|| format!("this is no backup: it has no {name}"));
    let about: About = serde_json::from_slice(&take(ABOUT)?.octets).context("this is no backup")?;
    format::check(Some(about.format.to_string().as_bytes())).map_err(|newer| anyhow::anyhow!("the backup: {newer}"))?;
    let configuration = take(CONFIGURATION)?;
    let rows = rows(&take(ROWS)?.octets)?;
    let text = std::str::from_utf8(&configuration.octets).context("the configuration is no text")?.to_owned();
    let target = absolute(file.unwrap_or(&about.configuration));
    let data_dir = absolute(&Config::data_dir_of(&text, &target));
    let folder = target.parent().unwrap_or(Path::new("/")).to_owned();
    let mut files = vec![UnpackedFile { path: target, ..configuration }];
    for (name, file) in members {
        let (below, rest) = name.split_once('/').unwrap_or_default();
        let path = match below {
            DATA => data_dir.join(rest),
            BESIDE => folder.join(rest),
            // Whoever changed an archive cannot have it write anywhere.
            ROOT if text.contains(&format!("\"/{rest}\"")) => Path::new("/").join(rest),
            _ => bail!("the backup has a file {name}, which its configuration does not name"),
        };
        files.push(UnpackedFile { path, ..file });
    }
    Ok(Backup { data_dir, data_owner: about.data_owner, files, rows })
}

/// Files by their names in the archive.
type Members = BTreeMap<String, UnpackedFile>;

fn read(archive: impl io::Read) -> anyhow::Result<Members> {
    let mut members = Members::new();
    for entry in tar::Archive::new(archive).entries().context("this is no tar archive")? {
        let mut entry = entry.context("this is no tar archive, or a part of it is missing")?;
        let path = entry.path().context("a name in the archive cannot be read")?.into_owned();
        let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        let name = path.to_str().filter(|_| is_plain && entry.header().entry_type().is_file());
        let Some(name) = name.map(str::to_owned) else {
            bail!("the archive has {}, which no backup has", path.display())
        };
        let len_max = if name == ROWS { ROWS_LEN_MAX } else { FILE_LEN_MAX };
        ensure!(
            entry.size() <= len_max && members.len() < FILES_MAX,
            "{name} is longer, or there are more files, than a backup has"
        );
        let mut octets = zeroize::Zeroizing::new(Vec::with_capacity(usize::try_from(entry.size()).unwrap_or(0)));
        entry.read_to_end(&mut octets).with_context(|| format!("{name} is cut off"))?;
        let header = entry.header();
        let mode = header.mode().unwrap_or(0o600) & 0o777;
        let named = |name: Option<&str>| name.filter(|name| !name.is_empty()).map(str::to_owned);
        let user = named(header.username().ok().flatten());
        let owner = user.zip(named(header.groupname().ok().flatten())).map(|(user, group)| Owner { user, group });
        members.insert(name, UnpackedFile { path, mode, owner, octets });
    }
    Ok(members)
}

fn rows(text: &[u8]) -> anyhow::Result<Vec<(SideTable, SideRow)>> {
    let row = |line: &[u8]| {
        let RowJson { table, key, value } = serde_json::from_slice(line).ok()?;
        let (_, table) = TABLES.into_iter().find(|(name, _)| *name == table)?;
        Some((table, (BASE64.decode(key).ok()?.into(), BASE64.decode(value).ok()?.into())))
    };
    let lines = text.split(|octet| *octet == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| row(line).context("a row of the backup cannot be read")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_255_200_000);

    fn packed(folder: &Path) -> Vec<u8> {
        let file = folder.join("etc/relay.toml");
        fs::create_dir_all(folder.join("etc/certs")).unwrap();
        fs::create_dir_all(folder.join("data/dkim")).unwrap();
        let outside = folder.join("outside.pem");
        let pem = crate::dkim::record::generate_ed25519().unwrap();
        for path in [&outside, &folder.join("etc/certs/k.pem"), &folder.join("data/dkim/next.pem")] {
            fs::write(path, &pem).unwrap();
        }
        for name in ["secret", "lock", "traces", "keys"] {
            fs::write(folder.join("data").join(name), "x").unwrap();
        }
        let key = |path: &str| format!("[[dkim]]\ndomain = \"app.test\"\nselector = \"s\"\nprivate_key = \"{path}\"\n");
        let text = format!("data_dir = \"../data\"\n{}{}", key("certs/k.pem"), key(outside.to_str().unwrap()));
        fs::write(&file, &text).unwrap();
        let (config, findings) = Config::load(&file).unwrap();
        let config = config.unwrap_or_else(|| panic!("{findings}"));
        let rows = lines(&[(SideTable::Suppression, (b"a@example.test".as_slice().into(), b"row".as_slice().into()))]);
        pack(&config, &file, rows.as_bytes(), NOW).unwrap()
    }

    #[test]
    fn what_is_packed_comes_back_to_where_the_configuration_says() {
        let folder = tempfile::tempdir().unwrap();
        let archive = packed(folder.path());
        let elsewhere = folder.path().join("new/relay.toml");
        let backup = unpack(&archive[..], Some(&elsewhere)).unwrap();
        let mut paths: Vec<_> =
            backup.files.iter().map(|file| file.path.strip_prefix(folder.path()).unwrap()).collect();
        paths.sort_unstable();
        assert_eq!(backup.data_dir, folder.path().join("new/../data"));
        let expected =
            ["new/../data/dkim/next.pem", "new/../data/secret", "new/certs/k.pem", "new/relay.toml", "outside.pem"];
        assert_eq!(paths, expected.map(Path::new));
        assert_eq!(backup.rows.len(), 1);
        assert_eq!((backup.rows[0].0, &*backup.rows[0].1.1), (SideTable::Suppression, b"row".as_slice()));
    }

    #[test]
    fn a_changed_archive_writes_nowhere_else() {
        let refused = |name: &[u8], kind: tar::EntryType, expected: &str| {
            let folder = tempfile::tempdir().unwrap();
            let mut tar = tar::Builder::new(packed(folder.path()));
            // Behind the two empty blocks nothing is read, so they go.
            let end = tar.get_ref().len() - 1024;
            tar.get_mut().truncate(end);
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            header.set_entry_type(kind);
            header.set_size(1);
            header.set_cksum();
            tar.append(&header, &b"x"[..]).unwrap();
            let error = unpack(&tar.into_inner().unwrap()[..], None).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        refused(b"root/etc/passwd", tar::EntryType::Regular, "which its configuration does not name");
        refused(b"data/../../etc/passwd", tar::EntryType::Regular, "which no backup has");
        refused(b"/etc/passwd", tar::EntryType::Regular, "which no backup has");
        refused(b"data/dkim/link", tar::EntryType::Symlink, "which no backup has");
        refused(b"else", tar::EntryType::Regular, "which its configuration does not name");
    }

    #[test]
    fn what_is_no_backup_is_told_so() {
        let error = unpack(&b"not a tar archive at all"[..], None).unwrap_err();
        assert!(
            format!("{error:#}").contains("no backup") || format!("{error:#}").contains("no tar archive"),
            "{error:#}"
        );
    }
}
