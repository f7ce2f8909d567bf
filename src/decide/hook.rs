//! The whole decision about one hook and its workload, in reading order: where it stands
//! ([`super::situation`]), the steps that follow from that, and what they come to ([`super::step`]).
//!
//! A step is a method of [`Context`]. It reads what was seen, changes the status, which is the only memory
//! there is, and returns what else it has to say as a [`Step`]. Everything that must outlive a crash goes
//! into the status, and the status stands before every effect that depends on it having been written.

use std::ops::ControlFlow::{Break, Continue};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::inject;
use super::seen::{Decision, Dependent, Effect, Next, Rejection, Seen, Settings, annotation};
use super::situation::Situation;
use super::step::{self, Step, nothing_held};
use super::workload::Workload;
use crate::api::condition::{ConditionType, Finding, Reason};
use crate::api::kind::DependentKind;
use crate::api::status::{HistoryEntry, Outcome};
use crate::api::{KrakeHookStatus, names};

/// Newest outcomes that are kept.
const HISTORY: usize = 10;

/// What is to be done about a hook and its workload.
pub fn decide(seen: &Seen, settings: &Settings, now: Timestamp) -> Decision {
    let context = Context {
        seen,
        settings,
        now,
    };
    let mut status = seen.status();
    if let Some(token) = &seen.token {
        status.token = Some(token.clone());
    }
    let situation = context.situation();
    let mut step = match situation {
        Situation::Over => return Decision::nothing(),
        Situation::New => return only(Effect::AddHookFinalizer),
        Situation::Rivalled(rival) => context.rivalled(&mut status, rival),
        Situation::Absent => context.absent(&mut status),
        Situation::Removing(workload) => {
            let met = context.meet(&mut status, workload);
            let removed = context.removing(&mut status, workload);
            met.and(removed)
                .and(context.mend_secrets(&status, workload))
        }
        Situation::HookDeleting(workload)
        | Situation::Disabled(workload)
        | Situation::NamespaceTerminating(workload)
        | Situation::Controlled(workload)
        | Situation::Present(workload) => {
            let met = context.meet(&mut status, workload);
            let present = context.present(&mut status, workload, situation);
            met.and(present)
                .and(context.mend_secrets(&status, workload))
        }
    };
    let kept = context.keep_config_map(&status, &step);
    step.join(kept);
    let step = context.set_aside_rejected(&status, step);
    status.sum_up_requests(now);
    step::merge(&context, status, step)
}

fn only(effect: Effect) -> Decision {
    Decision {
        effects: vec![effect],
        next: Next::AwaitChange,
    }
}

/// What a decision is made from; nothing of it changes while it is made.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// What was seen.
    pub seen: &'a Seen,
    /// The operator's configuration, and who it is.
    pub settings: &'a Settings,
    /// When.
    pub now: Timestamp,
}

impl<'a> Context<'a> {
    /// The workload is there, and nobody deletes it.
    fn present(
        &self,
        status: &mut KrakeHookStatus,
        workload: &Workload,
        situation: Situation,
    ) -> Step {
        let mut step = self.prune(status, workload);
        step.join(self.settle_leftovers(status, Some(workload)));
        step.find(nothing_held());
        // Comes before everything that keeps the hook out: a completion that was answered 200 is
        // carried out.
        match self.complete(status, workload) {
            Break(last) => return step.and(last),
            Continue(completed) => step.join(completed),
        }
        let last = match situation {
            Situation::HookDeleting(_) => {
                let why = "the hook is being deleted";
                match self.abandon_stop(status, workload, why) {
                    Break(last) => last,
                    Continue(abandoned) => abandoned.and(self.hook_deleting(status, workload)),
                }
            }
            Situation::Disabled(_) => {
                let why = "the hook is to keep out";
                match self.abandon_stop(status, workload, why) {
                    Break(last) => last,
                    Continue(abandoned) => abandoned.and(self.stand_down(status, workload)),
                }
            }
            Situation::NamespaceTerminating(_) => self.refuse(
                status,
                Reason::WorkloadDeleting,
                "the namespace is being deleted; Kubernetes waits for nobody there",
            ),
            Situation::Controlled(_) => {
                let why = self.controlled(workload).unwrap_or_default();
                self.refuse(status, Reason::WorkloadControlled, &why)
            }
            _ => self.at_work(status, workload),
        };
        step.and(last)
    }

    /// The workload is there, and nobody deletes anything.
    fn at_work(&self, status: &mut KrakeHookStatus, workload: &Workload) -> Step {
        let mut step = Step::default();
        if self.is_held(workload) {
            // Whatever becomes of the rest.
            step.join(self.guard_dependents(workload).missing);
        }
        match self.settle_state(status, workload) {
            // Nothing that would end pods before their time.
            Break(last) => return step.and(last),
            Continue(settled) => step.join(settled),
        }
        step.join(self.equip(status, workload));
        self.report_state(status, workload, &mut step);
        self.report_completion(status, workload, &mut step);
        step
    }

