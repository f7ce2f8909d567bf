//! Kubernetes waits for nobody in a namespace that is deleted; nor may we keep it from going.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;

use krake_hooks::api::HookGuard;

use crate::support::runner::Story;
use crate::support::stage::{RUN_LABEL, Stage};
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    let mut stories = crate::stories![Together: a_deleted_namespace_is_gone_within_a_minute];
    stories.extend(crate::stories![Last: no_namespace_and_no_guard_of_the_stories_is_left]);
    stories
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

async fn no_namespace_and_no_guard_of_the_stories_is_left(stage: Stage) {
    if std::env::var_os("KEEP").is_some() {
        crate::support::runner::skip("KEEP is set");
    }
    let namespaces: Api<Namespace> = Api::all(stage.client.clone());
    let guards: Api<HookGuard> = Api::all(stage.client.clone());
    let mine = namespaces.get(&stage.namespace).await.expect("it is there");
    let run = ListParams::default().labels(&format!("{RUN_LABEL}={}", mine.labels()[RUN_LABEL]));
    until("namespaces and guards are gone", SOON, async || {
        let left = namespaces.list(&run).await.map_err(|e| e.to_string())?;
        let left: Vec<String> = left
            .iter()
            .map(ResourceExt::name_any)
            .filter(|name| *name != stage.namespace)
            .collect();
        let guards = guards.list(&ListParams::default()).await;
        let present = namespaces.list_metadata(&ListParams::default()).await;
        let present = present.map_err(|e| e.to_string())?;
        // A guard whose namespace is gone is one that nobody will ever take away.
        let guards: Vec<String> = guards
            .map_err(|e| e.to_string())?
            .iter()
            .map(|guard| guard.spec.hook.namespace.clone())
            .filter(|namespace| !present.iter().any(|one| one.name_any() == *namespace))
            .collect();
        match left.is_empty() && guards.is_empty() {
            true => Ok(()),
            false => Err(format!("namespaces {left:?}, guards of {guards:?}")),
        }
    })
    .await;
}
