//! Removes values from servers' messages, and reads names from them.

use std::borrow::Cow;

/// Replaces a message that one of the application's functions or triggers has raised.
pub(super) const WITHHELD: &str = "raised by a function or a trigger of the database; its message may \
                                   contain values and is left out here: `Error::driver_error` has it";

/// The quotation marks in messages, in all languages.
const QUOTES: [char; 12] = ['"', '\'', '«', '»', '„', '“', '”', '‘', '’', '「', '」', '`'];

/// Removes everything between the first quote of a message and the last one, since a value may contain
/// quotes.
pub(super) fn without_quoted(message: &str) -> Cow<'_, str> {
    let Some((start, open)) = message.char_indices().find(|(_, char)| QUOTES.contains(char)) else {
        return message.into();
    };
    let inside = start + open.len_utf8();
    match message[inside..].rfind(QUOTES) {
        Some(length) => format!("{}…{}", &message[..inside], &message[inside + length..]).into(),
        None => format!("{}…", &message[..inside]).into(),
    }
}

/// Returns the text between the first `open` and the next `close`.
pub(super) fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let rest = &text[text.find(open)? + open.len()..];
    Some(&rest[..rest.find(close)?])
}

/// Returns the text between the last `open` and the last `close`, for messages that quote a value before a
/// name.
pub(super) fn last_between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let rest = &text[text.rfind(open)? + open.len()..];
    Some(&rest[..rest.rfind(close)?])
}

/// Splits a comma-separated list of names, and removes their quotes.
pub(super) fn names(list: &str) -> Vec<String> {
    list.split(',').map(|name| unquoted(name.trim()).to_owned()).filter(|name| !name.is_empty()).collect()
}

pub(super) fn unquoted(name: &str) -> &str {
    name.trim_matches(['`', '"', '\''])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_is_removed() {
        for (message, wanted) in [
            ("no quotes", "no quotes"),
            ("near \"a\"b\": error", "near \"…\": error"),
            ("it's open", "it'…"),
            ("»a« or »b«.", "»…«."),
        ] {
            assert_eq!(without_quoted(message), wanted);
        }
    }

    #[test]
    fn text_between_needs_both_ends() {
        assert_eq!(between("a (b) c", "(", ")"), Some("b"));
        assert_eq!(between("a (b c", "(", ")"), None);
        assert_eq!(between("a b) c", "(", ")"), None);
    }

    #[test]
    fn the_last_quote_is_the_name_whatever_the_value_contains() {
        let message = "Duplicate entry 'it''s for key 'fake'' for key 'account_email'";
        assert_eq!(last_between(message, "for key '", "'"), Some("account_email"));
    }

    #[test]
    fn names_lose_their_quotes() {
        assert_eq!(names("`a`, b ,\"c\""), ["a", "b", "c"]);
        assert!(names("").is_empty());
    }
}
