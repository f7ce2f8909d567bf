//! Whether an acknowledgement counts, and by which write.
//!
//! | kind | what the hook says | verdict |
//! |---|---|---|
//! | any | another hook or workload than the token was made for, or the kind is not enabled | `Superseded` |
//! | shutdown | no request for this workload | `NotAsked` |
//! | any | the same stands there for this request (complete: this workload), open or closed | `Replayed` |
//! | any | the hook is going and nothing of ours keeps it: nobody would act on it | `Superseded` |
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
use crate::decide::seen::is_let_go;

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
    if is_let_go(&hook.metadata) {
        return Verdict::Superseded;
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
#[path = "ack_tests.rs"]
mod tests;
