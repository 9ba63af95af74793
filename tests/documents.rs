//! Keeps the documents true: what they name is there, links lead somewhere, and they speak the words of the trade.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Words that this project once had for what the trade has a word for, and that word.
const OLD_WORDS: &[(&str, &str)] = &[
    ("stranger", "unknown client, unknown sender, first contact"),
    ("strangers", "unknown clients, unknown senders, first contacts"),
    ("wish", "message option"),
    ("wishes", "message options"),
    ("carrier", "next hop, smart host"),
    ("carriers", "next hops, smart hosts"),
    ("detour", "fail-over"),
    ("habits", "learned limits"),
    ("went well", "succeeded"),
    ("was too much", "overloaded"),
    ("bears another", "allows another"),
    ("steer", "inspect, control"),
    ("steers", "inspects, controls"),
    ("steering", "control"),
    ("keeper", "storage thread, housekeeping"),
    ("ears", "sinks"),
    ("spares", "prewarmed sessions"),
    ("takes it back", "cancels"),
    ("take this back", "cancel"),
    ("holds for", "valid for"),
    ("worth something until", "expires at"),
    ("madeup", "generated, first run"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files of the project of these kinds, by their path from its root.
fn files(kinds: &[&str]) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && name != ".git" {
                folders.push(path);
            } else if kinds.iter().any(|kind| name.ends_with(kind)) {
                found.insert(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The documents for people.
fn documents() -> Vec<PathBuf> {
    let all = files(&[".md"]);
    all.into_iter().filter(|path| path.components().count() == 1 || path.starts_with("docs")).collect()
}

/// What stands between single backquotes, line by line, outside code blocks.
fn quoted(text: &str) -> Vec<&str> {
    let mut is_code = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            found.extend(line.split('`').skip(1).step_by(2));
        }
    }
    found
}

/// In lower case, without marks, single blanks between words and around them.
fn words(text: &str) -> String {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    format!(" {} ", words.join(" "))
}

#[test]
fn files_that_documents_name_are_there() {
    let all = files(&[""]);
    let names: BTreeSet<_> = all.iter().filter_map(|path| path.file_name()).collect();
    let mut missing = Vec::new();
    for document in documents().into_iter().filter(|path| !path.ends_with("CHANGELOG.md")) {
        let text = read(&document);
        for name in quoted(&text) {
            let is_ours = [".rs", ".md", ".sh"].iter().any(|kind| name.ends_with(kind));
            let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
            // NAME.smtp and XX.toml are for the reader to fill in.
            let is_placeholder =
                name.split(['/', '.']).any(|part| !part.is_empty() && part.chars().all(char::is_uppercase));
            if !is_ours
                || !is_plain
                || name.starts_with('/')
                || is_placeholder && !names.contains(name.as_ref() as &std::ffi::OsStr)
            {
                continue;
            }
            let is_there = if name.contains('/') {
                let below = ["", "src", "tests", "docs"].map(|folder| Path::new(folder).join(name));
                below.iter().any(|path| all.contains(path)) || all.iter().any(|path| path.ends_with(name))
            } else {
                names.contains(name.as_ref() as &std::ffi::OsStr)
            };
            if !is_there {
                missing.push(format!("{}: {name}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn links_lead_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = read(&document);
        let folder = document.parent().unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            if link.contains("://") || link.starts_with("mailto:") || link.contains(' ') {
                continue;
            }
            let target = if file.is_empty() { document.clone() } else { folder.join(file) };
            let is_there = root().join(&target).exists();
            let has_anchor = || {
                let slug = |heading: &str| words(heading).trim().replace(' ', "-");
                let headings = read(&target);
                headings.lines().filter_map(|line| line.strip_prefix('#')).any(|line| slug(line) == slug(anchor))
            };
            if !is_there || (!anchor.is_empty() && !has_anchor()) {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn readers_get_the_words_of_the_trade() {
    let mut found = Vec::new();
    let sources = files(&[".rs"]).into_iter().filter(|path| path.starts_with("src"));
    let texts = documents().into_iter().chain(files(&[".toml"]).into_iter().filter(|path| path.starts_with("config")));
    // What was said of earlier versions stays as it was said.
    for path in sources.chain(texts).filter(|path| !path.ends_with("CHANGELOG.md")) {
        let text = words(&read(&path));
        let old = OLD_WORDS.iter().filter(|(old, _)| text.contains(&format!(" {old} ")));
        found.extend(old.map(|(old, new)| format!("{}: \"{old}\" is {new}", path.display())));
        if !path.starts_with("src") && text.contains(" octets ") {
            found.push(format!("{}: \"octets\" are bytes to readers", path.display()));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn what_is_to_be_read_first_is_short() {
    for (document, lines_max) in [("README.md", 140), ("ARCHITECTURE.md", 160), ("docs/flow.md", 60)] {
        let lines = read(Path::new(document)).lines().count();
        assert!(lines <= lines_max, "{document} has {lines} lines, and no more than {lines_max} are read in one go");
    }
}
