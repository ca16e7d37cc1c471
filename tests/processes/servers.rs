//! The servers that a test process starts end with it, however it ends.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::servers::Server;

/// How a child process of the test ends. The variable marks it as a child.
const ENDING: &str = "ATOMICALLY_TEST_PROCESS_ENDING";

/// Longer than a server takes to start or to stop.
const LIMIT: Duration = Duration::from_secs(90);

/// Without running any destructor, as for the servers that all tests of a process share.
const ENDINGS: [&str; 6] = ["returns", "panics", "aborts", "INT", "TERM", "KILL"];

/// The progress of a server when its process is killed: the files in its directory by then.
const MOMENTS: [&str; 4] = ["run", "run/data", "run/installed", "run/pid"];

/// The child process: starts a server that it never stops, prints its directory, and ends.
fn end(ending: &str, start: fn() -> Server) {
    let server: &'static Server = Box::leak(Box::new(start()));
    println!("\nserver {} {}", server.pid(), server.directory().display());
    match ending {
        "returns" => {}
        "panics" => panic!("as requested"),
        "aborts" => std::process::abort(),
        _ => loop {
            thread::park();
        },
    }
}

/// A shell that starts this test in the background may have set SIGINT to be ignored, which children inherit.
fn process(test: &str, ending: &str) -> Child {
    Command::new("env")
        .arg("--default-signal=INT")
        .arg(env::current_exe().expect("this test"))
        .args([test, "--exact", "--nocapture"])
        .env(ENDING, ending)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a process")
}

fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").args(["-s", name, &pid.to_string()]).status().expect("kill");
    assert!(sent.success(), "{name} was not sent");
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < LIMIT, "after {LIMIT:?}, still not: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn ended(mut process: Child, ending: &str) -> ExitStatus {
    until(&format!("the process that {ending} has ended"), || {
        process.try_wait().expect("its status").is_some()
    });
    process.wait().expect("its status")
}

/// The processes that run in a directory or below it, even if the directory was renamed or removed meanwhile.
fn processes_in(directory: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir("/proc").expect("the processes of the system");
    let works_there = |process: &PathBuf| {
        fs::read_link(process.join("cwd")).is_ok_and(|current| current.starts_with(directory))
    };
    all.filter_map(|process| Some(process.ok()?.path())).filter(works_there).collect()
}

fn is_alive(pid: u32) -> bool {
    let probe = Command::new("kill").args(["-0", &pid.to_string()]).stderr(Stdio::null()).status();
    probe.expect("kill").success()
}

/// Ends a process whose server is running.
fn ending_a_process_ends_its_server(test: &str, ending: &str) {
    let mut process = process(test, ending);
    let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
    let line = lines.find_map(|line| line.ok().filter(|line| line.starts_with("server ")));
    let line = line.expect("its server has started");
    // Keeps reading, because the process would end on a closed pipe.
    thread::spawn(move || lines.count());
    let (pid, directory) = line["server ".len()..].split_once(' ').expect("a pid and a directory");
    let (server, directory) = (pid.parse().expect("a pid"), PathBuf::from(directory));
    // A directory below the one whose removal removes all files of the server.
    let directory = directory.parent().expect("a private directory");

    if ending.chars().all(char::is_uppercase) {
        assert!(is_alive(server) && !processes_in(directory).is_empty(), "{ending}: no process to end");
        signal(ending, process.id());
    }
    let status = ended(process, ending);
    assert_eq!(status.success(), ending == "returns", "{status}");
    until(&format!("{ending}: the server is gone"), || {
        !is_alive(server) && processes_in(directory).is_empty()
    });
    until(&format!("{ending}: its directory is gone"), || !directory.exists());
}

/// Kills a process that is about to start a server, as soon as these files exist.
fn killing_a_process_ends_its_starting_server(test: &str, moment: &str) {
    let process = process(test, "KILL");
    let name = format!("atomically-{}-0", process.id());
    let candidates = [env::temp_dir().join(&name), Path::new("/tmp").join(&name)];
    let mut directory = None;
    until(moment, || {
        directory = candidates.iter().find(|candidate| candidate.join(moment).exists());
        directory.is_some()
    });
    signal("KILL", process.id());
    let status = ended(process, "KILL");
    assert!(!status.success(), "{status}");
    let directory = directory.expect("the directory that was seen");
    until(&format!("killed at {moment}: the directory is gone"), || !directory.exists());
    until(&format!("killed at {moment}: the server is gone"), || processes_in(directory).is_empty());
    assert!(!directory.exists(), "killed at {moment}: a remaining process has recreated the directory");
}

fn a_server_does_not_outlive_its_process(test: &str, start: fn() -> Server) {
    if let Ok(ending) = env::var(ENDING) {
        return end(&ending, start);
    }
    for ending in ENDINGS {
        ending_a_process_ends_its_server(test, ending);
    }
    for moment in MOMENTS {
        killing_a_process_ends_its_starting_server(test, moment);
    }
}

#[test]
fn postgres_does_not_outlive_its_process() {
    a_server_does_not_outlive_its_process("servers::postgres_does_not_outlive_its_process", Server::postgres);
}

#[test]
fn mariadb_does_not_outlive_its_process() {
    a_server_does_not_outlive_its_process("servers::mariadb_does_not_outlive_its_process", Server::mariadb);
}

/// Otherwise two servers that are installed at the same time break each other.
#[test]
fn mariadb_leaves_the_temporary_files_of_other_servers_alone() {
    let file = env::temp_dir().join(format!("#sql-temptable-{}-1-1.MAI", std::process::id()));
    fs::write(&file, "").expect("a file");
    // A server that root starts runs as this user, and may delete only what is its own.
    _ = Command::new("chown").arg("mysql").arg(&file).stderr(Stdio::null()).status();
    drop(Server::mariadb());
    let remains = file.exists();
    _ = fs::remove_file(&file);
    assert!(remains, "a server that was installed has deleted {}", file.display());
}
