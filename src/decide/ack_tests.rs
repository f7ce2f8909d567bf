use super::*;
use crate::api::names::HOOK_FINALIZER;
use crate::testing;
use proptest::prelude::*;

/// Of a pod of the workload's own.
fn decide(hook: &KrakeHook, incoming: &Incoming, look: Look) -> Verdict {
    super::decide(hook, incoming, look, Around::OWN)
}

fn incoming(kind: HookKind, result: AckResult) -> Incoming {
    Incoming {
        kind,
        hook_uid: testing::HOOK_UID.into(),
        workload_uid: testing::WORKLOAD_UID.into(),
        pod: Some("pod-1".into()),
        result,
        message: None,
        certificate: None,
        at: Timestamp::from_millisecond(1_700_000_000_700).unwrap(),
    }
}

fn stored(request: Option<&str>, result: AckResult) -> Acknowledgement {
    Acknowledgement {
        at: Time(Timestamp::UNIX_EPOCH),
        request: request.map(str::to_owned),
        workload_uid: testing::WORKLOAD_UID.into(),
        action: None,
        policy: None,
        result,
        message: None,
        certificate: None,
    }
}

/// A hook as the table describes it: its request (id and state) and what the pod has stored.
fn hook(
    request: Option<(&str, RequestState)>,
    kind: HookKind,
    kept: Option<Acknowledgement>,
) -> KrakeHook {
    let mut hook = testing::hook("ml", "trainer");
    let status = hook.status.as_mut().unwrap();
    status.set_workload_request(request.map(|(id, state)| testing::request(id, state)));
    if let Some(kept) = kept {
        status
            .acknowledgements
            .insert(key(kind, Some("pod-1")), kept);
    }
    hook
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Write(_) => "Write",
        Verdict::Replayed { .. } => "Replayed",
        Verdict::NotAsked => "NotAsked",
        Verdict::Late => "Late",
        Verdict::Anonymous => "Anonymous",
        Verdict::AlreadyAcknowledged => "AlreadyAcknowledged",
        Verdict::Full => "Full",
        Verdict::Superseded => "Superseded",
        Verdict::ForeignPod => "ForeignPod",
        Verdict::Unkept => "Unkept",
        Verdict::LookAgain => "LookAgain",
        Verdict::LookAround => "LookAround",
    }
}

#[test]
fn the_table() {
    use AckResult::{Failure, Success};
    use HookKind::{Complete, Shutdown};
    use RequestState::{Closed, Open};
    let (open, closed) = (Some(("r1", Open)), Some(("r1", Closed)));
    let mine = |result| Some(stored(Some("r1"), result));
    let older = Some(stored(Some("r0"), Success));
    let done = |result| Some(stored(None, result));
    for (request, kind, kept, result, expected) in [
        (None, Shutdown, None, Success, "NotAsked"),
        (None, Shutdown, older.clone(), Success, "NotAsked"),
        (open, Shutdown, None, Success, "Write"),
        (open, Shutdown, None, Failure, "Write"),
        (open, Shutdown, older.clone(), Success, "Write"),
        (open, Shutdown, older.clone(), Failure, "Write"),
        (open, Shutdown, mine(Success), Success, "Replayed"),
        (open, Shutdown, mine(Failure), Failure, "Replayed"),
        (open, Shutdown, mine(Failure), Success, "Write"),
        (
            open,
            Shutdown,
            mine(Success),
            Failure,
            "AlreadyAcknowledged",
        ),
        (closed, Shutdown, None, Success, "Late"),
        (closed, Shutdown, older, Success, "Late"),
        (closed, Shutdown, mine(Success), Success, "Replayed"),
        (closed, Shutdown, mine(Failure), Success, "Late"),
        (closed, Shutdown, mine(Success), Failure, "Late"),
        (None, Complete, None, Success, "Write"),
        (closed, Complete, None, Success, "Write"),
        (None, Complete, done(Success), Success, "Replayed"),
        (None, Complete, done(Failure), Success, "Write"),
        (
            None,
            Complete,
            done(Success),
            Failure,
            "AlreadyAcknowledged",
        ),
        // A shutdown's key is never taken for a complete's, whatever it says.
        (None, Complete, mine(Success), Success, "Write"),
    ] {
        let hook = hook(request, kind, kept.clone());
        let incoming = incoming(kind, result);
        let row = format!("{request:?} {kind} {kept:?} {result:?}");
        let live = decide(&hook, &incoming, Look::Live);
        assert_eq!(word(&live), expected, "{row}");
        let cached = decide(&hook, &incoming, Look::Cached);
        let from_cache = match (expected, result) {
            ("Write", Success) => "Write",
            _ => "LookAgain",
        };
        assert_eq!(word(&cached), from_cache, "{row}");
    }
}

