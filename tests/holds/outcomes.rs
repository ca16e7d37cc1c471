//! Whether an amount is held.

use atomically::holds::{HoldKey, HoldOutcome, Holds};
use atomically::{ErrorKind, Options, Schema};

use crate::support::TestBackend;
use crate::{LONG, events, expire, fetch, held, seats};

pub(crate) async fn an_amount_is_held_refused_or_not_found<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(2, 5).await;
    let _hold = held(&holds, 1, 3).await;
    assert_eq!((seats(&pool, 1).await, seats(&pool, 2).await), (2, 5));
    let refused = holds.hold(1, 3, LONG).await.expect("an answer");
    assert!(matches!(refused, HoldOutcome::Refused { available: 2 }), "{refused:?}");
    let missing = holds.hold(3, 1, LONG).await.expect("an answer");
    assert!(matches!(missing, HoldOutcome::NotFound), "{missing:?}");
    let refused = holds.clone().at_least(1).hold(1, 2, LONG).await.expect("an answer");
    assert!(matches!(refused, HoldOutcome::Refused { available: 1 }), "{refused:?}");
    assert_eq!(seats(&pool, 1).await, 2);
    assert_eq!(fetch(&pool, "SELECT COUNT(*) FROM atomically_hold").await, 1, "a refused call is recorded");
}

pub(crate) async fn several_rows_are_held_together_or_not_at_all<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(2, 5).await;
    let HoldOutcome::Held(hold) = holds.hold_all([(2, 1), (1, 1), (2, 2)], LONG).await.expect("an answer")
    else {
        panic!("there are enough");
    };
    assert_eq!((seats(&pool, 1).await, seats(&pool, 2).await), (4, 2));
    let refused = holds.hold_all([(1, 1), (2, 3)], LONG).await.expect("an answer");
    assert!(matches!(refused, HoldOutcome::Refused { available: 2 }), "{refused:?}");
    let missing = holds.hold_all([(1, 1), (3, 1)], LONG).await.expect("an answer");
    assert!(matches!(missing, HoldOutcome::NotFound), "{missing:?}");
    assert_eq!((seats(&pool, 1).await, seats(&pool, 2).await), (4, 2), "a part was taken");
    assert!(hold.release().await.expect("released"));
    assert_eq!((seats(&pool, 1).await, seats(&pool, 2).await), (5, 5));
}

pub(crate) async fn invalid_input_is_refused<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(2, 5).await;
    for amount in [0, -1, i64::MIN] {
        let error = holds.hold(1, amount, LONG).await.expect_err("not an amount");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    let error = holds.hold_all([], LONG).await.expect_err("no keys");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let error = holds.hold_all((0..257).map(|key| (key, 1)), LONG).await.expect_err("many keys");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let refused = holds.hold(1, i64::MAX, LONG).await.expect("an answer");
    assert!(matches!(refused, HoldOutcome::Refused { available: 5 }), "{refused:?}");
    let holds = holds.at_least(i64::MIN);
    let error = holds.hold_all([(1, i64::MAX), (1, 1)], LONG).await.expect_err("more than an i64");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert_eq!(seats(&pool, 1).await, 5);
    let held = holds.hold(1, i64::MAX, LONG).await;
    assert!(matches!(held, Ok(HoldOutcome::Held(_))), "{held:?}");
    assert_eq!(seats(&pool, 1).await, 5 - i64::MAX);
}

pub(crate) async fn text_keys_are_given_back_to_their_own_row<DB: TestBackend>()
where
    String: HoldKey<DB>,
{
    let pool = DB::pool(2).await;
    for sql in [
        "CREATE TABLE event (id BIGINT PRIMARY KEY, name VARCHAR(50) UNIQUE, seats BIGINT)",
        "INSERT INTO event VALUES (1, 'a''; b \\', 5), (2, 'a', 5)",
    ] {
        let sql = if DB::NAME.contains("My") { sql.replace('\\', "\\\\") } else { sql.to_owned() };
        DB::pool_execute(&pool, DB::sql(&sql), &[]).await.expect("set up");
    }
    let holds = Holds::<DB, String>::on(&pool, "event", "name", "seats");
    holds.create_tables().await.expect("the table of holds");
    for holds in [holds.clone(), holds.clone().single_statement(false)] {
        let held = holds.hold("a'; b \\".to_owned(), 2, LONG).await.expect("an answer");
        assert!(matches!(held, HoldOutcome::Held(_)), "{held:?}");
        assert_eq!((seats(&pool, 1).await, seats(&pool, 2).await), (3, 5));
        expire(&pool).await;
        assert_eq!(holds.sweep().await.expect("swept"), 1);
        assert_eq!((seats(&pool, 1).await, seats(&pool, 2).await), (5, 5));
    }
    let error = holds.hold("x".repeat(256), 1, LONG).await.expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

pub(crate) async fn the_table_has_the_prefix_of_the_options<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(2, 5).await;
    let schema = Schema::prefixed("app_").expect("a prefix");
    let prefixed = holds.clone().options(Options::new().schema(schema));
    prefixed.create_tables().await.expect("the table of holds");
    let hold = held(&prefixed, 1, 2).await;
    let other = prefixed.clone().single_statement(false);
    let _other = held(&other, 1, 1).await;
    assert_eq!(fetch(&pool, "SELECT COUNT(*) FROM app_atomically_hold").await, 2);
    assert_eq!(fetch(&pool, "SELECT COUNT(*) FROM atomically_hold").await, 0);
    assert!(holds.find(hold.id(), hold.token()).await.expect("an answer").is_none());
    assert!(hold.release().await.expect("released"));
    assert_eq!(seats(&pool, 1).await, 4);
}

pub(crate) async fn a_missing_table_is_an_error_and_takes_nothing<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(2, 5).await;
    DB::pool_execute(&pool, DB::sql("DROP TABLE atomically_hold"), &[]).await.expect("dropped");
    let error = holds.hold(1, 1, LONG).await.expect_err("no table");
    assert!(error.to_string().contains("Holds::create_tables"), "{error}");
    assert_eq!(seats(&pool, 1).await, 5);
}

/// Otherwise more would be given back than was taken.
pub(crate) async fn a_number_that_a_trigger_or_a_type_changes_is_not_stored<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, _) = events::<DB>(2, 5).await;
    let table = "CREATE TABLE rough (id BIGINT PRIMARY KEY, seats FLOAT)";
    let table = if DB::NAME == "PostgreSQL" { table.replace("FLOAT", "REAL") } else { table.to_owned() };
    DB::pool_execute(&pool, DB::sql(&table), &[]).await.expect("a table");
    // Neither 32 nor 64 bits hold the difference.
    let insert = DB::sql("INSERT INTO rough VALUES (1, 144115188075855872)");
    DB::pool_execute(&pool, insert, &[]).await.expect("a row");
    let rough = Holds::<DB, i64>::on(&pool, "rough", "id", "seats");
    let error = rough.hold(1, 1, LONG).await.expect_err("the difference is rounded");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error}");
    assert_eq!(fetch(&pool, "SELECT COUNT(*) FROM atomically_hold").await, 0);
}
