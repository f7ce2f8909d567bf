//! "My work is complete": the manual's own lines, as the command of a container, end a workload.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use serde_json::json;

use krake_hooks::api::HookKind;
use krake_hooks::api::condition::ConditionType;
use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::status::{Outcome, Phase};

use crate::support::runner::Story;
use crate::support::stage::{Stage, status};
use crate::support::{manifests, seed};

pub fn stories() -> Vec<Story> {
    crate::stories![Together:
        the_manuals_curl_line_completes_its_workload,
        the_manuals_python_lines_complete_their_workload,
        a_hook_that_only_completes_leaves_no_finalizer,
        a_completed_workload_is_not_asked_to_shut_down,
    ]
}

async fn the_manuals_curl_line_completes_its_workload(stage: Stage) {
    completes(&stage, "job", &["sh", "-c", seed::CURL_TLS]).await;
}

async fn the_manuals_python_lines_complete_their_workload(stage: Stage) {
    completes(&stage, "job", &["python3", "-c", seed::PYTHON_TLS]).await;
}

async fn a_hook_that_only_completes_leaves_no_finalizer(stage: Stage) {
    let _: Deployment = stage.create(manifests::app("app")).await;
    let _: KrakeHook = stage
        .create(manifests::hook("app", "app", json!({"complete": {}})))
        .await;
    stage.await_condition("app", ConditionType::Ready).await;
    let app = stage.app("app").await;
    let deployment = stage.all::<Deployment>().get("app").await.unwrap();
    assert_eq!(deployment.finalizers(), [] as [String; 0]);

    app.acknowledge(HookKind::Complete).await.counts();
    stage.gone::<Deployment>("app").await;
    stage.ended("app", Outcome::Completed).await;
}

async fn a_completed_workload_is_not_asked_to_shut_down(stage: Stage) {
    let mut kinds = manifests::shutdown(json!({"timeoutSeconds": 600}));
    kinds["complete"] = json!({});
    let _: Service = stage.create(manifests::service("shutdown", "app")).await;
    let _: Deployment = stage.create(manifests::app("app")).await;
    let _: KrakeHook = stage.create(manifests::hook("app", "app", kinds)).await;
    let armed = stage.armed("app").await;

    // A completion is no answer to a shutdown, nor the other way round.
    let early = armed.app.acknowledge(HookKind::Shutdown).await;
    early.is_refused(409, "NotAsked");
    armed.app.acknowledge(HookKind::Complete).await.counts();
    stage.gone::<Deployment>("app").await;
    stage.ended("app", Outcome::Completed).await;
    stage.phase("app", Phase::Completed).await;
}

/// A workload whose container runs `command` goes away by itself, and the hook stays as the
/// receipt.
pub async fn completes(stage: &Stage, name: &str, command: &[&str]) {
    let pods = stage.witness(name).await;
    let deployment: Deployment = stage.create(manifests::deployment(name, command)).await;
    let _: KrakeHook = stage
        .create(manifests::hook(name, name, json!({"complete": {}})))
        .await;
    stage.gone::<Deployment>(name).await;
    let all: Vec<String> = pods.all().into_keys().collect();
    pods.gone(&all).await;

    let hook = stage.phase(name, Phase::Completed).await;
    let completion = status(&hook).completion.clone().expect("a receipt");
    assert_eq!(Some(completion.workload_uid), deployment.uid());
    assert_eq!(status(&hook).history[0].outcome, Outcome::Completed);
    let from: Vec<&String> = status(&hook).acknowledgements.keys().collect();
    assert!(
        all.iter()
            .any(|uid| from.contains(&&format!("complete.{uid}"))),
        "acknowledged by {from:?}, pods were {all:?}"
    );
}
