//! The cost of claims: round trips, plans and rows read.

use atomically::queue::{NewJob, Priority, Queue};
use atomically::{Pessimistic, TransactorExt as _};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use sqlx::{MySql, Pool, Postgres, Row as _};

use crate::support::proxy::Proxy;
use crate::support::{TestBackend, TestPool};
use crate::{claim_one, job, queue};

/// Enqueues `count` jobs of each priority.
async fn fill<DB: TestBackend>(pool: &Pool<DB>, queue: &Queue<DB>, count: i64) {
    let db = Pessimistic::default().on(pool);
    let priorities = [Priority::High, Priority::Normal, Priority::Low];
    let jobs: Vec<NewJob> =
        (0..count).flat_map(|n| priorities.map(|priority| job(n).priority(priority))).collect();
    db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_enqueues_claims_and_completes_in_one_round_trip_each() {
    let (pool, queue) = queue::<Postgres>(2).await;
    fill(&pool, &queue, 10).await;
    let proxy = Proxy::to(&pool.url).await;
    let untested = PgPoolOptions::new().max_connections(1).test_before_acquire(false);
    let proxied = untested.connect(&proxy.url(&pool.url)).await.expect("a pool");
    let queue = Queue::new("jobs", &proxied).expect("a name").persistent(true);
    // This prepares the statements in the session.
    claim_one(&queue).await.complete().await.expect("complete");
    let _ = queue.enqueue_alone(job(0)).await.expect("a commit");
    // The pool pings each connection that is released, in the background: the one of the call, and this one.
    let counted = async || {
        let _held = proxied.acquire().await.expect("the connection is released");
        proxy.requests()
    };
    for most in [1, 5, 100] {
        let before = counted().await;
        let claims = queue.claim(most).await.expect("a claim");
        let between = counted().await;
        claims[0].complete().await.expect("complete");
        let behind = counted().await;
        assert_eq!((between - before, behind - between), (1 + 2, 1 + 2));
        let _ = queue.enqueue_alone(job(most as i64)).await.expect("a commit");
        assert_eq!(counted().await - behind, 1 + 2);
    }
}

/// A queue with one session, whose plans no vacuum or analysis in the background discards.
async fn planned_queue() -> (TestPool<Postgres>, Queue<Postgres>) {
    let (pool, queue) = queue::<Postgres>(1).await;
    for table in ["atomically_job", "atomically_job_lease", "atomically_job_key"] {
        let keep = format!("ALTER TABLE {table} SET (autovacuum_enabled = off)");
        sqlx::raw_sql(sqlx::AssertSqlSafe(keep)).execute(&pool.pool).await.expect("a setting");
    }
    (pool, queue)
}

/// The session planned the statement while the table was empty, and keeps the plan.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_goes_by_the_index_though_the_table_was_empty() {
    let (pool, queue) = planned_queue().await;
    sqlx::raw_sql("VACUUM atomically_job").execute(&pool.pool).await.expect("known to be empty");
    for _ in 0..10 {
        assert!(queue.claim(3).await.expect("a claim").is_empty());
    }
    fill(&pool, &queue, 500).await;
    let kept: (String, i64) = sqlx::query_as(
        "SELECT name, generic_plans FROM pg_prepared_statements WHERE name LIKE 'atomically %'",
    )
    .fetch_one(&pool.pool)
    .await
    .expect("one statement");
    assert!(kept.1 > 0, "the plan was made for no values: {kept:?}");
    let explain = format!(
        "SET plan_cache_mode = force_generic_plan; EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) \
         EXECUTE \"{}\" ('jobs', 501, 1000, 0, 0, 0, 0, 0, 0)",
        kept.0
    );
    let plan = sqlx::raw_sql(sqlx::AssertSqlSafe(explain)).fetch_all(&pool.pool).await.expect("a plan");
    let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
    let plan = plan.join("\n");
    assert!(!plan.contains("Seq Scan on atomically_job") && !plan.contains("Sort"), "{plan}");
    assert!(
        plan.contains(
            "Index Scan using atomically_job_claim on atomically_job atomically_job_1 (actual rows=250"
        ),
        "{plan}"
    );
    let range = "(queue = $1) AND (priority = \"*VALUES*\".column1) AND \
                 (ROW(due_at, id) > ROW(\"*VALUES*\".column2, \"*VALUES*\".column3)) AND (due_at <=";
    assert!(plan.contains(range), "{plan}");
    // Versions of PostgreSQL differ in the number of digits.
    let by_place = |line: &str| line.contains("Tid Scan on atomically_job (actual rows=1");
    assert!(plan.lines().any(|line| by_place(line) && line.ends_with("loops=501)")), "{plan}");
    // All high-priority jobs and one normal one.
    let left = "SELECT string_agg(count::text, ' ' ORDER BY priority)
                FROM (SELECT priority, count(*) FROM atomically_job
                      WHERE claimed_at IS NULL GROUP BY priority) AS left_over";
    let left: String = sqlx::query_scalar(left).fetch_one(&pool.pool).await.expect("counts");
    assert_eq!(left, "499 500");
}

