//! Two doctors are on call, and each may go off duty while the other stays. Both read before either writes.

use std::sync::atomic::{AtomicU32, Ordering};

use atomically::{Error, Serializable, Strategy, TransactorExt as _, Tx};
use tokio::sync::Barrier;

use super::increments::patient;
use crate::support::TestBackend;

/// Makes both doctors try to go off duty at the same time. Returns how many are on call afterwards, and the
/// number of attempts.
pub(crate) async fn both_go_off_duty<DB: TestBackend, S: Strategy>(strategy: S) -> (i64, u32) {
    let pool = DB::pool(4).await;
    let create = "CREATE TABLE doctor (id BIGINT PRIMARY KEY, on_call BIGINT NOT NULL)";
    DB::pool_execute(&pool, DB::sql(create), &[]).await.expect("create a table");
    DB::pool_execute(&pool, DB::sql("INSERT INTO doctor VALUES (1, 1), (2, 1)"), &[])
        .await
        .expect("insert two doctors");

    let db = patient(strategy, &pool);
    let (attempts, both_have_read) = (AtomicU32::new(0), Barrier::new(2));
    let (attempts, both_have_read) = (&attempts, &both_have_read);
    let go_off_duty = |id: i64| {
        db.run(async move |tx: &mut Tx<DB>| {
            attempts.fetch_add(1, Ordering::Relaxed);
            let on_call =
                DB::fetch(tx, DB::sql("SELECT COUNT(*) FROM doctor WHERE on_call = 1"), &[]).await?;
            if tx.attempt() == 1 {
                both_have_read.wait().await;
            }
            if on_call >= 2 {
                DB::execute(tx, DB::sql("UPDATE doctor SET on_call = 0 WHERE id = ?"), &[id]).await?;
            }
            Ok::<_, Error>(())
        })
    };
    let (one, other) = tokio::join!(go_off_duty(1), go_off_duty(2));
    one.expect("one commits");
    other.expect("the other commits");
    let on_call = DB::pool_fetch(&pool, DB::sql("SELECT COUNT(*) FROM doctor WHERE on_call = 1"), &[]).await;
    (on_call.expect("a count"), attempts.load(Ordering::Relaxed))
}

pub(crate) async fn serializable_keeps_one_doctor_on_call<DB: TestBackend>() {
    let (on_call, attempts) = both_go_off_duty::<DB, _>(Serializable::default()).await;
    assert_eq!(on_call, 1);
    assert!(attempts > 2, "neither unit was retried");
}
