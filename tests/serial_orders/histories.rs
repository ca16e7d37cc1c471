//! The oracle and the history checker judge the same schedules.
//!
//! Units append digits to lists and read them. A list is a number: appending 3 to 12 makes 123. The history
//! checker finds cycles among the dependencies of each schedule; the oracle compares it with the serial
//! orders. They must agree.

use std::sync::{Arc, Mutex};

use atomically::testing::history::{History, Operation, Transaction};
use atomically::testing::{Problem, explore};
use atomically::{Error, Isolation, PoolTransactor, TransactorExt as _, Tx};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sqlx::Pool;
use tokio::runtime::Handle;

use crate::support::TestBackend;
use crate::{Unguarded, all, database, is_not_serializable};

const TABLES: [&str; 2] = ["a", "b"];
/// The rows of each table.
const ROWS: [i64; 2] = [1, 2];
/// Fewer than the digits that there are.
const MAX_LINES: usize = 2;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Read,
    /// Appends in one statement.
    Append,
    /// Reads, and writes the longer list.
    ReadAndWrite,
    /// The same, if the list has not changed in between.
    Guarded,
}

#[derive(Debug, Clone, Copy)]
struct ListLine {
    kind: Kind,
    table: usize,
    row: i64,
}

type Program = Vec<ListLine>;

fn key(table: usize, row: i64) -> i64 {
    table as i64 * 10 + row
}

fn list(mut number: i64) -> Vec<i64> {
    let mut list = Vec::new();
    while number > 0 {
        list.insert(0, number % 10);
        number /= 10;
    }
    list
}

fn programs() -> impl Strategy<Value = [Program; 2]> {
    let kind = prop_oneof![
        2 => Just(Kind::Read),
        1 => Just(Kind::Append),
        4 => Just(Kind::ReadAndWrite),
        1 => Just(Kind::Guarded),
    ];
    // Mostly the same rows, so that the units meet.
    let row = prop_oneof![4 => Just(ROWS[0]), 1 => Just(ROWS[1])];
    let table = prop_oneof![2 => Just(0), 1 => Just(1)];
    let line = (kind, table, row).prop_map(|(kind, table, row)| ListLine { kind, table, row });
    let program = vec(line, 1..=MAX_LINES);
    [program.clone(), program]
}

/// Runs a program and returns its operations. `digit` is one more than the last digit of another client.
async fn run<DB: TestBackend>(
    tx: &mut Tx<DB>,
    program: &[ListLine],
    mut digit: i64,
) -> Result<Vec<Operation>, Error> {
    let mut operations = Vec::new();
    for &ListLine { kind, table, row } in program {
        let (name, key) = (TABLES[table], key(table, row));
        let mut read = 0;
        if !matches!(kind, Kind::Append) {
            let select = DB::sql(&format!("SELECT list FROM {name} WHERE id = ?"));
            read = DB::fetch(tx, select, &[row]).await?;
            operations.push(Operation::read(key, list(read)));
        }
        let longer = read * 10 + digit;
        match kind {
            Kind::Read => continue,
            Kind::Append => {
                let update = DB::sql(&format!("UPDATE {name} SET list = list * 10 + ? WHERE id = ?"));
                DB::execute(tx, update, &[digit, row]).await?;
            }
            Kind::ReadAndWrite => {
                let update = DB::sql(&format!("UPDATE {name} SET list = ? WHERE id = ?"));
                DB::execute(tx, update, &[longer, row]).await?;
            }
            Kind::Guarded => {
                let update = DB::sql(&format!("UPDATE {name} SET list = ? WHERE id = ? AND list = ?"));
                let done = DB::execute(tx, update, &[longer, row, read]).await?;
                tx.expect_one(done)?;
            }
        }
        operations.push(Operation::append(key, digit));
        digit += 1;
    }
    Ok(operations)
}

