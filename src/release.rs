//! `release-all`: takes every finalizer, guard and injected entry of ours off everything that lives,
//! and away what was made for the pods.
//!
//! It runs with a person's rights, and without the operator. Removals that wait are let go on, with
//! one exception that is no removal: what an orphaning deletion left alone lives on. Old ReplicaSets
//! in the rollout history keep their templates. Each step is safe to repeat, and nothing is remembered
//! but what stands in the cluster: whoever is interrupted, also by a SIGKILL, runs it again.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, ListParams};
use kube::core::{ApiResource, DeserializeGuard, DynamicObject};
use kube::{Client, Resource, ResourceExt};
use thiserror::Error;
use tokio::time::Instant;

use crate::api::{DependentKind, HookGuard, KrakeHook, WorkloadKind, names};
use crate::cluster::apply::Writer;
use crate::cluster::observe::Canaries;
use crate::cluster::role::Role;
use crate::cluster::{self, connect, observe, remains};
use crate::decide::seen::{Dependent, controller_of, has_finalizer};
use crate::decide::{Effect, Workload, farewell, inject, strays};

/// Why not everything was released.
#[derive(Debug, Error)]
pub enum ReleaseError {
    /// There is no cluster to talk to.
    #[error(transparent)]
    Connect(#[from] connect::ConnectError),
    /// A call failed.
    #[error("{0}; run release-all again")]
    Call(#[from] cluster::Error),
    /// Some were not released.
    #[error(
        "{0} object(s) were not released, each is named above: somebody else keeps changing them, or the API server refuses; is the operator still running? Run release-all again"
    )]
    Left(usize),
}

/// Objects that are worked on at once: each waits for the API server most of its time.
const AT_ONCE: usize = 16;
/// Guards whose pods are waited for at once.
const WAIT_AT_ONCE: usize = 256;
/// How many objects between two lines of progress.
const TOLD_EVERY: usize = 100;
/// The API server and its controllers write too: so many looks may be lost to them.
const LOOKS: usize = 20;

/// Workloads that are listed at once.
const PAGE: u32 = 100;

/// Releases everything. `wait` is for pods that still use injected Secrets to be replaced.
pub async fn release_all(wait: Duration) -> Result<(), ReleaseError> {
    let (clients, _) = connect::connect().await?;
    let client = Role::ReleaseAll.client(&clients.calls);
    let writer = &Writer::for_release(client.clone());
    let until = Instant::now() + wait;
    let hooks = all_metadata(&client, &ApiResource::erase::<KrakeHook>(&())).await?;
    let (guards, mut left) = guards(&client).await?;
    let (hook_count, guard_count) = (hooks.len(), guards.len());
    println!("{hook_count} hook(s), {guard_count} guard(s)");
    left += each("hooks let go", AT_ONCE, hooks, async |meta| {
        tried("KrakeHook", &meta, writer.free_hook(&meta).await)
    })
    .await?;
    // All workloads first, so that their rollouts go on side by side while some are waited for.
    each("workloads released", AT_ONCE, &guards, async |guard| {
        release(writer, guard).await.map(|_| 0)
    })
    .await?;
    left += each("guards removed", WAIT_AT_ONCE, &guards, async |guard| {
        remove(writer, guard, until).await
    })
    .await?;
    left += sweep(writer).await?;
    left += drop_owned::<ConfigMap>(writer, "ConfigMaps removed").await?;
    left += drop_owned::<Secret>(writer, "Secrets removed").await?;
    if left > 0 {
        return Err(ReleaseError::Left(left));
    }
    println!(
        "released: {hook_count} hook(s), {guard_count} guard(s). Delete the hooks, then the operator and its CustomResourceDefinitions."
    );
    Ok(())
}

/// Processes all, some at once, and prints the progress; returns how many could not be released.
async fn each<T>(
    what: &str,
    at_once: usize,
    all: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
    act: impl AsyncFn(T) -> Result<usize, ReleaseError>,
) -> Result<usize, ReleaseError> {
    let all = all.into_iter();
    let count = all.len();
    let act = &act;
    let mut ended = stream::iter(all)
        .map(|one| act(one))
        .buffer_unordered(at_once);
    let (mut done, mut left) = (0, 0);
    while let Some(result) = ended.next().await {
        left += result?;
        done += 1;
        if done % TOLD_EVERY == 0 || (done == count && count > TOLD_EVERY) {
            println!("{what}: {done} of {count}");
        }
    }
    Ok(left)
}

