//! An API server that writes down what it is asked for, and caches that have heard of everything.

use std::sync::{Arc, Mutex};

use hyper::Method;
use kube::runtime::{reflector, watcher};
use serde_json::{Value, json};

use super::super::synced::Synced;
use super::*;
use crate::testing;
use crate::testing::build;

type Calls = Arc<Mutex<Vec<String>>>;

/// A StatefulSet's hook that is armed; two pods, one of which was made while nobody led.
fn caches() -> Caches {
    let mut hook = testing::hook("ml", "trainer");
    hook.spec.workload.kind = "StatefulSet".into();
    hook.status.as_mut().unwrap().conditions = serde_json::from_value(json!([
        {"type": "Armed", "status": "True", "reason": "InPlace", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]))
    .unwrap();
    let label = json!({names::HOOK_LABEL: "trainer"});
    let pod = |name: &str| {
        let pod = build::pod(name).with("/metadata/labels", label.clone());
        pod.owner("StatefulSet", testing::WORKLOAD_UID)
    };
    let guard = build::guard("trainer", testing::HOOK_UID, "guard").guard();
    let mut caches = testing::caches();
    let (hooks, mut writer) = reflector::store();
    writer.apply_watcher_event(&watcher::Event::Apply(hook));
    caches.hooks = hooks;
    let (guards, mut writer) = reflector::store();
    writer.apply_watcher_event(&watcher::Event::Apply(guard));
    caches.guards = guards;
    let (pods, mut writer) = reflector::store();
    for pod in [pod("old").owner("HookGuard", "guard"), pod("new")] {
        writer.apply_watcher_event(&watcher::Event::Apply(
            serde_json::from_value(pod.0).expect("a pod"),
        ));
    }
    caches.pods = pods;
    caches
}

fn context(answers: bool) -> (Context, Calls) {
    let calls = Calls::default();
    let asked = Arc::clone(&calls);
    let client = testing::answered_by(move |method, path| {
        let path = path.split('?').next().unwrap_or_default();
        asked.lock().unwrap().push(format!("{method} {path}"));
        let pod = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {"name": "new", "namespace": "ml", "uid": "new"}});
        match (answers, method) {
            (true, &Method::PATCH) => (200, pod),
            _ => (
                500,
                json!({"kind": "Status", "code": 500, "message": Value::Null}),
            ),
        }
    });
    let context = Context {
        writer: Writer::for_release(client),
        caches: caches(),
        synced: Synced::new().waiter(),
        metrics: Metrics::new(),
    };
    (context, calls)
}

const PATCH: &str = "PATCH /api/v1/namespaces/ml/pods/new";

#[tokio::test]
async fn who_begins_to_lead_guards_first_and_asks_nobody() {
    let (context, calls) = context(true);
    let (guarded, stop) = (CancellationToken::new(), CancellationToken::new());
    let running = run(
        context,
        stream::pending(),
        guarded.clone(),
        stop.clone().cancelled_owned(),
    );
    let first = async {
        guarded.cancelled().await;
        assert_eq!(*calls.lock().unwrap(), [PATCH]);
        stop.cancel();
    };
    tokio::join!(running, first);
}

#[tokio::test]
async fn what_comes_later_is_guarded_when_it_is_told() {
    let (context, calls) = context(true);
    let told = |name: &str| context.missing(Some(&ObjectRef::new(name).within("ml")));
    assert!(told("other").is_empty());
    context.guard_all(stream::iter(told("trainer"))).await;
    assert_eq!(*calls.lock().unwrap(), [PATCH]);
}

/// What is not guarded here is tried again elsewhere: nobody waits for it.
#[tokio::test]
async fn an_api_server_that_refuses_keeps_nobody() {
    let (context, calls) = context(false);
    let (guarded, stop) = (CancellationToken::new(), CancellationToken::new());
    let running = run(
        context,
        stream::pending(),
        guarded.clone(),
        stop.clone().cancelled_owned(),
    );
    let first = async {
        guarded.cancelled().await;
        stop.cancel();
    };
    tokio::join!(running, first);
    assert_eq!(*calls.lock().unwrap(), [PATCH]);
}
