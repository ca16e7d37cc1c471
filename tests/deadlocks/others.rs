//! Deadlocks with a session that is not observed, and with a server that provides no details.

use atomically::testing::{Fault, Faults, Moment};
use atomically::{Pessimistic, TransactorExt as _, Tx};

use crate::scene::{Deadlocks, MONEY, PAY, ROWS, Step, accounts, lose_to_another_session, patient};
use crate::support::TestBackend;
use crate::support::proxy::{Fault as Cut, Proxy};

/// The other session's statement is reported if the server shows it, and then without its values.
pub(crate) async fn reports_a_session_of_another_program<DB: TestBackend>() {
    let pool = accounts::<DB>(1).await;
    let others = DB::another(&pool.url).await;
    let deadlocks = Deadlocks::new();
    let session = lose_to_another_session::<DB>(&pool, &others, &deadlocks, 2).await;
    let report = deadlocks.only().report;
    assert_eq!(report.parties.len(), 2, "{report}");
    let other = &report.parties[1];
    assert_eq!((other.unit, other.session), (None, Some(session)), "{report}");
    assert_eq!(report.parties[0].blocked_by, [session]);
    if DB::NAME == "PostgreSQL" {
        assert!(other.statements.is_empty(), "{report}");
    } else {
        assert_eq!(other.statements, ["UPDATE account SET balance = balance + ? WHERE id = ?"]);
    }
}

/// InnoDB's status still shows the session's previous deadlock when the session meets one that InnoDB did not
/// detect.
pub(crate) async fn does_not_report_an_earlier_deadlock_again<DB: TestBackend>() {
    let pool = accounts::<DB>(1).await;
    let others = DB::another(&pool.url).await;
    let deadlocks = Deadlocks::new();
    lose_to_another_session::<DB>(&pool, &others, &deadlocks, 2).await;
    let first = deadlocks.only().report;
    let session = first.parties[0].session.expect("a session");

    let db = patient(Pessimistic::default(), &pool).observed_by(deadlocks.clone());
    let faults = Faults::new().at(Moment::Statement(1), Fault::Deadlock);
    let pays = async |tx: &mut Tx<DB>| Step::Sql(PAY, &[MONEY, ROWS[0]]).take(tx).await;
    faults.on(&db).named("refund").run(pays).await.expect("a commit");
    let second = deadlocks.only();
    assert_eq!((second.victim, second.report.parties.len()), ("refund", 1), "{}", second.report);
    // The session is still the same one.
    let now = DB::pool_fetch(&pool, DB::sql("SELECT CAST(CONNECTION_ID() AS SIGNED)"), &[]).await;
    assert_eq!(now.expect("a session"), session);
}

/// Without the privilege `PROCESS`, only the unit's own side is reported, and the connection stays usable.
pub(crate) async fn reports_only_the_units_side_without_the_privilege<DB: TestBackend>() {
    let pool = accounts::<DB>(1).await;
    let name = pool.url.rsplit('/').next().expect("a database");
    for sql in [
        // MySQL takes a password only over TLS, or with the driver's `mysql-rsa`.
        format!("CREATE USER {name}@'%' IDENTIFIED BY ''"),
        format!("GRANT ALL PRIVILEGES ON {name}.* TO {name}@'%'"),
    ] {
        DB::pool_execute(&pool, DB::sql(&sql), &[]).await.expect("a user");
    }
    let (_, address) = pool.url.split_once('@').expect("a URL with a user");
    let unprivileged = format!("mysql://{name}@{address}");
    let options = sqlx::pool::PoolOptions::<DB>::new().max_connections(1);
    let unprivileged = options.connect(&unprivileged).await.expect("a pool");
    let session = async || {
        let query = DB::sql("SELECT CAST(CONNECTION_ID() AS SIGNED)");
        DB::pool_fetch(&unprivileged, query, &[]).await.expect("a session")
    };
    let before = session().await;
    let deadlocks = Deadlocks::new();
    lose_to_another_session::<DB>(&unprivileged, &pool, &deadlocks, 1).await;
    let report = deadlocks.only().report;
    let [own] = report.parties.as_slice() else { panic!("{report}") };
    assert_eq!(own.statements, [PAY, PAY], "{report}");
    assert_eq!(own.waits_for, None, "{report}");
    assert_eq!(session().await, before, "it was closed");
}

/// If the server does not respond to the status query, or closes the connection, the unit is still retried.
pub(crate) async fn commits_without_a_response_to_the_status_query<DB: TestBackend>() {
    let direct = accounts::<DB>(1).await;
    for cut in [Cut::SilenceBefore, Cut::SilenceAfter, Cut::CutBefore, Cut::CutAfter] {
        let proxy = Proxy::to(&direct.url).await;
        let pool = DB::another(&proxy.url(&direct.url)).await;
        proxy.on("SHOW ENGINE INNODB STATUS", cut);
        let deadlocks = Deadlocks::new();
        lose_to_another_session::<DB>(&pool, &direct, &deadlocks, 1).await;
        assert_eq!(proxy.hits(), 1, "{cut:?}");
        assert_eq!(deadlocks.only().report.parties.len(), 1, "{cut:?}");
    }
}
