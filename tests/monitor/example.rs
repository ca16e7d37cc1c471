//! The example at work.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Far more than it takes to drop a table.
const LIMIT: Duration = Duration::from_secs(60);

/// Cargo has built it next to this test, if not told to build this test alone.
fn command() -> Command {
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("target/<profile>/deps");
    let example = profile.join("examples").join(format!("monitor{}", std::env::consts::EXE_SUFFIX));
    assert!(example.exists(), "{} is not there: run `cargo build --examples` first", example.display());
    Command::new(example)
}

/// Ends with this.
pub(crate) struct Monitor {
    child: Child,
    pub(crate) address: String,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Monitor {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = command()
            .args(["--port", "0"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the example");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output"))
            .read_line(&mut line)
            .expect("its first line");
        let address = line.trim().strip_prefix("listening on ").map(str::to_owned);
        let mut monitor = Self { child, address: String::new() };
        monitor.address = address.unwrap_or_else(|| panic!("it says {line:?}, and {}", monitor.complaints()));
        monitor
    }

    /// What it has to say when it has ended.
    fn complaints(&mut self) -> String {
        let mut text = String::new();
        let stderr = self.child.stderr.as_mut().expect("its errors");
        stderr.read_to_string(&mut text).expect("text");
        text
    }

    /// As if somebody had pressed Ctrl-C: how it ends, and what it has to complain about.
    pub(crate) fn interrupt(mut self) -> (Option<i32>, String) {
        let sent = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(sent.expect("kill").success());
        let sent = Instant::now();
        let ended = loop {
            if let Some(ended) = self.child.try_wait().expect("whether it has ended") {
                break ended;
            }
            assert!(sent.elapsed() < LIMIT, "it goes on");
            std::thread::sleep(Duration::from_millis(10));
        };
        (ended.code(), self.complaints())
    }
}

/// What it says to these arguments, and how it ends, where it does not begin.
pub(crate) fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let output = command().args(arguments).stdin(Stdio::null()).output().expect("its end");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}
