//! The audit: whether what is stored is what callers were told.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use sqlx::Pool;

use crate::Settings;
use crate::database::{BALANCE, SEATS, SoakDatabase};
use crate::ledger::{Answer, Kind, Ledger};
use crate::watch::Watched;
use crate::work::WorkReport;

/// How many sessions a pool may have beyond its maximum, as documented.
const MAX_BEYOND_POOL: usize = 8;

/// The pools of the work.
const POOLS: usize = 3;

/// Returns what is wrong, one sentence each.
pub(crate) async fn audit<DB: SoakDatabase>(
    pool: &Pool<DB>,
    ledger: &Ledger,
    work: &WorkReport,
    watched: &Watched,
    settings: &Settings,
) -> Result<Vec<String>> {
    let mut findings = Findings::default();
    let ops = async |table: &str| DB::integers(pool, format!("SELECT op FROM {table}")).await;
    findings.stored("transfers", &ledger.answers(Kind::Transfer), &ops("ledger").await?);
    findings.stored("statements", &ledger.answers(Kind::Statement), &ops("hot_change").await?);
    findings.stored("requests", &ledger.answers(Kind::Request), &ops("payment").await?);
    findings.stored("jobs", &ledger.answers(Kind::Job), &ops("effect").await?);
    findings.stored("purchases", &ledger.answers(Kind::Purchase), &ops("purchase").await?);
    findings.hooks(&ledger.hooks(), &ledger.answers(Kind::Transfer), &ops("ledger").await?);

    let ask =
        async |sql: String| DB::integers(pool, sql).await.map(|rows| rows.first().copied().unwrap_or(0));
    let wrong_balances = ask(format!(
        "SELECT COUNT(*) FROM account WHERE balance <> {BALANCE} \
         - COALESCE((SELECT SUM(amount) FROM ledger WHERE source = account.id), 0) \
         + COALESCE((SELECT SUM(amount) FROM ledger WHERE target = account.id), 0)"
    ));
    findings.none("balances differ from the ledger", wrong_balances.await?);
    findings.none("rows of savepoints were stored", ask("SELECT COUNT(*) FROM inner_row".to_owned()).await?);
    let wrong_counters = "SELECT COUNT(*) FROM hot WHERE value <> \
                          (SELECT COUNT(*) FROM hot_change WHERE hot_change.hot = hot.id)";
    findings.none("hot rows differ from their changes", ask(wrong_counters.to_owned()).await?);
    let wrong_events = format!("SELECT COUNT(*) FROM event WHERE seats <> {SEATS}");
    findings.none("events have more or fewer seats than at first", ask(wrong_events).await?);
    let added: i64 = DB::integers(pool, "SELECT value FROM counter".to_owned()).await?.into_iter().sum();
    findings.additions(&ledger.answers(Kind::Addition), added);
    findings.work(work);
    findings.resources(watched, settings);
    Ok(findings.0)
}

#[derive(Debug, Default)]
struct Findings(Vec<String>);

impl Findings {
    fn none(&mut self, what: &str, count: i64) {
        if count != 0 {
            self.0.push(format!("{count} {what}"));
        }
    }

    /// What was acknowledged is stored once, what failed is not stored, and nothing is stored twice.
    fn stored(&mut self, what: &str, answers: &BTreeMap<i64, Answer>, stored: &[i64]) {
        let distinct: BTreeSet<_> = stored.iter().copied().collect();
        self.none(&format!("{what} are stored twice"), (stored.len() - distinct.len()) as i64);
        let with = |answer: Answer| answers.iter().filter(move |(_, given)| **given == answer);
        let lost = with(Answer::Committed).filter(|(op, _)| !distinct.contains(op)).count();
        self.none(&format!("{what} were acknowledged and are not stored"), lost as i64);
        let denied = with(Answer::Failed).filter(|(op, _)| distinct.contains(op)).count();
        self.none(&format!("{what} ended with an error and are stored"), denied as i64);
        let foreign = distinct.iter().filter(|op| !answers.contains_key(op)).count();
        self.none(&format!("{what} are stored without a call"), foreign as i64);
    }

    /// The hook of a transfer runs once if it is acknowledged, and never if it is not stored.
    fn hooks(&mut self, hooks: &BTreeMap<i64, u32>, answers: &BTreeMap<i64, Answer>, stored: &[i64]) {
        let stored: BTreeSet<_> = stored.iter().copied().collect();
        let twice = hooks.values().filter(|times| **times > 1).count();
        self.none("hooks ran twice", twice as i64);
        let early = hooks.keys().filter(|op| !stored.contains(op)).count();
        self.none("hooks ran for transfers that are not stored", early as i64);
        let missing =
            answers.iter().filter(|(op, answer)| **answer == Answer::Committed && !hooks.contains_key(op));
        self.none("hooks of acknowledged transfers did not run", missing.count() as i64);
    }

    /// Additions have no row of their own: their number lies between what was acknowledged and what may be.
    fn additions(&mut self, answers: &BTreeMap<i64, Answer>, added: i64) {
        let with = |answer: Answer| answers.values().filter(|given| **given == answer).count() as i64;
        let acknowledged = with(Answer::Committed);
        let possible = acknowledged + with(Answer::Unknown) + with(Answer::GaveUp);
        if added < acknowledged || added > possible {
            self.0.push(format!(
                "{added} additions are stored; {acknowledged} were acknowledged, and at most {possible} may be"
            ));
        }
    }

    fn work(&mut self, work: &WorkReport) {
        self.none("calls were stuck", work.stuck as i64);
        self.none("jobs are dead", work.jobs.dead as i64);
        if work.jobs.rest.is_none() {
            self.0.push(String::from("the queue did not become empty"));
        }
        if work.holds_rest.is_none() {
            self.0.push(String::from("there were holds left that had not ended after their expiry"));
        }
        self.none("commits under a lease came after those of a later holder", work.holders.wrong as i64);
        self.0.extend(work.anomalies.iter().map(|anomaly| format!("an anomaly:\n{anomaly}")));
    }

    fn resources(&mut self, watched: &Watched, settings: &Settings) {
        let connections = settings.connections as usize + crate::work::OTHER_CONNECTIONS as usize;
        let allowed = connections + POOLS * MAX_BEYOND_POOL;
        if watched.sessions > allowed {
            self.0.push(format!("{} sessions at once, where {allowed} are allowed", watched.sessions));
        }
    }
}
