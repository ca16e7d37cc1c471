//! Bound values arrive as they were bound, whatever they contain.

use atomically::{Error, Pessimistic, PoolTransactor, TransactorExt as _};
use futures_util::future::BoxFuture;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use sqlx::{MySql, Postgres, Sqlite};

use crate::bank::{Bank, bank};
use crate::support::TestPool;

/// How many rows of values each test sends, all in one connection's transactions.
const ROWS: usize = 150;

/// Values of the types that every database has.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Values {
    whole: Option<i64>,
    small: i16,
    medium: i32,
    flag: bool,
    double: f64,
    single: f32,
    text: Option<String>,
    bytes: Vec<u8>,
}

pub(crate) trait Holds: Bank {
    const TABLE: &'static str;
    const STORES_SPECIAL: bool;

    /// Stores the values with `at_commit`, and reads them back.
    fn store<'a>(
        db: &'a PoolTransactor<Self, Pessimistic>,
        pool: &'a TestPool<Self>,
        values: &'a Values,
    ) -> BoxFuture<'a, Result<Values, Error>>;

    /// Compares with a query that has the text bound, and returns whether the server finds it equal.
    fn finds_text<'a>(
        db: &'a PoolTransactor<Self, Pessimistic>,
        pool: &'a TestPool<Self>,
        text: &'a str,
    ) -> BoxFuture<'a, Result<bool, Error>>;
}

macro_rules! holds {
    ($database:ty, $special:literal, $table:literal, $one:literal, $eight:literal) => {
        impl Holds for $database {
            const TABLE: &'static str = $table;
            const STORES_SPECIAL: bool = $special;

            fn store<'a>(
                db: &'a PoolTransactor<Self, Pessimistic>,
                pool: &'a TestPool<Self>,
                values: &'a Values,
            ) -> BoxFuture<'a, Result<Values, Error>> {
                Box::pin(async move {
                    db.run(async |tx| -> Result<_, Error> {
                        let Values { whole, small, medium, flag, double, single, text, bytes } =
                            values.clone();
                        tx.at_commit(sqlx::query("DELETE FROM held"))?;
                        let insert = sqlx::query(concat!("INSERT INTO held VALUES ", $eight));
                        let insert = insert.bind(whole).bind(small).bind(medium).bind(flag);
                        let insert = insert.bind(double).bind(single).bind(text).bind(bytes);
                        tx.at_commit(insert)?.expect_one();
                        Ok(())
                    })
                    .await?;
                    let select =
                        "SELECT whole, small, medium, flag, double_, single_, text_, bytes FROM held";
                    let (whole, small, medium, flag, double, single, text, bytes) =
                        sqlx::query_as(select).fetch_one(&pool.pool).await?;
                    Ok(Values { whole, small, medium, flag, double, single, text, bytes })
                })
            }

            fn finds_text<'a>(
                db: &'a PoolTransactor<Self, Pessimistic>,
                pool: &'a TestPool<Self>,
                text: &'a str,
            ) -> BoxFuture<'a, Result<bool, Error>> {
                Box::pin(async move {
                    let set = concat!("UPDATE held SET text_ = ", $one, ", small = 0 WHERE small <> 7");
                    let mark = concat!("UPDATE held SET small = 1 WHERE text_ = ", $one);
                    db.run(async |tx| -> Result<_, Error> {
                        tx.at_commit(sqlx::query(set).bind(text))?.expect_one();
                        tx.at_commit(sqlx::query(mark).bind(text.to_owned()))?.expect_one();
                        Ok(())
                    })
                    .await?;
                    let stored: (String, i16) =
                        sqlx::query_as("SELECT text_, small FROM held").fetch_one(&pool.pool).await?;
                    Ok(stored == (text.to_owned(), 1))
                })
            }
        }
    };
}
holds!(
    Postgres,
    true,
    "CREATE TABLE held (whole BIGINT, small SMALLINT, medium INT, flag BOOLEAN, \
     double_ DOUBLE PRECISION, single_ REAL, text_ TEXT, bytes BYTEA)",
    "$1",
    "($1, $2, $3, $4, $5, $6, $7, $8)"
);
holds!(
    MySql,
    false,
    "CREATE TABLE held (whole BIGINT, small SMALLINT, medium INT, flag BOOLEAN, double_ DOUBLE, \
     single_ FLOAT, text_ TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, bytes BLOB)",
    "?",
    "(?, ?, ?, ?, ?, ?, ?, ?)"
);
holds!(
    Sqlite,
    false,
    "CREATE TABLE held (whole INTEGER, small INTEGER, medium INTEGER, flag BOOLEAN, double_ REAL, \
     single_ REAL, text_ TEXT, bytes BLOB)",
    "$1",
    "($1, $2, $3, $4, $5, $6, $7, $8)"
);

