//! What a tenant may create in any number, each as large as the API server lets it be: it costs the
//! tenant, and neither the operator nor anybody else.
//!
//! `E2E_CROWD` (300): how many large Services there are; of labelled ConfigMaps and pods a tenth.

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use krake_hooks::api::status::Outcome;
use krake_hooks::api::{HookKind, names};

use crate::support::operator::{NAME, NAMESPACE, Operator};
use crate::support::runner::Story;
use crate::support::stage::{RUN_LABEL, Stage};

pub fn stories() -> Vec<Story> {
    crate::stories![Alone: large_objects_of_one_tenant_take_nothing_from_the_others]
}

async fn large_objects_of_one_tenant_take_nothing_from_the_others(stage: Stage) {
    let operator = stage.cluster.operator().await;
    operator.ready().await;
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    report(&operator, "before").await;
    let tenant = another_namespace(&stage).await;
    let number = std::env::var("E2E_CROWD").map_or(300, |number| number.parse().unwrap());
    let begun = std::time::Instant::now();
    fill::<Service>(&tenant, number, service).await;
    fill::<ConfigMap>(&tenant, number / 10, config_map).await;
    fill::<Pod>(&tenant, number / 10, pod).await;
    println!("a crowd of {number}: {:.0?}", begun.elapsed());
    report(&operator, "heard of all").await;

    // Who begins with all of it there reads it from the start.
    let namespace = ["--namespace", NAMESPACE];
    let labels = format!("--selector=app.kubernetes.io/name={NAME}");
    let delete = [&namespace[..], &["delete", "pods", &labels]].concat();
    let deleted = stage.cluster.kubectl(&delete).await;
    deleted.expect("they can be deleted");
    operator.ready().await;
    report(&operator, "begun anew").await;

    stage.delete_deployment("app", "foreground").await;
    armed.app.called(1).await;
    armed.app.acknowledge(HookKind::Shutdown).await.counts();
    stage.gone::<Deployment>("app").await;
    stage.ended("app", Outcome::Acknowledged).await;
    report(&operator, "has released a workload").await;
    for kind in ["services", "configmaps", "pods"] {
        let all = ["delete", kind, "--all", "--wait=false"];
        tenant.kubectl(&all).await;
    }
    tenant.close().await;
}

/// Each replica goes on as it was started, and has never had more memory than it may have.
async fn report(operator: &Operator, when: &str) {
    for pod in operator.pods().await {
        let statuses = pod.status.iter().flat_map(|s| &s.container_statuses);
        let restarts: i32 = statuses.flatten().map(|status| status.restart_count).sum();
        assert_eq!(restarts, 0, "{when}: {} was restarted", pod.name_any());
        let Some(memory) = operator.memory(&pod) else {
            continue;
        };
        println!("{when}: {}: {memory:?}", pod.name_any());
        assert!(memory.peak < memory.limit, "{when}: {memory:?}");
    }
}

/// Another tenant's, which goes with the run.
async fn another_namespace(stage: &Stage) -> Stage {
    let namespaces: Api<Namespace> = Api::all(stage.client.clone());
    let own = namespaces.get(&stage.namespace).await.expect("it is there");
    let run = own.labels()[RUN_LABEL].clone();
    Stage::open(stage.cluster.clone(), &run, "crowd")
        .await
        .expect("a namespace")
}

async fn fill<K>(tenant: &Stage, number: usize, object: fn(usize) -> Value)
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + serde::Serialize
        + serde::de::DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    futures::stream::iter(0..number)
        .for_each_concurrent(8, async |i| {
            let _: K = tenant.create(object(i)).await;
        })
        .await;
}

fn large() -> String {
    "x".repeat(250_000)
}

/// As anybody makes them.
fn service(i: usize) -> Value {
    json!({
        "metadata": {"name": format!("s{i}"), "annotations": {"note": large()}},
        "spec": {"clusterIP": "None", "selector": {"app": "nobody"}, "ports": [{"port": 1}]},
    })
}

/// One that looks like ours.
fn config_map(i: usize) -> Value {
    json!({
        "metadata": {"name": format!("m{i}"), "labels": {
            names::MANAGED_BY_LABEL: names::MANAGED_BY, names::OWNER_LABEL: "nobody"}},
        "data": {names::CA_BUNDLE: "x".repeat(900_000)},
    })
}

/// One that looks like a hook's, and never runs.
fn pod(i: usize) -> Value {
    json!({
        "metadata": {"name": format!("p{i}"), "labels": {names::HOOK_LABEL: "app"},
            "annotations": {"note": large()}},
        "spec": {"nodeSelector": {"no": "where"},
            "containers": [{"name": "c", "image": "none"}]},
    })
}
