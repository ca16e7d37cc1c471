//! Unusual keys, amounts, times and columns: each has a clear result, and nothing is taken or lost.

use std::time::{Duration, SystemTime};

use atomically::holds::{HoldKey, HoldOutcome, Holds};
use atomically::{ErrorKind, Pessimistic};
use futures_util::future::join_all;

use crate::support::{TestBackend, TestPool, eventually};
use crate::{LONG, buy, events, expire, fetch, held, seats};

const ACTIVE: &str = "SELECT COUNT(*) FROM atomically_hold WHERE confirmed_at IS NULL";

pub(crate) async fn any_time_is_clamped<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(3, 5).await;
    let db = Pessimistic::default().on(&pool);
    let HoldOutcome::Held(short) = holds.hold(1, 1, Duration::ZERO).await.expect("an answer") else {
        panic!("there are enough")
    };
    eventually(5, async || {
        holds.sweep().await.expect("swept");
        seats(&pool, 1).await
    })
    .await;
    let error = buy(&db, &short).await.expect_err("it has expired");
    assert_eq!(error.kind(), ErrorKind::StaleClaim, "{error}");
    assert!(!short.release().await.expect("an answer"));
    assert_eq!(seats(&pool, 1).await, 5, "given back once");
    let HoldOutcome::Held(long) = holds.hold(1, 1, Duration::MAX).await.expect("an answer") else {
        panic!("there are enough")
    };
    let lasts = long.expires_at().duration_since(SystemTime::now()).expect("later");
    assert!(lasts < Duration::from_secs(366 * 24 * 60 * 60) && lasts > LONG, "{lasts:?}");
}

pub(crate) async fn a_floor_above_the_number_refuses<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(2, 5).await;
    for floor in [6, i64::MAX] {
        for single_statement in [true, false] {
            let holds = holds.clone().at_least(floor).single_statement(single_statement);
            let refused = holds.hold(1, 1, LONG).await.expect("an answer");
            assert!(matches!(refused, HoldOutcome::Refused { available: 0 }), "{refused:?}");
        }
    }
    assert_eq!(seats(&pool, 1).await, 5);
}

/// A table `stock` whose numbers have this type.
async fn stock<DB: TestBackend>(number: &str, value: &str) -> (TestPool<DB>, Holds<DB, i64>)
where
    i64: HoldKey<DB>,
{
    let pool = DB::pool(3).await;
    for sql in [
        format!("CREATE TABLE stock (id BIGINT PRIMARY KEY, seats {number})"),
        format!("INSERT INTO stock VALUES (1, {value}), (2, 5)"),
    ] {
        DB::pool_execute(&pool, DB::sql(&sql), &[]).await.expect("a table");
    }
    let holds = Holds::on(&pool, "stock", "id", "seats");
    holds.create_tables().await.expect("the table of holds");
    (pool, holds)
}

pub(crate) async fn a_decimal_column_that_holds_integers_works<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    for number in ["DECIMAL(20, 0)", "DECIMAL(12, 2)"] {
        let (pool, holds) = stock::<DB>(number, "5").await;
        for holds in [holds.clone(), holds.clone().single_statement(false)] {
            let hold = held(&holds, 1, 2).await;
            assert_eq!(fetch(&pool, "SELECT CAST(seats AS BIGINT) FROM stock WHERE id = 1").await, 3);
            let refused = holds.hold(1, 4, LONG).await.expect("an answer");
            assert!(matches!(refused, HoldOutcome::Refused { available: 3 }), "{refused:?}");
            assert!(hold.release().await.expect("released"));
            assert_eq!(fetch(&pool, "SELECT CAST(seats AS BIGINT) FROM stock WHERE id = 1").await, 5);
        }
    }
}

pub(crate) async fn nothing_is_held_of_a_number_that_is_no_integer<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    for value in ["NULL", "5.5"] {
        let (pool, holds) = stock::<DB>("DECIMAL(12, 2)", value).await;
        for holds in [holds.clone(), holds.clone().single_statement(false)] {
            let error = holds.hold(1, 1, LONG).await.expect_err("no integer");
            assert_eq!(error.kind(), ErrorKind::Aborted, "{value}: {error}");
            assert!(error.to_string().contains("seats of this row of stock holds no integer"), "{error}");
            assert!(holds.hold_all([(1, 1), (2, 1)], LONG).await.is_err());
        }
        assert_eq!(fetch(&pool, ACTIVE).await, 0);
        assert_eq!(fetch(&pool, "SELECT CAST(seats AS BIGINT) FROM stock WHERE id = 2").await, 5);
    }
}

