//! What PostgreSQL and its driver show to who looks closely.

use crate::backend::LockWait;
use crate::backend::values::{all_between, bytes_after, hex, quoted, take};

/// Out of the driver's `Debug` output.
pub(super) fn arguments(arguments: &str) -> Option<Vec<String>> {
    let (types, _) = arguments.split_once("buffer:")?;
    let types = all_between(types, "PgTypeInfo(", ')');
    let bytes = bytes_after(arguments, "PgArgumentBuffer { buffer: [")?;
    let mut rest = bytes.as_slice();
    types.into_iter().map(|name| value(name, &mut rest)).collect()
}

/// A value behind its length.
fn value(type_name: &str, rest: &mut &[u8]) -> Option<String> {
    let Ok(length) = usize::try_from(i32::from_be_bytes(take(rest)?)) else {
        return Some(String::from("NULL"));
    };
    let (value, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(match type_name {
        "Bool" => (value == [1]).to_string(),
        "Int2" => i16::from_be_bytes(value.try_into().ok()?).to_string(),
        "Int4" => i32::from_be_bytes(value.try_into().ok()?).to_string(),
        "Int8" => i64::from_be_bytes(value.try_into().ok()?).to_string(),
        "Float4" => f32::from_be_bytes(value.try_into().ok()?).to_string(),
        "Float8" => f64::from_be_bytes(value.try_into().ok()?).to_string(),
        "Text" | "Varchar" | "Bpchar" | "Name" => quoted(str::from_utf8(value).ok()?),
        "Bytea" => hex(value),
        "Uuid" => uuid(value.try_into().ok()?),
        _ => String::from("…"),
    })
}

fn uuid(bytes: [u8; 16]) -> String {
    let digits = format!("{:032x}", u128::from_be_bytes(bytes));
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
    quoted(&parts.join("-"))
}

/// `42 {17,18} a row of account (ShareLock)`
pub(super) fn lock_wait(line: &str) -> Vec<LockWait> {
    let read = || {
        let (session, rest) = line.split_once(" {")?;
        let (blocked_by, lock) = rest.split_once("} ")?;
        let blocked_by = blocked_by.split(',').filter_map(|session| session.parse().ok()).collect();
        Some(LockWait { session: session.parse().ok()?, blocked_by, lock: lock.to_owned() })
    };
    read().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use sqlx::Arguments as _;
    use sqlx::postgres::PgArguments;

    use super::*;

    /// The driver's output is nobody's promise: this says when it has changed.
    #[test]
    fn arguments_are_read() {
        let mut bound = PgArguments::default();
        bound.add(7_i64).expect("an argument");
        bound.add("it's").expect("an argument");
        bound.add(None::<i64>).expect("an argument");
        bound.add(true).expect("an argument");
        bound.add(1.5_f64).expect("an argument");
        bound.add(vec![1_i64, 2]).expect("an argument");
        bound.add(vec![1_u8, 255]).expect("an argument");
        bound.add(-3_i32).expect("an argument");
        let shown = arguments(&format!("{bound:?}")).expect("the output of this driver");
        assert_eq!(shown, ["7", "'it''s'", "NULL", "true", "1.5", "…", "x'01ff'", "-3"]);
        assert_eq!(arguments("PgArguments { something: else }"), None);
    }

    #[test]
    fn uuids_are_spelled_as_usual() {
        let arguments = arguments(
            "PgArguments { types: [PgTypeInfo(Uuid)], buffer: PgArgumentBuffer { buffer: [0, 0, 0, 16, 0, 17, 34, 51, \
             68, 85, 102, 119, 136, 153, 170, 187, 204, 221, 238, 255], count: 1 } }",
        );
        assert_eq!(arguments.expect("a value"), ["'00112233-4455-6677-8899-aabbccddeeff'"]);
    }

    #[test]
    fn waits_are_read() {
        let wait = LockWait {
            session: 42,
            blocked_by: vec![17, 18],
            lock: String::from("a row of account (ShareLock)"),
        };
        assert_eq!(lock_wait("42 {17,18} a row of account (ShareLock)"), [wait]);
        assert_eq!(lock_wait("something else"), []);
    }
}
