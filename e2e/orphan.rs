//! `--cascade=orphan` is no removal: whoever asks for it wants the pods to live on.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;

use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::status::Outcome;

use crate::support::runner::Story;
use crate::support::stage::{Armed, Stage};
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    let mut stories = crate::stories![Together: an_orphaning_deletion_leaves_the_pods_alone];
    stories.extend(crate::stories![Alone:
        an_orphaning_deletion_while_the_operator_is_away_leaves_the_pods_alone,
    ]);
    stories
}

async fn an_orphaning_deletion_leaves_the_pods_alone(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 60})).await;
    stage.delete_deployment("app", "orphan").await;
    pods_live_on(&stage, &armed).await;
}

/// When the operator is back, `orphan` no longer stands on the Deployment: only the canary tells.
async fn an_orphaning_deletion_while_the_operator_is_away_leaves_the_pods_alone(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 60})).await;
    let operator = stage.cluster.operator().await;
    operator.leave().await;
    stage.delete_deployment("app", "orphan").await;
    until("the garbage collector has orphaned", SOON, async || {
        let deployment = stage.all::<Deployment>().get("app").await;
        let finalizers = deployment.map_err(|e| e.to_string())?.metadata.finalizers;
        match finalizers.iter().flatten().any(|one| one == "orphan") {
            false => Ok(()),
            true => Err(format!("{finalizers:?}")),
        }
    })
    .await;
    operator.come_back().await;
    pods_live_on(&stage, &armed).await;
}

async fn pods_live_on(stage: &Stage, armed: &Armed) {
    let pods = [armed.app.uid.clone()];
    stage.gone::<Deployment>("app").await;
    stage.ended("app", Outcome::Orphaned).await;
    assert_eq!(armed.app.calls().await.unwrap_or_default().len(), 0);

    stage
        .kubectl(&["delete", "krakehook", "app", "--wait=false"])
        .await;
    stage.gone::<KrakeHook>("app").await;
    armed
        .pods
        .stay_untouched(&pods, Duration::from_secs(8))
        .await;
    let sets = stage.all::<ReplicaSet>().list(&ListParams::default()).await;
    for set in sets.expect("ReplicaSets can be listed") {
        assert_eq!(set.owner_references(), [], "{}", set.name_any());
    }
}
