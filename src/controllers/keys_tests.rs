use std::sync::{Arc, Mutex};

use kube::runtime::events::Recorder;
use kube::runtime::{reflector, watcher};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::cluster::ring::load_or_create_ring;
use crate::cluster::slim::Pod;
use crate::controllers::synced::Synced;
use crate::testing;
use crate::testing::operator_secrets::{NAMESPACE, Server};

const WAIT: Duration = Duration::from_secs(60);

/// A leader and another replica, on one API server.
struct Cluster {
    server: Server,
    context: Context,
    hooks: reflector::store::Writer<KrakeHook>,
    pods: reflector::store::Writer<Pod>,
    last: Mutex<Option<(KeysSeen, Instant)>>,
}

impl Cluster {
    async fn new() -> Self {
        let server = Server::default();
        let client = server.client();
        let made = load_or_create_ring(&client, NAMESPACE, async { Ok(false) }).await;
        made.expect("a ring");
        let (hooks, hook_writer) = reflector::store();
        let (pods, pod_writer) = reflector::store();
        let writer = AuthorityWriter {
            client: client.clone(),
            namespace: NAMESPACE.into(),
            recorder: Recorder::new(client, "krake-hooks".to_owned().into()),
        };
        writer.shown().await.expect("a HookAuthority");
        Self {
            server,
            context: Context {
                writer,
                caches: Caches {
                    hooks,
                    pods,
                    ..testing::caches()
                },
                synced: Synced::new().waiter(),
                propagation: SignedDuration::try_from(WAIT).expect("a time"),
                metrics: Metrics::new(),
            },
            hooks: hook_writer,
            pods: pod_writer,
            last: Mutex::default(),
        }
    }

    async fn look(&self) {
        let mut last = self.last.lock().expect("a lock").take();
        self.context.look(&mut last).await.expect("a look");
        *self.last.lock().expect("a lock") = last;
    }

    async fn wait_and_look(&self) {
        tokio::time::advance(WAIT).await;
        self.look().await;
    }

    async fn kept(&self) -> Kept {
        let secrets = self.context.writer.secrets();
        ring::read(&secrets).await.expect("a look").expect("a ring")
    }

    fn rotate(&self, value: &str) {
        self.server
            .annotate(json!({names::ROTATE_KEY_ANNOTATION: value}));
    }

    /// The hook's token is derived by this key at that second.
    fn token(&mut self, key: &str, second: i64) {
        let mut hook = testing::hook("ml", "trainer");
        let status = hook.status.get_or_insert_default();
        status.token = Some(TokenSecret {
            secret_uid: "secret".into(),
            resource_version: "1".into(),
            derived_for: Some(format!("{key}.{}", testing::WORKLOAD_UID)),
            since: Some(at(second)),
        });
        self.hooks.apply_watcher_event(&watcher::Event::Apply(hook));
    }

    fn pod(&mut self, name: &str, second: i64, phase: &str) {
        let pod = pod(name, second, phase);
        self.pods.apply_watcher_event(&watcher::Event::Apply(pod));
    }

    /// Another pod, whose stamp names a key.
    fn stamped(&mut self, name: &str, second: i64, key: &str) {
        let mut pod = pod(name, second, "Running");
        let stamp = format!("aaaaaaaa-bbbbbbbb-{key}");
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(names::STAMP_ANNOTATION.to_owned(), stamp);
        self.pods.apply_watcher_event(&watcher::Event::Apply(pod));
    }

    fn gone(&mut self, name: &str) {
        let pod = pod(name, 0, "Running");
        self.pods.apply_watcher_event(&watcher::Event::Delete(pod));
    }

    fn condition(&self) -> String {
        let shown = self.server.shown();
        let found = &shown["status"]["conditions"][0];
        format!("{} {}", found["status"], found["reason"]).replace('"', "")
    }
}

fn at(second: i64) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
        Timestamp::from_second(second).expect("a time"),
    )
}

fn pod(name: &str, second: i64, phase: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"namespace": "ml", "name": name, "creationTimestamp": at(second),
            "labels": {names::HOOK_LABEL: "trainer"}},
        "status": {"phase": phase},
    }))
    .expect("a pod")
}

