//! Each line of the table, against a server that keeps Secrets as the real one does: its answers to
//! a wrong uid, an old resourceVersion and an absent object were looked up on a 1.35 cluster.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request as HttpRequest, Response, StatusCode};
use secrecy::SecretSlice;
use serde_json::{Value, json};

use super::*;

const OWNER: &str = "11111111-aaaa-4aaa-8aaa-000000000001";

#[derive(Default)]
struct State {
    secrets: BTreeMap<String, Value>,
    count: u32,
    in_force: bool,
    terminating: bool,
    no_right: bool,
    calls: Vec<String>,
}

#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

impl Server {
    fn new(in_force: bool) -> Self {
        let server = Self::default();
        server.0.lock().unwrap().in_force = in_force;
        server
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: HttpRequest<kube::client::Body>| {
            let server = server.clone();
            async move {
                let (head, body) = request.into_parts();
                // Whatever is not asked for as metadata would be answered with the content.
                assert_eq!(head.headers["accept"], METADATA_ALONE);
                let body = body.collect().await.unwrap().to_bytes();
                let body = serde_json::from_slice(&body).unwrap();
                let dry_run = head.uri.query().unwrap_or_default().contains("dryRun=All");
                let (code, answer) =
                    server
                        .0
                        .lock()
                        .unwrap()
                        .answer(&head.method, head.uri.path(), body, dry_run);
                let mut response = Response::new(Full::<Bytes>::from(answer.to_string()));
                *response.status_mut() = StatusCode::from_u16(code).unwrap();
                Ok::<_, std::io::Error>(response)
            }
        });
        Client::new(service, "default")
    }

    /// Puts a Secret as somebody else would.
    fn put(&self, name: &str, labels: Value) -> Recorded {
        let mut state = self.0.lock().unwrap();
        let secret = json!({"metadata": {"name": name, "labels": labels}, "type": "Opaque"});
        let answer = state.keep(name, None, secret);
        Recorded {
            uid: answer["metadata"]["uid"].as_str().unwrap().to_owned(),
            resource_version: answer["metadata"]["resourceVersion"]
                .as_str()
                .unwrap()
                .to_owned(),
        }
    }

    fn get(&self, name: &str) -> Value {
        self.0.lock().unwrap().secrets[name].clone()
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().calls)
    }
}

impl State {
    fn answer(&mut self, method: &Method, path: &str, body: Value, dry_run: bool) -> (u16, Value) {
        let name = body["metadata"]["name"].as_str().unwrap().to_owned();
        let given = |field: &str| body["metadata"][field].as_str().map(ToOwned::to_owned);
        let (uid, version) = (given("uid"), given("resourceVersion"));
        self.calls.push(format!(
            "{method}{}{}",
            if uid.is_some() { " uid" } else { "" },
            if version.is_some() { " version" } else { "" }
        ));
        let old = self.secrets.get(&name).cloned();
        if self.no_right {
            return status(403, "Forbidden", "cannot create resource \"secrets\"", None);
        }
        if method == Method::POST {
            assert_eq!(path, "/api/v1/namespaces/ml/secrets");
            if self.terminating {
                return status(
                    403,
                    "Forbidden",
                    "it is being terminated",
                    Some("NamespaceTerminating"),
                );
            }
            if self.in_force && !is_ours(&body) {
                return status(422, "Invalid", "denied request: labels", None);
            }
            if old.is_some() {
                return status(409, "AlreadyExists", "already exists", None);
            }
        } else {
            assert_eq!(path, format!("/api/v1/namespaces/ml/secrets/{name}"));
            let Some(old) = &old else {
                return status(404, "NotFound", "not found", None);
            };
            let differs = |field: &str, value: &Option<String>| {
                value
                    .as_deref()
                    .is_some_and(|value| old["metadata"][field] != value)
            };
            if differs("uid", &uid) || differs("resourceVersion", &version) {
                return status(409, "Conflict", "cannot be fulfilled", None);
            }
            let label = |secret: &Value| secret["metadata"]["labels"][names::OWNER_LABEL].clone();
            if self.in_force && !(is_ours(old) && is_ours(&body) && label(old) == label(&body)) {
                return status(422, "Invalid", "exists and belongs to somebody else", None);
            }
        }
        if dry_run {
            return (201, json!({"metadata": {"name": name}}));
        }
        let kept = self.keep(&name, old, body);
        let metadata = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": kept["metadata"]});
        (200, metadata)
    }

