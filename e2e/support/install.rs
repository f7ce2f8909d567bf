//! The operator of this working copy, in a cluster.

use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use tokio::process::Command;

use super::cluster::{Cluster, repository, said};
use super::operator::{NAME, NAMESPACE};

/// Does what `make install` does, unless there is an operator already: whoever runs the stories
/// again and again decides by `make install` which one they meet.
pub async fn install(cluster: &Cluster) -> Result<(), String> {
    let deployments: Api<Deployment> = Api::namespaced(cluster.client().await?, NAMESPACE);
    let present = deployments.get_opt(NAME).await;
    if present.map_err(|error| error.to_string())?.is_some() {
        return Ok(());
    }
    let installed = Command::new(repository().join("hack/install"))
        .env("CLUSTER_NAME", &cluster.name)
        .stdin(std::process::Stdio::null())
        .output()
        .await;
    said(installed)
        .map(|_| ())
        .map_err(|complaint| format!("the operator cannot be installed: {complaint}"))
}
