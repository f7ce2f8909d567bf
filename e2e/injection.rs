//! What a hook does to a workload, and that it undoes it.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;

use krake_hooks::api::HookKind;
use krake_hooks::api::condition::ConditionType;
use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::names;
use krake_hooks::api::status::Outcome;

use crate::support::manifests;
use crate::support::runner::Story;
use crate::support::stage::{Stage, is_ready};
use crate::support::wait::{SOON, stays, until};
use crate::sweep::nothing_of_the_hook_is_left;

pub fn stories() -> Vec<Story> {
    crate::stories![Together:
        a_deleted_hook_gives_the_template_back_byte_for_byte,
        a_hook_waits_for_its_workload_and_costs_one_rollout,
        a_user_who_sets_krake_token_keeps_it,
        a_second_hook_for_a_workload_touches_nothing,
        secrets_that_a_tenant_deletes_are_written_again,
        config_maps_that_a_tenant_deletes_come_back_and_a_removal_waits,
        a_guard_that_an_admin_deletes_still_holds,
    ]
}

async fn a_deleted_hook_gives_the_template_back_byte_for_byte(stage: Stage) {
    let mut app = manifests::app("app");
    // A user's own entries, beside which ours come and go.
    let pod = &mut app["spec"]["template"]["spec"];
    pod["volumes"] = json!([{"name": "scratch", "emptyDir": {}}]);
    pod["containers"][0]["volumeMounts"] = json!([{"name": "scratch", "mountPath": "/scratch"}]);
    pod["containers"][0]["env"] = json!([{"name": "COLOUR", "value": "green"}]);
    let _: Deployment = stage.create(app).await;
    let before = template(&stage).await;

    let _: k8s_openapi::api::core::v1::Service =
        stage.create(manifests::service("shutdown", "app")).await;
    let hook = manifests::hook("app", "app", manifests::shutdown(json!({})));
    let _: KrakeHook = stage.create(hook).await;
    let armed = stage.armed("app").await;
    assert_ne!(template(&stage).await, before, "something was injected");

    stage
        .kubectl(&["delete", "krakehook", "app", "--wait=false"])
        .await;
    // The workload is still wanted when `disarmDelaySeconds` are over.
    until("the hook is gone", SOON * 2, async || {
        match stage.hook("app").await {
            None => Ok(()),
            Some(hook) => Err(format!("{:?}", hook.metadata)),
        }
    })
    .await;
    assert_eq!(template(&stage).await, before);
    let deployment = stage.all::<Deployment>().get("app").await.unwrap();
    assert_eq!(deployment.finalizers(), [] as [String; 0]);
    // What stands for the hook when it is gone takes them off.
    until("no guard on any ReplicaSet", SOON, async || {
        let sets = stage.all::<ReplicaSet>().list(&ListParams::default()).await;
        let sets = sets.map_err(|error| error.to_string())?;
        let mut owners = sets.iter().flat_map(ResourceExt::owner_references);
        match owners.find(|owner| owner.kind != "Deployment") {
            None => Ok(()),
            Some(owner) => Err(format!("{owner:?}")),
        }
    })
    .await;
    nothing_of_the_hook_is_left(&stage, &armed.hook).await;
}

async fn secrets_that_a_tenant_deletes_are_written_again(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    let old = armed.app.uid.clone();
    stage.kubectl(&["delete", "secret", "--all"]).await;
    stage
        .kubectl(&["delete", "pod", "-l", "app=app", "--wait=false"])
        .await;
    // The new pod cannot start: that is the sign. Kubelet then tries again in its own time.
    until("a new pod that runs", SOON * 4, async || {
        let pods = stage.all::<Pod>().list(&ListParams::default()).await;
        let pods = pods.map_err(|error| error.to_string())?;
        let new = pods.iter().find(|pod| pod.uid().as_ref() != Some(&old));
        match new {
            Some(pod) if is_ready(pod) => Ok(()),
            Some(pod) => Err(format!("{:?}", pod.status)),
            None => Err("no new pod".to_owned()),
        }
    })
    .await;
    let app = stage.app("app").await;
    stage.delete_deployment("app", "background").await;
    app.called(1).await;
    app.acknowledge(HookKind::Shutdown).await.counts();
    stage.ended("app", Outcome::Acknowledged).await;
}

async fn config_maps_that_a_tenant_deletes_come_back_and_a_removal_waits(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    let pods = [armed.app.uid.clone()];
    let uids = || async {
        let maps = stage.all::<ConfigMap>().list(&ListParams::default()).await;
        let maps = maps.expect("ConfigMaps can be listed");
        let uids: Vec<String> = maps.iter().filter_map(ResourceExt::uid).collect();
        uids
    };
    let before = uids().await;
    stage
        .kubectl(&["delete", "configmap", "--all", "--wait=false"])
        .await;
    until("ConfigMap and canary are there anew", SOON, async || {
        let maps = stage.all::<ConfigMap>().list(&ListParams::default()).await;
        let maps = maps.map_err(|error| error.to_string())?;
        let new = maps.iter().filter(|map| {
            map.name_any().starts_with("app-")
                && map.metadata.deletion_timestamp.is_none()
                && !before.contains(&map.uid().unwrap_or_default())
        });
        match new.count() {
            2 => Ok(()),
            count => Err(format!("{count} of 2")),
        }
    })
    .await;
    stage.await_condition("app", ConditionType::Armed).await;
    stage.delete_deployment("app", "foreground").await;
    armed.app.called(1).await;
    armed
        .pods
        .stay_untouched(&pods, Duration::from_secs(3))
        .await;
    armed.app.acknowledge(HookKind::Shutdown).await.counts();
    stage.ended("app", Outcome::Acknowledged).await;
}

