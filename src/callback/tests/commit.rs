//! The writes: when one is answered, how many there are, and what becomes of them when the server
//! does not play along.

use std::sync::Arc;

use hyper::Method;
use jiff::Timestamp;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::api::HookKind;
use crate::api::status::{AckResult, RequestState};
use crate::callback::commit::{Committer, HookName, Outcome, Sight};
use crate::decide::ack::Incoming;
use crate::metrics::Metrics;
use crate::testing::{self, Fault, MockApi, eventually};

struct Scene {
    api: MockApi,
    committer: Committer,
    stale: Sight,
}

impl Scene {
    /// A server with an open request, and a cache that has seen it.
    fn new() -> Self {
        let mut hook = testing::hook("ml", "trainer");
        hook.status
            .as_mut()
            .unwrap()
            .set_workload_request(Some(testing::request("r1", RequestState::Open)));
        let api = MockApi::new([hook]);
        let numbered = |word| (0..1023).map(move |number| format!("{word}-{number}"));
        let pods: Vec<String> = numbered("pod").chain(numbered("other")).collect();
        let named = [
            "a", "b", "c", "first", "gone", "one", "stays", "two", "other",
        ]
        .into_iter();
        let pods = testing::pod_caches(named.chain(pods.iter().map(String::as_str)));
        Self {
            committer: Committer::new(api.client(), pods, Metrics::new()),
            stale: Sight {
                hook: Arc::new(api.get("ml", "trainer")),
                asked: None,
            },
            api,
        }
    }

    fn close_request(&self) {
        self.api.change("ml", "trainer", |hook| {
            let status = hook.status.as_mut().unwrap();
            status.workload_request_mut().unwrap().state = RequestState::Closed;
        });
    }

    /// One who acknowledges, in a task of his own.
    fn send(&self, incoming: Incoming) -> JoinHandle<Outcome> {
        let (committer, sight) = (self.committer.clone(), self.stale.clone());
        tokio::spawn(async move {
            committer
                .acknowledge(&name(), sight, incoming, Instant::now())
                .await
        })
    }

    async fn writes_reach(&self, count: usize) {
        eventually("writes", || self.api.count(Method::PATCH) == count).await;
    }

    fn counts(&self) -> (usize, usize) {
        (self.api.count(Method::GET), self.api.count(Method::PATCH))
    }

    fn stored(&self) -> Vec<String> {
        let status = self.api.get("ml", "trainer").status.unwrap();
        status.acknowledgements.into_keys().collect()
    }
}

fn name() -> HookName {
    HookName {
        namespace: "ml".into(),
        name: "trainer".into(),
    }
}

fn of(pod: &str) -> Incoming {
    Incoming {
        kind: HookKind::Shutdown,
        hook_uid: testing::HOOK_UID.into(),
        workload_uid: testing::WORKLOAD_UID.into(),
        pod: Some(pod.into()),
        result: AckResult::Success,
        message: None,
        certificate: None,
        at: Timestamp::from_second(1_700_000_000).unwrap(),
    }
}

fn failure(pod: &str) -> Incoming {
    Incoming {
        result: AckResult::Failure,
        ..of(pod)
    }
}

fn written() -> Outcome {
    Outcome::Written {
        request: Some("r1".into()),
        result: AckResult::Success,
    }
}

fn replayed() -> Outcome {
    Outcome::Replayed {
        request: Some("r1".into()),
    }
}

/// Pods that a call adds acknowledgements of.
fn additions(body: &Value) -> usize {
    let operations = body.as_array().unwrap();
    operations.iter().filter(|one| one["op"] == "add").count()
}

#[tokio::test]
async fn an_answer_comes_after_the_write_and_takes_one_call() {
    let scene = Scene::new();
    scene.api.close();
    let mut sent = scene.send(of("a"));
    scene.writes_reach(1).await;
    // The write has reached the server and is not answered: nobody may be told anything.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!sent.is_finished());
    assert!(scene.stored().is_empty());
    scene.api.open();
    assert_eq!((&mut sent).await.unwrap(), written());
    assert_eq!(scene.stored(), ["shutdown.a"]);
    assert_eq!(scene.counts(), (0, 1));
    let call = &scene.api.calls()[0];
    assert!(
        call.path.contains("/krakehooks/trainer/status?")
            && call.path.contains("fieldManager=krake-hooks%2Fcallback"),
        "{}",
        call.path
    );
}

