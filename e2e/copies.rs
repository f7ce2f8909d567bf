//! Whoever has the token without being one of the workload's pods, and whoever has not: none of them
//! counts, and people read why.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use krake_hooks::api::condition::{ConditionType, find};
use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::status::Outcome;
use krake_hooks::api::{HookKind, names};

use crate::support::app::App;
use crate::support::manifests;
use crate::support::runner::Story;
use crate::support::stage::{Stage, is_ready, status};
use crate::support::wait::{SOON, until};

const OWN: &str = "/etc/krake_cert";

pub fn stories() -> Vec<Story> {
    crate::stories![Together:
        a_copy_of_an_injected_manifest_neither_counts_nor_is_called,
        a_wrong_token_is_read_on_the_hook_and_where_the_removal_waits,
        a_hook_that_only_somebody_else_keeps_answers_401,
    ]
}

/// A live manifest, copied under another name: its pods have the token, the URL, the certificate, the
/// label and the stamp of the original's, and the Service selects them.
async fn a_copy_of_an_injected_manifest_neither_counts_nor_is_called(stage: Stage) {
    let armed = armed_for_both(&stage).await;
    let original: Deployment = stage.all().get("app").await.expect("it is there");
    let copy = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "copy"}, "spec": original.spec});
    let _: Deployment = stage.create(copy).await;
    let copy = pod_of_the_copy(&stage).await;
    let hook = stage.hook("app").await.expect("the hook is there");
    for condition in [ConditionType::Armed, ConditionType::Injected] {
        let condition = find(&status(&hook).conditions, condition).expect("it is told");
        assert_eq!(
            condition.status, "True",
            "the copy disturbs it: {condition:?}"
        );
    }

    copy.acknowledge(HookKind::Complete)
        .await
        .is_refused(409, "ForeignPod");
    stage.told("ForeignPod").await;
    stage.delete_deployment("app", "background").await;
    armed.called(1).await;
    copy.acknowledge(HookKind::Shutdown)
        .await
        .is_refused(409, "ForeignPod");
    let hook = stage.hook("app").await.expect("the hook is there");
    assert!(status(&hook).acknowledgements.is_empty(), "nothing is kept");
    assert!(
        copy.calls().await.expect("it answers").is_empty(),
        "the copy was called"
    );

    armed.acknowledge(HookKind::Shutdown).await.counts();
    stage.gone::<Deployment>("app").await;
    stage.ended("app", Outcome::Acknowledged).await;
    let copy: Deployment = stage.all().get("copy").await.expect("it is there");
    assert!(
        copy.metadata.deletion_timestamp.is_none(),
        "the copy was deleted"
    );
}

async fn a_wrong_token_is_read_on_the_hook_and_where_the_removal_waits(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    stage.delete_deployment("app", "background").await;
    armed.app.called(1).await;
    let url = armed.app.environment("KRAKE_SHUTDOWN_URL").await;
    for wrong in ["wrong", "wrong", "wrong"] {
        let answer = armed.app.put(&url, wrong, OWN).await;
        answer.is_refused(401, "Unauthorized");
    }
    stage.told("WrongToken").await;
    let events = stage.all::<Event>().list(&ListParams::default()).await;
    let events = events.expect("Events can be read").items;
    let notes = events
        .iter()
        .filter(|event| event.reason.as_deref() == Some("WrongToken"));
    for note in notes.filter_map(|event| event.note.as_deref()) {
        assert!(note.contains("use the pod's own KRAKE_TOKEN"), "{note}");
        assert!(note.contains(&armed.app.uid), "{note}");
    }
    stage
        .await_hook("app", "the count in Blocking", SOON, |status| {
            let blocking = find(&status.conditions, ConditionType::Blocking);
            let counted = |message: &str| {
                message.contains("acknowledgements rejected")
                    || message.contains("acknowledgement rejected")
            };
            blocking.is_some_and(|blocking| counted(&blocking.message))
        })
        .await;
    armed.app.acknowledge(HookKind::Shutdown).await.counts();
    stage.ended("app", Outcome::Acknowledged).await;
}

async fn a_hook_that_only_somebody_else_keeps_answers_401(stage: Stage) {
    let armed = armed_for_both(&stage).await;
    let keep = json!({"metadata": {"finalizers": [names::HOOK_FINALIZER, "example.org/keep"]}});
    let hooks = stage.all::<KrakeHook>();
    let patch = async |patch| {
        let parameters = PatchParams::default();
        hooks
            .patch("app", &parameters, &Patch::Merge(patch))
            .await
            .expect("it is there")
    };
    let hook = patch(keep).await;
    let teller = stage.bystander(&hook, &armed.uid).await;
    stage
        .kubectl(&["delete", "krakehook", "app", "--wait=false"])
        .await;
    until("only somebody else keeps the hook", SOON * 3, async || {
        let hook = stage
            .hook("app")
            .await
            .ok_or_else(|| "it is gone".to_owned())?;
        let ours = hook.finalizers().iter().any(|f| f == names::HOOK_FINALIZER);
        if ours {
            Err("ours is on it".to_owned())
        } else {
            Ok(())
        }
    })
    .await;
    let complete = teller.acknowledge(HookKind::Complete).await;
    complete.is_refused(401, "Unauthorized");
    let shutdown = teller.acknowledge(HookKind::Shutdown).await;
    shutdown.is_refused(409, "NotAsked");
    let hook = stage.hook("app").await.expect("somebody keeps it");
    assert!(status(&hook).acknowledgements.is_empty(), "nothing is kept");
    patch(json!({"metadata": {"finalizers": null}})).await;
}

/// The app, armed, with both kinds.
async fn armed_for_both(stage: &Stage) -> App {
    let _: k8s_openapi::api::core::v1::Service =
        stage.create(manifests::service("shutdown", "app")).await;
    let _: Deployment = stage.create(manifests::app("app")).await;
    let mut spec = manifests::shutdown(json!({"timeoutSeconds": 120}));
    spec["complete"] = json!({});
    let _: KrakeHook = stage.create(manifests::hook("app", "app", spec)).await;
    stage.armed("app").await.app
}

async fn pod_of_the_copy(stage: &Stage) -> App {
    until("a pod of the copy is ready", SOON, async || {
        let pods = stage.all::<Pod>().list(&ListParams::default()).await;
        let pods = pods.map_err(|error| error.to_string())?.items;
        let mut copies = pods
            .iter()
            .filter(|pod| pod.name_any().starts_with("copy-"));
        let ready = copies.find(|pod| is_ready(pod));
        ready
            .map(|pod| App::of(pod, stage.client.clone()))
            .ok_or_else(|| "none".to_owned())
    })
    .await
}
