//! Whom to call, and when.
//!
//! With `fanOut: One` one pod is called at a time, a different one each time, until one has
//! answered; if that pod terminates, another one is called. With `EachPod` each pod that counts is
//! called, and called again, independently of the others; pods that become ready later are called
//! then. A pod that has acknowledged is not called again, nor is one that has answered 404 or 405.
//!
//! A call is repeated after half the time that has passed since the request was opened, within
//! bounds: an exponential backoff without a counter that a restart would lose.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::asking::said_to;
use super::hook::{Context, whole};
use super::pods::{self, Target};
use super::quorum;
use super::seen::{CallOutOrder, Effect};
use super::service;
use super::step::Step;
use crate::api::KrakeHookStatus;
use crate::api::krake_hook::FanOut;
use crate::api::status::{Attempt, CalledPod, ShutdownRequest};

/// Code of an attempt that found no pod.
pub(super) const NOBODY: &str = "NobodyToCall";
const LEAST_PAUSE: SignedDuration = SignedDuration::from_secs(1);
const MOST_PAUSE: SignedDuration = SignedDuration::from_secs(15);
/// Calls of one hook that may be open at once: one workload must not take all places.
const AT_ONCE: usize = 32;
/// How many pods are shown in the status, and reported in Events.
const SHOWN: usize = 32;

/// Whom to call.
#[derive(Default)]
struct Due {
    now: Vec<Target>,
    /// When the next call is due.
    later: Option<Timestamp>,
}

impl Due {
    fn nobody_before(at: Timestamp) -> Self {
        Self {
            now: Vec::new(),
            later: Some(at),
        }
    }
}

