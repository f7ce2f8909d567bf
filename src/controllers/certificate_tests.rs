//! The order of writes, against a server that keeps one certificate, one hook and Secrets.

use std::collections::BTreeMap;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, Response, StatusCode, Uri};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::Lookup;
use serde_json::{Value, json};

use super::*;
use crate::api::condition::{self, ConditionType};
use crate::api::names;
use crate::pki::{AuthorityNames, AuthoritySerials, AuthorityValidity};
use crate::testing::HOOK_UID;

#[derive(Default)]
struct State {
    certificate: Value,
    secrets: BTreeMap<String, Value>,
    version: u64,
    /// Somebody annotates the certificate when the next Secret is written.
    annotate: bool,
    calls: Vec<String>,
    events: Vec<String>,
}

#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

impl Server {
    fn new() -> Self {
        let server = Self::default();
        let name = names::of_hook("trainer", HOOK_UID);
        server.state().certificate = json!({
            "apiVersion": "hooks.krake.dev/v1alpha1", "kind": "HookCertificate",
            "metadata": {"namespace": "ml", "name": name, "uid": "hc-uid", "generation": 1,
                "resourceVersion": "1", "ownerReferences": [{"kind": "HookGuard", "name": HOOK_UID,
                "apiVersion": "hooks.krake.dev/v1alpha1", "uid": "guard-uid"}]},
            "spec": {"hook": {"name": "trainer"}},
        });
        server
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn certificate(&self) -> Arc<HookCertificate> {
        Arc::new(serde_json::from_value(self.state().certificate.clone()).unwrap())
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state().calls)
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let server = server.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let (code, answer) = server.state().answer(&head.method, &head.uri, body);
                let mut response = Response::new(Full::<Bytes>::from(answer.to_string()));
                *response.status_mut() = StatusCode::from_u16(code).unwrap();
                Ok::<_, std::io::Error>(response)
            }
        });
        Client::new(service, "ml")
    }

    fn look(&self, hook_cached: bool) -> Arc<Look> {
        self.look_at(hook_cached, Box::new(Timestamp::now))
    }

    fn look_at(&self, hook_cached: bool, clock: Clock) -> Arc<Look> {
        // The authority has been there for two days.
        let now = clock() - SignedDuration::from_hours(48);
        let serials = AuthoritySerials {
            root: [1; 16],
            intermediate: [2; 16],
        };
        let (names, validity) = (AuthorityNames::default(), AuthorityValidity::default());
        let authority = Authority::generate(&names, now, validity, serials).unwrap();
        let (_, in_use) = watch::channel(Arc::new(InUse {
            signer: Some(Arc::new(authority)),
            ..InUse::default()
        }));
        self.look_with(in_use, hook_cached, clock)
    }

    fn look_with(
        &self,
        in_use: watch::Receiver<Arc<InUse>>,
        hook_cached: bool,
        clock: Clock,
    ) -> Arc<Look> {
        let client = self.client();
        let writer = CertificateWriter {
            client: client.clone(),
            policy: crate::cluster::secret_policy::PolicyProbe::default(),
            recorder: Recorder::new(client, Reporter::from("test")),
            rsa: Arc::new(tokio::sync::Semaphore::new(1)),
        };
        let metrics = Metrics::new();
        let mut context = Context::new(writer, in_use, &Configuration::default(), metrics);
        context.now = clock;
        let (hooks, mut store) = reflector::store();
        store.apply_watcher_event(&watcher::Event::Init);
        if hook_cached {
            let hook: Metadata<KrakeHook> = serde_json::from_value(hook()).unwrap();
            store.apply_watcher_event(&watcher::Event::InitApply(hook));
        }
        store.apply_watcher_event(&watcher::Event::InitDone);
        Arc::new(Look {
            // No watch to wait for.
            synced: Synced::new().waiter(),
            context: Arc::new(context),
            hooks,
        })
    }
}

fn hook() -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": {"namespace": "ml", "name": "trainer", "uid": HOOK_UID}})
}

