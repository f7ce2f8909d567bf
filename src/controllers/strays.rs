//! Finds what is ours and nobody's, see [`crate::decide::strays`]: watches what carries our finalizer
//! or the label of a completed workload, and asks about it live once no hook in the cache has named it
//! for some seconds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams};
use kube::core::DynamicObject;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use tokio::time::Instant;

use super::backoff::Reopen;
use super::everything;
use super::synced::Waiter;
use crate::api::{WorkloadKind, names};
use crate::cluster::apply::Writer;
use crate::cluster::observe::{Caches, resource};
use crate::cluster::slim::{self, Metadata};
use crate::cluster::strays::{
    Look, hook_of, is_labelled_completed, release_workload, remove_canary, unlabel_completed,
};
use crate::cluster::{Act, Class, Error, pages};
use crate::decide::seen::{has_finalizer, is_released};
use crate::decide::strays::grace;
use crate::metrics::Metrics;

/// How often it is checked whether a hook names what carries our finalizer.
const EVERY: Duration = Duration::from_secs(1);
/// How long after a check that failed, or found a hook, the next one is made.
const PAUSE: Duration = Duration::from_secs(8);
/// How often a terminating namespace is searched for what no watch reports.
const SEARCH: Duration = Duration::from_secs(10);

/// What this needs.
pub struct Context {
    /// Writes.
    pub writer: Writer,
    /// Caches of the hook controller.
    pub caches: Caches,
    /// Nothing is decided until all watches have completed their initial list.
    pub synced: Waiter,
    /// Counters.
    pub metrics: Metrics,
}

/// An object with a finalizer of ours, or with the label of a completed workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Object {
    Workload(WorkloadKind, String, String),
    Completed(WorkloadKind, String, String),
    Canary(String, String),
}

/// What a watch tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// Our finalizer.
    Finalizer,
    /// The label that is put on before a completed workload is deleted.
    Completed,
}

impl Mark {
    fn is_on(self, meta: &ObjectMeta) -> bool {
        match self {
            Self::Finalizer => has_finalizer(meta, names::SHUTDOWN_FINALIZER),
            Self::Completed => is_labelled_completed(meta),
        }
    }

    fn on(self, kind: WorkloadKind, meta: &ObjectMeta) -> Object {
        let namespace = meta.namespace.clone().unwrap_or_default();
        let name = meta.name.clone().unwrap_or_default();
        match self {
            Self::Finalizer => Object::Workload(kind, namespace, name),
            Self::Completed => Object::Completed(kind, namespace, name),
        }
    }
}

/// What a watch of one kind tells, and which marks it tells of.
type Change = (
    WorkloadKind,
    &'static [Mark],
    watcher::Event<Metadata<DynamicObject>>,
);

/// How long it has been nobody's.
#[derive(Clone, Debug)]
struct Carrier {
    deleting: bool,
    since: Option<Instant>,
    not_before: Instant,
}

/// All that carries a finalizer of ours, and what was let go lately.
#[derive(Default)]
struct Carriers {
    all: BTreeMap<Object, Carrier>,
    released: HashMap<Object, u32>,
}

/// Runs until `shutdown`.
pub async fn run(context: Context, watches: &Client, shutdown: impl Future<Output = ()> + Send) {
    let mut carriers = Carriers::default();
    let mut searched = HashMap::new();
    let watched = WorkloadKind::all().flat_map(watched);
    let watched = watched.map(|(kind, labelled, marks)| changes(watches, kind, labelled, marks));
    let mut changes = futures::stream::select_all(watched);
    let mut clock = tokio::time::interval(EVERY);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tokio::pin!(shutdown);
    tokio::select! {
        () = &mut shutdown => return,
        _ = context.synced.wait() => {}
    }
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            Some(change) = changes.next() => carriers.hear(change),
            _ = clock.tick() => {
                let work = async {
                    context.search(&mut carriers, &mut searched).await;
                    context.look(&mut carriers).await;
                };
                tokio::select! {
                    () = &mut shutdown => return,
                    () = work => {}
                }
            }
        }
    }
}

