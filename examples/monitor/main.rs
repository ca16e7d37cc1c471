//! A flash sale that never ends, and a page that shows what each strategy makes of it while it runs.
//!
//! `cargo run --release --example monitor`, and then <http://127.0.0.1:3000/>
//!
//! The page chooses the strategy, how many buy, and how many of them want the same event; the charts answer. Figures
//! for Prometheus are at `/metrics`. `recorder.rs` is an observer of one's own, and `shop.rs` has the unit of work.

mod books;
mod chart;
mod crowd;
#[path = "../flash_sale/database.rs"]
mod database;
mod figures;
mod page;
mod panels;
mod recorder;
mod scale;
mod settings;
mod shop;
#[path = "../support/signal.rs"]
mod signal;
mod timeline;
mod web;

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use atomically::{Metrics, Observer};
use clap::Parser;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use sqlx::Pool;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use books::Books;
use database::{Door, Place};
use recorder::{Recorder, Tally};
use shop::{Counter, Shop};
use timeline::Timeline;
use web::Site;

/// Sells seats to a crowd, and shows on a web page how each strategy fares.
#[derive(Debug, Parser)]
#[command(name = "monitor")]
struct Arguments {
    /// Where to sell: postgres://…, mysql://… or sqlite://…; unless named, a temporary SQLite file.
    ///
    /// The table atomically_monitor_event is created there, and dropped before and after.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,

    /// Where the page is, on this machine; 0 picks a free port
    #[arg(long, value_name = "N", default_value_t = 3000)]
    port: u16,

    /// How many connections the buyers share
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    pool: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    match show(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn show(arguments: Arguments) -> anyhow::Result<()> {
    let url = arguments.database_url.as_deref();
    let (place, _directory) = match url {
        Some(url) => (Place::named(url)?, None),
        None => Place::embedded().map(|(place, directory)| (place, Some(directory)))?,
    };
    match place {
        Place::Postgres(options) => show_on::<sqlx::Postgres>(options, "PostgreSQL", &arguments).await,
        Place::MySql(options) => show_on::<sqlx::MySql>(options, "MySQL", &arguments).await,
        Place::Sqlite(options) => show_on::<sqlx::Sqlite>(options, "SQLite", &arguments).await,
    }
}

async fn show_on<DB: Shop + Door>(
    options: database::Options<DB>,
    engine: &str,
    arguments: &Arguments,
) -> anyhow::Result<()> {
    let url = arguments.database_url.as_deref();
    let name = url.map_or_else(|| "the temporary file".to_owned(), database::public);
    // A port that is taken is found out before there are tables to be dropped.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, arguments.port))
        .await
        .with_context(|| format!("cannot listen on port {}", arguments.port))?;
    let patience = Duration::from_secs(30);
    let pool = database::open::<DB>(options.clone(), &name, arguments.pool, patience).await?;
    let office = database::open::<DB>(options, &name, 1, patience).await?;
    database::within(DB::open(&office)).await.context("cannot create the table of the sale")?;

    let sale = tokio::select! {
        sale = sell(&pool, &office, engine, listener) => sale,
        () = signal::told_to_stop() => Ok(()),
    };
    let tidied = database::within(async {
        pool.close().await;
        DB::close(&office).await
    });
    sale.and(tidied.await.context("cannot drop the table of the sale"))
}

/// Until it is dropped, and the crowd with it.
async fn sell<DB: Shop>(
    pool: &Pool<DB>,
    office: &Pool<DB>,
    engine: &str,
    listener: TcpListener,
) -> anyhow::Result<()> {
    let nothing = Tally::new()?;
    let recorder = Arc::new(Recorder::new(nothing.clone()));
    let prometheus = exporter().context("cannot count for Prometheus")?;
    let observers: [Arc<dyn Observer>; 2] = [recorder.clone(), Arc::new(Metrics::new())];

    let (settings, chosen) = watch::channel(settings::FIRST);
    let (tick, second) = watch::channel(());
    let books = Arc::new(Books::default());
    let timeline = Arc::new(Mutex::new(Timeline::new(settings::FIRST, nothing)));
    let site = Site {
        database: engine.into(),
        settings: Arc::new(settings),
        timeline,
        second,
        books: books.clone(),
        prometheus: prometheus.clone(),
    };

    println!("listening on http://{}", listener.local_addr()?);
    let _crowd = crowd::gather(Counter::new(pool, &observers), &chosen, &books);
    tokio::select! {
        served = axum::serve(listener, web::router(site.clone())) => served.context("cannot serve the page"),
        () = books.keep(office) => Err(anyhow!("nobody keeps the books any more")),
        () = count(&recorder, &site, &tick, &prometheus) => Err(anyhow!("nobody counts any more")),
    }
}

/// Has the metrics collected until somebody asks for them.
fn exporter() -> anyhow::Result<PrometheusHandle> {
    let mut exporter = PrometheusBuilder::new();
    for (name, bounds) in Metrics::buckets() {
        exporter = exporter.set_buckets_for_metric(Matcher::Full(name.to_owned()), bounds)?;
    }
    Ok(exporter.install_recorder()?)
}

/// Second by second.
async fn count(recorder: &Recorder, site: &Site, tick: &watch::Sender<()>, prometheus: &PrometheusHandle) {
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is at once.
    seconds.tick().await;
    loop {
        seconds.tick().await;
        site.timeline().advance(&recorder.take());
        prometheus.run_upkeep();
        tick.send_replace(());
    }
}
