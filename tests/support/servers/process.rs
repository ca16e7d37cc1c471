//! A running program, and waits for it.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const DEATH_LIMIT: Duration = Duration::from_secs(15);

/// Where the system has no way to create a pipe that other programs do not inherit in one step, two programs
/// that start at the same time could inherit each other's, and a watchdog would wait for a server that waits
/// for it.
static SPAWN: Mutex<()> = Mutex::new(());

/// Spawns the command, one at a time.
pub(super) fn spawn(command: &mut Command) -> Result<Child, String> {
    let _one_at_a_time = SPAWN.lock().unwrap_or_else(PoisonError::into_inner);
    command.spawn().map_err(|e| format!("could not run {}: {e}", command.get_program().display()))
}

/// A running program, and whatever it started.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    /// Ends with the last process that inherited the program's standard output, the only portable sign of
    /// that.
    output: JoinHandle<()>,
}

impl Process {
    pub(super) fn start(command: &mut Command, mut log: File) -> Result<Self, String> {
        let mut child = spawn(command.stdout(Stdio::piped()))?;
        let stdout = child.stdout.take();
        let drain = move || drop(stdout.map(|mut stdout| io::copy(&mut stdout, &mut log)));
        Ok(Self { child, output: thread::spawn(drain) })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits for the program, and returns whether it succeeded in time.
    pub(super) fn succeeds(&mut self, limit: Duration) -> bool {
        wait_until(limit, || self.has_ended()) && self.child.wait().is_ok_and(|status| status.success())
    }

    /// Waits until the watchdog has ended the program, and takes it off the system's list of processes.
    pub(super) fn await_end(&mut self) {
        wait_until(DEATH_LIMIT, || self.has_ended());
    }

    /// Kills the program and waits until everything it started is dead as well.
    ///
    /// The file that shows the pid to the watchdog is removed before `wait` frees the pid for another
    /// process.
    pub(super) fn kill(mut self, pid_file: &Path) -> Result<(), String> {
        _ = self.child.kill();
        _ = fs::remove_file(pid_file);
        _ = self.child.wait();
        if wait_until(DEATH_LIMIT, || self.output.is_finished()) {
            return Ok(());
        }
        Err(format!("processes of the killed {} are still alive after {DEATH_LIMIT:?}", self.pid()))
    }
}

/// Stops a program and its children: the program first, so that it starts no more of them.
pub(super) fn stop(pid: u32) -> Result<(), String> {
    signal("-STOP", &[pid.to_string()])?;
    // One of them may end meanwhile.
    _ = signal("-STOP", &children(pid)?);
    Ok(())
}

/// Lets a program and its children go on.
pub(super) fn go_on(pid: u32) -> Result<(), String> {
    _ = signal("-CONT", &children(pid)?);
    signal("-CONT", &[pid.to_string()])
}

/// Makes a program read its configuration again.
pub(super) fn reload(pid: u32) -> Result<(), String> {
    signal("-HUP", &[pid.to_string()])
}

fn children(pid: u32) -> Result<Vec<String>, String> {
    let listed = Command::new("ps").args(["-A", "-o", "pid=", "-o", "ppid="]).output();
    let listed = listed.map_err(|e| format!("could not run ps: {e}"))?.stdout;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let pairs = listed.lines().filter_map(|line| line.trim().split_once(char::is_whitespace));
    let children = pairs.filter(|(_, parent)| parent.trim() == pid.to_string());
    Ok(children.map(|(child, _)| child.to_owned()).collect())
}

fn signal(name: &str, pids: &[String]) -> Result<(), String> {
    let status = Command::new("kill").arg(name).args(pids).stderr(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("kill {name} {pids:?}: {status}")),
        Err(e) => Err(format!("could not run kill: {e}")),
    }
}

/// Polls until the condition holds, and returns whether it did within the limit.
pub(super) fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}
