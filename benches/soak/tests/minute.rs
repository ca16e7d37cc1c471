//! A short run on each server, with all faults.

use clap::Parser as _;
use soak::{Product, Settings};

async fn a_short_run_keeps_every_promise(database: Product, seed: u64) {
    let settings = Settings { database, seed, ..Settings::parse_from(["soak", "--minutes", "0.75"]) };
    let report = soak::run(&settings).await.expect("a run");
    println!("{report}");
    assert!(report.findings.is_empty(), "{report}");
    assert!(report.commits() > 1_000, "hardly anything was committed: {report}");
    assert!(report.faults() > 10, "there were few faults: {report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres() {
    a_short_run_keeps_every_promise(Product::Postgres, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb() {
    a_short_run_keeps_every_promise(Product::Mariadb, 1).await;
}