/// What is watched of a kind: all, or what has a label. Of Jobs and pods there may be a great many.
fn watched(kind: WorkloadKind) -> Vec<(WorkloadKind, Option<&'static str>, &'static [Mark])> {
    let held: (_, _, &[Mark]) = (kind, Some(names::HOOK_LABEL), &[Mark::Finalizer]);
    let completed: (_, _, &[Mark]) = (kind, Some(names::COMPLETED_LABEL), &[Mark::Completed]);
    match kind {
        WorkloadKind::Pod => vec![completed],
        WorkloadKind::Job => vec![held, completed],
        _ => vec![(kind, None, &[Mark::Finalizer, Mark::Completed])],
    }
}

fn changes(
    client: &Client,
    kind: WorkloadKind,
    labelled: Option<&str>,
    marks: &'static [Mark],
) -> futures::stream::BoxStream<'static, Change> {
    let config = match labelled {
        Some(label) => everything().labels(label),
        None => everything(),
    };
    watcher(Api::all_with(client.clone(), &resource(kind)), config)
        .backoff(Reopen::default())
        .filter_map(move |event| {
            let event = event.inspect_err(|error| {
                tracing::warn!(kind = kind.traits().name, %error, "watch failed; reopening it");
            });
            std::future::ready(event.ok().map(|event| (kind, marks, event)))
        })
        .boxed()
}

impl Carriers {
    fn hear(&mut self, (kind, marks, event): Change) {
        match event {
            watcher::Event::Apply(found) | watcher::Event::InitApply(found) => {
                let meta = &found.metadata;
                for mark in marks {
                    self.note(mark.on(kind, meta), meta, mark.is_on(meta));
                }
            }
            watcher::Event::Delete(gone) => {
                for mark in marks {
                    self.all.remove(&mark.on(kind, &gone.metadata));
                }
            }
            // What went unseen is found to be gone when it is looked at.
            watcher::Event::Init | watcher::Event::InitDone => {}
        }
    }

    fn note(&mut self, object: Object, meta: &ObjectMeta, carries: bool) {
        if !carries {
            self.all.remove(&object);
            return;
        }
        let new = Carrier {
            deleting: false,
            since: None,
            not_before: Instant::now(),
        };
        let carrier = self.all.entry(object).or_insert(new);
        carrier.deleting = meta.deletion_timestamp.is_some();
    }

    /// What has been nobody's for long enough, given what somebody is concerned with.
    fn due(&mut self, concerned: impl Fn(&Object) -> bool, now: Instant) -> Vec<Object> {
        let mut due = Vec::new();
        for (object, carrier) in &mut self.all {
            if concerned(object) {
                carrier.since = None;
                continue;
            }
            let since = *carrier.since.get_or_insert(now);
            let released = self.released.get(object).copied().unwrap_or_default();
            let grace = Duration::try_from(grace(carrier.deleting, released)).unwrap_or_default();
            if now >= (since + grace).max(carrier.not_before) {
                due.push(object.clone());
            }
        }
        due
    }

    fn looked(&mut self, object: &Object, look: Result<Look, ()>, now: Instant) {
        match look {
            Ok(Look::Clean) => {
                self.all.remove(object);
            }
            Ok(Look::Released) => {
                self.all.remove(object);
                *self.released.entry(object.clone()).or_default() += 1;
            }
            Ok(Look::Concerned) | Err(()) => {
                if let Some(carrier) = self.all.get_mut(object) {
                    carrier.not_before = now + PAUSE;
                }
            }
        }
    }
}

