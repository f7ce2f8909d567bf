//! The workload is being deleted: ask the app, wait, release.
//!
//! A release is three writes in this order: close the request in the status; delete what the guard
//! kept; take the finalizer off. A crash between any two is finished on restart with the same
//! outcome, because the closed request comes first in the hold table.

use super::hold::Hold;
use super::hook::{Plan, dependent, is_left_alone, uid_of};
use super::pods::guard_uid;
use super::seen::{Effect, controller_of, has_finalizer, is_owned_by};
use super::workload::Workload;
use crate::api::condition::{ConditionType, Finding, Reason};
use crate::api::names;
use crate::api::status::{Deletion, Outcome, Phase, RequestState, Trigger};
use crate::planted::Bug;

impl Plan<'_> {
    /// What to do about a workload that somebody deletes, or whose namespace goes.
    pub(super) fn removal(&mut self, workload: &Workload) {
        self.keep(ConditionType::Injected);
        self.keep(ConditionType::CertificateReady);
        self.note_deletion(workload);
        self.note_completion(workload);
        let answer = self.ask(workload, Trigger::Delete);
        if !matches!(answer, Hold::Release(..) | Hold::Leave) {
            // A second deletion of another cascade may come while this one waits.
            self.guard_dependents(workload);
        }
        match answer {
            Hold::Arm | Hold::Disarm | Hold::Leave => self.let_go(workload),
            Hold::Release(outcome, message) => self.release(workload, outcome, &message),
            answer => self.follow(workload, Trigger::Delete, answer),
        }
    }

    /// How the workload is being deleted. `orphan` and `foregroundDeletion` stand in its finalizers
    /// for some milliseconds only; what became of the canary tells afterwards.
    fn note_deletion(&mut self, workload: &Workload) {
        let meta = &workload.metadata;
        if meta.deletion_timestamp.is_none() || self.status.deletion == Some(Deletion::Orphan) {
            return;
        }
        let name = names::canary(self.seen.hook_name(), &uid_of(meta));
        let canary = self
            .seen
            .canaries
            .iter()
            .find(|c| c.metadata.name.as_deref() == Some(&name));
        self.status.deletion = Some(
            if has_finalizer(meta, names::ORPHAN_FINALIZER)
                || canary.is_some_and(|c| is_left_alone(&c.metadata))
            {
                Deletion::Orphan
            } else if has_finalizer(meta, names::FOREGROUND_FINALIZER)
                || canary.is_some_and(|c| c.metadata.deletion_timestamp.is_some())
                || self.status.deletion == Some(Deletion::Foreground)
            {
                Deletion::Foreground
            } else {
                Deletion::Background
            },
        );
    }

    fn release(&mut self, workload: &Workload, outcome: Outcome, message: &str) {
        if !self.settings.planted.has(Bug::ReleaseUnclosed) {
            self.close_for(workload, Trigger::Delete, outcome, message);
        }
        self.report_released(&format!("{}: {message}", outcome.as_str()));
        let finalizer = Effect::ReleaseWorkload {
            uid: uid_of(&workload.metadata),
        };
        if self.settings.planted.has(Bug::FinalizerFirst) {
            self.then.push(finalizer.clone());
        }
        self.delete_kept(workload, outcome);
        self.then.push(finalizer);
    }

    /// Deletes by name and uid what the guard kept and nobody has adopted; else only unguards.
    fn delete_kept(&mut self, workload: &Workload, outcome: Outcome) {
        let uid = uid_of(&workload.metadata);
        let Some(guard) = guard_uid(self.seen).map(ToOwned::to_owned) else {
            return;
        };
        for (kind, meta) in self.seen.dependents() {
            if !is_owned_by(meta, &guard) || meta.deletion_timestamp.is_some() {
                continue;
            }
            let adopted = controller_of(meta).is_some_and(|owner| owner.uid != uid);
            let lives_on =
                outcome == Outcome::Orphaned && !self.settings.planted.has(Bug::OrphansDeleted);
            if adopted || lives_on {
                self.then.push(Effect::Unguard(dependent(kind, meta)));
            } else {
                self.then.push(Effect::DeleteDependent {
                    dependent: dependent(kind, meta),
                    resource_version: meta.resource_version.clone().unwrap_or_default(),
                    foreground: self.status.deletion == Some(Deletion::Foreground),
                });
            }
        }
    }

    /// The workload is being deleted and there is no finalizer of ours (any more).
    fn let_go(&mut self, workload: &Workload) {
        let request = self.request_for(workload, Trigger::Delete);
        let released = request.is_some_and(|request| request.state == RequestState::Closed);
        if released || self.status.completion.is_some() {
            return self.report_released("the removal was let go on");
        }
        let message = format!(
            "{workload} was deleted before it was armed; Kubernetes takes no finalizer on an object that is being deleted, so its removal does not wait"
        );
        self.status.phase = Some(Phase::Pending);
        self.find(Finding::no(
            ConditionType::Ready,
            Reason::WorkloadDeleting,
            message.clone(),
        ));
        self.find(Finding::no(
            ConditionType::Armed,
            Reason::WorkloadDeleting,
            message,
        ));
        self.find(Finding::no(
            ConditionType::Blocking,
            Reason::NothingHeld,
            "no removal is waiting",
        ));
    }

    fn report_released(&mut self, message: &str) {
        self.status.phase = Some(if self.status.completion.is_some() {
            Phase::Completed
        } else {
            Phase::Released
        });
        for kind in [
            ConditionType::Ready,
            ConditionType::Armed,
            ConditionType::Blocking,
        ] {
            self.find(Finding::no(kind, Reason::Released, message));
        }
        if self.status.completion.is_some() {
            self.keep(ConditionType::Completed);
        }
    }
}
