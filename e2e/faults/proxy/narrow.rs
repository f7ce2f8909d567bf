//! Several operators side by side on one cluster: each sees one namespace.
//!
//! The operator watches every namespace, so two of them would do each other's work. Its proxy turns
//! each list and watch of the whole cluster into one of the operator's own namespace, and takes the
//! `HookGuard`s of others, which have no namespace, out of the answers. The Lease it leads by is in its
//! own namespace too, so that each leads. The operator cannot tell.

use hyper::Uri;
use serde_json::Value;

use super::call::after_version;
use crate::cluster::SYSTEM;

/// Kinds without namespace.
const CLUSTER_WIDE: [&str; 2] = ["nodes", "hookguards"];
/// The one whose answers are filtered.
const GUARDS: &str = "hookguards";

/// The path and query that are sent on.
pub fn narrowed(uri: &Uri, namespace: &str) -> String {
    let path = uri.path();
    let query = uri.query().unwrap_or_default();
    let as_it_is = || {
        uri.path_and_query()
            .map_or_else(|| path.to_owned(), ToString::to_string)
    };
    let Some(resource) = after_version(path) else {
        return as_it_is();
    };
    let leases = format!("namespaces/{SYSTEM}/leases");
    if let Some(rest) = resource.strip_prefix(&leases) {
        let before = &path[..path.len() - resource.len()];
        return format!(
            "{before}namespaces/{namespace}/leases{rest}{}",
            question(query)
        );
    }
    if resource == "namespaces" {
        let own = format!("fieldSelector=metadata.name%3D{namespace}");
        return match query {
            "" => format!("{path}?{own}"),
            query => format!("{path}?{query}&{own}"),
        };
    }
    if resource.contains('/') || CLUSTER_WIDE.contains(&resource) {
        return as_it_is();
    }
    let before = &path[..path.len() - resource.len()];
    format!(
        "{before}namespaces/{namespace}/{resource}{}",
        question(query)
    )
}

fn question(query: &str) -> String {
    match query {
        "" => String::new(),
        query => format!("?{query}"),
    }
}

/// Whether the answer to this has objects of others in it.
pub fn has_others(resource: &str, verb: &str) -> bool {
    resource == GUARDS && matches!(verb, "list" | "watch")
}

/// A list without the objects of others.
pub fn own_list(body: &[u8], namespace: &str) -> Option<Vec<u8>> {
    let mut list: Value = serde_json::from_slice(body).ok()?;
    list.get_mut("items")?
        .as_array_mut()?
        .retain(|item| is_own(item, namespace));
    serde_json::to_vec(&list).ok()
}

/// Whether an event of a watch is about an own object.
pub fn is_own_event(line: &[u8], namespace: &str) -> bool {
    serde_json::from_slice::<Value>(line).map_or(true, |event| is_own(&event["object"], namespace))
}

/// Metadata alone says nothing about the hook it is for: it passes.
fn is_own(guard: &Value, namespace: &str) -> bool {
    match guard
        .pointer("/spec/hook/namespace")
        .and_then(Value::as_str)
    {
        Some(own) => own == namespace,
        None => true,
    }
}
