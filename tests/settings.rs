//! Settings and roles of single transactions: `Options::setting` and `Options::role`.

#[path = "support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey, Outcome};
use atomically::queue::{NewJob, Queue};
use atomically::testing::{Fault, Faults, Moment};
use atomically::{
    Atomic, DeltaOutcome, Deltas, Error, ErrorKind, Options, Pessimistic, PoolTransactor, Resolve,
    TransactorExt as _, Tx,
};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Executor as _, MySql, PgPool, Postgres, Sqlite};
use support::proxy::Proxy;
use support::{TestBackend, TestPool};

const TENANT: &str = "nullif(current_setting('app.tenant', true), '')";

/// A table of invoices of two tenants whose policy shows each tenant its own, a counter, and a trigger that
/// records who changed what. Returns the role that the policy applies to.
async fn tenants(connections: u32) -> (TestPool<Postgres>, String) {
    let pool = Postgres::pool(connections).await;
    let database = pool.url.rsplit_once('/').expect("a database").1;
    let role = format!("Tenant {database}");
    let sql = format!(
        "CREATE ROLE \"{role}\";
         CREATE TABLE invoice (id BIGINT PRIMARY KEY, tenant TEXT NOT NULL);
         INSERT INTO invoice VALUES (1, 'a'), (2, 'b'), (3, 'b');
         ALTER TABLE invoice ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON invoice USING (tenant = {TENANT});
         CREATE TABLE audit (tenant TEXT, role TEXT);
         CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL);
         INSERT INTO counter VALUES (1, 0);
         CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO audit VALUES ({TENANT}, current_user); RETURN NEW; END $$;
         CREATE TRIGGER audit BEFORE UPDATE ON counter FOR EACH ROW EXECUTE FUNCTION audit();
         GRANT ALL ON ALL TABLES IN SCHEMA public TO \"{role}\""
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&*pool).await.expect("set up");
    (pool, role)
}

fn tenant(name: &str) -> Options {
    Options::new().setting("app.tenant", name)
}

async fn invoices(tx: &mut Tx<Postgres>) -> Result<Vec<i64>, Error> {
    Ok(sqlx::query_scalar("SELECT id FROM invoice ORDER BY id").fetch_all(&mut *tx).await?)
}

async fn current(tx: &mut Tx<Postgres>, setting: &str) -> Result<Option<String>, Error> {
    let sql = "SELECT nullif(current_setting($1, true), '')";
    Ok(sqlx::query_scalar(sql).bind(setting).fetch_one(&mut *tx).await?)
}

async fn current_role(tx: &mut Tx<Postgres>) -> Result<String, Error> {
    Ok(sqlx::query_scalar("SELECT current_user::text").fetch_one(&mut *tx).await?)
}

async fn audit(pool: &PgPool) -> Vec<(Option<String>, String)> {
    sqlx::query_as("SELECT tenant, role FROM audit").fetch_all(pool).await.expect("the audit")
}

const UPDATE: &str = "UPDATE counter SET value = value + 1 WHERE id = 1";

#[tokio::test]
async fn a_policy_shows_each_run_its_own_rows() {
    let (pool, role) = tenants(1).await;
    for reuses in [false, true] {
        let db = Pessimistic::default().on(&pool).options(Options::new().role(&role));
        let db = if reuses { db.reuse_connections() } else { db };
        for (name, expected) in [("a", vec![1]), ("b", vec![2, 3]), ("a' OR 'b' = 'b", vec![])] {
            let seen = db.with(tenant(name)).run(invoices).await.expect("a commit");
            assert_eq!(seen, expected, "{name}, reuse: {reuses}");
        }
        // Neither the setting nor the role outlives its transaction on the only connection.
        assert_eq!(db.run(invoices).await.expect("a commit"), Vec::<i64>::new());
        let other = Pessimistic::default().on(&pool);
        let (seen, user) = other
            .run(async |tx: &mut Tx<_>| -> Result<_, Error> {
                assert_eq!(current(tx, "app.tenant").await?, None);
                Ok((invoices(tx).await?, current_role(tx).await?))
            })
            .await
            .expect("a commit");
        assert_eq!(seen.len(), 3, "the owner sees every row");
        assert_ne!(user, role);
    }
}

