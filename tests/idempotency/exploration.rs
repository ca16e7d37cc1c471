//! Every interleaving of two twins, and every fault at every step.

use std::time::Duration;

use atomically::idempotency::{IdempotencyExt as _, Outcome, once_in};
use atomically::testing::{Client, Explore, Fault, Faults, Moment, assert_retry_safe, explore};
use atomically::{
    Adaptive, Atomic, Error, Isolation, Optimistic, Options, Pessimistic, PoolTransactor, Serializable,
    Strategy, Transactor, TransactorExt as _, Tx,
};
use sqlx::Pool;

use crate::keeps::{Keeps, effects, expire, key, ledger, stored_response, work};

async fn emptied<DB: Keeps>(pool: Pool<DB>) -> sqlx::Result<()> {
    for sql in ["DELETE FROM ledger", "DELETE FROM atomically_key"] {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await?;
    }
    Ok(())
}

/// Asserts that there is one effect, and that every response is that of the effect.
async fn one_effect_one_response<DB: Keeps>(pool: Pool<DB>) -> Result<(), String> {
    let fetch = async |sql| {
        let found = DB::pool_fetch(&pool, DB::sql(sql), &[]).await;
        found.map_err(|error: sqlx::Error| error.to_string())
    };
    match fetch("SELECT COUNT(*) FROM ledger").await? {
        1 => {}
        count => return Err(format!("{count} effects")),
    }
    match fetch("SELECT COUNT(*) FROM told JOIN ledger ON told.answer = ledger.answer").await? {
        2 => Ok(()),
        count => Err(format!("{count} of two clients got its response")),
    }
}

fn twins<'a, DB: Keeps>(pool: &'a Pool<DB>) -> Explore<'a, DB> {
    explore(pool)
        .set_up(|pool| async move {
            emptied(pool.clone()).await?;
            DB::pool_execute(&pool, DB::sql("DELETE FROM told"), &[]).await
        })
        .invariant("one effect and one response", one_effect_one_response::<DB>)
        .allow_deadlocks()
}

/// The same for a key that was used before and has expired.
fn heirs<'a, DB: Keeps>(pool: &'a Pool<DB>) -> Explore<'a, DB> {
    twins(pool).set_up(|pool| async move {
        emptied(pool.clone()).await.map_err(Error::from)?;
        let _ = Pessimistic::default().on(&pool).once(&key("a")).run(work::<DB>).await?;
        expire(&pool).await;
        for sql in ["DELETE FROM ledger", "DELETE FROM told"] {
            DB::pool_execute(&pool, DB::sql(sql), &[]).await?;
        }
        Ok::<_, Error>(())
    })
}

/// Stores the response of a client for the invariant.
async fn tell<DB: Keeps>(pool: &Pool<DB>, answer: i64) -> Result<(), Error> {
    DB::pool_execute(pool, DB::sql("INSERT INTO told VALUES (?)"), &[answer]).await?;
    Ok(())
}

async fn once<DB: Keeps, S: Strategy>(
    db: Client<'_, PoolTransactor<DB, S>>,
    notes: &Pool<DB>,
) -> Result<(), Error> {
    match db.once(&key("a")).wait(Duration::from_secs(3600)).run(work::<DB>).await? {
        Outcome::Fresh(answer) | Outcome::Replayed(answer) => tell(notes, answer).await,
        other => panic!("{other:?}"),
    }
}

async fn explored<'a, DB: Keeps, S: Strategy>(
    exploration: Explore<'a, DB>,
    notes: &'a Pool<DB>,
    db: &'a PoolTransactor<DB, S>,
    what: &str,
) {
    let exploration =
        exploration.client("alice", db, |db| once(db, notes)).client("bob", db, |db| once(db, notes));
    let report = exploration.run().await.expect("explored");
    println!("{} {what}: {} schedules in {:?}", DB::NAME, report.schedules, report.elapsed);
    report.assert_passes();
    assert!(report.complete && report.diverged == 0, "{what}: {report}");
}

async fn stage<DB: Keeps>() -> (crate::support::TestPool<DB>, Pool<DB>) {
    let pool = ledger::<DB>(3).await;
    DB::pool_execute(&pool, DB::sql("CREATE TABLE told (answer BIGINT NOT NULL)"), &[])
        .await
        .expect("a table");
    let notes = DB::another(&pool.url).await;
    (pool, notes)
}

pub(crate) async fn twins_have_one_effect_in_every_interleaving<DB: Keeps>() {
    let (pool, notes) = stage::<DB>().await;
    explored(twins(&pool), &notes, &Pessimistic::default().on(&pool), "pessimistic").await;
    explored(twins(&pool), &notes, &Optimistic::default().on(&pool), "optimistic").await;
    explored(twins(&pool), &notes, &Serializable::default().on(&pool), "serializable").await;
    let repeatable = Options::new().isolation(Isolation::RepeatableRead);
    explored(twins(&pool), &notes, &Atomic::default().on(&pool).options(repeatable), "repeatable read").await;
}

