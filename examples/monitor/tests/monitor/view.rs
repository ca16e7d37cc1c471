//! Reads the page.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::browser::Browser;

/// Reads everything at one moment, because the page changes every second.
const READ: &str = r#"
    const text = (selector) => document.querySelector(selector)?.textContent ?? "";
    const rows = [...document.querySelectorAll("tr[data-strategy]")].map((row) => ({
        strategy: row.dataset.strategy,
        unit: row.dataset.unit,
        is_chosen: row.classList.contains("chosen"),
        cells: Object.fromEntries([...row.querySelectorAll("td")].map((cell) => [cell.dataset.head, cell.textContent])),
    }));
    const marks = [...document.querySelectorAll("figure:first-child svg text")].map((text) => text.textContent.trim());
    return {
        chosen: Object.fromEntries(new FormData(document.forms[0])),
        throughput: text("figure:nth-child(1) .now"),
        conflicts: text("figure:nth-child(2) .now"),
        latency: text("figure:nth-child(4) .now"),
        legend: [...document.querySelectorAll(".legend li")].map((item) => item.textContent),
        pictures: [...document.querySelectorAll("svg")].map((svg) => svg.outerHTML),
        books: text(".books"),
        marks,
        rows,
    };
"#;

/// The content of the page.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct View {
    pub(crate) chosen: BTreeMap<String, String>,
    pub(crate) throughput: String,
    pub(crate) conflicts: String,
    pub(crate) latency: String,
    pub(crate) legend: Vec<String>,
    pub(crate) pictures: Vec<String>,
    pub(crate) books: String,
    pub(crate) marks: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

/// A row of the table.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Row {
    pub(crate) strategy: String,
    pub(crate) unit: String,
    pub(crate) is_chosen: bool,
    cells: BTreeMap<String, String>,
}

impl Row {
    #[track_caller]
    pub(crate) fn number(&self, head: &str) -> f64 {
        number(&self.cells[head]).unwrap_or_else(|| panic!("no number under {head} in {self:?}"))
    }
}

impl View {
    pub(crate) async fn of(browser: &Browser) -> Self {
        serde_json::from_value(browser.ask(READ).await).expect("a page that can be read")
    }

    pub(crate) fn row(&self, strategy: &str, unit: &str) -> Option<&Row> {
        self.rows.iter().find(|row| (row.strategy.as_str(), row.unit.as_str()) == (strategy, unit))
    }

    /// The number of seats that are taken in the database.
    pub(crate) fn taken(&self) -> Option<f64> {
        number(self.books.strip_prefix("The books balance. ")?)
    }

    /// The content without the pictures.
    pub(crate) fn short(&self) -> String {
        format!("{:?}", Self { pictures: Vec::new(), ..self.clone() })
    }
}

/// The number that the text begins with, which may contain narrow spaces.
pub(crate) fn number(text: &str) -> Option<f64> {
    let digits = text.chars().filter(|c| *c != '\u{202f}').take_while(|c| c.is_ascii_digit() || *c == '.');
    digits.collect::<String>().parse().ok()
}
