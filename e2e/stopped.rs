//! `state: Stopped`: a declared shutdown, and back.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use krake_hooks::api::HookKind;
use krake_hooks::api::condition::ConditionType;
use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::status::{Outcome, Phase, Trigger};

use crate::support::runner::Story;
use crate::support::stage::{Stage, status};
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Together:
        a_stop_waits_for_the_app_and_an_autoscaler_leaves_it_at_zero_until_it_is_started,
        what_was_stopped_is_deleted_without_another_request,
    ]
}

async fn a_stop_waits_for_the_app_and_an_autoscaler_leaves_it_at_zero_until_it_is_started(
    stage: Stage,
) {
    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "app"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"},
            "minReplicas": 2, "maxReplicas": 3,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 80}}}],
        },
    });
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    let _: HorizontalPodAutoscaler = stage.create(autoscaler).await;
    await_replicas(&stage, 2).await;
    let both = until("the autoscaler's second pod", SOON, async || {
        let living = armed.pods.living();
        match living.len() {
            2 => Ok(living),
            _ => Err(format!("{:#?}", armed.pods.all())),
        }
    })
    .await;
    stage.await_condition("app", ConditionType::Armed).await;
    set_state(&stage, "Stopped").await;
    stage.asked("app").await;
    let hook = stage.phase("app", Phase::Stopping).await;
    let request = status(&hook)
        .workload_request()
        .cloned()
        .expect("it was asked");
    assert_eq!(request.trigger, Trigger::Stop);
    armed
        .pods
        .stay_untouched(&both, Duration::from_secs(3))
        .await;
    assert_eq!(replicas(&stage).await, Ok(2));

    armed.app.acknowledge(HookKind::Shutdown).await.counts();
    armed.pods.gone(&both).await;
    let hook = stage.phase("app", Phase::Stopped).await;
    let stopped = status(&hook).stopped.clone().expect("what it had");
    assert_eq!(stopped.replicas, Some(2));
    assert_eq!(status(&hook).history[0].outcome, Outcome::Acknowledged);
    until(
        "an autoscaler that keeps out",
        Duration::from_secs(60),
        async || {
            let autoscalers = stage.all::<HorizontalPodAutoscaler>();
            let seen = autoscalers.get("app").await.map_err(|e| e.to_string())?;
            let conditions = seen.status.and_then(|status| status.conditions);
            let disabled = conditions.iter().flatten().any(|c| {
                c.type_ == "ScalingActive" && c.reason.as_deref() == Some("ScalingDisabled")
            });
            match disabled {
                true => Ok(()),
                false => Err(format!("{conditions:?}")),
            }
        },
    )
    .await;
    assert_eq!(replicas(&stage).await, Ok(0));

    // What gives it its replicas back is the operator.
    stage
        .kubectl(&["delete", "horizontalpodautoscaler", "app"])
        .await;
    set_state(&stage, "Running").await;
    await_replicas(&stage, 2).await;
    stage.phase("app", Phase::Armed).await;
    let hook = stage.hook("app").await.expect("it is there");
    assert_eq!(status(&hook).stopped, None);
    // A zero that is somebody else's is not ours to undo.
    stage
        .kubectl(&["scale", "deployment", "app", "--replicas=0"])
        .await;
    stage.await_condition("app", ConditionType::Armed).await;
    assert_eq!(replicas(&stage).await, Ok(0));
}

async fn what_was_stopped_is_deleted_without_another_request(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    set_state(&stage, "Stopped").await;
    armed.app.called(1).await;
    armed.app.acknowledge(HookKind::Shutdown).await.counts();
    stage.phase("app", Phase::Stopped).await;
    stage.delete_deployment("app", "foreground").await;
    stage.gone::<Deployment>("app").await;
    stage.ended("app", Outcome::NothingRunning).await;
}

pub async fn set_state(stage: &Stage, state: &str) {
    let hooks = stage.all::<KrakeHook>();
    let patch = Patch::Merge(json!({"spec": {"state": state}}));
    let patched = hooks.patch("app", &PatchParams::default(), &patch).await;
    patched.expect("the hook can be changed");
}

async fn await_replicas(stage: &Stage, wanted: i32) {
    until(
        format!("{wanted} replicas"),
        SOON,
        async || match replicas(stage).await {
            Ok(replicas) if replicas == wanted => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await;
}

async fn replicas(stage: &Stage) -> Result<i32, String> {
    let deployment = stage.all::<Deployment>().get("app").await;
    let spec = deployment.map_err(|error| error.to_string())?.spec;
    spec.and_then(|spec| spec.replicas)
        .ok_or_else(|| "no replicas".to_owned())
}
