//! One request to the app to shut down, whatever it is for: a removal, `state: Stopped`, or a completion
//! with `shutdownFirst`. What is asked, until when, and who has answered.

use jiff::SignedDuration;

use super::hold::{Asked, Hold, Question};
use super::hook::{Plan, uid_of, whole};
use super::pods;
use super::quorum::{self, Said, Tally};
use super::requests::{aim, why};
use super::seen::has_finalizer;
use super::workload::Workload;
use crate::api::condition::ConditionType;
use crate::api::krake_hook::QuorumPolicy;
use crate::api::status::{Deletion, Outcome, RequestState, ShutdownRequest, Trigger};
use crate::api::{HookKind, names};
use crate::planted::Bug;

/// An app whose time is nearly up when the leader changes has so much at least: what it has said
/// meanwhile, and nobody has answered, it says again.
const HAND_OVER: SignedDuration = SignedDuration::from_secs(5);

impl Plan<'_> {
    /// Asks the app before a workload comes to rest that nobody deletes. True when it has answered, or
    /// need not be asked; until then everything there is to do has been said.
    pub(super) fn has_been_asked(&mut self, workload: &Workload, purpose: Trigger) -> bool {
        if !self.seen.hook.spec.enables(HookKind::Shutdown) {
            self.close_open(Outcome::HookGone, "the hook no longer holds this workload");
            return true;
        }
        self.keep(ConditionType::Injected);
        self.keep(ConditionType::CertificateReady);
        self.keep_armed(workload);
        let answer = self.ask(workload, purpose);
        if let Hold::Release(outcome, message) = answer {
            self.close_for(workload, purpose, outcome, &message);
            return true;
        }
        self.guard_dependents(workload);
        self.follow(workload, purpose, answer);
        false
    }

    /// The answer of the hold table.
    pub(super) fn ask(&mut self, workload: &Workload, purpose: Trigger) -> Hold {
        self.take_for(workload, purpose);
        self.ask_successors(&uid_of(&workload.metadata));
        self.question(workload, purpose).answer(self.now)
    }

    /// Does what the hold table says about asking.
    pub(super) fn follow(&mut self, workload: &Workload, purpose: Trigger, answer: Hold) {
        match answer {
            Hold::Arm | Hold::Disarm | Hold::Leave | Hold::Release(..) => {}
            Hold::Open => self.open(workload, purpose),
            Hold::TakeOver => self.take_over(),
            Hold::AwaitAttempt => self.first_attempt(),
            Hold::Wait { until } => {
                self.look_again_at(until);
                self.call_again();
                self.report_waiting(workload);
            }
            Hold::NextRound => self.next_round(),
            Hold::Retain => self.retain(workload),
        }
    }

    fn question(&self, workload: &Workload, purpose: Trigger) -> Question {
        let uid = uid_of(&workload.metadata);
        let spec = &self.seen.hook.spec;
        let completed = self
            .status
            .completion
            .as_ref()
            .is_some_and(|done| done.workload_uid == uid);
        let shutdown_first = spec.complete.as_ref().is_some_and(|c| c.shutdown_first);
        let request = self.request_for(workload, purpose);
        let stopped = self.status.stopped.as_ref();
        let stopped = stopped.is_some_and(|stopped| stopped.workload_uid == uid);
        let running = match (self.status.workload_request(), stopped) {
            (Some(last), true) if request.is_none() => self.others_run(&uid, last),
            _ => !pods::able_to_acknowledge(self.seen, &uid).is_empty(),
        };
        let tally = request.map(|request| self.tally(request));
        let attempted = request.is_some_and(|r| r.deadline.is_some() || !r.terms.calls);
        Question {
            deleting: workload.metadata.deletion_timestamp.is_some(),
            stopping: purpose != Trigger::Delete,
            stopped,
            finalizer: has_finalizer(&workload.metadata, names::SHUTDOWN_FINALIZER),
            wants_hold: spec.enables(HookKind::Shutdown) && !self.disabled(workload),
            orphan: self.status.deletion == Some(Deletion::Orphan),
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

    /// What pods have said to a request; not to another one.
    pub(super) fn said_to(&self, request: &ShutdownRequest) -> Said {
        Said::of(&self.status.acknowledgements, HookKind::Shutdown, |ack| {
            ack.request.as_deref() == Some(&request.id) && ack.workload_uid == request.workload_uid
        })
    }

    /// How far a request is.
    pub(super) fn tally(&self, request: &ShutdownRequest) -> Tally {
        let able = pods::able_to_acknowledge(self.seen, &request.workload_uid);
        let said = self.said_to(request);
        let quorum = &request.terms.acknowledgements;
        quorum::tally(quorum, &request.pods, &able, &said)
    }

    /// Pods are counted, and of those that were asked none is left to say anything, or ever has.
    /// Others run in their stead: they are asked.
    fn ask_successors(&mut self, workload_uid: &str) {
        let Some(request) = self.status.workload_request() else {
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
        let next = pods::to_ask(self.seen, workload_uid);
        self.change_request(|request| request.pods.extend(next));
    }

    fn open(&mut self, workload: &Workload, purpose: Trigger) {
        let terms = self.terms();
        self.notice(
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
        self.begin(workload, purpose, terms);
        self.report_waiting(workload);
    }

    /// The process that counted the deadline leads no more. What it had left of the app's time when it
    /// was last known to lead is what the app still has; where nobody can tell, it has all of it. It is
    /// called again: what that process was told of its calls may be lost.
    fn take_over(&mut self) {
        let leader = self.settings.leader.clone();
        let left = self
            .status
            .workload_request()
            .and_then(|r| self.time_left(r));
        let keeps_deadline = self.settings.planted.has(Bug::DeadlineKept);
        let now = self.now;
        self.change_request(|request| {
            request.leader = leader;
            if !keeps_deadline {
                begin_round(request);
                request.deadline = left.map(|left| whole(now + left));
            }
        });
        self.keep_waiting();
    }

    /// By the clock of the process before: its deadline, and when it was last known to lead.
    fn time_left(&self, request: &ShutdownRequest) -> Option<SignedDuration> {
        let before = self.settings.predecessor.as_ref();
        let before = before.filter(|before| before.term == request.leader)?;
        let left = request.deadline.as_ref()?.0.duration_since(before.renewed);
        if left <= SignedDuration::ZERO {
            // It has led, and could be told, until the time was up and longer.
            return Some(SignedDuration::ZERO);
        }
        let all = SignedDuration::from_secs(request.terms.timeout_seconds);
        Some(left.max(HAND_OVER).min(all))
    }

    fn next_round(&mut self) {
        self.change_request(|request| {
            request.round += 1;
            begin_round(request);
        });
        let round = self.status.workload_request().map_or(0, |r| r.round);
        self.notice(
            true,
            "DeadlinePassed",
            format!("no acknowledgement in time; round {round} begins"),
        );
        self.keep_waiting();
    }

    fn retain(&mut self, workload: &Workload) {
        let request = self.status.workload_request();
        let id = request.map(|r| r.id.clone());
        let aim = aim(request.map_or(Trigger::Delete, |r| r.trigger));
        let told = self
            .status
            .history
            .iter()
            .any(|entry| entry.outcome == Outcome::Retained && entry.request == id);
        if !told {
            let message = format!("the app did not acknowledge in time; {aim} keeps waiting");
            let message = self.with_fault(message);
            let entry = self.entry(Outcome::Retained, &message);
            self.remember(entry);
            self.notice(true, "Retained", message);
        }
        self.report_retained(workload);
    }

    /// What came of calling the app belongs to how its request ended.
    pub(super) fn with_fault(&self, message: String) -> String {
        let request = self.status.workload_request();
        match request.and_then(|request| self.call_fault(request)) {
            Some(fault) => format!("{message}. {}", fault.what),
            None => message,
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