/// Each call changes the counter once, and its trigger records the tenant and the role.
#[tokio::test]
async fn every_entry_point_has_the_settings() {
    let (pool, role) = tenants(2).await;
    let options = tenant("a").role(&role);
    let expected = (Some("a".to_owned()), role.clone());
    let mut calls = 0;
    let mut is_recorded = async |what: &str| {
        calls += 1;
        assert_eq!(audit(&pool).await, vec![expected.clone(); calls], "{what}");
    };
    let update = async |tx: &mut Tx<_>| -> Result<(), Error> {
        sqlx::query(UPDATE).execute(&mut *tx).await?;
        Ok(())
    };

    let db = Pessimistic::default().on(&pool);
    db.with(options.clone()).run(update).await.expect("a commit");
    is_recorded("a unit").await;

    let atomic = Atomic::default().on(&pool);
    let bound = || sqlx::query("UPDATE counter SET value = $1").bind(7_i64);
    assert_eq!(atomic.with(options.clone()).apply(bound()).await.expect("a commit"), 1);
    is_recorded("apply").await;
    let atomic = atomic.options(options.clone());
    assert_eq!(atomic.apply(sqlx::raw_sql(UPDATE)).await.expect("a commit"), 1);
    is_recorded("apply of a text").await;

    let deltas = Deltas::on(&pool, "counter", "id", "value").options(options.clone());
    let outcome = deltas.add(1_i64, 2).await.expect("a commit");
    assert!(matches!(outcome, DeltaOutcome::Applied { value: 10 }), "{outcome:?}");
    is_recorded("Deltas").await;

    db.create_key_table().await.expect("a table");
    sqlx::raw_sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC")
        .execute(&*pool)
        .await
        .expect("grants");
    let key = IdempotencyKey::new("tenant", "1").expect("a key");
    let outcome = db.with(options.clone()).once(&key).run(update).await.expect("a commit");
    assert!(matches!(outcome, Outcome::Fresh(())), "{outcome:?}");
    is_recorded("a unit with an idempotency key").await;

    let queue = Queue::new("jobs", &pool).expect("a name");
    queue.create_tables().await.expect("tables");
    let grants = "GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
                  GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC";
    sqlx::raw_sql(grants).execute(&*pool).await.expect("grants");
    let job = NewJob::new(&1).expect("a payload");
    let enqueue = async |tx: &mut Tx<_>| -> Result<(), Error> {
        let _ = queue.enqueue(tx, job.clone()).await?;
        update(tx).await
    };
    db.with(options.clone()).run(enqueue).await.expect("a commit");
    is_recorded("a unit that enqueues").await;
    let claims = queue.claim(1).await.expect("a claim");
    let complete = async |tx: &mut Tx<_>| -> Result<(), Error> {
        claims[0].complete_in(tx).await?;
        update(tx).await
    };
    db.with(options).run(complete).await.expect("a commit");
    is_recorded("a unit that completes a job").await;
}

/// The statements of a queue's own transactions, some of which are single statements otherwise.
#[tokio::test]
async fn the_transactions_of_a_queue_have_the_settings_of_its_options() {
    let (pool, role) = tenants(2).await;
    let queue = Queue::new("jobs", &pool).expect("a name");
    queue.create_tables().await.expect("tables");
    let trigger = "CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON atomically_job
                   FOR EACH STATEMENT EXECUTE FUNCTION audit();
                   GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
                   GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC";
    sqlx::raw_sql(trigger).execute(&*pool).await.expect("a trigger");
    let queue = queue.persistent(true).options(tenant("a").role(&role));
    let _ = queue.enqueue_alone(NewJob::new(&1).expect("a payload")).await.expect("a commit");
    let mut claims = queue.claim(1).await.expect("a claim");
    claims.remove(0).complete().await.expect("a commit");
    let recorded = audit(&pool).await;
    assert_eq!(recorded, vec![(Some("a".to_owned()), role); 3], "insert, claim and completion");
}

