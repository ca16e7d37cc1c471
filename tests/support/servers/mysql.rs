//! How a throwaway MySQL is created and run, instead of MariaDB.

use std::path::PathBuf;
use std::process::Command;

use super::find;
use super::lifetime::Home;
use super::mariadb::{SYSTEM, option};

pub(super) const MISSING: &str = "no directory of ATOMICALLY_MYSQL_BIN has a mysqld of MySQL that runs: \
    `apt-get install mysql-server-core`, or unset the variable to use MariaDB";

/// The server runs this at every start, before it accepts the first client.
///
/// The user has no password: over a connection that is not encrypted, the driver can send one only with its
/// feature `mysql-rsa`.
const SETUP: &str = "\
CREATE DATABASE IF NOT EXISTS test CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS app@'%' IDENTIFIED BY '';
GRANT ALL PRIVILEGES ON *.* TO app@'%' WITH GRANT OPTION;
";

/// What is lost when the server is killed is what has not reached the kernel. Commits have to, and no more.
const OPTIONS: [&str; 9] = [
    "--bind-address=127.0.0.1",
    "--mysqlx=OFF",
    // The directory of the package may not exist.
    "--secure-file-priv=NULL",
    "--disable-log-bin",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-flush-method=nosync",
    "--innodb-buffer-pool-size=64M",
    "--innodb-lock-wait-timeout=5",
    "--max-connections=200",
];

/// A MySQL server of Oracle, or one that is derived from it.
#[derive(Debug)]
pub(super) struct Mysql {
    server: PathBuf,
}

impl Mysql {
    /// Finds the server, which on many systems is a link to MariaDB's of the same name.
    pub(super) fn find() -> Option<Self> {
        let directories = find::search_path("ATOMICALLY_MYSQL_BIN", || {
            find::path().into_iter().chain(SYSTEM.map(PathBuf::from)).collect()
        });
        let server = find::program(&directories, &["mysqld"])?;
        let version = Command::new(&server).args(["--no-defaults", "--version"]).output().ok()?;
        let is_mysql = !String::from_utf8_lossy(&version.stdout).contains("MariaDB");
        (version.status.success() && is_mysql).then_some(Self { server })
    }
}

impl super::Engine for Mysql {
    fn scheme(&self) -> &'static str {
        "mysql"
    }

    fn credentials(&self) -> &'static str {
        "app"
    }

    fn users(&self) -> &'static [&'static str] {
        &["mysql", "nobody"]
    }

    fn install(&self, home: &Home) -> Result<(), String> {
        home.write("setup.sql", SETUP)?;
        let mut install = home.command(&self.server)?;
        install.args(["--no-defaults", "--initialize-insecure"]).arg(option("--datadir", &home.path("data")));
        home.run(install)
    }

    fn serve(&self, home: &Home, port: u16) -> Result<Command, String> {
        let mut server = home.command(&self.server)?;
        server.args(["--no-defaults", &format!("--port={port}")]).args(OPTIONS);
        for (name, file) in [
            ("--datadir", "data"),
            ("--socket", "socket"),
            ("--pid-file", "server.pid"),
            ("--init-file", "setup.sql"),
        ] {
            server.arg(option(name, &home.path(file)));
        }
        Ok(server)
    }

    /// The log, which is empty at every start, is the only place that shows this.
    fn is_ready(&self, home: &Home, _pid: u32) -> bool {
        home.log().contains("ready for connections")
    }
}
