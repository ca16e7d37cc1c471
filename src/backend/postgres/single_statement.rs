//! Additions that are checked and made in one round trip.

use std::sync::Arc;

use futures_core::future::BoxFuture;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::PgArgumentBuffer;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row as _, SqlSafeStr as _, SqlStr};

use super::literals::{numbers, texts};
use super::prepared::PreparedStatement;
use crate::backend::additions::{AddInOneStatement, Addition, Target};
use crate::backend::codec::Key;
use crate::digest::digest;
use crate::strategy::Limits;

/// The settings of the statement's transaction.
///
/// Planning takes longer than executing, but the server would plan each list of values anew, because it
/// estimates that to be cheaper. The settings therefore force a generic plan. It has to suit growing tables
/// too, so it looks up each row by its key.
const SETTINGS: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; \
                        SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off; \
                        SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off";

/// Types that either store a sum exactly or fail. Floating point rounds the sum.
const EXACT: &str = "('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype, 'numeric'::regtype)";

/// The condition that a changed table can store another number than the sum: because of a user's trigger,
/// unless it runs before the update and per statement (bits of `tgtype`: 1 per row, 2 before, 16 update), or
/// because of a `numeric` that rounds to tens.
const MAY_CHANGE_SUM: &str = "EXISTS (SELECT FROM pg_catalog.pg_trigger \
         WHERE tgrelid IN (SELECT relation FROM changed) AND NOT tgisinternal \
         AND tgtype & 16 = 16 AND tgtype & 3 <> 2) \
     OR EXISTS (SELECT FROM pg_catalog.pg_attribute \
         WHERE attrelid IN (SELECT relation FROM changed) AND atttypid = 'numeric'::regtype \
         AND atttypmod >= 4 AND (atttypmod - 4) & 1024 = 1024)";

/// Adds to the rows whose numbers are within the requested range, in one statement.
///
/// # Why does it not lock the rows first?
///
/// A row lock is written to the row and to the log like a change, and is nearly as expensive.
struct AddStatement {
    prepared: Arc<PreparedStatement>,
    sql: SqlStr,
    keys: BoundKeys,
}

/// Returns the statement; `None` if values of the key's type cannot be written into a text.
pub(super) fn statement<K: Key<Postgres>>(target: Target) -> Option<Box<dyn AddInOneStatement<Postgres, K>>> {
    let keys = BoundKeys::of::<K>()?;
    let Target { table, key, column } = target;
    let exactly = keys.exactly(key);
    // The division by zero makes the statement fail if several rows have the same key, or if the table can
    // store another number than the sum: `RETURNING` returns neither the previous number nor the one that a
    // trigger stores later.
    let sql = format!(
        "WITH changed AS (\
             UPDATE {table} AS target SET {column} = target.{column} + addition.delta \
             FROM ROWS FROM (unnest($1), unnest($2), unnest($3), unnest($4)) WITH ORDINALITY \
                 AS addition (id, delta, least, most, place) \
             WHERE target.{key} = addition.id{exactly} \
             AND target.{column} BETWEEN addition.least AND addition.most \
             AND pg_typeof(target.{column}) IN {EXACT} AND CAST(target.{column} AS BIGINT) = target.{column} \
             RETURNING addition.place, CAST(target.{column} AS BIGINT) - addition.delta AS before, \
                 target.tableoid AS relation\
         ) SELECT place, before, 1 / CASE WHEN count(*) OVER (PARTITION BY place) <> 1 OR {MAY_CHANGE_SUM} \
             THEN 0 ELSE 1 END FROM changed"
    );
    let name = format!("add {}", digest(&sql));
    let parameters = format!("{}[], bigint[], bigint[], bigint[]", keys.name());
    let prepared = Arc::new(PreparedStatement::new(&name, &parameters, sql.clone()));
    Some(Box::new(AddStatement { prepared, sql: AssertSqlSafe(sql).into_sql_str(), keys }))
}

impl<K: Key<Postgres>> AddInOneStatement<Postgres, K> for AddStatement {
    fn sql(&self) -> SqlStr {
        self.sql.clone()
    }

