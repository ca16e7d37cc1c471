//! A private directory and the programs that run in it, none of which outlives the test process.
//!
//! A destructor cannot promise that: nothing runs when a process aborts or is killed. So each directory has a
//! watchdog, a shell that waits at the end of a pipe whose other end only the test process holds. However
//! that process ends, the system closes the pipe, and the watchdog cleans up. It also creates the directory:
//! one that was there first would be left by a process that is killed before it has a watchdog.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::process::{Process, spawn};

/// What the watchdog does, with up to five seconds for each step.
///
/// It prints a line when it has created the directory, and ends at once if it cannot. It must not end
/// when its output pipe is already closed.
///
/// An installation may finish, which takes a second: one that is interrupted can leave shared memory behind.
/// Moving the directory away then means that a program which starts too late cannot leave its pid in it, and
/// gives up (see [`LAUNCH`]). PostgreSQL gets SIGQUIT, because only it can free its shared memory; when
/// it was killed by a test, line 7 of `postmaster.pid` names what is left of that. A server is the leader of
/// a process group, which takes what it started along.
const WATCHDOG: &str = r#"
trap '' HUP INT PIPE QUIT TERM
mkdir -m 700 "$1" "$1/run" || exit
echo created

patiently() {
    tries=0
    until "$@" || [ $tries -ge 100 ]; do
        tries=$((tries + 1))
        sleep 0.05
    done
}
dead() { ! kill -0 "-$pid"; }
quit() { [ ! -e data/postmaster.pid ] || dead; }

read -r _
cd "$1/run" || exit
if [ ! -e installed ] && read -r pid < pid; then patiently dead; fi
cd "$1" && mv run gone && cd gone || exit
if read -r pid < pid; then
    kill -CONT "-$pid"
    kill -QUIT "$pid"
    patiently quit
    kill -KILL "-$pid"
fi
if [ -e data/postmaster.pid ]; then
    ipcrm -m "$(sed -n '7s/.* //p' data/postmaster.pid)"
fi
cd /
patiently rm -rf "$1"
"#;

/// Runs a program under a pid that the watchdog can read, complete, before the program has begun.
const LAUNCH: &str = r#"echo $$ > "$1.new" && mv "$1.new" "$1" || exit; shift; exec "$@""#;

const RUN_LIMIT: Duration = Duration::from_secs(60);
const PREVIOUS_LOG: &str = "log.previous";
const TAIL_LINES: usize = 40;

/// A private directory for one server, removed with everything that runs in it when this value or the process
/// ends.
#[derive(Debug)]
pub(super) struct Home {
    directory: PathBuf,
    user: Option<(u32, u32)>,
    watchdog: Child,
}

impl Home {
    /// Creates it for one of the named system users when root calls, as no database server runs as root.
    pub(super) fn new(users: &[&str]) -> Result<Self, String> {
        let (parent, watchdog) = create_directory()?;
        let mut home = Self { directory: parent.join("run"), user: None, watchdog };

        let is_root = fs::metadata(&parent).is_ok_and(|metadata| metadata.uid() == 0);
        if is_root {
            let known = fs::read_to_string("/etc/passwd").unwrap_or_default();
            let user = users.iter().find_map(|name| ids_of(name, &known));
            home.user = Some(user.ok_or_else(|| format!("root needs one of the users {users:?}"))?);
            home.give(&parent)?;
            home.give(&home.directory)?;
        }
        Ok(home)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.path(name);
        fs::write(&path, text).map_err(|e| format!("could not write {}: {e}", path.display()))?;
        self.give(&path)?;
        Ok(path)
    }

    pub(super) fn create_directory(&self, name: &str) -> Result<(), String> {
        let path = self.path(name);
        fs::create_dir(&path).map_err(|e| format!("could not create {}: {e}", path.display()))?;
        self.give(&path)
    }

    fn give(&self, path: &Path) -> Result<(), String> {
        let Some((uid, gid)) = self.user else { return Ok(()) };
        chown(path, Some(uid), Some(gid)).map_err(|e| format!("could not give {} away: {e}", path.display()))
    }

