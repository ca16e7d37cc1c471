//! Compares explorations with brute force: random pairs of small programs are run by `explore`, and in every
//! order of their statements on plain connections. The sets of outcomes must be equal.
//!
//! Each pair is generated from a seed. `EVERY_ORDER_SEED` runs and prints a single pair. `EVERY_ORDER_PAIRS`
//! and `EVERY_ORDER_SECONDS` set the number of pairs and the time limit, and `EVERY_ORDER_FROM` sets the
//! first seed.

mod brute_force;
mod client;
mod engine;
mod explored;
mod program;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use brute_force::Skipped;
use engine::Engine;
use program::Statement::{Add, Read, ReadAll};
use program::{Pair, Program};
use support::TestPool;

/// The possible outcomes of a pair: the results of its clients and the content of the tables.
type Outcomes = BTreeSet<String>;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {value:?}")))
}

/// Compares as many pairs as requested, or as fit into the time limit.
async fn explored_outcomes_are_those_of_every_order<E: Engine>() {
    let pool = E::pool(4).await;
    for sql in program::TABLES {
        E::pool_execute(&pool, E::sql(sql), &[]).await.expect("a table");
    }
    E::prepare(&pool).await;
    let one = variable("EVERY_ORDER_SEED");
    let max_pairs = variable("EVERY_ORDER_PAIRS").unwrap_or(1000);
    let seconds = variable("EVERY_ORDER_SECONDS").unwrap_or(30);
    let first = variable("EVERY_ORDER_FROM").unwrap_or(0);
    let seeds = one.map_or(first..u64::MAX, |seed| seed..seed + 1);
    let (started, mut brute_force_took) = (Instant::now(), Duration::ZERO);
    let (mut pairs, mut orders, mut schedules, mut different) = (0, 0, 0, 0);
    let (mut too_large, mut by_chance) = (0, 0);
    for seed in seeds {
        if pairs == max_pairs || (one.is_none() && started.elapsed() > Duration::from_secs(seconds)) {
            break;
        }
        let pair = Pair::random::<E>(seed);
        let began = Instant::now();
        let every_order = match brute_force::outcomes::<E>(&pool, &pair).await {
            Ok(every_order) => every_order,
            Err(reason) => {
                by_chance += usize::from(reason == Skipped::ByChance);
                too_large += usize::from(reason == Skipped::TooManyOrders);
                continue;
            }
        };
        brute_force_took += began.elapsed();
        let all = explored::outcomes::<E>(&pool, &pair, false).await;
        let distinct = explored::outcomes::<E>(&pool, &pair, true).await;
        let Some((all, distinct)) = all.zip(distinct) else {
            by_chance += 1;
            continue;
        };
        for explored in [&all, &distinct] {
            assert!(
                explored.outcomes == every_order.outcomes,
                "{}, seed {seed}: the outcomes differ\n{pair}\nonly explored: {:#?}\nonly by brute force: \
                 {:#?}\nrun it again with EVERY_ORDER_SEED={seed}",
                E::NAME,
                explored.outcomes.difference(&every_order.outcomes).collect::<Vec<_>>(),
                every_order.outcomes.difference(&explored.outcomes).collect::<Vec<_>>(),
            );
        }
        pairs += 1;
        orders += every_order.orders;
        schedules += all.orders;
        different += distinct.orders;
        if one.is_some() {
            println!("{pair}\n{:#?}", every_order.outcomes);
        }
    }
    println!(
        "{}: {pairs} pairs from seed {first} in {:?}: {schedules} schedules explored, {different} without \
         equivalent ones, and {orders} orders by brute force in {brute_force_took:?}; skipped {too_large} \
         pairs with too many orders, and {by_chance} whose deadlock victim varies",
        E::NAME,
        started.elapsed()
    );
    assert!(pairs > 0, "no pair was compared within the time limit");
}

