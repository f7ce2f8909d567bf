//! Objects that the operator cannot read, as an older or newer version may have left them.

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use serde_json::{Value, json};

use krake_hooks::api::HookKind;
use krake_hooks::api::condition::ConditionType;
use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::status::Outcome;

use crate::support::manifests;
use crate::support::operator::NAMESPACE;
use crate::support::runner::Story;
use crate::support::stage::Stage;
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Alone: one_hook_that_cannot_be_read_stops_no_other_and_is_named]
}

async fn one_hook_that_cannot_be_read_stops_no_other_and_is_named(stage: Stage) {
    let operator = stage.cluster.operator().await;
    let readable = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    let _: Deployment = stage
        .create(manifests::deployment("spoilt", &["sleep", "9999"]))
        .await;
    let spoilt = manifests::hook(
        "spoilt",
        "spoilt",
        json!({"shutdown": {"timeoutSeconds": "soon"}}),
    );
    let schema = loosen(&stage).await;
    let path = std::env::temp_dir().join(format!("{}.json", stage.namespace));
    std::fs::write(&path, spoilt.to_string()).expect("a file can be written");
    let created = stage
        .try_kubectl(&[
            "create",
            "--validate=false",
            "--filename",
            &path.display().to_string(),
        ])
        .await;
    // A file in a temporary directory harms nobody.
    let _ = std::fs::remove_file(&path);
    set_schema(&stage, schema).await;
    created.expect("the loosened schema lets it pass");

    // What has been heard of it by a watch, and then by a listing.
    for restarted in [false, true] {
        if restarted {
            operator.leave().await;
            operator.come_back().await;
        }
        named(&stage, "spoilt").await;
        let name = if restarted { "listed" } else { "watched" };
        let mut deployment = manifests::app(name);
        deployment["spec"]["replicas"] = json!(0);
        let _: Deployment = stage.create(deployment).await;
        let hook = manifests::hook(name, name, json!({"shutdown": {}}));
        let _: KrakeHook = stage.create(hook).await;
        stage.await_condition(name, ConditionType::Armed).await;
    }
    stage.delete_deployment("app", "foreground").await;
    readable.app.called(1).await;
    readable.app.acknowledge(HookKind::Shutdown).await.counts();
    stage.ended("app", Outcome::Acknowledged).await;

    let correct = json!({"spec": {"shutdown": {"timeoutSeconds": 5}}}).to_string();
    stage
        .kubectl(&[
            "patch",
            "krakehook",
            "spoilt",
            "--type=merge",
            "--patch",
            &correct,
        ])
        .await;
    stage.await_condition("spoilt", ConditionType::Armed).await;
}

/// Waits until each replica has said which object it cannot read.
async fn named(stage: &Stage, name: &str) {
    let operator = stage.cluster.operator().await;
    for pod in operator.ready().await {
        until("the log names it", SOON, async || {
            let arguments = ["--namespace", NAMESPACE, "logs", &pod.name_any()];
            let log = stage.cluster.kubectl(&arguments).await?;
            let told = |line: &&str| line.contains("cannot be read") && line.contains(name);
            match log
                .lines()
                .find(|line| told(line) && line.contains(&stage.namespace))
            {
                Some(_) => Ok(()),
                None => Err(log.lines().last().unwrap_or_default().to_owned()),
            }
        })
        .await;
    }
}

const CRD: &str = "krakehooks.hooks.krake.dev";

/// Lets anything pass; what the schema was.
async fn loosen(stage: &Stage) -> Value {
    let schema = "--output=jsonpath={.spec.versions[0].schema.openAPIV3Schema}";
    let before = stage.kubectl(&["get", "crd", CRD, schema]).await;
    let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    set_schema(stage, anything).await;
    serde_json::from_str(&before).expect("a schema")
}

async fn set_schema(stage: &Stage, schema: Value) {
    let path = "/spec/versions/0/schema/openAPIV3Schema";
    let patch = json!([{"op": "replace", "path": path, "value": schema}]).to_string();
    stage
        .kubectl(&["patch", "crd", CRD, "--type=json", "--patch", &patch])
        .await;
}
