//! Sizes and names.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use crate::source::{PACKAGE, is_for_tests, rust_files, sources};

const MAX_LINES: usize = 400;
const MAX_COLUMNS: usize = 110;
const MAX_FUNCTION: usize = 70;

/// Every Rust file of `src` and `tests`, with its text.
fn files() -> Vec<(String, String)> {
    ["src", "tests"]
        .into_iter()
        .flat_map(|folder| {
            let root = Path::new(PACKAGE).join(folder);
            rust_files(&root).into_iter().map(move |path| {
                let text = fs::read_to_string(root.join(&path)).expect("a source file");
                (format!("{folder}/{path}"), text)
            })
        })
        .collect()
}

#[test]
fn files_are_short() {
    let long: Vec<_> = files()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .collect();
    assert!(long.is_empty(), "{} files have more than {MAX_LINES} lines: {long:#?}", long.len());
}

#[test]
fn lines_are_short() {
    let long: Vec<_> = files()
        .into_iter()
        .flat_map(|(path, text)| {
            let long = |line: &(usize, &str)| line.1.chars().count() > MAX_COLUMNS;
            let numbers: Vec<_> = text.lines().enumerate().filter(long).map(|(line, _)| line + 1).collect();
            numbers.into_iter().map(move |number| format!("{path}:{number}"))
        })
        .collect();
    assert!(long.is_empty(), "{} lines have more than {MAX_COLUMNS} columns: {long:#?}", long.len());
}

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    for source in sources().into_iter().filter(|source| !source.is_test()) {
        let mut functions = Functions::default();
        functions.visit_file(&source.parsed);
        let too_long = functions.found.into_iter().filter(|(_, lines)| *lines > MAX_FUNCTION);
        long.extend(too_long.map(|(name, lines)| format!("{}: {name}, {lines} lines", source.path)));
    }
    assert!(long.is_empty(), "functions of more than {MAX_FUNCTION} lines: {long:#?}");
}

#[test]
fn type_names_are_defined_once() {
    let mut defined: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources().into_iter().filter(|source| !source.is_test()) {
        let mut types = Types::default();
        types.visit_file(&source.parsed);
        for name in types.found {
            defined.entry(name).or_default().push(source.path.clone());
        }
    }
    defined.retain(|_, places| places.len() > 1);
    assert!(defined.is_empty(), "these names are defined more than once: {defined:#?}");
}

/// The functions of a file, with their lengths; tests excluded.
#[derive(Default)]
struct Functions {
    found: Vec<(String, usize)>,
}

impl Functions {
    fn add(&mut self, name: &syn::Ident, block: &syn::Block) {
        let span = block.span();
        self.found.push((name.to_string(), span.end().line - span.start().line + 1));
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_for_tests(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.add(&function.sig.ident, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.add(&function.sig.ident, &function.block);
        visit::visit_impl_item_fn(self, function);
    }
}

/// The types that a file defines, tests and the associated types of traits excluded.
#[derive(Default)]
struct Types {
    found: Vec<String>,
}

impl<'ast> Visit<'ast> for Types {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let name = match item {
            syn::Item::Mod(module) if is_for_tests(&module.attrs) => return,
            // One of two alternatives that depend on a feature.
            syn::Item::Mod(module) if module.ident == "without" => return,
            syn::Item::Struct(item) => Some(&item.ident),
            syn::Item::Enum(item) => Some(&item.ident),
            syn::Item::Trait(item) => Some(&item.ident),
            syn::Item::Type(item) => Some(&item.ident),
            syn::Item::Union(item) => Some(&item.ident),
            _ => None,
        };
        self.found.extend(name.map(ToString::to_string));
        visit::visit_item(self, item);
    }
}
