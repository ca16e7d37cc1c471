//! Runs a pair in every order of its statements on plain connections, without leaving out equivalent orders.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::Outcomes;
use crate::client::{At, Client};
use crate::engine::{Answer, Engine};
use crate::program::Pair;
use crate::support::TestPool;

/// The maximum number of orders of one pair.
const MAX_ORDERS: usize = 3000;

/// How long a statement may take before the server is queried whether it is blocked.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Why a pair is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Skipped {
    TooManyOrders,
    /// The server chose another victim of a deadlock than before.
    ByChance,
}

/// The outcomes of all orders.
#[derive(Debug)]
pub(crate) struct Orders {
    pub(crate) outcomes: Outcomes,
    pub(crate) orders: usize,
}

/// A connection in a task of its own, because its statements may be blocked.
struct ConnectionTask {
    session: i64,
    statements: mpsc::UnboundedSender<String>,
    answers: mpsc::UnboundedReceiver<Answer>,
}

impl ConnectionTask {
    async fn new<E: Engine>(url: &str) -> Self {
        let mut connection = E::connect(url).await;
        let session = E::session(&mut connection).await;
        let (statements, mut received) = mpsc::unbounded_channel();
        let (done, answers) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(sql) = received.recv().await {
                if done.send(E::send(&mut connection, sql).await).is_err() {
                    break;
                }
            }
        });
        Self { session, statements, answers }
    }
}

/// One order of the statements of a pair.
struct Order<'a, E: Engine> {
    connections: &'a mut [ConnectionTask; 2],
    watcher: &'a mut E::Connection,
    clients: [Client<'a>; 2],
    /// The number of transactions that have ended.
    ended: usize,
}

impl<E: Engine> Order<'_, E> {
    /// Runs the order that begins with these clients, and then with the first client that can go on. Returns
    /// for each step the clients that could go on and the one that did; `None` if a deadlock made the order
    /// infeasible.
    async fn run(&mut self, prefix: &[usize]) -> Option<Vec<(Vec<usize>, usize)>> {
        let mut taken = Vec::new();
        loop {
            self.settle().await;
            if self.clients.iter().all(|client| client.at == At::Done) {
                return Some(taken);
            }
            let ready: Vec<usize> = (0..2).filter(|client| self.can_go_on(*client)).collect();
            let Some(first) = ready.first().copied() else {
                panic!("no client can go on");
            };
            let chosen = prefix.get(taken.len()).copied().unwrap_or(first);
            if !ready.contains(&chosen) {
                let deadlock = self.clients.iter().any(|client| client.deadlock);
                assert!(deadlock, "client {chosen} could go on here in an earlier order");
                return None;
            }
            taken.push((ready, chosen));
            let client = &mut self.clients[chosen];
            client.in_flight = true;
            self.connections[chosen].statements.send(client.sql::<E>()).expect("its task");
        }
    }

    fn can_go_on(&self, client: usize) -> bool {
        let Client { at, in_flight, busy, .. } = &self.clients[client];
        *at != At::Done && !in_flight && busy.is_none_or(|when| when < self.ended)
    }

    /// Waits until each sent statement has a response, or is blocked by the other client, which can go on.
    async fn settle(&mut self) {
        loop {
            let mut is_blocked = true;
            for client in 0..2 {
                if !self.clients[client].in_flight {
                    continue;
                }
                let answer = self.connections[client].answers.recv();
                match tokio::time::timeout(POLL_INTERVAL, answer).await {
                    Ok(answer) => {
                        self.receive(client, &answer.expect("its task"));
                        // The response may have unblocked the other client, which was polled before.
                        is_blocked = false;
                    }
                    Err(_) => {
                        is_blocked &= E::is_blocked(self.watcher, self.connections[client].session).await
                    }
                }
            }
            let is_answered = self.clients.iter().all(|client| !client.in_flight);
            let others_can = (0..2).any(|client| self.can_go_on(client));
            if is_answered
                || (is_blocked
                    && others_can
                    && self.connections.iter().all(|connection| connection.answers.is_empty()))
            {
                return;
            }
        }
    }

    fn receive(&mut self, client: usize, answer: &Answer) {
        let own = &mut self.clients[client];
        if *answer == Answer::Busy && own.waits_when_busy() {
            own.in_flight = false;
            own.busy = Some(self.ended);
            return;
        }
        if own.receive(answer) {
            self.ended += 1;
        }
    }
}

/// The outcomes of all orders of a pair, except for those with deadlocks.
pub(crate) async fn outcomes<E: Engine>(pool: &TestPool<E>, pair: &Pair) -> Result<Orders, Skipped> {
    let mut connections =
        [ConnectionTask::new::<E>(&pool.url).await, ConnectionTask::new::<E>(&pool.url).await];
    let mut watcher = E::connect(&pool.url).await;
    let mut result = Orders { outcomes: Outcomes::new(), orders: 0 };
    let mut pending = vec![Vec::new()];
    while let Some(prefix) = pending.pop() {
        if result.orders == MAX_ORDERS {
            return Err(Skipped::TooManyOrders);
        }
        result.orders += 1;
        E::reset(pool).await.expect("the set-up");
        let clients = [Client::new(&pair.0[0]), Client::new(&pair.0[1])];
        let mut order =
            Order::<E> { connections: &mut connections, watcher: &mut watcher, clients, ended: 0 };
        let taken = order.run(&prefix).await.ok_or(Skipped::ByChance)?;
        let [one, other] = &order.clients;
        if !one.deadlock && !other.deadlock {
            let content = E::content(pool).await;
            result.outcomes.insert(format!("{:?} | {:?} | {content}", one.results, other.results));
        }
        for (i, (ready, chosen)) in taken.iter().enumerate().skip(prefix.len()) {
            for other in ready.iter().filter(|other| *other != chosen) {
                let mut next: Vec<usize> = taken[..i].iter().map(|(_, chosen)| *chosen).collect();
                next.push(*other);
                pending.push(next);
            }
        }
    }
    Ok(result)
}
