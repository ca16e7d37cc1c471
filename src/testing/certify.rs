//! Certifies a server: which promises it keeps, with evidence.

use std::fmt::{self, Debug};
use std::time::Duration;

use sqlx::Pool;
use tokio::time::timeout;

use crate::backend::Backend;
use crate::error::Error;
use crate::failure::{Failure, FailureKind};
use crate::strategies::Atomic;

mod checks;
mod difference;
mod display;
mod expectation;
mod json;
mod lab;
mod namespace;
mod obstacle;
mod progress;
mod script;
mod session;
mod sheet;
mod watch;

use checks::{CertifyCheck, CheckResult};
pub use difference::SheetDifference;
use lab::Lab;
use namespace::Namespace;
use obstacle::CheckObstacle;
pub use progress::CertifyProgress;
use session::LabSession;
pub use sheet::{Sheet, SheetEntry, SheetFinding, Standing};

/// How long one check may take.
const CHECK_LIMIT: Duration = Duration::from_secs(60);

/// Finds out which promises the server behind this pool keeps.
///
/// Run it against the database that your service uses, through the same pooler, before you rely on it, and
/// again after an upgrade:
///
/// ```
/// # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use atomically::testing::{Standing, certify};
/// # use sqlx::SqlitePool;
///
/// # let directory = tempfile::tempdir()?;
/// # let file = format!("sqlite:{}?mode=rwc", directory.path().join("shop.db").display());
/// let pool = SqlitePool::connect(&file).await?;
/// let sheet = certify(&pool).run().await?;
/// println!("{sheet}");
/// sheet.assert_no_findings();
/// sheet.assert_held(["commit.stored", "isolation.immediate.lost-update"]);
/// assert_eq!(sheet.standing("locks.update"), Some(Standing::NotOffered));
/// # Ok(()) }
/// # #[cfg(not(feature = "sqlite"))] fn main() {}
/// ```
pub fn certify<DB: Backend>(pool: &Pool<DB>) -> Certification<'_, DB> {
    Certification { pool: pool.clone(), nodes: Vec::new(), only: Vec::new(), progress: None }
}

/// A certification, to be [run](Self::run): see [`certify`].
///
/// # What it does
///
/// It opens connections of its own with the options of the pool, without the pool's callbacks, and creates a
/// schema (on MySQL and MariaDB, a database) with a random name that begins with `atomically_certify_`. Where
/// that is not permitted, its tables have such names instead. Everything is dropped at the end, also after a
/// failure. If the future is dropped, a task of the runtime cleans up. Each statement ends with a comment
/// that names its check, so that the server's log shows which check has sent it.
///
/// Each check has an id that does not change, and says whether a promise is held, not held, or not offered.
/// Two or three transactions run statements in a fixed order; whether one of them waits is read from the
/// server where it reports that, and otherwise concluded from the time that it takes. No wait is unlimited.
///
/// # Findings
///
/// An entry that is not what this crate believes of the [`Engine`](crate::Engine) is a
/// [finding](Sheet::findings). Not every promise that is not held is one: at READ COMMITTED, the crate does
/// not rely on repeatable reads.
#[must_use = "a certification does nothing until `run` is called"]
pub struct Certification<'a, DB: Backend> {
    pool: Pool<DB>,
    nodes: Vec<Pool<DB>>,
    only: Vec<String>,
    progress: Option<NotifyFn<'a>>,
}

type NotifyFn<'a> = Box<dyn Fn(&CertifyProgress) + Send + Sync + 'a>;

impl<'a, DB: Backend> Certification<'a, DB> {
    /// Adds pools of further addresses of the same cluster, and the checks of what holds between them.
    pub fn nodes(mut self, nodes: impl IntoIterator<Item = Pool<DB>>) -> Self {
        self.nodes.extend(nodes);
        self
    }

