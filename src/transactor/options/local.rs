//! Settings and roles of single transactions.

use std::fmt;
use std::sync::Arc;

use super::Options;
use crate::local_settings::LocalSettings;

/// # Settings of the transaction
impl Options {
    /// PostgreSQL: sets a configuration parameter for each transaction, as `SET LOCAL` and
    /// `set_config(name, value, true)` do.
    ///
    /// Row-level security and audit triggers read such settings:
    ///
    /// ```
    /// # use atomically::{Error, Options, Pessimistic, TransactorExt as _};
    /// # async fn example(pool: sqlx::PgPool, tenant: i64) -> Result<(), Error> {
    /// // CREATE POLICY own_rows ON invoice
    /// //     USING (tenant = nullif(current_setting('app.tenant_id', true), '')::bigint)
    /// let db = Pessimistic::default().on(&pool);
    /// let invoices = db
    ///     .with(Options::new().setting("app.tenant_id", tenant))
    ///     .run(async |tx| -> Result<i64, Error> {
    ///         Ok(sqlx::query_scalar("SELECT count(*) FROM invoice").fetch_one(&mut *tx).await?)
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// The setting is sent in the round trip that opens the transaction, so it takes no time, and each
    /// attempt gets it again. It ends with the transaction: the next run on the same connection does not see
    /// it. A rollback to a savepoint keeps it. Names and values are quoted, so they may come from anywhere.
    ///
    /// Call it again for further settings. A later value of the same name replaces an earlier one, and the
    /// options of a run take precedence over those of its transactor, name by name.
    ///
    /// # What it applies to
    ///
    /// To units of work, to the batches of [`Deltas`](crate::Deltas), to the transactions of a queue, and to
    /// [`apply`](crate::PoolTransactor::apply), which then runs its statement in a transaction. With
    /// [`resolve_commits`](Self::resolve_commits), the operation is recorded *before* the settings and the
    /// role take effect, so they need no access to that table. Idempotency keys and jobs that the unit
    /// enqueues are written by the unit's transaction, and so with its settings and its role.
    ///
    /// # After the transaction
    ///
    /// PostgreSQL does not forget the *name* of a setting with a dot: on a connection that has once set it,
    /// `current_setting('app.tenant_id', true)` returns an empty string, not NULL. A policy that converts the
    /// value has to expect it, as above.
    ///
    /// # Errors
    ///
    /// The run fails before it begins a transaction with
    ///
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) on MySQL, MariaDB and SQLite;
    /// - [`InvalidInput`](crate::ErrorKind::InvalidInput) if the name or the value contains a NUL, if a part
    ///   of the name is empty or has more than 63 bytes, and for parameters that this crate or sqlx depends
    ///   on, such as `statement_timeout`: most of these have an option of their own.
    ///
    /// A name or value that the server refuses ends the run with the server's error.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl fmt::Display) -> Self {
        self.local_mut().set(name.into(), value.to_string());
        self
    }

    /// PostgreSQL: runs each transaction under this role, as `SET LOCAL ROLE` does.
    ///
    /// The unit then has the privileges of the role, and the policies of row-level security apply to it, even
    /// if the session's own role is the owner of the tables. Everything that is said about
    /// [`setting`](Self::setting) holds for the role as well. The settings are set first, so the role need
    /// not be allowed to set them. The name is case-sensitive.
    ///
    /// The role limits the unit's own statements, and not an attacker who can inject SQL: `RESET ROLE`
    /// undoes it.
    ///
    /// # Errors
    ///
    /// As for [`setting`](Self::setting). The server refuses a role that does not exist, or of which the
    /// session's role is not a member.
    #[must_use]
    pub fn role(mut self, name: impl Into<String>) -> Self {
        self.local_mut().role = Some(name.into());
        self
    }

    fn local_mut(&mut self) -> &mut LocalSettings {
        Arc::make_mut(self.local.get_or_insert_default())
    }

    /// Returns the settings of each transaction, if there are any.
    pub(in crate::transactor) fn local_settings(&self) -> Option<&LocalSettings> {
        self.local.as_deref()
    }
}

/// Merges the settings of options with those of their base.
pub(super) fn merged(
    own: Option<&Arc<LocalSettings>>,
    base: Option<&Arc<LocalSettings>>,
) -> Option<Arc<LocalSettings>> {
    match (own, base) {
        (Some(own), Some(base)) => Some(Arc::new(own.or(base))),
        (own, base) => own.or(base).cloned(),
    }
}
