//! Displays statements with their bound values.

/// Replaces the placeholders of a text by their values.
pub(super) fn with_arguments(sql: &str, arguments: &[String]) -> String {
    let mut shown = String::with_capacity(sql.len());
    let mut next = 0;
    let mut quote = None;
    let mut rest = sql.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        match (quote, c) {
            (None, '\'' | '"' | '`') => quote = Some(c),
            (Some(open), _) if c == open => quote = None,
            (None, '?') => {
                let value = arguments.get(next);
                next += 1;
                shown.push_str(value.map_or("?", String::as_str));
                continue;
            }
            (None, '$') => {
                let digits: String = sql[at + 1..].chars().take_while(char::is_ascii_digit).collect();
                if let Some(value) =
                    digits.parse::<usize>().ok().and_then(|number| arguments.get(number.checked_sub(1)?))
                {
                    shown.push_str(value);
                    rest.nth(digits.len() - 1);
                    continue;
                }
            }
            _ => {}
        }
        shown.push(c);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_replace_their_placeholders() {
        let arguments = [String::from("7"), String::from("'it''s'")];
        assert_eq!(with_arguments("a = $1 AND b = $2", &arguments), "a = 7 AND b = 'it''s'");
        assert_eq!(with_arguments("a = ? AND b = ?", &arguments), "a = 7 AND b = 'it''s'");
        assert_eq!(with_arguments("a = '$1?' AND b = $2", &arguments), "a = '$1?' AND b = 'it''s'");
        assert_eq!(with_arguments("a = $3 AND b = $x", &arguments), "a = $3 AND b = $x");
    }
}