    /// Runs only the checks whose id begins with one of these texts: `locks.` for all about locks.
    pub fn only<'i>(mut self, ids: impl IntoIterator<Item = &'i str>) -> Self {
        self.only.extend(ids.into_iter().map(str::to_owned));
        self
    }

    /// Calls `notify` before each check.
    pub fn progress(mut self, notify: impl Fn(&CertifyProgress) + Send + Sync + 'a) -> Self {
        self.progress = Some(Box::new(notify));
        self
    }

    /// Runs all checks, which takes seconds to a minute.
    ///
    /// # Errors
    ///
    /// The server cannot be reached, a SQLite database is in memory, or what was created could not be
    /// dropped. A check that fails is an entry of the sheet.
    pub async fn run(self) -> Result<Sheet, Error> {
        if DB::lives_in_its_connection(&self.pool.connect_options()) {
            return Err(Error::invalid_input(String::from(
                "a database in memory cannot be certified, because each connection has one of its own: use a \
                 file",
            )));
        }
        let engine = Atomic::default().on(&self.pool).engine().await?;
        let server = version(&self.pool).await.map_err(failed("could not certify"))?;
        let namespace = Namespace::create(&self.pool).await.map_err(failed("could not certify"))?;
        let pools: Vec<_> = [self.pool.clone()].into_iter().chain(self.nodes.iter().cloned()).collect();
        let nodes = pools.len();
        let mut lab = Lab::new(pools, namespace);
        if let Err(obstacle) = lab.find_levels().await {
            let _ = lab.clean_up().await;
            return Err(failed("could not certify")(obstacle));
        }
        let mut checks = checks::all::<DB>(nodes);
        checks.retain(|check| self.only.is_empty() || self.only.iter().any(|id| check.id.starts_with(id)));
        let mut entries: Vec<SheetEntry> = Vec::new();
        for (done, check) in checks.iter().enumerate() {
            if let Some(notify) = &self.progress {
                notify(&CertifyProgress { done, total: checks.len(), check: check.id.clone() });
            }
            let are_related = !entries
                .iter()
                .any(|entry| entry.id == checks::SAME_DATA && entry.standing != Standing::Held);
            let (standing, evidence) = if are_related || !check.id.starts_with("nodes.") {
                result(&lab, check).await
            } else {
                (Standing::NotChecked, format!("{} is not held", checks::SAME_DATA))
            };
            let (id, promise) = (check.id.clone(), check.promise.clone());
            let expected = expectation::of::<DB>(&engine, &id);
            entries.push(SheetEntry { id, promise, standing, expected, evidence });
        }
        lab.clean_up().await.map_err(failed("certified, but could not drop what was created"))?;
        Ok(Sheet { engine: engine.to_string(), server, nodes, entries })
    }
}

impl<DB: Backend> Debug for Certification<'_, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certification").field("nodes", &(1 + self.nodes.len())).finish_non_exhaustive()
    }
}

async fn version<DB: Backend>(pool: &Pool<DB>) -> Result<String, CheckObstacle> {
    let (mut session, _task) = LabSession::<DB>::connect(pool, "version").await?;
    let version = session.run(DB::CERTIFICATION.version_query).await?.texts.pop();
    Ok(version.unwrap_or_else(|| DB::NAME.to_owned()))
}

fn failed(context: &'static str) -> impl FnOnce(CheckObstacle) -> Error {
    move |obstacle| {
        let (CheckObstacle::Failed(text) | CheckObstacle::Unknown(text)) = obstacle;
        Error::failed(Failure::new(FailureKind::Other, text).in_context(context), None)
    }
}

/// Runs one check.
async fn result<DB: Backend>(lab: &Lab<DB>, check: &CertifyCheck<DB>) -> (Standing, String) {
    lab.enter(&check.id);
    let result: CheckResult = match timeout(CHECK_LIMIT, (check.run)(lab)).await {
        Ok(result) => result,
        Err(_) => Err(CheckObstacle::Failed(format!("not done within {CHECK_LIMIT:?}"))),
    };
    lab.leave().await;
    match result {
        Ok(result) => result,
        Err(CheckObstacle::Unknown(text)) => (Standing::NotOffered, text),
        Err(CheckObstacle::Failed(text)) => (Standing::NotChecked, text),
    }
}
