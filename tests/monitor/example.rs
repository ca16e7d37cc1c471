//! The example at work.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Far more than it takes to drop a table.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs a program until the end of the input, which comes however this process ends; and then presses Ctrl-C.
const WATCHDOG: &str = r#""$@" & program=$!; read -r _; kill -INT $program; wait $program"#;

/// Cargo has built it next to this test, if not told to build this test alone.
fn built() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("target/<profile>/deps");
    let example = profile.join("examples").join(format!("monitor{}", std::env::consts::EXE_SUFFIX));
    assert!(example.exists(), "{} is not there: run `cargo build --examples` first", example.display());
    example
}

/// Ends with this.
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
            .arg(built())
            .args(["--port", "0"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the example");
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

    /// As if somebody had pressed Ctrl-C: how it ends, and what it has to complain about.
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

/// What it says to these arguments, and how it ends, where it does not begin.
pub(crate) fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(built()).args(arguments).stdin(Stdio::null()).output().expect("its end");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}
