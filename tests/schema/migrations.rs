//! The definitions in migrations, and in other schemas of PostgreSQL.

use atomically::holds::HoldKey;
use atomically::{ErrorKind, Schema, SchemaPart};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool, Postgres};

use crate::features::use_all_features;
use crate::support::TestBackend;

/// A folder of migrations with the definitions in it, as a user would write it to a file.
fn migrations(sql: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("1_atomically.sql"), sql).expect("a migration");
    folder
}

pub(crate) async fn a_migration_of_sqlx_creates_all_tables<DB: TestBackend>()
where
    DB::Connection: sqlx::migrate::Migrate,
    i64: HoldKey<DB>,
{
    let pool = DB::pool(4).await;
    let folder = migrations(&Schema::new().sql::<DB>());
    let migrator = Migrator::new(folder.path()).await.expect("migrations");
    for _ in 0..2 {
        migrator.run(&pool.pool).await.expect("migrated");
    }
    assert_eq!(Schema::new().check(&pool.pool).await.expect("checked"), []);
    Schema::new().create(&pool.pool).await.expect("nothing is missing");
    use_all_features(&pool.pool, Schema::new()).await;
}

pub(crate) async fn every_statement_ends_with_a_semicolon<DB: TestBackend>() {
    for schema in [Schema::new(), Schema::new().only(&[SchemaPart::Queue])] {
        let sql = schema.sql::<DB>();
        let code: Vec<_> = sql.lines().filter(|line| !line.starts_with("--") && !line.is_empty()).collect();
        assert!(code.last().is_some_and(|line| line.ends_with(';')), "{sql}");
        for (line, next) in code.iter().zip(&code[1..]) {
            let begins = ["CREATE ", "INSERT "].iter().any(|word| next.starts_with(word));
            assert_eq!(begins, line.ends_with(';'), "{line}\n{next}");
        }
    }
    // Users copy it into files that other tools may split at semicolons.
    let sql = Schema::new().sql::<DB>();
    assert!(
        sql.lines().filter(|line| line.starts_with("--")).all(|line| !line.contains([';', '\''])),
        "{sql}"
    );
}

pub(crate) async fn parts_can_be_created_one_by_one<DB: TestBackend>() {
    let pool = DB::pool(2).await;
    for (done, part) in SchemaPart::ALL.into_iter().enumerate() {
        let schema = Schema::new().only(&[part]);
        assert!(!schema.check(&pool.pool).await.expect("checked").is_empty(), "{part}");
        schema.create(&pool.pool).await.expect("created");
        assert_eq!(schema.check(&pool.pool).await.expect("checked"), [], "{part}");
        let all = Schema::new().check(&pool.pool).await.expect("checked");
        assert_eq!(all.is_empty(), done + 1 == SchemaPart::ALL.len(), "{all:?}");
    }
}

/// Opens a pool whose sessions have this search path.
async fn with_search_path(pool: &PgPool, path: &str) -> PgPool {
    let options: PgConnectOptions = (*pool.connect_options()).clone();
    let options = options.options([("search_path", path)]);
    PgPoolOptions::new().max_connections(4).connect_with(options).await.expect("a pool")
}

/// The number of the crate's tables in a schema of PostgreSQL.
async fn tables_in(pool: &PgPool, schema: &str) -> i64 {
    let count = "SELECT COUNT(*) FROM pg_tables WHERE schemaname = $1 AND tablename LIKE 'atomically%'";
    sqlx::query_scalar(count).bind(schema).fetch_one(pool).await.expect("a count")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_kept_in_another_schema_of_postgres() {
    let pool = Postgres::pool(2).await;
    for schema in ["tenant", "\"OtherTenant\""] {
        let create = AssertSqlSafe(format!("CREATE SCHEMA {schema}"));
        sqlx::raw_sql(create).execute(&pool.pool).await.expect("a schema");
    }
    let tenant = with_search_path(&pool, "tenant").await;
    Schema::new().create(&tenant).await.expect("created");
    assert_eq!(Schema::new().check(&tenant).await.expect("checked"), []);
    use_all_features(&tenant, Schema::new()).await;
    assert_eq!((tables_in(&pool, "tenant").await, tables_in(&pool, "public").await), (10, 0));

    // Tables that are found through the search path are not reported. Creation applies to its first schema.
    let both = with_search_path(&pool, "\"OtherTenant\",tenant").await;
    assert_eq!(Schema::new().check(&both).await.expect("checked"), []);
    Schema::new().create(&both).await.expect("created");
    assert_eq!(tables_in(&pool, "OtherTenant").await, 10);
}

#[test]
fn a_prefix_is_checked() {
    for prefix in ["", "app_", "_", "tenant_7_", "a234567890123456789012345678901_"] {
        Schema::prefixed(prefix).expect("a prefix");
    }
    for prefix in ["App_", "7_", "a-", "a.", "a b", "\u{e4}", "a'", "a23456789012345678901234567890123"] {
        let error = Schema::prefixed(prefix).expect_err("no prefix");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("invalid table prefix"), "{error}");
    }
}
