use std::fmt;

use http::header::IF_MATCH;
use http::{HeaderMap, HeaderValue};

use super::refusal::Refusal;

/// The entity tag of a resource with a version column: version 7 is `"7"`.
///
/// It is a strong tag: representations with the same tag are the same, byte for byte. If one version of a
/// resource has several representations, such as languages, only one of them may have this tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntityTag(i64);

impl EntityTag {
    /// Returns the tag of a version.
    #[must_use]
    pub const fn of_version(version: i64) -> Self {
        Self(version)
    }

    /// Returns the value of the header `ETag`.
    #[must_use]
    pub fn header_value(self) -> HeaderValue {
        // A number in quotes is always a valid value. An empty one would mean that there is no tag.
        HeaderValue::try_from(self.to_string()).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

impl fmt::Display for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

/// The header `If-Match`: the versions of a resource that the client is willing to change.
///
/// ```
/// use atomically::http::{IfMatch, Refusal};
/// use http::{HeaderMap, HeaderValue};
///
/// let mut headers = HeaderMap::new();
/// headers.insert("If-Match", HeaderValue::from_static(r#""6", "7""#));
/// let if_match = IfMatch::required(&headers)?;
/// // In the unit of work, with the version that `tx.for_update` has read:
/// if_match.check(7)?;
/// assert_eq!(if_match.check(8), Err(Refusal::Stale));
/// # Ok::<_, Refusal>(())
/// ```
///
/// Check the version in the same transaction as the change, after reading the row with
/// [`Tx::for_update`](crate::Tx::for_update). A refusal is not retried: the version is the client's, so
/// another attempt would be refused too. If there is no row, respond with 404 or 412, whatever `If-Match` is.
///
/// The comparison is strong, as RFC 9110 demands: weak tags such as `W/"7"` match nothing. A proxy that
/// compresses responses may weaken or change their tags. Have it leave those of resources that clients change
/// alone.
///
/// With the feature `axum`, this is an extractor, and `Option<IfMatch>` is one for requests that need no
/// `If-Match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IfMatch(NamedVersions);

#[derive(Debug, Clone, PartialEq, Eq)]
enum NamedVersions {
    /// `*`: any version of a resource that exists.
    Any,
    /// The strong tags of the list, without quotes.
    Tagged(Vec<String>),
}

impl IfMatch {
    /// Reads the header of a request that must have it. Several headers are one list.
    ///
    /// # Errors
    ///
    /// Returns [`Refusal::MissingIfMatch`] if there is none, and [`Refusal::MalformedIfMatch`] if its value
    /// is neither `*` nor a list of entity tags.
    pub fn required(headers: &HeaderMap) -> Result<Self, Refusal> {
        Self::optional(headers)?.ok_or(Refusal::MissingIfMatch)
    }

    /// Reads the header of a request that may have it. Several headers are one list.
    ///
    /// # Errors
    ///
    /// Returns [`Refusal::MalformedIfMatch`] if its value is neither `*` nor a list of entity tags.
    pub fn optional(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let lines: Vec<_> = headers.get_all(IF_MATCH).iter().map(HeaderValue::as_bytes).collect();
        if lines.is_empty() {
            return Ok(None);
        }
        let list = lines.join(&b',');
        if list.trim_ascii() == b"*" {
            return Ok(Some(Self(NamedVersions::Any)));
        }
        // The tags of versions are ASCII, so that a character that is replaced here matches none of them.
        let tags = strong_tags(&String::from_utf8_lossy(&list)).ok_or(Refusal::MalformedIfMatch)?;
        Ok(Some(Self(NamedVersions::Tagged(tags))))
    }

    /// Checks that the current version of the resource is one of those that the client has named.
    ///
    /// # Errors
    ///
    /// Returns [`Refusal::Stale`] if it is not.
    pub fn check(&self, version: i64) -> Result<(), Refusal> {
        let is_named = match &self.0 {
            NamedVersions::Any => true,
            NamedVersions::Tagged(tags) => tags.contains(&version.to_string()),
        };
        if is_named { Ok(()) } else { Err(Refusal::Stale) }
    }
}

/// Returns the strong tags of a list, which may have empty elements. `None` if there is no tag, or something
/// that is not a tag.
fn strong_tags(list: &str) -> Option<Vec<String>> {
    let (mut strong, mut count) = (Vec::new(), 0);
    let mut rest = list;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return (count > 0).then_some(strong);
        }
        let (is_weak, quoted) = match rest.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let (tag, after) = quoted.strip_prefix('"')?.split_once('"')?;
        if tag.contains(|c: char| c == ' ' || c.is_control()) {
            return None;
        }
        rest = after.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
        count += 1;
        if !is_weak {
            strong.push(tag.to_owned());
        }
    }
}