impl Context {
    async fn look(&self, carriers: &mut Carriers) {
        for canary in self.caches.config_maps.state() {
            let meta = &canary.metadata;
            let carries = has_finalizer(meta, names::CANARY_FINALIZER);
            carriers.note(of_canary(meta), meta, carries);
        }
        let (named, living) = (self.named(), self.living());
        let concerned = |object: &Object| match object {
            Object::Workload(kind, namespace, name) | Object::Completed(kind, namespace, name) => {
                named.contains(&(*kind, namespace.clone(), name.clone()))
            }
            Object::Canary(namespace, _) => self
                .canary(object)
                .and_then(|canary| Some((namespace.clone(), hook_of(&canary.metadata)?.to_owned())))
                .is_some_and(|hook| living.contains(&hook)),
        };
        for object in carriers.due(concerned, Instant::now()) {
            let look = match &object {
                Object::Workload(kind, namespace, name) => {
                    release_workload(&self.writer, *kind, namespace, name).await
                }
                Object::Completed(kind, namespace, name) => {
                    unlabel_completed(&self.writer, *kind, namespace, name).await
                }
                Object::Canary(..) => match self.canary(&object) {
                    Some(canary) => remove_canary(&self.writer, &canary.bare()).await,
                    None => Ok(Look::Clean),
                },
            };
            match &look {
                Ok(Look::Released) => {
                    tracing::info!(?object, "released an object that belongs to no hook")
                }
                Ok(look) => tracing::debug!(?object, ?look, "checked"),
                Err(error) => self.failed(error),
            }
            carriers.looked(&object, look.map_err(|_| ()), Instant::now());
        }
    }

    /// What no watch tells, where it does harm: finalizers without our labels keep a namespace for ever.
    async fn search(&self, carriers: &mut Carriers, searched: &mut HashMap<String, Instant>) {
        let terminating: BTreeSet<String> = self
            .caches
            .namespaces
            .state()
            .iter()
            .filter(|namespace| namespace.metadata.deletion_timestamp.is_some())
            .map(|namespace| namespace.name_any())
            .collect();
        searched.retain(|namespace, _| terminating.contains(namespace));
        for namespace in terminating {
            // Not at once: most namespaces are gone in a moment.
            let next = searched
                .entry(namespace.clone())
                .or_insert_with(|| Instant::now() + SEARCH);
            if Instant::now() < *next {
                continue;
            }
            *next = Instant::now() + SEARCH;
            if let Err(error) = self.search_in(&namespace, carriers).await {
                self.failed(&error);
            }
        }
    }

    async fn search_in(&self, namespace: &str, carriers: &mut Carriers) -> Result<(), Error> {
        let listing = |plural: &str| Error::of(Act::List, format!("{plural} in {namespace}"));
        // The operator puts it on no pod, but a manifest may have it.
        for kind in [WorkloadKind::Job, WorkloadKind::Pod] {
            let api: Api<Metadata<DynamicObject>> =
                Api::namespaced_with(self.writer.client.clone(), namespace, &resource(kind));
            let found = pages::all(&api, ListParams::default()).await;
            for found in found.map_err(listing(kind.traits().plural))? {
                let (meta, mark) = (&found.metadata, Mark::Finalizer);
                carriers.note(mark.on(kind, meta), meta, mark.is_on(meta));
            }
        }
        let maps: Api<Metadata<ConfigMap>> = Api::namespaced(self.writer.client.clone(), namespace);
        let found = pages::all(&maps, ListParams::default()).await;
        for found in found.map_err(listing("ConfigMaps"))? {
            let metadata = found.metadata;
            let unlabelled = hook_of(&metadata).is_none();
            if unlabelled && has_finalizer(&metadata, names::CANARY_FINALIZER) {
                let canary = ConfigMap {
                    metadata,
                    ..ConfigMap::default()
                };
                remove_canary(&self.writer, &canary).await?;
            }
        }
        Ok(())
    }

    /// The workloads that hooks and guards in the caches name.
    fn named(&self) -> BTreeSet<(WorkloadKind, String, String)> {
        let hooks = self.caches.hooks.state();
        let of_hooks = hooks.iter().filter(|hook| !is_released(&hook.metadata));
        let of_hooks = of_hooks.filter_map(|hook| {
            let workload = &hook.spec.workload;
            let kind = workload.known_kind()?;
            Some((kind, hook.namespace()?, workload.name.clone()))
        });
        let guards = self.caches.guards.state();
        let of_guards = guards.iter().filter_map(|guard| {
            let (hook, workload) = (&guard.spec.hook, &guard.spec.workload);
            let kind = workload.known_kind()?;
            Some((kind, hook.namespace.clone(), workload.name.clone()))
        });
        of_hooks.chain(of_guards).collect()
    }

