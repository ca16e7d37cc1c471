//! Reading names out of messages, for the databases that put them nowhere else.

/// What stands between `open` and the next `close`.
pub(super) fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let rest = &text[text.find(open)? + open.len()..];
    Some(&rest[..rest.find(close)?])
}

/// What stands between the last `open` and the last `close`: for messages that quote the user's data first.
pub(super) fn last_between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let rest = &text[text.rfind(open)? + open.len()..];
    Some(&rest[..rest.rfind(close)?])
}

/// The names of a comma-separated list, without quotes.
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
    fn between_needs_both_ends() {
        assert_eq!(between("a (b) c", "(", ")"), Some("b"));
        assert_eq!(between("a (b c", "(", ")"), None);
        assert_eq!(between("a b) c", "(", ")"), None);
    }

    #[test]
    fn the_last_quote_wins_over_the_users_data() {
        let message = "Duplicate entry 'it''s for key 'fake'' for key 'account_email'";
        assert_eq!(last_between(message, "for key '", "'"), Some("account_email"));
    }

    #[test]
    fn names_come_without_quotes() {
        assert_eq!(names("`a`, b ,\"c\""), ["a", "b", "c"]);
        assert!(names("").is_empty());
    }
}
