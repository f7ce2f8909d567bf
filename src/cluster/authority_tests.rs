use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::*;

const NAMESPACE: &str = "krake-system";

/// Secrets of one namespace: GET and POST. `rival` is what somebody else creates at the moment of
/// our own create.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    secrets: BTreeMap<String, Value>,
    rival: Option<Value>,
    creates: usize,
}

impl Server {
    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let server = server.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let mut state = server.0.lock().unwrap();
                let (code, answer) = if head.method == Method::POST {
                    state.create(serde_json::from_slice(&body).unwrap())
                } else {
                    let name = head.uri.path().rsplit('/').next().unwrap().to_owned();
                    state
                        .secrets
                        .get(&name)
                        .map_or_else(|| refusal(404, "NotFound"), |s| (200, s.clone()))
                };
                let mut response = Response::new(Full::<Bytes>::from(answer.to_string()));
                *response.status_mut() = StatusCode::from_u16(code).unwrap();
                Ok::<_, std::io::Error>(response)
            }
        });
        Client::new(service, NAMESPACE)
    }

    fn put(&self, name: &str, entries: Value) {
        let secret = json!({"metadata": {"name": name}, "data": entries});
        self.0
            .lock()
            .unwrap()
            .secrets
            .insert(name.to_owned(), secret);
    }

    fn get(&self, name: &str) -> Option<Value> {
        self.0.lock().unwrap().secrets.get(name).cloned()
    }
}

impl State {
    fn create(&mut self, secret: Value) -> (u16, Value) {
        self.creates += 1;
        let name = secret["metadata"]["name"].as_str().unwrap().to_owned();
        if let Some(rival) = self.rival.take() {
            self.secrets.insert(name.clone(), rival);
        }
        if self.secrets.contains_key(&name) {
            return refusal(409, "AlreadyExists");
        }
        self.secrets.insert(name, secret.clone());
        (201, secret)
    }
}

