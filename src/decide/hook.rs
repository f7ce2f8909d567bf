//! The whole decision about one hook and its workload, in reading order.
//!
//! Read [`decide`] first; [`super::presence`] and [`super::removal`] are its two long branches.
//! Everything that must outlive a crash goes into the status, and the status stands before every
//! effect that depends on it having been written.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};

use super::disposition::{Controller, Fate, disposition};
use super::inject;
use super::pods::guard_uid;
use super::requests;
use super::seen::{
    Decision, Dependent, Effect, Next, Notice, Rejection, Seen, Settings, annotation,
    has_finalizer, is_controlled, is_owned_by,
};
use super::workload::Workload;
use crate::api::condition::{self, ConditionType, Finding, Reason};
use crate::api::kind::DependentKind;
use crate::api::status::{HistoryEntry, ObservedWorkload, Outcome, Phase, RequestState};
use crate::api::{HookKind, KrakeHookStatus, names};

/// How often a workload is looked for that nobody watches.
const UNWATCHED: SignedDuration = SignedDuration::from_secs(10);
/// Newest outcomes that are kept.
const HISTORY: usize = 10;

/// What is to be done about a hook and its workload.
pub fn decide(seen: &Seen, settings: &Settings, now: Timestamp) -> Decision {
    if seen.hook_gone {
        return Decision::nothing();
    }
    let meta = &seen.hook.metadata;
    let deleting = meta.deletion_timestamp.is_some();
    match (deleting, has_finalizer(meta, names::HOOK_FINALIZER)) {
        // Everything else waits: what is provided for a hook must be taken back when it goes.
        (false, false) => return only(Effect::AddHookFinalizer),
        (true, false) => return Decision::nothing(),
        (_, true) => {}
    }
    let mut plan = Plan::new(seen, settings, now);
    if let Some(rival) = &seen.rival {
        if !plan.has_promised() {
            plan.stand_back(rival);
        }
    } else if let Some(workload) = &seen.workload {
        plan.meet(workload);
        if workload.metadata.deletion_timestamp.is_some() {
            plan.removal(workload);
        } else {
            plan.presence(workload);
        }
        plan.mend_secrets(workload);
    } else {
        plan.absence();
    }
    plan.keep_config_map();
    plan.finish()
}

fn only(effect: Effect) -> Decision {
    Decision {
        effects: vec![effect],
        next: Next::AwaitChange,
    }
}

/// A decision in the making.
pub(super) struct Plan<'a> {
    pub seen: &'a Seen,
    pub settings: &'a Settings,
    pub now: Timestamp,
    /// The status as it is to be.
    pub status: KrakeHookStatus,
    /// What makes a removal wait: guards and canary.
    pub hold: Vec<Effect>,
    /// What makes facts that the rest depends on; while there is any, there is nothing else.
    pub first: Vec<Effect>,
    /// What people are told once the status says it.
    pub notices: Vec<Effect>,
    /// What may be done once the status is written.
    pub then: Vec<Effect>,
    pub findings: BTreeMap<ConditionType, Finding>,
    /// Conditions that stay as they were.
    pub kept: Vec<Condition>,
    pub next: Next,
}

impl<'a> Plan<'a> {
    fn new(seen: &'a Seen, settings: &'a Settings, now: Timestamp) -> Self {
        let mut status = seen.status();
        // Not to be decided by: this look may find another one.
        status.phase = None;
        if let Some(token) = &seen.token {
            status.token = Some(token.clone());
        }
        Self {
            seen,
            settings,
            now,
            status,
            hold: Vec::new(),
            first: Vec::new(),
            notices: Vec::new(),
            then: Vec::new(),
            findings: BTreeMap::new(),
            kept: Vec::new(),
            next: Next::AwaitChange,
        }
    }

    /// An older hook has this workload: say so and touch nothing.
    fn stand_back(&mut self, rival: &str) {
        let spec = &self.seen.hook.spec;
        self.status.phase = Some(Phase::Pending);
        self.find(Finding::no(
            ConditionType::Ready,
            Reason::WorkloadTaken,
            format!(
                "{} {} already has the hook {rival}, which is older; one workload has one hook. Delete one of them",
                spec.workload.kind, spec.workload.name
            ),
        ));
        // Nothing that is said to this hook is acted on any more, so nothing is taken.
        self.settle_last("an older hook has the workload");
        self.status.workload = None;
        if self.hook_deleting() {
            self.then.push(Effect::RemoveHookFinalizer);
        }
    }

