//! Statements that sessions keep, sent together with what is set for them.

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection};

use super::limits;
use crate::strategy::Limits;

/// A statement that sessions keep prepared, under a name with the version of its text.
///
/// # Why `PREPARE`, and not the driver's statements?
///
/// To plan such a statement takes several times as long as to run it, so it has to be kept. The driver sends
/// one of its own statements in a round trip, and what is to be set for it in others, with BEGIN and COMMIT
/// around them. A text can have all of that in it, and is one transaction. A session that does not know the
/// statement says so, and has done nothing. That also happens behind a pooler that hands out sessions by the
/// transaction, where the driver's own names, which are numbers, may stand for another client's statement.
#[derive(Debug)]
pub(crate) struct Kept {
    name: String,
    parameters: String,
    statement: String,
}

impl Kept {
    /// Two with the same name are the same statement.
    pub(crate) fn new(name: &str, parameters: &str, statement: String) -> Self {
        let name = format!("atomically {} {name}", env!("CARGO_PKG_VERSION"));
        Self { name, parameters: parameters.to_owned(), statement }
    }

    /// Runs it in a transaction of its own for which these settings and limits hold.
    pub(crate) async fn fetch(
        &self,
        connection: &mut PgConnection,
        settings: &str,
        limits: Limits,
        arguments: &str,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let limits = limits::of_statement(&limits);
        let mut send = async |text: String| {
            let text = format!("{settings}{limits}; {text}");
            sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(&mut *connection).await
        };
        match send(self.execute(arguments)).await {
            Err(error) if has_code(&error, UNKNOWN) => {}
            answer => return answer,
        }
        match send(self.prepare(&self.name) + &self.execute(arguments)).await {
            Err(error) if has_code(&error, KNOWN_ALREADY) => {}
            answer => return answer,
        }
        // Behind a pooler, these were two sessions, and nobody can tell what the next one knows.
        let once = format!("{} {}", self.name, rand::random::<u32>());
        send(format!("{}EXECUTE \"{once}\" ({arguments}); DEALLOCATE \"{once}\"", self.prepare(&once))).await
    }

    /// The text of it for sessions that know it.
    pub(crate) fn execute(&self, arguments: &str) -> String {
        format!("EXECUTE \"{}\" ({arguments})", self.name)
    }

    fn prepare(&self, name: &str) -> String {
        format!("PREPARE \"{name}\" ({}) AS {}; ", self.parameters, self.statement)
    }
}

/// `invalid_sql_statement_name`
const UNKNOWN: &str = "26000";

/// `duplicate_prepared_statement`
const KNOWN_ALREADY: &str = "42P05";

fn has_code(error: &sqlx::Error, code: &str) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|found| found == code)
}
