//! Cleanup after a hook that is gone: its guard stays until nothing needs it.
//!
//! A hook ejects its workload before its own finalizer is removed. What can remain after that:
//! guards on dependents, the canary, Secrets that running pods still mount; and, if the hook's
//! finalizer was removed by hand, the workload itself.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::disposition::{Controller, Fate, deletion, disposition};
use super::hook::{is_left_alone, uid_of};
use super::inject;
use super::seen::{
    Decision, Dependent, Effect, Next, dependents, has_finalizer, is_owned_by, version_of,
};
use super::workload::Workload;
use crate::api::{DependentKind, HookGuard, names};

/// How often pods are looked for that still need the Secrets.
const PAUSE: SignedDuration = SignedDuration::from_secs(10);

/// A guard whose hook is gone, and what there still is of it.
#[derive(Clone, Debug)]
pub struct Remains {
    /// The guard.
    pub guard: HookGuard,
    /// The workload, unless a living hook has it now; read live.
    pub workload: Option<Workload>,
    /// ReplicaSets with the label of a hook of that name; read live.
    pub replica_sets: Vec<ObjectMeta>,
    /// Pods with the label of a hook of that name; read live.
    pub pods: Vec<Pod>,
    /// Canaries of the hook; read live.
    pub canaries: Vec<ConfigMap>,
}

impl Remains {
    /// resourceVersion that what the workload made was seen with.
    pub fn version_of(&self, dependent: &Dependent) -> Option<&str> {
        version_of(self.dependents(), &dependent.uid)
    }

    fn dependents(&self) -> impl Iterator<Item = (DependentKind, &ObjectMeta)> {
        let kind = self.guard.spec.workload.known_kind();
        dependents(kind, &self.replica_sets, &self.pods)
    }
}

/// What is to be done about them.
pub fn decide(remains: &Remains, now: Timestamp) -> Decision {
    let guard = &remains.guard;
    let hook_uid = guard.spec.hook.uid.as_str();
    let guard_uid = uid_of(&guard.metadata);
    let mut effects = Vec::new();
    let touched = remains
        .workload
        .as_ref()
        .filter(|workload| inject::is_touched(workload));
    let live = touched.filter(|w| w.metadata.deletion_timestamp.is_none());
    let leaving = touched.filter(|w| w.metadata.deletion_timestamp.is_some());
    if let Some(workload) = live {
        effects.push(inject::eject(workload));
    }
    let guarded: Vec<_> = remains
        .dependents()
        .filter(|(_, meta)| is_owned_by(meta, &guard_uid))
        .collect();
    let present = remains.workload.as_ref().map(|w| uid_of(&w.metadata));
    for (kind, meta) in guarded
        .iter()
        .filter(|(_, meta)| meta.deletion_timestamp.is_none())
    {
        let controller = Controller::of(meta, present.as_deref());
        let fate = fate(remains, controller);
        effects.extend(disposition(fate, controller).effect(*kind, meta));
    }
    if let Some(workload) =
        leaving.filter(|w| has_finalizer(&w.metadata, names::SHUTDOWN_FINALIZER))
    {
        effects.push(Effect::ReleaseWorkload {
            uid: uid_of(&workload.metadata),
        });
    }
    if guarded.is_empty() {
        for canary in &remains.canaries {
            effects.push(Effect::RemoveCanary {
                name: canary.metadata.name.clone().unwrap_or_default(),
            });
        }
    }
    let needed = remains.pods.iter().any(|pod| {
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        !matches!(phase, Some("Succeeded" | "Failed"))
            && inject::carries_stamp_of(&pod.metadata, hook_uid)
    });
    if !effects.is_empty() {
        return Decision {
            effects,
            next: Next::AwaitChange,
        };
    }
    if needed || !guarded.is_empty() {
        return Decision {
            effects,
            next: Next::At(now + PAUSE),
        };
    }
    Decision {
        effects: vec![Effect::DeleteGuard],
        next: Next::AwaitChange,
    }
}

/// Where the life of the workload stands that something with this controller belonged to.
fn fate(remains: &Remains, controller: Controller) -> Fate {
    let orphaned = || remains.canaries.iter().any(|c| is_left_alone(&c.metadata));
    let gone = || Fate::Gone {
        orphaned: orphaned(),
    };
    let Some(workload) = &remains.workload else {
        return gone();
    };
    let meta = &workload.metadata;
    let name = names::canary(&remains.guard.spec.hook.name, &uid_of(meta));
    let canaries = remains.canaries.iter().map(|canary| &canary.metadata);
    let (own, earlier): (Vec<_>, Vec<_>) =
        canaries.partition(|canary| canary.name.as_deref() == Some(&name));
    if meta.deletion_timestamp.is_some() {
        return Fate::leaves(meta, deletion(meta, own.first().copied()));
    }
    // An earlier workload of that name has left a canary, and what nobody controls is its.
    match controller {
        Controller::Nobody if !earlier.is_empty() => gone(),
        _ => Fate::Forsaken,
    }
}
