//! What was answered 200 is acted on, whatever comes between; and only the workload's own pods are
//! answered so.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::operator::Operator;
use super::stories::{self, Step};
use crate::api::condition::{ConditionType, is_true};
use crate::api::status::{AckResult, Outcome, RequestState};
use crate::api::{HookKind, KrakeHookStatus, WorkloadKind, names};
use crate::decide::{Effect, Fact, Next, hook};
use crate::testing::build::{self, Build, NAME};
use crate::testing::world::World;

fn armed(hook: Step) -> Operator {
    armed_of(WorkloadKind::Deployment, hook)
}

fn armed_of(kind: WorkloadKind, hook: Step) -> Operator {
    let mut operator = Operator::new(true, false, None, false).of(kind);
    operator.act(stories::workload);
    operator.act(hook);
    operator
}

fn status(operator: &Operator) -> KrakeHookStatus {
    operator.world.hooks[NAME].status.clone().unwrap()
}

fn outcomes(operator: &Operator) -> Vec<Outcome> {
    let history = status(operator).history;
    history.iter().map(|entry| entry.outcome).collect()
}

fn uids(world: &World) -> Vec<String> {
    let pods = world.pods.values();
    pods.filter_map(|pod| pod.metadata.uid.clone()).collect()
}

/// A second workload with the very template of the first: what was injected is in it.
fn copy(world: &mut World) {
    let template = world.workload(NAME).expect("it is there").template;
    let copy = Build(build::deployment("copy").0).with("/spec/template", json!(template));
    world.create_workload(copy);
}

fn uid_of_a_copys_pod(world: &World) -> String {
    let mut pods = world.pods.iter();
    let copys = pods.find(|(name, _)| name.starts_with("copy-"));
    copys
        .and_then(|(_, pod)| pod.metadata.uid.clone())
        .expect("the copy has pods")
}

#[test]
fn a_stop_that_was_acknowledged_is_carried_through_and_taken_back() {
    let mut operator = armed(stories::hook);
    let before = uids(&operator.world);
    operator.act(stories::stop);
    operator.act(|world| {
        assert_eq!(world.acknowledge(HookKind::Shutdown), 200);
        stories::start(world);
    });
    operator.run_out();
    assert_eq!(outcomes(&operator), [Outcome::Acknowledged]);
    let after = uids(&operator.world);
    assert_eq!(after.len(), before.len(), "{}", operator.world.summary());
    let kept = after.iter().any(|uid| before.contains(uid));
    assert!(!kept, "one that has shut down still runs");
}

#[test]
fn a_stop_that_one_pod_has_acknowledged_asks_the_others_first() {
    let mut operator = armed(stories::all_hook);
    let before = uids(&operator.world);
    operator.act(stories::stop);
    operator.act(stories::acknowledge);
    operator.act(stories::start);
    let request = status(&operator).workload_request().cloned().unwrap();
    assert_eq!(request.state, RequestState::Open);
    assert_eq!(uids(&operator.world), before, "nobody is ended unasked");
    operator.act(stories::acknowledge_second);
    operator.run_out();
    assert_eq!(outcomes(&operator), [Outcome::Acknowledged]);
    let after = uids(&operator.world);
    assert_eq!(after.len(), before.len(), "{}", operator.world.summary());
    assert!(!after.iter().any(|uid| before.contains(uid)));
}

#[test]
fn a_hook_that_goes_or_keeps_out_carries_through_what_was_acknowledged() {
    for leaves in [stories::delete_hook as Step, stories::disable] {
        for back in [false, true] {
            let mut operator = armed(stories::hook);
            let before = uids(&operator.world);
            operator.act(stories::stop);
            operator.act(|world| {
                assert_eq!(world.acknowledge(HookKind::Shutdown), 200);
                if back {
                    stories::start(world);
                }
                leaves(world);
            });
            operator.run_out();
            let world = &operator.world;
            let after = uids(world);
            let expected = if back { before.len() } else { 0 };
            assert_eq!(after.len(), expected, "{}", world.summary());
            assert!(!after.iter().any(|uid| before.contains(uid)));
        }
    }
}

#[test]
fn a_hook_that_keeps_out_says_whom_it_leaves_behind() {
    let mut operator = armed(stories::all_hook);
    operator.act(stories::stop);
    operator.act(stories::acknowledge);
    operator.act(stories::disable);
    assert_eq!(outcomes(&operator), [Outcome::Cancelled]);
    let message = &status(&operator).history[0].message;
    assert!(
        message.contains("1 pod(s) have shut down already; restart them"),
        "{message}"
    );
}

