//! The dashboard: mistakes that Grafana accepts silently and shows as an empty panel.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::files::{promtool, read};

fn dashboard() -> Value {
    serde_json::from_str(&read("monitoring/dashboard.json")).expect("JSON")
}

fn panels(dashboard: &Value) -> &Vec<Value> {
    dashboard["panels"].as_array().expect("panels")
}

fn variables(dashboard: &Value) -> BTreeSet<&str> {
    let list = dashboard["templating"]["list"].as_array().expect("variables");
    list.iter().map(|variable| variable["name"].as_str().expect("a name")).collect()
}

/// Every query, with the title of its panel.
fn queries(dashboard: &Value) -> Vec<(&str, &str)> {
    let mut queries = Vec::new();
    for panel in panels(dashboard) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            queries
                .push((panel["title"].as_str().expect("a title"), target["expr"].as_str().expect("a query")));
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().into_iter().flatten() {
        queries.push(("annotation", annotation["expr"].as_str().expect("a query")));
    }
    assert!(queries.len() > 20, "{queries:?}");
    queries
}

/// The queries as rules for promtool, with a value for each variable.
#[test]
fn every_query_is_valid() {
    let dashboard = dashboard();
    let rules: Vec<_> = queries(&dashboard)
        .into_iter()
        .enumerate()
        .map(|(n, (_, query))| {
            let mut query = query.replace("$__rate_interval", "5m").replace("$__range", "1h");
            for variable in variables(&dashboard) {
                query = query.replace(&format!("${variable}"), ".*");
            }
            assert!(!query.contains('$'), "a variable that there is not: {query}");
            json!({ "record": format!("panel:{n}"), "expr": query })
        })
        .collect();
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let text = json!({ "groups": [{ "name": "dashboard", "rules": rules }] }).to_string();
    std::fs::write(file.path(), text).expect("written");
    let path = file.path().to_str().expect("a path");
    if let Err(said) = promtool(&["check", "rules", path], "") {
        panic!("{said}");
    }
}

#[test]
fn the_dashboard_can_be_imported() {
    let dashboard = dashboard();
    assert!(dashboard["id"].is_null(), "an id is that of one Grafana");
    for field in ["title", "uid", "schemaVersion", "time", "templating"] {
        assert!(!dashboard[field].is_null(), "no {field}");
    }
    assert_eq!(variables(&dashboard), BTreeSet::from(["datasource", "job", "queue", "strategy", "unit"]));
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels(&dashboard) {
        let title = &panel["title"];
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}: another panel has this id");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().expect("a place"));
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(place.0 < 24, "{title}: out of the grid");
            assert!(taken.insert(place), "{title}: covers another panel");
        }
        if panel["type"] != "row" {
            assert!(
                panel["description"].as_str().is_some_and(|text| !text.is_empty()),
                "{title}: says nothing"
            );
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            for target in panel["targets"].as_array().expect("queries") {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            }
        }
    }
    let list = dashboard["templating"]["list"].as_array().expect("variables");
    for variable in list.iter().filter(|variable| variable["type"] == "query") {
        assert_eq!(variable["datasource"]["uid"], "${datasource}", "{variable}");
    }
}