impl State {
    fn answer(&mut self, method: &Method, uri: &Uri, body: Value) -> (u16, Value) {
        let path = uri.path();
        let dry_run = uri
            .query()
            .is_some_and(|query| query.contains("dryRun=All"));
        let what = path.split('/').nth_back(1).unwrap_or_default();
        let kind = ["secrets", "hookcertificates", "krakehooks", "events"]
            .into_iter()
            .find(|kind| path.contains(&format!("/{kind}")))
            .unwrap_or(what);
        if kind == "events" {
            self.events
                .push(body["reason"].as_str().unwrap().to_owned());
            return (201, body);
        }
        let how = if dry_run { " (dry run)" } else { "" };
        self.calls.push(format!("{method} {kind}{how}"));
        self.version += 1;
        let version = (100 + self.version).to_string();
        match (method.as_str(), kind) {
            ("GET", "krakehooks") => (200, hook()),
            ("GET", "hookcertificates") => (200, self.certificate.clone()),
            ("PATCH", "hookcertificates") => {
                assert!(path.ends_with("/status"));
                assert!(!body.to_string().contains("null"), "{body}");
                let kept = &mut self.certificate;
                if body["metadata"]["resourceVersion"] != kept["metadata"]["resourceVersion"] {
                    return refusal(409, "Conflict");
                }
                kept["status"] = body["status"].clone();
                kept["metadata"]["resourceVersion"] = json!(version);
                (200, kept.clone())
            }
            ("POST" | "PUT", "secrets") => {
                let name = body["metadata"]["name"].as_str().unwrap().to_owned();
                if method == Method::POST && self.secrets.contains_key(&name) {
                    return refusal(409, "AlreadyExists");
                }
                if dry_run {
                    return (201, json!({"metadata": {"name": name}}));
                }
                let mut secret = body;
                secret["metadata"]["uid"] = json!("secret-uid");
                secret["metadata"]["resourceVersion"] = json!(version);
                self.secrets.insert(name, secret.clone());
                if std::mem::take(&mut self.annotate) {
                    let meta = &mut self.certificate["metadata"];
                    meta["annotations"] = json!({names::RENEW_ANNOTATION: "now"});
                    meta["resourceVersion"] = json!("50");
                }
                (200, json!({"metadata": secret["metadata"]}))
            }
            other => panic!("{other:?}"),
        }
    }
}

fn refusal(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": reason, "message": "no"});
    (code, status)
}

const ISSUED: [&str; 2] = ["POST secrets", "PATCH hookcertificates"];

#[tokio::test]
async fn the_secret_is_written_first_then_the_status_and_then_nothing() {
    let server = Server::new();
    let look = server.look(true);
    reconcile(server.certificate(), Arc::clone(&look))
        .await
        .unwrap();
    assert_eq!(server.calls(), ISSUED);
    assert_eq!(server.state().events, ["Issued"]);
    let text = look.context.metrics.text();
    let issued = "issuances_total{holder=\"Client\",cause=\"New\",outcome=\"Issued\"} 1\n";
    assert!(text.contains(issued), "{text}");

    let certificate = server.certificate();
    let status = certificate.status.as_ref().unwrap();
    assert!(condition::is_true(&status.conditions, ConditionType::Ready));
    let name = names::tls_secret("trainer", HOOK_UID);
    let secret = server.state().secrets[&name].clone();
    assert_eq!(
        status.secret.as_ref().unwrap().resource_version,
        secret["metadata"]["resourceVersion"]
    );
    assert_eq!(
        secret["metadata"]["ownerReferences"][0]["kind"],
        "HookGuard"
    );
    let entries: Vec<_> = secret["data"].as_object().unwrap().keys().collect();
    assert_eq!(entries, [names::BUNDLE, names::CERT, names::KEY]);

    reconcile(certificate, look).await.unwrap();
    assert!(server.calls().is_empty());
}

#[tokio::test]
async fn a_cache_that_has_not_heard_of_our_write_issues_nothing_again() {
    let server = Server::new();
    let look = server.look(true);
    let old = server.certificate();
    reconcile(Arc::clone(&old), Arc::clone(&look))
        .await
        .unwrap();
    server.calls();
    reconcile(old, look).await.unwrap();
    assert_eq!(server.calls(), ["GET hookcertificates"]);
}

#[tokio::test]
async fn a_hook_that_the_cache_has_not_heard_of_is_looked_up() {
    let server = Server::new();
    let look = server.look(false);
    reconcile(server.certificate(), look).await.unwrap();
    assert_eq!(server.calls(), ["GET krakehooks", ISSUED[0], ISSUED[1]]);
}

