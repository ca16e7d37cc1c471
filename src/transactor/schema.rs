//! Creates and checks the tables of the crate.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::{AssertSqlSafe, Pool, SqlSafeStr as _};
use tokio::time::{Instant, sleep};

use crate::backend::{Backend, CatalogScope, WatchedQuery, required};
use crate::error::Error;
use crate::failure::{Failure, FailureKind};
use crate::isolation::Isolation;
use crate::schema::{Definition, Schema, SchemaFinding, SchemaPart, VERSION_TABLE, definitions};
use crate::strategy::{Attempt, Plan, Strategy, Verdict};
use crate::tx::Tx;

use super::{Options, PoolTransactor, TransactorExt as _};

/// The maximum length of a prefix: PostgreSQL truncates names at 63 bytes, and the longest is
/// `atomically_key_expires_at`.
const MAX_PREFIX: usize = 32;

impl Schema {
    /// Returns all tables, with a prefix before their names and those of their indexes: with `app_`, the
    /// table of jobs is `app_atomically_job`.
    ///
    /// Pass the schema to [`Options::schema`](crate::Options::schema), so that transactors and queues use
    /// these tables.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput): the prefix is longer than 32 bytes, or has other
    /// characters than lower-case ASCII letters, digits and `_`, or begins with a digit.
    pub fn prefixed(prefix: &'static str) -> Result<Self, Error> {
        let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let begins_with_digit = prefix.starts_with(|c: char| c.is_ascii_digit());
        if prefix.len() > MAX_PREFIX || begins_with_digit || !prefix.chars().all(is_allowed) {
            return Err(Error::invalid_input(format!(
                "invalid table prefix of {} bytes: a prefix has up to {MAX_PREFIX} characters of a-z 0-9 _ \
                 and does not begin with a digit",
                prefix.len()
            )));
        }
        Ok(Self::with_prefix(prefix))
    }

    /// Returns the definitions of the tables for a database, for use in migrations.
    ///
    /// Each statement ends with a semicolon, and does nothing if what it creates exists.
    #[must_use]
    pub fn sql<DB: Backend>(self) -> String {
        self.of_file(DB::DDL)
    }

    /// Creates the tables and indexes that do not exist, even if other processes do so at the same time.
    ///
    /// Reads the catalog first and locks nothing if nothing is missing, so it can be called at each start.
    /// Existing tables are not altered. Creating a missing index locks its table: on PostgreSQL, MySQL and
    /// MariaDB, this waits for the lock for at most one second at a time, because other transactions queue
    /// behind the wait, and gives up after about eight seconds. For a large table that is in use, create the
    /// index in a migration instead, on PostgreSQL `CONCURRENTLY`.
    ///
    /// # Errors
    ///
    /// Returns the database's error; [`LockTimeout`](crate::ErrorKind::LockTimeout) if another transaction
    /// holds a conflicting lock.
    pub async fn create<DB: Backend>(self, pool: &Pool<DB>) -> Result<(), Error> {
        PoolTransactor::new(SchemaCreation, pool).create_missing(self).await
    }

    /// Compares the tables in the database with those that this release needs. An empty list means that
    /// nothing is missing or old.
    ///
    /// Call it when the program starts, where migrations create the tables. It reads the catalog and the
    /// table of versions, and locks nothing. For PostgreSQL it looks in all schemas of the `search_path`.
    ///
    /// # Errors
    ///
    /// Returns the database's error.
    pub async fn check<DB: Backend>(self, pool: &Pool<DB>) -> Result<Vec<SchemaFinding>, Error> {
        let definitions = definitions(&self.sql::<DB>());
        let db = PoolTransactor::new(SchemaCreation, pool);
        let found = db.find_tables(self, &definitions, CatalogScope::SearchPath).await?;
        Ok(definitions.iter().flat_map(|definition| found.lacks(definition)).collect())
    }
}

impl<DB: Backend, S: Strategy> PoolTransactor<DB, S> {
    /// Creates the tables of one part that do not exist, with the prefix of the options.
    pub(crate) async fn create_part(&self, part: SchemaPart) -> Result<(), Error> {
        self.for_upkeep(SchemaCreation).create_missing(self.schema().only(&[part])).await
    }
}

impl<DB: Backend> PoolTransactor<DB, SchemaCreation> {
    /// If another session holds a lock, waits for it repeatedly for one second each, because all later
    /// statements on the table queue behind each wait.
    async fn create_missing(&self, schema: Schema) -> Result<(), Error> {
        let definitions = &definitions(&schema.sql::<DB>());
        let found = self.find_tables(schema, definitions, CatalogScope::Creation).await?;
        if definitions.iter().all(|definition| found.has(definition)) {
            return Ok(());
        }
        let (engine, begun) = (self.engine().await?, Instant::now());
        loop {
            let texts = &DB::create_missing(&engine, definitions);
            let sql = AssertSqlSafe(texts.join("; ")).into_sql_str();
            let created = self.run_on_connection(sql, |connection, _| create::<DB>(connection, texts)).await;
            match created {
                Err(error) if error.is_lock_timeout() && begun.elapsed() < LOCK_LIMIT => sleep(PAUSE).await,
                created => return created,
            }
        }
    }