pub(crate) async fn twins_take_over_an_expired_key_once_in_every_interleaving<DB: Keeps>() {
    let (pool, notes) = stage::<DB>().await;
    explored(heirs(&pool), &notes, &Pessimistic::default().on(&pool), "pessimistic").await;
    explored(heirs(&pool), &notes, &Serializable::default().on(&pool), "serializable").await;
}

async fn look_first<DB: Keeps, S: Strategy>(
    db: Client<'_, PoolTransactor<DB, S>>,
    notes: &Pool<DB>,
) -> Result<(), Error> {
    let look = async |tx: &mut Tx<DB>| {
        let seen = DB::sql("SELECT COALESCE(MAX(answer), 0) FROM ledger");
        Ok::<_, Error>(DB::fetch(tx, seen, &[]).await?)
    };
    let answer = match db.run(look).await? {
        0 => db.run(work::<DB>).await?,
        seen => seen,
    };
    tell(notes, answer).await
}

/// A common mistake. If the exploration did not find it, it would prove nothing.
pub(crate) async fn checking_before_the_work_does_not_prevent_a_second_effect<DB: Keeps>() {
    let (pool, notes) = stage::<DB>().await;
    let db = Pessimistic::default().on(&pool);
    let exploration =
        twins(&pool)
            .client("alice", &db, |db| look_first(db, &notes))
            .client("bob", &db, |db| look_first(db, &notes));
    let report = exploration.run().await.expect("explored");
    let found = report.first().expect("two effects").to_string();
    assert!(found.contains("2 effects"), "{report}");
}

const FAULTS: [Fault; 5] = [
    Fault::SerializationFailure,
    Fault::Deadlock,
    Fault::LockTimeout,
    Fault::ConnectionLost,
    Fault::AnswerLost,
];

/// Returns how many statements claim a free key: MySQL also sets a lock timeout before and after.
async fn claiming<DB: Keeps>(pool: &Pool<DB>) -> u32 {
    let is_mariadb = DB::sql("SELECT VERSION() LIKE '%MariaDB%'");
    let is_mysql =
        DB::NAME == "MySQL" && DB::pool_fetch(pool, is_mariadb, &[]).await.expect("the version") == 0;
    if is_mysql { 3 } else { 1 }
}

async fn survives<DB: Keeps>(pool: &Pool<DB>, db: &dyn Transactor<DB>) {
    // The statements of the key, the effect and the response.
    let claiming = claiming(pool).await;
    let statements = (1..=claiming + 2).map(Moment::Statement);
    for moment in [Moment::Begin, Moment::Commit].into_iter().chain(statements) {
        for fault in FAULTS {
            emptied(pool.clone()).await.expect("emptied");
            let what = format!("{fault:?} at {moment:?}");
            let faults = Faults::new().at(moment, fault);
            let outcome = faults.on(db).once(&key("a")).run(work::<DB>).await;
            assert_eq!(faults.pending(), 0, "{what} did not happen");
            let claims = matches!(moment, Moment::Statement(number) if number <= claiming);
            let waited = claims && fault == Fault::LockTimeout && DB::NAME != "SQLite";
            match outcome.unwrap_or_else(|error| panic!("{what}: {error:?}")) {
                Outcome::InProgress if waited => assert_eq!(effects(pool, 1).await, 0, "{what}"),
                Outcome::Fresh(response) => assert_eq!(response, stored_response(pool, 1).await, "{what}"),
                other => panic!("{what}: {other:?}"),
            }
            let again = db.once(&key("a")).run(work::<DB>).await.expect("an outcome");
            let response = stored_response(pool, 1).await;
            let expected = if waited { Outcome::Fresh(response) } else { Outcome::Replayed(response) };
            assert_eq!(again, expected, "{what}");
        }
    }
    // A replayed response needs no commit.
    let faults = Faults::new().at(Moment::Commit, Fault::AnswerLost);
    let again = faults.on(db).once(&key("a")).run(work::<DB>).await.expect("an outcome");
    assert_eq!((again, faults.pending()), (Outcome::Replayed(stored_response(pool, 1).await), 1));
}

pub(crate) async fn a_run_survives_every_fault_at_every_step<DB: Keeps>() {
    let pool = ledger::<DB>(4).await;
    survives(&pool, &Pessimistic::default().on(&pool)).await;
    survives(&pool, &Optimistic::default().on(&pool)).await;
    survives(&pool, &Serializable::default().on(&pool)).await;
    survives(&pool, &Adaptive::default().on(&pool)).await;
}

/// Each run has a key of its own: the number of effects before it.
pub(crate) async fn once_in_is_safe_to_retry<DB: Keeps>() {
    let pool = ledger::<DB>(4).await;
    let db = Pessimistic::default().on(&pool);
    let unit = async |tx: &mut Tx<DB>| {
        let before = DB::fetch(tx, DB::sql("SELECT COUNT(*) FROM ledger"), &[]).await?;
        once_in(tx, &key(&before.to_string())).run(work::<DB>).await
    };
    let count = || async { Ok::<_, String>(effects(&pool, 1).await) };
    let faults = assert_retry_safe(&db, unit, count).await;
    assert!(
        faults > 40,
        "five at BEGIN, the look, the savepoint, the key, the effect, the response, the release, COMMIT, \
         and more in second attempts"
    );
}
