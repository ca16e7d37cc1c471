//! Many buyers, few seats: what goes wrong without this crate, and how each of its strategies prevents it.
//!
//! `cargo run --release -p flash_sale`
//!
//! The unit of work, which is the same for every strategy that reads before it writes, is `buy` at the top of
//! `shop.rs`.

mod report;
mod rush;
mod shop;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::builder::PossibleValue;
use clap::{Parser, ValueEnum};
use example_database::{LIMIT, Place, Product, open, stop_requested, within};
use indicatif::MultiProgress;
use sqlx::Pool;

use report::{Offer, Outcome};
use shop::{Approach, Shop};

/// Sells few seats to many buyers at once, with every strategy, and reports which of them sold a seat twice.
///
/// The exit code is 1 if a strategy of the crate oversells, undersells or loses a buyer, and 2 if the sale
/// could not take place. The naive and the folklore approach are there for comparison, and do not affect the
/// exit code.
#[derive(Debug, Parser)]
#[command(name = "flash_sale")]
struct Arguments {
    /// The database: postgres://…, mysql://… or sqlite://…; by default, a temporary SQLite file.
    ///
    /// sqlite://FILE?mode=rwc creates a SQLite file that does not exist. PostgreSQL and MySQL have to be
    /// built in: `--features postgres,mysql`.
    ///
    /// The tables atomically_flash_sale_event and atomically_flash_sale_ticket are created there, and dropped
    /// before and after.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,

    /// Number of buyers, who all come at once
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(1..=100_000)
    )]
    buyers: u64,

    /// Number of seats; with 0, every buyer has to be refused
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100,
        value_parser = clap::value_parser!(u64).range(0..=1_000_000)
    )]
    seats: u64,

    /// Number of connections that the buyers share
    #[arg(
        long,
        value_name = "N",
        default_value_t = 8,
        value_parser = clap::value_parser!(u32).range(1..=256)
    )]
    pool: u32,

    /// What to sell with; may be repeated
    #[arg(long, value_name = "NAME", value_enum, default_value = "all")]
    strategy: Vec<Choice>,
}

/// A value of `--strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    One(Approach),
    All,
}

impl ValueEnum for Choice {
    fn value_variants<'a>() -> &'a [Self] {
        use Approach::{Adaptive, Atomic, Folklore, Naive, Optimistic, Pessimistic, Serializable};
        const CHOICES: [Choice; 8] = [
            Choice::One(Naive),
            Choice::One(Folklore),
            Choice::One(Pessimistic),
            Choice::One(Optimistic),
            Choice::One(Serializable),
            Choice::One(Atomic),
            Choice::One(Adaptive),
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

/// Clap's message without the paragraphs of hints.
fn in_one_line(mistake: &clap::Error) -> String {
    let text = mistake.to_string();
    let sentence = text.split("\n\n").next().unwrap_or_default();
    format!("{sentence} (see --help)")
}

/// Holds the requested sales, and returns a sentence for each broken promise.
async fn sell(arguments: &Arguments) -> anyhow::Result<Vec<String>> {
    let place = Place::new(arguments.database_url.as_deref())?;
    match place.product() {
        Product::Sqlite => sell_on::<sqlx::Sqlite>(place.sqlite_options()?, &place.name(), arguments).await,
        #[cfg(feature = "postgres")]
        Product::Postgres => sell_on::<sqlx::Postgres>(place.options()?, &place.name(), arguments).await,
        #[cfg(feature = "mysql")]
        Product::MySql => sell_on::<sqlx::MySql>(place.options()?, &place.name(), arguments).await,
        #[cfg(not(all(feature = "postgres", feature = "mysql")))]
        other => Err(example_database::not_built_in(other)),
    }
}

async fn sell_on<DB: Shop>(
    options: example_database::Options<DB>,
    name: &str,
    arguments: &Arguments,
) -> anyhow::Result<Vec<String>> {
    let offer = Offer { buyers: arguments.buyers, seats: arguments.seats };
    let patience = rush::patience(offer);
    let pool = open(DB::pool_options(), options.clone(), name, arguments.pool, patience).await?;
    let outcomes = tokio::select! {
        outcomes = hold_all(&arguments.strategy, offer, &pool) => outcomes,
        () = stop_requested() => Err(anyhow!("interrupted")),
    };
    let outcomes = match (outcomes, tidy_up(options, name, pool).await) {
        (Ok(outcomes), Ok(())) => outcomes,
        (Err(error), Ok(())) | (Ok(_), Err(error)) => return Err(error),
        (Err(error), Err(another)) => bail!("{error:#}, and {another:#}"),
    };
    // Unlike println!, this does not panic if the reader has gone away.
    let _ = io::stdout().write_all(report::render(offer, &outcomes).as_bytes());
    let strategies = outcomes.iter().filter(|outcome| outcome.is_strategy);
    Ok(strategies.flat_map(|outcome| outcome.broken_promises(offer)).collect())
}

/// Drops the tables on a connection of its own, because those of interrupted buyers may be in any state.
async fn tidy_up<DB: Shop>(
    options: example_database::Options<DB>,
    name: &str,
    used: Pool<DB>,
) -> anyhow::Result<()> {
    let tidied = async {
        within(async {
            used.close().await;
            Ok(())
        })
        .await?;
        let pool = open(DB::pool_options(), options, name, 1, LIMIT).await?;
        within(DB::close(&pool)).await
    };
    tidied.await.context("cannot drop the tables of the sale")
}

async fn hold_all<DB: Shop>(
    choices: &[Choice],
    offer: Offer,
    pool: &Pool<DB>,
) -> anyhow::Result<Vec<Outcome>> {
    // Drawn on stderr, and hidden if that is not a terminal.
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
