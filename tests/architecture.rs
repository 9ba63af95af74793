//! Keeps the picture in ARCHITECTURE.md true: a room of the house (a top-level module) uses only rooms below it, files of
//! a room do not use each other in circles, and nobody below is handed something to call above.
//!
//! The sources are parsed, so that nested braces, renamed imports and inline tests are seen for what they are.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, ImplItemFn, ItemFn, ItemImpl, ItemMod, ItemTrait, ItemUse, TypeTraitObject, UseTree};

/// From top to bottom. Rooms on one line do not know each other.
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["demo"],
    &["relay"],
    &["check"],
    &["config"],
    &["http"],
    &["submission"],
    &["report"],
    &["delivery", "intake"],
    &["queue"],
    &["ledger"],
    &["policy"],
    &["greylist"],
    &["destination"],
    &["accounts"],
    &["tls", "dkim", "net"],
    &["event"],
    &["smtp"],
    &["mail"],
    &["base"],
];

/// Traits that a room above their own implements: what a lower room needs of the world or of a higher one.
const SEAMS: &[&str] = &["RotatingSecrets", "Sink", "Dns", "Network"];

/// Fields that hold a function, or look back at an owner.
/// `readers` are numbers that those who read events keep for themselves: whoever is gone is no longer waited for.
const LOOKS_BACK: &[(&str, &str)] = &[("ledger", "readers"), ("queue", "entail")];

/// Circles between files of a room that are still there. Each that goes is taken off.
const CIRCLES: &[&[&str]] = &[];

/// A module's path: `["queue", "claim"]`.
type Module = Vec<String>;

struct Source {
    module: Module,
    path: PathBuf,
    file: syn::File,
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// All of `src` but its roots, `lib.rs` and `main.rs`.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    files_below(&root, &mut files);
    files.sort();
    let parsed = files.into_iter().filter_map(|file| {
        let path = file.strip_prefix(&root).unwrap().to_owned();
        let mut module: Module =
            path.with_extension("").components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        if module == ["lib"] || module == ["main"] || ["tests", "testing"].contains(&module.last().unwrap().as_str()) {
            return None;
        }
        if module.last().unwrap() == "mod" {
            module.pop();
        }
        let file = syn::parse_file(&fs::read_to_string(&file).unwrap()).unwrap();
        Some(Source { module, path, file })
    });
    let sources: Vec<Source> = parsed.collect();
    assert!(sources.len() > 100, "the sources were found");
    sources
}

/// Collects the paths that code names, as they are from the crate's root; tests are left out.
struct Paths {
    module: Module,
    found: BTreeSet<Vec<String>>,
}

impl Paths {
    fn of(source: &Source) -> BTreeSet<Vec<String>> {
        let mut paths = Self { module: source.module.clone(), found: BTreeSet::new() };
        paths.visit_file(&source.file);
        paths.found
    }

    fn add(&mut self, path: &[String]) {
        let mut whole = match path.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self") => self.module.clone(),
            Some("super") => self.module[..self.module.len().saturating_sub(1)].to_vec(),
            _ => return,
        };
        for part in &path[1..] {
            if part == "super" {
                whole.pop();
            } else {
                whole.push(part.clone());
            }
        }
        self.found.insert(whole);
    }

    fn add_tree(&mut self, tree: &UseTree, above: &mut Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                above.push(path.ident.to_string());
                self.add_tree(&path.tree, above);
                above.pop();
            }
            UseTree::Name(name) => self.add(&[above.as_slice(), &[name.ident.to_string()]].concat()),
            UseTree::Rename(rename) => self.add(&[above.as_slice(), &[rename.ident.to_string()]].concat()),
            UseTree::Glob(_) => self.add(above),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(tree, above)),
        }
    }
}

