//! The advisor finds the known anomalies under the strategies that permit them, and recommends another one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use atomically::testing::{Advice, AdviceCell, Advisor, AnomalyName, ExploreError, advise};
use atomically::{Atomic, Error, Isolation, Optimistic, Pessimistic, Serializable, Tx};
use sqlx::Pool;

use crate::anomalies::{DOCTOR, PRODUCT, go_off_duty, sell_without_expect_one};
use crate::program::Line::{
    self, Add, Count, Enter, EnterIfNone, Read, ReadForUpdate, Sum, Write, WriteChecked,
};
use crate::program::{ACCOUNT, ENTRY, reset, run};
use crate::support::TestBackend;
use crate::{Unguarded, all, database};

async fn advised<DB: TestBackend>(advisor: Advisor<'_, DB>) -> Advice {
    let advice = advisor.run().await.expect("explored");
    println!("{}:\n{advice}", DB::NAME);
    advice
}

/// The cell of the first set of units under a strategy.
fn cell<'c>(advice: &'c Advice, strategy: &str) -> &'c AdviceCell {
    let cell = advice.cells.iter().find(|cell| cell.strategy == strategy);
    cell.unwrap_or_else(|| panic!("{strategy} was not explored:\n{advice}"))
}

fn is_right(advice: &Advice, strategy: &str) -> bool {
    advice.cells.iter().filter(|cell| cell.strategy == strategy).all(|cell| cell.wrong == 0)
}

fn accounts<'a, DB: TestBackend>(pool: &Pool<DB>, units: &[(&str, &'static [Line])]) -> Advisor<'a, DB> {
    units.iter().fold(advise(pool).set_up(reset).max_preemptions(2), |advisor, (name, lines)| {
        let lines: &'static [Line] = lines;
        advisor.unit(*name, async move |tx: &mut Tx<DB>| run(tx, lines).await)
    })
}

pub(crate) async fn a_missing_expect_one_is_a_lost_update_under_optimistic<DB: TestBackend>() {
    let pool = database::<DB>(&[PRODUCT]).await;
    let advisor = || {
        advise(&pool)
            .set_up(|pool| all(pool, &["DELETE FROM product", "INSERT INTO product VALUES (1, 10, 0)"]))
            .unit("checkout", sell_without_expect_one)
            .max_preemptions(2)
    };
    let advice = advised(advisor()).await;
    let wrong = cell(&advice, "optimistic");
    assert_eq!(wrong.anomaly, Some(AnomalyName::LostUpdate));
    assert!(wrong.wrong < wrong.schedules, "{advice}");
    assert!(!is_right(&advice, "adaptive"), "it may run without locks: {advice}");
    advice.assert_safe(Pessimistic::default());
    assert!(is_right(&advice, "serializable"), "{advice}");
    advice.assert_recommends("checkout", Pessimistic::default());

    let counterexample = wrong.counterexample.as_ref().expect("a counterexample");
    let schedule = counterexample.schedule().to_string();
    let replay = advisor().replay(&["checkout", "checkout"], Optimistic::default(), &schedule);
    let replayed = replay.await.expect("replayed");
    assert_eq!(replayed.first().map(ToString::to_string), Some(counterexample.to_string()));
    assert!(
        advice.to_string().contains(&format!("lost update of checkout and checkout, in schedule {schedule}"))
    );
    assert!(format!("{advice:#}").contains(&counterexample.to_string()));
    let panic = catch_unwind(AssertUnwindSafe(|| advice.assert_safe(Optimistic::default())));
    let message = panic.expect_err("it is wrong").downcast::<String>().expect("a message");
    assert!(message.starts_with("optimistic is wrong:"), "{message}");
    let panic =
        catch_unwind(AssertUnwindSafe(|| advice.assert_recommends("checkout", Optimistic::default())));
    panic.expect_err("another one is recommended");
}

