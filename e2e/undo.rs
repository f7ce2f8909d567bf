//! A rollout is undone past the injection: its ReplicaSets from before are guarded, too.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;

use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::status::Outcome;

use crate::crash::counts_in_the_end;
use crate::support::manifests;
use crate::support::runner::Story;
use crate::support::stage::Stage;
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Alone:
        a_deletion_after_an_undo_past_the_injection_waits,
    ]
}

/// The operator is away, so that nothing of it could come between the undo and the deletion.
async fn a_deletion_after_an_undo_past_the_injection_waits(stage: Stage) {
    let _: Service = stage.create(manifests::service("shutdown", "app")).await;
    let _: Deployment = stage.create(manifests::app("app")).await;
    let pods = stage.witness("app").await;
    until("a pod without injection", SOON, async || {
        match pods.living().len() {
            1 => Ok(()),
            _ => Err(format!("{:?}", pods.all())),
        }
    })
    .await;
    let hook = manifests::shutdown(json!({"timeoutSeconds": 120}));
    let _: KrakeHook = stage.create(manifests::hook("app", "app", hook)).await;
    let armed = stage.armed("app").await;
    let sets = stage.all::<ReplicaSet>().list(&ListParams::default()).await;
    let sets = sets.expect("ReplicaSets can be listed").items;
    assert_eq!(sets.len(), 2, "one from before, one with the injection");
    for set in &sets {
        let guards = set.owner_references().iter();
        let guards = guards.filter(|owner| owner.kind == "HookGuard").count();
        assert_eq!(guards, 1, "{:?}", set.metadata);
    }

    // The injected pod stays for as long as the one that replaces it is not available.
    let slowly = json!({"spec": {"minReadySeconds": 300}}).to_string();
    stage
        .kubectl(&["patch", "deployment", "app", "--patch", &slowly])
        .await;
    let operator = stage.cluster.operator().await;
    operator.leave().await;
    stage
        .kubectl(&["rollout", "undo", "deployment", "app"])
        .await;
    let both = until("a pod of each template", SOON, async || {
        let living = armed.pods.living();
        match living.len() {
            2 => Ok(living),
            _ => Err(format!("{:?}", armed.pods.all())),
        }
    })
    .await;
    let deployment = stage.all::<Deployment>().get("app").await;
    let uid = deployment.ok().and_then(|d| d.uid()).expect("a uid");
    stage.delete_deployment("app", "foreground").await;
    stage.garbage_collector_has_passed(&uid).await;
    armed
        .pods
        .stay_untouched(&both, Duration::from_secs(4))
        .await;

    operator.come_back().await;
    armed.app.called(1).await;
    armed
        .pods
        .untouched(&both)
        .expect("nobody has acknowledged");
    counts_in_the_end(&armed.app).await;
    stage.gone::<Deployment>("app").await;
    armed.pods.gone(&both).await;
    stage.ended("app", Outcome::Acknowledged).await;
}
