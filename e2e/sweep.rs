//! The whole release goes at once: hook, Service and Deployment, in whatever order. The app is
//! asked all the same, and the removal waits.

use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::Resource;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::names;
use krake_hooks::api::status::Outcome;
use krake_hooks::api::{HookCertificate, HookKind};

use crate::support::cluster::repository;
use crate::support::runner::Story;
use crate::support::stage::{Armed, Stage};
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Together:
        hook_service_and_deployment_deleted_at_once_in_foreground_wait,
        a_release_uninstalled_by_helm_waits,
        a_deletion_of_every_configmap_during_a_hold_changes_nothing,
    ]
}

/// What Argo CD does.
async fn hook_service_and_deployment_deleted_at_once_in_foreground_wait(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    tokio::join!(
        delete::<KrakeHook>(&stage, "app"),
        delete::<Service>(&stage, "shutdown"),
        delete::<Deployment>(&stage, "app"),
    );
    is_held_and_goes_after_the_acknowledgement(&stage, &armed).await;
}

async fn a_release_uninstalled_by_helm_waits(stage: Stage) {
    let chart = repository().join("e2e/chart").display().to_string();
    let app = repository().join("e2e/support/app.py");
    let app = format!("app={}", app.display());
    let namespace = ["--namespace", &stage.namespace];
    helm(
        &stage,
        &[
            &["install", "app", &chart, "--set-file", &app],
            &namespace[..],
        ]
        .concat(),
    )
    .await;
    let armed = stage.armed("app").await;

    helm(&stage, &[&["uninstall", "app"], &namespace[..]].concat()).await;
    is_held_and_goes_after_the_acknowledgement(&stage, &armed).await;
}

async fn a_deletion_of_every_configmap_during_a_hold_changes_nothing(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    stage.delete_deployment("app", "foreground").await;
    armed.app.called(1).await;
    stage
        .kubectl(&["delete", "configmap", "--all", "--wait=false"])
        .await;
    let pods = [armed.app.uid.clone()];
    armed
        .pods
        .stay_untouched(&pods, Duration::from_secs(5))
        .await;

    armed.app.acknowledge(HookKind::Shutdown).await.counts();
    stage.gone::<Deployment>("app").await;
    armed.pods.gone(&pods).await;
    stage.ended("app", Outcome::Acknowledged).await;
}

async fn is_held_and_goes_after_the_acknowledgement(stage: &Stage, armed: &Armed) {
    let pods = [armed.app.uid.clone()];
    armed.app.called(1).await;
    stage.gone::<Service>("shutdown").await;
    armed
        .pods
        .stay_untouched(&pods, Duration::from_secs(5))
        .await;

    armed.app.acknowledge(HookKind::Shutdown).await.counts();
    stage.gone::<Deployment>("app").await;
    armed.pods.gone(&pods).await;
    stage.gone::<KrakeHook>("app").await;
    nothing_of_the_hook_is_left(stage, &armed.hook).await;
}

/// Secrets, ConfigMap, certificate, canary and guard have gone with the last pod.
pub async fn nothing_of_the_hook_is_left(stage: &Stage, hook: &KrakeHook) {
    until("guard, Secrets and ConfigMaps gone", SOON, async || {
        let ours = ListParams::default().labels(&format!(
            "{}={}",
            names::MANAGED_BY_LABEL,
            names::MANAGED_BY
        ));
        let secrets = stage.all::<Secret>().list_metadata(&ours).await;
        let maps = stage.all::<ConfigMap>().list_metadata(&ours).await;
        let certificates = stage.all::<HookCertificate>();
        let certificates = certificates.list_metadata(&ListParams::default()).await;
        let left = (
            stage.guard(hook).await.map(|guard| guard.metadata),
            names_of(secrets),
            names_of(maps),
            names_of(certificates),
        );
        match &left {
            (None, secrets, maps, certificates)
                if secrets.is_empty() && maps.is_empty() && certificates.is_empty() =>
            {
                Ok(())
            }
            left => Err(format!("{left:?}")),
        }
    })
    .await;
}

fn names_of<K: Clone>(
    list: kube::Result<kube::api::ObjectList<kube::core::PartialObjectMeta<K>>>,
) -> Vec<String> {
    let list = list.expect("objects can be listed").items;
    list.iter()
        .filter_map(|one| one.metadata.name.clone())
        .collect()
}

async fn delete<K>(stage: &Stage, name: &str)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let deleted = stage
        .all::<K>()
        .delete(name, &DeleteParams::foreground())
        .await;
    deleted.expect("can be deleted");
}

async fn helm(stage: &Stage, arguments: &[&str]) {
    let done = stage.cluster.helm(arguments).await;
    done.unwrap_or_else(|complaint| panic!("helm {arguments:?}: {complaint}"));
}
