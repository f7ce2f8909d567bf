//! Whom the app's call goes to, and how often.

use std::collections::BTreeSet;

use serde_json::json;

use super::operator::Operator;
use super::stories;
use crate::api::HookKind;
use crate::api::status::{AckResult, KrakeHookStatus};
use crate::testing::build::NAME;
use crate::testing::world::World;

fn armed(hook: stories::Step) -> Operator {
    let mut operator = Operator::new(true, false, None, false);
    operator.act(stories::workload);
    operator.act(hook);
    operator
}

fn status(operator: &Operator) -> KrakeHookStatus {
    operator.world.hooks[NAME].status.clone().unwrap()
}

fn blocking(operator: &Operator) -> String {
    let conditions = status(operator).conditions;
    let blocking = conditions.iter().find(|c| c.type_ == "Blocking").unwrap();
    blocking.message.clone()
}

fn set_ready(world: &mut World, place: usize, ready: bool) {
    let word = if ready { "True" } else { "False" };
    if let Some(pod) = world.pods.values_mut().nth(place) {
        let conditions = json!([{"type": "Ready", "status": word}]);
        let status = pod.status.get_or_insert_default();
        status.conditions = serde_json::from_value(conditions).unwrap();
    }
    world.version += 1;
}

/// How often each pod was called, in the order of their names.
fn calls(operator: &Operator) -> Vec<usize> {
    let pods: BTreeSet<&String> = operator.world.pods.keys().collect();
    let times = |pod: &String| {
        operator
            .called
            .iter()
            .filter(|called| *called == pod)
            .count()
    };
    pods.into_iter().map(times).collect()
}

#[test]
fn one_pod_is_called_or_each() {
    for (hook, expected) in [
        (stories::hook as stories::Step, [1, 0]),
        (stories::all_hook, [1, 1]),
    ] {
        let mut operator = armed(hook);
        operator.act(stories::foreground);
        assert_eq!(calls(&operator), expected);
    }
}

#[test]
fn each_pod_has_repetitions_of_its_own() {
    let mut operator = armed(stories::two_hook);
    operator.act(stories::fails_calls);
    operator.act(stories::foreground);
    assert_eq!(calls(&operator), [1, 1]);
    operator.act(|world| {
        world.app = ("200", false);
        // The second one is not ready for a moment: only the first is called again.
        set_ready(world, 1, false);
        world.pass(2);
    });
    assert_eq!(calls(&operator), [2, 1]);
    let request = status(&operator).workload_request().cloned().unwrap();
    assert_eq!(request.attempts, 3);
    let shown: Vec<_> = request
        .called_pods
        .iter()
        .map(|called| (called.code.as_str(), called.attempts))
        .collect();
    assert_eq!(shown, [("ConnectFailed", 1), ("200", 2)]);
    operator.act(|world| set_ready(world, 1, true));
    operator.act(|world| world.pass(10));
    assert_eq!(calls(&operator), [2, 2], "both have taken the call");
    let told: Vec<_> = operator
        .notices
        .iter()
        .filter(|told| told.contains("AppCalled") || told.contains("CallFailed"))
        .collect();
    assert_eq!(told.len(), 3, "each change once: {told:#?}");
}

#[test]
fn who_becomes_ready_later_is_called_then_and_who_has_acknowledged_is_not() {
    let mut operator = armed(stories::two_hook);
    operator.act(|world| set_ready(world, 1, false));
    operator.act(stories::foreground);
    assert_eq!(calls(&operator), [1, 0]);
    operator.act(|world| {
        world.acknowledge(HookKind::Shutdown);
    });
    operator.act(|world| world.pass(20));
    assert_eq!(calls(&operator), [1, 0]);
    operator.act(|world| set_ready(world, 1, true));
    assert_eq!(calls(&operator), [1, 1]);
}

#[test]
fn each_pod_that_refuses_is_told_and_not_called_again() {
    for code in ["404", "405"] {
        let mut operator = armed(stories::all_hook);
        operator.act(|world| world.app = (code, false));
        operator.act(stories::foreground);
        operator.act(|world| world.pass(20));
        assert_eq!(calls(&operator), [1, 1]);
        let refused = |told: &&String| told.contains("ShutdownServiceRefused");
        assert_eq!(operator.notices.iter().filter(refused).count(), 1);
        let conditions = status(&operator).conditions;
        let ready = conditions.iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!(ready.reason, "ShutdownServiceRefused");
        assert!(ready.message.contains(code), "{}", ready.message);
    }
}

