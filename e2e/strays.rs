//! What is ours in objects that were copied, restored, or are held by others too.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ResourceQuota, Service};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use krake_hooks::api::condition::ConditionType;
use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::status::{Outcome, Phase};
use krake_hooks::api::{HookKind, WorkloadKind, names};
use krake_hooks::outside::workloads;

use crate::support::manifests;
use crate::support::runner::Story;
use crate::support::stage::{RUN_LABEL, Stage};
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Together:
        what_is_copied_with_our_finalizers_is_let_go_and_an_event_says_why,
        what_says_that_it_is_complete_without_a_hook_can_be_deleted_soon,
        a_restored_namespace_is_armed,
        managed_fields_that_somebody_resets_keep_no_hook,
        beside_somebody_elses_finalizer_only_our_hold_ends,
        a_quota_without_room_is_told_and_armed_soon_after_it_is_gone,
    ]
}

/// Another namespace of the same run.
async fn another(stage: &Stage) -> Stage {
    let namespaces: Api<Namespace> = Api::all(stage.client.clone());
    let mine = namespaces.get(&stage.namespace).await.expect("it is there");
    let run = &mine.labels()[RUN_LABEL];
    let other = Stage::open(stage.cluster.clone(), run, "another_namespace").await;
    other.expect("a namespace can be made")
}

/// An object as it comes out of a backup, or of `kubectl get --output=yaml` and an editor.
async fn copied(stage: &Stage, kind: &str, name: &str) -> Value {
    let shown = stage.kubectl(&["get", kind, name, "--output=json"]).await;
    let mut object: Value = serde_json::from_str(&shown).expect("JSON");
    for field in [
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "generation",
        "managedFields",
        "ownerReferences",
    ] {
        object["metadata"]
            .as_object_mut()
            .expect("metadata")
            .remove(field);
    }
    object.as_object_mut().expect("an object").remove("status");
    object
}

async fn canary(stage: &Stage) -> String {
    let maps = stage.all::<ConfigMap>().list(&ListParams::default()).await;
    let maps = maps.expect("ConfigMaps can be listed");
    let canary = maps
        .iter()
        .find(|map| map.labels().contains_key(names::CANARY_LABEL));
    canary.expect("an armed hook has one").name_any()
}

/// Waits until an Event of the namespace says that an object of this kind was let go.
async fn let_go(stage: &Stage, kind: &str) {
    until(format!("an Event on a {kind}"), SOON, async || {
        let events = stage.all::<Event>().list(&ListParams::default()).await;
        let events = events.map_err(|error| error.to_string())?;
        let told = events.iter().any(|event| {
            let about = event
                .regarding
                .as_ref()
                .and_then(|about| about.kind.as_deref());
            event.reason.as_deref() == Some("LetGo") && about == Some(kind)
        });
        told.then_some(()).ok_or_else(|| "not yet".to_owned())
    })
    .await;
}

async fn template(stage: &Stage) -> String {
    let jsonpath = "--output=jsonpath={.spec.template}";
    stage.kubectl(&["get", "deployment", "app", jsonpath]).await
}

async fn what_is_copied_with_our_finalizers_is_let_go_and_an_event_says_why(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 60})).await;
    let other = another(&stage).await;
    let mut twin = copied(&stage, "deployment", "app").await;
    twin["metadata"]["name"] = json!("twin");
    twin["spec"]["replicas"] = json!(0);
    let lives: Deployment = stage.create(twin.clone()).await;
    assert!(
        lives
            .finalizers()
            .contains(&names::SHUTDOWN_FINALIZER.to_owned())
    );
    let _: Deployment = other.create(twin).await;
    let map = copied(&stage, "configmap", &canary(&stage).await).await;
    let _: ConfigMap = other.create(map).await;
    other.delete_deployment("twin", "background").await;
    other.gone::<Deployment>("twin").await;
    let_go(&other, "Deployment").await;
    let_go(&other, "ConfigMap").await;

    until("the living twin is as a user wrote it", SOON, async || {
        let twin = stage
            .all::<Deployment>()
            .get("twin")
            .await
            .map_err(|e| e.to_string())?;
        let spec = serde_json::to_string(&twin.spec).expect("JSON");
        match twin.finalizers().is_empty()
            && !spec.contains("KRAKE_")
            && !spec.contains(names::GROUP)
        {
            true => Ok(()),
            false => Err(format!("{:?} {spec}", twin.finalizers())),
        }
    })
    .await;
    let_go(&stage, "Deployment").await;
    // Nothing of it concerns the original.
    stage.delete_deployment("app", "foreground").await;
    armed.app.called(1).await;
    armed.app.acknowledge(HookKind::Shutdown).await.counts();
    stage.ended("app", Outcome::Acknowledged).await;
    other.close().await;
    let namespaces: Api<Namespace> = Api::all(stage.client.clone());
    until(
        "the other namespace is gone",
        SOON,
        async || match namespaces.get_opt(&other.namespace).await {
            Ok(None) => Ok(()),
            there => Err(format!("{:?}", there.map(|one| one.and_then(|n| n.status)))),
        },
    )
    .await;
}

