//! A flash sale that never ends, and a web page that shows how each strategy fares while it runs.
//!
//! `cargo run --release -p monitor`, and then <http://127.0.0.1:3000/>
//!
//! On the page you choose the strategy, the number of buyers, and how many of them want the same event.
//! Figures for Prometheus are at `/metrics`. `recorder.rs` is a custom observer, and `shop.rs` has the unit
//! of work.

mod books;
mod chart;
mod crowd;
mod figures;
mod page;
mod panels;
mod recorder;
mod scale;
mod settings;
mod same_site;
mod shop;
mod timeline;
mod web;

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use atomically::{Metrics, Observer};
use clap::Parser;
use example_database::{Place, Product, open, stop_requested, within};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use sqlx::Pool;
use sqlx::pool::PoolOptions;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use books::Books;
use recorder::{Recorder, Tally};
use shop::{Counter, Shop};
use timeline::Timeline;
use web::Site;

/// Sells seats to many buyers, and shows on a web page how each strategy fares.
#[derive(Debug, Parser)]
#[command(name = "monitor")]
struct Arguments {
    /// The database: postgres://…, mysql://… or sqlite://…; by default, a temporary SQLite file.
    ///
    /// PostgreSQL and MySQL have to be built in: `--features postgres,mysql`.
    ///
    /// The table atomically_monitor_event is created there, and dropped before and after.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,

    /// The port of the page, on 127.0.0.1; 0 picks a free one
    #[arg(long, value_name = "N", default_value_t = 3000)]
    port: u16,

    /// Number of connections that the buyers share
    #[arg(
        long,
        value_name = "N",
        default_value_t = 8,
        value_parser = clap::value_parser!(u32).range(1..=256)
    )]
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
    let place = Place::new(arguments.database_url.as_deref())?;
    match place.product() {
        Product::Sqlite => show_on::<sqlx::Sqlite>(place.sqlite_options()?, &place, &arguments).await,
        #[cfg(feature = "postgres")]
        Product::Postgres => show_on::<sqlx::Postgres>(place.options()?, &place, &arguments).await,
        #[cfg(feature = "mysql")]
        Product::MySql => show_on::<sqlx::MySql>(place.options()?, &place, &arguments).await,
        #[cfg(not(all(feature = "postgres", feature = "mysql")))]
        other => Err(example_database::not_built_in(other)),
    }
}

async fn show_on<DB: Shop>(
    options: example_database::Options<DB>,
    place: &Place,
    arguments: &Arguments,
) -> anyhow::Result<()> {
    let name = place.name();
    // Before the tables are created, so that a port that is in use leaves none behind.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, arguments.port))
        .await
        .with_context(|| format!("cannot listen on port {}", arguments.port))?;
    let patience = Duration::from_secs(30);
    let pool = open(PoolOptions::new(), options.clone(), &name, arguments.pool, patience).await?;
    let office = open::<DB>(PoolOptions::new(), options, &name, 1, patience).await?;
    within(DB::open(&office)).await.context("cannot create the table of the sale")?;

    let sale = tokio::select! {
        sale = sell(&pool, &office, place.product(), listener) => sale,
        () = stop_requested() => Ok(()),
    };
    let tidied = within(async {
        pool.close().await;
        DB::close(&office).await
    });
    sale.and(tidied.await.context("cannot drop the table of the sale"))
}

/// Sells until it is dropped, and the buyers with it.
async fn sell<DB: Shop>(
    pool: &Pool<DB>,
    office: &Pool<DB>,
    product: Product,
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
        database: product.to_string().into(),
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
        () = books.keep(office) => Err(anyhow!("the comparison with the database ended")),
        () = count(&recorder, &site, &tick, &prometheus) => Err(anyhow!("the counting ended")),
    }
}

/// Collects the metrics for Prometheus.
fn exporter() -> anyhow::Result<PrometheusHandle> {
    let mut exporter = PrometheusBuilder::new();
    for (name, bounds) in Metrics::buckets() {
        exporter = exporter.set_buckets_for_metric(Matcher::Full(name.to_owned()), bounds)?;
    }
    Ok(exporter.install_recorder()?)
}

/// Adds the figures of each second to the timeline.
async fn count(recorder: &Recorder, site: &Site, tick: &watch::Sender<()>, prometheus: &PrometheusHandle) {
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick completes at once.
    seconds.tick().await;
    loop {
        seconds.tick().await;
        site.timeline().advance(&recorder.take());
        prometheus.run_upkeep();
        tick.send_replace(());
    }
}