/// Whether the history of the committed units has an anomaly.
async fn check<DB: TestBackend>(pool: Pool<DB>, committed: Vec<Vec<Operation>>) -> Result<(), String> {
    let mut history: History = committed.into_iter().map(Transaction::committed).collect();
    for (table, name) in TABLES.iter().enumerate() {
        for row in ROWS {
            let select = DB::sql(&format!("SELECT list FROM {name} WHERE id = ?"));
            let number = DB::pool_fetch(&pool, select, &[row]).await.map_err(|error| error.to_string())?;
            history = history.ending_with(key(table, row), list(number));
        }
    }
    let report = history.check().map_err(|error| error.to_string())?;
    match report.forbidden_at(Isolation::Serializable).next() {
        Some(anomaly) => Err(anomaly.to_string()),
        None => Ok(()),
    }
}

/// Explores two programs. Returns how many schedules there were, and how many were wrong.
async fn compare<DB: TestBackend>(
    pool: &Pool<DB>,
    isolation: Isolation,
    programs: &[Program; 2],
) -> Result<(usize, usize), String> {
    let db = PoolTransactor::new(Unguarded(isolation), pool);
    let committed: Arc<Mutex<Vec<Vec<Operation>>>> = Arc::default();
    let (cleared, checked) = (committed.clone(), committed.clone());
    let mut exploration = explore(pool)
        .set_up(move |pool| {
            cleared.lock().expect("no panic").clear();
            async move { all(pool, &["UPDATE a SET list = 0", "UPDATE b SET list = 0"]).await }
        })
        .invariant("history", move |pool| check(pool, checked.lock().expect("no panic").clone()))
        .serializable()
        .allow_deadlocks()
        .max_schedules(40);
    for (client, program) in programs.iter().enumerate() {
        let committed = committed.clone();
        exploration = exploration.client(["alice", "bob"][client], &db, move |db| {
            let committed = committed.clone();
            async move {
                let digit = (client * MAX_LINES + 1) as i64;
                let operations = db.run(async |tx: &mut Tx<DB>| run(tx, program, digit).await).await?;
                committed.lock().expect("no panic").push(operations.clone());
                Ok::<_, Error>(operations)
            }
        });
    }
    let report = exploration.run().await.map_err(|error| error.to_string())?;
    for counterexample in &report.counterexamples {
        let problems = counterexample.problems();
        if problems.iter().any(|problem| matches!(problem, Problem::Diverged { .. })) {
            continue;
        }
        let has_anomaly = problems.iter().any(|problem| matches!(problem, Problem::Invariant { .. }));
        if has_anomaly != is_not_serializable(counterexample) {
            return Err(format!("the verdicts differ at {isolation}:\n{counterexample}"));
        }
    }
    Ok((report.schedules, report.counterexamples.len()))
}

pub(crate) async fn verdicts_agree_with_the_history_checker<DB: TestBackend>() {
    let table = |name| format!("CREATE TABLE {name} (id BIGINT PRIMARY KEY, list BIGINT NOT NULL)");
    let rows = |name| format!("INSERT INTO {name} VALUES (1, 0), (2, 0)");
    let statements = [table("a"), table("b"), rows("a"), rows("b")];
    let pool = database::<DB>(&statements.each_ref().map(String::as_str)).await;
    let (mut schedules, mut wrong) = (0, 0);
    let levels = prop_oneof![Just(Isolation::ReadCommitted), Just(Isolation::RepeatableRead)];
    let config = Config { cases: 16, failure_persistence: None, max_shrink_iters: 20, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let totals = Mutex::new((&mut schedules, &mut wrong));
    let outcome = runner.run(&(levels, programs()), |(isolation, programs)| {
        let compared = tokio::task::block_in_place(|| {
            Handle::current().block_on(compare::<DB>(&pool, isolation, &programs))
        });
        let (more, more_wrong) = compared.map_err(TestCaseError::fail)?;
        let mut totals = totals.lock().expect("no panic");
        *totals.0 += more;
        *totals.1 += more_wrong;
        Ok(())
    });
    println!("{}: {schedules} schedules, of which {wrong} are wrong", DB::NAME);
    outcome.expect("the verdicts agree");
    assert!(schedules > 100, "only {schedules} schedules");
    assert!(wrong > 0 || DB::NAME == "SQLite", "no schedule is wrong, so nothing was compared");
}
