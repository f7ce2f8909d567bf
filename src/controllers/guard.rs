//! Guards of hooks that are gone: each stays until nothing needs it, then it goes.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};

use super::backoff::{Backoff, Reopen};
use super::readable;
use super::synced::Waiter;
use crate::api::{HookGuard, KrakeHook};
use crate::cluster::apply::Writer;
use crate::cluster::observe::Caches;
use crate::cluster::{Class, Error, remains};
use crate::decide::{Effect, Next, farewell};
use crate::metrics::Metrics;

const RESYNC: Duration = Duration::from_secs(600);

/// What a reconcile needs.
pub struct Context {
    /// Writes.
    pub writer: Writer,
    /// Caches of the hook controller.
    pub caches: Caches,
    /// Decisions wait until every watch has told all there is.
    pub synced: Waiter,
    /// Counters.
    pub metrics: Metrics,
    /// Errors in a row.
    pub backoff: Backoff<String>,
}

/// Runs until `shutdown`.
pub async fn run(
    context: Arc<Context>,
    watches: &Client,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let hooks = watcher(
        Api::<PartialObjectMeta<KrakeHook>>::all(watches.clone()),
        watcher::Config::default(),
    )
    .backoff(Reopen::default())
    .try_filter_map(|event| std::future::ready(Ok(going(event))));
    let (store, writer) = reflector::store();
    let guards = readable::watch(
        watches,
        watcher::Config::default(),
        &store,
        &context.metrics,
    )
    .backoff(Reopen::default())
    .reflect(writer)
    .touched_objects();
    Controller::for_stream(guards, store)
        .with_config(Config::default().concurrency(4))
        // A guard has the name of its hook's uid: a hook that goes wakes it.
        .watches_stream(hooks, |hook: PartialObjectMeta<KrakeHook>| {
            hook.uid().map(|uid| ObjectRef::new(&uid))
        })
        .trigger_backoff(Reopen::default())
        .graceful_shutdown_on(shutdown)
        .run(reconcile, on_error, context)
        .for_each(|_| std::future::ready(()))
        .await;
}

/// The hook, if it is on its way out. Each acknowledgement changes a hook, and a guard's reconcile
/// reads: those of hooks that stay are not for us.
fn going<K: Resource>(event: watcher::Event<K>) -> Option<K> {
    match event {
        watcher::Event::Delete(hook) => Some(hook),
        watcher::Event::Apply(hook) if hook.meta().deletion_timestamp.is_some() => Some(hook),
        _ => None,
    }
}

async fn reconcile(guard: Arc<HookGuard>, context: Arc<Context>) -> Result<Action, Error> {
    context.synced.wait().await;
    let name = guard.name_any();
    let Some(left) = remains::observe(&context.writer.client, &context.caches, &guard).await?
    else {
        return Ok(Action::requeue(RESYNC));
    };
    let now = Timestamp::now();
    let decision = farewell::decide(&left, now);
    for effect in &decision.effects {
        remains::apply(&context.writer, &left, effect).await?;
        tracing::info!(
            guard = name,
            hook = left.guard.spec.hook.name,
            namespace = left.guard.spec.hook.namespace,
            effect = farewell_label(effect),
            "done for a hook that is gone"
        );
    }
    context.backoff.reset(&name);
    if decision.effects == [Effect::DeleteGuard] {
        return Ok(Action::await_change());
    }
    Ok(Action::requeue(match decision.next {
        // What was changed is looked at again rather than believed.
        Next::AwaitChange => Duration::from_secs(1),
        Next::At(at) => Duration::try_from(at.duration_since(now)).unwrap_or_default(),
    }))
}

fn farewell_label(effect: &Effect) -> &'static str {
    match effect {
        Effect::ApplyInjection(_) => "Eject",
        Effect::Unguard(_) => "Unguard",
        Effect::DeleteDependent { .. } => "DeleteDependent",
        Effect::ReleaseWorkload { .. } => "ReleaseWorkload",
        Effect::RemoveCanary { .. } => "RemoveCanary",
        Effect::DeleteGuard => "DeleteGuard",
        _ => "Nothing",
    }
}

fn on_error(guard: Arc<HookGuard>, error: &Error, context: Arc<Context>) -> Action {
    let class = error.class();
    context.metrics.reconcile_failed("guard", class);
    if class == Class::Conflict {
        tracing::debug!(guard = guard.name_any(), %error, "somebody was faster; looking again");
    } else {
        tracing::warn!(guard = guard.name_any(), %error, "will try again");
    }
    Action::requeue(context.backoff.after(guard.name_any(), class))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn only_a_hook_that_goes_wakes_its_guard() {
        let stays = testing::hook("ml", "trainer");
        let mut leaves = stays.clone();
        leaves.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        for (event, wakes) in [
            (watcher::Event::Apply(stays.clone()), false),
            (watcher::Event::InitApply(stays.clone()), false),
            (watcher::Event::Apply(leaves), true),
            // Its finalizer was taken by somebody before.
            (watcher::Event::Delete(stays), true),
        ] {
            let said = format!("{event:?}");
            assert_eq!(going(event).is_some(), wakes, "{said}");
        }
    }
}
