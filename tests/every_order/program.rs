//! Small random programs.

use std::fmt;

use atomically::Options;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::engine::{Engine, Level};

pub(crate) const TABLES: [&str; 2] = [
    "CREATE TABLE one (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)",
    "CREATE TABLE two (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)",
];
pub(crate) const RESET: &str = "DELETE FROM one; DELETE FROM two; INSERT INTO one VALUES (1, 0), (2, 0); \
                               INSERT INTO two VALUES (1, 0), (2, 0)";
pub(crate) const CONTENT: &str =
    "SELECT 'one', id, value FROM one UNION ALL SELECT 'two', id, value FROM two ORDER BY 1, 2";

/// A statement of a program.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Statement {
    Read(&'static str, i64),
    /// Reads all rows, including those that other clients insert.
    ReadAll(&'static str),
    /// Reads all rows from a subquery.
    ReadDerived(&'static str),
    ReadForUpdate(&'static str, i64),
    ReadForShare(&'static str, i64),
    /// Counts the rows with this id that no other client has locked, and locks them.
    CountUnlocked(&'static str, i64),
    /// Adds a number in the database.
    Add(&'static str, i64, i64),
    /// Writes the value that was read last, plus a number.
    Write(&'static str, i64, i64),
    /// The same, unless the value has changed since: then the program is retried.
    WriteIfUnchanged(&'static str, i64, i64),
    Insert(&'static str, i64, i64),
    Delete(&'static str, i64),
}

/// How the savepoint around a line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// It is released, unless its statement fails.
    Kept,
    /// It is rolled back.
    Undone,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    pub(crate) statement: Statement,
    /// The savepoint around the statement, if there is one.
    pub(crate) scope: Option<Scope>,
}

#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) level: Level,
    pub(crate) lines: Vec<Line>,
    pub(crate) attempts: u32,
    /// Whether it ends with its own error.
    pub(crate) rolls_back: bool,
}

/// The programs of two clients. Each client runs its programs one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Pair(pub(crate) [Vec<Program>; 2]);

/// The maximum number of orders of a pair, not counting retries.
const MAX_ORDERS: u64 = 130;

impl Statement {
    fn random(random: &mut StdRng) -> Self {
        let table = *["one", "two"].choose(random).expect("two tables");
        let (id, value) =
            (random.random_range(1..=2), random.random_range(1..=3) * 10_i64.pow(random.random_range(0..=1)));
        match random.random_range(0..15) {
            0..=1 => Self::Read(table, id),
            2 => Self::ReadAll(table),
            3 => Self::ReadForUpdate(table, id),
            4..=5 => Self::Add(table, id, value),
            6..=7 => Self::Write(table, id, value),
            8..=9 => Self::WriteIfUnchanged(table, id, value),
            10 => Self::ReadDerived(table),
            11 => Self::ReadForShare(table, id),
            12 => Self::Insert(table, random.random_range(2..=3), value),
            13 => Self::CountUnlocked(table, id),
            _ => Self::Delete(table, id),
        }
    }

    /// Whether it must find a row.
    pub(crate) fn expects_one(&self) -> bool {
        matches!(self, Self::WriteIfUnchanged(..))
    }

    /// Whether it returns a number.
    pub(crate) fn reads(&self) -> bool {
        use Statement::{CountUnlocked, Read, ReadAll, ReadDerived};
        matches!(self, Read(..) | ReadAll(..) | ReadDerived(..) | CountUnlocked(..))
    }

    pub(crate) fn sql<E: Engine>(&self, last: i64) -> String {
        let sum = |of: &str, table: &str| {
            format!("SELECT CAST(COALESCE(SUM({of}), -1) AS {}) FROM {table}", E::INTEGER)
        };
        match self {
            Self::Read(table, id) => format!("{} WHERE id = {id}", sum("value", table)),
            Self::ReadAll(table) => sum("id * 1000 + value", table),
            Self::ReadDerived(table) => {
                let one = "(SELECT 1 AS number) AS one";
                format!(
                    "{} JOIN (SELECT 2 AS number, id, value FROM {table}) AS derived \
                         ON derived.number > one.number",
                    sum("value", one)
                )
            }
            Self::ReadForUpdate(table, id) => {
                format!("SELECT id FROM {table} WHERE id = {id}{}", E::FOR_UPDATE)
            }
            Self::ReadForShare(table, id) => {
                format!("SELECT id FROM {table} WHERE id = {id}{}", E::FOR_SHARE)
            }
            Self::CountUnlocked(table, id) => format!(
                "SELECT COUNT(*) FROM (SELECT id FROM {table} WHERE id = {id}{}) AS unlocked",
                E::SKIP_LOCKED
            ),
            Self::Add(table, id, value) => {
                format!("UPDATE {table} SET value = value + {value} WHERE id = {id}")
            }
            Self::Write(table, id, value) => {
                format!("UPDATE {table} SET value = {} WHERE id = {id}", last + value)
            }
            Self::WriteIfUnchanged(table, id, value) => {
                let returning = if E::HAS_RETURNING { " RETURNING id" } else { "" };
                format!(
                    "UPDATE {table} SET value = {} WHERE id = {id} AND value = {last}{returning}",
                    last + value
                )
            }
            Self::Insert(table, id, value) => format!("INSERT INTO {table} VALUES ({id}, {value})"),
            Self::Delete(table, id) => format!("DELETE FROM {table} WHERE id = {id}"),
        }
    }
}

impl Program {
    /// A program of these statements at the first level.
    pub(crate) fn of<E: Engine>(statements: &[Statement], rolls_back: bool) -> Self {
        Self {
            level: E::LEVELS[0],
            lines: statements.iter().map(|statement| Line { statement: *statement, scope: None }).collect(),
            attempts: 1,
            rolls_back,
        }
    }

    fn random<E: Engine>(random: &mut StdRng, max_lines: usize) -> Self {
        let lines = (0..random.random_range(1..=max_lines)).map(|_| Line {
            statement: Statement::random(random),
            scope: match random.random_range(0..8) {
                0 => Some(Scope::Kept),
                1 => Some(Scope::Undone),
                _ => None,
            },
        });
        Self {
            lines: lines.collect(),
            level: *E::LEVELS.choose(random).expect("a level"),
            attempts: random.random_range(1..=3),
            rolls_back: random.random_range(0..8) == 0,
        }
    }

    pub(crate) fn options(&self) -> Options {
        self.level.options().isolation(self.level.isolation).attempts(self.attempts)
    }

    fn steps(&self) -> u64 {
        2 + self.lines.iter().map(|line| if line.scope.is_some() { 3 } else { 1 }).sum::<u64>()
    }
}

impl Pair {
    /// Two programs of these statements at the first level. The second one ends as requested.
    pub(crate) fn of<E: Engine>(one: &[Statement], other: &[Statement], rolls_back: bool) -> Self {
        Self([vec![Program::of::<E>(one, false)], vec![Program::of::<E>(other, rolls_back)]])
    }

    /// Generates the pair of a seed.
    pub(crate) fn random<E: Engine>(seed: u64) -> Self {
        let random = &mut StdRng::seed_from_u64(seed);
        loop {
            let pair: [Vec<Program>; 2] = std::array::from_fn(|_| {
                let (programs, max_lines) = if random.random_range(0..3) == 0 { (2, 1) } else { (1, 3) };
                (0..programs).map(|_| Program::random::<E>(random, max_lines)).collect()
            });
            let [one, other] = pair.each_ref().map(|client| client.iter().map(Program::steps).sum::<u64>());
            let orders = (1..=other).fold(1, |orders, i| orders * (one + i) / i);
            if orders <= MAX_ORDERS {
                return Self(pair);
            }
        }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clients = self.0.iter().enumerate();
        for (client, program) in
            clients.flat_map(|(i, client)| client.iter().map(move |program| (i, program)))
        {
            let end = if program.rolls_back { "rolls back" } else { "commits" };
            writeln!(f, "{client}: {}, {} attempts, {end}", program.level.name, program.attempts)?;
            for Line { statement, scope } in &program.lines {
                writeln!(
                    f,
                    "    {statement:?} {}",
                    scope.map(|scope| format!("{scope:?}")).unwrap_or_default()
                )?;
            }
        }
        Ok(())
    }
}
