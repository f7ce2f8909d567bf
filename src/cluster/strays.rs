//! Reads objects of ours that belong to no hook, live, and releases them. What it is,
//! [`crate::decide::strays`] says.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Client, Resource};
use serde_json::json;

use super::apply::{Regarding, Writer};
use super::observe::workload;
use super::{Act, Error, pages};
use crate::api::{HookGuard, KrakeHook, WorkloadKind, names};
use crate::decide::seen::{has_finalizer, is_released};
use crate::decide::{Effect, Workload, strays};

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// There is nothing (more) of ours in it.
    Clean,
    /// A hook is responsible for it.
    Concerned,
    /// It was released.
    Released,
}

/// So many writes take everything off: what is owned by others, and what only we own.
const WRITES: usize = 4;

/// Lets a workload go that carries our finalizer, if no hook names it. Whatever cannot be read keeps it
/// as it is.
pub async fn release_workload(
    writer: &Writer,
    kind: WorkloadKind,
    namespace: &str,
    name: &str,
) -> Result<Look, Error> {
    let client = &writer.client;
    let mut look = Look::Clean;
    let mut first = None;
    for _ in 0..WRITES {
        // Before the hooks: one that is made meanwhile changes it, and the write is refused.
        let Some(found) = workload(client, Some(kind), namespace, name).await? else {
            break;
        };
        let carries = has_finalizer(&found.metadata, names::SHUTDOWN_FINALIZER);
        if !carries && look == Look::Clean {
            break;
        }
        if is_concerned(client, kind, namespace, name).await? {
            return Ok(if look == Look::Clean {
                Look::Concerned
            } else {
                look
            });
        }
        let Some(effect) = strays::release(&found) else {
            break;
        };
        carry_out(writer, &found, &effect).await?;
        look = Look::Released;
        first.get_or_insert(found);
    }
    if let Some(workload) = first {
        let about = Regarding::workload(&workload);
        writer.tell_of(&about, &strays::released(&workload)).await;
    }
    Ok(look)
}

/// Takes off the label of a completed workload that no hook names. Where there is no hook at all, the
/// policy `krake-hooks-completions` lets nobody delete what carries it.
pub async fn unlabel_completed(
    writer: &Writer,
    kind: WorkloadKind,
    namespace: &str,
    name: &str,
) -> Result<Look, Error> {
    let client = &writer.client;
    let found = workload(client, Some(kind), namespace, name).await?;
    let Some(found) = found.filter(|found| is_labelled_completed(&found.metadata)) else {
        return Ok(Look::Clean);
    };
    if is_concerned(client, kind, namespace, name).await? {
        return Ok(Look::Concerned);
    }
    writer.unlabel_completed(namespace, &found).await?;
    let about = Regarding::workload(&found);
    writer.tell_of(&about, &strays::unlabelled(&found)).await;
    Ok(Look::Released)
}

/// Whether something says that it is complete.
pub fn is_labelled_completed(meta: &ObjectMeta) -> bool {
    let mut labels = meta.labels.iter();
    labels.any(|labels| labels.contains_key(names::COMPLETED_LABEL))
}

/// One step of letting a workload go.
pub async fn carry_out(writer: &Writer, workload: &Workload, effect: &Effect) -> Result<(), Error> {
    let namespace = workload.metadata.namespace.as_deref().unwrap_or_default();
    match effect {
        Effect::ReleaseWorkload { uid } => {
            writer.release(namespace, workload, uid).await?;
        }
        Effect::RemoveEntries(patch) => {
            writer.remove_entries(workload, patch).await?;
        }
        Effect::ApplyInjection(patch) => {
            writer.change(namespace, workload.kind, patch).await?;
        }
        // There is no other way to let a workload go.
        _ => {}
    }
    Ok(())
}

/// Removes a canary, if its hook is not there, nor a guard that would see to it.
pub async fn remove_canary(writer: &Writer, canary: &ConfigMap) -> Result<Look, Error> {
    let meta = &canary.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let uid = hook_of(meta);
    let hooks = hooks(&writer.client, namespace).await?;
    let lives = |hook: &DynamicObject| {
        !is_released(&hook.metadata) && (uid.is_none() || hook.metadata.uid.as_deref() == uid)
    };
    if hooks.iter().any(lives) {
        return Ok(Look::Concerned);
    }
    if let Some(uid) = uid {
        let guards: Api<HookGuard> = Api::all(writer.client.clone());
        let guard = guards.get_opt(uid).await;
        let guard = guard.map_err(Error::of(Act::Get, format!("HookGuard {uid}")))?;
        // Its farewell removes the canaries of its hook's namespace.
        if guard.is_some_and(|guard| guard.spec.hook.namespace == namespace) {
            return Ok(Look::Concerned);
        }
    }
    writer.drop_canary(namespace, canary).await?;
    let name = meta.name.as_deref().unwrap_or_default();
    let about = Regarding::object(canary.object_ref(&()));
    writer.tell_of(&about, &strays::canary_removed(name)).await;
    Ok(Look::Released)
}

