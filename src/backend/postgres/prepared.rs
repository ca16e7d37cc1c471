//! Prepared statements that are sent together with their settings.

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection};

use super::limits;
use crate::strategy::Limits;

/// A statement that each session prepares once, under a name that contains the crate's version.
///
/// # Why `PREPARE`, and not a prepared statement of the driver?
///
/// Planning such a statement takes several times as long as executing it, so the plan must be reused. A
/// prepared statement of the driver takes one round trip, and BEGIN, the settings and COMMIT take more. With
/// `EXECUTE`, one text contains all of them and is one transaction. If the session has not prepared the
/// statement, the text fails without an effect. This also works behind a pooler in transaction mode, where
/// the driver's own names, which are numbers, may stand for another client's statement.
#[derive(Debug)]
pub(crate) struct PreparedStatement {
    name: String,
    parameters: String,
    statement: String,
}

impl PreparedStatement {
    /// Creates the statement. A name must always stand for the same statement.
    pub(crate) fn new(name: &str, parameters: &str, statement: String) -> Self {
        let name = format!("atomically {} {name}", env!("CARGO_PKG_VERSION"));
        Self { name, parameters: parameters.to_owned(), statement }
    }

    /// Executes the statement in a transaction of its own with these settings and limits.
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
            Err(error) if has_code(&error, NOT_PREPARED) => {}
            answer => return answer,
        }
        match send(self.prepare(&self.name) + &self.execute(arguments)).await {
            Err(error) if has_code(&error, ALREADY_PREPARED) => {}
            answer => return answer,
        }
        // A pooler has used different sessions for the two texts, and the next session may or may not have
        // the statement.
        let once = format!("{} {}", self.name, rand::random::<u32>());
        send(format!("{}EXECUTE \"{once}\" ({arguments}); DEALLOCATE \"{once}\"", self.prepare(&once))).await
    }

    /// Returns the text that executes it in a session that has prepared it.
    pub(crate) fn execute(&self, arguments: &str) -> String {
        format!("EXECUTE \"{}\" ({arguments})", self.name)
    }

    fn prepare(&self, name: &str) -> String {
        format!("PREPARE \"{name}\" ({}) AS {}; ", self.parameters, self.statement)
    }
}

/// `invalid_sql_statement_name`
const NOT_PREPARED: &str = "26000";

/// `duplicate_prepared_statement`
const ALREADY_PREPARED: &str = "42P05";

fn has_code(error: &sqlx::Error, code: &str) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|found| found == code)
}
