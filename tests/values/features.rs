//! Values in jobs, idempotency keys and deltas.

use std::time::Duration;

use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey, KeyError};
use atomically::queue::{Enqueued, NewJob, Queue, Retry};
use atomically::{DeltaOutcome, Deltas, Error, Key, Options, TransactorExt as _, Tx};
use sqlx::{Pool, Postgres};

use crate::support::TestBackend;
use crate::watch::Watch;

fn job(watch: &Watch) -> NewJob {
    let job = NewJob::new(&(&watch.text, watch.number)).expect("a payload");
    let job = job.unique(format!("key of {}", watch.text)).expect("a key");
    watch.check("a job", &format!("{job:?}"));
    job
}

async fn queue<DB: TestBackend>(pool: &Pool<DB>) -> Queue<DB> {
    let queue = Queue::new("mails", pool).expect("a name");
    queue.create_tables().await.expect("the tables");
    queue
}

pub(crate) async fn jobs_show_neither_payload_nor_key<DB: TestBackend>() {
    let (pool, watch) = (DB::pool(2).await, Watch::new());
    let (db, queue) = (watch.on(&pool), queue(&pool).await);
    for queue in [queue.clone(), queue.clone().persistent(true), queue.persistent(false)] {
        let first = db.run(async |tx: &mut Tx<DB>| queue.enqueue(tx, job(&watch)).await).await;
        assert!(matches!(first, Ok(Enqueued::Added(_))), "{first:?}");
        let more = [job(&watch), NewJob::new(&watch.text).expect("a payload")];
        let added = db.run(async |tx: &mut Tx<DB>| queue.enqueue_many(tx, &more).await).await;
        assert_eq!(added.expect("a commit"), 1);
        let again = queue.enqueue_alone(job(&watch)).await;
        assert!(matches!(again, Ok(Enqueued::Duplicate)), "{again:?}");
        let other = NewJob::new(&(&watch.text, watch.number)).expect("a payload");
        assert!(matches!(queue.enqueue_alone(other).await, Ok(Enqueued::Added(_))));

        let claims = queue.claim(10).await.expect("a claim");
        assert_eq!(claims.len(), 3);
        for claim in claims {
            watch.check("a claim", &format!("{claim:?}"));
            watch.check_error(&claim.payload::<Vec<i64>>().expect_err("the payload has another type"));
            claim.fail("a text of the program's own", Retry::Never).await.expect("a dead job");
        }
    }
    let long = NewJob::new(&()).expect("a payload").unique(watch.text.repeat(20));
    watch.check_error(&long.expect_err("a long key"));
    watch.check_all();
    watch.check_lines_of_all_targets();
}

pub(crate) async fn idempotency_keys_show_neither_request_nor_response<DB: TestBackend>() {
    let (pool, watch) = (DB::pool(2).await, Watch::new());
    let db = watch.on(&pool);
    let key = IdempotencyKey::new(&watch.text, watch.number.to_string()).expect("a key").request(&watch.text);
    let missing = db.once(&key).run(async |_: &mut Tx<DB>| Ok::<_, Error>(watch.text.clone())).await;
    watch.check_error(&missing.expect_err("no table"));
    db.create_key_table().await.expect("the table");
    for _ in 0..2 {
        let text = watch.text.clone();
        let response = db.once(&key).run(async move |_: &mut Tx<DB>| Ok::<_, Error>(text)).await;
        let _ = response.expect("a response");
    }
    let error = db.once(&key).run(async |_: &mut Tx<DB>| Ok::<_, Error>(7_i64)).await.expect_err("a text");
    watch.check_error(&error);
    let unreadable = KeyError::of(&error).expect("an error of the key's");
    watch.check("an error of a key", &format!("{unreadable} {unreadable:?}"));
    assert!(std::error::Error::source(unreadable).is_none(), "{unreadable:?}");
    let other = key.request("another request");
    let mismatch = db.once(&other).run(async |_: &mut Tx<DB>| Ok::<_, Error>(String::new())).await;
    let _ = mismatch.expect("a mismatch");
    watch.check("a key", &format!("{key:?}"));
    watch.check_all();
    watch.check_lines_of_all_targets();
}