#[tokio::test]
async fn each_attempt_and_what_follows_a_savepoint_have_the_settings() {
    let (pool, role) = tenants(1).await;
    let db = Pessimistic::default().on(&pool).options(tenant("b").role(&role).setting("app.user", 7));
    let faults = Faults::new().at(Moment::Statement(1), Fault::SerializationFailure);
    let attempts = AtomicU32::new(0);
    let seen = faults
        .on(&db)
        .run(async |tx: &mut Tx<_>| -> Result<_, Error> {
            attempts.fetch_add(1, Ordering::Relaxed);
            let before = invoices(tx).await?;
            let failed = tx
                .savepoint(async |tx: &mut Tx<_>| -> Result<(), Error> {
                    sqlx::query("INSERT INTO invoice VALUES (2, 'b')").execute(&mut *tx).await?;
                    Ok(())
                })
                .await;
            assert!(failed.is_err_and(|error| error.constraint().is_some()), "a duplicate");
            assert_eq!(current(tx, "app.user").await?.as_deref(), Some("7"));
            assert_eq!(current_role(tx).await?, role);
            Ok((before, invoices(tx).await?))
        })
        .await
        .expect("a commit");
    assert_eq!(seen, (vec![2, 3], vec![2, 3]));
    assert_eq!((attempts.load(Ordering::Relaxed), faults.pending()), (2, 0));
}

/// The operation is recorded under the session's own role, so the unit's role needs no access to the table.
#[tokio::test]
async fn an_operation_is_recorded_before_the_role_is_set() {
    let (pool, role) = tenants(1).await;
    let db = Pessimistic::default().on(&pool);
    db.create_operation_table().await.expect("a table");
    let options = tenant("a").role(&role).setting("search_path", "nowhere, public");
    let recorded = options.resolve_commits(Resolve::Operation);
    assert_eq!(db.with(recorded).run(invoices).await.expect("a commit"), [1]);
    let operations: i64 = sqlx::query_scalar("SELECT count(*) FROM atomically_operation")
        .fetch_one(&*pool)
        .await
        .expect("rows");
    assert_eq!(operations, 1);
}