/// A copy of what was just being deleted as complete, and what a thief of the operator's token has marked.
async fn what_says_that_it_is_complete_without_a_hook_can_be_deleted_soon(stage: Stage) {
    for kind in WorkloadKind::all() {
        let mut marked = manifests::workload(kind, "marked");
        marked["metadata"]["labels"] = json!({names::COMPLETED_LABEL: "gone"});
        let api = workloads(&stage.client, kind, &stage.namespace);
        let marked = serde_json::from_value(marked).expect("an object");
        let created = api.create(&PostParams::default(), &marked).await;
        created.unwrap_or_else(|error| panic!("{kind}: {error}"));
    }
    for kind in WorkloadKind::all() {
        let api = workloads(&stage.client, kind, &stage.namespace);
        until(format!("{kind} is deleted"), SOON, async || {
            match api.delete("marked", &DeleteParams::background()).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
        let_go(&stage, kind.traits().name).await;
    }
}

async fn a_restored_namespace_is_armed(stage: Stage) {
    let plain = {
        let _: Deployment = stage.create(manifests::app("app")).await;
        template(&stage).await
    };
    let _: Service = stage.create(manifests::service("shutdown", "app")).await;
    let hook = manifests::hook(
        "app",
        "app",
        manifests::shutdown(json!({"timeoutSeconds": 60})),
    );
    let _: KrakeHook = stage.create(hook).await;
    stage.armed("app").await;
    let other = another(&stage).await;
    let map = copied(&stage, "configmap", &canary(&stage).await).await;
    let _: ConfigMap = other.create(map).await;
    let _: Service = other.create(manifests::service("shutdown", "app")).await;
    let _: Deployment = other
        .create(copied(&stage, "deployment", "app").await)
        .await;
    let _: KrakeHook = other.create(copied(&stage, "krakehook", "app").await).await;
    other.armed("app").await;
    let_go(&other, "ConfigMap").await;
    // And it gives everything back, though others own it too.
    other
        .kubectl(&["delete", "krakehook", "app", "--wait=false"])
        .await;
    other.gone::<KrakeHook>("app").await;
    assert_eq!(template(&other).await, plain);
    let left = other
        .all::<Deployment>()
        .get("app")
        .await
        .expect("it lives");
    assert!(left.finalizers().is_empty(), "{:?}", left.finalizers());
    other.close().await;
}

async fn managed_fields_that_somebody_resets_keep_no_hook(stage: Stage) {
    let _: Deployment = stage.create(manifests::app("app")).await;
    let plain = template(&stage).await;
    let hook = manifests::hook("app", "app", json!({"shutdown": {}}));
    let _: KrakeHook = stage.create(hook).await;
    stage.await_condition("app", ConditionType::Armed).await;
    // As the manual of server-side apply shows.
    let reset = Patch::Merge(json!({"metadata": {"managedFields": [{}]}}));
    let deployments = stage.all::<Deployment>();
    deployments
        .patch("app", &PatchParams::default(), &reset)
        .await
        .expect("anybody may do that");
    stage
        .kubectl(&["delete", "krakehook", "app", "--wait=false"])
        .await;
    stage.gone::<KrakeHook>("app").await;
    assert_eq!(template(&stage).await, plain);
    let left = deployments.get("app").await.expect("it lives");
    assert!(left.finalizers().is_empty(), "{:?}", left.finalizers());
}

async fn beside_somebody_elses_finalizer_only_our_hold_ends(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 60})).await;
    let theirs =
        json!([{"op": "add", "path": "/metadata/finalizers/-", "value": "example.com/keep"}]);
    stage
        .kubectl(&[
            "patch",
            "deployment",
            "app",
            "--type=json",
            "--patch",
            &theirs.to_string(),
        ])
        .await;
    stage.delete_deployment("app", "background").await;
    armed.app.called(1).await;
    armed.app.acknowledge(HookKind::Shutdown).await.counts();
    stage.ended("app", Outcome::Acknowledged).await;
    let deployments = stage.all::<Deployment>();
    until("only their finalizer is left", SOON, async || {
        let left = deployments
            .get("app")
            .await
            .map_err(|error| error.to_string())?;
        match left.finalizers() {
            [one] if one == "example.com/keep" => Ok(()),
            left => Err(format!("{left:?}")),
        }
    })
    .await;
    stage.phase("app", Phase::Released).await;
    let pods = std::slice::from_ref(&armed.app.uid);
    armed
        .pods
        .stay_untouched(pods, std::time::Duration::from_secs(5))
        .await;
    stage
        .kubectl(&[
            "patch",
            "deployment",
            "app",
            "--type=json",
            "--patch",
            r#"[{"op": "remove", "path": "/metadata/finalizers"}]"#,
        ])
        .await;
    stage.gone::<Deployment>("app").await;
    armed.pods.gone(pods).await;
}

async fn a_quota_without_room_is_told_and_armed_soon_after_it_is_gone(stage: Stage) {
    let quota = json!({"metadata": {"name": "full"}, "spec": {"hard": {"secrets": "0"}}});
    let quota: ResourceQuota = stage.create(quota).await;
    until("the quota counts", SOON, async || {
        let now = stage.all::<ResourceQuota>().get(&quota.name_any()).await;
        let now = now.map_err(|error| error.to_string())?;
        let counted = now.status.is_some_and(|status| status.used.is_some());
        counted.then_some(()).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    let _: Deployment = stage.create(manifests::app("app")).await;
    let hook = manifests::hook("app", "app", json!({"shutdown": {}}));
    let _: KrakeHook = stage.create(hook).await;
    let message = stage.await_refusal("app", "Rejected").await;
    assert!(message.contains("exceeded quota: full"), "{message}");
    stage.told("Refused").await;
    stage.kubectl(&["delete", "resourcequota", "full"]).await;
    stage.await_condition("app", ConditionType::Armed).await;
}
