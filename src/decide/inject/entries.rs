//! Our entries: who gets them, and what they are.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Container;
use serde_json::{Value, json};

use super::{Conflict, HookIdentity};
use crate::api::condition::Reason;
use crate::api::krake_hook::EnvNames;
use crate::api::{HookKind, KrakeHookSpec, names};
use crate::decide::seen::Settings;
use crate::decide::workload::Workload;

pub(super) fn chosen(
    spec: &KrakeHookSpec,
    workload: &Workload,
    app: &[Container],
    init: &[Container],
) -> Result<(Vec<String>, Vec<String>), Conflict> {
    let all = |list: &[Container]| list.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
    if spec.containers.is_empty() {
        return Ok((all(app), Vec::new()));
    }
    let (app, init) = (all(app), all(init));
    if let Some(missing) = spec
        .containers
        .iter()
        .find(|name| !app.contains(name) && !init.contains(name))
    {
        return Err(Conflict {
            reason: Reason::ContainerNotFound,
            message: format!(
                "{workload}: no container {missing}; it has {}. Correct the hook's spec.containers",
                [app, init].concat().join(", ")
            ),
        });
    }
    let only = |list: Vec<String>| {
        list.into_iter()
            .filter(|name| spec.containers.contains(name))
            .collect()
    };
    Ok((only(app), only(init)))
}

/// Names of token and URL variable of one kind of hook, with the configuration's defaults.
pub(super) fn env_names(
    kind: HookKind,
    spec: &KrakeHookSpec,
    settings: &Settings,
) -> (String, String) {
    let (set, token, url): (Option<&EnvNames>, _, _) = match kind {
        HookKind::Complete => {
            let env = &settings.hooks.complete.env;
            let set = spec.complete.as_ref().and_then(|c| c.env.as_ref());
            (set, &env.token, &env.url)
        }
        HookKind::Shutdown => {
            let env = &settings.hooks.shutdown.env;
            let set = spec.shutdown.as_ref().and_then(|s| s.env.as_ref());
            (set, &env.token, &env.url)
        }
    };
    let pick = |own: Option<&String>, default: &String| own.unwrap_or(default).clone();
    (
        pick(set.and_then(|e| e.token.as_ref()), token),
        pick(set.and_then(|e| e.url.as_ref()), url),
    )
}

pub(super) fn kinds(spec: &KrakeHookSpec) -> impl Iterator<Item = HookKind> + '_ {
    [HookKind::Complete, HookKind::Shutdown]
        .into_iter()
        .filter(|kind| spec.enables(*kind))
}

pub(super) fn env(spec: &KrakeHookSpec, settings: &Settings, object: &str) -> Vec<Value> {
    let mut tokens = BTreeSet::new();
    let mut entries = Vec::new();
    for kind in kinds(spec) {
        let (token, _) = env_names(kind, spec, settings);
        if tokens.insert(token.clone()) {
            entries.push(json!({"name": token, "valueFrom": {
                "secretKeyRef": {"name": object, "key": names::TOKEN}}}));
        }
    }
    entries.push(json!({"name": names::POD_UID_ENV, "valueFrom": {
        "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}}));
    for kind in kinds(spec) {
        let (_, url) = env_names(kind, spec, settings);
        let (endpoint, key) = match kind {
            HookKind::Complete => (names::COMPLETE_ENDPOINT_ENV, names::COMPLETE_URL_KEY),
            HookKind::Shutdown => (names::SHUTDOWN_ENDPOINT_ENV, names::SHUTDOWN_URL_KEY),
        };
        entries.push(json!({"name": endpoint, "valueFrom": {
            "configMapKeyRef": {"name": object, "key": key}}}));
        // Kubelet expands what stands before it in the list, so the order is part of the meaning.
        entries.push(json!({
            "name": url,
            "value": format!("$({endpoint})/$({})", names::POD_UID_ENV),
        }));
    }
    entries
}

pub(super) fn mount_paths(spec: &KrakeHookSpec, settings: &Settings) -> BTreeSet<String> {
    if !settings.tls {
        return BTreeSet::new();
    }
    let complete = spec.complete.as_ref().map(|c| {
        c.cert_mount_path
            .clone()
            .unwrap_or_else(|| settings.hooks.complete.cert_mount_path.clone())
    });
    let shutdown = spec.shutdown.as_ref().map(|s| {
        s.cert_mount_path
            .clone()
            .unwrap_or_else(|| settings.hooks.shutdown.cert_mount_path.clone())
    });
    complete.into_iter().chain(shutdown).collect()
}

/// 0444: the seed's curl may not run as root.
pub(super) fn volume(hook: HookIdentity<'_>, object: &str) -> Value {
    let items = |keys: &[&str]| -> Vec<Value> {
        keys.iter()
            .map(|key| json!({"key": key, "path": key}))
            .collect()
    };
    json!({"name": names::CERT_VOLUME, "projected": {"defaultMode": 0o444, "sources": [
        {"configMap": {"name": object, "items": items(&[names::CA_BUNDLE])}},
        {"secret": {
            "name": names::tls_secret(hook.name, hook.uid),
            "items": items(&[names::CERT, names::KEY, names::BUNDLE]),
        }},
    ]}})
}
