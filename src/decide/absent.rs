//! Hooks whose workload does not exist, was replaced by another one of the same name, or belongs to
//! an older hook; and what deleted workloads have left behind.

use std::ops::ControlFlow::{Break, Continue};

use jiff::SignedDuration;

use super::disposition::{Controller, Fate, disposition};
use super::hook::{Context, is_left_alone, uid_of};
use super::pods::guard_uid;
use super::requests;
use super::seen::{Effect, is_controlled, is_owned_by};
use super::step::{Step, nothing_held};
use super::workload::Workload;
use crate::api::condition::{self, ConditionType, Finding, Reason};
use crate::api::status::{Deletion, ObservedWorkload, Outcome, Phase, RequestState};
use crate::api::{HookKind, KrakeHookStatus, names};

/// How often a workload is read whose kind is not watched.
const UNWATCHED: SignedDuration = SignedDuration::from_secs(10);

impl Context<'_> {
    /// An older hook has this workload: report that and touch nothing, unless an acknowledged
    /// completion is still to be carried out.
    pub(super) fn rivalled(&self, status: &mut KrakeHookStatus, rival: &str) -> Step {
        let mut step = Step::default();
        if let Some(workload) = &self.seen.workload
            && self.may_have_promised(status, workload)
        {
            match self.complete(status, workload) {
                Break(kept) => return kept,
                Continue(completed) => step.join(completed),
            }
        }
        let spec = &self.seen.hook.spec;
        step.phase(Phase::Pending);
        step.find(Finding::no(
            ConditionType::Ready,
            Reason::WorkloadTaken,
            format!(
                "{} {} already has the hook {rival}, which is older; one workload has one hook. Delete one of them",
                spec.workload.kind, spec.workload.name
            ),
        ));
        // Nothing that is said to this hook is acted on any more, so nothing is taken.
        step.join(self.settle_last(status, "an older hook has the workload"));
        status.workload = None;
        if self.is_hook_deleting() {
            step.then.push(Effect::RemoveHookFinalizer);
        }
        step
    }

    /// Whether this hook may have accepted a completion before the older hook existed.
    fn may_have_promised(&self, status: &KrakeHookStatus, workload: &Workload) -> bool {
        let uid = uid_of(&workload.metadata);
        let met = status.workload.as_ref().is_some_and(|w| w.uid == uid);
        let done = status.completion.as_ref();
        let due = done.is_none_or(|done| done.workload_uid == uid);
        met && due && workload.metadata.deletion_timestamp.is_none()
    }

    /// Closes the open request of a workload that is gone, and records its outcome and completion
    /// in the history.
    fn settle_last(&self, status: &mut KrakeHookStatus, why: &str) -> Step {
        if let Some(request) = status.workload_request()
            && request.state == RequestState::Open
        {
            let tally = self.tally(status, request);
            let (outcome, message) = match tally.is_enough() {
                true => (
                    Outcome::Acknowledged,
                    format!("{} acknowledgement(s); {why}", tally.acknowledged),
                ),
                false => (Outcome::Skipped, why.to_owned()),
            };
            status.change_request(|request| requests::close(request, outcome, &message));
            let entry = self.entry(status, outcome, &message);
            status.remember(entry);
        }
        let Some(last) = status.workload.clone() else {
            return Step::default();
        };
        // The completion was acknowledged while the workload was being deleted: only the receipt is
        // left to write.
        self.note_completion_of(status, &last.uid, String::new(), None)
    }

    /// A workload with a new uid starts afresh: requests and completions of its predecessor do not
    /// apply.
    pub(super) fn meet(&self, status: &mut KrakeHookStatus, workload: &Workload) -> Step {
        let mut step = Step::default();
        let uid = uid_of(&workload.metadata);
        let complete =
            |message: String| Finding::yes(ConditionType::Completed, Reason::Complete, message);
        if status.workload.as_ref().is_some_and(|w| w.uid == uid) {
            if let Some(old) = condition::find(&status.conditions, ConditionType::Completed)
                && old.status == "True"
                && status.completion.is_none()
            {
                step.find(complete(old.message.clone()));
            }
            return step;
        }
        let why = "the workload was created again before anybody saw it go";
        step.join(self.settle_last(status, why));
        if let Some(done) = &status.completion {
            let at = done.at.0;
            if done.template_hash.is_empty() {
                step.find(complete(format!(
                    "{workload} that was here before ran to completion at {at}; it was created again, and runs like any other"
                )));
            }
            if done.template_hash == self.plain_template_hash(workload) {
                let created = workload.metadata.creation_timestamp.as_ref();
                let created = created.map(|at| format!(" at {}", at.0));
                step.find(complete(format!(
                    "this work ran to completion at {at}; the workload was created again{} and runs like any other",
                    created.unwrap_or_default()
                )));
            }
        }
        status.workload = Some(ObservedWorkload { uid });
        status.set_workload_request(None);
        status.completion = None;
        status.stopped = None;
        status.deletion = None;
        status.call_out = None;
        step
    }

    /// The workload is not there (yet, or any more).
    pub(super) fn absent(&self, status: &mut KrakeHookStatus) -> Step {
        let spec = &self.seen.hook.spec;
        let mut step = self.settle_leftovers(status, None);
        status.stopped = None;
        step.join(self.settle_last(
            status,
            "the workload went without waiting: somebody took its finalizer off",
        ));
        let completed = status.completion.as_ref().map(|done| done.at.0);
        let (reason, message) = match completed {
            Some(at) => {
                step.phase(Phase::Completed);
                let message = format!("{} ran to completion at {at}", spec.workload.name);
                step.find(Finding::yes(
                    ConditionType::Completed,
                    Reason::Complete,
                    message.clone(),
                ));
                (Reason::Complete, message)
            }
            None if status.workload_request().is_some() => {
                step.phase(Phase::Released);
                let how = status.workload_request().and_then(requests::in_words);
                let how = how.unwrap_or_else(|| "its removal went on".to_owned());
                let message = format!("{} is gone; {how}", spec.workload.name);
                (Reason::Released, message)
            }
            None if self.seen.kind().is_none() => {
                step.phase(Phase::Pending);
                (
                    Reason::WorkloadUnsupported,
                    format!(
                        "this version knows no {} {}: delete the hook, or install the version of the operator that it was made for",
                        spec.workload.api_version, spec.workload.kind
                    ),
                )
            }
            None => {
                let watched = self.seen.kind().is_some_and(|kind| kind.traits().watched);
                if !watched && !self.is_hook_deleting() {
                    step.look_again_at(self.now + UNWATCHED);
                }
                step.phase(Phase::Pending);
                (
                    Reason::WorkloadNotFound,
                    format!(
                        "{} {} does not exist in namespace {}; the hook waits for it",
                        spec.workload.kind,
                        spec.workload.name,
                        self.seen.namespace()
                    ),
                )
            }
        };
        // Nothing more will happen: clients that wait for `Ready` must not wait for ever.
        let over = matches!(reason, Reason::Complete | Reason::Released);
        step.find(Finding {
            kind: ConditionType::Ready,
            holds: over,
            reason,
            message: message.clone(),
        });
        step.find(Finding::no(
            ConditionType::Injected,
            reason,
            message.clone(),
        ));
        if spec.enables(HookKind::Shutdown) {
            step.find(Finding::no(ConditionType::Armed, reason, message));
        }
        step.find(nothing_held());
        if self.is_hook_deleting() && step.then.is_empty() {
            step.then.push(Effect::RemoveHookFinalizer);
        }
        step
    }

    /// Guards and canaries of workloads that are gone are always cleaned up.
    ///
    /// If the deletion left its dependents alone, the canary stands there without owner: then the
    /// pods live on, and only the guard goes. Anything else was a removal, and goes on.
    pub(super) fn settle_leftovers(
        &self,
        status: &KrakeHookStatus,
        present: Option<&Workload>,
    ) -> Step {
        let mut step = Step::default();
        let Some(guard) = guard_uid(self.seen) else {
            return step;
        };
        let present = present.map(|workload| uid_of(&workload.metadata));
        let present = present.as_deref();
        let own = present.map(|uid| names::canary(self.seen.hook_name(), uid));
        let canaries = self.seen.canaries.iter();
        let canaries: Vec<_> = canaries
            .filter(|canary| own.is_none() || canary.metadata.name != own)
            .collect();
        let orphaned = canaries.iter().any(|c| is_left_alone(&c.metadata))
            || (present.is_none() && status.deletion == Some(Deletion::Orphan));
        let last = self.seen.hook.status.as_ref();
        let last_uid = last.and_then(|last| Some(last.workload.as_ref()?.uid.as_str()));
        let mut settled = true;
        for (kind, meta) in self.seen.dependents() {
            if !is_owned_by(meta, guard) || meta.deletion_timestamp.is_some() {
                continue;
            }
            // An earlier workload of that name has left a canary, and what nobody controls is its. Without
            // one it is somebody's wish (a label was changed): it is let go, or its workload could not
            // adopt it again. But what was looked at after the workload may be the first sign of a
            // deletion that is seen in a moment.
            let uncertain = self.seen.looked_live && !is_controlled(meta);
            let fate = match Controller::of(meta, present) {
                _ if present.is_none() => Fate::Gone { orphaned },
                Controller::Workload => Fate::Held,
                Controller::Nobody if canaries.is_empty() && uncertain => Fate::Held,
                Controller::Nobody if canaries.is_empty() => Fate::Forsaken,
                Controller::Nobody | Controller::Another => Fate::Gone { orphaned },
            };
            let effect = disposition(fate, Controller::of(meta, last_uid)).effect(kind, meta);
            settled &= effect.is_none();
            step.then.extend(effect);
        }
        if settled {
            let names = canaries.iter().map(|canary| canary.metadata.name.clone());
            let removals = names.map(|name| Effect::RemoveCanary {
                name: name.unwrap_or_default(),
            });
            step.then.extend(removals);
        }
        step
    }
}
