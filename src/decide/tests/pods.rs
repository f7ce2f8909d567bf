//! Which pods count, and which can be called.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::api::WorkloadKind;
use crate::decide::Seen;
use crate::decide::inject::stamp_prefix;
use crate::decide::pods::{
    able_to_acknowledge, keep_own, only_host_network, stuck_since, targets, to_ask,
};
use crate::testing::build::{self, Build, NAME, running, state};
use crate::testing::world::World;

const HOOK: &str = "aaaaaaaa-1";
const WORKLOAD: &str = "bbbbbbbb-1";

fn seen(pods: Vec<Build>) -> Seen {
    let mut world = World::new();
    world.create_hook(build::hook(NAME).shutdown());
    let mut seen = world.observe(NAME).unwrap();
    seen.hook.metadata.uid = Some(HOOK.into());
    seen.guard = Some(build::guard(NAME, HOOK, "guard").guard());
    let owned = build::replica_set("owned").owner("Deployment", WORKLOAD);
    let kept = build::replica_set("kept").owner("HookGuard", "guard");
    let foreign = build::replica_set("foreign").owner("Deployment", "another");
    seen.replica_sets = vec![owned.meta(), kept.meta(), foreign.meta()];
    seen.lost_nodes = vec!["lost".into()];
    seen.pods = pods.into_iter().map(Build::pod).collect();
    seen
}

/// A pod of the workload's that has what was injected, and runs.
fn pod() -> Build {
    let stamp = format!("{}-1", stamp_prefix(HOOK));
    build::pod("pod").stamp(&stamp).owner("ReplicaSet", "owned")
}

fn phase(phase: &str) -> Build {
    pod().with("/status/phase", json!(phase))
}

fn owned_by(set: &str) -> Build {
    let mut pod = pod();
    pod.0["metadata"]["ownerReferences"][0]["uid"] = json!(set);
    pod
}

#[test]
fn who_is_able_to_acknowledge() {
    let never = json!({"waiting": {"reason": "ContainerCreating"}});
    let looping = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    let rows: Vec<(&str, Build, bool)> = vec![
        ("running", pod(), true),
        ("terminating", pod().deleting(), true),
        ("kept by the guard alone", owned_by("kept"), true),
        ("another Deployment's", owned_by("foreign"), false),
        ("of a ReplicaSet nobody knows", owned_by("unknown"), false),
        (
            "crash-looping",
            pod().container_state(state("app", 3, looping)),
            true,
        ),
        (
            "ended once, not started again yet",
            pod().container_state(state("app", 0, json!({"terminated": {"exitCode": 1}}))),
            true,
        ),
        (
            "Pending, never started",
            phase("Pending").container_state(state("app", 0, never)),
            false,
        ),
        (
            "only a container without our entries has started",
            pod().container_state(running("sidecar")),
            false,
        ),
        ("no status yet", pod().with("/status", json!({})), false),
        ("Succeeded", phase("Succeeded"), false),
        ("Failed", phase("Failed"), false),
        (
            "on a lost node",
            pod().with("/spec/nodeName", json!("lost")),
            false,
        ),
        (
            "an injected init container has started",
            {
                let env = pod().0["spec"]["containers"][0]["env"].clone();
                let mut pod = phase("Pending").with("/status/containerStatuses", json!([]));
                pod.0["spec"]["initContainers"] =
                    json!([{"name": "setup", "image": "x", "env": env}]);
                pod.with("/status/initContainerStatuses", json!([running("setup")]))
            },
            true,
        ),
        ("a foreign stamp", pod().stamp("another-1"), false),
        (
            "no stamp",
            pod().with("/metadata/annotations", json!({})),
            false,
        ),
    ];
    for (name, pod, able) in rows {
        let found = able_to_acknowledge(&seen(vec![pod]), WORKLOAD);
        assert_eq!(!found.is_empty(), able, "{name}");
    }
}

