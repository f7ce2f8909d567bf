//! Whether an acknowledgement counts, and by which write.
//!
//! | kind | what the hook says | verdict |
//! |---|---|---|
//! | any | another hook or workload than the token was made for, or the kind is not enabled | `Superseded` |
//! | shutdown | no request for this workload | `NotAsked` |
//! | any | the same stands there for this request (complete: this workload), open or closed | `Replayed` |
//! | shutdown | the request is closed | `Late` |
//! | any | pods are counted (`All`, `AtLeast`), and this one does not say which it is | `Anonymous` |
//! | shutdown | pods are counted, and this one is not among those that were asked | `NotAsked` |
//! | any | a Success stands there, and this is a Failure | `AlreadyAcknowledged` |
//! | any | 512 others stand there | `Full` |
//! | any | this is a Failure | `Write`, only while nothing at all changes |
//! | any | | `Write`, only while the request is open (complete: the workload is the same) |
//!
//! What a cache says may be old by the time it takes to call an app and to be answered. So all but
//! a Success that is written is [`Verdict::LookAgain`] from a cached hook: a write tests what it
//! was decided on, a refusal (and a replay, which promises that something counts) cannot.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::api::krake_hook::QuorumPolicy;
use crate::api::status::{AckResult, Acknowledgement, RequestState, ShutdownRequest};
use crate::api::{HookKind, KrakeHook};

/// How many keys `status.acknowledgements` may have.
pub const MOST_KEYS: usize = 512;

/// The pod's part of the key when the URL did not name one.
const ANONYMOUS: &str = "anonymous";

/// One acknowledgement on its way in, from a caller whose token was right.
#[derive(Clone, Debug, PartialEq)]
pub struct Incoming {
    /// What is acknowledged.
    pub kind: HookKind,
    /// Uid of the hook that the token was verified for.
    pub hook_uid: String,
    /// Uid of the workload that the token was verified for.
    pub workload_uid: String,
    /// Uid of the pod, when the URL names one.
    pub pod: Option<String>,
    /// What the app says of its work.
    pub result: AckResult,
    /// What the app says in words.
    pub message: Option<String>,
    /// Serial number of the client certificate.
    pub certificate: Option<String>,
    /// When it came in.
    pub at: Timestamp,
}

/// How a hook was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// In a cache, which may be old.
    Cached,
    /// On the server, after the acknowledgement had come in.
    Live,
}

/// What becomes of an acknowledgement.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It counts once this is written.
    Write(Write),
    /// It is stored already.
    Replayed {
        /// The request it answered; shutdown only.
        request: Option<String>,
    },
    /// Nobody has asked for a shutdown.
    NotAsked,
    /// The request is closed.
    Late,
    /// Pods are counted, and this acknowledgement does not say whose it is.
    Anonymous,
    /// A Success of this pod counted already; this Failure cannot take it back.
    AlreadyAcknowledged,
    /// The hook has as many acknowledgements as it can hold.
    Full,
    /// The hook is no longer the one the token was verified for.
    Superseded,
    /// The hook has to be read from the server first.
    LookAgain,
}

/// One guarded write.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// Key in `status.acknowledgements`.
    pub key: String,
    /// What is written under it.
    pub value: Acknowledgement,
    /// What must still be so when it is written.
    pub tests: Vec<Test>,
}

/// Something that must still be so for a write to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// Where, as a JSON pointer.
    pub path: &'static str,
    /// What must stand there.
    pub value: String,
}

/// Decides on one acknowledgement.
pub fn decide(hook: &KrakeHook, incoming: &Incoming, look: Look) -> Verdict {
    let verdict = judge(hook, incoming);
    let survives_an_old_look = match &verdict {
        Verdict::Write(write) => write.value.result == AckResult::Success,
        _ => false,
    };
    if look == Look::Cached && !survives_an_old_look {
        return Verdict::LookAgain;
    }
    verdict
}

/// The JSON patch of a group of writes that share their tests.
pub fn patch<'a>(tests: &[Test], writes: impl IntoIterator<Item = &'a Write>) -> Value {
    let tests = tests
        .iter()
        .map(|test| json!({"op": "test", "path": test.path, "value": test.value}));
    let additions = writes.into_iter().map(|write| {
        let key = write.key.replace('~', "~0").replace('/', "~1");
        let path = format!("/status/acknowledgements/{key}");
        json!({"op": "add", "path": path, "value": write.value})
    });
    tests.chain(additions).collect()
}

/// The key of a pod's acknowledgement.
pub fn key(kind: HookKind, pod: Option<&str>) -> String {
    format!("{kind}.{}", pod.unwrap_or(ANONYMOUS))
}

