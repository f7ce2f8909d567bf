//! What people and other controllers do to what is ours, and what must hold all the same.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use jiff::SignedDuration;

use super::operator::Operator;
use super::stories;
use crate::api::condition::{self, ConditionType};
use crate::api::{HookKind, names};
use crate::decide::{Effect, Next, Seen, hook};
use crate::testing::build;
use crate::testing::world::Propagation;

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
        let left = operator.world.now;
        stories::half_a_minute(&mut operator.world);
        let mut seen = operator.world.observe(build::NAME).unwrap();
        seen.leaving_since = Some(left);
        let settings = build::settings("leader-0", true);
        let decision = hook::decide(&seen, &settings, operator.world.now);
        let is_ejection = |effect: &&Effect| matches!(effect, Effect::ApplyInjection(_));
        let ejection = decision.effects.iter().find(is_ejection).unwrap();
        stories::foreground(&mut operator.world);
        let ejected = operator.world.apply(&seen, ejection);
        assert!(ejected.is_err(), "{ejected:?}");
    }
}

/// Somebody has changed its labels, and may change them back: its workload adopts it then, which it
/// could not if we kept it. But what was looked at after the workload may tell of a deletion that the
/// look at the workload has missed.
#[test]
fn a_set_without_controller_is_let_go_while_its_workload_lives_for_certain() {
    let operator = armed(stories::quiet_hook);
    let mut seen = operator.world.observe(build::NAME).unwrap();
    for set in &mut seen.replica_sets {
        for owners in set.owner_references.iter_mut() {
            owners.retain(|owner| owner.kind == "HookGuard");
        }
    }
    let settings = build::settings("leader-0", true);
    for (looked_live, let_go) in [(true, 0), (false, seen.replica_sets.len())] {
        seen.looked_live = looked_live;
        let effects = hook::decide(&seen, &settings, operator.world.now).effects;
        let unguards = |effect: &&Effect| matches!(effect, Effect::Unguard(_));
        let deletes = |effect: &Effect| matches!(effect, Effect::DeleteDependent { .. });
        assert_eq!(
            effects.iter().filter(unguards).count(),
            let_go,
            "{effects:?}"
        );
        assert!(!effects.iter().any(deletes), "{effects:?}");
    }
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

/// All objects are new, nobody owns anything, and no status is left: a namespace out of a backup.
fn restored(from: &Operator) -> Operator {
    let kept = &from.world.workloads[build::NAME];
    let shown = from.world.workload(build::NAME).unwrap();
    let template = serde_json::to_value(shown.template).unwrap();
    let mut operator = Operator::new(true, false, None, true);
    operator.world.version = 1000;
    operator.act(|world| {
        world.create_workload(build::deployment(build::NAME).container("app"));
        world.edit_workload(|workload| {
            workload.written["template"] = template;
            workload.meta.finalizers = kept.meta.finalizers.clone();
        });
    });
    operator.act(stories::quiet_hook);
    operator
}

fn plain_template(operator: &Operator) -> serde_json::Value {
    let shown = operator.world.workload(build::NAME).unwrap();
    serde_json::to_value(shown.template).unwrap()
}

#[test]
fn a_restored_hook_takes_its_workload_over_and_nothing_of_it_stays_afterwards() {
    let mut before = Operator::new(true, false, None, true);
    before.act(stories::workload);
    let template = plain_template(&before);
    let mut operator = restored(&armed(stories::quiet_hook));
    let summary = operator.world.summary();
    assert!(summary.contains("trainer: Armed"), "{summary}");
    operator.act(stories::delete_hook);
    operator.act(stories::half_a_minute);
    operator.run_out();
    assert_eq!(plain_template(&operator), template);
    let summary = operator.world.summary();
    assert!(
        !summary.contains("held") && operator.world.hooks.is_empty(),
        "{summary}"
    );
}

#[test]
fn managed_fields_that_somebody_resets_keep_no_hook_for_ever() {
    let mut before = Operator::new(true, false, None, true);
    before.act(stories::workload);
    let template = plain_template(&before);
    let mut operator = armed(stories::quiet_hook);
    operator.act(|world| {
        let shown = world.workload(build::NAME).unwrap();
        world.edit_workload(|workload| {
            workload.written["template"] = serde_json::to_value(&shown.template).unwrap();
            workload.applied = None;
            workload.reset = true;
        });
    });
    operator.act(stories::delete_hook);
    operator.act(stories::half_a_minute);
    operator.run_out();
    assert_eq!(plain_template(&operator), template);
    assert!(
        operator.world.hooks.is_empty(),
        "{}",
        operator.world.summary()
    );
}

#[test]
fn a_hook_that_is_let_go_is_no_rival() {
    let mut operator = armed(stories::quiet_hook);
    operator.act(|world| {
        world.pass(1);
        let mut younger = build::hook("younger").shutdown();
        younger.0["spec"]["workload"]["name"] = build::NAME.into();
        world.create_hook(younger);
        // Somebody else keeps the older one for as long as they like.
        world.edit_hook(|hook| {
            hook.metadata
                .finalizers
                .get_or_insert_default()
                .push("else".into())
        });
    });
    let summary = operator.world.summary();
    assert!(summary.contains("younger: Pending"), "{summary}");
    operator.act(stories::delete_hook);
    operator.act(stories::half_a_minute);
    let summary = operator.world.summary();
    assert!(summary.contains("younger: Armed"), "{summary}");
    assert!(operator.world.hooks.contains_key(build::NAME), "{summary}");
}

/// Whatever the API server refuses, the hook says so at once, in its words, and goes on once it can.
#[test]
fn every_write_that_is_refused_is_told_and_tried_again() {
    let rows: &[(&str, fn(&Effect) -> bool)] = &[
        ("guard", |e| matches!(e, Effect::CreateGuard)),
        ("ConfigMap", |e| matches!(e, Effect::ApplyConfigMap(_))),
        ("token", |e| matches!(e, Effect::WriteToken { .. })),
        ("certificate", |e| matches!(e, Effect::ApplyCertificate)),
        ("injection", |e| matches!(e, Effect::ApplyInjection(_))),
        ("canary", |e| matches!(e, Effect::CreateCanary { .. })),
        ("guards", |e| matches!(e, Effect::Guard(_))),
    ];
    for (name, rejects) in rows {
        let mut operator = Operator::new(true, false, None, true);
        operator.act(stories::workload);
        operator.act(|world| world.rejects = Some(*rejects));
        let next = operator.act(stories::quiet_hook);
        let ready = |operator: &Operator| {
            let status = operator.world.hooks[build::NAME].status.clone().unwrap();
            let ready = condition::find(&status.conditions, ConditionType::Ready).unwrap();
            (ready.reason.clone(), ready.message.clone())
        };
        let (reason, message) = ready(&operator);
        assert_eq!(reason, "Rejected", "{name}: {message}");
        assert!(message.contains("exceeded quota"), "{name}: {message}");
        let refused = |operator: &Operator| {
            let notices = operator.notices.iter();
            notices.filter(|n| n.starts_with("Warning Refused")).count()
        };
        assert_eq!(refused(&operator), 1, "{name}: {:?}", operator.notices);
        let Next::At(at) = next else {
            panic!("{name}: it is not tried again: {next:?}");
        };
        assert!(
            at <= operator.world.now + SignedDuration::from_secs(10),
            "{name}"
        );
        // Tried again in vain: nobody is told twice, and nothing is taken back.
        let version = operator.world.hooks[build::NAME]
            .metadata
            .resource_version
            .clone();
        operator.act(|world| world.pass(8));
        assert_eq!(refused(&operator), 1, "{name}: {:?}", operator.notices);
        let hook = &operator.world.hooks[build::NAME];
        assert_eq!(hook.metadata.resource_version, version, "{name}");
        operator.act(|world| {
            world.rejects = None;
            world.pass(8);
        });
        assert!(
            operator.world.summary().contains("trainer: Armed"),
            "{name}: {}, {:?}",
            operator.world.summary(),
            ready(&operator)
        );
    }
}

/// A removal does not go on past what is refused, and is let go on when it is not any more.
#[test]
fn a_removal_stops_at_what_is_refused() {
    let rows: &[(&str, fn(&Effect) -> bool)] = &[
        ("delete", |e| matches!(e, Effect::DeleteDependent { .. })),
        ("release", |e| matches!(e, Effect::ReleaseWorkload { .. })),
    ];
    for (name, rejects) in rows {
        let mut operator = armed(stories::quiet_hook);
        operator.act(|world| world.rejects = Some(*rejects));
        operator.act(|world| {
            stories::foreground(world);
            world.acknowledge(HookKind::Shutdown);
        });
        operator.act(|world| {
            world.acknowledge(HookKind::Shutdown);
        });
        let summary = operator.world.summary();
        assert!(summary.contains("held"), "{name}: {summary}");
        let status = operator.world.hooks[build::NAME].status.clone().unwrap();
        let ready = condition::find(&status.conditions, ConditionType::Ready).unwrap();
        assert_eq!(ready.reason, "Rejected", "{name}: {}", ready.message);
        operator.act(|world| {
            world.rejects = None;
            world.pass(8);
        });
        let summary = operator.world.summary();
        assert!(!summary.contains("Deployment trainer"), "{name}: {summary}");
    }
}

/// We do at most what Kubernetes would do without us: in the background it waits for the owner's end.
#[test]
fn beside_somebody_elses_finalizer_only_our_hold_ends() {
    for delete_hook in [false, true] {
        let mut operator = armed(stories::quiet_hook);
        operator.act(|world| {
            world.edit_workload(|workload| {
                let finalizers = workload.meta.finalizers.get_or_insert_default();
                finalizers.push("else".into());
            });
        });
        operator.act(|world| world.delete_workload(build::NAME, Propagation::Background));
        let pods = operator.world.pods.clone();
        operator.act(|world| {
            world.acknowledge(HookKind::Shutdown);
        });
        let summary = operator.world.summary();
        assert!(summary.contains("trainer: Released"), "{summary}");
        assert!(!summary.contains("held"), "{summary}");
        assert_eq!(
            operator.world.pods.keys().collect::<Vec<_>>(),
            pods.keys().collect::<Vec<_>>()
        );
        if delete_hook {
            operator.act(stories::delete_hook);
            assert!(
                operator.world.hooks.is_empty(),
                "{}",
                operator.world.summary()
            );
        }
        operator.act(|world| {
            let workload = world.workloads.get_mut(build::NAME).unwrap();
            workload.meta.finalizers = None;
            world.version += 1;
            world.sweep();
        });
        operator.run_out();
        assert!(
            operator.world.pods.is_empty(),
            "{}",
            operator.world.summary()
        );
        assert!(operator.world.guards.is_empty() || !delete_hook);
    }
}

/// A namespace goes: what is said of a workload that was armed and called is true.
#[test]
fn what_was_armed_is_not_said_to_have_been_deleted_before() {
    let mut operator = armed(stories::hook);
    operator.act(|world| world.delete_namespace());
    let status = operator.world.hooks[build::NAME].status.clone().unwrap();
    for told in &status.conditions {
        assert!(!told.message.contains("before it was armed"), "{told:?}");
    }
    let ready = condition::find(&status.conditions, ConditionType::Ready).unwrap();
    assert!(
        ready.message.contains("the namespace is being deleted"),
        "{ready:?}"
    );
}

/// A hook may come out of a backup with the status of another life.
#[test]
fn what_was_asked_of_an_earlier_workload_is_nothing_to_this_one() {
    let mut earlier = armed(stories::quiet_hook);
    earlier.act(stories::foreground);
    earlier.act(|world| {
        world.acknowledge(HookKind::Shutdown);
    });
    let status = earlier.world.hooks[build::NAME].status.clone().unwrap();
    assert!(status.workload_request().is_some());
    let mut operator = Operator::new(true, false, None, true);
    operator.world.version = 1000;
    operator.act(stories::workload);
    operator.act(|world| {
        stories::quiet_hook(world);
        world.edit_hook(|hook| {
            hook.status = Some(status);
            hook.metadata.finalizers = Some(vec![names::HOOK_FINALIZER.into()]);
        });
    });
    let summary = operator.world.summary();
    assert!(summary.contains("trainer: Armed"), "{summary}");
    operator.act(stories::foreground);
    let summary = operator.world.summary();
    assert!(
        summary.contains("held") && summary.contains("2 pods"),
        "{summary}"
    );
    let status = operator.world.hooks[build::NAME].status.clone().unwrap();
    assert!(status.acknowledgements.is_empty(), "{status:?}");
}
