//! The program on embedded SQLite, as its user runs it first.

mod sale;

use sale::{run, small_sale};

#[test]
fn every_strategy_sells_each_seat_once() {
    let sale = small_sale(&[]);
    sale.sold_by_every_strategy(20);
    assert!(sale.sold("naive") >= 20, "naive does not oversell on every machine each time: {sale:?}");
    assert!(sale.sold("folklore") <= 20, "SQLite refuses to write after a stale read: {sale:?}");
}

/// Without this, the strategies' success would prove nothing. With one core only, buyers may be lucky.
#[test]
fn sells_seats_twice_without_the_crate() {
    let oversold = (0..20).any(|_| small_sale(&["--strategy", "naive", "--pool", "32"]).sold("naive") > 20);
    assert!(oversold, "200 buyers never got into each other's way");
}

#[test]
fn refuses_every_buyer_if_there_is_no_seat() {
    let sale = run(&["--buyers", "50", "--seats", "0"]);
    sale.sold_by_every_strategy(0);
}

#[test]
fn sells_a_seat_to_each_of_few_buyers() {
    let sale = run(&["--buyers", "10", "--seats", "20", "--strategy", "atomic"]);
    assert_eq!((sale.code, sale.sold("atomic")), (Some(0), 10), "{sale:?}");
    assert!(!sale.stdout.contains("naive"), "naive was not requested: {sale:?}");
}

#[test]
fn explains_bad_arguments_in_one_line() {
    run(&["--buyers", "0"]).refused_with(&["--buyers", "1..="]);
    run(&["--pool", "many"]).refused_with(&["--pool", "many"]);
    run(&["--strategy", "hope"]).refused_with(&["hope", "pessimistic", "atomic", "adaptive", "all"]);
    run(&["--nonsense"]).refused_with(&["--nonsense"]);
    run(&["--database-url", "here"]).refused_with(&["`here`", "postgres://"]);
}

#[cfg(not(feature = "postgres"))]
#[test]
fn names_the_feature_that_is_not_built_in() {
    run(&["--database-url", "postgres://me:secret@127.0.0.1:1/x"])
        .refused_with(&["does not include PostgreSQL", "--features postgres"]);
}

#[tokio::test]
async fn leaves_no_table_behind() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let url = format!("sqlite://{}?mode=rwc", directory.path().join("sale.db").display());
    let sale = small_sale(&["--database-url", &url, "--strategy", "pessimistic"]);
    assert_eq!(sale.code, Some(0), "{sale:?}");
    let pool = sqlx::SqlitePool::connect(&url).await.expect("open the database");
    let tables = sqlx::query_scalar::<_, String>("SELECT name FROM sqlite_master").fetch_all(&pool).await;
    assert_eq!(tables.expect("the tables"), [""; 0]);
}