pub(crate) async fn only_serializable_is_right_for_write_skew<DB: TestBackend>() {
    let pool = database::<DB>(&[DOCTOR]).await;
    let advisor = advise(&pool)
        .set_up(|pool| all(pool, &["DELETE FROM doctor", "INSERT INTO doctor VALUES (1, 1), (2, 1)"]))
        .unit("alice", async |tx: &mut Tx<DB>| go_off_duty(tx, 1).await)
        .unit("bob", async |tx: &mut Tx<DB>| go_off_duty(tx, 2).await)
        .max_preemptions(2);
    let advice = advised(advisor).await;
    let both = advice.cells.iter().filter(|cell| cell.units == ["alice", "bob"]);
    for cell in both {
        let is_serializable = cell.isolation == Isolation::Serializable;
        assert_eq!(cell.wrong == 0, is_serializable, "{}: {advice}", cell.strategy);
        assert_eq!(cell.anomaly, (!is_serializable).then_some(AnomalyName::WriteSkew), "{advice}");
    }
    assert!(is_right(&advice, "serializable"), "{advice}");
    advice.assert_recommends("alice", Serializable::default());
    advice.assert_recommends("bob", Serializable::default());
    assert!(advice.not_covered.iter().any(|text| text.starts_with("alice decides by its data")), "{advice}");
}

pub(crate) async fn an_audit_beside_a_transfer_needs_a_snapshot<DB: TestBackend>() {
    let pool = database::<DB>(&[ACCOUNT, ENTRY]).await;
    let units: [(&str, &[Line]); 2] =
        [("audit", &[Read(1), Read(2)]), ("transfer", &[Add(1, -5), Add(2, 5)])];
    let advice = advised(accounts(&pool, &units)).await;
    let both = |strategy: &str| {
        let mut cells = advice.cells.iter();
        cells.find(|cell| cell.units == ["audit", "transfer"] && cell.strategy == strategy).expect("explored")
    };
    for strategy in ["optimistic", "adaptive", "pessimistic"] {
        assert_eq!(both(strategy).anomaly, Some(AnomalyName::ReadSkew), "{strategy}: {advice}");
    }
    assert_eq!(both("optimistic at REPEATABLE READ").wrong, 0, "{advice}");
    assert!(is_right(&advice, "serializable"), "{advice}");
    advice.assert_recommends_at("audit", Optimistic::default(), Isolation::RepeatableRead);
}

pub(crate) async fn an_insert_under_a_counted_predicate_is_a_phantom<DB: TestBackend>() {
    let pool = database::<DB>(&[ACCOUNT, ENTRY]).await;
    let advice = advised(accounts(&pool, &[("book", &[Count(1), EnterIfNone(1)])])).await;
    for strategy in ["optimistic", "pessimistic", "optimistic at REPEATABLE READ"] {
        assert_eq!(cell(&advice, strategy).anomaly, Some(AnomalyName::Phantom), "{strategy}: {advice}");
    }
    advice.assert_recommends("book", Serializable::default());
    let twice = accounts(&pool, &[("report", &[Count(1), Count(1)]), ("enter", &[Enter(1)])]);
    let advice = advised(twice.strategy(Optimistic::default())).await;
    let names: Vec<_> = advice.cells.iter().filter_map(|cell| cell.anomaly).collect();
    assert_eq!(names, [AnomalyName::PhantomRead], "{advice}");
    let twice = accounts(&pool, &[("report", &[Read(1), Read(1)]), ("add", &[Add(1, 1)])]);
    let advice = advised(twice.strategy(Optimistic::default())).await;
    let names: Vec<_> = advice.cells.iter().filter_map(|cell| cell.anomaly).collect();
    assert_eq!(names, [AnomalyName::NonRepeatableRead], "{advice}");
}

