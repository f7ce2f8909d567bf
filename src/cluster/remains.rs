//! The guard of a hook that is gone: looking at what there still is of it, and taking it away.

use kube::api::Api;
use kube::{Client, ResourceExt};

use super::apply::Writer;
use super::observe::{Caches, canaries, hook_selector, pods, replica_sets, workload};
use super::{Act, Error};
use crate::api::{HookGuard, KrakeHook};
use crate::decide::Effect;
use crate::decide::farewell::Remains;

/// What there still is of the hook this guard stands for; nothing if the hook lives.
pub async fn observe(
    client: &Client,
    caches: &Caches,
    guard: &HookGuard,
) -> Result<Option<Remains>, Error> {
    let hook = &guard.spec.hook;
    let namespace = &hook.namespace;
    let api: Api<KrakeHook> = Api::namespaced(client.clone(), namespace);
    let living = api.get_opt(&hook.name).await.map_err(Error::of(
        Act::Get,
        format!("KrakeHook {namespace}/{}", hook.name),
    ))?;
    if living.and_then(|hook| hook.uid()) == Some(hook.uid.clone()) {
        return Ok(None);
    }
    let reference = &guard.spec.workload;
    let taken = !caches
        .hooks
        .state_filter(|other| {
            other.namespace().as_ref() == Some(namespace)
                && other.spec.workload.name == reference.name
                && other.spec.workload.kind == reference.kind
        })
        .is_empty();
    let mut left = look(client, guard).await?;
    left.workload = left.workload.filter(|_| !taken);
    Ok(Some(left))
}

/// What there is of the hook this guard stands for, whether the hook lives or not.
pub async fn look(client: &Client, guard: &HookGuard) -> Result<Remains, Error> {
    let hook = &guard.spec.hook;
    let namespace = &hook.namespace;
    let labels = hook_selector(&hook.name);
    let kind = guard.spec.workload.known_kind();
    let (workload, sets, pods, canaries) = futures::try_join!(
        workload(client, kind, namespace, &guard.spec.workload.name),
        replica_sets(client, namespace, &labels),
        pods(client, namespace, &labels),
        canaries(client, namespace, &hook.name, &hook.uid),
    )?;
    Ok(Remains {
        guard: guard.clone(),
        workload,
        replica_sets: sets,
        pods,
        canaries,
    })
}

/// Carries out one effect of the farewell.
pub async fn apply(writer: &Writer, remains: &Remains, effect: &Effect) -> Result<(), Error> {
    let namespace = remains.guard.spec.hook.namespace.as_str();
    match effect {
        Effect::ApplyInjection(patch) => {
            if let Some(workload) = &remains.workload {
                writer.change(namespace, workload.kind, patch).await?;
            }
        }
        Effect::Unguard(dependent) => {
            let version = remains.version_of(dependent);
            writer.unguard(namespace, dependent, version).await?;
        }
        Effect::DeleteDependent {
            dependent,
            resource_version,
            foreground,
        } => {
            writer
                .delete_dependent(namespace, dependent, resource_version, *foreground)
                .await?;
        }
        Effect::ReleaseWorkload { uid } => {
            if let Some(workload) = &remains.workload {
                writer.release(namespace, workload, uid).await?;
            }
        }
        Effect::RemoveCanary { name } => {
            for canary in &remains.canaries {
                if canary.metadata.name.as_deref() == Some(name) {
                    writer.drop_canary(namespace, canary).await?;
                }
            }
        }
        Effect::DeleteGuard => writer.delete_guard(&remains.guard).await?,
        // A farewell asks for nothing else.
        _ => {}
    }
    Ok(())
}
