//! Runs a program to its end, as its user would.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Far more than any program under test takes, and less than a CI job that hangs.
const LIMIT: Duration = Duration::from_secs(180);

/// How a program ended, and what it printed.
#[derive(Debug)]
pub struct Finished {
    /// The exit code, or `None` if a signal ended it.
    pub code: Option<i32>,
    /// Everything that it wrote to stdout.
    pub stdout: String,
    /// Everything that it wrote to stderr.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Finished {
    /// Asserts that the program refused to start: one line on stderr that contains all of the words, nothing
    /// on stdout, exit code 2.
    #[track_caller]
    pub fn refused_with(&self, words: &[&str]) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(2), ""), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word} is not in {self:?}");
        }
    }
}

/// Runs the program, and kills it after three minutes.
#[expect(clippy::expect_used, reason = "a test that cannot run its program has failed")]
pub fn run(command: &mut Command) -> Finished {
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the program");
    while child.try_wait().expect("wait for the program").is_none() {
        if started.elapsed() > LIMIT {
            child.kill().expect("stop the program");
        }
        thread::sleep(Duration::from_millis(10));
    }
    let took = started.elapsed();
    let output = child.wait_with_output().expect("the program's output");
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    Finished { code: output.status.code(), stdout, stderr, took }
}
