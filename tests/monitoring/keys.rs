//! Requests with an idempotency key.

use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey, Outcome, once_in};
use atomically::testing::{Fault, Faults, Moment};
use atomically::{Error, Pessimistic, TransactorExt as _, Tx};

use crate::scrape::Exporter;
use crate::storms::{add, counter, patient};
use crate::support::TestBackend;

fn key(key: &str) -> IdempotencyKey {
    IdempotencyKey::new("monitoring", key).expect("a key")
}

async fn work<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<i64, Error> {
    add(tx, 1).await?;
    Ok(1)
}

/// A fresh response is counted once, when its commit is certain: not for an attempt that was retried, nor for
/// a unit that was rolled back.
pub(crate) async fn each_outcome_of_a_key_is_counted_once<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let exporter = Exporter::new();
    let db = patient(Pessimistic::default(), &pool);
    db.create_key_table().await.expect("the table of keys");
    let db = db.observed_by(exporter.metrics.clone());
    let counted = |unit: &'static str| {
        let scrape = exporter.scrape();
        ["fresh", "replayed", "in_progress", "mismatch"].map(|outcome| {
            scrape.sum("atomically_idempotency_outcomes_total", &[("unit", unit), ("outcome", outcome)])
        })
    };

    let pay = db.named("pay");
    let again = async |tx: &mut Tx<DB>| {
        let answer = work(tx).await?;
        if tx.attempt() == 1 {
            tx.expect_one(0)?;
        }
        Ok::<_, Error>(answer)
    };
    assert_eq!(pay.once(&key("a")).run(again).await.expect("an outcome"), Outcome::Fresh(1));
    assert_eq!(counted("pay"), [1.0, 0.0, 0.0, 0.0]);
    for _ in 0..2 {
        assert_eq!(pay.once(&key("a")).run(work::<DB>).await.expect("an outcome"), Outcome::Replayed(1));
    }
    let other = key("a").request("another");
    assert_eq!(pay.once(&other).run(work::<DB>).await.expect("an outcome"), Outcome::Mismatch);
    assert_eq!(counted("pay"), [1.0, 2.0, 0.0, 1.0]);

    // Stored, although the response to the commit was lost.
    let unheard = db.named("unheard");
    let faulty = Faults::new().at(Moment::Commit, Fault::AnswerLost).on(&unheard);
    assert_eq!(faulty.once(&key("b")).run(work::<DB>).await.expect("an outcome"), Outcome::Fresh(1));
    assert_eq!(counted("unheard"), [1.0, 0.0, 0.0, 0.0]);

    // One `once` call inside of a unit, at its second attempt; and one whose key is still in progress.
    let consumes = db.named("consumes");
    let outcome = consumes
        .run(async |tx: &mut Tx<DB>| {
            assert_eq!(once_in(tx, &key("a")).run(work::<DB>).await?, Outcome::Replayed(1));
            let part = once_in(tx, &key("c"))
                .run(async |tx: &mut Tx<DB>| {
                    let inside = once_in(tx, &key("c")).run(work::<DB>).await?;
                    assert_eq!(inside, Outcome::InProgress);
                    work(tx).await
                })
                .await?;
            if tx.attempt() == 1 {
                tx.expect_one(0)?;
            }
            Ok::<_, Error>(part)
        })
        .await;
    assert_eq!(outcome.expect("a commit"), Outcome::Fresh(1));
    assert_eq!(counted("consumes"), [1.0, 1.0, 1.0, 0.0]);

    // Fresh responses that were rolled back are not counted, but replayed ones are.
    let gives_up = db.named("gives_up");
    gives_up
        .run(async |tx: &mut Tx<DB>| {
            assert_eq!(once_in(tx, &key("d")).run(work::<DB>).await?, Outcome::Fresh(1));
            assert_eq!(once_in(tx, &key("a")).run(work::<DB>).await?, Outcome::Replayed(1));
            Err::<(), Error>(sqlx::Error::RowNotFound.into())
        })
        .await
        .expect_err("its own error");
    assert_eq!(counted("gives_up"), [0.0, 1.0, 0.0, 0.0]);
}
