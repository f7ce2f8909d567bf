//! What happens when nobody acknowledges in time.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;

use krake_hooks::api::HookKind;
use krake_hooks::api::names::SKIP_ANNOTATION;
use krake_hooks::api::status::{Outcome, Phase};

use crate::support::runner::Story;
use crate::support::stage::{Stage, status};

pub fn stories() -> Vec<Story> {
    crate::stories![Together:
        after_its_deadline_a_removal_goes_on,
        with_retain_a_removal_waits_for_a_late_acknowledgement,
        each_retry_is_a_whole_round_with_a_call_of_the_same_request,
        a_person_can_let_a_removal_go_on,
        a_removal_of_what_does_not_run_waits_for_nobody,
    ]
}

async fn after_its_deadline_a_removal_goes_on(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 6})).await;
    let pods = [armed.app.uid.clone()];
    stage.delete_deployment("app", "foreground").await;
    let call = armed.app.called(1).await.remove(0);
    let deadline = stage.asked("app").await;
    let given = deadline.as_millisecond() as f64 / 1000.0 - call.at;
    assert!((5.0..=8.0).contains(&given), "the app was given {given} s");

    let asked = armed.pods.gone(&pods).await;
    assert!(
        asked.as_second() >= deadline.as_second(),
        "deleted at {asked}, the deadline was {deadline}"
    );
    stage.gone::<Deployment>("app").await;
    stage.ended("app", Outcome::TimedOut).await;
}

async fn with_retain_a_removal_waits_for_a_late_acknowledgement(stage: Stage) {
    let armed = stage
        .armed_app(json!({"timeoutSeconds": 3, "onTimeout": "Retain"}))
        .await;
    let pods = [armed.app.uid.clone()];
    stage.delete_deployment("app", "foreground").await;
    let deadline = stage.asked("app").await;
    stage.phase("app", Phase::Retained).await;
    assert!(Timestamp::now() >= deadline);
    let message = stage.await_refusal("app", "Retained").await;
    assert!(
        message.contains("deadline passed, onTimeout is Retain"),
        "{message}"
    );
    armed
        .pods
        .stay_untouched(&pods, Duration::from_secs(5))
        .await;

    armed.app.acknowledge(HookKind::Shutdown).await.counts();
    stage.gone::<Deployment>("app").await;
    armed.pods.gone(&pods).await;
    stage.ended("app", Outcome::Acknowledged).await;
}

async fn each_retry_is_a_whole_round_with_a_call_of_the_same_request(stage: Stage) {
    let armed = stage
        .armed_app(json!({"timeoutSeconds": 4, "retries": 1}))
        .await;
    let pods = [armed.app.uid.clone()];
    stage.delete_deployment("app", "background").await;
    let calls = armed.app.called(2).await;
    assert_eq!(calls[0].request, calls[1].request);
    assert_ne!(calls[0].deadline, calls[1].deadline);
    let between = calls[1].at - calls[0].at;
    assert!((3.5..=8.0).contains(&between), "the round took {between} s");

    let asked = armed.pods.gone(&pods).await;
    let whole = asked.as_second() as f64 - calls[1].at;
    assert!(whole >= 3.0, "the second round took only {whole} s");
    let hook = stage.ended("app", Outcome::TimedOut).await;
    let request = status(&hook)
        .workload_request()
        .cloned()
        .expect("it was asked");
    assert_eq!(request.round, 2);
}

async fn a_person_can_let_a_removal_go_on(stage: Stage) {
    let armed = stage
        .armed_app(json!({"timeoutSeconds": 600, "onTimeout": "Retain"}))
        .await;
    stage.delete_deployment("app", "foreground").await;
    armed.app.called(1).await;
    let annotation = format!("{SKIP_ANNOTATION}=the disk is lost anyway");
    stage
        .kubectl(&["annotate", "krakehook", "app", &annotation])
        .await;
    stage.gone::<Deployment>("app").await;
    let hook = stage.ended("app", Outcome::Skipped).await;
    let message = &status(&hook).history[0].message;
    assert!(message.contains("the disk is lost anyway"), "{message}");
}

async fn a_removal_of_what_does_not_run_waits_for_nobody(stage: Stage) {
    let armed = stage
        .armed_app(json!({"timeoutSeconds": 600, "onTimeout": "Retain"}))
        .await;
    stage
        .kubectl(&["scale", "deployment", "app", "--replicas=0"])
        .await;
    armed.pods.gone(std::slice::from_ref(&armed.app.uid)).await;
    stage.delete_deployment("app", "foreground").await;
    stage.gone::<Deployment>("app").await;
    stage.ended("app", Outcome::NothingRunning).await;
}
