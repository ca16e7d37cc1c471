//! Headers: no database is involved.

use atomically::http::{EntityTag, IfMatch, KeyedRequest, Refusal};
use axum::http::{HeaderMap, HeaderValue, Request};
use proptest::prelude::*;

/// The request with these `Idempotency-Key` headers.
fn keyed(values: &[&[u8]]) -> Result<KeyedRequest, Refusal> {
    let mut request = Request::post("/orders");
    for value in values {
        request = request.header("Idempotency-Key", *value);
    }
    let (head, ()) = request.body(()).expect("a request").into_parts();
    KeyedRequest::new(&head, "tea", 100)
}

fn key(value: &str) -> Result<String, Refusal> {
    keyed(&[value.as_bytes()]).map(|request| request.key().to_owned())
}

#[test]
fn a_key_is_the_same_with_and_without_quotes() {
    let id = "8e03978e-40d5-43dd-bc93-6894a57f9324";
    let [bare, quoted] = [id.to_owned(), format!("\"{id}\"")].map(|value| keyed(&[value.as_bytes()]));
    let [bare, quoted] = [bare, quoted].map(|request| request.expect("a key").for_caller("ann"));
    assert_eq!(bare, quoted);
    for (value, expected) in [
        ("\"a b\"", "a b"),
        (r#""say \"a\" \\ b""#, r#"say "a" \ b"#),
        (" \t\"a\" ", "a"),
        ("order:7/+=.~*'", "order:7/+=.~*'"),
        ("\"a,b;c\"", "a,b;c"),
    ] {
        assert_eq!(key(value).as_deref(), Ok(expected), "{value}");
    }
}

#[test]
fn values_that_are_not_one_key_are_refused() {
    assert_eq!(keyed(&[]).expect_err("no key"), Refusal::MissingKey);
    assert_eq!(keyed(&[b"a", b"a"]).expect_err("two keys"), Refusal::RepeatedKey);
    for malformed in [
        "\"a",
        "a\"",
        "\"a\"b",
        "\"a\";b=1",
        "\"a\", \"b\"",
        "a, b",
        "a b",
        "a;b",
        r#""\a""#,
        r#""a\"#,
        "a\\b",
    ] {
        assert_eq!(key(malformed), Err(Refusal::MalformedKey), "{malformed}");
    }
    assert_eq!(keyed(&["\u{fc}".as_bytes()]).expect_err("not ASCII"), Refusal::MalformedKey);
    assert_eq!(keyed(&[b"\"a\tb\""]).expect_err("a control character"), Refusal::MalformedKey);
}

#[test]
fn keys_have_1_to_255_bytes() {
    for empty in ["", "\"\"", " "] {
        assert_eq!(key(empty), Err(Refusal::EmptyKey), "{empty:?}");
    }
    let (longest, longer) = ("k".repeat(255), "k".repeat(256));
    assert_eq!(key(&longest), Ok(longest.clone()));
    assert_eq!(key(&format!("\"{longest}\"")), Ok(longest));
    assert_eq!(key(&longer), Err(Refusal::KeyTooLong(256)));
    // Escapes do not count.
    assert_eq!(key(&format!("\"{}\"", "\\\\".repeat(255))), Ok("\\".repeat(255)));
}

#[test]
fn a_caller_is_required() {
    let request = keyed(&[b"k"]).expect("a key");
    assert_eq!(request.for_caller(""), Err(Refusal::EmptyCaller));
    let keys = [request.for_caller("ann"), request.for_caller("bob"), request.for_any_caller()];
    assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2], "{keys:?}");
}

#[test]
fn bodies_are_limited() {
    let (head, ()) =
        Request::post("/").header("Idempotency-Key", "k").body(()).expect("a request").into_parts();
    assert!(KeyedRequest::new(&head, "12345", 5).is_ok());
    assert_eq!(KeyedRequest::new(&head, "123456", 5).expect_err("too long"), Refusal::BodyTooLarge(5));
}

/// Checks the version against these `If-Match` headers.
fn check(values: &[&str], version: i64) -> Result<(), Refusal> {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append("If-Match", HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
    }
    IfMatch::required(&headers)?.check(version)
}

#[test]
fn if_match_compares_strongly() {
    let tag = EntityTag::of_version(7).to_string();
    assert_eq!(EntityTag::of_version(7).header_value(), "\"7\"");
    for matching in [
        &[&*tag][..],
        &["*"],
        &[" * "],
        &["\"6\", \"7\""],
        &["\"6\",\"7\" "],
        &["\"6\"", "\"7\""],
        &["\"a,b\" ,, \"7\","],
    ] {
        assert_eq!(check(matching, 7), Ok(()), "{matching:?}");
    }
    for stale in ["\"6\"", "W/\"7\"", "\"07\"", "\"\"", "\"+7\"", "\"a,7\"", "W/\"7\", \"8\"", "\"7\u{fc}\""]
    {
        assert_eq!(check(&[stale], 7), Err(Refusal::Stale), "{stale}");
    }
}

#[test]
fn if_match_is_required_and_must_be_a_list_of_tags() {
    assert_eq!(check(&[], 7), Err(Refusal::MissingIfMatch));
    for malformed in
        ["", "7", "\"7", "7\"", "\"7\" \"8\"", "w/\"7\"", "W/7", "\"7\", *", "*, \"7\"", "\"a b\"", ","]
    {
        assert_eq!(check(&[malformed], 7), Err(Refusal::MalformedIfMatch), "{malformed}");
    }
    assert_eq!(IfMatch::optional(&HeaderMap::new()), Ok(None));
}

#[test]
fn refusals_have_their_status() {
    for (refusal, status) in [
        (Refusal::MissingKey, 400),
        (Refusal::BodyTooLarge(1), 413),
        (Refusal::InProgress, 409),
        (Refusal::Mismatch, 422),
        (Refusal::MissingIfMatch, 428),
        (Refusal::MalformedIfMatch, 412),
        (Refusal::Stale, 412),
        (Refusal::EmptyCaller, 500),
    ] {
        assert_eq!(refusal.status().as_u16(), status, "{refusal:?}");
    }
}

proptest! {
    /// Every string of printable ASCII characters is a key when it is quoted as structured fields have it.
    #[test]
    fn every_printable_string_in_quotes_is_a_key(text in "[ -~]{1,255}") {
        let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        prop_assert_eq!(key(&quoted), Ok(text));
    }

    /// No value is another key than itself, with or without quotes.
    #[test]
    fn a_bare_value_is_itself_or_refused(text in "[ -~]{1,40}") {
        let text = text.trim();
        if let Ok(read) = key(text) {
            if !text.starts_with('"') {
                prop_assert_eq!(&read, text);
            }
            let quoted = format!("\"{}\"", read.replace('\\', "\\\\").replace('"', "\\\""));
            prop_assert_eq!(key(&quoted), Ok(read));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(0x20_u8..=0xff, 0..60)) {
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            let _ = keyed(&[value.as_bytes()]);
            let mut headers = HeaderMap::new();
            headers.insert("If-Match", value);
            let _ = IfMatch::required(&headers);
        }
    }

    #[test]
    fn a_version_matches_its_own_tag_only(version: i64, other: i64) {
        let tag = EntityTag::of_version(version).to_string();
        prop_assert_eq!(check(&[&tag], version), Ok(()));
        prop_assert_eq!(check(&[&tag], other).is_ok(), version == other);
        prop_assert_eq!(check(&[&format!("W/{tag}")], version), Err(Refusal::Stale));
    }
}
