//! The table: for each field what it must not be, and what the API server says.

use serde_json::{Value, json};

/// One thing that must be refused.
pub struct Row {
    /// What is tried.
    pub attempt: Attempt,
    /// The field that is named.
    pub field: String,
    /// A part of what is said of it.
    pub message: String,
}

/// What is tried.
pub enum Attempt {
    /// An object is created.
    Create(Value),
    /// A patch of the object that is there.
    Change(Value),
}

/// A hook with every field set, to what is good.
pub fn hook() -> Value {
    json!({
        "apiVersion": "hooks.krake.dev/v1alpha1",
        "kind": "KrakeHook",
        "metadata": {"name": "hook"},
        "spec": {
            "workload": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"},
            "containers": ["app"],
            "injection": "Template",
            "complete": {
                "action": "Delete",
                "acknowledgements": {"policy": "Any"},
                "shutdownFirst": false,
                "env": {"token": "TOKEN", "url": "COMPLETE_URL"},
                "certMountPath": "/etc/krake_cert",
            },
            "shutdown": {
                "callOut": {
                    "mode": "Service",
                    "service": {"name": "shutdown", "port": 80, "path": "/shutdown", "scheme": "HTTP"},
                    "fanOut": "One",
                },
                "timeoutSeconds": 30,
                "retries": 0,
                "onTimeout": "Delete",
                "acknowledgements": {"policy": "Any"},
                "env": {"token": "TOKEN", "url": "SHUTDOWN_URL"},
                "certMountPath": "/etc/krake_cert",
            },
            "state": "Running",
        },
    })
}

/// A certificate with every field set, to what is good.
pub fn certificate() -> Value {
    json!({
        "apiVersion": "hooks.krake.dev/v1alpha1",
        "kind": "HookCertificate",
        "metadata": {"name": "certificate"},
        "spec": {
            "hook": {"name": "hook"},
            "secretName": "certificate-tls",
            "durationSeconds": 3600,
            "renewBeforeSeconds": 600,
            "privateKey": {"algorithm": "ECDSA-P256"},
        },
    })
}

/// All of it.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let (hook, certificate) = (hook(), certificate());
    for (field, least, most) in [
        ("spec.shutdown.timeoutSeconds", 1, 2_592_000),
        ("spec.shutdown.retries", 0, 1000),
        ("spec.shutdown.acknowledgements.count", 1, 512),
        ("spec.complete.acknowledgements.count", 1, 512),
    ] {
        rows.extend(integer(&hook, field, least, most));
    }
    for (field, least, most) in [
        ("spec.durationSeconds", 600, 31_536_000),
        ("spec.renewBeforeSeconds", 60, 31_536_000),
    ] {
        rows.extend(integer(&certificate, field, least, most));
    }
    for (field, near) in [
        ("spec.injection", "template"),
        ("spec.state", "running"),
        ("spec.complete.action", "delete"),
        ("spec.complete.acknowledgements.policy", "any"),
        ("spec.shutdown.acknowledgements.policy", "any"),
        ("spec.shutdown.onTimeout", "retain"),
        ("spec.shutdown.callOut.mode", "none"),
        ("spec.shutdown.callOut.fanOut", "one"),
        ("spec.shutdown.callOut.service.scheme", "HTTPS"),
    ] {
        rows.extend(choice(&hook, field, near));
    }
    rows.extend(choice(
        &certificate,
        "spec.privateKey.algorithm",
        "RSA-1024",
    ));
    for (field, most, bad) in [
        ("spec.workload.apiVersion", 64, &[][..]),
        ("spec.workload.kind", 64, &[]),
        ("spec.workload.name", 253, &[]),
        ("spec.complete.env.token", 128, BAD_VARIABLES),
        ("spec.complete.env.url", 128, BAD_VARIABLES),
        ("spec.shutdown.env.token", 128, BAD_VARIABLES),
        ("spec.shutdown.env.url", 128, BAD_VARIABLES),
        ("spec.complete.certMountPath", 256, BAD_DIRECTORIES),
        ("spec.shutdown.certMountPath", 256, BAD_DIRECTORIES),
        ("spec.shutdown.callOut.service.name", 63, &[]),
        ("spec.shutdown.callOut.service.path", 1024, BAD_PATHS),
    ] {
        rows.extend(text(&hook, field, most, bad));
    }
    rows.extend(text(&certificate, "spec.hook.name", 63, &[]));
    rows.extend(text(&certificate, "spec.secretName", 253, BAD_NAMES));
    for bad in [json!("true"), json!(1), json!([]), json!({})] {
        rows.push(typed(&hook, "spec.complete.shutdownFirst", bad, "boolean"));
    }
    for (base, all) in [(&hook, HOOK_OBJECTS), (&certificate, CERTIFICATE_OBJECTS)] {
        for field in all {
            for bad in [json!("x"), json!(1), json!([]), json!(true)] {
                rows.push(typed(base, field, bad, "object"));
            }
            rows.push(unknown(base, field));
        }
    }
    for field in [
        "spec",
        "spec.workload",
        "spec.workload.apiVersion",
        "spec.workload.kind",
        "spec.workload.name",
        "spec.shutdown.callOut.service.name",
    ] {
        rows.push(missing(&hook, field));
    }
    for field in ["spec", "spec.hook", "spec.hook.name"] {
        rows.push(missing(&certificate, field));
    }
    rows.extend(containers(&hook));
    rows.extend(rules(&hook, &certificate));
    rows
}

