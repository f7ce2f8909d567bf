//! Why injected pods are not created, do not start, or do not become ready: in the words of the
//! component that reports it, and with the way back.
//!
//! | who says so | | reason |
//! |---|---|---|
//! | a container's `env` | its URL stands before what it is made of | `EnvOrder` |
//! | the workload's condition `ReplicaFailure` | a quota, a policy, a webhook refuses its pods | `PodsNotCreated` |
//! | a container's state | its runtime, its image; it ends again and again | `PodsNotStarting` |
//! | a pod's condition `PodScheduled` | no node takes it | `PodsNotStarting` |
//! | nobody, for [`PATIENCE`] | its containers are not created | `PodsNotStarting` |
//! | a pod's condition `Ready`, for [`PATIENCE`] | its containers run | `PodsNotReady` |
//! | the workload's condition `Progressing` | its time is up | `RolloutStuck` |
//! | nobody, for [`PATIENCE`] | a StatefulSet or DaemonSet has too few pods | `PodsNotCreated` |
//!
//! Of a container that ended by itself no word is repeated: they may be its log's.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};

use super::inject::{self, Injection};
use super::pods;
use super::seen::Seen;
use super::workload::Workload;
use crate::api::condition::{self, ConditionType, Reason};
use crate::api::names;

/// How long something may take that says nothing of itself.
pub const PATIENCE: SignedDuration = SignedDuration::from_secs(60);

/// What keeps pods from having what is injected.
#[derive(Clone, Debug, PartialEq)]
pub struct Trouble {
    /// Reason of the condition.
    pub reason: Reason,
    /// Who says what, and the way back.
    pub message: String,
    /// How much it means.
    pub weight: Weight,
}

/// What trouble means for what is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Pods have what they are given, and are in trouble all the same.
    Given,
    /// A container's runtime could not start it: what it lacks may be ours.
    AtStart,
    /// A container runs, and does not see what it was given.
    Unseen,
}

/// What is found at a moment, and when something that is given time is due.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The worst of it.
    pub trouble: Option<Trouble>,
    /// Look again then.
    pub due: Option<Timestamp>,
}

/// What a pod, or its controller, says.
struct Sign {
    reason: Reason,
    words: String,
    weight: Weight,
    /// It counts from then on.
    since: Option<Timestamp>,
}

impl Sign {
    fn new(reason: Reason, words: String) -> Self {
        Self {
            reason,
            words,
            weight: Weight::Given,
            since: None,
        }
    }

    fn from(mut self, since: Option<Timestamp>) -> Self {
        self.since = since;
        self
    }
}

/// Looks at the workload and its pods that have this injection.
pub fn look(seen: &Seen, workload: &Workload, injection: &Injection, now: Timestamp) -> Found {
    let refused = workload.complaints.not_created.iter().cloned();
    let refused = refused.map(|words| Sign::new(Reason::PodsNotCreated, words));
    let mut pods: Vec<&Pod> = seen.pods.iter().collect();
    pods.retain(|pod| {
        inject::carries_stamp(&pod.metadata, &injection.stamp)
            && pod.metadata.deletion_timestamp.is_none()
            && !pods::is_finished(pod)
    });
    pods.sort_by_key(|pod| &pod.metadata.name);
    let unseen = pods.iter().filter_map(|pod| {
        let words = injection.unexpanded(pod)?;
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let words = format!("pod {name}, {words}. Pods of the present template see it, unless something changes them when they are made");
        let weight = Weight::Unseen;
        Some(Sign { weight, ..Sign::new(Reason::EnvOrder, words) })
    });
    let mut signs: Vec<Sign> = unseen.chain(refused).collect();
    signs.extend(pods.iter().filter_map(|pod| of_pod(pod)));
    let stuck = workload.complaints.stuck.iter().cloned();
    signs.extend(stuck.map(|words| Sign::new(Reason::RolloutStuck, words)));
    signs.extend(too_few(seen, workload));
    let waits = |sign: &Sign| sign.since.filter(|since| now < *since);
    Found {
        due: signs.iter().filter_map(waits).min(),
        trouble: signs
            .into_iter()
            .find(|sign| waits(sign).is_none())
            .map(|sign| sign.told(seen, workload)),
    }
}

