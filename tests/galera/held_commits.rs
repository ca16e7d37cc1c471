//! A COMMIT that reaches its node late, while a later attempt of the same run is at another node: the caller
//! gets the results of the attempt that is stored, and the hooks of that attempt run.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::holds::{HoldOutcome, Holds};
use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey, Outcome};
use atomically::lease::Lease;
use atomically::queue::{NewJob, Queue};
use atomically::{
    DeltaOutcome, Deltas, Error, ErrorKind, Options, Pessimistic, PoolTransactor, Resolve,
    TransactorExt as _, Tx,
};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::{MySql, Pool};

use crate::Database;
use crate::support::eventually;
use crate::support::proxy::{Fault, Proxy};

const COMMIT: &str = "COMMIT AND";
const ROW_OF_RUN: &str = "INTO atomically_operation";
const KEY: &str = "INTO atomically_key";
const DEADLINE: Duration = Duration::from_secs(60);

const TABLES: [&str; 3] = [
    "CREATE TABLE effect (attempt INT UNSIGNED PRIMARY KEY)",
    "CREATE TABLE seat (id BIGINT PRIMARY KEY, n BIGINT NOT NULL)",
    "INSERT INTO seat VALUES (1, 100)",
];

async fn database() -> Database {
    let database = Database::with(&TABLES).await;
    let db = Pessimistic::default().on(&database.pools[0]);
    db.create_operation_table().await.expect("the table of operations");
    db.create_key_table().await.expect("the table of keys");
    database.catch_up().await;
    database
}

fn resolving() -> Options {
    Options::new().resolve_commits(Resolve::Operation).deadline(DEADLINE)
}

/// A client whose first connection leads to the first node, and all others to the second one.
struct Client {
    proxy: Proxy,
    pool: Pool<MySql>,
}

impl Client {
    async fn of(database: &Database) -> Self {
        let proxy = Proxy::to(&database.urls[0]).await;
        let url = proxy.url(&database.urls[0]);
        let pool = MySqlPoolOptions::new().max_connections(1).connect(&url).await.expect("a connection");
        proxy.lead_to(&database.urls[1]);
        Self { proxy, pool }
    }

    /// A client whose first COMMIT is held until the second one.
    async fn of_two_attempts(database: &Database) -> Self {
        let client = Self::of(database).await;
        client.meets(COMMIT, &[Some(Fault::Hold), Some(Fault::AfterHeld)]);
        client
    }

    /// The requests with the trigger meet these fates in turn, and later ones none.
    fn meets(&self, trigger: &str, fates: &[Option<Fault>]) {
        let mut fates = fates.to_vec();
        fates.resize(100, None);
        self.proxy.cycle(trigger, &fates);
    }

    fn db(&self) -> PoolTransactor<MySql, Pessimistic> {
        Pessimistic::default().on(&self.pool).options(resolving())
    }

    /// Runs `call`, which loses its connection when its first COMMIT is held and `meanwhile` has ended.
    async fn loses<T>(&self, call: impl Future<Output = T>, meanwhile: impl AsyncFnOnce()) -> T {
        let lose = async {
            eventually(1, async || self.proxy.hits()).await;
            meanwhile().await;
            self.proxy.cut_held();
        };
        tokio::join!(call, lose).0
    }
}

/// Returns the attempts that are stored, and deletes them.
async fn effects(database: &Database) -> Vec<u32> {
    database.catch_up().await;
    let pool = &database.pools[2];
    let stored = sqlx::query_scalar("SELECT attempt FROM effect").fetch_all(pool).await.expect("the effects");
    sqlx::query("DELETE FROM effect").execute(pool).await.expect("no effects");
    database.catch_up().await;
    stored
}

/// The attempts whose hooks have run.
type Hooks = Arc<Mutex<Vec<u32>>>;

/// Stores the number of the attempt, and returns it.
async fn store(tx: &mut Tx<MySql>, hooks: &Hooks) -> Result<u32, Error> {
    let (attempt, hooks) = (tx.attempt(), hooks.clone());
    tx.on_commit(async move { hooks.lock().expect("the hooks").push(attempt) });
    let insert = sqlx::query("INSERT INTO effect (attempt) VALUES (?)").bind(attempt);
    insert.execute(&mut *tx).await?;
    Ok(attempt)
}

