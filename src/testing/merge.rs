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

/// The managed fields of what somebody wrote.
pub fn managed(written: &Value) -> Value {
    let mut fields = json!({});
    let metadata = of_fields(
        &written["metadata"],
        &["labels", "annotations", "finalizers"],
    );
    if metadata != json!({}) {
        fields["f:metadata"] = metadata;
    }
    if written["spec"].is_object() {
        fields["f:spec"] = of(&written["spec"], "spec");
    }
    fields
}

fn of_fields(object: &Value, names: &[&str]) -> Value {
    let mut fields = json!({});
    for name in names.iter().filter(|name| !object[**name].is_null()) {
        fields[format!("f:{name}")] = of(&object[*name], name);
    }
    fields
}

fn of(value: &Value, name: &str) -> Value {
    let mut fields = json!({});
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                fields[format!("f:{name}")] = of(value, name);
            }
        }
        Value::Array(entries) => {
            let key = KEYS.iter().find(|(list, _)| *list == name);
            for entry in entries {
                match key {
                    Some((_, key)) => {
                        let place = format!("k:{}", json!({*key: entry[*key]}));
                        fields[place] = of(entry, "");
                    }
                    None if name == "finalizers" => fields[format!("v:{entry}")] = json!({}),
                    None => {}
                }
            }
        }
        _ => {}
    }
    fields
}

/// Takes out empty lists and maps below a list or map, as the API server does.
pub fn without_empty(value: &mut Value) {
    let empty = |value: &Value| {
        value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty)
    };
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(without_empty);
            // A volume may have an empty source, which says something.
            fields.retain(|name, value| name == "emptyDir" || !empty(value));
        }
        Value::Array(entries) => entries.iter_mut().for_each(without_empty),
        _ => {}
    }
}
