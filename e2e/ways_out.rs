//! The ways out of a hold, and the policies that refuse a deletion instead of holding it.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use serde_json::json;

use krake_hooks::api::condition::{self, ConditionType};
use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::status::Outcome;
use krake_hooks::api::{WorkloadKind, names};

use crate::support::cluster::repository;
use crate::support::manifests;
use crate::support::runner::Story;
use crate::support::seed;
use crate::support::stage::{Stage, status};
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Together:
        a_removal_is_let_go_on_by_an_annotation_of_the_hook,
        a_removal_is_let_go_on_by_an_annotation_of_the_workload,
        a_namespace_that_refuses_it_loses_no_armed_workload_but_through_its_hook,
        a_namespace_that_refuses_it_lets_finished_jobs_go,
        a_protected_namespace_is_not_deleted,
    ]
}

async fn a_removal_is_let_go_on_by_an_annotation_of_the_hook(stage: Stage) {
    is_skipped_by(&stage, "krakehook").await;
}

async fn a_removal_is_let_go_on_by_an_annotation_of_the_workload(stage: Stage) {
    is_skipped_by(&stage, "deployment").await;
}

/// Nobody acknowledges, and the time would never be up; why it went all the same can be read from
/// the history, and from an Event on hook and workload.
async fn is_skipped_by(stage: &Stage, kind: &str) {
    let armed = stage
        .armed_app(json!({"timeoutSeconds": 600, "onTimeout": "Retain"}))
        .await;
    let pods = [armed.app.uid.clone()];
    stage.delete_deployment("app", "foreground").await;
    armed.app.called(1).await;
    armed
        .pods
        .untouched(&pods)
        .expect("it has not acknowledged");

    let without = format!("{}=", names::SKIP_ANNOTATION);
    stage.kubectl(&["annotate", kind, "app", &without]).await;
    stage
        .await_hook("app", "a reason is asked for", SOON, |status| {
            condition::find(&status.conditions, ConditionType::Blocking)
                .is_some_and(|blocking| blocking.message.contains("without a reason"))
        })
        .await;
    armed.pods.untouched(&pods).expect("nobody has said why");

    let reason = "ticket 4711, says the owner";
    let annotation = format!("{}={reason}", names::SKIP_ANNOTATION);
    stage
        .kubectl(&["annotate", kind, "app", "--overwrite", &annotation])
        .await;
    stage.gone::<Deployment>("app").await;
    armed.pods.gone(&pods).await;
    let hook = stage.ended("app", Outcome::Skipped).await;
    let entry = &status(&hook).history[0];
    assert!(entry.message.contains(reason), "{entry:?}");
    for kind in ["KrakeHook", "Deployment"] {
        until(format!("an Event on the {kind}"), SOON, async || {
            let events = stage.all::<Event>().list(&ListParams::default()).await;
            let events = events.map_err(|error| error.to_string())?.items;
            let told = |event: &&Event| {
                event.involved_object.kind.as_deref() == Some(kind)
                    && event.message.as_ref().is_some_and(|m| m.contains(reason))
            };
            match events.iter().find(told) {
                Some(_) => Ok(()),
                None => Err(format!(
                    "{:?}",
                    events.iter().map(|e| &e.message).collect::<Vec<_>>()
                )),
            }
        })
        .await;
    }
}

