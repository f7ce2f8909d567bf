//! `release-all`: takes every finalizer, guard and injected entry of ours off everything that lives.
//!
//! It runs with a person's rights, and without the operator. Removals that wait are let go on, with
//! one exception that is no removal: what an orphaning deletion left alone lives on. Old ReplicaSets
//! in the rollout history keep their templates. Each step is safe to repeat.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::core::PartialObjectMeta;
use kube::{Client, ResourceExt};
use thiserror::Error;
use tokio::time::Instant;

use crate::api::{HookGuard, KrakeHook, names};
use crate::cluster::apply::Writer;
use crate::cluster::{self, connect, remains};
use crate::decide::seen::{Named, has_finalizer};
use crate::decide::{Effect, farewell, inject};

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
    let sets: Vec<PartialObjectMeta<ReplicaSet>> = all_metadata(&writer.client).await?;
    for set in &sets {
        let guards = set
            .owner_references()
            .iter()
            .filter(|o| o.kind == "HookGuard");
        if guards.count() > 0 {
            let named = Named {
                name: set.name_any(),
                uid: set.uid().unwrap_or_default(),
            };
            let namespace = set.namespace().unwrap_or_default();
            left += tried(writer.unguard(&namespace, &named, None).await)?;
        }
    }
    let workloads: Vec<Deployment> = all(&writer.client).await?;
    for workload in workloads.iter().filter(|w| inject::is_touched(w)) {
        let namespace = workload.namespace().unwrap_or_default();
        let uid = workload.uid().unwrap_or_default();
        if workload.metadata.deletion_timestamp.is_some() {
            left += tried(writer.release(&namespace, workload, &uid).await)?;
        } else {
            let patch = inject::ejection(workload, false);
            let ejected = writer
                .apply_json::<Deployment>(&namespace, names::INJECT_MANAGER, &patch)
                .await;
            left += tried(ejected)?;
        }
    }
    let maps: Vec<PartialObjectMeta<ConfigMap>> = all_metadata(&writer.client).await?;
    let canaries = maps
        .into_iter()
        .map(|map| ConfigMap {
            metadata: map.metadata,
            ..ConfigMap::default()
        })
        .filter(|map| has_finalizer(&map.metadata, names::CANARY_FINALIZER));
    for canary in canaries {
        let namespace = canary.namespace().unwrap_or_default();
        left += tried(writer.drop_canary(&namespace, &canary).await)?;
    }
    Ok(left)
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

async fn all_metadata<K>(client: &Client) -> Result<Vec<PartialObjectMeta<K>>, ReleaseError>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::all(client.clone());
    let found = api
        .list_metadata(&ListParams::default())
        .await
        .map_err(cluster::Error::of(
            cluster::Act::List,
            K::plural(&()).into_owned(),
        ))?;
    Ok(found.items)
}
