//! The order of sessions and of real time.

use atomically::testing::history::{Order, Transaction};

use super::{append, committed, found, found_in, history, read};

#[test]
fn a_stale_read_is_an_anomaly_in_real_time_only() {
    let stale = history([
        committed([append(1, 1)]).in_session(1).between(1, 2),
        committed([read(1, [])]).in_session(2).between(3, 4),
    ]);
    assert_eq!(found(&stale), [""; 0]);
    assert_eq!(found_in(&stale, Order::Session), [""; 0], "the sessions differ");
    assert_eq!(found_in(&stale, Order::RealTime), ["G-single: T2 -rw-> T1 -real time-> T2"]);
    let overlapping =
        history([committed([append(1, 1)]).between(1, 3), committed([read(1, [])]).between(3, 4)]);
    assert_eq!(found_in(&overlapping, Order::RealTime), [""; 0]);
}

#[test]
fn overlapping_transactions_all_precede_later_ones() {
    let stale = history([
        committed([append(1, 1)]).between(1, 4),
        committed([read(2, [])]).between(2, 5),
        committed([read(1, [])]).between(6, 7),
    ]);
    assert_eq!(found_in(&stale, Order::RealTime), ["G-single: T3 -rw-> T1 -real time-> T3"]);
}

#[test]
fn a_cycle_of_data_is_not_reported_again_with_an_order() {
    let skew = history([
        committed([read(1, []), append(2, 1)]).between(1, 3),
        committed([read(2, []), append(1, 1)]).between(2, 4),
        committed([read(1, [1])]).between(5, 6),
    ]);
    assert_eq!(found_in(&skew, Order::RealTime), ["G2-item: T1 -rw-> T2 -rw-> T1"]);
}

/// Only the latest transactions are linked, and earlier ones are reached through them.
#[test]
fn real_time_is_transitive() {
    let stale = history([
        committed([append(1, 1)]).between(1, 2),
        committed([read(2, [])]).between(3, 4),
        committed([read(2, [])]).between(5, 6),
        committed([read(1, [])]).between(7, 8),
    ]);
    let cycle = "T4 -rw-> T1 -real time-> T2 -real time-> T3 -real time-> T4";
    assert_eq!(found_in(&stale, Order::RealTime), [format!("G-single: {cycle}")]);
}

#[test]
fn a_session_that_misses_its_own_commit_is_an_anomaly_in_session_order_only() {
    let forgets = history([
        committed([append(1, 1)]).in_session(1),
        committed([read(1, [])]).in_session(1),
        committed([read(1, [1])]).in_session(2),
    ]);
    assert_eq!(found(&forgets), [""; 0]);
    assert_eq!(found_in(&forgets, Order::Session), ["G-single: T2 -rw-> T1 -session-> T2"]);
}

/// The session went on before the outcome of its commit was known.
#[test]
fn an_unknown_commit_may_be_stored_after_later_transactions() {
    let late = history([
        Transaction::unknown([append(1, 1)]).in_session(1),
        committed([read(1, []), append(2, 2)]).in_session(1),
        committed([read(1, [1]), read(2, [2])]).in_session(2),
    ]);
    assert_eq!(found_in(&late, Order::Session), [""; 0]);
    // Commits of the session before the unknown one still count.
    let forgets = history([
        committed([append(1, 1)]).in_session(1),
        Transaction::unknown([append(2, 2)]).in_session(1),
        committed([read(1, [])]).in_session(1),
        committed([read(2, [2]), read(1, [1])]).in_session(2),
    ]);
    assert_eq!(found_in(&forgets, Order::Session), ["G-single: T3 -rw-> T1 -session-> T3"]);
}
