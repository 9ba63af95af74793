//! Keys that are read and checked, and whose features are still to come. `check` says so of each that is set.

use std::path::PathBuf;

use super::file::Section;

/// Notes that a key is set in vain.
fn pending(section: &Section<'_>, keys: &[&'static str]) {
    for key in keys.iter().filter(|key| section.has(key)) {
        section.note(key, "has no effect in this version yet");
    }
}

/// The sections of which nothing has an effect yet.
pub(super) fn check(top: &Section<'_>) {
    for section in top.sections("webhook") {
        section.required_text("url");
        existing_file(&section, "secret_file");
        section.texts("events");
        pending(&section, &["url"]);
        section.finish();
    }
}

/// A file that can be read, or nothing.
fn existing_file(section: &Section<'_>, key: &'static str) -> Option<PathBuf> {
    if section.text(key).is_none_or(|text| text.value.is_empty()) {
        return None;
    }
    let path = section.secret_path(key)?;
    if let Err(error) = std::fs::File::open(&path.value) {
        section.error(path.line, key, &format!("{}: {error}", path.value.display()));
    }
    Some(path.value)
}
