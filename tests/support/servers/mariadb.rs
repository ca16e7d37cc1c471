//! How a throwaway MariaDB is created and run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::find;
use super::lifetime::Home;

const MISSING: &str = "this test needs MariaDB (mariadbd and mariadb-install-db), which was not found: \
    `apt-get install mariadb-server` (or `brew install mariadb`), or set ATOMICALLY_MARIADB_BIN to the \
    directories of its programs, or ATOMICALLY_MYSQL_URL to a running server";

const PACKAGES: [(&str, &str); 2] = [("/opt/homebrew/opt", "mariadb"), ("/usr/local/opt", "mariadb")];

/// Directories of server programs that are not in every user's `PATH`.
pub(super) const SYSTEM: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/usr/libexec"];

/// The server runs this at every start, before it accepts the first client.
pub(super) const SETUP: &str = "\
CREATE DATABASE IF NOT EXISTS test CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS app@localhost IDENTIFIED BY 'app';
CREATE USER IF NOT EXISTS app@'%' IDENTIFIED BY 'app';
GRANT ALL PRIVILEGES ON *.* TO app@localhost WITH GRANT OPTION;
GRANT ALL PRIVILEGES ON *.* TO app@'%' WITH GRANT OPTION;
";

/// The installation and the server have to agree on these.
const STORAGE: [&str; 3] = ["--innodb-log-file-size=16M", "--aria-log-file-size=8M", "--skip-name-resolve"];

/// The tests kill the server, not the machine: every commit has to reach the kernel, and no more. At 0 a kill
/// would take up to a second of acknowledged commits with it; and the doublewrite buffer stays on, as a kill
/// can tear a page. Options that come and go between versions are `loose`.
const SAFE_FROM_KILL: [&str; 3] = [
    "--innodb-flush-log-at-trx-commit=2",
    "--loose-innodb-flush-method=nosync",
    "--loose-innodb-use-native-aio=0",
];

#[derive(Debug)]
pub(super) struct Mariadb {
    server: PathBuf,
    installer: PathBuf,
}

impl Mariadb {
    pub(super) fn find() -> Result<Self, String> {
        let directories = find::search_path("ATOMICALLY_MARIADB_BIN", || {
            let system = SYSTEM.map(PathBuf::from);
            find::path().into_iter().chain(system).chain(find::versioned(&PACKAGES)).collect()
        });
        let program = |names: &[&str]| find::program(&directories, names).ok_or(MISSING);
        let server = program(&["mariadbd", "mysqld"])?;
        let installer = program(&["mariadb-install-db", "mysql_install_db"])?;
        Ok(Self { server, installer })
    }

    /// Creates the data directory, and executes the statements of a file in it.
    pub(super) fn install_with(&self, home: &Home, statements: Option<&Path>) -> Result<(), String> {
        let mut install = home.command(&self.installer)?;
        install.arg("--no-defaults").arg(option("--datadir", &home.path("data")));
        install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
        install.args(statements.map(|file| option("--extra-file", file)));
        install.args(STORAGE).args(SAFE_FROM_KILL);
        home.run(install)
    }

    /// The command that serves the data directory.
    pub(super) fn server(&self, home: &Home, port: u16) -> Result<Command, String> {
        let mut server = home.command(&self.server)?;
        server.args(["--no-defaults", "--bind-address=127.0.0.1", &format!("--port={port}")]);
        for (name, file) in [("--datadir", "data"), ("--socket", "socket"), ("--pid-file", "server.pid")] {
            server.arg(option(name, &home.path(file)));
        }
        server.args(["--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=5"]);
        server.arg("--max-connections=200").args(STORAGE).args(SAFE_FROM_KILL);
        Ok(server)
    }
}

impl super::Engine for Mariadb {
    fn scheme(&self) -> &'static str {
        "mysql"
    }

    fn users(&self) -> &'static [&'static str] {
        &["mysql", "nobody"]
    }

    fn install(&self, home: &Home) -> Result<(), String> {
        home.write("setup.sql", SETUP)?;
        self.install_with(home, None)
    }

    fn serve(&self, home: &Home, port: u16) -> Result<Command, String> {
        let mut server = self.server(home, port)?;
        server.arg(option("--init-file", &home.path("setup.sql")));
        Ok(server)
    }

    /// The log, which is empty at every start, is the only place that shows this.
    fn is_ready(&self, home: &Home, _pid: u32) -> bool {
        home.log().contains("ready for connections")
    }
}

pub(super) fn option(name: &str, value: &Path) -> OsString {
    let mut option = OsString::from(name);
    option.push("=");
    option.push(value);
    option
}