#[tokio::test]
async fn the_operators_own_asks_nothing_about_a_hook_that_has_gone() {
    const ASKED: &str = "GET krakehooks";
    let server = Server::new();
    reconcile(server.certificate(), server.look(true))
        .await
        .unwrap();
    let calls_when_gone = async || {
        server.calls();
        let _ = reconcile(server.certificate(), server.look(false)).await;
        server.calls()
    };
    let none: [&str; 0] = [];
    assert_eq!(calls_when_gone().await, none);
    // A user's may outlive it, and says so.
    server.state().certificate["metadata"]["ownerReferences"] = json!([]);
    assert_eq!(calls_when_gone().await[0], ASKED);
}

#[tokio::test]
async fn what_was_issued_is_recorded_though_somebody_was_faster() {
    let server = Server::new();
    let look = server.look(true);
    server.state().annotate = true;
    reconcile(server.certificate(), Arc::clone(&look))
        .await
        .unwrap();
    assert_eq!(
        server.calls(),
        [ISSUED[0], ISSUED[1], "GET hookcertificates", ISSUED[1]]
    );
    // The annotation came after the issue: it is not acted on yet.
    let certificate = server.certificate();
    assert_eq!(certificate.status.as_ref().unwrap().renewed_for, None);
    reconcile(certificate, look).await.unwrap();
    assert_eq!(server.calls(), ["PUT secrets", ISSUED[1]]);
    let status = server.certificate().status.clone().unwrap();
    assert_eq!(
        (status.renewed_for.as_deref(), status.revision),
        (Some("now"), Some(2))
    );
}

#[tokio::test]
async fn a_secret_of_somebody_else_is_told_once_and_tried_again() {
    let server = Server::new();
    let look = server.look(true);
    let name = names::tls_secret("trainer", HOOK_UID);
    server
        .state()
        .secrets
        .insert(name.clone(), json!({"theirs": true}));
    // Another leader, or the same one after a restart, waits as well.
    let in_use = look.context.in_use.clone();
    let another = server.look_with(in_use, true, Box::new(Timestamp::now));
    for (look, calls) in [(&look, &ISSUED[..]), (&look, &[]), (&another, &[])] {
        reconcile(server.certificate(), Arc::clone(look))
            .await
            .unwrap();
        assert_eq!(server.calls(), calls);
    }
    assert_eq!(server.state().events, ["SecretConflict"]);
    assert_eq!(server.state().secrets[&name], json!({"theirs": true}));
    let status = server.certificate().status.clone().unwrap();
    let ready = condition::find(&status.conditions, ConditionType::Ready).unwrap();
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str()),
        ("False", "SecretConflict")
    );
    assert!(
        ready.message.contains(&name) && ready.message.contains("secretName"),
        "{}",
        ready.message
    );
}

/// A key costs a good part of a second of a processor: whoever names somebody else's Secret shall not
/// have one made, nor keep others from their certificates.
#[tokio::test]
async fn no_rsa_key_is_made_before_its_secret_may_be_written() {
    let server = Server::new();
    server.state().certificate["spec"]["privateKey"] = json!({"algorithm": "RSA-2048"});
    let look = server.look(true);
    let name = names::tls_secret("trainer", HOOK_UID);
    let theirs = json!({"theirs": true});
    server.state().secrets.insert(name.clone(), theirs.clone());
    reconcile(server.certificate(), Arc::clone(&look))
        .await
        .unwrap();
    assert_eq!(server.calls(), ["POST secrets (dry run)", ISSUED[1]]);
    let status = server.certificate().status.clone().unwrap();
    assert_eq!(status.failed_attempts, Some(1));

    server.state().secrets.clear();
    server.state().certificate["metadata"]["generation"] = json!(2);
    let place = look.context.writer.rsa.try_acquire().unwrap();
    let busy = reconcile(server.certificate(), Arc::clone(&look))
        .await
        .unwrap_err();
    assert_eq!(busy.class(), Class::Conflict);
    assert_eq!(server.calls(), ["POST secrets (dry run)"]);
    drop(place);
    reconcile(server.certificate(), Arc::clone(&look))
        .await
        .unwrap();
    assert_eq!(
        server.calls(),
        ["POST secrets (dry run)", ISSUED[0], ISSUED[1]]
    );
    let status = server.certificate().status.clone().unwrap();
    assert_eq!((status.failed_attempts, status.revision), (None, Some(1)));
}

