//! Decides whether a lock clause locks the rows that a SELECT reads.

use super::super::{Kind, Syntax, Token};
use super::from::{Item, items};
use super::functions::aggregate;
use super::{Obstacle, Remedy, Tokens, is_query};

/// The parts of a SELECT.
struct SelectParts<'a, 't> {
    /// Between SELECT and FROM.
    list: &'a [Token<'t>],
    from: &'a [Token<'t>],
    /// The clauses after FROM.
    rest: Tokens<'a, 't>,
}

/// Checks that the text is a SELECT without a lock clause, for databases without row locks.
pub(super) fn check_select(tokens: &[Token<'_>]) -> Result<(), Obstacle> {
    let tokens = Tokens(tokens);
    let statement = tokens.outside().find(|index| {
        tokens.is_keyword(*index, &["SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "VALUES"])
    });
    let may_begin = tokens.has(0, &["SELECT", "WITH"]);
    if !may_begin || !statement.is_some_and(|index| tokens.has(index, &["SELECT"])) {
        return Err(not_a_select(tokens));
    }
    let clause = tokens.outside().find(|index| is_lock_clause(tokens, *index));
    clause.map_or(Ok(()), |_| Err(already_locked()))
}

/// Checks that a lock clause locks the rows that the text reads, or those of `table` if the clause names
/// one.
pub(super) fn check_lockable(
    syntax: Syntax,
    tokens: &[Token<'_>],
    table: Option<&str>,
) -> Result<(), Obstacle> {
    let Some(table) = table else {
        return match tables(syntax, tokens)? {
            0 => Err(Obstacle::new("it reads from no table", Remedy::SeparateSelect)),
            _ => Ok(()),
        };
    };
    let all = Tokens(tokens);
    let begins = if all.has(0, &["WITH"]) {
        let words = ["SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "VALUES", "TABLE"];
        all.outside().find(|index| all.is_keyword(*index, &words)).unwrap_or(0)
    } else {
        0
    };
    let (with, select) = tokens.split_at(begins);
    let parts = parts(syntax, select)?;
    plain_rows(syntax, &parts)?;
    let named = |token: &Token<'_>| same_name(token, table);
    let is_there = items(syntax, parts.from).0.iter().any(|item| match item {
        Item::Table { name, alias, qualified } => {
            let is_of_with = !qualified && is_defined(with, name);
            named(alias) && !is_of_with
        }
        Item::Query(_) | Item::Rows | Item::Unknown => false,
    });
    if is_there {
        return Ok(());
    }
    let reason = format!("the lock is for {table:?}, and its FROM clause has no table of that name");
    Err(Obstacle::new(reason, Remedy::SeparateSelect))
}

/// Returns how many tables a query reads. Fails unless a clause that names no table locks all of their
/// rows.
fn tables(syntax: Syntax, tokens: &[Token<'_>]) -> Result<usize, Obstacle> {
    let all = Tokens(tokens);
    if all.has(0, &["WITH"]) {
        return Err(Obstacle::new(
            "it begins with WITH, and a lock clause does not lock the rows of a common table expression",
            Remedy::NameTheTable,
        ));
    }
    let parts = parts(syntax, tokens)?;
    if has_query(parts.list) {
        return Err(Obstacle::new(
            "it selects a subquery, and a lock clause does not lock the rows of that subquery",
            Remedy::NameTheTable,
        ));
    }
    plain_rows(syntax, &parts)?;
    let (items, has_outer_join) = items(syntax, parts.from);
    if has_outer_join && syntax == Syntax::Postgres {
        return Err(Obstacle::new(
            "it has an outer join, whose nullable side cannot be locked",
            Remedy::NameTheTable,
        ));
    }
    let mut count = 0;
    for item in items {
        count += match item {
            Item::Table { .. } => 1,
            Item::Rows => 0,
            Item::Query(query) if syntax == Syntax::Postgres => tables_of_subquery(query)?,
            Item::Query(_) => {
                return Err(Obstacle::new(
                    "it reads from a subquery, and a lock clause does not lock the rows of that subquery",
                    Remedy::NameTheTable,
                ));
            }
            Item::Unknown => {
                return Err(Obstacle::new("its FROM clause is not understood", Remedy::SeparateSelect));
            }
        };
    }
    Ok(count)
}

/// Returns how many tables a subquery in FROM reads. PostgreSQL locks its rows like those of the outer
/// query.
fn tables_of_subquery(query: &[Token<'_>]) -> Result<usize, Obstacle> {
    let query_tokens = Tokens(query);
    if query_tokens.has(0, &["VALUES"]) {
        return Ok(0);
    }
    let has_from = query_tokens.outside().any(|index| query_tokens.is_keyword(index, &["FROM"]));
    let has_set = query_tokens.outside().any(|index| is_set_operation(query_tokens, index));
    let is_plain = !has_set && !has_query(query) && aggregate(Syntax::Postgres, query).is_none();
    if query_tokens.has(0, &["SELECT"]) && !has_from && is_plain {
        return Ok(0);
    }
    tables(Syntax::Postgres, query)
}

fn parts<'a, 't>(syntax: Syntax, tokens: &'a [Token<'t>]) -> Result<SelectParts<'a, 't>, Obstacle> {
    let all = Tokens(tokens);
    if !all.has(0, &["SELECT"]) {
        return Err(not_a_select(all));
    }
    let is_from = |index: usize| {
        // `a IS DISTINCT FROM b`
        let of_distinct = index > 1 && all.has(index - 1, &["DISTINCT"]) && !all.has(index - 2, &["SELECT"]);
        all.is_keyword(index, &["FROM"]) && !of_distinct
    };
    let Some(from) = all.outside().find(|index| is_from(*index)) else {
        for index in all.outside() {
            refuse_word(syntax, all, index)?;
        }
        return Err(Obstacle::new("it has no FROM", Remedy::SeparateSelect));
    };
    let ends = |index: &usize| *index > from && ends_from(syntax, all, *index);
    let end = all.outside().find(ends).unwrap_or(tokens.len());
    let parts =
        SelectParts { list: &tokens[1..from], from: &tokens[from + 1..end], rest: Tokens(&tokens[end..]) };
    for index in all.outside() {
        refuse_word(syntax, all, index)?;
    }
    Ok(parts)
}

/// Returns whether the FROM clause ends at this index. Words that can also be names are recognized by what
/// follows them.
fn ends_from(syntax: Syntax, tokens: Tokens<'_, '_>, index: usize) -> bool {
    if !tokens.get(index).is_some_and(|token| token.kind == Kind::Word) {
        return false;
    }
    let is = |words: &[&str]| tokens.is_keyword(index, words);
    let next = |words: &[&str]| tokens.has(index + 1, words);
    let before = |words: &[&str]| index.checked_sub(1).is_some_and(|before| tokens.has(before, words));
    // `USE INDEX FOR ORDER BY (…)`
    if syntax == Syntax::MySql && before(&["FOR"]) {
        return false;
    }
    if is(&["WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "INTO"]) || is_set_operation(tokens, index) {
        return true;
    }
    match syntax {
        Syntax::Postgres => is(&["WINDOW", "OFFSET", "FETCH", "FOR"]),
        Syntax::MySql | Syntax::Sqlite => {
            let is_number = tokens.get(index + 1).is_some_and(|next| {
                matches!(next.kind, Kind::Number | Kind::Literal | Kind::Symbol(b'?' | b'@' | b':' | b'('))
            });
            (is(&["OFFSET"]) && is_number)
                || (is(&["FETCH"]) && next(&["FIRST", "NEXT"]))
                || (is(&["WINDOW"]) && tokens.has(index + 2, &["AS"]))
                || is(&["PROCEDURE"])
                || is_lock_clause(tokens, index)
                || (is(&["FOR"]) && !before(&["INDEX", "KEY"]) && !next(&["SYSTEM_TIME"]))
        }
    }
}

/// Refuses a word that excludes a lock clause.
fn refuse_word(syntax: Syntax, tokens: Tokens<'_, '_>, index: usize) -> Result<(), Obstacle> {
    if !tokens.get(index).is_some_and(|token| token.kind == Kind::Word) {
        return Ok(());
    }
    let refuse = |reason: &'static str, remedy| Err(Obstacle::new(reason, remedy));
    if is_lock_clause(tokens, index) {
        return Err(already_locked());
    }
    if is_set_operation(tokens, index) || (index > 0 && tokens.is_keyword(index, &["SELECT"])) {
        return refuse(
            "it combines queries (UNION, INTERSECT, EXCEPT), and a lock clause does not lock all rows",
            Remedy::SeparateSelect,
        );
    }
    if tokens.is_keyword(index, &["INTO"]) {
        return refuse("it has INTO, so its rows are not returned", Remedy::RemoveIt);
    }
    if syntax == Syntax::MySql
        && tokens.is_keyword(index, &["FOR"])
        && tokens.has(index + 1, &["SYSTEM_TIME"])
    {
        return refuse("it reads historical rows (FOR SYSTEM_TIME)", Remedy::RemoveIt);
    }
    Ok(())
}

/// Refuses a query whose rows are not rows of a table.
fn plain_rows(syntax: Syntax, parts: &SelectParts<'_, '_>) -> Result<(), Obstacle> {
    let refuse = |what: &str| {
        let reason = format!("it has {what}, so its rows are not those of a table");
        Err(Obstacle::new(reason, Remedy::SeparateSelect))
    };
    let list = Tokens(parts.list);
    let is_distinct = |index: usize| {
        list.is_keyword(index, &["DISTINCT", "DISTINCTROW"])
            // `a IS DISTINCT FROM b`; the FROM of the statement is not in the list.
            && !list.has(index + 1, &["FROM"])
    };
    if list.outside().any(is_distinct) {
        return refuse("DISTINCT");
    }
    let rest = parts.rest;
    for index in rest.outside() {
        if rest.is_keyword(index, &["GROUP"]) && rest.has(index + 1, &["BY"]) {
            return refuse("GROUP BY");
        }
        if rest.is_keyword(index, &["HAVING"]) && syntax == Syntax::Postgres {
            return refuse("HAVING");
        }
    }
    for tokens in [parts.list, rest.0] {
        if let Some(function) = aggregate(syntax, tokens) {
            return refuse(&function);
        }
    }
    Ok(())
}

/// Returns whether the tokens contain a subquery at any depth.
fn has_query(tokens: &[Token<'_>]) -> bool {
    let all = Tokens(tokens);
    (0..tokens.len()).any(|index| all.has_symbol(index, b'(') && is_query(all.inside(index)))
}

fn is_set_operation(tokens: Tokens<'_, '_>, index: usize) -> bool {
    tokens.is_keyword(index, &["UNION", "INTERSECT", "EXCEPT"])
        || (tokens.is_keyword(index, &["MINUS"]) && tokens.has(index + 1, &["SELECT", "ALL", "DISTINCT"]))
}

fn is_lock_clause(tokens: Tokens<'_, '_>, index: usize) -> bool {
    (tokens.is_keyword(index, &["FOR"]) && tokens.has(index + 1, &["UPDATE", "SHARE", "NO", "KEY", "READ"]))
        || (tokens.is_keyword(index, &["LOCK"])
            && tokens.has(index + 1, &["IN"])
            && tokens.has(index + 2, &["SHARE"]))
}

/// Returns whether a WITH defines this name.
fn is_defined(with: &[Token<'_>], name: &Token<'_>) -> bool {
    let tokens = Tokens(with);
    let starts = |index: usize| {
        index.checked_sub(1).is_some_and(|before| {
            tokens.has(before, &["WITH", "RECURSIVE"]) || tokens.has_symbol(before, b',')
        })
    };
    tokens.outside().any(|index| starts(index) && with[index].is_name() && same_name(&with[index], name.text))
}

/// Returns whether a token and a text are the same name, quoted or not.
fn same_name(token: &Token<'_>, name: &str) -> bool {
    let bare = |name: &str| name.trim_matches(['"', '`']).to_owned();
    let is_quoted = |text: &str| text.starts_with(['"', '`']);
    if is_quoted(token.text) || is_quoted(name) {
        let folded = |text: &str| if is_quoted(text) { bare(text) } else { text.to_lowercase() };
        folded(token.text) == folded(name)
    } else {
        token.text.eq_ignore_ascii_case(name)
    }
}

fn not_a_select(tokens: Tokens<'_, '_>) -> Obstacle {
    let first = tokens.get(0).map(|token| token.text.to_uppercase()).unwrap_or_default();
    Obstacle::new(format!("it begins with {first} and not with SELECT"), Remedy::SeparateSelect)
}

fn already_locked() -> Obstacle {
    Obstacle::new("it has a lock clause already", Remedy::RemoveIt)
}
