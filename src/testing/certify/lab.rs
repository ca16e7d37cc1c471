//! The tables and connections of a certification.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::Pool;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::namespace::Namespace;
use super::obstacle::CheckObstacle;
use super::session::{ANSWER_LIMIT, LabSession};
use super::watch::LockWatch;
use crate::backend::{Backend, CertifiedLevel};

/// How long the connections of a check may take to end.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);

/// The nodes, and what the checks create on them.
pub(super) struct Lab<DB: Backend> {
    /// The pools of the nodes, the first of which is the user's own.
    nodes: Vec<Pool<DB>>,
    watches: Vec<LockWatch<DB>>,
    namespace: Namespace<DB>,
    /// The weakest and the strongest level at which a transaction can write.
    levels: [&'static CertifiedLevel; 2],
    /// The check that is running.
    check: Mutex<String>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    tables: AtomicUsize,
}

impl<DB: Backend> Lab<DB> {
    pub(super) fn new(nodes: Vec<Pool<DB>>, namespace: Namespace<DB>) -> Self {
        let watches = nodes.iter().map(LockWatch::new).collect();
        let (tables, check, tasks) = (AtomicUsize::new(0), Mutex::default(), Mutex::default());
        Self { nodes, watches, namespace, levels: [&DB::CERTIFICATION.levels[0]; 2], check, tasks, tables }
    }

    /// Finds the levels at which a transaction can write. Fails if there is none.
    pub(super) async fn find_levels(&mut self) -> Result<(), CheckObstacle> {
        self.enter("levels");
        let table = self.table().await?;
        let (mut usable, mut refusal) = (Vec::new(), None);
        for level in DB::CERTIFICATION.levels {
            match self.write_at(level, &table).await {
                Ok(()) => usable.push(level),
                Err(obstacle) => refusal = refusal.or(Some(obstacle)),
            }
        }
        self.leave().await;
        if let (Some(weakest), Some(strongest)) = (usable.first(), usable.last()) {
            self.levels = [weakest, strongest];
            return Ok(());
        }
        Err(refusal.unwrap_or_else(|| CheckObstacle::Failed(String::from("there is no isolation level"))))
    }

    async fn write_at(&self, level: &CertifiedLevel, table: &str) -> Result<(), CheckObstacle> {
        let mut session = self.session().await?;
        session.begin(level).await?;
        session.run(&format!("UPDATE {table} SET value = value + 1 WHERE id = 1")).await?;
        session.run("COMMIT").await?;
        Ok(())
    }

    pub(super) fn pool(&self) -> &Pool<DB> {
        &self.nodes[0]
    }

    /// The strongest level at which a transaction can write.
    pub(super) fn strongest(&self) -> &'static CertifiedLevel {
        self.levels[1]
    }

    /// The weakest level at which a transaction can write.
    pub(super) fn weakest(&self) -> &'static CertifiedLevel {
        self.levels[0]
    }

    pub(super) fn watch(&self) -> &LockWatch<DB> {
        &self.watches[0]
    }

    pub(super) fn watch_on(&self, node: usize) -> &LockWatch<DB> {
        &self.watches[node]
    }

    /// The number of nodes.
    pub(super) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Begins a check, whose name appears in its statements.
    pub(super) fn enter(&self, check: &str) {
        check.clone_into(&mut self.check.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) async fn session(&self) -> Result<LabSession<DB>, CheckObstacle> {
        self.session_on(0).await
    }

    pub(super) async fn session_on(&self, node: usize) -> Result<LabSession<DB>, CheckObstacle> {
        let check = self.check.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (session, task) = LabSession::connect(&self.nodes[node], &check).await?;
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
        Ok(session)
    }

    /// Creates a table with the rows (1, 10) and (2, 20). Returns its name.
    pub(super) async fn table(&self) -> Result<String, CheckObstacle> {
        let table = self.new_name();
        let mut session = self.session().await?;
        session.run(&format!("CREATE TABLE {table} (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)")).await?;
        session.run(&format!("INSERT INTO {table} VALUES (1, 10), (2, 20)")).await?;
        Ok(table)
    }

    /// The same, which exists on all nodes.
    pub(super) async fn shared_table(&self) -> Result<String, CheckObstacle> {
        let table = self.table().await?;
        for node in 1..self.nodes() {
            self.await_rows(node, &table).await?;
        }
        Ok(table)
    }

    /// Waits until this node has both rows.
    async fn await_rows(&self, node: usize, table: &str) -> Result<(), CheckObstacle> {
        let mut session = self.session_on(node).await?;
        let (sql, start) = (format!("SELECT COUNT(*) FROM {table}"), Instant::now());
        loop {
            let answer = session.ask(&sql).await?;
            match (answer.integer(), answer.failure) {
                (Some(2), _) => return Ok(()),
                (_, failure) if start.elapsed() > ANSWER_LIMIT => {
                    let failure = failure.map_or_else(String::new, |failure| format!(" ({failure})"));
                    return Err(CheckObstacle::Failed(format!(
                        "node {} did not show the table of node 1 within {ANSWER_LIMIT:?}{failure}",
                        node + 1
                    )));
                }
                _ => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// The name of a table that does not exist yet.
    pub(super) fn new_name(&self) -> String {
        self.namespace.table(self.tables.fetch_add(1, Ordering::Relaxed))
    }

    /// Waits for the connections of a check, whose sessions have been dropped.
    pub(super) async fn leave(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let deadline = Instant::now() + CLOSE_LIMIT;
        for task in tasks {
            let abort = task.abort_handle();
            if timeout(deadline.saturating_duration_since(Instant::now()), task).await.is_err() {
                abort.abort();
            }
        }
    }

    /// Drops everything that the certification has created.
    pub(super) async fn clean_up(self) -> Result<(), CheckObstacle> {
        self.leave().await;
        self.namespace.clean_up().await
    }
}
