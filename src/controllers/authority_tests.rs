use serde_json::json;

use super::*;
use crate::cluster::authority::make;
use crate::pki::{AuthorityValidity, Step};
use crate::testing::build;
use crate::testing::operator_secrets::{NAMESPACE, Server};

struct Setting {
    server: Server,
    context: Context,
    in_use: watch::Receiver<Arc<InUse>>,
}

fn now() -> Timestamp {
    "2040-06-01T12:00:00Z".parse().unwrap()
}

fn setting() -> Setting {
    let server = Server::default();
    let (in_use, in_use_rx) = watch::channel(Arc::new(InUse::default()));
    let context = Context {
        secrets: OperatorSecrets {
            client: server.client(),
            namespace: NAMESPACE.into(),
        },
        watches: server.client(),
        in_use,
        metrics: Metrics::new(),
    };
    Setting {
        server,
        context,
        in_use: in_use_rx,
    }
}

impl Setting {
    fn put(&self, succession: &Succession) {
        use base64::Engine;
        use secrecy::ExposeSecret;
        let entries = succession.to_secret().into_iter();
        let entries: serde_json::Map<_, _> = entries
            .map(|(name, content)| {
                let engine = base64::engine::general_purpose::STANDARD;
                (name, json!(engine.encode(content.expose_secret())))
            })
            .collect();
        self.server.put(names::AUTHORITY_SECRET, &entries.into());
    }

    /// Reads, and says whether anybody hears of something new.
    async fn read(&mut self) -> bool {
        let state = read(&self.context.secrets, now()).await.unwrap();
        self.in_use.mark_unchanged();
        self.context.publish(&state);
        self.in_use.has_changed().expect("the sender lives")
    }
}

fn made() -> (Arc<Authority>, crate::pki::Entry) {
    let made = make(AuthorityValidity::default(), now()).unwrap();
    let entry = made.entry(None, now());
    (Arc::new(made), entry)
}

#[tokio::test]
async fn whoever_needs_it_hears_of_each_change_and_of_nothing_else() {
    let mut s = setting();
    assert!(s.read().await, "there is none");
    assert_eq!(
        s.in_use.borrow().fault.as_ref().unwrap().reason,
        "AuthorityMissing"
    );

    let (authority, entry) = made();
    let first = Succession::begin(authority, entry, None);
    s.put(&first);
    assert!(s.read().await);
    assert!(!s.read().await);
    assert!(s.in_use.borrow().fault.is_none());
    assert_eq!(s.in_use.borrow().bundle, first.bundle().pem());

    let second = first.after(&Step::Prepare { answering: None }, Some(made()), now());
    s.put(&second);
    assert!(s.read().await, "trusted, and in the bundle");
    assert_eq!(s.in_use.borrow().anchors.len(), 2);
    let fingerprint = second.ledger().next.as_ref().unwrap().fingerprint.clone();
    s.put(&second.after(&Step::Settle { fingerprint }, None, now()));
    assert!(!s.read().await, "nobody needs to know");
    let third = second.after(&Step::Activate, None, now());
    s.put(&third);
    assert!(s.read().await, "another one signs");
    let signer = s.in_use.borrow().signer.clone().unwrap();
    assert_eq!(signer.fingerprint(), third.signer().fingerprint());

    let text = s.context.metrics.text();
    for phase in ["Active", "Retiring"] {
        assert!(text.contains(&format!("phase=\"{phase}\"}} 1\n")), "{text}");
    }
    assert!(!text.contains("Prepared"), "{text}");
}

#[tokio::test]
async fn a_state_that_is_spoilt_or_gone_leaves_what_is_in_use() {
    let mut s = setting();
    let (authority, entry) = made();
    let first = Succession::begin(Arc::clone(&authority), entry, None);
    s.put(&first);
    s.read().await;
    s.server
        .put(names::AUTHORITY_SECRET, &json!({"tls.crt": "eA=="}));
    assert!(s.read().await);
    assert!(!s.read().await);
    let in_use = s.in_use.borrow().clone();
    assert_eq!(in_use.fault.as_ref().unwrap().reason, "AuthorityEmpty");
    assert_eq!(
        in_use.signer.as_ref().unwrap().fingerprint(),
        authority.fingerprint()
    );
    s.put(&first);
    assert!(s.read().await);
    assert!(s.in_use.borrow().fault.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_hook_controller_hears_of_a_bundle_and_of_nothing_else() {
    let mut first = build::settings("me", true);
    first.bundle.clear();
    let (sender, mut settings) = watch::channel(Arc::new(first));
    let (in_use, heard) = watch::channel(Arc::new(InUse::default()));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let telling = tokio::spawn(tell_bundle(heard, sender, async {
        stopped.await.ok();
    }));
    for (bundle, told) in [("one", true), ("one", false), ("two", true)] {
        in_use.send_replace(Arc::new(InUse {
            bundle: bundle.into(),
            ..InUse::default()
        }));
        let changed = tokio::time::timeout(Duration::from_secs(1), settings.changed()).await;
        assert_eq!(changed.is_ok(), told, "{bundle}");
        assert_eq!(settings.borrow_and_update().bundle, bundle);
    }
    drop(in_use);
    stop.send(()).unwrap();
    telling.await.unwrap();
}
