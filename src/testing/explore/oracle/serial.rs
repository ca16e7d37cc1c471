//! Runs the serial orders, and judges schedules by them.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::time::timeout;

use crate::backend::Backend;
use crate::intercept::{Fault, Interceptor, Next, StatementAnswer, Step, StepKind};

use super::super::Explore;
use super::super::log::ScheduleLog;
use super::super::report::{ExploreError, Problem};
use super::compared::{ComparedTables, Contents, TableList};
use super::ends::{ClientEnd, RunEndRecorder};
use super::outcome::{ScheduleOutcome, SerialOutcome};
use super::permutations::permutations;
use super::{Judgment, Oracle};

/// More clients have too many orders.
const MAX_ORDERED: usize = 6;

/// Records the statements of a client.
#[derive(Debug, Default)]
struct TextRecorder(Mutex<Vec<String>>);

#[async_trait]
impl Interceptor for TextRecorder {
    async fn before(&self, step: &Step) -> Option<Fault> {
        if step.kind == StepKind::Statement {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(step.sql.clone());
        }
        None
    }

    async fn after(&self, _step: &Step, _answer: &StatementAnswer) -> Next {
        Next::GoOn
    }
}

/// How each client ended in a serial order, and whether it touched tables that were unknown before.
struct SerialRun {
    ends: Vec<Option<ClientEnd>>,
    has_new_tables: bool,
}

