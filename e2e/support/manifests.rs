//! The objects that stories apply, as a user would write them.

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
    let mut spec = kinds;
    spec["workload"] = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": workload});
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
