//! Whoever has stolen the token of the operator's ServiceAccount.

use std::fmt::Debug;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use krake_hooks::api::WorkloadKind;
use krake_hooks::outside::workloads;

use super::manifests;
use super::operator::{NAME, NAMESPACE};
use super::stage::Stage;

impl Stage {
    /// A client with a token of the operator's ServiceAccount, and nothing else of it.
    pub async fn thief(&self) -> Client {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), NAMESPACE);
        let hour = json!({"spec": {"audiences": [], "expirationSeconds": 3600}});
        let request: TokenRequest = serde_json::from_value(hour).expect("a request");
        let issued = accounts
            .create_token_request(NAME, &PostParams::default(), &request)
            .await;
        let token = issued.expect("an administrator may").status;
        let token = token.expect("it was issued").token;
        self.cluster.client_with(token).await.expect("a client")
    }
}

/// A workload of that kind whose pods stay where they are.
pub fn idle(kind: WorkloadKind, name: &str) -> DynamicObject {
    let mut workload = manifests::workload(kind, name);
    let template = kind.traits().template;
    let pod = workload.pointer_mut(&format!("{template}/spec"));
    pod.expect("a pod's spec")["schedulerName"] = json!("nobody");
    serde_json::from_value(workload).expect("an object")
}

/// Makes one, as a tenant does.
pub async fn made(stage: &Stage, kind: WorkloadKind, name: &str) -> DynamicObject {
    let api = workloads(&stage.client, kind, &stage.namespace);
    let made = api.create(&PostParams::default(), &idle(kind, name)).await;
    made.expect("a tenant may")
}

/// A strategic merge patch that changes nothing yet.
pub async fn tried(
    api: &Api<DynamicObject>,
    name: &str,
    patch: &Value,
) -> kube::Result<DynamicObject> {
    let dry = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    api.patch(name, &dry, &Patch::Strategic(patch)).await
}

/// A JSON merge patch.
pub async fn patched(
    api: &Api<DynamicObject>,
    name: &str,
    patch: &Value,
) -> kube::Result<DynamicObject> {
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
}

/// A deletion that deletes nothing yet.
pub fn dry_delete() -> DeleteParams {
    DeleteParams {
        dry_run: true,
        ..DeleteParams::background()
    }
}

/// Asserts that right or policy says no.
pub fn refused<T: Debug>(what: &str, answer: kube::Result<T>) {
    match answer {
        Err(kube::Error::Api(status)) if [403, 422].contains(&status.code) => {}
        other => panic!("{what}: {other:?}"),
    }
}

/// Asserts that this policy of ours says no.
pub fn fenced<T: Debug>(policy: &str, what: &str, answer: kube::Result<T>) {
    match answer {
        Err(kube::Error::Api(status)) if status.message.contains(&format!("'{policy}'")) => {}
        other => panic!("{what} is not refused by {policy}: {other:?}"),
    }
}
