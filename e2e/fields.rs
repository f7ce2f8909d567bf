//! Every field that a pod and a container have on this cluster is fenced: each is changed once, by an
//! administrator and by a thief. A field that a later Kubernetes brings fails here until it has its
//! line in the tables, which says how it is changed, or why it need not be.

use std::collections::BTreeSet;

use kube::Client;
use kube::api::{DynamicObject, PostParams};
use serde_json::{Value, json};

use krake_hooks::api::WorkloadKind;
use krake_hooks::outside::workloads;

use crate::support::runner::Story;
use crate::support::stage::Stage;
use crate::support::thief::{fenced, idle, tried};

pub fn stories() -> Vec<Story> {
    crate::stories![Together: every_field_of_a_pod_and_of_a_container_is_compared]
}

/// What becomes of a field.
enum Field {
    /// Set to this it is another one, and the policy refuses the operator.
    Compared(Value),
    /// Our own entries are in it. What else may not is tried in `theft`.
    LetPass,
    /// Nobody can set it in a Deployment's template, or to anything but what it is.
    Nobody(Value),
    /// Only there with a feature that this cluster may not have: ignored without it, compared with it.
    Gated(Value),
}
use Field::{Compared, Gated, LetPass, Nobody};

fn of_a_pod() -> Vec<(&'static str, Field)> {
    vec![
        ("activeDeadlineSeconds", Nobody(json!(5))),
        ("affinity", Compared(json!({"nodeAffinity": {}}))),
        ("automountServiceAccountToken", Compared(json!(true))),
        ("containers", LetPass),
        ("dnsConfig", Compared(json!({"searches": ["a.b"]}))),
        ("dnsPolicy", Compared(json!("Default"))),
        ("enableServiceLinks", Compared(json!(false))),
        (
            "ephemeralContainers",
            Nobody(json!([{"name": "d", "image": "i"}])),
        ),
        (
            "hostAliases",
            Compared(json!([{"ip": "1.2.3.4", "hostnames": ["a"]}])),
        ),
        ("hostIPC", Compared(json!(true))),
        ("hostNetwork", Compared(json!(true))),
        ("hostPID", Compared(json!(true))),
        ("hostUsers", Gated(json!(false))),
        ("hostname", Compared(json!("a"))),
        ("hostnameOverride", Gated(json!("a"))),
        ("imagePullSecrets", Compared(json!([{"name": "a"}]))),
        ("initContainers", LetPass),
        ("nodeName", Compared(json!("a"))),
        ("nodeSelector", Compared(json!({"a": "b"}))),
        ("os", Compared(json!({"name": "linux"}))),
        ("overhead", Compared(json!({"cpu": "1"}))),
        ("preemptionPolicy", Compared(json!("Never"))),
        ("priority", Compared(json!(7))),
        ("priorityClassName", Compared(json!("system-node-critical"))),
        (
            "readinessGates",
            Compared(json!([{"conditionType": "a.b/c"}])),
        ),
        (
            "resourceClaims",
            Gated(json!([{"name": "a", "resourceClaimName": "a"}])),
        ),
        ("resources", Gated(json!({"limits": {"cpu": "1"}}))),
        ("restartPolicy", Nobody(json!("Never"))),
        ("runtimeClassName", Compared(json!("a"))),
        ("schedulerName", Compared(json!("another"))),
        ("schedulingGates", Compared(json!([{"name": "a.b/c"}]))),
        ("securityContext", Compared(json!({"runAsUser": 0}))),
        ("serviceAccount", Compared(json!("a"))),
        ("serviceAccountName", Compared(json!("a"))),
        ("setHostnameAsFQDN", Compared(json!(true))),
        ("shareProcessNamespace", Compared(json!(true))),
        ("subdomain", Compared(json!("a"))),
        ("terminationGracePeriodSeconds", Compared(json!(7))),
        ("tolerations", Compared(json!([{"operator": "Exists"}]))),
        (
            "topologySpreadConstraints",
            Compared(
                json!([{"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule"}]),
            ),
        ),
        ("volumes", LetPass),
        ("workloadRef", Gated(json!({"name": "a", "podGroup": "a"}))),
    ]
}

