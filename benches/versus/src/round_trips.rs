//! The number of round trips of each contender.

mod calls;

use std::sync::Arc;

use anyhow::{Result, ensure};
use atomically::{Atomic, Pessimistic, Serializable};
use tokio::runtime::{Builder, Runtime};

use crate::contender::Work;
use crate::contender::{Atomically, Contender, Diesel, Locking, SeaOrm, Sqlx, TwoTrips, Versioned, pool};
use crate::database::Database;
use crate::wire::{Proxy, RoundTrip};

const TITLES: [&str; 4] = ["one statement alone", "one statement in a unit", "read, then write", "transfer"];
const IN_A_ROW: u32 = 320;
const ALL: &[Work] = &[
    Work::Statement { id: 1 },
    Work::Unit { id: 1 },
    Work::ReadThenWrite { id: 1 },
    Work::Transfer { from: 1, to: 2 },
];

/// Prints a table, followed by the purpose of each round trip.
pub(crate) fn print() -> Result<()> {
    // The proxy has threads of its own. The contenders share a single thread, so their background work only
    // begins once no other task is ready, and not before the caller has read the list.
    let background = Runtime::new()?;
    let foreground = Builder::new_current_thread().enable_all().build()?;
    let database = background.block_on(Database::create())?;
    let proxy = background.block_on(Proxy::to(&database.url))?;
    let rows = foreground.block_on(all(&proxy))?;
    let calls = foreground.block_on(calls::all(&proxy))?;
    background.block_on(database.drop())?;

    println!("| | {} | transfers in a row |", TITLES.join(" | "));
    println!("|---|{}---|", "---|".repeat(TITLES.len()));
    for Row { name, cells, in_a_row } in &rows {
        let cells: Vec<_> = cells.iter().map(|trips| count(trips)).collect();
        println!("| {name} | {} | {in_a_row:.2} |", cells.join(" | "));
    }
    println!("\n| atomically | round trips | |");
    println!("|---|---|---|");
    for (name, trips) in &calls {
        let shown: Vec<_> = trips.iter().map(show).collect();
        println!("| {name} | {} | {} |", count(trips), shown.join(", "));
    }
    println!();
    for Row { name, cells, .. } in &rows {
        for (title, trips) in TITLES.iter().zip(cells).filter(|(_, trips)| !trips.is_empty()) {
            println!("{name}, {title}: {}", trips.iter().map(show).collect::<Vec<_>>().join(", "));
        }
    }
    Ok(())
}

/// Formats the number of round trips that the caller waits for, and of the others.
fn count(trips: &[RoundTrip]) -> String {
    let awaited = trips.iter().filter(|trip| trip.awaited).count();
    match trips.len() - awaited {
        0 if awaited == 0 => String::new(),
        0 => awaited.to_string(),
        others => format!("{awaited} + {others}"),
    }
}

fn show(trip: &RoundTrip) -> String {
    if trip.awaited { trip.what.clone() } else { format!("({})", trip.what) }
}

struct Row {
    name: &'static str,
    /// Empty for work that is not counted.
    cells: Vec<Vec<RoundTrip>>,
    /// The average number of round trips for each of many consecutive transfers, awaited or not.
    in_a_row: f64,
}

async fn all(proxy: &Proxy) -> Result<Vec<Row>> {
    let url = &proxy.url;
    let (tested, untested) = (pool(url, 1, true).await?, pool(url, 1, false).await?);
    let locking = |locking| Arc::new(Atomically::new(Pessimistic::default(), &tested, locking));
    let serializable = Atomically::new(Serializable::default(), &tested, Locking::OneRead);
    let atomic = Atomically::new(Atomic::default(), &tested, Locking::OneRead);
    // Only `Atomic` runs a lone statement, whichever strategy runs the units.
    let in_units = &ALL[1..];
    let contenders: [(_, &[Work], Arc<dyn Contender>); 13] = [
        ("atomically, Pessimistic", in_units, locking(Locking::OneRead)),
        ("atomically, Pessimistic, two reads", in_units, locking(Locking::TwoReads)),
        ("atomically, Pessimistic, lock_rows", in_units, locking(Locking::LockRows)),
        ("atomically, Pessimistic, on_rows + at_commit", in_units, Arc::new(TwoTrips::new(&tested))),
        ("atomically, Optimistic", in_units, Arc::new(Versioned::new(&tested))),
        ("atomically, Serializable", in_units, Arc::new(serializable)),
        ("atomically, Atomic", ALL, Arc::new(atomic)),
        ("sqlx", ALL, Arc::new(Sqlx(tested.clone()))),
        ("sqlx, no acquire test", ALL, Arc::new(Sqlx(untested))),
        ("SeaORM", ALL, Arc::new(SeaOrm::new(url, 1, true).await?)),
        ("SeaORM, no acquire test", ALL, Arc::new(SeaOrm::new(url, 1, false).await?)),
        ("diesel-async", ALL, Arc::new(Diesel::new(url, 1, true).await?)),
        ("diesel-async, no acquire test", ALL, Arc::new(Diesel::new(url, 1, false).await?)),
    ];
    let mut rows = Vec::new();
    for (name, works, contender) in contenders {
        let mut cells = Vec::new();
        for work in ALL {
            let counts = works.contains(work) && contender.offers(*work);
            cells.push(if counts { trips(proxy, &*contender, *work).await? } else { Vec::new() });
        }
        rows.push(Row { name, cells, in_a_row: in_a_row(proxy, &*contender).await? });
    }
    Ok(rows)
}

/// The round trips of a transaction whose statements are prepared, which must be the same each time.
async fn trips(proxy: &Proxy, contender: &dyn Contender, work: Work) -> Result<Vec<RoundTrip>> {
    for _ in 0..3 {
        once(proxy, contender, work).await?;
    }
    let trips = once(proxy, contender, work).await?;
    ensure!(trips == once(proxy, contender, work).await?, "the round trips of {work:?} change");
    Ok(trips)
}

async fn in_a_row(proxy: &Proxy, contender: &dyn Contender) -> Result<f64> {
    contender.settled().await;
    proxy.take();
    for _ in 0..IN_A_ROW {
        contender.perform(Work::Transfer { from: 1, to: 2 }).await?;
    }
    contender.settled().await;
    Ok(proxy.take().len() as f64 / f64::from(IN_A_ROW))
}

async fn once(proxy: &Proxy, contender: &dyn Contender, work: Work) -> Result<Vec<RoundTrip>> {
    contender.settled().await;
    proxy.take();
    contender.perform(work).await?;
    let mut trips = proxy.take();
    contender.settled().await;
    // Round trips after the caller has its result, and before the connection can be used again.
    trips.extend(proxy.take().into_iter().map(|trip| RoundTrip { awaited: false, ..trip }));
    Ok(trips)
}