    fn keep(&mut self, name: &str, old: Option<Value>, mut secret: Value) -> Value {
        self.count += 1;
        let uid = old.map_or(json!(format!("uid-{}", self.count)), |old| {
            old["metadata"]["uid"].clone()
        });
        secret["metadata"]["uid"] = uid;
        secret["metadata"]["resourceVersion"] = json!(self.count.to_string());
        self.secrets.insert(name.to_owned(), secret.clone());
        secret
    }
}

fn is_ours(secret: &Value) -> bool {
    let labels = &secret["metadata"]["labels"];
    labels[names::MANAGED_BY_LABEL] == names::MANAGED_BY && labels[names::OWNER_LABEL].is_string()
}

fn status(code: u16, reason: &str, message: &str, cause: Option<&str>) -> (u16, Value) {
    let causes: Vec<_> = cause
        .into_iter()
        .map(|reason| json!({"reason": reason}))
        .collect();
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": reason, "message": message, "details": {"causes": causes}});
    (code, status)
}

fn order(recorded: Option<Recorded>) -> SecretOrder<'static> {
    SecretOrder {
        namespace: "ml",
        name: "trainer",
        owner_label: OWNER,
        owner: OwnerReference {
            api_version: "hooks.krake.dev/v1alpha1".into(),
            kind: "HookGuard".into(),
            name: OWNER.into(),
            uid: "guard-uid".into(),
            controller: Some(false),
            block_owner_deletion: Some(false),
        },
        data: [("token".to_owned(), SecretSlice::from(b"s3cret".to_vec()))].into(),
        recorded,
    }
}

fn ours() -> Value {
    json!({names::MANAGED_BY_LABEL: names::MANAGED_BY, names::OWNER_LABEL: OWNER})
}

#[tokio::test]
async fn a_new_secret_is_created_with_labels_owner_and_content() {
    let server = Server::new(true);
    let written = write(&server.client(), order(None), &PolicyProbe::known(true))
        .await
        .unwrap();
    let secret = server.get("trainer");
    assert_eq!(secret["metadata"]["uid"], written.uid.as_str());
    assert_eq!(secret["metadata"]["labels"], ours());
    assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], "guard-uid");
    assert_eq!(secret["type"], "Opaque");
    assert_eq!(secret["data"]["token"], "czNjcmV0");
    assert!(!written.overwrote_edit);
    assert_eq!(server.calls(), ["POST"]);
}

#[tokio::test]
async fn what_is_recorded_is_updated_and_an_edit_is_overwritten_once() {
    for in_force in [false, true] {
        let server = Server::new(in_force);
        let recorded = server.put("trainer", ours());
        let client = server.client();
        let same = write(
            &client,
            order(Some(recorded.clone())),
            &PolicyProbe::known(in_force),
        )
        .await
        .unwrap();
        assert_eq!((&same.uid, same.overwrote_edit), (&recorded.uid, false));
        assert_eq!(server.calls(), ["PUT uid version"]);
        // The version recorded first is old by now: as if somebody had edited it.
        let over = write(
            &client,
            order(Some(recorded.clone())),
            &PolicyProbe::known(in_force),
        )
        .await
        .unwrap();
        assert_eq!((&over.uid, over.overwrote_edit), (&recorded.uid, true));
        assert_eq!(server.calls(), ["PUT uid version", "PUT uid"]);
        assert_eq!(server.get("trainer")["data"]["token"], "czNjcmV0");
    }
}

#[tokio::test]
async fn a_secret_that_is_gone_is_created_again() {
    let server = Server::new(true);
    let recorded = server.put("other", ours());
    let written = write(
        &server.client(),
        order(Some(recorded)),
        &PolicyProbe::known(true),
    )
    .await
    .unwrap();
    assert!(!written.overwrote_edit);
    assert_eq!(server.calls(), ["PUT uid version", "POST"]);
}

