//! `state: Stopped` and `Running`, and the scaling to zero that a completion may ask for.
//!
//! A stop is three writes in this order: what the workload had goes into the status, together with
//! the end of the request; the workload is scaled to zero; the status says since when. A crash
//! between any two is finished on restart.
//!
//! | `state` | recorded | workload | |
//! |---|---|---|---|
//! | Stopped | nothing | at zero | record it; there is nothing to give back |
//! | Stopped | nothing | runs | ask the app; then record, and scale to zero |
//! | any | begun | runs | record what it has now, and scale to zero |
//! | any | begun | at zero | record since when |
//! | Stopped | done | at zero | nothing |
//! | Stopped | done | runs | somebody else has scaled it up: say so, and do not fight |
//! | Running | nothing | | an open request is cancelled, unless a pod has acknowledged it |
//! | Running | nothing | runs, and a pod has acknowledged | ask the others; then record, and scale to zero |
//! | Running | done | at zero, by us, and its pods end | give it back what it had |
//! | Running | done | anything else | forget it |
//!
//! *By us* is what the API server remembers: our field manager still owns the zero. So what the
//! workload had is given back once, whatever crashes, and never against somebody else's zero.
//!
//! What a pod has acknowledged is acted on: it has shut down, and waits for its end. So a stop that is
//! not wanted any more is carried through all the same once a pod has said so, and then taken back. A
//! hook that is to go, or to keep out, cannot wait for the other pods: it carries through what enough
//! have acknowledged, and else says whom it leaves behind.

use std::collections::BTreeSet;
use std::ops::ControlFlow::{self, Break, Continue};

use jiff::SignedDuration;

use super::asking::said_to;
use super::hook::{Context, uid_of, whole};
use super::pods;
use super::seen::{Effect, Refusal};
use super::step::Step;
use super::workload::Workload;
use crate::api::KrakeHookStatus;
use crate::api::condition::{ConditionType, Finding, Reason};
use crate::api::kind::Stop;
use crate::api::krake_hook::State;
use crate::api::status::{Outcome, Phase, RequestState, ShutdownRequest, Stopped, Trigger};

/// What is not looked at while a workload is scaled.
const WHILE_SCALED: [ConditionType; 3] = [
    ConditionType::Injected,
    ConditionType::CertificateReady,
    ConditionType::Armed,
];

/// How far a workload is that is to come to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopProgress {
    /// The app is asked, or the workload is being scaled.
    UnderWay,
    /// It is at zero.
    Reached,
    /// It was, and has been scaled up since by somebody else.
    Ended,
}

