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

use jiff::SignedDuration;

use super::hook::{Plan, uid_of, whole};
use super::pods;
use super::seen::{Effect, Refusal};
use super::workload::Workload;
use crate::api::condition::{ConditionType, Finding, Reason};
use crate::api::kind::Stop;
use crate::api::krake_hook::State;
use crate::api::status::{Outcome, Phase, RequestState, ShutdownRequest, Stopped, Trigger};

/// How far a workload is that is to come to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// The app is asked, or the workload is being scaled.
    UnderWay,
    /// It is at zero.
    Reached,
    /// It was, and somebody else has scaled it up since.
    Ended,
}

impl Plan<'_> {
    /// What `spec.state` asks for. True if there is nothing else to be done now.
    pub(super) fn settle_state(&mut self, workload: &Workload) -> bool {
        let wanted =
            self.seen.hook.spec.state == State::Stopped && workload.traits().stop != Stop::Cannot;
        let record = self.record_of(workload).cloned();
        match (wanted, record) {
            (false, None) if self.has_stop_been_acknowledged(workload) => {
                self.come_to_rest(workload, Trigger::Stop, true) == Rest::UnderWay
            }
            (false, None) => {
                self.cancel_stop("spec.state is Running again: the workload is not stopped");
                false
            }
            (false, Some(record)) if record.because != Trigger::Stop => false,
            (false, Some(record)) if record.at.is_some() => self.resume(workload, &record),
            _ => self.come_to_rest(workload, Trigger::Stop, true) == Rest::UnderWay,
        }
    }

    /// Leads a workload to zero, step by step.
    pub(super) fn come_to_rest(
        &mut self,
        workload: &Workload,
        because: Trigger,
        ask: bool,
    ) -> Rest {
        let new = |at| Stopped {
            workload_uid: uid_of(&workload.metadata),
            because,
            replicas: workload.replicas(),
            at,
        };
        let Some(record) = self.record_of(workload).cloned() else {
            if workload.stopped {
                if self.is_stop_acknowledged(workload) {
                    self.close_open(Outcome::Acknowledged, "and the workload is at zero already");
                }
                self.cancel_stop("the workload is at zero already");
                self.status.stopped = Some(new(Some(whole(self.now))));
                return Rest::Reached;
            }
            if ask && !self.has_been_asked(workload, because) {
                return Rest::UnderWay;
            }
            self.status.stopped = Some(new(None));
            self.scale_to_zero(workload);
            return Rest::UnderWay;
        };
        match (workload.stopped, record.at) {
            (true, None) => {
                let had = record.replicas.map_or_else(String::new, |replicas| {
                    format!("; it had {replicas} replicas")
                });
                self.notice(false, "Stopped", format!("the workload is stopped{had}"));
                if let Some(record) = &mut self.status.stopped {
                    record.at = Some(whole(self.now));
                }
                Rest::Reached
            }
            (true, Some(_)) => Rest::Reached,
            (false, None) => {
                if let Some(record) = &mut self.status.stopped {
                    record.replicas = workload.replicas();
                }
                self.scale_to_zero(workload);
                Rest::UnderWay
            }
            (false, Some(_)) => Rest::Ended,
        }
    }

    /// A stop that goes on no longer: the hook is to go, or to keep out. True while there is something
    /// to be done that was promised.
    pub(super) fn abandon_stop(&mut self, workload: &Workload, why: &str) -> bool {
        if let Some(record) = self.record_of(workload).cloned() {
            if record.because != Trigger::Stop {
                return false;
            }
            if record.at.is_none() {
                return self.come_to_rest(workload, Trigger::Stop, false) == Rest::UnderWay;
            }
            let wanted = self.seen.hook.spec.state == State::Stopped;
            return !wanted && self.resume(workload, &record);
        }
        if self.is_stop_acknowledged(workload) {
            let message = format!("the app has shut down before {why}");
            self.close_open(Outcome::Acknowledged, &message);
            return self.come_to_rest(workload, Trigger::Stop, false) == Rest::UnderWay;
        }
        let left = self
            .acknowledged_stop(workload)
            .map_or(0, |said| said.len());
        let message = match left {
            0 => format!("{why}: the workload is not stopped"),
            left => format!(
                "{why}: the workload is not stopped, though {left} pod(s) have shut down already; restart them"
            ),
        };
        self.cancel_stop(&message);
        false
    }

    /// The workload is not to be stopped after all.
    fn cancel_stop(&mut self, message: &str) {
        let request = self.status.workload_request();
        if request.is_some_and(|request| request.trigger == Trigger::Stop) {
            self.close_open(Outcome::Cancelled, message);
        }
    }

    /// Whether a pod has acknowledged the stop that is being asked for.
    fn has_stop_been_acknowledged(&self, workload: &Workload) -> bool {
        let said = self.acknowledged_stop(workload);
        said.is_some_and(|said| !said.is_empty())
    }

    fn is_stop_acknowledged(&self, workload: &Workload) -> bool {
        let stop = self.open_stop(workload);
        stop.is_some_and(|stop| self.tally(stop).is_enough())
    }

    fn acknowledged_stop(&self, workload: &Workload) -> Option<BTreeSet<String>> {
        Some(self.said_to(self.open_stop(workload)?).success)
    }

    fn open_stop(&self, workload: &Workload) -> Option<&ShutdownRequest> {
        let request = self.request_for(workload, Trigger::Stop)?;
        (request.state == RequestState::Open && request.trigger == Trigger::Stop).then_some(request)
    }

    /// What people read of a workload that is at rest, once everything else is as it should be.
    pub(super) fn report_state(&mut self, workload: &Workload) {
        let all_well = matches!(self.status.phase, Some(Phase::Armed | Phase::Ready));
        let record = self.record_of(workload);
        let stopped = record.filter(|_| self.seen.hook.spec.state == State::Stopped);
        let (true, Some(record)) = (all_well, stopped.cloned()) else {
            return;
        };
        if workload.stopped {
            self.status.phase = Some(Phase::Stopped);
            let gets = match record.replicas {
                Some(replicas) => format!("it gets back {replicas} replicas"),
                None => "it is resumed".to_owned(),
            };
            self.find(Finding::yes(
                ConditionType::Ready,
                Reason::Stopped,
                format!("{workload} is stopped; {gets} with spec.state: Running"),
            ));
        } else {
            self.find(Finding::no(
                ConditionType::Ready,
                Reason::StopContested,
                format!(
                    "{workload} was stopped, and somebody else has scaled it up since; that is left alone. Leave the replicas out of what is applied, then set spec.state to Running and to Stopped again"
                ),
            ));
        }
    }

    fn resume(&mut self, workload: &Workload, record: &Stopped) -> bool {
        if !workload.is_stopped_by_us() || record.replicas == Some(0) {
            self.status.stopped = None;
            let words = match workload.stopped {
                true => {
                    "the workload is not to be stopped any more, but somebody else keeps it at zero"
                }
                false => "the workload is not to be stopped any more, and runs",
            };
            self.notice(false, "Resumed", words);
            return false;
        }
        self.keep(ConditionType::Injected);
        self.keep(ConditionType::CertificateReady);
        self.keep(ConditionType::Armed);
        // Scaled up before its controller has seen the zero, it would keep the pods that have shut down.
        if !pods::at_work(self.seen, &record.workload_uid).is_empty() {
            self.keep(ConditionType::Ready);
            self.look_again_at(self.now + SignedDuration::from_secs(1));
            return true;
        }
        if !self.scaling_is_refused() {
            self.keep(ConditionType::Ready);
            self.then.push(Effect::Resume {
                resource_version: version_of(workload),
                replicas: record.replicas,
            });
        }
        true
    }

    fn scale_to_zero(&mut self, workload: &Workload) {
        self.guard_dependents(workload);
        self.keep(ConditionType::Injected);
        self.keep(ConditionType::CertificateReady);
        self.keep(ConditionType::Armed);
        if self.scaling_is_refused() {
            return;
        }
        self.status.phase = Some(Phase::Stopping);
        self.find(Finding::no(
            ConditionType::Ready,
            Reason::Stopped,
            format!("{workload} is being scaled to zero"),
        ));
        self.then.push(Effect::Stop {
            resource_version: version_of(workload),
        });
    }

    /// What the API server has just said to our scaling; it is tried again later.
    fn scaling_is_refused(&mut self) -> bool {
        let Some(Refusal::ScaleRejected { message }) = &self.seen.refusal else {
            return false;
        };
        let message = format!("the API server refuses to scale the workload: {message}");
        self.look_again_after_refusal();
        self.tell_refusal(Reason::Rejected, &message);
        true
    }

    fn record_of(&self, workload: &Workload) -> Option<&Stopped> {
        let uid = uid_of(&workload.metadata);
        let record = self.status.stopped.as_ref();
        record.filter(|record| record.workload_uid == uid)
    }
}

fn version_of(workload: &Workload) -> String {
    let version = workload.metadata.resource_version.clone();
    version.unwrap_or_default()
}