fn judge(hook: &KrakeHook, incoming: &Incoming) -> Verdict {
    let uid = hook.metadata.uid.as_deref();
    let status = hook.status.as_ref();
    let workload = status.and_then(|status| status.workload.as_ref());
    let (Some(uid), Some(status), Some(workload)) = (uid, status, workload) else {
        return Verdict::Superseded;
    };
    if uid != incoming.hook_uid
        || workload.uid != incoming.workload_uid
        || !hook.spec.enables(incoming.kind)
    {
        return Verdict::Superseded;
    }
    let request = match incoming.kind {
        HookKind::Complete => None,
        HookKind::Shutdown => match &status.request {
            Some(request) if request.workload_uid == workload.uid => Some(request),
            _ => return Verdict::NotAsked,
        },
    };
    let key = key(incoming.kind, incoming.pod.as_deref());
    let stored = status
        .acknowledgements
        .get(&key)
        .filter(|stored| answers(stored, request, &workload.uid));
    if stored.is_some_and(|stored| says_the_same(stored, incoming)) {
        let request = request.map(|request| request.id.clone());
        return Verdict::Replayed { request };
    }
    if request.is_some_and(|request| request.state == RequestState::Closed) {
        return Verdict::Late;
    }
    if let Some(verdict) = uncounted(hook, request, incoming) {
        return verdict;
    }
    let counted = stored.is_some_and(|stored| stored.result == AckResult::Success);
    if counted && incoming.result == AckResult::Failure {
        return Verdict::AlreadyAcknowledged;
    }
    if !status.acknowledgements.contains_key(&key) && status.acknowledgements.len() >= MOST_KEYS {
        return Verdict::Full;
    }
    Verdict::Write(Write {
        key,
        value: acknowledgement(hook, request, incoming),
        tests: tests(hook, request, incoming),
    })
}

/// Where pods are counted, 200 would be a lie to whoever is not.
fn uncounted(
    hook: &KrakeHook,
    request: Option<&ShutdownRequest>,
    incoming: &Incoming,
) -> Option<Verdict> {
    let policy = match request {
        Some(request) => request.terms.acknowledgements.policy,
        None => hook.spec.complete.as_ref()?.acknowledgements.policy,
    };
    if policy == QuorumPolicy::Any {
        return None;
    }
    let Some(pod) = &incoming.pod else {
        return Some(Verdict::Anonymous);
    };
    let asked = request.is_none_or(|request| request.pods.contains(pod));
    (!asked).then_some(Verdict::NotAsked)
}

fn answers(
    stored: &Acknowledgement,
    request: Option<&ShutdownRequest>,
    workload_uid: &str,
) -> bool {
    stored.workload_uid == workload_uid
        && stored.request.as_deref() == request.map(|request| request.id.as_str())
}

fn says_the_same(stored: &Acknowledgement, incoming: &Incoming) -> bool {
    stored.result == incoming.result && stored.message == incoming.message
}

fn acknowledgement(
    hook: &KrakeHook,
    request: Option<&ShutdownRequest>,
    incoming: &Incoming,
) -> Acknowledgement {
    let complete = match incoming.kind {
        HookKind::Complete => hook.spec.complete.as_ref(),
        HookKind::Shutdown => None,
    };
    Acknowledgement {
        at: Time(whole_seconds(incoming.at)),
        request: request.map(|request| request.id.clone()),
        workload_uid: incoming.workload_uid.clone(),
        action: complete.map(|complete| complete.action),
        policy: complete.map(|complete| complete.acknowledgements.policy),
        result: incoming.result,
        message: incoming.message.clone(),
        certificate: incoming.certificate.clone(),
    }
}

/// The API keeps whole seconds; what is compared with what was read back must have no more.
fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn tests(hook: &KrakeHook, request: Option<&ShutdownRequest>, incoming: &Incoming) -> Vec<Test> {
    let test = |path, value: &str| Test {
        path,
        value: value.to_owned(),
    };
    let mut tests = vec![test("/metadata/uid", &incoming.hook_uid)];
    match request {
        Some(request) => {
            tests.push(test("/status/request/id", &request.id));
            tests.push(test("/status/request/state", "Open"));
        }
        None => tests.push(test("/status/workload/uid", &incoming.workload_uid)),
    }
    // A Success that came in after the look must not be overwritten, and JSON patch has no way to
    // say "unless it stands there".
    if incoming.result == AckResult::Failure {
        let version = hook.metadata.resource_version.as_deref();
        tests.push(test(
            "/metadata/resourceVersion",
            version.unwrap_or_default(),
        ));
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use proptest::prelude::*;

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
        status.request = request.map(|(id, state)| testing::request(id, state));
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
            Verdict::LookAgain => "LookAgain",
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
        status.request.as_mut().unwrap().workload_uid = "earlier".into();
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
                let request = seen.status.as_mut().unwrap().request.as_mut().unwrap();
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
                {"op": "test", "path": "/status/request/id", "value": "r1"},
                {"op": "test", "path": "/status/request/state", "value": "Open"},
                {"op": "add", "path": "/status/acknowledgements/shutdown.pod-1", "value": {
                    "at": "2023-11-14T22:13:20Z", "request": "r1", "result": "Success",
                    "workloadUID": testing::WORKLOAD_UID}},
            ])
        );
        let complete = write(HookKind::Complete, AckResult::Failure);
        assert_eq!(complete[1]["path"], "/status/workload/uid");
        assert_eq!(complete[1]["value"], testing::WORKLOAD_UID);
        assert_eq!(complete[2]["path"], "/metadata/resourceVersion");
        assert_eq!(complete[2]["value"], "1");
        assert_eq!(complete[3]["value"]["action"], "Delete");
        assert_eq!(complete[3]["value"]["policy"], "Any");
        assert_eq!(complete[3]["value"]["result"], "Failure");
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
                    status.request.as_mut().unwrap().state = RequestState::Closed;
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
                if status.request.as_ref().unwrap().state == RequestState::Closed {
                    prop_assert_eq!(now, &before);
                }
            }
        }
    }
}