#[tokio::test]
async fn names_and_values_are_literal_whatever_the_session_is_set_to() {
    let server = Postgres::pool(1).await;
    let options = PgPoolOptions::new().max_connections(1).after_connect(|connection, _| {
        Box::pin(async move {
            connection.execute("SET standard_conforming_strings = off; SET backslash_quote = off").await?;
            Ok(())
        })
    });
    let pool = options.connect(&server.url).await.expect("a pool");
    let db = Pessimistic::default().on(&pool);
    for value in ["it's", "\\", "\\'; DROP TABLE x; --", "'||'", "$$", "\"", "ä ☃ \n\t", "", "E'\\\\'"] {
        let seen = db
            .with(Options::new().setting("App.Value", value))
            .run(async |tx: &mut Tx<_>| -> Result<String, Error> {
                let sql = "SELECT current_setting('app.value')";
                Ok(sqlx::query_scalar(sql).fetch_one(&mut *tx).await?)
            })
            .await;
        assert_eq!(seen.expect("a commit"), value);
    }
    for (path, expected) in
        [("pg_catalog, \"My Schema\"", "pg_catalog, \"My Schema\""), ("$user", "\"$user\"")]
    {
        let db = db.with(Options::new().setting("search_path", path));
        let seen = db.run(async |tx: &mut Tx<_>| current(tx, "search_path").await).await.expect("a commit");
        assert_eq!(seen.as_deref(), Some(expected));
    }
    // The server's own refusal, of which the value is not a part.
    let refused = db.with(Options::new().setting("work_mem", "secret")).run(current_role).await;
    let error = refused.expect_err("no number");
    assert_eq!(error.failure().and_then(|failure| failure.code()), Some("22023"), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    for name in ["a\"; DROP TABLE x; --.b", "a'.b", "a.b = '1'; --"] {
        let refused = db.with(Options::new().setting(name, 1)).run(current_role).await;
        let error = refused.expect_err("no name of a setting");
        assert_eq!(error.failure().and_then(|failure| failure.code()), Some("42602"), "{name}: {error:?}");
    }
    let error = db.with(Options::new().role("o'brien\\")).run(current_role).await.expect_err("no such role");
    assert!(error.to_string().contains("does not exist"), "{error}");
    assert_eq!(error.attempts(), Some(1));
}

/// Nothing is sent: no server listens at this address.
fn nowhere<DB: TestBackend>(url: &str) -> PoolTransactor<DB, Pessimistic> {
    let pool = sqlx::pool::PoolOptions::<DB>::new().connect_lazy(url).expect("a pool");
    Pessimistic::default().on(&pool)
}

#[tokio::test]
async fn invalid_settings_are_refused_before_anything_is_sent() {
    let db = nowhere::<Postgres>("postgres://postgres@127.0.0.1:1/none");
    for (options, part) in [
        (Options::new().setting("app.a", "x\0y"), "app.a"),
        (Options::new().setting("app.a\0", "x"), "NUL"),
        (Options::new().setting("app..a", "x"), "app..a"),
        (Options::new().setting("lock_timeout", "0"), "Options::lock_timeout"),
        (Options::new().setting("search_path", "a b"), "search_path"),
        (Options::new().role("a\0b"), "role"),
        (Options::new().role("r".repeat(64)), "63 bytes"),
    ] {
        let error = db.with(options).run(current_role).await.expect_err("invalid");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

async fn unsupported<DB: TestBackend>(url: &str)
where
    i64: atomically::Key<DB>,
{
    let db = nowhere::<DB>(url);
    let work = async |_: &mut Tx<DB>| -> Result<(), Error> { panic!("the unit ran") };
    for options in [Options::new().setting("app.tenant", 1), Options::new().role("tenant")] {
        let key = IdempotencyKey::new("tenant", "1").expect("a key");
        let atomic = Atomic::default().on(db.pool()).options(options.clone());
        let deltas = Deltas::on(db.pool(), "counter", "id", "value").options(options.clone());
        for error in [
            db.with(options.clone()).run(work).await.expect_err("a unit"),
            db.with(options.clone()).once(&key).run(work).await.expect_err("a key"),
            DB::apply(&atomic, DB::sql("UPDATE counter SET value = 1"), &[]).await.expect_err("apply"),
            deltas.add(1_i64, 1).await.expect_err("Deltas"),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
            assert!(error.to_string().contains("settings or roles"), "{error}");
        }
    }
}

#[tokio::test]
async fn other_databases_refuse_settings_before_anything_is_sent() {
    unsupported::<MySql>("mysql://root@127.0.0.1:1/none").await;
    unsupported::<Sqlite>("sqlite:///no/such/directory/test.db").await;
}

/// What may store a part of its work cannot be a part of a transaction, and so cannot have settings.
#[tokio::test]
async fn a_call_is_refused_with_settings() {
    let pool = Postgres::pool(1).await;
    let db = Atomic::default().on(&pool).options(tenant("a"));
    let error = db.apply(sqlx::raw_sql("CALL anything()")).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.to_string().contains("nothing was sent"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_take_no_round_trip() {
    let (direct, role) = tenants(2).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool = PgPoolOptions::new().max_connections(1).test_before_acquire(false);
    let pool = pool.connect(&proxy.url(&direct.url)).await.expect("a pool through the proxy");
    let db = Pessimistic::default().on(&pool).deadline(Duration::from_secs(60));
    // The pool pings each connection that is released. Acquiring the only one waits for that ping.
    let requests = async || {
        let _connection = pool.acquire().await.expect("the connection is released");
        proxy.requests()
    };
    let mut both = [0, 0];
    // The first round prepares the statement and learns the session's own limits.
    for _ in 0..2 {
        for (count, options) in both.iter_mut().zip([Options::new(), tenant("a").role(&role)]) {
            let before = requests().await;
            db.with(options).run(invoices).await.expect("a commit");
            *count = requests().await - before;
        }
    }
    assert_eq!(both[0], both[1]);
}
