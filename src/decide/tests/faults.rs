//! What people and other controllers do to what is ours, and what must hold all the same.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::operator::Operator;
use super::stories;
use crate::api::{HookKind, names};
use crate::decide::{Effect, Seen, hook};
use crate::testing::build;

fn armed(hook: stories::Step) -> Operator {
    let mut operator = Operator::new(true, false, None, true);
    operator.act(stories::workload);
    operator.act(hook);
    operator
}

#[test]
fn a_guard_that_somebody_deletes_still_guards() {
    let mut operator = armed(stories::quiet_hook);
    operator.act(|world| {
        world.version += 1;
        for guard in world.guards.values_mut() {
            guard.metadata.deletion_timestamp = Some(Time(world.now));
        }
    });
    operator.act(stories::new_image);
    operator.act(stories::foreground);
    assert!(
        !operator.world.pods.is_empty(),
        "{}",
        operator.world.summary()
    );
}

#[test]
fn a_workload_that_is_deleted_while_its_ejection_is_decided_keeps_its_finalizer() {
    for leaves in [stories::delete_hook, stories::disable] {
        let mut operator = armed(stories::quiet_hook);
        leaves(&mut operator.world);
        stories::half_a_minute(&mut operator.world);
        let seen = operator.world.observe(build::NAME).unwrap();
        let settings = build::settings("leader-0", true);
        let decision = hook::decide(&seen, &settings, operator.world.now);
        let is_ejection = |effect: &&Effect| matches!(effect, Effect::ApplyInjection(_));
        let ejection = decision.effects.iter().find(is_ejection).unwrap();
        stories::foreground(&mut operator.world);
        let ejected = operator.world.apply(&seen, ejection);
        assert!(ejected.is_err(), "{ejected:?}");
    }
}

#[test]
fn a_set_without_controller_is_left_alone_while_its_workload_lives() {
    let operator = armed(stories::quiet_hook);
    let mut seen = operator.world.observe(build::NAME).unwrap();
    for set in &mut seen.replica_sets {
        for owners in set.owner_references.iter_mut() {
            owners.retain(|owner| owner.kind == "HookGuard");
        }
    }
    let settings = build::settings("leader-0", true);
    let decision = hook::decide(&seen, &settings, operator.world.now);
    let touches =
        |effect: &Effect| matches!(effect, Effect::DeleteDependent { .. } | Effect::Unguard(_));
    assert!(!decision.effects.iter().any(touches), "{decision:?}");
}

#[test]
fn a_complete_that_was_taken_is_acted_on_whatever_comes_next() {
    let next: [stories::Step; 3] = [stories::background, stories::delete_hook, stories::disable];
    for act in next {
        let mut operator = armed(stories::complete_hook);
        operator.act(|world| {
            world.acknowledge(HookKind::Complete);
            act(world);
        });
        operator.run_out();
        let world = &operator.world;
        assert!(world.workloads.is_empty(), "{}", world.summary());
    }
}

#[test]
fn a_canary_that_lost_its_label_is_found_again() {
    let mut operator = armed(stories::quiet_hook);
    operator.act(|world| {
        world.version += 1;
        for config_map in world.config_maps.values_mut() {
            if let Some(labels) = &mut config_map.metadata.labels {
                labels.remove(names::CANARY_LABEL);
            }
        }
    });
    let end = operator.world.summary();
    assert!(end.contains("1 canaries") && end.contains("Armed"), "{end}");
}

#[test]
fn a_canary_that_somebody_deletes_is_made_again() {
    let mut operator = armed(stories::quiet_hook);
    operator.act(|world| {
        world.version += 1;
        for config_map in world.config_maps.values_mut() {
            if config_map.metadata.finalizers.is_some() {
                config_map.metadata.deletion_timestamp = Some(Time(world.now));
            }
        }
    });
    let world = &operator.world;
    let dying = |c: &k8s_openapi::api::core::v1::ConfigMap| c.metadata.deletion_timestamp.is_some();
    assert!(
        !world.config_maps.values().any(dying),
        "{}",
        world.summary()
    );
    assert!(world.summary().contains("Armed"), "{}", world.summary());
}

/// An impatient second deletion, after a rollout that nobody saw.
#[test]
fn a_set_that_came_while_the_operator_was_away_is_guarded_during_the_hold() {
    let mut operator = armed(stories::quiet_hook);
    operator.crash();
    stories::new_image(&mut operator.world);
    operator.world.settle();
    stories::background(&mut operator.world);
    operator.act(|_| {});
    operator.act(|world| {
        for workload in world.workloads.values_mut() {
            let finalizers = workload.meta.finalizers.get_or_insert_default();
            finalizers.push(names::FOREGROUND_FINALIZER.into());
        }
        world.version += 1;
    });
    assert!(
        !operator.world.pods.is_empty(),
        "{}",
        operator.world.summary()
    );
}

/// A cache is behind for as long as its watch is: what it lacks is written again, and that is all. A
/// status that came and went would be a change, and each change a look at the same cache.
#[test]
fn a_cache_that_is_behind_changes_no_status_and_tells_nobody() {
    let forgets: [fn(&mut Seen); 5] = [
        |seen| seen.config_map = None,
        |seen| seen.canaries.clear(),
        |seen| seen.certificate = None,
        |seen| seen.guard = None,
        |seen| {
            seen.config_map = None;
            seen.canaries.clear();
        },
    ];
    let settings = build::settings("leader-0", true);
    for (place, forget) in forgets.into_iter().enumerate() {
        let mut operator = armed(stories::quiet_hook);
        let mut seen = operator.world.observe(build::NAME).unwrap();
        forget(&mut seen);
        let mut rounds = 0;
        loop {
            let decision = hook::decide(&seen, &settings, operator.world.now);
            if decision.effects.is_empty() {
                break;
            }
            rounds += 1;
            assert!(rounds < 8, "{place}: {:?}", decision.effects);
            for effect in &decision.effects {
                let told = matches!(effect, Effect::WriteStatus(_) | Effect::Event(_));
                assert!(!told, "{place}: {effect:?}");
                let fact = operator.world.apply(&seen, effect).unwrap();
                seen.absorb(fact);
            }
        }
        assert!(rounds > 0, "{place}: nothing was missed");
    }
}
