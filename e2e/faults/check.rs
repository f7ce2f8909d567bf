//! What must be so after every run, whatever was done to the operator: read from the API server's
//! audit log and from what the apps were told, never from the operator.
//!
//! | rule | violated by |
//! |---|---|
//! | durable | a 200 whose acknowledgement was not in etcd when it was read |
//! | counts | a 200 whose request was closed as if nobody had acknowledged |
//! | early | an armed workload's pod or ReplicaSet that somebody ended before the request was closed |
//! | grounds | a request closed as acknowledged without an acknowledgement, or as timed out before the process that closed it had given the app all its time |
//! | order | a finalizer taken off before what the guard kept was deleted |

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use krake_hooks::api::condition::{self, ConditionType};
use krake_hooks::api::status::{Outcome, RequestState, ShutdownRequest};
use krake_hooks::api::{DependentKind, HookKind, WorkloadKind};
use krake_hooks::api::{KrakeHook, KrakeHookStatus};

use crate::audit::{Audit, Event};
use crate::client::Said;

/// Times in a status have whole seconds.
const ROUNDING: SignedDuration = SignedDuration::from_secs(1);

/// What is known about a subject beside the audit log.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its namespace.
    pub namespace: String,
    /// Name of hook and workload.
    pub name: String,
    /// Kind of the workload.
    pub kind: WorkloadKind,
    /// When each process of the operator was started.
    pub starts: Vec<Timestamp>,
}

impl Case {
    fn is_workload(&self, event: &Event) -> bool {
        event.resource == self.kind.traits().plural && event.name == self.name
    }
}

/// A hook as it was after a write.
struct Version {
    received: Timestamp,
    done: Timestamp,
    number: u64,
    hook: KrakeHook,
}

/// Everything that was not as it must be.
pub fn violations(audit: &Audit, case: &Case, said: &[Said]) -> Vec<String> {
    let own: Vec<&Event> = audit
        .events
        .iter()
        .filter(|event| event.namespace == case.namespace && is_named(&event.name, &case.name))
        .collect();
    let said: Vec<&Said> = said
        .iter()
        .filter(|said| said.hook == (case.namespace.clone(), case.name.clone()))
        .collect();
    let versions = versions(&own, &case.name);
    let mut found = durable(&own, &versions, &said);
    found.extend(counts(&versions, &said));
    found.extend(early(&own, &versions, case));
    found.extend(grounds(&versions, case));
    found.extend(order(&own, &versions, case));
    for violation in &mut found {
        *violation = format!("{}/{}: {violation}", case.namespace, case.name);
    }
    found
}

/// Its own name, or one that is made of it.
fn is_named(name: &str, subject: &str) -> bool {
    name == subject
        || name
            .strip_prefix(subject)
            .is_some_and(|rest| rest.starts_with('-'))
}

fn versions(own: &[&Event], name: &str) -> Vec<Version> {
    let written = own
        .iter()
        .filter(|event| event.resource == "krakehooks" && event.name == name && event.succeeded());
    let mut versions: Vec<_> = written
        .filter_map(|event| {
            let hook: KrakeHook = serde_json::from_value(event.response.clone()).ok()?;
            Some(Version {
                received: event.received,
                done: event.done,
                number: hook.metadata.resource_version.as_ref()?.parse().ok()?,
                hook,
            })
        })
        .collect();
    versions.sort_by_key(|version| version.number);
    versions
}

impl Version {
    fn status(&self) -> KrakeHookStatus {
        self.hook.status.clone().unwrap_or_default()
    }

    fn request(&self) -> Option<&ShutdownRequest> {
        self.hook.status.as_ref()?.workload_request()
    }

    fn holds(&self, said: &Said) -> bool {
        let key = format!("{}.{}", said.kind, said.pod);
        let Some(stored) = self
            .hook
            .status
            .as_ref()
            .and_then(|s| s.acknowledgements.get(&key))
        else {
            return false;
        };
        match said.kind {
            HookKind::Complete => true,
            HookKind::Shutdown => stored.request.as_deref() == said.body["request"].as_str(),
        }
    }
}

fn durable(own: &[&Event], versions: &[Version], said: &[&Said]) -> Vec<String> {
    let is_written = |said: &Said| {
        let read = said.answered.unwrap_or(said.sent);
        let holding = versions.iter().find(|version| version.holds(said));
        holding.is_some_and(|version| version.done <= read || is_unknown(own, said, read))
    };
    said.iter()
        .filter(|said| said.counts() && !is_written(said))
        .map(|said| {
            format!(
                "durable: {} of pod {} was answered 200 at {:?}, and is not in etcd",
                said.kind, said.pod, said.answered
            )
        })
        .collect()
}