/// Uid of the hook that a canary says it belongs to.
pub fn hook_of(canary: &ObjectMeta) -> Option<&str> {
    let labels = canary.labels.as_ref()?;
    labels.get(names::CANARY_LABEL).map(String::as_str)
}

/// Whether a hook is concerned with the workload of this kind and name.
async fn is_concerned(
    client: &Client,
    kind: WorkloadKind,
    namespace: &str,
    name: &str,
) -> Result<bool, Error> {
    let hooks = hooks(client, namespace).await?;
    let concerns = |hook: &DynamicObject| strays::concerns(&hook.metadata, &hook.data, kind, name);
    Ok(hooks.iter().any(concerns))
}

/// The hooks of a namespace, live, whatever their specs say.
async fn hooks(client: &Client, namespace: &str) -> Result<Vec<DynamicObject>, Error> {
    let resource = ApiResource::erase::<KrakeHook>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    // What says whom it concerns; the statuses are large.
    let named = |mut hook: DynamicObject| {
        let workload = hook.data.pointer("/spec/workload").cloned();
        hook.data = json!({"spec": {"workload": workload}});
        hook
    };
    let found = pages::map(&api, ListParams::default(), named).await;
    found.map_err(Error::of(Act::List, format!("KrakeHooks in {namespace}")))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::*;
    use crate::testing;
    use crate::testing::build::{self, NAME};

    /// What becomes of a Deployment with our finalizer, and what is written.
    async fn look(hooks: (u16, Value), deleting: bool) -> (Result<Look, Error>, Vec<String>) {
        let mut deployment = build::deployment(NAME).uid("copy").container("app");
        deployment = deployment.finalizer(names::SHUTDOWN_FINALIZER);
        if deleting {
            deployment = deployment.deleting();
        }
        let writes = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&writes);
        let client = testing::answered_by(move |method, path| {
            if method != hyper::Method::GET {
                written.lock().unwrap().push(format!("{method} {path}"));
            }
            let mut now = deployment.0.clone();
            if path.contains("/krakehooks") {
                return hooks.clone();
            }
            if !written.lock().unwrap().is_empty() {
                now["metadata"]["finalizers"] = json!([]);
            }
            (200, now)
        });
        let writer = Writer::for_release(client);
        let kind = WorkloadKind::Deployment;
        let look = release_workload(&writer, kind, build::NAMESPACE, NAME).await;
        let writes = writes.lock().unwrap().clone();
        (look, writes)
    }

    fn list(items: &[Value]) -> (u16, Value) {
        let kind = json!({"apiVersion": "hooks.krake.dev/v1alpha1", "kind": "KrakeHookList",
            "metadata": {}, "items": items});
        (200, kind)
    }

    #[tokio::test]
    async fn only_what_surely_is_nobodys_is_let_go() {
        let hook = build::hook(NAME).shutdown().0;
        let other = build::hook("other").shutdown().0;
        let unreadable = json!({"metadata": {"name": "x"}, "spec": {"workload": 7}});
        let failure = json!({"kind": "Status", "status": "Failure", "code": 500, "reason": "x"});
        for deleting in [false, true] {
            for (hooks, expected) in [
                (list(&[]), Some(Look::Released)),
                (list(std::slice::from_ref(&other)), Some(Look::Released)),
                (list(&[other.clone(), hook.clone()]), Some(Look::Concerned)),
                (
                    list(std::slice::from_ref(&unreadable)),
                    Some(Look::Concerned),
                ),
                ((500, failure.clone()), None),
            ] {
                let (look, writes) = look(hooks.clone(), deleting).await;
                assert_eq!(look.ok(), expected, "{hooks:?}");
                let (patches, events): (Vec<_>, Vec<_>) = writes
                    .iter()
                    .partition(|write| write.contains("/deployments/"));
                let released = usize::from(expected == Some(Look::Released));
                assert_eq!(patches.len(), released, "{writes:?}");
                let in_namespace = format!("/namespaces/{}/events", build::NAMESPACE);
                let told = events.iter().filter(|event| event.contains(&in_namespace));
                assert_eq!(told.count(), released, "{writes:?}");
            }
        }
    }
}
