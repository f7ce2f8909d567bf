//! Guards on what armed workloads make, ahead of everything else: a pod or ReplicaSet without one is
//! lost if its workload is deleted in the foreground now.
//!
//! Who begins to lead guards first whatever was made while nobody led. Afterwards this is a lane of its
//! own, in which nothing waits for what else there is to do about hooks. It reads caches and nothing
//! else, and what it misses the hook's own look finds.

use std::time::Duration;

use futures::{Stream, StreamExt, future, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use tokio_util::sync::CancellationToken;

use super::synced::Waiter;
use crate::api::kind::DependentKind;
use crate::api::{KrakeHook, names};
use crate::cluster::apply::Writer;
use crate::cluster::observe::Caches;
use crate::decide::guarding::{is_armed, unguarded};
use crate::decide::seen::Dependent;
use crate::metrics::Metrics;

/// Guards that are written at once.
const AT_ONCE: usize = 16;
/// An API server that does not answer delays the reconciles of hooks by no more than this.
const FIRST_WITHIN: Duration = Duration::from_secs(10);

/// What it needs.
pub struct Context {
    /// Writes.
    pub writer: Writer,
    /// Caches.
    pub caches: Caches,
    /// Decisions wait until all watches have completed their initial list.
    pub synced: Waiter,
    /// Counters.
    pub metrics: Metrics,
}

/// Guards what exists, reports that, and then guards what `changes` brings, until `shutdown`.
pub async fn run(
    context: Context,
    changes: impl Stream<Item = ObjectRef<KrakeHook>> + Send + 'static,
    guarded: CancellationToken,
    shutdown: impl Future<Output = ()> + Send,
) {
    let lane = async {
        context.synced.wait().await;
        let first = context.guard_all(stream::iter(context.missing(None)));
        if tokio::time::timeout(FIRST_WITHIN, first).await.is_err() {
            tracing::warn!("not every dependent is guarded yet; continuing");
        }
        guarded.cancel();
        let missing = |hook| stream::iter(context.missing(Some(&hook)));
        context.guard_all(changes.flat_map(missing)).await;
        // Told to end by nobody: the feed ends with the process.
        future::pending::<()>().await;
    };
    tokio::select! {
        () = lane => {}
        () = shutdown => {}
    }
}

impl Context {
    async fn guard_all(&self, missing: impl Stream<Item = Missing>) {
        missing
            .for_each_concurrent(AT_ONCE, |missing| self.guard(missing))
            .await;
    }

    /// What lacks its guard, of all hooks or of one.
    fn missing(&self, only: Option<&ObjectRef<KrakeHook>>) -> Vec<Missing> {
        let hook = only.map(|only| self.caches.hooks.get(only));
        let idle = hook.is_some_and(|hook| hook.is_none_or(|hook| !is_armed(&hook)));
        if idle {
            return Vec::new();
        }
        let sets = &self.caches.replica_sets;
        let sets = sets.state_filter(|set| is_of(&set.metadata, only));
        let sets = sets
            .iter()
            .map(|set| (DependentKind::ReplicaSet, &set.metadata));
        let pods = self
            .caches
            .pods
            .state_filter(|pod| is_of(&pod.metadata, only));
        let pods = pods.iter().map(|pod| (DependentKind::Pod, &pod.metadata));
        let all = sets.chain(pods);
        all.filter_map(|(kind, meta)| self.lacks(kind, meta))
            .collect()
    }

    fn lacks(&self, kind: DependentKind, meta: &ObjectMeta) -> Option<Missing> {
        let name = meta.labels.as_ref()?.get(names::HOOK_LABEL)?;
        let object = ObjectRef::new(name).within(meta.namespace.as_deref()?);
        let hook = self.caches.hooks.get(&object)?;
        let hook_uid = hook.uid()?;
        let guard = self.caches.guards.get(&ObjectRef::new(&hook_uid))?.uid()?;
        Some(Missing {
            dependent: unguarded(&hook, &guard, kind, meta)?,
            hook: object,
            hook_uid,
            guard,
        })
    }

    /// If one fails, the hook's own reconcile retries it and reports it.
    async fn guard(&self, missing: Missing) {
        let Missing {
            hook,
            hook_uid,
            guard,
            dependent,
        } = missing;
        let namespace = hook.namespace.as_deref().unwrap_or_default();
        let by = (hook.name.as_str(), hook_uid.as_str(), guard.as_str());
        match self.writer.put_guard(namespace, by, &dependent).await {
            Ok(_) => {
                self.metrics.effect("Guard");
                tracing::info!(namespace, hook = hook.name, kind = %dependent.kind, name = dependent.name, "guarded a dependent");
            }
            Err(error) => {
                tracing::debug!(namespace, hook = hook.name, %error, "could not guard a dependent; the hook's reconcile retries")
            }
        }
    }
}

fn is_of(meta: &ObjectMeta, only: Option<&ObjectRef<KrakeHook>>) -> bool {
    let label = meta.labels.as_ref().and_then(|l| l.get(names::HOOK_LABEL));
    only.is_none_or(|only| meta.namespace == only.namespace && label == Some(&only.name))
}

/// Something without its guard.
struct Missing {
    hook: ObjectRef<KrakeHook>,
    hook_uid: String,
    guard: String,
    dependent: Dependent,
}

#[cfg(test)]
#[path = "guarding_tests.rs"]
mod tests;