/// Whether a write of it had come by then whose outcome the API server does not know itself: the
/// connection ended under it. What stands in the hook later tells.
fn is_unknown(own: &[&Event], said: &Said, by: Timestamp) -> bool {
    let key = format!("/status/acknowledgements/{}.{}", said.kind, said.pod);
    own.iter().any(|event| {
        let sent = event.request.as_array().into_iter().flatten();
        let mut paths = sent.filter_map(|operation| operation["path"].as_str());
        event.code >= 500 && event.received <= by && paths.any(|path| path == key)
    })
}

fn counts(versions: &[Version], said: &[&Said]) -> Vec<String> {
    let mut found = Vec::new();
    let Some(last) = versions.last().map(Version::status) else {
        return found;
    };
    for said in said.iter().filter(|said| said.counts()) {
        if said.kind == HookKind::Complete {
            continue;
        }
        let id = said.body["request"].as_str().unwrap_or_default();
        let request = last.requests.get(id);
        let outcome = request.and_then(|request| request.outcome);
        if matches!(outcome, Some(Outcome::TimedOut | Outcome::NothingRunning)) {
            found.push(format!(
                "counts: pod {} was answered 200 at {:?}, and the request ended {outcome:?}",
                said.pod, said.answered
            ));
        }
    }
    found
}

/// Who has asked for the workload's end, if it was armed then.
fn armed_when_deleted<'a>(
    own: &[&'a Event],
    versions: &[Version],
    case: &Case,
) -> Option<&'a Event> {
    let deleted = own
        .iter()
        .find(|event| event.verb == "delete" && case.is_workload(event) && event.succeeded())?;
    let before = versions
        .iter()
        .rfind(|version| version.done <= deleted.received)?;
    let armed = condition::is_true(&before.status().conditions, ConditionType::Armed);
    armed.then_some(*deleted)
}

fn early(own: &[&Event], versions: &[Version], case: &Case) -> Vec<String> {
    let Some(deleted) = armed_when_deleted(own, versions, case) else {
        return Vec::new();
    };
    let closed = closed(own, versions).map(|(_, at)| at);
    own.iter()
        .filter(|event| event.verb.starts_with("delete") && event.succeeded())
        .filter(|event| matches!(event.resource.as_str(), "pods" | "replicasets"))
        .filter(|event| event.subresource.is_empty() && event.received >= deleted.received)
        .filter(|event| !case.is_workload(event))
        .filter(|event| event.resource == "pods" || has_pods(own, &event.name, deleted.received))
        .filter(|event| closed.is_none_or(|closed| event.received < closed))
        .map(|event| {
            format!(
                "early: {} deleted {} {} at {}; the deletion was received at {}, the request closed at {closed:?}",
                event.user, event.resource, event.name, event.received, deleted.received
            )
        })
        .collect()
}

/// The first version with a closed request, and when it was closed: by the write that was answered
/// so, or before it by one whose outcome the API server does not know itself, because its caller was
/// killed meanwhile. That one was carried out if nobody could write on top of what it was for.
fn closed<'a>(own: &[&Event], versions: &'a [Version]) -> Option<(&'a Version, Timestamp)> {
    let is_closed = |request: &ShutdownRequest| request.state == RequestState::Closed;
    let closed = versions
        .iter()
        .find(|v| v.request().is_some_and(is_closed))?;
    let request = closed.request()?;
    let base = |event: &Event| event.request.pointer("/metadata/resourceVersion").cloned();
    let written = |event: &&&Event| event.resource == "krakehooks" && event.by_operator();
    let carried_out = |event: &&&Event| {
        let mut others = own.iter().filter(written).filter(|other| other.succeeded());
        base(event).is_some() && others.all(|other| base(other) != base(event))
    };
    let closes = |event: &&&Event| {
        let path = format!("/status/requests/{}", request.id);
        let sent = event.request.pointer(&path).cloned();
        let sent = sent.and_then(|sent| serde_json::from_value::<ShutdownRequest>(sent).ok());
        sent.is_some_and(|sent| is_closed(&sent) && sent.outcome == request.outcome)
    };
    let unknown = own.iter().filter(written).filter(|event| event.code >= 500);
    let unknown = unknown.filter(closes).filter(carried_out);
    let at = unknown.map(|event| event.received).min();
    Some((
        closed,
        at.map_or(closed.received, |at| at.min(closed.received)),
    ))
}

