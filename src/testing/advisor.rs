//! Finds out by exploration under which strategies units of work are right.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::sync::Arc;

use futures_core::future::BoxFuture;
use sqlx::Pool;

use crate::backend::Backend;
use crate::error::Error;
use crate::isolation::Isolation;
use crate::strategy::Strategy;
use crate::transactor::{Options, Transactor, TransactorExt as _};
use crate::tx::UnitFn;

use super::explore::{ClientResult, as_text};

mod advice;
mod candidate;
mod display;
mod paths;
mod recommend;
mod run;
#[cfg(feature = "serde")]
mod serialization;
mod sets;

pub use advice::{Advice, AdviceCell, UnitAdvice};
use candidate::Candidate;
pub use run::AdvisorProgress;

/// Starts building an advisor on `pool`: see [`Advisor`].
pub fn advise<'a, DB: Backend>(pool: &Pool<DB>) -> Advisor<'a, DB> {
    Advisor {
        pool: pool.clone(),
        set_up: Box::new(|_| Box::pin(async { Ok(()) })),
        units: Vec::new(),
        candidates: Vec::new(),
        max_units: 2,
        skips_equivalent: false,
        tables: Vec::new(),
        ignored: Vec::new(),
        ids: Vec::new(),
        max_schedules: None,
        max_preemptions: None,
        progress: None,
    }
}

/// Explores units of work under several strategies, and recommends the cheapest strategy under which no
/// interleaving goes wrong.
///
/// ```
/// # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use atomically::testing::advise;
/// use atomically::{Error, Pessimistic, Tx};
/// use sqlx::{Sqlite, SqlitePool};
///
/// async fn checkout(tx: &mut Tx<Sqlite>) -> Result<i64, Error> {
///     let read = tx.for_update("SELECT stock FROM product");
///     let stock: i64 = sqlx::query_scalar(read).fetch_one(&mut *tx).await?;
///     sqlx::query("UPDATE product SET stock = $1").bind(stock - 1).execute(&mut *tx).await?;
///     Ok(stock - 1)
/// }
///
/// # let directory = tempfile::tempdir()?;
/// # let file = format!("sqlite:{}?mode=rwc", directory.path().join("shop.db").display());
/// let pool = SqlitePool::connect(&file).await?;
/// sqlx::query("CREATE TABLE product (stock INTEGER)").execute(&pool).await?;
///
/// let advice = advise(&pool)
///     .set_up(|pool| async move {
///         sqlx::raw_sql("DELETE FROM product; INSERT INTO product VALUES (10)").execute(&pool).await
///     })
///     .unit("checkout", checkout)
///     .run()
///     .await?;
/// println!("{advice}");
/// advice.assert_recommends("checkout", Pessimistic::default());
/// # Ok(()) }
/// # #[cfg(not(feature = "sqlite"))] fn main() {}
/// ```
///
/// # How it works
///
/// Each pair of units runs under each strategy, and so does each unit beside itself. Every pair is
/// [explored](super::explore): its statements run in every order on the real database. A schedule is wrong if
/// it [matches no serial order](super::Explore::serializable) of the units, so no invariant is needed. Wrong
/// schedules come with a counterexample that can be [replayed](Self::replay).
///
/// # Recommendation
///
/// A strategy is right for a unit if no schedule is wrong in any set with that unit. Of these, the cheapest
/// is recommended: the one with the fewest wasted attempts per schedule, then the fewest waits of one unit
/// for another, then the fewest round trips, then the first in the list of strategies. If the units of a set
/// are to run under different strategies, this combination is explored as well. If it goes wrong, all units
/// get the strategy that is cheapest for all of them.
///
/// Waits are counted, not timed: during an exploration, a wait takes as long as the explorer needs.
///
/// # Strategies
///
/// By default, these are [`Atomic`](crate::Atomic) for units of one statement,
/// [`Optimistic`](crate::Optimistic), [`Adaptive`](crate::Adaptive), [`Pessimistic`](crate::Pessimistic),
/// `Optimistic` at REPEATABLE READ, and [`Serializable`](crate::Serializable). SQLite is always serializable,
/// so the level is not varied there. `Adaptive` chooses between the plans of `Optimistic` and `Pessimistic`;
/// it is explored as each combination of the two. [`strategy`](Self::strategy) replaces the list.
///
/// # Limits
///
/// Those of [`Explore`](super::Explore) and of [`Explore::serializable`](super::Explore::serializable). The
/// units run on the data of the set-up only. [`Advice::not_covered`] lists what was left out, and the
/// [guide](crate::guide::advisor) says what follows from that.
#[must_use = "an advisor does nothing until `run` or `replay` is called"]
pub struct Advisor<'a, DB: Backend> {
    pool: Pool<DB>,
    set_up: SetUpFn<'a, DB>,
    units: Vec<AdvisedUnit<'a, DB>>,
    candidates: Vec<Candidate<DB>>,
    max_units: usize,
    skips_equivalent: bool,
    tables: Vec<String>,
    ignored: Vec<String>,
    ids: Vec<Vec<String>>,
    max_schedules: Option<usize>,
    max_preemptions: Option<usize>,
    progress: Option<ProgressFn<'a>>,
}

