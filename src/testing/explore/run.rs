//! One schedule, from its first step to its last.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio::time::{Instant, sleep};

use crate::backend::{Backend, LockWait};

use super::report::{Problem, Unexplored};
use super::stage::Stage;

/// How long a step may go unanswered before the server is asked whether it waits for a lock.
const USUAL: Duration = Duration::from_millis(1);

/// What a client ended with.
pub(super) type End = Result<(), String>;

/// A decision: who could have taken the next step, and who did.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) ready: Vec<usize>,
    pub(super) chosen: usize,
    /// The client whose turn it was, when taking it away was a preemption.
    pub(super) interrupted: Option<usize>,
}

/// What came of one schedule.
#[derive(Debug, Default)]
pub(super) struct Ran {
    pub(super) choices: Vec<Choice>,
    pub(super) ends: Vec<Option<End>>,
    /// Nobody could go on, and it was not for a server to see.
    pub(super) deadlocked: bool,
    /// What kept it from its end.
    pub(super) problem: Option<Problem>,
}

impl Ran {
    /// Whether the schedule that was to be followed was possible.
    pub(super) fn fits(&self) -> bool {
        !matches!(self.problem, Some(Problem::DoesNotFit { .. }))
    }
}

/// The clients of one schedule at work.
pub(super) struct Run<'a, DB: Backend> {
    stage: Arc<Stage>,
    clients: Vec<Option<BoxFuture<'a, End>>>,
    /// For asking the server, where there is one.
    server: Option<&'a mut DB::Connection>,
    patience: Duration,
    ran: Ran,
    last: Option<usize>,
    /// When each client took its last step.
    moved: Vec<usize>,
}

impl<'a, DB: Backend> Run<'a, DB> {
    pub(super) fn new(
        stage: Arc<Stage>,
        clients: Vec<BoxFuture<'a, End>>,
        server: Option<&'a mut DB::Connection>,
        patience: Duration,
    ) -> Self {
        let ends = clients.iter().map(|_| None).collect();
        Self {
            stage,
            moved: vec![0; clients.len()],
            clients: clients.into_iter().map(Some).collect(),
            server,
            patience,
            ran: Ran { ends, ..Ran::default() },
            last: None,
        }
    }

    /// Follows a schedule as far as it goes, and from there on lets each client go on for as long as it can.
    pub(super) async fn follow(mut self, schedule: &[usize], most_steps: usize) -> Result<Ran, Unexplored> {
        loop {
            if !self.settle().await? {
                self.ran.problem = Some(Problem::Stuck { limit: self.patience });
                break;
            }
            if self.clients.iter().all(Option::is_none) {
                break;
            }
            let ready = self.ready();
            let Some(first) = ready.first().copied() else {
                // Nobody can go on, and no server will break the tie: SQLite tells the one who came last.
                if let Some(last) = self.last_busy() {
                    self.ran.deadlocked = true;
                    self.stage.give_up(last);
                }
                continue;
            };
            let step = self.ran.choices.len();
            let interrupted =
                self.last.filter(|last| ready.contains(last) && !self.stage.begins_again(*last));
            let chosen = match schedule.get(step) {
                Some(asked) if ready.contains(asked) => *asked,
                Some(asked) => {
                    self.ran.problem = Some(Problem::DoesNotFit { step: step + 1, client: *asked });
                    break;
                }
                None if step >= most_steps => {
                    self.ran.problem = Some(Problem::Endless { steps: step });
                    break;
                }
                None => interrupted.unwrap_or(first),
            };
            self.ran.choices.push(Choice { ready, chosen, interrupted });
            self.take_step(chosen);
        }
        Ok(std::mem::take(&mut self.ran))
    }

    fn take_step(&mut self, client: usize) {
        self.moved[client] = self.ran.choices.len();
        self.last = Some(client);
        self.stage.go(client);
    }

