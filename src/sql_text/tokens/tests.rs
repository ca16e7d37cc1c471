use super::*;

fn texts(syntax: Syntax, text: &str) -> Vec<&str> {
    let tokenized = TokenizedText::usual(syntax, text);
    assert!(tokenized.complete, "{text}");
    tokenized.tokens.iter().map(|token| token.text).collect()
}

#[test]
fn postgres_text_is_tokenized_like_postgres_does() {
    let read = |text| texts(Syntax::Postgres, text);
    assert_eq!(read("SELECT 1 /* a /* b */ ; */ -- ;\n, 2"), ["SELECT", "1", ",", "2"]);
    assert_eq!(read("$a$ ; $b$ ' $a$ $1 a$b$ $$;$$"), ["$a$ ; $b$ ' $a$", "$1", "a$b$", "$$;$$"]);
    assert_eq!(
        read(r"E'\' ;' e'a' fe'\' '\' U&'\'"),
        [r"E'\' ;'", "e'a'", "fe", r"'\'", r"'\'", "U", "&", r"'\'"]
    );
    assert_eq!(read("'it''s' \"a\"\"b\" x@-- y\rz"), ["'it''s'", "\"a\"\"b\"", "x", "@", "z"]);
    assert_eq!(read("@/* ' */ ; /* ' */"), ["@", ";"]);
    assert_eq!(read("$é$ ; $é$ naïve"), ["$é$ ; $é$", "naïve"]);
    assert_eq!(read("$1$a$;$a$"), ["$1", "$a$;$a$"]);
    // A string with escapes continues after a line break, and only there.
    let continued = "E'a' -- b\n '\\';' ; 'c'";
    assert_eq!(read(continued), ["E'a' -- b\n '\\';'", ";", "'c'"]);
    assert_eq!(read("E'a' '\\' ;"), ["E'a'", "'\\'", ";"]);
}

#[test]
fn mysql_text_is_tokenized_like_mysql_does() {
    let read = |text| texts(Syntax::MySql, text);
    assert_eq!(read("a # ; '\n, b -- ;\n, c--d --\n"), ["a", ",", "b", ",", "c", "-", "-", "d"]);
    assert_eq!(read("a --\u{1}'\n--"), ["a"]);
    assert_eq!(read(r#"'a\'' "b\"" `c\` `d``e`"#), [r"'a\''", r#""b\"""#, r"`c\`", "`d``e`"]);
    assert_eq!(read("/* a /* b */ c"), ["c"]);
    assert_eq!(read("/*!50700 a*/ /*M! b */ /*!c*/ /*+ d */ e"), ["a", "b", "c", "e"]);
    let executable_comments = TokenizedText::usual(Syntax::MySql, "/*! a b */ c /*M!100100 d*/");
    let executable_comments: Vec<_> =
        executable_comments.tokens.iter().map(|token| token.executable_comment).collect();
    assert_eq!(executable_comments, [Some(1), Some(1), None, Some(2)]);
}

#[test]
fn sqlite_text_is_tokenized_like_sqlite_does() {
    let read = |text| texts(Syntax::Sqlite, text);
    assert_eq!(
        read("[a;b] `c;` \"d;\" 'e\\' ?1 :f @g $h /* ; "),
        ["[a;b]", "`c;`", "\"d;\"", "'e\\'", "?", "1", ":f", "@g", "$h"]
    );
}

#[test]
fn unterminated_tokens_are_detected() {
    for (syntax, text) in [
        (Syntax::Postgres, "SELECT 'a"),
        (Syntax::Postgres, "SELECT \"a"),
        (Syntax::Postgres, "SELECT $a$ $b$"),
        (Syntax::Postgres, "SELECT /* /* */"),
        (Syntax::Postgres, "SELECT E'\\'"),
        (Syntax::Postgres, "SELECT \0"),
        (Syntax::MySql, "SELECT 'a\\'"),
        (Syntax::MySql, "SELECT /* "),
        (Syntax::MySql, "SELECT /*! "),
        (Syntax::MySql, "SELECT /*! /* */ */"),
        (Syntax::MySql, "SELECT /*! -- */ \n"),
        (Syntax::MySql, "/*!99999 ' */ COMMIT -- ' */"),
        (Syntax::MySql, "SELECT `a"),
        (Syntax::Sqlite, "SELECT [a"),
        (Syntax::Sqlite, "SELECT $a(;)"),
    ] {
        assert!(!TokenizedText::usual(syntax, text).complete, "{text}");
    }
}