fn of_a_container() -> Vec<(&'static str, Field)> {
    let probe = json!({"exec": {"command": ["sh"]}, "httpGet": null});
    vec![
        ("args", Compared(json!(["a"]))),
        ("command", Compared(json!(["a"]))),
        ("env", LetPass),
        ("envFrom", Compared(json!([{"secretRef": {"name": "a"}}]))),
        ("image", Compared(json!("a"))),
        ("imagePullPolicy", Compared(json!("Always"))),
        ("lifecycle", Compared(json!({"postStart": probe}))),
        ("livenessProbe", Compared(probe.clone())),
        // Another name is another container.
        ("name", LetPass),
        ("ports", Compared(json!([{"containerPort": 7}]))),
        ("readinessProbe", Compared(probe.clone())),
        (
            "resizePolicy",
            Gated(json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}])),
        ),
        ("resources", Compared(json!({"limits": {"cpu": "1"}}))),
        ("restartPolicy", Gated(json!("Never"))),
        (
            "restartPolicyRules",
            Gated(json!([{"action": "Restart",
                "exitCodes": {"operator": "In", "values": [1]}}])),
        ),
        ("securityContext", Compared(json!({"privileged": true}))),
        ("startupProbe", Compared(probe)),
        ("stdin", Compared(json!(true))),
        ("stdinOnce", Compared(json!(true))),
        ("terminationMessagePath", Compared(json!("/a"))),
        (
            "terminationMessagePolicy",
            Compared(json!("FallbackToLogsOnError")),
        ),
        ("tty", Compared(json!(true))),
        (
            "volumeDevices",
            Compared(json!([{"name": "disk", "devicePath": "/dev/a"}])),
        ),
        ("volumeMounts", LetPass),
        ("workingDir", Compared(json!("/a"))),
    ]
}

async fn every_field_of_a_pod_and_of_a_container_is_compared(stage: Stage) {
    let kind = WorkloadKind::Deployment;
    let mut deployment = idle(kind, "app");
    let pod = &mut deployment.data["spec"]["template"]["spec"];
    pod["volumes"] = json!([{"name": "disk", "persistentVolumeClaim": {"claimName": "a"}}]);
    let by_people = workloads(&stage.client, kind, &stage.namespace);
    let made = by_people.create(&PostParams::default(), &deployment).await;
    let made = made.expect("a tenant may");
    let by_thief = workloads(&stage.thief().await, kind, &stage.namespace);

    let container = |field: &str, value: &Value| {
        let mut container = json!({"name": "app"});
        container[field] = value.clone();
        // What goes with it, or it is no valid change.
        match field {
            "stdinOnce" => container["stdin"] = json!(true),
            "restartPolicyRules" => container["restartPolicy"] = json!("Never"),
            _ => {}
        }
        json!({"containers": [container]})
    };
    let pod = |field: &str, value: &Value| match field {
        "serviceAccountName" => json!({"serviceAccountName": value, "serviceAccount": value}),
        _ => json!({field: value}),
    };
    let known = schema(&stage.client).await;
    for (of, table) in [("PodSpec", of_a_pod()), ("Container", of_a_container())] {
        let served = properties(&known, of);
        let listed: BTreeSet<&str> = table.iter().map(|(field, _)| *field).collect();
        let unknown: Vec<_> = served
            .iter()
            .filter(|f| !listed.contains(f.as_str()))
            .collect();
        assert!(
            unknown.is_empty(),
            "{of} has fields that nobody has tried: {unknown:?}; give each its line"
        );
        for (field, change) in table.iter().filter(|(field, _)| served.contains(*field)) {
            let (value, wanted) = match change {
                Compared(value) => (value, Some(true)),
                Gated(value) => (value, None),
                Nobody(value) => (value, Some(false)),
                LetPass => continue,
            };
            let change = match of {
                "PodSpec" => pod(field, value),
                _ => container(field, value),
            };
            let patch = json!({"spec": {"template": {"spec": change}}});
            let changes = is_changed(&made, tried(&by_people, "app", &patch).await);
            assert!(
                wanted.is_none_or(|wanted| changes == Ok(wanted) || (!wanted && changes.is_err())),
                "{of}.{field} cannot be tried like this: {changes:?}"
            );
            if changes == Ok(true) {
                let answer = tried(&by_thief, "app", &patch).await;
                fenced("krake-hooks-changes", &format!("{of}.{field}"), answer);
            }
        }
    }
}

/// Whether somebody with all rights has changed something by it.
fn is_changed(before: &DynamicObject, after: kube::Result<DynamicObject>) -> Result<bool, String> {
    let after = after.map_err(|error| error.to_string())?;
    Ok(after.data["spec"] != before.data["spec"])
}

async fn schema(client: &Client) -> Value {
    let request = kube::core::Request::new("/openapi/v3").get("api", &Default::default());
    let mut request = request.expect("a request");
    *request.uri_mut() = "/openapi/v3/api/v1".parse().expect("a path");
    let served = client.request(request).await;
    served.expect("the API server says what it knows")
}

fn properties(known: &Value, of: &str) -> BTreeSet<String> {
    let name = format!("io.k8s.api.core.v1.{of}");
    let fields = known["components"]["schemas"][&name]["properties"].as_object();
    fields.expect("its fields").keys().cloned().collect()
}