    /// Reads the catalog, and the recorded versions.
    async fn find_tables(
        &self,
        schema: Schema,
        definitions: &[Definition],
        scope: CatalogScope,
    ) -> Result<FoundTables, Error> {
        let tables: Vec<_> = definitions.iter().filter_map(table_name).collect();
        let catalog = DB::catalog(&tables, scope);
        let version_table = schema.everywhere_in(VERSION_TABLE);
        let versions = format!("SELECT part, version FROM {version_table}");
        let find = async |tx: &mut Tx<DB>| {
            let mut found = FoundTables::default();
            for row in tx.fetch_rows(WatchedQuery::with_values(catalog.clone(), [])?).await? {
                found.note(&required(DB::text(&row, 0)?, 0)?);
            }
            if found.tables.contains(&version_table) {
                for row in tx.fetch_rows(WatchedQuery::with_values(versions.clone(), [])?).await? {
                    let part = required(DB::text(&row, 0)?, 0)?;
                    let version = required(DB::integer(&row, 1)?, 1)?;
                    found.versions.insert(part, u32::try_from(version).unwrap_or_default());
                }
            }
            Ok(found)
        };
        self.with(Options::new().queries_only()).run(find).await
    }
}

fn table_name(definition: &Definition) -> Option<&str> {
    match definition {
        Definition::Table { name, .. } => Some(name),
        Definition::Index { .. } | Definition::Version { .. } => None,
    }
}

/// What exists of the crate's tables.
#[derive(Debug, Default)]
struct FoundTables {
    tables: BTreeSet<String>,
    /// The names of tables and columns.
    columns: BTreeSet<(String, String)>,
    indexes: BTreeSet<String>,
    versions: BTreeMap<String, u32>,
}

impl FoundTables {
    /// Adds a row of the catalog.
    fn note(&mut self, row: &str) {
        match *row.split(' ').collect::<Vec<_>>() {
            ["table", name] => drop(self.tables.insert(name.to_owned())),
            ["column", table, name] => drop(self.columns.insert((table.to_owned(), name.to_owned()))),
            ["index", name] => drop(self.indexes.insert(name.to_owned())),
            _ => {}
        }
    }

    /// Returns whether there is nothing to create.
    fn has(&self, definition: &Definition) -> bool {
        match definition {
            Definition::Table { name, indexes, .. } => {
                self.tables.contains(name) && indexes.iter().all(|index| self.indexes.contains(&index.name))
            }
            Definition::Index { name, .. } => self.indexes.contains(name),
            Definition::Version { part, .. } => self.versions.contains_key(part.as_str()),
        }
    }

    fn lacks(&self, definition: &Definition) -> Vec<SchemaFinding> {
        match definition {
            Definition::Table { name, statement, .. } if !self.tables.contains(name) => {
                vec![SchemaFinding::MissingTable { table: name.clone(), statement: statement.clone() }]
            }
            Definition::Table { name: table, columns, indexes, .. } => {
                let add = |text: &str| format!("ALTER TABLE {table} ADD {text}");
                let columns = columns
                    .iter()
                    .filter(|column| !self.columns.contains(&(table.clone(), column.name.clone())))
                    .map(|column| SchemaFinding::MissingColumn {
                        table: table.clone(),
                        column: column.name.clone(),
                        statement: add(&format!("COLUMN {}", column.text)),
                    });
                let indexes =
                    indexes.iter().filter(|index| !self.indexes.contains(&index.name)).map(|index| {
                        let (index, statement) = (index.name.clone(), add(&index.text));
                        SchemaFinding::MissingIndex { table: table.clone(), index, statement }
                    });
                columns.chain(indexes).collect()
            }
            Definition::Index { name, table, statement } => {
                let is_missing = self.tables.contains(table) && !self.indexes.contains(name);
                let (table, index, statement) = (table.clone(), name.clone(), statement.clone());
                is_missing
                    .then_some(SchemaFinding::MissingIndex { table, index, statement })
                    .into_iter()
                    .collect()
            }
            Definition::Version { part, statement } => self.version(*part, statement).into_iter().collect(),
        }
    }

    fn version(&self, part: SchemaPart, statement: &str) -> Option<SchemaFinding> {
        let wanted = part.version();
        match self.versions.get(part.as_str()) {
            // A missing table of versions is reported as such.
            None if !self.tables.iter().any(|table| table.ends_with(VERSION_TABLE)) => None,
            None => Some(SchemaFinding::MissingVersion { part, statement: statement.to_owned() }),
            Some(found) if *found < wanted => Some(SchemaFinding::Old { part, found: *found }),
            Some(found) if *found > wanted => Some(SchemaFinding::New { part, found: *found }),
            Some(_) => None,
        }
    }
}

/// The time after which no further wait for a lock on a table begins.
const LOCK_LIMIT: Duration = Duration::from_secs(8);

/// The pause between two waits, in which the statements that queued behind the last one can run.
const PAUSE: Duration = Duration::from_millis(200);

/// Retries every retryable failure except a lock timeout, which [`PoolTransactor::create_missing`] handles.
#[derive(Debug)]
struct SchemaCreation;

impl Strategy for SchemaCreation {
    fn plan(&self, _attempt: &Attempt) -> Plan {
        Plan::new(Isolation::ReadCommitted)
    }

    fn verdict(&self, failure: &Failure) -> Verdict {
        if failure.kind() == FailureKind::LockTimeout || !failure.is_retryable() {
            Verdict::GiveUp
        } else {
            Verdict::RunAgain
        }
    }
}

/// Creates the tables that do not exist, and restores the settings of the session.
fn create<'c, DB: Backend>(
    connection: &'c mut DB::Connection,
    texts: &[String],
) -> BoxFuture<'c, Result<(), sqlx::Error>> {
    let texts = texts.to_vec();
    Box::pin(async move {
        let mut failed = None;
        for text in texts {
            failed = DB::send_text(connection, text).await.error;
            if failed.is_some() {
                break;
            }
        }
        let Some(error) = failed else { return Ok(()) };
        if let Some(restore) = DB::RESTORE_AFTER_FAILED_CREATION {
            // If this fails as well, the session is closed because of the first error.
            let _ = DB::send_text(connection, restore.to_owned()).await;
        }
        Err(error)
    })
}