type SetUpFn<'a, DB> = Box<dyn Fn(Pool<DB>) -> BoxFuture<'a, Result<(), String>> + Send + Sync + 'a>;
type UnitRunner<'a, DB> =
    Box<dyn Fn(Arc<dyn Transactor<DB>>, Options) -> BoxFuture<'a, ClientResult> + Send + Sync + 'a>;
type ProgressFn<'a> = Box<dyn Fn(&AdvisorProgress) + Send + Sync + 'a>;

struct AdvisedUnit<'a, DB: Backend> {
    name: String,
    run: UnitRunner<'a, DB>,
}

impl<'a, DB: Backend> Advisor<'a, DB> {
    /// Sets the function that runs before each schedule and resets the tables to their initial state.
    pub fn set_up<F, Fut, T, E>(mut self, set_up: F) -> Self
    where
        F: Fn(Pool<DB>) -> Fut + Send + Sync + 'a,
        Fut: Future<Output = Result<T, E>> + Send + 'a,
        E: Display,
    {
        self.set_up = Box::new(move |pool| {
            let done = set_up(pool);
            Box::pin(async move { done.await.map(|_| ()).map_err(|error| error.to_string()) })
        });
        self
    }

    /// Adds a unit of work.
    pub fn unit<F, T, E>(mut self, name: impl Into<String>, unit: F) -> Self
    where
        F: UnitFn<DB, T, E> + 'a,
        T: Debug + Send + 'a,
        E: From<Error> + Display + Send + 'a,
    {
        let run: UnitRunner<'a, DB> = Box::new(move |transactor, options| {
            let unit = unit.clone();
            Box::pin(async move { as_text(transactor.with(options).run(unit).await) })
        });
        self.units.push(AdvisedUnit { name: name.into(), run });
        self
    }

    /// Explores this strategy instead of the default ones. Can be called several times.
    pub fn strategy(mut self, strategy: impl Strategy + 'static) -> Self {
        self.candidates.push(Candidate::new(&self.pool, strategy, None));
        self
    }

    /// Explores this strategy at another isolation level than its own. Can be called several times.
    pub fn strategy_at(mut self, strategy: impl Strategy + 'static, isolation: Isolation) -> Self {
        self.candidates.push(Candidate::new(&self.pool, strategy, Some(isolation)));
        self
    }

    /// Runs one of the schedules that differ only in the order of independent steps: see
    /// [`Explore::skip_equivalent`](super::Explore::skip_equivalent).
    ///
    /// The figures of the table then count each group of such schedules once.
    pub fn skip_equivalent(mut self) -> Self {
        self.skips_equivalent = true;
        self
    }

    /// Explores three units at a time as well.
    pub fn triples(mut self) -> Self {
        self.max_units = 3;
        self
    }

    /// Names the tables to compare: see [`Explore::tables`](super::Explore::tables).
    pub fn tables<I: IntoIterator<Item = S>, S: Into<String>>(mut self, tables: I) -> Self {
        self.tables.extend(tables.into_iter().map(Into::into));
        self
    }

    /// Leaves a column out of the comparison: see [`Explore::ignoring`](super::Explore::ignoring).
    pub fn ignoring(mut self, column: &str) -> Self {
        self.ignored.push(column.to_owned());
        self
    }

    /// Compares generated ids up to renaming: see [`Explore::renaming`](super::Explore::renaming).
    pub fn renaming<'n>(mut self, columns: impl IntoIterator<Item = &'n str>) -> Self {
        self.ids.push(columns.into_iter().map(str::to_owned).collect());
        self
    }

    /// Limits how many schedules of a set are run under a strategy: see
    /// [`Explore::max_schedules`](super::Explore::max_schedules).
    pub fn max_schedules(mut self, schedules: usize) -> Self {
        self.max_schedules = Some(schedules);
        self
    }

    /// Limits the number of preemptions in a schedule: see
    /// [`Explore::max_preemptions`](super::Explore::max_preemptions).
    pub fn max_preemptions(mut self, preemptions: usize) -> Self {
        self.max_preemptions = Some(preemptions);
        self
    }

    /// Calls `notify` before each set is explored under a strategy.
    pub fn on_progress(mut self, notify: impl Fn(&AdvisorProgress) + Send + Sync + 'a) -> Self {
        self.progress = Some(Box::new(notify));
        self
    }
}

impl<DB: Backend> Debug for Advisor<'_, DB> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let units: Vec<&str> = self.units.iter().map(|unit| unit.name.as_str()).collect();
        let strategies: Vec<&str> =
            self.candidates.iter().map(|candidate| candidate.label.as_str()).collect();
        f.debug_struct("Advisor")
            .field("units", &units)
            .field("strategies", &strategies)
            .finish_non_exhaustive()
    }
}
