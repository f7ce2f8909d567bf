//! Builders that read as specs.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use crate::api::{HookGuard, KrakeHook, WorkloadKind, names};
use crate::config::HooksConfig;
use crate::decide::{Settings, Workload};

/// Namespace of everything built here.
pub const NAMESPACE: &str = "ml";
/// Name of hook and workload, unless said otherwise.
pub const NAME: &str = "trainer";

/// An object in the making.
#[derive(Clone)]
pub struct Build(pub Value);

impl Build {
    /// Sets a value, found by a JSON pointer whose parents exist.
    pub fn with(mut self, pointer: &str, value: Value) -> Self {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        let key = key.replace("~1", "/");
        let parent = self.0.pointer_mut(parent).expect("the parent is there");
        match parent {
            Value::Array(entries) => entries.push(value),
            other => other[key.as_str()] = value,
        }
        self
    }

    /// Gives it a uid.
    pub fn uid(self, uid: &str) -> Self {
        self.with("/metadata/uid", json!(uid))
    }

    /// Somebody deletes it; something keeps it there.
    pub fn deleting(self) -> Self {
        self.with("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"))
    }

    /// Gives it a finalizer.
    pub fn finalizer(mut self, finalizer: &str) -> Self {
        let finalizers = &mut self.0["metadata"]["finalizers"];
        match finalizers.as_array_mut() {
            Some(finalizers) => finalizers.push(json!(finalizer)),
            None => *finalizers = json!([finalizer]),
        }
        self
    }

    /// Gives it an owner; a controlling one if it is no guard.
    pub fn owner(mut self, kind: &str, uid: &str) -> Self {
        let mut owner = json!({"apiVersion": "v1", "kind": kind, "name": kind, "uid": uid});
        if kind != "HookGuard" {
            owner["controller"] = json!(true);
            owner["blockOwnerDeletion"] = json!(true);
        }
        let owners = &mut self.0["metadata"]["ownerReferences"];
        match owners.as_array_mut() {
            Some(owners) => owners.push(owner),
            None => *owners = json!([owner]),
        }
        self
    }

    /// A hook: the app says when its work is complete.
    pub fn complete(self) -> Self {
        self.with("/spec/complete", json!({}))
    }

    /// A hook: a removal waits.
    pub fn shutdown(self) -> Self {
        self.with("/spec/shutdown", json!({}))
    }

    /// A hook: the app is called behind a Service.
    pub fn call_out(self, service: &str) -> Self {
        self.with(
            "/spec/shutdown/callOut",
            json!({"service": {"name": service}}),
        )
    }

    /// A hook: each pod behind the Service is called.
    pub fn each_pod(self) -> Self {
        self.with("/spec/shutdown/callOut/fanOut", json!("EachPod"))
    }

    /// A hook: how many pods have to acknowledge.
    pub fn quorum(self, quorum: Value) -> Self {
        self.with("/spec/shutdown/acknowledgements", quorum)
    }

    /// A hook: further rounds.
    pub fn retries(self, retries: i64) -> Self {
        self.with("/spec/shutdown/retries", json!(retries))
    }

    /// A hook: what happens when the time is up.
    pub fn on_timeout(self, what: &str) -> Self {
        self.with("/spec/shutdown/onTimeout", json!(what))
    }

    /// A Deployment: one more container.
    pub fn container(self, name: &str) -> Self {
        self.with(
            "/spec/template/spec/containers/-",
            json!({"name": name, "image": "app"}),
        )
    }

    /// A Deployment: an init container.
    pub fn init_container(self, name: &str) -> Self {
        self.with(
            "/spec/template/spec/initContainers",
            json!([{"name": name, "image": "setup"}]),
        )
    }

    /// A pod: what its only container is doing, or did.
    pub fn container_state(self, state: Value) -> Self {
        self.with("/status/containerStatuses", json!([state]))
    }

    /// A pod: what was injected.
    pub fn stamp(self, stamp: &str) -> Self {
        self.with(
            "/metadata/annotations",
            json!({names::STAMP_ANNOTATION: stamp}),
        )
    }

    /// As a hook.
    pub fn hook(self) -> KrakeHook {
        serde_json::from_value(self.0).expect("a hook")
    }

    /// As a workload.
    pub fn workload(self) -> Workload {
        let word = |key: &str| self.0[key].as_str().unwrap_or_default();
        let kind = WorkloadKind::find(word("apiVersion"), word("kind")).expect("a known kind");
        Workload::read(kind, self.clone().meta(), &self.0).expect("a workload")
    }

    /// As a pod.
    pub fn pod(self) -> Pod {
        serde_json::from_value(self.0).expect("a pod")
    }

    /// As a guard.
    pub fn guard(self) -> HookGuard {
        serde_json::from_value(self.0).expect("a guard")
    }

    /// As a ConfigMap.
    pub fn config_map(self) -> ConfigMap {
        serde_json::from_value(self.0).expect("a ConfigMap")
    }

    /// As a Service.
    pub fn service(self) -> Service {
        serde_json::from_value(self.0).expect("a Service")
    }

    /// Only its metadata.
    pub fn meta(self) -> ObjectMeta {
        serde_json::from_value(self.0["metadata"].clone()).expect("metadata")
    }
}