#[tokio::test]
async fn all_who_wait_go_into_the_next_write() {
    let scene = Scene::new();
    scene.api.close();
    let first = scene.send(of("first"));
    scene.writes_reach(1).await;
    let others: Vec<_> = (0..200)
        .map(|n| scene.send(of(&format!("pod-{n}"))))
        .collect();
    eventually("200 wait", || scene.committer.waiting() == 201).await;
    scene.api.open();
    assert_eq!(first.await.unwrap(), written());
    for other in others {
        assert_eq!(other.await.unwrap(), written());
    }
    assert_eq!(scene.counts(), (0, 2));
    let sizes: Vec<_> = scene
        .api
        .calls()
        .iter()
        .map(|call| additions(&call.body))
        .collect();
    assert_eq!(sizes, [1, 200]);
    scene.committer.drained().await;
    assert_eq!(scene.committer.waiting(), 0);
}

#[tokio::test]
async fn the_same_again_is_answered_without_a_write() {
    let scene = Scene::new();
    assert_eq!(scene.send(of("a")).await.unwrap(), written());
    // The cache is from before the first; it cannot know. A cache that does, knows it may be old.
    let fresh = Sight {
        hook: Arc::new(scene.api.get("ml", "trainer")),
        asked: None,
    };
    let again = scene
        .committer
        .acknowledge(&name(), fresh, of("a"), Instant::now())
        .await;
    assert_eq!(again, replayed());
    assert_eq!(scene.counts(), (1, 1));
}

#[tokio::test]
async fn two_at_once_for_one_key_are_one_write() {
    let scene = Scene::new();
    scene.api.close();
    let first = scene.send(of("first"));
    scene.writes_reach(1).await;
    let (one, two) = (scene.send(of("a")), scene.send(of("a")));
    eventually("both wait", || scene.committer.waiting() == 3).await;
    scene.api.open();
    assert_eq!(first.await.unwrap(), written());
    let mut both = [one.await.unwrap(), two.await.unwrap()];
    both.sort_by_key(|outcome| *outcome == replayed());
    assert_eq!(both, [written(), replayed()]);
    assert_eq!(scene.counts(), (0, 2));
}

#[tokio::test]
async fn who_is_refused_by_the_server_is_decided_on_again() {
    let scene = Scene::new();
    scene.close_request();
    assert_eq!(scene.send(of("a")).await.unwrap(), Outcome::Late);
    // The write was refused, then the hook was read, and nothing more was tried.
    assert_eq!(scene.counts(), (1, 1));
    assert_eq!(scene.api.calls()[0].code, Some(422));
    assert!(scene.stored().is_empty());
}

#[tokio::test]
async fn a_newer_request_gets_the_acknowledgement_that_an_old_cache_has_for_another() {
    let scene = Scene::new();
    scene.api.change("ml", "trainer", |hook| {
        let status = hook.status.as_mut().unwrap();
        status.set_workload_request(Some(testing::request("r2", RequestState::Open)));
    });
    let expected = Outcome::Written {
        request: Some("r2".into()),
        result: AckResult::Success,
    };
    assert_eq!(scene.send(of("a")).await.unwrap(), expected);
}

#[tokio::test]
async fn a_fast_answer_to_a_call_that_the_cache_has_not_seen_is_not_refused() {
    let mut scene = Scene::new();
    scene.stale.hook = Arc::new(testing::hook("ml", "trainer"));
    assert_eq!(scene.send(of("a")).await.unwrap(), written());
    assert_eq!(scene.counts(), (1, 1));
}

#[tokio::test]
async fn in_a_group_with_a_closed_request_a_complete_still_counts() {
    let scene = Scene::new();
    scene.api.close();
    let first = scene.send(of("first"));
    scene.writes_reach(1).await;
    let complete = scene.send(Incoming {
        kind: HookKind::Complete,
        ..of("a")
    });
    let shutdown = scene.send(of("a"));
    eventually("all wait", || scene.committer.waiting() == 3).await;
    scene.close_request();
    scene.api.open();
    assert_eq!(first.await.unwrap(), Outcome::Late);
    assert_eq!(shutdown.await.unwrap(), Outcome::Late);
    let outcome = complete.await.unwrap();
    assert!(
        matches!(outcome, Outcome::Written { request: None, .. }),
        "{outcome:?}"
    );
    assert_eq!(scene.stored(), ["complete.a"]);
}