fn is_of_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_of_tests(&module.attrs) {
            let is_inline = module.content.is_some();
            self.module.extend(is_inline.then(|| module.ident.to_string()));
            visit::visit_item_mod(self, module);
            self.module.truncate(self.module.len() - usize::from(is_inline));
        }
    }

    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        if !is_of_tests(&function.attrs) {
            visit::visit_item_fn(self, function);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        if !is_of_tests(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_item_impl(&mut self, block: &'ast ItemImpl) {
        if !is_of_tests(&block.attrs) {
            visit::visit_item_impl(self, block);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !is_of_tests(&item.attrs) {
            self.add_tree(&item.tree, &mut Vec::new());
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add(&parts);
        visit::visit_path(self, path);
    }
}

fn layer_of(room: &str) -> usize {
    LAYERS.iter().position(|layer| layer.contains(&room)).unwrap_or_else(|| panic!("{room} is in no layer"))
}

/// Which modules each module names; a path's longest beginning that is one counts.
fn uses(sources: &[Source]) -> BTreeMap<Module, BTreeSet<Module>> {
    let modules: BTreeSet<&Module> = sources.iter().map(|source| &source.module).collect();
    let module_of = |path: &Vec<String>| {
        let beginnings = (1..=path.len()).rev().map(|len| path[..len].to_vec());
        beginnings.into_iter().find(|beginning| modules.contains(beginning))
    };
    let used = |source: &Source| Paths::of(source).iter().filter_map(module_of).collect();
    sources.iter().map(|source| (source.module.clone(), used(source))).collect()
}

#[test]
fn rooms_use_only_what_is_below_them() {
    for (module, used) in uses(&sources()) {
        for other in used.iter().filter(|other| other[0] != module[0]) {
            let is_below = layer_of(&module[0]) < layer_of(&other[0]);
            assert!(is_below, "{} uses {}", module.join("::"), other.join("::"));
        }
    }
}

/// Everything that can be reached from a module.
fn reached<'a>(from: &'a Module, uses: &'a BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<&'a Module> {
    let (mut found, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(module) = open.pop() {
        open.extend(uses.get(module).into_iter().flatten().filter(|next| found.insert(*next)));
    }
    found
}

#[test]
fn files_of_a_room_have_no_circles() {
    let mut uses = uses(&sources());
    // A folder's own file lists what is in it, and holds what its files share.
    let folders: BTreeSet<Module> = uses.keys().map(|module| module[..module.len() - 1].to_vec()).collect();
    uses.retain(|module, _| !folders.contains(module));
    for (module, used) in &mut uses {
        used.retain(|other| other[0] == module[0] && other != module && !folders.contains(other));
    }
    let mut circles: BTreeSet<Vec<String>> = BTreeSet::new();
    for module in uses.keys() {
        let there = reached(module, &uses);
        let back = there.into_iter().filter(|other| reached(other, &uses).contains(module));
        let circle: BTreeSet<String> = back.map(|other| other.join("::")).collect();
        circles.extend((!circle.is_empty()).then(|| circle.into_iter().collect()));
    }
    let known: BTreeSet<Vec<String>> =
        CIRCLES.iter().map(|circle| circle.iter().map(ToString::to_string).collect()).collect();
    assert_eq!(circles, known);
}

/// Where traits of the house are defined, and where they are implemented.
#[derive(Default)]
struct Traits {
    room: String,
    defined: BTreeMap<String, String>,
    implemented: BTreeSet<(String, String)>,
    /// Fields and arguments that own a function or look back at an owner.
    looks_back: BTreeSet<(String, String)>,
}

impl<'ast> Visit<'ast> for Traits {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_of_tests(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_trait(&mut self, definition: &'ast ItemTrait) {
        self.defined.insert(definition.ident.to_string(), self.room.clone());
    }

    fn visit_item_impl(&mut self, block: &'ast ItemImpl) {
        if is_of_tests(&block.attrs) {
            return;
        }
        if let Some((path, _)) = &block.trait_ {
            self.implemented.insert((path.segments.last().unwrap().ident.to_string(), self.room.clone()));
        }
        visit::visit_item_impl(self, block);
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        let mut functions = Functions(false);
        functions.visit_type(&field.ty);
        if functions.0 {
            let name = field.ident.as_ref().map_or_else(String::new, ToString::to_string);
            self.looks_back.insert((self.room.clone(), name));
        }
    }
}

/// Whether a type holds a function or looks back at its owner.
struct Functions(bool);

impl<'ast> Visit<'ast> for Functions {
    fn visit_type_trait_object(&mut self, object: &'ast TypeTraitObject) {
        for bound in &object.bounds {
            if let syn::TypeParamBound::Trait(bound) = bound {
                let name = bound.path.segments.last().unwrap().ident.to_string();
                self.0 |= ["Fn", "FnMut", "FnOnce"].contains(&name.as_str());
            }
        }
        visit::visit_type_trait_object(self, object);
    }

    fn visit_path_segment(&mut self, segment: &'ast syn::PathSegment) {
        self.0 |= segment.ident == "Weak";
        visit::visit_path_segment(self, segment);
    }
}

#[test]
fn nothing_below_calls_what_is_above() {
    let mut traits = Traits::default();
    for source in sources() {
        traits.room.clone_from(&source.module[0]);
        traits.visit_file(&source.file);
    }
    let is_above = |(name, room): &&(String, String)| {
        traits.defined.get(name).is_some_and(|defined| layer_of(room) < layer_of(defined))
    };
    let upward: BTreeSet<&str> = traits.implemented.iter().filter(is_above).map(|(name, _)| name.as_str()).collect();
    assert_eq!(upward, SEAMS.iter().copied().collect());
    let looks_back: BTreeSet<_> = traits.looks_back.iter().map(|(room, name)| (room.as_str(), name.as_str())).collect();
    assert_eq!(looks_back, LOOKS_BACK.iter().copied().collect());
}

#[test]
fn only_its_room_names_the_engine() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let room = Path::new("ledger/embedded/store/sled");
    for source in sources().iter().filter(|source| !source.path.starts_with(room)) {
        let text = fs::read_to_string(root.join(&source.path)).unwrap();
        let names_engine =
            text.contains("use sled") || text.lines().any(|line| line.replace("store::sled", "").contains("sled::"));
        assert!(!names_engine, "{}", source.path.display());
    }
}
