//! What is said of pods that are not made, do not start, or do not become ready.

use serde_json::{Value, json};

use crate::decide::Seen;
use crate::decide::inject::{HookIdentity, Injection, injection};
use crate::decide::trouble::{PATIENCE, Weight, look};
use crate::testing::build::{self, Build, NAME, at};
use crate::testing::world::World;

const HOOK: HookIdentity<'_> = HookIdentity {
    name: NAME,
    uid: "aaaaaaaa-0000",
};

fn given() -> Injection {
    let workload = build::deployment(NAME).container("app").workload();
    let hook = build::hook(NAME).complete().shutdown().hook();
    injection(HOOK, &hook.spec, &build::settings("me", true), &workload).unwrap()
}

fn pod(state: Value) -> Build {
    let mut state = state;
    state["name"] = json!("app");
    let container = json!({"name": "app", "image": "app", "imageID": "", "ready": false,
        "restartCount": 0});
    let mut container = container;
    for (field, value) in state.as_object().into_iter().flatten() {
        container[field] = value.clone();
    }
    build::pod("pod")
        .stamp(&given().stamp)
        .with("/status/startTime", json!(at(0).to_string()))
        .with("/metadata/creationTimestamp", json!(at(0).to_string()))
        .with(
            "/status/conditions",
            json!([{"type": "Ready", "status": "False",
            "message": "containers with unready status: [app]"}]),
        )
        .with("/status/containerStatuses", json!([container]))
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"state": {"waiting": {"reason": reason, "message": message}}})
}

fn seen(pods: Vec<Build>) -> Seen {
    let mut world = World::new();
    world.create_hook(build::hook(NAME).shutdown());
    let mut seen = world.observe(NAME).unwrap();
    seen.pods = pods.into_iter().map(Build::pod).collect();
    seen
}

#[test]
fn a_pod_that_does_not_start_is_told_in_its_own_words() {
    let ended = |reason: &str, message: &str| {
        let last = json!({"terminated": {"exitCode": 128, "reason": reason, "message": message}});
        let mut state = waiting("CrashLoopBackOff", "back-off 10s");
        state["lastState"] = last;
        state
    };
    let unscheduled = pod(json!({"state": {}})).with(
        "/status/conditions",
        json!([
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/1 nodes are available"}]),
    );
    let init = |state: Value| {
        let mut pod = pod(waiting("PodInitializing", ""));
        let mut state = state;
        state["name"] = json!("setup");
        for (field, value) in [
            ("image", json!("x")),
            ("imageID", json!("")),
            ("ready", json!(false)),
            ("restartCount", json!(0)),
        ] {
            state[field] = value;
        }
        pod.0["status"]["initContainerStatuses"] = json!([state]);
        pod
    };
    // At once or after the patience, as a failure of the runtime or not, and a word that is told.
    let rows: Vec<(&str, Build, bool, Weight, &str, &str)> = vec![
        (
            "no Secret",
            pod(waiting(
                "CreateContainerConfigError",
                "secret \"x\" not found",
            )),
            true,
            Weight::AtStart,
            "PodsNotStarting",
            "secret \"x\" not found",
        ),
        (
            "an init container's",
            init(waiting("CreateContainerConfigError", "no such key")),
            true,
            Weight::AtStart,
            "PodsNotStarting",
            "container setup: CreateContainerConfigError: no such key",
        ),
        (
            "no image",
            pod(waiting("ImagePullBackOff", "Back-off pulling image")),
            true,
            Weight::Given,
            "PodsNotStarting",
            "Back-off pulling image",
        ),
        (
            "a mount",
            pod(ended("StartError", "not a directory")),
            true,
            Weight::AtStart,
            "PodsNotStarting",
            "StartError: not a directory",
        ),
        (
            "it ends",
            pod(ended("Error", "password is hunter2")),
            true,
            Weight::Given,
            "PodsNotStarting",
            "exit code 128",
        ),
        (
            "just ended",
            pod(json!({"state": {"terminated": {"exitCode": 128,
            "reason": "StartError", "message": "not a directory"}}})),
            true,
            Weight::AtStart,
            "PodsNotStarting",
            "not a directory",
        ),
        (
            "no node",
            unscheduled,
            false,
            Weight::Given,
            "PodsNotStarting",
            "0/1 nodes are available",
        ),
        (
            "no volume",
            pod(waiting("ContainerCreating", "")),
            false,
            Weight::Given,
            "PodsNotStarting",
            "describe pod",
        ),
        (
            "no volume for an init container",
            init(waiting("PodInitializing", "")),
            false,
            Weight::Given,
            "PodsNotStarting",
            "describe pod",
        ),
        (
            "not ready",
            pod(json!({"state": {"running": {}}})),
            false,
            Weight::Given,
            "PodsNotReady",
            "containers with unready status: [app]",
        ),
    ];
    let workload = build::deployment(NAME).container("app").workload();
    for (name, pod, at_once, weight, reason, word) in rows {
        let seen = seen(vec![pod]);
        let early = look(&seen, &workload, &given(), at(59));
        assert_eq!(early.trouble.is_some(), at_once, "{name}");
        let due = (!at_once).then(|| at(0) + PATIENCE);
        assert_eq!(early.due, due, "{name}");
        let late = look(&seen, &workload, &given(), at(60));
        let trouble = late.trouble.unwrap_or_else(|| panic!("{name}"));
        assert_eq!(late.due, None, "{name}");
        assert_eq!(trouble.weight, weight, "{name}");
        assert_eq!(trouble.reason.as_str(), reason, "{name}");
        let message = trouble.message;
        assert!(message.contains(word), "{name}: {message}");
        let back = "kubectl -n ml annotate deployment trainer hooks.krake.dev/hook=disabled";
        assert!(message.ends_with(back), "{name}: {message}");
        assert!(!message.contains("hunter2"), "{name}: {message}");
    }
}

#[test]
fn pods_without_the_stamp_that_go_or_are_well_are_no_trouble() {
    let stuck = || pod(waiting("CreateContainerConfigError", "no"));
    let workload = build::deployment(NAME).container("app").workload();
    for (name, pod) in [
        ("another stamp", stuck().stamp("bbbbbbbb-1")),
        ("on its way out", stuck().deleting()),
        ("finished", stuck().with("/status/phase", json!("Failed"))),
        ("well", build::pod("pod").stamp(&given().stamp)),
    ] {
        let found = look(&seen(vec![pod]), &workload, &given(), at(600));
        assert_eq!(found, Default::default(), "{name}");
    }
}

#[test]
fn a_controller_that_makes_no_pods_is_told_in_its_own_words() {
    let workload = |conditions: Value| {
        build::deployment(NAME).container("app").with(
            "/status",
            json!({"observedGeneration": 1, "replicas": 2, "conditions": conditions}),
        )
    };
    let quota = json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
        "message": "exceeded quota: pods"}]);
    let stuck = json!([{"type": "Progressing", "status": "False",
        "reason": "ProgressDeadlineExceeded", "message": "ReplicaSet has timed out progressing."}]);
    let paused =
        json!([{"type": "Progressing", "status": "Unknown", "reason": "DeploymentPaused"}]);
    let over = json!([{"type": "ReplicaFailure", "status": "False", "message": "exceeded quota"}]);
    for (name, build, expected) in [
        (
            "a quota",
            workload(quota.clone()),
            Some(("PodsNotCreated", "exceeded quota: pods")),
        ),
        (
            "no progress",
            workload(stuck),
            Some(("RolloutStuck", "timed out progressing. To go")),
        ),
        ("paused", workload(paused), None),
        ("was so", workload(over), None),
        (
            "of a template before",
            workload(quota).with("/metadata/generation", json!(2)),
            None,
        ),
    ] {
        let found = look(&seen(vec![]), &build.workload(), &given(), at(0));
        let told = found.trouble.as_ref();
        let told = told.map(|trouble| (trouble.reason.as_str(), trouble.message.as_str()));
        match (told, expected) {
            (Some((reason, message)), Some((expected, word))) => {
                assert_eq!(reason, expected, "{name}");
                assert!(message.contains(word), "{name}: {message}");
            }
            (told, expected) => assert_eq!(told.is_some(), expected.is_some(), "{name}"),
        }
    }
}

