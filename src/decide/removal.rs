//! The workload is being deleted: ask the app, wait, release.
//!
//! A release is three writes in this order: close the request in the status; delete what the guard
//! kept; take the finalizer off. A crash between any two is finished on restart with the same
//! outcome, because the closed request comes first in the hold table.

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use super::hold::{Asked, Hold, Question};
use super::hook::{Plan, close, dependent, is_left_alone, uid_of, whole};
use super::pods::{self, guard_uid};
use super::seen::{Call, CallOutOrder, Effect, controller_of, has_finalizer, is_owned_by};
use super::workload::Workload;
use crate::api::condition::{ConditionType, Finding, Reason};
use crate::api::krake_hook::{CallOutMode, OnTimeout, QuorumPolicy};
use crate::api::status::{
    AckResult, Attempt, Deletion, Outcome, Phase, RequestState, ShutdownRequest, Terms, Trigger,
};
use crate::api::{HookKind, names};

/// Code of an attempt that found no pod.
const NOBODY: &str = "NobodyToCall";
/// Calls are repeated after half the time that has passed, within these bounds: that backs off
/// exponentially and needs no counter that a restart could lose.
const LEAST_PAUSE: SignedDuration = SignedDuration::from_secs(1);
const MOST_PAUSE: SignedDuration = SignedDuration::from_secs(15);