    /// Whether this hook has taken a completion before an older one was there, and acts on it.
    fn has_promised(&mut self) -> bool {
        let Some(workload) = &self.seen.workload else {
            return false;
        };
        let uid = uid_of(&workload.metadata);
        let met = self.status.workload.as_ref().is_some_and(|w| w.uid == uid);
        let done = self.status.completion.as_ref();
        let due = done.is_none_or(|done| done.workload_uid == uid);
        met && due && workload.metadata.deletion_timestamp.is_none() && self.completed(workload)
    }

    /// What was asked of, and said by, a workload that this hook has nothing more to do with: it is the
    /// history's.
    fn settle_last(&mut self, why: &str) {
        if let Some(request) = self.status.workload_request()
            && request.state == RequestState::Open
        {
            let tally = self.tally(request);
            let (outcome, message) = match tally.is_enough() {
                true => (
                    Outcome::Acknowledged,
                    format!("{} acknowledgement(s); {why}", tally.acknowledged),
                ),
                false => (Outcome::Skipped, why.to_owned()),
            };
            if let Some(request) = self.status.workload_request_mut() {
                requests::close(request, outcome, &message);
            }
            let entry = self.entry(outcome, &message);
            self.remember(entry);
        }
        if let Some(last) = self.status.workload.clone() {
            // Answered while the workload went: what is left of it is the receipt.
            self.note_completion_of(&last.uid, String::new(), None);
        }
    }

    /// A workload of a new uid starts anew: requests and completions of the old one are not its own.
    fn meet(&mut self, workload: &Workload) {
        let uid = uid_of(&workload.metadata);
        if self.status.workload.as_ref().is_some_and(|w| w.uid == uid) {
            if let Some(old) = condition::find(&self.status.conditions, ConditionType::Completed)
                && old.status == "True"
                && self.status.completion.is_none()
            {
                self.find(Finding::yes(
                    ConditionType::Completed,
                    Reason::Complete,
                    old.message.clone(),
                ));
            }
            return;
        }
        self.settle_last("the workload was created again before anybody saw it go");
        if let Some(done) = &self.status.completion
            && done.template_hash.is_empty()
        {
            self.find(Finding::yes(
                ConditionType::Completed,
                Reason::Complete,
                format!(
                    "{} that was here before ran to completion at {}; it was created again, and runs like any other",
                    workload, done.at.0
                ),
            ));
        }
        if let Some(done) = &self.status.completion
            && done.template_hash == self.plain_template_hash(workload)
        {
            let created = workload.metadata.creation_timestamp.as_ref();
            self.find(Finding::yes(
                ConditionType::Completed,
                Reason::Complete,
                format!(
                    "this work ran to completion at {}; the workload was created again{} and runs like any other",
                    done.at.0,
                    created.map(|at| format!(" at {}", at.0)).unwrap_or_default()
                ),
            ));
        }
        self.status.workload = Some(ObservedWorkload { uid });
        self.status.set_workload_request(None);
        self.status.completion = None;
        self.status.stopped = None;
        self.status.deletion = None;
        self.status.call_out = None;
    }