/// Whether a ReplicaSet has pods at that time: one from before the injection has none, and may go.
fn has_pods(own: &[&Event], set: &str, at: Timestamp) -> bool {
    let pods: BTreeSet<&str> = own
        .iter()
        .filter(|event| event.resource == "pods" && is_named(&event.name, set))
        .map(|event| event.name.as_str())
        .collect();
    let ended = |pod: &str| {
        own.iter().any(|event| {
            event.resource == "pods"
                && event.name == pod
                && event.verb == "delete"
                && event.succeeded()
                && event.received < at
        })
    };
    pods.iter().any(|pod| !ended(pod))
}

fn grounds(versions: &[Version], case: &Case) -> Vec<String> {
    let mut found = Vec::new();
    let mut judged = BTreeSet::new();
    for version in versions {
        let Some(request) = version
            .request()
            .filter(|request| request.state == RequestState::Closed)
        else {
            continue;
        };
        if !judged.insert(request.id.clone()) {
            continue;
        }
        match request.outcome {
            Some(Outcome::Acknowledged) => {
                let acknowledged = version
                    .status()
                    .acknowledgements
                    .iter()
                    .any(|(key, stored)| {
                        key.starts_with("shutdown.")
                            && stored.request.as_deref() == Some(&request.id)
                    });
                if !acknowledged {
                    found.push("grounds: closed as acknowledged, and nobody has".to_owned());
                }
            }
            Some(Outcome::TimedOut) => found.extend(timed_out(versions, version, request, case)),
            None => found.push("grounds: closed without an outcome".to_owned()),
            _ => {}
        }
    }
    found
}

/// The time counts from when the process that closes it took the request over, and it is its own.
fn timed_out(
    versions: &[Version],
    closing: &Version,
    request: &ShutdownRequest,
    case: &Case,
) -> Option<String> {
    let first = versions.iter().find(|version| {
        version.request().is_some_and(|r| {
            r.id == request.id && r.leader == request.leader && r.round == request.round
        })
    });
    let taken = first.map_or(closing.received, |version| version.received);
    let timeout = SignedDuration::from_secs(request.terms.timeout_seconds);
    let passed = closing.received.duration_since(taken);
    if passed < timeout - ROUNDING {
        return Some(format!(
            "grounds: timed out {:.1} s after {} took the request, of {} s",
            passed.as_secs_f64(),
            request.leader,
            request.terms.timeout_seconds
        ));
    }
    let started = case
        .starts
        .iter()
        .rfind(|start| **start <= closing.received)?;
    (taken < *started).then(|| {
        format!(
            "grounds: timed out at {} by the deadline of a process that was gone since {started}",
            closing.received
        )
    })
}

fn order(own: &[&Event], versions: &[Version], case: &Case) -> Vec<String> {
    let Some(deleted) = armed_when_deleted(own, versions, case) else {
        return Vec::new();
    };
    let closed = closed(own, versions);
    let by_operator = |verb: &str, resource: &str| {
        own.iter()
            .find(|event| {
                event.by_operator()
                    // Who does not know may have done it: the connection ended under it.
                    && (event.succeeded() || (verb == "delete" && event.code >= 500))
                    && event.verb == verb
                    && event.resource == resource
                    && event.received >= deleted.received
            })
            .map(|event| event.received)
    };
    // During a removal the only thing that is patched in a workload is its finalizer.
    let Some(released) = by_operator("patch", case.kind.traits().plural) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    match closed {
        None => found
            .push("order: the finalizer was taken off, and the request never closed".to_owned()),
        Some((_, at)) if at > released => {
            found.push(
                "order: the finalizer was taken off before the request was closed".to_owned(),
            );
        }
        Some((closed, _)) => {
            let kept =
                closed.request().and_then(|request| request.outcome) != Some(Outcome::Orphaned);
            let ended = by_operator(
                "delete",
                match case.kind.traits().guarded {
                    Some(DependentKind::ReplicaSet) => "replicasets",
                    _ => "pods",
                },
            );
            if kept && ended.is_none_or(|ended| ended > released) {
                found.push(
                    "order: the finalizer was taken off before what the guard kept was deleted"
                        .to_owned(),
                );
            }
        }
    }
    found
}
