//! Writes bound values as SQL literals.
//!
//! The driver shows its arguments only in their `Debug` output. The values that are read from it are sent to
//! the server, so the output has to match exactly, and a sample of every type is compared before the first
//! use.

use std::sync::OnceLock;

use sqlx::Arguments as _;
use sqlx::mysql::MySqlArguments;

use crate::backend::folded::{Literal, Unwritable};
use crate::backend::values::{byte_list, take};

/// Writes the values of a statement.
pub(super) fn literals(arguments: &MySqlArguments) -> Result<Vec<Literal>, Unwritable> {
    static IS_UNDERSTOOD: OnceLock<bool> = OnceLock::new();
    if arguments.len() == 0 {
        return Ok(Vec::new());
    }
    if !*IS_UNDERSTOOD.get_or_init(|| sample_is_understood().is_some_and(|understood| understood)) {
        return Err(Unwritable::Driver);
    }
    read(&format!("{arguments:?}"), arguments.len())
}

fn sample_is_understood() -> Option<bool> {
    let mut sample = MySqlArguments::default();
    sample.add(-7_i64).ok()?;
    sample.add("it's\0").ok()?;
    sample.add(None::<i32>).ok()?;
    sample.add(true).ok()?;
    sample.add(1.5_f64).ok()?;
    sample.add(vec![0_u8, 255]).ok()?;
    sample.add(u64::MAX).ok()?;
    sample.add(-3_i16).ok()?;
    let wanted = [
        "-7",
        "_utf8mb4 x'6974277300'",
        "NULL",
        "CAST(1 AS UNSIGNED)",
        "1.5e0",
        "x'00ff'",
        "18446744073709551615",
        "-3",
    ];
    let read = read(&format!("{sample:?}"), wanted.len()).ok()?;
    Some(read.iter().map(|literal| literal.sql.as_str()).eq(wanted))
}

/// The three lists of the driver's output.
struct Parts<'s> {
    values: Vec<u8>,
    nulls: Vec<u8>,
    /// The name of each type, and whether it is unsigned.
    types: Vec<(&'s str, bool)>,
}

fn parts(shown: &str, count: usize) -> Option<Parts<'_>> {
    let rest = shown.strip_prefix("MySqlArguments { values: [")?;
    let (values, rest) = rest.split_once("], types: [")?;
    let (types, rest) = rest.split_once("], null_bitmap: NullBitMap { bytes: [")?;
    let (nulls, rest) = rest.split_once("], length: ")?;
    (rest == format!("{count} }} }}")).then_some(())?;
    let types = types.split("MySqlTypeInfo { type: ").skip(1).map(|shown| {
        let (name, flags) = shown.split_once(", flags: ")?;
        let (flags, _) = flags.split_once(", collation: ")?;
        Some((name, flags.contains("UNSIGNED")))
    });
    let types: Vec<_> = types.collect::<Option<_>>()?;
    let parts = Parts { values: byte_list(values)?, nulls: byte_list(nulls)?, types };
    (parts.types.len() == count && parts.nulls.len() == count.div_ceil(8)).then_some(parts)
}

fn read(shown: &str, count: usize) -> Result<Vec<Literal>, Unwritable> {
    let Parts { values, nulls, types } = parts(shown, count).ok_or(Unwritable::Driver)?;
    let mut rest = values.as_slice();
    let mut literals = Vec::with_capacity(count);
    for (i, (name, is_unsigned)) in types.into_iter().enumerate() {
        let is_null = nulls.get(i / 8).is_some_and(|byte| byte & (1 << (i % 8)) != 0);
        let sql = if is_null { String::from("NULL") } else { value(name, is_unsigned, &mut rest)? };
        literals.push(Literal { sql, type_name: "" });
    }
    if rest.is_empty() { Ok(literals) } else { Err(Unwritable::Driver) }
}

/// Reads a value, whose length is determined by its type or its first bytes.
fn value(name: &str, is_unsigned: bool, rest: &mut &[u8]) -> Result<String, Unwritable> {
    match (name, is_unsigned) {
        ("Tiny", false) => Ok(i8::from_le_bytes(number(rest)?).to_string()),
        ("Tiny", true) => unsigned(u8::from_le_bytes(number(rest)?)),
        ("Short", false) => Ok(i16::from_le_bytes(number(rest)?).to_string()),
        ("Short", true) => unsigned(u16::from_le_bytes(number(rest)?)),
        ("Long", false) => Ok(i32::from_le_bytes(number(rest)?).to_string()),
        ("Long", true) => unsigned(u32::from_le_bytes(number(rest)?)),
        ("LongLong", false) => Ok(signed(i64::from_le_bytes(number(rest)?))),
        ("LongLong", true) => unsigned(u64::from_le_bytes(number(rest)?)),
        ("Float", _) => float(f32::from_le_bytes(number(rest)?).into()),
        ("Double", _) => float(f64::from_le_bytes(number(rest)?)),
        ("Date" | "Datetime" | "Timestamp", _) => timestamp(name, counted(rest)?),
        ("Time", _) => time(counted(rest)?),
        ("VarString" | "VarChar" | "String" | "Json" | "Enum", _) => text(counted(rest)?),
        ("NewDecimal", _) => decimal(counted(rest)?),
        ("Blob" | "TinyBlob" | "MediumBlob" | "LongBlob", _) => Ok(hex(counted(rest)?)),
        _ => Err(Unwritable::Type(name.to_owned())),
    }
}

fn number<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Unwritable> {
    take(rest).ok_or(Unwritable::Driver)
}

