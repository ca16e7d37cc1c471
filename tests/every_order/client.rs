//! A client that runs its programs by hand: which statement comes next, and what it makes of the answer.

use crate::engine::{Engine, Told};
use crate::program::{Line, Program, Scope};

/// Where a client is in its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    Begin,
    /// In front of the savepoint of a line, the line, or the end of its savepoint.
    Savepoint(usize),
    Line(usize),
    ScopeEnd(usize, Scope),
    Commit,
    RollBack(End),
    Done,
}

/// Why a transaction is rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    ByItself,
    Violation,
    Conflict,
}

pub(crate) struct Client<'p> {
    programs: &'p [Program],
    /// Which of them it is at.
    unit: usize,
    pub(crate) at: At,
    attempt: u32,
    seen: Vec<i64>,
    pub(crate) deadlock: bool,
    pub(crate) told: Vec<String>,
    /// A statement is on its way.
    pub(crate) in_flight: bool,
    /// SQLite: it was busy when so many transactions had ended.
    pub(crate) busy: Option<usize>,
    /// SQLite: a statement has run, so that the transaction has a lock and does not wait for another one.
    has_run: bool,
}

impl<'p> Client<'p> {
    pub(crate) fn new(programs: &'p [Program]) -> Self {
        Self {
            programs,
            unit: 0,
            at: At::Begin,
            attempt: 1,
            seen: Vec::new(),
            deadlock: false,
            told: Vec::new(),
            in_flight: false,
            busy: None,
            has_run: false,
        }
    }

    fn program(&self) -> &'p Program {
        &self.programs[self.unit]
    }

    pub(crate) fn sql<E: Engine>(&self) -> String {
        match self.at {
            At::Begin => self.program().level.begin.to_owned(),
            At::Savepoint(_) => String::from("SAVEPOINT a"),
            At::Line(line) => {
                self.program().lines[line].statement.sql::<E>(self.seen.last().copied().unwrap_or(0))
            }
            At::ScopeEnd(_, Scope::Kept) => String::from("RELEASE SAVEPOINT a"),
            At::ScopeEnd(_, Scope::Undone) => String::from("ROLLBACK TO SAVEPOINT a"),
            At::Commit => String::from("COMMIT"),
            At::RollBack(_) | At::Done => String::from("ROLLBACK"),
        }
    }

    fn next_line(&self, line: usize) -> At {
        match self.program().lines.get(line) {
            Some(next) if next.scope.is_some() => At::Savepoint(line),
            Some(_) => At::Line(line),
            None if self.program().rolls_back => At::RollBack(End::ByItself),
            None => At::Commit,
        }
    }

    /// Whether the statement that is on its way has to find a row.
    fn expects_one(&self) -> bool {
        matches!(self.at, At::Line(line) if self.program().lines[line].statement.expects_one())
    }

    /// Goes on with what it was told. Answers whether a transaction has ended.
    pub(crate) fn hears(&mut self, told: &Told) -> bool {
        self.in_flight = false;
        self.busy = None;
        let failed = match told {
            Told::Ok(None) if self.expects_one() => Some(End::Conflict),
            Told::Ok(_) => None,
            Told::Busy | Told::Conflict => Some(End::Conflict),
            Told::Deadlock => {
                self.deadlock = true;
                Some(End::Conflict)
            }
            Told::Violation => Some(End::Violation),
        };
        if let Some(end) = failed {
            match (self.at, end) {
                (At::Line(line), End::Violation) if self.program().lines[line].scope.is_some() => {
                    self.at = At::ScopeEnd(line, Scope::Undone);
                }
                // It has ended the transaction.
                (At::Commit, End::Conflict) => {
                    self.again();
                    return true;
                }
                (At::RollBack(_) | At::Done, _) => panic!("a rollback failed: {told:?}"),
                (At::Begin, End::Conflict) => self.again(),
                _ => self.at = At::RollBack(end),
            }
            return false;
        }
        let ended = matches!(self.at, At::Commit | At::RollBack(_));
        match self.at {
            At::Begin => {
                self.seen.clear();
                self.has_run = false;
                self.at = self.next_line(0);
            }
            At::Savepoint(line) => self.at = At::Line(line),
            At::Line(line) => {
                self.has_run = true;
                let Line { statement, scope } = self.program().lines[line];
                if let Told::Ok(Some(value)) = told
                    && statement.reads()
                {
                    self.seen.push(*value);
                }
                self.at = scope.map_or_else(|| self.next_line(line + 1), |scope| At::ScopeEnd(line, scope));
            }
            At::ScopeEnd(line, _) => self.at = self.next_line(line + 1),
            At::Commit => self.ends(format!("committed {:?}", self.seen)),
            At::RollBack(End::ByItself) => self.ends(format!("rolled back {:?}", self.seen)),
            At::RollBack(End::Violation) => self.ends(String::from("violation")),
            At::RollBack(End::Conflict) => self.again(),
            At::Done => {}
        }
        ended
    }

    fn ends(&mut self, told: String) {
        self.told.push(told);
        if self.unit + 1 == self.programs.len() {
            self.at = At::Done;
        } else {
            self.unit += 1;
            (self.at, self.attempt) = (At::Begin, 1);
        }
    }

    fn again(&mut self) {
        if self.attempt == self.program().attempts {
            self.ends(String::from("used up"));
        } else {
            self.attempt += 1;
            self.at = At::Begin;
        }
    }

    /// Whether SQLite waits by itself for the lock that it did not get.
    pub(crate) fn waits_when_busy(&self) -> bool {
        !self.has_run || !matches!(self.at, At::Line(_))
    }
}