const HOOK_OBJECTS: &[&str] = &[
    "spec.workload",
    "spec.complete",
    "spec.complete.env",
    "spec.complete.acknowledgements",
    "spec.shutdown",
    "spec.shutdown.env",
    "spec.shutdown.acknowledgements",
    "spec.shutdown.callOut",
    "spec.shutdown.callOut.service",
];
const CERTIFICATE_OBJECTS: &[&str] = &["spec.hook", "spec.privateKey"];
const BAD_VARIABLES: &[&str] = &[
    "1TOKEN",
    "KRAKE-TOKEN",
    "KRAKE TOKEN",
    "KRAKE.TOKEN",
    "$(X)",
];
const BAD_DIRECTORIES: &[&str] = &["etc/krake", "./etc", "/etc:ro", "/a:/b"];
const BAD_PATHS: &[&str] = &["shutdown", "http://x/", "/a b", "/a#b", "/\u{e4}", "/a\\b"];
const BAD_NAMES: &[&str] = &["A", "-a", "a-", "a_b", "a b", "a/b"];

fn integer(base: &Value, field: &str, least: i64, most: i64) -> Vec<Row> {
    let mut rows = vec![
        refused(base, field, json!(least - 1), &at_least(least)),
        refused(base, field, json!(least - 1_000_000), &at_least(least)),
        refused(base, field, json!(most + 1), &at_most(most)),
        refused(base, field, json!(i64::MAX), &at_most(most)),
    ];
    for bad in [
        json!("30"),
        json!("30s"),
        json!(1.5),
        json!(true),
        json!([]),
        json!({}),
    ] {
        rows.push(typed(base, field, bad, "integer"));
    }
    rows
}

fn at_least(least: i64) -> String {
    format!("should be greater than or equal to {least}")
}

fn at_most(most: i64) -> String {
    format!("should be less than or equal to {most}")
}

fn choice(base: &Value, field: &str, near: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for bad in ["", near, "Nonsense"] {
        rows.push(refused(base, field, json!(bad), "supported values: "));
    }
    for bad in [json!(1), json!(true), json!([]), json!({})] {
        rows.push(typed(base, field, bad, "string"));
    }
    rows
}

fn text(base: &Value, field: &str, most: usize, bad: &[&str]) -> Vec<Row> {
    // Long enough, and good in every other way.
    let long = format!("/{}", "a".repeat(most));
    let long = match field.to_lowercase().contains("path") {
        true => long,
        false => long.replace('/', "a"),
    };
    let mut rows = vec![
        refused(base, field, json!(""), "should be at least"),
        refused(base, field, json!(long), "may not be more than"),
    ];
    for bad in bad {
        rows.push(refused(base, field, json!(bad), "should match"));
    }
    for bad in [json!(1), json!(true), json!([]), json!({})] {
        rows.push(typed(base, field, bad, "string"));
    }
    rows
}

fn containers(base: &Value) -> Vec<Row> {
    let field = "spec.containers";
    let many: Vec<String> = (0..65).map(|number| format!("c{number}")).collect();
    let mut rows = vec![refused(
        base,
        field,
        json!(many),
        "must have at most 64 items",
    )];
    for bad in [json!("app"), json!(1), json!({})] {
        rows.push(typed(base, field, bad, "array"));
    }
    for bad in [json!(1), json!(true), json!({})] {
        let mut row = typed(base, field, json!([bad]), "string");
        row.field = "spec.containers[0]".to_owned();
        rows.push(row);
    }
    rows
}

