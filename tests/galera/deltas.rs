//! Coalesced additions to the same rows through two nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use atomically::{DeltaOutcome, Deltas};
use sqlx::{MySql, MySqlConnection};
use tokio::time::Instant;

use crate::{Database, all};

const ROWS: i64 = 4;
const CLIENTS_OF_A_NODE: i64 = 16;
const LOAD: Duration = Duration::from_secs(4);

/// What a client saw of one row: the values after its additions, and the sum of the acknowledged ones.
#[derive(Default)]
struct RowResult {
    row: i64,
    values: Vec<i64>,
    sum: i64,
    unknown: u64,
    refused: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_additions_through_two_nodes_add_up() {
    let tables = ["CREATE TABLE counter (id BIGINT PRIMARY KEY, n BIGINT NOT NULL)"];
    let database = Database::with(&tables).await;
    for id in 0..ROWS {
        let counter = sqlx::query("INSERT INTO counter VALUES (?, 0)").bind(id);
        counter.execute(&database.pools[0]).await.expect("a counter");
    }
    database.catch_up().await;
    let nodes = database.pools.iter().take(2).map(|pool| Deltas::on(pool, "counter", "id", "n"));
    let nodes: Vec<_> = nodes.collect();
    let clients =
        nodes.iter().flat_map(|deltas| (0..CLIENTS_OF_A_NODE).map(|i| client(deltas.clone(), i % ROWS)));
    let results = all(clients).await;
    let stored = database.audited(read).await;

    let (mut sums, mut answers) = (vec![0; ROWS as usize], BTreeMap::new());
    let (mut unknown, mut refused) = (0, 0);
    for client in &results {
        sums[client.row as usize] += client.sum;
        unknown += client.unknown;
        refused += client.refused;
        for value in &client.values {
            *answers.entry((client.row, *value)).or_insert(0_u32) += 1;
        }
    }
    let acknowledged: usize = results.iter().map(|client| client.values.len()).sum();
    let twice = answers.values().filter(|times| **times > 1).count();
    let report = format!(
        "of {acknowledged} acknowledged additions {twice} values were answered twice; the rows hold \
         {stored:?} and {sums:?} were acknowledged ({refused} definite errors, {unknown} unknown)"
    );
    println!("{report}");
    assert_eq!(unknown, 0, "nothing was in the way of any commit: {report}");
    assert!(acknowledged > 1_000, "too few to tell: {report}");
    assert!(twice == 0 && stored == sums, "{report}");
}

async fn client(deltas: Deltas<MySql, i64>, row: i64) -> RowResult {
    let (start, mut results) = (Instant::now(), RowResult { row, ..RowResult::default() });
    while start.elapsed() < LOAD {
        match deltas.add(row, 1).await {
            Ok(DeltaOutcome::Applied { value }) => {
                results.values.push(value);
                results.sum += 1;
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) if error.is_commit_unknown() => results.unknown += 1,
            Err(_) => results.refused += 1,
        }
    }
    results
}

async fn read(mut node: MySqlConnection) -> Vec<i64> {
    sqlx::query_scalar("SELECT n FROM counter ORDER BY id").fetch_all(&mut node).await.expect("the counters")
}