#[tokio::test]
async fn a_secret_of_somebody_else_is_never_overwritten() {
    let strangers = [
        json!({}),
        json!({names::MANAGED_BY_LABEL: "helm", names::OWNER_LABEL: OWNER}),
        json!({names::MANAGED_BY_LABEL: names::MANAGED_BY, names::OWNER_LABEL: "another"}),
        json!({names::MANAGED_BY_LABEL: names::MANAGED_BY}),
    ];
    let never = Recorded {
        uid: "gone".into(),
        resource_version: "1".into(),
    };
    for labels in strangers {
        for (in_force, recorded) in [
            (false, None),
            (true, None),
            (false, Some(&never)),
            (true, Some(&never)),
        ] {
            let server = Server::new(in_force);
            server.put("trainer", labels.clone());
            let before = server.get("trainer");
            let result = write(
                &server.client(),
                order(recorded.cloned()),
                &PolicyProbe::known(in_force),
            )
            .await;
            let Err(SecretError::Taken { name, message }) = &result else {
                panic!("{labels} {in_force} {recorded:?}: {result:?}");
            };
            assert_eq!(name, "trainer");
            assert!(!message.is_empty());
            assert_eq!(result.unwrap_err().class(), Class::User);
            assert_eq!(server.get("trainer"), before);
        }
    }
}

#[tokio::test]
async fn without_the_policy_even_ours_is_taken_unless_it_is_recorded() {
    let server = Server::new(false);
    server.put("trainer", ours());
    let result = write(&server.client(), order(None), &PolicyProbe::known(false)).await;
    assert!(
        matches!(result, Err(SecretError::Taken { .. })),
        "{result:?}"
    );
    assert_eq!(server.calls(), ["POST"]);
}

#[tokio::test]
async fn the_policy_is_asked_about_again_before_what_exists_is_overwritten() {
    let server = Server::new(true);
    let policy = PolicyProbe::known(true);
    server.put("trainer", json!({"app": "somebody's"}));
    let before = server.get("trainer");
    server.0.lock().unwrap().in_force = false;
    for calls in [&["POST", "POST"][..], &["POST"]] {
        let result = write(&server.client(), order(None), &policy).await;
        assert!(
            matches!(result, Err(SecretError::Taken { .. })),
            "{result:?}"
        );
        assert_eq!(server.get("trainer"), before);
        assert_eq!(server.calls(), calls);
    }
}

#[tokio::test]
async fn after_a_crash_between_write_and_record_ours_is_found_again() {
    let server = Server::new(true);
    let recorded = server.put("trainer", ours());
    let old = Recorded {
        uid: "deleted".into(),
        resource_version: "1".into(),
    };
    for before in [None, Some(old)] {
        let written = write(&server.client(), order(before), &PolicyProbe::known(true))
            .await
            .unwrap();
        assert_eq!(written.uid, recorded.uid);
    }
}

#[tokio::test]
async fn a_recorded_secret_that_lost_our_labels_is_left_alone() {
    let server = Server::new(true);
    let recorded = server.put("trainer", json!({}));
    let before = server.get("trainer");
    let result = write(
        &server.client(),
        order(Some(recorded)),
        &PolicyProbe::known(true),
    )
    .await;
    assert!(
        matches!(result, Err(SecretError::Taken { .. })),
        "{result:?}"
    );
    assert_eq!(server.get("trainer"), before);
}

#[tokio::test]
async fn other_refusals_say_what_they_are() {
    let server = Server::new(true);
    server.0.lock().unwrap().terminating = true;
    let ending = write(&server.client(), order(None), &PolicyProbe::known(true))
        .await
        .unwrap_err();
    assert!(
        matches!(ending, SecretError::NamespaceTerminating { .. }),
        "{ending}"
    );

    let server = Server::new(true);
    server.0.lock().unwrap().no_right = true;
    let refused = write(&server.client(), order(None), &PolicyProbe::known(true))
        .await
        .unwrap_err();
    assert_eq!(refused.class(), Class::User);
    assert_eq!(
        refused.to_string(),
        "create Secret ml/trainer: cannot create resource \"secrets\""
    );
}

#[tokio::test]
async fn the_policy_is_found_by_what_it_refuses() {
    for in_force in [false, true] {
        let server = Server::new(in_force);
        assert_eq!(
            is_policy_in_force(&server.client(), "ml").await.unwrap(),
            in_force
        );
        assert!(server.0.lock().unwrap().secrets.is_empty());
    }
    // Who may not create at all is refused too, and that proves nothing.
    let server = Server::new(false);
    server.0.lock().unwrap().no_right = true;
    assert!(is_policy_in_force(&server.client(), "ml").await.is_err());
}

#[test]
fn an_order_does_not_show_its_content() {
    let shown = format!("{:?}", order(None));
    assert!(
        !shown.contains("s3cret") && !shown.contains("115"),
        "{shown}"
    );
}
