use std::fmt::Display;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::error::Error;
use crate::idempotency::KeyError;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A response whose whole body is in memory, so that it can be stored and sent again.
///
/// ```
/// use atomically::http::BufferedResponse;
/// use http::StatusCode;
/// use http::header::LOCATION;
///
/// # fn example() -> Result<(), atomically::Error> {
/// let response = BufferedResponse::json(StatusCode::CREATED, &"tea")?.header(LOCATION, "/orders/7")?;
/// assert_eq!(response.body(), "\"tea\"");
/// # Ok(()) }
/// # example().unwrap();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferedResponse {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl BufferedResponse {
    /// Creates a response without headers.
    #[must_use]
    pub fn new(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self { status, headers: HeaderMap::new(), body: body.into() }
    }

    /// Creates a response with a JSON body.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::Unwritable`] if the value cannot be serialized.
    pub fn json(status: StatusCode, value: &impl Serialize) -> Result<Self, Error> {
        let body = serde_json::to_vec(value).map_err(KeyError::Unwritable)?;
        let mut response = Self::new(status, body);
        response.headers.insert(CONTENT_TYPE, JSON);
        Ok(response)
    }

    /// Adds a header. One of the same name that was added before is kept.
    ///
    /// # Errors
    ///
    /// Returns an error if the value contains a control character.
    pub fn header<V>(mut self, name: HeaderName, value: V) -> Result<Self, Error>
    where
        V: TryInto<HeaderValue, Error: Display>,
    {
        let value = value.try_into().map_err(|error| {
            Error::invalid_input(format!("the value of the response header `{name}` cannot be sent: {error}"))
        })?;
        self.headers.append(name, value);
        Ok(self)
    }

    /// Returns the status code.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the headers.
    #[must_use]
    pub const fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Returns the headers, to change them.
    #[must_use]
    pub const fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }

    /// Returns the body.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the response in the type of the crate `http`.
    #[must_use]
    pub fn into_response(self) -> Response<Bytes> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }

    /// Whether the status says that the same request may succeed later, so that it must not be stored.
    pub(super) fn is_temporary(&self) -> bool {
        self.status.is_server_error()
            || matches!(
                self.status,
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
            )
    }
}

impl<B: Into<Bytes>> From<Response<B>> for BufferedResponse {
    fn from(response: Response<B>) -> Self {
        let (head, body) = response.into_parts();
        Self { status: head.status, headers: head.headers, body: body.into() }
    }
}

/// A response in the form in which it is stored: JSON with the status, some of the headers, and the body. The
/// body is a string if it is UTF-8, and hexadecimal otherwise.
#[derive(Debug)]
pub(super) struct StoredResponse {
    pub(super) response: BufferedResponse,
    /// The headers that are stored.
    pub(super) kept: Vec<HeaderName>,
}

impl Serialize for StoredResponse {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { response, kept } = self;
        let headers = response.headers.iter().filter(|(name, _)| kept.contains(name));
        let headers: Vec<_> = headers.map(|(name, value)| (name.as_str(), text_of(value))).collect();
        let mut json = json!({ "status": response.status.as_u16(), "headers": headers });
        match str::from_utf8(&response.body) {
            Ok(text) => json["body"] = text.into(),
            Err(_) => json["body_hex"] = hex(&response.body).into(),
        }
        json.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for StoredResponse {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Value::deserialize(deserializer)?;
        let response = stored(&json).ok_or_else(|| D::Error::custom("it is not a stored HTTP response"))?;
        Ok(Self { response, kept: Vec::new() })
    }
}

fn stored(json: &Value) -> Option<BufferedResponse> {
    let status = StatusCode::from_u16(json.get("status")?.as_u64()?.try_into().ok()?).ok()?;
    let body = match json.get("body") {
        Some(text) => text.as_str()?.to_owned().into_bytes(),
        None => unhex(json.get("body_hex")?.as_str()?)?,
    };
    let mut response = BufferedResponse::new(status, body);
    for header in json.get("headers")?.as_array()? {
        let (name, value) = (header.get(0)?.as_str()?, header.get(1)?.as_str()?);
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        response.headers.append(name, value_of(value)?);
    }
    Some(response)
}

/// Returns the bytes of a value as the characters with the same numbers.
fn text_of(value: &HeaderValue) -> String {
    value.as_bytes().iter().map(|byte| char::from(*byte)).collect()
}

fn value_of(text: &str) -> Option<HeaderValue> {
    let bytes: Vec<_> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<_>>()?;
    HeaderValue::from_bytes(&bytes).ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2).map(|pair| {
        let pair = str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    digits.collect()
}

#[cfg(test)]
mod tests {
    use http::header::{LINK, SET_COOKIE};

    use super::*;

    #[test]
    fn stored_responses_are_the_same_when_they_are_read() {
        for body in [&b"{\"id\": 7}"[..], b"", b"\xff\x00\"", "\u{fc}\0".as_bytes()] {
            let mut response = BufferedResponse::new(StatusCode::CREATED, Bytes::copy_from_slice(body));
            let link = HeaderValue::from_bytes(b"</1>; title=\"\xfc\"").expect("a value");
            response.headers.append(LINK, HeaderValue::from_static("</2>"));
            response.headers.append(LINK, link);
            let mut with_cookie = response.clone();
            with_cookie.headers.append(SET_COOKIE, HeaderValue::from_static("secret"));
            let stored = StoredResponse { response: with_cookie, kept: vec![LINK] };
            let json = serde_json::to_string(&stored).expect("JSON");
            assert!(!json.contains("secret"), "{json}");
            let read: StoredResponse = serde_json::from_str(&json).expect("a response");
            assert_eq!(read.response, response, "{json}");
        }
    }

    #[test]
    fn other_json_is_not_a_response() {
        for other in ["7", "{}", r#"{"status": 7, "headers": [], "body": ""}"#] {
            assert!(serde_json::from_str::<StoredResponse>(other).is_err(), "{other}");
        }
        let odd = r#"{"status": 200, "headers": [], "body_hex": "abc"}"#;
        assert!(serde_json::from_str::<StoredResponse>(odd).is_err());
    }
}
