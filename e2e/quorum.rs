//! Several pods: who is called, whose word counts, and who is waited for.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;

use krake_hooks::api::condition::{self, ConditionType};
use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::status::Outcome;
use krake_hooks::api::{HookKind, names};

use crate::support::app::App;
use crate::support::manifests;
use crate::support::runner::Story;
use crate::support::stage::{Stage, is_ready, status};
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Together:
        each_pod_is_called_and_each_has_to_acknowledge_for_itself,
        work_is_complete_when_each_pod_has_said_so,
        two_of_three_are_enough_where_two_are_asked_for,
    ]
}

async fn each_pod_is_called_and_each_has_to_acknowledge_for_itself(stage: Stage) {
    let mut kinds = manifests::shutdown(json!({
        "timeoutSeconds": 120,
        "acknowledgements": {"policy": "All"},
    }));
    kinds["shutdown"]["callOut"]["fanOut"] = json!("EachPod");
    let mut deployment = manifests::app("app");
    deployment["spec"]["replicas"] = json!(2);
    let _: Service = stage.create(manifests::service("shutdown", "app")).await;
    let _: Deployment = stage.create(deployment).await;
    let _: KrakeHook = stage.create(manifests::hook("app", "app", kinds)).await;
    stage.await_condition("app", ConditionType::Armed).await;
    let [first, second] = injected(&stage).await;
    let pods = stage.witness("app").await;
    let uids = [first.uid.clone(), second.uid.clone()];

    stage.delete_deployment("app", "foreground").await;
    first.called(1).await;
    second.called(1).await;
    anonymous_is_refused(&first, HookKind::Shutdown).await;
    first.acknowledge(HookKind::Shutdown).await.counts();
    let again = first.acknowledge(HookKind::Shutdown).await;
    assert_eq!(again.counts().body["replayed"], true, "{again:?}");
    let words = format!(
        "1 of 2 pods have acknowledged; waiting for pod {}",
        second.name
    );
    let hook = stage
        .await_hook("app", "who is waited for", SOON, |status| {
            condition::find(&status.conditions, ConditionType::Blocking)
                .is_some_and(|blocking| blocking.message.contains(&words))
        })
        .await;
    let request = status(&hook)
        .workload_request()
        .cloned()
        .expect("it was asked");
    assert_eq!((request.attempts, request.called_pods.len()), (2, 2));
    assert!(
        request
            .called_pods
            .iter()
            .all(|called| called.code == "200")
    );
    pods.stay_untouched(&uids, Duration::from_secs(3)).await;

    second.acknowledge(HookKind::Shutdown).await.counts();
    stage.gone::<Deployment>("app").await;
    pods.gone(&uids).await;
    stage.ended("app", Outcome::Acknowledged).await;
}

async fn work_is_complete_when_each_pod_has_said_so(stage: Stage) {
    let all = json!({"complete": {"acknowledgements": {"policy": "All"}}});
    let mut deployment = manifests::app("app");
    deployment["spec"]["replicas"] = json!(2);
    let _: Deployment = stage.create(deployment).await;
    let _: KrakeHook = stage.create(manifests::hook("app", "app", all)).await;
    stage.await_condition("app", ConditionType::Ready).await;
    let [first, second] = injected(&stage).await;
    let pods = stage.witness("app").await;
    let uids = [first.uid.clone(), second.uid.clone()];

    anonymous_is_refused(&first, HookKind::Complete).await;
    first.acknowledge(HookKind::Complete).await.counts();
    let words = format!(
        "1 of 2 pods have said that the work is complete; waiting for pod {}",
        second.name
    );
    stage
        .await_hook("app", "who is waited for", SOON, |status| {
            condition::find(&status.conditions, ConditionType::Completed)
                .is_some_and(|completed| completed.message.contains(&words))
        })
        .await;
    pods.stay_untouched(&uids, Duration::from_secs(3)).await;

    second.acknowledge(HookKind::Complete).await.counts();
    stage.gone::<Deployment>("app").await;
    pods.gone(&uids).await;
    stage.ended("app", Outcome::Completed).await;
}

async fn two_of_three_are_enough_where_two_are_asked_for(stage: Stage) {
    let kinds = manifests::shutdown(json!({
        "timeoutSeconds": 120,
        "acknowledgements": {"policy": "AtLeast", "count": 2},
    }));
    let mut deployment = manifests::app("app");
    deployment["spec"]["replicas"] = json!(3);
    let _: Service = stage.create(manifests::service("shutdown", "app")).await;
    let _: Deployment = stage.create(deployment).await;
    let _: KrakeHook = stage.create(manifests::hook("app", "app", kinds)).await;
    stage.await_condition("app", ConditionType::Armed).await;
    let apps: [App; 3] = injected(&stage).await;
    let pods = stage.witness("app").await;
    let uids = apps.each_ref().map(|app| app.uid.clone());

    stage.delete_deployment("app", "foreground").await;
    stage.asked("app").await;
    apps[2].acknowledge(HookKind::Shutdown).await.counts();
    let words = "1 of 2 pods have acknowledged; waiting for 1 of ";
    stage
        .await_hook("app", "how many are waited for", SOON, |status| {
            condition::find(&status.conditions, ConditionType::Blocking)
                .is_some_and(|blocking| blocking.message.contains(words))
        })
        .await;
    pods.stay_untouched(&uids, Duration::from_secs(3)).await;

    apps[0].acknowledge(HookKind::Shutdown).await.counts();
    stage.gone::<Deployment>("app").await;
    pods.gone(&uids).await;
    stage.ended("app", Outcome::Acknowledged).await;
}

/// Whoever does not say which pod it is counts for nobody, and is told so.
async fn anonymous_is_refused(app: &App, kind: HookKind) {
    let endpoint = match kind {
        HookKind::Complete => "$KRAKE_COMPLETE_ENDPOINT",
        HookKind::Shutdown => "$KRAKE_SHUTDOWN_ENDPOINT",
    };
    let line = r#"curl -X PUT -d "{\"token\":\"$KRAKE_TOKEN\"}" ENDPOINT --cacert /etc/krake_cert/ca-bundle.pem --cert /etc/krake_cert/cert.pem --key /etc/krake_cert/key.pem"#;
    let answer = app.curl(&line.replace("ENDPOINT", endpoint)).await;
    answer.is_refused(409, "Anonymous");
}

/// The pods, once there are so many and each has what is injected.
async fn injected<const COUNT: usize>(stage: &Stage) -> [App; COUNT] {
    let selector = ListParams::default().labels("app=app");
    until(format!("{COUNT} injected pods"), SOON, async || {
        let all = stage.all::<Pod>().list(&selector).await;
        let all = all.map_err(|error| error.to_string())?.items;
        let has_all = |pod: &Pod| pod.annotations().contains_key(names::STAMP_ANNOTATION);
        let good = all
            .iter()
            .filter(|pod| has_all(pod) && is_ready(pod))
            .count();
        let pods = <[Pod; COUNT]>::try_from(all);
        let pods = pods.map_err(|others| format!("{} pods", others.len()))?;
        match good == COUNT {
            true => Ok(pods.map(|pod| App::of(&pod, stage.client.clone()))),
            false => Err(format!("{good} are ready and injected")),
        }
    })
    .await
}
