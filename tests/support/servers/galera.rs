//! How a throwaway Galera cluster of MariaDB servers is created and run.

use std::env;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use super::lifetime::Home;
use super::mariadb::{Mariadb, SETUP};
use super::{Engine, Frozen, Server, find, free_port, must};

const MISSING_LIBRARY: &str = "this test needs the Galera library (libgalera_smm.so), which was not found: \
    `apt-get install galera-4`, or set ATOMICALLY_GALERA_LIBRARY to the file";

const MISSING_RSYNC: &str = "this test needs rsync, by which a node of a Galera cluster gets its data, and \
    which was not found in PATH: `apt-get install rsync`";

const LIBRARIES: [&str; 4] = [
    "/usr/lib/galera/libgalera_smm.so",
    "/usr/lib64/galera-4/libgalera_smm.so",
    "/usr/lib64/galera/libgalera_smm.so",
    "/usr/lib/libgalera_smm.so",
];

/// Galera replicates rows, and only those of InnoDB.
const REPLICATION: [&str; 6] = [
    "--wsrep-on=ON",
    "--wsrep-cluster-name=atomically",
    "--wsrep-sst-method=rsync",
    "--wsrep-slave-threads=2",
    "--binlog-format=ROW",
    "--innodb-autoinc-lock-mode=2",
];

/// A dead node is evicted after one or two seconds. With the defaults the others would stall for more than
/// five.
const PROVIDER: &str = "gcache.size=16M;evs.keepalive_period=PT0.2S;evs.inactive_check_period=PT0.2S;\
    evs.suspect_timeout=PT1S;evs.inactive_timeout=PT2S;evs.join_retrans_period=PT0.3S;\
    evs.install_timeout=PT2S;pc.announce_timeout=PT1S";

/// Three MariaDB servers with the same data, all of which accept writes.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Server>,
}

impl Cluster {
    /// The number of nodes.
    pub const NODES: usize = 3;

    /// The node that reports another product, which has no compound statements, so that the statements for
    /// Percona XtraDB Cluster are tested here as well.
    const NOT_MARIADB: usize = 1;

    /// Starts the nodes one after another, which takes about eight seconds, and waits until all of them
    /// accept connections. Dropping the cluster stops them and removes their directories.
    #[track_caller]
    pub fn start() -> Self {
        must(Self::try_start())
    }

    /// The same, with the reason instead of a panic.
    ///
    /// # Errors
    ///
    /// A program is missing, or a node does not start.
    pub fn try_start() -> Result<Self, String> {
        let library = library()?;
        let is_rsync_there = find::program(&find::path(), &["rsync"]).is_some();
        is_rsync_there.then_some(()).ok_or(MISSING_RSYNC)?;
        let ports = [free_port()?, free_port()?, free_port()?];
        let group = Arc::new(Mutex::new(Group { ports, has_begun: [false; Self::NODES] }));
        let mut nodes = Vec::new();
        for index in 0..Self::NODES {
            let (mariadb, library, group) = (Mariadb::find()?, library.clone(), group.clone());
            nodes.push(Server::start(Box::new(Node { index, mariadb, library, group }))?);
        }
        Ok(Self { nodes })
    }

    /// The URL of the database `test` on each node, with the user `app`, which has all privileges.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.url().to_owned()).collect()
    }

    /// Kills a node with SIGKILL and returns once it is dead. The other nodes evict it.
    #[track_caller]
    pub fn kill(&mut self, index: usize) {
        self.nodes[index].kill();
    }

    /// Stops a node until the guard is dropped. The other nodes evict it.
    #[track_caller]
    pub fn freeze(&self, index: usize) -> Frozen {
        self.nodes[index].freeze()
    }

    /// Restarts the killed nodes, and returns when they have caught up with the others.
    #[track_caller]
    pub fn restart_dead(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.process.is_none()) {
            node.restart();
        }
    }
}

fn library() -> Result<PathBuf, String> {
    let named = env::var_os("ATOMICALLY_GALERA_LIBRARY").filter(|path| !path.is_empty());
    let candidates = match named {
        Some(path) => vec![PathBuf::from(path)],
        None => LIBRARIES.map(PathBuf::from).to_vec(),
    };
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| MISSING_LIBRARY.to_owned())
}

/// The addresses on which the nodes listen for each other.
///
/// They are the same after a restart, and each node is given all of them. A node that was started without the
/// addresses of the others does not find them again after a stall.
#[derive(Debug)]
struct Group {
    ports: [u16; Cluster::NODES],
    has_begun: [bool; Cluster::NODES],
}

/// One server of a cluster.
#[derive(Debug)]
struct Node {
    index: usize,
    mariadb: Mariadb,
    library: PathBuf,
    group: Arc<Mutex<Group>>,
}

impl Node {
    /// The port on which this node listens for the others, the addresses of all, and whether this is the
    /// first node to start, which founds the cluster.
    ///
    /// Another program may have taken the port meanwhile. The others learn a new one from this node.
    fn join_group(&self) -> Result<(u16, String, bool), String> {
        let mut group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, group.ports[self.index])).is_err() {
            group.ports[self.index] = free_port()?;
        }
        // Not whether this node has begun: a first start that failed is repeated.
        let mut others = group.has_begun.iter().enumerate().filter(|(index, _)| *index != self.index);
        let founds = !others.any(|(_, has_begun)| *has_begun);
        group.has_begun[self.index] = true;
        let addresses = group.ports.map(|port| format!("127.0.0.1:{port}")).join(",");
        Ok((group.ports[self.index], addresses, founds))
    }
}

impl Engine for Node {
    fn scheme(&self) -> &'static str {
        "mysql"
    }

    fn users(&self) -> &'static [&'static str] {
        self.mariadb.users()
    }

    /// Only the first node is installed. The others join with an empty directory, and receive all data.
    fn install(&self, home: &Home) -> Result<(), String> {
        if self.index > 0 {
            return home.create_directory("data");
        }
        // A statement at each start would be replicated from each node.
        let setup = home.write("setup.sql", &format!("FLUSH PRIVILEGES;\n{SETUP}"))?;
        self.mariadb.install_with(home, Some(&setup))
    }

    fn serve(&self, home: &Home, port: u16) -> Result<Command, String> {
        let (group, addresses, founds) = self.join_group()?;
        // New at each start, because another program may take a port before the server binds it.
        let [increments, snapshots] = [free_port()?, free_port()?];
        let library = self.library.display();
        let mut server = self.mariadb.server(home, port)?;
        server.args(REPLICATION);
        server.args([
            format!("--wsrep-provider={library}"),
            format!("--wsrep-node-name=node{}", self.index),
            format!("--wsrep-node-address=127.0.0.1:{group}"),
            format!("--wsrep-cluster-address=gcomm://{addresses}"),
            format!("--wsrep-sst-receive-address=127.0.0.1:{snapshots}"),
            format!(
                "--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:{group};\
                 ist.recv_addr=127.0.0.1:{increments};ist.recv_bind=127.0.0.1:{increments};{PROVIDER}"
            ),
        ]);
        if founds {
            server.arg("--wsrep-new-cluster");
        }
        if self.index == Cluster::NOT_MARIADB {
            server.arg("--version=8.0.36-28.1");
        }
        Ok(server)
    }

    /// A node accepts connections before it has caught up with the others, and until then its statements
    /// fail.
    fn is_ready(&self, home: &Home, _pid: u32) -> bool {
        let log = home.log();
        log.contains(": ready for connections") && log.contains("Synchronized with group")
    }
}
