//! Finds the programs of the servers.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// The directories to search: only those that the variable names, if it is set, or else the usual ones.
pub(super) fn search_path(variable: &str, usual: impl FnOnce() -> Vec<PathBuf>) -> Vec<PathBuf> {
    match env::var_os(variable) {
        Some(named) if !named.is_empty() => env::split_paths(&named).collect(),
        _ => usual(),
    }
}

/// The directories of `PATH`.
pub(super) fn path() -> Vec<PathBuf> {
    env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default()
}

/// The directories `parent/prefix*/bin`, where packages of several versions of a program are installed side
/// by side, the newest version first.
pub(super) fn versioned(places: &[(&str, &str)]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (parent, prefix) in places {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(version) = name.strip_prefix(prefix) {
                found.push((numbers(version), entry.path().join("bin")));
            }
        }
    }
    found.sort();
    found.into_iter().rev().map(|(_, bin)| bin).collect()
}

fn numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// The first of the names that is found in any of the directories.
pub(super) fn program(directories: &[PathBuf], names: &[&str]) -> Option<PathBuf> {
    names
        .iter()
        .find_map(|name| directories.iter().map(|bin| bin.join(name)).find(|program| program.is_file()))
}

/// The first of the directories that holds all of the programs.
pub(super) fn directory_with<'a>(directories: &'a [PathBuf], names: &[&str]) -> Option<&'a Path> {
    let complete = |bin: &&PathBuf| names.iter().all(|name| bin.join(name).is_file());
    directories.iter().find(complete).map(PathBuf::as_path)
}
