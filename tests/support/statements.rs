//! Methods whose text is the same for every database, but whose types differ.

macro_rules! statements {
    () => {
        fn execute<'a>(
            tx: &'a mut Tx<Self>,
            sql: SqlStr,
            arguments: &'a [i64],
        ) -> BoxFuture<'a, sqlx::Result<u64>> {
            Box::pin(async move {
                let query = arguments.iter().fold(sqlx::query(sql), |query, value| query.bind(*value));
                Ok(query.execute(&mut *tx).await?.rows_affected())
            })
        }

        fn execute_nullable<'a>(
            tx: &'a mut Tx<Self>,
            sql: SqlStr,
            arguments: &'a [Option<i64>],
        ) -> BoxFuture<'a, sqlx::Result<u64>> {
            Box::pin(async move {
                let query = arguments.iter().fold(sqlx::query(sql), |query, value| query.bind(*value));
                Ok(query.execute(&mut *tx).await?.rows_affected())
            })
        }

        fn fetch<'a>(
            tx: &'a mut Tx<Self>,
            sql: SqlStr,
            arguments: &'a [i64],
        ) -> BoxFuture<'a, sqlx::Result<i64>> {
            Box::pin(async move {
                let query = arguments.iter().fold(sqlx::query(sql), |query, value| query.bind(*value));
                query.fetch_one(&mut *tx).await?.try_get(0)
            })
        }

        fn pool_execute<'a>(
            pool: &'a Pool<Self>,
            sql: SqlStr,
            arguments: &'a [i64],
        ) -> BoxFuture<'a, sqlx::Result<u64>> {
            Box::pin(async move {
                let query = arguments.iter().fold(sqlx::query(sql), |query, value| query.bind(*value));
                Ok(query.execute(pool).await?.rows_affected())
            })
        }

        fn pool_fetch<'a>(
            pool: &'a Pool<Self>,
            sql: SqlStr,
            arguments: &'a [i64],
        ) -> BoxFuture<'a, sqlx::Result<i64>> {
            Box::pin(async move {
                let query = arguments.iter().fold(sqlx::query(sql), |query, value| query.bind(*value));
                query.fetch_one(pool).await?.try_get(0)
            })
        }

        fn lock_accounts<'a>(
            tx: &'a mut Tx<Self>,
            keys: &'a [i64],
        ) -> BoxFuture<'a, Result<Vec<i64>, Error>> {
            Box::pin(tx.lock_rows("account", "id", keys))
        }

        fn apply<'a>(
            db: &'a PoolTransactor<Self, Atomic>,
            sql: SqlStr,
            arguments: &'a [i64],
        ) -> BoxFuture<'a, Result<u64, Error>> {
            Box::pin(async move {
                let query = arguments.iter().fold(sqlx::query(sql), |query, value| query.bind(*value));
                db.apply(query).await
            })
        }

        fn plain<'a>(tx: &'a mut Tx<Self>, sql: SqlStr) -> BoxFuture<'a, sqlx::Result<()>> {
            Box::pin(async move { sqlx::raw_sql(sql).execute(tx).await.map(drop) })
        }

        fn execute_plain<'a>(tx: &'a mut Tx<Self>, sql: SqlStr) -> BoxFuture<'a, sqlx::Result<u64>> {
            Box::pin(async move { Ok(sqlx::raw_sql(sql).execute(tx).await?.rows_affected()) })
        }

        fn fetch_plain<'a>(tx: &'a mut Tx<Self>, sql: SqlStr) -> BoxFuture<'a, sqlx::Result<i64>> {
            Box::pin(async move { sqlx::raw_sql(sql).fetch_one(tx).await?.try_get(0) })
        }

        fn stream<'a>(tx: &'a mut Tx<Self>, sql: SqlStr) -> BoxStream<'a, sqlx::Result<i64>> {
            Box::pin(sqlx::query_scalar(sql).fetch(tx))
        }

        fn raw<'a>(
            connection: &'a mut Self::Connection,
            sql: &'static str,
        ) -> BoxFuture<'a, sqlx::Result<()>> {
            Box::pin(async move { connection.execute(sqlx::raw_sql(sql)).await.map(drop) })
        }

        fn another(url: &str) -> BoxFuture<'_, Pool<Self>> {
            Box::pin(async move {
                let pool = sqlx::pool::PoolOptions::new().max_connections(2).connect(url).await;
                pool.expect("a pool")
            })
        }

        fn limits(pool: &Pool<Self>) -> BoxFuture<'_, (String, String)> {
            Box::pin(async move {
                let mut connection = pool.acquire().await.expect("a connection");
                let limits: String =
                    sqlx::query_scalar(Self::LIMITS).fetch_one(&mut *connection).await.expect("the limits");
                let level: String =
                    sqlx::query_scalar(Self::LEVEL).fetch_one(&mut *connection).await.expect("the level");
                (limits, level)
            })
        }

        fn limits_inside(tx: &mut Tx<Self>) -> BoxFuture<'_, String> {
            Box::pin(
                async move { sqlx::query_scalar(Self::LIMITS).fetch_one(tx).await.expect("the settings") },
            )
        }

        fn level_inside(tx: &mut Tx<Self>) -> BoxFuture<'_, String> {
            Box::pin(async move {
                let level: Option<String> =
                    sqlx::query_scalar(Self::LEVEL_INSIDE).fetch_optional(&mut *tx).await.expect("the level");
                level.unwrap_or_default().to_uppercase().replace('-', " ")
            })
        }

        fn blocker(url: &str) -> BoxFuture<'_, Self::Connection> {
            Box::pin(async move {
                let mut connection = Self::Connection::connect(url).await.expect("a connection");
                let hold = "BEGIN; UPDATE counter SET value = value + 1000 WHERE id = 1";
                connection.execute(sqlx::raw_sql(hold)).await.expect("the lock");
                connection
            })
        }
    };
}
pub(crate) use statements;
