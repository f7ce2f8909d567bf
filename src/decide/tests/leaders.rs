//! What a change of the leader, and its clock, make of an app's time.

use jiff::SignedDuration;

use super::operator::Operator;
use super::stories;
use crate::api::status::{Phase, RequestState, ShutdownRequest};
use crate::decide::hook::decide;
use crate::decide::seen::{Effect, Next};
use crate::testing::build::{self, NAME};
use crate::testing::world::World;

/// An app that has been called, and has thirty seconds.
fn asked(hook: stories::Step) -> Operator {
    let mut operator = Operator::new(true, false, None, false);
    operator.act(stories::workload);
    operator.act(hook);
    operator.act(stories::background);
    assert_eq!(left(&operator), 30);
    operator
}

fn request(operator: &Operator) -> ShutdownRequest {
    let status = operator.world.hooks[NAME].status.clone().unwrap();
    status.workload_request().cloned().unwrap()
}

/// Seconds that the app has left.
fn left(operator: &Operator) -> i64 {
    let deadline = request(operator).deadline.expect("a deadline");
    deadline.0.duration_since(operator.world.now).as_secs()
}

/// The leader dies, and after so many seconds another one leads.
fn change(operator: &mut Operator, seconds: i64) {
    operator.crash();
    operator.act(|world| world.pass(seconds));
}

#[test]
fn time_without_a_leader_is_not_the_apps_and_no_other_time_is_given_twice() {
    let mut operator = asked(stories::hook);
    operator.act(|world| world.pass(20));
    change(&mut operator, 1000);
    assert_eq!(left(&operator), 10);
    assert_eq!(operator.called.len(), 2, "it is called again");
    operator.act(|world| world.pass(9));
    assert_eq!(request(&operator).state, RequestState::Open);
    operator.act(|world| world.pass(1));
    let end = operator.world.summary();
    assert!(end.contains("TimedOut"), "{end}");
}

#[test]
fn however_often_the_leader_changes_the_time_comes_to_an_end() {
    let mut operator = asked(stories::hook);
    for passed in 1..=8 {
        operator.act(|world| world.pass(3));
        change(&mut operator, 17);
        assert_eq!(left(&operator), 30 - 3 * passed);
    }
    operator.act(|world| world.pass(6));
    let end = operator.world.summary();
    assert!(end.contains("TimedOut"), "{end}");
}

/// What it said to the endpoint while that was away, it says again.
#[test]
fn one_whose_time_is_nearly_up_has_some_seconds_more() {
    let mut operator = asked(stories::hook);
    operator.act(|world| world.pass(29));
    change(&mut operator, 17);
    assert_eq!(left(&operator), 5);
}

#[test]
fn where_nobody_can_tell_what_was_left_it_has_all_its_time() {
    let mut operator = asked(stories::hook);
    operator.act(|world| world.pass(20));
    operator.crash();
    operator.forget_predecessor();
    operator.act(|world| world.pass(17));
    assert_eq!(left(&operator), 30, "the Lease tells nothing");

    operator.act(|world| world.pass(20));
    operator.crash();
    operator.crash();
    operator.act(|world| world.pass(17));
    assert_eq!(left(&operator), 30, "it tells of another");

    // Of two clocks that are hours apart nothing is compared.
    operator.act(|world| world.pass(20));
    operator.crash();
    operator.act(|world| world.now -= SignedDuration::from_hours(5));
    assert_eq!(left(&operator), 10);
    operator.act(|world| world.pass(2));
    operator.crash();
    operator.act(|world| world.now += SignedDuration::from_hours(50));
    assert_eq!(left(&operator), 8);
}

#[test]
fn what_was_retained_stays_so_and_nobody_is_told_again() {
    let mut operator = asked(stories::retaining_hook);
    operator.act(|world| world.pass(40));
    let phase = |operator: &Operator| operator.world.hooks[NAME].status.clone().unwrap().phase;
    assert_eq!(phase(&operator), Some(Phase::Retained));
    let told = |operator: &Operator| {
        let retained = |note: &&String| note.contains("Retained");
        operator.notices.iter().filter(retained).count()
    };
    assert_eq!(told(&operator), 1);
    change(&mut operator, 17);
    assert_eq!(phase(&operator), Some(Phase::Retained));
    assert_eq!(told(&operator), 1);
}

/// The hook was deleted at a time of the API server's clock, which is not the leader's.
#[test]
fn a_hook_that_goes_is_watched_for_its_delay_whatever_two_clocks_say() {
    for apart in [-3600, -31, 0, 31, 3600] {
        let mut world = World::new();
        stories::workload(&mut world);
        stories::quiet_hook(&mut world);
        let mut operator = Operator::new(true, false, None, false);
        operator.world = world;
        operator.act(|_| {});
        let next = operator.act(|world| {
            stories::delete_hook(world);
            let hook = world.hooks.get_mut(NAME).unwrap();
            let deleted = hook.metadata.deletion_timestamp.as_mut().unwrap();
            deleted.0 += SignedDuration::from_secs(apart);
        });
        let Next::At(until) = next else {
            panic!("{apart}: it would not look again");
        };
        let delay = until.duration_since(operator.world.now);
        assert_eq!(delay.as_secs(), 30, "{apart}");
        let held = |operator: &Operator| operator.world.summary().contains("held");
        operator.act(|world| world.pass(29));
        assert!(held(&operator), "{apart}: {}", operator.world.summary());
        operator.act(|world| world.pass(1));
        assert!(!held(&operator), "{apart}: {}", operator.world.summary());
    }
}

#[test]
fn a_first_look_at_a_hook_that_goes_never_disarms() {
    let mut operator = Operator::new(true, false, None, false);
    operator.act(stories::workload);
    operator.act(stories::quiet_hook);
    stories::delete_hook(&mut operator.world);
    operator.world.pass(31);
    let seen = operator.world.observe(NAME).expect("the hook");
    let settings = build::settings("leader-0", true);
    let decision = decide(&seen, &settings, operator.world.now);
    let disarms = |effect: &Effect| {
        matches!(
            effect,
            Effect::ApplyInjection(_) | Effect::RemoveHookFinalizer
        )
    };
    assert!(
        !decision.effects.iter().any(disarms),
        "{:?}",
        decision.effects
    );
}
