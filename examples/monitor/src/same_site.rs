//! Refuses requests that other web sites make through a visitor's browser.
//!
//! The server listens on 127.0.0.1 only, but every page that the browser shows can send requests to it. A
//! form of another site could change the settings, and a site whose name resolves to 127.0.0.1 could read the
//! responses as well.

use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

/// Responds with 403 unless the request is for this machine by name, and comes from a page of this server or
/// from no page.
pub(crate) async fn check(request: Request, next: Next) -> Response {
    match refusal(request.headers()) {
        None => next.run(request).await,
        Some(reason) => (StatusCode::FORBIDDEN, reason).into_response(),
    }
}

fn refusal(headers: &HeaderMap) -> Option<&'static str> {
    let Some(host) = text(headers, HOST).filter(|host| is_this_machine(host)) else {
        return Some("the Host header does not name this machine: open the page as http://127.0.0.1:PORT/\n");
    };
    // Browsers send it with every POST and with every request to another site. Other clients, such as curl,
    // do not.
    let is_ours = |origin: &str| origin.strip_prefix("http://") == Some(host);
    let is_from_elsewhere = headers.contains_key(ORIGIN) && !text(headers, ORIGIN).is_some_and(is_ours);
    is_from_elsewhere.then_some("requests from pages of other sites are refused\n")
}

/// The header, if it is there once and is text.
fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.to_str().ok();
    first.filter(|_| values.next().is_none())
}

/// Names that cannot be another site's, with or without a port.
fn is_this_machine(host: &str) -> bool {
    let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
    ["127.0.0.1", "localhost"].contains(&name) && port.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn is_refused(headers: &[(HeaderName, &'static str)]) -> bool {
        let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        refusal(&headers.fold(HeaderMap::new(), |mut all, (name, value)| {
            all.append(name, value);
            all
        }))
        .is_some()
    }

    #[test]
    fn accepts_its_own_page_and_clients_that_are_no_browser() {
        assert!(!is_refused(&[(HOST, "127.0.0.1:3000")]));
        assert!(!is_refused(&[(HOST, "localhost")]));
        assert!(!is_refused(&[(HOST, "127.0.0.1:3000"), (ORIGIN, "http://127.0.0.1:3000")]));
        assert!(!is_refused(&[(HOST, "localhost:3000"), (ORIGIN, "http://localhost:3000")]));
    }

    #[test]
    fn refuses_pages_of_other_sites() {
        for origin in [
            "https://example.org",
            "http://127.0.0.1:8000",
            "http://127.0.0.1:30001",
            "https://127.0.0.1:3000",
            "http://localhost:3000",
            "null",
            "",
        ] {
            assert!(is_refused(&[(HOST, "127.0.0.1:3000"), (ORIGIN, origin)]), "{origin}");
        }
        let twice =
            [(HOST, "127.0.0.1:3000"), (ORIGIN, "http://127.0.0.1:3000"), (ORIGIN, "https://example.org")];
        assert!(is_refused(&twice));
    }

    #[test]
    fn refuses_names_that_may_be_another_sites() {
        for host in ["example.org", "example.org:3000", "127.0.0.1.example.org:3000", "localhost:3000@x", ""]
        {
            assert!(is_refused(&[(HOST, host)]), "{host}");
        }
        assert!(is_refused(&[]));
    }
}