    fn add<'c>(
        &self,
        connection: &'c mut PgConnection,
        additions: &[Addition<'_, K>],
        limits: &Limits,
    ) -> BoxFuture<'c, Result<Vec<(usize, i64)>, sqlx::Error>> {
        let arguments = self.keys.array(additions).map(|keys| {
            let list =
                |number: fn(&Addition<'_, K>) -> i64| numbers(additions.iter().map(|one| Some(number(one))));
            let [deltas, least, most] =
                [list(|one| one.delta), list(|one| *one.to.start()), list(|one| *one.to.end())];
            format!("{keys}, '{deltas}', '{least}', '{most}'")
        });
        let (prepared, limits) = (self.prepared.clone(), *limits);
        Box::pin(async move {
            let arguments = arguments.map_err(sqlx::Error::Encode)?;
            let rows = prepared.fetch(connection, SETTINGS, limits, &arguments).await?;
            let place_and_number = |row: &sqlx::postgres::PgRow| {
                let place: i64 = row.try_get(0)?;
                Ok((usize::try_from(place - 1).unwrap_or(usize::MAX), row.try_get(1)?))
            };
            rows.iter().map(place_and_number).collect()
        })
    }
}

/// A type of keys whose values can be written into a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BoundKeys {
    SmallInt,
    Integer,
    BigInt,
    Text,
    Uuid,
}

impl BoundKeys {
    /// Identifies the type by its OID, which is
    /// [fixed](https://github.com/postgres/postgres/blob/master/src/include/catalog/pg_type.dat).
    fn of<K: Key<Postgres>>() -> Option<Self> {
        match K::type_info().oid()?.0 {
            20 => Some(Self::BigInt),
            21 => Some(Self::SmallInt),
            23 => Some(Self::Integer),
            25 => Some(Self::Text),
            2950 => Some(Self::Uuid),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::SmallInt => "smallint",
            Self::Integer => "integer",
            Self::BigInt => "bigint",
            Self::Text => "text",
            Self::Uuid => "uuid",
        }
    }

    /// Returns the condition that a row's key also equals the key in Rust, and has the type that the driver
    /// decodes.
    ///
    /// The database may regard texts as equal that differ in case, or in trailing blanks as in `char(n)`.
    /// `concat` returns the text that a client receives.
    fn exactly(self, key: &str) -> String {
        match self {
            Self::Text => format!(" AND concat(target.{key}) = addition.id COLLATE \"C\""),
            _ => format!(" AND pg_typeof(target.{key}) = '{}'::regtype", self.name()),
        }
    }

    fn array<K: Key<Postgres>>(self, additions: &[Addition<'_, K>]) -> Result<String, BoxDynError> {
        let values: Vec<Vec<u8>> =
            additions.iter().map(|addition| encoded(addition.key)).collect::<Result<_, _>>()?;
        Ok(match self {
            Self::Text => {
                let values: Vec<&str> =
                    values.iter().map(|value| std::str::from_utf8(value)).collect::<Result<_, _>>()?;
                texts(values.into_iter().map(Some))
            }
            Self::Uuid => {
                let digits =
                    |value: &Vec<u8>| value.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                format!("'{}'", numbers(values.iter().map(|value| Some(digits(value)))))
            }
            Self::SmallInt | Self::Integer | Self::BigInt => {
                let values: Vec<i64> = values.iter().map(|value| integer(value)).collect::<Result<_, _>>()?;
                format!("'{}'", numbers(values.into_iter().map(Some)))
            }
        })
    }
}

/// Encodes a key as a bound value would be.
fn encoded<K: Key<Postgres>>(key: &K) -> Result<Vec<u8>, BoxDynError> {
    let mut buffer = PgArgumentBuffer::default();
    match key.encode_by_ref(&mut buffer)? {
        IsNull::No => Ok(buffer.to_vec()),
        IsNull::Yes => Err("a key that is NULL finds no row".into()),
    }
}

/// Decodes a big-endian integer of two, four or eight bytes.
fn integer(bytes: &[u8]) -> Result<i64, BoxDynError> {
    if let Ok(bytes) = bytes.try_into() {
        return Ok(i64::from_be_bytes(bytes));
    }
    if let Ok(bytes) = bytes.try_into() {
        return Ok(i32::from_be_bytes(bytes).into());
    }
    Ok(i16::from_be_bytes(bytes.try_into()?).into())
}
