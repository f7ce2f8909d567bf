//! Server-side apply in small: what the user wrote, with what our field manager applied on top.

use serde_json::{Value, json};

/// Lists whose entries are told apart by a key of their own; all other lists are one value.
const KEYS: &[(&str, &str)] = &[
    ("containers", "name"),
    ("initContainers", "name"),
    ("env", "name"),
    ("volumes", "name"),
    ("volumeMounts", "mountPath"),
];

/// Lays what we applied over what the user wrote.
pub fn merge(base: &mut Value, applied: &Value) {
    let (Some(fields), Some(applied)) = (base.as_object_mut(), applied.as_object()) else {
        base.clone_from(applied);
        return;
    };
    for (field, value) in applied {
        let key = KEYS.iter().find(|(list, _)| list == field);
        match (fields.get_mut(field), key) {
            (Some(Value::Array(entries)), Some((_, key))) => {
                for entry in value.as_array().into_iter().flatten() {
                    match entries.iter_mut().find(|e| e[*key] == entry[*key]) {
                        Some(same) => merge(same, entry),
                        None => entries.push(entry.clone()),
                    }
                }
            }
            (Some(old), _) => merge(old, value),
            (None, _) => {
                fields.insert(field.clone(), value.clone());
            }
        }
    }
}

/// The managed fields of what we applied, as far as anybody asks: which env of which container.
pub fn managed(applied: &Value) -> Value {
    let pod = &applied["spec"]["template"]["spec"];
    if pod.is_null() && applied["metadata"]["finalizers"].is_null() {
        return json!({});
    }
    let mut groups = json!({});
    for group in ["containers", "initContainers"] {
        for container in pod[group].as_array().into_iter().flatten() {
            let mut env = json!({});
            for entry in container["env"].as_array().into_iter().flatten() {
                env[key(&entry["name"])] = json!({});
            }
            groups[format!("f:{group}")][key(&container["name"])]["f:env"] = env;
        }
    }
    json!({"f:metadata": {"f:finalizers": {}}, "f:spec": {"f:template": {"f:spec": groups}}})
}

fn key(name: &Value) -> String {
    format!("k:{}", json!({"name": name}))
}
