//! The same work in this crate, sqlx, SeaORM, diesel-async and pgbench, on one PostgreSQL.
//!
//! The README of this crate describes what is measured and how.

mod chart;
mod compare;
mod contender;
mod database;
mod distance;
mod ledger;
mod pgbench;
mod queue;
mod round_trips;
mod runs;
mod standing;
mod turn;
mod wire;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum as _};
use tokio::runtime::Runtime;

use compare::{CONNECTIONS, Contest, Turns};
use database::Database;
use standing::Panel;
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

    /// The round-trip times to the server, in milliseconds
    #[arg(long, value_name = "MS", value_delimiter = ',', default_value = "0")]
    rtt: Vec<u64>,

    /// How many separate runs, each with a server of its own; prints their medians and their spread
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,

    /// Where the figures go as JSON
    #[arg(long, value_name = "FILE")]
    figures: Option<PathBuf>,

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
        None if arguments.runs > 1 => several(&arguments),
        None => {
            let panels = Runtime::new()?.block_on(measure(&arguments))?;
            finish(&arguments, &panels)
        }
    }
}

/// Measures in separate processes.
fn several(arguments: &Arguments) -> Result<()> {
    let mut same = vec![
        format!("--rounds={}", arguments.rounds),
        format!("--milliseconds={}", arguments.milliseconds),
        format!("--chart={}", arguments.chart.display()),
    ];
    same.extend(arguments.rtt.iter().map(|rtt| format!("--rtt={rtt}")));
    let names = arguments.workload.iter().filter_map(Workload::to_possible_value);
    same.extend(names.map(|name| format!("--workload={}", name.get_name())));
    let runs = runs::separate(arguments.runs, &same)?;
    let medians = runs::medians(&runs);
    runs::print(&runs, &medians);
    finish(arguments, &medians)
}

/// Draws the chart and stores the figures.
fn finish(arguments: &Arguments, panels: &[Panel]) -> Result<()> {
    if let Some(file) = &arguments.figures {
        std::fs::write(file, serde_json::to_vec(panels)?)?;
    }
    chart::draw(&arguments.chart, panels)
}

async fn measure(arguments: &Arguments) -> Result<Vec<Panel>> {
    let database = Database::create().await?;
    let chosen = &arguments.workload[..];
    let workloads = if chosen.is_empty() { Workload::value_variants() } else { chosen };
    let (rounds, length) = (arguments.rounds.into(), Duration::from_millis(arguments.milliseconds));
    let turns = Turns { rounds, length };
    let mut panels = Vec::new();
    for rtt in &arguments.rtt {
        let url = distance::url_at(&database.url, Duration::from_millis(*rtt))?;
        let contest = Contest::new(&url).await?;
        for workload in workloads {
            let panel = contest.of(*workload, *rtt, &turns, &database).await?;
            print(&panel);
            panels.push(panel);
        }
    }
    database.drop().await?;
    Ok(panels)
}

fn print(panel: &Panel) {
    let callers = panel.workload.callers();
    println!("\n{} ({callers} callers, {CONNECTIONS} connections)", panel.title());
    println!(
        "  {:<30} {:>9} {:>17} {:>8} {:>16} {:>11} {:>22}",
        "", "per s", "worst to best", "p99, ms", "lock held, trips", "of pgbench", "atomically / this one"
    );
    for standing in &panel.standings {
        let (worst, best) = standing.range;
        println!(
            "  {:<30} {:>9.0} {:>17} {:>8} {:>16} {:>11.2} {:>22.3}",
            standing.name,
            standing.per_second,
            format!("{worst:.0} to {best:.0}"),
            runs::figure(standing.p99),
            runs::figure(standing.holds),
            standing.of_pgbench,
            standing.behind,
        );
    }
}
