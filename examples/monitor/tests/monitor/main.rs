//! The program, in a browser.

mod browser;
mod example;
mod looks;
#[cfg(all(feature = "postgres", feature = "mysql"))]
mod servers;
mod sites;
mod view;

use std::process::Command;

use browser::Browser;
use example::Monitor;
use fantoccini::key::Key;
use test_servers::program;
use view::{View, number};

const WIDE: (u32, u32) = (1400, 1000);
const NARROW: (u32, u32) = (390, 844);

const SALE: &str = "sale";
const SALE_AT_GATE: &str = "sale at gate";

/// The label of a radio button, which is what people click on.
fn option(name: &str, value: &str) -> String {
    format!("label:has(input[name={name}][value='{value}'])")
}

async fn choose(browser: &Browser, name: &str, value: &str) {
    browser.click(&option(name, value)).await;
}

/// The value of a metric with these labels, as Prometheus gets it.
async fn metric<const N: usize>(browser: &Browser, name: &str, labels: [(&str, &str); N]) -> Option<f64> {
    let text = browser.fetch("/metrics").await;
    let labels = labels.map(|(label, value)| format!("{label}=\"{value}\""));
    let mut lines =
        text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once("} "));
    let (_, value) = lines.find(|(found, _)| labels.iter().all(|label| found.contains(label)))?;
    Some(value.parse().expect(value))
}

