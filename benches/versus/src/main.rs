//! The same work in this crate, sqlx, SeaORM, diesel-async and pgbench, on one PostgreSQL.
//!
//! The README of this crate describes what is measured and how.

mod chart;
mod compare;
mod contender;
mod database;
mod ledger;
mod pgbench;
mod queue;
mod round_trips;
mod turn;
mod wire;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum as _};
use tokio::runtime::Runtime;

use compare::{CONNECTIONS, Contest, Standing};
use database::Database;
use workload::Workload;

/// Measures this crate and others at the same work, prints the figures and draws a chart of them.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// How often each contender takes its turn
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// How many milliseconds a turn takes; pgbench's take whole seconds
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    milliseconds: u64,

    /// What to measure; may be given several times [default: all]
    #[arg(long, value_name = "NAME")]
    workload: Vec<Workload>,

    /// Where the chart goes
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/throughput.svg"))]
    chart: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Counts the round trips to the server instead
    RoundTrips,
    /// Measures the queue beside others instead
    Queue(queue::Arguments),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.command {
        Some(Command::RoundTrips) => round_trips::print(),
        Some(Command::Queue(arguments)) => Runtime::new()?.block_on(queue::measure(arguments)),
        None => Runtime::new()?.block_on(measure(&arguments)),
    }
}

async fn measure(arguments: &Arguments) -> Result<()> {
    let database = Database::create().await?;
    let contest = Contest::new(&database.url).await?;
    let chosen = &arguments.workload[..];
    let workloads = if chosen.is_empty() { Workload::value_variants() } else { chosen };
    let length = Duration::from_millis(arguments.milliseconds);
    let mut panels = Vec::new();
    for workload in workloads {
        let standings = contest.of(*workload, arguments.rounds.into(), length, &database).await?;
        print(*workload, &standings);
        panels.push((*workload, standings));
    }
    chart::draw(&arguments.chart, &panels)?;
    database.drop().await
}

fn print(workload: Workload, standings: &[Standing]) {
    let callers = workload.callers();
    println!("\n{} ({callers} callers, {CONNECTIONS} connections)", workload.title());
    println!(
        "  {:<30} {:>9} {:>17} {:>11} {:>22}",
        "", "per s", "worst to best", "of pgbench", "atomically / this one"
    );
    for standing in standings {
        let (worst, best) = standing.range;
        println!(
            "  {:<30} {:>9.0} {:>17} {:>11.2} {:>22.3}",
            standing.name,
            standing.per_second,
            format!("{worst:.0} to {best:.0}"),
            standing.of_pgbench,
            standing.behind,
        );
    }
}
