//! Runs one schedule after another.

use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use tokio::time::{Instant, timeout};

use crate::backend::Backend;
use crate::backoff::Backoff;
use crate::intercept::{Interceptor, Step};
use crate::sql_text::Syntax;
use crate::transactor::Options;

use super::client_state::ClientResult;
use super::driver::{Choice, Prefix, ScheduleDriver, ScheduleResult, ScheduleScript};
use super::gap::Accepted;
use super::independence::{Independence, MYSQL_HIDDEN_EFFECTS, POSTGRES_HIDDEN_EFFECTS, TextsTell};
use super::lanes::Lanes;
use super::log::ScheduleLog;
use super::oracle::{ClientEnd, Oracle, RunEndRecorder};
use super::persistent::PersistentSets;
use super::schedule::MAX_CLIENTS;
use super::search::Search;
use super::several::quote_several;
use super::stage::{Seat, Stage};
use super::totals::ScheduleTotals;
use super::view::MAX_EXPLORED_ATTEMPTS;
use super::{Counterexample, Explore, ExploreError, Gap, Problem, Report, Schedule, Violation};

/// How often a schedule that diverged is run again. On a busy machine, a server occasionally chooses another
/// victim of a deadlock, or lets another one of two waiting clients go on. It may also have done so in the
/// schedule that is compared with this one, which then takes many runs to happen again.
const MAX_RERUNS: usize = 8;
const MAX_RERUNS_OF_RARE_ORDERS: usize = 60;

/// How many schedules of an exploration are run that often: more than a few diverge for another reason.
const MAX_RARE_ORDERS: usize = 10;

/// How often a schedule is run again in which the server did not do what it usually does, so that the
/// schedules that are compared with it do not diverge.
const MAX_RERUNS_OF_RARE_RESULTS: usize = 2;

/// Longer than any schedule takes.
const UNLIMITED: Duration = Duration::from_secs(60 * 60);

/// How often the set-up is run before it counts as failed.
const MAX_SET_UPS: usize = 3;

const DEFAULT_MAX_SCHEDULES: usize = 1000;

/// What all schedules of an exploration share.
struct Workspace<DB: Backend> {
    /// A connection for querying lock waits, where the database reports them.
    server: Option<PoolConnection<DB>>,
    oracle: Option<Oracle>,
    independence: Option<Arc<Independence>>,
    /// The number of schedules that were run more often than [`MAX_RERUNS`].
    rare_orders: usize,
    report: Report,
}

