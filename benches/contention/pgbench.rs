//! PostgreSQL's own client, as a reference for what the server can do.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The transaction that `Pessimistic` runs for the unit, written by hand.
const SCRIPT: &str = "BEGIN;
SELECT value, version FROM counter WHERE id = 1 FOR UPDATE;
UPDATE counter SET value = value + 1, version = version + 1 WHERE id = 1;
COMMIT;
";

/// `ATOMICALLY_POSTGRES_BIN`, the directories where packages install it, or the path.
fn program() -> PathBuf {
    let packaged = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let packaged = packaged.map(|version| version.path().join("bin"));
    std::env::var_os("ATOMICALLY_POSTGRES_BIN")
        .map(PathBuf::from)
        .into_iter()
        .chain(packaged)
        .map(|directory| directory.join("pgbench"))
        .find(|program| program.is_file())
        .unwrap_or_else(|| "pgbench".into())
}

/// Transactions per second on 16 connections; `None` if there is no pgbench.
pub(crate) fn per_second(url: &str, seconds: u64, directory: &Path) -> Option<f64> {
    let script = directory.join("for_update.sql");
    std::fs::write(&script, SCRIPT).expect("write the script");
    let output = Command::new(program())
        .args(["--no-vacuum", "--client=16", "--jobs=2", "--protocol=prepared"])
        .arg(format!("--time={seconds}"))
        .arg(format!("--file={}", script.display()))
        .arg(url)
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let tps = text.lines().find_map(|line| line.strip_prefix("tps = "));
    let tps = tps.unwrap_or_else(|| panic!("pgbench: {text}{}", String::from_utf8_lossy(&output.stderr)));
    tps.split_whitespace().next()?.parse().ok()
}