/// A hook's view of pods of a workload of that kind.
fn seen_of(kind: WorkloadKind, pod: Build) -> Seen {
    let mut seen = seen(vec![pod]);
    seen.hook.spec.workload.api_version = kind.traits().api_version.into();
    seen.hook.spec.workload.kind = kind.to_string();
    seen
}

#[test]
fn pods_that_the_workload_made_itself_are_able_to_acknowledge() {
    let stamp = format!("{}-1", stamp_prefix(HOOK));
    let bare = || build::pod("pod").with("/spec/containers/0/env", json!([]));
    let own = |pod: Build| pod.owner("StatefulSet", WORKLOAD);
    let rows: Vec<(&str, WorkloadKind, Build, bool)> = vec![
        (
            "its own",
            WorkloadKind::StatefulSet,
            own(build::pod("pod").stamp(&stamp)),
            true,
        ),
        (
            "kept by the guard alone",
            WorkloadKind::DaemonSet,
            build::pod("pod").stamp(&stamp).owner("HookGuard", "guard"),
            true,
        ),
        (
            "not injected yet",
            WorkloadKind::StatefulSet,
            own(bare()),
            false,
        ),
        ("never injected", WorkloadKind::Job, own(bare()), true),
        (
            "another Job's",
            WorkloadKind::Job,
            bare().owner("Job", "another"),
            false,
        ),
        (
            "ended",
            WorkloadKind::Job,
            own(bare()).with("/status/phase", json!("Succeeded")),
            false,
        ),
    ];
    for (name, kind, pod, able) in rows {
        let found = able_to_acknowledge(&seen_of(kind, pod), WORKLOAD);
        assert_eq!(!found.is_empty(), able, "{kind}: {name}");
    }
}

/// A callable pod of that name with that address.
fn callable(name: &str, address: &str) -> Build {
    build::pod(name).with("/status/podIP", json!(address))
}

fn remembered(port: Value) -> crate::api::status::RememberedCallOut {
    serde_json::from_value(
        json!({"port": port, "path": "/shutdown", "scheme": "HTTP", "selector": {"app": NAME}}),
    )
    .unwrap()
}

#[test]
fn own_pods_are_called_first_and_by_name() {
    let mut seen = seen(vec![]);
    let own = |pod: Build| {
        let stamp = format!("{}-1", stamp_prefix(HOOK));
        pod.stamp(&stamp).owner("ReplicaSet", "owned")
    };
    seen.callable = vec![
        own(callable("d", "10.0.0.4")).pod(),
        callable("a", "10.0.0.1").pod(),
        own(callable("c", "fd00::3")).pod(),
    ];
    seen.hook.status = serde_json::from_value(json!({"workload": {"uid": WORKLOAD}})).unwrap();
    let found = targets(&seen, &remembered(json!(8080)));
    let names: Vec<_> = found.iter().map(|target| target.pod.as_str()).collect();
    assert_eq!(names, ["c", "d", "a"]);
    assert!(found.iter().all(|target| target.port == 8080));
}

#[test]
fn who_is_called_and_who_counts_are_one_list() {
    let bare = |owner: &str| callable("pod", "10.0.0.1").owner("ReplicaSet", owner);
    let own_label = |pod: Build| pod.with("/metadata/labels/hooks.krake.dev~1hook", json!(NAME));
    let stamped = |owner: &str| {
        let stamp = format!("{}-1", stamp_prefix(HOOK));
        own_label(bare(owner).stamp(&stamp))
    };
    for (name, pod, called) in [
        ("its own", stamped("owned"), true),
        ("kept by the guard alone", stamped("kept"), true),
        (
            "its own, on its way out",
            stamped("owned").deleting(),
            false,
        ),
        ("its own, from before the injection", bare("owned"), false),
        ("the same, guarded since", own_label(bare("kept")), false),
        (
            "of a ReplicaSet from before the hook",
            bare("unknown"),
            false,
        ),
        ("a copy's", stamped("foreign"), false),
        (
            "a copy's, whose ReplicaSet nobody owns",
            stamped("nobody"),
            false,
        ),
        (
            "nobody's, copied as a pod",
            own_label(callable("pod", "10.0.0.1")),
            false,
        ),
        (
            "another workload's, which stops the app",
            bare("foreign"),
            true,
        ),
        (
            "nobody's, which stops the app",
            callable("pod", "10.0.0.1"),
            true,
        ),
    ] {
        let mut seen = seen(vec![]);
        seen.replica_sets.push(build::replica_set("nobody").meta());
        let mut workload = build::deployment(NAME).workload();
        workload.metadata.uid = Some(WORKLOAD.into());
        seen.workload = Some(workload);
        seen.callable = vec![pod.pod()];
        let found = targets(&seen, &remembered(json!(8080)));
        assert_eq!(!found.is_empty(), called, "{name}");
    }
}

