use std::future::Future;
use std::marker::PhantomData;
use std::panic::Location;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backend::Backend;
use crate::error::Error;
use crate::events::KeyOutcome;
use crate::transactor::{Decision, Ended, Options, Transactor, Unit};
use crate::tx::{ScopeFn, Tx, UnitError, UnitFn};

use super::Outcome;
use super::claim::ClaimOutcome;
use super::claimant::{ClaimTerms, Claimant};
use super::error::KeyError;
use super::key::IdempotencyKey;
use super::sql::KeySql;

/// Runs a unit of work that commits at most once for its key:
/// [`IdempotencyExt::once`](super::IdempotencyExt::once) returns it.
///
/// # How it works
///
/// The first statement of the transaction writes the key's row; the last one stores the response in it, as
/// JSON. A concurrent request with the same key (a *twin*) waits for the row, and finds the response once the
/// first transaction has committed. If that transaction does not commit, for whatever reason, the key is not
/// stored either.
///
/// If the response to COMMIT is lost, the run writes the key again on another connection. Either the key is
/// there, and so is the effect, or the first transaction can no longer commit and the unit is run again. So
/// the run returns a [commit unknown](crate::Error::is_commit_unknown) only if its time or attempts run out
/// before that; sending the same key again then reveals the outcome. [`Options::resolve_commits`] is not
/// needed.
///
/// This works at every isolation level. As with any other row, a conflict on the key's row makes the whole
/// unit run again.
///
/// # Default
///
/// - wait for a twin: 1 s ([`wait`](Self::wait))
/// - expiry of the key and its response: after 24 h ([`expires_after`](Self::expires_after))
#[derive(Debug)]
#[must_use = "nothing is run before `run`"]
pub struct Once<'a, DB, X: ?Sized> {
    transactor: &'a X,
    terms: ClaimTerms,
    database: PhantomData<fn() -> DB>,
}

impl<'a, DB: Backend, X: Transactor<DB> + ?Sized> Once<'a, DB, X> {
    pub(super) fn new(transactor: &'a X, key: &IdempotencyKey) -> Self {
        Self { transactor, terms: ClaimTerms::new(*key), database: PhantomData }
    }

    /// Sets how long to wait for a twin before returning [`InProgress`](Outcome::InProgress). The default is
    /// 1 s. MySQL and MariaDB round up to whole seconds.
    ///
    /// A waiting run holds a connection. The limits of the transaction apply too: its deadline, and the lock
    /// timeout of the options if that is shorter.
    ///
    /// On SQLite a twin waits like any other writer, within the deadline. It never returns `InProgress`: if
    /// it cannot write in time, it fails with a [conflict](crate::Error::is_conflict).
    pub fn wait(mut self, limit: Duration) -> Self {
        self.terms.wait = Some(limit);
        self
    }

    /// Sets how long the key and its response are kept, by the database's clock. The default is 24 h. The
    /// value is rounded up to whole seconds and limited to a century.
    ///
    /// It must be longer than clients retry, and longer than the deadline of the run: an expired key counts
    /// as a new one. [`Keys::purge`](super::Keys::purge) deletes expired keys.
    pub fn expires_after(mut self, life: Duration) -> Self {
        self.terms.expires_after = life;
        self
    }

    /// Runs the closure like [`TransactorExt::run`](crate::TransactorExt::run), unless it has committed for
    /// this key before. Each call is a run of its own, even on the same value: the second one replays the
    /// first.
    ///
    /// The response is stored as JSON and deserialized for later requests, so it must be the same after a
    /// round trip through JSON.
    ///
    /// # Why does an error leave no key?
    ///
    /// An `Err` rolls back, so there is no effect that must not be repeated, and the cause may be gone when
    /// the request is sent again. A result that *is* final, such as a declined card, is an `Ok`: make it part
    /// of the response type.
    ///
    /// # Errors
    ///
    /// Returns the closure's own error; or this crate's, converted into the closure's error type, including
    /// [`KeyError`].
    ///
    /// # Panics
    ///
    /// If the closure panics, and outside a Tokio runtime. In both cases neither the key nor an effect is
    /// stored.
    ///
    /// # Cancellation
    ///
    /// The future can be dropped at any time. A COMMIT that was sent is finished in the background; sending
    /// the same key again reveals the outcome.
    #[track_caller]
    pub fn run<F, T, E>(
        &self,
        unit: F,
    ) -> impl Future<Output = Result<Outcome<T>, E>> + Send + use<'a, DB, X, F, T, E>
    where
        F: UnitFn<DB, T, E>,
        T: Serialize + DeserializeOwned + Send,
        E: UnitError + Send,
    {
        let Self { transactor, terms, .. } = *self;
        let claimant = terms.new_run();
        let options = Options::new().started_at(Location::caller());
        async move {
            let mut unit = Keyed { body: unit, claimant, output: None };
            let ended = transactor.transact(&options, &mut unit).await;
            match (ended, unit.output) {
                (Err(error), _) => Err(error.into()),
                (Ok(Ended::RolledBack), Some(Ok(Outcome::Fresh(_)))) | (Ok(_), None) => {
                    Err(Error::transactor_broke_its_contract().into())
                }
                (Ok(_), Some(output)) => output,
            }
        }
    }
}

