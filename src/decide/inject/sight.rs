//! What a container sees of its environment. Kubelet goes through the list from the top: `$(NAME)` is
//! what stands before it, or stays as it is written; and of several entries of one name the last one
//! counts.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::EnvVar;
use serde_json::Value;

/// Each variable as the container sees it; where it comes from elsewhere, from where.
pub(super) fn sight(env: &[Value]) -> BTreeMap<String, String> {
    let mut seen = BTreeMap::new();
    for entry in env {
        let Some(name) = entry["name"].as_str() else {
            continue;
        };
        let value = match entry["valueFrom"].as_object() {
            Some(source) => source_in_words(source),
            None => expand(entry["value"].as_str().unwrap_or_default(), |name| {
                seen.get(name).cloned()
            }),
        };
        seen.insert(name.to_owned(), value);
    }
    seen
}

/// Whether a container sees everything that these entries say.
pub(super) fn shows(env: &[Value], wanted: &[Value]) -> bool {
    let seen = sight(env);
    let mut wanted = sight(wanted).into_iter();
    wanted.all(|(name, value)| seen.get(&name) == Some(&value))
}

/// The first variable that refers to another one of `known` that does not stand before it.
pub(super) fn out_of_order<'a>(env: &'a [EnvVar], known: &BTreeSet<&str>) -> Option<&'a str> {
    let mut before = BTreeSet::new();
    for entry in env {
        let mut lacks = false;
        expand(entry.value.as_deref().unwrap_or_default(), |name| {
            lacks |= known.contains(name) && !before.contains(name);
            None
        });
        if lacks {
            return Some(&entry.name);
        }
        before.insert(entry.name.as_str());
    }
    None
}

fn source_in_words(source: &serde_json::Map<String, Value>) -> String {
    let mut source = source.clone();
    for reference in source.values_mut().filter_map(Value::as_object_mut) {
        // Whether it may be missing says nothing about what it is.
        reference.remove("optional");
    }
    format!("<{}>", Value::Object(source))
}

/// As Kubernetes does it: `$$` is a dollar sign, and what is not known stays as it is written.
fn expand(text: &str, mut value_of: impl FnMut(&str) -> Option<String>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let name = after
            .strip_prefix('(')
            .and_then(|name| name.split_once(')'));
        rest = if let Some((name, behind)) = name {
            expanded.push_str(&value_of(name).unwrap_or_else(|| format!("$({name})")));
            behind
        } else {
            expanded.push('$');
            after.strip_prefix('$').unwrap_or(after)
        };
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_variable_is_what_stands_before_it_and_the_last_of_its_name_counts() {
        let env = |entries: &[(&str, &str)]| -> Vec<Value> {
            let entries = entries.iter();
            let entry = |(name, value): &(&str, &str)| json!({"name": name, "value": value});
            entries.map(entry).collect()
        };
        for (entries, expected) in [
            (&[("A", "a"), ("URL", "$(A)/x")][..], "a/x"),
            (&[("URL", "$(A)/x"), ("A", "a")], "$(A)/x"),
            (&[("A", "a"), ("A", "b"), ("URL", "$(A)")], "b"),
            (&[("A", "a"), ("URL", "$(A)"), ("A", "b")], "a"),
            (&[("A", "a"), ("URL", "$(A)"), ("URL", "mine")], "mine"),
            (&[("A", "a"), ("URL", "$$(A)$(A)")], "$(A)a"),
            (&[("A", "$(B)"), ("B", "b"), ("URL", "$(A)$(")], "$(B)$("),
            (&[("URL", "$")], "$"),
        ] {
            let seen = sight(&env(entries));
            assert_eq!(seen["URL"], expected, "{entries:?}");
        }
    }

    #[test]
    fn where_a_variable_comes_from_is_seen_whatever_the_api_server_adds() {
        let from = |key: &str, more: Value| {
            let mut source = json!({"name": "object", "key": key});
            for (field, value) in more.as_object().into_iter().flatten() {
                source[field] = value.clone();
            }
            json!({"name": "TOKEN", "valueFrom": {"secretKeyRef": source}})
        };
        let wanted = [from("token", json!({}))];
        assert!(shows(&[from("token", json!({"optional": true}))], &wanted));
        assert!(!shows(&[from("other", json!({}))], &wanted));
        assert!(!shows(
            &[json!({"name": "TOKEN", "value": "mine"})],
            &wanted
        ));
        assert!(!shows(&[], &wanted));
    }

    #[test]
    fn what_stands_too_late_is_named() {
        let known = BTreeSet::from(["UID"]);
        let env = |names: &[&str]| -> Vec<EnvVar> {
            let entry = |name: &&str| EnvVar {
                name: (*name).to_owned(),
                value: (*name == "URL").then(|| "$(ELSE)/$(UID)".to_owned()),
                ..EnvVar::default()
            };
            names.iter().map(entry).collect()
        };
        assert_eq!(out_of_order(&env(&["UID", "URL"]), &known), None);
        assert_eq!(out_of_order(&env(&["URL", "UID"]), &known), Some("URL"));
        assert_eq!(out_of_order(&env(&["UID"]), &known), None);
    }
}
