//! What is answered to what, before a server that works and one that does not.

use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};

use tokio::io::AsyncWriteExt;

use super::*;
use crate::api::HookKind;
use crate::api::krake_hook::QuorumPolicy;
use crate::callback::{HookName, Refusal};
use crate::testing::{Fault, eventually};

/// As the documented `curl -X PUT -d` sends it.
async fn like_curl(served: &Served, method: Method, path: &str, body: &str) -> Response<Incoming> {
    let stream = TcpStream::connect(served.address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("user-agent", "curl/8.5.0")
        .header("accept", "*/*")
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Full::<Bytes>::from(body.to_owned()))
        .unwrap();
    sender.send_request(request).await.unwrap()
}

#[tokio::test]
async fn a_failure_is_kept_but_only_what_counts_gets_a_200() {
    let mut served = Served::plain().await;
    let path = format!("{SHUTDOWN}/pod-1");
    let body = served.body().replacen('{', r#"{"result":"Failure","#, 1);
    for replayed in [false, true] {
        let (status, answer) = served.put(&path, &body).await;
        assert_eq!(status, 202, "{answer}");
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        let expected = serde_json::json!({
            "acknowledged": false, "reason": "Failure", "kind": "shutdown", "request": "r1",
            "replayed": replayed,
        });
        assert_eq!(answer, expected);
        served.watch();
    }
}

#[tokio::test]
async fn the_documented_request_counts_and_its_repetition_says_so() {
    let mut served = Served::plain().await;
    let path = format!("{SHUTDOWN}/pod-1");
    let first = like_curl(&served, Method::PUT, &path, &served.body()).await;
    assert_eq!(first.headers()[CONTENT_TYPE], "application/json");
    assert_eq!(first.headers()[CACHE_CONTROL], "no-store");
    let (status, body) = testing::read(first).await.unwrap();
    let expected: serde_json::Value = serde_json::json!({
        "acknowledged": true, "kind": "shutdown", "request": "r1", "replayed": false,
    });
    assert_eq!(status, 200, "{body}");
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&body).unwrap(),
        expected
    );
    // Its request is closed by it, and the client did not hear the answer.
    served.api.change("ml", "trainer", |hook| {
        let status = hook.status.as_mut().unwrap();
        status.workload_request_mut().unwrap().state = RequestState::Closed;
    });
    served.watch();
    let (status, body) = served.put(&path, &served.body()).await;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains(r#""replayed":true"#), "{body}");
    assert_eq!(served.api.count(Method::PATCH), 1);
    let (status, body) = served.put(COMPLETE, &served.body()).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(
        body,
        r#"{"acknowledged":true,"kind":"complete","replayed":false}"#
    );
    let stored = served.api.get("ml", "trainer").status.unwrap();
    let keys: Vec<_> = stored.acknowledgements.into_keys().collect();
    assert_eq!(keys, ["complete.anonymous", "shutdown.pod-1"]);
    served.stop().await;
}