/// Takes a value that follows its length.
fn counted<'v>(rest: &mut &'v [u8]) -> Result<&'v [u8], Unwritable> {
    let length = match number::<1>(rest)? {
        [short @ ..=0xfa] => u64::from(short),
        [0xfc] => u16::from_le_bytes(number(rest)?).into(),
        [0xfd] => {
            let [a, b, c] = number(rest)?;
            u32::from_le_bytes([a, b, c, 0]).into()
        }
        [0xfe] => u64::from_le_bytes(number(rest)?),
        _ => return Err(Unwritable::Driver),
    };
    let length = usize::try_from(length).map_err(|_| Unwritable::Driver)?;
    let (value, remainder) = rest.split_at_checked(length).ok_or(Unwritable::Driver)?;
    *rest = remainder;
    Ok(value)
}

/// The smallest integer has no literal: without its sign it is out of range.
fn signed(number: i64) -> String {
    if number == i64::MIN { String::from("(-9223372036854775807 - 1)") } else { number.to_string() }
}

/// A literal is signed if it fits.
fn unsigned(number: impl Into<u64>) -> Result<String, Unwritable> {
    let number: u64 = number.into();
    Ok(if i64::try_from(number).is_ok() { format!("CAST({number} AS UNSIGNED)") } else { number.to_string() })
}

fn float(number: f64) -> Result<String, Unwritable> {
    match number.is_finite() {
        true => Ok(format!("{number:e}")),
        false => Err(Unwritable::Value("a number that is not finite")),
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("x'{digits}'")
}

/// Returns a text literal that depends neither on the session's escapes nor on its character set.
pub(super) fn hex_text(text: &[u8]) -> String {
    format!("_utf8mb4 {}", hex(text))
}

fn text(value: &[u8]) -> Result<String, Unwritable> {
    str::from_utf8(value).map(|text| hex_text(text.as_bytes())).map_err(|_| Unwritable::Driver)
}

/// A decimal number is transmitted as text.
fn decimal(value: &[u8]) -> Result<String, Unwritable> {
    let is_plain = value.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'.'));
    match str::from_utf8(value) {
        Ok(text) if is_plain && !text.is_empty() => Ok(text.to_owned()),
        _ => Err(Unwritable::Driver),
    }
}

/// Writes a date, or a date and a time. Their parts that are zero are not transmitted.
fn timestamp(name: &str, value: &[u8]) -> Result<String, Unwritable> {
    let mut rest = value;
    let year = if value.is_empty() { 0 } else { u16::from_le_bytes(number(&mut rest)?) };
    let mut part = || take::<1>(&mut rest).map_or(0, |[part]| part);
    let [month, day, hours, minutes, seconds] = std::array::from_fn(|_| part());
    let micros = if rest.is_empty() { 0 } else { u32::from_le_bytes(number(&mut rest)?) };
    let date = format!("{year:04}-{month:02}-{day:02}");
    match rest.is_empty() {
        true if name == "Date" => Ok(format!("DATE'{date}'")),
        true => Ok(format!("TIMESTAMP'{date} {hours:02}:{minutes:02}:{seconds:02}.{micros:06}'")),
        false => Err(Unwritable::Driver),
    }
}

/// Writes a time, which may be negative or longer than a day.
fn time(value: &[u8]) -> Result<String, Unwritable> {
    let mut rest = value;
    if value.is_empty() {
        return Ok(String::from("TIME'00:00:00'"));
    }
    let [is_negative] = number(&mut rest)?;
    let days = u32::from_le_bytes(number(&mut rest)?);
    let [hours, minutes, seconds] = number(&mut rest)?;
    let micros = if rest.is_empty() { 0 } else { u32::from_le_bytes(number(&mut rest)?) };
    let sign = if is_negative == 0 { "" } else { "-" };
    let hours = u64::from(days) * 24 + u64::from(hours);
    match rest.is_empty() {
        true => Ok(format!("TIME'{sign}{hours:02}:{minutes:02}:{seconds:02}.{micros:06}'")),
        false => Err(Unwritable::Driver),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_output_is_understood() {
        assert_eq!(sample_is_understood(), Some(true));
    }

    #[test]
    fn values_become_literals() {
        let mut bound = MySqlArguments::default();
        bound.add(i64::MIN).expect("an argument");
        bound.add(7_u64).expect("an argument");
        bound.add("x".repeat(300)).expect("an argument");
        bound.add(None::<Vec<u8>>).expect("an argument");
        bound.add(Vec::<u8>::new()).expect("an argument");
        let literals = literals(&bound).expect("literals");
        let sql: Vec<&str> = literals.iter().map(|literal| literal.sql.as_str()).collect();
        let text = format!("_utf8mb4 x'{}'", "78".repeat(300));
        assert_eq!(sql, ["(-9223372036854775807 - 1)", "CAST(7 AS UNSIGNED)", &text, "NULL", "x''"]);
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused() {
        let mut bound = MySqlArguments::default();
        bound.add(f64::NAN).expect("an argument");
        assert!(matches!(literals(&bound), Err(Unwritable::Value(_))));
    }

    #[test]
    fn dates_and_times_are_written_with_the_parts_that_are_transmitted() {
        for (name, value, sql) in [
            ("Date", &[0xd0, 7, 2, 29][..], "DATE'2000-02-29'"),
            ("Datetime", &[0xd0, 7, 2, 29], "TIMESTAMP'2000-02-29 00:00:00.000000'"),
            ("Datetime", &[0xd0, 7, 2, 29, 23, 59, 1, 7, 0, 0, 0], "TIMESTAMP'2000-02-29 23:59:01.000007'"),
        ] {
            assert_eq!(timestamp(name, value).expect("a literal"), sql);
        }
        assert_eq!(time(&[1, 1, 0, 0, 0, 2, 3, 4]).expect("a literal"), "TIME'-26:03:04.000000'");
    }
}
