//! TLS is off: the manual's other lines.

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;

use krake_hooks::api::HookKind;
use krake_hooks::api::status::Outcome;

use crate::complete::completes;
use crate::support::runner::Story;
use crate::support::seed;
use crate::support::stage::Stage;

pub fn stories() -> Vec<Story> {
    crate::stories![Alone: without_tls_the_manuals_plain_lines_do]
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
    let answer = armed
        .app
        .curl(&seed::of(HookKind::Shutdown, seed::CURL))
        .await;
    answer.counts();
    stage.gone::<Deployment>("app").await;
    stage.ended("app", Outcome::Acknowledged).await;
}