#[test]
fn a_hook_that_somebody_else_keeps_takes_nothing_new() {
    let open = Some(("r1", RequestState::Open));
    for kind in [HookKind::Complete, HookKind::Shutdown] {
        let incoming = incoming(kind, AckResult::Success);
        let mut hook = hook(open, kind, None);
        hook.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        hook.metadata.finalizers = Some(vec!["somebody/else".into(), HOOK_FINALIZER.into()]);
        assert_eq!(word(&decide(&hook, &incoming, Look::Live)), "Write");
        hook.metadata.finalizers = Some(vec!["somebody/else".into()]);
        assert_eq!(word(&decide(&hook, &incoming, Look::Live)), "Superseded");
        assert_eq!(word(&decide(&hook, &incoming, Look::Cached)), "LookAgain");
    }
}

#[test]
fn another_hook_workload_or_kind_is_superseded() {
    let open = Some(("r1", RequestState::Open));
    let good = incoming(HookKind::Shutdown, AckResult::Success);
    let other_hook = Incoming {
        hook_uid: "other".into(),
        ..good.clone()
    };
    let other_workload = Incoming {
        workload_uid: "other".into(),
        ..good.clone()
    };
    let seen = hook(open, HookKind::Shutdown, None);
    let mut without_kind = seen.clone();
    without_kind.spec.shutdown = None;
    let mut without_status = seen.clone();
    without_status.status = None;
    for (seen, incoming) in [
        (&seen, &other_hook),
        (&seen, &other_workload),
        (&without_kind, &good),
        (&without_status, &good),
    ] {
        assert_eq!(decide(seen, incoming, Look::Live), Verdict::Superseded);
        assert_eq!(decide(seen, incoming, Look::Cached), Verdict::LookAgain);
    }
}

#[test]
fn a_request_of_an_earlier_workload_asks_nobody() {
    let mut seen = hook(Some(("r1", RequestState::Open)), HookKind::Shutdown, None);
    let status = seen.status.as_mut().unwrap();
    status.workload_request_mut().unwrap().workload_uid = "earlier".into();
    let incoming = incoming(HookKind::Shutdown, AckResult::Success);
    assert_eq!(decide(&seen, &incoming, Look::Live), Verdict::NotAsked);
}