/// A StatefulSet's controller tells only by Events that it cannot make a pod.
#[test]
fn too_few_pods_for_a_minute_are_told() {
    let status = json!({"observedGeneration": 1, "replicas": 1});
    let few = build::deployment(NAME)
        .container("app")
        .with("/status", status);
    let few = few.workload();
    let mut seen = seen(vec![]);
    let told = json!([{"type": "Injected", "status": "False", "reason": "RollingOut",
        "message": "", "lastTransitionTime": at(0).to_string()}]);
    let status = seen.hook.status.get_or_insert_default();
    status.conditions = serde_json::from_value(told).unwrap();
    let early = look(&seen, &few, &given(), at(59));
    assert_eq!((early.trouble, early.due), (None, Some(at(60))));
    let late = look(&seen, &few, &given(), at(60)).trouble.unwrap();
    assert!(late.message.contains("1 of 2 pods"), "{}", late.message);
}

/// A template that a tool has sorted, or a webhook that sorts pods.
#[test]
fn a_url_that_stands_before_what_it_is_made_of_is_told() {
    let env = |sort: bool| {
        let mut env = given().env;
        if sort {
            env.sort_by_key(|entry| entry["name"].to_string());
        }
        build::pod("pod")
            .stamp(&given().stamp)
            .with("/spec/containers/0/env", json!(env))
    };
    let workload = build::deployment(NAME).container("app").workload();
    let fine = look(&seen(vec![env(false)]), &workload, &given(), at(0));
    assert_eq!(fine.trouble, None);
    let sorted = look(&seen(vec![env(true)]), &workload, &given(), at(0));
    let trouble = sorted.trouble.unwrap();
    assert_eq!(
        (trouble.reason.as_str(), trouble.weight),
        ("EnvOrder", Weight::Unseen)
    );
    assert!(
        trouble.message.contains("KRAKE_COMPLETE_URL"),
        "{}",
        trouble.message
    );
}
