//! What a subject has come to, without what differs from run to run: uids, times, numbers. Two runs
//! have ended alike if these are equal.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};

use krake_hooks::api::names;

use crate::subject::{Subject, phase};

/// What is of no interest, wherever it stands.
const DROPPED: [&str; 21] = [
    "managedFields",
    "resourceVersion",
    "uid",
    "generation",
    "observedGeneration",
    "creationTimestamp",
    "deletionTimestamp",
    "lastTransitionTime",
    "message",
    "at",
    "openedAt",
    "deadline",
    "leader",
    "lastAttempt",
    "serialNumber",
    "notBefore",
    "notAfter",
    "renewalTime",
    "issuer",
    "certificate",
    "secretUid",
];

/// Length of a uid.
const UID: usize = 36;

/// The end state of a subject, line by line.
pub async fn of(subject: &Subject) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    let hook = subject.hook().await?;
    let mut uids = BTreeMap::new();
    if let Some(hook) = &hook {
        uids.insert(hook.uid().unwrap_or_default(), "HOOK".to_owned());
        let status = hook.status.as_ref();
        let workload = status.and_then(|status| status.workload.as_ref());
        uids.extend(workload.map(|workload| (workload.uid.clone(), "WORKLOAD".to_owned())));
        let request = status.and_then(|status| status.workload_request());
        uids.extend(request.map(|request| (request.id.clone(), "REQUEST".to_owned())));
        for pod in request.iter().flat_map(|request| &request.pods) {
            uids.insert(pod.clone(), "POD".to_owned());
        }
    }
    let workload = subject.workload().await?;
    if let Some(workload) = &workload {
        uids.insert(workload.uid().unwrap_or_default(), "WORKLOAD".to_owned());
    }
    for pod in subject.pods().await? {
        uids.insert(pod.uid().unwrap_or_default(), "POD".to_owned());
        lines.push(format!("Pod {}", pod_line(&pod)));
    }
    for guard in subject.guards().await? {
        uids.insert(guard.uid().unwrap_or_default(), "GUARD".to_owned());
        uids.insert(guard.name_any(), "HOOK".to_owned());
    }
    for set in subject.replica_sets().await? {
        let hash = set
            .labels()
            .get("pod-template-hash")
            .cloned()
            .unwrap_or_default();
        uids.insert(hash, "TEMPLATE".to_owned());
        uids.insert(set.uid().unwrap_or_default(), "SET".to_owned());
        lines.push(format!(
            "ReplicaSet of {:?}, {:?} replicas, labelled {}",
            set.owner_references()
                .iter()
                .map(|owner| owner.kind.clone())
                .collect::<Vec<_>>(),
            set.spec.as_ref().and_then(|spec| spec.replicas),
            set.labels().contains_key(names::HOOK_LABEL),
        ));
    }
    if let Some(hook) = hook {
        let mut hook = json!(hook);
        hook["status"]["token"] = Value::Null;
        // The name stands in the template.
        if let Some(hash) = hook.pointer_mut("/status/completion/templateHash") {
            *hash = json!(hash.as_str().is_some_and(|hash| !hash.is_empty()));
        }
        lines.push(format!("KrakeHook {}", plain(hook)));
    }
    if let Some(workload) = workload {
        let mut workload = json!(workload);
        workload["status"] = Value::Null;
        if let Some(annotations) = workload["metadata"]["annotations"].as_object_mut() {
            annotations.remove("deployment.kubernetes.io/revision");
        }
        lines.push(format!("Deployment {}", plain(workload)));
    }
    for (kind, mut object) in subject.provided().await? {
        if kind == "Secret" {
            object["data"] = keys(&object["data"]);
        }
        lines.push(format!("{kind} {}", plain(object)));
    }
    let mut lines: Vec<_> = lines
        .iter()
        .map(|line| rename(line, subject, &uids))
        .collect();
    lines.sort();
    Ok(lines)
}

/// What is in one and not in the other.
pub fn difference(wanted: &[String], found: &[String]) -> Vec<String> {
    let missing = wanted.iter().filter(|line| !found.contains(line));
    let extra = found.iter().filter(|line| !wanted.contains(line));
    missing
        .map(|line| format!("missing: {line}"))
        .chain(extra.map(|line| format!("instead: {line}")))
        .collect()
}

fn pod_line(pod: &Pod) -> String {
    format!(
        "{}, going {}, injected {}",
        phase(pod),
        pod.metadata.deletion_timestamp.is_some(),
        pod.annotations().contains_key(names::STAMP_ANNOTATION)
    )
}

fn keys(map: &Value) -> Value {
    json!(map.as_object().map(|map| map.keys().collect::<Vec<_>>()))
}

fn plain(mut value: Value) -> String {
    drop_all(&mut value);
    value.to_string()
}

fn drop_all(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| !DROPPED.contains(&key.as_str()) && !value.is_null());
            map.values_mut().for_each(drop_all);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_all),
        _ => {}
    }
}

fn rename(line: &str, subject: &Subject, uids: &BTreeMap<String, String>) -> String {
    let mut line = line.to_owned();
    for (uid, word) in uids.iter().filter(|(uid, _)| uid.len() >= 8) {
        line = line.replace(uid.as_str(), word);
        // Names have eight digits of a uid; a hash is none.
        if uid.len() == UID {
            let short: String = uid
                .chars()
                .filter(char::is_ascii_hexdigit)
                .take(8)
                .collect();
            line = line.replace(&short, word);
        }
    }
    let port = subject.lane.operator.order.port.to_string();
    let mut line = line
        .replace(&subject.name, "NAME")
        .replace(&subject.lane.namespace, "NAMESPACE")
        .replace(&port, "PORT");
    // The stamp is a hash of uids.
    while let Some(start) = line.find(&format!("\"{}\":\"", names::STAMP_ANNOTATION)) {
        let end = line[start..]
            .find(['}', ','])
            .map_or(line.len(), |end| start + end);
        line.replace_range(start..end, "\"stamp\":0");
    }
    line
}
