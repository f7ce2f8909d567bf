//! The watches, each once, and what they wake.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures::{Stream, StreamExt, TryStreamExt, future};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::Api;
use kube::core::DynamicObject;
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use super::backoff::Reopen;
use super::belongs::{
    by_certificate, by_namespace, by_service, by_uid, by_workload, successors_of_deleted_hook,
};
use super::everything;
use super::feed::Feed;
use super::readable::{watch, watch_in};
use super::synced::{Synced, Waiter};
use crate::api::{HookGuard, KrakeHook, WorkloadKind, names};
use crate::cluster::addresses::{self, Addresses};
use crate::cluster::observe::{self, Caches};
use crate::cluster::slim::{self, Metadata};
use crate::metrics::Metrics;

/// What wakes the reconcile of a hook.
type Triggers = futures::stream::BoxStream<'static, Vec<ObjectRef<KrakeHook>>>;

/// The caches, and what wakes a hook's reconcile.
pub struct Watches {
    /// What watches have received.
    pub caches: Caches,
    /// Waits until all watches have completed their initial list.
    pub synced: Waiter,
    /// Gets what [`run`](Self::run) hears.
    pub feed: Feed,
    changes: Triggers,
}

impl Watches {
    /// Keeps the caches up to date, and feeds the changes on, until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = self.changes.next() => match changed {
                    Some(hooks) => self.feed.tell(&hooks),
                    None => return,
                }
            }
        }
    }
}

/// Opens every watch; nothing flows until the streams are polled.
pub fn watches(client: &Client, api_servers: BTreeSet<IpAddr>, metrics: &Metrics) -> Watches {
    let (hooks, hook_writer) = reflector::store();
    let (replica_sets, replica_set_writer) = reflector::store();
    let (pods, pod_writer) = reflector::store();
    let (config_maps, config_map_writer) = reflector::store();
    let (certificates, certificate_writer) = reflector::store();
    let (guards, guard_writer) = reflector::store();
    let (services, service_writer) = reflector::store();
    let (namespaces, namespace_writer) = reflector::store();
    let (nodes, node_writer) = reflector::store();
    let (endpoint_slices, endpoint_slice_writer) = reflector::store();
    let mut synced = Synced::new();
    let caches = Caches {
        hooks,
        replica_sets,
        pods,
        config_maps,
        certificates,
        guards,
        addresses: Addresses {
            api_servers,
            nodes,
            endpoint_slices,
            services,
        },
        namespaces,
    };
    let feed = Feed::new(caches.hooks.clone());
    let news = feed.clone();
    // When a hook is deleted, the next-oldest hook of its workload takes over; no other event would wake it.
    let (successors, successor_rx) = mpsc::unbounded_channel();
    let successors_of = successors_of_deleted_hook(&caches.hooks);
    let name_kind = tokio::sync::watch::Sender::new(BTreeSet::new());
    let named = name_kind.subscribe();
    let hooks = watch(client, everything(), &caches.hooks, metrics)
        .modify(slim::slim)
        .reflect(hook_writer)
        .inspect_ok(move |event| {
            // The receiver is dropped only when the process ends.
            let _ = successors.send(successors_of(event));
            if let watcher::Event::Apply(hook) | watcher::Event::InitApply(hook) = event
                && let Some(kind) = hook.spec.workload.known_kind()
            {
                name_kind.send_if_modified(|named| named.insert(kind));
            }
        });
    let labelled = || everything().labels(names::HOOK_LABEL);
    let ours = || {
        everything().labels(&format!(
            "{}={}",
            names::MANAGED_BY_LABEL,
            names::MANAGED_BY
        ))
    };
    let of_the_api_server =
        || everything().fields(&format!("metadata.name={}", addresses::KUBERNETES));
    let by_label = |meta: &ObjectMeta| {
        let name = meta.labels.as_ref()?.get(names::HOOK_LABEL)?;
        Some(ObjectRef::new(name).within(meta.namespace.as_deref()?))
    };
    let by_owner_label = by_uid(&caches.hooks);
    let watched = WorkloadKind::all().filter(|kind| kind.traits().watched);
    let workloads: Vec<Triggers> = watched
        .map(|kind| {
            workloads(
                client,
                kind,
                by_workload(&caches.hooks, kind),
                named.clone(),
            )
        })
        .collect();
    let changes = [
        touched(&mut synced, hooks, move |hook: &KrakeHook| {
            news.news(hook).into_iter().collect()
        }),
        touched(
            &mut synced,
            watcher(Api::<Metadata<ReplicaSet>>::all(client.clone()), labelled())
                .reflect(replica_set_writer),
            move |set: &Metadata<ReplicaSet>| by_label(&set.metadata).into_iter().collect(),
        ),
        touched(
            &mut synced,
            watcher(Api::<slim::Pod>::all(client.clone()), labelled())
                .modify(slim::Pod::slim)
                .reflect(pod_writer),
            move |pod: &slim::Pod| by_label(&pod.metadata).into_iter().collect(),
        ),
        touched(
            &mut synced,
            watcher(Api::<slim::ConfigMap>::all(client.clone()), ours()).reflect(config_map_writer),
            by_owner_label.clone(),
        ),
        touched(
            &mut synced,
            watch(client, everything(), &caches.certificates, metrics)
                .modify(slim::slim)
                .reflect(certificate_writer),
            by_certificate(&caches.hooks),
        ),
        touched(
            &mut synced,
            watch(client, everything(), &caches.guards, metrics)
                .modify(slim::slim)
                .reflect(guard_writer),
            |guard: &HookGuard| {
                let hook = &guard.spec.hook;
                vec![ObjectRef::new(&hook.name).within(&hook.namespace)]
            },
        ),
        touched(
            &mut synced,
            // Only for the change: the Service itself is read when it is needed.
            watcher(Api::<Metadata<Service>>::all(client.clone()), everything()),
            by_service(&caches.hooks),
        ),
        touched(
            &mut synced,
            watcher(
                Api::<Metadata<Namespace>>::all(client.clone()),
                everything(),
            )
            .reflect(namespace_writer),
            by_namespace(&caches.hooks),
        ),
        touched(
            &mut synced,
            watch(client, everything(), &caches.addresses.nodes, metrics)
                .modify(addresses::slim)
                .reflect(node_writer),
            |_: &Node| Vec::new(),
        ),
        touched(
            &mut synced,
            watch_in(
                Api::namespaced(client.clone(), addresses::NAMESPACE),
                of_the_api_server(),
                &caches.addresses.endpoint_slices,
                metrics,
            )
            .modify(slim::slim)
            .reflect(endpoint_slice_writer),
            |_: &EndpointSlice| Vec::new(),
        ),
        touched(
            &mut synced,
            watch_in(
                Api::namespaced(client.clone(), addresses::NAMESPACE),
                of_the_api_server(),
                &caches.addresses.services,
                metrics,
            )
            .modify(slim::slim)
            .reflect(service_writer),
            |_: &Service| Vec::new(),
        ),
        UnboundedReceiverStream::new(successor_rx).boxed(),
    ];
    let changes = futures::stream::select_all(changes.into_iter().chain(workloads)).boxed();
    Watches {
        synced: synced.waiter(),
        feed,
        caches,
        changes,
    }
}

