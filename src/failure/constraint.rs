//! Violated constraints.

/// A violated constraint: its kind and, as far as the database reports them, its name, table and columns.
///
/// # What each database reports
///
/// | | name | table | columns |
/// |---|---|---|---|
/// | PostgreSQL | all but not-null | all | unique, foreign key, not-null |
/// | MySQL, MariaDB | unique, foreign key, check | foreign key, check (MariaDB) | foreign key, not-null |
/// | SQLite | check | unique, not-null | unique, not-null |
///
/// On MySQL, MariaDB and SQLite, they are parsed from the message text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Constraint {
    /// The kind of the constraint.
    pub kind: ConstraintKind,
    /// The name of the constraint, or of the index that enforces it.
    pub name: Option<String>,
    /// The table of the constraint.
    pub table: Option<String>,
    /// The columns of the constraint, in the order in which the database names them.
    pub columns: Vec<String>,
}

impl Constraint {
    pub(crate) const fn new(kind: ConstraintKind) -> Self {
        Self { kind, name: None, table: None, columns: Vec::new() }
    }
}

/// The kind of a violated constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConstraintKind {
    /// A primary key or unique constraint: a row with this key exists already.
    Unique,
    /// A foreign key: the parent row does not exist, or rows that refer to it still do.
    ForeignKey,
    /// A NOT NULL column without a value.
    NotNull,
    /// A `CHECK` expression, a strict column type, or a view's check option.
    Check,
    /// An exclusion constraint of PostgreSQL.
    Exclusion,
}
