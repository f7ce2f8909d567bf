//! Reading: caches that watches keep up to date, and live reads where a removal is decided.
//!
//! The workload itself is read live each time: whether it is being deleted, and what its template
//! contains, must not depend on how far a cache is behind. While it is being deleted, everything
//! that the decision depends on is read live.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams};
use kube::core::{ApiResource, DynamicObject, GroupVersion};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt};

use super::addresses::{Addresses, is_out_of_service};
use super::{Act, Error, pages, slim};
use crate::api::{DependentKind, HookCertificate, HookGuard, KrakeHook, WorkloadKind, names};
use crate::decide::bare;
use crate::decide::pods::{has_ours, is_finished, keep_own};
use crate::decide::seen::{
    CallsMade, Secrets, controller_of, has_finalizer, is_owned_by, is_released,
};
use crate::decide::{Seen, Workload};

/// Nodes that are read at once.
const NODES_AT_ONCE: usize = 8;

/// What watches have received.
#[derive(Clone)]
pub struct Caches {
    /// All hooks.
    pub hooks: Store<KrakeHook>,
    /// ReplicaSets with a hook's label.
    pub replica_sets: Store<slim::Metadata<ReplicaSet>>,
    /// Pods with a hook's label.
    pub pods: Store<slim::Pod>,
    /// ConfigMaps that are ours.
    pub config_maps: Store<slim::ConfigMap>,
    /// All certificates.
    pub certificates: Store<HookCertificate>,
    /// All guards.
    pub guards: Store<HookGuard>,
    /// What is never called.
    pub addresses: Addresses,
    /// All namespaces.
    pub namespaces: Store<slim::Metadata<Namespace>>,
}

/// Everything a decision about this hook is made from.
pub async fn observe(client: &Client, caches: &Caches, hook: &KrakeHook) -> Result<Seen, Error> {
    let namespace = hook.namespace().unwrap_or_default();
    let name = hook.name_any();
    let uid = hook.uid().unwrap_or_default();
    let labelled = |meta: &ObjectMeta| {
        meta.namespace.as_deref() == Some(namespace.as_str())
            && label(meta, names::HOOK_LABEL) == Some(&name)
    };
    let object = names::of_hook(&name, &uid);
    let mut seen = Seen {
        rival: rival(caches, hook),
        // Read last, below: what a cache says of what it made must not be younger than this, or the
        // garbage collector's first step would be seen before the deletion it belongs to.
        workload: None,
        replica_sets: caches
            .replica_sets
            .state_filter(|set| labelled(&set.metadata))
            .iter()
            .map(|set| set.metadata.clone())
            .collect(),
        pods: caches
            .pods
            .state_filter(|pod| labelled(&pod.metadata))
            .iter()
            .map(|pod| pod.whole())
            .collect(),
        looked_live: false,
        lost_nodes: Vec::new(),
        guard: caches
            .guards
            .get(&ObjectRef::new(&uid))
            .map(|guard| guard.as_ref().clone()),
        config_map: caches
            .config_maps
            .get(&ObjectRef::new(&object).within(&namespace))
            .map(|config_map| config_map.entries.clone().unwrap_or_default()),
        certificate: caches
            .certificates
            .get(&ObjectRef::new(&object).within(&namespace))
            .map(|certificate| certificate.as_ref().clone()),
        canaries: caches
            .config_maps
            .state_filter(|c| {
                // Anybody can set the label in another namespace.
                c.namespace().as_deref() == Some(&namespace)
                    && label(&c.metadata, names::CANARY_LABEL) == Some(&uid)
            })
            .iter()
            .map(|canary| canary.bare())
            .collect(),
        service: None,
        callable: Vec::new(),
        namespace_terminating: caches
            .namespaces
            .get(&ObjectRef::new(&namespace))
            .is_some_and(|ns| ns.metadata.deletion_timestamp.is_some()),
        never_called: BTreeSet::new(),
        calls: CallsMade::default(),
        secrets: Secrets::default(),
        leaving_since: None,
        injections: Vec::new(),
        token: None,
        refusal: None,
        rejections: Vec::new(),
        hook_gone: false,
        hook: hook.clone(),
    };
    (seen.workload, seen.service) = futures::try_join!(
        workload(client, seen.kind(), &namespace, &hook.spec.workload.name),
        service(client, hook),
    )?;
    let guarded = |meta: &ObjectMeta| {
        let guard = seen.guard.as_ref().and_then(|g| g.metadata.uid.as_deref());
        guard.is_some_and(|guard| is_owned_by(meta, guard))
    };
    let deciding = match &seen.workload {
        Some(workload) => {
            workload.metadata.deletion_timestamp.is_some()
                || seen.namespace_terminating
                || seen.depends_on_pods()
        }
        None => seen.dependents().any(|(_, meta)| guarded(meta)),
    };
    if deciding {
        look_live(client, &caches.addresses, &mut seen).await?;
        seen.never_called = caches.addresses.never_called();
    } else {
        add_bare(client, &mut seen, None).await?;
        keep_own(&mut seen);
    }
    Ok(seen)
}

