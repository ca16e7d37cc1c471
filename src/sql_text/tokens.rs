//! Splits a text into tokens, like the servers do.

use super::Syntax;

/// The kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword or a name without quotes.
    Word,
    /// A name in quotes, or on MySQL a string in double quotes, which is a name where `ANSI_QUOTES` is on.
    Quoted,
    /// A string or a numbered parameter.
    Literal,
    /// A token that begins with a digit.
    Number,
    /// Any other character.
    Symbol(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'t> {
    pub(super) kind: Kind,
    pub(super) text: &'t str,
    /// The byte offset at which it begins.
    pub(super) at: usize,
    /// The number of the executable comment that contains it, counted from 1.
    pub(super) executable_comment: Option<u32>,
}

impl Token<'_> {
    pub(super) const fn end(&self) -> usize {
        self.at + self.text.len()
    }

    pub(super) fn is_symbol(&self, symbol: u8) -> bool {
        self.kind == Kind::Symbol(symbol)
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(word)
    }

    pub(super) fn is_any_word(&self, words: &[&str]) -> bool {
        self.kind == Kind::Word && words.iter().any(|word| self.text.eq_ignore_ascii_case(word))
    }

    pub(super) fn is_name(&self) -> bool {
        matches!(self.kind, Kind::Word | Kind::Quoted)
    }
}

/// The tokens of a text, under one assumption about backslashes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TokenizedText<'t> {
    pub(super) tokens: Vec<Token<'t>>,
    /// Whether the text could be parsed to its end: every string and comment ends.
    pub(super) complete: bool,
}

impl<'t> TokenizedText<'t> {
    /// Parses the text under the default settings of a session.
    pub(super) fn usual(syntax: Syntax, text: &'t str) -> Self {
        Self::with(syntax, text, syntax == Syntax::MySql)
    }

    /// Parses the text under other settings (`NO_BACKSLASH_ESCAPES`, `standard_conforming_strings = off`);
    /// `None` if they make no difference.
    pub(super) fn unusual(syntax: Syntax, text: &'t str) -> Option<Self> {
        let differs = syntax != Syntax::Sqlite && text.contains('\\');
        differs.then(|| Self::with(syntax, text, syntax != Syntax::MySql))
    }

    fn with(syntax: Syntax, text: &'t str, backslash_escapes: bool) -> Self {
        let mut scanner = Scanner {
            syntax,
            backslash_escapes,
            text,
            bytes: text.as_bytes(),
            at: 0,
            executable_comment: None,
            executable_comments: 0,
            tokens: Vec::with_capacity(text.len() / 5 + 1),
        };
        let complete = scanner.run().is_some() && scanner.executable_comment.is_none();
        Self { tokens: scanner.tokens, complete }
    }
}

struct Scanner<'t> {
    syntax: Syntax,
    backslash_escapes: bool,
    text: &'t str,
    bytes: &'t [u8],
    at: usize,
    /// The executable comment that is being read.
    executable_comment: Option<u32>,
    executable_comments: u32,
    tokens: Vec<Token<'t>>,
}

