//! The HTTP status of errors, through the error enum that the guide shows.

use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey};
use atomically::queue::{NewJob, Queue};
use atomically::{Error, ErrorKind, Options, Pessimistic, Resolve, TransactorExt as _, Tx};

use crate::support::{TestBackend, TestPool};

#[derive(Debug)]
enum BookingError {
    Database(Error),
}

impl From<Error> for BookingError {
    fn from(error: Error) -> Self {
        Self::Database(error)
    }
}

impl From<sqlx::Error> for BookingError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

async fn booking<DB: TestBackend>() -> TestPool<DB> {
    let pool = DB::pool(1).await;
    for sql in [
        "CREATE TABLE event (id BIGINT PRIMARY KEY, seats BIGINT NOT NULL CHECK (seats >= 0))",
        "CREATE TABLE booking (event BIGINT NOT NULL, FOREIGN KEY (event) REFERENCES event (id))",
        "INSERT INTO event VALUES (1, 0)",
    ] {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await.expect("set up");
    }
    pool
}

pub(crate) async fn a_violated_constraint_is_not_an_internal_error<DB: TestBackend>() {
    let pool = booking::<DB>().await;
    let db = Pessimistic::default().on(&pool);
    for (sql, status) in [
        ("UPDATE event SET seats = seats - 1 WHERE id = 1", 422),
        ("INSERT INTO event VALUES (2, NULL)", 422),
        ("INSERT INTO event VALUES (1, 7)", 409),
        ("INSERT INTO booking VALUES (99)", 409),
    ] {
        let run = db.run(async |tx: &mut Tx<DB>| -> Result<(), BookingError> {
            DB::execute(tx, DB::sql(sql), &[]).await?;
            Ok(())
        });
        let BookingError::Database(error) = run.await.expect_err("a violation");
        assert_eq!((error.http_status(), error.retry_after()), (status, None), "{sql}: {error:?}");
        assert_eq!(error.kind(), ErrorKind::Constraint);
    }
}

pub(crate) async fn a_missing_row_is_not_found<DB: TestBackend>() {
    let pool = booking::<DB>().await;
    let db = Pessimistic::default().on(&pool);
    let run = db.run(async |tx: &mut Tx<DB>| -> Result<i64, BookingError> {
        Ok(DB::fetch(tx, DB::sql("SELECT seats FROM event WHERE id = 99"), &[]).await?)
    });
    let BookingError::Database(error) = run.await.expect_err("no such event");
    assert_eq!((error.kind(), error.http_status()), (ErrorKind::RowNotFound, 404));
    // The same through `sqlx::Error`.
    let run = db.run(async |tx: &mut Tx<DB>| -> Result<i64, sqlx::Error> {
        let missing = DB::fetch(tx, DB::sql("SELECT seats FROM event WHERE id = 99"), &[]).await;
        missing.map_err(|error| Error::from(error).into())
    });
    assert_eq!(Error::from(run.await.expect_err("no such event")).http_status(), 404);
}

pub(crate) async fn a_missing_table_of_the_crate_has_a_kind_of_its_own<DB: TestBackend>() {
    let pool = DB::pool(1).await;
    let db = Pessimistic::default().on(&pool);
    let key = IdempotencyKey::new("", "1").expect("a key");
    let work = async |_: &mut Tx<DB>| -> Result<(), Error> { Ok(()) };
    let recorded = Options::new().resolve_commits(Resolve::Operation);
    let queue = Queue::new("jobs", &pool).expect("a name");
    for error in [
        db.with(recorded).run(work).await.expect_err("no table of operations"),
        db.once(&key).run(work).await.expect_err("no table of keys"),
        queue.claim(1).await.expect_err("no table of jobs"),
        db.run(async |tx| queue.enqueue(tx, NewJob::new(&1)?).await).await.expect_err("no table of jobs"),
    ] {
        assert_eq!((error.kind(), error.http_status()), (ErrorKind::MissingTable, 500), "{error:?}");
        assert!(error.to_string().contains("create"), "{error}");
    }
    let own = async |tx: &mut Tx<DB>| -> Result<i64, Error> {
        Ok(DB::fetch(tx, DB::sql("SELECT id FROM event"), &[]).await?)
    };
    assert_eq!(db.run(own).await.expect_err("no such table").kind(), ErrorKind::Database);
}
