//! The workload is being deleted: ask the app, wait, release.
//!
//! A release is three writes in this order: close the request in the status; delete what the guard
//! kept; take the finalizer off. A crash between any two is finished on restart with the same
//! outcome, because the closed request comes first in the hold table.

use super::disposition::{Controller, Fate, deletion, disposition};
use super::hold::Hold;
use super::hook::{Context, uid_of};
use super::pods::guard_uid;
use super::requests;
use super::seen::{Effect, has_finalizer, is_owned_by};
use super::step::{Step, nothing_held};
use super::workload::Workload;
use crate::api::condition::{ConditionType, Finding, Reason};
use crate::api::status::{Deletion, Outcome, Phase, RequestState, Trigger};
use crate::api::{KrakeHookStatus, names};

impl Context<'_> {
    /// The workload is being deleted, or its namespace is and it is held.
    pub(super) fn removing(&self, status: &mut KrakeHookStatus, workload: &Workload) -> Step {
        let mut step = Step::default();
        if workload.metadata.deletion_timestamp.is_none() {
            step.join(self.prune(status, workload));
            step.join(self.settle_leftovers(status, Some(workload)));
        }
        step.keep([ConditionType::Injected, ConditionType::CertificateReady]);
        self.note_deletion(status, workload);
        step.join(self.note_completion(status, workload));
        let answer = self.ask(status, workload, Trigger::Delete);
        if !matches!(answer, Hold::Release(..) | Hold::Leave) {
            // A second deletion of another cascade may come while this one waits.
            step.join(self.guard_dependents(workload).missing);
            step.join(self.control_dependents());
        }
        step.and(match answer {
            Hold::Arm | Hold::Disarm | Hold::Leave => self.let_go(status, workload),
            Hold::Release(outcome, message) => self.release(status, workload, outcome, &message),
            answer => self.follow(status, workload, Trigger::Delete, answer),
        })
    }

    /// How the workload is being deleted.
    fn note_deletion(&self, status: &mut KrakeHookStatus, workload: &Workload) {
        let meta = &workload.metadata;
        if meta.deletion_timestamp.is_none() || status.deletion == Some(Deletion::Orphan) {
            return;
        }
        let name = names::canary(self.seen.hook_name(), &uid_of(meta));
        let canary = self
            .seen
            .canaries
            .iter()
            .find(|c| c.metadata.name.as_deref() == Some(&name));
        let seen = deletion(meta, canary.map(|canary| &canary.metadata));
        // A second deletion may be another one, and what once was seen is not seen again.
        status.deletion = Some(match (status.deletion, seen) {
            (Some(Deletion::Foreground), Deletion::Background) => Deletion::Foreground,
            (_, seen) => seen,
        });
    }

    fn release(
        &self,
        status: &mut KrakeHookStatus,
        workload: &Workload,
        outcome: Outcome,
        message: &str,
    ) -> Step {
        let mut step = self.close_for(status, workload, Trigger::Delete, outcome, message);
        let how = status.workload_request().and_then(requests::in_words);
        let how = how.unwrap_or_else(|| format!("{}: {message}", outcome.as_str()));
        step.join(report_released(status, &how));
        step.join(self.delete_kept(status, workload, outcome));
        step.then.push(Effect::ReleaseWorkload {
            uid: uid_of(&workload.metadata),
        });
        step
    }

    /// Deletes by name and uid what the guard kept, or only unguards it.
    fn delete_kept(&self, status: &KrakeHookStatus, workload: &Workload, outcome: Outcome) -> Step {
        let mut step = Step::default();
        let uid = uid_of(&workload.metadata);
        let Some(guard) = guard_uid(self.seen) else {
            return step;
        };
        let seen = status.deletion.filter(|seen| *seen != Deletion::Orphan);
        let deletion = match outcome {
            Outcome::Orphaned => Deletion::Orphan,
            _ => seen.unwrap_or(Deletion::Background),
        };
        let fate = Fate::leaves(&workload.metadata, deletion);
        for (kind, meta) in self.seen.dependents() {
            if !is_owned_by(meta, guard) || meta.deletion_timestamp.is_some() {
                continue;
            }
            let controller = Controller::of(meta, Some(&uid));
            let effect = disposition(fate, controller).effect(kind, meta);
            step.then.extend(effect);
        }
        step
    }

    /// The workload is being deleted and there is no finalizer of ours (any more).
    fn let_go(&self, status: &KrakeHookStatus, workload: &Workload) -> Step {
        let mut step = Step::default();
        if workload.metadata.deletion_timestamp.is_none() {
            return report_namespace_going();
        }
        if self.is_hook_deleting() && !has_finalizer(&workload.metadata, names::SHUTDOWN_FINALIZER)
        {
            // Another finalizer may keep the workload for long; the hook need not stay for that.
            step.then.push(Effect::RemoveHookFinalizer);
        }
        let request = self.request_for(status, workload, Trigger::Delete);
        let released = request.is_some_and(|request| request.state == RequestState::Closed);
        if released || status.completion.is_some() {
            let how = request.and_then(requests::in_words);
            let how = how.unwrap_or_else(|| "the removal goes on".to_owned());
            return step.and(report_released(status, &how));
        }
        let message = format!(
            "{workload} was deleted before it was armed; Kubernetes takes no finalizer on an object that is being deleted, so its removal does not wait"
        );
        step.phase(Phase::Pending);
        for kind in [ConditionType::Ready, ConditionType::Armed] {
            step.find(Finding::no(kind, Reason::WorkloadDeleting, message.clone()));
        }
        step.find(nothing_held());
        step
    }
}

/// The app has been called, and the workload's own turn comes in a moment.
fn report_namespace_going() -> Step {
    let mut step = Step::default();
    step.phase(Phase::Deleting);
    step.find(Finding::no(
        ConditionType::Ready,
        Reason::WorkloadDeleting,
        "the namespace is being deleted: the app was called, and Kubernetes waits for nobody there",
    ));
    step.keep([ConditionType::Armed]);
    step.find(nothing_held());
    step
}

fn report_released(status: &KrakeHookStatus, message: &str) -> Step {
    let mut step = Step::default();
    let (phase, reason) = match status.completion {
        Some(_) => (Phase::Completed, Reason::Complete),
        None => (Phase::Released, Reason::Released),
    };
    step.phase(phase);
    // Nothing more will happen: clients that wait for `Ready` must not wait for ever.
    step.find(Finding::yes(ConditionType::Ready, reason, message));
    for kind in [ConditionType::Armed, ConditionType::Blocking] {
        step.find(Finding::no(kind, Reason::Released, message));
    }
    if status.completion.is_some() {
        step.keep([ConditionType::Completed]);
    }
    step
}