/// What CEL says.
fn rules(hook: &Value, certificate: &Value) -> Vec<Row> {
    let rule = |base: &Value, at: &str, changes: &[(&str, Value)], message: &str| {
        let mut object = base.clone();
        for (field, value) in changes {
            put(&mut object, field, value.clone());
        }
        Row {
            attempt: Attempt::Create(object),
            field: at.to_owned(),
            message: message.to_owned(),
        }
    };
    let change = |kind: &str, name: &str, at: &str, field: &str, value: &str| {
        let mut object = json!({"kind": kind, "metadata": {"name": name}});
        put(&mut object, field, json!(value));
        Row {
            attempt: Attempt::Change(object),
            field: at.to_owned(),
            message: "is immutable".to_owned(),
        }
    };
    let null = Value::Null;
    let mut rows = vec![
        rule(
            hook,
            "spec",
            &[
                ("spec.complete", null.clone()),
                ("spec.shutdown", null.clone()),
            ],
            "at least one of complete and shutdown is needed",
        ),
        rule(
            hook,
            "spec",
            &[("spec.shutdown.env.url", json!("COMPLETE_URL"))],
            "must differ from spec.complete.env.url",
        ),
        rule(
            hook,
            "spec.shutdown.callOut",
            &[("spec.shutdown.callOut.service", null)],
            "service is needed with mode Service",
        ),
        rule(
            certificate,
            "spec",
            &[("spec.renewBeforeSeconds", json!(3600))],
            "must be less than spec.durationSeconds",
        ),
        rule(
            certificate,
            "<nil>",
            &[("metadata.name", json!("a".repeat(251)))],
            "at most 250 characters",
        ),
        rule(
            hook,
            "<nil>",
            &[("metadata.name", json!("a".repeat(64)))],
            "at most 63 characters",
        ),
        change(
            "KrakeHook",
            "hook",
            "spec.workload",
            "spec.workload.name",
            "other",
        ),
        change(
            "HookCertificate",
            "certificate",
            "spec",
            "spec.hook.name",
            "other",
        ),
    ];
    // Nothing but the kind and this is wrong with them.
    let pod = [
        ("spec.workload.apiVersion", json!("v1")),
        ("spec.workload.kind", json!("Pod")),
        ("spec.containers", json!([])),
        ("spec.complete.env", Value::Null),
        ("spec.complete.certMountPath", Value::Null),
        ("spec.shutdown", Value::Null),
    ];
    let daemon_set = [("spec.workload.kind", json!("DaemonSet"))];
    for kind in [&pod[..], &daemon_set] {
        for (field, value, message) in [
            ("spec.state", "Stopped", "cannot be stopped"),
            ("spec.complete.action", "ScaleToZero", "cannot be scaled"),
        ] {
            let mut changes = kind.to_vec();
            changes.push((field, json!(value)));
            rows.push(rule(hook, "spec", &changes, message));
        }
    }
    rows.push(rule(
        hook,
        "spec.injection",
        &[("spec.injection", json!("Pod"))],
        "supports Template only",
    ));
    rows.push(rule(
        hook,
        "spec",
        &[
            ("spec.complete.shutdownFirst", json!(true)),
            ("spec.shutdown", Value::Null),
        ],
        "shutdownFirst needs spec.shutdown",
    ));
    for part in ["complete", "shutdown"] {
        rows.push(rule(
            hook,
            &format!("spec.{part}.acknowledgements"),
            &[(
                &format!("spec.{part}.acknowledgements.policy"),
                json!("AtLeast"),
            )],
            "AtLeast needs acknowledgements.count",
        ));
        rows.push(rule(
            hook,
            &format!("spec.{part}.env"),
            &[(&format!("spec.{part}.env.url"), json!("TOKEN"))],
            "env.token and env.url must differ",
        ));
        rows.push(rule(
            hook,
            &format!("spec.{part}.acknowledgements"),
            &[(&format!("spec.{part}.acknowledgements.count"), json!(2))],
            "count goes with policy AtLeast alone",
        ));
    }
    rows
}

fn refused(base: &Value, field: &str, value: Value, message: &str) -> Row {
    let mut object = base.clone();
    put(&mut object, field, value);
    Row {
        attempt: Attempt::Create(object),
        field: field.to_owned(),
        message: message.to_owned(),
    }
}

fn typed(base: &Value, field: &str, value: Value, wanted: &str) -> Row {
    refused(base, field, value, &format!("must be of type {wanted}"))
}

fn unknown(base: &Value, field: &str) -> Row {
    let field = format!("{field}.nonsense");
    refused(base, &field, json!("x"), "unknown field")
}

fn missing(base: &Value, field: &str) -> Row {
    let mut object = base.clone();
    let (parent, name) = field.rsplit_once('.').unwrap_or(("", field));
    let parent = format!("/{}", parent.replace('.', "/"));
    let parent = object.pointer_mut(parent.trim_end_matches('/'));
    let parent = parent.and_then(Value::as_object_mut);
    parent.expect("an object of the base").remove(name);
    Row {
        attempt: Attempt::Create(object),
        field: field.to_owned(),
        message: "Required value".to_owned(),
    }
}

/// `null` takes the field away.
fn put(object: &mut Value, field: &str, value: Value) {
    let mut place = object;
    let names: Vec<&str> = field.split('.').collect();
    let (last, above) = names.split_last().expect("a field");
    for name in above {
        place = &mut place[*name];
    }
    if value.is_null() {
        place.as_object_mut().expect("an object").remove(*last);
    } else {
        place[*last] = value;
    }
}

impl Attempt {
    /// For the report of a failure: the spec in short.
    pub fn what(&self) -> String {
        match self {
            Self::Create(object) => format!("create {}", object["spec"]),
            Self::Change(object) => format!("change {}", object["spec"]),
        }
    }
}
