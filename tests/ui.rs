//! Misuse that does not compile, and the error messages for it.

use std::process::Command;

/// The compiler whose words were recorded. That units which cannot be run again do not compile is shown on
/// every compiler, by the documentation tests of `Repeatable`.
const RECORDED_WITH: &str = "rustc 1.95.";

#[test]
fn misuse_does_not_compile_and_says_why() {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version =
        Command::new(rustc).arg("--version").output().expect("ask the compiler for its version").stdout;
    let version = String::from_utf8_lossy(&version);
    if version.starts_with(RECORDED_WITH) {
        trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
    } else {
        println!("the messages were recorded with {RECORDED_WITH}x and may read otherwise with {version}");
    }
}
