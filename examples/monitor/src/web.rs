//! The HTTP server.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{Form, Query, State};
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use futures_util::{Stream, StreamExt as _, stream};
use maud::Markup;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Deserialize;
use tokio::sync::watch::{Receiver, Sender};

use crate::books::Books;
use crate::page;
use crate::same_site;
use crate::settings::Settings;
use crate::timeline::Timeline;

/// The state that all requests share.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) database: Arc<str>,
    pub(crate) settings: Arc<Sender<Settings>>,
    pub(crate) timeline: Arc<Mutex<Timeline>>,
    /// Changes when there is something new to draw.
    pub(crate) second: Receiver<()>,
    pub(crate) books: Arc<Books>,
    pub(crate) prometheus: PrometheusHandle,
}

pub(crate) fn router(site: Site) -> Router {
    Router::new()
        .route("/", get(whole))
        .route("/live", get(live))
        .route("/settings", post(choose))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn(same_site::check))
        .with_state(site)
}

impl Site {
    pub(crate) fn timeline(&self) -> MutexGuard<'_, Timeline> {
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws from a copy, without holding the lock.
    fn draw(&self, width: u32) -> anyhow::Result<Markup> {
        let timeline = self.timeline().clone();
        page::live(&timeline, &self.books.state(), width)
    }
}

async fn whole(State(site): State<Site>) -> Result<Html<String>, Trouble> {
    let live = site.draw(Width::default().in_pixels())?;
    Ok(Html(page::whole(&site.database, &site.timeline().settings, &live).into_string()))
}

/// The width of the charts in the browser, so that their text has the same size in every window.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Width {
    width: u32,
}

impl Default for Width {
    fn default() -> Self {
        Self { width: 640 }
    }
}

impl Width {
    fn in_pixels(self) -> u32 {
        self.width.clamp(240, 1600)
    }
}

/// Server-sent events: the live part of the page every second, and the settings after each change.
async fn live(
    State(site): State<Site>,
    Query(width): Query<Width>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let choices = stream::unfold((site.settings.subscribe(), true), |(mut settings, is_first)| async move {
        if !is_first {
            settings.changed().await.ok()?;
        }
        let now = *settings.borrow_and_update();
        let event = Event::default().event("settings").json_data(now).ok()?;
        Some((event, (settings, false)))
    });
    let pictures = stream::unfold((site, true), move |(mut site, is_first)| async move {
        if !is_first {
            site.second.changed().await.ok()?;
        }
        site.second.mark_unchanged();
        let event = Event::default().data(site.draw(width.in_pixels()).ok()?.into_string());
        Some((event, (site, false)))
    });
    Sse::new(stream::select(choices.boxed(), pictures.boxed()).map(Ok)).keep_alive(KeepAlive::default())
}

async fn choose(State(site): State<Site>, Form(settings): Form<Settings>) -> Result<Redirect, StatusCode> {
    if !settings.are_on_offer() {
        return Err(StatusCode::UNPROCESSABLE_ENTITY);
    }
    site.timeline().choose(settings);
    site.settings.send_replace(settings);
    Ok(Redirect::to("/"))
}

async fn metrics(State(site): State<Site>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], site.prometheus.render())
}

/// An error while drawing.
struct Trouble(anyhow::Error);

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("{:#}", self.0)).into_response()
    }
}