/// What happens to the COMMITs of a run, and to the beginnings of its attempts, in turn; and the attempt that
/// is stored.
type Course = (&'static [Option<Fault>], &'static [Option<Fault>], u32);

const COURSES: [Course; 4] = [
    (&[Some(Fault::Hold)], &[None, Some(Fault::AfterHeld)], 1),
    (&[Some(Fault::Hold), Some(Fault::AfterHeld)], &[], 1),
    (&[Some(Fault::Hold), Some(Fault::CutBefore)], &[None, None, Some(Fault::AfterHeld)], 1),
    (&[Some(Fault::Hold), Some(Fault::CutAfter)], &[], 2),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closure_returns_the_value_of_the_attempt_that_is_stored() {
    let database = database().await;
    for (commits, begins, stored) in COURSES {
        let (client, hooks) = (Client::of(&database).await, Hooks::default());
        client.meets(COMMIT, commits);
        client.meets(ROW_OF_RUN, begins);
        let db = client.db();
        let run = db.run(async |tx: &mut Tx<MySql>| store(tx, &hooks).await);
        let returned = client.loses(run, async || ()).await.expect("it is stored");
        let hooks = hooks.lock().expect("the hooks").clone();
        assert_eq!((returned, hooks), (stored, vec![stored]), "{commits:?} {begins:?}");
        assert_eq!(effects(&database).await, [stored], "{commits:?} {begins:?}");
    }
}

/// The first attempt is stored while the closure of the second one runs, which therefore fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closure_returns_the_value_of_an_attempt_that_is_found_after_a_failed_one() {
    let database = database().await;
    let (client, hooks) = (Client::of(&database).await, Hooks::default());
    client.meets(COMMIT, &[Some(Fault::Hold)]);
    client.meets("INTO effect", &[None, Some(Fault::AfterHeld)]);
    let db = client.db();
    let run = db.run(async |tx: &mut Tx<MySql>| {
        let attempt = store(tx, &hooks).await?;
        if attempt > 1 {
            loop {
                sqlx::query("SELECT 1").execute(&mut *tx).await?;
            }
        }
        Ok::<_, Error>(attempt)
    });
    assert_eq!(client.loses(run, async || ()).await.expect("it is stored"), 1);
    assert_eq!(*hooks.lock().expect("the hooks"), [1]);
    assert_eq!(effects(&database).await, [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closure_over_rows_returns_the_value_of_the_attempt_that_is_stored() {
    let database = database().await;
    let client = Client::of_two_attempts(&database).await;
    let (db, hooks) = (client.db(), Hooks::default());
    let seat = db.on_rows("seat", "id", [1_i64]).reading::<(i64,)>("n");
    let run = seat.run(async |tx: &mut Tx<MySql>, _| store(tx, &hooks).await);
    assert_eq!(client.loses(run, async || ()).await.expect("it is stored"), 1);
    assert_eq!(*hooks.lock().expect("the hooks"), [1]);
    assert_eq!(effects(&database).await, [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_with_a_key_runs_the_hooks_of_the_attempt_that_is_stored() {
    let database = database().await;
    for (number, (commits, begins, stored)) in COURSES.into_iter().enumerate() {
        let (client, hooks) = (Client::of(&database).await, Hooks::default());
        client.meets(COMMIT, commits);
        client.meets(KEY, begins);
        let db = Pessimistic::default().on(&client.pool).deadline(DEADLINE);
        let key = IdempotencyKey::new("held", number.to_string()).expect("a key");
        let run = db.once(&key).run(async |tx: &mut Tx<MySql>| store(tx, &hooks).await);
        let outcome = client.loses(run, async || ()).await.expect("it is stored");
        let hooks = hooks.lock().expect("the hooks").clone();
        assert_eq!((outcome, hooks), (Outcome::Fresh(stored), vec![stored]), "{commits:?} {begins:?}");
        assert_eq!(effects(&database).await, [stored], "{commits:?} {begins:?}");
    }
}

/// The first attempt may still be stored when the second one fails for another reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_a_later_attempt_does_not_hide_an_unknown_commit() {
    let database = database().await;
    let client = Client::of(&database).await;
    client.meets(COMMIT, &[Some(Fault::Hold)]);
    let db = client.db();
    let run = db.run(async |tx: &mut Tx<MySql>| {
        let attempt = store(tx, &Hooks::default()).await?;
        if attempt > 1 {
            sqlx::query("INSERT INTO seat VALUES (1, 0)").execute(&mut *tx).await?;
        }
        Ok::<_, Error>(attempt)
    });
    let error = client.loses(run, async || ()).await.expect_err("the seat exists");
    assert_eq!(error.kind(), ErrorKind::CommitUnknown, "{error:?}");
}

/// The row is created between the two attempts, so only the second one finds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_addition_returns_the_outcome_of_the_attempt_that_is_stored() {
    let database = database().await;
    let client = Client::of_two_attempts(&database).await;
    let deltas = Deltas::on(&client.pool, "seat", "id", "n").options(resolving());
    let create = async || {
        let create = sqlx::query("INSERT INTO seat VALUES (7, 10)").execute(&database.pools[1]);
        create.await.expect("a row");
    };
    let outcome = client.loses(deltas.add(7_i64, 5), create).await.expect("an outcome");
    database.catch_up().await;
    let select = sqlx::query_scalar("SELECT n FROM seat WHERE id = 7").fetch_one(&database.pools[0]);
    let n: i64 = select.await.expect("the row");
    assert_eq!((outcome, n), (DeltaOutcome::NotFound, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_is_that_of_the_attempt_that_is_stored() {
    let database = database().await;
    let holds = |pool| Holds::on(pool, "seat", "id", "n").options(resolving());
    holds(&database.pools[0]).create_tables().await.expect("the table of holds");
    database.catch_up().await;
    let client = Client::of_two_attempts(&database).await;
    let through_client = holds(&client.pool);
    let hold = through_client.hold(1_i64, 2, Duration::from_secs(600));
    let outcome = client.loses(hold, async || ()).await.expect("an outcome");
    let HoldOutcome::Held(hold) = outcome else { panic!("{outcome:?}") };
    database.catch_up().await;
    let stored = holds(&database.pools[0]).find(hold.id(), hold.token()).await.expect("an answer");
    let stored = stored.expect("it is stored");
    assert_eq!(stored.expires_at(), hold.expires_at());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_of_a_lease_is_that_of_the_attempt_that_is_stored() {
    let database = database().await;
    Lease::new("held", &database.pools[0]).create_tables().await.expect("the tables of leases");
    database.catch_up().await;
    let client = Client::of_two_attempts(&database).await;
    let lease = Lease::new("held", &client.pool).options(resolving());
    let held = client.loses(lease.try_acquire(), async || ()).await.expect("an answer").expect("it is free");
    database.catch_up().await;
    let select = sqlx::query_scalar("SELECT token FROM atomically_lease").fetch_one(&database.pools[0]);
    let token: i64 = select.await.expect("the lease");
    assert_eq!(held.token(), token);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_id_of_a_job_is_that_of_the_attempt_that_is_stored() {
    let database = database().await;
    let queue = |pool| Queue::new("held", pool).expect("a name");
    queue(&database.pools[0]).create_tables().await.expect("the tables of the queue");
    database.catch_up().await;
    let client = Client::of_two_attempts(&database).await;
    let (db, queue) = (client.db(), queue(&client.pool));
    let enqueue = db.run(async |tx: &mut Tx<MySql>| queue.enqueue(tx, NewJob::new("work")?).await);
    let enqueued = client.loses(enqueue, async || ()).await.expect("it is stored");
    database.catch_up().await;
    let select = sqlx::query_scalar("SELECT id FROM atomically_job").fetch_one(&database.pools[0]);
    let id: i64 = select.await.expect("the job");
    assert_eq!(enqueued.id(), Some(id));
}
