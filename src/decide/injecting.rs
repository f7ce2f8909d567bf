//! When the template is injected, when that is not repeated, and how it is reported.

use jiff::{SignedDuration, Timestamp};

use super::hook::Context;
use super::inject::{self, Injection};
use super::pods;
use super::seen::{Effect, Refusal};
use super::service;
use super::step::Step;
use super::trouble::{self, Found, Trouble, Weight};
use super::workload::{Pace, Workload};
use crate::api::condition::{self, ConditionType, Finding, Reason};
use crate::api::kind::Change;
use crate::api::status::Phase;
use crate::api::{KrakeHookStatus, names};

/// How many injections into one workload within some minutes mean that another field manager keeps
/// undoing them.
const CONTESTED_AFTER: usize = 4;

impl Context<'_> {
    pub(super) fn inject(
        &self,
        status: &mut KrakeHookStatus,
        workload: &Workload,
        injection: &Injection,
        wants_hold: bool,
    ) -> Step {
        let change = change(workload, injection, wants_hold);
        let in_place = change.is_none();
        if let Some(change) = change.clone().filter(|_| self.was_rejected(status)) {
            return self.try_again(status, workload, change);
        }
        let mut step = match wants_hold {
            true => Step::default(),
            false => self.disarm(),
        };
        if let Some(change) = change {
            let (pause, contested) = self.contested(workload);
            step.join(contested);
            match pause {
                Some(at) => step.look_again_at(at),
                None => step.then.push(change),
            }
        }
        let (service, remembered) = self.call_out(status, workload);
        step.join(remembered);
        let Found { trouble, due } = match in_place {
            true => trouble::look(self.seen, workload, injection, self.now),
            false => Found::default(),
        };
        let injected = in_place
            && self.report_injected(status, workload, injection, trouble.as_ref(), &mut step);
        if let Some(due) = due.filter(|_| !injected) {
            step.look_again_at(due);
        }
        // Of pods that had it once, only what keeps a container from starting may be for want of ours.
        let trouble = trouble.filter(|it| !injected || it.weight == Weight::AtStart);
        let mut armed = !wants_hold;
        if wants_hold {
            let (in_place, arming) = self.arm(workload);
            step.join(arming);
            armed = in_place && injected;
            step.find(if armed {
                Finding::yes(
                    ConditionType::Armed,
                    Reason::InPlace,
                    "finalizer, guards and canary are in place; a removal will wait",
                )
            } else {
                Finding::no(
                    ConditionType::Armed,
                    Reason::Arming,
                    "not everything that makes a removal wait is in place yet",
                )
            });
            if armed && !condition::is_true(&status.conditions, ConditionType::Armed) {
                step.notice(false, "Armed", "a removal of the workload will wait");
            }
        }
        let ready = injected && armed;
        if let Some(trouble) = &trouble {
            tell_trouble(status, trouble, &mut step);
        }
        step.phase(match (ready, wants_hold) {
            (true, true) => Phase::Armed,
            (true, false) => Phase::Ready,
            (false, _) => Phase::Injecting,
        });
        step.find(match (ready, trouble, service) {
            (_, Some(trouble), _) => {
                Finding::no(ConditionType::Ready, trouble.reason, trouble.message)
            }
            (true, None, Err(fault)) => {
                Finding::no(ConditionType::Ready, fault.reason, fault.ahead_of_time())
            }
            (true, None, Ok(())) => {
                let has = if workload.is_changeable() {
                    "pods have token, URL and certificate"
                } else {
                    "token, URL and certificate are there to be read"
                };
                let waits = if wants_hold {
                    "; a removal will wait"
                } else {
                    ""
                };
                let others = match &status.call_out {
                    Some(call_out) if wants_hold && !service::selects(call_out, workload) => {
                        "; the Service selects other pods than the workload's, and they are called"
                    }
                    _ => "",
                };
                let message = format!("{has}{waits}{others}");
                Finding::yes(ConditionType::Ready, Reason::AsSpecified, message)
            }
            (false, None, _) => {
                let (reason, message) = why_not_injected(workload, injected, in_place);
                Finding::no(ConditionType::Ready, reason, message)
            }
        });
        step
    }

    /// What the API server has just said to our change of the workload; it is tried again later.
    pub(super) fn rejection(&self) -> Option<String> {
        let Some(Refusal::InjectionRejected { message }) = &self.seen.refusal else {
            return None;
        };
        Some(format!("the API server refuses the change: {message}"))
    }

    pub(super) fn was_rejected(&self, status: &KrakeHookStatus) -> bool {
        condition::is_because(&status.conditions, ConditionType::Ready, Reason::Rejected)
    }

    /// The API server has refused this change before. Until it accepts it, the conditions stay as
    /// they are: taking them back before each attempt would wake the next attempt, without end.
    fn try_again(&self, status: &KrakeHookStatus, workload: &Workload, change: Effect) -> Step {
        let mut step = self.guard_dependents(workload).missing;
        step.join(self.keep_armed(status, workload));
        step.keep_told();
        step.then.push(change);
        step
    }

    /// Another field manager keeps removing our entries: it is named, and they are put back at
    /// growing intervals. Returns when that is due, if not now.
    fn contested(&self, workload: &Workload) -> (Option<Timestamp>, Step) {
        let mut step = Step::default();
        let lately = &self.seen.injections;
        let (Some(last), true) = (lately.last(), lately.len() >= CONTESTED_AFTER) else {
            return (None, step);
        };
        let doublings = u32::try_from(lately.len() - CONTESTED_AFTER)
            .unwrap_or(8)
            .min(6);
        let pause = SignedDuration::from_secs(5_i64 << doublings);
        let other = inject::last_other_manager(workload).unwrap_or_else(|| "unknown".into());
        step.find(Finding::yes(
            ConditionType::InjectionContested,
            Reason::Contested,
            format!(
                "our entries were taken out of {workload}, or out of their order, {} times lately, last by field manager {other}; they are put back every {} s. Let it keep them, or annotate the workload {}: {}",
                lately.len(),
                pause.as_secs(),
                names::HOOK_ANNOTATION,
                names::DISABLED
            ),
        ));
        let at = *last + pause;
        ((self.now < at).then_some(at), step)
    }

    /// Says whether pods have what is injected.
    fn report_injected(
        &self,
        status: &KrakeHookStatus,
        workload: &Workload,
        injection: &Injection,
        trouble: Option<&Trouble>,
        step: &mut Step,
    ) -> bool {
        if !workload.is_changeable() {
            step.find(Finding::no(
                ConditionType::Injected,
                Reason::TemplateImmutable,
                self.where_to_read(workload),
            ));
            return true;
        }
        let (current, all) = pods::injected(self.seen, workload, &injection.stamp);
        let before = condition::is_true(&status.conditions, ConditionType::Injected);
        // A `Recreate` passes through no pod at all.
        let begun = all > 0 || workload.pods.desired == 0;
        // The first time, the workload's controller must have seen the new template: before that,
        // its count of pods may still be the old one, and match by accident.
        let counted = workload.is_observed() && workload.pods.updated == all;
        // Afterwards every template there was had our entries, and the count may still be that of
        // before a pod came or went.
        let injected = match (before, trouble.map(|trouble| trouble.weight)) {
            (_, Some(Weight::Unseen)) | (false, Some(Weight::AtStart)) => false,
            // Where none of them runs, none has seen anything of it yet.
            (true, Some(Weight::AtStart)) if !pods::any_running(self.seen, &injection.stamp) => {
                false
            }
            (true, _) => !pods::any_without(self.seen, &injection.stamp),
            (false, _) => begun && counted && current >= all,
        };
        step.find(if injected {
            let message = format!("{current} pods have token, URL and certificate");
            Finding::yes(ConditionType::Injected, Reason::InPlace, message)
        } else {
            let (reason, why) = match trouble {
                Some(trouble) => (trouble.reason, trouble.message.clone()),
                None => why_not_injected(workload, false, true),
            };
            let message = format!("{current} of {all} pods have token, URL and certificate; {why}");
            Finding::no(ConditionType::Injected, reason, message)
        });
        injected
    }
}