#[test]
fn a_completion_of_a_workload_that_was_created_again_unseen_is_in_the_history() {
    let mut operator = armed(stories::complete_hook);
    operator.act(|world| {
        assert_eq!(world.acknowledge(HookKind::Complete), 200);
        stories::background(world);
        world.sweep();
        stories::workload(world);
    });
    operator.run_out();
    assert_eq!(outcomes(&operator), [Outcome::Completed]);
    assert!(is_true(
        &status(&operator).conditions,
        ConditionType::Completed
    ));
    assert!(
        operator.world.workloads.contains_key(NAME),
        "the new one runs"
    );
}

#[test]
fn a_completion_is_acted_on_also_if_an_older_hook_has_come() {
    let elder = |world: &mut World| {
        // Of the same second, and the smaller name is the older.
        let hook = build::hook("elder").complete();
        world.create_hook(hook.with("/spec/workload/name", NAME.into()));
    };
    let mut operator = armed(stories::complete_hook);
    operator.act(|world| {
        assert_eq!(world.acknowledge(HookKind::Complete), 200);
        elder(world);
    });
    operator.run_out();
    assert!(
        operator.world.workloads.is_empty(),
        "{}",
        operator.world.summary()
    );
    assert_eq!(outcomes(&operator), [Outcome::Completed]);

    let mut operator = armed(stories::complete_hook);
    operator.act(elder);
    let met = status(&operator).workload;
    assert_eq!(
        met, None,
        "whoever has its token is answered 401: nobody would act on it"
    );
}

#[test]
fn the_same_said_by_the_next_run_is_another_completion() {
    let mut operator = armed_of(WorkloadKind::Job, stories::scaling_hook);
    operator.act(stories::complete);
    assert_eq!(outcomes(&operator), [Outcome::Completed]);
    operator.act(|world| {
        stories::scale_up(world);
        world.settle();
        assert_eq!(world.acknowledge(HookKind::Complete), 200);
    });
    operator.run_out();
    assert_eq!(
        outcomes(&operator),
        [Outcome::Completed, Outcome::Completed]
    );
    assert!(
        uids(&operator.world).is_empty(),
        "{}",
        operator.world.summary()
    );
}

#[test]
fn a_hook_does_not_go_with_what_it_has_taken_since() {
    let mut operator = armed(stories::complete_hook);
    operator.crash();
    stories::delete_hook(&mut operator.world);
    stories::half_a_minute(&mut operator.world);
    let settings = build::settings("leader-1", true);
    let mut seen = operator.world.observe(NAME).unwrap();
    seen.leaving_since = Some(build::at(0));
    let last = loop {
        let decision = hook::decide(&seen, &settings, operator.world.now);
        let effects = decision.effects.into_iter();
        let mut effects = effects.filter(|effect| !matches!(effect, Effect::Event(_)));
        let effect = effects.next().expect("the hook goes");
        if effect == Effect::RemoveHookFinalizer {
            break effect;
        }
        let fact = operator
            .world
            .apply(&seen, &effect)
            .expect("nobody else writes");
        seen.absorb(fact);
    };
    assert_eq!(operator.world.acknowledge(HookKind::Complete), 200);
    let gone = operator.world.apply(&seen, &last);
    assert!(
        gone.is_err(),
        "the acknowledgement went with the hook: {gone:?}"
    );
    operator.run_out();
    assert!(
        operator.world.workloads.is_empty(),
        "{}",
        operator.world.summary()
    );
}

#[test]
fn a_copy_of_the_workload_disturbs_nothing_is_not_called_and_does_not_count() {
    for kind in [WorkloadKind::Deployment, WorkloadKind::StatefulSet] {
        for hook in [stories::hook as Step, stories::all_hook] {
            let mut operator = armed_of(kind, hook);
            operator.act(copy);
            let conditions = status(&operator).conditions;
            for condition in [ConditionType::Armed, ConditionType::Injected] {
                assert!(is_true(&conditions, condition), "{kind} {conditions:#?}");
            }
            let copys = uid_of_a_copys_pod(&operator.world);
            let say =
                |world: &mut World, kind| world.acknowledge_as(kind, &copys, AckResult::Success);
            assert_eq!(say(&mut operator.world, HookKind::Complete), 409);
            operator.act(stories::background);
            let called = operator.called.iter().any(|name| name.starts_with("copy-"));
            assert!(
                !called && !operator.called.is_empty(),
                "{:?}",
                operator.called
            );
            operator.act(|world| assert_eq!(say(world, HookKind::Shutdown), 409));
            assert!(operator.world.workloads.contains_key(NAME), "{kind}");
            // The next injection is not waited for in the copy's pods.
            assert!(status(&operator).acknowledgements.is_empty());
        }
    }
}