    /// Namespaces and uids of the hooks in the caches, and of those that a guard is left of.
    fn living(&self) -> BTreeSet<(String, String)> {
        let hooks = self.caches.hooks.state();
        let of_hooks = hooks.iter().filter(|hook| !is_released(&hook.metadata));
        let of_hooks = of_hooks.filter_map(|hook| Some((hook.namespace()?, hook.uid()?)));
        let guards = self.caches.guards.state();
        let of_guards = guards.iter().map(|guard| {
            let hook = &guard.spec.hook;
            (hook.namespace.clone(), hook.uid.clone())
        });
        of_hooks.chain(of_guards).collect()
    }

    fn canary(&self, object: &Object) -> Option<std::sync::Arc<slim::ConfigMap>> {
        let Object::Canary(namespace, name) = object else {
            return None;
        };
        let reference = kube::runtime::reflector::ObjectRef::new(name).within(namespace);
        self.caches.config_maps.get(&reference)
    }

    fn failed(&self, error: &Error) {
        let class = error.class();
        self.metrics.reconcile_failed("strays", class);
        match class {
            Class::Conflict => tracing::debug!(%error, "somebody was faster; looking again"),
            _ => {
                tracing::warn!(%error, "releasing an object that belongs to no hook failed; retrying")
            }
        }
    }
}

fn of_canary(meta: &ObjectMeta) -> Object {
    let (namespace, name) = (meta.namespace.clone(), meta.name.clone());
    Object::Canary(namespace.unwrap_or_default(), name.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::build::{self, Build, NAME};
    use serde_json::json;

    const KIND: WorkloadKind = WorkloadKind::Deployment;

    const MARKS: &[Mark] = &[Mark::Finalizer, Mark::Completed];

    fn change(workload: Build) -> Change {
        // As it is read.
        let read = serde_json::from_value(workload.0).expect("an object");
        (KIND, MARKS, watcher::Event::Apply(read))
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_names_is_due_after_some_seconds_and_what_somebody_names_never() {
        let held = || build::deployment(NAME).finalizer(names::SHUTDOWN_FINALIZER);
        let mut carriers = Carriers::default();
        carriers.hear(change(build::deployment("plain")));
        carriers.hear(change(held()));
        let object = Mark::Finalizer.on(KIND, &held().meta());
        let due = |carriers: &mut Carriers, named: bool| carriers.due(|_| named, Instant::now());
        assert!(
            due(&mut carriers, false).is_empty(),
            "its hook may be on its way"
        );
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(due(&mut carriers, true).is_empty(), "here it is");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(due(&mut carriers, false).is_empty(), "it went just now");
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(due(&mut carriers, false), std::slice::from_ref(&object));
        carriers.looked(&object, Ok(Look::Concerned), Instant::now());
        assert!(
            due(&mut carriers, false).is_empty(),
            "a hook that the cache has not heard of"
        );
        tokio::time::advance(PAUSE).await;
        assert_eq!(due(&mut carriers, false), std::slice::from_ref(&object));
        carriers.looked(&object, Ok(Look::Released), Instant::now());
        // Somebody puts it back.
        carriers.hear(change(held().deleting()));
        assert!(due(&mut carriers, false).is_empty());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(due(&mut carriers, false).is_empty());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(due(&mut carriers, false), [object]);
        carriers.hear(change(build::deployment(NAME)));
        assert!(carriers.all.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_says_that_it_is_complete_is_nobodys_by_itself() {
        let labelled = || {
            let labels = json!({names::COMPLETED_LABEL: "app"});
            build::deployment(NAME).with("/metadata/labels", labels)
        };
        let mut carriers = Carriers::default();
        carriers.hear(change(labelled()));
        let due = |carriers: &mut Carriers| carriers.due(|_| false, Instant::now());
        assert!(due(&mut carriers).is_empty(), "its hook may be on its way");
        tokio::time::advance(Duration::from_secs(10)).await;
        let object = Mark::Completed.on(KIND, &labelled().meta());
        assert_eq!(due(&mut carriers), [object]);
        // It is told as a deletion when the label goes.
        let gone = watcher::Event::Delete(Metadata::of(labelled().meta()));
        carriers.hear((KIND, MARKS, gone));
        assert!(carriers.all.is_empty());
    }
}