/// Adds, live, what the workload has made without the hook's label, if it may have. Its ReplicaSets
/// may be listed already.
async fn add_bare(
    client: &Client,
    seen: &mut Seen,
    listed: Option<Vec<ObjectMeta>>,
) -> Result<(), Error> {
    let Some(workload) = &seen.workload else {
        return Ok(());
    };
    let namespace = workload.metadata.namespace.as_deref().unwrap_or_default();
    let uid = workload.metadata.uid.as_deref().unwrap_or_default();
    let labels = selector(&workload.selector);
    if bare::may_have_sets(seen, workload) {
        let made = match listed {
            Some(listed) => listed,
            None => replica_sets(client, namespace, &labels).await?,
        };
        let mut made: Vec<_> = made.into_iter().filter(|s| is_owned_by(s, uid)).collect();
        seen.replica_sets.retain(|known| !has(&made, known));
        seen.replica_sets.append(&mut made);
    }
    if bare::may_have_pods(seen, workload) {
        let made = pods(client, namespace, &labels).await?;
        let sets = &seen.replica_sets;
        let of_a_set = |pod: &Pod| {
            controller_of(&pod.metadata)
                .is_some_and(|owner| sets.iter().any(|set| set.uid.as_ref() == Some(&owner.uid)))
        };
        let mut made: Vec<_> = made
            .into_iter()
            .filter(|pod| is_owned_by(&pod.metadata, uid) || of_a_set(pod))
            .collect();
        let found: Vec<_> = made.iter().map(|pod| pod.metadata.clone()).collect();
        seen.pods.retain(|known| !has(&found, &known.metadata));
        seen.pods.append(&mut made);
    }
    Ok(())
}

fn has(some: &[ObjectMeta], one: &ObjectMeta) -> bool {
    some.iter().any(|other| other.uid == one.uid)
}

/// The workload, live. There is none of a kind that only another version knows.
pub async fn workload(
    client: &Client,
    kind: Option<WorkloadKind>,
    namespace: &str,
    name: &str,
) -> Result<Option<Workload>, Error> {
    let Some(kind) = kind else { return Ok(None) };
    let found = workloads(client, kind, namespace)
        .get_opt(name)
        .await
        .and_then(|found| found.map(|object| read(kind, object)).transpose());
    found.map_err(Error::of(Act::Get, format!("{kind} {namespace}/{name}")))
}

/// The workloads of one kind in a namespace.
pub fn workloads(client: &Client, kind: WorkloadKind, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &resource(kind))
}

/// Where the API server has workloads of a kind.
pub fn resource(kind: WorkloadKind) -> ApiResource {
    let traits = kind.traits();
    api_resource(traits.api_version, traits.name, traits.plural)
}

/// Where the API server has what workloads make.
pub fn dependent_resource(kind: DependentKind) -> ApiResource {
    api_resource(kind.api_version(), kind.as_str(), kind.plural())
}

fn api_resource(api_version: &str, kind: &str, plural: &str) -> ApiResource {
    let version: GroupVersion = api_version.parse().expect("the table has API versions");
    ApiResource::from_gvk_with_plural(&version.with_kind(kind), plural)
}

/// A workload as the API server shows it.
pub fn read(kind: WorkloadKind, object: DynamicObject) -> Result<Workload, kube::Error> {
    Workload::read(kind, object.metadata, &object.data).map_err(kube::Error::SerdeError)
}

/// ReplicaSets, live, that match a label selector.
pub async fn replica_sets(
    client: &Client,
    namespace: &str,
    labels: &str,
) -> Result<Vec<ObjectMeta>, Error> {
    let api: Api<slim::Metadata<ReplicaSet>> = Api::namespaced(client.clone(), namespace);
    let found = pages::all(&api, ListParams::default().labels(labels))
        .await
        .map_err(Error::of(Act::List, format!("ReplicaSets in {namespace}")))?;
    Ok(found.into_iter().map(|set| set.metadata).collect())
}

