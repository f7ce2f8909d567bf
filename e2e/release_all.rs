//! The way out when the operator is gone for good: `krake-hooks release-all`.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;

use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::{HookGuard, names};

use crate::support::cluster::said;
use crate::support::manifests;
use crate::support::runner::Story;
use crate::support::stage::Stage;
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Alone: release_all_leaves_nothing_of_us_on_anything_that_lives]
}

async fn release_all_leaves_nothing_of_us_on_anything_that_lives(stage: Stage) {
    // One workload that lives on, and one whose removal is being held.
    let _: Deployment = stage.create(manifests::app("lives")).await;
    let before = template(&stage, "lives").await;
    let _: Service = stage.create(manifests::service("calls", "lives")).await;
    let callable = json!({"shutdown": {"callOut": {"service": {"name": "calls"}}}});
    let _: KrakeHook = stage
        .create(manifests::hook("lives", "lives", callable))
        .await;
    let held = stage
        .armed_app(json!({"timeoutSeconds": 600, "onTimeout": "Retain"}))
        .await;
    let lives = stage.armed("lives").await;
    stage.delete_deployment("app", "foreground").await;
    held.app.called(1).await;
    let operator = stage.cluster.operator().await;
    operator.leave().await;

    let binary = env!("CARGO_BIN_EXE_krake-hooks");
    let ran = stage
        .cluster
        .command(binary, &["release-all"])
        .output()
        .await;
    said(ran).expect("release-all succeeds");

    stage.gone::<Deployment>("app").await;
    held.pods.gone(std::slice::from_ref(&held.app.uid)).await;
    let deployment = stage.all::<Deployment>().get("lives").await.unwrap();
    assert_eq!(deployment.finalizers(), [] as [String; 0]);
    assert_eq!(template(&stage, "lives").await, before);
    for set in sets(&stage).await {
        let owners: Vec<String> = set
            .owner_references()
            .iter()
            .map(|o| o.kind.clone())
            .collect();
        assert_eq!(owners, ["Deployment"], "{}", set.name_any());
    }
    // The rollout back to the user's template goes its way, and nothing stands in it.
    lives.pods.gone(std::slice::from_ref(&lives.app.uid)).await;
    until("a pod of the user's template", SOON, async || {
        match lives.pods.living().len() {
            1 => Ok(()),
            _ => Err(format!("{:#?}", lives.pods.all())),
        }
    })
    .await;
    stage.delete_deployment("lives", "foreground").await;
    stage.gone::<Deployment>("lives").await;
    no_finalizer_of_ours(&stage).await;
}

/// Whatever of ours is still there can be deleted by anybody without us.
async fn no_finalizer_of_ours(stage: &Stage) {
    let guards: Api<HookGuard> = Api::all(stage.client.clone());
    until(
        "no finalizer of ours",
        Duration::from_secs(30),
        async || {
            let all = ListParams::default();
            let mut found: Vec<String> = Vec::new();
            let mut look = |kind: &str, name: String, finalizers: &[String]| {
                if finalizers.iter().any(|one| one.starts_with(names::GROUP)) {
                    found.push(format!("{kind} {name}: {finalizers:?}"));
                }
            };
            for one in stage.all::<KrakeHook>().list(&all).await.unwrap() {
                look("KrakeHook", one.name_any(), one.finalizers());
            }
            for one in stage.all::<ConfigMap>().list(&all).await.unwrap() {
                look("ConfigMap", one.name_any(), one.finalizers());
            }
            for one in stage.all::<Secret>().list(&all).await.unwrap() {
                look("Secret", one.name_any(), one.finalizers());
            }
            for one in guards.list(&all).await.unwrap() {
                if one.spec.hook.namespace == stage.namespace {
                    look("HookGuard", one.name_any(), one.finalizers());
                }
            }
            match found.is_empty() {
                true => Ok(()),
                false => Err(found.join("; ")),
            }
        },
    )
    .await;
}

async fn sets(stage: &Stage) -> Vec<ReplicaSet> {
    let ours = ListParams::default().labels("app=lives");
    let sets = stage.all::<ReplicaSet>().list(&ours).await;
    sets.expect("ReplicaSets can be listed").items
}

async fn template(stage: &Stage, name: &str) -> String {
    stage
        .kubectl(&[
            "get",
            "deployment",
            name,
            "--output=jsonpath={.spec.template}",
        ])
        .await
}