#[tokio::test]
async fn a_failure_never_lands_on_a_success() {
    let scene = Scene::new();
    scene.api.close();
    let fails = scene.send(failure("a"));
    // It was decided on by a live look, and tests that nothing has changed since.
    scene.writes_reach(1).await;
    scene.api.change("ml", "trainer", |hook| {
        let status = hook.status.as_mut().unwrap();
        let success = serde_json::from_value(serde_json::json!({
            "at": "2023-11-14T22:13:20Z", "request": "r1", "result": "Success",
            "workloadUID": testing::WORKLOAD_UID,
        }));
        status
            .acknowledgements
            .insert("shutdown.a".into(), success.unwrap());
    });
    scene.api.open();
    assert_eq!(fails.await.unwrap(), Outcome::AlreadyAcknowledged);
    let kept = &scene
        .api
        .get("ml", "trainer")
        .status
        .unwrap()
        .acknowledgements["shutdown.a"];
    assert_eq!(kept.result, AckResult::Success);
}

#[tokio::test]
async fn a_failure_is_stored_and_a_success_replaces_it() {
    let scene = Scene::new();
    let expected = Outcome::Written {
        request: Some("r1".into()),
        result: AckResult::Failure,
    };
    assert_eq!(scene.send(failure("a")).await.unwrap(), expected);
    assert_eq!(scene.send(of("a")).await.unwrap(), written());
    let kept = &scene
        .api
        .get("ml", "trainer")
        .status
        .unwrap()
        .acknowledgements["shutdown.a"];
    assert_eq!(kept.result, AckResult::Success);
}

