//! Objects with our finalizers or labels that belong to no hook, because they were copied or
//! restored without it.
//!
//! Whoever copies a live manifest copies our finalizer with it, and a backup brings canaries back
//! whose hook has another uid. Nobody would ever take those finalizers off. They are let go, with an
//! Event, once it is sure that no hook and no guard is concerned with them:
//!
//! | what | whose it is | otherwise |
//! |---|---|---|
//! | a workload with our finalizer | any hook of its namespace that names it, or cannot be read | its finalizer goes, and what was injected into it, unless it is being deleted |
//! | a workload with the label of a completed one | the same | the label goes |
//! | a canary | the hook of that uid in its namespace | it goes |
//!
//! A hook and its workload may be made in any order, so there is some time before anything is done.
//! It is shorter where a deletion waits; what is let go again and again is let go ever more slowly,
//! for somebody keeps putting it back.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::inject;
use super::seen::{Effect, Notice, has_finalizer, is_released};
use super::workload::Workload;
use crate::api::{WorkloadKind, names};

/// A deletion waits.
const DELETING: SignedDuration = SignedDuration::from_secs(5);
/// Nobody waits.
const LIVING: SignedDuration = SignedDuration::from_secs(10);
/// The longest time between two releases of one object.
const MOST: SignedDuration = SignedDuration::from_secs(600);

/// How long an object has to be without a hook before it is released, by how often it was released
/// before.
pub fn grace(deleting: bool, released: u32) -> SignedDuration {
    let first = if deleting { DELETING } else { LIVING };
    first.saturating_mul(1 << released.min(8)).min(MOST)
}

/// Whether a hook, read as JSON, may be concerned with the workload of this kind and name in its
/// namespace. One whose spec says nothing of a workload is.
pub fn concerns(hook: &ObjectMeta, data: &Value, kind: WorkloadKind, name: &str) -> bool {
    let word = |field: &str| {
        let value = data.pointer(&format!("/spec/workload/{field}"));
        value.and_then(Value::as_str)
    };
    let other = |word: Option<&str>, ours: &str| word.is_some_and(|word| word != ours);
    !is_released(hook) && !other(word("kind"), kind.traits().name) && !other(word("name"), name)
}

/// What is to be done to a workload that is nobody's. Nothing is left to do when it carries nothing of
/// ours; one that is being deleted only loses the finalizer.
pub fn release(workload: &Workload) -> Option<Effect> {
    let meta = &workload.metadata;
    if meta.deletion_timestamp.is_none() {
        return inject::is_touched(workload).then(|| inject::eject(workload));
    }
    has_finalizer(meta, names::SHUTDOWN_FINALIZER).then(|| Effect::ReleaseWorkload {
        uid: meta.uid.clone().unwrap_or_default(),
    })
}

/// What people are told about a workload that was let go.
pub fn released(workload: &Workload) -> Notice {
    let what = match workload.metadata.deletion_timestamp {
        None => "the finalizer and what had been injected were taken off",
        Some(_) => "the finalizer was taken off, and its deletion goes on",
    };
    notice(format!(
        "{workload} carried the finalizer {}, and no KrakeHook of its namespace names it: {what}. It came with a copied or restored manifest, or its hook went without the operator. Leave finalizers and hooks.krake.dev entries out of what is applied, or create a KrakeHook for it",
        names::SHUTDOWN_FINALIZER
    ))
}

/// What people are told about a workload that says that it is complete, without a hook.
pub fn unlabelled(workload: &Workload) -> Notice {
    notice(format!(
        "{workload} carried the label {}, and no KrakeHook of its namespace names it: the label was taken off, for in a namespace without KrakeHooks nobody can delete what carries it",
        names::COMPLETED_LABEL
    ))
}

/// What people are told about a canary that was let go.
pub fn canary_removed(name: &str) -> Notice {
    notice(format!(
        "ConfigMap {name} carried the finalizer {}, and its KrakeHook does not exist in this namespace: it was deleted. It came with a copied or restored manifest, or its hook went without the operator",
        names::CANARY_FINALIZER
    ))
}

fn notice(note: String) -> Notice {
    Notice {
        warning: true,
        reason: "LetGo",
        note,
        on_workload: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::build::{self, NAME};
    use serde_json::json;

    #[test]
    fn only_a_hook_that_names_another_workload_is_not_concerned() {
        let workload =
            |kind: &str, name: &str| json!({"spec": {"workload": {"kind": kind, "name": name}}});
        for (data, expected) in [
            (workload("Deployment", NAME), true),
            (workload("StatefulSet", NAME), false),
            (workload("Deployment", "other"), false),
            (json!({"spec": {"workload": {"name": NAME}}}), true),
            (json!({"spec": "of another version"}), true),
            (json!({}), true),
        ] {
            let hook = build::hook("any").meta();
            let kind = WorkloadKind::Deployment;
            assert_eq!(concerns(&hook, &data, kind, NAME), expected, "{data}");
            let let_go = build::hook("any").deleting().finalizer("else").meta();
            assert!(!concerns(&let_go, &data, kind, NAME), "{data}");
            let going = build::hook("any")
                .deleting()
                .finalizer(names::HOOK_FINALIZER);
            assert_eq!(
                concerns(&going.meta(), &data, kind, NAME),
                expected,
                "{data}"
            );
        }
    }

    #[test]
    fn a_copy_loses_what_is_ours_and_one_that_is_deleted_only_its_finalizer() {
        for kind in WorkloadKind::all() {
            let mut copy = build::deployment(NAME).container("app").uid("copy");
            copy.0["apiVersion"] = json!(kind.traits().api_version);
            copy.0["kind"] = json!(kind.traits().name);
            assert_eq!(release(&copy.clone().workload()), None, "{kind}");
            let copy = copy.finalizer(names::SHUTDOWN_FINALIZER);
            let living = release(&copy.clone().workload());
            assert!(
                matches!(living, Some(Effect::RemoveEntries(_))),
                "{kind}: {living:?}"
            );
            let deleted = release(&copy.deleting().workload());
            let uid = "copy".to_owned();
            assert_eq!(deleted, Some(Effect::ReleaseWorkload { uid }), "{kind}");
        }
    }

    #[test]
    fn who_puts_it_back_waits_ever_longer() {
        let seconds = |released| grace(false, released).as_secs();
        assert_eq!([0, 1, 2, 30].map(seconds), [10, 20, 40, 600]);
        assert!(grace(true, 0) < grace(false, 0));
    }
}