    /// The workload is not there (yet, or any more).
    fn absence(&mut self) {
        let spec = &self.seen.hook.spec;
        self.settle_strays(None);
        self.status.stopped = None;
        self.settle_last("the workload went without waiting: somebody took its finalizer off");
        let completed = self.status.completion.as_ref().map(|done| done.at.0);
        let (reason, message) = match completed {
            Some(at) => {
                self.status.phase = Some(Phase::Completed);
                let message = format!("{} ran to completion at {at}", spec.workload.name);
                self.find(Finding::yes(
                    ConditionType::Completed,
                    Reason::Complete,
                    message.clone(),
                ));
                (Reason::Complete, message)
            }
            None if self.status.workload_request().is_some() => {
                self.status.phase = Some(Phase::Released);
                let how = self.status.workload_request().and_then(requests::in_words);
                let how = how.unwrap_or_else(|| "its removal went on".to_owned());
                let message = format!("{} is gone; {how}", spec.workload.name);
                (Reason::Released, message)
            }
            None if self.seen.kind().is_none() => {
                self.status.phase = Some(Phase::Pending);
                (
                    Reason::WorkloadUnsupported,
                    format!(
                        "this version knows no {} {}: delete the hook, or install the version of the operator that it was made for",
                        spec.workload.api_version, spec.workload.kind
                    ),
                )
            }
            None => {
                let watched = self.seen.kind().is_some_and(|kind| kind.traits().watched);
                if !watched && !self.hook_deleting() {
                    self.look_again_at(self.now + UNWATCHED);
                }
                self.status.phase = Some(Phase::Pending);
                (
                    Reason::WorkloadNotFound,
                    format!(
                        "{} {} does not exist in namespace {}; the hook waits for it",
                        spec.workload.kind,
                        spec.workload.name,
                        self.seen.namespace()
                    ),
                )
            }
        };
        // Whoever waits for the hook must not wait for ever: nothing is left to come.
        let over = matches!(reason, Reason::Complete | Reason::Released);
        self.find(Finding {
            kind: ConditionType::Ready,
            holds: over,
            reason,
            message: message.clone(),
        });
        self.find(Finding::no(
            ConditionType::Injected,
            reason,
            message.clone(),
        ));
        if spec.enables(HookKind::Shutdown) {
            self.find(Finding::no(ConditionType::Armed, reason, message));
        }
        self.find(Finding::no(
            ConditionType::Blocking,
            Reason::NothingHeld,
            "no removal is waiting",
        ));
        if self.hook_deleting() && self.then.is_empty() {
            self.then.push(Effect::RemoveHookFinalizer);
        }
    }

    /// Guarded dependents of a workload that is gone, and its canary: never left for ever.
    ///
    /// If the deletion left its dependents alone, the canary stands there without owner: then the
    /// pods live on, and only the guard goes. Anything else was a removal, and goes on.
    pub fn settle_strays(&mut self, present: Option<&str>) {
        let Some(guard) = guard_uid(self.seen) else {
            return;
        };
        let canaries: Vec<_> = self
            .seen
            .canaries
            .iter()
            .filter(|canary| {
                present.is_none_or(|uid| {
                    canary.metadata.name.as_deref()
                        != Some(&names::canary(self.seen.hook_name(), uid))
                })
            })
            .collect();
        let orphaned = canaries.iter().any(|c| is_left_alone(&c.metadata))
            || (present.is_none()
                && self.status.deletion == Some(crate::api::status::Deletion::Orphan));
        let last_uid = self
            .seen
            .hook
            .status
            .as_ref()
            .and_then(|s| Some(s.workload.as_ref()?.uid.as_str()));
        let mut settled = true;
        for (kind, meta) in self.seen.dependents() {
            if !is_owned_by(meta, guard) || meta.deletion_timestamp.is_some() {
                continue;
            }
            // An earlier workload of that name has left a canary, and what nobody controls is its. Without
            // one it is somebody's wish (a label was changed): it is let go, or its workload could not
            // adopt it again. But what was looked at after the workload may be the first sign of a
            // deletion that is seen in a moment.
            let uncertain = self.seen.looked_live && !is_controlled(meta);
            let fate = match Controller::of(meta, present) {
                _ if present.is_none() => Fate::Gone { orphaned },
                Controller::Workload => Fate::Held,
                Controller::Nobody if canaries.is_empty() && uncertain => Fate::Held,
                Controller::Nobody if canaries.is_empty() => Fate::Forsaken,
                Controller::Nobody | Controller::Another => Fate::Gone { orphaned },
            };
            let effect = disposition(fate, Controller::of(meta, last_uid)).effect(kind, meta);
            settled &= effect.is_none();
            self.then.extend(effect);
        }
        if settled {
            for canary in canaries {
                self.then.push(Effect::RemoveCanary {
                    name: canary.metadata.name.clone().unwrap_or_default(),
                });
            }
        }
    }