/// Changes of one kind as the hooks they belong to.
fn touched<K, S, F>(synced: &mut Synced, stream: S, hooks: F) -> Triggers
where
    K: Resource<DynamicType = ()> + Send + 'static,
    S: Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send + 'static,
    F: Fn(&K) -> Vec<ObjectRef<KrakeHook>> + Send + 'static,
{
    synced
        .counting(stream.backoff(Reopen::default()))
        .touched_objects()
        .filter_map(move |change| future::ready(told(&K::kind(&()), change, &hooks)))
        .boxed()
}

/// Changes of the workloads of one kind, as hooks. The watch is opened when the first hook names the
/// kind: a cluster may have a great many Jobs, and no hook for any. Nothing is decided from it, so
/// nobody waits for its first listing, which wakes every hook it concerns.
fn workloads<F>(
    client: &Client,
    kind: WorkloadKind,
    hooks: F,
    mut named: tokio::sync::watch::Receiver<BTreeSet<WorkloadKind>>,
) -> Triggers
where
    F: Fn(&Metadata<DynamicObject>) -> Vec<ObjectRef<KrakeHook>> + Send + 'static,
{
    let api = Api::all_with(client.clone(), &observe::resource(kind));
    let first = async move { named.wait_for(|named| named.contains(&kind)).await.is_ok() };
    futures::stream::once(first)
        .filter(|named| future::ready(*named))
        .flat_map(move |_| {
            watcher(api.clone(), everything())
                .backoff(Reopen::default())
                .touched_objects()
        })
        .filter_map(move |change| future::ready(told(kind.traits().name, change, &hooks)))
        .boxed()
}

/// The hooks that a change belongs to. An error is logged; the watch goes on.
fn told<K>(
    kind: &str,
    change: Result<K, watcher::Error>,
    hooks: impl Fn(&K) -> Vec<ObjectRef<KrakeHook>>,
) -> Option<Vec<ObjectRef<KrakeHook>>> {
    match change {
        Ok(object) => Some(hooks(&object)),
        Err(error) => {
            tracing::warn!(%kind, %error, "watch failed; reopening it");
            None
        }
    }
}