impl Context<'_> {
    /// Carries out `spec.state`. Continues if there is anything else to do in this round.
    pub(super) fn settle_state(
        &self,
        status: &mut KrakeHookStatus,
        workload: &Workload,
    ) -> ControlFlow<Step, Step> {
        let wanted =
            self.seen.hook.spec.state == State::Stopped && workload.traits().stop != Stop::Cannot;
        let record = record_of(status, workload).cloned();
        match (wanted, record) {
            (false, None) if !self.has_stop_been_acknowledged(status, workload) => {
                let why = "spec.state is Running again: the workload is not stopped";
                Continue(self.cancel_stop(status, why))
            }
            (false, Some(record)) if record.because != Trigger::Stop => Continue(Step::default()),
            (false, Some(record)) if record.at.is_some() => self.resume(status, workload, &record),
            _ => until_reached(self.scale_down(status, workload, Trigger::Stop, true)),
        }
    }

    /// Scales a workload to zero, one write at a time.
    pub(super) fn scale_down(
        &self,
        status: &mut KrakeHookStatus,
        workload: &Workload,
        because: Trigger,
        ask: bool,
    ) -> (StopProgress, Step) {
        let new = |at| Stopped {
            workload_uid: uid_of(&workload.metadata),
            because,
            replicas: workload.replicas(),
            at,
        };
        let mut step = Step::default();
        let Some(record) = record_of(status, workload).cloned() else {
            if workload.stopped {
                if self.is_stop_acknowledged(status, workload) {
                    let why = "and the workload is at zero already";
                    step.join(self.close_open(status, Outcome::Acknowledged, why));
                }
                step.join(self.cancel_stop(status, "the workload is at zero already"));
                status.stopped = Some(new(Some(whole(self.now))));
                return (StopProgress::Reached, step);
            }
            if ask {
                match self.ask_before_rest(status, workload, because) {
                    Break(asked) => return (StopProgress::UnderWay, asked),
                    Continue(answered) => step.join(answered),
                }
            }
            status.stopped = Some(new(None));
            step.join(self.scale_to_zero(status, workload));
            return (StopProgress::UnderWay, step);
        };
        match (workload.stopped, record.at) {
            (true, None) => {
                let had = record.replicas.map_or_else(String::new, |replicas| {
                    format!("; it had {replicas} replicas")
                });
                step.notice(false, "Stopped", format!("the workload is stopped{had}"));
                if let Some(record) = &mut status.stopped {
                    record.at = Some(whole(self.now));
                }
                (StopProgress::Reached, step)
            }
            (true, Some(_)) => (StopProgress::Reached, step),
            (false, None) => {
                if let Some(record) = &mut status.stopped {
                    record.replicas = workload.replicas();
                }
                step.join(self.scale_to_zero(status, workload));
                (StopProgress::UnderWay, step)
            }
            (false, Some(_)) => (StopProgress::Ended, step),
        }
    }

    /// Gives up a stop because the hook is deleted or disabled. Breaks while something that was
    /// promised is still to be done.
    pub(super) fn abandon_stop(
        &self,
        status: &mut KrakeHookStatus,
        workload: &Workload,
        why: &str,
    ) -> ControlFlow<Step, Step> {
        if let Some(record) = record_of(status, workload).cloned() {
            if record.because != Trigger::Stop {
                return Continue(Step::default());
            }
            if record.at.is_none() {
                return until_reached(self.scale_down(status, workload, Trigger::Stop, false));
            }
            return match self.seen.hook.spec.state {
                State::Stopped => Continue(Step::default()),
                State::Running => self.resume(status, workload, &record),
            };
        }
        if self.is_stop_acknowledged(status, workload) {
            let message = format!("the app has shut down before {why}");
            let closed = self.close_open(status, Outcome::Acknowledged, &message);
            let (progress, step) = self.scale_down(status, workload, Trigger::Stop, false);
            return until_reached((progress, closed.and(step)));
        }
        let left = self
            .acknowledged_stop(status, workload)
            .map_or(0, |said| said.len());
        let message = match left {
            0 => format!("{why}: the workload is not stopped"),
            left => format!(
                "{why}: the workload is not stopped, though {left} pod(s) have shut down already; restart them"
            ),
        };
        Continue(self.cancel_stop(status, &message))
    }

    /// The workload is not to be stopped after all.
    fn cancel_stop(&self, status: &mut KrakeHookStatus, message: &str) -> Step {
        let request = status.workload_request();
        match request.map(|request| request.trigger) {
            Some(Trigger::Stop) => self.close_open(status, Outcome::Cancelled, message),
            Some(Trigger::Delete | Trigger::Complete) | None => Step::default(),
        }
    }

    /// Whether a pod has acknowledged the stop that is being asked for.
    fn has_stop_been_acknowledged(&self, status: &KrakeHookStatus, workload: &Workload) -> bool {
        let said = self.acknowledged_stop(status, workload);
        said.is_some_and(|said| !said.is_empty())
    }

    fn is_stop_acknowledged(&self, status: &KrakeHookStatus, workload: &Workload) -> bool {
        let stop = self.open_stop(status, workload);
        stop.is_some_and(|stop| self.tally(status, stop).is_enough())
    }

    fn acknowledged_stop(
        &self,
        status: &KrakeHookStatus,
        workload: &Workload,
    ) -> Option<BTreeSet<String>> {
        Some(said_to(status, self.open_stop(status, workload)?).success)
    }

    fn open_stop<'a>(
        &self,
        status: &'a KrakeHookStatus,
        workload: &Workload,
    ) -> Option<&'a ShutdownRequest> {
        let request = self.request_for(status, workload, Trigger::Stop)?;
        (request.state == RequestState::Open && request.trigger == Trigger::Stop).then_some(request)
    }

    /// Reports a stopped workload, once everything else is as it should be.
    pub(super) fn report_state(
        &self,
        status: &KrakeHookStatus,
        workload: &Workload,
        step: &mut Step,
    ) {
        let all_well = step.is_at(&[Phase::Armed, Phase::Ready]);
        let record = record_of(status, workload);
        let stopped = record.filter(|_| self.seen.hook.spec.state == State::Stopped);
        let (true, Some(record)) = (all_well, stopped) else {
            return;
        };
        if workload.stopped {
            step.phase(Phase::Stopped);
            let gets = match record.replicas {
                Some(replicas) => format!("it gets back {replicas} replicas"),
                None => "it is resumed".to_owned(),
            };
            step.find(Finding::yes(
                ConditionType::Ready,
                Reason::Stopped,
                format!("{workload} is stopped; {gets} with spec.state: Running"),
            ));
        } else {
            step.find(Finding::no(
                ConditionType::Ready,
                Reason::StopContested,
                format!(
                    "{workload} was stopped, and somebody else has scaled it up since; that is left alone. Leave the replicas out of what is applied, then set spec.state to Running and to Stopped again"
                ),
            ));
        }
    }

    fn resume(
        &self,
        status: &mut KrakeHookStatus,
        workload: &Workload,
        record: &Stopped,
    ) -> ControlFlow<Step, Step> {
        let mut step = Step::default();
        if !workload.is_stopped_by_us() || record.replicas == Some(0) {
            status.stopped = None;
            let words = match workload.stopped {
                true => {
                    "the workload is not to be stopped any more, but somebody else keeps it at zero"
                }
                false => "the workload is not to be stopped any more, and runs",
            };
            step.notice(false, "Resumed", words);
            return Continue(step);
        }
        step.keep(WHILE_SCALED);
        // Scaled up before its controller has seen the zero, it would keep the pods that have shut down.
        if !pods::at_work(self.seen, &record.workload_uid).is_empty() {
            step.keep([ConditionType::Ready]);
            step.look_again_at(self.now + SignedDuration::from_secs(1));
        } else if let Some(refused) = self.scaling_is_refused(status) {
            step.join(refused);
        } else {
            step.keep([ConditionType::Ready]);
            step.then.push(Effect::Resume {
                resource_version: version_of(workload),
                replicas: record.replicas,
            });
        }
        Break(step)
    }

    fn scale_to_zero(&self, status: &KrakeHookStatus, workload: &Workload) -> Step {
        let mut step = self.guard_dependents(workload).missing;
        step.keep(WHILE_SCALED);
        if let Some(refused) = self.scaling_is_refused(status) {
            return step.and(refused);
        }
        step.phase(Phase::Stopping);
        step.find(Finding::no(
            ConditionType::Ready,
            Reason::Stopped,
            format!("{workload} is being scaled to zero"),
        ));
        step.then.push(Effect::Stop {
            resource_version: version_of(workload),
        });
        step
    }

    /// What the API server has just said to our scaling; it is tried again later.
    fn scaling_is_refused(&self, status: &KrakeHookStatus) -> Option<Step> {
        let Some(Refusal::ScaleRejected { message }) = &self.seen.refusal else {
            return None;
        };
        let message = format!("the API server refuses to scale the workload: {message}");
        let mut step = self.tell_refusal(status, Reason::Rejected, &message);
        step.look_again_at(self.after_refusal());
        Some(step)
    }
}

fn until_reached((progress, step): (StopProgress, Step)) -> ControlFlow<Step, Step> {
    match progress {
        StopProgress::UnderWay => Break(step),
        StopProgress::Reached | StopProgress::Ended => Continue(step),
    }
}

fn record_of<'a>(status: &'a KrakeHookStatus, workload: &Workload) -> Option<&'a Stopped> {
    let uid = uid_of(&workload.metadata);
    let record = status.stopped.as_ref();
    record.filter(|record| record.workload_uid == uid)
}

fn version_of(workload: &Workload) -> String {
    let version = workload.metadata.resource_version.clone();
    version.unwrap_or_default()
}