/// Pods, live, that match a label selector.
pub async fn pods(client: &Client, namespace: &str, labels: &str) -> Result<Vec<Pod>, Error> {
    let api: Api<slim::Pod> = Api::namespaced(client.clone(), namespace);
    let found = pages::all(&api, ListParams::default().labels(labels))
        .await
        .map_err(Error::of(Act::List, format!("pods in {namespace}")))?;
    Ok(found.iter().map(slim::Pod::whole).collect())
}

/// The Service that a hook names, live: caching all Services is not worth it.
async fn service(client: &Client, hook: &KrakeHook) -> Result<Option<Service>, Error> {
    let Some(name) = service_name(hook) else {
        return Ok(None);
    };
    let namespace = hook.metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<slim::Service> = Api::namespaced(client.clone(), namespace);
    let found = api
        .get_opt(name)
        .await
        .map_err(Error::of(Act::Get, format!("Service {namespace}/{name}")))?;
    Ok(found.map(slim::Service::whole))
}

/// Where canaries of a hook are looked for, live.
#[derive(Clone, Copy, Debug)]
pub enum Canaries<'a> {
    /// By their label, and by their names for the workloads of these uids: labels can be taken off.
    Of(&'a [&'a str]),
    /// In all ConfigMaps of the namespace, for nobody knows any more which workloads there were.
    Everywhere,
}

/// Canaries of a hook, live.
pub async fn canaries(
    client: &Client,
    namespace: &str,
    (hook, hook_uid): (&str, &str),
    among: Canaries<'_>,
) -> Result<Vec<ConfigMap>, Error> {
    let api: Api<slim::Metadata<ConfigMap>> = Api::namespaced(client.clone(), namespace);
    let listing = |source| Error::of(Act::List, format!("ConfigMaps in {namespace}"))(source);
    let params = ListParams::default();
    let found = match among {
        Canaries::Everywhere => pages::all(&api, params).await.map_err(listing)?,
        Canaries::Of(workloads) => {
            let labels = format!("{}={hook_uid}", names::CANARY_LABEL);
            let labelled = pages::all(&api, params.labels(&labels));
            let names: BTreeSet<_> = workloads
                .iter()
                .map(|uid| names::canary(hook, uid))
                .collect();
            let named = names.iter().map(|name| api.get_opt(name));
            let (mut found, named) =
                futures::try_join!(labelled, futures::future::try_join_all(named))
                    .map_err(listing)?;
            for canary in named.into_iter().flatten() {
                let is_it = |known: &slim::Metadata<_>| known.metadata.uid == canary.metadata.uid;
                if !found.iter().any(is_it) {
                    found.push(canary);
                }
            }
            found
        }
    };
    Ok(found
        .into_iter()
        .map(|item| item.metadata)
        .filter(|meta| is_canary(meta, hook, hook_uid))
        .map(|metadata| ConfigMap {
            metadata,
            ..ConfigMap::default()
        })
        .collect())
}

fn is_canary(meta: &ObjectMeta, hook: &str, hook_uid: &str) -> bool {
    let named = meta
        .name
        .as_deref()
        .and_then(|name| name.strip_prefix(&format!("{hook}-canary-")))
        .is_some_and(|end| end.len() == 8);
    has_finalizer(meta, names::CANARY_FINALIZER)
        && match label(meta, names::CANARY_LABEL) {
            Some(uid) => uid == hook_uid,
            None => named,
        }
}

