//! The cost of contention for one row, with and without the gate.
//!
//! `cargo bench -p benches --bench contention`. PostgreSQL is `ATOMICALLY_POSTGRES_URL`, or a private server
//! that is started for it; MariaDB likewise. After criterion's figures, it prints latencies, including those
//! of units on other rows, and ratios. The contenders take turns, so that other load on the machine affects
//! them alike. With a filter that matches nothing (`-- none`), only these are printed.

mod load;
mod pgbench;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use atomically::{Adaptive, Optimistic, Pessimistic, PoolTransactor, RetryBudget, Serializable, Strategy};
use criterion::{BenchmarkId, Criterion, Throughput};
use load::{Contender, Figures, TASKS, table};
use sqlx::{MySql, Postgres, Sqlite};
use support::{TestBackend, TestPool};
use tokio::runtime::Runtime;

const CONNECTIONS: u32 = 16;
const SHARES: [u32; 4] = [0, 10, 50, 100];
const TURN: Duration = Duration::from_secs(1);
const TURNS: usize = 5;

fn contender<DB: TestBackend>(
    name: &'static str,
    strategy: impl Strategy,
    keyed: bool,
    pool: &sqlx::Pool<DB>,
) -> Contender<DB> {
    // The benchmark measures how long units take, not how many fail.
    let db = PoolTransactor::new(strategy, pool)
        .reuse_connections()
        .attempts(100_000)
        .deadline(Duration::from_secs(120));
    Contender { name, db: Arc::new(db), keyed }
}

fn contenders<DB: TestBackend>(pool: &sqlx::Pool<DB>) -> Vec<Contender<DB>> {
    vec![
        contender("pessimistic", Pessimistic::default(), false, pool),
        contender("pessimistic, gated", Pessimistic::default(), true, pool),
        contender("optimistic", Optimistic::default(), false, pool),
        contender("optimistic, gated", Optimistic::default(), true, pool),
        contender("serializable", Serializable::default(), false, pool),
        contender("serializable, gated", Serializable::default(), true, pool),
        contender("adaptive", Adaptive::default(), true, pool),
    ]
}

async fn database<DB: TestBackend>() -> TestPool<DB> {
    let connections = if DB::NAME == "SQLite" { 8 } else { CONNECTIONS };
    let pool = DB::pool(connections).await;
    table(&pool.pool).await;
    pool
}

fn throughput<DB: TestBackend>(runtime: &Runtime, criterion: &mut Criterion, pool: &TestPool<DB>) {
    let mut group = criterion.benchmark_group(format!("{}, {TASKS} tasks", DB::NAME));
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(TASKS));
    for contender in contenders(&pool.pool) {
        for share in SHARES {
            let id = BenchmarkId::new(contender.name, format!("{share} % on the hot row"));
            group.bench_function(id, |b| {
                b.iter_custom(|times| {
                    let started = Instant::now();
                    runtime.block_on(contender.units(TASKS * times, share));
                    started.elapsed()
                });
            });
        }
    }
    group.finish();
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median, over the turns, of the ratio of two contenders in the same turn.
fn ratio(one: &[Figures], other: &[Figures], figure: impl Fn(&Figures) -> f64) -> f64 {
    median(one.iter().zip(other).map(|(one, other)| figure(one) / figure(other)).collect())
}

