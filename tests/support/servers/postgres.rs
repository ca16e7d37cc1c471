//! How a throwaway PostgreSQL is created and run.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use super::find;
use super::lifetime::Home;

const MISSING: &str = "this test needs PostgreSQL (initdb and postgres), which was not found: \
    `apt-get install postgresql` (or `brew install postgresql`), or set ATOMICALLY_POSTGRES_BIN to the \
    directory of its programs, or ATOMICALLY_POSTGRES_URL to a running server";

const PACKAGES: [(&str, &str); 4] = [
    ("/usr/lib/postgresql", ""),
    ("/usr", "pgsql-"),
    ("/opt/homebrew/opt", "postgresql"),
    ("/usr/local/opt", "postgresql"),
];

#[derive(Debug)]
pub(super) struct Postgres {
    bin: PathBuf,
    /// Whether a commit waits for the disk.
    durable: bool,
    role: Role,
}

/// What a server does about replication.
#[derive(Debug, Clone, Copy)]
enum Role {
    Alone,
    /// Commits wait until one standby has received them.
    Primary,
    /// Follows the server on this port, until it is promoted.
    Standby(u16),
}

/// In a file, and not on the command line, so that the tests can change it.
const REPLICATION: &str = "\
synchronous_standby_names = 'ANY 1 (*)'
wal_keep_size = '256MB'
wal_retrieve_retry_interval = '200ms'
";

impl Postgres {
    pub(super) fn find() -> Result<Self, String> {
        let directories = find::search_path("ATOMICALLY_POSTGRES_BIN", || {
            find::versioned(&PACKAGES).into_iter().chain(find::path()).collect()
        });
        let bin = find::directory_with(&directories, &["initdb", "postgres"]).ok_or(MISSING)?;
        Ok(Self { bin: bin.to_owned(), durable: false, role: Role::Alone })
    }

    /// The same, with commits that wait for the disk, for measurements.
    pub(super) fn durable(self) -> Self {
        Self { durable: true, ..self }
    }

    /// The same, whose commits wait for a standby.
    pub(super) fn primary(self) -> Self {
        Self { role: Role::Primary, ..self }
    }

    /// The same, which follows the server on this port.
    pub(super) fn standby_of(self, port: u16) -> Self {
        Self { role: Role::Standby(port), ..self }
    }

    /// Another program of the same installation.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

impl super::Engine for Postgres {
    fn scheme(&self) -> &'static str {
        "postgres"
    }

    fn users(&self) -> &'static [&'static str] {
        &["postgres", "nobody"]
    }

    fn install(&self, home: &Home) -> Result<(), String> {
        let data = home.path("data");
        if let Role::Standby(port) = self.role {
            let mut copy = home.command(&self.program("pg_basebackup"))?;
            copy.arg("-D").arg(&data).args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]);
            copy.args(["--host=127.0.0.1", "--username=app", &format!("--port={port}")]);
            return home.run(copy);
        }
        let mut initdb = home.command(&self.bin.join("initdb"))?;
        initdb.arg("-D").arg(&data);
        initdb.args(["--username=app", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]);
        home.run(initdb)?;

        // Single-user mode, because psql is not part of every installation.
        let setup = home.write("setup.sql", "ALTER ROLE app PASSWORD 'app';\nCREATE DATABASE test;\n")?;
        let setup = File::open(setup).map_err(|e| format!("could not open setup.sql: {e}"))?;
        let mut single = home.command(&self.bin.join("postgres"))?;
        single.arg("--single").arg("-D").arg(&data).stdin(setup);
        single.args(["-c", "fsync=off", "-c", "exit_on_error=on", "postgres"]);
        home.run(single)?;
        match self.role {
            Role::Primary => home.write("data/postgresql.auto.conf", REPLICATION).map(drop),
            Role::Alone | Role::Standby(_) => Ok(()),
        }
    }

    fn serve(&self, home: &Home, port: u16) -> Result<Command, String> {
        let mut server = home.command(&self.bin.join("postgres"))?;
        server.arg("-D").arg(home.path("data")).arg("-k").arg(home.directory());
        for setting in [
            format!("port={port}").as_str(),
            "listen_addresses=127.0.0.1",
            "max_connections=200",
            "shared_buffers=64MB",
            "deadlock_timeout=100ms",
            // The tests kill the server, not the machine: what it wrote is safe with the kernel. What matters
            // for them, synchronous_commit and full_page_writes, stays on.
            if self.durable { "fsync=on" } else { "fsync=off" },
            // Files in the data directory, which go with it; those in /dev/shm outlive a SIGKILL.
            "dynamic_shared_memory_type=mmap",
        ] {
            server.arg("-c").arg(setting);
        }
        Ok(server)
    }

    /// The server writes its state to the eighth line of this file. A file that a killed server left has
    /// another process id.
    fn is_ready(&self, home: &Home, pid: u32) -> bool {
        let text = fs::read_to_string(home.path("data/postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines().map(str::trim);
        lines.next() == Some(&pid.to_string()) && matches!(lines.nth(6), Some("ready" | "standby"))
    }
}