#[tokio::test]
async fn what_does_not_count_is_told_to_the_app_and_to_the_hook() {
    let mut served = Served::plain().await;
    served.api.change("ml", "trainer", |hook| {
        hook.status.as_mut().unwrap().set_workload_request(None);
    });
    let (status, body) = served
        .put(&format!("{SHUTDOWN}/pod-1"), &served.body())
        .await;
    assert_eq!(status, 409);
    assert_eq!(body, r#"{"acknowledged":false,"reason":"NotAsked"}"#);
    served.api.change("ml", "trainer", |hook| {
        let status = hook.status.as_mut().unwrap();
        status.set_workload_request(Some(testing::request("r1", RequestState::Closed)));
    });
    let (status, body) = served.put(SHUTDOWN, &served.body()).await;
    assert_eq!(status, 409);
    assert_eq!(body, r#"{"acknowledged":false,"reason":"Late"}"#);
    let refused = |reason, pod: Option<&str>| Refused {
        hook: HookName {
            namespace: "ml".into(),
            name: "trainer".into(),
        },
        kind: HookKind::Shutdown,
        reason,
        pod: pod.map(str::to_owned),
        message: None,
    };
    let told = served.events.try_recv().unwrap();
    assert_eq!(told, refused(Refusal::NotAsked, Some("pod-1")));
    assert_eq!(
        served.events.try_recv().unwrap(),
        refused(Refusal::Late, None)
    );
    let stored = served.api.get("ml", "trainer").status.unwrap();
    assert!(stored.acknowledgements.is_empty());
    served.stop().await;
}

#[tokio::test]
async fn where_pods_are_counted_nobody_gets_200_for_nothing() {
    let mut served = Served::plain().await;
    served.api.change("ml", "trainer", |hook| {
        let status = hook.status.as_mut().unwrap();
        let request = status.workload_request_mut().unwrap();
        request.terms.acknowledgements.policy = QuorumPolicy::All;
        request.pods = vec!["pod-1".into()];
    });
    served.watch();
    for (path, code, answer) in [
        (SHUTDOWN.to_owned(), 409, "Anonymous"),
        (format!("{SHUTDOWN}/pod-2"), 409, "NotAsked"),
        (format!("{SHUTDOWN}/pod-1"), 200, "\"replayed\":false"),
        (format!("{SHUTDOWN}/pod-1"), 200, "\"replayed\":true"),
    ] {
        let (status, body) = served.put(&path, &served.body()).await;
        served.watch();
        assert_eq!(status, code, "{path}: {body}");
        assert!(body.contains(answer), "{path}: {body}");
    }
    let failure = served
        .body()
        .replace('}', r#","result":"Failure","message":"disk full"}"#);
    let (status, _) = served.put(&format!("{COMPLETE}/pod-1"), &failure).await;
    assert_eq!(status, 202);
    let mut told = Vec::new();
    while let Ok(refused) = served.events.try_recv() {
        told.push((refused.reason, refused.message));
    }
    let expected = [
        (Refusal::Anonymous, None),
        (Refusal::NotAsked, None),
        (Refusal::Repeated, None),
        (Refusal::Failure, Some("disk full".to_owned())),
    ];
    assert_eq!(told, expected);
    served.stop().await;
}

#[tokio::test]
async fn whatever_does_not_fit_gets_the_same_answer() {
    let served = Served::plain().await;
    let ring = served.ring.load_full();
    let token = |hook, workload| {
        let token = ring.token(hook, workload);
        format!(r#"{{"token":"{}"}}"#, token.expose_secret())
    };
    let right = served.body();
    let other_key = Ring::generate([8; 32]);
    let forged = other_key.token(testing::HOOK_UID, testing::WORKLOAD_UID);
    let forged = format!(r#"{{"token":"{}"}}"#, forged.expose_secret());
    let unknown = "/kubernetes/namespaces/ml/applications/nobody/shutdown";
    let elsewhere = "/kubernetes/namespaces/other/applications/trainer/shutdown";
    for (what, path, body) in [
        ("wrong token", SHUTDOWN, r#"{"token":"x"}"#.to_owned()),
        ("other key", SHUTDOWN, forged),
        (
            "other hook",
            SHUTDOWN,
            token("other", testing::WORKLOAD_UID),
        ),
        (
            "earlier workload",
            SHUTDOWN,
            token(testing::HOOK_UID, "earlier"),
        ),
        ("unknown hook", unknown, right.clone()),
        ("other namespace", elsewhere, right),
    ] {
        let answer = served.put(path, &body).await;
        assert_eq!(answer, (401, UNAUTHORIZED.to_owned()), "{what}");
    }
    assert_eq!(served.api.count(Method::PATCH), 0);
    served.stop().await;
}

#[tokio::test]
async fn a_kind_that_is_not_enabled_is_nobodys() {
    let served = Served::plain().await;
    served
        .api
        .change("ml", "trainer", |hook| hook.spec.complete = None);
    // Also where only the cache still has it enabled: the write is refused and looked into.
    served.api.fail(Fault::Code(422));
    let answer = served.put(COMPLETE, &served.body()).await;
    assert_eq!(answer, (401, UNAUTHORIZED.to_owned()));
    served.stop().await;
}

#[tokio::test]
async fn pods_of_a_workload_that_the_cache_has_not_seen_are_let_in() {
    let served = Served::plain().await;
    served.api.change("ml", "trainer", |hook| {
        let status = hook.status.as_mut().unwrap();
        status.workload.as_mut().unwrap().uid = "newer".into();
        status.set_workload_request(None);
    });
    let token = served.ring.load().token(testing::HOOK_UID, "newer");
    let body = format!(r#"{{"token":"{}"}}"#, token.expose_secret());
    assert_eq!(served.put(COMPLETE, &body).await.0, 200);
    // One look let the pod in, and the decision needed no other.
    assert_eq!(served.api.count(Method::GET), 1);
    // The cache still knows the earlier workload's pods; the server does not.
    let answer = served.put(COMPLETE, &served.body()).await;
    assert_eq!(answer, (401, UNAUTHORIZED.to_owned()));
    served.stop().await;
}

/// A replica that was cut off may be behind with the master keys: who has a token of a new one is not
/// sent away for good.
#[tokio::test]
async fn a_token_of_a_key_that_is_not_known_here_is_to_be_tried_again() {
    let served = Served::plain().await;
    let new = Ring::generate([8; 32]);
    let token = new.token(testing::HOOK_UID, testing::WORKLOAD_UID);
    let body = format!(r#"{{"token":"{}"}}"#, token.expose_secret());
    assert_eq!(served.put(COMPLETE, &body).await.0, 401);
    let derived_for = format!("{}.{}", new.current_id(), testing::WORKLOAD_UID);
    served.api.change("ml", "trainer", |hook| {
        let token = serde_json::json!({"secretUid": "secret", "resourceVersion": "1", "derivedFor": derived_for});
        hook.status.as_mut().unwrap().token = serde_json::from_value(token).unwrap();
    });
    let answer = served.put(COMPLETE, &body).await;
    let unavailable = r#"{"acknowledged":false,"reason":"Unavailable"}"#;
    assert_eq!(answer, (503, unavailable.to_owned()));
    served.ring.store(Arc::new(new));
    assert_eq!(served.put(COMPLETE, &body).await.0, 200);
    served.stop().await;
}

#[tokio::test]
async fn guessing_does_not_reach_the_api_server_without_bound() {
    let served = Served::plain().await;
    let mut answers = Vec::new();
    // Many at a time, until there are more than the bound lets through while they come: how fast
    // this machine is does not matter.
    while !answers.contains(&503) && answers.len() < 5000 {
        let guess = || async { served.put(SHUTDOWN, r#"{"token":"x"}"#).await.0 };
        answers.extend(futures::future::join_all((0..200).map(|_| guess())).await);
    }
    assert!(
        answers.contains(&401) && answers.contains(&503),
        "{answers:?}"
    );
    assert!(served.api.count(Method::GET) < answers.len());
    // Who is right needs no look.
    assert_eq!(served.put(SHUTDOWN, &served.body()).await.0, 200);
    served.stop().await;
}

#[tokio::test]
async fn a_server_that_is_down_is_said_with_when_to_come_again() {
    let served = Served::plain().await;
    served.api.fail(Fault::Code(500));
    let answer = like_curl(&served, Method::PUT, SHUTDOWN, &served.body()).await;
    assert_eq!(answer.headers()[RETRY_AFTER], "1");
    let (status, body) = testing::read(answer).await.unwrap();
    assert_eq!(status, 503);
    assert_eq!(body, r#"{"acknowledged":false,"reason":"Unavailable"}"#);
    assert_eq!(served.put(SHUTDOWN, &served.body()).await.0, 200);
    served.stop().await;
}

#[tokio::test]
async fn paths_methods_and_bodies_that_are_wrong() {
    let served = Served::plain().await;
    for (method, path, body, expected, reason) in [
        (Method::PUT, "/", "", 404, "NotFound"),
        (Method::GET, "/metrics", "", 404, "NotFound"),
        (
            Method::PUT,
            "/kubernetes/namespaces/ml/applications/trainer",
            "",
            404,
            "NotFound",
        ),
        (Method::GET, SHUTDOWN, "", 405, "MethodNotAllowed"),
        (Method::POST, SHUTDOWN, "{}", 405, "MethodNotAllowed"),
        (Method::PUT, SHUTDOWN, "token=x", 400, "BadRequest"),
        (Method::PUT, SHUTDOWN, "{}", 400, "\"field\":\"token\""),
        (
            Method::PUT,
            SHUTDOWN,
            r#"{"token":"x","result":"?"}"#,
            400,
            "\"field\":\"result\"",
        ),
    ] {
        let answer = like_curl(&served, method.clone(), path, body).await;
        assert_eq!(answer.status(), expected, "{method} {path} {body}");
        assert_eq!(answer.headers()[CACHE_CONTROL], "no-store");
        let allow = answer
            .headers()
            .get(ALLOW)
            .map(|value| value.to_str().unwrap());
        assert_eq!(allow, (expected == 405).then_some("PUT"));
        let (_, text) = testing::read(answer).await.unwrap();
        assert!(text.contains(reason), "{method} {path} {body}: {text}");
    }
    assert!(served.api.calls().is_empty());
    served.stop().await;
}

#[tokio::test]
async fn a_prefix_of_the_external_endpoint_may_be_there_or_not() {
    let served = Served::start(false, Limits::default(), "http://k.example/krake/").await;
    let prefixed = format!("/krake{SHUTDOWN}");
    assert_eq!(served.put(&prefixed, &served.body()).await.0, 200);
    assert_eq!(served.put(SHUTDOWN, &served.body()).await.0, 200);
    assert_eq!(served.put("/krake", &served.body()).await.0, 404);
    served.stop().await;
}

#[tokio::test]
async fn stopping_waits_for_the_write_under_way() {
    let served = Served::plain().await;
    served.api.close();
    let (address, body) = (served.address, served.body());
    let sent =
        tokio::spawn(async move { testing::plain(address, Method::PUT, SHUTDOWN, &body).await });
    eventually("the write", || served.api.count(Method::PATCH) == 1).await;
    served.shutdown.cancel();
    eventually("no new connection", || {
        std::net::TcpStream::connect(address).is_err()
    })
    .await;
    assert!(!served.serving.is_finished());
    served.api.open();
    assert_eq!(sent.await.unwrap().0, 200);
    served.serving.await.unwrap();
}

#[tokio::test]
async fn stopping_waits_for_a_write_whose_caller_has_hung_up() {
    let served = Served::plain().await;
    served.api.close();
    let (address, body) = (served.address, served.body());
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request =
        format!("PUT {SHUTDOWN} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    eventually("the write", || served.api.count(Method::PATCH) == 1).await;
    drop(stream);
    eventually("the hang-up is seen", || {
        served.metrics.connections().get() == 0
    })
    .await;
    served.shutdown.cancel();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!served.serving.is_finished());
    served.api.open();
    served.serving.await.unwrap();
    let stored = served.api.get("ml", "trainer").status.unwrap();
    assert!(stored.acknowledgements.contains_key("shutdown.anonymous"));
}

#[tokio::test]
async fn what_is_answered_written_and_looked_up_is_counted() {
    let served = Served::plain().await;
    let path = format!("{SHUTDOWN}/pod-1");
    assert_eq!(served.put(&path, &served.body()).await.0, 200);
    assert_eq!(served.put(&path, r#"{"token":"x.y"}"#).await.0, 401);
    let open = TcpStream::connect(served.address).await.unwrap();
    let one = "krake_hooks_callback_connections 1\n";
    eventually("it is open", || served.metrics.text().contains(one)).await;
    drop(open);
    let text = served.metrics.text();
    for line in [
        "acknowledgements_total{kind=\"shutdown\",outcome=\"Accepted\"} 1",
        "acknowledgements_total{kind=\"shutdown\",outcome=\"Unauthorized\"} 1",
        "commits_total{outcome=\"Written\"} 1",
        "commit_group_size_count 1",
        "commit_duration_seconds_count 1",
        "live_lookups_total{reason=\"Credentials\"} 1",
    ] {
        assert!(
            text.contains(&format!("krake_hooks_{line}\n")),
            "{line} not in\n{text}"
        );
    }
    served.stop().await;
}