#[tokio::test(start_paused = true)]
async fn a_key_takes_the_place_of_another_when_no_pod_holds_a_token_of_it() {
    let mut cluster = Cluster::new().await;
    let old = cluster.kept().await.ring.current_id().to_owned();
    let token = cluster.kept().await.ring.token("hook", "workload");
    cluster.token(&old, 0);
    cluster.pod("old", 1, "Running");
    cluster.look().await;
    assert_eq!(cluster.condition(), "False NotRotating");

    // Prepared: it verifies, and signs nothing until every replica has read it.
    cluster.rotate("now");
    cluster.look().await;
    let new = cluster.kept().await.prepared.expect("a new one");
    assert_eq!(cluster.kept().await.ring.current_id(), old);
    assert_eq!(cluster.condition(), "True Propagating");
    cluster.look().await;
    assert_eq!(cluster.kept().await.ring.current_id(), old, "too early");
    cluster.wait_and_look().await;
    assert_eq!(cluster.kept().await.ring.current_id(), new);

    // Tokens of the old one stay good for as long as a pod has one.
    for _ in 0..3 {
        cluster.wait_and_look().await;
        assert_eq!(cluster.condition(), "True Retiring");
    }
    cluster.token(&new, 10);
    cluster.pod("same-second", 10, "Running");
    cluster.pod("new", 11, "Running");
    cluster.stamped("new-same-second", 10, &new);
    cluster.stamped("of-no-key", 10, "0000");
    cluster.stamped("slow-to-roll", 12, &old);
    cluster.wait_and_look().await;
    cluster.gone("old");
    for last in ["same-second", "slow-to-roll"] {
        cluster.wait_and_look().await;
        cluster.wait_and_look().await;
        let kept = cluster.kept().await;
        assert!(kept.ring.verify(token.expose_secret(), "hook", "workload"));
        cluster.pod(last, 10, "Succeeded");
    }
    cluster.look().await;
    assert_eq!(cluster.kept().await.ring.ids().count(), 2, "too early");
    cluster.wait_and_look().await;

    let kept = cluster.kept().await;
    assert_eq!(kept.ring.ids().collect::<Vec<_>>(), [new.as_str()]);
    assert!(!kept.ring.verify(token.expose_secret(), "hook", "workload"));
    assert_eq!(cluster.condition(), "False NotRotating");
    assert_eq!(
        cluster.server.state().events,
        ["MasterKeyPrepared", "MasterKeyActive", "MasterKeyDropped"]
    );
    // The same request again is no other one.
    cluster.wait_and_look().await;
    assert_eq!(cluster.kept().await.ring.ids().count(), 1);
    cluster.rotate("once more");
    cluster.look().await;
    assert!(cluster.kept().await.prepared.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_knows_nothing_goes_on_with_what_stands_there() {
    let cluster = Cluster::new().await;
    cluster.look().await;
    cluster.rotate("now");
    let old = cluster.kept().await.ring.current_id().to_owned();
    for _ in 0..8 {
        cluster.look().await;
        // Another leader: it waits for as long again.
        *cluster.last.lock().expect("a lock") = None;
        cluster.look().await;
        tokio::time::advance(WAIT).await;
    }
    let kept = cluster.kept().await;
    assert_eq!(kept.ring.ids().count(), 1);
    assert_ne!(kept.ring.current_id(), old);
    let writes = cluster.server.state().writes.clone();
    let steps = writes
        .iter()
        .filter(|write| *write == "PUT krake-hooks-master-keys");
    assert_eq!(steps.count(), 3, "{writes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_replica_hears_of_keys_and_keeps_what_it_has_when_they_are_gone() {
    let cluster = Cluster::new().await;
    cluster.look().await;
    let first = cluster.kept().await.ring;
    let old = first.current_id().to_owned();
    let ring = Arc::new(ArcSwap::from_pointee(first));
    let signing = watch::Sender::new(old.clone());
    let mut heard = signing.subscribe();
    let follower = Follower {
        secrets: cluster.context.writer.secrets(),
        ring: Arc::clone(&ring),
        signing,
        every: every(60),
    };
    let stop = CancellationToken::new();
    let following = tokio::spawn(follower.run(stop.clone().cancelled_owned()));
    cluster.rotate("now");
    cluster.look().await;
    cluster.wait_and_look().await;
    let new = cluster.kept().await.ring.current_id().to_owned();
    heard.wait_for(|id| *id == new).await.expect("it signs");
    let token = ring.load().token_by(&old, "hook", "workload");
    let token = token.expect("it is there");
    assert!(
        ring.load()
            .verify(token.expose_secret(), "hook", "workload")
    );

    for broken in [None, Some(json!({"current": "eA=="}))] {
        match broken {
            None => cluster.server.remove(names::RING_SECRET),
            Some(broken) => cluster.server.put(names::RING_SECRET, &broken),
        }
        tokio::time::sleep(WAIT).await;
        assert_eq!(ring.load().current_id(), new);
        assert_eq!(ring.load().ids().count(), 2);
    }
    stop.cancel();
    following.await.expect("it ends");
}

/// Somebody else's hand in the annotations: a key that is not there is not waited for.
#[tokio::test(start_paused = true)]
async fn a_prepared_key_that_is_not_in_the_ring_is_none() {
    let cluster = Cluster::new().await;
    let mut secret: Value = cluster.server.get(names::RING_SECRET).expect("a ring");
    let entries = secret["data"].take();
    cluster.server.put_annotated(
        names::RING_SECRET,
        &entries,
        json!({"hooks.krake.dev/next-key": "0badc0de"}),
    );
    assert!(cluster.kept().await.prepared.is_none());
    cluster.look().await;
    assert_eq!(cluster.condition(), "False NotRotating");
}