async fn a_namespace_that_refuses_it_loses_no_armed_workload_but_through_its_hook(stage: Stage) {
    apply(&stage, "armed-workloads").await;
    let label = "hooks.krake.dev/refuse-deletion=true";
    stage
        .kubectl(&["label", "namespace", &stage.namespace, label])
        .await;
    let both = json!({"complete": {}, "shutdown": {"timeoutSeconds": 600}});
    for (name, replicas, kinds) in [
        ("runs", 1, json!({"shutdown": {"timeoutSeconds": 1}})),
        ("stopped", 0, json!({"shutdown": {}})),
        ("completes", 1, both),
    ] {
        let mut deployment = manifests::app(name);
        deployment["spec"]["replicas"] = json!(replicas);
        let _: Deployment = stage.create(deployment).await;
        let _: KrakeHook = stage.create(manifests::hook(name, name, kinds)).await;
    }
    for name in ["runs", "stopped", "completes"] {
        stage.await_condition(name, ConditionType::Armed).await;
    }
    let runs = stage.armed("runs").await;
    let pods = [runs.app.uid.clone()];
    // A new policy is not in force at once.
    let refusal = until("the deletion is refused", SOON, async || {
        let asked = ["delete", "deployment", "runs", "--dry-run=server"];
        match stage.try_kubectl(&asked).await {
            Err(refusal) => Ok(refusal),
            Ok(said) => Err(said),
        }
    })
    .await;
    for told in ["KrakeHook runs", names::SKIP_ANNOTATION, "scale it to zero"] {
        assert!(refusal.contains(told), "{refusal}");
    }
    for how in [
        ["delete", "deployment", "runs", "--cascade=foreground"],
        ["delete", "deployment", "runs", "--cascade=orphan"],
        ["delete", "deployment", "runs", "--force"],
        ["delete", "deployment", "--selector", "app=runs"],
    ] {
        let refused = stage.try_kubectl(&how).await;
        assert!(refused.is_err(), "{how:?}: {refused:?}");
    }
    runs.pods
        .stay_untouched(&pods, Duration::from_secs(2))
        .await;

    // What has nothing to lose, what the hook itself removes, and what somebody answers for.
    stage.delete_deployment("stopped", "background").await;
    stage.gone::<Deployment>("stopped").await;
    let completes = stage.app("completes").await;
    completes.curl(seed::CURL_TLS).await.counts();
    stage.gone::<Deployment>("completes").await;
    let annotate = async |reason: &str| {
        let annotation = format!("{}={reason}", names::SKIP_ANNOTATION);
        stage
            .kubectl(&["annotate", "deployment", "runs", "--overwrite", &annotation])
            .await
    };
    annotate("").await;
    let refused = stage
        .try_kubectl(&["delete", "deployment", "runs", "--wait=false"])
        .await;
    assert!(refused.is_err(), "nobody says why: {refused:?}");
    annotate("the owner says so").await;
    stage.delete_deployment("runs", "foreground").await;
    stage.gone::<Deployment>("runs").await;
    stage.ended("runs", Outcome::Skipped).await;
}

/// Nor is Kubernetes itself refused anything: a Job whose time after its end is over goes.
async fn a_namespace_that_refuses_it_lets_finished_jobs_go(stage: Stage) {
    apply(&stage, "armed-workloads").await;
    let label = "hooks.krake.dev/refuse-deletion=true";
    stage
        .kubectl(&["label", "namespace", &stage.namespace, label])
        .await;
    let kind = WorkloadKind::Job;
    let mut job = manifests::workload(kind, "ends");
    job["spec"]["suspend"] = json!(true);
    job["spec"]["ttlSecondsAfterFinished"] = json!(1);
    job["spec"]["template"]["spec"]["containers"][0]["command"] = json!(["true"]);
    let _: Job = stage.create(job).await;
    let hook = manifests::hook_of(kind, "ends", "ends", json!({"shutdown": {}}));
    let _: KrakeHook = stage.create(hook).await;
    stage.await_condition("ends", ConditionType::Armed).await;
    let resume = [
        "patch",
        "job",
        "ends",
        "--patch",
        r#"{"spec":{"suspend":false}}"#,
    ];
    stage.kubectl(&resume).await;
    stage.gone::<Job>("ends").await;
    stage.ended("ends", Outcome::NothingRunning).await;
}

async fn a_protected_namespace_is_not_deleted(stage: Stage) {
    apply(&stage, "protected-namespaces").await;
    let label = "hooks.krake.dev/protected";
    let protect = format!("{label}=true");
    stage
        .kubectl(&["label", "namespace", &stage.namespace, &protect])
        .await;
    let delete = ["delete", "namespace", &stage.namespace, "--dry-run=server"];
    let refusal = until("the deletion is refused", SOON, async || {
        match stage.try_kubectl(&delete).await {
            Err(refusal) => Ok(refusal),
            Ok(said) => Err(said),
        }
    })
    .await;
    assert!(refusal.contains(&protect), "{refusal}");
    let forced = stage
        .try_kubectl(&["delete", "namespace", &stage.namespace, "--force"])
        .await;
    assert!(forced.is_err(), "{forced:?}");

    stage
        .kubectl(&["label", "namespace", &stage.namespace, &format!("{label}-")])
        .await;
    stage.kubectl(&delete).await;
}

/// One of the opt-in policies. It stays: it binds nobody without its label.
async fn apply(stage: &Stage, policy: &str) {
    let directory = repository().join("config/policies/opt-in").join(policy);
    let directory = directory.display().to_string();
    stage.kubectl(&["apply", "--kustomize", &directory]).await;
}