/// Pairs at READ COMMITTED that miss an outcome if any rule about independent steps is too weak: each has a
/// read that sees a commit or not, or a lock that delays a change or not.
fn delicate_pairs<E: Engine>() -> Vec<Pair> {
    use program::Statement::{CountUnlocked, Delete, Insert, ReadDerived, ReadForShare, ReadForUpdate};
    let pairs = [
        (vec![Read("one", 1), Read("one", 1)], vec![Add("one", 1, 1)]),
        (vec![ReadDerived("one"), ReadDerived("one")], vec![Add("one", 1, 1), Add("one", 2, 10)]),
        (vec![ReadDerived("one"), Read("two", 1)], vec![Add("two", 1, 1), Insert("one", 3, 10)]),
        (vec![ReadForShare("one", 1), Read("two", 1)], vec![Add("two", 1, 1), Add("one", 1, 1)]),
        (vec![ReadForUpdate("one", 1), Read("two", 1)], vec![ReadForShare("one", 1), Add("two", 1, 1)]),
        (vec![ReadForShare("one", 1), Read("two", 1)], vec![ReadForShare("one", 1), Add("two", 1, 1)]),
        (vec![ReadAll("one"), ReadAll("two")], vec![Delete("two", 1), Insert("one", 3, 5)]),
        (vec![Add("one", 1, 1), Read("two", 1)], vec![Add("two", 1, 1), Read("one", 1)]),
        (vec![ReadForUpdate("one", 1)], vec![CountUnlocked("one", 1)]),
        (vec![Insert("one", 3, 1), Read("two", 1)], vec![Insert("one", 3, 2), Read("two", 1)]),
    ];
    let mut pairs = pairs.map(|(one, other)| Pair::of::<E>(&one, &other, false)).to_vec();
    pairs.push(Pair::of::<E>(&[Read("one", 1), ReadForShare("one", 2)], &[Add("one", 1, 1)], true));
    let program = |lines: &[_], rolls_back| Program::of::<E>(lines, rolls_back);
    let violated = [program(&[Insert("one", 3, 1)], true)].to_vec();
    pairs.push(Pair([violated, [program(&[Insert("one", 3, 2)], false)].to_vec()]));
    // The first transaction leaves nothing behind, except for the last one.
    for (first, rolls_back, other) in [
        (Read("one", 1), true, Add("one", 1, 1)),
        (ReadForUpdate("one", 1), false, CountUnlocked("one", 1)),
        (Add("one", 1, 1), true, CountUnlocked("one", 1)),
        (Add("one", 1, 1), false, Read("one", 1)),
    ] {
        let first = [program(&[first], rolls_back), program(&[Read("two", 1)], false)].to_vec();
        pairs.push(Pair([first, [program(&[other, Add("two", 1, 1)], false)].to_vec()]));
    }
    pairs
}

/// Returns the numbers of orders by brute force and of schedules without equivalent ones.
async fn compare<E: Engine>(pool: &TestPool<E>, pair: &Pair) -> (usize, usize) {
    let every_order = brute_force::outcomes::<E>(pool, pair).await.expect("few orders");
    let distinct = explored::outcomes::<E>(pool, pair, true).await.expect("no deadlock");
    assert_eq!(distinct.outcomes, every_order.outcomes, "{}\n{pair}", E::NAME);
    (every_order.orders, distinct.orders)
}

async fn skipping_equivalent_schedules_hides_no_outcome<E: Engine>() {
    let pool = E::pool(4).await;
    for sql in program::TABLES {
        E::pool_execute(&pool, E::sql(sql), &[]).await.expect("a table");
    }
    E::prepare(&pool).await;
    for pair in delicate_pairs::<E>() {
        let (orders, distinct) = compare::<E>(&pool, &pair).await;
        println!("{}: {distinct} schedules for {orders} orders", E::NAME);
        assert!(distinct < orders, "{}: {distinct} of {orders} schedules\n{pair}", E::NAME);
    }
    let (one, other) = ([Add("one", 1, 1), Read("one", 2)], [Add("two", 1, 1), ReadAll("two")]);
    let (_, distinct) = compare::<E>(&pool, &Pair::of::<E>(&one, &other, false)).await;
    assert_eq!(distinct, 1, "{}: clients that never meet", E::NAME);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_skipping_equivalent_schedules_hides_no_outcome() {
    skipping_equivalent_schedules_hides_no_outcome::<sqlx::Postgres>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_skipping_equivalent_schedules_hides_no_outcome() {
    skipping_equivalent_schedules_hides_no_outcome::<sqlx::MySql>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_explored_outcomes_are_those_of_every_order() {
    explored_outcomes_are_those_of_every_order::<sqlx::Sqlite>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_explored_outcomes_are_those_of_every_order() {
    explored_outcomes_are_those_of_every_order::<sqlx::Postgres>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_explored_outcomes_are_those_of_every_order() {
    explored_outcomes_are_those_of_every_order::<sqlx::MySql>().await;
}
