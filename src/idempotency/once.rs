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
use crate::tx::{ScopeFn, Tx, UnitFn};

use super::Outcome;
use super::claim::ClaimOutcome;
use super::claimant::{ClaimTerms, Claimant};
use super::error::KeyError;
use super::key::IdempotencyKey;
use super::sql::KeySql;

/// A run of a unit of work that happens at most once for its key: what
/// [`IdempotencyExt::once`](super::IdempotencyExt::once) begins.
///
/// # How it works
///
/// The first statement of the transaction writes the row of the key; the last one stores the response in it,
/// as JSON. A twin that sends the same key meanwhile waits for the row, and finds the response when it is
/// there. When a transaction does not commit, for whatever reason, its key goes with it.
///
/// When the answer to the commit is lost, the run asks on another connection, by writing the key again:
/// either it is there, and so is the effect, or the first transaction cannot be stored any more and the unit
/// runs again. So a [commit unknown](crate::Error::is_commit_unknown) is left only where time or attempts ran
/// out first; sending the same key again tells what became of it. [`Options::resolve_commits`] has nothing to
/// add.
///
/// It works at every isolation level. A conflict that is met on the key runs the whole unit again, as one
/// that is met anywhere else.
///
/// # Default
///
/// - a twin is waited for 1 s at a time ([`wait`](Self::wait))
/// - the key and the response expire after 24 h ([`expires_after`](Self::expires_after))
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

    /// How long a twin is waited for that is at work on the same key, before the answer is
    /// [`InProgress`](Outcome::InProgress). MySQL and MariaDB count in whole seconds, rounded up.
    ///
    /// Who waits holds a connection. The limits of the transaction hold as well: its deadline, and the lock
    /// timeout of the options where that is shorter.
    ///
    /// On SQLite a twin waits for its turn like everybody else who writes, within the deadline, and
    /// `InProgress` is not answered: who gets no turn in time is told of a
    /// [conflict](crate::Error::is_conflict).
    pub fn wait(mut self, limit: Duration) -> Self {
        self.terms.wait = Some(limit);
        self
    }

    /// How long the key and its response are kept, in whole seconds, rounded up, by the clock of the
    /// database. A century is the longest.
    ///
    /// It must be longer than clients go on sending, and longer than the deadline of the run: a key that has
    /// expired is a new one. What has expired is removed by [`Keys::purge`](super::Keys::purge).
    pub fn expires_after(mut self, life: Duration) -> Self {
        self.terms.expires_after = life;
        self
    }

    /// Runs the closure as [`TransactorExt::run`](crate::TransactorExt::run) does, unless it has been run for
    /// this key before. Each call is a run of its own, also of the same value: the second one replays the
    /// first.
    ///
    /// The response is stored as JSON, and read back for those who come later: it must survive that journey
    /// unchanged.
    ///
    /// # Why does an error leave no key?
    ///
    /// An `Err` rolls back, so there is no effect that must not be repeated, and whatever was in the way may
    /// be gone when the request is sent again. An answer that *is* final, and is to be the same for everybody
    /// who sends the request again ("the card was declined"), is an `Ok`: make it part of the response's
    /// type.
    ///
    /// # Errors
    ///
    /// The closure's own error; or this crate's, turned into the closure's error type. [`KeyError`] is among
    /// them.
    ///
    /// # Panics
    ///
    /// When the closure does, and outside of a Tokio runtime; there is no key then, and no effect.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time. A commit that was sent is finished in the background; sending the same key
    /// again tells what became of it.
    #[track_caller]
    pub fn run<F, T, E>(
        &self,
        unit: F,
    ) -> impl Future<Output = Result<Outcome<T>, E>> + Send + use<'a, DB, X, F, T, E>
    where
        F: UnitFn<DB, T, E>,
        T: Serialize + DeserializeOwned + Send,
        E: From<Error> + Send,
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

