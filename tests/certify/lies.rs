//! A lie for each check: a proxy rewrites statements, so that the server does not do what its client
//! believes. The sheet then differs from the server's own in the named checks, and in no other.

use std::collections::BTreeSet;

use atomically::Backend;
use atomically::testing::{Sheet, Standing, certify};
use futures_util::{StreamExt as _, stream};
use sqlx::pool::PoolOptions;
use sqlx::{AssertSqlSafe, MySql, Postgres, Sqlite};

use crate::liar::{Rewrite, liar, rewrite, rewrite_in};
use crate::sheets::snapshot;
use crate::support::TestBackend;

/// How many sheets are made at the same time. Most of their time, they wait.
const AT_ONCE: usize = 8;

/// A lie, and the checks that it changes.
struct Lie {
    rewrites: &'static [Rewrite],
    changes: &'static [&'static str],
}

impl Lie {
    /// The checks that it can change: those of the group, if it is told to one check only.
    fn affected(&self) -> Vec<&'static str> {
        let is_marked = self.rewrites.iter().all(|rewrite| !rewrite.mark.is_empty());
        let group = self.changes[0].split('.').next().expect("a group");
        if is_marked { vec![group] } else { Vec::new() }
    }
}

const fn lie(rewrites: &'static [Rewrite], changes: &'static [&'static str]) -> Lie {
    Lie { rewrites, changes }
}

const SERIALIZABLE: &str = "ISOLATION LEVEL SERIALIZABLE";
const REPEATABLE_READ: &str = "ISOLATION LEVEL REPEATABLE READ";
const READ_COMMITTED: &str = "ISOLATION LEVEL READ COMMITTED";
const READ_UNCOMMITTED: &str = "ISOLATION LEVEL READ UNCOMMITTED";

/// On one PostgreSQL server.
static ON_POSTGRES: &[Lie] = &[
    lie(&[rewrite(SERIALIZABLE, REPEATABLE_READ)], &["isolation.serializable.write-skew"]),
    lie(
        &[rewrite(SERIALIZABLE, READ_COMMITTED)],
        &[
            "isolation.serializable.non-repeatable-read",
            "isolation.serializable.phantom",
            "isolation.serializable.lost-update",
            "isolation.serializable.read-skew",
            "isolation.serializable.write-skew",
            "retries.serialization",
        ],
    ),
    lie(
        &[rewrite(REPEATABLE_READ, READ_COMMITTED)],
        &[
            "isolation.repeatable-read.non-repeatable-read",
            "isolation.repeatable-read.phantom",
            "isolation.repeatable-read.lost-update",
            "isolation.repeatable-read.read-skew",
        ],
    ),
    lie(&[rewrite_in("commit.stored", "COMMIT", "ROLLBACK")], &["commit.stored"]),
    lie(
        &[rewrite("ROLLBACK /*", "COMMIT /*")],
        &[
            "isolation.read-committed.dirty-read",
            "commit.rollback",
            "unique-key.released",
            "ddl.transactional",
            "ddl.no-implicit-commit",
        ],
    ),
    lie(
        &[rewrite_in("commit.nothing-after-conflict", "INSERT INTO", "ROLLBACK; INSERT INTO")],
        &["commit.nothing-after-conflict"],
    ),
    lie(&[rewrite_in("reads.other-session", "SELECT value", "SELECT 0 * value")], &["reads.other-session"]),
    lie(
        &[rewrite("ROLLBACK TO SAVEPOINT", "RELEASE SAVEPOINT")],
        &["savepoints.undo", "savepoints.after-error"],
    ),
    lie(
        &[rewrite_in("savepoints.after-error", "ROLLBACK TO SAVEPOINT certify", "ROLLBACK")],
        &["savepoints.after-error"],
    ),
    lie(&[rewrite("VALUES (7, 70)", "VALUES (7, 70) ON CONFLICT DO NOTHING")], &["unique-key.fence"]),
    lie(&[rewrite_in("unique-key.released", "ROLLBACK", "COMMIT")], &["unique-key.released"]),
    lie(&[rewrite("CREATE TABLE", "COMMIT; CREATE TABLE")], &["ddl.transactional", "ddl.no-implicit-commit"]),
    lie(
        &[rewrite("FOR UPDATE /*", "/*")],
        &[
            "locks.update",
            "locks.update-blocks-writes",
            "locks.skip-locked",
            "locks.nowait",
            "locks.nowait-code",
        ],
    ),
    lie(&[rewrite_in("locks.update ", "FOR UPDATE /*", "/*")], &["locks.update"]),
    lie(&[rewrite(" SKIP LOCKED", "")], &["locks.skip-locked"]),
    lie(&[rewrite(" NOWAIT", "")], &["locks.nowait"]),
    lie(&[rewrite("pg_try_advisory_xact_lock(", "pg_try_advisory_xact_lock_shared(")], &["locks.advisory"]),
    lie(&[rewrite("pg_try_advisory_xact_lock(", "pg_try_advisory_lock(")], &["locks.advisory-released"]),
    lie(
        &[rewrite_in("retries.deadlock", "lock_timeout = '10s'", "lock_timeout = '50ms'")],
        &["retries.deadlock"],
    ),
    lie(&[rewrite_in("retries.serialization", SERIALIZABLE, READ_COMMITTED)], &["retries.serialization"]),
    lie(
        &[rewrite_in("limits.lock-timeout", "SET LOCAL lock_timeout = '300ms'", "SELECT 1")],
        &["limits.lock-timeout"],
    ),
    lie(&[rewrite("SET LOCAL statement_timeout = '300ms'", "SELECT 1")], &["limits.statement-timeout"]),
    lie(
        &[rewrite("SET LOCAL idle_in_transaction_session_timeout = '300ms'", "SELECT 1")],
        &["limits.idle-in-transaction"],
    ),
    lie(&[rewrite("pg_cancel_backend(", "abs(")], &["limits.cancel"]),
    lie(&[rewrite("SELECT 2 * value", "SELECT 3 * value")], &["sessions.prepared-statements"]),
    lie(&[rewrite("set_config('atomically.certify', 'set', false)", "'x'")], &["sessions.state-stays"]),
    lie(&[rewrite("current_setting('atomically.certify', true)", "'set'")], &["sessions.no-leaks"]),
    lie(&[rewrite("NOTIFY atomically", "NOTIFY elsewhere")], &["sessions.notifications"]),
];

/// On one MariaDB server: what PostgreSQL does not do even if it is asked to, or does not promise.
static ON_MARIADB: &[Lie] = &[
    lie(&[rewrite(READ_COMMITTED, READ_UNCOMMITTED)], &["isolation.read-committed.dirty-read"]),
    lie(
        &[rewrite(REPEATABLE_READ, READ_UNCOMMITTED)],
        &[
            "isolation.repeatable-read.dirty-read",
            "isolation.repeatable-read.non-repeatable-read",
            "isolation.repeatable-read.phantom",
            "isolation.repeatable-read.read-skew",
        ],
    ),
    lie(
        &[rewrite(SERIALIZABLE, READ_UNCOMMITTED)],
        &[
            "isolation.serializable.dirty-read",
            "isolation.serializable.non-repeatable-read",
            "isolation.serializable.phantom",
            "isolation.serializable.lost-update",
            "isolation.serializable.read-skew",
            "isolation.serializable.write-skew",
            "retries.serialization",
        ],
    ),
    lie(&[rewrite_in("commit.after-error", "COMMIT", "ROLLBACK")], &["commit.after-error"]),
];

/// The second of two addresses of one PostgreSQL server lies.
static ON_THE_SECOND_NODE: &[Lie] = &[
    lie(&[rewrite_in("nodes.reads", "SELECT value", "SELECT 0 * value")], &["nodes.reads"]),
    lie(&[rewrite_in("nodes.row-locks", "FOR UPDATE", "")], &["nodes.row-locks"]),
    lie(&[rewrite(" SKIP LOCKED", "")], &["nodes.skip-locked"]),
    lie(&[rewrite("advisory_xact_lock(", "advisory_xact_lock(1+")], &["nodes.advisory-locks"]),
    lie(&[rewrite("VALUES (7, 70)", "VALUES (8, 70)")], &["nodes.unique-key"]),
    lie(&[rewrite_in("nodes.lost-update", SERIALIZABLE, READ_COMMITTED)], &["nodes.lost-update"]),
    lie(&[rewrite(SERIALIZABLE, REPEATABLE_READ)], &["nodes.write-skew"]),
    lie(
        &[
            rewrite_in("nodes.guard-row", SERIALIZABLE, READ_COMMITTED),
            rewrite_in("nodes.guard-row", "value + 1", "value + 0"),
        ],
        &["nodes.guard-row"],
    ),
    lie(&[rewrite("* 1000)::bigint", "* 1000 + 3600000)::bigint")], &["nodes.clock-skew"]),
];

fn pool<DB: Backend>(url: &str) -> sqlx::Pool<DB> {
    PoolOptions::<DB>::new().max_connections(2).connect_lazy(url).expect("a URL")
}

async fn sheet<DB: TestBackend>(url: &str) -> Sheet {
    certify(&pool::<DB>(url)).run().await.expect("a sheet")
}

/// Certifies the server through the proxy of each lie, and compares with what it does without one.
async fn each_changes_what_it_names<DB: TestBackend>(url: &str, lies: &'static [Lie]) {
    let truth = sheet::<DB>(url).await;
    let certified = stream::iter(lies.iter().map(|lie| async move {
        let pool = pool::<DB>(&liar(url, lie.rewrites).await);
        (lie, certify(&pool).only(lie.affected()).run().await.expect("a sheet"))
    }));
    let certified: Vec<_> = certified.buffer_unordered(AT_ONCE).collect().await;
    for (lie, sheet) in certified {
        assert_changes(&truth, &sheet, lie);
    }
}

fn assert_changes(truth: &Sheet, sheet: &Sheet, lie: &Lie) {
    let differences = sheet.differences_from(truth).into_iter();
    let changed: BTreeSet<_> =
        differences.filter(|difference| difference.after.is_some()).map(|difference| difference.id).collect();
    let expected: BTreeSet<_> = lie.changes.iter().map(|id| (*id).to_owned()).collect();
    assert_eq!(changed, expected, "{:?}:\n{sheet}", lie.rewrites);
    let expects = |entry: &&atomically::testing::SheetEntry| {
        entry.expected == Some(Standing::Held) && changed.contains(&entry.id)
    };
    let findings: BTreeSet<_> = sheet.findings().into_iter().map(|finding| finding.id).collect();
    for entry in truth.entries.iter().filter(expects) {
        assert!(findings.contains(&entry.id), "{:?} is no finding:\n{sheet}", entry.id);
    }
}

/// With a short wait before a deadlock is looked for, which is a second by default.
fn postgres_url(database: &str) -> String {
    format!("{database}?options=-c%20deadlock_timeout%3D200ms")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_lie_about_postgresql_changes_what_it_names() {
    let database = Postgres::pool(1).await;
    each_changes_what_it_names::<Postgres>(&postgres_url(&database.url), ON_POSTGRES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_lie_about_mariadb_changes_what_it_names() {
    let _turn = crate::turn().await;
    let database = MySql::pool(1).await;
    each_changes_what_it_names::<MySql>(&database.url, ON_MARIADB).await;
}

async fn sheet_of_nodes(first: &str, second: &str) -> Sheet {
    let nodes = [pool::<Postgres>(second)];
    certify(&pool::<Postgres>(first)).nodes(nodes).only(["nodes."]).run().await.expect("a sheet")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_lie_of_a_node_changes_what_it_names() {
    let database = Postgres::pool(1).await;
    let url = &postgres_url(&database.url);
    let truth = sheet_of_nodes(url, url).await;
    truth.assert_no_findings();
    for lie in ON_THE_SECOND_NODE {
        let sheet = sheet_of_nodes(url, &liar(url, lie.rewrites).await).await;
        assert_changes(&truth, &sheet, lie);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_unrelated_databases_are_not_nodes_of_one_cluster() {
    let (first, second) = (Postgres::pool(1).await, Postgres::pool(1).await);
    let sheet = sheet_of_nodes(&first.url, &second.url).await;
    assert_eq!(sheet.standing("nodes.same-data"), Some(Standing::NotHeld), "{sheet}");
    let others = sheet.entries.iter().filter(|entry| entry.id != "nodes.same-data");
    assert!(
        others.clone().count() > 5
            && others.into_iter().all(|entry| { entry.standing == Standing::NotChecked }),
        "{sheet}"
    );
    assert!(sheet.findings().iter().any(|finding| finding.id == "nodes.same-data"));
}

/// SQLite has no network. Its lie is a file system that does not lock files.
#[cfg(unix)]
#[tokio::test]
async fn sqlite_without_locks_is_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let url = format!("sqlite://{}?mode=rwc&vfs=unix-none", directory.path().join("test.db").display());
    let sheet = sheet::<Sqlite>(&url).await;
    let truth = snapshot("sqlite");
    let changed = sheet.outline().lines().filter(|line| !truth.lines().any(|other| other == *line)).count();
    for id in [
        "isolation.deferred.lost-update",
        "isolation.deferred.write-skew",
        "isolation.immediate.lost-update",
        "isolation.immediate.write-skew",
        "unique-key.fence",
        "retries.serialization",
        "limits.lock-timeout",
    ] {
        assert!(sheet.findings().iter().any(|finding| finding.id == id), "{id}:\n{sheet}");
    }
    assert_eq!(changed, 7, "{sheet}");
}

/// Every check that is held by one of the servers of the snapshots can be broken by a lie, except those of
/// SQLite, which has no network.
#[test]
fn every_check_that_is_held_has_a_lie() {
    let lies = ON_POSTGRES.iter().chain(ON_MARIADB).chain(ON_THE_SECOND_NODE);
    let mut named: BTreeSet<&str> = lies.flat_map(|lie| lie.changes).copied().collect();
    named.insert("nodes.same-data");
    let sheets = ["postgresql", "mariadb", "galera"].map(snapshot);
    for line in sheets.iter().flat_map(|sheet| sheet.lines()) {
        let (id, standing) = line.split_once(": ").expect("an id and a standing");
        assert!(standing != "held" || named.contains(id), "no lie is told about {id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_create_nothing_gets_an_error() {
    let database = Postgres::pool(1).await;
    let role = format!("poor_{}", std::process::id());
    let run = async |sql: String| {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&database.pool).await.expect("a role");
    };
    run(format!("CREATE ROLE {role} LOGIN PASSWORD 'poor'; REVOKE ALL ON SCHEMA public FROM public")).await;
    let url = database.url.replace("app:app@", &format!("{role}:poor@"));
    let error = certify(&pool::<Postgres>(&url)).run().await.expect_err("no rights");
    assert!(error.to_string().contains("could not certify: CREATE TABLE atomically_certify_"), "{error}");
    run(format!("DROP ROLE {role}")).await;
}