#[test]
fn where_pods_are_counted_only_who_is_counted_gets_in() {
    use AckResult::{Failure, Success};
    use HookKind::{Complete, Shutdown};
    for policy in [QuorumPolicy::All, QuorumPolicy::AtLeast, QuorumPolicy::Any] {
        for state in [RequestState::Open, RequestState::Closed] {
            let mut seen = hook(Some(("r1", state)), Shutdown, None);
            let status = seen.status.as_mut().unwrap();
            let request = status.workload_request_mut().unwrap();
            request.pods = vec!["pod-1".into()];
            request.terms.acknowledgements.policy = policy;
            seen.spec.complete.as_mut().unwrap().acknowledgements.policy = policy;
            for (kind, pod, counted) in [
                (Shutdown, Some("pod-1"), "Write"),
                (Shutdown, Some("pod-2"), "NotAsked"),
                (Shutdown, None, "Anonymous"),
                (Complete, Some("pod-2"), "Write"),
                (Complete, None, "Anonymous"),
            ] {
                let expected = match (kind, state, policy) {
                    (Shutdown, RequestState::Closed, _) => "Late",
                    (_, _, QuorumPolicy::Any) => "Write",
                    _ => counted,
                };
                for result in [Success, Failure] {
                    let incoming = Incoming {
                        pod: pod.map(str::to_owned),
                        ..incoming(kind, result)
                    };
                    let row = format!("{policy:?} {state:?} {kind} {pod:?} {result:?}");
                    assert_eq!(
                        word(&decide(&seen, &incoming, Look::Live)),
                        expected,
                        "{row}"
                    );
                    let cached = decide(&seen, &incoming, Look::Cached);
                    assert!(expected == "Write" || cached == Verdict::LookAgain, "{row}");
                }
            }
        }
    }
}

#[test]
fn another_message_is_another_acknowledgement() {
    let kept = Some(stored(Some("r1"), AckResult::Success));
    let open = hook(
        Some(("r1", RequestState::Open)),
        HookKind::Shutdown,
        kept.clone(),
    );
    let closed = hook(Some(("r1", RequestState::Closed)), HookKind::Shutdown, kept);
    let more = Incoming {
        message: Some("saved 3 files".into()),
        ..incoming(HookKind::Shutdown, AckResult::Success)
    };
    assert_eq!(word(&decide(&open, &more, Look::Live)), "Write");
    assert_eq!(word(&decide(&closed, &more, Look::Live)), "Late");
}

#[test]
fn the_last_of_512_keys_is_taken_and_the_next_is_refused() {
    let mut seen = hook(None, HookKind::Complete, None);
    let good = incoming(HookKind::Complete, AckResult::Success);
    for number in 0..MOST_KEYS - 1 {
        let status = seen.status.as_mut().unwrap();
        let filler = stored(None, AckResult::Success);
        status
            .acknowledgements
            .insert(format!("complete.{number}"), filler);
    }
    assert_eq!(word(&decide(&seen, &good, Look::Live)), "Write");
    let status = seen.status.as_mut().unwrap();
    let older = Acknowledgement {
        workload_uid: "earlier".into(),
        ..stored(None, AckResult::Success)
    };
    status
        .acknowledgements
        .insert("shutdown.x".into(), older.clone());
    assert_eq!(decide(&seen, &good, Look::Live), Verdict::Full);
    assert_eq!(decide(&seen, &good, Look::Cached), Verdict::LookAgain);
    // A key that stands there already needs no room.
    let status = seen.status.as_mut().unwrap();
    status.acknowledgements.remove("shutdown.x");
    status
        .acknowledgements
        .insert("complete.pod-1".into(), older);
    assert_eq!(word(&decide(&seen, &good, Look::Live)), "Write");
}

#[test]
fn each_kind_of_write_tests_what_it_was_decided_on() {
    let seen = hook(Some(("r1", RequestState::Open)), HookKind::Shutdown, None);
    let write = |kind, result| match decide(&seen, &incoming(kind, result), Look::Live) {
        Verdict::Write(write) => patch(&write.tests, [&write]),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        write(HookKind::Shutdown, AckResult::Success),
        json!([
            {"op": "test", "path": "/metadata/uid", "value": testing::HOOK_UID},
            {"op": "test", "path": "/metadata/finalizers/0", "value": HOOK_FINALIZER},
            {"op": "test", "path": "/status/requests/r1/state", "value": "Open"},
            {"op": "add", "path": "/status/acknowledgements/shutdown.pod-1", "value": {
                "at": "2023-11-14T22:13:20Z", "request": "r1", "result": "Success",
                "workloadUID": testing::WORKLOAD_UID}},
        ])
    );
    let complete = write(HookKind::Complete, AckResult::Failure);
    assert_eq!(complete[2]["path"], "/status/workload/uid");
    assert_eq!(complete[2]["value"], testing::WORKLOAD_UID);
    assert_eq!(complete[3]["path"], "/metadata/resourceVersion");
    assert_eq!(complete[3]["value"], "1");
    assert_eq!(complete[4]["value"]["action"], "Delete");
    assert_eq!(complete[4]["value"]["policy"], "Any");
    assert_eq!(complete[4]["value"]["result"], "Failure");
}