impl<DB: Backend> Explore<'_, DB> {
    /// Runs schedules until all were run or a limit is reached.
    ///
    /// # Errors
    ///
    /// Returns an error if the exploration could not start or continue. Schedules that went wrong are not
    /// errors: the report lists them.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; the transactions of the clients are rolled back.
    pub async fn run(self) -> Result<Report, ExploreError> {
        let started = Instant::now();
        let mut space = self.workspace(false).await?;
        let independence = space.independence.clone().filter(|known| known.holds_in_every_state());
        let mut search = Search::new(self.max_preemptions, independence.map(PersistentSets::new));
        let (mut max_preemptions, mut is_cut_short) = (0, false);
        while let Some(prefix) = search.next() {
            let report = &mut space.report;
            report.preemptions = prefix.preemptions.checked_sub(1).filter(|_| search.is_sorted());
            if report.schedules == self.max_schedules.unwrap_or(DEFAULT_MAX_SCHEDULES) {
                report.gaps.push(Gap::Schedules { limit: report.schedules });
                is_cut_short = true;
                break;
            }
            report.schedules += 1;
            max_preemptions = max_preemptions.max(prefix.preemptions);
            let choices = self.explore(&prefix, &mut space).await?;
            if space.report.schedules == 1 {
                self.repeat(&choices, &mut space).await?;
            }
            search.learn(&choices, &prefix);
        }
        let mut report = space.finished(started);
        report.counterexamples.sort_by_key(|counterexample| counterexample.preemptions);
        if search.is_limited {
            report.gaps.push(Gap::Preemptions { limit: self.max_preemptions });
        }
        if report.diverged > 0 {
            report.gaps.push(Gap::Diverged { schedules: report.diverged });
        }
        if !is_cut_short {
            report.preemptions = Some(if search.is_limited { self.max_preemptions } else { max_preemptions });
        }
        report.complete = report.gaps.is_empty();
        Ok(report)
    }

    /// Runs a single schedule, as printed by a [`Counterexample`]: to reproduce it, or as a regression test.
    ///
    /// After the end of `schedule`, each client goes on for as long as it can.
    ///
    /// # Errors
    ///
    /// Those of [`run`](Self::run), and a text that is not a schedule. A schedule that is not possible is a
    /// [counterexample](Problem::Infeasible).
    pub async fn replay(self, schedule: &str) -> Result<Report, ExploreError> {
        let started = Instant::now();
        let Schedule(steps) = schedule.parse()?;
        let mut space = self.workspace(true).await?;
        space.report.schedules = 1;
        let script = ScheduleScript { steps: &steps, expected: &[] };
        let (_, counterexample) = self.run_schedule(script, &mut space).await?;
        space.report.counterexamples.extend(counterexample);
        Ok(space.finished(started))
    }

    async fn workspace(&self, replayed: bool) -> Result<Workspace<DB>, ExploreError> {
        let mut server = self.server().await?;
        let oracle = match self.oracle.is_enabled {
            true => Some(self.prepare_oracle(server.as_deref_mut()).await?),
            false => None,
        };
        let independence = match self.skips_equivalent {
            true => Some(Arc::new(self.independence(server.as_deref_mut()).await?)),
            false => None,
        };
        Ok(Workspace { server, oracle, independence, rare_orders: 0, report: self.empty_report(replayed) })
    }

    /// What texts tell is looked up after the set-up, which may create tables.
    async fn independence(&self, server: Option<&mut DB::Connection>) -> Result<Independence, ExploreError> {
        let mut texts_tell = TextsTell::default();
        if let Some(server) = server {
            self.reset().await?;
            let is_postgres = DB::SYNTAX == Syntax::Postgres;
            let query = if is_postgres { POSTGRES_HIDDEN_EFFECTS } else { MYSQL_HIDDEN_EFFECTS };
            let lines = DB::fetch_text(server, query.to_owned()).await.map_err(ExploreError::Contents)?;
            texts_tell = match is_postgres {
                true => TextsTell::from_postgres(&lines),
                false => TextsTell::from_mysql(&lines),
            };
        }
        Ok(Independence::new(DB::SYNTAX, texts_tell))
    }

    fn empty_report(&self, replayed: bool) -> Report {
        Report {
            schedules: 0,
            complete: false,
            preemptions: None,
            diverged: 0,
            elapsed: Duration::ZERO,
            counterexamples: Vec::new(),
            gaps: Vec::new(),
            retrying: Vec::new(),
            compared_tables: Vec::new(),
            totals: ScheduleTotals::default(),
            accepted: Accepted { schedules: self.max_schedules.is_some(), unseen: self.unseen_allowed },
            replayed,
        }
    }

    /// Runs the schedule that begins with this prefix, adds its result to the report, and returns its
    /// choices.
    async fn explore(
        &self,
        prefix: &Prefix,
        space: &mut Workspace<DB>,
    ) -> Result<Arc<[Choice]>, ExploreError> {
        let script = ScheduleScript { steps: &prefix.steps, expected: &prefix.choices };
        let (totals, mut reruns) = (space.report.totals.clone(), 0);
        let (result, counterexample) = loop {
            let ran = self.run_schedule(script, space).await?;
            let most = match (ran.0.follows_script(), ran.0.has_rare_order) {
                (false, _) if space.rare_orders < MAX_RARE_ORDERS => MAX_RERUNS_OF_RARE_ORDERS,
                (false, _) => MAX_RERUNS,
                (true, true) => MAX_RERUNS_OF_RARE_RESULTS,
                (true, false) => 0,
            };
            if reruns >= most {
                break ran;
            }
            reruns += 1;
            space.report.totals = totals.clone();
        };
        space.rare_orders += usize::from(reruns > MAX_RERUNS);
        space.report.diverged += usize::from(!result.follows_script());
        let preemptions = prefix.preemptions;
        let counterexample = counterexample.map(|found| Counterexample { preemptions, ..found });
        space.report.counterexamples.extend(counterexample);
        Ok(result.choices.into())
    }

    /// Runs the first schedule again, to detect clients whose behavior changes from run to run.
    async fn repeat(&self, choices: &Arc<[Choice]>, space: &mut Workspace<DB>) -> Result<(), ExploreError> {
        if space.report.passes() {
            let steps = choices.iter().map(|choice| choice.chosen).collect();
            let prefix = Prefix { steps, preemptions: 0, choices: choices.clone() };
            self.explore(&prefix, space).await?;
        }
        Ok(())
    }

    /// Acquires a connection for querying lock waits, where the database reports them.
    async fn server(&self) -> Result<Option<PoolConnection<DB>>, ExploreError> {
        let clients = self.clients.len();
        if !(1..=MAX_CLIENTS).contains(&clients) {
            return Err(ExploreError::ClientCount(clients));
        }
        let reports_waits = DB::SESSION_ID_QUERY.is_some();
        let needs = u32::try_from(clients + usize::from(reports_waits)).unwrap_or(u32::MAX);
        let has = self.pool.options().get_max_connections();
        if has < needs {
            return Err(ExploreError::TooFewConnections { has, needs });
        }
        if !reports_waits {
            return Ok(None);
        }
        self.pool.acquire().await.map(Some).map_err(ExploreError::LockWaits)
    }

    /// Resets the tables.
    ///
    /// A schedule that ends early leaves clients in the middle of statements. Their transactions end in the
    /// background, and the set-up may deadlock with one of them, so it is repeated.
    pub(super) async fn reset(&self) -> Result<(), ExploreError> {
        let set_up = timeout(self.patience, async {
            let mut result = (self.set_up)(self.pool.clone()).await;
            for _ in 1..MAX_SET_UPS {
                if result.is_err() {
                    result = (self.set_up)(self.pool.clone()).await;
                }
            }
            result
        });
        set_up.await.unwrap_or_else(|_| Err(self.timed_out())).map_err(ExploreError::SetUp)
    }

    /// Runs one schedule: the set-up, the clients, and the checks.
    async fn run_schedule(
        &self,
        script: ScheduleScript<'_>,
        space: &mut Workspace<DB>,
    ) -> Result<(ScheduleResult, Option<Counterexample>), ExploreError> {
        self.reset().await?;
        let stage = Arc::new(Stage::new(self.clients.len(), DB::SYNTAX, space.independence.clone()));
        let mut ends = Vec::new();
        let clients = self.clients.iter().enumerate().map(|(client, setup)| {
            let seat = Seat { stage: stage.clone(), client, quote_several: quote_several::<DB> };
            let mut options = Self::client_options(Arc::new(seat));
            if space.oracle.is_some() {
                let end = Arc::new(RunEndRecorder::default());
                options = options.observed_by(end.clone());
                ends.push(end);
            }
            (setup.run)(options)
        });
        let (clients, server) = (clients.collect(), space.server.as_deref_mut());
        let driver = ScheduleDriver::<DB>::new(stage.clone(), clients, server, self.patience);
        let mut result = driver.follow(script, self.max_steps).await?;
        if let Some(client) = result.concurrent_client {
            return Err(ExploreError::ConcurrentUnits { client: self.clients[client].name.clone() });
        }
        let log = stage.log();
        // InnoDB chooses by the work that the transactions have done, and looks for deadlocks at once.
        let has_late_victim = DB::SYNTAX == Syntax::Postgres && log.has_late_victim();
        result.has_rare_order = has_late_victim || log.has_overtaking();
        self.record_gaps(&log, stage.unseen(), &mut space.report);
        space.report.totals.add(&log, self.clients.len(), DB::SYNTAX);
        let results = std::mem::take(&mut result.client_results);
        let problems = match &mut space.oracle {
            None => {
                let mut problems = self.problems(&result, &log);
                problems.extend(self.failures(results));
                problems.extend(self.violations(&result).await);
                problems
            }
            Some(oracle) => {
                let ended = ends.iter().zip(results);
                let ends: Vec<_> = ended.map(|(end, result)| result.map(|result| end.end(result))).collect();
                space.report.totals.failed += ends.iter().flatten().filter(|end| end.is_failure()).count();
                self.judged_problems(oracle, space.server.as_deref_mut(), &result, &log, ends).await?
            }
        };
        let counterexample = (!problems.is_empty()).then(|| Counterexample {
            schedule: Schedule(result.choices.iter().map(|choice| choice.chosen).collect()),
            preemptions: 0,
            problems,
            lanes: Lanes { clients: self.clients.iter().map(|client| client.name.clone()).collect(), log },
        });
        Ok((result, counterexample))
    }

    /// Judges a schedule that has ended, with the help of the serial orders.
    async fn judged_problems(
        &self,
        oracle: &mut Oracle,
        mut server: Option<&mut DB::Connection>,
        result: &ScheduleResult,
        log: &ScheduleLog,
        ends: Vec<Option<ClientEnd>>,
    ) -> Result<Vec<Problem>, ExploreError> {
        let mut problems = self.problems(result, log);
        if result.problem.is_some() {
            return Ok(problems);
        }
        let outcome = self.read_outcome(oracle, log, ends, server.as_deref_mut()).await?;
        problems.extend(self.violations(result).await);
        problems.extend(self.judge(oracle, &outcome, server).await?);
        Ok(problems)
    }

    /// The problem that ended a schedule early, and deadlocks.
    fn problems(&self, result: &ScheduleResult, log: &ScheduleLog) -> Vec<Problem> {
        let mut problems: Vec<Problem> = result.problem.clone().into_iter().collect();
        if !self.deadlocks_allowed && (result.deadlocked || log.has_deadlock()) {
            problems.push(Problem::Deadlock);
        }
        problems
    }

    /// The clients that ended with an error.
    fn failures(&self, results: Vec<Option<ClientResult>>) -> impl Iterator<Item = Problem> {
        results.into_iter().zip(&self.clients).filter_map(|(result, client)| match result {
            Some(Err(error)) => Some(Problem::Failed { client: client.name.clone(), error }),
            Some(Ok(_)) | None => None,
        })
    }

    /// Checks the invariants. They hold at the end of a schedule, so they are not checked if it ended early.
    async fn violations(&self, result: &ScheduleResult) -> Vec<Problem> {
        let mut problems = Vec::new();
        if result.problem.is_some() {
            return problems;
        }
        for invariant in &self.invariants {
            let checked = timeout(self.patience, (invariant.check)(self.pool.clone())).await;
            let timed_out =
                |_| Err(Violation { expected: String::from("an answer"), found: self.timed_out() });
            if let Err(Violation { expected, found }) = checked.unwrap_or_else(timed_out) {
                problems.push(Problem::Invariant { name: invariant.name.clone(), expected, found });
            }
        }
        problems
    }

    /// Adds to the report which schedules that continue from this one are left out.
    fn record_gaps(&self, log: &ScheduleLog, unseen: Vec<(usize, String)>, report: &mut Report) {
        for (client, what) in unseen {
            let gap = Gap::Unseen { client: self.clients[client].name.clone(), what };
            if !report.gaps.contains(&gap) {
                report.gaps.push(gap);
            }
        }
        let is_retry_of_many = |step: &Step| step.attempt > 1 && step.max_attempts > MAX_EXPLORED_ATTEMPTS;
        for sent in log.sent().filter(|sent| is_retry_of_many(&sent.step)) {
            let name = &self.clients[sent.client].name;
            if !report.retrying.contains(name) {
                report.retrying.push(name.clone());
            }
        }
    }

    pub(super) fn timed_out(&self) -> String {
        format!("no answer within {:?}", self.patience)
    }

    /// Returns the options that make the steps of a client wait for their turn, without delays between
    /// attempts.
    pub(super) fn client_options(interceptor: Arc<dyn Interceptor>) -> Options {
        let options = Options::new().intercepted_by(interceptor).backoff(Backoff::none()).deadline(UNLIMITED);
        match DB::SESSION_ID_QUERY {
            // The transactor's lock timeout must not end a wait: another client ends it in its turn.
            Some(_) => options.lock_timeout(UNLIMITED),
            // SQLite reports a busy database at once, and the client waits here.
            None => options.lock_timeout(Duration::from_millis(1)),
        }
    }
}

impl<DB: Backend> Workspace<DB> {
    fn finished(self, started: Instant) -> Report {
        let compared_tables = self.oracle.map(|oracle| oracle.table_names()).unwrap_or_default();
        Report { compared_tables, elapsed: started.elapsed(), ..self.report }
    }
}
