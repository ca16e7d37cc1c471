//! Savepoints whose release is sent together with the next statement of the crate.

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
