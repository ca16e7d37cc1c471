//! Schedule after schedule.

use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use tokio::time::{Instant, timeout};

use crate::backend::Backend;
use crate::backoff::Backoff;
use crate::transactor::Options;

use super::lanes::Lanes;
use super::log::Entry;
use super::run::{Ran, Run};
use super::schedule::MOST_CLIENTS;
use super::search::Search;
use super::stage::{Seat, Stage};
use super::{Broken, Explore, Finding, Named, Problem, Report, Schedule, Unexplored};

/// How often a schedule is begun again that did not go like an earlier one with the same beginning: on a busy machine a
/// server may take another transaction for the one to end.
const TRIES: usize = 3;

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
        let mut search = Search::new(self.most_preemptions);
        let mut report = Report {
            schedules: 0,
            complete: false,
            preemptions: None,
            diverged: 0,
            elapsed: Duration::ZERO,
            findings: Vec::new(),
        };
        while let Some((beginning, preemptions)) = search.next() {
            report.preemptions = preemptions.checked_sub(1);
            if report.schedules == self.most_schedules {
                report.elapsed = started.elapsed();
                return Ok(report);
            }
            report.schedules += 1;
            let (mut ran, mut finding) = self.schedule(&beginning, server.as_deref_mut()).await?;
            for _ in 0..TRIES {
                if ran.fits() {
                    break;
                }
                (ran, finding) = self.schedule(&beginning, server.as_deref_mut()).await?;
            }
            search.learn(&ran.choices, beginning.len(), preemptions);
            if ran.fits() {
                report.findings.extend(finding);
            } else {
                report.diverged += 1;
            }
        }
        report.complete = !search.left_out;
        report.preemptions = Some(self.most_preemptions);
        report.elapsed = started.elapsed();
        Ok(report)
    }

    /// Runs one schedule, as a finding named it.
    ///
    /// # Errors
    ///
    /// Those of [`run`](Self::run), and a text that is no schedule. A schedule that does not fit is a
    /// [finding](Problem::DoesNotFit).
    pub async fn replay(self, schedule: &str) -> Result<Report, Unexplored> {
        let started = Instant::now();
        let Schedule(beginning) = schedule.parse()?;
        let mut server = self.server().await?;
        let (_, finding) = self.schedule(&beginning, server.as_deref_mut()).await?;
        Ok(Report {
            schedules: 1,
            complete: false,
            preemptions: None,
            diverged: 0,
            elapsed: started.elapsed(),
            findings: finding.into_iter().collect(),
        })
    }

    /// A connection for asking who waits, where there is somebody to ask.
    async fn server(&self) -> Result<Option<PoolConnection<DB>>, Unexplored> {
        let clients = self.clients.len();
        if !(1..=MOST_CLIENTS).contains(&clients) {
            return Err(Unexplored::Clients(clients));
        }
        let asks = DB::SESSION.is_some();
        let needs = u32::try_from(clients + usize::from(asks)).unwrap_or(u32::MAX);
        let has = self.pool.options().get_max_connections();
        if has < needs {
            return Err(Unexplored::TooFewConnections { has, needs });
        }
        if asks { self.pool.acquire().await.map(Some).map_err(Unexplored::LockWaits) } else { Ok(None) }
    }

    async fn schedule(
        &self,
        beginning: &[usize],
        server: Option<&mut DB::Connection>,
    ) -> Result<(Ran, Option<Finding>), Unexplored> {
        let set_up = timeout(self.patience, (self.set_up)(self.pool.clone())).await;
        set_up.unwrap_or_else(|_| Err(self.too_slow())).map_err(Unexplored::SetUp)?;
        let stage = Arc::new(Stage::new(self.clients.len()));
        let clients = self.clients.iter().enumerate().map(|(client, body)| {
            let seat = Seat { stage: stage.clone(), client };
            (body.what)(self.options(seat))
        });
        let run = Run::<DB>::new(stage.clone(), clients.collect(), server, self.patience);
        let mut ran = run.follow(beginning, self.most_steps).await?;

        let log = stage.log();
        let mut problems: Vec<Problem> = ran.problem.clone().into_iter().collect();
        if !self.deadlocks && (ran.deadlocked || log.iter().any(Entry::is_deadlock)) {
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
        let finding = (!problems.is_empty()).then(|| Finding {
            schedule: Schedule(ran.choices.iter().map(|choice| choice.chosen).collect()),
            problems,
            lanes: Lanes { clients: self.clients.iter().map(|client| client.name.clone()).collect(), log },
        });
        Ok((ran, finding))
    }

    fn too_slow(&self) -> String {
        format!("nothing after {:?}", self.patience)
    }

    /// What makes a client's steps wait for their turn, and nothing else wait for anything.
    fn options(&self, seat: Seat) -> Options {
        let options = Options::new()
            .intercepted_by(Arc::new(seat))
            .backoff(Backoff::none())
            .deadline(Duration::from_secs(60 * 60));
        match DB::SESSION {
            Some(_) => options,
            // Whoever finds the database busy says so at once, and waits here.
            None => options.lock_timeout(Duration::from_millis(1)),
        }
    }
}