/// With the real authority and the whole reconcile: whatever the clock does, it comes to rest after
/// at most two issues, whoever looks and however often.
#[tokio::test]
async fn wrong_clocks_cost_two_issues_at_most() {
    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    for (clocks, duration) in [
        (&[-HOUR, 60][..], 90 * DAY),
        (&[-HOUR, 60], 600),
        (&[HOUR, 60], 90 * DAY),
        (&[HOUR, 60], 600),
        (&[400 * DAY, 60], 90 * DAY),
        (&[400 * DAY, 60], 600),
        (&[-400 * DAY, 60], 600),
        // A machine that slept.
        (&[HOUR / 2], 90 * DAY),
        (&[HOUR / 2], 600),
    ] {
        let server = Server::new();
        server.state().certificate["spec"]["durationSeconds"] = json!(duration);
        let start = Timestamp::now();
        let clock = Arc::new(Mutex::new(start));
        let hand = Arc::clone(&clock);
        let look = server.look_at(true, Box::new(move || *hand.lock().unwrap()));
        let mut issues = Vec::new();
        for clock_shows in [0].iter().chain(clocks) {
            server.calls();
            for second in 0..10 {
                let shown = SignedDuration::from_secs(clock_shows + second);
                *clock.lock().unwrap() = start + shown;
                // Before the authority's own time it refuses, and says so in the status.
                let _ = reconcile(server.certificate(), Arc::clone(&look)).await;
            }
            let calls = server.calls();
            let written = calls.iter().filter(|call| call.ends_with("secrets"));
            issues.push(written.count());
            // One more status: the refusal.
            assert!(calls.len() <= 4, "{clocks:?} {duration}: {calls:?}");
        }
        let row = format!("{clocks:?}, certificates of {duration} s: {issues:?}");
        assert_eq!(issues[0], 1, "{row}");
        assert!(issues.iter().all(|count| *count <= 1), "{row}");
        assert!(issues[1..].iter().sum::<usize>() <= 2, "{row}");
        // In the end the clock is right, and so is the certificate.
        let status = server.certificate().status.clone().unwrap();
        let now = *clock.lock().unwrap();
        assert!(status.not_before.unwrap().0 <= now, "{row}");
        assert!(now < status.renewal_time.unwrap().0, "{row}");
        assert!(
            condition::is_true(&status.conditions, ConditionType::Ready),
            "{row}"
        );
    }
}

#[tokio::test]
async fn without_an_authority_a_certificate_says_why_and_then_is_issued() {
    let server = Server::new();
    let mut look = server.look(true);
    let in_use = look.context.in_use.borrow().clone();
    let fault = crate::decide::authority::Fault {
        reason: "AuthorityExpired",
        message: "renew it".into(),
    };
    let (sender, receiver) = watch::channel(Arc::new(InUse {
        fault: Some(fault),
        ..InUse::default()
    }));
    let context = Arc::get_mut(&mut look).and_then(|look| Arc::get_mut(&mut look.context));
    context.unwrap().in_use = receiver;
    for calls in [&ISSUED[1..], &[]] {
        reconcile(server.certificate(), Arc::clone(&look))
            .await
            .unwrap();
        assert_eq!(server.calls(), calls);
    }
    let certificate = server.certificate();
    let status = certificate.status.as_ref().unwrap();
    let ready = condition::find(&status.conditions, ConditionType::Ready).unwrap();
    assert_eq!(ready.reason, "AuthorityExpired");
    assert!(ready.message.contains("renew it"), "{}", ready.message);
    sender.send_replace(in_use);
    reconcile(certificate, look).await.unwrap();
    assert_eq!(server.calls(), ISSUED);
}

#[tokio::test]
async fn a_change_of_a_hook_wakes_the_certificates_that_name_it() {
    let server = Server::new();
    let (store, mut writer) = reflector::store();
    let certificate = server.certificate();
    writer.apply_watcher_event(&watcher::Event::Apply(certificate.as_ref().clone()));
    let hook: Metadata<KrakeHook> = serde_json::from_value(hook()).unwrap();
    assert_eq!(naming(&store, &hook), [certificate.to_object_ref(())]);
    let mut other = hook.clone();
    other.metadata.namespace = Some("other".into());
    assert!(naming(&store, &other).is_empty());
}
