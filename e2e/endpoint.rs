//! The endpoint that apps are given: without TLS, and by another name.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;

use krake_hooks::api::HookKind;
use krake_hooks::api::status::Outcome;

use crate::complete::completes;
use crate::support::runner::Story;
use crate::support::seed;
use crate::support::stage::Stage;
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Alone:
        without_tls_the_manuals_plain_lines_do,
        an_external_endpoint_is_given_if_it_is_set_and_rolls_nothing,
    ]
}

async fn without_tls_the_manuals_plain_lines_do(stage: Stage) {
    let operator = stage.cluster.operator().await;
    operator
        .configure("callback: {tls: {enabled: false}}\n")
        .await;
    tokio::join!(
        completes(&stage, "curl", &["sh", "-c", seed::CURL]),
        completes(&stage, "python", &["python3", "-c", seed::PYTHON]),
    );

    let armed = stage.armed_app(json!({"timeoutSeconds": 60})).await;
    stage.delete_deployment("app", "foreground").await;
    armed.app.called(1).await;
    let line = seed::of(HookKind::Shutdown, seed::CURL);
    armed.app.curl(&line).await.counts();
    stage.gone::<Deployment>("app").await;
    stage.ended("app", Outcome::Acknowledged).await;
}

/// The name is one more of the same Service, so that it can be reached here.
async fn an_external_endpoint_is_given_if_it_is_set_and_rolls_nothing(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 60})).await;
    let url = armed.app.environment("KRAKE_SHUTDOWN_URL").await;
    let usual = "https://krake-hooks.krake-system.svc:8443/";
    assert!(url.starts_with(usual), "{url}");

    let external = "https://krake-hooks.krake-system.svc.cluster.local:8443";
    let operator = stage.cluster.operator().await;
    operator
        .configure(&format!("callback: {{externalEndpoint: '{external}'}}\n"))
        .await;
    let key = "--output=jsonpath={.items[*].data.shutdown-url}";
    until("the ConfigMap has the new endpoint", SOON, async || {
        let urls = stage.kubectl(&["get", "configmaps", key]).await;
        match urls.starts_with(external) {
            true => Ok(()),
            false => Err(urls),
        }
    })
    .await;
    let pods = [armed.app.uid.clone()];
    armed
        .pods
        .stay_untouched(&pods, Duration::from_secs(5))
        .await;

    stage.kubectl(&["delete", "pod", &armed.app.name]).await;
    let again = stage.armed("app").await;
    let url = again.app.environment("KRAKE_SHUTDOWN_URL").await;
    assert!(url.starts_with(external), "{url}");
    stage.delete_deployment("app", "foreground").await;
    again.app.called(1).await;
    again.app.acknowledge(HookKind::Shutdown).await.counts();
    stage.ended("app", Outcome::Acknowledged).await;
}