/// Waits until the page shows the chosen strategy, and seats are sold with it.
async fn sold_by(browser: &Browser, strategy: &str, unit: &str) -> View {
    let sold = browser.until(strategy, async |browser| {
        let view = View::of(browser).await;
        let is_shown =
            view.row(strategy, unit).is_some_and(|row| row.is_chosen && row.number("Purchases") > 0.0);
        let sells = number(&view.throughput).is_some_and(|rate| rate > 0.0);
        if is_shown && sells { Ok(view) } else { Err(view.short()) }
    });
    sold.await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn charts_move_and_agree_with_the_figures_for_prometheus() {
    let monitor = Monitor::start(&[]);
    let browser = Browser::at(&monitor.address, WIDE).await;
    let first = sold_by(&browser, "optimistic", SALE).await;
    let next = browser.until("another second", async |browser| {
        let view = View::of(browser).await;
        let has_moved = view.pictures.iter().zip(&first.pictures).all(|(now, before)| now != before);
        if has_moved { Ok(view) } else { Err(view.short()) }
    });
    let next = next.await;
    assert_eq!(next.pictures.len(), 4);

    // The figure above the chart is that of the last second, and agrees with the table.
    let [before, after] = browser
        .until("two seconds in a row", async |browser| {
            let before = View::of(browser).await;
            let seconds = |view: &View| view.row("optimistic", SALE).map(|row| row.number("Seconds"));
            let next = browser.until("the next one", async |browser| {
                let view = View::of(browser).await;
                if seconds(&view) > seconds(&before) { Ok(view) } else { Err(view.short()) }
            });
            let next = next.await;
            // Not two seconds, of which it would be the average.
            let passed = seconds(&next).unwrap_or(0.0) - seconds(&before).unwrap_or(0.0);
            if passed < 1.8 { Ok([before, next]) } else { Err(next.short()) }
        })
        .await;
    let [before, after_row] = [&before, &after].map(|view| view.row("optimistic", SALE).expect("a row"));
    let passed = after_row.number("Seconds") - before.number("Seconds");
    let sold = after_row.number("Purchases") - before.number("Purchases");
    let shown = number(&after.throughput).expect("a rate");
    // Seconds are shown with one digit after the point.
    assert!(shown * (passed - 0.11) <= sold + 1.0 && sold <= shown * (passed + 0.11) + 1.0, "{after:?}");

    // Without buyers, all of them show the same after a while.
    choose(&browser, "buyers", "0").await;
    let last = browser.until("the same everywhere", async |browser| {
        let view = View::of(browser).await;
        let shown = view.row("optimistic", SALE).map(|row| row.number("Purchases"));
        let labels = [("strategy", "optimistic"), ("unit", SALE), ("outcome", "committed")];
        let counted = metric(browser, "atomically_units_total", labels).await;
        if counted.is_some() && shown == counted && view.taken() == counted {
            Ok(view)
        } else {
            Err(format!("{counted:?}: {}", view.short()))
        }
    });
    let last = last.await;
    let row = last.row("optimistic", SALE).expect("a row");
    let (sold, rate, seconds) = (row.number("Purchases"), row.number("Per second"), row.number("Seconds"));
    assert!(sold > 0.0 && (rate * seconds - sold).abs() <= seconds + rate * 0.1, "{row:?}");
    assert_eq!(browser.complaints().await, [""; 0]);
    browser.close().await;
}

/// Changes from version checks on a hot row to row locks behind the gate.
async fn the_strategy_is_changed_by_clicking(arguments: &[&str]) {
    let mut monitor = Monitor::start(arguments);
    let browser = Browser::at(&monitor.address, WIDE).await;
    choose(&browser, "hot", "100").await;
    let contended = browser.until("conflicts", async |browser| {
        let view = View::of(browser).await;
        let has_conflicts = number(&view.conflicts).is_some_and(|percent| percent > 0.0);
        if has_conflicts && view.chosen["hot"] == "100" { Ok(view) } else { Err(view.short()) }
    });
    let contended = contended.await;
    assert_eq!(
        (contended.chosen["strategy"].as_str(), &*contended.legend),
        ("optimistic", &["Optimistic".to_owned()][..])
    );

    choose(&browser, "strategy", "pessimistic").await;
    choose(&browser, "gate", "true").await;
    sold_by(&browser, "pessimistic", SALE_AT_GATE).await;
    let calm = browser.until("no conflicts, and a mark on the time axis", async |browser| {
        let view = View::of(browser).await;
        // Of two marks close to each other, only the later one has a text, once there is room.
        let is_marked = view.marks.iter().any(|mark| mark.contains("gate"));
        if is_marked && view.conflicts == "0\u{202f}%" { Ok(view) } else { Err(view.short()) }
    });
    let calm = calm.await;
    assert_eq!(calm.legend, ["Pessimistic", "Optimistic"]);
    assert_eq!((calm.chosen["strategy"].as_str(), calm.chosen["gate"].as_str()), ("pessimistic", "true"));
    assert!(calm.latency.contains(" / "), "{}", calm.latency);
    let row = |strategy, unit| calm.row(strategy, unit).expect("a row");
    assert!(row("optimistic", SALE).number("Conflicts") > 0.0, "{calm:?}");
    assert_eq!(row("pessimistic", SALE_AT_GATE).number("Conflicts"), 0.0, "{calm:?}");
    assert!(row("optimistic", SALE).number("Attempts") > row("pessimistic", SALE_AT_GATE).number("Attempts"));

    // Units waited at the gate, and only those with a key.
    let at_gate = "atomically_gate_wait_seconds_sum";
    let waited = metric(&browser, at_gate, [("strategy", "pessimistic"), ("unit", SALE_AT_GATE)]).await;
    let elsewhere = metric(&browser, at_gate, [("strategy", "optimistic"), ("unit", SALE)]).await;
    assert!(waited > Some(0.0) && elsewhere.unwrap_or(0.0) == 0.0, "{waited:?}, {elsewhere:?}");

    // The next one by keyboard, and one that needs no gate.
    browser.press("input[value=pessimistic]", Key::Right).await;
    sold_by(&browser, "optimistic", SALE_AT_GATE).await;
    choose(&browser, "strategy", "atomic").await;
    choose(&browser, "gate", "false").await;
    let atomic = sold_by(&browser, "atomic", SALE).await;
    assert!(atomic.taken() > Some(0.0), "{}", atomic.books);
    assert_eq!(browser.complaints().await, [""; 0]);
    browser.close().await;
    assert_eq!(monitor.end(), (Some(0), String::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_strategy_is_changed_by_clicking_on_sqlite() {
    the_strategy_is_changed_by_clicking(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_page_chooses_is_seen_on_all() {
    let monitor = Monitor::start(&[]);
    let browser = Browser::at(&monitor.address, WIDE).await;
    sold_by(&browser, "optimistic", SALE).await;
    let post = |body: &str| {
        format!(
            "return fetch('/settings', {{ method: 'post', body: new URLSearchParams('{body}') }}).then((answer) => answer.status)"
        )
    };
    // The form without JavaScript: the response is the page itself.
    let chosen = browser.ask(&post("strategy=serializable&gate=true&buyers=8&hot=0")).await;
    assert_eq!(chosen, 200);
    let view = sold_by(&browser, "serializable", SALE_AT_GATE).await;
    assert_eq!([&view.chosen["buyers"], &view.chosen["hot"]], ["8", "0"]);
    for nonsense in
        ["strategy=hope&gate=true&buyers=8&hot=0", "strategy=atomic&gate=true&buyers=1000000&hot=0", ""]
    {
        assert_eq!(browser.ask(&post(nonsense)).await, 422, "{nonsense}");
    }
    assert_eq!(View::of(&browser).await.chosen["strategy"], "serializable");

    // Without JavaScript, the page has the same content, and reloads itself.
    let page = browser.fetch("/").await;
    for part in
        ["<svg ", "value=\"serializable\" checked", "http-equiv=\"refresh\"", "<button>Apply</button>"]
    {
        assert!(page.contains(part), "no {part} in {page}");
    }

    drop(monitor);
    let message = browser.until("a word about it", async |browser| {
        let script = "return getComputedStyle(document.querySelector('header'), '::after').content";
        let words = browser.ask(script).await.to_string();
        if words.contains("does not answer") { Ok(()) } else { Err(words) }
    });
    message.await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_cut_off_or_in_the_way_on_any_screen() {
    let monitor = Monitor::start(&[]);
    let browser = Browser::at(&monitor.address, WIDE).await;
    sold_by(&browser, "optimistic", SALE).await;
    // A few marks, close to each other.
    for strategy in ["pessimistic", "serializable", "adaptive", "atomic"] {
        choose(&browser, "strategy", strategy).await;
        sold_by(&browser, strategy, SALE).await;
    }
    for size in [WIDE, NARROW, (320, 640), (760, 1000)] {
        browser.resize(size).await;
        looks::right(&browser, size.0).await;
    }
    assert_eq!(browser.complaints().await, [""; 0]);
    browser.close().await;
}

#[test]
fn explains_why_it_cannot_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port().to_string();
    let mut refusals = vec![
        (["--port", &port], "cannot listen on port"),
        (["--database-url", "here"], "a database URL begins with"),
    ];
    let unreachable = ["--database-url", "postgres://me:secret@127.0.0.1:1/x"];
    if cfg!(feature = "postgres") {
        refusals.push((unreachable, "cannot reach postgres://127.0.0.1:1/x"));
    } else {
        refusals.push((unreachable, "--features postgres"));
    }
    for (arguments, words) in refusals {
        let refused = program::run(Command::new(env!("CARGO_BIN_EXE_monitor")).args(arguments));
        refused.refused_with(&[words]);
        assert!(!refused.stderr.contains("secret"), "{refused:?}");
    }
}
