//! However much there is in an object: what is kept of it is small, and what is used of it is there.

use serde_json::{Value, json};

use super::*;
use crate::api::names;

/// Bytes that an object costs at most, near enough: every text and list of it is in its `Debug`.
fn cost(kept: &impl fmt::Debug) -> usize {
    format!("{kept:?}").len()
}

fn many(number: usize, of: impl Fn(usize) -> Value) -> Value {
    (0..number).map(of).collect::<Vec<_>>().into()
}

fn map(number: usize, name: &str) -> Value {
    let entry = |i| (format!("{name}{i}"), json!("x".repeat(60)));
    Value::Object((0..number).map(entry).collect())
}

/// Metadata as large as the API server lets it be, most of it.
fn large() -> Value {
    let mut annotations = map(2000, "hooks.krake.dev/a");
    annotations["note"] = json!("x".repeat(250_000));
    annotations[names::STAMP_ANNOTATION] = json!("x".repeat(250_000));
    json!({
        "name": "x", "namespace": "ml", "uid": "x".repeat(100_000), "resourceVersion": "1",
        "labels": map(5000, "a"),
        "annotations": annotations,
        "finalizers": many(5000, |i| json!(format!("example.com/{i}"))),
        "ownerReferences": many(5000, |_| json!({"apiVersion": "v1", "kind": "HookGuard",
            "name": "x".repeat(5000), "uid": "x".repeat(5000)})),
        "managedFields": many(1000, |_| json!({"manager": "x".repeat(100)})),
    })
}

/// What anybody's object may cost.
const MOST: usize = 40_000;

#[test]
fn nothing_that_anybody_writes_costs_more_than_its_share() {
    let meta = large();
    assert!(meta.to_string().len() > 1_000_000);
    let kept: Metadata<core::Service> =
        serde_json::from_value(json!({"metadata": meta.clone()})).unwrap();
    assert!(cost(&kept) < MOST, "metadata: {}", cost(&kept));

    let data = json!({names::CA_BUNDLE: "x".repeat(900_000), "more": "x".repeat(100_000)});
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": meta.clone(), "data": data})).unwrap();
    assert!(map.entries.is_some() && cost(&map) < MOST, "{}", cost(&map));

    let long = "x".repeat(2000);
    let container = json!({"name": "c", "image": long, "args": [long],
        "env": many(100, |_| json!({"name": long, "value": format!("$(KRAKE_{long}")})),
        "ports": many(100, |i| json!({"name": "p", "containerPort": i}))});
    let pod = json!({"metadata": meta, "spec": {
            "containers": many(500, |_| container.clone()),
            "initContainers": many(500, |_| container.clone()),
            "volumes": many(100, |_| json!({"name": long}))},
        "status": {"message": long}});
    assert!(pod.to_string().len() > 1_000_000);
    let mut pod: Pod = serde_json::from_value(pod).unwrap();
    pod.slim();
    assert!(cost(&pod) < MOST, "pod: {}", cost(&pod));
    let whole = pod.whole();
    let spec = whole.spec.as_ref().unwrap();
    assert!(spec.containers.len() < 20);
    assert!(
        spec.containers
            .iter()
            .all(|c| c.ports.is_none() && c.image.is_none())
    );
}

#[test]
fn a_service_that_asks_for_more_labels_than_anybody_calls_nobody() {
    let service = |labels| -> core::Service {
        let service = json!({"metadata": {"name": "s"},
            "spec": {"selector": map(labels, "l"), "ports": many(2000, |i| json!({"port": i}))}});
        serde_json::from_value::<Service>(service).unwrap().whole()
    };
    let selected_by = |labels| {
        let spec = service(labels).spec.unwrap();
        assert_eq!(spec.ports.unwrap().len(), SERVICE_PORTS);
        spec.selector.unwrap_or_default().len()
    };
    assert_eq!(selected_by(2), 2);
    // Half of a selector would select more than its Service does.
    assert_eq!(selected_by(2000), 0);
}

