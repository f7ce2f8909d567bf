//! The course of a shutdown request, whatever its trigger: a removal, `state: Stopped`, or a
//! completion with `shutdownFirst`.

use std::ops::ControlFlow::{self, Break, Continue};

use jiff::SignedDuration;

use super::hold::{Asked, Hold, Question};
use super::hook::{Context, uid_of, whole};
use super::pods;
use super::quorum::{self, Said, Tally};
use super::requests::{aim, why};
use super::seen::has_finalizer;
use super::step::Step;
use super::workload::Workload;
use crate::api::condition::ConditionType;
use crate::api::krake_hook::QuorumPolicy;
use crate::api::status::{Deletion, Outcome, RequestState, ShutdownRequest, Trigger};
use crate::api::{HookKind, KrakeHookStatus, names};

/// The least time an app has left after a change of the leader, so that it can repeat an
/// acknowledgement that was not answered meanwhile.
const HAND_OVER: SignedDuration = SignedDuration::from_secs(5);

impl Context<'_> {
    /// Asks the app before its workload is scaled to zero or deleted by this operator. Continues
    /// once the app has answered or need not be asked; breaks while it is being waited for.
    pub(super) fn ask_before_rest(
        &self,
        status: &mut KrakeHookStatus,
        workload: &Workload,
        purpose: Trigger,
    ) -> ControlFlow<Step, Step> {
        if !self.seen.hook.spec.enables(HookKind::Shutdown) {
            let why = "the hook no longer holds this workload";
            return Continue(self.close_open(status, Outcome::HookGone, why));
        }
        let mut step = self.keep_armed(status, workload);
        step.keep([ConditionType::Injected, ConditionType::CertificateReady]);
        let answer = self.ask(status, workload, purpose);
        if let Hold::Release(outcome, message) = answer {
            step.join(self.close_for(status, workload, purpose, outcome, &message));
            return Continue(step);
        }
        step.join(self.guard_dependents(workload).missing);
        step.join(self.follow(status, workload, purpose, answer));
        Break(step)
    }

    /// Looks the answer up in the hold table.
    pub(super) fn ask(
        &self,
        status: &mut KrakeHookStatus,
        workload: &Workload,
        purpose: Trigger,
    ) -> Hold {
        self.take_for(status, workload, purpose);
        self.ask_successors(status, &uid_of(&workload.metadata));
        self.question(status, workload, purpose).answer(self.now)
    }

    /// Carries out the answer of the hold table.
    pub(super) fn follow(
        &self,
        status: &mut KrakeHookStatus,
        workload: &Workload,
        purpose: Trigger,
        answer: Hold,
    ) -> Step {
        let said = match answer {
            Hold::Arm | Hold::Disarm | Hold::Leave | Hold::Release(..) => return Step::default(),
            Hold::Retain => return self.retain(status, workload),
            Hold::Open => self.open(status, workload, purpose),
            Hold::TakeOver => {
                self.take_over(status);
                Step::default()
            }
            Hold::AwaitAttempt => self.first_attempt(status),
            Hold::Wait { until } => {
                let mut step = self.call_again(status);
                step.look_again_at(until);
                step
            }
            Hold::NextRound => next_round(status),
        };
        said.and(self.report_waiting(status, workload))
    }

    fn question(
        &self,
        status: &KrakeHookStatus,
        workload: &Workload,
        purpose: Trigger,
    ) -> Question {
        let uid = uid_of(&workload.metadata);
        let spec = &self.seen.hook.spec;
        let done = status.completion.as_ref();
        let completed = done.is_some_and(|done| done.workload_uid == uid);
        let shutdown_first = spec.complete.as_ref().is_some_and(|c| c.shutdown_first);
        let request = self.request_for(status, workload, purpose);
        let stopped = status.stopped.as_ref();
        let stopped = stopped.is_some_and(|stopped| stopped.workload_uid == uid);
        let running = match (status.workload_request(), stopped) {
            (Some(last), true) if request.is_none() => self.others_run(&uid, last),
            _ => !pods::able_to_acknowledge(self.seen, &uid).is_empty(),
        };
        let tally = request.map(|request| self.tally(status, request));
        let attempted = request.is_some_and(|r| r.deadline.is_some() || !r.terms.calls);
        Question {
            deleting: workload.metadata.deletion_timestamp.is_some(),
            stopping: purpose != Trigger::Delete,
            stopped,
            finalizer: has_finalizer(&workload.metadata, names::SHUTDOWN_FINALIZER),
            wants_hold: spec.enables(HookKind::Shutdown) && !self.disabled(workload),
            orphan: status.deletion == Some(Deletion::Orphan),
            skip: self.skip(workload),
            completed: completed && !shutdown_first && purpose == Trigger::Delete,
            namespace_terminating: self.seen.namespace_terminating,
            called: !self.seen.calls.is_empty() || attempted,
            acknowledged: tally.as_ref().map_or(0, |tally| tally.acknowledged),
            request: request.map(|request| {
                let needed = tally.as_ref().map_or(1, |tally| tally.needed);
                self.asked(request, needed)
            }),
            running,
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

    /// How many acknowledgements a request has, and needs.
    pub(super) fn tally(&self, status: &KrakeHookStatus, request: &ShutdownRequest) -> Tally {
        let able = pods::able_to_acknowledge(self.seen, &request.workload_uid);
        let quorum = &request.terms.acknowledgements;
        quorum::tally(quorum, &request.pods, &able, &said_to(status, request))
    }

    /// If pods are counted and none of those that were asked has acknowledged or still can, the
    /// pods that run now are asked in their place.
    fn ask_successors(&self, status: &mut KrakeHookStatus, workload_uid: &str) {
        let Some(request) = status.workload_request() else {
            return;
        };
        let open = request.state == RequestState::Open && request.workload_uid == workload_uid;
        if !open || request.terms.acknowledgements.policy == QuorumPolicy::Any {
            return;
        }
        let able = pods::able_to_acknowledge(self.seen, workload_uid);
        let tally = self.tally(status, request);
        if tally.acknowledged > 0 || !tally.missing.is_empty() || able.is_empty() {
            return;
        }
        let next = pods::to_ask(self.seen, workload_uid);
        status.change_request(|request| request.pods.extend(next));
    }

    fn open(&self, status: &mut KrakeHookStatus, workload: &Workload, purpose: Trigger) -> Step {
        let mut step = Step::default();
        let terms = self.terms();
        step.notice(
            false,
            "ShutdownRequested",
            format!(
                "the workload {}; {}{} waits until it acknowledges or {} s are over",
                why(purpose),
                if terms.calls {
                    "the app is called, and "
                } else {
                    ""
                },
                aim(purpose),
                terms.timeout_seconds
            ),
        );
        self.begin(status, workload, purpose, terms);
        step
    }

    /// Another process counted the deadline until now. The app has what was left of its time when
    /// that process was last known to lead, or all of its time if that is not known. It is called
    /// again, because the results of the calls so far may be lost.
    fn take_over(&self, status: &mut KrakeHookStatus) {
        let request = status.workload_request();
        let left = request.and_then(|request| self.time_left(request));
        status.change_request(|request| {
            request.leader = self.settings.leader.clone();
            begin_round(request);
            request.deadline = left.map(|left| whole(self.now + left));
        });
    }

    /// What was left, by the clock of the former leader: its deadline, and when it was last known
    /// to lead.
    fn time_left(&self, request: &ShutdownRequest) -> Option<SignedDuration> {
        let before = self.settings.predecessor.as_ref();
        let before = before.filter(|before| before.term == request.leader)?;
        let left = request.deadline.as_ref()?.0.duration_since(before.renewed);
        if left <= SignedDuration::ZERO {
            // That process still led, and could be told, when the deadline passed.
            return Some(SignedDuration::ZERO);
        }
        let all = SignedDuration::from_secs(request.terms.timeout_seconds);
        Some(left.max(HAND_OVER).min(all))
    }

    fn retain(&self, status: &mut KrakeHookStatus, workload: &Workload) -> Step {
        let mut step = Step::default();
        let request = status.workload_request();
        let id = request.map(|r| r.id.clone());
        let aim = aim(request.map_or(Trigger::Delete, |r| r.trigger));
        let mut history = status.history.iter();
        let told = history.any(|entry| entry.outcome == Outcome::Retained && entry.request == id);
        if !told {
            let message = format!("the app did not acknowledge in time; {aim} keeps waiting");
            let message = self.with_fault(status, message);
            let entry = self.entry(status, Outcome::Retained, &message);
            status.remember(entry);
            step.notice(true, "Retained", message);
        }
        step.and(self.report_retained(status, workload))
    }

    /// Adds why the app could not be called, if that is known.
    pub(super) fn with_fault(&self, status: &KrakeHookStatus, message: String) -> String {
        let request = status.workload_request();
        match request.and_then(|request| self.call_fault(status, request)) {
            Some(fault) => format!("{message}. {}", fault.what),
            None => message,
        }
    }
}

/// What pods have answered to this request.
pub(super) fn said_to(status: &KrakeHookStatus, request: &ShutdownRequest) -> Said {
    Said::of(&status.acknowledgements, HookKind::Shutdown, |ack| {
        ack.request.as_deref() == Some(&request.id) && ack.workload_uid == request.workload_uid
    })
}

fn next_round(status: &mut KrakeHookStatus) -> Step {
    status.change_request(|request| {
        request.round += 1;
        begin_round(request);
    });
    let round = status.workload_request().map_or(0, |r| r.round);
    let mut step = Step::default();
    let note = format!("no acknowledgement in time; round {round} begins");
    step.notice(true, "DeadlinePassed", note);
    step
}

/// The calls of the round start again, and with them its deadline.
fn begin_round(request: &mut ShutdownRequest) {
    request.deadline = None;
    request.last_attempt = None;
    request.attempts = 0;
    request.called_pods.clear();
}
