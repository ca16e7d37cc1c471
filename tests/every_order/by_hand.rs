//! A pair, in every order of its statements, on plain connections: nothing is left out because it is like something else.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::Outcomes;
use crate::engine::{Engine, Told};
use crate::program::{Line, Pair, Program, Scope};
use crate::support::TestPool;

/// How many orders are run of one pair at most.
const MOST_ORDERS: usize = 3000;

/// How long a statement may take before the server is asked whether it waits.
const USUAL: Duration = Duration::from_millis(1);

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

/// Where a client is in its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Begin,
    /// In front of the savepoint of a line, the line, or the end of its savepoint.
    Savepoint(usize),
    Line(usize),
    ScopeEnd(usize, Scope),
    Commit,
    RollBack(End),
    Done,
}

/// Why a transaction is rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    ByItself,
    Violation,
    Conflict,
}

struct Client<'p> {
    programs: &'p [Program],
    /// Which of them it is at.
    unit: usize,
    at: At,
    attempt: u32,
    seen: Vec<i64>,
    deadlock: bool,
    told: Vec<String>,
    /// A statement is on its way.
    in_flight: bool,
    /// SQLite: it was busy when so many transactions had ended.
    busy: Option<usize>,
    /// SQLite: a statement has run, so that the transaction has a lock and does not wait for another one.
    has_run: bool,
}

impl<'p> Client<'p> {
    fn new(programs: &'p [Program]) -> Self {
        Self {
            programs,
            unit: 0,
            at: At::Begin,
            attempt: 1,
            seen: Vec::new(),
            deadlock: false,
            told: Vec::new(),
            in_flight: false,
            busy: None,
            has_run: false,
        }
    }

    fn program(&self) -> &'p Program {
        &self.programs[self.unit]
    }

    fn sql<E: Engine>(&self) -> String {
        match self.at {
            At::Begin => self.program().level.begin.to_owned(),
            At::Savepoint(_) => String::from("SAVEPOINT a"),
            At::Line(line) => {
                self.program().lines[line].statement.sql::<E>(self.seen.last().copied().unwrap_or(0))
            }
            At::ScopeEnd(_, Scope::Kept) => String::from("RELEASE SAVEPOINT a"),
            At::ScopeEnd(_, Scope::Undone) => String::from("ROLLBACK TO SAVEPOINT a"),
            At::Commit => String::from("COMMIT"),
            At::RollBack(_) | At::Done => String::from("ROLLBACK"),
        }
    }

    fn next_line(&self, line: usize) -> At {
        match self.program().lines.get(line) {
            Some(next) if next.scope.is_some() => At::Savepoint(line),
            Some(_) => At::Line(line),
            None if self.program().rolls_back => At::RollBack(End::ByItself),
            None => At::Commit,
        }
    }

    /// Whether the statement that is on its way has to find a row.
    fn expects_one(&self) -> bool {
        matches!(self.at, At::Line(line) if self.program().lines[line].statement.expects_one())
    }

    /// Goes on with what it was told. Answers whether a transaction has ended.
    fn hears(&mut self, told: &Told) -> bool {
        self.in_flight = false;
        self.busy = None;
        let failed = match told {
            Told::Ok(None) if self.expects_one() => Some(End::Conflict),
            Told::Ok(_) => None,
            Told::Busy | Told::Conflict => Some(End::Conflict),
            Told::Deadlock => {
                self.deadlock = true;
                Some(End::Conflict)
            }
            Told::Violation => Some(End::Violation),
        };
        if let Some(end) = failed {
            match (self.at, end) {
                (At::Line(line), End::Violation) if self.program().lines[line].scope.is_some() => {
                    self.at = At::ScopeEnd(line, Scope::Undone);
                }
                // It has ended the transaction.
                (At::Commit, End::Conflict) => {
                    self.again();
                    return true;
                }
                (At::RollBack(_) | At::Done, _) => panic!("a rollback failed: {told:?}"),
                (At::Begin, End::Conflict) => self.again(),
                _ => self.at = At::RollBack(end),
            }
            return false;
        }
        let ended = matches!(self.at, At::Commit | At::RollBack(_));
        match self.at {
            At::Begin => {
                self.seen.clear();
                self.has_run = false;
                self.at = self.next_line(0);
            }
            At::Savepoint(line) => self.at = At::Line(line),
            At::Line(line) => {
                self.has_run = true;
                let Line { statement, scope } = self.program().lines[line];
                if let Told::Ok(Some(value)) = told
                    && statement.reads()
                {
                    self.seen.push(*value);
                }
                self.at = scope.map_or_else(|| self.next_line(line + 1), |scope| At::ScopeEnd(line, scope));
            }
            At::ScopeEnd(line, _) => self.at = self.next_line(line + 1),
            At::Commit => self.ends(format!("committed {:?}", self.seen)),
            At::RollBack(End::ByItself) => self.ends(format!("rolled back {:?}", self.seen)),
            At::RollBack(End::Violation) => self.ends(String::from("violation")),
            At::RollBack(End::Conflict) => self.again(),
            At::Done => {}
        }
        ended
    }

    fn ends(&mut self, told: String) {
        self.told.push(told);
        if self.unit + 1 == self.programs.len() {
            self.at = At::Done;
        } else {
            self.unit += 1;
            (self.at, self.attempt) = (At::Begin, 1);
        }
    }

    fn again(&mut self) {
        if self.attempt == self.program().attempts {
            self.ends(String::from("used up"));
        } else {
            self.attempt += 1;
            self.at = At::Begin;
        }
    }

    /// Whether SQLite waits by itself for the lock that it did not get.
    fn waits_when_busy(&self) -> bool {
        !self.has_run || !matches!(self.at, At::Line(_))
    }
}

