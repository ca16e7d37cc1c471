//! Runs the program.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Far more than it takes to drop the table.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs a program until its input ends, which happens however this process ends, and then sends it SIGINT.
const WATCHDOG: &str = r#""$@" & program=$!; read -r _; kill -INT $program; wait $program"#;

/// A running program, which ends when this is dropped.
pub(crate) struct Monitor {
    watchdog: Child,
    pub(crate) address: String,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.end();
    }
}

impl Monitor {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(env!("CARGO_BIN_EXE_monitor"))
            .args(["--port", "0"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the program");
        let mut monitor = Self { watchdog, address: String::new() };
        let mut line = String::new();
        let stdout = monitor.watchdog.stdout.take().expect("its output");
        BufReader::new(stdout).read_line(&mut line).expect("its first line");
        match line.trim().strip_prefix("listening on ") {
            Some(address) => monitor.address = address.to_owned(),
            None => panic!("it says {line:?}, and {:?}", monitor.end()),
        }
        monitor
    }

    /// Ends it as Ctrl-C does, and returns the exit code and what it wrote to stderr.
    pub(crate) fn end(&mut self) -> (Option<i32>, String) {
        drop(self.watchdog.stdin.take());
        let begun = Instant::now();
        let ended = loop {
            match self.watchdog.try_wait().expect("whether it has ended") {
                Some(ended) => break ended.code(),
                None if begun.elapsed() > LIMIT => return (None, format!("goes on after {LIMIT:?}")),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let mut complaints = String::new();
        if let Some(mut stderr) = self.watchdog.stderr.take() {
            stderr.read_to_string(&mut complaints).expect("text");
        }
        (ended, complaints)
    }
}