/// One hot row, and one task that updates other rows.
async fn hot_row<DB: TestBackend>(pool: &TestPool<DB>) {
    println!("\n{}: {TASKS} tasks on one row, pool of {}", DB::NAME, pool.options().get_max_connections());
    let contenders = contenders(&pool.pool);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut pgbench = Vec::new();
    let mut idle = Vec::new();
    let mut quiet = vec![Vec::new(); contenders.len()];
    let mut watched = vec![Vec::new(); contenders.len()];
    for _ in 0..TURNS {
        if DB::NAME == "PostgreSQL" {
            pgbench.extend(pgbench::per_second(&pool.url, TURN.as_secs(), directory.path()));
        }
        idle.push(contenders[0].during(TURN / 2, 0, 0, true).await);
        for (i, contender) in contenders.iter().enumerate() {
            quiet[i].push(contender.during(TURN, TASKS, 100, false).await);
            watched[i].push(contender.during(TURN, TASKS, 100, true).await);
        }
    }
    let of = |figures: &[Figures], figure: fn(&Figures) -> f64| median(figures.iter().map(figure).collect());
    println!(
        "  {:<22} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "", "per s", "p50 ms", "p99 ms", "attempts", "cold p50"
    );
    println!(
        "  {:<22} {:>9} {:>9} {:>9} {:>9} {:>9.3}",
        "idle",
        "",
        "",
        "",
        "",
        of(&idle, Figures::cold_p50)
    );
    for (i, contender) in contenders.iter().enumerate() {
        println!(
            "  {:<22} {:>9.0} {:>9.2} {:>9.2} {:>9.2} {:>9.3}",
            contender.name,
            of(&quiet[i], Figures::per_second),
            of(&quiet[i], Figures::p50),
            of(&quiet[i], Figures::p99),
            of(&quiet[i], Figures::attempts),
            of(&watched[i], Figures::cold_p50),
        );
    }
    if !pgbench.is_empty() {
        let ratios = quiet[1].iter().zip(&pgbench).map(|(gated, pgbench)| gated.per_second() / pgbench);
        let ratio = median(ratios.collect());
        println!("  pgbench FOR UPDATE, 16 connections: {:.0} per s", median(pgbench.clone()));
        println!("  pessimistic, gated, against pgbench: {ratio:.2}");
    }
    for (ungated, gated) in [(0, 1), (2, 3), (4, 5)] {
        println!(
            "  {:<20} against ungated: throughput {:.2} times, p99 {:.1} times lower, cold p50 {:.1} times lower, \
             {:.2} times idle",
            contenders[gated].name,
            ratio(&quiet[gated], &quiet[ungated], Figures::per_second),
            ratio(&quiet[ungated], &quiet[gated], Figures::p99),
            ratio(&watched[ungated], &watched[gated], Figures::cold_p50),
            ratio(&watched[gated], &idle, Figures::cold_p50),
        );
    }
}

/// `Adaptive` against the better of the two strategies that it switches between, with and without the gate.
async fn shares<DB: TestBackend>(pool: &TestPool<DB>) {
    println!("\n{}: {TASKS} tasks, per s by share of the traffic on the hot row", DB::NAME);
    let contenders: Vec<_> =
        contenders(&pool.pool).into_iter().filter(|contender| !contender.name.starts_with("ser")).collect();
    for share in SHARES {
        let mut turns = vec![Vec::new(); contenders.len()];
        for turn in 0..=TURNS {
            for (i, contender) in contenders.iter().enumerate() {
                let figures = contender.during(TURN, TASKS, share, false).await;
                // The first turn warms up caches, and the strategy.
                if turn > 0 {
                    turns[i].push(figures);
                }
            }
        }
        let per_second: Vec<f64> =
            turns.iter().map(|turns| median(turns.iter().map(Figures::per_second).collect())).collect();
        let (adaptive, others) = per_second.split_last().expect("contenders");
        let best = others.iter().copied().fold(0.0, f64::max);
        let list: Vec<_> = contenders
            .iter()
            .zip(&per_second)
            .map(|(contender, figure)| format!("{} {figure:.0}", contender.name))
            .collect();
        println!("  {share:>3} %: {}; adaptive against the best: {:.2}", list.join(", "), adaptive / best);
    }
}

/// The load on the database per committed unit, under many conflicts.
async fn budget<DB: TestBackend>(pool: &TestPool<DB>) {
    println!("\n{}: {TASKS} tasks on one row, optimistic, no gate", DB::NAME);
    for (name, budget) in [("without a budget", None), ("with a retry budget", Some(RetryBudget::new()))] {
        let db = Optimistic::default().on(&pool.pool).reuse_connections();
        let db = match &budget {
            Some(budget) => db.retry_budget(budget),
            None => db,
        };
        let contender = Contender { name, db: Arc::new(db), keyed: false };
        let figures = contender.during(TURN * 10, TASKS, 100, false).await;
        println!(
            "  {name:<20} {:.0} done per s, {:.2} attempts for each run, {} runs refused",
            figures.per_second(),
            figures.attempts(),
            figures.errors(),
        );
    }
}

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    let postgres = runtime.block_on(database::<Postgres>());
    let mariadb = runtime.block_on(database::<MySql>());
    let sqlite = runtime.block_on(database::<Sqlite>());

    let mut criterion = Criterion::default().configure_from_args();
    throughput(&runtime, &mut criterion, &postgres);
    throughput(&runtime, &mut criterion, &mariadb);
    throughput(&runtime, &mut criterion, &sqlite);
    criterion.final_summary();

    runtime.block_on(async {
        hot_row(&postgres).await;
        hot_row(&mariadb).await;
        hot_row(&sqlite).await;
        shares(&postgres).await;
        shares(&mariadb).await;
        shares(&sqlite).await;
        budget(&postgres).await;
    });
}