impl Context<'_> {
    /// The round's deadline counts from the end of its first call.
    pub(super) fn first_attempt(&self, status: &mut KrakeHookStatus) -> Step {
        let mut step = Step::default();
        let Some(terms) = status.workload_request().map(|r| r.terms.clone()) else {
            return step;
        };
        let end = |from: Timestamp| {
            let timeout = SignedDuration::from_secs(terms.timeout_seconds);
            whole(from + timeout)
        };
        let calls = &self.seen.calls;
        let first = calls.ends().map(|attempt| attempt.at.0).min();
        let begun = if !terms.calls {
            Some(self.now)
        } else if first.is_some() {
            first
        } else if calls.open() > 0 {
            None
        } else if let Some(called) = self.call_who_is_due(status, end(self.now).0) {
            step.join(called);
            None
        } else {
            step.join(self.record_nobody(status));
            Some(self.now)
        };
        step.join(self.note_calls(status));
        if let Some(begun) = begun {
            status.change_request(|request| request.deadline = Some(end(begun)));
        }
        step
    }

    /// Within a round the app is called until it has answered, or has said that it never will.
    pub(super) fn call_again(&self, status: &mut KrakeHookStatus) -> Step {
        let request = status.workload_request();
        let request = request.filter(|request| request.terms.calls);
        let Some(deadline) = request.and_then(|request| request.deadline.clone()) else {
            return Step::default();
        };
        let mut step = self.note_calls(status);
        if let Some(called) = self.call_who_is_due(status, deadline.0) {
            return step.and(called);
        }
        let last = status.workload_request();
        let last = last.and_then(|r| r.last_attempt.as_ref().map(|a| (a.at.0, r.opened_at.0)));
        match last.map(|(at, opened)| due_after(at, opened)) {
            Some(due) if self.now < due => step.look_again_at(due),
            _ => {
                step.join(self.record_nobody(status));
                step.look_again_at(self.now + LEAST_PAUSE);
            }
        }
        step
    }

    /// Orders the calls that are due. `None` if there is no pod to call.
    fn call_who_is_due(&self, status: &mut KrakeHookStatus, deadline: Timestamp) -> Option<Step> {
        self.remember_late(status);
        let request = status.workload_request()?;
        let call_out = status.call_out.as_ref()?;
        let mut targets = pods::targets(self.seen, call_out);
        let said = said_to(status, request);
        let silent = |target: &Target| !said.success.contains(&target.uid);
        let due = match request.terms.fan_out {
            FanOut::One => {
                if targets.iter().any(silent) {
                    targets.retain(silent);
                }
                self.next_one(request, targets)
            }
            FanOut::EachPod => {
                let able = pods::able_to_acknowledge(self.seen, &request.workload_uid);
                targets.retain(|target| able.contains(&target.uid) && silent(target));
                self.each(request, targets)
            }
        };
        let Due { now, later } = due?;
        let mut step = Step::default();
        if let Some(later) = later {
            step.look_again_at(later);
        }
        step.then.extend(now.into_iter().map(|target| {
            Effect::CallOut(Box::new(CallOutOrder {
                request: request.id.clone(),
                round: request.round,
                pod: target.pod,
                pod_uid: target.uid,
                address: target.address,
                port: target.port,
                path: call_out.path.clone(),
                deadline,
            }))
        }));
        Some(step)
    }

    /// A Service that was not there when the workload was armed, or was another one, may be there now.
    fn remember_late(&self, status: &mut KrakeHookStatus) {
        let shutdown = self.seen.hook.spec.shutdown.as_ref();
        let call_out = shutdown.and_then(|shutdown| shutdown.call_out.as_ref());
        if let (None, Some(call_out)) = (&status.call_out, call_out) {
            let found = service::remember(call_out, self.seen.service.as_ref());
            status.call_out = found.unwrap_or_default();
        }
    }

    /// The pod after the one that was called last, if its time has come.
    fn next_one(&self, request: &ShutdownRequest, targets: Vec<Target>) -> Option<Due> {
        let last = request.last_attempt.as_ref();
        if self.seen.calls.open() > 0 || self.is_answered(last) {
            return Some(Due::default());
        }
        if targets.is_empty() {
            return None;
        }
        if let Some(due) = last.map(|last| due_after(last.at.0, request.opened_at.0))
            && self.now < due
        {
            return Some(Due::nobody_before(due));
        }
        let called = last.and_then(|last| last.pod.as_ref());
        let after = targets
            .iter()
            .position(|target| Some(&target.pod) == called)
            .map_or(0, |position| position + 1);
        let next = targets.get(after).or_else(|| targets.first());
        Some(Due {
            now: next.cloned().into_iter().collect(),
            later: None,
        })
    }

    /// Whether a pod has answered for good. One that has gone since, or is on its way out, has taken
    /// the call along: another one is called.
    fn is_answered(&self, last: Option<&Attempt>) -> bool {
        let made = &self.seen.calls;
        if made.is_empty() {
            return last.is_some_and(|last| is_final(&last.code));
        }
        made.0.iter().any(|(uid, called)| {
            let last = called.last.as_ref();
            last.is_some_and(|last| is_final(&last.code)) && pods::stays(self.seen, uid)
        })
    }

    /// Each pod whose time has come.
    fn each(&self, request: &ShutdownRequest, targets: Vec<Target>) -> Option<Due> {
        if targets.is_empty() {
            // Either no pod needs a call any more, or none can be called yet.
            return (!self.seen.calls.is_empty()).then(Due::default);
        }
        let mut places = AT_ONCE.saturating_sub(self.seen.calls.open());
        let mut all = Due::default();
        for target in targets {
            let called = self.seen.calls.0.get(&target.uid);
            if called.is_some_and(|called| called.open) {
                continue;
            }
            if let Some(last) = called.and_then(|called| called.last.as_ref()) {
                let due = due_after(last.at.0, request.opened_at.0);
                if is_final(&last.code) {
                    continue;
                }
                if self.now < due {
                    all.later = Some(all.later.map_or(due, |later| later.min(due)));
                    continue;
                }
            }
            // The others are called when a call has ended, which wakes the reconcile.
            if places > 0 {
                places -= 1;
                all.now.push(target);
            }
        }
        Some(all)
    }

    /// Records the results of calls in the status, and reports new ones.
    fn note_calls(&self, status: &mut KrakeHookStatus) -> Step {
        let made = &self.seen.calls;
        let newest = made
            .ends()
            .max_by_key(|attempt| (&attempt.at.0, &attempt.pod));
        let (Some(request), Some(newest)) = (status.workload_request(), newest.cloned()) else {
            return Step::default();
        };
        let shown = match request.terms.fan_out {
            FanOut::One => Vec::new(),
            FanOut::EachPod => self.shown(),
        };
        let news: Vec<(String, String)> = match request.terms.fan_out {
            FanOut::One => {
                let last = request.last_attempt.as_ref();
                let known = last.is_some_and(|a| a.code == newest.code && a.pod == newest.pod);
                let pod = newest.pod.clone().unwrap_or_default();
                let news = (newest.code.clone(), pod);
                if known { Vec::new() } else { vec![news] }
            }
            FanOut::EachPod => {
                let old = &request.called_pods;
                let known = |new: &CalledPod| {
                    let mut old = old.iter();
                    old.any(|old| old.pod == new.pod && old.code == new.code)
                };
                let news = shown.iter().filter(|new| !known(new));
                news.map(|new| (new.code.clone(), new.pod.clone()))
                    .collect()
            }
        };
        status.change_request(|r| {
            // A later attempt may have found no pod to call.
            if r.last_attempt
                .as_ref()
                .is_none_or(|last| last.at.0 <= newest.at.0)
            {
                r.last_attempt = Some(newest);
            }
            r.attempts = made.ended();
            r.called_pods = shown;
        });
        tell_calls(news)
    }

    /// What came of calling each pod, errors first.
    fn shown(&self) -> Vec<CalledPod> {
        let called = self.seen.calls.0.values().filter_map(|called| {
            let last = called.last.as_ref()?;
            Some(CalledPod {
                pod: last.pod.clone()?,
                at: last.at.clone(),
                code: last.code.clone(),
                attempts: called.attempts,
            })
        });
        let mut called: Vec<CalledPod> = called.collect();
        called.sort_by_key(|called| (is_delivered(&called.code), called.pod.clone()));
        called.truncate(SHOWN);
        called
    }

    fn record_nobody(&self, status: &mut KrakeHookStatus) -> Step {
        let mut step = Step::default();
        let request = status.workload_request();
        let last = request.and_then(|r| r.last_attempt.as_ref());
        let known = last.is_some_and(|last| last.code == NOBODY);
        let attempt = Attempt {
            at: whole(self.now),
            pod: None,
            code: NOBODY.to_owned(),
        };
        status.change_request(|r| r.last_attempt = Some(attempt));
        if !known {
            let request = status.workload_request();
            let fault = request.and_then(|request| self.call_fault(status, request));
            let what = fault.map_or_else(|| "Nobody can be called".to_owned(), |f| f.what);
            let note = format!("{what}; the removal waits all the same");
            step.notice(true, "NobodyToCall", note);
        }
        step
    }
}

