//! The program on PostgreSQL and MariaDB.

mod sale;

use std::time::Duration;

use sale::{run, small_sale};

#[test]
fn every_strategy_sells_each_seat_once_on_postgres() {
    let sale = small_sale(&["--database-url", &test_servers::postgres_url()]);
    sale.sold_by_every_strategy(20);
}

#[test]
fn every_strategy_sells_each_seat_once_on_mariadb() {
    let sale = small_sale(&["--database-url", &test_servers::mysql_url()]);
    sale.sold_by_every_strategy(20);
}

#[test]
fn explains_an_unreachable_database_in_time() {
    for url in ["postgres://me:secret@127.0.0.1:1/x", "mysql://me:secret@127.0.0.1:1/x"] {
        let sale = run(&["--database-url", url]);
        sale.refused_with(&["cannot reach", "127.0.0.1:1/x"]);
        assert!(!sale.stderr.contains("secret"), "{sale:?}");
        assert!(sale.took < Duration::from_secs(20), "{sale:?}");
    }
    // A server that accepts connections and never responds.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("postgres://{}/x", mute.local_addr().expect("its address"));
    let sale = run(&["--database-url", &url]);
    sale.refused_with(&["cannot reach", "no answer within 5s"]);
    assert!(sale.took < Duration::from_secs(20), "{sale:?}");
}
