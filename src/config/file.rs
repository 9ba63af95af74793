//! A TOML file with the places of its values, read key by key: what is never asked for is unknown.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::findings::{Findings, Severity};
use crate::base::files::faults::{Use, explain};

/// A value with the line on which it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LocatedValue<T> {
    pub(super) value: T,
    /// Its line, from 1.
    pub(super) line: usize,
}

/// What reading a file has in common: its text, its folder, and what was found to be wrong.
#[derive(Debug)]
pub(super) struct Source<'a> {
    text: &'a str,
    /// Relative paths start here.
    folder: &'a Path,
    findings: RefCell<Findings>,
    secret_files: RefCell<Vec<SecretFile>>,
    /// All files and folders that were named.
    paths: RefCell<Vec<PathBuf>>,
    variable: fn(&str) -> Option<String>,
}

/// A file with a secret, and where it is named.
#[derive(Debug, Clone)]
pub(super) struct SecretFile {
    pub(super) path: PathBuf,
    /// The line that names it, from 1.
    pub(super) line: usize,
    /// The key that names it, with its section.
    pub(super) key: String,
}

impl<'a> Source<'a> {
    /// A file's text; `variable` gives the values of `${NAME}`.
    pub(super) fn new(text: &'a str, folder: &'a Path, variable: fn(&str) -> Option<String>) -> Self {
        Self {
            text,
            folder,
            findings: RefCell::default(),
            secret_files: RefCell::default(),
            paths: RefCell::default(),
            variable,
        }
    }

    pub(super) fn into_findings(self) -> Findings {
        self.findings.into_inner()
    }

    /// The files with secrets that were named so far.
    pub(super) fn secret_files(&self) -> Vec<SecretFile> {
        self.secret_files.borrow().clone()
    }

    /// The files and folders that were named so far.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.paths.borrow().clone()
    }

    /// Whether something is wrong so far.
    pub(super) fn has_errors(&self) -> bool {
        self.findings.borrow().has_errors()
    }

    /// Reads the environment.
    pub(super) fn variable(&self) -> fn(&str) -> Option<String> {
        self.variable
    }

    pub(super) fn find(&self, severity: Severity, line: usize, text: impl Into<String>) {
        self.findings.borrow_mut().add(severity, Some(line), text);
    }

    /// Notes something about the file as a whole.
    pub(super) fn advise(&self, text: impl Into<String>) {
        self.findings.borrow_mut().add(Severity::Warning, None, text);
    }

    /// The line of an offset, from 1.
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        let start = span.start.min(self.text.len());
        self.text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// A path as written, made absolute or relative to the working folder.
    pub(super) fn path(&self, text: &str) -> PathBuf {
        self.folder.join(text)
    }
}

