//! The check of the tables at the start of a program, and the errors of programs without one.

use std::time::Duration;

use atomically::holds::{HoldKey, Holds};
use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey};
use atomically::lease::Lease;
use atomically::queue::{NewJob, Queue};
use atomically::{
    Error, Options, Pessimistic, Resolve, Schema, SchemaFinding, SchemaPart, TransactorExt as _, Tx,
};
use sqlx::Pool;

use crate::support::TestBackend;

async fn change<DB: TestBackend>(pool: &Pool<DB>, sql: &str) {
    DB::pool_execute(pool, DB::sql(sql), &[]).await.expect("a change");
}

async fn check<DB: TestBackend>(pool: &Pool<DB>, schema: Schema) -> Vec<SchemaFinding> {
    schema.check(pool).await.expect("checked")
}

pub(crate) async fn missing_tables_are_named_with_their_statement<DB: TestBackend>() {
    let pool = DB::pool(2).await;
    let schema = Schema::prefixed("app_").expect("a prefix");
    let found = check(&pool, schema).await;
    let tables: Vec<_> = found
        .iter()
        .map(|finding| match finding {
            SchemaFinding::MissingTable { table, .. } => table.as_str(),
            finding => panic!("{finding}"),
        })
        .collect();
    let wanted = [
        "schema",
        "operation",
        "key",
        "job",
        "job_lease",
        "job_key",
        "job_pause",
        "lease",
        "lease_expiry",
        "hold",
    ]
    .map(|name| format!("app_atomically_{name}"));
    assert_eq!(tables, wanted);
    let advice = "the table app_atomically_key does not exist: create app_atomically_key with \
                  `PoolTransactor::create_key_table` or `Schema::create`, or with the statements of \
                  `Schema::sql` in a migration";
    assert_eq!(found[2].to_string(), advice);
    for finding in &found {
        let SchemaFinding::MissingTable { statement, .. } = finding else { panic!("{finding}") };
        change(&pool, statement).await;
    }
    let found = check(&pool, schema).await;
    assert!(!found.iter().any(|finding| matches!(finding, SchemaFinding::MissingTable { .. })), "{found:?}");
    schema.create(&pool.pool).await.expect("created");
    assert_eq!(check(&pool, schema).await, []);
}

pub(crate) async fn missing_columns_and_indexes_are_named_with_their_statement<DB: TestBackend>() {
    let pool = DB::pool(2).await;
    Schema::new().create(&pool.pool).await.expect("created");
    let on = if pool.url.starts_with("mysql") { " ON atomically_job" } else { "" };
    change(&pool, &format!("DROP INDEX atomically_job_dead{on}")).await;
    change(&pool, "ALTER TABLE atomically_job DROP COLUMN last_error").await;
    let mut found = check(&pool, Schema::new()).await;
    found.sort_by_key(ToString::to_string);
    let [column, index] = &*found else { panic!("{found:?}") };
    let SchemaFinding::MissingColumn { table, column: name, statement, .. } = column else {
        panic!("{column}")
    };
    assert_eq!((table.as_str(), name.as_str()), ("atomically_job", "last_error"));
    assert_eq!(column.to_string(), format!("the table atomically_job has no column last_error: {statement}"));
    change(&pool, statement).await;
    let SchemaFinding::MissingIndex { table, index: name, statement, .. } = index else { panic!("{index}") };
    assert_eq!((table.as_str(), name.as_str()), ("atomically_job", "atomically_job_dead"));
    change(&pool, statement).await;
    assert_eq!(check(&pool, Schema::new()).await, []);
}