#[test]
fn those_that_stay_are_asked_or_all_where_none_does() {
    let leaving = |name: &str| named(name).deleting();
    for (pods, asked) in [
        (vec![named("a"), leaving("b")], vec!["a"]),
        (vec![leaving("a"), leaving("b")], vec!["a", "b"]),
    ] {
        assert_eq!(to_ask(&seen(pods), WORKLOAD), asked);
    }
}

#[test]
fn a_copys_pods_are_not_seen() {
    let mut seen = seen(vec![
        named("own"),
        named("copy"),
        named("new"),
        named("kept"),
    ]);
    for (pod, owner) in seen
        .pods
        .iter_mut()
        .zip(["owned", "foreign", "unknown", "kept"])
    {
        let owners = pod.metadata.owner_references.as_mut().unwrap();
        owner.clone_into(&mut owners[0].uid);
    }
    seen.hook.status = serde_json::from_value(json!({"workload": {"uid": WORKLOAD}})).unwrap();
    keep_own(&mut seen);
    let left = seen
        .pods
        .iter()
        .filter_map(|pod| pod.metadata.name.as_deref());
    // One whose ReplicaSet no watch has told of yet may be its own.
    assert_eq!(Vec::from_iter(left), ["own", "new", "kept"]);
}

/// One that counts, of that name.
fn named(name: &str) -> Build {
    let stamp = format!("{}-1", stamp_prefix(HOOK));
    build::pod(name).stamp(&stamp).owner("ReplicaSet", "owned")
}

#[test]
fn who_can_be_called() {
    let named = || {
        let ports = json!([{"name": "http", "containerPort": 9090}]);
        let mut pod = callable("pod", "10.0.0.1");
        pod.0["spec"]["containers"][0]["ports"] = ports;
        pod
    };
    let sidecar = || {
        let container = json!({"name": "saver", "image": "x", "restartPolicy": "Always",
            "ports": [{"name": "save", "containerPort": 9191}]});
        let setup = json!({"name": "setup", "image": "x",
            "ports": [{"name": "save", "containerPort": 1}]});
        named().with("/spec/initContainers", json!([setup, container]))
    };
    let not_ready = json!([{"type": "Ready", "status": "False"}]);
    let rows: Vec<(&str, Build, Value, Option<u16>)> = vec![
        (
            "ready",
            callable("pod", "10.0.0.1"),
            json!(8080),
            Some(8080),
        ),
        ("IPv6", callable("pod", "fd00::7"), json!(8080), Some(8080)),
        ("a named port", named(), json!("http"), Some(9090)),
        (
            "a sidecar's named port",
            sidecar(),
            json!("save"),
            Some(9191),
        ),
        ("another named port", named(), json!("grpc"), None),
        ("a port out of range", named(), json!(70000), None),
        (
            "not ready",
            named().with("/status/conditions", not_ready),
            json!(8080),
            None,
        ),
        (
            "finished",
            named().with("/status/phase", json!("Succeeded")),
            json!(8080),
            None,
        ),
        (
            "on the node's network",
            named().with("/spec/hostNetwork", json!(true)),
            json!(8080),
            None,
        ),
        ("loopback", callable("pod", "127.0.0.1"), json!(8080), None),
        ("loopback, IPv6", callable("pod", "::1"), json!(8080), None),
        (
            "loopback, mapped",
            callable("pod", "::ffff:127.0.0.1"),
            json!(8080),
            None,
        ),
        (
            "link-local",
            callable("pod", "169.254.169.254"),
            json!(8080),
            None,
        ),
        (
            "link-local, IPv6",
            callable("pod", "fe80::1"),
            json!(8080),
            None,
        ),
        (
            "link-local, mapped",
            callable("pod", "::ffff:169.254.169.254"),
            json!(8080),
            None,
        ),
        ("unspecified", callable("pod", "0.0.0.0"), json!(8080), None),
        ("multicast", callable("pod", "224.0.0.1"), json!(8080), None),
        (
            "broadcast",
            callable("pod", "255.255.255.255"),
            json!(8080),
            None,
        ),
        ("a node's", callable("pod", "192.0.2.1"), json!(8080), None),
        (
            "a node's, mapped",
            callable("pod", "::ffff:192.0.2.1"),
            json!(8080),
            None,
        ),
        (
            "a node's beside it",
            callable("pod", "192.0.2.2"),
            json!(8080),
            Some(8080),
        ),
        ("no address", callable("pod", ""), json!(8080), None),
        ("a name", callable("pod", "localhost"), json!(8080), None),
    ];
    for (name, pod, port, expected) in rows {
        let mut seen = seen(vec![]);
        seen.callable = vec![pod.pod()];
        seen.never_called = [[192, 0, 2, 1].into()].into();
        let found = targets(&seen, &remembered(port));
        let ports: Vec<u16> = found.iter().map(|target| target.port).collect();
        assert_eq!(ports, Vec::from_iter(expected), "{name}");
    }
}

