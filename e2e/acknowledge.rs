//! An acknowledgement counts, or is refused with a reason; never anything between.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;

use krake_hooks::api::HookKind;
use krake_hooks::api::condition::ConditionType;
use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::status::Outcome;

use crate::support::manifests;
use crate::support::runner::Story;
use crate::support::stage::{Stage, status};

pub fn stories() -> Vec<Story> {
    crate::stories![Together:
        an_acknowledgement_that_nobody_asked_for_is_refused_and_disarms_nothing,
        an_acknowledgement_after_the_deadline_is_refused,
        one_that_counted_may_be_repeated_and_another_one_is_late,
        two_hundred_acknowledgements_of_one_hook_at_once_all_count,
    ]
}

async fn an_acknowledgement_that_nobody_asked_for_is_refused_and_disarms_nothing(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    let pods = [armed.app.uid.clone()];
    let answer = armed.app.acknowledge(HookKind::Shutdown).await;
    answer.is_refused(409, "NotAsked");
    stage.told("NotAsked").await;
    let hook = stage.hook("app").await.expect("the hook is there");
    assert!(status(&hook).acknowledgements.is_empty(), "nothing is kept");

    stage.delete_deployment("app", "foreground").await;
    armed.app.called(1).await;
    armed
        .pods
        .stay_untouched(&pods, Duration::from_secs(4))
        .await;
    armed.app.acknowledge(HookKind::Shutdown).await.counts();
    stage.gone::<Deployment>("app").await;
    stage.ended("app", Outcome::Acknowledged).await;
}

async fn an_acknowledgement_after_the_deadline_is_refused(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 2})).await;
    let late = stage.bystander(&armed.hook, &armed.app.uid).await;
    stage.delete_deployment("app", "background").await;
    stage.ended("app", Outcome::TimedOut).await;
    let answer = late.acknowledge(HookKind::Shutdown).await;
    answer.is_refused(409, "Late");
    stage.told("Late").await;
}

async fn one_that_counted_may_be_repeated_and_another_one_is_late(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    let same = stage.bystander(&armed.hook, &armed.app.uid).await;
    stage.delete_deployment("app", "background").await;
    armed.app.called(1).await;
    let first = same.acknowledge(HookKind::Shutdown).await;
    assert_eq!(first.counts().body["replayed"], false, "{first:?}");
    stage.gone::<Deployment>("app").await;
    stage.ended("app", Outcome::Acknowledged).await;

    let again = same.acknowledge(HookKind::Shutdown).await;
    assert_eq!(again.counts().body["replayed"], true, "{again:?}");
    assert_eq!(again.body["request"], first.body["request"]);
    stage.told("Repeated").await;

    let url = same.environment("KRAKE_SHUTDOWN_ENDPOINT").await;
    let token = same.environment("KRAKE_TOKEN").await;
    let other = format!("{url}/11111111-1111-4111-8111-111111111111");
    let answer = same.put(&other, &token, "/etc/krake_cert").await;
    answer.is_refused(409, "Late");
}

/// Two hundred pods of one hook, played by one that speaks for each of them. It does so over as few
/// connections as HTTP/2 allows: two hundred handshakes on a busy machine would spread them out. Where
/// the API server takes longer than 5 s to answer, a 503 says so, and is tried again as documented.
async fn two_hundred_acknowledgements_of_one_hook_at_once_all_count(stage: Stage) {
    let _: Deployment = stage.create(manifests::app("app")).await;
    let _: KrakeHook = stage
        .create(manifests::hook(
            "app",
            "app",
            json!({"complete": {"action": "None"}}),
        ))
        .await;
    let hook = stage.await_condition("app", ConditionType::Ready).await;
    let many = stage.bystander(&hook, "unused").await;
    let pods = stage.pods_that_never_run("app", 200).await;
    let each = pods.join(",");
    let ran = many
        .run(&format!(
            r#"cd /tmp && curl -sS --no-progress-meter --parallel --parallel-max 200 --max-time 60 \
                --retry 5 \
                -X PUT -d "{{\"token\":\"$KRAKE_TOKEN\"}}" -w '%{{http_code}}\n' -o 'answer.#1' \
                "$KRAKE_COMPLETE_ENDPOINT/{{{each}}}" \
                --cacert /etc/krake_cert/ca-bundle.pem \
                --cert /etc/krake_cert/cert.pem --key /etc/krake_cert/key.pem"#
        ))
        .await;
    let codes: Vec<&str> = ran.out.split_whitespace().collect();
    let counted = codes.iter().filter(|code| **code == "200").count();
    assert_eq!((counted, codes.len()), (200, 200), "{ran:?}");

    let hook = stage.ended("app", Outcome::Completed).await;
    let missing: Vec<String> = pods
        .iter()
        .map(|pod| format!("complete.{pod}"))
        .filter(|key| !status(&hook).acknowledgements.contains_key(key))
        .collect();
    assert!(missing.is_empty(), "answered 200 and not kept: {missing:?}");
}