pub(crate) async fn deltas_show_neither_key_nor_amount<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let (pool, watch) = (DB::pool(2).await, Watch::new());
    let create = "CREATE TABLE product (id BIGINT PRIMARY KEY, \
                  stock BIGINT NOT NULL CHECK (stock < 9223372036854775807))";
    DB::pool_execute(&pool, DB::sql(create), &[]).await.expect("a table");
    DB::pool_execute(&pool, DB::sql("INSERT INTO product VALUES (?, 0)"), &[watch.number])
        .await
        .expect("a row");
    let options =
        Options::new().deadline(Duration::from_secs(60)).observed_by(std::sync::Arc::new(watch.clone()));
    let stock = Deltas::on(&pool, "product", "id", "stock").options(options);
    for stock in [stock.clone(), stock.single_statement(false)] {
        let added = stock.add(watch.number, watch.literal).await.expect("a commit");
        assert!(matches!(added, DeltaOutcome::Applied { .. }), "{added:?}");
        let refused = stock.clone().at_most(0).add(watch.number, watch.literal).await.expect("an answer");
        assert!(matches!(refused, DeltaOutcome::Refused { .. }), "{refused:?}");
        assert_eq!(stock.add(watch.literal, 1).await.expect("an answer"), DeltaOutcome::NotFound);
        let DeltaOutcome::Refused { value } = refused else { return };
        let most = stock.add(watch.number, i64::MAX - value).await.expect_err("the check");
        watch.check_error(&most);
    }
    watch.check_all();
}

/// The statements of deltas with `single_statement(false)` are included.
pub(crate) async fn statements_of_the_crate_contain_no_payload() {
    let (pool, watch) = (Postgres::pool(2).await, Watch::new());
    let (db, queue) = (watch.on(&pool), queue(&pool).await);
    let others = Postgres::another(&pool.url).await;
    let shown = async |what: &str| {
        let activity = "SELECT query FROM pg_stat_activity \
                        WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let shown: Vec<String> = sqlx::query_scalar(activity).fetch_all(&others).await.expect("the sessions");
        assert!(shown.iter().any(|query| query.contains(what)), "{what}: {shown:?}");
        watch.check("a session", &shown.join("\n"));
    };
    for queue in [queue.clone(), queue.clone().persistent(true), queue.clone().persistent(false)] {
        db.run(async |tx: &mut Tx<Postgres>| {
            let _ = queue.enqueue(tx, job(&watch)).await?;
            shown("INSERT INTO atomically_job").await;
            let more = [job(&watch), NewJob::new(&watch.text).expect("a payload")];
            let _ = queue.enqueue_many(tx, &more).await?;
            shown("INSERT INTO atomically_job").await;
            Ok::<_, Error>(())
        })
        .await
        .expect("a commit");
    }
    let _ = queue.enqueue_alone(job(&watch)).await.expect("an answer");
    shown("INSERT INTO atomically_job").await;

    sqlx::query("CREATE TABLE product (id BIGINT PRIMARY KEY, stock BIGINT NOT NULL)")
        .execute(&*pool)
        .await
        .expect("a table");
    sqlx::query("INSERT INTO product VALUES ($1, 0)")
        .bind(watch.number)
        .execute(&*pool)
        .await
        .expect("a row");
    let stock = Deltas::on(&pool, "product", "id", "stock").single_statement(false);
    let added = stock.add(watch.number, watch.literal).await.expect("a commit");
    assert!(matches!(added, DeltaOutcome::Applied { .. }), "{added:?}");
    watch.check_all();
    watch.check_lines_of_all_targets();
}
