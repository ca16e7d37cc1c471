//! Many buyers, few seats: what goes wrong without this crate, and what each of its strategies does about it.
//!
//! `cargo run --release --example flash_sale`
//!
//! The unit of work, which is the same for every strategy that reads before it writes, is `buy` at the top of
//! `shop.rs`.

mod database;
mod report;
mod rush;
mod shop;
#[path = "../support/signal.rs"]
mod signal;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::builder::PossibleValue;
use clap::{Parser, ValueEnum};
use indicatif::MultiProgress;
use sqlx::Pool;

use database::{Door, Place};
use report::{Offer, Outcome};
use shop::{Approach, Shop};

/// Sells few seats to many buyers at once, in every way, and says which ways sold a seat twice.
///
/// The exit code is 1 when a strategy of the crate oversells, undersells or loses a buyer, and 2 when the sale could
/// not be held. The naive and the folklore way are there to be compared with, and may do as they like.
#[derive(Debug, Parser)]
#[command(name = "flash_sale")]
struct Arguments {
    /// Where to sell: postgres://…, mysql://… or sqlite://…; unless named, a temporary SQLite file.
    ///
    /// A SQLite file that does not exist yet is made with sqlite://FILE?mode=rwc.
    ///
    /// The tables atomically_flash_sale_event and atomically_flash_sale_ticket are created there, and dropped before
    /// and after.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,

    /// How many buyers come, all at once
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    buyers: u64,

    /// How many seats there are; with none, everybody is to be refused
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    seats: u64,

    /// How many connections the buyers share
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    pool: u32,

    /// How to sell; may be given several times
    #[arg(long, value_name = "NAME", value_enum, default_value = "all")]
    strategy: Vec<Choice>,
}

/// What can be asked for with `--strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    One(Approach),
    All,
}

impl ValueEnum for Choice {
    fn value_variants<'a>() -> &'a [Self] {
        use Approach::{Atomic, Folklore, Naive, Optimistic, Pessimistic, Serializable};
        const CHOICES: [Choice; 7] = [
            Choice::One(Naive),
            Choice::One(Folklore),
            Choice::One(Pessimistic),
            Choice::One(Optimistic),
            Choice::One(Serializable),
            Choice::One(Atomic),
            Choice::All,
        ];
        &CHOICES
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::One(approach) => approach.to_possible_value(),
            Self::All => Some(PossibleValue::new("all").help("All of them, one after the other")),
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(request) if !request.use_stderr() => {
            let _ = request.print();
            return ExitCode::SUCCESS;
        }
        Err(mistake) => return could_not_sell(&in_one_line(&mistake)),
    };
    match sell(&arguments).await {
        Ok(broken_promises) if broken_promises.is_empty() => ExitCode::SUCCESS,
        Ok(broken_promises) => {
            broken_promises.iter().for_each(|sentence| eprintln!("{sentence}"));
            ExitCode::FAILURE
        }
        Err(error) => could_not_sell(&format!("error: {error:#}")),
    }
}

fn could_not_sell(sentence: &str) -> ExitCode {
    eprintln!("{}", sentence.split_whitespace().collect::<Vec<_>>().join(" "));
    ExitCode::from(2)
}

/// Without the hints that clap puts in paragraphs of their own.
fn in_one_line(mistake: &clap::Error) -> String {
    let text = mistake.to_string();
    let sentence = text.split("\n\n").next().unwrap_or_default();
    format!("{sentence} (see --help)")
}

/// Holds the sales that were asked for, and answers the promises that were broken.
async fn sell(arguments: &Arguments) -> anyhow::Result<Vec<String>> {
    let url = arguments.database_url.as_deref();
    let name = url.map_or_else(|| "the temporary file".to_owned(), database::public);
    let (place, _directory) = match url {
        Some(url) => (Place::named(url)?, None),
        None => Place::embedded().map(|(place, directory)| (place, Some(directory)))?,
    };
    match place {
        Place::Postgres(options) => sell_on::<sqlx::Postgres>(options, &name, arguments).await,
        Place::MySql(options) => sell_on::<sqlx::MySql>(options, &name, arguments).await,
        Place::Sqlite(options) => sell_on::<sqlx::Sqlite>(options, &name, arguments).await,
    }
}

async fn sell_on<DB: Shop + Door>(
    options: database::Options<DB>,
    name: &str,
    arguments: &Arguments,
) -> anyhow::Result<Vec<String>> {
    let offer = Offer { buyers: arguments.buyers, seats: arguments.seats };
    let pool = database::open::<DB>(options.clone(), name, arguments.pool, rush::patience(offer)).await?;
    let outcomes = tokio::select! {
        outcomes = hold_all(&arguments.strategy, offer, &pool) => outcomes,
        () = signal::told_to_stop() => Err(anyhow!("interrupted")),
    };
    let outcomes = match (outcomes, tidy_up(options, name, pool).await) {
        (Ok(outcomes), Ok(())) => outcomes,
        (Err(error), Ok(())) | (Ok(_), Err(error)) => return Err(error),
        (Err(error), Err(another)) => bail!("{error:#}, and {another:#}"),
    };
    // A reader that has gone away is no reason to panic, as println! would.
    let _ = io::stdout().write_all(report::render(offer, &outcomes).as_bytes());
    let strategies = outcomes.iter().filter(|outcome| outcome.vouched_for);
    Ok(strategies.flat_map(|outcome| outcome.broken_promises(offer)).collect())
}

/// Drops the tables, on a connection of its own: where buyers were interrupted, theirs may be in the middle of anything.
async fn tidy_up<DB: Shop + Door>(
    options: database::Options<DB>,
    name: &str,
    used: Pool<DB>,
) -> anyhow::Result<()> {
    let tidied = async {
        database::within(async {
            used.close().await;
            Ok(())
        })
        .await?;
        let pool = database::open::<DB>(options, name, 1, database::LIMIT).await?;
        database::within(DB::close(&pool)).await
    };
    tidied.await.context("cannot drop the tables of the sale")
}

async fn hold_all<DB: Shop>(
    choices: &[Choice],
    offer: Offer,
    pool: &Pool<DB>,
) -> anyhow::Result<Vec<Outcome>> {
    // Drawn on stderr, and hidden where that is no terminal.
    let bars = MultiProgress::new();
    let mut outcomes = Vec::new();
    for approach in Approach::value_variants() {
        if choices.contains(&Choice::All) || choices.contains(&Choice::One(*approach)) {
            outcomes.push(rush::hold(*approach, offer, pool, &bars).await?);
        }
    }
    bars.clear()?;
    Ok(outcomes)
}