    /// A command for the program, ready for its arguments: the right user, a clean environment, a new log.
    /// The log of the program that ran before is kept, because it may show why this one does not start.
    /// Temporary files stay in the directory: a browser leaves its profiles, and a MariaDB that starts
    /// deletes those of others.
    pub(super) fn command(&self, program: &Path) -> Result<Command, String> {
        _ = fs::rename(self.path("log"), self.path(PREVIOUS_LOG));
        let log = self.open_log()?;
        let mut command = Command::new("sh");
        command.args(["-c", LAUNCH, "launch"]).arg(self.path("pid")).arg(program);
        command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default());
        command.env("HOME", &self.directory).env("TMPDIR", &self.directory);
        command.env("LC_ALL", "C").env("TZ", "UTC");
        command.current_dir(&self.directory).process_group(0).stdin(Stdio::null()).stderr(log);
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        Ok(command)
    }

    /// Runs a command to its end.
    pub(super) fn run(&self, mut command: Command) -> Result<(), String> {
        let mut process = self.start(&mut command)?;
        let succeeded = process.succeeds(RUN_LIMIT);
        self.kill(process)?;
        if succeeded {
            return Ok(());
        }
        let program = command.get_args().nth(4).unwrap_or_default().display();
        Err(format!("{program} failed:\n{}", self.log_tails()))
    }

    pub(super) fn start(&self, command: &mut Command) -> Result<Process, String> {
        Process::start(command, self.open_log()?)
    }

    pub(super) fn kill(&self, process: Process) -> Result<(), String> {
        process.kill(&self.path("pid"))
    }

    fn open_log(&self) -> Result<File, String> {
        let opened = File::options().create(true).append(true).open(self.path("log"));
        opened.map_err(|e| format!("could not open a log: {e}"))
    }

    pub(super) fn log(&self) -> String {
        self.read_log("log")
    }

    fn read_log(&self, name: &str) -> String {
        let text = fs::read(self.path(name)).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The ends of the current log and of the one before the last start.
    pub(super) fn log_tails(&self) -> String {
        let (before, current) = (self.read_log(PREVIOUS_LOG), self.log());
        format!(
            "--- the end of the log before its last start:\n{}\n--- the end of its log:\n{}\n---",
            tail(&before),
            tail(&current)
        )
    }

    /// Signals the watchdog to clean up.
    pub(super) fn release(&mut self) {
        drop(self.watchdog.stdin.take());
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.release();
        _ = self.watchdog.wait();
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// Creates a new directory, with its watchdog.
fn create_directory() -> Result<(PathBuf, Child), String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let parent = temporary_directory();
    for _ in 0..1_000 {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = parent.join(format!("atomically-{}-{count}", process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", WATCHDOG, "watchdog"]).arg(&directory).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut watchdog = spawn(&mut command)?;
        let answer = watchdog.stdout.take().map(|stdout| BufReader::new(stdout).lines().next());
        if matches!(answer, Some(Some(Ok(_)))) {
            return Ok((directory, watchdog));
        }
        _ = watchdog.wait();
        // A directory left by a process that had the same pid and lost its watchdog as well.
        if !directory.exists() {
            return Err(format!("could not create {}", directory.display()));
        }
    }
    Err(format!("every name for a directory in {} is taken", parent.display()))
}

/// The configured directory, unless its path is too long for a unix socket (about 100 bytes), or the server's
/// user might have no access to it.
fn temporary_directory() -> PathBuf {
    let configured = env::temp_dir();
    let is_short = configured.as_os_str().len() <= 60;
    let is_open = |directory: &Path| fs::metadata(directory).is_ok_and(|found| found.mode() & 0o001 != 0);
    if is_short && configured.ancestors().all(is_open) { configured } else { PathBuf::from("/tmp") }
}

/// The user and group id of a user in the format of `/etc/passwd`.
fn ids_of(name: &str, passwd: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_named = fields.next() == Some(name);
        let (uid, gid) = (fields.nth(1)?, fields.next()?);
        if is_named { Some((uid.parse().ok()?, gid.parse().ok()?)) } else { None }
    })
}
