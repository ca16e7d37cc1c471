//! A client that sends the statements of its programs one by one, as the crate would.

use crate::engine::{Answer, Engine};
use crate::program::{Line, Program, Scope};

/// The next statement of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    Begin,
    /// The savepoint around a line.
    Savepoint(usize),
    Line(usize),
    /// The release or rollback of the savepoint around a line.
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
    /// The index of the current program.
    unit: usize,
    pub(crate) at: At,
    attempt: u32,
    /// The values that the attempt has read.
    seen: Vec<i64>,
    /// Whether a statement ended with a deadlock.
    pub(crate) deadlock: bool,
    /// The results of the programs.
    pub(crate) results: Vec<String>,
    /// A statement was sent and has no response yet.
    pub(crate) in_flight: bool,
    /// SQLite: the database was busy when this number of transactions had ended.
    pub(crate) busy: Option<usize>,
    /// SQLite: a statement has run, so the transaction holds a lock and does not wait for another one.
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
            results: Vec::new(),
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

    /// Whether the current statement must find a row.
    fn expects_one(&self) -> bool {
        matches!(self.at, At::Line(line) if self.program().lines[line].statement.expects_one())
    }

    /// Advances by the response to the current statement. Returns whether a transaction has ended.
    pub(crate) fn receive(&mut self, answer: &Answer) -> bool {
        self.in_flight = false;
        self.busy = None;
        let failed = match answer {
            Answer::Ok(None) if self.expects_one() => Some(End::Conflict),
            Answer::Ok(_) => None,
            Answer::Busy | Answer::Conflict => Some(End::Conflict),
            Answer::Deadlock => {
                self.deadlock = true;
                Some(End::Conflict)
            }
            Answer::Violation => Some(End::Violation),
        };
        if let Some(end) = failed {
            match (self.at, end) {
                (At::Line(line), End::Violation) if self.program().lines[line].scope.is_some() => {
                    self.at = At::ScopeEnd(line, Scope::Undone);
                }
                // A failed COMMIT has ended the transaction.
                (At::Commit, End::Conflict) => {
                    self.retry();
                    return true;
                }
                (At::RollBack(_) | At::Done, _) => panic!("a rollback failed: {answer:?}"),
                (At::Begin, End::Conflict) => self.retry(),
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
                if let Answer::Ok(Some(value)) = answer
                    && statement.reads()
                {
                    self.seen.push(*value);
                }
                self.at = scope.map_or_else(|| self.next_line(line + 1), |scope| At::ScopeEnd(line, scope));
            }
            At::ScopeEnd(line, _) => self.at = self.next_line(line + 1),
            At::Commit => self.end_program(format!("committed {:?}", self.seen)),
            At::RollBack(End::ByItself) => self.end_program(format!("rolled back {:?}", self.seen)),
            At::RollBack(End::Violation) => self.end_program(String::from("violation")),
            At::RollBack(End::Conflict) => self.retry(),
            At::Done => {}
        }
        ended
    }

    fn end_program(&mut self, result: String) {
        self.results.push(result);
        if self.unit + 1 == self.programs.len() {
            self.at = At::Done;
        } else {
            self.unit += 1;
            (self.at, self.attempt) = (At::Begin, 1);
        }
    }

    fn retry(&mut self) {
        if self.attempt == self.program().attempts {
            self.end_program(String::from("exhausted"));
        } else {
            self.attempt += 1;
            self.at = At::Begin;
        }
    }

    /// Whether SQLite's busy handler waits for the lock.
    pub(crate) fn waits_when_busy(&self) -> bool {
        !self.has_run || !matches!(self.at, At::Line(_))
    }
}