/// Drops the row lock, the version check, and the isolation level.
pub(crate) async fn mutants_change_the_table<DB: TestBackend>() {
    let pool = database::<DB>(&[ACCOUNT, ENTRY]).await;
    let unchecked: [(&str, &[Line]); 1] = [("withdraw", &[ReadForUpdate(1), Write(1, -5)])];
    let checked: [(&str, &[Line]); 1] = [("withdraw", &[ReadForUpdate(1), WriteChecked(1, -5)])];
    let advice = advised(accounts(&pool, &unchecked).strategy(Pessimistic::default())).await;
    advice.assert_safe(Pessimistic::default());
    let mutant = advised(accounts(&pool, &unchecked).strategy(Unguarded(Isolation::ReadCommitted))).await;
    assert_eq!(mutant.cells[0].anomaly, Some(AnomalyName::LostUpdate), "{mutant}");
    assert_eq!(mutant.units[0].strategy, None, "{mutant}");

    let advice = advised(accounts(&pool, &checked).strategy(Optimistic::default())).await;
    advice.assert_safe(Optimistic::default());
    let mutant = advised(accounts(&pool, &unchecked).strategy(Optimistic::default())).await;
    assert_eq!(mutant.cells[0].anomaly, Some(AnomalyName::LostUpdate), "{mutant}");

    let counted: [(&str, &[Line]); 1] = [("book", &[Count(1), EnterIfNone(1)])];
    let advice = advised(accounts(&pool, &counted).strategy(Serializable::default())).await;
    assert!(is_right(&advice, "serializable"), "{advice}");
    let lowered = accounts(&pool, &counted).strategy_at(Serializable::default(), Isolation::RepeatableRead);
    let mutant = advised(lowered).await;
    assert_eq!(mutant.cells[0].strategy, "serializable at REPEATABLE READ");
    assert_eq!(mutant.cells[0].anomaly, Some(AnomalyName::Phantom), "{mutant}");
}

/// Alone, `swap` would be cheaper under row locks, but these do not keep a serializable unit from reading.
pub(crate) async fn strategies_that_do_not_go_together_are_not_mixed<DB: TestBackend>() {
    let pool = database::<DB>(&[ACCOUNT, ENTRY]).await;
    let units: [(&str, &[Line]); 2] = [
        ("book", &[Count(1), EnterIfNone(1), ReadForUpdate(1), Write(2, 0)]),
        ("swap", &[ReadForUpdate(2), Write(1, 0)]),
    ];
    let advisor = accounts(&pool, &units).strategy(Pessimistic::default()).strategy(Serializable::default());
    let advice = advised(advisor).await;
    advice.assert_recommends("book", Serializable::default());
    advice.assert_recommends("swap", Serializable::default());
    let reason = &advice.units[1].reason;
    assert!(
        reason.contains("do not go together (book and swap under serializable and pessimistic"),
        "{advice}"
    );
}

/// A combination of strategies that is right is recommended.
pub(crate) async fn each_unit_gets_its_own_strategy<DB: TestBackend>() {
    let pool = database::<DB>(&[ACCOUNT, ENTRY]).await;
    let units: [(&str, &[Line]); 2] =
        [("book", &[Count(1), EnterIfNone(1)]), ("withdraw", &[ReadForUpdate(2), Write(2, -5)])];
    let advisor = accounts(&pool, &units).strategy(Pessimistic::default()).strategy(Serializable::default());
    let advice = advised(advisor).await;
    advice.assert_recommends("book", Serializable::default());
    advice.assert_recommends("withdraw", Pessimistic::default());
}

pub(crate) async fn a_unit_of_one_statement_is_recommended_atomic<DB: TestBackend>() {
    let pool = database::<DB>(&[ACCOUNT, ENTRY]).await;
    let advice = advised(accounts(&pool, &[("add", &[Add(1, 1)]), ("total", &[Sum])])).await;
    advice.assert_recommends("add", Atomic::default());
    advice.assert_recommends("total", Atomic::default());
    advice.assert_safe(Atomic::default());
    advice.assert_safe(Optimistic::default());
}

pub(crate) async fn an_advisor_that_cannot_start_returns_a_typed_error<DB: TestBackend>() {
    let pool = database::<DB>(&[ACCOUNT, ENTRY]).await;
    let error = advise(&pool).run().await.expect_err("no units");
    assert!(matches!(error, ExploreError::ClientCount(0)), "{error}");
    let advisor = accounts(&pool, &[("add", &[Add(1, 1)])]);
    let error = advisor.replay(&["ad"], Optimistic::default(), "a3").await.expect_err("a typo");
    assert!(matches!(&error, ExploreError::NoSuchUnit(name) if name == "ad"), "{error}");
    let missing = advise(&pool).set_up(reset).unit("none", async |tx: &mut Tx<DB>| {
        DB::execute(tx, DB::sql("INSERT INTO account VALUES (1, 0, 0)"), &[]).await?;
        Ok::<_, Error>(())
    });
    let error = missing.run().await.expect_err("there is an account 1");
    assert!(matches!(&error, ExploreError::FailsSerially { client, .. } if client == "none"), "{error}");
}