impl Scanner<'_> {
    fn byte(&self, offset: usize) -> Option<u8> {
        self.bytes.get(self.at + offset).copied()
    }

    fn starts_with(&self, what: &str) -> bool {
        self.bytes[self.at..].starts_with(what.as_bytes())
    }

    /// Reads all tokens; `None` if it cannot continue.
    fn run(&mut self) -> Option<()> {
        while let Some(byte) = self.byte(0) {
            if byte.is_ascii_whitespace() || byte == 0x0b {
                self.at += 1;
            } else if self.syntax == Syntax::Sqlite && self.starts_with("\u{feff}") {
                self.at += "\u{feff}".len();
            } else if self.begins_line_comment() {
                self.outside_of_executable_comments()?;
                self.skip_line();
            } else if self.starts_with("/*") {
                self.outside_of_executable_comments()?;
                self.comment()?;
            } else if self.executable_comment.is_some() && self.starts_with("*/") {
                self.executable_comment = None;
                self.at += 2;
            } else {
                self.token(byte)?;
            }
        }
        Some(())
    }

    /// Fails within an executable comment: whether an inner comment ends both depends on whether the outer
    /// one is executed.
    fn outside_of_executable_comments(&self) -> Option<()> {
        self.executable_comment.is_none().then_some(())
    }

    fn begins_line_comment(&self) -> bool {
        match self.syntax {
            Syntax::MySql if self.byte(0) == Some(b'#') => true,
            // `5--3` is an expression.
            Syntax::MySql => {
                self.starts_with("--") && self.byte(2).is_none_or(|next| next <= b' ' || next == 0x7f)
            }
            Syntax::Postgres | Syntax::Sqlite => self.starts_with("--"),
        }
    }

    fn skip_line(&mut self) {
        let ends = |byte: &u8| *byte == b'\n' || (*byte == b'\r' && self.syntax == Syntax::Postgres);
        let length = self.bytes[self.at..].iter().position(ends).unwrap_or(self.bytes.len() - self.at);
        self.at += length;
    }

    fn comment(&mut self) -> Option<()> {
        if self.syntax == Syntax::MySql && (self.starts_with("/*!") || self.starts_with("/*M!")) {
            self.at += if self.byte(2) == Some(b'!') { 3 } else { 4 };
            let digits = (0..6).take_while(|i| self.byte(*i).is_some_and(|b| b.is_ascii_digit())).count();
            if digits >= 5 {
                self.at += digits;
            }
            self.executable_comments += 1;
            self.executable_comment = Some(self.executable_comments);
            return Some(());
        }
        self.at += 2;
        let mut depth = 1;
        while depth > 0 {
            if self.starts_with("*/") {
                depth -= 1;
                self.at += 2;
            } else if self.syntax == Syntax::Postgres && self.starts_with("/*") {
                depth += 1;
                self.at += 2;
            } else if self.byte(0).is_some() {
                self.at += 1;
            } else {
                // On SQLite the end of the text ends a comment.
                return (self.syntax == Syntax::Sqlite).then_some(());
            }
        }
        Some(())
    }

    fn token(&mut self, byte: u8) -> Option<()> {
        let start = self.at;
        let kind = match byte {
            0 => return None,
            b'\'' => {
                self.quoted(b'\'', self.backslash_escapes)?;
                Kind::Literal
            }
            b'"' => {
                self.quoted(b'"', self.backslash_escapes && self.syntax == Syntax::MySql)?;
                Kind::Quoted
            }
            b'`' if self.syntax != Syntax::Postgres => {
                self.quoted(b'`', false)?;
                Kind::Quoted
            }
            b'[' if self.syntax == Syntax::Sqlite => {
                let length = self.bytes[start..].iter().position(|byte| *byte == b']')?;
                self.at += length + 1;
                Kind::Quoted
            }
            b'$' if self.syntax == Syntax::Postgres => self.dollar()?,
            b'$' | b':' | b'@' | b'#' if self.syntax == Syntax::Sqlite => {
                self.at += 1;
                self.skip_word();
                // A Tcl variable, with any text in its brackets.
                if self.at > start + 1 && self.byte(0) == Some(b'(') {
                    return None;
                }
                Kind::Literal
            }
            b'0'..=b'9' => {
                self.skip_number();
                Kind::Number
            }
            byte if self.begins_word(byte) => {
                self.skip_word();
                let word = &self.text[start..self.at];
                let escapes = self.syntax == Syntax::Postgres && word.eq_ignore_ascii_case("e");
                if escapes && self.byte(0) == Some(b'\'') {
                    self.quoted(b'\'', true)?;
                    while let Some(next) = self.continuation() {
                        self.at = next;
                        self.quoted(b'\'', true)?;
                    }
                    Kind::Literal
                } else {
                    Kind::Word
                }
            }
            byte => {
                self.at += 1;
                Kind::Symbol(byte)
            }
        };
        let text = &self.text[start..self.at];
        if self.executable_comment.is_some() && text.contains("*/") {
            // The comment ends there only if the executable comment is not executed.
            return None;
        }
        self.tokens.push(Token { kind, text, at: start, executable_comment: self.executable_comment });
        Some(())
    }

    /// Skips a quoted token, in which a quote is doubled.
    fn quoted(&mut self, quote: u8, backslash_escapes: bool) -> Option<()> {
        self.at += 1;
        loop {
            match self.byte(0)? {
                0 => return None,
                b'\\' if backslash_escapes => {
                    self.byte(1)?;
                    self.at += 2;
                }
                byte if byte == quote && self.byte(1) == Some(quote) => self.at += 2,
                byte => {
                    self.at += 1;
                    if byte == quote {
                        return Some(());
                    }
                }
            }
        }
    }

    /// Returns where a string continues after a line break, with the same escapes as its first part.
    fn continuation(&self) -> Option<usize> {
        let mut at = self.at;
        let mut has_break = false;
        loop {
            let rest = &self.bytes[at..];
            if rest.starts_with(b"--") {
                at += rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'))?;
                continue;
            }
            match rest.first()? {
                b'\'' if has_break => return Some(at),
                b'\n' | b'\r' => has_break = true,
                byte if byte.is_ascii_whitespace() || *byte == 0x0b => {}
                _ => return None,
            }
            at += 1;
        }
    }

    /// Reads a parameter (`$1`) or a string (`$tag$ … $tag$`).
    fn dollar(&mut self) -> Option<Kind> {
        let start = self.at;
        self.at += 1;
        if self.byte(0).is_some_and(|byte| byte.is_ascii_digit()) {
            while self.byte(0).is_some_and(|byte| byte.is_ascii_digit()) {
                self.at += 1;
            }
            return Some(Kind::Literal);
        }
        if self.byte(0).is_some_and(|byte| self.begins_word(byte)) {
            while self.byte(0).is_some_and(|byte| self.begins_word(byte) || byte.is_ascii_digit()) {
                self.at += 1;
            }
        }
        if self.byte(0) != Some(b'$') {
            self.at = start + 1;
            return Some(Kind::Symbol(b'$'));
        }
        self.at += 1;
        let tag = &self.text[start..self.at];
        let length = self.text[self.at..].find(tag)?;
        self.at += length + tag.len();
        Some(Kind::Literal)
    }

    fn begins_word(&self, byte: u8) -> bool {
        byte.is_ascii_alphabetic()
            || byte == b'_'
            || byte >= 0x80
            || (byte == b'$' && self.syntax == Syntax::MySql)
    }

    fn skip_word(&mut self) {
        let in_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..);
        while self.byte(0).is_some_and(in_word) {
            self.at += 1;
        }
    }

    fn skip_number(&mut self) {
        let in_number = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
        while self.byte(0).is_some_and(in_number) {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests;
