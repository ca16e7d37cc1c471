//! The schema of a certification, or the prefix of its tables, and how they are removed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::Pool;
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::obstacle::CheckObstacle;
use super::session::{LabSession, succeeded};
use crate::backend::Backend;

/// How often dropping is tried, and the pause between two tries: a session that was cut off may keep its
/// locks for a while.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(500);

/// Where the tables are. If it is dropped before [`clean_up`](Self::clean_up) has succeeded, a task cleans
/// up.
pub(super) struct Namespace<DB: Backend> {
    pool: Pool<DB>,
    name: String,
    /// Whether it is a schema or a database of its own. Otherwise, the tables share a prefix.
    is_own: bool,
    tables: Arc<Mutex<Vec<String>>>,
    is_clean: bool,
}

impl<DB: Backend> Namespace<DB> {
    /// Creates a schema or a database of its own, if that is offered and permitted.
    pub(super) async fn create(pool: &Pool<DB>) -> Result<Self, CheckObstacle> {
        let name = format!("atomically_certify_{:012x}", rand::random::<u64>() & 0xffff_ffff_ffff);
        let mut namespace =
            Self { pool: pool.clone(), name, is_own: false, tables: Arc::default(), is_clean: false };
        if let Some(own) = DB::CERTIFICATION.namespace {
            let (mut session, _) = LabSession::<DB>::connect(pool, "namespace").await?;
            // Until the answer is known, it has to be dropped.
            namespace.is_own = true;
            let answer = session.ask(&own.create.replace("{}", &namespace.name)).await?;
            namespace.is_own = answer.failure.is_none();
        }
        Ok(namespace)
    }

    /// The name of the table with this number.
    pub(super) fn table(&self, number: usize) -> String {
        let separator = if self.is_own { "." } else { "_" };
        let table = format!("{}{separator}t{number}", self.name);
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).push(table.clone());
        table
    }

    /// Drops the schema, or the tables.
    pub(super) async fn clean_up(mut self) -> Result<(), CheckObstacle> {
        let done = remove(&self.pool, self.drops()).await;
        self.is_clean = done.is_ok();
        done
    }

    fn drops(&self) -> Vec<String> {
        match DB::CERTIFICATION.namespace {
            Some(own) if self.is_own => vec![own.drop.replace("{}", &self.name)],
            _ => {
                let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
                tables.iter().map(|table| format!("DROP TABLE IF EXISTS {table}")).collect()
            }
        }
    }
}

async fn remove<DB: Backend>(pool: &Pool<DB>, drops: Vec<String>) -> Result<(), CheckObstacle> {
    let mut done = Ok(());
    for number in 0..TRIES {
        if number > 0 {
            sleep(PAUSE).await;
        }
        done = drop_all(pool, &drops).await;
        if done.is_ok() {
            break;
        }
    }
    done
}

async fn drop_all<DB: Backend>(pool: &Pool<DB>, drops: &[String]) -> Result<(), CheckObstacle> {
    let (mut session, _) = LabSession::<DB>::connect(pool, "namespace").await?;
    let [before, after] = DB::CERTIFICATION.limited_drop;
    for sql in drops {
        let sql = format!("{before}{sql}{after}");
        let answer = session.ask(&sql).await?;
        succeeded::<DB>(&sql, answer)?;
    }
    Ok(())
}

impl<DB: Backend> Drop for Namespace<DB> {
    fn drop(&mut self) {
        if self.is_clean {
            return;
        }
        let (pool, drops) = (self.pool.clone(), self.drops());
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { remove(&pool, drops).await });
        }
    }
}
