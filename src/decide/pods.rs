//! Which pods could acknowledge, which have what is injected now, and which can be called.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::inject;
use super::seen::{Seen, controller_of, is_owned_by};
use super::service;
use super::workload::Workload;
use crate::api::kind::{Change, DependentKind};
use crate::api::names;
use crate::api::status::RememberedCallOut;

/// A pod that can be called.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Name of the pod.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// Whose a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The workload's own.
    Own,
    /// Another workload's, or nobody's: a copy of an injected manifest has the hook's label, stamp and
    /// token, and is none of its pods.
    Another,
    /// Its ReplicaSet is not known.
    Unknown,
}

/// By what a pod is known as the workload's own: the workload owns it, or its ReplicaSet, or did until
/// a deletion in the foreground left nothing but the guard.
#[derive(Clone, Copy, Debug)]
pub struct Owners<'a> {
    /// Uid of the workload.
    pub workload: &'a str,
    /// Uid of the hook's guard.
    pub guard: Option<&'a str>,
    /// ReplicaSets that are known, whosever they are.
    pub replica_sets: &'a [ObjectMeta],
}

impl<'a> Owners<'a> {
    fn of(seen: &'a Seen, workload: &'a str) -> Self {
        Self {
            workload,
            guard: guard_uid(seen),
            replica_sets: &seen.replica_sets,
        }
    }

    /// Whose a pod is.
    pub fn whose(&self, pod: &ObjectMeta) -> Whose {
        if pod.uid.as_deref() == Some(self.workload) || self.own(pod) {
            return Whose::Own;
        }
        let Some(controller) = controller_of(pod) else {
            return Whose::Another;
        };
        let mut sets = self.replica_sets.iter();
        match sets.find(|set| set.uid.as_ref() == Some(&controller.uid)) {
            Some(set) if self.own(set) => Whose::Own,
            Some(_) => Whose::Another,
            None if controller.kind == DependentKind::ReplicaSet.as_str() => Whose::Unknown,
            None => Whose::Another,
        }
    }

    fn own(&self, meta: &ObjectMeta) -> bool {
        is_owned_by(meta, self.workload) || self.guard.is_some_and(|uid| is_owned_by(meta, uid))
    }
}

/// Leaves only pods that may be the workload's own: all that is decided about pods is decided about
/// these. Whatever carries the hook's label was seen, and a label is easily copied.
pub fn keep_own(seen: &mut Seen) {
    let Some(uid) = workload_uid(seen).map(ToOwned::to_owned) else {
        return;
    };
    let mut pods = std::mem::take(&mut seen.pods);
    let owners = Owners::of(seen, &uid);
    pods.retain(|pod| owners.whose(&pod.metadata) != Whose::Another);
    seen.pods = pods;
}

/// Uid of the workload; of the last one, if there is none.
fn workload_uid(seen: &Seen) -> Option<&str> {
    let present = seen.workload.as_ref().map(|w| w.metadata.uid.as_deref());
    let last = seen.hook.status.as_ref().and_then(|s| s.workload.as_ref());
    present.unwrap_or(last.map(|last| last.uid.as_str()))
}

/// Uids of the pods that a request asks: those that could acknowledge and stay, for they are the ones
/// that are called. Where all are on their way out, they are asked all the same: by whatever else tells
/// them.
pub fn to_ask(seen: &Seen, workload_uid: &str) -> Vec<String> {
    let able = able_to_acknowledge(seen, workload_uid);
    let stays = |uid: &&String| stays(seen, uid);
    let staying: Vec<String> = able.iter().filter(stays).cloned().collect();
    if staying.is_empty() { able } else { staying }
}

/// Whether a pod is there, and neither finished nor on its way out.
pub fn stays(seen: &Seen, uid: &str) -> bool {
    let mut pods = seen.pods.iter().chain(&seen.callable);
    pods.any(|pod| {
        pod.metadata.uid.as_deref() == Some(uid) && !is_finished(pod) && !is_leaving(pod)
    })
}

/// Uids of the pods that could acknowledge: reached from the workload or the guard, with a stamp of
/// this hook, not finished, with an injected container that has ever started, on a node that is
/// still there. Terminating and crash-looping pods count, never-started ones do not.
pub fn able_to_acknowledge(seen: &Seen, workload_uid: &str) -> Vec<String> {
    let injects = injects(seen);
    reached(seen, workload_uid)
        .filter(|pod| has_started(pod, injects))
        .filter_map(|pod| pod.metadata.uid.clone())
        .collect()
}

/// Uids of the pods that are at work, or are going to be: reached from the workload, with a stamp of
/// this hook, not finished and not on their way out. Never-started ones count: they have all before
/// them.
pub fn at_work(seen: &Seen, workload_uid: &str) -> Vec<String> {
    reached(seen, workload_uid)
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter_map(|pod| pod.metadata.uid.clone())
        .collect()
}

