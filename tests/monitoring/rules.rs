//! The alerts.

use std::collections::BTreeSet;

use atomically::FailureKind;

use crate::files::{guide, promtool, queried_values, read, rules};

#[test]
fn the_alert_rules_are_valid_and_pass_their_tests() {
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]] {
        if let Err(said) = promtool(&arguments, "") {
            panic!("promtool {}: {said}", arguments.join(" "));
        }
    }
}

/// Each alert is tested firing and silent, and its annotation links to an existing section of the guide.
#[test]
fn every_alert_is_tested_and_explained() {
    let (tests, alerts, guide) = (read("monitoring/alerts.test.yml"), read("monitoring/alerts.yml"), guide());
    let sections: BTreeSet<_> = guide.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    for alert in rules("alert") {
        let marker = format!("alertname: {alert}\n");
        let (silent, firing): (Vec<_>, Vec<_>) =
            tests.split(&marker).skip(1).partition(|rest| rest.trim_start().starts_with("exp_alerts: []"));
        assert!(!silent.is_empty(), "{alert} is never silent");
        assert!(!firing.is_empty(), "{alert} never fires");
        assert!(sections.contains(alert.as_str()), "the guide has no section {alert}");
        let anchor = format!("/guide/monitoring/index.html#{}\n", alert.to_lowercase());
        assert!(alerts.contains(&anchor), "{alert} does not lead to its section");
    }
    for section in sections.iter().filter(|section| section.starts_with("Atomically")) {
        assert!(rules("alert").contains(*section), "the guide explains {section}, which is no alert");
    }
}

/// The crate defines which kinds of failure are conflicts.
#[test]
fn queries_for_conflicts_name_every_conflict_kind() {
    let conflicts: BTreeSet<_> = FailureKind::ALL
        .into_iter()
        .filter(|kind| kind.is_conflict())
        .map(|kind| kind.as_str().to_owned())
        .collect();
    let dashboard = read("monitoring/dashboard.json").replace("\\\"", "\"");
    for (file, text) in [("alerts.yml", read("monitoring/alerts.yml")), ("dashboard.json", dashboard)] {
        let lists: Vec<_> =
            queried_values(&text, "kind").into_iter().filter(|kinds| kinds.len() > 1).collect();
        assert!(!lists.is_empty(), "{file} queries no conflicts");
        for kinds in lists {
            assert_eq!(kinds, conflicts, "{file}");
        }
    }
}
