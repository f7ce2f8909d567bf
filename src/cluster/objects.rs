//! The objects we make, as JSON: hand-shaped, so that server-side apply owns exactly these fields
//! and never a null.

use serde_json::{Map, Value, json};

use crate::api::{KrakeHook, KrakeHookStatus, names};
use crate::decide::Seen;
use crate::decide::seen::Dependent;

const API: &str = "hooks.krake.dev/v1alpha1";

/// The guard of a hook.
pub fn guard(seen: &Seen) -> Value {
    let workload = &seen.hook.spec.workload;
    json!({
        "apiVersion": API,
        "kind": "HookGuard",
        "metadata": {
            "name": seen.hook_uid(),
            "labels": {names::MANAGED_BY_LABEL: names::MANAGED_BY},
            "finalizers": [names::GUARD_FINALIZER],
        },
        "spec": {
            "hook": {
                "namespace": seen.namespace(),
                "name": seen.hook_name(),
                "uid": seen.hook_uid(),
            },
            "workload": {
                "apiVersion": workload.api_version,
                "kind": workload.kind,
                "name": workload.name,
            },
        },
    })
}

/// The ownerReference to a hook's guard. It controls nothing, and blocks no deletion.
pub fn guard_reference(hook_uid: &str, guard_uid: &str) -> Value {
    json!({"apiVersion": API, "kind": "HookGuard", "name": hook_uid, "uid": guard_uid})
}

/// The hook's ConfigMap.
pub fn config_map(seen: &Seen, guard_uid: &str, entries: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": names::of_hook(seen.hook_name(), seen.hook_uid()),
            "namespace": seen.namespace(),
            "labels": {
                names::MANAGED_BY_LABEL: names::MANAGED_BY,
                names::OWNER_LABEL: seen.hook_uid(),
            },
            "ownerReferences": [guard_reference(seen.hook_uid(), guard_uid)],
        },
        "data": entries,
    })
}

/// The hook's certificate: only what is ours of it, so that what a user sets beside it stays.
pub fn certificate(seen: &Seen, guard_uid: &str) -> Value {
    json!({
        "apiVersion": API,
        "kind": "HookCertificate",
        "metadata": {
            "name": names::of_hook(seen.hook_name(), seen.hook_uid()),
            "namespace": seen.namespace(),
            "labels": {
                names::MANAGED_BY_LABEL: names::MANAGED_BY,
                names::OWNER_LABEL: seen.hook_uid(),
            },
            "ownerReferences": [guard_reference(seen.hook_uid(), guard_uid)],
        },
        "spec": {
            "hook": {"name": seen.hook_name()},
            "secretName": names::tls_secret(seen.hook_name(), seen.hook_uid()),
        },
    })
}

/// The canary of a workload. It is an ordinary dependent, blocks nothing, and holds nothing.
pub fn canary(seen: &Seen, workload_uid: &str) -> Value {
    let workload = &seen.hook.spec.workload;
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": names::canary(seen.hook_name(), workload_uid),
            "namespace": seen.namespace(),
            "labels": {
                names::MANAGED_BY_LABEL: names::MANAGED_BY,
                names::CANARY_LABEL: seen.hook_uid(),
            },
            "finalizers": [names::CANARY_FINALIZER],
            "ownerReferences": [{
                "apiVersion": workload.api_version,
                "kind": workload.kind,
                "name": workload.name,
                "uid": workload_uid,
            }],
        },
    })
}

/// The guard on what a workload made, or an empty apply that takes it off.
///
/// The hook's label comes with it: what was not injected is found by that, too, and told by the
/// watches, also when its owner is gone.
pub fn guarded(namespace: &str, dependent: &Dependent, by: Option<(&str, Value)>) -> Value {
    let mut patch = json!({
        "apiVersion": dependent.kind.api_version(),
        "kind": dependent.kind.as_str(),
        "metadata": {"name": dependent.name, "namespace": namespace, "uid": dependent.uid},
    });
    if let Some((hook, reference)) = by {
        patch["metadata"]["ownerReferences"] = json!([reference]);
        patch["metadata"]["labels"] = json!({names::HOOK_LABEL: hook});
    }
    patch
}

/// Our half of a hook's status. The callback's half, `acknowledgements` and `rejected`, is not in it; the
/// resourceVersion makes the write fail if anybody, the callback too, was faster.
pub fn status(hook: &KrakeHook, status: &KrakeHookStatus) -> Value {
    let mut fields = match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    fields.remove("acknowledgements");
    fields.remove("rejected");
    json!({
        "apiVersion": API,
        "kind": "KrakeHook",
        "metadata": {
            "name": hook.metadata.name,
            "namespace": hook.metadata.namespace,
            "resourceVersion": hook.metadata.resource_version,
        },
        "status": fields,
    })
}
