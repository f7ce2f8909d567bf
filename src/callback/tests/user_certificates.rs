//! A user's own certificate is let in while its HookCertificate stands, and nobody else suffers when
//! it does not.

use serde_json::{Value, json};

use super::*;

const BOTH: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];
const OWN: &str = "33333333-cccc-4ccc-8ccc-000000000003";
const OTHER: &str = "44444444-dddd-4ddd-8ddd-000000000004";

fn metadata(namespace: &str, uid: &str) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": {"namespace": namespace, "name": "laptop", "uid": uid}})
}

fn certificate(namespace: &str, uid: &str, deleting: bool) -> HookCertificate {
    let mut value = metadata(namespace, uid);
    value["apiVersion"] = json!("hooks.krake.dev/v1alpha1");
    value["kind"] = json!("HookCertificate");
    value["spec"] = json!({"hook": {"name": "trainer"}});
    if deleting {
        value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    serde_json::from_value(value).unwrap()
}

/// A connection of a client that holds the certificate of `OWN`.
async fn laptop(served: &Served) -> Sender {
    let uris = vec![
        names::hook_uri("ml", "trainer", testing::HOOK_UID),
        format!("urn:krake:certificate:{OWN}"),
    ];
    let issued = issue_for(&served.authority, uris, Timestamp::now());
    let client = client(&served.authority, Some(&issued), tls::HTTP1, BOTH);
    let stream = connect(served.address, &client).await.unwrap();
    Sender::over(stream).await.unwrap()
}

fn lists(served: &Served) -> usize {
    let calls = served.api.calls();
    let lists = calls
        .iter()
        .filter(|call| call.path.contains("/hookcertificates"));
    lists.count()
}

#[tokio::test]
async fn one_that_stands_is_let_in_by_the_cache_alone() {
    let mut served = Served::tls().await;
    let known = certificate("ml", OWN, false);
    served
        .certificates
        .apply_watcher_event(&watcher::Event::Apply(known));
    let mut laptop = laptop(&served).await;
    let answer = laptop.put(SHUTDOWN, &served.body()).await.unwrap();
    assert_eq!(answer.0, 200, "{answer:?}");
    assert_eq!(lists(&served), 0);
    served.stop().await;
}

#[tokio::test]
async fn one_that_is_gone_is_refused_on_an_open_connection_and_the_hooks_own_is_not() {
    for deleted_first in [false, true] {
        let mut served = Served::tls().await;
        let known = certificate("ml", OWN, false);
        served
            .certificates
            .apply_watcher_event(&watcher::Event::Apply(known.clone()));
        let mut laptop = laptop(&served).await;
        let answer = laptop.put(SHUTDOWN, &served.body()).await.unwrap();
        assert_eq!(answer.0, 200, "{answer:?}");
        if deleted_first {
            // In the foreground: it waits for its Secret.
            let going = certificate("ml", OWN, true);
            served
                .certificates
                .apply_watcher_event(&watcher::Event::Apply(going));
        } else {
            served
                .certificates
                .apply_watcher_event(&watcher::Event::Delete(known));
            // Made again under its name, it is another one.
            served.api.put_certificates("ml", &[metadata("ml", OTHER)]);
        }
        let answer = laptop.put(SHUTDOWN, &served.body()).await.unwrap();
        assert_eq!(answer, (401, UNAUTHORIZED.to_owned()));

        let uid = testing::HOOK_UID;
        let hooks = client_certificate(&served.authority, "trainer", uid, Timestamp::now());
        let client = client(&served.authority, Some(&hooks), tls::HTTP1, BOTH);
        let stream = connect(served.address, &client).await.unwrap();
        let mut pod = Sender::over(stream).await.unwrap();
        let answer = pod.put(SHUTDOWN, &served.body()).await.unwrap();
        assert_eq!(answer.0, 200, "{answer:?}");
        served.stop().await;
    }
}

#[tokio::test]
async fn one_that_the_cache_has_not_heard_of_is_asked_about_where_it_belongs() {
    let mut served = Served::tls().await;
    // The same uid in another namespace is none of ours.
    let elsewhere = certificate("other", OWN, false);
    served
        .certificates
        .apply_watcher_event(&watcher::Event::Apply(elsewhere));
    served
        .api
        .put_certificates("ml", &[metadata("ml", OTHER), metadata("ml", OWN)]);
    let mut laptop = laptop(&served).await;
    let answer = laptop.put(SHUTDOWN, &served.body()).await.unwrap();
    assert_eq!(answer.0, 200, "{answer:?}");
    assert_eq!(lists(&served), 1);
    served.stop().await;
}

#[tokio::test]
async fn without_an_answer_nobody_is_let_in_and_nothing_is_asked_for_a_wrong_token() {
    // The server knows no such list: it answers 404.
    let served = Served::tls().await;
    let mut laptop = laptop(&served).await;
    let answer = laptop.put(SHUTDOWN, r#"{"token":"wrong"}"#).await.unwrap();
    assert_eq!(answer.0, 401, "{answer:?}");
    assert_eq!(lists(&served), 0);
    let answer = laptop.put(SHUTDOWN, &served.body()).await.unwrap();
    assert_eq!(answer.0, 503, "{answer:?}");
    // Nor does it ask without end.
    for _ in 0..50 {
        laptop.put(SHUTDOWN, &served.body()).await.unwrap();
    }
    assert!(lists(&served) < 30, "{}", lists(&served));
    assert!(
        served
            .api
            .calls()
            .iter()
            .all(|call| call.method == Method::GET)
    );
    served.stop().await;
}
