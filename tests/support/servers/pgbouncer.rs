//! How a pgbouncer in front of a throwaway PostgreSQL is run.

use std::path::PathBuf;
use std::process::Command;

use super::find;
use super::lifetime::Home;

const MISSING: &str = "this test needs pgbouncer, which was not found: `apt-get install pgbouncer` (or \
    `brew install pgbouncer`), or set ATOMICALLY_PGBOUNCER_BIN to the directory of the program";

/// The file with the address of the server, which is read again at SIGHUP.
pub(super) const DATABASES: &str = "databases.ini";

/// The content of that file.
pub(super) fn databases(server_port: u16) -> String {
    format!("[databases]\n* = host=127.0.0.1 port={server_port}\n")
}

/// Not in every user's `PATH`.
const SYSTEM: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// A pooler that hands out server connections for one transaction at a time.
#[derive(Debug)]
pub(super) struct Pgbouncer {
    program: PathBuf,
    server_port: u16,
    prepared_statements: bool,
}

impl Pgbouncer {
    /// With or without support for prepared statements; older versions have none.
    pub(super) fn find(server_port: u16, prepared_statements: bool) -> Result<Self, String> {
        let directories = find::search_path("ATOMICALLY_PGBOUNCER_BIN", || {
            find::path().into_iter().chain(SYSTEM.map(PathBuf::from)).collect()
        });
        let program = find::program(&directories, &["pgbouncer"]).ok_or(MISSING)?;
        Ok(Self { program, server_port, prepared_statements })
    }

    /// Whether it has support for prepared statements, which is younger than some versions in use.
    pub(super) fn can_prepare(&self) -> Result<bool, String> {
        let answer = Command::new(&self.program).arg("--version").output();
        let answer = answer.map_err(|e| format!("could not run {}: {e}", self.program.display()))?;
        let version = String::from_utf8_lossy(&answer.stdout).into_owned();
        let numbers = version.split_whitespace().nth(1).unwrap_or_default().split('.');
        Ok(numbers.map_while(|number| number.parse::<u32>().ok()).ge([1, 21]))
    }
}

impl super::Engine for Pgbouncer {
    fn scheme(&self) -> &'static str {
        "postgres"
    }

    fn users(&self) -> &'static [&'static str] {
        &["postgres", "nobody"]
    }

    fn install(&self, home: &Home) -> Result<(), String> {
        home.write("users", "\"app\" \"app\"\n")?;
        home.write(DATABASES, &databases(self.server_port)).map(drop)
    }

    fn serve(&self, home: &Home, port: u16) -> Result<Command, String> {
        // pgbouncer logs in to the server on one connection at a time and refuses clients meanwhile: a
        // login that hangs must not keep it from the next one for the default of 15 seconds.
        let mut settings = format!(
            "%include {DATABASES}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = plain\n\
             auth_file = users\n\
             pool_mode = transaction\n\
             max_client_conn = 200\n\
             default_pool_size = 4\n\
             server_login_retry = 1\n\
             server_connect_timeout = 5\n\
             ignore_startup_parameters = extra_float_digits\n"
        );
        if self.can_prepare()? {
            let most = if self.prepared_statements { 200 } else { 0 };
            settings.push_str(&format!("max_prepared_statements = {most}\n"));
        }
        let settings = home.write("pgbouncer.ini", &settings)?;
        let mut pooler = home.command(&self.program)?;
        pooler.arg(settings);
        Ok(pooler)
    }

    fn is_ready(&self, home: &Home, _pid: u32) -> bool {
        home.log().contains("process up")
    }
}
