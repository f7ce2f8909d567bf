//! The workload is being deleted: ask the app, wait, release.
//!
//! A release is three writes in this order: close the request in the status; delete what the guard
//! kept; take the finalizer off. A crash between any two is finished on restart with the same
//! outcome, because the closed request comes first in the hold table.

use sha2::{Digest, Sha256};

use super::calling;
use super::hold::{Asked, Hold, Question};
use super::hook::{Plan, close, dependent, is_left_alone, uid_of, whole};
use super::pods::{self, guard_uid};
use super::quorum::{self, Said, Tally};
use super::seen::{Effect, controller_of, has_finalizer, is_owned_by};
use super::workload::Workload;
use crate::api::condition::{ConditionType, Finding, Reason};
use crate::api::krake_hook::{CallOutMode, OnTimeout, QuorumPolicy};
use crate::api::status::{Deletion, Outcome, Phase, RequestState, ShutdownRequest, Terms, Trigger};
use crate::api::{HookKind, names};

impl Plan<'_> {
    /// What to do about a workload that somebody deletes, or whose namespace goes.
    pub(super) fn removal(&mut self, workload: &Workload) {
        self.keep(ConditionType::Injected);
        self.keep(ConditionType::CertificateReady);
        self.note_deletion(workload);
        self.note_completion(workload);
        self.ask_successors(&uid_of(&workload.metadata));
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
        let tally = request.map(|request| self.tally(request));
        let attempted = request.is_some_and(|r| r.deadline.is_some() || !r.terms.calls);
        Question {
            deleting: workload.metadata.deletion_timestamp.is_some(),
            finalizer: has_finalizer(&workload.metadata, names::SHUTDOWN_FINALIZER),
            wants_hold: spec.enables(HookKind::Shutdown) && !self.disabled(workload),
            orphan: self.status.deletion == Some(Deletion::Orphan),
            skip: self.skip(workload),
            completed: completed && !shutdown_first,
            namespace_terminating: self.seen.namespace_terminating,
            called: !self.seen.calls.is_empty() || attempted,
            acknowledged: tally.as_ref().map_or(0, |tally| tally.acknowledged),
            request: request.map(|request| {
                let needed = tally.as_ref().map_or(1, |tally| tally.needed);
                self.asked(request, needed)
            }),
            running: !pods::able_to_acknowledge(self.seen, &uid).is_empty(),
        }
    }

    fn asked(&self, request: &ShutdownRequest, needed: usize) -> Asked {
        Asked {
            state: request.state,
            outcome: request.outcome,
            message: request.message.clone(),
            mine: request.leader == self.settings.leader,
            deadline: request.deadline.as_ref().map(|at| at.0),
            round: request.round,
            retries: request.terms.retries,
            on_timeout: request.terms.on_timeout,
            needed,
        }
    }

    /// What pods have said to a request; not to another one.
    pub(super) fn said_to(&self, request: &ShutdownRequest) -> Said {
        Said::of(&self.status.acknowledgements, HookKind::Shutdown, |ack| {
            ack.request.as_deref() == Some(&request.id) && ack.workload_uid == request.workload_uid
        })
    }

    fn tally(&self, request: &ShutdownRequest) -> Tally {
        let able = pods::able_to_acknowledge(self.seen, &request.workload_uid);
        let said = self.said_to(request);
        let quorum = &request.terms.acknowledgements;
        quorum::tally(quorum, &request.pods, &able, &said)
    }

    /// Pods are counted, and of those that were asked none is left to say anything, or ever has.
    /// Others run in their stead: they are asked.
    fn ask_successors(&mut self, workload_uid: &str) {
        let Some(request) = &self.status.request else {
            return;
        };
        let open = request.state == RequestState::Open && request.workload_uid == workload_uid;
        if !open || request.terms.acknowledgements.policy == QuorumPolicy::Any {
            return;
        }
        let able = pods::able_to_acknowledge(self.seen, workload_uid);
        let tally = self.tally(request);
        if tally.acknowledged > 0 || !tally.missing.is_empty() || able.is_empty() {
            return;
        }
        self.change_request(|request| request.pods.extend(able));
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
            attempts: 0,
            called_pods: Vec::new(),
            outcome: None,
            message: None,
        });
        self.report_waiting(workload);
    }

    fn terms(&self) -> Terms {
        let defaults = &self.settings.hooks.shutdown;
        let spec = self.seen.hook.spec.shutdown.as_ref();
        let call_out = spec
            .and_then(|s| s.call_out.as_ref())
            .filter(|call_out| call_out.mode == CallOutMode::Service);
        Terms {
            timeout_seconds: spec
                .and_then(|s| s.timeout_seconds)
                .unwrap_or(defaults.timeout_seconds),
            retries: spec.and_then(|s| s.retries).unwrap_or(defaults.retries),
            on_timeout: spec
                .and_then(|s| s.on_timeout)
                .unwrap_or(defaults.on_timeout),
            acknowledgements: spec.map(|s| s.acknowledgements.clone()).unwrap_or_default(),
            calls: call_out.is_some(),
            fan_out: call_out
                .map(|call_out| call_out.fan_out)
                .unwrap_or_default(),
        }
    }

    /// The process that counted the deadline is gone, and may have been away for longer than the
    /// app's whole time: the app gets all of it anew.
    fn take_over(&mut self) {
        let leader = self.settings.leader.clone();
        self.change_request(|request| {
            request.leader = leader;
            begin_round(request);
        });
        self.keep_waiting();
    }

    fn next_round(&mut self) {
        self.change_request(|request| {
            request.round += 1;
            begin_round(request);
        });
        let round = self.status.request.as_ref().map_or(0, |r| r.round);
        self.notice(
            true,
            "DeadlinePassed",
            format!("no acknowledgement in time; round {round} begins"),
        );
        self.keep_waiting();
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

    pub(super) fn keep_waiting(&mut self) {
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
        let refused = calling::refusal_of(request).map(ToOwned::to_owned);
        let said = self.said_to(request);
        let name_of = |uid: &str| pods::name_of(self.seen, uid);
        let mut whom = self
            .tally(request)
            .in_words("acknowledged", name_of)
            .unwrap_or_else(|| "waiting for the app's acknowledgement".into());
        if let Some(failures) = quorum::failures(&said, name_of) {
            whom = format!("{whom}; {failures}");
        }
        let message = format!(
            "{workload} is being deleted; {whom} until {until}, round {} of {}",
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

    pub(super) fn change_request(&mut self, change: impl FnOnce(&mut ShutdownRequest)) {
        if let Some(request) = &mut self.status.request {
            change(request);
        }
    }
}

/// The round's calls, and with them its deadline, are to be made anew.
fn begin_round(request: &mut ShutdownRequest) {
    request.deadline = None;
    request.last_attempt = None;
    request.attempts = 0;
    request.called_pods.clear();
}

/// The same deletion has the same id, whichever process asks and however often.
fn request_id(workload_uid: &str, trigger: Trigger) -> String {
    let digest = Sha256::digest(format!("{workload_uid}/{trigger:?}/0"));
    digest.iter().take(8).map(|b| format!("{b:02x}")).collect()
}
