//! Which file imports names from which other file.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::{Item, UseTree};

use crate::source::{Source, is_for_tests};

/// The files of the crate, and an edge from each file to those that it imports names from.
///
/// A name that a module re-exports (`pub use hooks::Hooks`) counts as imported from the file that defines it.
pub(crate) struct Imports {
    /// By the path of the file.
    pub(crate) edges: BTreeMap<String, BTreeSet<String>>,
}

impl Imports {
    pub(crate) fn of(sources: &[Source]) -> Self {
        let modules = Modules::of(sources);
        let mut edges = BTreeMap::new();
        for source in sources.iter().filter(|source| !source.is_test()) {
            let mut found = BTreeSet::new();
            for path in named_paths(&source.parsed.items, &source.module) {
                if let Some(file) = modules.file_of(&path) {
                    found.insert(file.to_owned());
                }
            }
            found.remove(&source.path);
            edges.insert(source.path.clone(), found);
        }
        Self { edges }
    }

    pub(crate) fn count(&self) -> usize {
        self.edges.values().map(BTreeSet::len).sum()
    }
}

/// The re-exports of each module, and its file.
struct Modules<'s> {
    files: BTreeMap<&'s [String], &'s str>,
    /// Names that a module imports, with the full path of each.
    used: BTreeMap<(&'s [String], String), Vec<String>>,
}

impl<'s> Modules<'s> {
    fn of(sources: &'s [Source]) -> Self {
        let files = sources.iter().map(|source| (source.module.as_slice(), source.path.as_str())).collect();
        let mut used = BTreeMap::new();
        for source in sources {
            for item in &source.parsed.items {
                let Item::Use(item) = item else { continue };
                for (name, path) in leaves(&item.tree, &[]) {
                    let path = absolute(&path, &source.module, &source.module);
                    used.insert((source.module.as_slice(), name), path);
                }
            }
        }
        Self { files, used }
    }

    /// The file that defines the item of a full path: the file of its last module, or of the module that this
    /// one imports the name from.
    fn file_of(&self, path: &[String]) -> Option<&'s str> {
        let mut path = path.to_vec();
        for _ in 0..8 {
            let length = (0..=path.len()).rev().find(|length| self.files.contains_key(&path[..*length]))?;
            let module = &path[..length];
            let taken = path.get(length).and_then(|name| self.used_by(module, name));
            match taken {
                Some(taken) if self.is_here(taken) => {
                    path = [taken.as_slice(), &path[length + 1..]].concat();
                }
                _ => return self.files.get(module).copied(),
            }
        }
        None
    }

    fn used_by(&self, module: &[String], name: &str) -> Option<&Vec<String>> {
        let (module, _) = self.files.get_key_value(module)?;
        self.used.get(&(*module, name.to_owned()))
    }

    /// Whether a path belongs to this crate.
    fn is_here(&self, path: &[String]) -> bool {
        path.first().is_some_and(|first| self.files.contains_key(&[first.clone()][..]))
    }
}

/// The full paths in items, tests excluded.
fn named_paths(items: &[Item], module: &[String]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    collect(items, module, module, &mut paths);
    paths
}

/// `file` is the module of the file, and `module` is the module that contains the items.
fn collect(items: &[Item], file: &[String], module: &[String], paths: &mut Vec<Vec<String>>) {
    for item in items {
        match item {
            Item::Mod(inner) if is_for_tests(&inner.attrs) => {}
            Item::Mod(syn::ItemMod { content: Some((_, items)), ident, .. }) => {
                collect(items, file, &[module, &[ident.to_string()]].concat(), paths);
            }
            Item::Use(item) => {
                paths.extend(
                    leaves(&item.tree, &[]).into_iter().map(|(_, path)| absolute(&path, file, module)),
                );
            }
            item => scan(item.to_token_stream(), file, module, paths),
        }
    }
}

/// Paths that begin with `crate` or `super`, in code and in the bodies of macros.
fn scan(tokens: TokenStream, file: &[String], module: &[String], paths: &mut Vec<Vec<String>>) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) => scan(group.stream(), file, module, paths),
            TokenTree::Ident(first) if first == "crate" || first == "super" => {
                let mut path = vec![first.to_string()];
                while let Some(TokenTree::Punct(_)) = tokens.next_if(is_colon) {
                    tokens.next_if(is_colon);
                    match tokens.next() {
                        Some(TokenTree::Ident(next)) => path.push(next.to_string()),
                        Some(TokenTree::Group(group)) => scan(group.stream(), file, module, paths),
                        _ => break,
                    }
                }
                if path.len() > 1 {
                    paths.push(absolute(&path, file, module));
                }
            }
            _ => {}
        }
    }
}

fn is_colon(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == ':')
}

/// The names that a `use` imports, each with its path as written; a glob imports the module's own name.
fn leaves(tree: &UseTree, before: &[String]) -> Vec<(String, Vec<String>)> {
    let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
    match tree {
        UseTree::Path(path) => leaves(&path.tree, &with(&path.ident)),
        UseTree::Name(name) if name.ident == "self" => {
            vec![(before.last().cloned().unwrap_or_default(), before.to_vec())]
        }
        UseTree::Name(name) => vec![(name.ident.to_string(), with(&name.ident))],
        UseTree::Rename(rename) => vec![(rename.rename.to_string(), with(&rename.ident))],
        UseTree::Glob(_) => vec![(String::from("*"), before.to_vec())],
        UseTree::Group(group) => group.items.iter().flat_map(|tree| leaves(tree, before)).collect(),
    }
}

/// A path without `crate`, `self` and `super`. Any other path is assumed to begin in the module of the file,
/// where its first name is a child module, or else another crate, which is no module here.
fn absolute(path: &[String], file: &[String], module: &[String]) -> Vec<String> {
    let mut base = match path.first().map(String::as_str) {
        Some("crate") => return path[1..].to_vec(),
        Some("self" | "super") => module.to_vec(),
        _ => return [file, path].concat(),
    };
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        match first.as_str() {
            "self" => {}
            "super" => drop(base.pop()),
            _ => break,
        }
        rest = after;
    }
    base.extend_from_slice(rest);
    base
}
