//! Simulates ten thousand clients that retry during and after an outage, with the real retry loop.
//!
//! The server is a queue that processes one attempt after another, including those whose clients have stopped
//! waiting, as servers do. Under the normal load of the fleet, a third of its capacity is idle. Then it stops
//! for ten seconds.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::deadline::Timer;
use super::options::Options;
use super::retry::run_with_retries;
use super::retryable::{AttemptOutcome, Retryable};
use super::waiting::{Permits, WaitingQueues};
use crate::events::RunOutcome;
use crate::failure::{Failure, FailureKind};
use crate::gate::Gate;
use crate::isolation::Isolation;
use crate::retry_budget::RetryBudget;
use crate::sql_text::Syntax;
use crate::strategy::{Attempt, Plan, Strategy};

const CLIENTS: u64 = 10_000;
/// The average pause between two runs of a client.
const PAUSE: Duration = Duration::from_secs(10);
/// The time that the server needs for one attempt: 1500 per second, of which the clients need 1000.
const WORK: Duration = Duration::from_nanos(1_000_000_000 / 1_500);
/// The time that a client waits for one attempt.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(1);
/// The time that a client waits for all attempts of a run.
const DEADLINE: Duration = Duration::from_secs(5);

const OUTAGE: std::ops::Range<u64> = 10..20;
/// The seconds at the end in which the fleet should have recovered.
const END: std::ops::Range<u64> = 60..70;

#[derive(Debug)]
struct Plain;

impl Strategy for Plain {
    fn plan(&self, _attempt: &Attempt) -> Plan {
        Plan::new(Isolation::ReadCommitted)
    }
}

/// Counts events for each second of the simulation.
#[derive(Debug)]
struct Seconds(Vec<AtomicU64>);

impl Seconds {
    fn new() -> Self {
        Self((0..=END.end).map(|_| AtomicU64::new(0)).collect())
    }

    fn count(&self, since: Instant) {
        if let Some(second) = self.0.get(since.elapsed().as_secs() as usize) {
            second.fetch_add(1, Relaxed);
        }
    }

    fn during(&self, seconds: std::ops::Range<u64>) -> u64 {
        seconds.filter_map(|second| self.0.get(second as usize)).map(|count| count.load(Relaxed)).sum()
    }
}

struct World {
    started: Instant,
    /// The time at which the server will have processed all attempts that it has received.
    free_at: Mutex<Instant>,
    wanted: Seconds,
    attempts: Seconds,
    done: Seconds,
}

impl World {
    /// Sends an attempt, and returns the time at which the server will respond to it.
    fn send(&self) -> Instant {
        let mut free_at = self.free_at.lock().expect("the server");
        let outage = [OUTAGE.start, OUTAGE.end].map(|second| self.started + Duration::from_secs(second));
        let mut begins = (*free_at).max(Instant::now());
        if (outage[0]..outage[1]).contains(&begins) {
            begins = outage[1];
        }
        *free_at = begins + WORK;
        *free_at
    }
}

struct Request<'a>(&'a World);

impl Retryable for Request<'_> {
    const SYSTEM: &'static str = "none";

    const SYNTAX: Syntax = Syntax::Sqlite;

    fn outcome(_output: &Self::Output) -> RunOutcome {
        RunOutcome::Committed
    }

    type Output = ();

    async fn attempt(
        &mut self,
        _plan: Plan,
        _attempt: u32,
        _permits: Permits,
        _timer: &mut Timer,
    ) -> AttemptOutcome<()> {
        self.0.attempts.count(self.0.started);
        let answered = self.0.send();
        if answered > Instant::now() + ATTEMPT_LIMIT {
            sleep(ATTEMPT_LIMIT).await;
            return AttemptOutcome::failed(
                Failure::new(FailureKind::Unavailable, "no answer").retryable(true),
            );
        }
        sleep_until(answered).await;
        AttemptOutcome::Done(())
    }

    fn unresolved(&self) -> Option<Failure> {
        None
    }

    async fn ended(&mut self, _timer: &mut Timer) {}
}

/// Runs one client until the end of the simulation.
async fn client(world: Arc<World>, options: Options, seed: u64) {
    let mut chance = StdRng::seed_from_u64(seed);
    let mut pause = move || PAUSE.mul_f64(2.0 * chance.random::<f64>());
    let gate = Gate::new();
    for run in 0.. {
        sleep(pause()).await;
        if world.started.elapsed() > Duration::from_secs(END.end) {
            return;
        }
        world.wanted.count(world.started);
        let options = Options::new().seed(seed + run * CLIENTS).or(&options);
        if run_with_retries(&Plain, WaitingQueues::at(&gate), &options, &mut Request(&world)).await.is_ok() {
            world.done.count(world.started);
        }
    }
}

async fn simulate(options: Options) -> Arc<World> {
    let started = Instant::now();
    let (wanted, attempts, done) = (Seconds::new(), Seconds::new(), Seconds::new());
    let world = Arc::new(World { started, free_at: Mutex::new(started), wanted, attempts, done });
    let mut clients = JoinSet::new();
    for seed in 0..CLIENTS {
        clients.spawn(client(world.clone(), options.clone().deadline(DEADLINE), seed));
    }
    clients.join_all().await;
    for (when, seconds) in [("before", 5..10), ("outage", OUTAGE), ("after", 20..50), ("end", END)] {
        let [wanted, attempts, done] = [&world.wanted, &world.attempts, &world.done]
            .map(|counted| counted.during(seconds.clone()) / (seconds.end - seconds.start));
        println!("{when:<7} per s: {wanted:>5} runs wanted, {attempts:>5} attempts, {done:>5} runs done");
    }
    world
}

/// Returns whether at least nine out of ten runs succeed.
fn carries_the_load(world: &World, seconds: std::ops::Range<u64>) -> bool {
    world.done.during(seconds.clone()) * 10 >= world.wanted.during(seconds) * 9
}

#[tokio::test(start_paused = true)]
async fn without_a_budget_the_fleet_stays_down_after_an_outage() {
    let world = simulate(Options::new()).await;
    assert!(carries_the_load(&world, 5..10), "nothing was wrong before");
    let (wanted, attempts, done) =
        (world.wanted.during(END), world.attempts.during(END), world.done.during(END));
    assert!(attempts > 2 * wanted, "{attempts} attempts at {wanted} runs");
    assert!(done * 10 < wanted, "{done} of {wanted} runs were done: the simulation shows no difference");
}

#[tokio::test(start_paused = true)]
async fn with_a_budget_the_fleet_recovers_from_an_outage() {
    let world = simulate(Options::new().retry_budget(&RetryBudget::new())).await;
    assert!(carries_the_load(&world, 5..10), "nothing was wrong before");
    assert!(world.done.during(OUTAGE) * 4 < world.wanted.during(OUTAGE), "there was no outage");
    assert!(carries_the_load(&world, END), "it has not recovered");
    let (attempts, wanted) = (world.attempts.during(20..50), world.wanted.during(20..50));
    assert!(attempts * 10 < wanted * 13, "{attempts} attempts at {wanted} runs while it was down");
}
