//! How many files name the supported databases.

use std::collections::BTreeSet;

use crate::source::sources;

const CHAPTER: &str = include_str!("../../src/guide/architecture.md");

/// The files that name SQLite in code, apart from its own: a new database would have to be added to each of
/// them.
#[test]
fn the_chapter_states_how_many_files_a_new_database_touches() {
    let files: BTreeSet<_> = sources()
        .into_iter()
        .filter(|source| !source.is_test() && !is_its_own(&source.path) && names_it(&source.text))
        .map(|source| source.path)
        .collect();
    let claimed = format!("touches {} other files", files.len());
    assert!(CHAPTER.contains(&claimed), "the chapter does not say that a new database {claimed}: {files:#?}");
}

fn is_its_own(path: &str) -> bool {
    path.split('/').any(|part| part.trim_end_matches(".rs") == "sqlite")
}

fn names_it(text: &str) -> bool {
    let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .any(|line| line.contains("Sqlite") || line.contains("feature = \"sqlite\""))
}
