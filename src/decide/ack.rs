//! Whether an acknowledgement counts, and by which write.
//!
//! | kind | what the hook says | verdict |
//! |---|---|---|
//! | any | another hook or workload than the token was made for, or the kind is not enabled | `Superseded` |
//! | shutdown | no request for this workload | `NotAsked` |
//! | any | the same stands there for this request (complete: this workload), open or closed | `Replayed` |
//! | complete | this run has been scaled to zero because it is complete, and is at zero still | `Replayed` |
//! | any | the hook is terminating without our finalizer: nothing would act on it | `Superseded` |
//! | any | our finalizer is not on the hook yet | `Unkept` |
//! | shutdown | the request is closed | `Late` |
//! | any | pods are counted (`All`, `AtLeast`), and this one does not say which it is | `Anonymous` |
//! | shutdown | pods are counted, and this one is not among those that were asked | `NotAsked` |
//! | any | the URL names a pod that is not the workload's | `ForeignPod` |
//! | any | a Success stands there, and this is a Failure | `AlreadyAcknowledged` |
//! | any | 512 others stand there | `Full` |
//! | any | this is a Failure | `Write`, only while nothing at all changes |
//! | any | | `Write`, only while the request is open (complete: the workload is the same) |
//!
//! A cache may be behind by as long as it takes to call an app and to be answered. A write is safe
//! all the same, because it tests what it was decided on. A refusal cannot, and neither can a
//! replay, which promises that something counts: decided from a cached hook, both become
//! [`Verdict::LookAgain`]. Likewise a pod that the caches do not know as one of the workload's
//! becomes [`Verdict::LookAround`].
//!
//! An acknowledgement that is not refused here counts; the quorum does not check it again. All pods
//! of a workload share one token, so a caller can leave the uid out of the URL, or use a sibling's:
//! that cannot be detected.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::api::krake_hook::{CompleteAction, QuorumPolicy};
use crate::api::status::{
    AckResult, Acknowledgement, Completion, KrakeHookStatus, RequestState, ShutdownRequest,
};
use crate::api::{HookKind, KrakeHook, names};
use crate::decide::seen::is_released;

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
    /// What the app reports.
    pub result: AckResult,
    /// The app's message.
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

/// What is known of the pod that speaks, and of its workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Around {
    /// Whose the pod is that the URL names.
    pub speaker: Speaker,
    /// Whether the workload is to run, or is at zero; from a live look.
    pub runs: Option<bool>,
}

/// Whose the pod is that the URL names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speaker {
    /// That has to be looked up.
    #[default]
    Unknown,
    /// The workload's own.
    Own,
    /// Another workload's, or nobody's; from a live look.
    Foreign,
}

impl Around {
    /// A pod of the workload's own speaks, and the workload runs.
    pub const OWN: Self = Self {
        speaker: Speaker::Own,
        runs: Some(true),
    };
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
    /// The pod that the URL names is not the workload's.
    ForeignPod,
    /// Our finalizer is not on the hook: it could be deleted before the acknowledgement is acted
    /// on.
    Unkept,
    /// The hook has to be read from the server first.
    LookAgain,
    /// The workload and its pods have to be read from the server first.
    LookAround,
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
    pub path: Cow<'static, str>,
    /// What must stand there.
    pub value: String,
}

