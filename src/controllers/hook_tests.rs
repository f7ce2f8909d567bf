//! What the hook controller counts.

use std::sync::Mutex;

use serde_json::json;

use super::*;
use crate::api::status::{HistoryEntry, Outcome};
use crate::controllers::synced::Synced;
use crate::testing::build::{self, NAME};
use crate::testing::clock::Machine;
use crate::testing::world::World;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// A controller of an API server that answers everything with this.
fn context(code: u16, answer: serde_json::Value) -> Context {
    context_of(crate::testing::answered_by(move |_, _| {
        (code, answer.clone())
    }))
}

fn context_of(client: kube::Client) -> Context {
    let caches = crate::testing::caches();
    let metrics = Metrics::new();
    let clock = SteadyClock::begin(&Machine::default().clocks());
    Context {
        writer: Writer::for_release(client),
        settings: watch::channel(Arc::new(build::settings("leader", true))).1,
        calls: crate::callout::channel(clock.clone()).0,
        synced: Synced::new().waiter(),
        outcomes: Outcomes::new(metrics.clone()),
        metrics,
        backoff: Backoff::new(),
        feed: Feed::new(caches.hooks.clone()),
        clock,
        overlay: Overlay::default(),
        caches,
    }
}

fn seen() -> Seen {
    let mut world = World::new();
    world.create_hook(build::hook(NAME).shutdown());
    world.observe(NAME).expect("a hook")
}

#[tokio::test]
async fn an_outcome_is_counted_with_the_status_that_says_it() {
    let mut seen = seen();
    let mut status = seen.status();
    status.history.push(HistoryEntry {
        outcome: Outcome::TimedOut,
        trigger: None,
        request: None,
        at: Time(Timestamp::UNIX_EPOCH),
        message: String::new(),
    });
    let mut written = seen.hook.clone();
    written.status = Some(status.clone());
    let context = context(200, json!(written));
    let object = ObjectRef::from_obj(&seen.hook);
    let effects = [Effect::WriteStatus(Box::new(status))];
    for _ in 0..2 {
        let done = context.carry_out_all(&object, &mut seen, &effects).await;
        done.expect("it is written");
    }
    let text = context.metrics.text();
    for line in [
        "krake_hooks_outcomes_total{outcome=\"TimedOut\"} 1",
        "krake_hooks_effects_total{effect=\"WriteStatus\"} 2",
    ] {
        assert!(text.contains(line), "{line} not in\n{text}");
    }
}

#[tokio::test]
async fn a_reconcile_that_fails_is_counted_by_what_it_calls_for() {
    let refusal = json!({"kind": "Status", "status": "Failure", "code": 409, "reason": "Conflict"});
    let mut seen = seen();
    let context = Arc::new(context(409, refusal));
    let hook = Arc::new(seen.hook.clone());
    let object = ObjectRef::from_obj(hook.as_ref());
    let effects = [Effect::WriteStatus(Box::default())];
    let done = context.carry_out_all(&object, &mut seen, &effects).await;
    on_error(hook, &done.expect_err("a conflict"), Arc::clone(&context));
    let text = context.metrics.text();
    let line = "krake_hooks_reconcile_errors_total{controller=\"hook\",class=\"Conflict\"} 1";
    assert!(text.contains(line), "{text}");
    assert!(!text.contains("effects_total{"), "{text}");
}

/// A webhook, say, takes the finalizer off again in the same request.
#[tokio::test]
async fn what_comes_to_no_end_is_told_and_paused() {
    let hook = seen().hook;
    let written = Arc::new(Mutex::new(Vec::new()));
    let (log, answer) = (Arc::clone(&written), json!(hook));
    let client = crate::testing::answered_by(move |method, path| {
        if method != hyper::Method::GET {
            log.lock().unwrap().push(format!("{method} {path}"));
        }
        let gone =
            json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"});
        match path.contains("/krakehooks/") {
            true => (200, answer.clone()),
            false => (404, gone),
        }
    });
    let context = Arc::new(context_of(client));
    let action = reconcile(Arc::new(hook), Arc::clone(&context)).await;
    let written = written.lock().unwrap();
    let patches = written.iter().filter(|write| write.starts_with("PATCH"));
    assert_eq!(patches.count(), MOST_ROUNDS, "{written:?}");
    let events = written.iter().filter(|write| write.contains("/events"));
    assert_eq!(events.count(), 1, "{written:?}");
    assert_ne!(action.unwrap(), Action::await_change());
}
