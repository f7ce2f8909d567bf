//! What pods are told to trust: whatever signs now, or did, or will; never nothing.

use super::operator::Operator;
use super::stories;
use crate::api::{HookKind, names};
use crate::testing::world::World;

fn bundles(world: &World) -> Vec<&str> {
    let data = world.config_maps.values().filter_map(|c| c.data.as_ref());
    let bundles = data.filter_map(|data| data.get(names::CA_BUNDLE));
    bundles.map(String::as_str).collect()
}

#[test]
fn a_new_bundle_is_written_and_rolls_nothing() {
    let mut operator = Operator::new(true, false, None, true);
    operator.act(stories::workload);
    operator.act(stories::hook);
    assert_eq!(bundles(&operator.world), ["the bundle"]);
    let pods: Vec<_> = operator.world.pods.keys().cloned().collect();
    operator.trust("the next one too");
    operator.act(|_| {});
    assert_eq!(bundles(&operator.world), ["the next one too"]);
    assert!(operator.world.pods.keys().eq(&pods));
}

/// Also of a hook whose workload has run to completion or is held, and of one that keeps out.
#[test]
fn every_hook_that_gave_one_keeps_it_true() {
    let ends: [stories::Step; 4] = [
        |world| {
            world.acknowledge(HookKind::Complete);
        },
        stories::foreground,
        stories::disable,
        stories::delete_hook,
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let mut operator = Operator::new(true, false, None, true);
        operator.act(stories::workload);
        operator.act(if number == 0 {
            stories::complete_hook
        } else {
            stories::hook
        });
        operator.act(end);
        operator.trust("the next one too");
        operator.act(|_| {});
        let world = &operator.world;
        assert_eq!(
            bundles(world),
            ["the next one too"],
            "{number}: {}",
            world.summary()
        );
    }
}

#[test]
fn without_an_authority_nothing_is_injected_until_there_is_one() {
    let mut operator = Operator::new(true, false, None, true);
    operator.trust("");
    operator.act(stories::workload);
    operator.act(stories::hook);
    assert!(bundles(&operator.world).is_empty());
    let touched = |world: &World| world.workloads.values().any(|w| w.applied.is_some());
    assert!(!touched(&operator.world), "{}", operator.world.summary());
    operator.trust("the bundle");
    operator.act(|_| {});
    assert!(touched(&operator.world), "{}", operator.world.summary());
    assert!(operator.world.summary().contains("Armed"));
}

#[test]
fn what_pods_trust_already_stays_when_nothing_signs_any_more() {
    let mut operator = Operator::new(true, false, None, true);
    operator.act(stories::workload);
    operator.act(stories::hook);
    let before = operator.world.summary();
    operator.trust("");
    operator.act(|_| {});
    assert_eq!(bundles(&operator.world), ["the bundle"]);
    assert_eq!(operator.world.summary(), before);
    operator.act(stories::foreground);
    operator.act(stories::acknowledge);
    operator.run_out();
    let end = operator.world.summary();
    assert!(end.contains("Acknowledged"), "{end}");
}