#[test]
fn another_pod_is_called_when_the_called_one_goes() {
    for gone in [false, true] {
        let mut operator = armed(stories::hook);
        operator.act(stories::foreground);
        let first = operator.called.clone();
        assert_eq!(first.len(), 1);
        operator.act(|world| {
            world.lost_pods = true;
            world.version += 1;
            if gone {
                world.pods.remove(&first[0]);
            } else {
                let pod = world.pods.get_mut(&first[0]).unwrap();
                pod.metadata.deletion_timestamp = Some(Time(world.now));
                pod.metadata.finalizers = Some(vec!["somebody/keeps".into()]);
            }
        });
        operator.act(|world| world.pass(2));
        assert_eq!(operator.called.len(), 2, "{:?}", operator.called);
        assert_ne!(operator.called[1], first[0]);
    }
}

#[test]
fn what_is_rejected_meanwhile_is_read_where_the_removal_waits() {
    let mut operator = armed(stories::hook);
    operator.act(stories::foreground);
    operator.act(|world| {
        let id = world.hooks[NAME]
            .status
            .as_ref()
            .unwrap()
            .workload_request()
            .unwrap()
            .id
            .clone();
        world.edit_hook(|hook| {
            hook.status.as_mut().unwrap().rejected =
                serde_json::from_value(json!({"request": id, "count": 3, "at": build::time(9)}))
                    .ok();
        });
    });
    let conditions = status(&operator).conditions;
    let blocking = conditions.iter().find(|c| c.type_ == "Blocking").unwrap();
    let message = &blocking.message;
    assert!(message.contains("3 acknowledgements rejected"), "{message}");
}

#[test]
fn an_acknowledgement_finds_the_hooks_finalizer_where_it_stands() {
    let mut operator = armed(stories::complete_hook);
    operator.act(|world| {
        world.edit_hook(|hook| {
            let finalizers = hook.metadata.finalizers.as_mut().unwrap();
            finalizers.insert(0, "somebody/else".into());
        });
        assert_eq!(world.acknowledge(HookKind::Complete), 200);
        world.edit_hook(|hook| {
            let finalizers = hook.metadata.finalizers.as_mut().unwrap();
            finalizers.retain(|finalizer| finalizer != names::HOOK_FINALIZER);
        });
        assert_eq!(
            world.acknowledge_by(HookKind::Complete, 1, AckResult::Success),
            503
        );
    });
}

/// A pod that is being made counts, and then its container may turn out not to start.
#[test]
fn what_no_container_that_runs_has_is_not_injected() {
    let does_not_start = |world: &mut World, count: usize| {
        let ended = serde_json::json!({"terminated": {"exitCode": 128, "reason": "StartError",
            "message": "not a directory"}});
        for pod in world.pods.values_mut().take(count) {
            let status = pod.status.as_mut().expect("it has begun");
            for container in status.container_statuses.iter_mut().flatten() {
                container.state = serde_json::from_value(ended.clone()).expect("a state");
            }
        }
        world.version += 1;
    };
    for (count, injected) in [(1, true), (2, false)] {
        let mut operator = armed(stories::hook);
        assert_eq!(operator.world.pods.len(), 2);
        operator.act(|world| does_not_start(world, count));
        let conditions = status(&operator).conditions;
        for condition in [ConditionType::Armed, ConditionType::Injected] {
            assert_eq!(is_true(&conditions, condition), injected, "{conditions:#?}");
        }
        assert!(
            !is_true(&conditions, ConditionType::Ready),
            "{conditions:#?}"
        );
    }
}

#[test]
fn nothing_is_done_any_more_for_a_hook_that_has_gone_meanwhile() {
    let mut world = World::new();
    world.create_workload(build::deployment(NAME).container("app"));
    world.create_hook(build::hook(NAME).complete().shutdown());
    let settings = build::settings("leader-1", true);
    let mut seen = world.observe(NAME).unwrap();
    let before = hook::decide(&seen, &settings, world.now);
    assert!(!before.effects.is_empty());
    seen.absorb(Fact::HookGone);
    let after = hook::decide(&seen, &settings, world.now);
    assert_eq!((after.effects, after.next), (Vec::new(), Next::AwaitChange));
}