/// Otherwise the amount would be neither in the row nor held.
pub(crate) async fn a_hold_is_kept_while_its_number_is_no_integer<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    for value in ["NULL", "2.5"] {
        let (pool, holds) = stock::<DB>("DECIMAL(12, 2)", "5").await;
        let (first, _other) = (held(&holds, 1, 2).await, held(&holds, 2, 2).await);
        let change = async |value: &str| {
            let sql = format!("UPDATE stock SET seats = {value} WHERE id = 1");
            DB::pool_execute(&pool, DB::sql(&sql), &[]).await.expect("changed");
        };
        change(value).await;
        let error = first.release().await.expect_err("it cannot be given back");
        assert_eq!(error.kind(), ErrorKind::Aborted, "{value}: {error}");
        expire(&pool).await;
        assert_eq!(holds.sweep().await.expect("the other one is given back"), 1, "{value}");
        assert_eq!(fetch(&pool, "SELECT CAST(seats AS BIGINT) FROM stock WHERE id = 2").await, 5);
        let error = holds.sweep().await.expect_err("one is left that cannot be given back");
        assert_eq!(error.kind(), ErrorKind::Aborted, "{value}: {error}");
        assert_eq!(fetch(&pool, ACTIVE).await, 1);
        change("3").await;
        assert_eq!(holds.sweep().await.expect("swept"), 1);
        assert_eq!(fetch(&pool, "SELECT CAST(seats AS BIGINT) FROM stock WHERE id = 1").await, 5);
    }
}

/// Types of text that may find a row by a key that is not that of the row.
fn forgiving_types<DB: TestBackend>() -> &'static [&'static str] {
    match DB::NAME {
        "PostgreSQL" => &["VARCHAR(20)", "CHAR(20)", "VARCHAR(20) COLLATE forgiving"],
        "SQLite" => &["TEXT COLLATE NOCASE", "TEXT COLLATE RTRIM"],
        _ => &["VARCHAR(20)", "CHAR(20)"],
    }
}

pub(crate) async fn a_key_has_to_equal_that_of_the_row<DB: TestBackend>()
where
    String: HoldKey<DB>,
{
    for name in forgiving_types::<DB>() {
        let pool = DB::pool(2).await;
        if name.ends_with("forgiving") {
            let collation = "CREATE COLLATION forgiving \
                             (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
            DB::pool_execute(&pool, DB::sql(collation), &[]).await.expect("a collation");
        }
        for sql in [
            format!("CREATE TABLE event (name {name} PRIMARY KEY, id BIGINT, seats BIGINT)"),
            String::from("INSERT INTO event VALUES ('front row', 1, 5), ('', 2, 5)"),
        ] {
            DB::pool_execute(&pool, DB::sql(&sql), &[]).await.expect("set up");
        }
        let holds = Holds::<DB, String>::on(&pool, "event", "name", "seats");
        holds.create_tables().await.expect("the table of holds");
        for holds in [holds.clone(), holds.clone().single_statement(false)] {
            for key in ["Front row", "front row ", "front  row", "frontrow", " ", "front row", ""] {
                let outcome = holds.hold(key.to_owned(), 1, LONG).await.expect("an answer");
                let both = [(key, 1), ("front row", 1), ("none", 1)].map(|(key, n)| (key.to_owned(), n));
                let both = holds.hold_all(both, LONG).await;
                assert!(matches!(both, Ok(HoldOutcome::NotFound)), "{name}, {key:?}: {both:?}");
                match outcome {
                    HoldOutcome::Held(hold) => assert!(hold.release().await.expect("released")),
                    // A client receives values of this type with trailing blanks.
                    HoldOutcome::NotFound if *name == "CHAR(20)" => {}
                    other => assert!(!["front row", ""].contains(&key), "{name}, {key:?}: {other:?}"),
                }
                let state = (seats(&pool, 1).await, seats(&pool, 2).await, fetch(&pool, ACTIVE).await);
                assert_eq!(state, (5, 5, 0), "{name}, {key:?}");
            }
        }
    }
}

