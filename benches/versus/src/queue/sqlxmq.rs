//! `sqlxmq`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use serde_json::Value;
use sqlx_0_8::PgPool;
use sqlx_0_8::postgres::PgPoolOptions;
use sqlxmq::{CurrentJob, JobBuilder, JobRunnerOptions};
use tokio::sync::watch;

use super::contender::{Contender, Handled};
use super::{CALLERS, CONNECTIONS};

pub(super) struct Sqlxmq {
    pool: PgPool,
}

impl Sqlxmq {
    pub(super) async fn new(url: &str) -> Result<Self> {
        let options = PgPoolOptions::new().max_connections(CONNECTIONS).test_before_acquire(false);
        let pool = options.connect(url).await?;
        let made = "SELECT to_regclass('mq_msgs') IS NOT NULL";
        if !sqlx_0_8::query_scalar(made).fetch_one(&pool).await? {
            for migration in migrations()? {
                sqlx_0_8::raw_sql(&fs::read_to_string(migration)?).execute(&pool).await?;
            }
        }
        Ok(Self { pool })
    }
}

/// Its documentation instructs users to copy them from the crate.
fn migrations() -> Result<Vec<PathBuf>> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["metadata", "--format-version", "1", "--locked", "--manifest-path"]).arg(manifest);
    let output = cargo.output().context("cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let package = packages.iter().find(|package| package["name"] == "sqlxmq").context("no sqlxmq")?;
    let manifest = Path::new(package["manifest_path"].as_str().context("no path")?);
    let directory = manifest.parent().context("no directory")?.join("migrations");
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        files.push(entry?.path());
    }
    files.retain(|file| file.to_string_lossy().ends_with(".up.sql"));
    files.sort();
    Ok(files)
}

#[async_trait]
impl Contender for Sqlxmq {
    fn name(&self) -> &'static str {
        "sqlxmq"
    }

    /// One call for each job.
    fn enqueues(&self) -> &'static [usize] {
        &[10, 100]
    }

    fn takes(&self) -> &'static [usize] {
        &[10, 32, 100]
    }

    async fn enqueue(&self, jobs: usize) -> Result<()> {
        if jobs == 1 {
            JobBuilder::new("job").set_json(&0)?.spawn(&self.pool).await?;
            return Ok(());
        }
        let mut transaction = self.pool.begin().await?;
        for n in 0..jobs {
            JobBuilder::new("job").set_json(&n)?.spawn(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// A batch is the range between the minimum and the maximum of running jobs.
    async fn work(
        &self,
        batch: usize,
        handled: &'static Handled,
        mut stop: watch::Receiver<bool>,
    ) -> Result<()> {
        let most = if batch == 1 { CALLERS } else { batch };
        let fewest = if batch == 1 { CALLERS } else { batch / 2 };
        let dispatch = move |mut job: CurrentJob| {
            tokio::spawn(async move {
                handled.one();
                job.complete().await
            });
        };
        let runner = JobRunnerOptions::new(&self.pool, dispatch).set_concurrency(fewest, most).run().await?;
        let _ = stop.wait_for(|stop| *stop).await;
        drop(runner);
        Ok(())
    }

    async fn left(&self) -> Result<i64> {
        // The row with no id belongs to sqlxmq itself.
        let count = "SELECT count(*) FROM mq_msgs WHERE id <> uuid_nil()";
        Ok(sqlx_0_8::query_scalar(count).fetch_one(&self.pool).await?)
    }

    async fn clear(&self) -> Result<()> {
        sqlx_0_8::query("SELECT mq_clear_all()").execute(&self.pool).await?;
        for table in ["VACUUM mq_msgs", "VACUUM mq_payloads"] {
            sqlx_0_8::raw_sql(table).execute(&self.pool).await?;
        }
        Ok(())
    }
}