/// Planning takes longer than executing, and a plan that is compiled takes longer still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_plans_the_claim_once() {
    let (pool, queue) = planned_queue().await;
    fill(&pool, &queue, 500).await;
    sqlx::raw_sql("VACUUM ANALYZE").execute(&pool.pool).await.expect("known to be long");
    sqlx::raw_sql("SET jit_above_cost = 0").execute(&pool.pool).await.expect("a setting");
    for limit in [1, 1, 1, 1, 1, 1, 1, 1, 100, 1] {
        assert_eq!(queue.claim(limit).await.expect("a claim").len(), limit);
    }
    let (name, generic, custom): (String, i64, i64) = sqlx::query_as(
        "SELECT name, generic_plans, custom_plans FROM pg_prepared_statements WHERE name LIKE 'atomically %'",
    )
    .fetch_one(&pool.pool)
    .await
    .expect("one statement");
    assert_eq!((generic, custom), (10, 0));
    let explain = format!(
        "BEGIN; SET LOCAL plan_cache_mode = force_generic_plan; \
         EXPLAIN (ANALYZE) EXECUTE \"{name}\" ('jobs', 1, 1000, 0, 0, 0, 0, 0, 0); COMMIT"
    );
    let plan = sqlx::raw_sql(sqlx::AssertSqlSafe(explain)).fetch_all(&pool.pool).await.expect("a plan");
    let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
    assert!(!plan.iter().any(|line| line.contains("JIT")), "{plan:?}");
}

/// The claim's settings override the session's defaults and are undone at its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_claims_under_read_committed_with_a_limit() {
    let (pool, queue) = queue::<Postgres>(1).await;
    let watch = "CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
            IF current_setting('transaction_isolation') <> 'read committed'
                OR current_setting('statement_timeout') = '0' THEN
                RAISE 'claimed under % with a limit of %', current_setting('transaction_isolation'),
                    current_setting('statement_timeout');
            END IF;
            RETURN NEW;
        END$$;
        CREATE TRIGGER watch BEFORE UPDATE ON atomically_job FOR EACH ROW EXECUTE FUNCTION watch();
        SET default_transaction_isolation = 'serializable'";
    sqlx::raw_sql(watch).execute(&pool.pool).await.expect("a trigger");
    fill(&pool, &queue, 1).await;
    claim_one(&queue).await.complete().await.expect("complete");
    for (setting, wanted) in [
        ("statement_timeout", "0"),
        ("plan_cache_mode", "auto"),
        ("jit", "on"),
        ("enable_seqscan", "on"),
        ("enable_sort", "on"),
        ("transaction_isolation", "serializable"),
    ] {
        let show = sqlx::AssertSqlSafe(format!("SHOW {setting}"));
        let value: String = sqlx::query_scalar(show).fetch_one(&pool.pool).await.expect(setting);
        assert_eq!(value, wanted, "{setting}");
    }
}

/// The counters of the server show neither a table scan nor a sort.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_goes_by_the_index() {
    let (pool, queue) = queue::<MySql>(2).await;
    fill(&pool, &queue, 500).await;
    let one = MySqlPoolOptions::new().max_connections(1).connect(&pool.url).await.expect("a pool");
    let queue = Queue::new("jobs", &one).expect("a name");
    // The first transaction also detects the engine.
    queue.counts().await.expect("the counts");
    sqlx::raw_sql("FLUSH STATUS").execute(&one).await.expect("counted from now on");
    assert_eq!(queue.claim(501).await.expect("a claim").len(), 501);
    let status = sqlx::raw_sql("SHOW SESSION STATUS").fetch_all(&one).await.expect("the counters");
    let counted = |name: &str| -> u32 {
        let row = status.iter().find(|row| row.get::<String, _>(0) == name).expect(name);
        row.get::<String, _>(1).parse().expect("a number")
    };
    assert_eq!((counted("Sort_rows"), counted("Handler_read_rnd_next")), (0, 0));
    // A thousand jobs were not wanted. Of each of the others, three rows are read: the job by the index, its
    // lease, and the job by its id. MySQL also counts a few reads of its own dictionary.
    let read = (counted("Handler_read_next"), counted("Handler_read_key"));
    assert!(read.0 <= 501 + 20 && read.1 < 3 * 501, "{read:?}");
}