async fn a_guard_that_an_admin_deletes_still_holds(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    let hook = stage.hook("app").await.expect("the hook is there");
    let guard = stage.guard(&hook).await.expect("its guard is there");
    stage
        .kubectl(&["delete", "hookguard", &guard.name_any(), "--wait=false"])
        .await;
    // A new ReplicaSet is guarded by it, too.
    stage
        .kubectl(&["set", "env", "deployment/app", "ROLLED=yes"])
        .await;
    stage
        .kubectl(&["rollout", "status", "deployment/app", "--timeout=60s"])
        .await;
    stage.await_condition("app", ConditionType::Armed).await;
    let app = stage.app("app").await;
    stage.delete_deployment("app", "foreground").await;
    app.called(1).await;
    armed
        .pods
        .stay_untouched(std::slice::from_ref(&app.uid), Duration::from_secs(3))
        .await;
    app.acknowledge(HookKind::Shutdown).await.counts();
    stage.ended("app", Outcome::Acknowledged).await;
}

async fn a_hook_waits_for_its_workload_and_costs_one_rollout(stage: Stage) {
    let _: k8s_openapi::api::core::v1::Service =
        stage.create(manifests::service("shutdown", "app")).await;
    let hook = manifests::hook("app", "app", manifests::shutdown(json!({})));
    let _: KrakeHook = stage.create(hook).await;
    let message = stage.await_refusal("app", "WorkloadNotFound").await;
    assert!(message.contains("app"), "{message}");

    let _: Deployment = stage.create(manifests::app("app")).await;
    stage.armed("app").await;
    let sets = stage.all::<ReplicaSet>().list(&ListParams::default()).await;
    let sets = sets.expect("ReplicaSets can be listed").items.len();
    assert!(
        sets <= 2,
        "one before the injection and one after it, not {sets}"
    );
}

async fn a_user_who_sets_krake_token_keeps_it(stage: Stage) {
    let mut app = manifests::app("app");
    app["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": "KRAKE_TOKEN", "value": "my own"}]);
    let _: Deployment = stage.create(app).await;
    let before = template(&stage).await;
    let _: k8s_openapi::api::core::v1::Service =
        stage.create(manifests::service("shutdown", "app")).await;
    let hook = manifests::hook("app", "app", manifests::shutdown(json!({})));
    let _: KrakeHook = stage.create(hook).await;
    let message = stage.await_refusal("app", "EnvConflict").await;
    assert!(message.contains("KRAKE_TOKEN"), "{message}");
    assert!(message.contains("env"), "the way out: {message}");
    assert_eq!(template(&stage).await, before);
    let deployment = stage.all::<Deployment>().get("app").await.unwrap();
    assert_eq!(deployment.finalizers(), [] as [String; 0]);

    let way_out = r#"{"spec":{"shutdown":{"env":{"token":"HOOK_TOKEN"}}}}"#;
    stage
        .kubectl(&[
            "patch",
            "krakehook",
            "app",
            "--type=merge",
            "--patch",
            way_out,
        ])
        .await;
    let armed = stage.armed("app").await;
    assert_eq!(armed.app.environment("KRAKE_TOKEN").await, "my own");
    assert!(!armed.app.environment("HOOK_TOKEN").await.is_empty());
}

async fn a_second_hook_for_a_workload_touches_nothing(stage: Stage) {
    stage.armed_app(json!({})).await;
    let before = stage.all::<Deployment>().get("app").await.unwrap();
    let second = manifests::hook("second", "app", manifests::shutdown(json!({})));
    let _: KrakeHook = stage.create(second).await;
    let message = stage.await_refusal("second", "WorkloadTaken").await;
    assert!(message.contains("app"), "{message}");
    stays("one generation", Duration::from_secs(5), async || {
        let now = stage.all::<Deployment>().get("app").await.unwrap();
        match now.metadata.generation == before.metadata.generation
            && now.spec == before.spec
            && now.labels().get(names::HOOK_LABEL) == before.labels().get(names::HOOK_LABEL)
        {
            true => Ok(()),
            false => Err(serde_json::to_string(&now.metadata).unwrap()),
        }
    })
    .await;
    stage.await_condition("app", ConditionType::Armed).await;
}

async fn template(stage: &Stage) -> String {
    stage
        .kubectl(&[
            "get",
            "deployment",
            "app",
            "--output=jsonpath={.spec.template}",
        ])
        .await
}