pub(crate) async fn versions_are_compared<DB: TestBackend>() {
    let pool = DB::pool(2).await;
    Schema::new().create(&pool.pool).await.expect("created");
    let part = SchemaPart::Keys;
    for (version, text) in [(0, "run the upgrade"), (99, "deploy the release")] {
        let sql = format!("UPDATE atomically_schema SET version = {version} WHERE part = 'keys'");
        change(&pool, &sql).await;
        // Creating what is missing neither upgrades tables nor claims that they were upgraded.
        Schema::new().create(&pool.pool).await.expect("nothing is missing");
        let found = check(&pool, Schema::new()).await;
        assert_eq!(found.len(), 1, "{found:?}");
        let is_wanted = match &found[0] {
            SchemaFinding::Old { part: of, found, .. } => version == 0 && *of == part && *found == 0,
            SchemaFinding::New { part: of, found, .. } => version == 99 && *of == part && *found == 99,
            _ => false,
        };
        assert!(is_wanted && found[0].to_string().contains(text), "{found:?}");
        assert_eq!(check(&pool, Schema::new().only(&[SchemaPart::Queue])).await, []);
    }
    change(&pool, "DELETE FROM atomically_schema WHERE part = 'keys'").await;
    let found = check(&pool, Schema::new()).await;
    assert!(matches!(&found[..], [SchemaFinding::MissingVersion { .. }]), "{found:?}");
    Schema::new().create(&pool.pool).await.expect("recorded");
    assert_eq!(check(&pool, Schema::new()).await, []);
}

/// Whichever call meets the missing table first.
pub(crate) async fn an_error_about_a_missing_table_says_how_to_create_it<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let pool = DB::pool(2).await;
    for (schema, prefix) in [(Schema::new(), ""), (Schema::prefixed("app_").expect("a prefix"), "app_")] {
        let db = Pessimistic::default().on(&pool).options(Options::new().schema(schema).attempts(1));
        let queue = Queue::new("jobs", &pool).expect("a name").options(Options::new().schema(schema));
        let job = || NewJob::new(&1).expect("a payload");
        let key = IdempotencyKey::new("scope", "key").expect("a key");
        let nothing = async |_: &mut Tx<DB>| Ok::<_, Error>(1);
        let resolving = db.with(Options::new().resolve_commits(Resolve::Operation));
        let enqueues = async |tx: &mut Tx<DB>| queue.enqueue(tx, job()).await.map(drop);
        let lease = Lease::new("lease", &pool).options(Options::new().schema(schema));
        let holds =
            Holds::<DB, i64>::on(&pool, "event", "id", "seats").options(Options::new().schema(schema));
        let [key_table, operation, jobs, leases, hold_table] = [
            ("key", "PoolTransactor::create_key_table"),
            ("operation", "PoolTransactor::create_operation_table"),
            ("job", "Queue::create_tables"),
            ("lease", "Lease::create_tables"),
            ("hold", "Holds::create_tables"),
        ];
        let errors: [(_, Result<(), Error>); 15] = [
            (key_table, db.once(&key).run(nothing).await.map(drop)),
            (key_table, db.keys().find(&key).await.map(drop)),
            (key_table, db.keys().purge().await.map(drop)),
            (operation, resolving.run(nothing).await.map(drop)),
            (operation, db.purge_operations(Duration::ZERO).await.map(drop)),
            (jobs, db.run(enqueues).await),
            (jobs, queue.enqueue_alone(job()).await.map(drop)),
            (jobs, queue.claim(1).await.map(drop)),
            (jobs, queue.dead(1).await.map(drop)),
            (jobs, queue.counts().await.map(drop)),
            (jobs, queue.depth().await.map(drop)),
            (jobs, queue.requeue(1).await.map(drop)),
            (leases, lease.try_acquire().await.map(drop)),
            (hold_table, holds.sweep().await.map(drop)),
            (hold_table, holds.find(1, 1).await.map(drop)),
        ];
        for (number, ((table, creator), result)) in errors.into_iter().enumerate() {
            let error = result.expect_err("there is no table").to_string();
            let advice = [
                format!("create {prefix}atomically_{table}"),
                format!("with `{creator}` or `Schema::create`"),
            ];
            assert!(advice.iter().all(|part| error.contains(part)), "{number}: {error}");
        }
    }
}