    /// Who may take the next step. One who begins again lets all others move first, as its backoff would; or two of them
    /// could fail in turn for ever, while the one that they wait for is held.
    fn ready(&self) -> Vec<usize> {
        let ready = self.stage.ready();
        let (again, others): (Vec<usize>, Vec<usize>) =
            ready.iter().partition(|client| self.stage.begins_again(**client));
        let may = |client: &usize| others.iter().all(|other| self.moved[*other] > self.moved[*client]);
        let mut may_move: Vec<usize> =
            others.iter().chain(again.iter().filter(|client| may(client))).copied().collect();
        may_move.sort_unstable();
        if may_move.is_empty() { ready } else { may_move }
    }

    fn last_busy(&self) -> Option<usize> {
        let busy = self.stage.busy();
        self.last.filter(|last| busy.contains(last)).or_else(|| busy.last().copied())
    }

    /// Waits until every client stands in front of a step, is done, or waits for what only a step of another client can
    /// give it: a lock, or its turn. Answers whether that came to be within the limit.
    async fn settle(&mut self) -> Result<bool, Unexplored> {
        let started = Instant::now();
        loop {
            if self.until_all_stand(USUAL).await && self.can_go_on() {
                return Ok(true);
            }
            if let Some(waits) = self.lock_waits().await? {
                self.stage.wait(&waits);
                // A cycle is for the server to break, and an only client has nobody to wait for.
                if !is_cycle(&waits) && !self.stage.ready().is_empty() {
                    return Ok(true);
                }
            }
            if started.elapsed() > self.patience {
                return Ok(false);
            }
        }
    }

    /// Who waits for a lock in the server, when all who are at work do.
    async fn lock_waits(&mut self) -> Result<Option<Vec<LockWait>>, Unexplored> {
        let Some(server) = &mut self.server else { return Ok(None) };
        let running = self.stage.running();
        if running.is_empty() {
            sleep(USUAL).await;
            return Ok(None);
        }
        let Some(sessions) = running.iter().map(|(_, session)| *session).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let Some(asking) = DB::lock_waits(&sessions) else { return Ok(None) };
        let said = DB::fetch_text(server, asking.sql).await.map_err(Unexplored::LockWaits)?;
        let mut waits: Vec<LockWait> = said.iter().flat_map(|text| (asking.read)(text)).collect();
        waits.retain(|wait| sessions.contains(&wait.session));
        let all = sessions.iter().all(|session| waits.iter().any(|wait| wait.session == *session));
        Ok(all.then_some(waits))
    }

    /// Lets the clients work until none of them does, for so long. Answers whether none of them does.
    async fn until_all_stand(&mut self, limit: Duration) -> bool {
        let mut alarm = pin!(sleep(limit));
        poll_fn(|context| {
            loop {
                let changes = self.stage.changes();
                self.poll_clients(context);
                // Whoever stands in line may have been let in by one who was polled later.
                if self.stage.changes() == changes {
                    break;
                }
            }
            if self.stage.running().is_empty() {
                return Poll::Ready(true);
            }
            alarm.as_mut().poll(context).map(|()| false)
        })
        .await
    }

    fn poll_clients(&mut self, context: &mut Context<'_>) {
        for client in 0..self.clients.len() {
            if !self.stage.is_running(client) {
                continue;
            }
            let Some(future) = &mut self.clients[client] else { continue };
            if let Poll::Ready(end) = future.as_mut().poll(context) {
                self.clients[client] = None;
                self.ran.ends[client] = Some(end);
                self.stage.done(client);
            }
        }
    }

    /// Whether anything but waiting is left to do.
    fn can_go_on(&self) -> bool {
        self.clients.iter().all(Option::is_none)
            || !self.stage.ready().is_empty()
            || !self.stage.busy().is_empty()
    }
}

impl<DB: Backend> Drop for Run<'_, DB> {
    fn drop(&mut self) {
        self.stage.close();
    }
}

/// Whether sessions wait for each other.
fn is_cycle(waits: &[LockWait]) -> bool {
    waits.iter().any(|start| {
        let mut reached = start.blocked_by.clone();
        let mut seen = 0;
        while seen < reached.len() {
            let next = reached[seen];
            for wait in waits.iter().filter(|wait| wait.session == next) {
                for session in &wait.blocked_by {
                    if !reached.contains(session) {
                        reached.push(*session);
                    }
                }
            }
            seen += 1;
        }
        reached.contains(&start.session)
    })
}