/// Everything one guard stands for; whether nothing is left of it but the guard.
async fn release(writer: &Writer, guard: &HookGuard) -> Result<bool, ReleaseError> {
    for _ in 0..LOOKS {
        let remains = remains::look(&writer.client, guard, Canaries::Of(&[])).await?;
        let effects = farewell::decide(&remains, jiff::Timestamp::now()).effects;
        if effects.is_empty() || effects == [Effect::DeleteGuard] {
            return Ok(true);
        }
        for effect in &effects {
            tried(
                "HookGuard",
                &guard.metadata,
                remains::apply(writer, &remains, effect).await,
            )?;
        }
    }
    Ok(false)
}

/// The guard itself, when its hook's pods need it no more or have had their time.
async fn remove(writer: &Writer, guard: &HookGuard, until: Instant) -> Result<usize, ReleaseError> {
    let hook = format!("{}/{}", guard.spec.hook.namespace, guard.spec.hook.name);
    for _ in 0..LOOKS {
        if !release(writer, guard).await? {
            break;
        }
        wait_for_pods(writer, guard, until).await?;
        let deleted = writer.delete_guard(guard).await;
        if tried("HookGuard", &guard.metadata, deleted)? == 0 {
            return Ok(0);
        }
    }
    eprintln!("{hook}: not released");
    Ok(1)
}

/// Waits until no live pod carries a stamp of the guard's hook, but not for ever.
async fn wait_for_pods(
    writer: &Writer,
    guard: &HookGuard,
    until: Instant,
) -> Result<(), ReleaseError> {
    use kube::runtime::wait::await_condition;
    let remains = remains::look(&writer.client, guard, Canaries::Of(&[])).await?;
    let api: Api<Pod> = Api::namespaced(writer.client.clone(), &guard.spec.hook.namespace);
    let stamped = remains
        .pods
        .iter()
        .filter(|pod| inject::carries_stamp_of(&pod.metadata, &guard.spec.hook.uid));
    for pod in stamped {
        let uid = pod.uid().unwrap_or_default();
        let name = pod.name_any();
        let gone = await_condition(
            api.clone(),
            &name,
            kube::runtime::conditions::is_deleted(&uid),
        );
        if tokio::time::timeout_at(until, gone).await.is_err() {
            eprintln!(
                "{}/{}: pod {} still uses injected Secrets; they go, and it will not start again until it is replaced",
                guard.spec.hook.namespace,
                guard.spec.hook.name,
                pod.name_any()
            );
            return Ok(());
        }
    }
    Ok(())
}

/// What no guard leads to: left by an operator that lost its guards, or by hand.
async fn sweep(writer: &Writer) -> Result<usize, ReleaseError> {
    let mut left = 0;
    for kind in [DependentKind::ReplicaSet, DependentKind::Pod] {
        let mut all = all_metadata(&writer.client, &observe::dependent_resource(kind)).await?;
        all.retain(|meta| {
            let mut owners = meta.owner_references.iter().flatten();
            owners.any(is_guard)
        });
        left += each("guards taken off", AT_ONCE, all, async |meta| {
            let namespace = meta.namespace.clone().unwrap_or_default();
            let dependent = Dependent {
                kind,
                name: meta.name.clone().unwrap_or_default(),
                uid: meta.uid.clone().unwrap_or_default(),
            };
            let unguarded = writer.unguard(&namespace, &dependent, None).await;
            tried(kind.as_str(), &meta, unguarded)
        })
        .await?;
    }
    for kind in WorkloadKind::all() {
        let all = touched(&writer.client, kind).await?;
        left += each("workloads released", AT_ONCE, all, async |workload| {
            release_workload(writer, workload).await
        })
        .await?;
    }
    let mut maps = all_metadata(&writer.client, &ApiResource::erase::<ConfigMap>(&())).await?;
    maps.retain(|metadata| has_finalizer(metadata, names::CANARY_FINALIZER));
    left += each("canaries removed", AT_ONCE, maps, async |metadata| {
        let namespace = metadata.namespace.clone().unwrap_or_default();
        let canary = ConfigMap {
            metadata,
            ..ConfigMap::default()
        };
        let dropped = writer.drop_canary(&namespace, &canary).await;
        tried("ConfigMap", &canary.metadata, dropped)
    })
    .await?;
    Ok(left)
}

/// What guards that are gone have owned. The garbage collector would take it some time later, and not at
/// all once the kind of its owner is uninstalled: tokens and keys would stay for ever.
async fn drop_owned<K>(writer: &Writer, what: &str) -> Result<usize, ReleaseError>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + std::fmt::Debug,
{
    let resource = ApiResource::erase::<K>(&());
    // Listed before the guards: of one that is made meanwhile nothing is in this list.
    let mut all = all_metadata(&writer.client, &resource).await?;
    let guards = all_metadata(&writer.client, &ApiResource::erase::<HookGuard>(&())).await?;
    let living: BTreeSet<_> = guards
        .iter()
        .filter_map(|meta| meta.uid.as_deref())
        .collect();
    all.retain(|meta| {
        // As the garbage collector has it: one owner that is not such a guard keeps it.
        let owners = meta.owner_references.as_deref().unwrap_or_default();
        let gone = |owner: &OwnerReference| is_guard(owner) && !living.contains(owner.uid.as_str());
        !owners.is_empty() && owners.iter().all(gone)
    });
    each(what, AT_ONCE, all, async |meta| {
        tried(&resource.kind, &meta, writer.drop_owned::<K>(&meta).await)
    })
    .await
}