struct Order<'a, E: Engine> {
    hands: &'a mut [Hand; 2],
    watcher: &'a mut E::Connection,
    clients: [Client<'a>; 2],
    ended: usize,
}

impl<E: Engine> Order<'_, E> {
    /// Runs one order that begins like this, and then takes the first client that can go on. Answers who could have gone
    /// on each time, and who did.
    async fn run(&mut self, beginning: &[usize]) -> Vec<(Vec<usize>, usize)> {
        let mut taken = Vec::new();
        loop {
            self.settle().await;
            if self.clients.iter().all(|client| client.at == At::Done) {
                return taken;
            }
            let ready: Vec<usize> = (0..2).filter(|client| self.can_go_on(*client)).collect();
            let Some(first) = ready.first().copied() else {
                panic!("nobody can go on");
            };
            let chosen = beginning.get(taken.len()).copied().unwrap_or(first);
            assert!(ready.contains(&chosen), "{chosen} could go on here a moment ago");
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
                    Ok(told) => self.hear(client, &told.expect("its task")),
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

/// What can come of the pair, without what follows deadlocks. `None` if it has too many orders.
pub(crate) async fn outcomes<E: Engine>(pool: &TestPool<E>, pair: &Pair) -> Option<Ran> {
    let mut hands = [Hand::new::<E>(&pool.url).await, Hand::new::<E>(&pool.url).await];
    let mut watcher = E::connect(&pool.url).await;
    let mut ran = Ran { outcomes: Outcomes::new(), orders: 0 };
    let mut pending = vec![Vec::new()];
    while let Some(beginning) = pending.pop() {
        if ran.orders == MOST_ORDERS {
            return None;
        }
        ran.orders += 1;
        E::reset(pool).await.expect("the set-up");
        let clients = [Client::new(&pair.0[0]), Client::new(&pair.0[1])];
        let mut order = Order::<E> { hands: &mut hands, watcher: &mut watcher, clients, ended: 0 };
        let taken = order.run(&beginning).await;
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
    Some(ran)
}
