//! PostgreSQL's own load generator, in C, as a reference for what the server can do.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tokio::process::Command;

use crate::turn::Turn;
use crate::workload::Workload;

pub(crate) struct Pgbench {
    program: PathBuf,
    url: String,
    connections: u32,
    scripts: TempDir,
}

impl Pgbench {
    pub(crate) fn new(url: &str, connections: u32) -> Result<Self> {
        let (program, url) = (test_servers::pgbench(), url.to_owned());
        Ok(Self { program, url, connections, scripts: tempfile::tempdir()? })
    }

    /// Runs one turn. The time to open the connections is not counted.
    pub(crate) async fn turn(&self, workload: Workload, length: Duration) -> Result<Turn> {
        let mut pgbench = Command::new(&self.program);
        pgbench.args(["--no-vacuum", "--protocol=prepared", "--jobs=2"]);
        pgbench.arg(format!("--client={}", self.connections));
        // pgbench only accepts whole seconds.
        pgbench.arg(format!("--time={}", length.as_secs().max(1)));
        for (i, (weight, script)) in workload.scripts().iter().enumerate() {
            let file = self.scripts.path().join(i.to_string());
            std::fs::write(&file, script)?;
            pgbench.arg(format!("--file={}@{weight}", file.display()));
        }
        let output = pgbench.arg(&self.url).stdin(Stdio::null()).kill_on_drop(true).output().await;
        let output = output.with_context(|| format!("could not run {}", self.program.display()))?;
        let (text, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "pgbench failed: {errors}");
        let number = |label: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(label));
            line.and_then(|rest| rest.split([' ', '/']).next()?.parse::<f64>().ok())
        };
        let done = number("number of transactions actually processed: ");
        let per_second = number("tps = ");
        let (done, per_second) = done.zip(per_second).with_context(|| format!("pgbench said: {text}"))?;
        #[expect(clippy::cast_possible_truncation, reason = "it counts in whole transactions")]
        Ok(Turn { transactions: done as i64, per_second, p99: None, ledger: None })
    }
}