fn refusal(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": reason, "message": "no"});
    (code, status)
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn endpoint() -> Vec<String> {
    vec![
        "krake-hooks.krake-system.svc".to_owned(),
        "10.0.0.1".to_owned(),
    ]
}

async fn ring(server: &Server, guards: bool) -> Result<Ring, BootError> {
    load_or_create_ring(&server.client(), NAMESPACE, async { Ok(guards) }).await
}

async fn authority(server: &Server, source: &str) -> Result<Authority, BootError> {
    let mut config = Config::default();
    config.callback.tls.intermediate_src = source.to_owned();
    load_or_create_authority(&server.client(), NAMESPACE, &config, &endpoint(), now()).await
}

#[tokio::test]
async fn a_ring_is_made_once_and_read_ever_after() {
    let server = Server::default();
    let first = ring(&server, false).await.unwrap();
    let secret = server.get(names::RING_SECRET).unwrap();
    assert_eq!(
        secret["metadata"]["labels"][names::MANAGED_BY_LABEL],
        names::MANAGED_BY
    );
    for guards in [false, true] {
        let again = ring(&server, guards).await.unwrap();
        assert_eq!(again.current_id(), first.current_id());
        assert!(again.verify(first.token("h", "w").expose_secret(), "h", "w"));
    }
    assert_eq!(server.0.lock().unwrap().creates, 1);
}

#[tokio::test]
async fn a_lost_ring_is_never_replaced_while_guards_exist() {
    let server = Server::default();
    let refusal = ring(&server, true).await.unwrap_err();
    assert!(
        matches!(refusal, BootError::MasterKeyLost { .. }),
        "{refusal}"
    );
    let message = refusal.to_string();
    for word in [
        "MasterKeyLost",
        "krake-system/krake-hooks-master-keys",
        "backup",
        "release-all",
    ] {
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(server.0.lock().unwrap().creates, 0);

    let client = server.client();
    let unknown = load_or_create_ring(&client, NAMESPACE, async {
        Err(kube::Error::LinesCodecMaxLineLengthExceeded)
    });
    assert!(matches!(unknown.await, Err(BootError::Guards(_))));
    assert_eq!(server.0.lock().unwrap().creates, 0);
}

#[tokio::test]
async fn a_ring_that_came_with_the_first_guard_is_no_lost_one() {
    let server = Server::default();
    let other = Server::default();
    let made = ring(&other, false).await.unwrap();
    let client = server.client();
    let result = load_or_create_ring(&client, NAMESPACE, async {
        // Between our look at the Secret and our look at the guards.
        let secret = other.get(names::RING_SECRET).unwrap();
        server.put(names::RING_SECRET, secret["data"].clone());
        Ok(true)
    });
    assert_eq!(result.await.unwrap().current_id(), made.current_id());
}

#[tokio::test]
async fn who_loses_the_race_takes_what_the_winner_wrote() {
    let winner = Server::default();
    let ring_made = ring(&winner, false).await.unwrap();
    let authority_made = authority(&winner, "").await.unwrap();

    let server = Server::default();
    server.0.lock().unwrap().rival = winner.get(names::RING_SECRET);
    assert_eq!(
        ring(&server, false).await.unwrap().current_id(),
        ring_made.current_id()
    );

    server.0.lock().unwrap().rival = winner.get(names::AUTHORITY_SECRET);
    let read = authority(&server, "").await.unwrap();
    assert_eq!(read.fingerprint(), authority_made.fingerprint());
}

#[tokio::test]
async fn a_ring_that_is_damaged_is_named_and_left_alone() {
    let server = Server::default();
    server.put(names::RING_SECRET, json!({"current": "eA=="}));
    let before = server.get(names::RING_SECRET);
    let refusal = ring(&server, false).await.unwrap_err();
    assert!(matches!(refusal, BootError::Ring { .. }), "{refusal}");
    assert!(refusal.to_string().contains(names::RING_SECRET));
    assert_eq!(server.get(names::RING_SECRET), before);
}

#[tokio::test]
async fn an_authority_is_made_once_and_read_ever_after() {
    let server = Server::default();
    let first = authority(&server, "").await.unwrap();
    let again = authority(&server, "").await.unwrap();
    assert_eq!(first.fingerprint(), again.fingerprint());
    assert_eq!(server.0.lock().unwrap().creates, 1);
    let secret = server.get(names::AUTHORITY_SECRET).unwrap();
    assert_eq!(
        secret["metadata"]["labels"][names::MANAGED_BY_LABEL],
        names::MANAGED_BY
    );
}

#[tokio::test]
async fn the_users_own_is_read_and_every_fault_is_named() {
    let good = Server::default();
    let made = authority(&good, "").await.unwrap();
    let entries = good.get(names::AUTHORITY_SECRET).unwrap()["data"].clone();
    let changed = |entry: &str, value: Option<Value>| {
        let mut entries = entries.clone();
        match value {
            Some(value) => entries[entry] = value,
            None => {
                entries.as_object_mut().unwrap().remove(entry);
            }
        }
        entries
    };
    let server = Server::default();
    let missing = authority(&server, "corp-ca").await.unwrap_err();
    assert_eq!(missing.reason(), "AuthorityMissing");
    assert!(
        missing.to_string().contains("krake-system/corp-ca"),
        "{missing}"
    );

    for (entries, reason) in [
        (changed("tls.crt", None), "AuthorityEmpty"),
        (
            changed("tls.key", Some(json!("Z2FyYmFnZQ=="))),
            "AuthorityNotPem",
        ),
        (changed("ca.crt", None), "AuthorityRootMissing"),
    ] {
        server.put("corp-ca", entries);
        let fault = authority(&server, "corp-ca").await.unwrap_err();
        assert_eq!(fault.reason(), reason, "{fault}");
        let message = fault.to_string();
        assert!(
            message.contains("krake-system/corp-ca") && !message.contains('\n'),
            "{message}"
        );
    }
    server.put("corp-ca", entries.clone());
    let read = authority(&server, "corp-ca").await.unwrap();
    assert_eq!(read.fingerprint(), made.fingerprint());
    assert_eq!(server.0.lock().unwrap().creates, 0);
}

#[tokio::test]
async fn no_authority_is_made_for_names_that_it_cannot_sign() {
    let server = Server::default();
    let names = ["not a name".to_owned()];
    let client = server.client();
    let fault = load_or_create_authority(&client, NAMESPACE, &Config::default(), &names, now())
        .await
        .unwrap_err();
    assert!(fault.to_string().contains("callback.extraNames"), "{fault}");
    assert_eq!(server.0.lock().unwrap().creates, 0);
}

#[tokio::test]
async fn an_answer_that_is_no_secret_is_not_quoted() {
    let server = Server::default();
    server.put(names::RING_SECRET, json!("s3cret"));
    let error = ring(&server, false).await.unwrap_err();
    assert!(
        !format!("{error} {error:?}").contains("s3cret"),
        "{error:?}"
    );
}

#[test]
fn the_endpoint_has_the_names_of_its_service_and_those_of_the_configuration() {
    let of = |external: &str, extra: &[&str]| {
        let mut config = Config::default();
        config.callback.external_endpoint = external.to_owned();
        config.callback.extra_names = extra.iter().map(|&name| name.to_owned()).collect();
        endpoint_names(&config, "krake-system").split_off(4)
    };
    let all = endpoint_names(&Config::default(), "krake-system");
    assert_eq!(
        all,
        [
            "krake-hooks.krake-system.svc",
            "krake-hooks.krake-system.svc.cluster.local",
            "krake-hooks.krake-system",
            "krake-hooks"
        ]
    );
    for (external, extra, expected) in [
        ("https://k.example", &[][..], vec!["k.example"]),
        ("https://k.example.:8443/", &[], vec!["k.example"]),
        ("https://192.0.2.7:8443", &[], vec!["192.0.2.7"]),
        ("https://[2001:db8::7]:8443", &[], vec!["2001:db8::7"]),
        (
            "https://k.example",
            &["k.example", "l.example", ""],
            vec!["k.example", "l.example"],
        ),
        ("https://krake-hooks", &[], vec![]),
    ] {
        assert_eq!(of(external, extra), expected, "{external}");
    }
}