/// Text with everything that ends or escapes a literal in some database or mode.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("'".to_owned()),
        Just("''".to_owned()),
        Just("\\".to_owned()),
        Just("\\'".to_owned()),
        Just("\"`$$?%:;--/*#\r\n\t\u{8}\u{1a}".to_owned()),
        Just("$1 ? '; DROP TABLE held; --".to_owned()),
        Just("é\u{301}ß漢字🦀\u{feff}\u{202e}\u{10ffff}".to_owned()),
        "[ -~]{0,8}",
        "\\PC{0,6}",
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn values(special: bool) -> impl Strategy<Value = Values> {
    let edge = prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(0), any::<i64>()];
    let finite = proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL | proptest::num::f64::ZERO;
    let double = prop_oneof![
        4 => finite.boxed(),
        1 => if special { proptest::num::f64::INFINITE.boxed() } else { Just(-0.0).boxed() },
    ];
    let single = proptest::num::f32::NORMAL | proptest::num::f32::ZERO;
    (
        proptest::option::of(edge),
        any::<i16>(),
        prop_oneof![Just(i32::MIN), any::<i32>()],
        any::<bool>(),
        double,
        single,
        proptest::option::of(text()),
        proptest::collection::vec(any::<u8>(), 0..40),
    )
        .prop_map(|(whole, small, medium, flag, double, single, text, bytes)| Values {
            whole,
            small,
            medium,
            flag,
            double,
            single,
            text,
            bytes,
        })
}

fn samples<T: std::fmt::Debug>(strategy: impl Strategy<Value = T>) -> Vec<T> {
    let mut runner = TestRunner::deterministic();
    (0..ROWS).map(|_| strategy.new_tree(&mut runner).expect("a value").current()).collect()
}

async fn held<DB: Holds>() -> TestPool<DB> {
    let pool = bank::<DB>(1).await;
    DB::pool_execute(&pool, DB::sql(DB::TABLE), &[]).await.expect("a table");
    let insert = "INSERT INTO held (whole, small) VALUES (1, 1)";
    DB::pool_execute(&pool, DB::sql(insert), &[]).await.expect("a row");
    pool
}

pub(crate) async fn values_arrive_as_they_were_bound<DB: Holds>() {
    let pool = held::<DB>().await;
    let db = Pessimistic::default().on(&pool).reuse_connections();
    for values in samples(values(DB::STORES_SPECIAL)) {
        let stored =
            DB::store(&db, &pool, &values).await.unwrap_or_else(|error| panic!("{error}: {values:?}"));
        assert_eq!(stored, values);
        // SQLite stores a whole number as an integer, and a literal of MySQL has no negative zero.
        let is_same = stored.double.to_bits() == values.double.to_bits();
        assert!(is_same || (DB::NAME != "PostgreSQL" && values.double == 0.0), "{values:?}");
    }
}

pub(crate) async fn text_cannot_become_part_of_a_statement<DB: Holds>() {
    let pool = held::<DB>().await;
    let db = Pessimistic::default().on(&pool).reuse_connections();
    let modes: &[&str] = match DB::NAME {
        "MySQL" => &["", "NO_BACKSLASH_ESCAPES", "ANSI_QUOTES,NO_BACKSLASH_ESCAPES"],
        "PostgreSQL" => &["on", "off"],
        _ => &[""],
    };
    for mode in modes {
        let set = match DB::NAME {
            "MySQL" => format!("SET sql_mode = '{mode}'"),
            "PostgreSQL" => format!("SET standard_conforming_strings = {mode}"),
            _ => String::from("SELECT 1"),
        };
        DB::pool_execute(&pool, DB::sql(&set), &[]).await.expect("a setting of the only session");
        for text in samples(text()) {
            let found = DB::finds_text(&db, &pool, &text).await;
            assert!(found.unwrap_or_else(|error| panic!("{error}: {text:?}")), "{mode}: {text:?}");
        }
    }
}
