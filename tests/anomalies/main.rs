//! Proves the chapter of the guide on anomalies on real databases.

mod cases;
mod engines;
mod folklore;
mod scene;
mod script;
mod session;
mod strategies;
#[path = "../support/mod.rs"]
mod support;
mod table;

use engines::Engine;

/// Compares every case at every level of this database with its table in the guide.
async fn compare_with_the_guide<E: Engine>() {
    let pool = E::pool(2).await;
    let (mut seen, mut left_out) = (vec![vec![E::TITLE.to_owned()]], Vec::new());
    seen.extend(cases::CASES.iter().map(|case| vec![case.name.to_owned()]));
    for level in E::LEVELS {
        let Some(settings) = E::settings(&pool, level).await else {
            left_out.push(level.name);
            continue;
        };
        seen[0].push(level.name.to_owned());
        for (case, row) in cases::CASES.iter().zip(&mut seen[1..]) {
            row.push(script::run(case, level, &settings, &pool).await.to_string());
        }
    }
    table::assert_is_in_the_guide(&seen, &left_out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_shows_the_anomalies_of_the_guide() {
    compare_with_the_guide::<sqlx::Postgres>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_shows_the_anomalies_of_the_guide() {
    compare_with_the_guide::<sqlx::MySql>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_shows_the_anomalies_of_the_guide() {
    compare_with_the_guide::<sqlx::Sqlite>().await;
}
