//! Completion: how many pods have to report it, and what happens to the workload.
//!
//! What was promised when an acknowledgement was answered counts: one that was accepted under the
//! policy `Any` completes the workload by itself, even if the spec has changed since. Where pods
//! are counted, they are the pods that run at the moment of the decision, and those that have
//! reported.
//!
//! | `action` | |
//! |---|---|
//! | `Delete` | the workload is deleted; with `shutdownFirst` the app is asked before |
//! | `ScaleToZero` | it is scaled to zero, likewise; scaled up again by somebody, it runs like any other |
//! | `None` | only the status says it |

use std::ops::ControlFlow::{self, Break, Continue};

use serde_json::Value;

use super::hook::{Context, uid_of, whole};
use super::pods;
use super::quorum::{self, Said, Tally};
use super::seen::Effect;
use super::step::Step;
use super::stopping::StopProgress;
use super::workload::Workload;
use crate::api::condition::{ConditionType, Finding, Reason};
use crate::api::kind::Stop;
use crate::api::krake_hook::{CompleteAction, Quorum, QuorumPolicy};
use crate::api::status::{
    AckResult, Acknowledgement, Completion, Outcome, Phase, Stopped, Trigger,
};
use crate::api::{HookKind, KrakeHookStatus};

impl Context<'_> {
    /// Records the completion when enough pods have reported it. An app may report it during a
    /// removal, too.
    pub(super) fn note_completion(
        &self,
        status: &mut KrakeHookStatus,
        workload: &Workload,
    ) -> Step {
        let uid = uid_of(&workload.metadata);
        let template = self.plain_template_hash(workload);
        let at_work = pods::at_work(self.seen, &uid);
        self.note_completion_of(status, &uid, template, Some(&at_work))
    }

    /// The same for a workload that may be gone already; then there are no pods to count.
    pub(super) fn note_completion_of(
        &self,
        status: &mut KrakeHookStatus,
        uid: &str,
        template_hash: String,
        at_work: Option<&[String]>,
    ) -> Step {
        let mut step = Step::default();
        if status.completion.is_some() {
            return step;
        }
        let tally = self.tally_of_completion(status, uid, at_work);
        if !tally.is_enough() {
            return step;
        }
        let action = promised_action(status, uid);
        status.completion = Some(Completion {
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
        let entry = self.entry(status, Outcome::Completed, &message);
        status.remember(entry);
        let next = match action {
            _ if at_work.is_none() => "the workload that said so is gone",
            CompleteAction::Delete => "the workload is deleted",
            CompleteAction::ScaleToZero => "the workload is scaled to zero",
            CompleteAction::None => "the workload is left as it is",
        };
        step.notice(false, "Completed", format!("{message}; {next}"));
        step
    }

    /// Takes the action of a completed workload. Continues if there is anything else to do in this
    /// round.
    pub(super) fn complete(
        &self,
        status: &mut KrakeHookStatus,
        workload: &Workload,
    ) -> ControlFlow<Step, Step> {
        let mut step = self.note_completion(status, workload);
        let Some(done) = status.completion.clone() else {
            step.join(self.tell_progress(status, workload));
            return Continue(step);
        };
        let complete = self.seen.hook.spec.complete.as_ref();
        let shutdown_first = complete.is_some_and(|complete| complete.shutdown_first);
        match done.action {
            CompleteAction::None => {
                report_completed(workload, &mut step);
                Continue(step)
            }
            CompleteAction::ScaleToZero if workload.traits().stop != Stop::Cannot => {
                let (progress, scaled) =
                    self.scale_down(status, workload, Trigger::Complete, shutdown_first);
                step.join(scaled);
                if progress == StopProgress::Ended {
                    return match self.run_again(status, workload, &done) {
                        Break(again) => Break(step.and(again)),
                        Continue(again) => Continue(step.and(again)),
                    };
                }
                if let Some(Stopped { because, .. }) = &mut status.stopped {
                    // `spec.state: Running` must not start a completed workload again.
                    *because = Trigger::Complete;
                }
                report_completed(workload, &mut step);
                match progress {
                    StopProgress::UnderWay => Break(step),
                    StopProgress::Reached | StopProgress::Ended => Continue(step),
                }
            }
            CompleteAction::Delete | CompleteAction::ScaleToZero => {
                if shutdown_first {
                    match self.ask_before_rest(status, workload, Trigger::Complete) {
                        Continue(answered) => step.join(answered),
                        Break(asked) => {
                            step.join(asked);
                            report_completed(workload, &mut step);
                            return Break(step);
                        }
                    }
                }
                report_completed(workload, &mut step);
                step.join(self.keep_armed(status, workload));
                step.keep([ConditionType::Injected]);
                step.then.push(Effect::DeleteWorkload {
                    uid: uid_of(&workload.metadata),
                });
                Break(step)
            }
        }
    }

    /// Reports a completed workload that stays, once everything else is as it should be.
    pub(super) fn report_completion(
        &self,
        status: &KrakeHookStatus,
        workload: &Workload,
        step: &mut Step,
    ) {
        let all_well = step.is_at(&[Phase::Armed, Phase::Ready]);
        let done = status.completion.as_ref();
        let (true, Some(action)) = (all_well, done.map(|done| done.action)) else {
            return;
        };
        step.phase(Phase::Completed);
        if action == CompleteAction::ScaleToZero {
            step.find(Finding::yes(
                ConditionType::Ready,
                Reason::Complete,
                format!("{} ran to completion, and is at zero", workload.name()),
            ));
        }
    }

    /// A completed workload was scaled up again. Earlier acknowledgements are about the former run;
    /// once they are pruned, the new run is like any other.
    fn run_again(
        &self,
        status: &mut KrakeHookStatus,
        workload: &Workload,
        done: &Completion,
    ) -> ControlFlow<Step, Step> {
        let mut step = Step::default();
        let old: Vec<(String, Value)> = status
            .acknowledgements
            .iter()
            .filter(|(key, ack)| is_of_run(key, ack, done))
            .filter_map(|(key, ack)| Some((key.clone(), serde_json::to_value(ack).ok()?)))
            .collect();
        if !old.is_empty() {
            step.then.push(Effect::Prune(old));
            report_completed(workload, &mut step);
            step.join(self.keep_armed(status, workload));
            step.keep([ConditionType::Injected, ConditionType::CertificateReady]);
            return Break(step);
        }
        let message = format!(
            "this work ran to completion at {}; the workload was scaled up again and runs like any other",
            done.at.0
        );
        step.notice(false, "RunsAgain", message.clone());
        step.find(Finding::yes(
            ConditionType::Completed,
            Reason::Complete,
            message,
        ));
        status.completion = None;
        status.stopped = None;
        Continue(step)
    }

    fn tally_of_completion(
        &self,
        status: &KrakeHookStatus,
        uid: &str,
        at_work: Option<&[String]>,
    ) -> Tally {
        let of_this = |ack: &Acknowledgement| ack.workload_uid == uid;
        let said = Said::of(&status.acknowledgements, HookKind::Complete, of_this);
        let promised = |ack: &&Acknowledgement| {
            ack.workload_uid == uid
                && ack.result == AckResult::Success
                && matches!(ack.policy, None | Some(QuorumPolicy::Any))
        };
        let by_itself = completions(status).filter(promised).count() > 0;
        let complete = self.seen.hook.spec.complete.as_ref();
        let quorum = match (by_itself, complete) {
            (true, _) => Quorum::default(),
            (false, Some(complete)) => complete.acknowledgements.clone(),
            // The spec no longer has a quorum: require all.
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
    fn tell_progress(&self, status: &KrakeHookStatus, workload: &Workload) -> Step {
        let mut step = Step::default();
        let uid = uid_of(&workload.metadata);
        let about = |ack: &Acknowledgement| ack.workload_uid == uid;
        let said = Said::of(&status.acknowledgements, HookKind::Complete, about);
        if said.success.is_empty() && said.failure.is_empty() {
            return step;
        }
        let at_work = pods::at_work(self.seen, &uid);
        let name_of = |uid: &str| pods::name_of(self.seen, uid);
        let tally = self.tally_of_completion(status, &uid, Some(&at_work));
        let words = tally.in_words("said that the work is complete", name_of);
        let words = [words, quorum::failures(&said, name_of)];
        let words: Vec<String> = words.into_iter().flatten().collect();
        step.suggest(Finding::no(
            ConditionType::Completed,
            Reason::AwaitingAcknowledgement,
            words.join("; "),
        ));
        step
    }

    fn pods_of_the_hook(&self) -> Vec<String> {
        let pods = self.seen.pods.iter();
        pods.filter_map(|pod| pod.metadata.uid.clone()).collect()
    }
}

/// While the app is asked before, or the workload is on its way, that stands in `Ready` and in the phase;
/// and what the API server refuses.
fn report_completed(workload: &Workload, step: &mut Step) {
    let message = format!("{} ran to completion", workload.name());
    let complete = |kind| Finding::yes(kind, Reason::Complete, message.clone());
    step.find(complete(ConditionType::Completed));
    if !step.finds(ConditionType::Ready) {
        step.phase(Phase::Completed);
        step.find(complete(ConditionType::Ready));
    }
}

/// What the spec asked for when the newest of them was taken.
fn promised_action(status: &KrakeHookStatus, uid: &str) -> CompleteAction {
    let counted = completions(status)
        .filter(|ack| ack.workload_uid == uid && ack.result == AckResult::Success);
    let newest = counted.max_by_key(|ack| ack.at.0);
    newest.and_then(|ack| ack.action).unwrap_or_default()
}

fn completions(status: &KrakeHookStatus) -> impl Iterator<Item = &Acknowledgement> {
    let all = status.acknowledgements.iter();
    all.filter(|(key, _)| is_completion(key))
        .map(|(_, ack)| ack)
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
