//! Keeps the picture in ARCHITECTURE.md true: a module uses only modules below it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// From top to bottom. Modules on one line do not know each other.
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["demo"],
    &["app"],
    &["config"],
    &["http"],
    &["submission"],
    &["report"],
    &["delivery", "intake"],
    &["queue"],
    &["plan"],
    &["destination"],
    &["tls", "dkim", "net"],
    &["event"],
    &["smtp"],
    &["mail"],
    &["lane"],
    &["clock", "files", "shares"],
];

fn layer_of(module: &str) -> usize {
    LAYERS.iter().position(|layer| layer.contains(&module)).unwrap_or_else(|| panic!("{module} is in no layer"))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Which modules each module names, tests left out.
fn uses() -> BTreeMap<String, Vec<(String, PathBuf)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut uses: BTreeMap<String, Vec<(String, PathBuf)>> = BTreeMap::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let module = relative.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
        if module == "lib" || module == "main" {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for rest in code.split("crate::").skip(1) {
            let names = rest.strip_prefix('{').map_or_else(
                || vec![rest],
                |list| list.split('}').next().unwrap_or_default().split(',').map(str::trim).collect(),
            );
            for name in names {
                let used: String = name.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                if !used.is_empty() && used != module {
                    uses.entry(module.clone()).or_default().push((used, relative.to_owned()));
                }
            }
        }
    }
    uses
}

#[test]
fn modules_use_only_what_is_below_them() {
    let uses = uses();
    assert!(uses.len() > 10, "the sources were found");
    for (module, used) in uses {
        for (used, file) in used {
            assert!(layer_of(&module) < layer_of(&used), "{}: {module} uses {used}", file.display());
        }
    }
}

#[test]
fn only_the_stores_name_the_engine() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let names_engine = text.contains("use sled") || text.contains("sled::");
        let stores = ["queue/sled_store.rs", "queue/rows.rs", "queue/engine.rs", "report/trace_records.rs"];
        let is_store = stores.iter().any(|store| file.ends_with(store));
        assert_eq!(names_engine, is_store, "{}", file.display());
    }
}
