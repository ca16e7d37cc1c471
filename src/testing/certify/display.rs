//! Displays a sheet for people.

use std::fmt;

use super::sheet::Sheet;

/// The width of the evidence, so that a line fits a wide terminal.
const EVIDENCE_WIDTH: usize = 76;

impl fmt::Display for Sheet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = if self.nodes > 1 { format!(", {} nodes", self.nodes) } else { String::new() };
        writeln!(f, "{}{nodes}: {}\n", self.engine, self.server)?;
        let width = |of: fn(&super::SheetEntry) -> usize| self.entries.iter().map(of).max().unwrap_or(0);
        let ids = width(|entry| entry.id.chars().count());
        let standings = width(|entry| entry.standing.as_str().len());
        writeln!(f, "{:<ids$}  {:<standings$}  evidence", "check", "standing")?;
        writeln!(f, "{}", "─".repeat(ids + standings + EVIDENCE_WIDTH + 4))?;
        for entry in &self.entries {
            let mut lines = textwrap::wrap(&entry.evidence, EVIDENCE_WIDTH).into_iter();
            let first = lines.next().unwrap_or_default();
            writeln!(f, "{:<ids$}  {:<standings$}  {first}", entry.id, entry.standing)?;
            for line in lines {
                writeln!(f, "{:ids$}  {:standings$}  {line}", "", "")?;
            }
        }
        let findings = self.findings();
        if findings.is_empty() {
            return writeln!(f, "\nThe server does what this crate relies on.");
        }
        writeln!(f, "\nNot as this crate expects:")?;
        findings.iter().try_for_each(|finding| writeln!(f, "- {finding}"))
    }
}