/// Whether there is a live pod that does not have what is injected now.
pub fn any_without(seen: &Seen, stamp: &str) -> bool {
    seen.pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none() && !is_finished(pod))
        .any(|pod| !inject::carries_stamp(&pod.metadata, stamp))
}

/// Whether there is a live pod that has nothing of this hook.
pub fn any_bare(seen: &Seen) -> bool {
    seen.pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none() && !is_finished(pod))
        .any(|pod| !has_ours(seen, pod))
}

/// How many live pods have what is injected now, and how many the workload has in all.
pub fn injected(seen: &Seen, workload: &Workload, stamp: &str) -> (usize, usize) {
    let counts_leaving = workload.traits().counts_leaving;
    let current = seen
        .pods
        .iter()
        .filter(|pod| counts_leaving || pod.metadata.deletion_timestamp.is_none())
        .filter(|pod| !is_finished(pod) && inject::carries_stamp(&pod.metadata, stamp))
        .count();
    (current, workload.pods.current)
}

/// Uid of the hook's guard. One that somebody deletes is still a guard: our finalizer keeps it, and
/// the garbage collector counts it.
pub fn guard_uid(seen: &Seen) -> Option<&str> {
    seen.guard.as_ref()?.metadata.uid.as_deref()
}

/// Pods that can be called: ready, staying, with an address of their own; the workload's own first.
///
/// Of the workload's own only those are called that could acknowledge, or a call that one of them takes
/// would be waited for in vain. Behind the Service there may also be pods that stop the app on behalf
/// of others; but none that pretends to be the hook's, and is a copy's.
pub fn targets(seen: &Seen, call_out: &RememberedCallOut) -> Vec<Target> {
    let ready = seen.callable.iter().filter(|pod| {
        is_ready(pod) && !is_finished(pod) && !is_leaving(pod) && !uses_host_network(pod)
    });
    let called = ready.filter_map(|pod| Some((is_own_to_call(seen, pod)?, pod)));
    let mut pods: Vec<(bool, &Pod)> = called.collect();
    pods.sort_by_key(|(own, pod)| (!own, pod.metadata.name.clone()));
    pods.into_iter()
        .filter_map(|(_, pod)| {
            Some(Target {
                pod: pod.metadata.name.clone()?,
                uid: pod.metadata.uid.clone()?,
                address: address(pod).filter(|to| !seen.never_called.contains(to))?,
                port: port(pod, &call_out.port)?,
            })
        })
        .collect()
}

/// Whether a pod behind the Service is one of the workload's own; nothing if it is not to be called.
fn is_own_to_call(seen: &Seen, pod: &Pod) -> Option<bool> {
    let uid = workload_uid(seen).unwrap_or_default();
    let label = |name: &str| pod.metadata.labels.as_ref()?.get(name).map(String::as_str);
    let selector = seen.workload.as_ref().map(|workload| &workload.selector);
    let selected = selector.is_some_and(|selector| {
        let mut labels = selector.iter();
        !selector.is_empty() && labels.all(|(name, value)| label(name) == Some(value))
    });
    let own = match Owners::of(seen, uid).whose(&pod.metadata) {
        Whose::Own => true,
        Whose::Another => false,
        // Its ReplicaSet may be from before the hook.
        Whose::Unknown => selected,
    };
    let pretends = label(names::HOOK_LABEL) == Some(seen.hook_name())
        || inject::carries_stamp_of(&pod.metadata, seen.hook_uid());
    let called = if own { has_ours(seen, pod) } else { !pretends };
    called.then_some(own)
}

/// Name of a pod, or its uid where it is gone.
pub fn name_of(seen: &Seen, uid: &str) -> String {
    let mut pods = seen.pods.iter().chain(&seen.callable);
    let pod = pods.find(|pod| pod.metadata.uid.as_deref() == Some(uid));
    pod.and_then(|pod| pod.metadata.name.clone())
        .unwrap_or_else(|| uid.to_owned())
}

/// Whether the only pods behind the Service use their node's address, which is never called.
pub fn only_host_network(seen: &Seen) -> bool {
    !seen.callable.is_empty() && seen.callable.iter().all(uses_host_network)
}

/// Whether any pod behind the Service is ready.
pub fn any_ready(seen: &Seen) -> bool {
    let mut pods = seen.callable.iter();
    pods.any(|pod| is_ready(pod) && !is_finished(pod))
}

/// A port, by number or name.
pub fn port_in_words(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    }
}

