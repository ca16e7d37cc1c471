//! The files of the crate, parsed.

use std::fs;
use std::path::Path;

use walkdir::WalkDir;

/// The directory of the package.
pub(crate) const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");

/// One file below `src`.
pub(crate) struct Source {
    /// Its path, relative to `src`.
    pub(crate) path: String,
    /// The path of its module in the crate: `["tx", "hooks"]` for `tx/hooks.rs`, empty for `lib.rs`.
    pub(crate) module: Vec<String>,
    pub(crate) text: String,
    pub(crate) parsed: syn::File,
}

impl Source {
    /// The module of `lib.rs` that the file belongs to; `None` for `lib.rs` itself.
    pub(crate) fn layer(&self) -> Option<&str> {
        self.module.first().map(String::as_str)
    }

    /// Whether the file exists for tests only.
    pub(crate) fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path == "backend/classification.rs"
    }
}

/// All files below `src` that are compiled, in the order of their paths.
pub(crate) fn sources() -> Vec<Source> {
    let root = Path::new(PACKAGE).join("src");
    let mut sources: Vec<_> = rust_files(&root)
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(root.join(&path)).expect("a source file");
            let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
            let module = path.trim_end_matches(".rs").split('/').map(str::to_owned);
            Source { module: module.filter(|name| name != "lib").collect(), path, text, parsed }
        })
        .collect();
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(sources.len() > 100, "only {} files were found", sources.len());
    sources
}

/// The paths of the Rust files below a directory, relative to it.
pub(crate) fn rust_files(root: &Path) -> Vec<String> {
    WalkDir::new(root)
        .into_iter()
        .map(|entry| entry.expect("a readable directory").into_path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| path.strip_prefix(root).expect("inside").to_string_lossy().into_owned())
        .collect()
}

/// Whether an item is compiled for tests only.
pub(crate) fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            list.tokens.to_string().split(|c: char| !c.is_alphanumeric()).any(|word| word == "test")
        }
        _ => false,
    })
}
