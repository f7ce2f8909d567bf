//! What people read while something waits for the app: for whom, for how long, and what keeps the app
//! from hearing of it.
//!
//! | | `Blocking` | `Ready` |
//! |---|---|---|
//! | the app has been called, or nobody is to be | True, `AwaitingAcknowledgement` | False, `AwaitingAcknowledgement` |
//! | it could not be called | the same, and why | False, with the reason of that |
//! | the time is up, `onTimeout: Retain` | True, `Retained` | False, `Retained` |
//!
//! A deadline is named as a moment, never as something that is still to come: what is written stays
//! true when nobody is there to write it anew.

use super::hook::Plan;
use super::pods;
use super::quorum;
use super::rejected;
use super::service::{self, CallFault};
use super::workload::Workload;
use super::{calling, requests};
use crate::api::condition::{ConditionType, Finding, Reason};
use crate::api::krake_hook::FanOut;
use crate::api::names;
use crate::api::status::{Phase, RememberedCallOut, ShutdownRequest, Trigger};

impl Plan<'_> {
    pub(super) fn keep_waiting(&mut self) {
        if let Some(workload) = &self.seen.workload {
            self.report_waiting(workload);
        }
    }

    pub(super) fn report_waiting(&mut self, workload: &Workload) {
        let Some(request) = self.status.workload_request().cloned() else {
            return;
        };
        self.status.phase = Some(match request.trigger {
            Trigger::Stop => Phase::Stopping,
            Trigger::Delete | Trigger::Complete => Phase::Waiting,
        });
        let until = match &request.deadline {
            Some(deadline) => format!("deadline {}", deadline.0),
            None => "its time counts from the end of the first call".to_owned(),
        };
        let whom = self.whom(&request);
        let rounds = request.terms.retries + 1;
        let message = format!("{whom}; {until}, round {} of {rounds}", request.round);
        self.report(
            workload,
            &request,
            Reason::AwaitingAcknowledgement,
            &message,
        );
    }

    /// The time is up, and what waits keeps waiting.
    pub(super) fn report_retained(&mut self, workload: &Workload) {
        let Some(request) = self.status.workload_request().cloned() else {
            return;
        };
        self.status.phase = Some(Phase::Retained);
        let message = format!(
            "deadline passed, onTimeout is Retain: {} waits for a late acknowledgement, or for the annotation {}: <reason>; {}",
            requests::aim(request.trigger),
            names::SKIP_ANNOTATION,
            self.whom(&request)
        );
        self.report(workload, &request, Reason::Retained, &message);
    }

    fn report(
        &mut self,
        workload: &Workload,
        request: &ShutdownRequest,
        reason: Reason,
        message: &str,
    ) {
        let why = requests::why(request.trigger);
        let mut message = format!("{workload} {why}; {message}");
        if self.skip_lacks_reason(workload) {
            message = format!("{message}; {}", skip_needs_reason());
        }
        self.tell_of_skip(workload);
        let fault = self.call_fault(request);
        if let Some(fault) = &fault {
            message = format!("{}. {}. {message}", fault.what, fault.remedy);
        }
        self.find(Finding::yes(ConditionType::Blocking, reason, &*message));
        let reason = match (reason, fault) {
            (Reason::AwaitingAcknowledgement, Some(fault)) => fault.reason,
            (reason, _) => reason,
        };
        self.find(Finding::no(ConditionType::Ready, reason, message));
        self.keep(ConditionType::Armed);
    }

    /// Who has acknowledged, who is waited for, and who has failed.
    fn whom(&self, request: &ShutdownRequest) -> String {
        let name_of = |uid: &str| pods::name_of(self.seen, uid);
        let whom = self.tally(request).in_words("acknowledged", name_of);
        let whom = whom.unwrap_or_else(|| "waiting for the app's acknowledgement".into());
        let failures = quorum::failures(&self.said_to(request), name_of);
        let rejected = rejected::in_words(&self.status, request);
        let words = [Some(whom), failures, rejected];
        words.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }

    /// Once for each time that the annotation comes without a reason.
    fn tell_of_skip(&mut self, workload: &Workload) {
        let lacking = self.skip_lacks_reason(workload);
        let told = self.status.workload_request();
        let told = told.is_some_and(|request| request.skip_lacks_reason);
        if lacking && !told {
            self.notice(true, "SkipNeedsReason", skip_needs_reason());
        }
        self.change_request(|request| request.skip_lacks_reason = lacking);
    }

    /// What keeps the app from hearing of the request, if anything is known to.
    pub(super) fn call_fault(&self, request: &ShutdownRequest) -> Option<CallFault> {
        if !request.terms.calls {
            return None;
        }
        let Some(call_out) = &self.status.call_out else {
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