impl Plan<'_> {
    /// What to do about a workload that somebody deletes, or whose namespace goes.
    pub(super) fn removal(&mut self, workload: &Workload) {
        self.keep(ConditionType::Injected);
        self.keep(ConditionType::CertificateReady);
        self.note_deletion(workload);
        self.note_completion(workload);
        let question = self.question(workload);
        let answer = question.answer(self.now);
        if !matches!(answer, Hold::Release(..) | Hold::Leave) {
            // A second deletion of another cascade may come while this one waits.
            self.guard_dependents(workload);
        }
        match answer {
            Hold::Arm | Hold::Disarm | Hold::Leave => self.let_go(workload),
            Hold::Open => self.open(workload),
            Hold::TakeOver => self.take_over(),
            Hold::AwaitAttempt => self.first_attempt(),
            Hold::Wait { until } => {
                self.look_again_at(until);
                self.call_again();
                self.report_waiting(workload);
            }
            Hold::NextRound => self.next_round(),
            Hold::Retain => self.retain(workload),
            Hold::Release(outcome, message) => self.release(workload, outcome, &message),
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

    fn question(&self, workload: &Workload) -> Question {
        let uid = uid_of(&workload.metadata);
        let spec = &self.seen.hook.spec;
        let completed = self
            .status
            .completion
            .as_ref()
            .is_some_and(|done| done.workload_uid == uid);
        let shutdown_first = spec.complete.as_ref().is_some_and(|c| c.shutdown_first);
        let request = self
            .status
            .request
            .as_ref()
            .filter(|request| request.workload_uid == uid);
        let attempted = request.is_some_and(|r| r.deadline.is_some() || !r.terms.calls);
        Question {
            deleting: workload.metadata.deletion_timestamp.is_some(),
            finalizer: has_finalizer(&workload.metadata, names::SHUTDOWN_FINALIZER),
            wants_hold: spec.enables(HookKind::Shutdown) && !self.disabled(workload),
            orphan: self.status.deletion == Some(Deletion::Orphan),
            skip: self.skip(workload),
            completed: completed && !shutdown_first,
            namespace_terminating: self.seen.namespace_terminating,
            called: self.seen.call != Call::None || attempted,
            request: request.map(|request| self.asked(request)),
            acknowledged: self.acknowledged(request),
            running: !pods::able_to_acknowledge(self.seen, &uid).is_empty(),
        }
    }

    fn asked(&self, request: &ShutdownRequest) -> Asked {
        let quorum = &request.terms.acknowledgements;
        Asked {
            state: request.state,
            outcome: request.outcome,
            message: request.message.clone(),
            mine: request.leader == self.settings.leader,
            deadline: request.deadline.as_ref().map(|at| at.0),
            round: request.round,
            retries: request.terms.retries,
            on_timeout: request.terms.on_timeout,
            needed: match quorum.policy {
                QuorumPolicy::Any => 1,
                QuorumPolicy::All => request.pods.len().max(1),
                QuorumPolicy::AtLeast => usize::try_from(quorum.count.unwrap_or(1))
                    .unwrap_or(1)
                    .max(1),
            },
        }
    }

    /// A `complete` is never taken for a `shutdown`, nor an answer to another request for this one.
    fn acknowledged(&self, request: Option<&ShutdownRequest>) -> usize {
        let Some(request) = request else { return 0 };
        self.status
            .acknowledgements
            .iter()
            .filter(|(key, _)| key.split('.').next() == Some(HookKind::Shutdown.as_str()))
            .filter(|(_, ack)| {
                ack.request.as_deref() == Some(&request.id)
                    && ack.workload_uid == request.workload_uid
                    && ack.result == AckResult::Success
            })
            .count()
    }

    fn open(&mut self, workload: &Workload) {
        let uid = uid_of(&workload.metadata);
        let pods = pods::able_to_acknowledge(self.seen, &uid);
        let terms = self.terms();
        let calls = terms.calls;
        self.notice(
            false,
            "ShutdownRequested",
            format!(
                "the workload is being deleted; {} until it acknowledges or {} s are over",
                if calls {
                    "the app is called, and the removal waits"
                } else {
                    "the removal waits"
                },
                terms.timeout_seconds
            ),
        );
        self.status.request = Some(ShutdownRequest {
            id: request_id(&uid, Trigger::Delete),
            state: RequestState::Open,
            trigger: Trigger::Delete,
            workload_uid: uid,
            pods,
            opened_at: whole(self.now),
            terms,
            leader: self.settings.leader.clone(),
            deadline: None,
            round: 1,
            last_attempt: None,
            outcome: None,
            message: None,
        });
        self.report_waiting(workload);
    }

    fn terms(&self) -> Terms {
        let defaults = &self.settings.hooks.shutdown;
        let spec = self.seen.hook.spec.shutdown.as_ref();
        let calls = spec
            .and_then(|s| s.call_out.as_ref())
            .is_some_and(|c| c.mode == CallOutMode::Service);
        Terms {
            timeout_seconds: spec
                .and_then(|s| s.timeout_seconds)
                .unwrap_or(defaults.timeout_seconds),
            retries: spec.and_then(|s| s.retries).unwrap_or(defaults.retries),
            on_timeout: spec
                .and_then(|s| s.on_timeout)
                .unwrap_or(defaults.on_timeout),
            acknowledgements: spec.map(|s| s.acknowledgements.clone()).unwrap_or_default(),
            calls,
        }
    }

    /// The process that counted the deadline is gone, and may have been away for longer than the
    /// app's whole time: the app gets all of it anew.
    fn take_over(&mut self) {
        let leader = self.settings.leader.clone();
        self.change_request(|request| {
            request.leader = leader;
            request.deadline = None;
        });
        self.keep_waiting();
    }

    fn next_round(&mut self) {
        self.change_request(|request| {
            request.round += 1;
            request.deadline = None;
            request.last_attempt = None;
        });
        let round = self.status.request.as_ref().map_or(0, |r| r.round);
        self.notice(
            true,
            "DeadlinePassed",
            format!("no acknowledgement in time; round {round} begins"),
        );
        self.keep_waiting();
    }

    /// The round's deadline counts from the end of its first attempt.
    fn first_attempt(&mut self) {
        let Some(request) = self.status.request.clone() else {
            return;
        };
        let end = |from: Timestamp| {
            let timeout = SignedDuration::from_secs(request.terms.timeout_seconds);
            Some(whole(from + timeout))
        };
        let now = self.now;
        if !request.terms.calls {
            self.change_request(|r| r.deadline = end(now));
            return self.keep_waiting();
        }
        match &self.seen.call {
            Call::Open => {}
            Call::Finished(attempt) => {
                let attempt = attempt.clone();
                self.tell_attempt(&attempt);
                let at = attempt.at.0;
                self.change_request(|r| {
                    r.last_attempt = Some(attempt);
                    r.deadline = end(at);
                });
            }
            Call::None => {
                if !self.call(end(now).map_or(now, |at| at.0)) {
                    self.tell_attempt(&nobody(now));
                    self.change_request(|r| {
                        r.last_attempt = Some(nobody(now));
                        r.deadline = end(now);
                    });
                }
            }
        }
        self.keep_waiting();
    }

    /// Within a round the app is called until it has answered, or has said that it never will.
    fn call_again(&mut self) {
        let Some(request) = self.status.request.clone() else {
            return;
        };
        let (true, Some(deadline)) = (request.terms.calls, request.deadline) else {
            return;
        };
        if let Call::Finished(attempt) = &self.seen.call
            && request
                .last_attempt
                .as_ref()
                .is_none_or(|last| last.at < attempt.at)
        {
            let attempt = attempt.clone();
            self.tell_attempt(&attempt);
            self.change_request(|r| r.last_attempt = Some(attempt));
            return;
        }
        let Some(last) = &request.last_attempt else {
            return;
        };
        if self.seen.call == Call::Open || is_final(&last.code) {
            return;
        }
        let passed = last.at.0.duration_since(request.opened_at.0) / 2;
        let due = last.at.0 + passed.clamp(LEAST_PAUSE, MOST_PAUSE);
        if self.now < due {
            self.look_again_at(due);
        } else if !self.call(deadline.0) {
            let now = self.now;
            self.change_request(|r| r.last_attempt = Some(nobody(now)));
            self.look_again_at(now + LEAST_PAUSE);
        }
    }

    /// Calls the pod after the one that was called last. False if there is none to call.
    fn call(&mut self, deadline: Timestamp) -> bool {
        let (Some(request), Some(call_out)) = (&self.status.request, &self.status.call_out) else {
            return false;
        };
        let targets = pods::targets(self.seen, call_out);
        let last = request.last_attempt.as_ref().and_then(|a| a.pod.as_ref());
        let after = targets
            .iter()
            .position(|target| Some(&target.pod) == last)
            .map_or(0, |position| position + 1);
        let Some(target) = targets.get(after).or_else(|| targets.first()) else {
            return false;
        };
        self.then.push(Effect::CallOut(Box::new(CallOutOrder {
            request: request.id.clone(),
            round: request.round,
            pod: target.pod.clone(),
            address: target.address,
            port: target.port,
            path: call_out.path.clone(),
            deadline,
        })));
        true
    }

    fn tell_attempt(&mut self, attempt: &Attempt) {
        let pod = attempt.pod.as_deref().unwrap_or("nobody");
        let known = self
            .status
            .request
            .as_ref()
            .and_then(|r| r.last_attempt.as_ref())
            .is_some_and(|last| last.code == attempt.code && last.pod == attempt.pod);
        if known {
            return;
        }
        match attempt.code.as_str() {
            NOBODY => self.notice(
                true,
                "NobodyToCall",
                "no ready pod behind the Service can be called; the removal waits all the same",
            ),
            code if is_delivered(code) => {
                self.notice(false, "AppCalled", format!("pod {pod} was asked to shut down"));
            }
            "404" | "405" | "BadPath" => self.notice(
                true,
                "ShutdownServiceRefused",
                format!(
                    "pod {pod} answered {} to the shutdown call: correct spec.shutdown.callOut.service (port, path); the removal waits all the same",
                    attempt.code
                ),
            ),
            code => self.notice(
                true,
                "CallFailed",
                format!("pod {pod} could not be asked to shut down ({code}); the call is repeated"),
            ),
        }
    }

    fn retain(&mut self, workload: &Workload) {
        let id = self.status.request.as_ref().map(|r| r.id.clone());
        let told = self
            .status
            .history
            .iter()
            .any(|entry| entry.outcome == Outcome::Retained && entry.request == id);
        if !told {
            let message = "the app did not acknowledge in time; the removal keeps waiting";
            let entry = self.entry(Outcome::Retained, message);
            self.remember(entry);
            self.notice(true, "Retained", message);
        }
        self.report_waiting(workload);
        self.status.phase = Some(Phase::Retained);
        self.find(Finding::yes(
            ConditionType::Blocking,
            Reason::Retained,
            format!(
                "the time is up and spec.shutdown.onTimeout is {:?}: the removal waits for a late acknowledgement, or for the annotation {}: <reason>",
                OnTimeout::Retain,
                names::SKIP_ANNOTATION
            ),
        ));
    }

    fn release(&mut self, workload: &Workload, outcome: Outcome, message: &str) {
        let closed = self
            .status
            .request
            .as_ref()
            .is_some_and(|r| r.state == RequestState::Closed);
        if !closed {
            if self.status.request.is_none() {
                self.open(workload);
                self.notices.clear();
            }
            self.change_request(|request| close(request, outcome, message));
            // A completion is in the history since the app said so.
            if outcome != Outcome::Completed {
                let entry = self.entry(outcome, message);
                self.remember(entry);
            }
            let warning = matches!(outcome, Outcome::TimedOut | Outcome::NamespaceTerminating);
            self.notice(
                warning,
                outcome.as_str(),
                format!("the removal goes on: {message}"),
            );
        }
        self.report_released(&format!("{}: {message}", outcome.as_str()));
        self.delete_kept(workload, outcome);
        self.then.push(Effect::ReleaseWorkload {
            uid: uid_of(&workload.metadata),
        });
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
            if adopted || outcome == Outcome::Orphaned {
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
        let released = self
            .status
            .request
            .as_ref()
            .is_some_and(|r| r.state == RequestState::Closed);
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

    fn keep_waiting(&mut self) {
        if let Some(workload) = &self.seen.workload {
            self.report_waiting(workload);
        }
    }

    fn report_waiting(&mut self, workload: &Workload) {
        let Some(request) = &self.status.request else {
            return;
        };
        let until = request
            .deadline
            .as_ref()
            .map_or_else(|| "its first call has ended".into(), |at| at.0.to_string());
        let refused = request
            .last_attempt
            .as_ref()
            .filter(|a| matches!(a.code.as_str(), "404" | "405" | "BadPath"))
            .map(|a| a.code.clone());
        let message = format!(
            "{workload} is being deleted; waiting for the app's acknowledgement until {until}, round {} of {}",
            request.round,
            request.terms.retries + 1
        );
        self.status.phase = Some(Phase::Waiting);
        self.find(Finding::yes(
            ConditionType::Blocking,
            Reason::AwaitingAcknowledgement,
            message.clone(),
        ));
        self.find(match refused {
            Some(code) => Finding::no(
                ConditionType::Ready,
                Reason::ShutdownServiceRefused,
                format!("the app answered {code} to the shutdown call: correct spec.shutdown.callOut.service (port, path). {message}"),
            ),
            None if pods::only_host_network(self.seen) => Finding::no(
                ConditionType::Ready,
                Reason::NobodyToCall,
                format!("pods with hostNetwork are not called, their address is a node's. {message}"),
            ),
            None => Finding::yes(ConditionType::Ready, Reason::AwaitingAcknowledgement, message),
        });
        self.keep(ConditionType::Armed);
    }

    fn change_request(&mut self, change: impl FnOnce(&mut ShutdownRequest)) {
        if let Some(request) = &mut self.status.request {
            change(request);
        }
    }
}

/// The same deletion has the same id, whichever process asks and however often.
fn request_id(workload_uid: &str, trigger: Trigger) -> String {
    let digest = Sha256::digest(format!("{workload_uid}/{trigger:?}/0"));
    digest.iter().take(8).map(|b| format!("{b:02x}")).collect()
}

fn nobody(now: Timestamp) -> Attempt {
    Attempt {
        at: whole(now),
        pod: None,
        code: NOBODY.to_owned(),
    }
}

fn is_delivered(code: &str) -> bool {
    code.len() == 3 && code.starts_with('2')
}

fn is_final(code: &str) -> bool {
    is_delivered(code) || matches!(code, "404" | "405" | "BadPath")
}
