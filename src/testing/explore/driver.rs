//! Drives the clients through one schedule, from the first step to the last.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio::time::{Instant, sleep};

use crate::backend::{Backend, LockWait};

use super::client_state::ClientResult;
use super::independence::StepClass;
use super::report::{ExploreError, Problem};
use super::stage::Stage;

/// How long a step may remain unanswered before the explorer queries whether it waits for a lock.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// A decision: which clients could have taken the next step, and which one did.
#[derive(Debug, Default)]
pub(super) struct Choice {
    pub(super) ready: Vec<usize>,
    pub(super) chosen: usize,
    /// The client that took the previous step and could go on: choosing another one is a preemption.
    pub(super) interrupted: Option<usize>,
    /// The ready clients that would retry before each other client has moved. Choosing one of them counts as
    /// a preemption.
    pub(super) early_retries: Vec<usize>,
    /// A description of the state of each client before the step.
    pub(super) states: Vec<String>,
    /// A digest of the state of the schedule before the step.
    pub(super) digest: u64,
    /// The clients that wait for locks, each with the clients that hold them, as far as the server tells.
    pub(super) waiting: Vec<(usize, Vec<usize>)>,
    /// The step, and the ends of the waits that it ended.
    pub(super) classes: Vec<StepClass>,
    /// Whether the step belongs to an attempt after the first one.
    pub(super) retries: bool,
}

impl Choice {
    /// Whether this client cannot go on before one of the others has.
    pub(super) fn waits_for_one_of(&self, client: usize, others: &BTreeSet<usize>) -> bool {
        let mut waiting = self.waiting.iter().filter(|(waiting, _)| *waiting == client);
        waiting.any(|(_, holders)| holders.iter().any(|holder| others.contains(holder)))
    }
}

/// The result of one schedule.
#[derive(Debug, Default)]
pub(super) struct ScheduleResult {
    pub(super) choices: Vec<Choice>,
    pub(super) client_results: Vec<Option<ClientResult>>,
    /// Clients waited for each other and no server could detect it.
    pub(super) deadlocked: bool,
    /// The server usually chooses another victim of a deadlock, or lets another client go on.
    pub(super) has_rare_order: bool,
    /// The problem that ended the schedule early.
    pub(super) problem: Option<Problem>,
    /// A client that ran two units at the same time.
    pub(super) concurrent_client: Option<usize>,
}

impl ScheduleResult {
    /// Whether the script was feasible, and led to the same states as before.
    pub(super) fn follows_script(&self) -> bool {
        !matches!(self.problem, Some(Problem::Infeasible { .. } | Problem::Diverged { .. }))
    }
}

/// The steps that a schedule must begin with, and the choices of an earlier schedule that began with them.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScheduleScript<'a> {
    pub(super) steps: &'a [usize],
    pub(super) expected: &'a [Choice],
}

/// The first steps of a schedule to be run.
#[derive(Debug)]
pub(super) struct Prefix {
    pub(super) steps: Vec<usize>,
    pub(super) preemptions: usize,
    /// The choices of the earlier schedule that begins with the same steps, except for the last one.
    pub(super) choices: Arc<[Choice]>,
}

/// Drives the clients through one schedule.
pub(super) struct ScheduleDriver<'a, DB: Backend> {
    stage: Arc<Stage>,
    clients: Vec<Option<BoxFuture<'a, ClientResult>>>,
    /// A connection for querying lock waits, where the database reports them.
    server: Option<&'a mut DB::Connection>,
    patience: Duration,
    result: ScheduleResult,
    last: Option<usize>,
    /// The number of the last step of each client.
    last_steps: Vec<usize>,
    /// The number of entries in the log before the last step.
    sent: usize,
}

impl<'a, DB: Backend> ScheduleDriver<'a, DB> {
    pub(super) fn new(
        stage: Arc<Stage>,
        clients: Vec<BoxFuture<'a, ClientResult>>,
        server: Option<&'a mut DB::Connection>,
        patience: Duration,
    ) -> Self {
        let client_results = clients.iter().map(|_| None).collect();
        Self {
            stage,
            last_steps: vec![0; clients.len()],
            clients: clients.into_iter().map(Some).collect(),
            server,
            patience,
            result: ScheduleResult { client_results, ..ScheduleResult::default() },
            last: None,
            sent: 0,
        }
    }

    /// Follows the script to its end, and from there on lets each client go on for as long as it can.
    pub(super) async fn follow(
        mut self,
        script: ScheduleScript<'_>,
        max_steps: usize,
    ) -> Result<ScheduleResult, ExploreError> {
        while self.follow_step(script, max_steps).await? {}
        Ok(std::mem::take(&mut self.result))
    }

