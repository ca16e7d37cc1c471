//! Imports point up the module list of `lib.rs` only: words, databases, one attempt, many attempts.

use std::fs;
use std::path::{Path, PathBuf};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// The modules in the order of `lib.rs`.
fn layers() -> Vec<String> {
    let map = fs::read_to_string(Path::new(SOURCE).join("lib.rs")).expect("lib.rs");
    map.lines()
        .filter_map(|line| line.strip_prefix("mod ").or_else(|| line.strip_prefix("pub mod ")))
        .map(|name| name.trim_end_matches(';').to_owned())
        .collect()
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every `crate::module` that the code names, in `use` lines and elsewhere; tests at the end of a file may reach down.
fn named_modules(text: &str) -> Vec<String> {
    let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .collect()
}

#[test]
fn imports_point_up_only() {
    let layers = layers();
    assert!(layers.len() > 8, "lib.rs was not understood: {layers:?}");
    let position = |module: &str| layers.iter().position(|layer| layer == module);
    let (mut sources, mut checked) = (Vec::new(), 0);
    files(Path::new(SOURCE), &mut sources);
    for source in sources {
        let inside = source.strip_prefix(SOURCE).expect("inside of src");
        let top =
            inside.iter().next().and_then(|part| part.to_str()).expect("a name").trim_end_matches(".rs");
        if top == "lib" || inside.ends_with("classification.rs") {
            continue;
        }
        let own = position(top).unwrap_or_else(|| panic!("{top} is not in lib.rs"));
        for named in named_modules(&fs::read_to_string(&source).expect("a source file")) {
            let Some(other) = position(&named) else {
                panic!(
                    "{}: names crate::{named}, which is no module of lib.rs: import from the module itself",
                    inside.display()
                );
            };
            checked += 1;
            assert!(other <= own, "{}: imports from {named}, which is below {top}", inside.display());
        }
    }
    assert!(checked > 30, "only {checked} imports were seen");
}

#[test]
fn strategies_never_name_a_database_and_databases_never_name_a_strategy() {
    let mut sources = Vec::new();
    files(&Path::new(SOURCE).join("strategy"), &mut sources);
    for source in &sources {
        let text = fs::read_to_string(source).expect("a source file");
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for database in ["Postgres", "MySql", "Sqlite"] {
                assert!(!line.contains(database), "{}: {line}", source.display());
            }
        }
    }
    let strategies: Vec<_> =
        sources.iter().filter_map(|source| source.file_stem()?.to_str().map(capitalized)).collect();
    assert_eq!(strategies.len(), 5);
    let mut databases = Vec::new();
    files(&Path::new(SOURCE).join("backend"), &mut databases);
    for source in databases {
        // An isolation level is called like one of them.
        let text = fs::read_to_string(&source).expect("a source file").replace("Isolation::Serializable", "");
        for strategy in &strategies {
            assert!(!text.contains(strategy.as_str()), "{} names {strategy}", source.display());
        }
    }
}

fn capitalized(name: &str) -> String {
    let (first, rest) = name.split_at(1);
    first.to_uppercase() + rest
}
