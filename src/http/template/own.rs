//! Own templates: the files of a folder, laid over those that are built in.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use super::language::{NamedFile, TemplateError};
use super::{LANGUAGES, LAYOUT, Templates};

/// Octets of one file.
const FILE_LEN_MAX: u64 = 64 << 10;
/// Files in the folder.
const FILES_MAX: usize = 100;

impl Templates {
    /// Those of a folder: `layout.toml`, and a file for each language that is to be changed or added. `shown` is how the
    /// configuration names it.
    pub(crate) fn load(folder: &Path, shown: &str) -> Result<Self, TemplateError> {
        let mut layout = NamedFile::built_in("layout", LAYOUT);
        let mut languages = Vec::from(LANGUAGES.map(|(name, text)| NamedFile::built_in(name, text)));
        for own in files(folder)? {
            if own.file.ends_with("layout.toml") {
                layout = own.over(&layout.table);
                continue;
            }
            let name = own.table.get("language").and_then(toml::Value::as_str).map(str::to_owned);
            let stem = Path::new(&own.file).file_stem().map(|stem| stem.to_string_lossy().into_owned());
            let is_it = |named: &NamedFile| {
                let language = named.table.get("language").and_then(toml::Value::as_str);
                language == name.as_deref().or(stem.as_deref())
            };
            match languages.iter_mut().find(|named| is_it(named)) {
                Some(named) => *named = own.over(&named.table),
                None => languages.push(own),
            }
        }
        Self::of(&layout, &languages, shown.to_owned())
    }
}

fn files(folder: &Path) -> Result<Vec<NamedFile>, TemplateError> {
    let fault = |path: &Path, text: String| TemplateError { file: path.display().to_string(), text };
    let listed = fs::read_dir(folder).map_err(|error| fault(folder, error.to_string()))?;
    let mut paths = Vec::new();
    for entry in listed {
        let path = entry.map_err(|error| fault(folder, error.to_string()))?.path();
        paths.extend(path.extension().is_some_and(|extension| extension == "toml").then_some(path));
    }
    if paths.len() > FILES_MAX {
        return Err(fault(folder, format!("there can be {FILES_MAX} files at most")));
    }
    paths.sort();
    let read = |path: &Path| {
        let file = fs::File::open(path).map_err(|error| fault(path, error.to_string()))?;
        let mut text = String::new();
        file.take(FILE_LEN_MAX + 1).read_to_string(&mut text).map_err(|error| fault(path, error.to_string()))?;
        if text.len() as u64 > FILE_LEN_MAX {
            return Err(fault(path, format!("a file of at most {FILE_LEN_MAX} bytes is needed")));
        }
        let table = text.parse().map_err(|error: toml::de::Error| fault(path, error.message().to_owned()))?;
        Ok(NamedFile { file: path.display().to_string(), table })
    };
    paths.iter().map(|path| read(path)).collect()
}