/// Decides on one acknowledgement.
pub fn decide(hook: &KrakeHook, incoming: &Incoming, look: Look, around: Around) -> Verdict {
    let verdict = judge(hook, incoming, around);
    let survives_an_old_look = match &verdict {
        Verdict::Write(write) => write.value.result == AckResult::Success,
        Verdict::LookAround => true,
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

fn judge(hook: &KrakeHook, incoming: &Incoming, around: Around) -> Verdict {
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
        HookKind::Shutdown => match status.workload_request() {
            Some(request) if request.workload_uid == workload.uid => Some(request),
            _ => return Verdict::NotAsked,
        },
    };
    let key = key(incoming.kind, incoming.pod.as_deref());
    let stored = status
        .acknowledgements
        .get(&key)
        .filter(|stored| answers(stored, request, &workload.uid));
    let done = finished_run(status, &workload.uid).filter(|_| incoming.kind == HookKind::Complete);
    let about_this_run = done.is_none() || incoming.result == AckResult::Failure;
    if about_this_run && stored.is_some_and(|stored| says_the_same(stored, incoming)) {
        let request = request.map(|request| request.id.clone());
        return Verdict::Replayed { request };
    }
    // One whose word stands there was seen to be the workload's own; it may be gone by now.
    let speaker = match stored {
        Some(_) => Speaker::Own,
        None => around.speaker,
    };
    if !about_this_run && uncounted(hook, request, incoming, speaker).is_none() {
        match around.runs {
            None => return Verdict::LookAround,
            Some(false) => return Verdict::Replayed { request: None },
            // Scaled up again: it is the next run that says so.
            Some(true) => {}
        }
    }
    if is_released(&hook.metadata) {
        return Verdict::Superseded;
    }
    let Some(finalizer) = position_of_ours(hook) else {
        return Verdict::Unkept;
    };
    if request.is_some_and(|request| request.state == RequestState::Closed) {
        return Verdict::Late;
    }
    if let Some(verdict) = uncounted(hook, request, incoming, speaker) {
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
        value: acknowledgement(hook, request, incoming, done),
        tests: tests(hook, request, incoming, finalizer),
    })
}

/// The completion that has led the workload to zero, if one has: the next run may say the same again,
/// and that is another completion.
fn finished_run<'a>(status: &'a KrakeHookStatus, workload_uid: &str) -> Option<&'a Completion> {
    let done = status.completion.as_ref()?;
    let stopped = status.stopped.as_ref()?;
    let led_to_zero = done.action == CompleteAction::ScaleToZero
        && done.workload_uid == workload_uid
        && stopped.workload_uid == workload_uid
        && stopped.at.is_some();
    led_to_zero.then_some(done)
}

fn position_of_ours(hook: &KrakeHook) -> Option<usize> {
    let mut finalizers = hook.metadata.finalizers.iter().flatten();
    finalizers.position(|finalizer| finalizer == names::HOOK_FINALIZER)
}

/// An acknowledgement that is not counted must not be answered 200.
fn uncounted(
    hook: &KrakeHook,
    request: Option<&ShutdownRequest>,
    incoming: &Incoming,
    speaker: Speaker,
) -> Option<Verdict> {
    let policy = match request {
        Some(request) => request.terms.acknowledgements.policy,
        None => hook.spec.complete.as_ref()?.acknowledgements.policy,
    };
    let counts_pods = policy != QuorumPolicy::Any;
    let Some(pod) = &incoming.pod else {
        return counts_pods.then_some(Verdict::Anonymous);
    };
    match (request, speaker) {
        // Whoever was asked has been seen to be the workload's own.
        (Some(request), _) if request.pods.contains(pod) => None,
        (Some(_), _) if counts_pods => Some(Verdict::NotAsked),
        (_, Speaker::Own) => None,
        (_, Speaker::Unknown) => Some(Verdict::LookAround),
        (_, Speaker::Foreign) => Some(Verdict::ForeignPod),
    }
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
    done: Option<&Completion>,
) -> Acknowledgement {
    // What is said of another run than the one that has ended is later, whatever two clocks say.
    let after = done.map(|done| done.at.0 + SignedDuration::from_secs(1));
    let at = after.map_or(incoming.at, |after| after.max(incoming.at));
    let complete = match incoming.kind {
        HookKind::Complete => hook.spec.complete.as_ref(),
        HookKind::Shutdown => None,
    };
    Acknowledgement {
        at: Time(whole_seconds(at)),
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

fn tests(
    hook: &KrakeHook,
    request: Option<&ShutdownRequest>,
    incoming: &Incoming,
    finalizer: usize,
) -> Vec<Test> {
    let test = |path: &'static str, value: &str| Test {
        path: path.into(),
        value: value.to_owned(),
    };
    let mut tests = vec![test("/metadata/uid", &incoming.hook_uid)];
    // Without it the hook may go before anybody has acted on what it has taken.
    tests.push(Test {
        path: format!("/metadata/finalizers/{finalizer}").into(),
        value: names::HOOK_FINALIZER.to_owned(),
    });
    match request {
        Some(request) => {
            tests.push(Test {
                path: format!("/status/requests/{}/state", request.id).into(),
                value: "Open".to_owned(),
            });
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
#[path = "ack_tests.rs"]
mod tests;
