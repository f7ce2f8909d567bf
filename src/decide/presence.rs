//! The workload is there: provide what pods need, inject it, and arm.
//!
//! Each step waits until what it refers to is recorded as written, so that a crash between any two
//! leaves nothing that a pod could trip over.

use jiff::SignedDuration;
use serde_json::Value;

use super::hook::{Plan, uid_of, whole};
use super::inject;
use super::seen::{Effect, controller_of, has_finalizer};
use super::workload::Workload;
use crate::api::condition::{self, ConditionType, Finding, Reason};
use crate::api::status::{AckResult, Phase};
use crate::api::{HookKind, names};

/// How long after a refusal that only a person can mend it is tried again.
const AFTER_REFUSAL: SignedDuration = SignedDuration::from_secs(8);

impl Plan<'_> {
    /// What to do about a workload that nobody deletes.
    pub(super) fn presence(&mut self, workload: &Workload) {
        self.prune(workload);
        self.settle_strays(Some(&uid_of(&workload.metadata)));
        if self.seen.namespace_terminating && self.is_held(workload) {
            return self.removal(workload);
        }
        self.find(Finding::no(
            ConditionType::Blocking,
            Reason::NothingHeld,
            "no removal is waiting",
        ));
        // Before everything that keeps out: whoever was answered 200 has been promised this.
        if self.completed(workload) {
            return;
        }
        if self.hook_deleting() {
            if self.abandon_stop(workload, "the hook is being deleted") {
                return;
            }
            return self.farewell(workload);
        }
        if self.disabled(workload) {
            if self.abandon_stop(workload, "the hook is to keep out") {
                return;
            }
            return self.stand_down(workload);
        }
        if self.seen.namespace_terminating {
            // Nothing can be created there any more.
            return self.refuse(
                Reason::WorkloadDeleting,
                "the namespace is being deleted; Kubernetes waits for nobody there",
            );
        }
        if let Some(message) = self.controlled(workload) {
            return self.refuse(Reason::WorkloadControlled, &message);
        }
        if self.is_held(workload) {
            // Whatever becomes of the rest.
            self.guard_dependents(workload);
        }
        if self.settle_state(workload) {
            // Nothing that would end pods before their time.
            return;
        }
        self.equip(workload);
        self.report_state(workload);
        self.report_completion(workload);
    }

    /// Provides, injects and arms.
    pub(super) fn equip(&mut self, workload: &Workload) {
        if !self.provide(workload) {
            return;
        }
        let wants_hold = self.seen.hook.spec.enables(HookKind::Shutdown);
        match self.injection(workload) {
            Err(conflict) => self.refuse(conflict.reason, &conflict.message),
            Ok(injection) => {
                if let Some(message) = self.rejection() {
                    self.refuse(Reason::Rejected, &message);
                } else {
                    self.inject(workload, &injection, wants_hold);
                }
            }
        }
    }

    /// What is done to it would be undone by whoever made it.
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
    pub(super) fn farewell(&mut self, workload: &Workload) {
        // When it was deleted is told by another clock than ours.
        let since = self.seen.leaving_since.unwrap_or(self.now);
        let delay = SignedDuration::from_secs(self.settings.hooks.disarm_delay_seconds);
        let until = whole(since + delay);
        let until = until.0;
        if self.now < until {
            self.status.phase = Some(Phase::Deleting);
            let message = format!(
                "the hook is being deleted; unless its workload is deleted too, the workload is ejected and disarmed at {until}"
            );
            self.find(Finding::no(
                ConditionType::Ready,
                Reason::HookDeleting,
                message,
            ));
            self.guard_dependents(workload);
            self.keep_armed(workload);
            self.keep(ConditionType::Injected);
            self.look_again_at(until);
            return;
        }
        self.status.phase = Some(Phase::Deleting);
        self.find(Finding::no(
            ConditionType::Ready,
            Reason::HookDeleting,
            "the hook is being deleted, and what it gave the workload is taken back",
        ));
        if inject::is_touched(workload) {
            self.eject(workload);
        } else {
            self.then.push(Effect::RemoveHookFinalizer);
        }
    }

    /// Takes our entries out. If the API server refuses that, a person has to hear of it.
    pub(super) fn eject(&mut self, workload: &Workload) {
        if let Some(message) = self.rejection() {
            self.tell_refusal(Reason::Rejected, &message);
            return;
        }
        if self.was_rejected() {
            self.keep_told();
        }
        // Of exactly what was seen: one that somebody deletes meanwhile is held, not ejected.
        self.then.push(inject::eject(workload));
    }

    /// Hook or workload says that the hook is to keep out: take everything of ours off.
    pub(super) fn stand_down(&mut self, workload: &Workload) {
        self.status.phase = Some(Phase::Pending);
        let message = format!(
            "{}: {} takes {} out of this hook's reach; remove the annotation to inject and arm again",
            names::HOOK_ANNOTATION,
            names::DISABLED,
            self.seen.hook.spec.workload.name
        );
        self.find(Finding::no(
            ConditionType::Ready,
            Reason::Disabled,
            message.clone(),
        ));
        self.find(Finding::no(ConditionType::Armed, Reason::Disabled, message));
        // The finalizer goes last: a deletion in between must find everything, or nothing.
        self.disarm();
        if inject::is_touched(workload) {
            self.eject(workload);
        }
    }

    /// Acknowledgements of other workloads and of superseded requests are decided on: they go.
    pub(super) fn prune(&mut self, workload: &Workload) {
        let uid = uid_of(&workload.metadata);
        let old: Vec<(String, Value)> = self
            .status
            .acknowledgements
            .iter()
            .filter(|(key, ack)| {
                let failed_for_good = ack.result == AckResult::Failure
                    && ack.request.is_none()
                    && key.split_once('.').is_some_and(|(_, pod)| {
                        pod != "anonymous"
                            && !self
                                .seen
                                .pods
                                .iter()
                                .any(|p| p.metadata.uid.as_deref() == Some(pod))
                    });
                failed_for_good
                    || ack.workload_uid != uid
                    || ack
                        .request
                        .as_ref()
                        .is_some_and(|id| !self.status.requests.contains_key(id))
            })
            .filter_map(|(key, ack)| Some((key.clone(), serde_json::to_value(ack).ok()?)))
            .collect();
        if !old.is_empty() {
            self.then.push(Effect::Prune(old));
        }
    }

    pub(super) fn refuse(&mut self, reason: Reason, message: &str) {
        // The rollout that cannot be injected into makes a ReplicaSet all the same, and what is armed
        // stays armed.
        if let Some(workload) = &self.seen.workload {
            self.guard_dependents(workload);
        }
        self.tell_refusal(reason, message);
    }

    pub(super) fn look_again_after_refusal(&mut self) {
        self.look_again_at(self.now + AFTER_REFUSAL);
    }

    pub(super) fn tell_refusal(&mut self, reason: Reason, message: &str) {
        self.tell_once(reason, message);
        self.status.phase = Some(Phase::Pending);
        self.find(Finding::no(ConditionType::Ready, reason, message));
        self.find(Finding::no(ConditionType::Injected, reason, message));
        match &self.seen.workload {
            Some(workload) => self.keep_armed(workload),
            None => self.keep(ConditionType::Armed),
        }
        self.keep(ConditionType::CertificateReady);
    }

    /// An Event, unless that is what people have been told before.
    pub(super) fn tell_once(&mut self, reason: Reason, message: &str) {
        if !condition::is_because(&self.status.conditions, ConditionType::Ready, reason) {
            self.notice(true, "Refused", message);
        }
    }

    /// Keeps what a condition said before.
    pub(super) fn keep(&mut self, kind: ConditionType) {
        let kept = self.kept.iter().any(|c| c.type_ == kind.as_str());
        if kept || self.findings.contains_key(&kind) {
            return;
        }
        if let Some(old) = condition::find(&self.status.conditions, kind) {
            self.kept.push(old.clone());
        }
    }
}