pub(crate) async fn triples_are_explored_on_request<DB: TestBackend>() {
    let pool = database::<DB>(&[ACCOUNT, ENTRY]).await;
    let advisor = || accounts(&pool, &[("add", &[Add(1, 1)])]).strategy(Pessimistic::default());
    let sizes = |advice: &Advice| advice.cells.iter().map(|cell| cell.units.len()).collect::<Vec<_>>();
    assert_eq!(sizes(&advised(advisor()).await), [2]);
    let advice = advised(advisor().triples().max_preemptions(1)).await;
    assert_eq!(sizes(&advice), [2, 3]);
    assert!(advice.not_covered.iter().any(|text| text.contains("more than 1 preemptions")), "{advice}");
    advice.assert_safe(Pessimistic::default());
}

pub(crate) async fn what_was_left_out_is_reported<DB: TestBackend>() {
    let pool = database::<DB>(&[ACCOUNT, ENTRY]).await;
    let notified = Mutex::new(Vec::new());
    let units: [(&str, &[Line]); 1] = [("several", &[Add(1, 1), Add(2, 1)])];
    let several = async |tx: &mut Tx<DB>| {
        DB::plain(tx, DB::sql("UPDATE account SET balance = 0; UPDATE account SET version = 0")).await?;
        Ok::<_, Error>(())
    };
    let advisor = accounts(&pool, &units)
        .unit("text", several)
        .strategy(Pessimistic::default())
        .max_preemptions(1)
        .on_progress(|progress| notified.lock().expect("no panic").push((progress.done, progress.total)));
    let advice = advised(advisor).await;
    assert_eq!(*notified.lock().expect("no panic"), [(0, 3), (1, 3), (2, 3)]);
    assert!(advice.not_covered.iter().any(|text| text.contains("in the middle of")), "{advice}");
    let panic = catch_unwind(AssertUnwindSafe(|| advice.assert_safe(Pessimistic::default())));
    let message = panic.expect_err("a gap").downcast::<String>().expect("a message");
    assert!(message.starts_with("the exploration is not complete"), "{message}");
}

pub(crate) async fn advice_is_serialized_with_its_counterexamples<DB: TestBackend>() {
    let pool = database::<DB>(&[ACCOUNT, ENTRY]).await;
    let units: [(&str, &[Line]); 1] = [("withdraw", &[ReadForUpdate(1), Write(1, -5)])];
    let advisor = || accounts(&pool, &units).max_preemptions(1);
    let locked = advised(advisor().strategy(Pessimistic::default())).await;
    let json = serde_json::to_value(&locked).expect("JSON");
    assert_eq!(json["units"][0]["strategy"], "pessimistic");
    assert_eq!(json["cells"][0]["units"], serde_json::json!(["withdraw", "withdraw"]));
    assert_eq!(json["cells"][0]["wrong"], 0);
    // The second one waits at least for the COMMIT of the first one.
    let (waits, waited) = (&json["cells"][0]["waits"], &json["cells"][0]["waited"]);
    assert!(waits.as_u64() > Some(0) && waited.as_u64() >= waits.as_u64(), "{json}");
    if DB::NAME == "SQLite" {
        return;
    }
    let advice = advised(advisor().strategy(Unguarded(Isolation::ReadCommitted))).await;
    let json = serde_json::to_value(&advice).expect("JSON");
    assert_eq!(json["units"][0]["strategy"], serde_json::Value::Null);
    assert_eq!(json["cells"][0]["anomaly"], "lost update");
    let counterexample = advice.cells[0].counterexample.as_ref().expect("a counterexample");
    assert_eq!(json["cells"][0]["counterexample"]["schedule"], counterexample.schedule().to_string());
    assert_eq!(json["cells"][0]["counterexample"]["lanes"], counterexample.to_string());
}