/// Otherwise the hold would be lost when something ends that transaction.
pub(crate) async fn no_hold_is_part_of_a_transaction_that_was_left_open<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(1, 5).await;
    let other = DB::another(&pool.url).await;
    for (round, single_statement) in [(0, true), (1, false)] {
        let holds = holds.clone().single_statement(single_statement);
        assert!(matches!(holds.hold(1, 1, LONG).await.expect("an answer"), HoldOutcome::Held(_)));
        {
            let mut connection = pool.acquire().await.expect("a connection");
            DB::raw(&mut connection, "BEGIN").await.expect("a transaction");
        }
        assert!(matches!(holds.hold(1, 1, LONG).await.expect("an answer"), HoldOutcome::Held(_)));
        assert_eq!(seats(&other, 1).await, 3 - 2 * round, "single statement: {single_statement}");
        assert_eq!(DB::pool_fetch(&other, DB::sql(ACTIVE), &[]).await.expect("a count"), 2 + 2 * round);
    }
}

/// A row that refuses its amount keeps its holds, and not those of other rows.
pub(crate) async fn a_row_that_refuses_its_amount_does_not_keep_other_holds<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    for (number, value) in [("BIGINT CHECK (seats <= 5)", 5), ("BIGINT", i64::MAX)] {
        let (pool, holds) = stock::<DB>(number, "5").await;
        let (_first, _other) = (held(&holds, 1, 2).await, held(&holds, 2, 2).await);
        let set = async |value: i64| {
            let sql = DB::sql("UPDATE stock SET seats = ? WHERE id = 1");
            DB::pool_execute(&pool, sql, &[value]).await.expect("set");
        };
        set(value).await;
        expire(&pool).await;
        assert_eq!(holds.sweep().await.expect("the other one is given back"), 1, "{number}");
        assert_eq!(fetch(&pool, "SELECT seats FROM stock WHERE id = 2").await, 5);
        assert!(holds.sweep().await.is_err(), "{number}: one is left that cannot be given back");
        assert_eq!(fetch(&pool, "SELECT seats FROM stock WHERE id = 1").await, value);
        set(3).await;
        assert_eq!(holds.sweep().await.expect("swept"), 1);
        assert_eq!(fetch(&pool, "SELECT seats FROM stock WHERE id = 1").await, 5);
    }
}

pub(crate) async fn amounts_whose_sum_does_not_fit_are_given_back_completely<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(3, 5).await;
    let holds = holds.at_least(i64::MIN);
    let (_first, _second) = (held(&holds, 1, i64::MAX).await, held(&holds, 1, 6).await);
    assert_eq!(seats(&pool, 1).await, i64::MIN);
    expire(&pool).await;
    for _ in 0..2 {
        assert_eq!(holds.sweep().await.expect("swept"), 1);
    }
    assert_eq!((seats(&pool, 1).await, fetch(&pool, ACTIVE).await), (5, 0));
}

/// A sweep reads 500 expired holds at a time.
pub(crate) async fn many_holds_of_a_row_that_refuses_them_do_not_keep_other_holds<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = stock::<DB>("BIGINT CHECK (seats <= 600)", "600").await;
    join_all((0..500).map(|_| held(&holds, 1, 1))).await;
    let _last = held(&holds, 2, 2).await;
    for sql in [
        "UPDATE stock SET seats = 600 WHERE id = 1",
        "UPDATE atomically_hold SET expires_at = CASE row_key WHEN '1' THEN 1 ELSE 2 END",
    ] {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await.expect("set");
    }
    let error = holds.sweep().await.expect_err("500 are refused");
    assert_eq!(error.kind(), ErrorKind::Constraint, "{error}");
    assert_eq!(fetch(&pool, "SELECT seats FROM stock WHERE id = 2").await, 5);
    assert_eq!(fetch(&pool, ACTIVE).await, 500);
}
