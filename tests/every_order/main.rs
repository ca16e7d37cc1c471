//! Explorations checked against something simpler: small random programs are run by `explore`, and by hand in
//! every order of their statements on plain connections. What can come of them must be the same.
//!
//! Two programs are a pair, and each pair has a seed. `EVERY_ORDER_SEED` runs one pair and shows it,
//! `EVERY_ORDER_PAIRS` and `EVERY_ORDER_SECONDS` run more of them than the suite does, `EVERY_ORDER_FROM`
//! others.

mod by_hand;
mod client;
mod engine;
mod explored;
mod program;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use by_hand::Skipped;
use engine::Engine;
use program::Pair;

/// What can come of a pair: what its clients were told, and what is in the tables.
type Outcomes = BTreeSet<String>;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

/// As many pairs as are asked for, or as fit into the time.
async fn outcomes_are_those_of_every_order<E: Engine>() {
    let pool = E::pool(4).await;
    for sql in program::TABLES {
        E::pool_execute(&pool, E::sql(sql), &[]).await.expect("a table");
    }
    E::prepare(&pool).await;
    let one = variable("EVERY_ORDER_SEED");
    let most = variable("EVERY_ORDER_PAIRS").unwrap_or(1000);
    let seconds = variable("EVERY_ORDER_SECONDS").unwrap_or(30);
    let first = variable("EVERY_ORDER_FROM").unwrap_or(0);
    let seeds = one.map_or(first..u64::MAX, |seed| seed..seed + 1);
    let (started, mut by_hand_took, mut pairs, mut orders, mut schedules, mut skipped, mut by_chance) =
        (Instant::now(), Duration::ZERO, 0, 0, 0, 0, 0);
    for seed in seeds {
        if pairs == most || (one.is_none() && started.elapsed() > Duration::from_secs(seconds)) {
            break;
        }
        let pair = Pair::random::<E>(seed);
        let began = Instant::now();
        let by_hand = match by_hand::outcomes::<E>(&pool, &pair).await {
            Ok(by_hand) => by_hand,
            Err(why) => {
                by_chance += usize::from(why == Skipped::ByChance);
                skipped += usize::from(why == Skipped::TooMany);
                continue;
            }
        };
        by_hand_took += began.elapsed();
        let Some(explored) = explored::outcomes::<E>(&pool, &pair).await else {
            by_chance += 1;
            continue;
        };
        assert!(
            explored.outcomes == by_hand.outcomes,
            "{}, seed {seed}: explored and by hand, there are different outcomes\n{pair}\nonly explored: {:#?}\nonly by \
             hand: {:#?}\nrun it again with EVERY_ORDER_SEED={seed}",
            E::NAME,
            explored.outcomes.difference(&by_hand.outcomes).collect::<Vec<_>>(),
            by_hand.outcomes.difference(&explored.outcomes).collect::<Vec<_>>(),
        );
        pairs += 1;
        orders += by_hand.orders;
        schedules += explored.orders;
        if one.is_some() {
            println!("{pair}\n{:#?}", by_hand.outcomes);
        }
    }
    println!(
        "{}: {pairs} pairs from seed {first} on in {:?}, {schedules} schedules explored and {orders} orders by hand in {by_hand_took:?}; {skipped} \
         pairs have too many, and {by_chance} depend on which deadlock the server ends",
        E::NAME,
        started.elapsed()
    );
    assert!(pairs > 0, "there was no time for any pair");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_outcomes_are_those_of_every_order() {
    outcomes_are_those_of_every_order::<sqlx::Sqlite>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_outcomes_are_those_of_every_order() {
    outcomes_are_those_of_every_order::<sqlx::Postgres>().await;
}