fn is_guard(owner: &OwnerReference) -> bool {
    owner.kind == "HookGuard" && owner.api_version.split('/').next() == Some(names::GROUP)
}

/// The workloads of a kind that have anything of ours, and are not some controller's: its history keeps
/// its templates, and its pods their labels. A page at a time, since all of it has to be read.
async fn touched(client: &Client, kind: WorkloadKind) -> Result<Vec<Workload>, ReleaseError> {
    let resource = observe::resource(kind);
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let mut page = ListParams::default().limit(PAGE);
    let mut all = Vec::new();
    loop {
        let found = match api.list(&page).await {
            Ok(found) => found,
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(all),
            Err(source) => return Err(listing(&resource.plural)(source).into()),
        };
        let next = found.metadata.continue_.filter(|next| !next.is_empty());
        for object in found.items {
            let workload = observe::read(kind, object).map_err(listing(&resource.plural))?;
            let alone = controller_of(&workload.metadata).is_none();
            let held = has_finalizer(&workload.metadata, names::SHUTDOWN_FINALIZER);
            if inject::is_touched(&workload) && (alone || held) {
                all.push(workload);
            }
        }
        let Some(next) = next else { return Ok(all) };
        page = page.continue_token(&next);
    }
}

async fn release_workload(writer: &Writer, found: Workload) -> Result<usize, ReleaseError> {
    let (kind, meta) = (found.kind, found.metadata.clone());
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let name = meta.name.as_deref().unwrap_or_default();
    let mut workload = Some(found);
    for _ in 0..LOOKS {
        let Some(effect) = workload.as_ref().and_then(strays::release) else {
            return Ok(0);
        };
        if let Some(workload) = &workload {
            let done = crate::cluster::strays::carry_out(writer, workload, &effect).await;
            match done {
                Err(error) if error.class() == cluster::Class::Conflict => {}
                done => {
                    if tried(&kind.to_string(), &meta, done)? > 0 {
                        return Ok(1);
                    }
                }
            }
        }
        workload = observe::workload(&writer.client, Some(kind), namespace, name).await?;
        workload = workload.filter(|now| now.metadata.uid == meta.uid);
    }
    eprintln!("{kind} {namespace}/{}: not released", name);
    Ok(1)
}

/// One that somebody was faster than, or that the API server refuses, is left over and named. The
/// run ends where it would be the same with all others.
fn tried<T>(
    kind: &str,
    meta: &ObjectMeta,
    result: Result<T, cluster::Error>,
) -> Result<usize, ReleaseError> {
    match result {
        Ok(_) => Ok(0),
        Err(error) if error.class() == cluster::Class::Conflict => Ok(1),
        Err(error) if error.class() == cluster::Class::User => {
            let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
            let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
            eprintln!("{kind} {namespace}/{name}: {error}");
            Ok(1)
        }
        Err(error) => Err(error.into()),
    }
}

/// The guards, and how many cannot be read.
async fn guards(client: &Client) -> Result<(Vec<HookGuard>, usize), ReleaseError> {
    let api: Api<DeserializeGuard<HookGuard>> = Api::all(client.clone());
    let found = match api.list(&ListParams::default()).await {
        Ok(found) => found.items,
        // The CustomResourceDefinition is gone, and all its objects with it.
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(source) => return Err(listing("hookguards")(source).into()),
    };
    let (mut guards, mut unreadable) = (Vec::new(), 0);
    for guard in found {
        match guard.0 {
            Ok(guard) => guards.push(guard),
            Err(invalid) => {
                let name = invalid.metadata.name.as_deref().unwrap_or_default();
                eprintln!("HookGuard {name}: cannot be read: {invalid}");
                unreadable += 1;
            }
        }
    }
    Ok((guards, unreadable))
}

async fn all_metadata(
    client: &Client,
    resource: &ApiResource,
) -> Result<Vec<ObjectMeta>, ReleaseError> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    match api.list_metadata(&ListParams::default()).await {
        Ok(found) => Ok(found.items.into_iter().map(|one| one.metadata).collect()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(source) => Err(listing(&resource.plural)(source).into()),
    }
}

fn listing(plural: &str) -> impl FnOnce(kube::Error) -> cluster::Error {
    cluster::Error::of(cluster::Act::List, plural)
}