/// What is to be done to the workload, if anything: what would stay goes first, since an apply makes a
/// variable of two sources out of what has another one.
fn change(workload: &Workload, injection: &Injection, hold: bool) -> Option<Effect> {
    let apply = || Effect::ApplyInjection(injection.patch(workload, hold));
    let leftovers = injection.remove_leftovers(workload, hold);
    leftovers.or_else(|| (!injection.is_in_place(workload, hold)).then(apply))
}

/// Once: what the condition said before tells whether it is known.
fn tell_trouble(status: &KrakeHookStatus, trouble: &Trouble, step: &mut Step) {
    let before = condition::find(&status.conditions, ConditionType::Ready);
    if before.is_none_or(|before| before.reason != trouble.reason.as_str()) {
        step.notice(true, trouble.reason.as_str(), trouble.message.clone());
    }
}

fn why_not_injected(workload: &Workload, injected: bool, in_place: bool) -> (Reason, String) {
    if injected {
        return (
            Reason::Arming,
            "not everything that makes a removal wait is in place yet".into(),
        );
    }
    let name = workload.name();
    // Until then, a pod that is deleted as advised would come back without the injection.
    if !in_place || !workload.is_observed() {
        return (
            Reason::RollingOut,
            format!("{workload}: its controller makes no pods of the present template yet"),
        );
    }
    if workload.traits().change == Change::NewPodsOnly {
        return (
            Reason::PodsNotReplaced,
            format!(
                "{workload} replaces no running pod, and only new ones get what was injected: delete the others one by one"
            ),
        );
    }
    match workload.pace {
        Pace::Paused => (
            Reason::RolloutPaused,
            format!(
                "{workload} is paused: no pod gets what was injected; `kubectl rollout resume deployment {name}`"
            ),
        ),
        Pace::OnDelete => (
            Reason::OnDelete,
            format!(
                "{workload} has updateStrategy OnDelete: a running pod does not get what was injected; delete its pods one by one, or set updateStrategy RollingUpdate"
            ),
        ),
        Pace::Partition(partition) => (
            Reason::Partitioned,
            format!(
                "{workload} has a partition of {partition}: pods below it do not get what was injected; lower updateStrategy.rollingUpdate.partition to 0"
            ),
        ),
        Pace::Rolling => (
            Reason::RollingOut,
            format!("{workload}: pods without the present injection still run"),
        ),
    }
}
