//! Names and keywords in SQL texts.

use sqlparser::ast;
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::Token;

/// A name in lowercase and without quotes. Names that differ in nothing else are considered equal.
pub(in crate::testing) fn name_of(name: &ast::Ident) -> String {
    name.value.to_lowercase()
}

/// The last part of a qualified name.
pub(in crate::testing) fn last_name(name: &ast::ObjectName) -> String {
    name.0.last().and_then(|part| part.as_ident()).map(name_of).unwrap_or_default()
}

pub(super) fn is_keyword(token: &Token, keyword: Keyword) -> bool {
    matches!(token, Token::Word(word) if word.keyword == keyword && word.quote_style.is_none())
}