/// The selector of what has all these labels.
pub fn selector(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<_> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

/// Label selector of a hook's ReplicaSets and pods.
pub fn hook_selector(hook: &str) -> String {
    format!("{}={hook}", names::HOOK_LABEL)
}

async fn look_live(client: &Client, addresses: &Addresses, seen: &mut Seen) -> Result<(), Error> {
    let namespace = seen.namespace().to_owned();
    let hook = seen.hook_name().to_owned();
    let uid = seen.hook_uid().to_owned();
    let behind_the_service = seen
        .hook
        .status
        .as_ref()
        .and_then(|s| s.call_out.as_ref())
        .map(|call_out| selector(&call_out.selector))
        .filter(|selector| !selector.is_empty());
    let labels = hook_selector(&hook);
    let status = seen.hook.status.as_ref();
    let remembered = status.and_then(|status| Some(status.workload.as_ref()?.uid.as_str()));
    let present = seen
        .workload
        .as_ref()
        .and_then(|w| w.metadata.uid.as_deref());
    let workloads: Vec<&str> = remembered.into_iter().chain(present).collect();
    // A removal waits for this: everything that is known to be needed is read at once.
    let bare = async {
        match &seen.workload {
            Some(workload) if bare::may_have_sets(seen, workload) => {
                let labels = selector(&workload.selector);
                replica_sets(client, &namespace, &labels).await.map(Some)
            }
            _ => Ok(None),
        }
    };
    // Without its guard nothing of a workload's is known to be kept, and a removal would go on: a watch
    // that has not told of it yet is not believed.
    let guard = async {
        let guards: Api<HookGuard> = Api::all(client.clone());
        let guard = guards.get_opt(&uid).await;
        guard.map_err(Error::of(Act::Get, format!("HookGuard {uid}")))
    };
    let (guard, sets, bare, own, canaries, callable) = futures::try_join!(
        guard,
        replica_sets(client, &namespace, &labels),
        bare,
        pods(client, &namespace, &labels),
        canaries(client, &namespace, (&hook, &uid), Canaries::Of(&workloads)),
        async {
            match &behind_the_service {
                Some(selector) => pods(client, &namespace, selector).await,
                None => Ok(Vec::new()),
            }
        },
    )?;
    seen.looked_live = true;
    seen.guard = guard;
    seen.replica_sets = sets;
    seen.pods = own;
    add_bare(client, seen, bare).await?;
    seen.canaries = canaries;
    seen.callable = callable;
    keep_own(seen);
    seen.lost_nodes = lost_nodes(client, addresses, seen).await?;
    Ok(())
}

/// Nodes of this hook's pods that are gone or out of service: all of them, because whoever counts pods
/// waits for none on a lost node, however many others live. The watch tells which may be, the API
/// server whether they are.
async fn lost_nodes(
    client: &Client,
    addresses: &Addresses,
    seen: &Seen,
) -> Result<Vec<String>, Error> {
    let nodes: BTreeSet<&str> = seen
        .pods
        .iter()
        .filter(|pod| has_ours(seen, pod) && !is_finished(pod))
        .filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref())
        .filter(|node| addresses.has_lost(node))
        .collect();
    let looks: Vec<_> = nodes
        .into_iter()
        .map(|name| lost_node(Api::all(client.clone()), name.to_owned()))
        .collect();
    let looks = stream::iter(looks).buffered(NODES_AT_ONCE);
    let lost: Vec<Option<String>> = looks.try_collect().await?;
    Ok(lost.into_iter().flatten().collect())
}

async fn lost_node(api: Api<Node>, name: String) -> Result<Option<String>, Error> {
    let node = api.get_opt(&name).await;
    let node = node.map_err(Error::of(Act::Get, format!("Node {name}")))?;
    Ok(node
        .is_none_or(|node| is_out_of_service(&node))
        .then_some(name))
}

/// An older hook for the same workload, unless it is let go. Of the same age, the smaller name is the
/// older.
fn rival(caches: &Caches, hook: &KrakeHook) -> Option<String> {
    let age = |hook: &KrakeHook| {
        let created = hook.metadata.creation_timestamp.clone();
        (created, hook.metadata.name.clone())
    };
    caches
        .hooks
        .state_filter(|other| {
            other.metadata.namespace == hook.metadata.namespace
                && other.spec.workload == hook.spec.workload
                && other.metadata.uid != hook.metadata.uid
                && !is_released(&other.metadata)
                && age(other) < age(hook)
        })
        .iter()
        .min_by_key(|other| age(other))
        .map(|other| other.name_any())
}

fn service_name(hook: &KrakeHook) -> Option<&str> {
    let call_out = hook.spec.shutdown.as_ref()?.call_out.as_ref()?;
    Some(&call_out.service.as_ref()?.name)
}

