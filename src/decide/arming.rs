//! What makes a removal wait: finalizer and guards; and when that is taken back.

use super::guarding::lacks_guard;
use super::hook::{Plan, dependent, uid_of};
use super::pods::{self, guard_uid};
use super::seen::{Effect, controller_of, has_finalizer, is_controlled, is_owned_by};
use super::service::{self, CallFault};
use super::workload::Workload;
use crate::api::condition::{self, ConditionType, Finding, Reason};
use crate::api::{HookKind, names};
use crate::planted::Bug;

impl Plan<'_> {
    /// Remembers how the app is called, while the Service is there to be asked.
    pub(super) fn call_out(&mut self, workload: &Workload) -> Result<(), CallFault> {
        let shutdown = self.seen.hook.spec.shutdown.as_ref();
        let Some(call_out) = shutdown.and_then(|s| s.call_out.as_ref()) else {
            self.status.call_out = None;
            return Ok(());
        };
        let service = self.seen.service.as_ref();
        self.status.call_out = service::remember(call_out, service)?;
        let remembered = self.status.call_out.as_ref();
        let fault = remembered.and_then(|r| service::unreachable(call_out, r, service, workload));
        if let Some(fault) = fault {
            return Err(fault);
        }
        let unready = remembered.and_then(|r| service::none_ready(self.seen, r, workload));
        match unready {
            Some((due, _)) if self.now < due => self.look_again_at(due),
            Some((_, fault)) => return Err(fault),
            None => {}
        }
        Ok(())
    }

    /// Guards and canary. True when they and the finalizer are in place.
    pub(super) fn arm(&mut self, workload: &Workload) -> bool {
        let uid = uid_of(&workload.metadata);
        let held = has_finalizer(&workload.metadata, names::SHUTDOWN_FINALIZER);
        let guarded = self.guard_dependents(workload);
        let canary = names::canary(self.seen.hook_name(), &uid);
        let watched = self.seen.canaries.iter().any(|c| {
            c.metadata.name.as_deref() == Some(&canary)
                && c.metadata.deletion_timestamp.is_none()
                && is_owned_by(&c.metadata, &uid)
        });
        let watched = watched || self.settings.planted.has(Bug::CanaryForgotten);
        if held && !watched {
            // One that somebody deletes stands there by its finalizer alone, and is of no use.
            if self.seen.canaries.iter().any(|c| {
                c.metadata.name.as_deref() == Some(&canary)
                    && c.metadata.deletion_timestamp.is_some()
            }) {
                self.hold.push(Effect::RemoveCanary { name: canary });
            }
            self.hold.push(Effect::CreateCanary { workload_uid: uid });
        }
        held && guarded && watched
    }

    /// Puts the guard on everything the workload has made that lacks it. True when nothing does, and
    /// every live pod is, or belongs to, one of them.
    pub(super) fn guard_dependents(&mut self, workload: &Workload) -> bool {
        if self.settings.planted.has(Bug::GuardForgotten) {
            return true;
        }
        let Some(guard) = guard_uid(self.seen).map(ToOwned::to_owned) else {
            return false;
        };
        if !has_finalizer(&workload.metadata, names::SHUTDOWN_FINALIZER) {
            return false;
        }
        let uid = uid_of(&workload.metadata);
        let mut lacking: Vec<_> = self
            .seen
            .dependents()
            .filter(|(_, meta)| lacks_guard(meta, &uid, &guard))
            .map(|(kind, meta)| Effect::Guard(dependent(kind, meta)))
            .collect();
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
        let complete = lacking.is_empty() && all_known;
        lacking.retain(|effect| !self.hold.contains(effect));
        self.hold.extend(lacking);
        complete
    }

    /// In the foreground the garbage collector takes the workload out of the owners of what it made.
    /// Whoever selects the same pods could adopt that, and scale it away: the guard is its controller
    /// from then on. (Until it is, the policy `krake-hooks-kept` refuses the adoption.)
    pub(super) fn control_dependents(&mut self) {
        let Some(guard) = guard_uid(self.seen).map(ToOwned::to_owned) else {
            return;
        };
        let kept = self.seen.dependents().filter(|(_, meta)| {
            is_owned_by(meta, &guard) && meta.deletion_timestamp.is_none() && !is_controlled(meta)
        });
        let kept = kept.map(|(kind, meta)| Effect::Control(dependent(kind, meta)));
        self.hold.extend(kept);
    }

    /// Takes guards and canary away; the finalizer goes with the injection.
    pub(super) fn disarm(&mut self) {
        let Some(guard) = guard_uid(self.seen).map(ToOwned::to_owned) else {
            return;
        };
        for (kind, meta) in self.seen.dependents() {
            if is_owned_by(meta, &guard) {
                self.then.push(Effect::Unguard(dependent(kind, meta)));
            }
        }
        for canary in &self.seen.canaries {
            self.then.push(Effect::RemoveCanary {
                name: canary.metadata.name.clone().unwrap_or_default(),
            });
        }
    }

    /// Keeps what was said about arming, unless it is no longer so.
    pub(super) fn keep_armed(&mut self, workload: &Workload) {
        if !self.seen.hook.spec.enables(HookKind::Shutdown) {
            return;
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
        if condition::is_true(&self.status.conditions, ConditionType::Armed)
            && let Some(message) = not_any_more
        {
            self.find(Finding::no(ConditionType::Armed, Reason::Arming, message));
        }
        self.keep(ConditionType::Armed);
    }
}
