//! Processes that run the same test again until they are killed.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::sleep;

/// The environment variable that marks a process of a storm: the URL of its database.
const URL: &str = "ATOMICALLY_TEST_STORM_URL";

/// The database, if this is a process of a storm.
pub(crate) fn database_of_this_process() -> Option<String> {
    std::env::var(URL).ok()
}

/// Processes that run one test as a part of its storm. They end with this value, also when the test fails.
pub(crate) struct Processes {
    test: &'static str,
    url: String,
    children: Vec<Child>,
}

impl Processes {
    pub(crate) fn start(test: &'static str, url: &str, count: usize) -> Self {
        let mut processes = Self { test, url: url.to_owned(), children: Vec::new() };
        processes.children = (0..count).map(|_| processes.child()).collect();
        processes
    }

    fn child(&self) -> Child {
        Command::new(std::env::current_exe().expect("this test"))
            .args([self.test, "--exact", "--nocapture"])
            .env(URL, &self.url)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a process")
    }

    /// Kills a process and starts another one in its place.
    pub(crate) fn replace(&mut self, process: usize) {
        let child = &mut self.children[process];
        child.kill().expect("killed");
        child.wait().expect("it has ended");
        self.children[process] = self.child();
    }

    /// Stops a process for this long.
    pub(crate) async fn suspend(&self, process: usize, time: Duration) {
        let pid = self.children[process].id().to_string();
        let signal = |name: &str| {
            let sent = Command::new("kill").args(["-s", name, &pid]).status().expect("kill");
            assert!(sent.success(), "{name} was not sent");
        };
        signal("STOP");
        sleep(time).await;
        signal("CONT");
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
