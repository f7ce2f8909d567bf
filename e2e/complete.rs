//! "My work is complete": the manual's own lines, as the command of a container, end a workload.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use serde_json::{Value, json};

use krake_hooks::api::HookKind;
use krake_hooks::api::condition::{self, ConditionType};
use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::status::{Outcome, Phase, Trigger};

use crate::support::runner::Story;
use crate::support::stage::{Armed, Stage, status};
use crate::support::wait::{SOON, until};
use crate::support::{manifests, seed};

pub fn stories() -> Vec<Story> {
    crate::stories![Together:
        the_manuals_curl_line_completes_its_workload,
        the_manuals_python_lines_complete_their_workload,
        a_hook_that_only_completes_leaves_no_finalizer,
        a_completed_workload_is_not_asked_to_shut_down,
        a_completed_workload_is_asked_first_and_then_deleted,
        a_completed_workload_is_asked_first_scaled_to_zero_and_runs_again_when_scaled_up,
        a_completion_without_an_action_is_told_and_nothing_else,
        completed_work_that_is_created_again_says_so_and_runs,
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
    let armed = both(&stage, json!({})).await;
    // A completion is no answer to a shutdown, nor the other way round.
    let early = armed.app.acknowledge(HookKind::Shutdown).await;
    early.is_refused(409, "NotAsked");
    armed.app.acknowledge(HookKind::Complete).await.counts();
    stage.gone::<Deployment>("app").await;
    stage.ended("app", Outcome::Completed).await;
    stage.phase("app", Phase::Completed).await;
}

async fn a_completed_workload_is_asked_first_and_then_deleted(stage: Stage) {
    let armed = both(&stage, json!({"shutdownFirst": true})).await;
    let pods = [armed.app.uid.clone()];
    armed.app.acknowledge(HookKind::Complete).await.counts();
    armed.app.called(1).await;
    armed
        .pods
        .stay_untouched(&pods, Duration::from_secs(3))
        .await;
    armed.app.acknowledge(HookKind::Shutdown).await.counts();
    stage.gone::<Deployment>("app").await;
    armed.pods.gone(&pods).await;
    let hook = stage.phase("app", Phase::Completed).await;
    let history = status(&hook).history.iter().map(|entry| entry.outcome);
    let history: Vec<Outcome> = history.collect();
    assert_eq!(history, [Outcome::Acknowledged, Outcome::Completed]);
}

/// With `shutdownFirst` and `ScaleToZero`; the one that scales it up again plays a GitOps tool.
async fn a_completed_workload_is_asked_first_scaled_to_zero_and_runs_again_when_scaled_up(
    stage: Stage,
) {
    let complete = json!({"action": "ScaleToZero", "shutdownFirst": true});
    let armed = both(&stage, complete).await;
    let pods = [armed.app.uid.clone()];
    armed.app.acknowledge(HookKind::Complete).await.counts();
    armed.app.called(1).await;
    let hook = stage.await_condition("app", ConditionType::Blocking).await;
    let request = status(&hook)
        .workload_request()
        .cloned()
        .expect("it was asked");
    assert_eq!(request.trigger, Trigger::Complete);
    armed.app.acknowledge(HookKind::Shutdown).await.counts();
    armed.pods.gone(&pods).await;
    stage.phase("app", Phase::Completed).await;
    let there = stage.all::<Deployment>().get("app").await.unwrap();
    assert_eq!(there.spec.and_then(|spec| spec.replicas), Some(0));

    stage
        .kubectl(&["scale", "deployment", "app", "--replicas=1"])
        .await;
    let again = until("it runs again", SOON, async || {
        let hook = stage.hook("app").await.ok_or("no hook")?;
        match completed(&hook) {
            message if message.contains("scaled up again") => Ok(hook),
            message => Err(message),
        }
    })
    .await;
    assert_eq!(status(&again).completion, None);
}

async fn a_completion_without_an_action_is_told_and_nothing_else(stage: Stage) {
    let armed = both(&stage, json!({"action": "None"})).await;
    let pods = [armed.app.uid.clone()];
    armed.app.acknowledge(HookKind::Complete).await.counts();
    let hook = stage.phase("app", Phase::Completed).await;
    let message = completed(&hook);
    assert!(message.contains("ran to completion"), "{message}");
    armed
        .pods
        .stay_untouched(&pods, Duration::from_secs(3))
        .await;

    // It is held as before; who has completed is not asked again.
    stage.await_condition("app", ConditionType::Armed).await;
    stage.delete_deployment("app", "background").await;
    stage.gone::<Deployment>("app").await;
    stage.ended("app", Outcome::Completed).await;
}

/// As a GitOps tool does it: the same manifest again.
async fn completed_work_that_is_created_again_says_so_and_runs(stage: Stage) {
    let armed = both(&stage, json!({})).await;
    armed.app.acknowledge(HookKind::Complete).await.counts();
    stage.gone::<Deployment>("app").await;
    armed.pods.gone(std::slice::from_ref(&armed.app.uid)).await;
    stage.phase("app", Phase::Completed).await;

    let _: Deployment = stage.create(manifests::app("app")).await;
    let again = stage.armed("app").await;
    let message = completed(&again.hook);
    assert!(
        message.contains("the workload was created again"),
        "{message}"
    );
    // And it completes for itself.
    let pods = [again.app.uid.clone()];
    again
        .pods
        .stay_untouched(&pods, Duration::from_secs(3))
        .await;
    again.app.acknowledge(HookKind::Complete).await.counts();
    stage.gone::<Deployment>("app").await;
    let hook = stage.phase("app", Phase::Completed).await;
    assert!(!completed(&hook).contains("created again"));
}

/// An armed app whose hook has `shutdown`, and this `complete`.
async fn both(stage: &Stage, complete: Value) -> Armed {
    let mut kinds = manifests::shutdown(json!({"timeoutSeconds": 120}));
    kinds["complete"] = complete;
    let _: Service = stage.create(manifests::service("shutdown", "app")).await;
    let _: Deployment = stage.create(manifests::app("app")).await;
    let _: KrakeHook = stage.create(manifests::hook("app", "app", kinds)).await;
    stage.armed("app").await
}

/// What the hook says of a completion.
fn completed(hook: &KrakeHook) -> String {
    let completed = condition::find(&status(hook).conditions, ConditionType::Completed);
    completed.expect("it is said").message.clone()
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