fn tell_calls(news: Vec<(String, String)>) -> Step {
    let mut step = Step::default();
    let mut by_code = BTreeMap::<String, Vec<String>>::new();
    for (code, pod) in news {
        by_code.entry(code).or_default().push(pod);
    }
    for (code, pods) in by_code {
        let were = if pods.len() == 1 { "was" } else { "were" };
        let pods = quorum::pods(&pods);
        match code.as_str() {
            code if is_delivered(code) => {
                step.notice(false, "AppCalled", format!("{pods} {were} asked to shut down"));
            }
            code if is_refused(code) => step.notice(
                true,
                "ShutdownServiceRefused",
                format!(
                    "{pods} answered {code} to the shutdown call: correct spec.shutdown.callOut.service (port, path); the removal waits all the same"
                ),
            ),
            code => step.notice(
                true,
                "CallFailed",
                format!(
                    "{pods} could not be asked to shut down ({}); the call is repeated",
                    in_words(code)
                ),
            ),
        }
    }
    step
}

/// What came of a call that did not reach the app.
pub(super) fn in_words(code: &str) -> String {
    let words = match code {
        "ConnectFailed" => "no connection: it was refused, or not accepted within 3 s",
        "Timeout" => "no answer within 10 s",
        "NoAnswer" => "the connection ended without an answer in HTTP",
        code if code.starts_with('3') => "a redirect, and those are not followed",
        code => return code.to_owned(),
    };
    format!("{code}, {words}")
}

fn due_after(last: Timestamp, opened: Timestamp) -> Timestamp {
    let passed = last.duration_since(opened) / 2;
    last + passed.clamp(LEAST_PAUSE, MOST_PAUSE)
}

pub(super) fn is_delivered(code: &str) -> bool {
    code.len() == 3 && code.starts_with('2')
}

pub(super) fn is_refused(code: &str) -> bool {
    matches!(code, "404" | "405" | "BadPath")
}

fn is_final(code: &str) -> bool {
    is_delivered(code) || is_refused(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_repeated_after_half_of_what_has_passed_from_one_to_fifteen_seconds() {
        let second = |second| Timestamp::from_second(second).unwrap();
        for (last, due) in [
            (0, 1),
            (1, 2),
            (4, 6),
            (10, 15),
            (30, 45),
            (31, 46),
            (600, 615),
        ] {
            assert_eq!(due_after(second(last), second(0)), second(due), "{last}");
        }
    }
}