impl Sign {
    fn told(self, seen: &Seen, workload: &Workload) -> Trouble {
        let kind = workload.kind.to_string().to_lowercase();
        Trouble {
            reason: self.reason,
            message: format!(
                "{}. To go back: kubectl -n {} annotate {kind} {} {}={}",
                self.words.trim_end_matches('.'),
                seen.namespace(),
                workload.name(),
                names::HOOK_ANNOTATION,
                names::DISABLED
            ),
            weight: self.weight,
        }
    }
}

fn of_pod(pod: &Pod) -> Option<Sign> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = pod.status.as_ref()?;
    let condition = |kind: &str| {
        let mut all = status.conditions.iter().flatten();
        all.find(|condition| condition.type_ == kind && condition.status == "False")
    };
    let begun = status.start_time.as_ref().map(|at| at.0 + PATIENCE);
    let created = pod.metadata.creation_timestamp.as_ref();
    let created = created.map(|at| at.0 + PATIENCE);
    let containers = || {
        let init = status.init_container_statuses.iter().flatten();
        init.chain(status.container_statuses.iter().flatten())
    };
    if let Some(mut sign) = containers().find_map(of_container) {
        sign.words = format!("pod {name}, {}", sign.words);
        return Some(sign);
    }
    if let Some(scheduled) = condition("PodScheduled") {
        let words = scheduled.message.clone().unwrap_or_default();
        let words = format!("pod {name} is not scheduled: {words}");
        return Some(Sign::new(Reason::PodsNotStarting, words).from(created));
    }
    let ready = condition("Ready")?;
    let waits = |c: &ContainerStatus| c.state.as_ref().is_some_and(|s| s.waiting.is_some());
    if containers().any(waits) {
        let words = format!(
            "pod {name} has containers that are not created: `kubectl describe pod {name}` tells which volume or image is missing"
        );
        return Some(Sign::new(Reason::PodsNotStarting, words).from(begun));
    }
    let words = ready.message.clone().unwrap_or_default();
    let words = format!("pod {name} is not ready: {words}");
    Some(Sign::new(Reason::PodsNotReady, words).from(begun))
}

fn of_container(container: &ContainerStatus) -> Option<Sign> {
    let name = &container.name;
    let state = container.state.as_ref()?;
    let last = container.last_state.as_ref();
    let last = last.and_then(|last| last.terminated.as_ref());
    let runtime = |ended: &ContainerStateTerminated| {
        let reason = ended.reason.as_deref().unwrap_or_default();
        // The runtime's own words; a container's would be its log.
        let its_own = matches!(reason, "StartError" | "ContainerCannotRun");
        let words = ended.message.clone().unwrap_or_default();
        its_own.then(|| format!("container {name}: {reason}: {words}"))
    };
    let at_start = |words| Sign {
        weight: Weight::AtStart,
        ..Sign::new(Reason::PodsNotStarting, words)
    };
    if let Some(ended) = &state.terminated {
        return runtime(ended).map(at_start);
    }
    let waiting = state.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().unwrap_or_default();
    let words = waiting.message.clone().unwrap_or_default();
    match (reason, last) {
        ("" | "ContainerCreating" | "PodInitializing", _) => None,
        ("CrashLoopBackOff", Some(ended)) => Some(match runtime(ended) {
            Some(words) => at_start(words),
            None => {
                let why = ended.reason.as_deref().unwrap_or("Error");
                let words = format!(
                    "container {name} ends again and again: {why}, exit code {}",
                    ended.exit_code
                );
                Sign::new(Reason::PodsNotStarting, words)
            }
        }),
        (reason, _) => {
            let words = format!("container {name}: {reason}: {words}");
            Some(match reason {
                "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                    at_start(words)
                }
                _ => Sign::new(Reason::PodsNotStarting, words),
            })
        }
    }
}

/// Some controllers tell only by Events that they cannot make a pod.
fn too_few(seen: &Seen, workload: &Workload) -> Option<Sign> {
    let pods = &workload.pods;
    let lacks = workload.is_observed() && pods.current < pods.desired;
    let status = seen.hook.status.as_ref().filter(|_| lacks)?;
    let told = condition::find(&status.conditions, ConditionType::Injected)?;
    let since = told.last_transition_time.0 + PATIENCE;
    let words = format!(
        "{workload} has {} of {} pods: `kubectl -n {} describe {} {}` tells why",
        pods.current,
        pods.desired,
        seen.namespace(),
        workload.kind.to_string().to_lowercase(),
        workload.name()
    );
    let told = told.status == "False";
    told.then(|| Sign::new(Reason::PodsNotCreated, words).from(Some(since)))
}
