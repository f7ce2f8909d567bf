//! Kubernetes waits for nobody in a namespace that is deleted; nor may we keep it from going.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use serde_json::json;

use crate::support::runner::Story;
use crate::support::stage::Stage;
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Together: a_deleted_namespace_is_gone_within_a_minute]
}

async fn a_deleted_namespace_is_gone_within_a_minute(stage: Stage) {
    let armed = stage
        .armed_app(json!({"timeoutSeconds": 600, "onTimeout": "Retain"}))
        .await;
    let begin = Instant::now();
    stage.close().await;
    let namespaces: Api<Namespace> = Api::all(stage.client.clone());
    until("the namespace is gone", SOON, async || {
        match namespaces.get_opt(&stage.namespace).await {
            Ok(None) => Ok(()),
            other => Err(format!("{:?}", other.map(|one| one.and_then(|n| n.status)))),
        }
    })
    .await;
    assert!(begin.elapsed() < Duration::from_secs(60));
    until("the guard is gone", SOON, async || {
        match stage.guard(&armed.hook).await {
            None => Ok(()),
            Some(guard) => Err(format!("{:?}", guard.metadata)),
        }
    })
    .await;
}