    /// Takes one step of the schedule. Returns whether the schedule goes on.
    async fn follow_step(
        &mut self,
        script: ScheduleScript<'_>,
        max_steps: usize,
    ) -> Result<bool, ExploreError> {
        let is_settled = self.settle().await?;
        if let Some(choice) = self.result.choices.last_mut() {
            choice.classes = self.stage.step_classes(self.sent);
            choice.retries = self.stage.has_retries(self.sent);
        }
        self.result.concurrent_client = self.stage.concurrent_client();
        if self.result.concurrent_client.is_some() {
            return Ok(false);
        }
        if !is_settled {
            return Ok(self.end_with(Problem::Stuck { limit: self.patience }));
        }
        let step = self.result.choices.len();
        let scripted = script.steps.get(step).copied();
        let states = self.stage.describe();
        if let Some(diverged) = divergence(step, &states, script) {
            return Ok(self.end_with(diverged));
        }
        let infeasible = |client| Problem::Infeasible { step: step + 1, client };
        if self.clients.iter().all(Option::is_none) {
            if let Some(client) = scripted {
                self.end_with(infeasible(client));
            }
            return Ok(false);
        }
        let (ready, early_retries) = self.ready();
        let Some(first) = ready.iter().find(|client| !early_retries.contains(client)).copied() else {
            // All clients wait, and no server resolves it: SQLite fails the statement that came last.
            if let Some(client) = self.last_busy() {
                self.result.deadlocked = true;
                self.stage.fail_busy(client);
            }
            return Ok(true);
        };
        let interrupted =
            self.last.filter(|last| ready.contains(last) && !self.stage.is_about_to_retry(*last));
        let chosen = match scripted {
            Some(client) if ready.contains(&client) => client,
            Some(client) => return Ok(self.end_with(infeasible(client))),
            None if step >= max_steps => return Ok(self.end_with(Problem::Endless { steps: step })),
            None => interrupted.unwrap_or(first),
        };
        let (digest, waiting) = (self.stage.digest(), self.stage.waiting());
        self.sent = self.stage.entries();
        let (classes, retries) = (Vec::new(), false);
        let choice =
            Choice { ready, chosen, interrupted, early_retries, states, digest, waiting, classes, retries };
        self.result.choices.push(choice);
        self.take_step(chosen);
        Ok(true)
    }

    /// Ends the schedule early. Returns `false`: it does not go on.
    fn end_with(&mut self, problem: Problem) -> bool {
        self.result.problem = Some(problem);
        false
    }

    fn take_step(&mut self, client: usize) {
        self.last_steps[client] = self.result.choices.len();
        self.last = Some(client);
        self.stage.resume(client);
    }

    /// The clients that could take the next step, and those of them whose retry would be early. A retry
    /// normally lets all other clients move first, as its backoff would. Otherwise two clients could fail in
    /// turn forever while the one that they wait for is held.
    fn ready(&self) -> (Vec<usize>, Vec<usize>) {
        let ready = self.stage.ready();
        let (retries, others): (Vec<usize>, Vec<usize>) =
            ready.iter().partition(|client| self.stage.is_about_to_retry(**client));
        let all_others_moved =
            |client: &usize| others.iter().all(|other| self.last_steps[*other] > self.last_steps[*client]);
        let early = retries.into_iter().filter(|client| !all_others_moved(client)).collect();
        (ready, early)
    }

    fn last_busy(&self) -> Option<usize> {
        let busy = self.stage.busy();
        self.last.filter(|last| busy.contains(last)).or_else(|| busy.last().copied())
    }

    /// Waits until every client is held before a step, is done, or waits for a lock or a gate that only
    /// another client can release. Returns whether that happened within the limit.
    async fn settle(&mut self) -> Result<bool, ExploreError> {
        let started = Instant::now();
        loop {
            if self.stop_all(POLL_INTERVAL).await && self.can_go_on() {
                return Ok(true);
            }
            if let Some(waits) = self.lock_waits().await? {
                self.stage.record_waits(&waits);
                // The server resolves a cycle. If no client is ready, the wait must end by itself.
                if !is_cycle(&waits) && !self.stage.ready().is_empty() {
                    return Ok(true);
                }
            }
            if started.elapsed() > self.patience {
                return Ok(false);
            }
        }
    }

    /// Queries the lock waits of all running clients. `None` unless all of them wait.
    async fn lock_waits(&mut self) -> Result<Option<Vec<LockWait>>, ExploreError> {
        let Some(server) = &mut self.server else { return Ok(None) };
        let running = self.stage.running();
        if running.is_empty() {
            sleep(POLL_INTERVAL).await;
            return Ok(None);
        }
        let Some(sessions) = running.iter().map(|(_, session)| *session).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let Some(query) = DB::lock_wait_query(&sessions) else { return Ok(None) };
        let texts = DB::fetch_text(server, query.sql).await.map_err(ExploreError::LockWaits)?;
        let mut waits: Vec<LockWait> = texts.iter().flat_map(|text| (query.read)(text)).collect();
        waits.retain(|wait| sessions.contains(&wait.session));
        let all_wait = sessions.iter().all(|session| waits.iter().any(|wait| wait.session == *session));
        Ok(all_wait.then_some(waits))
    }

    /// Polls the clients until none of them is running. Returns whether that happened within the limit.
    async fn stop_all(&mut self, limit: Duration) -> bool {
        let mut alarm = pin!(sleep(limit));
        poll_fn(|context| {
            loop {
                let changes = self.stage.changes();
                self.poll_clients(context);
                // A client in a gate's queue may have been admitted by one that was polled after it.
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
            if let Poll::Ready(result) = future.as_mut().poll(context) {
                self.clients[client] = None;
                self.result.client_results[client] = Some(result);
                self.stage.set_done(client);
            }
        }
    }

    /// Whether all clients are done, or one of them can take a step or is busy.
    fn can_go_on(&self) -> bool {
        self.clients.iter().all(Option::is_none)
            || !self.stage.ready().is_empty()
            || !self.stage.busy().is_empty()
    }
}

impl<DB: Backend> Drop for ScheduleDriver<'_, DB> {
    fn drop(&mut self) {
        self.stage.close();
    }
}

/// The first difference to the earlier schedule that began with the same steps.
fn divergence(step: usize, states: &[String], script: ScheduleScript<'_>) -> Option<Problem> {
    let earlier = script.expected.get(step).filter(|_| step < script.steps.len())?;
    let client = (0..states.len()).find(|client| earlier.states[*client] != states[*client])?;
    let (expected, found) = (earlier.states[client].clone(), states[client].clone());
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