/// A unit of work that writes its key first, with the result of its last attempt.
struct Keyed<F, T, E> {
    body: F,
    claimant: Claimant,
    output: Option<Result<Outcome<T>, E>>,
}

#[async_trait]
impl<DB, F, T, E> Unit<DB> for Keyed<F, T, E>
where
    DB: Backend,
    F: UnitFn<DB, T, E>,
    T: Serialize + DeserializeOwned + Send,
    E: From<Error> + Send,
{
    async fn attempt(&mut self, tx: &mut Tx<DB>) -> Decision {
        self.output = None;
        let claimant = self.claimant.of_attempt(tx.attempt());
        let claimed = claimant.claim(tx).await;
        if let Ok(ClaimOutcome::Ours | ClaimOutcome::Others(_) | ClaimOutcome::Mismatch) = &claimed {
            tx.has_fenced_earlier();
        }
        let (output, decision) = match claimed {
            Ok(ClaimOutcome::Ours) => {
                let output = fresh(tx, &claimant, self.body.clone()).await;
                let decision = if output.is_ok() { Decision::Commit } else { Decision::RollBack };
                (output, decision)
            }
            Ok(ClaimOutcome::Earlier(attempt, response)) => {
                tx.has_found_attempt(attempt);
                (read(&response).map(Outcome::Fresh), Decision::AlreadyCommitted)
            }
            Ok(ClaimOutcome::Others(response)) => {
                (read(&response).map(Outcome::Replayed), Decision::RollBack)
            }
            Ok(ClaimOutcome::Mismatch) => (Ok(Outcome::Mismatch), Decision::RollBack),
            Ok(ClaimOutcome::Unanswered) => (Ok(Outcome::InProgress), Decision::Abandon),
            // The time to wait for the twin has passed, so this is not retried.
            Err(error) if error.is_lock_timeout() => (Ok(Outcome::InProgress), Decision::Abandon),
            Err(error) => (Err(error.into()), Decision::RollBack),
        };
        // A fresh outcome is reported once it has committed. The others do not depend on a commit.
        if let (Some(run_clock), Decision::RollBack | Decision::Abandon, Ok(outcome)) =
            (tx.run_clock(), &decision, &output)
        {
            if matches!(outcome, Outcome::Replayed(_)) {
                run_clock.replayed();
            }
            run_clock.notify_of_key(outcome.as_key_outcome());
        }
        self.output = Some(output);
        decision
    }

    fn finds_its_commits(&self) -> bool {
        true
    }
}

/// Runs part of a unit of work once for a key, in the caller's transaction: [`once_in`](super::once_in)
/// returns it. For message consumers, webhooks, and the steps of jobs.
///
/// ```
/// # use atomically::idempotency::{IdempotencyKey, once_in};
/// # use atomically::{Error, Pessimistic, TransactorExt as _};
/// # async fn example(pool: sqlx::PgPool, message: i64) -> Result<(), Box<dyn std::error::Error>> {
/// let key = IdempotencyKey::new("invoices", message.to_string())?;
/// Pessimistic::default()
///     .on(&pool)
///     .run(async |tx| {
///         once_in(tx, &key)
///             .run(async |tx| -> Result<_, Error> {
///                 let insert = "INSERT INTO invoice (message) VALUES ($1)";
///                 sqlx::query(insert).bind(message).execute(&mut *tx).await?;
///                 Ok(())
///             })
///             .await
///     })
///     .await?;
/// # Ok(()) }
/// ```
///
/// The key is stored if the transaction commits. The part runs in a [savepoint](Tx::savepoint), so an `Err`
/// leaves neither an effect nor a key, even if the rest of the unit continues.
///
/// # Differences from `once`
///
/// The wait for a twin is limited by the lock timeout of the transaction. If it expires, the transaction
/// fails with a lock timeout, and the whole unit is run again while time remains.
/// [`InProgress`](Outcome::InProgress) means that this transaction itself has already claimed the key.
///
/// A commit whose response is lost is resolved as the caller's transaction is configured
/// ([`Options::resolve_commits`]).
#[derive(Debug)]
#[must_use = "nothing is run before `run`"]
pub struct OnceIn<'t, DB: Backend> {
    tx: &'t mut Tx<DB>,
    terms: ClaimTerms,
}

