//! Whether a removal waits: one table. The first line that matches counts; it is also the test
//! table.
//!
//! | deleting | our finalizer | more | result |
//! |---|---|---|---|
//! | no | no | hook wants a hold | Arm |
//! | no | yes | hook does not | Disarm |
//! | no | yes | hook does | Leave |
//! | no | no | hook does not | Leave |
//! | yes | no | | Leave (a finalizer cannot be added now) |
//! | yes | yes | request Closed for this uid | go on with that release and its outcome |
//! | yes | yes | the deletion orphans | Release(Orphaned) |
//! | yes | yes | hook gone, or wants no hold | Release(HookGone) |
//! | yes | yes | skip annotation | Release(Skipped) |
//! | yes | yes | completion of this uid, and not `shutdownFirst` | Release(Completed) |
//! | yes | yes | namespace terminating | Release(NamespaceTerminating) after one best-effort call |
//! | yes | yes | stopped before, and no other pods run | Release(NothingRunning): no pod is asked twice |
//! | yes | yes | no request | Open, written before any call |
//! | yes | yes | acknowledged enough | Release(Acknowledged) |
//! | yes | yes | nothing runs that could acknowledge | Release(NothingRunning) |
//! | yes | yes | the request's leader is another | TakeOver, with what is left of the time |
//! | yes | yes | no first finished attempt in this round yet | AwaitAttempt |
//! | yes | yes | now < deadline | Wait |
//! | yes | yes | now ≥ deadline, rounds left | NextRound |
//! | yes | yes | now ≥ deadline, `Delete` | Release(TimedOut) |
//! | yes | yes | now ≥ deadline, `Retain` | Retain |
//!
//! For a workload that is to be stopped (`state: Stopped`), or that is complete with
//! `shutdownFirst`, the same lines from *request Closed* on apply without a deletion: `Release`
//! then means that it is scaled down or deleted.
//!
//! *Now* and every deadline are of the leader's own clock, which cannot be set and which stops
//! while the process is suspended ([`crate::clock`]). A new leader gives the app what was left of
//! its time when the former one was last known to lead, and calls it again.
//!
//! In a terminating namespace the request is opened before the workload is deleted, because its
//! pods get no further warning.

use jiff::Timestamp;

use crate::api::krake_hook::OnTimeout;
use crate::api::status::{Outcome, RequestState};

/// What the table asks about.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The workload is being deleted.
    pub deleting: bool,
    /// It is to come to rest, or to be deleted by us: its pods are asked before.
    pub stopping: bool,
    /// It was stopped before; pods that were asked then are not taken for running.
    pub stopped: bool,
    /// It carries our finalizer.
    pub finalizer: bool,
    /// The hook is there and has `shutdown`, and neither it nor its workload is disabled.
    pub wants_hold: bool,
    /// The deletion leaves the pods alone.
    pub orphan: bool,
    /// Value of the skip annotation.
    pub skip: Option<String>,
    /// The workload ran to completion, and no shutdown is to come first.
    pub completed: bool,
    /// The namespace is being deleted.
    pub namespace_terminating: bool,
    /// The app has been called, or is being called, in this round by this process.
    pub called: bool,
    /// The request for this workload.
    pub request: Option<Asked>,
    /// How many acknowledgements count.
    pub acknowledged: usize,
    /// Some pod runs that could acknowledge; from a live look.
    pub running: bool,
}

/// The request for this workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Open or closed.
    pub state: RequestState,
    /// How it was closed.
    pub outcome: Option<Outcome>,
    /// In what words it was closed.
    pub message: Option<String>,
    /// It is this process's to count the deadline.
    pub mine: bool,
    /// End of the round.
    pub deadline: Option<Timestamp>,
    /// Number of the round, from 1.
    pub round: i64,
    /// Further rounds the terms allow in all.
    pub retries: i64,
    /// What the terms say about the last deadline.
    pub on_timeout: OnTimeout,
    /// How many acknowledgements are needed.
    pub needed: usize,
}

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Hold {
    /// Put finalizer, guards and canary in place.
    Arm,
    /// Take them away.
    Disarm,
    /// Nothing to do about a removal.
    Leave,
    /// Ask the app: write a request.
    Open,
    /// Take the request over from another leader, with what is left of its time; if that is not
    /// known, from a first call of its own.
    TakeOver,
    /// The first attempt of this round has not finished.
    AwaitAttempt,
    /// Look again then, or when something changes.
    Wait {
        /// End of the round.
        until: Timestamp,
    },
    /// Begin another round of the same request.
    NextRound,
    /// The time is up, and the removal keeps waiting.
    Retain,
    /// Let the removal go on.
    Release(Outcome, String),
}

impl Question {
    /// The answer of the table.
    pub fn answer(&self, now: Timestamp) -> Hold {
        use Outcome::{
            Acknowledged, Completed, HookGone, NamespaceTerminating, NothingRunning, Orphaned,
            Skipped, TimedOut,
        };
        let release = |outcome, words: &str| Hold::Release(outcome, words.to_owned());
        if !self.deleting && self.finalizer && self.wants_hold && self.namespace_terminating {
            return match &self.request {
                None => Hold::Open,
                Some(asked) if asked.state == RequestState::Closed => Hold::Leave,
                Some(asked) if !asked.mine => Hold::TakeOver,
                Some(asked) if asked.deadline.is_none() => Hold::AwaitAttempt,
                Some(_) => Hold::Leave,
            };
        }
        if !self.stopping {
            match (self.deleting, self.finalizer, self.wants_hold) {
                (false, false, true) => return Hold::Arm,
                (false, true, false) => return Hold::Disarm,
                (false, ..) | (true, false, _) => return Hold::Leave,
                (true, true, _) => {}
            }
        }
        if let Some(asked) = &self.request
            && asked.state == RequestState::Closed
        {
            return Hold::Release(
                asked.outcome.unwrap_or(HookGone),
                asked.message.clone().unwrap_or_default(),
            );
        }
        if self.orphan {
            return release(Orphaned, "the deletion leaves the pods running");
        }
        if !self.wants_hold {
            return release(HookGone, "the hook no longer holds this workload");
        }
        if let Some(reason) = &self.skip {
            return Hold::Release(Skipped, format!("skipped by annotation: {reason}"));
        }
        if self.completed {
            return release(Completed, "the workload ran to completion");
        }
        if self.namespace_terminating && (self.called || !self.running) {
            return release(
                NamespaceTerminating,
                "the namespace is being deleted; Kubernetes waits for nobody there",
            );
        }
        let Some(asked) = &self.request else {
            if self.stopped && !self.running {
                return release(
                    NothingRunning,
                    "the workload is stopped: its pods have been asked before",
                );
            }
            return Hold::Open;
        };
        if self.acknowledged >= asked.needed {
            let count = self.acknowledged;
            return Hold::Release(
                Acknowledged,
                format!("{count} of {} needed acknowledgements", asked.needed),
            );
        }
        if !self.running {
            return release(NothingRunning, "no pod runs that could acknowledge");
        }
        if !asked.mine {
            return Hold::TakeOver;
        }
        let Some(deadline) = asked.deadline else {
            return Hold::AwaitAttempt;
        };
        if now < deadline {
            return Hold::Wait { until: deadline };
        }
        if asked.round <= asked.retries {
            return Hold::NextRound;
        }
        match asked.on_timeout {
            OnTimeout::Delete => Hold::Release(
                TimedOut,
                format!("no acknowledgement in {} round(s)", asked.round),
            ),
            OnTimeout::Retain => Hold::Retain,
        }
    }
}

#[cfg(test)]
#[path = "hold_tests.rs"]
mod tests;
