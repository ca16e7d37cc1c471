//! What a certification found out.

use std::fmt;

/// What a server does about a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Standing {
    /// The server kept the promise.
    Held,
    /// The server accepted the statements, and did not keep the promise.
    NotHeld,
    /// The server refused a statement as unknown or unsupported, or the database has nothing of the kind.
    NotOffered,
    /// The check could not be completed; the evidence says why.
    NotChecked,
}

impl Standing {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 4] = [Self::Held, Self::NotHeld, Self::NotOffered, Self::NotChecked];

    /// Returns the words for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::NotHeld => "not held",
            Self::NotOffered => "not offered",
            Self::NotChecked => "not checked",
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SheetEntry {
    /// The stable name of the check, such as `locks.skip-locked`.
    pub id: String,
    /// What is promised.
    pub promise: String,
    /// What the server does about it.
    pub standing: Standing,
    /// What this crate believes of the [`Engine`](crate::Engine); `None` if nothing depends on it. `NotHeld`
    /// means that it does not rely on the promise, and includes `NotOffered`.
    pub expected: Option<Standing>,
    /// What was done, and what the server answered.
    pub evidence: String,
}

/// What a server promises and keeps: an entry for each check of a [certification](super::certify).
///
/// Its `Display` is a table. [`outline`](Self::outline) has the standings without evidence, for a snapshot:
/// it depends neither on the server's version nor on timing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sheet {
    /// The product, as this crate knows it.
    pub engine: String,
    /// The product and its version, in the server's own words.
    pub server: String,
    /// How many addresses were certified together.
    pub nodes: usize,
    /// The results, in the order of the checks.
    pub entries: Vec<SheetEntry>,
}

/// An entry that contradicts what this crate relies on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SheetFinding {
    /// The name of the check.
    pub id: String,
    /// What is promised.
    pub promise: String,
    /// What this crate believes of the [`Engine`](crate::Engine).
    pub expected: Standing,
    /// What the server does.
    pub standing: Standing,
    /// What was done, and what the server answered.
    pub evidence: String,
}

impl fmt::Display for SheetFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, promise, expected, standing, evidence } = self;
        write!(f, "{id}: {standing}, but expected to be {expected}: {promise} ({evidence})")
    }
}

impl Sheet {
    /// Returns what the server does about a promise; `None` if no check has this id.
    #[must_use]
    pub fn standing(&self, id: &str) -> Option<Standing> {
        self.entry(id).map(|entry| entry.standing)
    }

    /// Returns the entry of a check; `None` if no check has this id.
    #[must_use]
    pub fn entry(&self, id: &str) -> Option<&SheetEntry> {
        self.entries.iter().find(|entry| entry.id == id)
    }

    /// Returns the entries that contradict what this crate believes of the [`Engine`](crate::Engine). A check
    /// that could not be completed contradicts what it should have confirmed.
    #[must_use]
    pub fn findings(&self) -> Vec<SheetFinding> {
        let finding = |entry: &SheetEntry| {
            let is_held = entry.standing == Standing::Held;
            let expected = entry.expected.filter(|expected| (*expected == Standing::Held) != is_held)?;
            Some(SheetFinding {
                id: entry.id.clone(),
                promise: entry.promise.clone(),
                expected,
                standing: entry.standing,
                evidence: entry.evidence.clone(),
            })
        };
        self.entries.iter().filter_map(finding).collect()
    }

    /// Returns a line for each check: its id and its standing.
    #[must_use]
    pub fn outline(&self) -> String {
        self.entries.iter().map(|entry| format!("{}: {}\n", entry.id, entry.standing)).collect()
    }

    /// Panics, with the findings, unless the server does what this crate relies on.
    ///
    /// # Panics
    ///
    /// There are [`findings`](Self::findings).
    #[track_caller]
    #[expect(clippy::panic, reason = "an assertion for tests")]
    pub fn assert_no_findings(&self) {
        let findings = self.findings();
        if !findings.is_empty() {
            let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
            panic!("{} does not do what this crate relies on:\n{}", self.engine, lines.join("\n"));
        }
    }

    /// Panics, with the evidence, unless the server keeps these promises.
    ///
    /// # Panics
    ///
    /// The standing of a check is not [`Held`](Standing::Held), or no check has this id.
    #[track_caller]
    #[expect(clippy::panic, reason = "an assertion for tests")]
    pub fn assert_held<'i>(&self, ids: impl IntoIterator<Item = &'i str>) {
        for id in ids {
            match self.entry(id) {
                Some(entry) if entry.standing == Standing::Held => {}
                Some(entry) => panic!("{id}: {}: {}", entry.standing, entry.evidence),
                None => panic!("no check has the id {id}"),
            }
        }
    }
}
