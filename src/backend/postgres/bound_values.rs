//! Writes bound values as SQL literals.
//!
//! The driver shows its arguments only in their `Debug` output. The values that are read from it are sent to
//! the server, so the output has to match exactly, and a sample of every type is compared before the first
//! use.

use std::sync::OnceLock;

use sqlx::Arguments as _;
use sqlx::postgres::PgArguments;

use super::temporal;
use crate::backend::folded::{Literal, Unwritable};
use crate::backend::values::{byte_list, take};

/// Writes the values of a statement, each with an explicit type.
pub(super) fn literals(arguments: &PgArguments) -> Result<Vec<Literal>, Unwritable> {
    static IS_UNDERSTOOD: OnceLock<bool> = OnceLock::new();
    if arguments.len() == 0 {
        return Ok(Vec::new());
    }
    if !*IS_UNDERSTOOD.get_or_init(sample_is_understood) {
        return Err(Unwritable::Driver);
    }
    read(&format!("{arguments:?}"), arguments.len())
}

fn sample_is_understood() -> bool {
    let mut sample = PgArguments::default();
    let added = [
        sample.add(-7_i64),
        sample.add("it's\0"),
        sample.add(None::<i32>),
        sample.add(true),
        sample.add(1.5_f64),
        sample.add(vec![0_u8, 255]),
        sample.add(vec![1_i16, -2]),
    ];
    let shown = format!("{sample:?}");
    let Some((types, bytes)) = parts(&shown, added.len()) else { return false };
    let wanted: Vec<u8> = [
        &[0, 0, 0, 8, 255, 255, 255, 255, 255, 255, 255, 249, 0, 0, 0, 5][..],
        b"it's\0",
        &[255, 255, 255, 255, 0, 0, 0, 1, 1, 0, 0, 0, 8, 63, 248, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 255],
        &[0, 0, 0, 32, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 21, 0, 0, 0, 2, 0, 0, 0, 1],
        &[0, 0, 0, 2, 0, 1, 0, 0, 0, 2, 255, 254],
    ]
    .concat();
    let names = ["Int8", "Text", "Int4", "Bool", "Float8", "Bytea", "Int2Array"];
    added.iter().all(Result::is_ok) && types == names && bytes == wanted
}

/// Returns the types, and the bytes of the values.
fn parts(shown: &str, count: usize) -> Option<(Vec<&str>, Vec<u8>)> {
    let rest = shown.strip_prefix("PgArguments { types: [")?;
    let (types, rest) = rest.split_once("], buffer: PgArgumentBuffer { buffer: [")?;
    let (bytes, rest) = rest.split_once("], count: ")?;
    // A value whose type only the server knows has holes. JSON has patches, which do not change `jsonb`.
    let rest = rest.strip_prefix(&format!("{count}, patches: ["))?;
    rest.strip_suffix("], hole_offsets: [], hole_types: [] } }")?;
    let types: Vec<&str> = types
        .split(", ")
        .map(|shown| shown.strip_prefix("PgTypeInfo(")?.strip_suffix(')'))
        .collect::<Option<_>>()?;
    (types.len() == count).then_some((types, byte_list(bytes)?))
}

fn read(shown: &str, count: usize) -> Result<Vec<Literal>, Unwritable> {
    // A type that is not built in has holes, or a name that is not among those below.
    let Some((types, bytes)) = parts(shown, count) else {
        return Err(Unwritable::Type(String::from("a type that is not built in")));
    };
    let mut rest = bytes.as_slice();
    let mut literals = Vec::with_capacity(count);
    for shown in types {
        let (element, is_array) = match shown.strip_suffix("Array") {
            Some(element) => (element, true),
            None => (shown, false),
        };
        let type_name = type_name(element, is_array).ok_or_else(|| Unwritable::Type(shown.to_owned()))?;
        let sql = match (next_value(&mut rest)?, is_array) {
            (None, _) => String::from("NULL"),
            (Some(value), false) => scalar(element, value)?,
            (Some(value), true) => array(element, value)?,
        };
        literals.push(Literal { sql: format!("{sql}::{type_name}"), type_name });
    }
    if rest.is_empty() { Ok(literals) } else { Err(Unwritable::Driver) }
}

