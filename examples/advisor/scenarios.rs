//! The units of three scenarios, and what the advisor says of them.

use std::io::{IsTerminal as _, Write as _};

use atomically::testing::{Advice, Advisor, AdvisorProgress, advise};
use atomically::{Error, Tx};
use sqlx::{AssertSqlSafe, Pool, SqlSafeStr as _, SqlStr};

use crate::statements::Statements;

pub(crate) const TABLES: &str = "
    CREATE TABLE advisor_event (id INT PRIMARY KEY, seats BIGINT NOT NULL, version BIGINT NOT NULL);
    CREATE TABLE advisor_doctor (id INT PRIMARY KEY, on_call INT NOT NULL);
    CREATE TABLE advisor_account (id INT PRIMARY KEY, balance BIGINT NOT NULL)";
pub(crate) const NO_TABLES: &str = "
    DROP TABLE IF EXISTS advisor_event;
    DROP TABLE IF EXISTS advisor_doctor;
    DROP TABLE IF EXISTS advisor_account";

fn text(sql: String) -> SqlStr {
    AssertSqlSafe(sql).into_sql_str()
}

/// Checks the version, but ignores that no row may have had it.
async fn sell<DB: Statements>(tx: &mut Tx<DB>) -> Result<i64, Error> {
    let select = tx.for_update("SELECT seats * 1000 + version FROM advisor_event WHERE id = 1");
    let event = DB::read(tx, select).await?;
    let (seats, version) = (event / 1000, event % 1000);
    if seats > 0 {
        let update = format!(
            "UPDATE advisor_event SET seats = {}, version = version + 1 WHERE id = 1 AND version = {version}",
            seats - 1
        );
        DB::write(tx, text(update)).await?;
    }
    Ok(seats)
}

/// A doctor goes off call if another one stays.
async fn go_off_call<DB: Statements>(tx: &mut Tx<DB>, doctor: i64) -> Result<bool, Error> {
    let count = "SELECT COUNT(*) FROM advisor_doctor WHERE on_call = 1";
    let may_go = DB::read(tx, count.into_sql_str()).await? > 1;
    if may_go {
        DB::write(tx, text(format!("UPDATE advisor_doctor SET on_call = 0 WHERE id = {doctor}"))).await?;
    }
    Ok(may_go)
}

async fn transfer<DB: Statements>(tx: &mut Tx<DB>) -> Result<(), Error> {
    for (account, amount) in [(1, -5), (2, 5)] {
        let update = format!("UPDATE advisor_account SET balance = balance + {amount} WHERE id = {account}");
        DB::write(tx, text(update)).await?;
    }
    Ok(())
}

/// Reads the accounts one by one.
async fn audit<DB: Statements>(tx: &mut Tx<DB>) -> Result<i64, Error> {
    let mut total = 0;
    for account in [1, 2] {
        let select = format!("SELECT balance FROM advisor_account WHERE id = {account}");
        total += DB::read(tx, text(select)).await?;
    }
    Ok(total)
}

/// Shows a progress bar on a terminal.
fn show(progress: &AdvisorProgress) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let done = progress.done * 30 / progress.total.max(1);
    let bar: String = (0..30).map(|at| if at < done { '█' } else { '░' }).collect();
    let what = format!("{} under {}", progress.units.join(" and "), progress.strategy);
    eprint!("\r\x1b[2K{bar} {what}");
    let _ = std::io::stderr().flush();
}

async fn advised<DB: Statements>(title: &str, advisor: Advisor<'_, DB>) -> anyhow::Result<Advice> {
    let advice = advisor.on_progress(show).run().await?;
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[2K");
    }
    println!("{title}\n\n{advice}");
    Ok(advice)
}

pub(crate) async fn scenarios<DB: Statements>(pool: Pool<DB>) -> anyhow::Result<()> {
    let seats = "DELETE FROM advisor_event; INSERT INTO advisor_event VALUES (1, 1, 0)";
    let sale = advise(&pool).set_up(|pool| DB::prepare(pool, seats)).unit("sell", sell);
    let sale = advised("The sale of the last seat, with a version check that nobody looks at", sale).await?;

    let doctors = "DELETE FROM advisor_doctor; INSERT INTO advisor_doctor VALUES (1, 1), (2, 1)";
    let on_call = advise(&pool)
        .set_up(|pool| DB::prepare(pool, doctors))
        .unit("Ann goes", async |tx: &mut Tx<DB>| go_off_call(tx, 1).await)
        .unit("Bob goes", async |tx: &mut Tx<DB>| go_off_call(tx, 2).await);
    let on_call = advised("Two doctors on call, one of whom has to stay", on_call).await?;

    let accounts = "DELETE FROM advisor_account; INSERT INTO advisor_account VALUES (1, 100), (2, 100)";
    let bank = advise(&pool)
        .set_up(|pool| DB::prepare(pool, accounts))
        .unit("transfer", transfer)
        .unit("audit", audit);
    let bank = advised("A transfer, and an audit of both accounts", bank).await?;

    let units = [sale, on_call, bank].into_iter().flat_map(|advice| advice.units);
    let lines = units.map(|advice| format!("{}: {}", advice.unit, advice.strategy.unwrap_or("none".into())));
    println!("Recommended: {}.", lines.collect::<Vec<_>>().join(", "));
    Ok(())
}
