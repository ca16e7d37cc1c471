//! Renders the page.

use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::books::State;
use crate::figures::{count, percent, short, time};
use crate::panels::{self, Panel};
use crate::settings::{Approach, BUYERS, HOT, Settings};
use crate::timeline::Timeline;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The whole page, which is sent once.
pub(crate) fn whole(database: &str, settings: &Settings, live: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Flash sale – atomically" }
                link rel="icon" href="data:,";
                // Without JavaScript, the page reloads itself.
                noscript { meta http-equiv="refresh" content="3"; }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "Flash sale" }
                    p { "Buyers race for seats on " b { (database) } ". The unit of work stays the same; what changes is below." }
                }
                (choices(settings))
                main #live { (live) }
                footer {
                    p { "The same figures for Prometheus: " a href="/metrics" { "/metrics" } }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

fn choices(settings: &Settings) -> Markup {
    html! {
        form method="post" action="/settings" autocomplete="off" {
            fieldset.wide {
                legend { "Strategy" }
                div.segments {
                    @for approach in Approach::ALL {
                        label class=(approach.name()) {
                            input type="radio" name="strategy" value=(approach.name()) checked[settings.strategy == approach];
                            span { (approach) }
                        }
                    }
                }
            }
            fieldset {
                legend { "Gate in front of the pool" }
                div.segments {
                    (choice("gate", "false", "no", !settings.gate))
                    (choice("gate", "true", "yes", settings.gate))
                }
            }
            fieldset {
                legend { "Buyers at once" }
                div.segments {
                    @for buyers in BUYERS {
                        (choice("buyers", &buyers.to_string(), &buyers.to_string(), settings.buyers == buyers))
                    }
                }
            }
            fieldset {
                legend { "Traffic on the hot row" }
                div.segments {
                    @for hot in HOT {
                        (choice("hot", &hot.to_string(), &percent(hot.into()), settings.hot == hot))
                    }
                }
            }
            noscript { button { "Apply" } }
        }
    }
}

fn choice(name: &str, value: &str, text: &str, is_chosen: bool) -> Markup {
    html! {
        label {
            input type="radio" name=(name) value=(value) checked[is_chosen];
            span { (text) }
        }
    }
}

/// The part of the page that changes every second.
pub(crate) fn live(timeline: &Timeline, books: &State, width: u32) -> Result<Markup> {
    let panels = panels::all(timeline, width)?;
    Ok(html! {
        (legend(timeline))
        div.charts {
            @for (number, panel) in panels.iter().enumerate() { (figure(number, panel)) }
        }
        (sums(timeline))
        (balance(books))
    })
}

/// The colours of the strategies that are visible in the charts.
fn legend(timeline: &Timeline) -> Markup {
    let shown = |approach| timeline.points.iter().any(|point| point.way.strategy == approach);
    html! {
        ul.legend aria-label="Colours" {
            @for approach in Approach::ALL.into_iter().filter(|approach| shown(*approach)) {
                li class=(approach.name()) { (approach) }
            }
        }
    }
}

fn figure(number: usize, panel: &Panel) -> Markup {
    let id = format!("title-{number}");
    let title = format!("{}, {}, over the last minute. Now: {}.", panel.title, panel.unit, panel.now);
    // plotters cannot give the picture a title.
    let (opening, rest) = panel.svg.split_once('>').unwrap_or((&panel.svg, ""));
    html! {
        figure {
            figcaption {
                h2 { (panel.title) }
                p.unit { (panel.unit) }
                p.now id=(format!("now-{number}")) { (panel.now) }
            }
            (PreEscaped(format!("{opening} role=\"img\" aria-labelledby=\"{id}\">")))
            title id=(id) { (title) }
            (PreEscaped(rest))
        }
    }
}

/// The totals of each combination that was chosen so far.
fn sums(timeline: &Timeline) -> Markup {
    const HEADS: [&str; 9] =
        ["Strategy", "Seconds", "Purchases", "Per second", "Conflicts", "Attempts", "p50", "p99", "Given up"];
    html! {
        table {
            caption { "Since the start" }
            thead { tr { @for head in HEADS { th scope="col" { (head) } } } }
            tbody {
                @for (way, sum) in &timeline.sums {
                    @let (seconds, tally) = (sum.chosen.as_secs_f64(), &sum.tally);
                    @let cells = [
                        format!("{seconds:.1}"),
                        count(tally.committed as f64),
                        if seconds >= 1.0 { count(tally.committed as f64 / seconds) } else { "–".to_owned() },
                        tally.conflict_rate().map_or("–".to_owned(), percent),
                        tally.attempts_each().map_or("–".to_owned(), short),
                        tally.percentile(50.0).map_or("–".to_owned(), time),
                        tally.percentile(99.0).map_or("–".to_owned(), time),
                        count(tally.given_up as f64),
                    ];
                    tr.chosen[*way == timeline.settings.way()] data-strategy=(way.strategy.name()) data-unit=(way.unit()) {
                        th scope="row" class=(way.strategy.name()) { (way) }
                        @for (head, cell) in HEADS[1..].iter().zip(cells) { td data-head=(head) { (cell) } }
                    }
                }
                @if timeline.sums.is_empty() { tr { td.none colspan=(HEADS.len()) { "No purchases yet" } } }
            }
        }
    }
}

/// Whether the database agrees with the responses that buyers got.
fn balance(books: &State) -> Markup {
    html! {
        p.books {
            @if (books.lost, books.surplus) == (0, 0) {
                strong.right { "The books balance." } " "
                (count(books.taken as f64)) " seats are taken in the database, each by a purchase."
            } @else {
                strong.wrong { "The books do not balance." } " "
                (count(books.taken as f64)) " seats are taken in the database: " (count(books.lost as f64))
                " too few, " (count(books.surplus as f64)) " too many."
            }
        }
        @if let Some(trouble) = &books.trouble { p.trouble { "Last error: " q { (trouble) } } }
    }
}
