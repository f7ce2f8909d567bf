//! The workload is being deleted: ask the app, wait, release.
//!
//! A release is three writes in this order: close the request in the status; delete what the guard
//! kept; take the finalizer off. A crash between any two is finished on restart with the same
//! outcome, because the closed request comes first in the hold table.

use super::disposition::{Controller, Fate, deletion, disposition};
use super::hold::Hold;
use super::hook::{Plan, uid_of};
use super::pods::guard_uid;
use super::requests;
use super::seen::{Effect, has_finalizer, is_owned_by};
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
            self.control_dependents();
        }
        match answer {
            Hold::Arm | Hold::Disarm | Hold::Leave => self.let_go(workload),
            Hold::Release(outcome, message) => self.release(workload, outcome, &message),
            answer => self.follow(workload, Trigger::Delete, answer),
        }
    }

    /// How the workload is being deleted.
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
        let seen = deletion(meta, canary.map(|canary| &canary.metadata));
        let before = self.status.deletion;
        // A second deletion may be another one, and what once was seen is not seen again.
        self.status.deletion = Some(match (before, seen) {
            (Some(Deletion::Foreground), Deletion::Background) => Deletion::Foreground,
            (_, seen) => seen,
        });
    }

    fn release(&mut self, workload: &Workload, outcome: Outcome, message: &str) {
        if !self.settings.planted.has(Bug::ReleaseUnclosed) {
            self.close_for(workload, Trigger::Delete, outcome, message);
        }
        let how = self.status.workload_request().and_then(requests::in_words);
        let how = how.unwrap_or_else(|| format!("{}: {message}", outcome.as_str()));
        self.report_released(&how);
        let finalizer = Effect::ReleaseWorkload {
            uid: uid_of(&workload.metadata),
        };
        if self.settings.planted.has(Bug::FinalizerFirst) {
            self.then.push(finalizer.clone());
        }
        self.delete_kept(workload, outcome);
        self.then.push(finalizer);
    }

    /// Deletes by name and uid what the guard kept, or only unguards it.
    fn delete_kept(&mut self, workload: &Workload, outcome: Outcome) {
        let uid = uid_of(&workload.metadata);
        let Some(guard) = guard_uid(self.seen).map(ToOwned::to_owned) else {
            return;
        };
        let lives_on =
            outcome == Outcome::Orphaned && !self.settings.planted.has(Bug::OrphansDeleted);
        let seen = self
            .status
            .deletion
            .filter(|seen| *seen != Deletion::Orphan);
        let deletion = match lives_on {
            true => Deletion::Orphan,
            false => seen.unwrap_or(Deletion::Background),
        };
        let fate = Fate::leaves(&workload.metadata, deletion);
        for (kind, meta) in self.seen.dependents() {
            if !is_owned_by(meta, &guard) || meta.deletion_timestamp.is_some() {
                continue;
            }
            let controller = Controller::of(meta, Some(&uid));
            let effect = disposition(fate, controller).effect(kind, meta);
            self.then.extend(effect);
        }
    }

    /// The workload is being deleted and there is no finalizer of ours (any more).
    fn let_go(&mut self, workload: &Workload) {
        if workload.metadata.deletion_timestamp.is_none() {
            return self.report_namespace_going();
        }
        if self.hook_deleting() && !has_finalizer(&workload.metadata, names::SHUTDOWN_FINALIZER) {
            // Somebody else may keep the workload for long, and there is nothing left to do for it.
            self.then.push(Effect::RemoveHookFinalizer);
        }
        let request = self.request_for(workload, Trigger::Delete);
        let released = request.is_some_and(|request| request.state == RequestState::Closed);
        if released || self.status.completion.is_some() {
            let how = request.and_then(requests::in_words);
            let how = how.unwrap_or_else(|| "the removal goes on".to_owned());
            return self.report_released(&how);
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

    /// The app has been called, and the workload's own turn comes in a moment.
    fn report_namespace_going(&mut self) {
        let message = "the namespace is being deleted: the app was called, and Kubernetes waits for nobody there";
        self.status.phase = Some(Phase::Deleting);
        self.find(Finding::no(
            ConditionType::Ready,
            Reason::WorkloadDeleting,
            message,
        ));
        self.keep(ConditionType::Armed);
        self.find(Finding::no(
            ConditionType::Blocking,
            Reason::NothingHeld,
            "no removal is waiting",
        ));
    }

    fn report_released(&mut self, message: &str) {
        let (phase, reason) = match self.status.completion {
            Some(_) => (Phase::Completed, Reason::Complete),
            None => (Phase::Released, Reason::Released),
        };
        self.status.phase = Some(phase);
        // There is nothing left to wait for: whoever waits for the hook must not wait for ever.
        self.find(Finding::yes(ConditionType::Ready, reason, message));
        for kind in [ConditionType::Armed, ConditionType::Blocking] {
            self.find(Finding::no(kind, Reason::Released, message));
        }
        if self.status.completion.is_some() {
            self.keep(ConditionType::Completed);
        }
    }
}
