//! The same work while a transaction holds back vacuum, like a report or a forgotten session.

use std::time::{Duration, Instant};

use anyhow::Result;
use sqlx::{Connection as _, PgConnection};
use tokio::time::sleep;

use super::contender::{Contender, Handled};
use super::turn::{enqueue, while_it_works};

const QUARTERS: u32 = 4;
const JOBS: usize = 60_000;

/// Jobs per second of each queue in each quarter of its time, one job at a time.
pub(super) async fn measure(url: &str, contenders: &[Box<dyn Contender>], time: Duration) -> Result<()> {
    println!("\nclaim and complete, one at a time, while a transaction holds back vacuum: jobs/s");
    println!("| | first quarter | second | third | last | last / first |");
    println!("|---|---|---|---|---|---|");
    for contender in contenders {
        contender.clear().await?;
        enqueue(&**contender, 1_000, JOBS).await?;
        let mut holder = PgConnection::connect(url).await?;
        let hold = "VACUUM ANALYZE; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class";
        for sql in hold.split("; ") {
            sqlx::raw_sql(sql).execute(&mut holder).await?;
        }
        let handled: &Handled = Box::leak(Box::default());
        let quarters = async {
            while handled.count() == 0 {
                sleep(Duration::from_millis(1)).await;
            }
            let mut quarters = Vec::new();
            for _ in 0..QUARTERS {
                let (before, started) = (handled.count(), Instant::now());
                sleep(time / QUARTERS).await;
                quarters.push((handled.count() - before) as f64 / started.elapsed().as_secs_f64());
            }
            quarters
        };
        let quarters = while_it_works(&**contender, 1, handled, quarters).await?;
        holder.close().await?;
        let shown: Vec<_> = quarters.iter().map(|rate| format!("{rate:.0}")).collect();
        let decay = quarters.last().zip(quarters.first()).map_or(f64::NAN, |(last, first)| last / first);
        println!("| {} | {} | {decay:.2} |", contender.name(), shown.join(" | "));
        contender.clear().await?;
    }
    Ok(())
}
