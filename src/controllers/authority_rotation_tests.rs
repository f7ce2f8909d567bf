//! The rotation against a server of its Secrets, with caches made for the test.

use jiff::SignedDuration;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector;
use kube::runtime::watcher;
use serde_json::{Value, json};

use super::*;
use crate::api::HookCertificate;
use crate::cluster::slim::ConfigMap;
use crate::controllers::synced::Synced;
use crate::pki::Succession;
use crate::testing::operator_secrets::{NAMESPACE, Server};
use crate::testing::{self, Fault as Wrong, HOOK_UID, hook};

const SOURCE: &str = "corp-ca";

struct Setting {
    server: Server,
    context: Context,
    in_use: watch::Receiver<Arc<InUse>>,
    config_maps: reflector::store::Writer<ConfigMap>,
    certificates: reflector::store::Writer<HookCertificate>,
    now: Timestamp,
}

fn setting(server: &Server, source: Option<&str>) -> Setting {
    let client = server.client();
    let (hooks, mut writer) = reflector::store();
    writer.apply_watcher_event(&watcher::Event::Apply(hook("ml", "trainer")));
    let (config_maps, config_map_writer) = reflector::store();
    let (certificates, certificate_writer) = reflector::store();
    let (in_use, heard) = watch::channel(Arc::new(InUse::default()));
    let context = Context {
        writer: AuthorityWriter {
            client: client.clone(),
            namespace: NAMESPACE.into(),
            recorder: Recorder::new(client.clone(), Reporter::from("test")),
        },
        watches: client,
        caches: Caches {
            hooks,
            config_maps,
            certificates,
            ..testing::caches()
        },
        synced: Synced::new().waiter(),
        settings: AuthoritySettings {
            namespace: NAMESPACE.into(),
            source: source.map(ToOwned::to_owned),
            propagation: SignedDuration::from_secs(150),
        },
        endpoint_names: vec!["krake-hooks.krake-system.svc".into()],
        validity: AuthorityValidity::default(),
        leaf: SignedDuration::from_hours(90 * 24),
        in_use,
        metrics: Metrics::new(),
    };
    Setting {
        server: server.clone(),
        context,
        in_use: heard,
        config_maps: config_map_writer,
        certificates: certificate_writer,
        now: "2040-06-01T12:00:00Z".parse().unwrap(),
    }
}

impl Setting {
    async fn look(&self) -> Result<Duration, Error> {
        self.context.look(&|| self.now).await.map(|wait| wait.most)
    }

    fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    /// What the Secret says, as the next process reads it.
    fn kept(&self) -> Succession {
        let secret = self.server.get(names::AUTHORITY_SECRET).expect("a state");
        let entries = entries_of(&secret);
        Succession::from_secret(&entries, self.now).expect("a good state")
    }

    /// The hook and certificate controllers have done their work.
    fn others_rest(&mut self) {
        let kept = self.kept();
        let config_map = json!({
            "metadata": {"namespace": "ml", "name": "m", "labels": {names::OWNER_LABEL: HOOK_UID},
                "ownerReferences": [{"apiVersion": "hooks.krake.dev/v1alpha1", "kind": "HookGuard",
                    "name": HOOK_UID, "uid": "guard"}]},
            "data": {names::CA_BUNDLE: kept.bundle().pem()},
        });
        let config_map = serde_json::from_value(config_map).unwrap();
        self.config_maps
            .apply_watcher_event(&watcher::Event::Apply(config_map));
        let certificate = json!({
            "apiVersion": "hooks.krake.dev/v1alpha1", "kind": "HookCertificate",
            "metadata": {"namespace": "ml", "name": "c"},
            "spec": {"hook": {"name": "trainer"}},
            "status": {"issuer": kept.signer().fingerprint(), "hookUID": HOOK_UID},
        });
        let certificate = serde_json::from_value(certificate).unwrap();
        self.certificates
            .apply_watcher_event(&watcher::Event::Apply(certificate));
    }