fn label<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a String> {
    meta.labels.as_ref()?.get(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use crate::testing::build::{self, NAME};
    use kube::runtime::{reflector, watcher};
    use serde_json::{Value, json};
    use std::sync::{Arc, Mutex};

    /// A server that has the Deployment and the guard, and caches that have heard of neither.
    async fn seen(deleted: Option<&str>) -> Seen {
        let deployment = build::deployment(NAME)
            .with("/metadata/uid", json!("workload"))
            .with("/metadata/deletionTimestamp", json!(deleted));
        let deployment = serde_json::to_value(deployment.0).unwrap();
        let guard = build::guard(NAME, "hook", "guard").guard();
        let guard = serde_json::to_value(guard).unwrap();
        let client = testing::answered_by(move |_, path| {
            let none = json!({"metadata": {}, "items": Value::Array(Vec::new())});
            match path {
                path if path.contains("/deployments/") => (200, deployment.clone()),
                path if path.contains("/hookguards/hook") => (200, guard.clone()),
                _ => (200, none),
            }
        });
        let mut hook = build::hook(NAME).shutdown().hook();
        hook.metadata.uid = Some("hook".into());
        let seen = observe(&client, &testing::caches(), &hook).await;
        seen.expect("everything is answered")
    }

    /// A pod of the hook on each node; nodes b and c are lost.
    #[tokio::test]
    async fn nodes_are_lost_whichever_others_live() {
        let hook = build::hook(NAME).shutdown().uid("hook").hook();
        let stamp = format!("{}-1", crate::decide::inject::stamp_prefix("hook"));
        let pod = |node: &str| {
            let pod = build::pod(node)
                .stamp(&stamp)
                .owner("ReplicaSet", "workload");
            let pod = pod.with("/spec/nodeName", json!(node)).0;
            serde_json::to_value(pod).unwrap()
        };
        let pods = ["a", "b", "c", "d"].map(pod);
        let pods = json!({"metadata": {}, "items": pods});
        let deployment = build::deployment(NAME).uid("workload").deleting().0;
        let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
            "reason": "NotFound", "message": "gone"});
        let node =
            |taints: Value| json!({"metadata": {"name": "node"}, "spec": {"taints": taints}});
        let out = json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]);
        let client = testing::answered_by(move |_, path| match path {
            path if path.contains("/deployments/") => (200, deployment.clone()),
            path if path.contains("/hookguards/") => (404, gone.clone()),
            path if path.ends_with("/nodes/a") => (500, gone.clone()),
            path if path.ends_with("/nodes/b") => (404, gone.clone()),
            path if path.ends_with("/nodes/c") => (200, node(out.clone())),
            path if path.contains("/nodes/") => (200, node(Value::Null)),
            path if path.contains("/pods") => (200, pods.clone()),
            _ => (
                200,
                json!({"metadata": {}, "items": Value::Array(Vec::new())}),
            ),
        });
        let (nodes, mut writer) = reflector::store();
        let mut caches = testing::caches();
        caches.addresses.nodes = nodes;
        // Of a nobody has to ask; the watch has not heard of the others.
        writer.apply_watcher_event(&watcher::Event::Apply(Node {
            metadata: ObjectMeta {
                name: Some("a".into()),
                ..ObjectMeta::default()
            },
            ..Node::default()
        }));
        let seen = observe(&client, &caches, &hook).await.unwrap();
        assert_eq!(seen.lost_nodes, ["b", "c"]);
    }

    #[tokio::test]
    async fn a_removal_asks_for_its_guard_whatever_the_watch_has_told() {
        let guard_of = |seen: Seen| seen.guard.and_then(|guard| guard.uid());
        let deleted = seen(Some("2026-01-01T00:00:00Z")).await;
        assert_eq!(guard_of(deleted).as_deref(), Some("guard"));
        // Without a removal it is made, or found, before anything depends on it.
        assert_eq!(guard_of(seen(None).await), None);
    }

    /// However many ConfigMaps a tenant has, a look asks for the canaries of this hook alone.
    #[tokio::test]
    async fn canaries_are_asked_for_by_label_and_by_name() {
        const WORKLOAD: &str = "0f3a9c1e-77aa-4c0f-9b1a-2f6d1e7c8b90";
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let canary = names::canary("app", WORKLOAD);
        let name = canary.clone();
        let client = testing::answered_by(move |_, path| {
            let path = path.to_owned();
            let is_it = path.ends_with(&name);
            log.lock().unwrap().push(path);
            let canary = json!({"metadata": {"name": name, "uid": "c",
                "finalizers": [names::CANARY_FINALIZER]}});
            match is_it {
                true => (200, canary),
                false => (200, json!({"metadata": {}, "items": []})),
            }
        });
        let of = ("app", "hook");
        let found = canaries(&client, "ml", of, Canaries::Of(&[WORKLOAD])).await;
        let found: Vec<_> = found.unwrap().into_iter().map(|c| c.name_any()).collect();
        assert_eq!(found, [canary], "its labels were taken off");
        let asked = asked.lock().unwrap();
        let lists: Vec<_> = asked.iter().filter(|path| path.contains('?')).collect();
        assert_eq!((asked.len(), lists.len()), (2, 1), "{asked:?}");
        assert!(lists[0].contains("labelSelector="), "{lists:?}");
    }
}