#[test]
fn whoever_is_not_the_workloads_own_counts_with_no_policy() {
    use HookKind::{Complete, Shutdown};
    use QuorumPolicy::{All, Any, AtLeast};
    let open = Some(("r1", RequestState::Open));
    for (policy, kind, pod, unknown, foreign) in [
        (Any, Complete, Some("pod-1"), "LookAround", "ForeignPod"),
        (All, Complete, Some("pod-1"), "LookAround", "ForeignPod"),
        (AtLeast, Complete, Some("pod-1"), "LookAround", "ForeignPod"),
        (Any, Shutdown, Some("pod-1"), "LookAround", "ForeignPod"),
        (All, Shutdown, Some("pod-1"), "NotAsked", "NotAsked"),
        // Who was asked was seen to be the workload's own.
        (Any, Shutdown, Some("asked"), "Write", "Write"),
        (All, Shutdown, Some("asked"), "Write", "Write"),
        // Nobody in particular.
        (Any, Complete, None, "Write", "Write"),
        (Any, Shutdown, None, "Write", "Write"),
    ] {
        let mut seen = hook(open, kind, None);
        let status = seen.status.as_mut().unwrap();
        let request = status.workload_request_mut().unwrap();
        request.pods = vec!["asked".into()];
        request.terms.acknowledgements.policy = policy;
        seen.spec.complete.as_mut().unwrap().acknowledgements.policy = policy;
        let incoming = Incoming {
            pod: pod.map(str::to_owned),
            ..incoming(kind, AckResult::Success)
        };
        for (speaker, expected) in [(Speaker::Unknown, unknown), (Speaker::Foreign, foreign)] {
            let around = Around {
                speaker,
                runs: Some(true),
            };
            let row = format!("{policy:?} {kind} {pod:?} {speaker:?}");
            let verdict = super::decide(&seen, &incoming, Look::Live, around);
            assert_eq!(word(&verdict), expected, "{row}");
        }
    }
}

#[test]
fn without_our_finalizer_nothing_is_taken_and_with_it_it_is_tested_where_it_stands() {
    let open = Some(("r1", RequestState::Open));
    for kind in [HookKind::Complete, HookKind::Shutdown] {
        let incoming = incoming(kind, AckResult::Success);
        let mut seen = hook(open, kind, None);
        seen.metadata.finalizers = Some(vec!["somebody/else".into(), HOOK_FINALIZER.into()]);
        let Verdict::Write(write) = decide(&seen, &incoming, Look::Cached) else {
            panic!("it is taken");
        };
        let there = Test {
            path: "/metadata/finalizers/1".into(),
            value: HOOK_FINALIZER.into(),
        };
        assert!(write.tests.contains(&there), "{:?}", write.tests);
        seen.metadata.finalizers = None;
        assert_eq!(decide(&seen, &incoming, Look::Live), Verdict::Unkept);
    }
}

