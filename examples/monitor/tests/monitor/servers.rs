//! The program on PostgreSQL and MariaDB.

use crate::the_strategy_is_changed_by_clicking;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_strategy_is_changed_by_clicking_on_postgres() {
    let url = test_servers::postgres_url();
    the_strategy_is_changed_by_clicking(&["--database-url", &url]).await;
    let pool = sqlx::PgPool::connect(&url).await.expect("connect to PostgreSQL");
    let tables = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'atomically%'";
    assert_eq!(sqlx::query_scalar::<_, i64>(tables).fetch_one(&pool).await.expect("a count"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_strategy_is_changed_by_clicking_on_mariadb() {
    let url = test_servers::mysql_url();
    the_strategy_is_changed_by_clicking(&["--database-url", &url]).await;
    let pool = sqlx::MySqlPool::connect(&url).await.expect("connect to MariaDB");
    let tables = "SELECT table_name FROM information_schema.tables
                  WHERE table_schema = database() AND table_name LIKE 'atomically%'";
    assert_eq!(sqlx::query(tables).fetch_all(&pool).await.expect("the tables").len(), 0);
}
