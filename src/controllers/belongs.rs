//! Which hooks a change of something belongs to.

use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::ResourceExt;
use kube::core::DynamicObject;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;

use crate::api::{HookCertificate, KrakeHook, WorkloadKind, names};
use crate::cluster::slim::{ConfigMap, Metadata};
use crate::decide::seen::is_released;

fn matching(
    hooks: &Store<KrakeHook>,
    wanted: impl Fn(&KrakeHook) -> bool,
) -> Vec<ObjectRef<KrakeHook>> {
    hooks
        .state_filter(wanted)
        .iter()
        .map(|hook| ObjectRef::from_obj(hook.as_ref()))
        .collect()
}

/// The hooks that may take over the workload of a hook that was deleted, or released: all others that
/// name it. A deletion during a gap in the watch is not reported; therefore all hooks are woken after
/// each relist, once the cache holds it.
pub fn successors_of_deleted_hook(
    hooks: &Store<KrakeHook>,
) -> impl Fn(&watcher::Event<KrakeHook>) -> Vec<ObjectRef<KrakeHook>> + Send + 'static {
    let hooks = hooks.clone();
    let others = |hooks: &Store<KrakeHook>, gone: &KrakeHook| {
        matching(hooks, |hook| {
            hook.metadata.uid != gone.metadata.uid
                && hook.metadata.namespace == gone.metadata.namespace
                && hook.spec.workload == gone.spec.workload
        })
    };
    move |event| match event {
        watcher::Event::Delete(gone) => others(&hooks, gone),
        watcher::Event::Apply(gone) if is_released(&gone.metadata) => others(&hooks, gone),
        watcher::Event::InitDone => matching(&hooks, |_| true),
        watcher::Event::Apply(_) | watcher::Event::Init | watcher::Event::InitApply(_) => {
            Vec::new()
        }
    }
}

pub fn by_workload(
    hooks: &Store<KrakeHook>,
    kind: WorkloadKind,
) -> impl Fn(&Metadata<DynamicObject>) -> Vec<ObjectRef<KrakeHook>> + Send + 'static {
    let hooks = hooks.clone();
    move |workload| {
        matching(&hooks, |hook| {
            hook.metadata.namespace == workload.metadata.namespace
                && hook.spec.workload.known_kind() == Some(kind)
                && Some(&hook.spec.workload.name) == workload.metadata.name.as_ref()
        })
    }
}

pub fn by_service(
    hooks: &Store<KrakeHook>,
) -> impl Fn(&Metadata<Service>) -> Vec<ObjectRef<KrakeHook>> + Send + 'static {
    let hooks = hooks.clone();
    move |service| {
        matching(&hooks, |hook| {
            let shutdown = hook.spec.shutdown.as_ref();
            let called = shutdown
                .and_then(|s| s.call_out.as_ref())
                .and_then(|c| c.service.as_ref())
                .map(|s| &s.name);
            hook.metadata.namespace == service.metadata.namespace
                && called.is_some()
                && called == service.metadata.name.as_ref()
        })
    }
}

/// The hook's own; what users make for it is the certificate controller's alone.
pub fn by_certificate(
    hooks: &Store<KrakeHook>,
) -> impl Fn(&HookCertificate) -> Vec<ObjectRef<KrakeHook>> + Send + 'static {
    let hooks = hooks.clone();
    move |certificate| {
        let namespace = certificate.namespace().unwrap_or_default();
        let name = &certificate.spec.hook.name;
        let hook = ObjectRef::new(name).within(&namespace);
        let uid = hooks.get(&hook).and_then(|hook| hook.uid());
        let own = uid.map(|uid| names::of_hook(name, &uid));
        match own == certificate.metadata.name {
            true => vec![hook],
            false => Vec::new(),
        }
    }
}

/// Only a namespace that is on its way out is of interest.
pub fn by_namespace(
    hooks: &Store<KrakeHook>,
) -> impl Fn(&Metadata<Namespace>) -> Vec<ObjectRef<KrakeHook>> + Send + 'static {
    let hooks = hooks.clone();
    move |namespace| {
        if namespace.metadata.deletion_timestamp.is_none() {
            return Vec::new();
        }
        matching(&hooks, |hook| {
            hook.metadata.namespace == namespace.metadata.name
        })
    }
}

pub fn by_uid(
    hooks: &Store<KrakeHook>,
) -> impl Fn(&ConfigMap) -> Vec<ObjectRef<KrakeHook>> + Clone + Send + 'static {
    let hooks = hooks.clone();
    move |config_map| {
        let labels = config_map.metadata.labels.as_ref();
        let uid = labels.and_then(|labels| {
            labels
                .get(names::CANARY_LABEL)
                .or_else(|| labels.get(names::OWNER_LABEL))
        });
        matching(&hooks, |hook| {
            uid.is_some() && hook.metadata.uid.as_ref() == uid
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use kube::runtime::reflector;

    #[test]
    fn a_certificate_that_a_user_makes_is_nothing_to_its_hook() {
        let (hooks, mut writer) = reflector::store();
        let hook = testing::hook("ml", "trainer");
        writer.apply_watcher_event(&watcher::Event::Apply(hook.clone()));
        let woken = by_certificate(&hooks);
        let certificate = |namespace: &str, name: &str| -> HookCertificate {
            serde_json::from_value(serde_json::json!({
                "apiVersion": "hooks.krake.dev/v1alpha1", "kind": "HookCertificate",
                "metadata": {"namespace": namespace, "name": name},
                "spec": {"hook": {"name": "trainer"}},
            }))
            .expect("a certificate")
        };
        let own = names::of_hook("trainer", testing::HOOK_UID);
        assert_eq!(
            woken(&certificate("ml", &own)),
            [ObjectRef::from_obj(&hook)]
        );
        assert_eq!(woken(&certificate("ml", "laptop")), []);
        assert_eq!(woken(&certificate("other", &own)), []);
        let earlier = names::of_hook("trainer", "another");
        assert_eq!(
            woken(&certificate("ml", &earlier)),
            [],
            "of an earlier hook"
        );
    }

    #[test]
    fn who_went_unseen_makes_room_once_the_list_is_in_the_cache() {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        let (hooks, mut writer) = reflector::store();
        let woken = successors_of_deleted_hook(&hooks);
        let mut of_another = testing::hook("ml", "other");
        of_another.spec.workload.name = "another".into();
        let younger = testing::hook("ml", "trainer");
        let mut gone = younger.clone();
        gone.metadata.name = Some("older".into());
        for hook in [&of_another, &younger] {
            writer.apply_watcher_event(&Apply(hook.clone()));
        }
        gone.metadata.uid = Some("older".into());
        let younger = ObjectRef::from_obj(&younger);
        let heir = std::slice::from_ref(&younger);
        assert_eq!(woken(&Delete(gone.clone())), heir);
        // Let go by us, and kept by somebody else.
        assert_eq!(woken(&Apply(gone.clone())), []);
        gone.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        gone.metadata.finalizers = Some(vec![names::HOOK_FINALIZER.into(), "else".into()]);
        assert_eq!(woken(&Apply(gone.clone())), []);
        gone.metadata.finalizers = Some(vec!["else".into()]);
        assert_eq!(woken(&Apply(gone)), [younger]);
        assert_eq!(woken(&InitDone).len(), 2);
        // The cache is still the one from before.
        assert_eq!(woken(&Init), []);
        assert_eq!(woken(&InitApply(of_another)), []);
    }
}
