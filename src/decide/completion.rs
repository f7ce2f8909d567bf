//! The app says that its work is complete: who has to say so, and what becomes of the workload.
//!
//! What counts is what was promised when it was answered: an acknowledgement that was taken under the
//! policy `Any` completes the workload by itself, whatever the spec says since. Where pods are counted,
//! they are those that are at work at the moment of the decision, and those that have said so.
//!
//! | `action` | |
//! |---|---|
//! | `Delete` | the workload is deleted; with `shutdownFirst` the app is asked before |
//! | `ScaleToZero` | it is scaled to zero, likewise; scaled up again by somebody, it runs like any other |
//! | `None` | only the status says it |

use serde_json::Value;

use super::hook::{Plan, uid_of, whole};
use super::pods;
use super::quorum::{self, Said, Tally};
use super::seen::Effect;
use super::stopping::Rest;
use super::workload::Workload;
use crate::api::HookKind;
use crate::api::condition::{ConditionType, Finding, Reason};
use crate::api::kind::Stop;
use crate::api::krake_hook::{CompleteAction, Quorum, QuorumPolicy};
use crate::api::status::{
    AckResult, Acknowledgement, Completion, Outcome, Phase, Stopped, Trigger,
};

impl Plan<'_> {
    /// Whether enough pods have said that the work is complete; noted the first time. An app may say
    /// so in the middle of a removal, too.
    pub(super) fn note_completion(&mut self, workload: &Workload) -> bool {
        let uid = uid_of(&workload.metadata);
        let template = self.plain_template_hash(workload);
        let at_work = pods::at_work(self.seen, &uid);
        self.note_completion_of(&uid, template, Some(&at_work))
    }

    /// The same for a workload that may be gone already; then nobody can be counted.
    pub(super) fn note_completion_of(
        &mut self,
        uid: &str,
        template_hash: String,
        at_work: Option<&[String]>,
    ) -> bool {
        if self.status.completion.is_some() {
            return true;
        }
        let tally = self.tally_of_completion(uid, at_work);
        if !tally.is_enough() {
            return false;
        }
        let action = self.promised_action(uid);
        self.status.completion = Some(Completion {
            workload_uid: uid.to_owned(),
            template_hash,
            at: whole(self.now),
            action,
            request: None,
            pods: match action {
                CompleteAction::ScaleToZero => self.pods_of_the_hook(),
                CompleteAction::Delete | CompleteAction::None => Vec::new(),
            },
        });
        let message = format!(
            "{} pod(s) said that the work is complete",
            tally.acknowledged
        );
        let entry = self.entry(Outcome::Completed, &message);
        self.remember(entry);
        let next = match action {
            _ if at_work.is_none() => "the workload that said so is gone",
            CompleteAction::Delete => "the workload is deleted",
            CompleteAction::ScaleToZero => "the workload is scaled to zero",
            CompleteAction::None => "the workload is left as it is",
        };
        self.notice(false, "Completed", format!("{message}; {next}"));
        true
    }

    /// Takes the action of a completed workload. True if there is nothing else to be done now.
    pub(super) fn completed(&mut self, workload: &Workload) -> bool {
        if !self.note_completion(workload) {
            self.tell_progress(workload);
            return false;
        }
        let Some(done) = self.status.completion.clone() else {
            return false;
        };
        let complete = self.seen.hook.spec.complete.as_ref();
        let shutdown_first = complete.is_some_and(|complete| complete.shutdown_first);
        match done.action {
            CompleteAction::None => {
                self.report_completed(workload);
                false
            }
            CompleteAction::ScaleToZero if workload.traits().stop != Stop::Cannot => {
                let rest = self.come_to_rest(workload, Trigger::Complete, shutdown_first);
                if rest == Rest::Ended {
                    return self.runs_again(workload, &done);
                }
                if let Some(Stopped { because, .. }) = &mut self.status.stopped {
                    // Whoever sets it back to `Running` does not mean what is complete.
                    *because = Trigger::Complete;
                }
                self.report_completed(workload);
                rest == Rest::UnderWay
            }
            CompleteAction::Delete | CompleteAction::ScaleToZero => {
                if shutdown_first && !self.has_been_asked(workload, Trigger::Complete) {
                    self.report_completed(workload);
                    return true;
                }
                self.report_completed(workload);
                self.keep_armed(workload);
                self.keep(ConditionType::Injected);
                self.then.push(Effect::DeleteWorkload {
                    uid: uid_of(&workload.metadata),
                });
                true
            }
        }
    }

    /// What people read of a workload that is complete and stays, once the rest is as it should be.
    pub(super) fn report_completion(&mut self, workload: &Workload) {
        let all_well = matches!(self.status.phase, Some(Phase::Armed | Phase::Ready));
        let done = self.status.completion.as_ref();
        let (true, Some(action)) = (all_well, done.map(|done| done.action)) else {
            return;
        };
        self.status.phase = Some(Phase::Completed);
        if action == CompleteAction::ScaleToZero {
            self.find(Finding::yes(
                ConditionType::Ready,
                Reason::Complete,
                format!("{} ran to completion, and is at zero", workload.name()),
            ));
        }
    }

    /// While the app is asked before, or the workload is on its way, that stands in `Ready` and in the
    /// phase; and what the API server refuses.
    fn report_completed(&mut self, workload: &Workload) {
        let message = format!("{} ran to completion", workload.name());
        self.find(Finding::yes(
            ConditionType::Completed,
            Reason::Complete,
            message.clone(),
        ));
        let said = self.findings.contains_key(&ConditionType::Ready);
        if said {
            return;
        }
        self.status.phase = Some(Phase::Completed);
        self.find(Finding::yes(
            ConditionType::Ready,
            Reason::Complete,
            message,
        ));
    }

    /// Somebody has scaled a completed workload up again. What was said before is about the run
    /// before; once it is pruned, the new run is like any other.
    fn runs_again(&mut self, workload: &Workload, done: &Completion) -> bool {
        let old: Vec<(String, Value)> = self
            .status
            .acknowledgements
            .iter()
            .filter(|(key, ack)| is_of_run(key, ack, done))
            .filter_map(|(key, ack)| Some((key.clone(), serde_json::to_value(ack).ok()?)))
            .collect();
        if !old.is_empty() {
            self.then.push(Effect::Prune(old));
            self.report_completed(workload);
            self.keep_armed(workload);
            self.keep(ConditionType::Injected);
            self.keep(ConditionType::CertificateReady);
            return true;
        }
        let message = format!(
            "this work ran to completion at {}; the workload was scaled up again and runs like any other",
            done.at.0
        );
        self.notice(false, "RunsAgain", message.clone());
        self.find(Finding::yes(
            ConditionType::Completed,
            Reason::Complete,
            message,
        ));
        self.status.completion = None;
        self.status.stopped = None;
        false
    }

    fn tally_of_completion(&self, uid: &str, at_work: Option<&[String]>) -> Tally {
        let of_this = |ack: &Acknowledgement| ack.workload_uid == uid;
        let said = Said::of(&self.status.acknowledgements, HookKind::Complete, of_this);
        let promised = |ack: &&Acknowledgement| {
            ack.workload_uid == uid
                && ack.result == AckResult::Success
                && matches!(ack.policy, None | Some(QuorumPolicy::Any))
        };
        let by_itself = self.completions().filter(promised).count() > 0;
        let complete = self.seen.hook.spec.complete.as_ref();
        let quorum = match (by_itself, complete) {
            (true, _) => Quorum::default(),
            (false, Some(complete)) => complete.acknowledgements.clone(),
            // Nobody says any more how many it takes: not fewer than all.
            (false, None) => Quorum {
                policy: QuorumPolicy::All,
                count: None,
            },
        };
        let Some(at_work) = at_work else {
            let mut tally = quorum::tally(&quorum, &[], &[], &said);
            tally.by_pod = quorum.policy != QuorumPolicy::Any;
            return tally;
        };
        let mut counted = at_work.to_vec();
        let others = said.success.iter().filter(|pod| !at_work.contains(pod));
        counted.extend(others.cloned());
        quorum::tally(&quorum, &counted, at_work, &said)
    }

    /// How far it is, and who has failed.
    fn tell_progress(&mut self, workload: &Workload) {
        let uid = uid_of(&workload.metadata);
        let about = |ack: &Acknowledgement| ack.workload_uid == uid;
        let said = Said::of(&self.status.acknowledgements, HookKind::Complete, about);
        let again = self.findings.contains_key(&ConditionType::Completed);
        if again || (said.success.is_empty() && said.failure.is_empty()) {
            return;
        }
        let at_work = pods::at_work(self.seen, &uid);
        let name_of = |uid: &str| pods::name_of(self.seen, uid);
        let tally = self.tally_of_completion(&uid, Some(&at_work));
        let words = tally.in_words("said that the work is complete", name_of);
        let words = [words, quorum::failures(&said, name_of)];
        let words: Vec<String> = words.into_iter().flatten().collect();
        self.find(Finding::no(
            ConditionType::Completed,
            Reason::AwaitingAcknowledgement,
            words.join("; "),
        ));
    }

    /// What the spec asked for when the newest of them was taken.
    fn promised_action(&self, uid: &str) -> CompleteAction {
        let counted = self
            .completions()
            .filter(|ack| ack.workload_uid == uid && ack.result == AckResult::Success);
        let newest = counted.max_by_key(|ack| ack.at.0);
        newest.and_then(|ack| ack.action).unwrap_or_default()
    }

    fn completions(&self) -> impl Iterator<Item = &Acknowledgement> {
        let all = self.status.acknowledgements.iter();
        all.filter(|(key, _)| is_completion(key))
            .map(|(_, ack)| ack)
    }

    fn pods_of_the_hook(&self) -> Vec<String> {
        let pods = self.seen.pods.iter();
        pods.filter_map(|pod| pod.metadata.uid.clone()).collect()
    }
}

fn is_completion(key: &str) -> bool {
    key.split('.').next() == Some(HookKind::Complete.as_str())
}

fn is_of_run(key: &str, ack: &Acknowledgement, done: &Completion) -> bool {
    let pod = key.split_once('.').map_or("", |(_, pod)| pod);
    is_completion(key)
        && ack.workload_uid == done.workload_uid
        && (done.pods.iter().any(|uid| uid == pod) || ack.at.0 <= done.at.0)
}
