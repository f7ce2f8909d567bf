//! New dependents of an armed workload that have no guard yet, found from caches alone, so that
//! they need not wait for a reconcile. The hook's own decision finds the same and more
//! ([`super::arming`]), and takes back a guard that was set here because a cache was behind.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::hook::dependent;
use super::seen::{Dependent, annotation, controller_of, is_owned_by, is_released};
use crate::api::condition::{self, ConditionType};
use crate::api::kind::DependentKind;
use crate::api::status::{RequestState, ShutdownRequest, Trigger};
use crate::api::{HookKind, KrakeHook, names};

/// Whether the hook is armed, and no removal was released.
pub fn is_armed(hook: &KrakeHook) -> bool {
    let Some(status) = &hook.status else {
        return false;
    };
    let released = |request: &ShutdownRequest| {
        request.state == RequestState::Closed && request.trigger != Trigger::Stop
    };
    condition::is_true(&status.conditions, ConditionType::Armed)
        && hook.spec.enables(HookKind::Shutdown)
        && annotation(&hook.metadata, names::HOOK_ANNOTATION) != Some(names::DISABLED)
        && !is_released(&hook.metadata)
        && !status.workload_request().is_some_and(released)
}

/// What is to be guarded, if this was made by the workload of an armed hook, and lacks the guard.
pub fn unguarded(
    hook: &KrakeHook,
    guard_uid: &str,
    kind: DependentKind,
    meta: &ObjectMeta,
) -> Option<Dependent> {
    let workload = hook.spec.workload.known_kind()?;
    let uid = &hook.status.as_ref()?.workload.as_ref()?.uid;
    let lacks = is_armed(hook)
        && workload.traits().guarded == Some(kind)
        && lacks_guard(meta, uid, guard_uid);
    lacks.then(|| dependent(kind, meta))
}

/// Whether this is a dependent of the workload without a guard.
pub(super) fn lacks_guard(meta: &ObjectMeta, workload_uid: &str, guard_uid: &str) -> bool {
    meta.deletion_timestamp.is_none()
        && controller_of(meta).is_some_and(|owner| owner.uid == workload_uid)
        && !is_owned_by(meta, guard_uid)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::status::Outcome;
    use crate::testing;
    use crate::testing::build;

    fn armed() -> KrakeHook {
        let mut hook = testing::hook("ml", "trainer");
        let armed = json!([{"type": "Armed", "status": "True", "reason": "InPlace", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        let status = hook.status.as_mut().unwrap();
        status.conditions = serde_json::from_value(armed).unwrap();
        hook
    }

    #[test]
    fn only_what_is_armed_is_guarded() {
        assert!(is_armed(&armed()));
        let closed = |trigger| {
            let mut request = testing::request("r", RequestState::Closed);
            request.outcome = Some(Outcome::Acknowledged);
            request.trigger = trigger;
            Some(request)
        };
        type Row = (&'static str, Box<dyn Fn(&mut KrakeHook)>, bool);
        let rows: [Row; 7] = [
            ("not armed", Box::new(|hook| hook.status = None), false),
            ("no hold", Box::new(|hook| hook.spec.shutdown = None), false),
            (
                "disabled",
                Box::new(|hook| {
                    let disabled = (names::HOOK_ANNOTATION.into(), names::DISABLED.into());
                    hook.metadata.annotations = Some([disabled].into());
                }),
                false,
            ),
            (
                "let go",
                Box::new(|hook| {
                    hook.metadata.deletion_timestamp = Some(build::time(1));
                    hook.metadata.finalizers = None;
                }),
                false,
            ),
            (
                "waits",
                Box::new(|hook| {
                    let open = testing::request("r", RequestState::Open);
                    hook.status
                        .as_mut()
                        .unwrap()
                        .set_workload_request(Some(open));
                }),
                true,
            ),
            (
                "released",
                Box::new(move |hook| {
                    hook.status
                        .as_mut()
                        .unwrap()
                        .set_workload_request(closed(Trigger::Delete));
                }),
                false,
            ),
            (
                "was stopped once",
                Box::new(move |hook| {
                    hook.status
                        .as_mut()
                        .unwrap()
                        .set_workload_request(closed(Trigger::Stop));
                }),
                true,
            ),
        ];
        for (name, change, is_guarded) in rows {
            let mut hook = armed();
            change(&mut hook);
            assert_eq!(is_armed(&hook), is_guarded, "{name}");
        }
    }

    #[test]
    fn of_what_there_is_those_that_are_the_workloads_and_have_no_guard() {
        let set = |name: &str| build::replica_set(name);
        let owned = |name: &str| set(name).owner("Deployment", testing::WORKLOAD_UID);
        for (made, lacks) in [
            (owned("bare"), true),
            (owned("guarded").owner("HookGuard", "g"), false),
            (set("anothers").owner("Deployment", "other"), false),
            (set("nobodys"), false),
            (owned("goes").deleting(), false),
        ] {
            let meta = made.meta();
            let found = unguarded(&armed(), "g", DependentKind::ReplicaSet, &meta);
            assert_eq!(found.is_some(), lacks, "{:?}", meta.name);
            // A Deployment's pods are their ReplicaSet's matter.
            assert_eq!(unguarded(&armed(), "g", DependentKind::Pod, &meta), None);
        }
    }
}
