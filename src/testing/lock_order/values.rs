//! The values that identify locks.

use std::cmp::Ordering;

use sqlparser::ast::{DataType, Expr, UnaryOperator, Value};

use super::effect::Lock;

/// Compares rows by some of their key columns, each given by its index and whether the order is descending.
/// Numbers are compared by value and everything else by its bytes, which is not how every database sorts
/// text.
pub(super) fn by_value(one: &Lock, other: &Lock, by: &[(usize, bool)]) -> Ordering {
    let (Lock::Row { values: one, .. }, Lock::Row { values: other, .. }) = (one, other) else {
        return Ordering::Equal;
    };
    for (column, descending) in by {
        let (Some(one), Some(other)) = (one.get(*column), other.get(*column)) else { continue };
        let ordering = match (one.parse::<i128>(), other.parse::<i128>()) {
            (Ok(one), Ok(other)) => one.cmp(&other),
            _ => one.cmp(other),
        };
        let ordering = if *descending { ordering.reverse() } else { ordering };
        if ordering != Ordering::Equal {
            return ordering;
        }
    }
    Ordering::Equal
}

/// The value of a literal or a bound parameter, without its quotes: `1` and `'1'` are the same key. `None` if
/// it is unknown, and for NULL, which equals no key.
pub(in crate::testing) fn value_of(expr: &Expr, arguments: &[String]) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(number, _) => Some(number.clone()),
            Value::Boolean(is_true) => Some(is_true.to_string()),
            Value::HexStringLiteral(digits) => Some(format!("x'{}'", digits.to_lowercase())),
            Value::Placeholder(name) => argument(name, arguments),
            Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        Expr::TypedString(typed) => typed.value.clone().into_string(),
        Expr::Cast { expr, data_type, .. } => {
            value_of(expr, arguments).filter(|value| preserves(data_type, value))
        }
        Expr::Nested(expr) => value_of(expr, arguments),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => Some(format!("-{}", value_of(expr, arguments)?)),
        _ => None,
    }
}

/// Whether a cast to this type preserves the value. `1.5::int` is 2, and `'ab'::char(1)` is `a`.
fn preserves(to: &DataType, value: &str) -> bool {
    use DataType::{
        BigInt, Int, Int2, Int4, Int8, Integer, Signed, SignedInteger, SmallInt, Text, Uuid, Varchar,
    };
    let number = value.parse::<i128>();
    match to {
        SmallInt(_) | Int2(_) | Int(_) | Int4(_) | Int8(_) | Integer(_) | BigInt(_) | Signed
        | SignedInteger => number.is_ok_and(|number| number.to_string() == value),
        Text | Varchar(None) | Uuid => true,
        _ => false,
    }
}

/// The value that is bound to `$1` or `?1`, if it is known.
fn argument(name: &str, arguments: &[String]) -> Option<String> {
    let literal = bound_literal(name, arguments)?;
    match literal.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')) {
        Some(text) => Some(text.replace("''", "'")),
        None if literal == "NULL" || literal == "…" => None,
        None => Some(literal.to_owned()),
    }
}

fn bound_literal<'a>(name: &str, arguments: &'a [String]) -> Option<&'a str> {
    let number: usize = name.trim_start_matches(['$', '?']).parse().ok()?;
    arguments.get(number.checked_sub(1)?).map(String::as_str)
}

/// Whether an expression is NULL, literally or as a bound parameter.
pub(super) fn is_null(expr: &Expr, arguments: &[String]) -> bool {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Null => true,
            Value::Placeholder(name) => bound_literal(name, arguments) == Some("NULL"),
            _ => false,
        },
        Expr::Cast { expr, .. } | Expr::Nested(expr) => is_null(expr, arguments),
        _ => false,
    }
}

/// A form that all spellings of a value share which a database may consider equal: `1`, `01` and `1.0`; and
/// if text is compared case-insensitively, `a` and `A`.
pub(super) fn normalized(value: &str, ignores_case: bool) -> String {
    let trimmed = value.trim();
    if let Ok(number) = trimmed.parse::<i128>() {
        return number.to_string();
    }
    let digits = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed);
    let is_decimal = digits.contains('.') && digits.chars().all(|c| c.is_ascii_digit() || c == '.');
    if is_decimal {
        return trimmed.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let is_uuid = trimmed.len() >= 32 && trimmed.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    if is_uuid {
        return trimmed.to_lowercase().replace('-', "");
    }
    if ignores_case { trimmed.to_lowercase() } else { value.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_value_are_normalized() {
        for (one, other) in [("1", "01"), ("1", "1.0"), ("-5", "-5.00"), ("7", " 7")] {
            assert_eq!(normalized(one, false), normalized(other, false), "{one} {other}");
        }
        let uuid = "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11";
        assert_eq!(normalized(uuid, false), normalized(&uuid.to_lowercase(), false));
        assert_eq!(normalized("a", true), normalized("A ", true));
        for (one, other) in [("a", "A"), ("1", "10"), ("1.5", "15"), ("10", "1.0")] {
            assert_ne!(normalized(one, false), normalized(other, false), "{one} {other}");
        }
    }
}
