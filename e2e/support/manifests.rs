//! The objects that stories apply, as a user would write them.

use krake_hooks::api::kind::{Change, WorkloadKind};
use krake_hooks::api::names;
use serde_json::{Value, json};

/// Image with bash, curl and python3-requests.
pub const APP_IMAGE: &str = "docker.io/library/krake-hooks-app:dev";

/// Image with OpenSSL's and GnuTLS's curl, Python, Go's client and Java; `cluster load-clients`.
pub const CLIENTS_IMAGE: &str = "docker.io/library/krake-hooks-clients:dev";

/// The app that answers `PUT /shutdown` and otherwise does what the test says.
pub const APP: &str = include_str!("app.py");

/// A Deployment of one container that runs `command`; its pods carry the label `app: <name>`.
pub fn deployment(name: &str, command: &[&str]) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": pod_spec(command),
            },
        },
    })
}

/// A Deployment of [`APP`], which is ready when it can be called.
pub fn app(name: &str) -> Value {
    let mut deployment = deployment(name, &["python3", "-u", "-c", APP]);
    make_callable(&mut deployment["spec"]["template"]["spec"]);
    deployment
}

/// A workload of a kind whose pods are [`APP`], one of them where the kind says how many, and carry
/// the label `app: <name>`.
pub fn workload(kind: WorkloadKind, name: &str) -> Value {
    let traits = kind.traits();
    let mut workload = app(name);
    workload["apiVersion"] = json!(traits.api_version);
    workload["kind"] = json!(traits.name);
    let template = workload["spec"]["template"].take();
    workload["spec"] = match kind {
        WorkloadKind::Pod => template["spec"].clone(),
        WorkloadKind::Job => json!({"template": template, "backoffLimit": 0}),
        WorkloadKind::DaemonSet => {
            json!({"selector": {"matchLabels": {"app": name}}, "template": template})
        }
        WorkloadKind::ReplicationController => {
            json!({"replicas": 1, "selector": {"app": name}, "template": template})
        }
        WorkloadKind::Deployment | WorkloadKind::ReplicaSet | WorkloadKind::StatefulSet => {
            json!({"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": template})
        }
    };
    match kind {
        WorkloadKind::StatefulSet => workload["spec"]["serviceName"] = json!("shutdown"),
        WorkloadKind::Job => workload["spec"]["template"]["spec"]["restartPolicy"] = json!("Never"),
        _ => {}
    }
    workload
}

/// Lets the pods of a workload, into which nothing can be injected, read what is a hook's: mounted at
/// the usual place, and the URL in the environment.
pub fn reading(workload: Value, kind: WorkloadKind, hook: &str, hook_uid: &str) -> Value {
    assert_eq!(kind.traits().change, Change::Refused);
    let mut workload = workload;
    let pod = match kind.traits().template {
        "" => &mut workload["spec"],
        template => &mut workload.pointer_mut(template).expect("a template")["spec"],
    };
    let object = names::of_hook(hook, hook_uid);
    pod["volumes"] = json!([{"name": "krake", "projected": {"sources": [
        {"secret": {"name": object}},
        {"secret": {"name": names::tls_secret(hook, hook_uid)}},
        {"configMap": {"name": object}},
    ]}}]);
    pod["containers"][0]["volumeMounts"] =
        json!([{"name": "krake", "mountPath": "/etc/krake_cert"}]);
    workload
}

/// A pod of [`APP`] that belongs to nobody, with a volume of its own at the usual place.
pub fn bystander(volume: Value, environment: Value) -> Value {
    let mut spec = pod_spec(&["python3", "-u", "-c", APP]);
    make_callable(&mut spec);
    spec["containers"][0]["env"] = environment;
    spec["containers"][0]["volumeMounts"] =
        json!([{"name": "credentials", "mountPath": "/etc/krake_cert"}]);
    spec["volumes"] = json!([volume]);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bystander", "labels": {"app": "bystander"}},
        "spec": spec,
    })
}

/// The Service that the operator calls, in front of the pods of one Deployment.
pub fn service(name: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": app}, "ports": [{"port": 80, "targetPort": 8080}]},
    })
}

/// A hook for a Deployment; `kinds` has `complete`, `shutdown`, or both.
pub fn hook(name: &str, workload: &str, kinds: Value) -> Value {
    hook_of(WorkloadKind::Deployment, name, workload, kinds)
}

/// The same for a workload of a kind.
pub fn hook_of(kind: WorkloadKind, name: &str, workload: &str, kinds: Value) -> Value {
    let mut spec = kinds;
    let traits = kind.traits();
    spec["workload"] =
        json!({"apiVersion": traits.api_version, "kind": traits.name, "name": workload});
    json!({
        "apiVersion": "hooks.krake.dev/v1alpha1",
        "kind": "KrakeHook",
        "metadata": {"name": name},
        "spec": spec,
    })
}

/// A user's own certificate for a hook, with further fields from `more`.
pub fn certificate(name: &str, hook: &str, more: Value) -> Value {
    let mut spec = json!({"hook": {"name": hook}});
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    json!({
        "apiVersion": "hooks.krake.dev/v1alpha1",
        "kind": "HookCertificate",
        "metadata": {"name": name},
        "spec": spec,
    })
}

/// A shutdown hook that calls the Service `shutdown`, with further fields from `more`.
pub fn shutdown(more: Value) -> Value {
    let mut shutdown = json!({"callOut": {"service": {"name": "shutdown", "port": 80}}});
    for (field, value) in more.as_object().into_iter().flatten() {
        shutdown[field] = value.clone();
    }
    json!({ "shutdown": shutdown })
}

fn pod_spec(command: &[&str]) -> Value {
    json!({
        // Nothing in the promise may rest on a pod's own grace period.
        "terminationGracePeriodSeconds": 1,
        // The manual's curl does not run as root everywhere: the files must be readable.
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "runAsNonRoot": true},
        "automountServiceAccountToken": false,
        "containers": [{
            "name": "app",
            "image": APP_IMAGE,
            "imagePullPolicy": "IfNotPresent",
            "command": command,
        }],
    })
}

fn make_callable(pod_spec: &mut Value) {
    let container = &mut pod_spec["containers"][0];
    container["ports"] = json!([{"name": "http", "containerPort": 8080}]);
    container["readinessProbe"] =
        json!({"httpGet": {"path": "/calls", "port": 8080}, "periodSeconds": 1});
}
