//! The test kit sees each statement as a step.

use atomically::testing::{assert_retry_safe, explore};
use atomically::{Error, Optimistic, Pessimistic, Serializable, Transactor, Tx};
use sqlx::Pool;

use crate::bank::{Bank, bank, keep, transfer};
use crate::support::TestPool;

async fn explore_transfers<DB: Bank>(pool: &TestPool<DB>, db: &impl Transactor<DB>) {
    let report = explore(pool)
        .set_up(move |pool: Pool<DB>| async move {
            let reset = "UPDATE account SET balance = 10, version = 0";
            DB::pool_execute(&pool, DB::sql(reset), &[]).await.map(drop)
        })
        .client("alice", db, async |client| transfer::<DB>(&client, 1, 2).await)
        .client("bob", db, async |client| transfer::<DB>(&client, 3, 2).await)
        .expect("money", 60_i64, |pool| total(pool, "balance"))
        .expect("writes", 4_i64, |pool| total(pool, "version"))
        .run()
        .await
        .expect("explored");
    report.assert_passes();
    assert!(report.complete && report.schedules > 2, "{report}");
}

async fn total<DB: Bank>(pool: Pool<DB>, column: &str) -> sqlx::Result<i64> {
    DB::pool_fetch(&pool, DB::sql(&DB::TOTAL.replace("balance", column)), &[]).await
}

pub(crate) async fn no_schedule_of_two_transfers_loses_an_update<DB: Bank>() {
    let pool = bank::<DB>(4).await;
    explore_transfers(&pool, &Pessimistic::default().on(&pool)).await;
    explore_transfers(&pool, &Optimistic::default().on(&pool)).await;
    if DB::NAME != "MySQL" {
        explore_transfers(&pool, &Serializable::default().on(&pool)).await;
    }
}

pub(crate) async fn faults_at_every_step_leave_one_effect<DB: Bank>() {
    let pool = bank::<DB>(4).await;
    let db = Pessimistic::default().on(&pool);
    let unit = async |tx: &mut Tx<DB>| {
        keep(tx, "UPDATE account SET balance = balance + 1 WHERE id = ?", &[1])?.expect_one();
        keep(tx, "UPDATE account SET balance = balance + 0 WHERE id = ?", &[2])?.expect_one();
        Ok::<_, Error>(())
    };
    let total = || async { DB::pool_fetch(&pool, DB::sql(DB::TOTAL), &[]).await };
    let faults = assert_retry_safe(&db, unit, total).await;
    assert!(faults >= 20, "{faults} faults: five at BEGIN, at each statement and at COMMIT");
}
