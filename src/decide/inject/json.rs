//! A template as JSON: whether it says something, and how something is taken out.

use serde_json::Value;

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn has_all(have: &Value, want: &[Value]) -> bool {
    want.iter()
        .all(|entry| list(have).iter().any(|other| covers(other, entry)))
}

/// Whether `have` says everything that `want` says; the API server adds defaults of its own.
pub(super) fn covers(have: &Value, want: &Value) -> bool {
    match (have, want) {
        (Value::Object(have), Value::Object(want)) => want
            .iter()
            .all(|(key, value)| have.get(key).is_some_and(|other| covers(other, value))),
        (Value::Array(have), Value::Array(want)) => {
            have.len() == want.len() && have.iter().zip(want).all(|(h, w)| covers(h, w))
        }
        _ => have == want,
    }
}

pub(super) fn strip_map(value: &mut Value, path: &[&str], key: &str) {
    let [parent, leaf] = path else { return };
    let Some(outer) = value.get_mut(*parent).and_then(Value::as_object_mut) else {
        return;
    };
    if let Some(map) = outer.get_mut(*leaf).and_then(Value::as_object_mut) {
        map.remove(key);
        if map.is_empty() {
            outer.remove(*leaf);
        }
    }
}

pub(super) fn strip_list(value: &mut Value, key: &str, ours: impl Fn(&Value) -> bool) {
    if let Some(entries) = value.get_mut(key).and_then(Value::as_array_mut) {
        entries.retain(|entry| !ours(entry));
        if entries.is_empty()
            && let Some(fields) = value.as_object_mut()
        {
            fields.remove(key);
        }
    }
}
