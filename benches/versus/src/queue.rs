//! Compares job queues on one server.

mod atomically;
mod contender;
mod graphile;
mod held;
mod sqlxmq;
mod turn;
mod underway;

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use self::contender::Contender;
use self::turn::Work;
use crate::compare::{median, ratio};
use crate::distance::url_at;

/// The connections of each pool; and the number of callers, or handlers, where jobs are processed one by one.
const CONNECTIONS: u32 = 8;
const CALLERS: usize = 4;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How often each contender takes its turn
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// How many jobs a turn has; ten times as many where they are taken in batches
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u16).range(100..))]
    jobs: u16,

    /// The round-trip times to the server, in milliseconds
    #[arg(long, value_name = "MS", value_delimiter = ',', default_value = "0")]
    rtt: Vec<u64>,

    /// Who takes part; may be given several times [default: all]
    #[arg(long, value_name = "NAME")]
    contender: Vec<String>,

    /// How many seconds each works while a transaction holds back vacuum; 0 leaves it out
    #[arg(long, default_value_t = 12)]
    held: u64,
}

/// Prints a table for each kind of work.
pub(crate) async fn measure(arguments: &Arguments) -> Result<()> {
    let url = test_servers::postgres_url();
    let (rounds, jobs) = (usize::from(arguments.rounds), usize::from(arguments.jobs));
    for rtt in &arguments.rtt {
        let contenders =
            contenders(&url_at(&url, Duration::from_millis(*rtt))?, &arguments.contender).await?;
        for work in [Work::EnqueueOne, Work::EnqueueBatch, Work::DrainOne, Work::DrainBatch] {
            let jobs = if work.is_batched() { jobs * 10 } else { jobs };
            let title =
                if *rtt == 0 { work.title().to_owned() } else { format!("{}, {rtt} ms away", work.title()) };
            contest(&contenders, (work, &title), rounds, jobs).await?;
        }
    }
    if arguments.held > 0 {
        held::measure(
            &url,
            &contenders(&url, &arguments.contender).await?,
            Duration::from_secs(arguments.held),
        )
        .await?;
    }
    Ok(())
}

/// The contenders that take part; all if `chosen` is empty.
async fn contenders(url: &str, chosen: &[String]) -> Result<Vec<Box<dyn Contender>>> {
    let mut contenders: Vec<Box<dyn Contender>> = vec![
        Box::new(atomically::Atomically::new(url, atomically::Work::ByHand).await?),
        Box::new(atomically::Atomically::new(url, atomically::Work::Worker).await?),
        Box::new(graphile::Graphile::new(url).await?),
        Box::new(sqlxmq::Sqlxmq::new(url).await?),
        Box::new(underway::Underway::new(url).await?),
    ];
    contenders.retain(|one| chosen.is_empty() || chosen.iter().any(|name| name == one.name()));
    Ok(contenders)
}

/// A contender, with one of its batch sizes.
struct Entry<'a> {
    contender: &'a dyn Contender,
    batch: usize,
    turns: Vec<f64>,
}

/// Runs round after round, each beginning with another contender; the first one is not counted.
async fn contest(
    contenders: &[Box<dyn Contender>],
    (work, title): (Work, &str),
    rounds: usize,
    jobs: usize,
) -> Result<()> {
    let entry = |contender, batch| Entry { contender, batch, turns: Vec::with_capacity(rounds) };
    let mut entries: Vec<_> = contenders
        .iter()
        .flat_map(|contender| work.batches(&**contender).iter().map(|batch| entry(&**contender, *batch)))
        .collect();
    for round in 0..=rounds {
        for i in 0..entries.len() {
            let at = (i + round) % entries.len();
            let Entry { contender, batch, turns } = &mut entries[at];
            let per_second = turn::turn(*contender, work, *batch, jobs).await?;
            if round > 0 {
                turns.push(per_second);
            }
        }
        eprint!("\r{title}: round {round} of {rounds}");
    }
    eprintln!();
    print(title, &entries);
    Ok(())
}

fn print(title: &str, entries: &[Entry<'_>]) {
    let best_of = |ours: bool| {
        let those =
            entries.iter().filter(move |entry| entry.contender.name().starts_with("atomically") == ours);
        those.max_by(|one, other| middle(&one.turns).total_cmp(&middle(&other.turns)))
    };
    let Some(ours) = best_of(true) else { return };
    println!("\n{title}");
    println!("| | batch | jobs/s | worst to best | the best of atomically's / this one |");
    println!("|---|---|---|---|---|");
    for Entry { contender, batch, turns } in entries {
        let (worst, best) =
            turns.iter().fold((f64::MAX, 0_f64), |(worst, best), turn| (turn.min(worst), turn.max(best)));
        println!(
            "| {} | {batch} | {:.0} | {worst:.0} to {best:.0} | {:.2} |",
            contender.name(),
            middle(turns),
            ratio(&ours.turns, turns)
        );
    }
}

fn middle(turns: &[f64]) -> f64 {
    median(turns.iter().copied())
}