/// One table of the file.
#[derive(Debug)]
pub(super) struct Section<'a> {
    source: &'a Source<'a>,
    /// As written between brackets; empty for the top of the file.
    name: &'static str,
    table: Option<&'a DeTable<'a>>,
    line: usize,
    known: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Section<'a> {
    /// The top of the file.
    pub(super) fn top(source: &'a Source<'a>, table: &'a DeTable<'a>) -> Self {
        Self { source, name: "", table: Some(table), line: 1, known: RefCell::default() }
    }

    /// A table below; an absent one has all defaults.
    pub(super) fn section(&self, name: &'static str) -> Section<'a> {
        let (table, line) = match self.value(name) {
            Some((DeValue::Table(table), line)) => (Some(table), line),
            Some((_, line)) => {
                self.source.find(Severity::Error, line, format!("[{name}] is a table: write [{name}] above its keys"));
                (None, line)
            }
            None => (None, self.line),
        };
        Section { source: self.source, name, table, line, known: RefCell::default() }
    }

    /// The tables of an array, `[[name]]`.
    pub(super) fn sections(&self, name: &'static str) -> Vec<Section<'a>> {
        let Some((value, line)) = self.value(name) else { return Vec::new() };
        let DeValue::Array(array) = value else {
            let text = format!("{name} is a list of tables: write [[{name}]] above each");
            self.source.find(Severity::Error, line, text);
            return Vec::new();
        };
        let tables = array.iter().filter_map(|item| {
            let DeValue::Table(table) = item.get_ref() else { return None };
            let line = self.source.line(&item.span());
            Some(Section { source: self.source, name, table: Some(table), line, known: RefCell::default() })
        });
        tables.collect()
    }

    /// The line on which the table begins.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// The line of a key, or of the table where the key is not written.
    pub(super) fn line_of(&self, key: &'static str) -> usize {
        self.value(key).map_or(self.line, |(_, line)| line)
    }

    /// What is in the file that a key names.
    pub(super) fn secret(&self, key: &'static str, file: &Path) -> Option<Zeroizing<String>> {
        let text = std::fs::read_to_string(file);
        let text = text.map_err(|error| self.error(self.line_of(key), key, &explain(file, Use::Read, &error)));
        text.ok().map(Zeroizing::new)
    }

    /// Whether the key is written in the file.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.value(key).is_some()
    }

    /// Notes an error about a key of this table.
    pub(super) fn error(&self, line: usize, key: &str, text: &str) {
        self.source.find(Severity::Error, line, format!("{}{key}: {text}", self.prefix()));
    }

    /// Notes a warning about a key of this table.
    pub(super) fn warn(&self, line: usize, key: &str, text: &str) {
        self.source.find(Severity::Warning, line, format!("{}{key}: {text}", self.prefix()));
    }

    fn prefix(&self) -> String {
        if self.name.is_empty() { String::new() } else { format!("[{}] ", self.name) }
    }

    fn value(&self, key: &'static str) -> Option<(&'a DeValue<'a>, usize)> {
        self.known.borrow_mut().insert(key);
        let value = self.table?.get(key)?;
        Some((value.get_ref(), self.source.line(&value.span())))
    }

    /// A text, `${NAME}` replaced.
    pub(super) fn text(&self, key: &'static str) -> Option<LocatedValue<String>> {
        let (value, line) = self.value(key)?;
        let text = self.expect_text(key, value, line)?;
        Some(LocatedValue { value: text, line })
    }

    fn expect_text(&self, key: &str, value: &DeValue<'_>, line: usize) -> Option<String> {
        let DeValue::String(text) = value else {
            self.error(line, key, &format!("a text in quotes is needed, not {}", kind(value)));
            return None;
        };
        match expand(text, self.source.variable) {
            Ok(text) => Some(text),
            Err(name) => {
                self.error(line, key, &format!("the environment has no variable {name}"));
                None
            }
        }
    }

    /// A text that `parse` understands; `form` says what it should look like.
    pub(super) fn parsed<T>(&self, key: &'static str, form: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.text(key)?;
        let parsed = parse(&text.value);
        if parsed.is_none() {
            self.error(text.line, key, &format!("{form} is needed"));
        }
        parsed
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &'static str) -> Option<bool> {
        match self.value(key)? {
            (DeValue::Boolean(value), _) => Some(*value),
            (value, line) => {
                self.error(line, key, &format!("true or false is needed, not {}", kind(value)));
                None
            }
        }
    }

    /// A whole number within bounds.
    pub(super) fn number(&self, key: &'static str, (low, high): (u64, u64)) -> Option<u64> {
        let (value, line) = self.value(key)?;
        let number = if let DeValue::Integer(number) = value {
            u64::from_str_radix(number.as_str(), number.radix()).ok()
        } else {
            None
        };
        let fits = number.filter(|number| (low..=high).contains(number));
        if fits.is_none() {
            self.error(line, key, &format!("a number from {low} to {high} is needed"));
        }
        fits
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &'static str) -> Vec<LocatedValue<String>> {
        let Some((value, line)) = self.value(key) else { return Vec::new() };
        let DeValue::Array(array) = value else {
            self.error(line, key, &format!("a list in brackets is needed, not {}", kind(value)));
            return Vec::new();
        };
        let located = array.iter().filter_map(|item| {
            let line = self.source.line(&item.span());
            self.expect_text(key, item.get_ref(), line).map(|value| LocatedValue { value, line })
        });
        located.collect()
    }

    /// A list of texts that `parse` understands; none where the key is not there.
    pub(super) fn parsed_list<T>(
        &self,
        key: &'static str,
        form: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<T>> {
        if !self.has(key) {
            return None;
        }
        let mut list = Vec::new();
        for text in self.texts(key) {
            match parse(&text.value) {
                Some(value) => list.push(value),
                None => self.error(text.line, key, &format!("\"{}\": {form} is needed", text.value)),
            }
        }
        Some(list)
    }

    /// A path, relative to the file's folder.
    pub(super) fn path(&self, key: &'static str) -> Option<LocatedValue<PathBuf>> {
        let path = self.text(key).map(|text| LocatedValue { value: self.source.path(&text.value), line: text.line });
        self.source.paths.borrow_mut().extend(path.iter().map(|path| path.value.clone()));
        path
    }

    /// The path of a file with a secret.
    pub(super) fn secret_path(&self, key: &'static str) -> Option<LocatedValue<PathBuf>> {
        let path = self.path(key)?;
        let file = SecretFile { path: path.value.clone(), line: path.line, key: format!("{}{key}", self.prefix()) };
        self.source.secret_files.borrow_mut().push(file);
        Some(path)
    }

    /// `true` or `false`, or this word, for which there is an inner none.
    pub(super) fn flag_or_word(&self, key: &'static str, word: &str) -> Option<Option<bool>> {
        match self.value(key)? {
            (DeValue::Boolean(flag), _) => Some(Some(*flag)),
            (DeValue::String(text), _) if text == word => Some(None),
            (_, line) => {
                self.error(line, key, &format!("one of \"{word}\", true, false is needed"));
                None
            }
        }
    }

    /// Notes every key that nobody asked for, with the nearest that exists. `home` says where a key of this name belongs.
    pub(super) fn finish(&self, home: impl Fn(&str) -> Option<String>) {
        let Some(table) = self.table else { return };
        let known = self.known.borrow();
        for key in table.keys() {
            let name: &str = key.get_ref();
            if known.contains(name) {
                continue;
            }
            let near = nearest(name, &known).map(|near| format!("did you mean `{near}`?"));
            let text = match (home(name), near) {
                (Some(home), Some(near)) => format!("unknown key here: {home}; or {near}"),
                (Some(home), None) => format!("unknown key here: {home}"),
                (None, Some(near)) => format!("unknown key; {near}"),
                (None, None) => {
                    let all: Vec<&str> = known.iter().copied().collect();
                    format!("unknown key; known here are {}", all.join(", "))
                }
            };
            self.error(self.source.line(&key.span()), name, &text);
        }
    }
}

/// Reads the text; what cannot be read is noted, the rest is there.
pub(super) fn parse<'a>(text: &'a str, findings: &mut Findings) -> Spanned<DeTable<'a>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let line = error
            .span()
            .map(|span| text.as_bytes()[..span.start.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1);
        findings.add(Severity::Error, line, error.message().replace('\n', " "));
    }
    table
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Replaces `${NAME}`; the error is the name of a variable that is not set.
fn expand(text: &str, variable: fn(&str) -> Option<String>) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(length) = rest[start..].find('}') else { break };
        let name = &rest[start + 2..start + length];
        expanded.push_str(&rest[..start]);
        expanded.push_str(&variable(name).ok_or_else(|| name.to_owned())?);
        rest = &rest[start + length + 1..];
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// The known key that takes the fewest edits to get to, if they are few.
fn nearest<'k>(name: &str, known: &BTreeSet<&'k str>) -> Option<&'k str> {
    let limit = (name.len() / 3).max(2);
    let candidates =
        known.iter().map(|key| (strsim::levenshtein(name, key), *key)).filter(|(distance, _)| *distance <= limit);
    let by_edits = candidates.min().map(|(_, key)| key);
    let contained = || known.iter().copied().find(|key| key.contains(name) || (name.len() > 3 && name.contains(key)));
    by_edits.or_else(contained)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_found() {
        let known = BTreeSet::from(["hostname", "data_dir", "connections_max", "idle_timeout"]);
        assert_eq!(nearest("hostnam", &known), Some("hostname"));
        assert_eq!(nearest("host_name", &known), Some("hostname"));
        assert_eq!(nearest("max_connections", &known), None);
        assert_eq!(nearest("timeout", &known), Some("idle_timeout"));
        assert_eq!(nearest("zzz", &known), None);
    }

    #[test]
    fn variables_are_replaced() {
        let variable = |name: &str| (name == "USER").then(|| "shop".to_owned());
        assert_eq!(expand("a ${USER} b ${USER}", variable), Ok("a shop b shop".to_owned()));
        assert_eq!(expand("${NONE}", variable), Err("NONE".to_owned()));
        assert_eq!(expand("$USER ${", variable), Ok("$USER ${".to_owned()));
    }
}
