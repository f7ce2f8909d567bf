//! What the operator does with an app's answers, and whom it never calls.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use krake_hooks::api::HookKind;
use krake_hooks::api::condition::ConditionType;
use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::status::Outcome;

use crate::support::manifests;
use crate::support::runner::Story;
use crate::support::stage::{Stage, status};
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Together:
        a_redirect_is_tried_again_and_a_404_is_told_at_once,
        an_answer_without_end_is_hung_up_on_and_counts_as_an_answer,
        no_node_and_no_api_server_is_called_whatever_a_pod_claims,
    ]
}

async fn a_redirect_is_tried_again_and_a_404_is_told_at_once(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    armed.app.answer_with(302).await;
    stage.delete_deployment("app", "background").await;
    let hook = stage
        .await_hook("app", "a second call that was redirected", SOON, |status| {
            let request = status.workload_request();
            request.is_some_and(|request| request.attempts >= 2)
        })
        .await;
    let request = status(&hook)
        .workload_request()
        .cloned()
        .expect("it was asked");
    assert_eq!(request.last_attempt.expect("it was called").code, "302");

    armed.app.answer_with(404).await;
    let message = stage.await_refusal("app", "ShutdownServiceRefused").await;
    assert!(message.contains("404"), "{message}");
    armed.app.acknowledge(HookKind::Shutdown).await.counts();
    stage.gone::<Deployment>("app").await;
    stage.ended("app", Outcome::Acknowledged).await;
}

async fn an_answer_without_end_is_hung_up_on_and_counts_as_an_answer(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    armed.app.answer_without_end().await;
    stage.delete_deployment("app", "background").await;
    let call = until("the operator hangs up", SOON, async || {
        let calls = armed.app.calls().await?;
        match calls.first() {
            Some(call) if call.hung_up => Ok(call.clone()),
            call => Err(format!("{call:?}")),
        }
    })
    .await;
    // Most of it is in the buffers of sockets; the operator reads 64 KiB.
    assert!(call.taken < 32 << 20, "{call:?}");
    let hook = stage
        .await_hook("app", "an answered call", SOON, |status| {
            let request = status.workload_request();
            request.is_some_and(|request| request.last_attempt.is_some())
        })
        .await;
    let request = status(&hook)
        .workload_request()
        .cloned()
        .expect("it was asked");
    assert_eq!(request.last_attempt.expect("it was called").code, "200");
    armed.app.acknowledge(HookKind::Shutdown).await.counts();
    stage.gone::<Deployment>("app").await;
    stage.ended("app", Outcome::Acknowledged).await;
}

/// Pods that no kubelet has claim to be ready at addresses that are not theirs.
async fn no_node_and_no_api_server_is_called_whatever_a_pod_claims(stage: Stage) {
    let nodes: Api<Node> = Api::all(stage.client.clone());
    let nodes = nodes.list(&ListParams::default()).await.unwrap().items;
    let node = nodes
        .iter()
        .flat_map(|node| {
            node.status
                .iter()
                .flat_map(|s| s.addresses.iter().flatten())
        })
        .find(|address| address.type_ == "InternalIP")
        .map(|address| address.address.clone())
        .expect("a node has an address");
    let services: Api<Service> = Api::namespaced(stage.client.clone(), "default");
    let kubernetes = services.get("kubernetes").await.unwrap();
    let api_server = kubernetes.spec.and_then(|spec| spec.cluster_ip).unwrap();
    let pods: Api<Pod> = stage.all();
    for (name, address) in [
        ("node", node.as_str()),
        ("mapped", &format!("::ffff:{node}")),
        ("api-server", &api_server),
        ("loopback", "127.0.0.1"),
    ] {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": "liar"}},
            "spec": {"nodeSelector": {"there": "is-none"},
                "containers": [{"name": "liar", "image": manifests::APP_IMAGE}]},
        });
        let _: Pod = stage.create(pod).await;
        let claim = json!({"status": {"phase": "Running", "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}]}});
        let claimed = pods
            .patch_status(name, &PatchParams::default(), &Patch::Merge(claim))
            .await;
        match claimed {
            Ok(_) => {}
            // Newer API servers do not even take such a spelling.
            Err(kube::Error::Api(status)) if status.code == 422 && name == "mapped" => {}
            Err(error) => panic!("{name}: {error}"),
        }
    }
    let _: Service = stage.create(manifests::service("shutdown", "liar")).await;
    let _: Deployment = stage.create(manifests::app("app")).await;
    let hook = manifests::hook(
        "app",
        "app",
        manifests::shutdown(json!({"timeoutSeconds": 120})),
    );
    let _: KrakeHook = stage.create(hook).await;
    stage.await_condition("app", ConditionType::Armed).await;
    let app = stage.app("app").await;
    stage.delete_deployment("app", "background").await;
    stage.asked("app").await;
    let hook = stage
        .await_hook("app", "a look for somebody to call", SOON, |status| {
            let request = status.workload_request();
            request.is_some_and(|request| request.last_attempt.is_some())
        })
        .await;
    let request = status(&hook)
        .workload_request()
        .cloned()
        .expect("it was asked");
    let code = request.last_attempt.map(|attempt| attempt.code);
    assert_eq!(code.as_deref(), Some("NobodyToCall"));
    assert_eq!(request.attempts, 0);
    app.acknowledge(HookKind::Shutdown).await.counts();
    stage.gone::<Deployment>("app").await;
}