#[test]
fn a_redirect_is_told_as_what_it_is_and_tried_again() {
    let mut operator = armed(stories::quiet_hook);
    operator.world.hooks.clear();
    operator.act(stories::hook);
    operator.act(|world| world.app = ("302", false));
    operator.act(stories::foreground);
    operator.act(|world| world.pass(3));
    assert_eq!(calls(&operator).iter().sum::<usize>(), 2);
    let told = |told: &&String| told.contains("(302, a redirect, and those are not followed)");
    assert!(
        operator.notices.iter().any(|note| told(&note)),
        "{:#?}",
        operator.notices
    );
}

#[test]
fn nobody_is_called_at_a_nodes_address() {
    let mut operator = armed(stories::hook);
    let address = operator.world.pods.values().next().unwrap().status.clone();
    let address = address.unwrap().pod_ip.unwrap().parse().unwrap();
    operator.world.never_called.insert(address);
    operator.act(stories::foreground);
    assert_eq!(calls(&operator), [0, 0]);
    let request = status(&operator).workload_request().cloned().unwrap();
    assert_eq!(request.last_attempt.unwrap().code, "NobodyToCall");
    assert!(request.deadline.is_some());
}

#[test]
fn a_service_that_changes_while_armed_is_remembered_anew() {
    let mut operator = armed(stories::hook);
    assert_eq!(json!(status(&operator).call_out.unwrap().port), 8080);
    operator.act(stories::another_port);
    assert_eq!(json!(status(&operator).call_out.unwrap().port), 9090);
    operator.act(stories::delete_service);
    assert_eq!(json!(status(&operator).call_out.unwrap().port), 9090);
}

#[test]
fn a_person_reads_who_is_waited_for_and_who_has_failed() {
    let mut operator = armed(stories::all_hook);
    operator.act(stories::foreground);
    let pods: Vec<String> = operator.world.pods.keys().cloned().collect();
    let none = format!(
        "0 of 2 pods have acknowledged; waiting for pods {}, {}",
        pods[0], pods[1]
    );
    assert!(
        blocking(&operator).contains(&none),
        "{}",
        blocking(&operator)
    );
    operator.act(|world| {
        let uid = world.pods[&pods[1]].metadata.uid.clone().unwrap();
        world.acknowledge_as(HookKind::Shutdown, &uid, AckResult::Failure);
    });
    let failed = format!("{none}; failed: {}: no message", pods[1]);
    assert!(
        blocking(&operator).contains(&failed),
        "{}",
        blocking(&operator)
    );
    operator.act(|world| {
        let uid = world.pods[&pods[1]].metadata.uid.clone().unwrap();
        world.acknowledge_as(HookKind::Shutdown, &uid, AckResult::Success);
    });
    let one = format!(
        "1 of 2 pods have acknowledged; waiting for pod {};",
        pods[0]
    );
    assert!(
        blocking(&operator).contains(&one),
        "{}",
        blocking(&operator)
    );
}

/// A ReplicaSet replaces pods also while its Deployment is being deleted.
#[test]
fn where_none_is_left_of_those_that_were_asked_their_successors_are() {
    let mut operator = armed(stories::all_hook);
    operator.act(stories::background);
    operator.act(stories::replace_pods);
    assert_eq!(calls(&operator), [1, 1]);
    let asked = status(&operator).workload_request().cloned().unwrap().pods;
    assert_eq!(asked.len(), 4, "the old ones, and those that run");
    operator.act(stories::acknowledge);
    assert!(blocking(&operator).contains("1 of 2 pods have acknowledged"));
    operator.act(stories::acknowledge_second);
    operator.run_out();
    let end = operator.world.summary();
    assert_eq!(end, "trainer: Released [\"Acknowledged\"]; 1 guards");
}

#[test]
fn who_is_on_a_lost_node_is_not_waited_for_whoever_else_lives() {
    for lost in [0, 1] {
        let mut operator = armed(stories::all_hook);
        operator.act(|world| {
            for (place, pod) in world.pods.values_mut().enumerate() {
                let spec = pod.spec.as_mut().unwrap();
                spec.node_name = Some(format!("node-{place}"));
            }
        });
        operator.act(stories::foreground);
        operator.act(|world| {
            world.acknowledge_by(HookKind::Shutdown, 1 - lost, AckResult::Success);
        });
        assert!(blocking(&operator).contains("1 of 2 pods have acknowledged"));
        operator.act(|world| {
            world.lost_nodes.insert(format!("node-{lost}"));
            world.pass(1);
        });
        let end = operator.world.summary();
        assert!(end.contains("Acknowledged"), "{lost}: {end}");
    }
}
