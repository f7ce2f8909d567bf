//! A removal waits: the pods run, untouched, from the deletion to the acknowledgement.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;

use krake_hooks::api::HookKind;
use krake_hooks::api::condition::ConditionType;
use krake_hooks::api::status::{Deletion, Outcome, RequestState};

use crate::support::manifests;
use crate::support::runner::Story;
use crate::support::stage::{Armed, Stage, status};
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Together:
        a_background_deletion_waits_for_the_acknowledgement,
        a_foreground_deletion_waits_for_the_acknowledgement,
        a_foreground_deletion_in_the_middle_of_a_rollout_waits_for_the_acknowledgement,
        what_a_foreground_deletion_leaves_is_adopted_by_nobody,
        a_failed_acknowledgement_is_shown_and_does_not_count,
        the_app_is_called_until_it_takes_the_call,
    ]
}

async fn a_background_deletion_waits_for_the_acknowledgement(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    stage.delete_deployment("app", "background").await;
    is_held(&stage, &armed, Deletion::Background).await;

    armed.app.acknowledge_in_python(HookKind::Shutdown).await;
    is_released(&stage, &armed).await;
}

async fn a_foreground_deletion_waits_for_the_acknowledgement(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    let deployment = uid(&stage).await;
    stage.delete_deployment("app", "foreground").await;
    stage.garbage_collector_has_passed(&deployment).await;
    is_held(&stage, &armed, Deletion::Foreground).await;

    let answer = armed.app.acknowledge(HookKind::Shutdown).await;
    assert_eq!(answer.counts().body["kind"], "shutdown", "{answer:?}");
    assert_eq!(answer.body["replayed"], false, "{answer:?}");
    is_released(&stage, &armed).await;
}

/// The rollout stands still in its middle: the new pod runs, and is never ready.
async fn a_foreground_deletion_in_the_middle_of_a_rollout_waits_for_the_acknowledgement(
    stage: Stage,
) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    let stuck = json!({"spec": {"template": {"spec": {"containers": [{
        "name": "app",
        "readinessProbe": {"httpGet": {"path": "/calls", "port": 9}},
    }]}}}});
    stage
        .kubectl(&["patch", "deployment", "app", "--patch", &stuck.to_string()])
        .await;
    let both = until("a pod of each template runs", SOON, async || {
        let living = armed.pods.living();
        match living.len() {
            2 => Ok(living),
            _ => Err(format!("{:#?}", armed.pods.all())),
        }
    })
    .await;
    stage.await_condition("app", ConditionType::Armed).await;

    let deployment = uid(&stage).await;
    stage.delete_deployment("app", "foreground").await;
    stage.garbage_collector_has_passed(&deployment).await;
    armed.app.called(1).await;
    armed
        .pods
        .stay_untouched(&both, Duration::from_secs(4))
        .await;

    armed.app.acknowledge(HookKind::Shutdown).await.counts();
    stage.gone::<Deployment>("app").await;
    armed.pods.gone(&both).await;
    stage.ended("app", Outcome::Acknowledged).await;
}

/// Another Deployment selects the same pods, as a copy of a manifest does. It would take the ReplicaSet
/// for an old one of its own.
async fn what_a_foreground_deletion_leaves_is_adopted_by_nobody(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    let mut twin = manifests::app("app");
    twin["metadata"]["name"] = json!("twin");
    twin["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": "ANOTHER", "value": "template"}]);
    let _: Deployment = stage.create(twin).await;
    let twin_runs = async || {
        let twin = stage.all::<Deployment>().get("twin").await;
        let status = twin.map_err(|e| e.to_string())?.status;
        match status.as_ref().and_then(|status| status.ready_replicas) {
            Some(1) => Ok(()),
            _ => Err(format!("{status:?}")),
        }
    };
    until("the twin runs", SOON, twin_runs).await;
    let pods = [armed.app.uid.clone()];
    let deployment = uid(&stage).await;
    stage.delete_deployment("app", "foreground").await;
    stage.garbage_collector_has_passed(&deployment).await;
    armed
        .pods
        .stay_untouched(&pods, Duration::from_secs(4))
        .await;
    // And it is not kept from its own work.
    stage
        .kubectl(&["scale", "deployment", "twin", "--replicas=0"])
        .await;
    until("the twin is at zero", SOON, async || {
        let twin = stage.all::<Deployment>().get("twin").await;
        let status = twin.map_err(|e| e.to_string())?.status;
        match status.as_ref().and_then(|status| status.replicas) {
            None | Some(0) => Ok(()),
            _ => Err(format!("{status:?}")),
        }
    })
    .await;
    armed.pods.untouched(&pods).expect("nobody has been asked");

    armed.app.acknowledge(HookKind::Shutdown).await.counts();
    stage.gone::<Deployment>("app").await;
    armed.pods.gone(&pods).await;
    stage.ended("app", Outcome::Acknowledged).await;
}