#[test]
fn only_pods_on_the_nodes_network_are_told_apart_from_none() {
    let host = || callable("pod", "10.0.0.1").with("/spec/hostNetwork", json!(true));
    let mut seen = seen(vec![]);
    assert!(!only_host_network(&seen));
    seen.callable = vec![host().pod()];
    assert!(only_host_network(&seen));
    seen.callable.push(callable("other", "10.0.0.2").pod());
    assert!(!only_host_network(&seen));
}

#[test]
fn a_pod_that_does_not_start_is_noticed_whatever_kind_of_container_waits() {
    let start = build::at(0);
    let patience = SignedDuration::from_secs(20);
    let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
    let pod = |init: Vec<Value>, app: Value| {
        phase("Pending")
            .with("/status/startTime", json!(start.to_string()))
            .with("/status/initContainerStatuses", json!(init))
            .container_state(app)
    };
    let app = |reason: &str| state("app", 0, waiting(reason));
    let init = |reason: &str| state("setup", 0, waiting(reason));
    let done = || state("setup", 0, json!({"terminated": {"exitCode": 0}}));
    let late = Some(start + patience);
    let rows: Vec<(&str, Build, Option<Timestamp>)> = vec![
        (
            "a variable of the app",
            pod(vec![], app("CreateContainerConfigError")),
            Some(start),
        ),
        ("its volume", pod(vec![], app("ContainerCreating")), late),
        (
            "a variable of an init container",
            pod(
                vec![init("CreateContainerConfigError")],
                app("PodInitializing"),
            ),
            Some(start),
        ),
        (
            "a variable of the app, after a sidecar",
            pod(vec![running("setup")], app("CreateContainerConfigError")),
            Some(start),
        ),
        (
            "the volume, with an init container or a sidecar",
            pod(vec![init("PodInitializing")], app("PodInitializing")),
            late,
        ),
        (
            "a second init container's turn, and the first one runs",
            pod(
                vec![running("setup"), init("PodInitializing")],
                app("PodInitializing"),
            ),
            None,
        ),
        (
            "the app's turn after an init container",
            pod(vec![done()], app("PodInitializing")),
            None,
        ),
        ("no image", pod(vec![], app("ImagePullBackOff")), None),
        ("well", pod(vec![done()], running("app")), None),
    ];
    for (name, pod, expected) in rows {
        assert_eq!(stuck_since(&seen(vec![pod]), patience), expected, "{name}");
    }
}
