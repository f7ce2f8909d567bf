//! The workload is there: provide what pods need, inject it, and arm; or take it back.
//!
//! Each step waits until what it refers to is recorded as written, so that a crash between any two
//! leaves nothing that a pod could trip over.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::hook::{Context, uid_of, whole};
use super::inject;
use super::seen::{Effect, controller_of, has_finalizer};
use super::step::Step;
use super::workload::Workload;
use crate::api::condition::{self, ConditionType, Finding, Reason};
use crate::api::status::{AckResult, Phase};
use crate::api::{HookKind, KrakeHookStatus, names};

/// How long after a refusal that only a person can mend it is tried again.
pub const AFTER_REFUSAL: SignedDuration = SignedDuration::from_secs(8);

impl Context<'_> {
    /// Provides, injects and arms.
    pub(super) fn equip(&self, status: &mut KrakeHookStatus, workload: &Workload) -> Step {
        let (provided, step) = self.provide(status, workload);
        if !provided {
            return step;
        }
        let wants_hold = self.seen.hook.spec.enables(HookKind::Shutdown);
        step.and(match self.injection(workload) {
            Err(conflict) => self.refuse(status, conflict.reason, &conflict.message),
            Ok(injection) => match self.rejection() {
                Some(message) => {
                    let mut refused = self.refuse(status, Reason::Rejected, &message);
                    refused.look_again_at(self.after_refusal());
                    refused
                }
                None => self.inject(status, workload, &injection, wants_hold),
            },
        })
    }

    /// Whether its controller would undo what is done to it.
    pub(super) fn controlled(&self, workload: &Workload) -> Option<String> {
        let owner = controller_of(&workload.metadata).filter(|_| workload.traits().only_alone)?;
        Some(format!(
            "{workload} is controlled by {} {}, which would undo what is done to it, or make it again; nothing was changed. Delete this hook and name {0} {1} in another one, if it is a workload",
            owner.kind, owner.name
        ))
    }

    pub(super) fn is_held(&self, workload: &Workload) -> bool {
        has_finalizer(&workload.metadata, names::SHUTDOWN_FINALIZER)
            && self.seen.hook.spec.enables(HookKind::Shutdown)
            && !self.disabled(workload)
    }

    /// The hook is deleted. It stays for a while and only watches: a sweep deletes hook and
    /// workload in any order, and the workload must not be disarmed a moment before its own turn.
    pub(super) fn hook_deleting(&self, status: &KrakeHookStatus, workload: &Workload) -> Step {
        // When it was deleted is told by another clock than ours.
        let since = self.seen.leaving_since.unwrap_or(self.now);
        let delay = SignedDuration::from_secs(self.settings.hooks.disarm_delay_seconds);
        let until = whole(since + delay).0;
        let mut step = Step::default();
        step.phase(Phase::Deleting);
        if self.now < until {
            step.find(Finding::no(
                ConditionType::Ready,
                Reason::HookDeleting,
                format!(
                    "the hook is being deleted; unless its workload is deleted too, the workload is ejected and disarmed at {until}"
                ),
            ));
            step.join(self.guard_dependents(workload).missing);
            step.join(self.keep_armed(status, workload));
            step.keep([ConditionType::Injected]);
            step.look_again_at(until);
            return step;
        }
        step.find(Finding::no(
            ConditionType::Ready,
            Reason::HookDeleting,
            "the hook is being deleted, and what it gave the workload is taken back",
        ));
        if inject::is_touched(workload) {
            step.join(self.eject(status, workload));
        } else {
            step.then.push(Effect::RemoveHookFinalizer);
        }
        step
    }

    /// Takes our entries out. If the API server refuses that, a person has to hear of it.
    fn eject(&self, status: &KrakeHookStatus, workload: &Workload) -> Step {
        if let Some(message) = self.rejection() {
            let mut step = self.tell_refusal(status, Reason::Rejected, &message);
            step.look_again_at(self.after_refusal());
            return step;
        }
        let mut step = Step::default();
        if self.was_rejected(status) {
            step.keep_told();
        }
        // Applies to exactly the version that was seen: a workload that is deleted meanwhile is
        // held, not ejected.
        step.then.push(inject::eject(workload));
        step
    }

    /// Hook or workload is disabled by annotation: everything of ours is removed.
    pub(super) fn stand_down(&self, status: &KrakeHookStatus, workload: &Workload) -> Step {
        let mut step = Step::default();
        step.phase(Phase::Pending);
        let message = format!(
            "{}: {} takes {} out of this hook's reach; remove the annotation to inject and arm again",
            names::HOOK_ANNOTATION,
            names::DISABLED,
            self.seen.hook.spec.workload.name
        );
        for kind in [ConditionType::Ready, ConditionType::Armed] {
            step.find(Finding::no(kind, Reason::Disabled, message.clone()));
        }
        // The finalizer goes last: a deletion in between must find everything, or nothing.
        step.join(self.disarm());
        if inject::is_touched(workload) {
            step.join(self.eject(status, workload));
        }
        step
    }

    /// Acknowledgements of other workloads and of superseded requests are decided on: they go.
    pub(super) fn prune(&self, status: &KrakeHookStatus, workload: &Workload) -> Step {
        let mut step = Step::default();
        let uid = uid_of(&workload.metadata);
        let lives = |uid: &str| {
            let mut pods = self.seen.pods.iter();
            pods.any(|pod| pod.metadata.uid.as_deref() == Some(uid))
        };
        let old: Vec<(String, Value)> = status
            .acknowledgements
            .iter()
            .filter(|(key, ack)| {
                let failed_for_good = ack.result == AckResult::Failure
                    && ack.request.is_none()
                    && key
                        .split_once('.')
                        .is_some_and(|(_, pod)| pod != "anonymous" && !lives(pod));
                let superseded = |id: &String| !status.requests.contains_key(id);
                failed_for_good
                    || ack.workload_uid != uid
                    || ack.request.as_ref().is_some_and(superseded)
            })
            .filter_map(|(key, ack)| Some((key.clone(), serde_json::to_value(ack).ok()?)))
            .collect();
        if !old.is_empty() {
            step.then.push(Effect::Prune(old));
        }
        step
    }

    /// Nothing goes on until a person acts. The rollout that cannot be injected into makes a ReplicaSet
    /// all the same, and what is armed stays armed.
    pub(super) fn refuse(&self, status: &KrakeHookStatus, reason: Reason, message: &str) -> Step {
        let workload = self.seen.workload.as_ref();
        let guarded = workload.map(|workload| self.guard_dependents(workload).missing);
        let guarded = guarded.unwrap_or_default();
        guarded.and(self.tell_refusal(status, reason, message))
    }

    /// When what was refused is tried again.
    pub(super) fn after_refusal(&self) -> Timestamp {
        self.now + AFTER_REFUSAL
    }

    pub(super) fn tell_refusal(
        &self,
        status: &KrakeHookStatus,
        reason: Reason,
        message: &str,
    ) -> Step {
        let mut step = self.tell_once(status, reason, message);
        step.phase(Phase::Pending);
        step.find(Finding::no(ConditionType::Ready, reason, message));
        step.find(Finding::no(ConditionType::Injected, reason, message));
        match &self.seen.workload {
            Some(workload) => step.join(self.keep_armed(status, workload)),
            None => step.keep([ConditionType::Armed]),
        }
        step.keep([ConditionType::CertificateReady]);
        step
    }

    /// An Event, unless the condition has this reason already.
    pub(super) fn tell_once(
        &self,
        status: &KrakeHookStatus,
        reason: Reason,
        message: &str,
    ) -> Step {
        let mut step = Step::default();
        if !condition::is_because(&status.conditions, ConditionType::Ready, reason) {
            step.notice(true, "Refused", message);
        }
        step
    }
}