    /// An effect that the API server has refused lately is not tried again, nor are those that follow
    /// from it; it is reported, and tried again soon. Until it succeeds, the conditions stay as they are:
    /// taking them back before each attempt would wake the next attempt.
    fn set_aside_rejected(&self, status: &KrakeHookStatus, mut step: Step) -> Step {
        let seen = self.seen;
        let is_rejected = |effect: &Effect| {
            let mut rejected = seen.rejections.iter();
            rejected.any(|rejection| rejection.effect == *effect)
        };
        let all = step.hold.iter().chain(&step.first).chain(&step.then);
        let decided: Vec<_> = all.cloned().collect();
        let mut rejections = seen.rejections.iter().rev();
        // Only one that is still to be done is reported.
        let rejection = rejections.find(|rejection| decided.contains(&rejection.effect));
        let waits = step.first.iter().any(is_rejected);
        if waits {
            step.first.clear();
        }
        if let Some(first) = step.then.iter().position(is_rejected) {
            step.then.truncate(first);
        }
        if let Some(rejection) = rejection {
            step.look_again_at(self.after_refusal());
            let Rejection {
                object, message, ..
            } = rejection;
            let message = format!("the API server refuses {object}: {message}");
            match waits {
                true => step.join(self.refuse(status, Reason::Rejected, &message)),
                false => {
                    step.join(self.tell_once(status, Reason::Rejected, &message));
                    step.find(Finding::no(ConditionType::Ready, Reason::Rejected, message));
                }
            }
        } else if self.was_rejected(status) && step.then.iter().any(is_write) {
            step.keep_told();
        }
        step.hold.retain(|effect| !is_rejected(effect));
        step
    }

    /// Whether somebody has asked the hook to go.
    pub fn is_hook_deleting(&self) -> bool {
        self.seen.hook.metadata.deletion_timestamp.is_some()
    }

    pub fn entry(&self, status: &KrakeHookStatus, outcome: Outcome, message: &str) -> HistoryEntry {
        let request = status.workload_request();
        HistoryEntry {
            outcome,
            trigger: request.map(|r| r.trigger),
            request: request.map(|r| r.id.clone()),
            at: whole(self.now),
            message: message.to_owned(),
        }
    }

    pub fn plain_template_hash(&self, workload: &Workload) -> String {
        inject::template_hash(workload, self.injection(workload).ok().as_ref())
    }

    pub fn injection(&self, workload: &Workload) -> Result<inject::Injection, inject::Conflict> {
        let identity = inject::HookIdentity {
            name: self.seen.hook_name(),
            uid: self.seen.hook_uid(),
        };
        inject::injection(identity, &self.seen.hook.spec, self.settings, workload)
    }

    /// The reason a person gives, on hook or workload, for letting the removal go on at once.
    pub fn skip(&self, workload: &Workload) -> Option<String> {
        let said = self.skips(workload).into_iter();
        said.map(str::trim)
            .find(|reason| !reason.is_empty())
            .map(ToOwned::to_owned)
    }

    /// Whether the skip annotation lacks a reason. Then it skips nothing.
    pub fn skip_lacks_reason(&self, workload: &Workload) -> bool {
        !self.skips(workload).is_empty() && self.skip(workload).is_none()
    }

    fn skips<'b>(&'b self, workload: &'b Workload) -> Vec<&'b str> {
        [&self.seen.hook.metadata, &workload.metadata]
            .into_iter()
            .filter_map(|meta| annotation(meta, names::SKIP_ANNOTATION))
            .collect()
    }

    /// Whether hook or workload says that the hook is to keep out.
    pub fn disabled(&self, workload: &Workload) -> bool {
        [&self.seen.hook.metadata, &workload.metadata]
            .iter()
            .any(|meta| annotation(meta, names::HOOK_ANNOTATION) == Some(names::DISABLED))
    }
}

impl KrakeHookStatus {
    /// Adds to the history.
    pub(super) fn remember(&mut self, entry: HistoryEntry) {
        self.history.insert(0, entry);
        self.history.truncate(HISTORY);
    }
}

impl Decision {
    /// Nothing to do until something changes.
    pub fn nothing() -> Self {
        Self {
            effects: Vec::new(),
            next: Next::AwaitChange,
        }
    }
}

/// Whether the API server may refuse it.
fn is_write(effect: &Effect) -> bool {
    !matches!(effect, Effect::Event(_) | Effect::CallOut(_))
}

/// Whether the canary shows that the deletion orphaned the dependents.
pub(super) fn is_left_alone(canary: &ObjectMeta) -> bool {
    canary.owner_references.iter().flatten().count() == 0
}

pub(super) fn dependent(kind: DependentKind, meta: &ObjectMeta) -> Dependent {
    Dependent {
        kind,
        name: meta.name.clone().unwrap_or_default(),
        uid: uid_of(meta),
    }
}

pub(super) fn uid_of(meta: &ObjectMeta) -> String {
    meta.uid.clone().unwrap_or_default()
}

/// The next whole second: what is stored is never shorter than what was meant.
pub(super) fn whole(at: Timestamp) -> Time {
    let rest = at.subsec_nanosecond();
    let floor = at - SignedDuration::from_nanos(i64::from(rest));
    Time(if rest > 0 {
        floor + SignedDuration::from_secs(1)
    } else {
        floor
    })
}
