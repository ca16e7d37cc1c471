//! Keys that are written into the text of a statement.

use sqlx::Postgres;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::PgArgumentBuffer;

use super::literals::{numbers, texts};
use crate::backend::additions::Addition;
use crate::backend::codec::Key;

/// A type of keys whose values can be written into a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BoundKeys {
    SmallInt,
    Integer,
    BigInt,
    Text,
    Uuid,
}

impl BoundKeys {
    /// Identifies the type by its OID, which is
    /// [fixed](https://github.com/postgres/postgres/blob/master/src/include/catalog/pg_type.dat).
    pub(super) fn of<K: Key<Postgres>>() -> Option<Self> {
        match K::type_info().oid()?.0 {
            20 => Some(Self::BigInt),
            21 => Some(Self::SmallInt),
            23 => Some(Self::Integer),
            25 => Some(Self::Text),
            2950 => Some(Self::Uuid),
            _ => None,
        }
    }

    pub(super) const fn name(self) -> &'static str {
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
    pub(super) fn exactly(self, key: &str) -> String {
        match self {
            Self::Text => format!(" AND concat(target.{key}) = addition.id COLLATE \"C\""),
            _ => format!(" AND pg_typeof(target.{key}) = '{}'::regtype", self.name()),
        }
    }

    pub(super) fn array<K: Key<Postgres>>(
        self,
        additions: &[Addition<'_, K>],
    ) -> Result<String, BoxDynError> {
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