#[test]
fn what_is_said_after_a_run_was_scaled_to_zero_is_about_the_next_one_if_there_is_one() {
    let mut seen = hook(
        None,
        HookKind::Complete,
        Some(stored(None, AckResult::Success)),
    );
    let done = Timestamp::from_second(1_800_000_000).unwrap();
    let status = seen.status.as_mut().unwrap();
    status.completion = Some(Completion {
        workload_uid: testing::WORKLOAD_UID.into(),
        template_hash: String::new(),
        at: Time(done),
        action: CompleteAction::ScaleToZero,
        request: None,
        pods: Vec::new(),
    });
    status.stopped = Some(crate::api::status::Stopped {
        workload_uid: testing::WORKLOAD_UID.into(),
        because: crate::api::status::Trigger::Complete,
        replicas: Some(2),
        at: Some(Time(done)),
    });
    let same = incoming(HookKind::Complete, AckResult::Success);
    let when = |speaker, runs| super::decide(&seen, &same, Look::Live, Around { speaker, runs });
    assert_eq!(when(Speaker::Own, None), Verdict::LookAround);
    assert_eq!(word(&when(Speaker::Own, Some(false))), "Replayed");
    let copys = Incoming {
        pod: Some("copy".into()),
        ..same.clone()
    };
    let foreign = Around {
        speaker: Speaker::Foreign,
        runs: Some(false),
    };
    let verdict = super::decide(&seen, &copys, Look::Live, foreign);
    assert_eq!(verdict, Verdict::ForeignPod);
    let Verdict::Write(write) = when(Speaker::Own, Some(true)) else {
        panic!("the next run is complete, too");
    };
    assert!(write.value.at.0 > done, "later than the run before it");
}

#[test]
fn a_key_is_escaped_as_a_pointer_wants_it() {
    let write = Write {
        key: "shutdown.a/b~c".into(),
        value: stored(None, AckResult::Success),
        tests: vec![],
    };
    let patch = patch(&[], [&write]);
    assert_eq!(
        patch[0]["path"],
        "/status/acknowledgements/shutdown.a~1b~0c"
    );
}

fn any_result() -> impl Strategy<Value = AckResult> {
    prop_oneof![Just(AckResult::Success), Just(AckResult::Failure)]
}

proptest! {
    /// Whatever comes in, in whatever order: what is answered as counting stands there, a
    /// Success once stored stays one, and a closed request takes nothing more.
    #[test]
    fn what_counted_stays(
        steps in proptest::collection::vec((any_result(), any::<bool>(), 0..3_u8, 0..8_u8), 1..40)
    ) {
        let mut seen = hook(Some(("r1", RequestState::Open)), HookKind::Shutdown, None);
        for (result, with_message, pod, close) in steps {
            let status = seen.status.as_mut().unwrap();
            if close == 0 {
                status.workload_request_mut().unwrap().state = RequestState::Closed;
            }
            let before = status.acknowledgements.clone();
            let incoming = Incoming {
                pod: Some(format!("pod-{pod}")),
                message: with_message.then(|| "words".to_owned()),
                ..incoming(HookKind::Shutdown, result)
            };
            let key = key(HookKind::Shutdown, incoming.pod.as_deref());
            let verdict = decide(&seen, &incoming, Look::Live);
            if let Verdict::Write(write) = &verdict {
                let mut document = serde_json::to_value(&seen).unwrap();
                let patch: json_patch::Patch =
                    serde_json::from_value(patch(&write.tests, [write])).unwrap();
                json_patch::patch(&mut document, &patch).unwrap();
                seen = serde_json::from_value(document).unwrap();
            }
            let status = seen.status.as_ref().unwrap();
            let now = &status.acknowledgements;
            match verdict {
                Verdict::Write(_) | Verdict::Replayed { .. } => {
                    prop_assert_eq!(now[&key].result, incoming.result);
                    prop_assert_eq!(&now[&key].message, &incoming.message);
                    let again = decide(&seen, &incoming, Look::Live);
                    let is_replay = matches!(again, Verdict::Replayed { .. });
                    prop_assert!(is_replay);
                }
                _ => prop_assert_eq!(now, &before),
            }
            for (key, old) in &before {
                if old.result == AckResult::Success {
                    prop_assert_eq!(now[key].result, AckResult::Success);
                }
            }
            if status.workload_request().unwrap().state == RequestState::Closed {
                prop_assert_eq!(now, &before);
            }
        }
    }
}
