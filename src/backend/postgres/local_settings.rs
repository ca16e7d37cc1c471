//! The settings and the role of a single transaction.

use std::fmt::Write as _;

use super::literals::literal;
use crate::failure::{Failure, FailureKind};
use crate::local_settings::LocalSettings;

/// The maximum length of an identifier, in bytes. The server shortens longer ones silently, to the name of
/// something else.
const MAX_NAME_BYTES: usize = 63;

/// Settings that the crate or the driver depends on, and what to use instead.
const RESERVED: [(&str, &str); 9] = [
    ("client_encoding", "the driver requires UTF-8"),
    ("idle_in_transaction_session_timeout", "use `Options::idle_timeout`"),
    ("lock_timeout", "use `Options::lock_timeout`"),
    ("role", "use `Options::role`"),
    ("session_authorization", "use `Options::role`"),
    ("statement_timeout", "use `Options::statement_timeout`"),
    ("transaction_deferrable", "use `Options::deferrable`"),
    ("transaction_isolation", "use `Options::isolation`"),
    ("transaction_read_only", "use `Options::read_only`"),
];

/// Settings whose values are lists of names. `SET` takes a single literal as a single name, unlike
/// `set_config`.
const LISTS_OF_NAMES: [&str; 2] = ["search_path", "temp_tablespaces"];

/// Returns the statements, separated by semicolons.
///
/// `SET LOCAL`, and not `SELECT set_config(…)`: a SELECT would take the snapshot of a transaction at
/// REPEATABLE READ before the unit begins. The role comes last, because it may have fewer privileges.
pub(super) fn statements(settings: &LocalSettings) -> Result<String, Failure> {
    let LocalSettings { role, values } = settings;
    let mut sql = String::new();
    for (name, value) in values {
        let (name_sql, value_sql) = (quoted_name(name)?, quoted_value(name, value)?);
        let _ = write!(sql, "SET LOCAL {name_sql} = {value_sql}; ");
    }
    if let Some(role) = role {
        if role.is_empty() || role.len() > MAX_NAME_BYTES || role.contains('\0') {
            return Err(invalid(format!(
                "a role has a name of 1 to {MAX_NAME_BYTES} bytes without a NUL, and this one has {} bytes",
                role.len()
            )));
        }
        let _ = write!(sql, "SET LOCAL ROLE {}; ", literal(role));
    }
    sql.truncate(sql.len().saturating_sub("; ".len()));
    Ok(sql)
}

fn quoted_name(name: &str) -> Result<String, Failure> {
    let shown = name.escape_debug();
    if let Some((_, instead)) = RESERVED.iter().find(|(reserved, _)| name.eq_ignore_ascii_case(reserved)) {
        return Err(invalid(format!("the setting \"{shown}\" cannot be set like this: {instead}")));
    }
    if name.contains('\0') {
        return Err(invalid(format!("the name of the setting \"{shown}\" contains a NUL")));
    }
    if name.split('.').any(|part| part.is_empty() || part.len() > MAX_NAME_BYTES) {
        return Err(invalid(format!(
            "the name of the setting \"{shown}\" has a part that is empty, or longer than \
             {MAX_NAME_BYTES} bytes"
        )));
    }
    let parts: Vec<_> = name.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect();
    Ok(parts.join("."))
}

fn quoted_value(name: &str, value: &str) -> Result<String, Failure> {
    if value.contains('\0') {
        return Err(invalid(format!("the value of the setting \"{}\" contains a NUL", name.escape_debug())));
    }
    if !LISTS_OF_NAMES.iter().any(|list| name.eq_ignore_ascii_case(list)) {
        return Ok(literal(value));
    }
    let names = names_in(value).ok_or_else(|| {
        invalid(format!("the value of the setting \"{name}\" is not a list of names, separated by commas"))
    })?;
    Ok(names.iter().map(|name| literal(name)).collect::<Vec<_>>().join(", "))
}

/// Reads a list of names as the server does: `public, "My Schema"`. `None` if it is not one.
fn names_in(list: &str) -> Option<Vec<String>> {
    let mut rest = list.trim_ascii();
    if rest.is_empty() {
        // An empty list has no other form in `SET`.
        return Some(vec![String::new()]);
    }
    let mut names = Vec::new();
    loop {
        let (name, after) = quoted_name_at(rest).or_else(|| bare_name_at(rest))?;
        names.push(name);
        rest = match after.trim_ascii_start().strip_prefix(',') {
            Some(next) => next.trim_ascii_start(),
            None if after.trim_ascii().is_empty() => return Some(names),
            None => return None,
        };
    }
}

/// Reads a name in double quotes at the start of a text, and returns the text after it.
fn quoted_name_at(text: &str) -> Option<(String, &str)> {
    let (mut name, mut rest) = (String::new(), text.strip_prefix('"')?);
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                name.push('"');
                rest = after;
            }
            None => return (!name.is_empty()).then_some((name, after)),
        }
    }
}

/// Reads a name without quotes at the start of a text, and returns the text after it.
fn bare_name_at(text: &str) -> Option<(String, &str)> {
    let end = text.find([',', '"']).unwrap_or(text.len());
    let name = text[..end].trim_ascii_end();
    let is_name = !name.is_empty() && !name.contains(char::is_whitespace);
    is_name.then(|| (name.to_ascii_lowercase(), &text[end..]))
}

fn invalid(message: String) -> Failure {
    Failure::new(FailureKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[(&str, &str)], role: Option<&str>) -> Result<String, Failure> {
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        statements(&LocalSettings { role: role.map(str::to_owned), values })
    }

    #[test]
    fn names_and_values_are_quoted() {
        let sql = of(&[("app.tenant_id", "7"), ("a\"b.c", "it's \\ E'x'; COMMIT")], Some("o'brien"));
        let expected = "SET LOCAL \"app\".\"tenant_id\" = E'7'; \
                        SET LOCAL \"a\"\"b\".\"c\" = E'it''s \\\\ E''x''; COMMIT'; \
                        SET LOCAL ROLE E'o''brien'";
        assert_eq!(sql.as_deref(), Ok(expected));
        assert_eq!(of(&[], None).as_deref(), Ok(""));
    }

    #[test]
    fn lists_of_names_keep_their_names_apart() {
        for (value, expected) in [
            ("tenant_7, public", "E'tenant_7', E'public'"),
            ("Tenant_7,\"$user\"", "E'tenant_7', E'$user'"),
            (" \"My, \"\"Schema\"\"\" ", "E'My, \"Schema\"'"),
            ("", "E''"),
            ("\"it's\"", "E'it''s'"),
        ] {
            assert_eq!(quoted_value("Search_Path", value).as_deref(), Ok(expected), "{value}");
        }
        for value in ["a b", "a,", ",a", "\"a", "\"a\" b", "a\"b\"", "\"\""] {
            assert!(quoted_value("search_path", value).is_err(), "{value}");
        }
    }

    #[test]
    fn invalid_names_and_values_are_refused() {
        let long = "x".repeat(64);
        for (name, value) in [
            ("", "x"),
            ("app.", "x"),
            (".app", "x"),
            ("app.a\0b", "x"),
            ("app.a", "x\0y"),
            (&long, "x"),
            ("Statement_Timeout", "0"),
            ("role", "admin"),
        ] {
            let failure = of(&[(name, value)], None).expect_err(name);
            assert_eq!(failure.kind(), FailureKind::InvalidInput, "{name}");
        }
        for role in ["", "a\0b", &long] {
            assert!(of(&[], Some(role)).is_err(), "{role:?}");
        }
    }
}