async fn a_failed_acknowledgement_is_shown_and_does_not_count(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    let pods = [armed.app.uid.clone()];
    stage.delete_deployment("app", "background").await;
    armed.app.called(1).await;

    let failure = r#"curl -X PUT -d "{\"token\":\"$KRAKE_TOKEN\",\"result\":\"Failure\",\"message\":\"disk full\"}" $KRAKE_SHUTDOWN_URL --cacert /etc/krake_cert/ca-bundle.pem --cert /etc/krake_cert/cert.pem --key /etc/krake_cert/key.pem"#;
    let answer = armed.app.curl(failure).await;
    assert_eq!(answer.code, 202, "{answer:?}");
    let hook = stage
        .await_hook("app", "the failure in its status", SOON, |status| {
            !status.acknowledgements.is_empty()
        })
        .await;
    let shown = &status(&hook).acknowledgements[&format!("shutdown.{}", armed.app.uid)];
    assert_eq!(shown.message.as_deref(), Some("disk full"));
    stage.told("Failure").await;
    armed
        .pods
        .stay_untouched(&pods, Duration::from_secs(3))
        .await;

    armed.app.acknowledge(HookKind::Shutdown).await.counts();
    is_released(&stage, &armed).await;
}

async fn the_app_is_called_until_it_takes_the_call(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    armed.app.answer_with(500).await;
    stage.delete_deployment("app", "background").await;
    armed.app.called(2).await;
    armed.app.answer_with(200).await;
    let calls = until("a call that was taken", SOON, async || {
        let calls = armed.app.calls().await?;
        match calls.last().is_some_and(|call| call.code == 200) {
            true => Ok(calls),
            false => Err(format!("{calls:?}")),
        }
    })
    .await;
    assert!(
        calls.iter().all(|call| call.request == calls[0].request),
        "one request has one id, so that the app can drop a duplicate: {calls:#?}"
    );
    armed.app.acknowledge(HookKind::Shutdown).await.counts();
    is_released(&stage, &armed).await;
}

async fn is_held(stage: &Stage, armed: &Armed, how: Deletion) {
    let pods = [armed.app.uid.clone()];
    let call = armed.app.called(1).await.remove(0);
    assert_eq!(call.body, "", "Krake's sample server never reads a body");
    assert!(!call.chunked, "{call:?}");
    assert_eq!(call.hook, Some(format!("{}/app", stage.namespace)));

    let deadline = stage.asked("app").await;
    let hook = stage.await_condition("app", ConditionType::Blocking).await;
    let request = status(&hook)
        .workload_request()
        .cloned()
        .expect("it was asked");
    assert_eq!(call.request, Some(request.id));
    assert_eq!(request.state, RequestState::Open);
    assert_eq!(request.pods, pods);
    assert_eq!(status(&hook).deletion, Some(how));
    assert!(request.opened_at.0 < deadline);
    armed
        .pods
        .stay_untouched(&pods, Duration::from_secs(4))
        .await;
    assert_eq!(armed.app.calls().await.map(|calls| calls.len()), Ok(1));
}

/// Everything of the workload goes, nothing of it went before the acknowledgement, and the hook
/// stays and says how it ended.
async fn is_released(stage: &Stage, armed: &Armed) {
    stage.gone::<Deployment>("app").await;
    let asked = armed.pods.gone(std::slice::from_ref(&armed.app.uid)).await;
    let hook = stage.ended("app", Outcome::Acknowledged).await;
    let key = format!("shutdown.{}", armed.app.uid);
    let acknowledged = status(&hook).acknowledgements[&key].at.0;
    // deletionTimestamp has whole seconds.
    assert!(
        asked.as_second() >= acknowledged.as_second(),
        "deleted at {asked}, acknowledged at {acknowledged}"
    );
    assert_eq!(
        status(&hook)
            .workload_request()
            .map(|request| request.state),
        Some(RequestState::Closed)
    );
    let left = stage.all::<Pod>().list(&ListParams::default()).await;
    let left = left.expect("pods can be listed").items;
    let left: Vec<String> = left.iter().map(ResourceExt::name_any).collect();
    assert_eq!(left, Vec::<String>::new());
}

async fn uid(stage: &Stage) -> String {
    let deployment = stage.all::<Deployment>().get("app").await;
    deployment.expect("the Deployment is there").uid().unwrap()
}
