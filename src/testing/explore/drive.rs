//! Schedule after schedule.

use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use tokio::time::{Instant, timeout};

use crate::backend::Backend;
use crate::backoff::Backoff;
use crate::intercept::Step;
use crate::transactor::Options;

use super::gap::Accepted;
use super::lanes::Lanes;
use super::log::Log;
use super::run::{Choice, Plot, Ran, Run};
use super::schedule::MAX_CLIENTS;
use super::search::{Beginning, Search};
use super::several::several;
use super::stage::{Seat, Stage};
use super::view::EXPLORED_ATTEMPTS;
use super::{Broken, Counterexample, Explore, Gap, Named, Problem, Report, Schedule, Unexplored};

/// How often a schedule is begun again that did not go like an earlier one with the same beginning: on a busy
/// machine a server may take another transaction for the one to end.
const TRIES: usize = 8;

/// Longer than any schedule takes.
const AGES: Duration = Duration::from_secs(60 * 60);

/// How many schedules are run where nobody says otherwise.
const DEFAULT_SCHEDULES: usize = 1000;

impl<DB: Backend> Explore<'_, DB> {
    /// Runs schedules until there are no more, or as many as were asked for.
    ///
    /// # Errors
    ///
    /// Why nothing, or nothing more, could be explored. What went wrong in a schedule is in the report.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; the transactions of the clients are rolled back.
    pub async fn run(self) -> Result<Report, Unexplored> {
        let started = Instant::now();
        let mut server = self.server().await?;
        let mut search = Search::new(self.max_preemptions);
        let mut report = self.report(false);
        let (mut max_preemptions, mut is_cut_short) = (0, false);
        while let Some(beginning) = search.next() {
            report.preemptions = beginning.preemptions.checked_sub(1);
            if report.schedules == self.max_schedules.unwrap_or(DEFAULT_SCHEDULES) {
                report.gaps.push(Gap::Schedules { limit: report.schedules });
                is_cut_short = true;
                break;
            }
            report.schedules += 1;
            max_preemptions = beginning.preemptions;
            let mut choices = self.explore(&beginning, server.as_deref_mut(), &mut report).await?;
            if report.schedules == 1 {
                choices = self.repeat(choices, server.as_deref_mut(), &mut report).await?;
            }
            search.learn(&choices, &beginning);
        }
        if search.left_out {
            report.gaps.push(Gap::Preemptions { limit: self.max_preemptions });
        }
        if report.diverged > 0 {
            report.gaps.push(Gap::Diverged { schedules: report.diverged });
        }
        if !is_cut_short {
            report.preemptions = Some(if search.left_out { self.max_preemptions } else { max_preemptions });
        }
        report.complete = report.gaps.is_empty();
        report.elapsed = started.elapsed();
        Ok(report)
    }

    /// Runs one schedule, as a finding named it: to see the finding again, or as a test that it does not come
    /// back. A schedule that ends early is followed by each client going on for as long as it can.
    ///
    /// # Errors
    ///
    /// Those of [`run`](Self::run), and a text that is no schedule. A schedule that does not fit is a
    /// [finding](Problem::DoesNotFit).
    pub async fn replay(self, schedule: &str) -> Result<Report, Unexplored> {
        let started = Instant::now();
        let Schedule(steps) = schedule.parse()?;
        let mut server = self.server().await?;
        let mut report = self.report(true);
        report.schedules = 1;
        let plot = Plot { steps: &steps, before: &[] };
        let (_, finding) = self.schedule(plot, server.as_deref_mut(), &mut report).await?;
        report.findings.extend(finding);
        report.elapsed = started.elapsed();
        Ok(report)
    }

    /// Nothing yet.
    fn report(&self, replayed: bool) -> Report {
        Report {
            schedules: 0,
            complete: false,
            preemptions: None,
            diverged: 0,
            elapsed: Duration::ZERO,
            findings: Vec::new(),
            gaps: Vec::new(),
            retrying: Vec::new(),
            accepted: Accepted { schedules: self.max_schedules.is_some(), unseen: self.unseen },
            replayed,
        }
    }

    /// Runs the schedule that begins like this, and notes what came of it. Answers its choices.
    async fn explore(
        &self,
        beginning: &Beginning,
        mut server: Option<&mut DB::Connection>,
        report: &mut Report,
    ) -> Result<Arc<[Choice]>, Unexplored> {
        let plot = Plot { steps: &beginning.steps, before: &beginning.before };
        let (mut ran, mut finding) = self.schedule(plot, server.as_deref_mut(), report).await?;
        for _ in 0..TRIES {
            if ran.fits() {
                break;
            }
            (ran, finding) = self.schedule(plot, server.as_deref_mut(), report).await?;
        }
        report.diverged += usize::from(!ran.fits());
        report.findings.extend(finding);
        Ok(ran.choices.into())
    }

    /// Runs the first schedule once more: what would go another way the second time cannot be explored.
    async fn repeat(
        &self,
        choices: Arc<[Choice]>,
        server: Option<&mut DB::Connection>,
        report: &mut Report,
    ) -> Result<Arc<[Choice]>, Unexplored> {
        if !report.passes() {
            return Ok(choices);
        }
        let steps = choices.iter().map(|choice| choice.chosen).collect();
        let again = Beginning { steps, preemptions: 0, before: choices.clone() };
        self.explore(&again, server, report).await?;
        Ok(choices)
    }

    /// A connection for asking who waits, where there is somebody to ask.
    async fn server(&self) -> Result<Option<PoolConnection<DB>>, Unexplored> {
        let clients = self.clients.len();
        if !(1..=MAX_CLIENTS).contains(&clients) {
            return Err(Unexplored::Clients(clients));
        }
        let asks = DB::SESSION_ID_QUERY.is_some();
        let needs = u32::try_from(clients + usize::from(asks)).unwrap_or(u32::MAX);
        let has = self.pool.options().get_max_connections();
        if has < needs {
            return Err(Unexplored::TooFewConnections { has, needs });
        }
        if asks { self.pool.acquire().await.map(Some).map_err(Unexplored::LockWaits) } else { Ok(None) }
    }

    async fn schedule(
        &self,
        plot: Plot<'_>,
        server: Option<&mut DB::Connection>,
        report: &mut Report,
    ) -> Result<(Ran, Option<Counterexample>), Unexplored> {
        let set_up = timeout(self.patience, (self.set_up)(self.pool.clone())).await;
        set_up.unwrap_or_else(|_| Err(self.too_slow())).map_err(Unexplored::SetUp)?;
        let stage = Arc::new(Stage::new(self.clients.len(), DB::SYNTAX));
        let clients = self.clients.iter().enumerate().map(|(client, body)| {
            let seat = Seat { stage: stage.clone(), client, several: several::<DB> };
            (body.what)(self.options(seat))
        });
        let run = Run::<DB>::new(stage.clone(), clients.collect(), server, self.patience);
        let mut ran = run.follow(plot, self.max_steps).await?;
        if let Some(client) = ran.side_by_side {
            return Err(Unexplored::SideBySide { client: self.clients[client].name.clone() });
        }
        let log = stage.log();
        self.note(&log, stage.unseen(), report);
        let mut problems: Vec<Problem> = ran.problem.clone().into_iter().collect();
        if !self.deadlocks && (ran.deadlocked || log.has_deadlock()) {
            problems.push(Problem::Deadlock);
        }
        for (end, client) in ran.ends.iter_mut().zip(&self.clients) {
            if let Some(Err(error)) = end.take() {
                problems.push(Problem::Failed { client: client.name.clone(), error });
            }
        }
        // Only then is there something to look at.
        if ran.problem.is_none() {
            for Named { name, what } in &self.invariants {
                let broken = timeout(self.patience, what(self.pool.clone())).await;
                let too_slow =
                    |_| Some(Broken { expected: String::from("an answer"), found: self.too_slow() });
                if let Some(Broken { expected, found }) = broken.unwrap_or_else(too_slow) {
                    problems.push(Problem::Invariant { name: name.clone(), expected, found });
                }
            }
        }
        let finding = (!problems.is_empty()).then(|| Counterexample {
            schedule: Schedule(ran.choices.iter().map(|choice| choice.chosen).collect()),
            problems,
            lanes: Lanes { clients: self.clients.iter().map(|client| client.name.clone()).collect(), log },
        });
        Ok((ran, finding))
    }

    /// Notes what of this schedule an exploration does not speak of.
    fn note(&self, log: &Log, unseen: Vec<(usize, String)>, report: &mut Report) {
        for (client, what) in unseen {
            let gap = Gap::Unseen { client: self.clients[client].name.clone(), what };
            if !report.gaps.contains(&gap) {
                report.gaps.push(gap);
            }
        }
        let has_more = |step: &Step| step.attempt > 1 && step.max_attempts > EXPLORED_ATTEMPTS;
        for sent in log.sent().filter(|sent| has_more(&sent.step)) {
            let name = &self.clients[sent.client].name;
            if !report.retrying.contains(name) {
                report.retrying.push(name.clone());
            }
        }
    }

    fn too_slow(&self) -> String {
        format!("nothing after {:?}", self.patience)
    }

    /// What makes a client's steps wait for their turn, and nothing else wait for anything.
    fn options(&self, seat: Seat) -> Options {
        let options = Options::new().intercepted_by(Arc::new(seat)).backoff(Backoff::none()).deadline(AGES);
        match DB::SESSION_ID_QUERY {
            // One that is set on the transactor would end a wait that another client's turn is to end.
            Some(_) => options.lock_timeout(AGES),
            // Whoever finds the database busy says so at once, and waits here.
            None => options.lock_timeout(Duration::from_millis(1)),
        }
    }
}