    fn finish(mut self) -> Decision {
        // What holds depends on nothing that is yet to be written, and must not wait for it.
        // The rest is decided with it in place: a status that comes and goes with each new pod, or
        // with each look at a cache that has not heard of the canary, tells nobody anything, and
        // would be a change to look at again.
        self.set_aside_rejected();
        self.sum_up_requests();
        for effects in [self.hold, self.first] {
            if !effects.is_empty() {
                return Decision {
                    effects,
                    next: Next::AwaitChange,
                };
            }
        }
        let mut effects = Vec::new();
        let generation = self.seen.hook.metadata.generation;
        self.status.observed_generation = generation;
        // Where nothing was found now, it stands where it stood.
        self.status.phase = self.status.phase.or(self.seen.status().phase);
        let findings: Vec<_> = self.findings.into_values().collect();
        self.status.conditions =
            condition::conditions(&findings, &self.status.conditions, generation, self.now);
        for old in self.kept {
            // What was found now wins over what was to stay as it was.
            if !self.status.conditions.iter().any(|c| c.type_ == old.type_) {
                self.status.conditions.push(old);
            }
        }
        self.status.conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        // What was found now stands before what was kept, and the API server takes one of a type.
        self.status
            .conditions
            .dedup_by(|later, earlier| later.type_ == earlier.type_);
        if self.seen.hook.status.as_ref() != Some(&self.status) {
            effects.push(Effect::WriteStatus(Box::new(self.status)));
            effects.extend(self.notices);
        }
        effects.extend(self.then);
        Decision {
            effects,
            next: self.next,
        }
    }

    /// What the API server has refused is not tried again in this look, nor is what follows from it; a
    /// person is told, and it is tried again soon. Until it goes through, what was told stays: to take
    /// it back before each attempt would be news each time.
    fn set_aside_rejected(&mut self) {
        let seen = self.seen;
        let is_rejected = |effect: &Effect| {
            let mut rejected = seen.rejections.iter();
            rejected.any(|rejection| rejection.effect == *effect)
        };
        let waits = self.first.iter().any(is_rejected);
        if waits {
            self.first.clear();
        }
        if let Some(first) = self.then.iter().position(is_rejected) {
            self.then.truncate(first);
        }
        if let Some(rejection) = seen.rejections.last() {
            self.look_again_after_refusal();
            let Rejection {
                object, message, ..
            } = rejection;
            let message = format!("the API server refuses {object}: {message}");
            match waits {
                true => self.refuse(Reason::Rejected, &message),
                false => {
                    self.tell_once(Reason::Rejected, &message);
                    self.find(Finding::no(ConditionType::Ready, Reason::Rejected, message));
                }
            }
        } else if self.was_rejected() && self.then.iter().any(is_write) {
            self.keep_told();
        }
        self.hold.retain(|effect| !is_rejected(effect));
    }

    pub fn hook_deleting(&self) -> bool {
        self.seen.hook.metadata.deletion_timestamp.is_some()
    }

    pub fn find(&mut self, finding: Finding) {
        // One condition of each type, or the API server refuses the whole status.
        self.kept.retain(|old| old.type_ != finding.kind.as_str());
        self.findings.insert(finding.kind, finding);
    }

    pub fn notice(&mut self, warning: bool, reason: &'static str, note: impl Into<String>) {
        self.notices.push(Effect::Event(Notice {
            warning,
            reason,
            note: note.into(),
            on_workload: true,
        }));
    }

    pub fn look_again_at(&mut self, at: Timestamp) {
        self.next = self.next.earliest(Next::At(at));
    }

    pub fn entry(&self, outcome: Outcome, message: &str) -> HistoryEntry {
        let request = self.status.workload_request();
        HistoryEntry {
            outcome,
            trigger: request.map(|r| r.trigger),
            request: request.map(|r| r.id.clone()),
            at: whole(self.now),
            message: message.to_owned(),
        }
    }

    pub fn remember(&mut self, entry: HistoryEntry) {
        self.status.history.insert(0, entry);
        self.status.history.truncate(HISTORY);
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

    /// Whether somebody wants to skip the asking, and does not say why. That skips nothing.
    pub fn skip_lacks_reason(&self, workload: &Workload) -> bool {
        !self.skips(workload).is_empty() && self.skip(workload).is_none()
    }

    fn skips(&self, workload: &'a Workload) -> Vec<&'a str> {
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

/// Whether what became of a canary tells that dependents are left alone.
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
