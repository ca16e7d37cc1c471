//! A pair, in every order of its statements, on plain connections: nothing is left out because it is like
//! something else.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::Outcomes;
use crate::client::{At, Client};
use crate::engine::{Engine, Told};
use crate::program::Pair;
use crate::support::TestPool;

/// How many orders are run of one pair at most.
const MOST_ORDERS: usize = 3000;

/// How long a statement may take before the server is asked whether it waits.
const USUAL: Duration = Duration::from_millis(1);

/// Why a pair is not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Skipped {
    TooMany,
    /// The server ended another transaction of a deadlock than the last time.
    ByChance,
}

/// What came of all orders.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) outcomes: Outcomes,
    pub(crate) orders: usize,
}

/// A connection at work in a task of its own, because it may have to wait.
struct Hand {
    session: i64,
    orders: mpsc::UnboundedSender<String>,
    answers: mpsc::UnboundedReceiver<Told>,
}

impl Hand {
    async fn new<E: Engine>(url: &str) -> Self {
        let mut connection = E::connect(url).await;
        let session = E::session(&mut connection).await;
        let (orders, mut to_do) = mpsc::unbounded_channel();
        let (done, answers) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(sql) = to_do.recv().await {
                if done.send(E::send(&mut connection, sql).await).is_err() {
                    break;
                }
            }
        });
        Self { session, orders, answers }
    }
}

struct Order<'a, E: Engine> {
    hands: &'a mut [Hand; 2],
    watcher: &'a mut E::Connection,
    clients: [Client<'a>; 2],
    ended: usize,
}

impl<E: Engine> Order<'_, E> {
    /// Runs one order that begins like this, and then takes the first client that can go on. Answers who
    /// could have gone on each time, and who did.
    async fn run(&mut self, beginning: &[usize]) -> Option<Vec<(Vec<usize>, usize)>> {
        let mut taken = Vec::new();
        loop {
            self.settle().await;
            if self.clients.iter().all(|client| client.at == At::Done) {
                return Some(taken);
            }
            let ready: Vec<usize> = (0..2).filter(|client| self.can_go_on(*client)).collect();
            let Some(first) = ready.first().copied() else {
                panic!("nobody can go on");
            };
            let chosen = beginning.get(taken.len()).copied().unwrap_or(first);
            if !ready.contains(&chosen) {
                let deadlock = self.clients.iter().any(|client| client.deadlock);
                assert!(deadlock, "{chosen} could go on here a moment ago");
                return None;
            }
            taken.push((ready, chosen));
            let client = &mut self.clients[chosen];
            client.in_flight = true;
            self.hands[chosen].orders.send(client.sql::<E>()).expect("its task");
        }
    }

    fn can_go_on(&self, client: usize) -> bool {
        let Client { at, in_flight, busy, .. } = &self.clients[client];
        *at != At::Done && !in_flight && busy.is_none_or(|when| when < self.ended)
    }

    /// Until everything that was sent is answered, or waits for the other client, which can go on.
    async fn settle(&mut self) {
        loop {
            let mut waits = true;
            for client in 0..2 {
                if !self.clients[client].in_flight {
                    continue;
                }
                let answer = self.hands[client].answers.recv();
                match tokio::time::timeout(USUAL, answer).await {
                    Ok(told) => {
                        self.hear(client, &told.expect("its task"));
                        // It may have let the other one go on, which was asked before.
                        waits = false;
                    }
                    Err(_) => waits &= E::is_blocked(self.watcher, self.hands[client].session).await,
                }
            }
            let is_answered = self.clients.iter().all(|client| !client.in_flight);
            let others_can = (0..2).any(|client| self.can_go_on(client));
            if is_answered || (waits && others_can && self.hands.iter().all(|hand| hand.answers.is_empty())) {
                return;
            }
        }
    }

    fn hear(&mut self, client: usize, told: &Told) {
        let own = &mut self.clients[client];
        if *told == Told::Busy && own.waits_when_busy() {
            own.in_flight = false;
            own.busy = Some(self.ended);
            return;
        }
        if own.hears(told) {
            self.ended += 1;
        }
    }
}

/// What can come of the pair, without what follows deadlocks.
pub(crate) async fn outcomes<E: Engine>(pool: &TestPool<E>, pair: &Pair) -> Result<Ran, Skipped> {
    let mut hands = [Hand::new::<E>(&pool.url).await, Hand::new::<E>(&pool.url).await];
    let mut watcher = E::connect(&pool.url).await;
    let mut ran = Ran { outcomes: Outcomes::new(), orders: 0 };
    let mut pending = vec![Vec::new()];
    while let Some(beginning) = pending.pop() {
        if ran.orders == MOST_ORDERS {
            return Err(Skipped::TooMany);
        }
        ran.orders += 1;
        E::reset(pool).await.expect("the set-up");
        let clients = [Client::new(&pair.0[0]), Client::new(&pair.0[1])];
        let mut order = Order::<E> { hands: &mut hands, watcher: &mut watcher, clients, ended: 0 };
        let taken = order.run(&beginning).await.ok_or(Skipped::ByChance)?;
        let [one, other] = &order.clients;
        if !one.deadlock && !other.deadlock {
            let content = E::content(pool).await;
            ran.outcomes.insert(format!("{:?} | {:?} | {content}", one.told, other.told));
        }
        for (i, (ready, chosen)) in taken.iter().enumerate().skip(beginning.len()) {
            for other in ready.iter().filter(|other| *other != chosen) {
                let mut next: Vec<usize> = taken[..i].iter().map(|(_, chosen)| *chosen).collect();
                next.push(*other);
                pending.push(next);
            }
        }
    }
    Ok(ran)
}
