//! Whether a removal waits: one table, read from the top. It is also the test table.
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
//! | yes | yes | stopped before, and no other pods run | Release(NothingRunning): nobody is asked twice |
//! | yes | yes | no request | Open, written before any call |
//! | yes | yes | acknowledged enough | Release(Acknowledged) |
//! | yes | yes | nothing runs that could acknowledge | Release(NothingRunning) |
//! | yes | yes | the request's leader is another | TakeOver |
//! | yes | yes | no first finished attempt in this round yet | AwaitAttempt |
//! | yes | yes | now < deadline | Wait |
//! | yes | yes | now ≥ deadline, rounds left | NextRound |
//! | yes | yes | now ≥ deadline, `Delete` | Release(TimedOut) |
//! | yes | yes | now ≥ deadline, `Retain` | Retain |
//!
//! A workload that is to be stopped (`state: Stopped`), or goes because it is complete and has
//! `shutdownFirst`, takes the same way from *request Closed* on, without being deleted: `Release` then
//! means that it is scaled or deleted.
//!
//! A terminating namespace asks for the call before its workloads are deleted, because its pods get
//! no further warning: there `Open` comes while the workload is not being deleted yet.

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
    /// Count the deadline anew from an own first attempt.
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
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A removal that waits, ten seconds before its deadline at second 100.
    fn waiting() -> Question {
        Question {
            deleting: true,
            stopping: false,
            stopped: false,
            finalizer: true,
            wants_hold: true,
            orphan: false,
            skip: None,
            completed: false,
            namespace_terminating: false,
            called: true,
            request: Some(open()),
            acknowledged: 0,
            running: true,
        }
    }

    fn open() -> Asked {
        Asked {
            state: RequestState::Open,
            outcome: None,
            message: None,
            mine: true,
            deadline: Some(at(100)),
            round: 1,
            retries: 0,
            on_timeout: OnTimeout::Delete,
            needed: 1,
        }
    }

    fn outcome(hold: &Hold) -> Option<Outcome> {
        match hold {
            Hold::Release(outcome, _) => Some(*outcome),
            _ => None,
        }
    }

    type Row = (&'static str, fn(&mut Question), fn(&Hold) -> bool);

    #[test]
    fn the_table_line_by_line() {
        let now = at(90);
        let rows: &[Row] = &[
            (
                "wanted and not armed",
                |q| (q.deleting, q.finalizer) = (false, false),
                |h| *h == Hold::Arm,
            ),
            (
                "armed and no longer wanted",
                |q| (q.deleting, q.wants_hold) = (false, false),
                |h| *h == Hold::Disarm,
            ),
            ("armed", |q| q.deleting = false, |h| *h == Hold::Leave),
            (
                "neither armed nor wanted",
                |q| (q.deleting, q.finalizer, q.wants_hold) = (false, false, false),
                |h| *h == Hold::Leave,
            ),
            (
                "deleted before it was armed",
                |q| q.finalizer = false,
                |h| *h == Hold::Leave,
            ),
            (
                "a closed request goes on with its outcome whatever else is true",
                |q| {
                    let asked = q.request.as_mut().unwrap();
                    asked.state = RequestState::Closed;
                    asked.outcome = Some(Outcome::TimedOut);
                    q.acknowledged = 3;
                    q.orphan = true;
                },
                |h| outcome(h) == Some(Outcome::TimedOut),
            ),
            (
                "orphan before everything that would delete",
                |q| {
                    q.orphan = true;
                    q.wants_hold = false;
                    q.skip = Some("x".into());
                },
                |h| outcome(h) == Some(Outcome::Orphaned),
            ),
            (
                "hook gone",
                |q| q.wants_hold = false,
                |h| outcome(h) == Some(Outcome::HookGone),
            ),
            (
                "skip",
                |q| q.skip = Some("on call says so".into()),
                |h| matches!(h, Hold::Release(Outcome::Skipped, m) if m.contains("on call")),
            ),
            (
                "completed",
                |q| q.completed = true,
                |h| outcome(h) == Some(Outcome::Completed),
            ),
            (
                "namespace goes, app called",
                |q| q.namespace_terminating = true,
                |h| outcome(h) == Some(Outcome::NamespaceTerminating),
            ),
            (
                "namespace goes, app not called yet",
                |q| {
                    q.namespace_terminating = true;
                    q.called = false;
                    q.request = None;
                },
                |h| *h == Hold::Open,
            ),
            (
                "namespace goes, workload not deleted yet",
                |q| {
                    q.namespace_terminating = true;
                    q.deleting = false;
                    q.request = None;
                },
                |h| *h == Hold::Open,
            ),
            (
                "nobody asked yet",
                |q| q.request = None,
                |h| *h == Hold::Open,
            ),
            (
                "stopped, and nothing else runs",
                |q| {
                    q.request = None;
                    q.stopped = true;
                    q.running = false;
                },
                |h| outcome(h) == Some(Outcome::NothingRunning),
            ),
            (
                "stopped, and somebody has scaled it up since",
                |q| {
                    q.request = None;
                    q.stopped = true;
                },
                |h| *h == Hold::Open,
            ),
            (
                "acknowledged",
                |q| q.acknowledged = 1,
                |h| outcome(h) == Some(Outcome::Acknowledged),
            ),
            (
                "acknowledged although nothing runs any more",
                |q| {
                    q.acknowledged = 1;
                    q.running = false;
                },
                |h| outcome(h) == Some(Outcome::Acknowledged),
            ),
            (
                "nothing runs",
                |q| q.running = false,
                |h| outcome(h) == Some(Outcome::NothingRunning),
            ),
            (
                "another leader's",
                |q| q.request.as_mut().unwrap().mine = false,
                |h| *h == Hold::TakeOver,
            ),
            (
                "no attempt has finished",
                |q| q.request.as_mut().unwrap().deadline = None,
                |h| *h == Hold::AwaitAttempt,
            ),
            (
                "before the deadline",
                |_| {},
                |h| *h == Hold::Wait { until: at(100) },
            ),
        ];
        for (name, change, expected) in rows {
            let mut question = waiting();
            change(&mut question);
            let answer = question.answer(now);
            assert!(expected(&answer), "{name}: {answer:?}");
        }
    }

    /// Without a deletion, armed or not: the same answers, for as long as they make sense.
    #[test]
    fn a_stop_takes_the_same_way() {
        let rows: &[Row] = &[
            ("to be stopped", |q| q.request = None, |h| *h == Hold::Open),
            (
                "not armed yet",
                |q| {
                    q.finalizer = false;
                    q.request = None;
                },
                |h| *h == Hold::Open,
            ),
            ("waiting", |_| {}, |h| *h == Hold::Wait { until: at(100) }),
            (
                "acknowledged",
                |q| q.acknowledged = 1,
                |h| outcome(h) == Some(Outcome::Acknowledged),
            ),
            (
                "nothing runs",
                |q| q.running = false,
                |h| outcome(h) == Some(Outcome::NothingRunning),
            ),
            (
                "skipped",
                |q| q.skip = Some("x".into()),
                |h| outcome(h) == Some(Outcome::Skipped),
            ),
            (
                "no hold is wanted any more",
                |q| q.wants_hold = false,
                |h| outcome(h) == Some(Outcome::HookGone),
            ),
            (
                "another leader's",
                |q| q.request.as_mut().unwrap().mine = false,
                |h| *h == Hold::TakeOver,
            ),
            (
                "closed",
                |q| {
                    let asked = q.request.as_mut().unwrap();
                    asked.state = RequestState::Closed;
                    asked.outcome = Some(Outcome::TimedOut);
                },
                |h| outcome(h) == Some(Outcome::TimedOut),
            ),
        ];
        for (name, change, expected) in rows {
            let mut question = waiting();
            (question.deleting, question.stopping) = (false, true);
            change(&mut question);
            let answer = question.answer(at(90));
            assert!(expected(&answer), "{name}: {answer:?}");
        }
    }

    #[test]
    fn the_deadline_is_exact_and_rounds_come_before_the_end() {
        let mut question = waiting();
        assert_eq!(question.answer(at(99)), Hold::Wait { until: at(100) });
        assert_eq!(outcome(&question.answer(at(100))), Some(Outcome::TimedOut));
        question.request.as_mut().unwrap().on_timeout = OnTimeout::Retain;
        assert_eq!(question.answer(at(100)), Hold::Retain);
        question.request.as_mut().unwrap().retries = 1;
        assert_eq!(question.answer(at(100)), Hold::NextRound);
        question.request.as_mut().unwrap().round = 2;
        assert_eq!(question.answer(at(100)), Hold::Retain);
        question.acknowledged = 1;
        assert_eq!(
            outcome(&question.answer(at(500))),
            Some(Outcome::Acknowledged)
        );
    }
}
