//! The guard of a hook that is gone: looking at what there still is of it, and taking it away.

use kube::api::Api;
use kube::{Client, Resource, ResourceExt};

use super::apply::{Regarding, Writer};
use super::observe::{Caches, Canaries, canaries, hook_selector, pods, replica_sets, workload};
use super::{Act, Error, said};
use crate::api::{HookGuard, KrakeHook};
use crate::decide::Effect;
use crate::decide::farewell::Remains;
use crate::decide::seen::{Notice, is_released};

/// What is left of the hook this guard stands for; nothing if the hook lives. A terminating hook without
/// our finalizer counts as gone, even if another finalizer keeps it.
pub async fn observe(
    client: &Client,
    caches: &Caches,
    guard: &HookGuard,
) -> Result<Option<Remains>, Error> {
    let hook = &guard.spec.hook;
    if guard.name_any() != hook.uid {
        // Somebody's copy: a guard has the name of its hook's uid, and nothing has this one as owner.
        return Ok(Some(Remains {
            guard: guard.clone(),
            workload: None,
            replica_sets: Vec::new(),
            pods: Vec::new(),
            canaries: Vec::new(),
        }));
    }
    let namespace = &hook.namespace;
    let api: Api<KrakeHook> = Api::namespaced(client.clone(), namespace);
    let living = api.get_opt(&hook.name).await.map_err(Error::of(
        Act::Get,
        format!("KrakeHook {namespace}/{}", hook.name),
    ))?;
    let living = living.filter(|found| found.uid().as_ref() == Some(&hook.uid));
    if living.is_some_and(|found| !is_released(&found.metadata)) {
        return Ok(None);
    }
    let reference = &guard.spec.workload;
    let taken = !caches
        .hooks
        .state_filter(|other| {
            // The cache may not have heard yet that this one has gone.
            other.uid().as_ref() != Some(&hook.uid)
                && !is_released(&other.metadata)
                && other.namespace().as_ref() == Some(namespace)
                && other.spec.workload.name == reference.name
                && other.spec.workload.kind == reference.kind
        })
        .is_empty();
    let mut left = look(client, guard, Canaries::Of(&[])).await?;
    left.workload = left.workload.filter(|_| !taken);
    Ok(Some(left))
}

/// What there is of the hook this guard stands for, whether the hook lives or not.
pub async fn look(
    client: &Client,
    guard: &HookGuard,
    among: Canaries<'_>,
) -> Result<Remains, Error> {
    let hook = &guard.spec.hook;
    let namespace = &hook.namespace;
    let labels = hook_selector(&hook.name);
    let kind = guard.spec.workload.known_kind();
    let (workload, sets, pods, canaries) = futures::try_join!(
        workload(client, kind, namespace, &guard.spec.workload.name),
        replica_sets(client, namespace, &labels),
        pods(client, namespace, &labels),
        canaries(client, namespace, (&hook.name, &hook.uid), among),
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
        Effect::RemoveEntries(patch) => {
            if let Some(workload) = &remains.workload {
                writer.remove_entries(workload, patch).await?;
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
        other => {
            // Said aloud rather than done again without end.
            tracing::error!(guard = remains.guard.name_any(), effect = ?other, "unexpected effect in a cleanup");
        }
    }
    Ok(())
}

/// The API server refuses a step of the farewell. There is no hook any more that could say so.
pub async fn tell_refusal(writer: &Writer, remains: &Remains, error: &Error) {
    let about = match &remains.workload {
        Some(workload) => Regarding::workload(workload),
        None => Regarding::object(remains.guard.object_ref(&())),
    };
    let hook = &remains.guard.spec.hook.name;
    let notice = Notice {
        warning: true,
        reason: "Refused",
        note: format!(
            "what is left of the deleted KrakeHook {hook} cannot be taken away; the API server refuses {}: {}",
            error.object,
            said(&error.source)
        ),
        on_workload: false,
    };
    writer.tell_of(&about, &notice).await;
}

#[cfg(test)]
mod tests {
    use kube::runtime::{reflector, watcher};
    use serde_json::{Value, json};

    use super::*;
    use crate::api::names;
    use crate::testing;
    use crate::testing::build::{self, NAME};

    fn hook(uid: &str) -> KrakeHook {
        let mut hook = build::hook(NAME).shutdown().hook();
        hook.metadata.uid = Some(uid.into());
        hook
    }

    /// What is left of hook `a`: the server has a Deployment, and what it has of the hook.
    async fn left(there: Option<&KrakeHook>, cached: &KrakeHook) -> Option<Remains> {
        let deployment = build::deployment(NAME).with("/metadata/uid", json!("workload"));
        let deployment = serde_json::to_value(deployment.0).unwrap();
        let there = there.map(|hook| serde_json::to_value(hook).unwrap());
        let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
            "reason": "NotFound", "message": "gone"});
        let client = testing::answered_by(move |_, path| match path {
            path if path.contains("/krakehooks/") => match &there {
                Some(hook) => (200, hook.clone()),
                None => (404, gone.clone()),
            },
            path if path.contains("/deployments/") => (200, deployment.clone()),
            _ => (
                200,
                json!({"metadata": {}, "items": Value::Array(Vec::new())}),
            ),
        });
        let (hooks, mut writer) = reflector::store();
        writer.apply_watcher_event(&watcher::Event::Apply(cached.clone()));
        let caches = Caches {
            hooks,
            ..testing::caches()
        };
        let guard = build::guard(NAME, "a", "guard").guard();
        let left = observe(&client, &caches, &guard).await;
        left.expect("everything is answered")
    }

    #[tokio::test]
    async fn the_workload_is_another_hooks_or_was_this_ones() {
        // The cache has not heard yet that it has gone: nobody else would let the workload go.
        let left_of = left(None, &hook("a")).await.expect("the hook is gone");
        assert!(left_of.workload.is_some());
        let left_of = left(None, &hook("b")).await.expect("the hook is gone");
        assert!(left_of.workload.is_none());
    }

    #[tokio::test]
    async fn a_copy_of_a_guard_is_nobodys_though_its_hook_lives() {
        let client = testing::answered_by(|_, _| (500, Value::Null));
        let copy = build::guard(NAME, "a", "guard").with("/metadata/name", json!("copy"));
        let left = observe(&client, &testing::caches(), &copy.guard()).await;
        let left = left.expect("nobody is asked").expect("nobody needs it");
        let now = build::at(0);
        let effects = crate::decide::farewell::decide(&left, now).effects;
        assert_eq!(effects, [Effect::DeleteGuard]);
    }

    #[tokio::test]
    async fn a_hook_that_goes_without_us_is_gone() {
        let mut going = hook("a");
        going.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        going.metadata.finalizers = Some(vec![names::HOOK_FINALIZER.into()]);
        assert!(left(Some(&hook("a")), &going).await.is_none());
        assert!(left(Some(&going), &going).await.is_none());
        going.metadata.finalizers = Some(vec!["somebody/else".into()]);
        assert!(left(Some(&going), &going).await.is_some());
    }
}
