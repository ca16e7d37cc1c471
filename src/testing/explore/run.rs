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
    /// Those who would begin again without having let each other client move first: as much against the usual
    /// order of things as a preemption.
    pub(super) hasty: Vec<usize>,
    /// Where the clients stood.
    pub(super) view: Vec<String>,
    /// What it had come to.
    pub(super) progress: u64,
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
    /// A client ran two units at the same time.
    pub(super) side_by_side: Option<usize>,
}

impl Ran {
    /// Whether the schedule that was to be followed was possible, and went as it had gone before.
    pub(super) fn fits(&self) -> bool {
        !matches!(self.problem, Some(Problem::DoesNotFit { .. } | Problem::Diverged { .. }))
    }
}

/// A schedule to be followed: who takes which step, and the choices of an earlier schedule that began alike.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plot<'a> {
    pub(super) steps: &'a [usize],
    pub(super) before: &'a [Choice],
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
    pub(super) async fn follow(mut self, plot: Plot<'_>, max_steps: usize) -> Result<Ran, Unexplored> {
        loop {
            let settled = self.settle().await?;
            self.ran.side_by_side = self.stage.side_by_side();
            if self.ran.side_by_side.is_some() {
                break;
            }
            if !settled {
                self.ran.problem = Some(Problem::Stuck { limit: self.patience });
                break;
            }
            let step = self.ran.choices.len();
            let view = self.stage.view();
            if let Some(diverged) = diverged(step, &view, plot) {
                self.ran.problem = Some(diverged);
                break;
            }
            if self.clients.iter().all(Option::is_none) {
                if let Some(asked) = plot.steps.get(step) {
                    self.ran.problem = Some(Problem::DoesNotFit { step: step + 1, client: *asked });
                }
                break;
            }
            let (ready, hasty) = self.ready();
            let first = ready.iter().find(|client| !hasty.contains(client)).copied();
            let Some(first) = first else {
                // Nobody can go on, and no server will break the tie: SQLite tells the one who came last.
                if let Some(last) = self.last_busy() {
                    self.ran.deadlocked = true;
                    self.stage.give_up(last);
                }
                continue;
            };
            let interrupted =
                self.last.filter(|last| ready.contains(last) && !self.stage.begins_again(*last));
            let chosen = match plot.steps.get(step) {
                Some(asked) if ready.contains(asked) => *asked,
                Some(asked) => {
                    self.ran.problem = Some(Problem::DoesNotFit { step: step + 1, client: *asked });
                    break;
                }
                None if step >= max_steps => {
                    self.ran.problem = Some(Problem::Endless { steps: step });
                    break;
                }
                None => interrupted.unwrap_or(first),
            };
            let progress = self.stage.progress();
            self.ran.choices.push(Choice { ready, chosen, interrupted, hasty, view, progress });
            self.take_step(chosen);
        }
        Ok(std::mem::take(&mut self.ran))
    }

    fn take_step(&mut self, client: usize) {
        self.moved[client] = self.ran.choices.len();
        self.last = Some(client);
        self.stage.go(client);
    }

    /// Who may take the next step, and which of them are hasty. Usually one who begins again lets all others
    /// move first, as its backoff would; or two of them could fail in turn for ever, while the one that they
    /// wait for is held.
    fn ready(&self) -> (Vec<usize>, Vec<usize>) {
        let ready = self.stage.ready();
        let (again, others): (Vec<usize>, Vec<usize>) =
            ready.iter().partition(|client| self.stage.begins_again(**client));
        let waits_its_turn =
            |client: &usize| others.iter().all(|other| self.moved[*other] > self.moved[*client]);
        let hasty = again.into_iter().filter(|client| !waits_its_turn(client)).collect();
        (ready, hasty)
    }

    fn last_busy(&self) -> Option<usize> {
        let busy = self.stage.busy();
        self.last.filter(|last| busy.contains(last)).or_else(|| busy.last().copied())
    }

    /// Waits until every client stands in front of a step, is done, or waits for what only a step of another
    /// client can give it: a lock, or its turn. Answers whether that came to be within the limit.
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
        let Some(asking) = DB::lock_wait_query(&sessions) else { return Ok(None) };
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

/// How a schedule goes otherwise than one that began alike, if it does.
fn diverged(step: usize, view: &[String], plot: Plot<'_>) -> Option<Problem> {
    let before = plot.before.get(step).filter(|_| step < plot.steps.len())?;
    let client = (0..view.len()).find(|client| before.view[*client] != view[*client])?;
    let (expected, found) = (before.view[client].clone(), view[client].clone());
    Some(Problem::Diverged { step: step + 1, client, expected, found })
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
