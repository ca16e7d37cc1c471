//! Which SELECT has rows that a lock clause reaches.

use super::super::{Kind, Syntax, Token};
use super::from::{Item, items};
use super::functions::aggregate;
use super::{Instead, Obstacle, Tokens, is_query};

/// Where the words stand that tell the parts of a SELECT apart.
struct SelectParts<'a, 't> {
    /// Between SELECT and FROM.
    list: &'a [Token<'t>],
    from: &'a [Token<'t>],
    /// What follows the FROM clause.
    rest: Tokens<'a, 't>,
}

/// Whether the text is a SELECT without a lock clause, which is all that matters where there are no row
/// locks.
pub(super) fn is_select(tokens: &[Token<'_>]) -> Result<(), Obstacle> {
    let tokens = Tokens(tokens);
    let statement = tokens.outside().find(|place| {
        tokens.is_keyword(*place, &["SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "VALUES"])
    });
    let may_begin = tokens.has(0, &["SELECT", "WITH"]);
    if !may_begin || !statement.is_some_and(|place| tokens.has(place, &["SELECT"])) {
        return Err(not_a_select(tokens));
    }
    let clause = tokens.outside().find(|place| is_lock_clause(tokens, *place));
    clause.map_or(Ok(()), |_| Err(locked_already()))
}

/// Whether a lock clause at the end of the text locks the rows that it reads, or those of `table` where the
/// clause names one.
pub(super) fn can_be_locked(
    syntax: Syntax,
    tokens: &[Token<'_>],
    table: Option<&str>,
) -> Result<(), Obstacle> {
    let Some(table) = table else {
        return match tables(syntax, tokens)? {
            0 => Err(Obstacle::new("it reads from no table", Instead::SelectOfItsOwn)),
            _ => Ok(()),
        };
    };
    let all = Tokens(tokens);
    let begins = if all.has(0, &["WITH"]) {
        let words = ["SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "VALUES", "TABLE"];
        all.outside().find(|place| all.is_keyword(*place, &words)).unwrap_or(0)
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
        Item::Query(_) | Item::Rows | Item::Unclear => false,
    });
    if is_there {
        return Ok(());
    }
    let why = format!("the lock is for {table:?}, and its FROM has no table that it calls so");
    Err(Obstacle::new(why, Instead::SelectOfItsOwn))
}

/// How many tables a query reads whose rows are all reached by a clause without names.
fn tables(syntax: Syntax, tokens: &[Token<'_>]) -> Result<usize, Obstacle> {
    let all = Tokens(tokens);
    if all.has(0, &["WITH"]) {
        return Err(Obstacle::new(
            "it begins with WITH, and a lock clause does not reach the rows of a common table expression",
            Instead::NameTheTable,
        ));
    }
    let parts = parts(syntax, tokens)?;
    if has_query(parts.list) {
        return Err(Obstacle::new(
            "a subquery is among what it selects, and a lock clause does not reach the rows of that one",
            Instead::NameTheTable,
        ));
    }
    plain_rows(syntax, &parts)?;
    let (items, has_outer_join) = items(syntax, parts.from);
    if has_outer_join && syntax == Syntax::Postgres {
        return Err(Obstacle::new(
            "it has an outer join, and the rows that may be missing cannot be locked",
            Instead::NameTheTable,
        ));
    }
    let mut count = 0;
    for item in items {
        count += match item {
            Item::Table { .. } => 1,
            Item::Rows => 0,
            Item::Query(query) if syntax == Syntax::Postgres => reached(query)?,
            Item::Query(_) => {
                return Err(Obstacle::new(
                    "it reads from a subquery, and a lock clause does not reach the rows of that one",
                    Instead::NameTheTable,
                ));
            }
            Item::Unclear => {
                return Err(Obstacle::new("its FROM clause is not understood", Instead::SelectOfItsOwn));
            }
        };
    }
    Ok(count)
}

/// PostgreSQL locks the rows of a subquery in FROM like those of the query around it.
fn reached(query: &[Token<'_>]) -> Result<usize, Obstacle> {
    let query_tokens = Tokens(query);
    if query_tokens.has(0, &["VALUES"]) {
        return Ok(0);
    }
    let has_from = query_tokens.outside().any(|place| query_tokens.is_keyword(place, &["FROM"]));
    let has_set = query_tokens.outside().any(|place| is_set_operation(query_tokens, place));
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
    let is_from = |place: usize| {
        // `a IS DISTINCT FROM b`
        let of_distinct = place > 1 && all.has(place - 1, &["DISTINCT"]) && !all.has(place - 2, &["SELECT"]);
        all.is_keyword(place, &["FROM"]) && !of_distinct
    };
    let Some(from) = all.outside().find(|place| is_from(*place)) else {
        for place in all.outside() {
            refuse_word(syntax, all, place)?;
        }
        return Err(Obstacle::new("it has no FROM", Instead::SelectOfItsOwn));
    };
    let ends = |place: &usize| *place > from && ends_from(syntax, all, *place);
    let end = all.outside().find(ends).unwrap_or(tokens.len());
    let parts =
        SelectParts { list: &tokens[1..from], from: &tokens[from + 1..end], rest: Tokens(&tokens[end..]) };
    for place in all.outside() {
        refuse_word(syntax, all, place)?;
    }
    Ok(parts)
}

/// Whether the FROM clause is over at this place. Words that are no names everywhere are told by what follows
/// them.
fn ends_from(syntax: Syntax, tokens: Tokens<'_, '_>, place: usize) -> bool {
    if !tokens.get(place).is_some_and(|token| token.kind == Kind::Word) {
        return false;
    }
    let is = |words: &[&str]| tokens.is_keyword(place, words);
    let next = |words: &[&str]| tokens.has(place + 1, words);
    let before = |words: &[&str]| place.checked_sub(1).is_some_and(|before| tokens.has(before, words));
    // `USE INDEX FOR ORDER BY (…)`
    if syntax == Syntax::MySql && before(&["FOR"]) {
        return false;
    }
    if is(&["WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "INTO"]) || is_set_operation(tokens, place) {
        return true;
    }
    match syntax {
        Syntax::Postgres => is(&["WINDOW", "OFFSET", "FETCH", "FOR"]),
        Syntax::MySql | Syntax::Sqlite => {
            let is_number = tokens.get(place + 1).is_some_and(|next| {
                matches!(next.kind, Kind::Number | Kind::Literal | Kind::Symbol(b'?' | b'@' | b':' | b'('))
            });
            (is(&["OFFSET"]) && is_number)
                || (is(&["FETCH"]) && next(&["FIRST", "NEXT"]))
                || (is(&["WINDOW"]) && tokens.has(place + 2, &["AS"]))
                || is(&["PROCEDURE"])
                || is_lock_clause(tokens, place)
                || (is(&["FOR"]) && !before(&["INDEX", "KEY"]) && !next(&["SYSTEM_TIME"]))
        }
    }
}

/// Refuses what a lock clause does not go with, at whatever place outside of brackets.
fn refuse_word(syntax: Syntax, tokens: Tokens<'_, '_>, place: usize) -> Result<(), Obstacle> {
    if !tokens.get(place).is_some_and(|token| token.kind == Kind::Word) {
        return Ok(());
    }
    let refuse = |why: &'static str, instead| Err(Obstacle::new(why, instead));
    if is_lock_clause(tokens, place) {
        return Err(locked_already());
    }
    if is_set_operation(tokens, place) || (place > 0 && tokens.is_keyword(place, &["SELECT"])) {
        return refuse(
            "it combines queries (UNION, INTERSECT, EXCEPT), and a lock clause does not reach the rows of all",
            Instead::SelectOfItsOwn,
        );
    }
    if tokens.is_keyword(place, &["INTO"]) {
        return refuse("it has INTO, so its rows go elsewhere", Instead::LeaveItOut);
    }
    if syntax == Syntax::MySql
        && tokens.is_keyword(place, &["FOR"])
        && tokens.has(place + 1, &["SYSTEM_TIME"])
    {
        return refuse("it reads rows as they were (FOR SYSTEM_TIME)", Instead::LeaveItOut);
    }
    Ok(())
}

/// Refuses queries whose rows are not those of a table.
fn plain_rows(syntax: Syntax, parts: &SelectParts<'_, '_>) -> Result<(), Obstacle> {
    let refuse = |what: &str| {
        let why = format!("it has {what}, so its rows are not those of a table");
        Err(Obstacle::new(why, Instead::SelectOfItsOwn))
    };
    let list = Tokens(parts.list);
    let is_distinct = |place: usize| {
        list.is_keyword(place, &["DISTINCT", "DISTINCTROW"])
            // `a IS DISTINCT FROM b`; the FROM of the statement is not in the list.
            && !list.has(place + 1, &["FROM"])
    };
    if list.outside().any(is_distinct) {
        return refuse("DISTINCT");
    }
    let rest = parts.rest;
    for place in rest.outside() {
        if rest.is_keyword(place, &["GROUP"]) && rest.has(place + 1, &["BY"]) {
            return refuse("GROUP BY");
        }
        if rest.is_keyword(place, &["HAVING"]) && syntax == Syntax::Postgres {
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

/// Whether there is a subquery in brackets of any depth.
fn has_query(tokens: &[Token<'_>]) -> bool {
    let all = Tokens(tokens);
    (0..tokens.len()).any(|place| all.has_symbol(place, b'(') && is_query(all.inside(place)))
}

fn is_set_operation(tokens: Tokens<'_, '_>, place: usize) -> bool {
    tokens.is_keyword(place, &["UNION", "INTERSECT", "EXCEPT"])
        || (tokens.is_keyword(place, &["MINUS"]) && tokens.has(place + 1, &["SELECT", "ALL", "DISTINCT"]))
}

fn is_lock_clause(tokens: Tokens<'_, '_>, place: usize) -> bool {
    (tokens.is_keyword(place, &["FOR"]) && tokens.has(place + 1, &["UPDATE", "SHARE", "NO", "KEY", "READ"]))
        || (tokens.is_keyword(place, &["LOCK"])
            && tokens.has(place + 1, &["IN"])
            && tokens.has(place + 2, &["SHARE"]))
}

/// Whether a WITH defines this name.
fn is_defined(with: &[Token<'_>], name: &Token<'_>) -> bool {
    let tokens = Tokens(with);
    let starts = |place: usize| {
        place.checked_sub(1).is_some_and(|before| {
            tokens.has(before, &["WITH", "RECURSIVE"]) || tokens.has_symbol(before, b',')
        })
    };
    tokens.outside().any(|place| starts(place) && with[place].is_name() && same_name(&with[place], name.text))
}

/// Whether a name means the same as this text, quotes or not.
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
    Obstacle::new(format!("it begins with {first} and not with SELECT"), Instead::SelectOfItsOwn)
}

fn locked_already() -> Obstacle {
    Obstacle::new("it has a lock clause already", Instead::LeaveItOut)
}
