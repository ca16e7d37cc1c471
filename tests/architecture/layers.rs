//! Imports point one way: between the modules of `lib.rs`, and between files.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;
use syn::Item;

use crate::imports::Imports;
use crate::source::{Source, sources};

/// The modules in the order of `lib.rs`: each imports only from those before it.
fn layers(sources: &[Source]) -> Vec<String> {
    let map = sources.iter().find(|source| source.module.is_empty()).expect("lib.rs");
    let layers: Vec<_> = map
        .parsed
        .items
        .iter()
        .filter_map(|item| match item {
            Item::Mod(module) => Some(module.ident.to_string()),
            _ => None,
        })
        .collect();
    assert!(layers.len() > 15, "lib.rs was not understood: {layers:?}");
    layers
}

#[test]
fn modules_import_only_from_earlier_modules_of_lib_rs() {
    let sources = sources();
    let layers = layers(&sources);
    let position = |path: &str| {
        let layer = path.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        layers.iter().position(|other| other == layer).unwrap_or(layers.len())
    };
    let imports = Imports::of(&sources);
    assert!(imports.count() > 400, "only {} imports were seen", imports.count());
    for (file, taken) in &imports.edges {
        for other in taken {
            assert!(
                position(other) <= position(file),
                "{file} imports from {other}, whose module comes later in lib.rs"
            );
        }
    }
}

/// The features on top of transactors are independent of each other.
#[test]
fn features_do_not_import_each_other() {
    let features = ["deltas", "holds", "idempotency", "lease", "queue", "sea_orm"];
    for (file, taken) in Imports::of(&sources()).edges {
        let of = |path: &str| {
            features.iter().position(|feature| {
                path.strip_prefix(feature).is_some_and(|rest| rest.starts_with('/') || rest.starts_with('.'))
            })
        };
        let Some(own) = of(&file) else { continue };
        for other in taken {
            assert!(of(&other).is_none_or(|feature| feature == own), "{file} imports from {other}");
        }
    }
}

#[test]
fn files_have_no_import_cycles() {
    let imports = Imports::of(&sources());
    let mut graph = DiGraphMap::<&str, ()>::new();
    for (file, taken) in &imports.edges {
        for other in taken.iter().filter(|other| !are_one_module(file, other)) {
            graph.add_edge(file, other, ());
        }
    }
    let circles: Vec<_> = tarjan_scc(&graph).into_iter().filter(|files| files.len() > 1).collect();
    let edges_of = |files: &Vec<&str>| -> BTreeMap<String, BTreeSet<String>> {
        let inside = |file: &&String| files.contains(&file.as_str());
        let taken = |file: &str| imports.edges[file].iter().filter(inside).cloned().collect();
        files.iter().map(|file| ((*file).to_owned(), taken(file))).collect()
    };
    let shown: Vec<_> = circles.iter().map(edges_of).collect();
    assert!(shown.is_empty(), "files import each other in {} circles: {shown:#?}", shown.len());
}

/// A file and the folder of its name are one module: children use the definitions of the parent, and the
/// parent composes them.
fn are_one_module(one: &str, other: &str) -> bool {
    let contains =
        |parent: &str, child: &str| child.starts_with(&format!("{}/", parent.trim_end_matches(".rs")));
    contains(one, other) || contains(other, one)
}

#[test]
fn strategies_name_no_database_and_databases_name_no_strategy() {
    let sources = sources();
    let strategies: Vec<_> = sources
        .iter()
        .filter_map(|source| source.path.strip_prefix("strategies/")?.strip_suffix(".rs"))
        .map(|name| name[..1].to_uppercase() + &name[1..])
        .collect();
    assert_eq!(strategies.len(), 5, "{strategies:?}");
    for source in &sources {
        let forbidden: Vec<_> = match source.layer() {
            Some("strategies" | "strategy") => ["Postgres", "MySql", "Sqlite"].map(str::to_owned).into(),
            Some("backend") => strategies.clone(),
            _ => continue,
        };
        // An isolation level, and the capability of engines that have it, share the name of a strategy.
        let level = if source.path.starts_with("backend/engine/") { "" } else { "Isolation::" };
        let text = source.text.replace(&format!("{level}Serializable"), "");
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            for name in &forbidden {
                assert!(!line.contains(name.as_str()), "{} names {name}: {line}", source.path);
            }
        }
    }
}
