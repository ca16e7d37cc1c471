//! Savepoints whose release is sent together with the next statement of the crate.

use futures_util::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use atomically::{Error, Pessimistic, TransactorExt as _, Tx};

use crate::bank::{BALANCE, Bank, balance, bank};

async fn add<DB: Bank>(tx: &mut Tx<DB>, amount: i64) -> Result<(), Error> {
    let update = DB::sql("UPDATE account SET balance = balance + ? WHERE id = 1");
    DB::execute(tx, update, &[amount]).await?;
    Ok(())
}

async fn add_in_savepoint<DB: Bank>(tx: &mut Tx<DB>, amount: i64) -> Result<(), Error> {
    tx.savepoint(async |tx: &mut Tx<DB>| add(tx, amount).await).await
}

async fn undone<DB: Bank>(tx: &mut Tx<DB>, amount: i64) -> Result<(), Error> {
    let undone = async |tx: &mut Tx<DB>| {
        add_in_savepoint(tx, amount).await?;
        add(tx, amount).await?;
        add_in_savepoint(tx, amount).await?;
        Err::<(), Error>(sqlx::Error::RowNotFound.into())
    };
    assert!(tx.savepoint(undone).await.is_err());
    Ok(())
}

pub(crate) async fn a_savepoint_undoes_those_that_ended_inside_of_it<DB: Bank>() {
    let pool = bank::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    db.run(async |tx: &mut Tx<DB>| {
        add(tx, 1).await?;
        undone(tx, 100_000).await?;
        add_in_savepoint(tx, 10).await?;
        undone(tx, 100_000).await?;
        add_in_savepoint(tx, 20).await?;
        add_in_savepoint(tx, 40).await?;
        add(tx, 100).await?;
        undone(tx, 100_000).await?;
        tx.savepoint(async |tx: &mut Tx<DB>| {
            add_in_savepoint(tx, 1000).await?;
            undone(tx, 100_000).await
        })
        .await
    })
    .await
    .expect("a commit");
    assert_eq!(balance(&pool, 1).await, BALANCE + 1171);
}

pub(crate) async fn the_units_own_savepoints_outlive_one_that_ended<DB: Bank>() {
    let pool = bank::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    db.run(async |tx: &mut Tx<DB>| {
        add_in_savepoint(tx, 1).await?;
        DB::plain(tx, DB::sql("SAVEPOINT own")).await?;
        add(tx, 10).await?;
        add_in_savepoint(tx, 100).await?;
        add_in_savepoint(tx, 1000).await?;
        DB::plain(tx, DB::sql("ROLLBACK TO SAVEPOINT own")).await?;
        add_in_savepoint(tx, 2).await
    })
    .await
    .expect("a commit");
    assert_eq!(balance(&pool, 1).await, BALANCE + 3);
}

/// The connection itself is used after a savepoint has ended, when its release may not have been sent.
pub(crate) async fn the_connection_itself_can_be_used_after_a_savepoint<DB: Bank>() {
    const UPDATE: &str = "UPDATE account SET balance = balance + 1000 WHERE id = 1";
    let pool = bank::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    db.run(async |tx: &mut Tx<DB>| {
        add_in_savepoint(tx, 1).await?;
        DB::raw(tx.connection()?, UPDATE).await?;
        add_in_savepoint(tx, 10).await?;
        undone(tx, 100_000).await?;
        add_in_savepoint(tx, 100).await
    })
    .await
    .expect("a commit");
    assert_eq!(balance(&pool, 1).await, BALANCE + 1111);
}

/// A step of a random unit, which changes the balance of account 1 at once, or that of account 2 at the
/// commit.
#[derive(Debug)]
enum Step {
    Add(i64),
    AtCommit(i64),
    OnConnection(i64),
    /// Violates a constraint, which ends the savepoint.
    Violate,
    Savepoint {
        steps: Vec<Self>,
        succeeds: bool,
    },
}

fn random_steps(random: &mut StdRng, depth: u32) -> Vec<Step> {
    let count = random.random_range(0..5);
    let step = |_| {
        let amount = random.random_range(1..1000);
        match random.random_range(0..if depth < 4 { 20 } else { 8 }) {
            0..4 => Step::Add(amount),
            4..6 => Step::AtCommit(amount),
            6 if depth > 0 => Step::Violate,
            6 | 7 if random.random_bool(0.2) => Step::OnConnection(amount),
            6 | 7 => Step::Add(amount),
            _ => {
                let succeeds = random.random_bool(0.7);
                Step::Savepoint { steps: random_steps(random, depth + 1), succeeds }
            }
        }
    };
    (0..count).map(step).collect()
}

/// Adds up what the steps leave on both accounts; `None` if they fail.
fn expected(steps: &[Step]) -> Option<[i64; 2]> {
    let mut sums = [0, 0];
    for step in steps {
        match step {
            Step::Add(amount) | Step::OnConnection(amount) => sums[0] += amount,
            Step::AtCommit(amount) => sums[1] += amount,
            Step::Violate => return None,
            Step::Savepoint { steps, succeeds } => {
                let [now, later] = expected(steps).filter(|_| *succeeds).unwrap_or_default();
                sums = [sums[0] + now, sums[1] + later];
            }
        }
    }
    Some(sums)
}

fn run_steps<'t, DB: Bank>(tx: &'t mut Tx<DB>, steps: &'t [Step]) -> BoxFuture<'t, Result<(), Error>> {
    Box::pin(async move {
        for step in steps {
            match step {
                Step::Add(amount) => add(tx, *amount).await?,
                Step::AtCommit(amount) => {
                    let update = DB::sql("UPDATE account SET balance = balance + ? WHERE id = 2");
                    tx.at_commit(DB::query(update, &[*amount]))?.expect_one();
                }
                Step::OnConnection(amount) => {
                    tx.connection()?;
                    add(tx, *amount).await?;
                }
                Step::Violate => {
                    DB::execute(tx, DB::sql("UPDATE account SET balance = -1 WHERE id = 1"), &[]).await?;
                }
                Step::Savepoint { steps, succeeds } => {
                    let ended = async |tx: &mut Tx<DB>| {
                        run_steps(tx, steps).await?;
                        if *succeeds { Ok(()) } else { Err(Error::from(sqlx::Error::RowNotFound)) }
                    };
                    let _: Result<(), Error> = tx.savepoint(ended).await;
                }
            }
        }
        Ok(())
    })
}

pub(crate) async fn random_savepoints_keep_what_succeeded<DB: Bank>() {
    const UNITS: u64 = 150;
    let pool = bank::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    let mut total = [BALANCE, BALANCE];
    for seed in 0..UNITS {
        let steps = random_steps(&mut StdRng::seed_from_u64(seed), 0);
        let [now, later] = expected(&steps).expect("no violation outside of savepoints");
        total = [total[0] + now, total[1] + later];
        let ran = db.run(async |tx: &mut Tx<DB>| run_steps(tx, &steps).await).await;
        ran.unwrap_or_else(|error| panic!("unit {seed}: {error}: {steps:?}"));
        let stored = [balance(&pool, 1).await, balance(&pool, 2).await];
        assert_eq!(stored, total, "unit {seed}: {steps:?}");
    }
}
