use futures_util::future::FutureExt as _;

use super::*;
use crate::failure::FailureKind;
use crate::gate::keys::MIN_CAPACITY;

const KEY: u64 = 7;

/// Enters the gate without waiting.
fn enter_now(gate: &Gate, key: u64) -> Box<GatePermit> {
    gate.enter(key).now_or_never().expect("room inside").expect("not full")
}

/// Whether the unit may start.
fn may_start(permit: &mut GatePermit) -> bool {
    permit.admitted().now_or_never().is_some()
}

#[test]
fn one_unit_runs_and_two_more_are_inside() {
    let gate = Gate::new();
    let (mut first, mut second, _third) =
        (enter_now(&gate, KEY), enter_now(&gate, KEY), enter_now(&gate, KEY));
    assert!((first.queued, second.queued) == (false, true));
    assert!(may_start(&mut first));
    assert!(!may_start(&mut second), "the first one is running");
    assert!(gate.enter(KEY).now_or_never().is_none(), "there is no room for a fourth");
    drop(first);
    assert!(enter_now(&gate, KEY).queued);
}

#[test]
fn width_limits_the_running_units() {
    let gate = Gate::new().width(3);
    let mut permits: Vec<_> = (0..9).map(|_| enter_now(&gate, KEY)).collect();
    assert_eq!(permits.iter_mut().filter_map(|permit| may_start(permit).then_some(())).count(), 3);
    assert!(gate.enter(KEY).now_or_never().is_none());
}

#[test]
fn keys_are_independent_below_the_total() {
    let gate = Gate::new().total(2);
    let first = enter_now(&gate, 1);
    let _second = enter_now(&gate, 2);
    assert!(gate.enter(3).now_or_never().is_none(), "two are inside");
    drop(first);
    enter_now(&gate, 3);
}

#[tokio::test]
async fn admits_in_order_of_arrival_and_skips_cancelled_waiters() {
    let gate = Gate::new();
    let mut inside = vec![enter_now(&gate, KEY), enter_now(&gate, KEY), enter_now(&gate, KEY)];
    let mut waiting: Vec<_> = (0..20).map(|i| (i, Box::pin(gate.enter(KEY)))).collect();
    for (_, entering) in &mut waiting {
        assert!(entering.now_or_never().is_none());
    }
    assert_eq!(gate.keys.units_at(KEY), 23);
    waiting.retain(|(i, _)| i % 3 != 0);
    assert_eq!(gate.keys.units_at(KEY), 16, "cancelled waiters are not counted");
    for (i, entering) in waiting {
        assert!(may_start(&mut inside[0]), "the one that came before {i} is next");
        assert!(!may_start(&mut inside[1]));
        inside.remove(0);
        inside
            .push(entering.now_or_never().unwrap_or_else(|| panic!("{i} was overtaken")).expect("not full"));
    }
}

/// Out of order, a later waiter could hold a permit of the total while it waits for an earlier waiter, which
/// waits for that permit.
#[tokio::test]
async fn total_permits_are_granted_in_order_of_arrival() {
    let gate = Gate::new().total(1);
    let first = enter_now(&gate, KEY);
    let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(gate.enter(KEY))).collect();
    for entering in &mut waiting {
        assert!(entering.now_or_never().is_none());
    }
    // Two are cancelled at once, and the two behind them are polled in the wrong order.
    drop(waiting.drain(..2));
    for entering in waiting.iter_mut().rev() {
        assert!(entering.now_or_never().is_none());
    }
    drop(first);
    assert!((&mut waiting[1]).now_or_never().is_none(), "it was overtaken");
    let permit = (&mut waiting[0]).now_or_never().expect("it is the next one");
    assert!(may_start(&mut permit.expect("not full")));
}

#[test]
fn a_full_queue_is_refused_at_once() {
    let gate = Gate::new().queue(2);
    let _inside = [enter_now(&gate, KEY), enter_now(&gate, KEY), enter_now(&gate, KEY)];
    let mut waiting = [Box::pin(gate.enter(KEY)), Box::pin(gate.enter(KEY))];
    for entering in &mut waiting {
        assert!(entering.now_or_never().is_none());
    }
    let refused = gate.enter(KEY).now_or_never().expect("at once").err().expect("it is full");
    assert_eq!(refused.kind(), FailureKind::Overloaded);
    enter_now(&gate, KEY + 1);
    drop(waiting);
    assert!(gate.enter(KEY).now_or_never().is_none(), "it waits, because the queue has room again");
}

#[test]
fn unused_keys_take_no_memory() {
    let gate = Gate::new();
    let permits: Vec<_> = (0..100_000).map(|key| enter_now(&gate, key)).collect();
    assert_eq!(gate.keys(), 100_000);
    drop(permits);
    assert_eq!(gate.keys(), 0);
    let room = gate.keys.lock().capacity();
    assert!(room <= MIN_CAPACITY, "room for {room} keys is kept");
}

#[test]
fn clones_share_one_gate() {
    let gate = Gate::new();
    let _inside = [enter_now(&gate, KEY), enter_now(&gate, KEY), enter_now(&gate.clone(), KEY)];
    assert!(gate.enter(KEY).now_or_never().is_none());
}