    fn condition(&self, kind: &str) -> (String, String) {
        let shown = self.server.shown();
        let conditions = shown["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let found = conditions
            .into_iter()
            .find(|c| c["type"] == kind)
            .unwrap_or_default();
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"))
    }
}

fn entries_of(secret: &Value) -> crate::pki::SecretData {
    let secret: Secret = serde_json::from_value(secret.clone()).unwrap();
    let data = secret.data.unwrap_or_default().into_iter();
    data.map(|(name, content)| (name, secrecy::SecretSlice::from(content.0)))
        .collect()
}

/// The entries of a user's Secret, made by another operator.
async fn given() -> Value {
    let other = Server::default();
    setting(&other, None).look().await.unwrap();
    let secret = other.get(names::AUTHORITY_SECRET).unwrap();
    let mut data = secret["data"].clone();
    data.as_object_mut().unwrap().remove("ledger.json");
    data
}

#[tokio::test]
async fn the_first_look_makes_one_and_the_second_nothing() {
    let server = Server::default();
    let s = setting(&server, None);
    s.look().await.unwrap();
    let writes = server.state().writes.clone();
    assert_eq!(
        writes,
        [
            "PATCH krake-hooks",
            "POST krake-hooks-ca",
            "PATCH status of krake-hooks"
        ]
    );
    assert_eq!(server.state().events, ["AuthorityActive"]);
    assert_eq!(s.condition("Ready"), ("True".into(), "Signing".into()));
    let shown = server.shown();
    assert_eq!(shown["status"]["authorities"][0]["phase"], "Active");
    assert!(!shown.to_string().contains("PRIVATE KEY"));

    s.look().await.unwrap();
    assert_eq!(server.state().writes, writes);
    let text = s.context.metrics.text();
    let begun = "krake_hooks_authority_steps_total{step=\"Begin\"} 1\n";
    assert!(text.contains(begun), "{text}");
    let secret = server.get(names::AUTHORITY_SECRET).unwrap();
    assert_eq!(
        secret["metadata"]["labels"][names::MANAGED_BY_LABEL],
        names::MANAGED_BY
    );
}

#[tokio::test]
async fn who_loses_the_race_takes_what_the_winner_wrote() {
    let winner = Server::default();
    let first = setting(&winner, None);
    first.look().await.unwrap();
    let server = Server::default();
    server.state().rival = winner.get(names::AUTHORITY_SECRET);
    let s = setting(&server, None);
    s.look().await.unwrap();
    assert_eq!(
        s.kept().signer().fingerprint(),
        first.kept().signer().fingerprint()
    );
    assert!(
        !server
            .state()
            .writes
            .contains(&"POST krake-hooks-ca".to_owned())
    );
}

#[tokio::test]
async fn a_rotation_waits_for_config_maps_pods_and_leaves() {
    let server = Server::default();
    let mut s = setting(&server, None);
    s.look().await.unwrap();
    s.others_rest();
    let first = s.kept().signer().fingerprint();
    server.annotate(json!({names::ROTATE_ANNOTATION: "now"}));

    s.look().await.unwrap();
    assert_eq!(s.condition("Rotating"), ("True".into(), "Spreading".into()));
    assert_eq!(s.kept().anchors().len(), 2);
    s.pass(10_000);
    s.look().await.unwrap();
    assert_eq!(
        s.kept().signer().fingerprint(),
        first,
        "a ConfigMap does not have it"
    );
    s.others_rest();
    let wait = s.look().await.unwrap();
    assert_eq!(
        s.condition("Rotating"),
        ("True".into(), "Propagating".into())
    );
    assert!(wait <= Duration::from_millis(150_005), "{wait:?}");
    s.pass(149);
    s.look().await.unwrap();
    assert_eq!(
        s.kept().signer().fingerprint(),
        first,
        "a pod may not have it"
    );
    s.pass(1);
    s.look().await.unwrap();
    let second = s.kept().signer().fingerprint();
    assert_ne!(second, first);
    assert_eq!(s.condition("Rotating"), ("True".into(), "Retiring".into()));
    s.pass(10_000);
    s.look().await.unwrap();
    assert_eq!(s.kept().anchors().len(), 2, "a leaf of it is in use");
    s.others_rest();
    s.look().await.unwrap();
    s.pass(150);
    s.look().await.unwrap();
    assert_eq!(s.kept().anchors().len(), 1);
    assert_eq!(
        s.condition("Rotating"),
        ("False".into(), "NotRotating".into())
    );
    let writes = server.state().writes.len();
    s.look().await.unwrap();
    assert_eq!(server.state().writes.len(), writes);
    assert_eq!(
        server.state().events,
        [
            "AuthorityActive",
            "AuthorityPrepared",
            "AuthorityActive",
            "AuthorityRetired"
        ]
    );
}

/// Each write of a whole rotation fails once, in each way; then the process is another one.
#[tokio::test]
async fn whatever_a_write_comes_to_there_is_one_end() {
    for wrong in [
        Wrong::LostRequest,
        Wrong::LostAnswer,
        Wrong::Code(409),
        Wrong::Code(500),
    ] {
        // Each write with a lost answer, which is the worst; some with the others.
        let every = if matches!(wrong, Wrong::LostAnswer) {
            1
        } else {
            4
        };
        for at in (0..12).step_by(every) {
            let server = Server::default();
            let mut s = setting(&server, None);
            let mut before = 0;
            for round in 0..16 {
                let writes = server.state().writes.len();
                if before <= at
                    && at <= writes
                    && server.state().faults.is_empty()
                    && before != usize::MAX
                {
                    server.state().faults.push_back(wrong);
                    before = usize::MAX;
                } else if before != usize::MAX {
                    before = writes;
                }
                if s.look().await.is_err() {
                    // Crashed; the caches of the next one are filled by `others_rest`.
                    let now = s.now;
                    s = setting(&server, None);
                    s.now = now;
                    if server.get(names::AUTHORITY_SECRET).is_some() {
                        s.others_rest();
                    }
                    s.look().await.unwrap();
                }
                s.others_rest();
                if round == 1 {
                    server.annotate(json!({names::ROTATE_ANNOTATION: "now"}));
                }
                s.pass(150);
            }
            server.state().faults.clear();
            s.look().await.unwrap();
            let made = server
                .state()
                .events
                .iter()
                .filter(|e| *e == "AuthorityPrepared")
                .count();
            assert!(made <= 1, "{wrong:?} at {at}");
            assert_eq!(s.kept().anchors().len(), 1, "{wrong:?} at {at}");
            assert_eq!(
                s.kept().ledger().rotated_for.as_deref(),
                Some("now"),
                "{wrong:?} at {at}"
            );
            assert_eq!(
                s.condition("Rotating").1,
                "NotRotating",
                "{wrong:?} at {at}"
            );
            let puts = server
                .state()
                .writes
                .iter()
                .filter(|w| w.starts_with("PUT"))
                .count();
            assert_eq!(puts, 5, "{wrong:?} at {at}: {:?}", server.state().writes);
        }
    }
}

#[tokio::test]
async fn a_bad_source_changes_nothing_and_a_mended_one_is_imported() {
    let server = Server::default();
    let s = setting(&server, Some(SOURCE));
    let wait = s.look().await.unwrap();
    assert!(
        server.get(names::AUTHORITY_SECRET).is_none(),
        "none is made in its place"
    );
    assert_eq!(
        s.condition("Ready"),
        ("False".into(), "AuthorityMissing".into())
    );
    assert_eq!(
        s.in_use.borrow().fault.as_ref().unwrap().reason,
        "AuthorityMissing"
    );
    assert!(wait <= RESYNC_FAULT);

    server.state().forbidden = Some(SOURCE.into());
    s.look().await.unwrap();
    assert_eq!(
        s.condition("SourceReady"),
        ("False".into(), "AuthorityForbidden".into())
    );
    server.state().forbidden = None;

    let good = given().await;
    server.put(SOURCE, &good);
    s.look().await.unwrap();
    assert_eq!(s.condition("Ready"), ("True".into(), "Signing".into()));
    assert_eq!(server.shown()["status"]["source"], SOURCE);
    let first = s.kept().signer().fingerprint();

    let mut bad = good.clone();
    bad["tls.key"] = json!("Z2FyYmFnZQ==");
    server.put(SOURCE, &bad);
    // The second one is another process.
    for s in [&s, &setting(&server, Some(SOURCE))] {
        s.look().await.unwrap();
        assert_eq!(
            s.condition("SourceReady"),
            ("False".into(), "AuthorityNotPem".into())
        );
        assert_eq!(s.condition("Ready"), ("True".into(), "Signing".into()));
        assert_eq!(s.condition("Rotating").0, "False");
        assert_eq!(s.kept().signer().fingerprint(), first);
    }
    server.remove(SOURCE);
    s.look().await.unwrap();
    assert_eq!(
        s.condition("SourceReady"),
        ("False".into(), "AuthorityMissing".into())
    );
    assert_eq!(s.kept().signer().fingerprint(), first);

    server.put(SOURCE, &given().await);
    s.look().await.unwrap();
    assert_eq!(
        s.condition("SourceReady"),
        ("True".into(), "SourceGood".into())
    );
    assert_eq!(s.condition("Rotating").0, "True");
    assert_eq!(
        s.kept().signer().fingerprint(),
        first,
        "it signs nothing yet"
    );
}

#[tokio::test]
async fn a_state_that_cannot_be_used_is_left_alone_and_named() {
    let server = Server::default();
    server.put(names::AUTHORITY_SECRET, &json!({"tls.crt": "eA=="}));
    let before = server.get(names::AUTHORITY_SECRET);
    let s = setting(&server, None);
    s.look().await.unwrap();
    assert_eq!(server.get(names::AUTHORITY_SECRET), before);
    assert_eq!(s.condition("Ready").0, "False");
    assert!(s.in_use.borrow().fault.is_some());
}

#[tokio::test]
async fn what_somebody_else_keeps_in_the_secret_stays() {
    let server = Server::default();
    let mut data = given().await;
    data["note"] = json!("aGk=");
    server.put(names::AUTHORITY_SECRET, &data);
    let s = setting(&server, None);
    s.look().await.unwrap();
    server.annotate(json!({names::ROTATE_ANNOTATION: "now"}));
    s.look().await.unwrap();
    let secret = server.get(names::AUTHORITY_SECRET).unwrap();
    assert_eq!(secret["data"]["note"], "aGk=");
    assert!(secret["data"]["next.crt"].is_string());
}

#[tokio::test]
async fn a_certificate_of_a_hook_that_is_gone_holds_nobody_up() {
    let server = Server::default();
    let mut s = setting(&server, None);
    for (name, hook_uid, until) in [
        ("gone", "another-uid", "2041-01-01T00:00:00Z"),
        ("expired", HOOK_UID, "2040-01-01T00:00:00Z"),
        ("lives", HOOK_UID, "2041-01-01T00:00:00Z"),
    ] {
        let certificate = json!({
            "apiVersion": "hooks.krake.dev/v1alpha1", "kind": "HookCertificate",
            "metadata": {"namespace": "ml", "name": name},
            "spec": {"hook": {"name": "trainer"}, "durationSeconds": 31_536_000},
            "status": {"issuer": "f", "hookUID": hook_uid, "notAfter": until},
        });
        let certificate = serde_json::from_value(certificate).unwrap();
        s.certificates
            .apply_watcher_event(&watcher::Event::Apply(certificate));
    }
    let observed = s.context.observe(None, s.now);
    assert_eq!(observed.leaves, BTreeMap::from([("f".to_owned(), 1)]));
    assert_eq!(observed.longest_leaf, SignedDuration::from_hours(365 * 24));
}