/// Takes a value, which follows its length; `None` is NULL.
fn next_value<'v>(rest: &mut &'v [u8]) -> Result<Option<&'v [u8]>, Unwritable> {
    let length = i32::from_be_bytes(take(rest).ok_or(Unwritable::Driver)?);
    let Ok(length) = usize::try_from(length) else { return Ok(None) };
    let (value, remainder) = rest.split_at_checked(length).ok_or(Unwritable::Driver)?;
    *rest = remainder;
    Ok(Some(value))
}

/// Returns the SQL name of a type by the driver's name.
fn type_name(driver: &str, is_array: bool) -> Option<&'static str> {
    macro_rules! names {
        ($($driver:literal => $sql:literal,)*) => {
            match (driver, is_array) {
                $(($driver, false) => Some($sql), ($driver, true) => Some(concat!($sql, "[]")),)*
                _ => None,
            }
        };
    }
    names! {
        "Bool" => "boolean",
        "Int2" => "smallint",
        "Int4" => "integer",
        "Int8" => "bigint",
        "Float4" => "real",
        "Float8" => "double precision",
        "Numeric" => "numeric",
        "Text" => "text",
        "Varchar" => "varchar",
        "Bpchar" => "bpchar",
        "Name" => "name",
        "Bytea" => "bytea",
        "Uuid" => "uuid",
        "Date" => "date",
        "Time" => "time",
        "Timestamp" => "timestamp",
        "Timestamptz" => "timestamptz",
        "Json" => "json",
        "Jsonb" => "jsonb",
    }
}

fn scalar(type_name: &str, value: &[u8]) -> Result<String, Unwritable> {
    let number = |text: String| Ok(format!("'{text}'"));
    match type_name {
        "Bool" => number((exact(value)? == [1]).to_string()),
        "Int2" => number(i16::from_be_bytes(exact(value)?).to_string()),
        "Int4" => number(i32::from_be_bytes(exact(value)?).to_string()),
        "Int8" => number(i64::from_be_bytes(exact(value)?).to_string()),
        "Float4" => number(float(f32::from_be_bytes(exact(value)?).into(), |n| (n as f32).to_string())),
        "Float8" => number(float(f64::from_be_bytes(exact(value)?), |n| format!("{n:e}"))),
        "Numeric" => number(numeric(value).ok_or(Unwritable::Driver)?),
        "Text" | "Varchar" | "Bpchar" | "Name" | "Json" => text(value),
        "Jsonb" => text(value.strip_prefix(&[1]).ok_or(Unwritable::Driver)?),
        "Bytea" => Ok(format!("E'\\\\x{}'", digits(value))),
        "Uuid" => number(digits(&exact::<16>(value)?)),
        "Date" => number(temporal::date(i32::from_be_bytes(exact(value)?))),
        "Time" => number(temporal::time(i64::from_be_bytes(exact(value)?))),
        "Timestamp" => number(temporal::timestamp(i64::from_be_bytes(exact(value)?), "")),
        "Timestamptz" => number(temporal::timestamp(i64::from_be_bytes(exact(value)?), "+00")),
        _ => Err(Unwritable::Driver),
    }
}

