//! The requests to shut down that a hook's status keeps: which of them serves which purpose, how one is
//! opened, and how it is closed.
//!
//! A request is about the whole workload, and there is one of these at most: it serves whatever else
//! becomes of the workload while it is open, because an app that has been asked is not asked a second
//! time for another reason. Once it is closed, this table says whether it still does. It is also the
//! test table.
//!
//! | request | its trigger | purpose | about the pods that run now | serves |
//! |---|---|---|---|---|
//! | open | any | any | any | yes; its trigger becomes the purpose |
//! | closed | `Delete` | `Delete` | any | yes: that removal goes on |
//! | closed | `Delete` | `Stop`, `Complete` | any | no |
//! | closed | `Stop` | any | any | no: what was stopped once is asked again before it goes |
//! | closed | `Complete` | `Delete`, `Complete` | yes | yes: the end that it was for goes on |
//! | closed | `Complete` | `Delete`, `Complete` | no | no: what was scaled up again is another run |
//! | closed | `Complete` | `Stop` | any | no |
//!
//! A request of another workload of the same name never serves. Where none does, a new one is opened;
//! its id tells how often this workload has been asked before, so that two processes that open it, and
//! one that opens it twice, ask once.

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::hook::{Context, uid_of, whole};
use super::pods;
use super::step::Step;
use super::workload::Workload;
use crate::api::KrakeHookStatus;
use crate::api::krake_hook::CallOutMode;
use crate::api::status::{Outcome, RequestState, Scope, ShutdownRequest, Terms, Trigger};

/// Whether a request of this workload counts for a purpose; the table above.
fn serves(
    state: RequestState,
    trigger: Trigger,
    purpose: Trigger,
    is_about_these_pods: bool,
) -> bool {
    match (state, trigger, purpose) {
        (RequestState::Open, _, _) => true,
        (RequestState::Closed, Trigger::Delete, purpose) => purpose == Trigger::Delete,
        (RequestState::Closed, Trigger::Stop, _) => false,
        (RequestState::Closed, Trigger::Complete, Trigger::Stop) => false,
        (RequestState::Closed, Trigger::Complete, Trigger::Delete | Trigger::Complete) => {
            is_about_these_pods
        }
    }
}

impl Context<'_> {
    /// The request that counts for this purpose, if there is one.
    pub(super) fn request_for<'a>(
        &self,
        status: &'a KrakeHookStatus,
        workload: &Workload,
        purpose: Trigger,
    ) -> Option<&'a ShutdownRequest> {
        let uid = uid_of(&workload.metadata);
        let request = status.workload_request();
        let request = request.filter(|request| request.workload_uid == uid)?;
        let done = status.completion.as_ref();
        let linked = done.is_some_and(|done| done.request.as_ref() == Some(&request.id));
        let is_about_these_pods = linked && !self.others_run(&uid, request);
        serves(request.state, request.trigger, purpose, is_about_these_pods).then_some(request)
    }

    /// Whether pods run that this request was not about.
    pub(super) fn others_run(&self, workload_uid: &str, request: &ShutdownRequest) -> bool {
        let able = pods::able_to_acknowledge(self.seen, workload_uid);
        able.iter().any(|uid| !request.pods.contains(uid))
    }

    /// An open request serves whatever comes next.
    pub(super) fn take_for(
        &self,
        status: &mut KrakeHookStatus,
        workload: &Workload,
        purpose: Trigger,
    ) {
        let request = self.request_for(status, workload, purpose);
        let open = request.filter(|request| request.state == RequestState::Open);
        if let Some(id) = open.map(|request| request.id.clone()) {
            status.change_request(|request| request.trigger = purpose);
            link_completion(status, purpose, id);
        }
    }

    /// Opens a request in the place of the one before.
    pub(super) fn begin(
        &self,
        status: &mut KrakeHookStatus,
        workload: &Workload,
        purpose: Trigger,
        terms: Terms,
    ) {
        let uid = uid_of(&workload.metadata);
        let pods = pods::to_ask(self.seen, &uid);
        let last = status.workload_request();
        let ordinal = last
            .filter(|last| last.workload_uid == uid)
            .map_or(0, |last| last.ordinal + 1);
        let id = request_id(&uid, purpose, ordinal);
        link_completion(status, purpose, id.clone());
        status.set_workload_request(Some(ShutdownRequest {
            id,
            scope: Scope::Workload,
            state: RequestState::Open,
            trigger: purpose,
            ordinal,
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
            skip_lacks_reason: false,
            outcome: None,
            message: None,
        }));
    }

    /// What the spec says now.
    pub(super) fn terms(&self) -> Terms {
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

    /// Closes the request for this purpose, with a record also where nobody had to be asked.
    pub(super) fn close_for(
        &self,
        status: &mut KrakeHookStatus,
        workload: &Workload,
        purpose: Trigger,
        outcome: Outcome,
        message: &str,
    ) -> Step {
        if self.request_for(status, workload, purpose).is_none() {
            self.begin(status, workload, purpose, self.terms());
        }
        self.close_open(status, outcome, message)
    }

    /// Closes the request, if it is open.
    pub(super) fn close_open(
        &self,
        status: &mut KrakeHookStatus,
        outcome: Outcome,
        message: &str,
    ) -> Step {
        let mut step = Step::default();
        let request = status.workload_request();
        let Some(request) = request.filter(|request| request.state == RequestState::Open) else {
            return step;
        };
        let aim = aim(request.trigger);
        let message = match outcome {
            Outcome::TimedOut | Outcome::Skipped | Outcome::NamespaceTerminating => {
                self.with_fault(status, message.to_owned())
            }
            _ => message.to_owned(),
        };
        status.change_request(|request| close(request, outcome, &message));
        // A completion is in the history since the app said so.
        if outcome != Outcome::Completed {
            let entry = self.entry(status, outcome, &message);
            status.remember(entry);
        }
        let warning = matches!(outcome, Outcome::TimedOut | Outcome::NamespaceTerminating);
        let note = match outcome {
            Outcome::Cancelled => message,
            _ => format!("{aim} goes on: {message}"),
        };
        step.notice(warning, outcome.as_str(), note);
        step
    }
}

