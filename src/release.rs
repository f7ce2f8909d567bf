//! `release-all`: takes every finalizer, guard and injected entry of ours off everything that lives.
//!
//! It runs with a person's rights, and without the operator. Removals that wait are let go on, with
//! one exception that is no removal: what an orphaning deletion left alone lives on. Old ReplicaSets
//! in the rollout history keep their templates. Each step is safe to repeat.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams};
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::{Client, ResourceExt};
use thiserror::Error;
use tokio::time::Instant;

use crate::api::{DependentKind, HookGuard, KrakeHook, WorkloadKind, names};
use crate::cluster::apply::Writer;
use crate::cluster::{self, connect, observe, remains};
use crate::decide::seen::{Dependent, has_finalizer};
use crate::decide::{Effect, Workload, farewell, inject};

/// Why not everything was released.
#[derive(Debug, Error)]
pub enum ReleaseError {
    /// There is no cluster to talk to.
    #[error(transparent)]
    Connect(#[from] connect::ConnectError),
    /// A call failed.
    #[error("{0}; run release-all again")]
    Call(#[from] cluster::Error),
    /// Something kept changing.
    #[error(
        "{0} object(s) could not be released, because somebody else keeps changing them; is the operator still running? Run release-all again"
    )]
    Left(usize),
}

/// Releases everything. `wait` is for pods that still use injected Secrets to be replaced.
pub async fn release_all(wait: Duration) -> Result<(), ReleaseError> {
    let (clients, _) = connect::connect().await?;
    let client = clients.calls;
    let writer = Writer::for_release(client.clone());
    let until = Instant::now() + wait;
    let guards: Vec<HookGuard> = all(&client).await?;
    let hooks: Vec<KrakeHook> = all(&client).await?;
    let mut left = 0;
    for hook in &hooks {
        left += tried(writer.free_hook(hook).await)?;
    }
    for guard in &guards {
        left += release_guard(&writer, guard, until).await?;
    }
    left += sweep(&writer).await?;
    if left > 0 {
        return Err(ReleaseError::Left(left));
    }
    println!(
        "released: {} hook(s), {} guard(s). Delete the hooks, then the operator and its CustomResourceDefinitions.",
        hooks.len(),
        guards.len()
    );
    Ok(())
}

/// Everything one guard stands for, then the guard itself.
async fn release_guard(
    writer: &Writer,
    guard: &HookGuard,
    until: Instant,
) -> Result<usize, ReleaseError> {
    let hook = format!("{}/{}", guard.spec.hook.namespace, guard.spec.hook.name);
    // The API server and its controllers write too: some looks are lost to them.
    for _ in 0..20 {
        let remains = remains::look(&writer.client, guard).await?;
        let decision = farewell::decide(&remains, jiff::Timestamp::now());
        let effects = if decision.effects.is_empty() {
            wait_for_pods(writer, guard, until).await?;
            vec![Effect::DeleteGuard]
        } else {
            decision.effects
        };
        let mut lost = 0;
        for effect in &effects {
            lost += tried(remains::apply(writer, &remains, effect).await)?;
        }
        if lost == 0 && effects == [Effect::DeleteGuard] {
            println!("{hook}: released");
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
    let remains = remains::look(&writer.client, guard).await?;
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
        let resource = observe::dependent_resource(kind);
        for meta in all_metadata(&writer.client, &resource).await? {
            let mut owners = meta.owner_references.iter().flatten();
            if !owners.any(|owner| owner.kind == "HookGuard") {
                continue;
            }
            let dependent = Dependent {
                kind,
                name: meta.name.unwrap_or_default(),
                uid: meta.uid.unwrap_or_default(),
            };
            let namespace = meta.namespace.unwrap_or_default();
            left += tried(writer.unguard(&namespace, &dependent, None).await)?;
        }
    }
    for kind in WorkloadKind::all() {
        for meta in all_metadata(&writer.client, &observe::resource(kind)).await? {
            left += release_workload(writer, kind, meta).await?;
        }
    }
    let maps = all_metadata(&writer.client, &ApiResource::erase::<ConfigMap>(&())).await?;
    let canaries = maps
        .into_iter()
        .filter(|metadata| has_finalizer(metadata, names::CANARY_FINALIZER))
        .map(|metadata| ConfigMap {
            metadata,
            ..ConfigMap::default()
        });
    for canary in canaries {
        let namespace = canary.namespace().unwrap_or_default();
        left += tried(writer.drop_canary(&namespace, &canary).await)?;
    }
    Ok(left)
}

async fn release_workload(
    writer: &Writer,
    kind: WorkloadKind,
    meta: ObjectMeta,
) -> Result<usize, ReleaseError> {
    let namespace = meta.namespace.clone().unwrap_or_default();
    let uid = meta.uid.clone().unwrap_or_default();
    // What is ours of it is told by its metadata alone.
    let workload = Workload::of(kind, meta);
    if !inject::is_touched(&workload) {
        return Ok(0);
    }
    if workload.metadata.deletion_timestamp.is_some() {
        return tried(writer.release(&namespace, &workload, &uid).await);
    }
    let patch = inject::ejection(&workload, false);
    tried(writer.change(&namespace, kind, &patch).await)
}

/// Somebody was faster counts as one left over; anything else ends the run.
fn tried<T>(result: Result<T, cluster::Error>) -> Result<usize, ReleaseError> {
    match result {
        Ok(_) => Ok(0),
        Err(error) if error.class() == cluster::Class::Conflict => Ok(1),
        Err(error) => Err(error.into()),
    }
}

async fn all<K>(client: &Client) -> Result<Vec<K>, ReleaseError>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::all(client.clone());
    match api.list(&ListParams::default()).await {
        Ok(found) => Ok(found.items),
        // The CustomResourceDefinition is gone, and all its objects with it.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(source) => {
            let kind = K::plural(&()).into_owned();
            Err(cluster::Error::of(cluster::Act::List, kind)(source).into())
        }
    }
}

async fn all_metadata(
    client: &Client,
    resource: &ApiResource,
) -> Result<Vec<ObjectMeta>, ReleaseError> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    let found = api.list_metadata(&ListParams::default()).await;
    let found = found.map_err(cluster::Error::of(
        cluster::Act::List,
        resource.plural.clone(),
    ))?;
    let items = found.items.into_iter();
    Ok(items
        .map(|PartialObjectMeta { metadata, .. }| metadata)
        .collect())
}
