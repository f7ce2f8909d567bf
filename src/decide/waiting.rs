//! What is reported while a request is open: which pods are waited for, until when, and why the app
//! could not be called.
//!
//! | | `Blocking` | `Ready` |
//! |---|---|---|
//! | the app has been called, or nobody is to be | True, `AwaitingAcknowledgement` | False, `AwaitingAcknowledgement` |
//! | it could not be called | the same, and why | False, with the reason of that |
//! | the time is up, `onTimeout: Retain` | True, `Retained` | False, `Retained` |
//!
//! A deadline is given as a point in time, so that the text stays true when it is not updated.

use super::asking::said_to;
use super::calling;
use super::hook::Context;
use super::pods;
use super::quorum;
use super::rejected;
use super::requests;
use super::service::{self, CallFault};
use super::step::Step;
use super::workload::Workload;
use crate::api::condition::{ConditionType, Finding, Reason};
use crate::api::krake_hook::FanOut;
use crate::api::status::{Phase, RememberedCallOut, ShutdownRequest, Trigger};
use crate::api::{KrakeHookStatus, names};

impl Context<'_> {
    pub(super) fn report_waiting(&self, status: &mut KrakeHookStatus, workload: &Workload) -> Step {
        let Some(request) = status.workload_request() else {
            return Step::default();
        };
        let phase = match request.trigger {
            Trigger::Stop => Phase::Stopping,
            Trigger::Delete | Trigger::Complete => Phase::Waiting,
        };
        let until = match &request.deadline {
            Some(deadline) => format!("deadline {}", deadline.0),
            None => "its time counts from the end of the first call".to_owned(),
        };
        let whom = self.whom(status, request);
        let (round, rounds) = (request.round, request.terms.retries + 1);
        let message = format!("{whom}; {until}, round {round} of {rounds}");
        let reason = Reason::AwaitingAcknowledgement;
        let mut step = self.report(status, workload, reason, &message);
        step.phase(phase);
        step
    }

    /// The time is up, and what waits keeps waiting.
    pub(super) fn report_retained(
        &self,
        status: &mut KrakeHookStatus,
        workload: &Workload,
    ) -> Step {
        let Some(request) = status.workload_request() else {
            return Step::default();
        };
        let message = format!(
            "deadline passed, onTimeout is Retain: {} waits for a late acknowledgement, or for the annotation {}: <reason>; {}",
            requests::aim(request.trigger),
            names::SKIP_ANNOTATION,
            self.whom(status, request)
        );
        let mut step = self.report(status, workload, Reason::Retained, &message);
        step.phase(Phase::Retained);
        step
    }

    fn report(
        &self,
        status: &mut KrakeHookStatus,
        workload: &Workload,
        reason: Reason,
        message: &str,
    ) -> Step {
        let mut step = self.tell_of_skip(status, workload);
        let Some(request) = status.workload_request() else {
            return step;
        };
        let why = requests::why(request.trigger);
        let mut message = format!("{workload} {why}; {message}");
        if self.skip_lacks_reason(workload) {
            message = format!("{message}; {}", skip_needs_reason());
        }
        let fault = self.call_fault(status, request);
        if let Some(fault) = &fault {
            message = format!("{}. {}. {message}", fault.what, fault.remedy);
        }
        step.find(Finding::yes(ConditionType::Blocking, reason, &*message));
        let reason = match (reason, fault) {
            (Reason::AwaitingAcknowledgement, Some(fault)) => fault.reason,
            (reason, _) => reason,
        };
        step.find(Finding::no(ConditionType::Ready, reason, message));
        step.keep([ConditionType::Armed]);
        step
    }

    /// Who has acknowledged, who is waited for, and who has failed.
    fn whom(&self, status: &KrakeHookStatus, request: &ShutdownRequest) -> String {
        let name_of = |uid: &str| pods::name_of(self.seen, uid);
        let whom = self
            .tally(status, request)
            .in_words("acknowledged", name_of);
        let whom = whom.unwrap_or_else(|| "waiting for the app's acknowledgement".into());
        let failures = quorum::failures(&said_to(status, request), name_of);
        let rejected = rejected::in_words(status, request);
        let words = [Some(whom), failures, rejected];
        words.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }

    /// Once for each time that the annotation comes without a reason.
    fn tell_of_skip(&self, status: &mut KrakeHookStatus, workload: &Workload) -> Step {
        let mut step = Step::default();
        let lacking = self.skip_lacks_reason(workload);
        let request = status.workload_request();
        let told = request.is_some_and(|request| request.skip_lacks_reason);
        if lacking && !told {
            step.notice(true, "SkipNeedsReason", skip_needs_reason());
        }
        status.change_request(|request| request.skip_lacks_reason = lacking);
        step
    }

    /// What keeps the app from hearing of the request, if anything is known to.
    pub(super) fn call_fault(
        &self,
        status: &KrakeHookStatus,
        request: &ShutdownRequest,
    ) -> Option<CallFault> {
        if !request.terms.calls {
            return None;
        }
        let Some(call_out) = &status.call_out else {
            let spec = self.seen.hook.spec.shutdown.as_ref()?.call_out.as_ref()?;
            let mut fault = service::remember(spec, self.seen.service.as_ref()).err()?;
            fault.what = format!("{}, so nobody has been called", fault.what);
            return Some(fault);
        };
        let (pod, code) = failed_call(request)?;
        let fault = |reason, what, remedy: &str| CallFault {
            reason,
            what,
            remedy: remedy.to_owned(),
        };
        const PORT_AND_PATH: &str = "Correct spec.shutdown.callOut.service (port, path)";
        Some(match (pod, code) {
            (_, calling::NOBODY) => fault(
                Reason::NobodyToCall,
                self.why_nobody(call_out),
                "The call is made as soon as there is a pod for it",
            ),
            (pod, code) if calling::is_refused(code) => fault(
                Reason::ShutdownServiceRefused,
                format!(
                    "The app answered {code} to the shutdown call ({})",
                    whose(pod)
                ),
                PORT_AND_PATH,
            ),
            (pod, code) => fault(
                Reason::ShutdownServiceUnreachable,
                format!(
                    "The app could not be asked to shut down ({}, target port {}): {}; calls so far: {}",
                    whose(pod),
                    pods::port_in_words(&call_out.port),
                    calling::in_words(code),
                    request.attempts
                ),
                "The call is repeated; correct the Service's targetPort, or the app",
            ),
        })
    }

    /// Why no pod can be called just now.
    fn why_nobody(&self, call_out: &RememberedCallOut) -> String {
        let all = &self.seen.callable;
        let why = if all.is_empty() {
            let labels = call_out.selector.iter();
            let labels: Vec<String> = labels
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            format!("no pod has the labels {}", labels.join(","))
        } else if pods::only_host_network(self.seen) {
            "pods with hostNetwork are not called, their address is a node's".to_owned()
        } else if !pods::any_ready(self.seen) {
            format!("none of {} pods is ready", all.len())
        } else {
            format!(
                "no ready pod has an address that may be called and the port {}",
                pods::port_in_words(&call_out.port)
            )
        };
        format!("Nobody behind the Service can be called: {why}")
    }
}

/// The pod and the code of the newest call, or of one of each pod's newest ones, that did not reach
/// the app. The pods that were reached say nothing about the others.
fn failed_call(request: &ShutdownRequest) -> Option<(Option<&str>, &str)> {
    let newest = request.last_attempt.as_ref();
    let newest = newest.map(|last| (last.pod.as_deref(), last.code.as_str()));
    let each = request.called_pods.iter();
    let each = each.map(|called| (Some(called.pod.as_str()), called.code.as_str()));
    let failed = |(_, code): &(_, &str)| !calling::is_delivered(code);
    match request.terms.fan_out {
        FanOut::One => newest.filter(failed),
        FanOut::EachPod => {
            let failed: Vec<_> = each.chain(newest).filter(failed).collect();
            let refused = failed.iter().find(|(_, code)| calling::is_refused(code));
            refused.or(failed.first()).copied()
        }
    }
}

fn whose(pod: Option<&str>) -> String {
    pod.map_or_else(|| "no pod".to_owned(), |pod| format!("pod {pod}"))
}

fn skip_needs_reason() -> String {
    format!(
        "the annotation {} is there without a reason, and skips nothing: give one",
        names::SKIP_ANNOTATION
    )
}
