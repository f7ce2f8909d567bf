//! What the leader counts.

use kube::ResourceExt;
use serde_json::json;

use krake_hooks::api::HookKind;
use krake_hooks::api::status::Outcome;

use crate::support::operator::NAMESPACE;
use crate::support::runner::Story;
use crate::support::stage::Stage;
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Together:
        a_removal_that_was_acknowledged_is_counted,
        a_removal_that_timed_out_is_counted,
    ]
}

async fn a_removal_that_was_acknowledged_is_counted(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 600})).await;
    let before = counted(&stage, Outcome::Acknowledged).await;
    stage.delete_deployment("app", "foreground").await;
    armed.app.called(1).await;
    armed.app.acknowledge(HookKind::Shutdown).await.counts();
    stage.ended("app", Outcome::Acknowledged).await;
    counts_on(&stage, Outcome::Acknowledged, before).await;
}

async fn a_removal_that_timed_out_is_counted(stage: Stage) {
    stage.armed_app(json!({"timeoutSeconds": 1})).await;
    let before = counted(&stage, Outcome::TimedOut).await;
    stage.delete_deployment("app", "foreground").await;
    stage.ended("app", Outcome::TimedOut).await;
    counts_on(&stage, Outcome::TimedOut, before).await;
}

/// Other stories' removals are counted, too.
async fn counts_on(stage: &Stage, outcome: Outcome, before: u64) {
    until(
        format!("{outcome:?} is counted"),
        SOON,
        async || match counted(stage, outcome).await {
            now if now > before => Ok(()),
            now => Err(format!("{before}, then {now}")),
        },
    )
    .await;
}

/// What `/metrics` of the leader says; 0 where it has not begun to count.
async fn counted(stage: &Stage, outcome: Outcome) -> u64 {
    let leader = stage.cluster.operator().await.leader().await;
    let uri = format!(
        "/api/v1/namespaces/{NAMESPACE}/pods/{}:8080/proxy/metrics",
        leader.name_any()
    );
    let request = hyper::Request::get(&uri).body(Vec::new());
    let text = stage.client.request_text(request.expect("a request")).await;
    let text = text.expect("the leader tells what it counts");
    let series = format!(
        "krake_hooks_outcomes_total{{outcome=\"{}\"}} ",
        outcome.as_str()
    );
    let count = text.lines().find_map(|line| line.strip_prefix(&series));
    count.map_or(0, |count| count.parse().expect("a number"))
}
