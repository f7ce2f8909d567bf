//! The same name again: a hook, or a workload, that was and is made once more. What belonged to
//! the old one opens nothing of the new one.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use serde_json::json;

use krake_hooks::api::HookKind;
use krake_hooks::api::condition::ConditionType;
use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::status::Outcome;

use crate::support::manifests;
use crate::support::runner::Story;
use crate::support::stage::Stage;
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Together:
        a_hook_made_again_at_once_refuses_the_old_tokens,
        a_workload_made_again_refuses_the_old_tokens,
        a_completed_workload_made_again_runs_like_any_other,
    ]
}

async fn a_hook_made_again_at_once_refuses_the_old_tokens(stage: Stage) {
    let old = stage.armed_app(json!({"timeoutSeconds": 60})).await;
    let old_token = old.app.environment("KRAKE_TOKEN").await;
    stage
        .kubectl(&["delete", "krakehook", "app", "--wait=false"])
        .await;
    let again = until("the name is free again", SOON * 2, async || {
        let again = manifests::hook("app", "app", manifests::shutdown(json!({})));
        stage.try_create::<KrakeHook>(again).await
    })
    .await;
    assert_ne!(again.uid(), old.hook.uid());
    let new = until("a pod of the new hook", SOON * 2, async || {
        let hook = stage.hook("app").await.ok_or("no hook")?;
        let app = stage.app("app").await;
        match app.uid != old.app.uid && hook.uid() == again.uid() {
            true => Ok(stage.armed("app").await),
            false => Err("still the old pod"),
        }
    })
    .await;
    old_is_refused_and_new_is_not(&stage, &new.app, &old_token).await;
}

async fn a_workload_made_again_refuses_the_old_tokens(stage: Stage) {
    let old = stage.armed_app(json!({"timeoutSeconds": 60})).await;
    let old_token = old.app.environment("KRAKE_TOKEN").await;
    stage.delete_deployment("app", "background").await;
    old.app.called(1).await;
    old.app.acknowledge(HookKind::Shutdown).await.counts();
    stage.gone::<Deployment>("app").await;

    let again: Deployment = stage.create(manifests::app("app")).await;
    stage
        .await_hook("app", "about the new workload", SOON, |status| {
            status.workload.as_ref().map(|workload| &workload.uid) == again.uid().as_ref()
        })
        .await;
    let new = stage.armed("app").await;
    old_is_refused_and_new_is_not(&stage, &new.app, &old_token).await;

    stage.delete_deployment("app", "foreground").await;
    new.app.called(1).await;
    let pods = [new.app.uid.clone()];
    new.pods.stay_untouched(&pods, Duration::from_secs(3)).await;
    new.app.acknowledge(HookKind::Shutdown).await.counts();
    stage.gone::<Deployment>("app").await;
}

async fn a_completed_workload_made_again_runs_like_any_other(stage: Stage) {
    let _: Deployment = stage.create(manifests::app("app")).await;
    let hook = manifests::hook("app", "app", json!({"complete": {}}));
    let _: KrakeHook = stage.create(hook).await;
    stage.await_condition("app", ConditionType::Ready).await;
    let app = stage.app("app").await;
    let pods = stage.witness("app").await;
    app.acknowledge(HookKind::Complete).await.counts();
    stage.gone::<Deployment>("app").await;
    pods.gone(std::slice::from_ref(&app.uid)).await;
    stage.ended("app", Outcome::Completed).await;

    let _: Deployment = stage.create(manifests::app("app")).await;
    stage.await_condition("app", ConditionType::Completed).await;
    let again = stage.app("app").await;
    assert_ne!(again.uid, app.uid);
    pods.stay_untouched(&[again.uid], Duration::from_secs(5))
        .await;
}

async fn old_is_refused_and_new_is_not(stage: &Stage, app: &crate::support::app::App, old: &str) {
    let url = app.environment("KRAKE_SHUTDOWN_URL").await;
    let token = app.environment("KRAKE_TOKEN").await;
    assert_ne!(token, old);
    let answer = app.put(&url, old, "/etc/krake_cert").await;
    assert_eq!(answer.code, 401, "{}: {answer:?}", stage.namespace);
    let answer = app.put(&url, &token, "/etc/krake_cert").await;
    answer.is_refused(409, "NotAsked");
}
