//! Keys whose type does not fit the column.

use atomically::{Deltas, Error, ErrorKind, Key, Pessimistic, TransactorExt as _, Tx};

use crate::support::TestBackend;

pub(crate) async fn locking_by_key_names_the_table_the_column_and_the_type<DB: TestBackend>()
where
    String: Key<DB>,
    i64: Key<DB>,
{
    let pool = DB::pool(1).await;
    for sql in [
        "CREATE TABLE tag (name VARCHAR(40) PRIMARY KEY, number BIGINT NOT NULL)",
        "INSERT INTO tag VALUES ('7', 7)",
    ] {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await.expect("set up");
    }
    let db = Pessimistic::default().on(&pool);
    let numbers = db.run(async |tx: &mut Tx<DB>| tx.lock_rows("tag", "name", &[7_i64]).await);
    let texts = db.run(async |tx: &mut Tx<DB>| tx.lock_rows("tag", "number", &["7".to_owned()]).await);
    for (error, column, type_name) in [
        (numbers.await.expect_err("numbers for a text"), "`name`", "`i64`"),
        (texts.await.map(drop).expect_err("texts for a number"), "`number`", "String`"),
    ] {
        let text = error.to_string();
        assert!(text.contains("`tag`") && text.contains(column) && text.contains(type_name), "{text}");
        assert!(matches!(error.kind(), ErrorKind::Database | ErrorKind::Decode), "{error:?}");
        assert_eq!(error.http_status(), 500);
    }
    let deltas = Deltas::on(&pool, "tag", "name", "number");
    let text = deltas.add(7_i64, 1).await.expect_err("numbers for a text").to_string();
    assert!(text.contains("`tag`") && text.contains("`name`") && text.contains("`i64`"), "{text}");
    let missing = db.run(async |tx: &mut Tx<DB>| tx.lock_rows("no_such_table", "id", &[7_i64]).await);
    let error: Error = missing.await.expect_err("no such table");
    assert!(error.to_string().contains("`no_such_table` by the column `id`"), "{error}");
}