/// Since when the pods with our entries that do not start count as stuck, if there are any: a Secret
/// they refer to may be missing. Images may take their time, so a pod has `patience`; what cannot be
/// configured does not get better by waiting. Containers of all kinds wait for the pod's volumes, init
/// containers and sidecars first; once one of them has started, the volumes are there.
pub fn stuck_since(seen: &Seen, patience: SignedDuration) -> Option<Timestamp> {
    let since = |pod: &Pod| {
        let status = pod.status.as_ref()?;
        let start = status.start_time.as_ref()?.0;
        let all = status.init_container_statuses.iter().flatten();
        let mut all = all.chain(status.container_statuses.iter().flatten());
        let mounted = all.clone().any(ever_started);
        let waits = |container: &ContainerStatus, reason: &[&str]| {
            let waiting = container.state.as_ref().and_then(|s| s.waiting.as_ref());
            let word = waiting.and_then(|waiting| waiting.reason.as_deref());
            word.is_some_and(|word| reason.contains(&word))
        };
        if all
            .clone()
            .any(|c| waits(c, &["CreateContainerConfigError"]))
        {
            return Some(start);
        }
        let creating = all.any(|c| waits(c, &["ContainerCreating", "PodInitializing"]));
        (creating && !mounted).then_some(start + patience)
    };
    seen.pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none() && !is_finished(pod))
        .filter(|pod| has_ours(seen, pod))
        .filter_map(since)
        .min()
}

/// Pods of the workload with a stamp of this hook that are not finished, on nodes that are still
/// there.
fn reached<'a>(seen: &'a Seen, workload_uid: &'a str) -> impl Iterator<Item = &'a Pod> {
    let owners = Owners::of(seen, workload_uid);
    seen.pods
        .iter()
        .filter(|pod| has_ours(seen, pod))
        .filter(move |pod| owners.whose(&pod.metadata) == Whose::Own)
        .filter(|pod| !is_finished(pod))
        .filter(|pod| {
            let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref());
            node.is_none_or(|node| !seen.lost_nodes.iter().any(|lost| lost == node))
        })
}

/// Whether all its containers have ended for good.
pub fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    pod.status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

fn uses_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network) == Some(true)
}

/// Whether anything is injected into pods of the hook's workload.
fn injects(seen: &Seen) -> bool {
    let kind = seen.kind();
    kind.is_none_or(|kind| kind.traits().change != Change::Refused)
}

/// Whether a pod has what some injection of this hook gave; nobody's pods have, where there is none.
pub fn has_ours(seen: &Seen, pod: &Pod) -> bool {
    !injects(seen) || inject::carries_stamp_of(&pod.metadata, seen.hook_uid())
}

/// Whether a container with our entries has ever started, or any where there are none.
fn has_started(pod: &Pod, injects: bool) -> bool {
    containers(pod, injects).any(ever_started)
}

/// Whether a container with our entries runs in a live pod that has what is injected now.
pub fn any_running(seen: &Seen, stamp: &str) -> bool {
    let runs = |c: &ContainerStatus| c.state.as_ref().is_some_and(|s| s.running.is_some());
    seen.pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none() && !is_finished(pod))
        .filter(|pod| inject::carries_stamp(&pod.metadata, stamp))
        .any(|pod| containers(pod, injects(seen)).any(runs))
}

/// What is told of the containers with our entries, or of all where there are none.
fn containers(pod: &Pod, injects: bool) -> impl Iterator<Item = &ContainerStatus> {
    let spec = pod.spec.iter();
    let injected: Vec<&str> = spec
        .flat_map(|spec| {
            spec.containers
                .iter()
                .chain(spec.init_containers.iter().flatten())
        })
        .filter(|c| {
            let mut env = c.env.iter().flatten();
            !injects || env.any(|entry| entry.name == names::POD_UID_ENV)
        })
        .map(|c| c.name.as_str())
        .collect();
    let status = pod.status.iter();
    status
        .flat_map(|status| {
            let main = status.container_statuses.iter().flatten();
            main.chain(status.init_container_statuses.iter().flatten())
        })
        .filter(move |container| injected.contains(&container.name.as_str()))
}

fn ever_started(container: &ContainerStatus) -> bool {
    let now = container.state.as_ref();
    let before = container.last_state.as_ref();
    container.restart_count > 0
        || now.is_some_and(|s| s.running.is_some() || s.terminated.is_some())
        || before.is_some_and(|s| s.terminated.is_some())
}

/// The pod's address, unless a pod must never be called there, whatever it claims.
fn address(pod: &Pod) -> Option<IpAddr> {
    let address: IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    // An IPv4 address in IPv6 clothes leads to the same place.
    let address = address.to_canonical();
    let forbidden = address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || match address {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
    (!forbidden).then_some(address)
}

fn port(pod: &Pod, wanted: &IntOrString) -> Option<u16> {
    match wanted {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => service::port_named(pod.spec.as_ref()?, name),
    }
}
