//! Who has the token and is not the workload's: nobody gets 200 for nothing, and nobody is refused
//! because a cache is behind.

use serde_json::{Value, json};

use super::*;
use crate::callback::Refusal;

const COPY: &str = "55555555-eeee-4eee-8eee-000000000005";

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"namespace": "ml", "name": "trainer", "uid": testing::WORKLOAD_UID},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "trainer"}}}})
}

/// The hook's workload and a copy of it, each with a ReplicaSet and a pod; the caches know neither.
fn with_a_copy(served: &Served) {
    let sets = [
        testing::owned("set", "Deployment", testing::WORKLOAD_UID),
        testing::owned("set-of-copy", "Deployment", COPY),
    ];
    let pods = [
        testing::owned("new", "ReplicaSet", "set"),
        testing::owned("copy", "ReplicaSet", "set-of-copy"),
    ];
    served.api.put_pods(deployment(), &sets, &pods);
}

fn lists(served: &Served) -> usize {
    let calls = served.api.calls();
    let lists = calls.iter().filter(|call| call.path.contains("/ml/pods"));
    lists.count()
}

#[tokio::test]
async fn a_copy_and_an_invented_pod_are_refused_and_a_new_one_is_not() {
    for kind in [SHUTDOWN, COMPLETE] {
        let mut served = Served::plain().await;
        with_a_copy(&served);
        for (pod, code, answer) in [
            ("copy", 409, "\"ForeignPod\""),
            ("invented", 409, "\"ForeignPod\""),
            ("new", 200, "\"replayed\":false"),
            ("pod-1", 200, "\"replayed\":false"),
        ] {
            let path = format!("{kind}/{pod}");
            let (status, body) = served.put(&path, &served.body()).await;
            assert_eq!(status, code, "{path}: {body}");
            assert!(body.contains(answer), "{path}: {body}");
        }
        let stored = served.api.get("ml", "trainer").status.unwrap();
        let keys = stored.acknowledgements.keys();
        let pods: Vec<_> = keys.filter_map(|key| key.split('.').nth(1)).collect();
        assert_eq!(pods, ["new", "pod-1"]);
        let told = served.events.try_recv().unwrap();
        assert_eq!(told.reason, Refusal::ForeignPod);
        served.stop().await;
    }
}

#[tokio::test]
async fn one_that_the_caches_know_takes_no_look() {
    let served = Served::plain().await;
    with_a_copy(&served);
    let (status, body) = served
        .put(&format!("{COMPLETE}/pod-1"), &served.body())
        .await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(lists(&served), 0);
    served.stop().await;
}

#[tokio::test]
async fn while_nobody_can_tell_whose_a_pod_is_it_tries_again() {
    let served = Served::plain().await;
    let (status, body) = served.put(&format!("{COMPLETE}/new"), &served.body()).await;
    assert_eq!(status, 503, "{body}");
    with_a_copy(&served);
    let (status, body) = served.put(&format!("{COMPLETE}/new"), &served.body()).await;
    assert_eq!(status, 200, "{body}");
    served.stop().await;
}

#[tokio::test]
async fn one_look_answers_everyone_who_waits_for_it() {
    let served = Served::plain().await;
    with_a_copy(&served);
    served.api.close();
    let (first, body) = (format!("{COMPLETE}/pod-1"), served.body());
    let first = served.put(&first, &body);
    let strangers: Vec<_> = (0..50)
        .map(|number| format!("{COMPLETE}/invented-{number}"))
        .collect();
    let strangers = strangers.iter().map(|path| served.put(path, &body));
    let open = async {
        let waiting = || served.api.count(Method::PATCH) == 1;
        testing::eventually("the first write", waiting).await;
        served.api.open();
    };
    let (first, answers, ()) = futures::join!(first, futures::future::join_all(strangers), open);
    assert_eq!(first.0, 200);
    assert!(answers.iter().all(|answer| answer.0 == 409), "{answers:?}");
    assert!(lists(&served) < 50, "{} lists", lists(&served));
    served.stop().await;
}

#[tokio::test]
async fn who_has_everything_but_the_token_is_told_of_on_the_hook_and_learns_no_more() {
    let mut served = Served::plain().await;
    for path in [
        format!("{SHUTDOWN}/pod-1"),
        "/kubernetes/namespaces/ml/applications/nobody/shutdown".to_owned(),
    ] {
        let answer = served.put(&path, r#"{"token":"wrong"}"#).await;
        assert_eq!(answer, (401, UNAUTHORIZED.to_owned()));
    }
    let told = served.events.try_recv().unwrap();
    assert_eq!(
        (told.reason, told.pod.as_deref()),
        (Refusal::WrongToken, Some("pod-1"))
    );
    assert!(served.events.try_recv().is_err(), "no hook, no Event");
    served
        .api
        .change("ml", "trainer", |hook| hook.spec.complete = None);
    served.watch();
    let answer = served.put(COMPLETE, &served.body()).await;
    assert_eq!(answer, (401, UNAUTHORIZED.to_owned()));
    assert_eq!(
        served.events.try_recv().unwrap().reason,
        Refusal::NotEnabled
    );
    served.stop().await;
}
