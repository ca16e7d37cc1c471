//! Requests of pages that belong to other sites.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::WIDE;
use crate::browser::Browser;
use crate::example::Monitor;

const CHOICE: &str = "strategy=serializable&gate=true&buyers=8&hot=0";

/// Sends a request with these headers, and returns the status line and everything after it.
fn send(monitor: &Monitor, request: &str, headers: &[&str], body: &str) -> String {
    let address = monitor.address.strip_prefix("http://").expect("an address");
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let request = format!(
        "{request} HTTP/1.1\r\n{headers}Content-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn host_of(monitor: &Monitor) -> String {
    format!("Host: {}", monitor.address.strip_prefix("http://").expect("an address"))
}

/// The strategy that the page has checked.
#[track_caller]
fn chosen(monitor: &Monitor) -> String {
    let page = send(monitor, "GET /", &[&host_of(monitor)], "");
    let (before, _) = page.split_once("\" checked").unwrap_or_else(|| panic!("nothing is checked in {page}"));
    before.rsplit('"').next().expect("a value").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_site_cannot_change_the_settings() {
    let (monitor, other) = (Monitor::start(&[]), Monitor::start(&[]));
    let browser = Browser::at(&other.address, WIDE).await;
    // Sent like a form, without a preflight request. The page cannot read the response.
    let script = format!(
        "const body = new URLSearchParams('{CHOICE}');
         return fetch('{}/settings', {{ method: 'post', mode: 'no-cors', body }}).then((answer) => answer.type)",
        monitor.address
    );
    assert_eq!(browser.ask(&script).await, "opaque", "the request arrived, and was answered");
    assert_eq!(chosen(&monitor), "optimistic");
    browser.close().await;
}

#[test]
fn settings_are_accepted_from_its_own_page_and_from_clients_without_a_page() {
    let monitor = Monitor::start(&[]);
    let (host, own) = (host_of(&monitor), format!("Origin: {}", monitor.address));
    for origin in ["Origin: https://example.org", "Origin: null"] {
        let answer = send(&monitor, "POST /settings", &[&host, origin], CHOICE);
        assert!(answer.starts_with("HTTP/1.1 403 "), "{origin}: {answer}");
        assert_eq!(chosen(&monitor), "optimistic");
    }
    for headers in [&[&*host, &own][..], &[&host]] {
        let answer = send(&monitor, "POST /settings", headers, CHOICE);
        assert!(answer.starts_with("HTTP/1.1 303 "), "{answer}");
        assert_eq!(chosen(&monitor), "serializable");
    }
}

#[test]
fn a_name_that_only_resolves_to_this_machine_is_refused() {
    let monitor = Monitor::start(&[]);
    for request in ["GET /", "GET /live?width=640", "GET /metrics", "POST /settings"] {
        let answer = send(&monitor, request, &["Host: rebound.example.org:3000"], "");
        assert!(answer.starts_with("HTTP/1.1 403 "), "{request}: {answer}");
    }
}