impl KrakeHookStatus {
    /// Changes the request that is about the whole workload, if there is one.
    pub(super) fn change_request(&mut self, change: impl FnOnce(&mut ShutdownRequest)) {
        if let Some(request) = self.workload_request_mut() {
            change(request);
        }
    }

    /// What `kubectl get` shows of all requests: how many are open, and when the first of them ends. A
    /// deadline that has passed is that of a request that waits for ever.
    pub(super) fn sum_up_requests(&mut self, now: Timestamp) {
        let all = self.requests.values();
        let open: Vec<_> = all
            .filter(|request| request.state == RequestState::Open)
            .collect();
        let count = i64::try_from(open.len()).unwrap_or(i64::MAX);
        let deadlines = open.iter().filter_map(|request| request.deadline.as_ref());
        let to_come = deadlines.filter(|deadline| deadline.0 > now);
        self.deadline = to_come.min_by_key(|deadline| deadline.0).cloned();
        self.open_requests = (count > 0).then_some(count);
    }
}

fn link_completion(status: &mut KrakeHookStatus, purpose: Trigger, id: String) {
    if let (Trigger::Complete, Some(done)) = (purpose, &mut status.completion) {
        done.request = Some(id);
    }
}

/// Closes a request; its deadline is of no interest any more.
pub(super) fn close(request: &mut ShutdownRequest, outcome: Outcome, message: &str) {
    request.state = RequestState::Closed;
    request.outcome = Some(outcome);
    request.message = Some(message.to_owned());
    request.deadline = None;
}

/// What is to become of the workload.
pub(super) fn why(purpose: Trigger) -> &'static str {
    match purpose {
        Trigger::Delete => "is being deleted",
        Trigger::Stop => "is to be stopped",
        Trigger::Complete => "ran to completion, and its shutdown comes first",
    }
}

/// What waits for the app.
pub(super) fn aim(purpose: Trigger) -> &'static str {
    match purpose {
        Trigger::Delete => "the removal",
        Trigger::Stop => "the stop",
        Trigger::Complete => "the end",
    }
}

/// How a request was closed.
pub(super) fn in_words(request: &ShutdownRequest) -> Option<String> {
    let outcome = request.outcome?.as_str();
    Some(match &request.message {
        Some(message) => format!("{outcome}: {message}"),
        None => outcome.to_owned(),
    })
}

/// The same asking has the same id, whichever process asks and however often.
fn request_id(workload_uid: &str, trigger: Trigger, ordinal: i64) -> String {
    let digest = Sha256::digest(format!("{workload_uid}/{}/{ordinal}", trigger.as_str()));
    digest.iter().take(8).map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of this module, line by line; every case stands in one line.
    #[test]
    fn which_request_serves_which_purpose() {
        use RequestState::{Closed, Open};
        use Trigger::{Complete, Delete, Stop};
        const ALL: &[Trigger] = &[Delete, Stop, Complete];
        const EITHER: &[bool] = &[true, false];
        type Line = (
            RequestState,
            &'static [Trigger],
            &'static [Trigger],
            &'static [bool],
            bool,
        );
        let lines: [Line; 7] = [
            (Open, ALL, ALL, EITHER, true),
            (Closed, &[Delete], &[Delete], EITHER, true),
            (Closed, &[Delete], &[Stop, Complete], EITHER, false),
            (Closed, &[Stop], ALL, EITHER, false),
            (Closed, &[Complete], &[Delete, Complete], &[true], true),
            (Closed, &[Complete], &[Delete, Complete], &[false], false),
            (Closed, &[Complete], &[Stop], EITHER, false),
        ];
        let mut seen = Vec::new();
        for (state, triggers, purposes, pods, expected) in lines {
            for &trigger in triggers {
                for &purpose in purposes {
                    for &same in pods {
                        let case = (state, trigger, purpose, same);
                        assert_eq!(serves(state, trigger, purpose, same), expected, "{case:?}");
                        assert!(!seen.contains(&case), "twice: {case:?}");
                        seen.push(case);
                    }
                }
            }
        }
        assert_eq!(seen.len(), 2 * 3 * 3 * 2);
    }

    /// Requests are stored under these ids, and apps know them: they outlive an upgrade.
    #[test]
    fn the_ids_of_requests_are_kept() {
        for (trigger, ordinal, id) in [
            (Trigger::Delete, 0, "0c4313779033c2e3"),
            (Trigger::Stop, 1, "3b83583379460f1a"),
            (Trigger::Complete, 2, "065ac463c5353d76"),
        ] {
            assert_eq!(request_id("uid", trigger, ordinal), id);
            assert_eq!(serde_json::json!(trigger), trigger.as_str());
        }
    }
}