impl<'t, DB: Backend> OnceIn<'t, DB> {
    pub(super) fn new(tx: &'t mut Tx<DB>, key: &IdempotencyKey) -> Self {
        Self { tx, terms: ClaimTerms { wait: None, ..ClaimTerms::new(*key) } }
    }

    /// Sets how long the key and its response are kept, like [`Once::expires_after`]. The default is 24 h.
    pub fn expires_after(mut self, life: Duration) -> Self {
        self.terms.expires_after = life;
        self
    }

    /// Runs the closure, unless it has committed for this key before.
    ///
    /// # Errors
    ///
    /// Returns the closure's own error; or this crate's, converted into the closure's error type.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the transaction is rolled back.
    pub fn run<F, T, E>(self, part: F) -> impl Future<Output = Result<Outcome<T>, E>> + Send
    where
        F: Send + ScopeFn<DB, T, E>,
        T: Serialize + DeserializeOwned + Send,
        E: From<Error> + Send,
    {
        let Self { tx, terms } = self;
        let claimant = terms.new_run();
        tx.savepoint(async move |tx: &mut Tx<DB>| match claimant.claim(tx).await? {
            ClaimOutcome::Ours => fresh(tx, &claimant, part).await,
            ClaimOutcome::Earlier(_, response) | ClaimOutcome::Others(response) => {
                let response = read(&response)?;
                report_at_end(tx, KeyOutcome::Replayed);
                Ok(Outcome::Replayed(response))
            }
            ClaimOutcome::Mismatch => {
                report_at_end(tx, KeyOutcome::Mismatch);
                Ok(Outcome::Mismatch)
            }
            ClaimOutcome::Unanswered => {
                report_at_end(tx, KeyOutcome::InProgress);
                Ok(Outcome::InProgress)
            }
        })
    }
}

/// Runs the closure and stores its response.
async fn fresh<DB, F, T, E>(tx: &mut Tx<DB>, claimant: &Claimant, body: F) -> Result<Outcome<T>, E>
where
    DB: Backend,
    F: ScopeFn<DB, T, E>,
    T: Serialize,
    E: From<Error>,
{
    let response = body(tx).await?;
    let written =
        serde_json::to_string(&response).map_err(|error| Error::from(KeyError::Unwritable(error)))?;
    let row = vec![claimant.terms.key.digest.to_vec(), claimant.run.to_vec()];
    let sql = KeySql::of::<DB>();
    let stored = sql.change(tx, sql.store_response, Some(written), row).await.map_err(Error::from)?;
    tx.expect_one(stored)?;
    if let Some(run_clock) = tx.run_clock().cloned() {
        tx.on_commit(async move { run_clock.notify_of_key(KeyOutcome::Fresh) });
    }
    Ok(Outcome::Fresh(response))
}

/// Reports an outcome to the observers once the transaction has ended: an attempt that is retried may get
/// another outcome.
fn report_at_end<DB: Backend>(tx: &mut Tx<DB>, outcome: KeyOutcome) {
    if let Some(run_clock) = tx.run_clock().cloned() {
        let on_rollback = run_clock.clone();
        tx.on_commit(async move { run_clock.notify_of_key(outcome) });
        tx.on_rollback(async move { on_rollback.notify_of_key(outcome) });
    }
}

fn read<T: DeserializeOwned, E: From<Error>>(response: &str) -> Result<T, E> {
    serde_json::from_str(response).map_err(|error| Error::from(KeyError::Unreadable(error)).into())
}
