//! The files in `monitoring/` and in the guide.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub(crate) fn guide() -> String {
    read("src/guide/monitoring.md")
}

/// Runs promtool in the directory of the rules.
pub(crate) fn promtool(arguments: &[&str], input: &str) -> Result<String, String> {
    let child = Command::new("promtool")
        .args(arguments)
        .current_dir(root().join("monitoring"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!(
                "promtool was not found: install it (Debian's package is `prometheus`), or run \
                 scripts/test.sh, which does"
            )
        }
        Err(error) => panic!("promtool: {error}"),
    };
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("its end");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(said) } else { Err(said) }
}

/// All words that could be the name of a metric of this crate, or of a series that a rule records from them.
pub(crate) fn metric_names(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
        .map(|word| word.trim_matches(':'))
        .filter(|word| word.contains("atomically_"))
        .collect()
}

/// The names of the series that the rules record (`record`) or of the alerts that they raise (`alert`).
pub(crate) fn rules(what: &str) -> BTreeSet<String> {
    let marker = format!("- {what}: ");
    let alerts = read("monitoring/alerts.yml");
    let found: BTreeSet<_> =
        alerts.lines().filter_map(|line| line.trim().strip_prefix(&marker)).map(str::to_owned).collect();
    assert!(found.len() > 5, "alerts.yml was not understood: {found:?}");
    found
}

/// The values by which a text filters a label: `label="one"`, `label=~"one|other"`.
pub(crate) fn queried_values(text: &str, label: &str) -> Vec<BTreeSet<String>> {
    let mut found = Vec::new();
    for operator in ["=", "=~"] {
        let marker = format!("{label}{operator}\"");
        for rest in text.split(&marker).skip(1) {
            let values = rest.split('"').next().unwrap_or_default();
            found.push(values.split('|').map(str::to_owned).collect());
        }
    }
    found
}