#[tokio::test]
async fn a_lost_answer_is_looked_up_before_anybody_is_told() {
    for (fault, expected) in [
        (Fault::LostAnswer, written()),
        (Fault::LostRequest, Outcome::Unavailable),
        (Fault::Code(504), Outcome::Unavailable),
    ] {
        let scene = Scene::new();
        scene.api.fail(fault);
        assert_eq!(scene.send(of("a")).await.unwrap(), expected, "{fault:?}");
        assert_eq!(scene.counts(), (1, 1), "{fault:?}");
        // Either way the client may try again, and gets the truth.
        let again = scene.send(of("a")).await.unwrap();
        assert_eq!(again, written(), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_not_waited_for_for_ever() {
    let scene = Scene::new();
    scene.api.close();
    assert_eq!(scene.send(of("a")).await.unwrap(), Outcome::Unavailable);
}

#[tokio::test]
async fn a_server_that_refuses_for_ever_is_not_asked_for_ever() {
    // Who is refused by a test is looked up before each further try; who collided need not be.
    for (code, looks) in [(422, 4), (409, 0)] {
        let scene = Scene::new();
        for _ in 0..20 {
            scene.api.fail(Fault::Code(code));
        }
        assert_eq!(scene.send(of("a")).await.unwrap(), Outcome::Unavailable);
        assert_eq!(scene.counts(), (looks, 5), "{code}");
    }
}

#[tokio::test]
async fn who_collides_with_another_replica_is_written_after_it() {
    let scene = Scene::new();
    scene.api.fail(Fault::Code(409));
    let all = [scene.send(of("a")), scene.send(of("b"))];
    for one in all {
        assert_eq!(one.await.unwrap(), written());
    }
    assert_eq!(scene.counts().0, 0);
    assert_eq!(scene.stored(), ["shutdown.a", "shutdown.b"]);
}

#[tokio::test]
async fn a_server_that_says_no_is_told_on_at_once() {
    for (code, expected) in [
        (429, Outcome::Unavailable),
        (403, Outcome::Unavailable),
        (404, Outcome::Superseded),
    ] {
        let scene = Scene::new();
        scene.api.fail(Fault::Code(code));
        assert_eq!(scene.send(of("a")).await.unwrap(), expected, "{code}");
        assert_eq!(scene.counts(), (0, 1), "{code}");
    }
}

#[tokio::test]
async fn who_hangs_up_takes_nobody_with_him() {
    let scene = Scene::new();
    scene.api.close();
    let first = scene.send(of("first"));
    scene.writes_reach(1).await;
    let (gone, stays) = (scene.send(of("gone")), scene.send(of("stays")));
    eventually("all wait", || scene.committer.waiting() == 3).await;
    for hangs_up in [first, gone] {
        hangs_up.abort();
        assert!(hangs_up.await.unwrap_err().is_cancelled());
    }
    scene.api.open();
    assert_eq!(stays.await.unwrap(), written());
    // What they said stands: their tokens were right, and their apps have shut down.
    assert_eq!(
        scene.stored(),
        ["shutdown.first", "shutdown.gone", "shutdown.stays"]
    );
    assert_eq!(scene.counts(), (0, 2));
}

#[tokio::test]
async fn what_waits_is_bounded() {
    let scene = Scene::new();
    scene.api.close();
    let first = scene.send(of("a"));
    scene.writes_reach(1).await;
    let others: Vec<_> = (0..1023).map(|_| scene.send(of("a"))).collect();
    eventually("1,024 wait", || scene.committer.waiting() == 1024).await;
    assert_eq!(scene.send(of("b")).await.unwrap(), Outcome::Busy);
    scene.api.open();
    assert_eq!(first.await.unwrap(), written());
    for other in others {
        assert_eq!(other.await.unwrap(), replayed());
    }
    assert_eq!(scene.send(of("b")).await.unwrap(), written());
    scene.committer.drained().await;
    assert_eq!(scene.committer.waiting(), 0);
}

#[tokio::test]
async fn a_group_fills_a_hook_to_the_last_key_and_no_further() {
    let scene = Scene::new();
    scene.api.close();
    let first = scene.send(of("first"));
    scene.writes_reach(1).await;
    let others: Vec<_> = (0..515)
        .map(|n| scene.send(of(&format!("pod-{n}"))))
        .collect();
    eventually("all wait", || scene.committer.waiting() == 516).await;
    scene.api.open();
    first.await.unwrap();
    let mut full = 0;
    for other in others {
        match other.await.unwrap() {
            Outcome::Full => full += 1,
            outcome => assert_eq!(outcome, written()),
        }
    }
    assert_eq!(full, 4);
    assert_eq!(scene.stored().len(), 512);
}

/// A write of a `complete` under way, and the scene as it is then.
async fn complete_under_way(scene: &Scene) -> JoinHandle<Outcome> {
    scene.api.close();
    let sent = scene.send(complete("first"));
    scene.writes_reach(1).await;
    sent
}

fn complete(pod: &str) -> Incoming {
    Incoming {
        kind: HookKind::Complete,
        ..of(pod)
    }
}

#[tokio::test]
async fn the_answer_to_an_older_write_refuses_nobody_who_came_later() {
    let mut scene = Scene::new();
    let nobody_asked = testing::hook("ml", "trainer");
    scene.api.put(&nobody_asked);
    scene.stale.hook = Arc::new(nobody_asked);
    let first = complete_under_way(&scene).await;
    let late_comer = scene.send(of("a"));
    eventually("both wait", || scene.committer.waiting() == 2).await;
    scene.api.afterwards(|hook| {
        let status = hook.status.as_mut().unwrap();
        status.set_workload_request(Some(testing::request("r1", RequestState::Open)));
    });
    scene.api.open();
    assert!(matches!(first.await.unwrap(), Outcome::Written { .. }));
    assert_eq!(late_comer.await.unwrap(), written());
}

#[tokio::test]
async fn nobody_is_written_by_the_tests_of_another() {
    let scene = Scene::new();
    let first = complete_under_way(&scene).await;
    let one = scene.send(complete("one"));
    eventually("two wait", || scene.committer.waiting() == 2).await;
    let two = scene.send(of("two"));
    eventually("three wait", || scene.committer.waiting() == 3).await;
    scene.api.afterwards(|hook| {
        let status = hook.status.as_mut().unwrap();
        status.workload_request_mut().unwrap().state = RequestState::Closed;
    });
    scene.api.open();
    for completes in [first, one] {
        assert!(matches!(completes.await.unwrap(), Outcome::Written { .. }));
    }
    assert_eq!(two.await.unwrap(), Outcome::Late);
    assert_eq!(scene.stored(), ["complete.first", "complete.one"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_says_ever_something_else_is_written_a_few_times_a_second() {
    let scene = Scene::new();
    let begin = Instant::now();
    for number in 0..60 {
        let words = Incoming {
            message: Some(format!("state {number}")),
            ..of("a")
        };
        assert_eq!(scene.send(words).await.unwrap(), written());
    }
    // Ten at once, and then five a second.
    let seconds = begin.elapsed().as_secs();
    assert!((9..=11).contains(&seconds), "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn who_comes_while_the_hook_has_to_wait_goes_into_one_write() {
    let scene = Scene::new();
    while scene.counts().1 < 10 {
        let number = scene.counts().1;
        let outcome = scene.send(of(&format!("pod-{number}"))).await.unwrap();
        assert_eq!(outcome, written());
    }
    let all: Vec<_> = (0..200)
        .map(|n| scene.send(of(&format!("other-{n}"))))
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap(), written());
    }
    assert_eq!(scene.counts().1, 11);
}

#[tokio::test(start_paused = true)]
async fn a_failure_too_often_is_told_so_and_hinders_no_success() {
    let scene = Scene::new();
    let failed = Outcome::Written {
        request: Some("r1".into()),
        result: AckResult::Failure,
    };
    let words = |n: usize| Incoming {
        message: Some(format!("error {n}")),
        ..failure("a")
    };
    assert_eq!(scene.send(words(0)).await.unwrap(), failed);
    let others: Vec<_> = (1..200).map(|n| scene.send(words(n))).collect();
    for other in others {
        assert_eq!(other.await.unwrap(), Outcome::TooOften);
    }
    assert_eq!(scene.send(of("a")).await.unwrap(), written());
    assert_eq!(scene.counts().1, 2);
}

#[tokio::test]
async fn a_hook_holds_so_much_of_words_and_a_success_counts_without_them() {
    let scene = Scene::new();
    // Each is 6 KiB as it is stored.
    let words = |pod: &str, result| Incoming {
        message: Some("<".repeat(1024)),
        result,
        ..of(pod)
    };
    scene.api.close();
    let first = scene.send(of("first"));
    scene.writes_reach(1).await;
    let all: Vec<_> = (0..20)
        .map(|n| scene.send(words(&format!("pod-{n}"), AckResult::Success)))
        .collect();
    eventually("all wait", || scene.committer.waiting() == 21).await;
    scene.api.open();
    assert_eq!(first.await.unwrap(), written());
    for one in all {
        assert_eq!(one.await.unwrap(), written());
    }
    let kept = scene.api.get("ml", "trainer").status.unwrap();
    let with_words = kept
        .acknowledgements
        .values()
        .filter(|a| a.message.is_some());
    assert_eq!((kept.acknowledgements.len(), with_words.count()), (21, 10));
    let failed = scene.send(words("other", AckResult::Failure)).await;
    assert_eq!(failed.unwrap(), Outcome::Full);
}

#[tokio::test]
async fn however_many_hooks_are_flooded_another_one_is_written() {
    let scene = Scene::new();
    scene.api.close();
    let mut others = Vec::new();
    for number in 0..20 {
        for _ in 0..1024 {
            let (committer, sight) = (scene.committer.clone(), scene.stale.clone());
            others.push(tokio::spawn(async move {
                let flooded = HookName {
                    namespace: "hostile".into(),
                    name: number.to_string(),
                };
                committer
                    .acknowledge(&flooded, sight, of("a"), Instant::now())
                    .await
            }));
        }
    }
    eventually("all have come", || {
        let refused = others.iter().filter(|one| one.is_finished()).count();
        scene.committer.waiting() + refused == others.len()
    })
    .await;
    let honest = scene.send(of("a"));
    scene.api.open();
    assert_eq!(honest.await.unwrap(), written());
    others.iter().for_each(JoinHandle::abort);
}
