//! Recognizes functions whose results are not rows of a table.

use super::super::{Syntax, Token};
use super::{Tokens, is_query};

/// PostgreSQL's built-in functions that combine many rows into one, or return many rows for one.
const AGGREGATES: [&str; 52] = [
    "COUNT",
    "SUM",
    "AVG",
    "MIN",
    "MAX",
    "ARRAY_AGG",
    "STRING_AGG",
    "BOOL_AND",
    "BOOL_OR",
    "EVERY",
    "BIT_AND",
    "BIT_OR",
    "BIT_XOR",
    "JSON_AGG",
    "JSONB_AGG",
    "JSON_OBJECT_AGG",
    "JSONB_OBJECT_AGG",
    "JSON_ARRAYAGG",
    "JSON_OBJECTAGG",
    "XMLAGG",
    "RANGE_AGG",
    "RANGE_INTERSECT_AGG",
    "ANY_VALUE",
    "VARIANCE",
    "VAR_POP",
    "VAR_SAMP",
    "STDDEV",
    "STDDEV_POP",
    "STDDEV_SAMP",
    "CORR",
    "COVAR_POP",
    "COVAR_SAMP",
    "REGR_AVGX",
    "REGR_AVGY",
    "REGR_COUNT",
    "REGR_INTERCEPT",
    "REGR_R2",
    "REGR_SLOPE",
    "REGR_SXX",
    "REGR_SXY",
    "REGR_SYY",
    "MODE",
    "PERCENTILE_CONT",
    "PERCENTILE_DISC",
    "GROUPING",
    "GENERATE_SERIES",
    "UNNEST",
    "GENERATE_SUBSCRIPTS",
    "REGEXP_MATCHES",
    "REGEXP_SPLIT_TO_TABLE",
    "JSON_ARRAY_ELEMENTS",
    "JSONB_ARRAY_ELEMENTS",
];

/// Finds a call, outside of subqueries, of a function that does not return one row for each row.
pub(super) fn aggregate(syntax: Syntax, tokens: &[Token<'_>]) -> Option<String> {
    let all = Tokens(tokens);
    let mut at = 0;
    while at < tokens.len() {
        if all.has_symbol(at, b'(') && is_query(all.inside(at)) {
            at = all.after(at);
            continue;
        }
        let is_called = all.has_symbol(at + 1, b'(');
        let functions: &[&str] = match syntax {
            Syntax::Postgres => &AGGREGATES,
            // With an index, these two read one row. The others read, and lock, all rows.
            Syntax::MySql | Syntax::Sqlite => &["MIN", "MAX"],
        };
        if is_called && all.is_keyword(at, functions) {
            return Some(format!("{}()", tokens[at].text.to_lowercase()));
        }
        let after_call = at > 0 && all.has_symbol(at - 1, b')');
        if syntax == Syntax::Postgres && after_call && all.has(at, &["OVER", "FILTER", "WITHIN"]) {
            return Some(tokens[at].text.to_uppercase());
        }
        if syntax == Syntax::MySql && all.has(at, &["DISTINCT"]) && at > 0 && all.has_symbol(at - 1, b'(') {
            return Some("DISTINCT".to_owned());
        }
        at += 1;
    }
    None
}