fn exact<const N: usize>(value: &[u8]) -> Result<[u8; N], Unwritable> {
    value.try_into().map_err(|_| Unwritable::Driver)
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Formats a number so that the server reads the same one.
fn float(number: f64, finite: impl Fn(f64) -> String) -> String {
    match number {
        n if n.is_nan() => String::from("NaN"),
        f64::INFINITY => String::from("Infinity"),
        f64::NEG_INFINITY => String::from("-Infinity"),
        n => finite(n),
    }
}

/// Returns a string literal of ASCII characters. It depends neither on `standard_conforming_strings` nor on
/// `client_encoding`.
fn text(value: &[u8]) -> Result<String, Unwritable> {
    let text = str::from_utf8(value).map_err(|_| Unwritable::Driver)?;
    let mut literal = String::with_capacity(text.len() + 3);
    literal.push_str("E'");
    for character in text.chars() {
        match character {
            '\0' => {
                return Err(Unwritable::Value("text with a NUL character, which the server does not store"));
            }
            '\'' => literal.push_str("''"),
            '\\' => literal.push_str("\\\\"),
            ' '..='~' => literal.push(character),
            other => literal.push_str(&format!("\\U{:08X}", u32::from(other))),
        }
    }
    literal.push('\'');
    Ok(literal)
}

/// Writes an array of at most one dimension.
fn array(element: &str, mut value: &[u8]) -> Result<String, Unwritable> {
    let header = &mut value;
    let mut number = || take(header).map(i32::from_be_bytes).ok_or(Unwritable::Driver);
    let (dimensions, _has_null, _type) = (number()?, number()?, number()?);
    if dimensions == 0 {
        return Ok(String::from("'{}'"));
    }
    let (length, lower_bound) = (number()?, number()?);
    if dimensions != 1 || lower_bound != 1 {
        return Err(Unwritable::Value("an array of several dimensions"));
    }
    let mut elements = Vec::new();
    for _ in 0..length {
        elements.push(match next_value(&mut value)? {
            None => String::from("NULL"),
            Some(one) => scalar(element, one)?,
        });
    }
    if value.is_empty() { Ok(format!("ARRAY[{}]", elements.join(", "))) } else { Err(Unwritable::Driver) }
}

/// Formats a decimal number, whose digits have the base 10 000.
fn numeric(mut value: &[u8]) -> Option<String> {
    let mut next = || take(&mut value).map(u16::from_be_bytes);
    let (count, weight, sign, scale) = (next()?, next()?.cast_signed(), next()?, next()?);
    let groups: Vec<u16> = (0..count).map(|_| next()).collect::<Option<_>>()?;
    let sign = match sign {
        0 => "",
        0x4000 => "-",
        0xc000 => return Some(String::from("NaN")),
        0xd000 => return Some(String::from("Infinity")),
        0xf000 => return Some(String::from("-Infinity")),
        _ => return None,
    };
    let weight = i32::from(weight);
    let group = |position: i32| {
        usize::try_from(weight - position).ok().and_then(|index| groups.get(index)).copied().unwrap_or(0)
    };
    let whole: String = (0..=weight.max(0)).rev().map(|position| format!("{:04}", group(position))).collect();
    let places = usize::from(scale);
    let fraction: String = (1..=places.div_ceil(4))
        .map(|n| format!("{:04}", group(-i32::try_from(n).unwrap_or(i32::MAX))))
        .collect();
    let point = if places > 0 { "." } else { "" };
    Some(format!("{sign}{whole}{point}{}", &fraction[..places]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_output_is_understood() {
        assert!(sample_is_understood());
    }

    #[test]
    fn values_become_literals_of_their_type() {
        let mut bound = PgArguments::default();
        bound.add(i64::MIN).expect("an argument");
        bound.add("it's \\ é").expect("an argument");
        bound.add(None::<f64>).expect("an argument");
        bound.add(f32::NAN).expect("an argument");
        bound.add(0.1_f64).expect("an argument");
        bound.add(vec![0_u8, 255]).expect("an argument");
        bound.add(vec![Some("a"), None]).expect("an argument");
        bound.add(Vec::<i64>::new()).expect("an argument");
        let literals = literals(&bound).expect("literals");
        let sql: Vec<&str> = literals.iter().map(|literal| literal.sql.as_str()).collect();
        assert_eq!(
            sql,
            [
                "'-9223372036854775808'::bigint",
                "E'it''s \\\\ \\U000000E9'::text",
                "NULL::double precision",
                "'NaN'::real",
                "'1e-1'::double precision",
                "E'\\\\x00ff'::bytea",
                "ARRAY[E'a', NULL]::text[]",
                "ARRAY[]::bigint[]",
            ]
        );
    }

    #[test]
    fn values_without_a_literal_are_refused() {
        let refused = |add: fn(&mut PgArguments)| {
            let mut bound = PgArguments::default();
            add(&mut bound);
            literals(&bound).expect_err("no literal")
        };
        assert!(matches!(refused(|bound| bound.add("a\0").expect("an argument")), Unwritable::Value(_)));
        assert!(matches!(refused(|bound| bound.add(1_i8).expect("an argument")), Unwritable::Type(_)));
    }

    #[test]
    fn decimal_numbers_keep_their_scale() {
        let bytes = |numbers: &[u16]| numbers.iter().flat_map(|n| n.to_be_bytes()).collect::<Vec<u8>>();
        for (numbers, text) in [
            (&[2, 0, 0, 2, 12, 3400][..], "0012.34"),
            (&[1, 1, 0x4000, 0, 5], "-00050000"),
            (&[1, 0xffff, 0, 5, 1], "0000.00010"),
            (&[0, 0, 0xc000, 0], "NaN"),
        ] {
            assert_eq!(numeric(&bytes(numbers)).as_deref(), Some(text));
        }
    }
}