/// A hook of that name, for the workload of that name, with nothing enabled yet.
pub fn hook(name: &str) -> Build {
    Build(json!({
        "apiVersion": "hooks.krake.dev/v1alpha1", "kind": "KrakeHook",
        "metadata": {"namespace": NAMESPACE, "name": name, "generation": 1},
        "spec": {"workload": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}},
    }))
}

/// A Deployment of that name, without containers yet.
pub fn deployment(name: &str) -> Build {
    Build(json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"namespace": NAMESPACE, "name": name, "generation": 1},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": NAME}}, "template": {
            "metadata": {"labels": {"app": NAME}}, "spec": {"containers": []}}},
    }))
}

/// Metadata of a ReplicaSet.
pub fn replica_set(name: &str) -> Build {
    Build(
        json!({"metadata": {"namespace": NAMESPACE, "name": name, "uid": name,
        "resourceVersion": "7"}}),
    )
}

/// A canary of the hook of that name for the workload of that uid.
pub fn canary(hook: &str, workload_uid: &str) -> Build {
    Build(
        json!({"metadata": {"namespace": NAMESPACE, "name": names::canary(hook, workload_uid),
            "uid": "canary", "finalizers": [names::CANARY_FINALIZER]}}),
    )
}

/// The guard of a hook.
pub fn guard(hook: &str, hook_uid: &str, guard_uid: &str) -> Build {
    Build(json!({
        "apiVersion": "hooks.krake.dev/v1alpha1", "kind": "HookGuard",
        "metadata": {"name": hook_uid, "uid": guard_uid, "finalizers": [names::GUARD_FINALIZER]},
        "spec": {"hook": {"namespace": NAMESPACE, "name": hook, "uid": hook_uid},
            "workload": {"apiVersion": "apps/v1", "kind": "Deployment", "name": hook}},
    }))
}

/// A running, ready pod with an injected container `app`.
pub fn pod(name: &str) -> Build {
    Build(json!({
        "metadata": {"namespace": NAMESPACE, "name": name, "uid": name, "labels": {"app": NAME}},
        "spec": {"nodeName": "node-1", "containers": [{"name": "app", "image": "app", "env": [
            {"name": names::POD_UID_ENV, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}]}]},
        "status": {"phase": "Running", "podIP": "10.0.0.7",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [running("app")]},
    }))
}

/// State of a container that runs.
pub fn running(container: &str) -> Value {
    state(container, 0, json!({"running": {}}))
}

/// State of a container.
pub fn state(container: &str, restarts: i32, state: Value) -> Value {
    json!({"name": container, "image": "app", "imageID": "", "ready": true,
        "restartCount": restarts, "state": state})
}

/// A Service with a port that has a name.
pub fn service(name: &str) -> Build {
    Build(
        json!({"metadata": {"namespace": NAMESPACE, "name": name}, "spec": {
        "selector": {"app": NAME}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}),
    )
}

/// Settings of an operator process.
pub fn settings(leader: &str, tls: bool) -> Settings {
    Settings {
        endpoint: "https://krake-hooks.krake-system.svc:8443".into(),
        tls,
        bundle: "the bundle".into(),
        key_id: "k1".into(),
        hooks: HooksConfig::default(),
        leader: leader.into(),
        predecessor: None,
    }
}

/// A moment, in seconds after midnight of 2026-01-01.
pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + second).expect("a moment")
}

/// The same, as the API writes it.
pub fn time(second: i64) -> Time {
    Time(at(second))
}