impl<DB: Backend> Explore<'_, DB> {
    /// Runs all serial orders of all clients.
    pub(in super::super) async fn prepare_oracle(
        &self,
        mut server: Option<&mut DB::Connection>,
    ) -> Result<Oracle, ExploreError> {
        if self.clients.len() > MAX_ORDERED {
            return Err(ExploreError::TooManyOrders { clients: self.clients.len(), max: MAX_ORDERED });
        }
        let mut oracle = self.new_oracle(server.as_deref_mut()).await?;
        let all: Vec<usize> = (0..self.clients.len()).collect();
        self.run_orders(&mut oracle, &all, server.as_deref_mut()).await?;
        let outcomes = oracle.outcomes.get(&all).map_or(&[][..], Vec::as_slice);
        for client in all {
            let ends = outcomes.iter().map(|serial| serial.outcome.ends[client].as_ref());
            let errors = ends.map(|end| match end {
                Some(ClientEnd::NotRun(error) | ClientEnd::Unknown(error)) => Some(error),
                Some(ClientEnd::Returned(_)) | None => None,
            });
            if let Some(error) = errors.collect::<Option<Vec<_>>>().and_then(|errors| errors.first().copied())
            {
                let (client, error) = (self.clients[client].name.clone(), error.clone());
                return Err(ExploreError::FailsSerially { client, error });
            }
        }
        self.check_that_orders_repeat(&mut oracle, server).await?;
        Ok(oracle)
    }

    async fn new_oracle(&self, server: Option<&mut DB::Connection>) -> Result<Oracle, ExploreError> {
        let query = DB::COLUMNS_QUERY.to_owned();
        let lines = match server {
            Some(server) => DB::fetch_text(server, query).await,
            None => {
                let mut connection = self.pool.acquire().await.map_err(ExploreError::Contents)?;
                DB::fetch_text(&mut connection, query).await
            }
        };
        let list = TableList::parse(&lines.map_err(ExploreError::Contents)?);
        let named = self.oracle.tables.iter();
        let find = |name: &String| list.find(name).ok_or_else(|| ExploreError::NoSuchTable(name.clone()));
        let touched = named.map(find).collect::<Result<_, _>>()?;
        let mut oracle = Oracle {
            syntax: DB::SYNTAX,
            settings: self.oracle.clone(),
            list,
            touched,
            compared: ComparedTables::default(),
            seen_texts: std::collections::HashSet::new(),
            initial: None,
            outcomes: std::collections::HashMap::new(),
        };
        oracle.compared = ComparedTables::new::<DB>(&oracle.list, &oracle.touched, &oracle.settings);
        Ok(oracle)
    }

    /// Runs the first order once more, so that values which differ from run to run are reported as such.
    async fn check_that_orders_repeat(
        &self,
        oracle: &mut Oracle,
        server: Option<&mut DB::Connection>,
    ) -> Result<(), ExploreError> {
        let all: Vec<usize> = (0..self.clients.len()).collect();
        let ends = self.run_in_order(oracle, &all).await?.ends;
        let contents = self.read_contents(oracle, server).await?;
        let repeated = ScheduleOutcome { contents, ends };
        let outcomes = oracle.outcomes.get(&all).into_iter().flatten();
        let Some(first) = outcomes.into_iter().find(|serial| serial.order == all) else { return Ok(()) };
        if repeated.equals(first, &oracle.compared, oracle.initial.as_ref()) {
            return Ok(());
        }
        let difference =
            repeated.difference(first, &oracle.compared, oracle.initial.as_ref(), &self.client_names());
        Err(ExploreError::SerialOutcomesDiffer(Box::new(difference)))
    }

    pub(in super::super) fn client_names(&self) -> Vec<&str> {
        self.clients.iter().map(|client| client.name.as_str()).collect()
    }

    async fn read_contents(
        &self,
        oracle: &Oracle,
        server: Option<&mut DB::Connection>,
    ) -> Result<Contents, ExploreError> {
        let contents = match server {
            Some(server) => oracle.compared.read::<DB>(server).await,
            None => {
                let mut connection = self.pool.acquire().await.map_err(ExploreError::Contents)?;
                oracle.compared.read::<DB>(&mut connection).await
            }
        };
        contents.map_err(ExploreError::Contents)
    }

    /// Runs all orders of these clients, unless that was done before.
    async fn run_orders(
        &self,
        oracle: &mut Oracle,
        clients: &[usize],
        mut server: Option<&mut DB::Connection>,
    ) -> Result<(), ExploreError> {
        if oracle.outcomes.contains_key(clients) {
            return Ok(());
        }
        'orders: loop {
            if oracle.initial.is_none() && !oracle.settings.ids.is_empty() {
                self.reset().await?;
                oracle.initial = Some(self.read_contents(oracle, server.as_deref_mut()).await?);
            }
            let mut outcomes = Vec::new();
            for order in permutations(clients.len()) {
                let order: Vec<usize> = order.into_iter().map(|at| clients[at]).collect();
                let run = self.run_in_order(oracle, &order).await?;
                if run.has_new_tables {
                    continue 'orders;
                }
                let contents = self.read_contents(oracle, server.as_deref_mut()).await?;
                outcomes.push(SerialOutcome { order, outcome: ScheduleOutcome { contents, ends: run.ends } });
            }
            oracle.outcomes.insert(clients.to_vec(), outcomes);
            return Ok(());
        }
    }

    /// Runs these clients one after the other, on a fresh state.
    async fn run_in_order(&self, oracle: &mut Oracle, order: &[usize]) -> Result<SerialRun, ExploreError> {
        self.reset().await?;
        let mut ends = vec![None; self.clients.len()];
        let mut has_new_tables = false;
        for &client in order {
            let setup = &self.clients[client];
            let (texts, end) = (Arc::new(TextRecorder::default()), Arc::new(RunEndRecorder::default()));
            let options = Self::client_options(texts.clone()).observed_by(end.clone());
            let Ok(result) = timeout(self.patience, (setup.run)(options)).await else {
                return Err(ExploreError::FailsSerially {
                    client: setup.name.clone(),
                    error: self.timed_out(),
                });
            };
            ends[client] = Some(end.end(result));
            let texts = texts.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            has_new_tables |= oracle.learn(&setup.name, texts.iter().map(String::as_str))?;
        }
        if has_new_tables {
            oracle.compared = ComparedTables::new::<DB>(&oracle.list, &oracle.touched, &oracle.settings);
        }
        Ok(SerialRun { ends, has_new_tables })
    }

    /// Reads the outcome of a schedule.
    pub(in super::super) async fn read_outcome(
        &self,
        oracle: &mut Oracle,
        log: &ScheduleLog,
        ends: Vec<Option<ClientEnd>>,
        server: Option<&mut DB::Connection>,
    ) -> Result<ScheduleOutcome, ExploreError> {
        if oracle.learn_from(log, &self.client_names())? {
            oracle.compared = ComparedTables::new::<DB>(&oracle.list, &oracle.touched, &oracle.settings);
        }
        Ok(ScheduleOutcome { contents: self.read_contents(oracle, server).await?, ends })
    }

    /// Compares the outcome of a schedule with the serial orders of the clients that count as having run.
    pub(in super::super) async fn judge(
        &self,
        oracle: &mut Oracle,
        found: &ScheduleOutcome,
        mut server: Option<&mut DB::Connection>,
    ) -> Result<Option<Problem>, ExploreError> {
        let sets = sets_that_may_have_run(&found.ends);
        for set in &sets {
            self.run_orders(oracle, set, server.as_deref_mut()).await?;
        }
        let candidates = sets.iter().filter_map(|set| oracle.outcomes.get(set)).flatten();
        let nearest = match oracle.judge_against(found, candidates) {
            Judgment::Serial | Judgment::NotSerial(None) => return Ok(None),
            Judgment::NotSerial(Some(nearest)) => nearest,
        };
        let names = self.client_names();
        let nearest = found.difference(nearest, &oracle.compared, oracle.initial.as_ref(), &names);
        Ok(Some(Problem::NotSerializable { nearest }))
    }
}

/// The sets of clients that may have run: all that returned, and any of those whose commit is unknown.
fn sets_that_may_have_run(ends: &[Option<ClientEnd>]) -> Vec<Vec<usize>> {
    let mut sets = vec![Vec::new()];
    for (client, end) in ends.iter().enumerate() {
        let with_it = sets.iter().map(|set| [set.as_slice(), &[client]].concat()).collect();
        match end {
            Some(ClientEnd::Returned(_)) => sets = with_it,
            Some(ClientEnd::Unknown(_)) => sets.extend(with_it),
            Some(ClientEnd::NotRun(_)) | None => {}
        }
    }
    sets
}