/// A closure as a unit that writes its key first, with what the last attempt came to.
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
        let (output, decision) = match self.claimant.claim(tx).await {
            Ok(ClaimOutcome::Ours) => {
                let output = fresh(tx, &self.claimant, self.body.clone()).await;
                let decision = if output.is_ok() { Decision::Commit } else { Decision::RollBack };
                (output, decision)
            }
            Ok(ClaimOutcome::Earlier(response)) => {
                (read(&response).map(Outcome::Fresh), Decision::AlreadyCommitted)
            }
            Ok(ClaimOutcome::Others(response)) => {
                (read(&response).map(Outcome::Replayed), Decision::RollBack)
            }
            Ok(ClaimOutcome::Mismatch) => (Ok(Outcome::Mismatch), Decision::RollBack),
            Ok(ClaimOutcome::Unanswered) => (Ok(Outcome::InProgress), Decision::Abandon),
            // Running it again would wait again.
            Err(error) if error.is_lock_timeout() => (Ok(Outcome::InProgress), Decision::Abandon),
            Err(error) => (Err(error.into()), Decision::RollBack),
        };
        // A fresh one is not certain yet: its commit tells. The others change nothing, and nothing changes
        // them.
        if let (Some(observation), Decision::RollBack | Decision::Abandon, Ok(outcome)) =
            (tx.run_clock(), &decision, &output)
        {
            observation.notify_of_key(outcome.as_key_outcome());
        }
        self.output = Some(output);
        decision
    }

    fn finds_its_commits(&self) -> bool {
        true
    }
}

/// A part of a unit of work that is done once for a key, in a transaction that somebody else began: what
/// [`once_in`](super::once_in) begins. For consumers of messages, hooks of other services, steps of jobs.
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
///             .run(async |tx| {
///                 sqlx::query("INSERT INTO invoice (message) VALUES ($1)").bind(message).execute(&mut *tx).await?;
///                 Ok::<_, Error>(())
///             })
///             .await
///     })
///     .await?;
/// # Ok(()) }
/// ```
///
/// The key is stored if the transaction is. The part runs in a [savepoint](Tx::savepoint), so that its `Err`
/// leaves neither an effect nor a key, whatever the rest of the unit makes of it.
///
/// # What is different from `once`
///
/// A twin is waited for as long as the transaction waits for locks. In vain, that is a lock timeout, which
/// ends the transaction, and the whole unit is run again while time lasts.
/// [`InProgress`](Outcome::InProgress) says that this very transaction is at work on the key.
///
/// What becomes of a commit whose answer is lost is the business of who began the transaction
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

    /// How long the key and its response are kept: [`Once::expires_after`]. The default is 24 h.
    pub fn expires_after(mut self, life: Duration) -> Self {
        self.terms.expires_after = life;
        self
    }

    /// Runs the closure, unless it has been run for this key before.
    ///
    /// # Errors
    ///
    /// The closure's own; or this crate's, turned into its type.
    ///
    /// # Cancellation
    ///
    /// The transaction is over.
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
            ClaimOutcome::Earlier(response) | ClaimOutcome::Others(response) => {
                let response = read(&response)?;
                tell_when_over(tx, KeyOutcome::Replayed);
                Ok(Outcome::Replayed(response))
            }
            ClaimOutcome::Mismatch => {
                tell_when_over(tx, KeyOutcome::Mismatch);
                Ok(Outcome::Mismatch)
            }
            ClaimOutcome::Unanswered => {
                tell_when_over(tx, KeyOutcome::InProgress);
                Ok(Outcome::InProgress)
            }
        })
    }
}

/// Runs what is to be run, and stores what it answers.
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
    if let Some(observation) = tx.run_clock().cloned() {
        tx.on_commit(async move { observation.notify_of_key(KeyOutcome::Fresh) });
    }
    Ok(Outcome::Fresh(response))
}

/// Tells those who watch of an answer that holds however the transaction ends, once that is known: an attempt
/// that is run again may get another one.
fn tell_when_over<DB: Backend>(tx: &mut Tx<DB>, outcome: KeyOutcome) {
    if let Some(observation) = tx.run_clock().cloned() {
        let on_rollback = observation.clone();
        tx.on_commit(async move { observation.notify_of_key(outcome) });
        tx.on_rollback(async move { on_rollback.notify_of_key(outcome) });
    }
}

fn read<T: DeserializeOwned, E: From<Error>>(response: &str) -> Result<T, E> {
    serde_json::from_str(response).map_err(|error| Error::from(KeyError::Unreadable(error)).into())
}
