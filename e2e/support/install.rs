//! Puts the operator of this working copy into a cluster. To do it again changes nothing.

use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::cluster::{Cluster, Provider, repository};
use super::operator::{NAME, NAMESPACE};

/// On the operator's pod template: digest of the image that was loaded, since its tag never moves.
const IMAGE_ANNOTATION: &str = "krake-hooks-e2e/image";

/// Makes the cluster run the operator in `target/image/krake-hooks.tar`; `E2E_INSTALL=no` takes
/// what is there.
pub async fn install(cluster: &Cluster) -> Result<(), String> {
    if std::env::var("E2E_INSTALL").is_ok_and(|value| value == "no") {
        return Ok(());
    }
    let archive = repository().join("target/image/krake-hooks.tar");
    let bytes = std::fs::read(&archive)
        .map_err(|error| format!("{}: {error}: run `make image` first", archive.display()))?;
    let digest: String = Sha256::digest(&bytes)
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let deployments: Api<Deployment> = Api::namespaced(cluster.client().await?, NAMESPACE);
    let present = deployments.get_opt(NAME).await.map_err(|e| e.to_string())?;
    let template = present.and_then(|present| present.spec?.template.metadata);
    let present =
        template.and_then(|template| template.annotations?.get(IMAGE_ANNOTATION).cloned());
    if present.as_ref() != Some(&digest) && cluster.provider != Provider::External {
        cluster
            .script(&["load", &archive.display().to_string()])
            .await?;
    }
    let everything = repository().join("config/default");
    cluster
        .kubectl(&["apply", "-k", &everything.display().to_string()])
        .await?;
    let patch =
        json!({"spec": {"template": {"metadata": {"annotations": {IMAGE_ANNOTATION: digest}}}}});
    deployments
        .patch(NAME, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map_err(|error| format!("the operator's Deployment: {error}"))?;
    Ok(())
}