#[test]
fn what_is_used_is_kept() {
    let meta = json!({"name": "p", "namespace": "ml", "uid": "u", "resourceVersion": "7",
        "generation": 3, "creationTimestamp": "2026-01-01T00:00:00Z",
        "deletionTimestamp": "2026-01-02T00:00:00Z", "finalizers": ["a"],
        "labels": {names::HOOK_LABEL: "h", names::MANAGED_BY_LABEL: "m"},
        "annotations": {names::STAMP_ANNOTATION: "s"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "n", "uid": "o",
            "controller": true, "blockOwnerDeletion": false}]});
    let stopped = json!({"exitCode": 1, "reason": "Error", "message": "m",
        "finishedAt": null, "startedAt": null});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": meta,
        "spec": {
            "nodeName": "node", "hostNetwork": true,
            "containers": [{"name": "c", "env": [{"name": names::POD_UID_ENV, "value": "v"}],
                "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}]}],
            "initContainers": [{"name": "i", "restartPolicy": "Always"}],
        },
        "status": {
            "phase": "Running", "podIP": "10.0.0.1", "startTime": "2026-01-01T00:00:00Z",
            "conditions": [{"type": "Ready", "status": "True", "reason": "R", "message": "m",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "containerStatuses": [{"name": "c", "ready": true, "started": true, "restartCount": 2,
                "image": "", "imageID": "", "state": {"running": {}},
                "lastState": {"terminated": stopped}}],
            "initContainerStatuses": [{"name": "i", "ready": false, "restartCount": 0,
                "image": "", "imageID": "", "state": {"waiting": {"reason": "R", "message": "m"}}}],
        },
    });
    let whole: core::Pod = serde_json::from_value(pod.clone()).unwrap();
    let kept: Pod = serde_json::from_value(pod.clone()).unwrap();
    assert_eq!(kept.whole(), whole);
    let with = |name: &str| {
        let mut pod = pod.clone();
        pod["spec"]["containers"][0]["env"][0]["name"] = json!(name);
        serde_json::from_value::<Pod>(pod)
            .unwrap()
            .whole()
            .spec
            .unwrap()
            .containers[0]
            .env
            .clone()
    };
    assert!(with(names::COMPLETE_ENDPOINT_ENV).is_some());
    assert_eq!(with("DATABASE_PASSWORD"), None);

    let service = json!({"metadata": meta, "spec": {"type": "ClusterIP", "selector": {"app": "a"}, "ports": [
        {"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP",
            "appProtocol": "http"}, {"port": 81}]}});
    let whole: core::Service = serde_json::from_value(service.clone()).unwrap();
    assert_eq!(
        serde_json::from_value::<Service>(service).unwrap().whole(),
        whole
    );
    let nulls = json!({"metadata": {"name": "p", "labels": null, "ownerReferences": null},
        "spec": {"containers": null}, "status": {"conditions": null}});
    assert!(serde_json::from_value::<Pod>(nulls).is_ok());
}

#[test]
fn a_config_map_is_told_by_digests_and_only_a_guards() {
    let map = |kind: &str, bundle: &str| -> ConfigMap {
        serde_json::from_value(json!({
            "metadata": {"name": "m", "ownerReferences": [
                {"apiVersion": "hooks.krake.dev/v1alpha1", "kind": kind, "name": "g", "uid": "g"}]},
            "data": {names::CA_BUNDLE: bundle, names::COMPLETE_URL_KEY: "u", "a user's": "own"},
        }))
        .unwrap()
    };
    let data = |bundle: &str| {
        [(names::CA_BUNDLE, bundle), (names::COMPLETE_URL_KEY, "u")]
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .into()
    };
    assert_eq!(map("HookGuard", "b").entries, Some(Entries::of(&data("b"))));
    assert_ne!(map("HookGuard", "b").entries, Some(Entries::of(&data("c"))));
    assert_eq!(map("ConfigMap", "b").entries, None);
    assert!(!format!("{:?}", map("HookGuard", "b")).contains("a user's"));
}

/// Memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Kilobytes of each of so many such objects in a cache.
fn measured<K: serde::de::DeserializeOwned>(object: &Value, slim: impl Fn(&mut K)) -> f64 {
    let text = object.to_string();
    let number = if text.len() > 100_000 { 500 } else { 30_000 };
    let before = resident();
    let kept: Vec<_> = (0..number)
        .map(|_| {
            let mut object: K = serde_json::from_str(&text).unwrap();
            slim(&mut object);
            std::sync::Arc::new(object)
        })
        .collect();
    let bytes = resident().saturating_sub(before) / kept.len();
    // Or the next ones would take the room of these.
    std::mem::forget(kept);
    f64::from(u32::try_from(bytes).unwrap()) / 1024.0
}

#[test]
#[ignore = "a measurement, for the table of docs/operations.md; run it by itself"]
fn what_an_object_costs() {
    let uid = "0f3a9c1e-77aa-4c0f-9b1a-2f6d1e7c8b90";
    let owner = |kind: &str| {
        json!({"apiVersion": "apps/v1", "kind": kind, "name": "trainer-5d4f8c7b9", "uid": uid,
            "controller": true, "blockOwnerDeletion": true})
    };
    let meta = json!({"name": "trainer-5d4f8c7b9-x2x4p", "namespace": "machine-learning",
        "uid": uid, "resourceVersion": "123456789", "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {names::HOOK_LABEL: "trainer", names::MANAGED_BY_LABEL: names::MANAGED_BY,
            names::OWNER_LABEL: uid},
        "annotations": {names::STAMP_ANNOTATION: format!("{uid}.0123456789abcdef")},
        "ownerReferences": [owner("ReplicaSet"), owner("HookGuard")]});
    let container = |i: usize| {
        json!({"name": format!("container-{i}"), "image": "registry.example.com/app:1",
            "env": [{"name": names::POD_UID_ENV}], "ports": [{"containerPort": 80}]})
    };
    let status = |i: usize| {
        json!({"name": format!("container-{i}"), "ready": true, "restartCount": 0,
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}})
    };
    let condition = |of: &str| json!({"type": of, "status": "True"});
    let conditions: Vec<_> = ["Ready", "Initialized", "PodScheduled", "ContainersReady"]
        .map(condition)
        .into();
    let pod = |meta: &Value, containers| {
        json!({"metadata": meta, "spec": {"nodeName": "node-1",
                "containers": many(containers, container)},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": conditions,
                "startTime": "2026-01-01T00:00:00Z",
                "containerStatuses": many(containers, status)}})
    };
    let map = |meta: &Value| {
        json!({"metadata": meta, "data": {names::CA_BUNDLE: "x", names::COMPLETE_URL_KEY: "u",
            names::SHUTDOWN_URL_KEY: "u"}})
    };
    let only = |meta: &Value| json!({"metadata": meta});
    let large = large();
    println!(
        "Metadata: {:.1}",
        measured::<Metadata<core::Pod>>(&only(&meta), |_| {})
    );
    println!(
        "Metadata, large: {:.1}",
        measured::<Metadata<core::Pod>>(&only(&large), |_| {})
    );
    println!("pod of 1: {:.1}", measured(&pod(&meta, 1), Pod::slim));
    println!("pod of 3: {:.1}", measured(&pod(&meta, 3), Pod::slim));
    println!("pod, large: {:.1}", measured(&pod(&large, 40), Pod::slim));
    println!(
        "ConfigMap: {:.1}",
        measured::<ConfigMap>(&map(&meta), |_| {})
    );
    println!(
        "ConfigMap, large: {:.1}",
        measured::<ConfigMap>(&map(&large), |_| {})
    );
    let hook = |acknowledgements: usize| {
        let hook = crate::testing::build::hook("trainer").shutdown().hook();
        let mut hook = serde_json::to_value(hook).unwrap();
        hook["metadata"] = meta.clone();
        let said = |i: usize| {
            let ack = json!({"at": "2026-01-01T00:00:00Z", "workloadUID": uid, "result": "Success",
                "request": "0123456789abcdef", "message": "saved"});
            (format!("shutdown.{uid}{i}"), ack)
        };
        let said: serde_json::Map<_, _> = (0..acknowledgements).map(said).collect();
        hook["status"]["acknowledgements"] = said.into();
        let conditions = [
            "Ready",
            "Injected",
            "Armed",
            "CertificateReady",
            "Blocking",
            "Stopped",
        ];
        hook["status"]["conditions"] = conditions
            .map(|of| {
                json!({"type": of, "status": "True", "reason": "Because", "message": "x".repeat(120),
                    "lastTransitionTime": "2026-01-01T00:00:00Z"})
            })
            .to_vec()
            .into();
        hook
    };
    for number in [0, 100] {
        let cost = measured::<crate::api::KrakeHook>(&hook(number), slim);
        println!("KrakeHook with {number} acknowledgements: {cost:.1}");
    }
    let guard = crate::testing::build::guard("trainer", uid, "guard").guard();
    let guard = serde_json::to_value(guard).unwrap();
    println!(
        "HookGuard: {:.1}",
        measured::<crate::api::HookGuard>(&guard, slim)
    );
    let certificate = json!({"apiVersion": "hooks.krake.dev/v1alpha1", "kind": "HookCertificate",
        "metadata": meta, "spec": {"hook": {"name": "trainer"}, "secretName": "trainer-tls"},
        "status": {"conditions": [
                {"type": "Ready", "status": "True", "reason": "Issued", "message": "x".repeat(120),
                    "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "Issuing", "status": "False", "reason": "Issued",
                    "message": "x".repeat(80), "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "secret": {"name": "trainer-tls", "uid": uid, "resourceVersion": "1"},
            "serialNumber": "0".repeat(32), "issuer": "0".repeat(64), "issuerName": "CN=x",
            "notBefore": "2026-01-01T00:00:00Z", "notAfter": "2026-01-01T00:00:00Z",
            "renewalTime": "2026-01-01T00:00:00Z", "hookUID": uid}});
    let cost = measured::<crate::api::HookCertificate>(&certificate, slim);
    println!("HookCertificate: {cost:.1}");
}

#[test]
fn of_a_long_sentence_both_ends_are_kept() {
    let read = |text: String| {
        serde_json::from_value::<read::Words>(json!(text))
            .unwrap()
            .0
    };
    let short = "image not found".to_owned();
    assert_eq!(read(short.clone()), short);
    let long = read(format!(
        "cannot start: {}: not a directory",
        "ä".repeat(5000)
    ));
    assert!(long.starts_with("cannot start"), "{long}");
    assert!(long.ends_with(": not a directory"), "{long}");
    assert!(long.len() < 600, "{}", long.len());
}
