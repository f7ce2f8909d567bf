//! Arming: the finalizer, the guards and the canary that make a removal wait; and disarming.

use super::guarding::lacks_guard;
use super::hook::{Context, dependent, uid_of};
use super::pods::{self, guard_uid};
use super::seen::{Effect, controller_of, has_finalizer, is_controlled, is_owned_by};
use super::service::{self, CallFault};
use super::step::Step;
use super::workload::Workload;
use crate::api::condition::{self, ConditionType, Finding, Reason};
use crate::api::{HookKind, KrakeHookStatus, names};

/// Dependents of the workload that lack the guard.
pub(super) struct Guarding {
    /// The effects that add it.
    pub missing: Step,
    /// No dependent lacks it, and every running pod is, or belongs to, a guarded one.
    pub complete: bool,
}

impl Context<'_> {
    /// Remembers how the app is called, while the Service is there to be asked. A Service whose pods are
    /// to become ready is looked at again.
    pub(super) fn call_out(
        &self,
        status: &mut KrakeHookStatus,
        workload: &Workload,
    ) -> (Result<(), CallFault>, Step) {
        let mut step = Step::default();
        let shutdown = self.seen.hook.spec.shutdown.as_ref();
        let Some(call_out) = shutdown.and_then(|s| s.call_out.as_ref()) else {
            status.call_out = None;
            return (Ok(()), step);
        };
        let service = self.seen.service.as_ref();
        match service::remember(call_out, service) {
            Ok(remembered) => status.call_out = remembered,
            Err(fault) => return (Err(fault), step),
        }
        let remembered = status.call_out.as_ref();
        let fault = remembered.and_then(|r| service::unreachable(call_out, r, service, workload));
        if let Some(fault) = fault {
            return (Err(fault), step);
        }
        let unready = remembered.and_then(|r| service::none_ready(self.seen, r, workload));
        match unready {
            Some((due, _)) if self.now < due => step.look_again_at(due),
            Some((_, fault)) => return (Err(fault), step),
            None => {}
        }
        (Ok(()), step)
    }

    /// Guards and canary; and whether they and the finalizer are in place.
    pub(super) fn arm(&self, workload: &Workload) -> (bool, Step) {
        let uid = uid_of(&workload.metadata);
        let held = has_finalizer(&workload.metadata, names::SHUTDOWN_FINALIZER);
        let Guarding {
            missing: mut step,
            complete,
        } = self.guard_dependents(workload);
        let name = names::canary(self.seen.hook_name(), &uid);
        let mut canaries = self.seen.canaries.iter().map(|canary| &canary.metadata);
        let canary = canaries.find(|canary| canary.name.as_deref() == Some(&name));
        let leaves = canary.is_some_and(|canary| canary.deletion_timestamp.is_some());
        let watched = !leaves && canary.is_some_and(|canary| is_owned_by(canary, &uid));
        if held && !watched {
            // A terminating canary exists only because of its finalizer, and is of no use.
            if leaves {
                step.hold.push(Effect::RemoveCanary { name });
            }
            step.hold.push(Effect::CreateCanary { workload_uid: uid });
        }
        (held && complete && watched, step)
    }

    /// Guards every dependent of the workload that lacks it.
    pub(super) fn guard_dependents(&self, workload: &Workload) -> Guarding {
        let mut missing = Step::default();
        let held = has_finalizer(&workload.metadata, names::SHUTDOWN_FINALIZER);
        let Some(guard) = guard_uid(self.seen).filter(|_| held) else {
            return Guarding {
                missing,
                complete: false,
            };
        };
        let uid = uid_of(&workload.metadata);
        let lacking = self.seen.dependents();
        let lacking = lacking.filter(|(_, meta)| lacks_guard(meta, &uid, guard));
        let guards = lacking.map(|(kind, meta)| Effect::Guard(dependent(kind, meta)));
        missing.hold.extend(guards);
        let all_known = self
            .seen
            .pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .filter_map(|pod| controller_of(&pod.metadata))
            .all(|owner| {
                let mut sets = self.seen.replica_sets.iter();
                owner.uid == uid || sets.any(|set| set.uid.as_deref() == Some(&owner.uid))
            });
        Guarding {
            complete: missing.hold.is_empty() && all_known,
            missing,
        }
    }

    /// In the foreground the garbage collector takes the workload out of the owners of what it made.
    /// Whoever selects the same pods could adopt that, and scale it away: the guard is its controller
    /// from then on. (Until it is, the policy `krake-hooks-kept` refuses the adoption.)
    pub(super) fn control_dependents(&self) -> Step {
        let mut step = Step::default();
        let Some(guard) = guard_uid(self.seen) else {
            return step;
        };
        let kept = self.seen.dependents().filter(|(_, meta)| {
            is_owned_by(meta, guard) && meta.deletion_timestamp.is_none() && !is_controlled(meta)
        });
        let kept = kept.map(|(kind, meta)| Effect::Control(dependent(kind, meta)));
        step.hold.extend(kept);
        step
    }

    /// Takes guards and canary away; the finalizer goes with the injection.
    pub(super) fn disarm(&self) -> Step {
        let mut step = Step::default();
        let Some(guard) = guard_uid(self.seen) else {
            return step;
        };
        for (kind, meta) in self.seen.dependents() {
            if is_owned_by(meta, guard) {
                step.then.push(Effect::Unguard(dependent(kind, meta)));
            }
        }
        for canary in &self.seen.canaries {
            step.then.push(Effect::RemoveCanary {
                name: canary.metadata.name.clone().unwrap_or_default(),
            });
        }
        step
    }

    /// Keeps what was said about arming, unless it is no longer so.
    pub(super) fn keep_armed(&self, status: &KrakeHookStatus, workload: &Workload) -> Step {
        let mut step = Step::default();
        if !self.seen.hook.spec.enables(HookKind::Shutdown) {
            return step;
        }
        let not_any_more = if !has_finalizer(&workload.metadata, names::SHUTDOWN_FINALIZER) {
            Some("the finalizer was taken off the workload: a removal will not wait")
        } else if workload.is_changeable() && pods::any_bare(self.seen) {
            Some(
                "pods run that cannot acknowledge, because what was injected was taken out of the template: a removal will not wait for them",
            )
        } else {
            None
        };
        if condition::is_true(&status.conditions, ConditionType::Armed)
            && let Some(message) = not_any_more
        {
            step.find(Finding::no(ConditionType::Armed, Reason::Arming, message));
        }
        step.keep([ConditionType::Armed]);
        step
    }
}
