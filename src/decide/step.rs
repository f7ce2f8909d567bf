//! The result of a step of a decision: effects, conditions, Events, and when to reconcile again.
//! Steps are values. They are joined in the order in which they were decided, and [`merge`] turns
//! them into the decision. Which of the effects are carried out in this round:
//!
//! | effects | carried out | while there are any |
//! |---|---|---|
//! | [`hold`](Step::hold) | first: what makes a removal wait depends on nothing that is yet to be written | nothing else is, and no status is written |
//! | [`first`](Step::first) | next: what makes facts that the rest depends on | nothing else is, and no status is written |
//! | the status | if it differs from what is stored | |
//! | [`notices`](Step::notices) | if the status was written: it keeps them from being told again | |
//! | [`then`](Step::then) | last: the status must say it before it is done | |
//!
//! Which statement about a condition counts:
//!
//! | said before | said later | counts |
//! |---|---|---|
//! | anything | found | the later |
//! | anything | as it was told before | what the stored status says |
//! | nothing, kept | suggested | the suggestion |
//! | nothing | kept | what the stored status says |
//! | anything else | suggested, kept | what was said before |
//! | nothing | nothing | condition: none; phase: what the stored status says |

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::hook::Context;
use super::seen::{Decision, Effect, Next, Notice};
use crate::api::KrakeHookStatus;
use crate::api::condition::{self, ConditionType, Finding, Reason};
use crate::api::status::Phase;

/// A statement about the phase or a condition. Of two with the same weight the later one counts.
#[derive(Clone, Debug, PartialEq)]
enum Said<T> {
    /// What the stored status says, unless anything else is said.
    Kept,
    /// This, unless anything firm is said.
    Suggested(T),
    /// This.
    Found(T),
    /// What the stored status says, whatever was found.
    AsBefore,
}

impl<T> Said<T> {
    fn gives_way_to(&self, later: &Self) -> bool {
        let weight = |said: &Self| match said {
            Self::Kept => 0,
            Self::Suggested(_) => 1,
            Self::Found(_) | Self::AsBefore => 2,
        };
        weight(later) > weight(self) || weight(later) == 2
    }
}

/// The result of one step, or of several that were joined.
#[derive(Clone, Debug, Default)]
pub(super) struct Step {
    /// Effects that make a removal wait: guards and canary.
    pub hold: Vec<Effect>,
    /// Effects whose results the rest depends on.
    pub first: Vec<Effect>,
    /// Events about what the status says.
    pub notices: Vec<Notice>,
    /// Effects that the status has to precede.
    pub then: Vec<Effect>,
    phase: Option<Said<Phase>>,
    conditions: BTreeMap<ConditionType, Said<Finding>>,
    next: Next,
}

impl Step {
    /// Adds what was decided later.
    pub fn join(&mut self, later: Self) {
        let Self {
            hold,
            first,
            notices,
            then,
            phase,
            conditions,
            next,
        } = later;
        let hold = hold.into_iter();
        let new: Vec<_> = hold.filter(|effect| !self.hold.contains(effect)).collect();
        self.hold.extend(new);
        self.first.extend(first);
        self.notices.extend(notices);
        self.then.extend(then);
        self.phase = phase.or(self.phase.take());
        for (kind, said) in conditions {
            self.say(kind, said);
        }
        self.next = self.next.earliest(next);
    }

    /// The same, in a chain.
    pub fn and(mut self, later: Self) -> Self {
        self.join(later);
        self
    }

    /// A condition is this.
    pub fn find(&mut self, finding: Finding) {
        self.say(finding.kind, Said::Found(finding));
    }

    /// A condition is this, unless it is found to be something else.
    pub fn suggest(&mut self, finding: Finding) {
        self.say(finding.kind, Said::Suggested(finding));
    }

    /// Conditions stay as they were, unless something else is said of them.
    pub fn keep(&mut self, kinds: impl IntoIterator<Item = ConditionType>) {
        for kind in kinds {
            self.say(kind, Said::Kept);
        }
    }

    fn say(&mut self, kind: ConditionType, said: Said<Finding>) {
        let before = self.conditions.get(&kind);
        if before.is_none_or(|before| before.gives_way_to(&said)) {
            self.conditions.insert(kind, said);
        }
    }

    /// Where the hook stands.
    pub fn phase(&mut self, phase: Phase) {
        self.phase = Some(Said::Found(phase));
    }

    /// Phase, `Ready` and `Injected` stay as they are stored, whatever was found.
    pub fn keep_told(&mut self) {
        self.phase = Some(Said::AsBefore);
        for kind in [ConditionType::Ready, ConditionType::Injected] {
            self.say(kind, Said::AsBefore);
        }
    }

    /// Tells people.
    pub fn notice(&mut self, warning: bool, reason: &'static str, note: impl Into<String>) {
        self.notices.push(Notice {
            warning,
            reason,
            note: note.into(),
            on_workload: true,
        });
    }

    /// Look again then at the latest.
    pub fn look_again_at(&mut self, at: Timestamp) {
        self.next = self.next.earliest(Next::At(at));
    }

    /// Whether a condition was found to be something.
    pub fn finds(&self, kind: ConditionType) -> bool {
        matches!(self.conditions.get(&kind), Some(Said::Found(_)))
    }

    /// Whether the hook was found to stand at one of these.
    pub fn is_at(&self, phases: &[Phase]) -> bool {
        matches!(&self.phase, Some(Said::Found(phase)) if phases.contains(phase))
    }
}

/// Nothing waits.
pub(super) fn nothing_held() -> Finding {
    Finding::no(
        ConditionType::Blocking,
        Reason::NothingHeld,
        "no removal is waiting",
    )
}

/// The decision that these steps come to, with the status as they have left it.
pub(super) fn merge(context: &Context, mut status: KrakeHookStatus, step: Step) -> Decision {
    let Step {
        hold,
        first,
        notices,
        then,
        phase,
        conditions,
        next,
    } = step;
    // Guards and canary are in place before the rest is decided: a status that changes with each
    // new pod, or with a cache that has not heard of the canary yet, would inform nobody and wake
    // the next reconcile.
    for effects in [hold, first] {
        if !effects.is_empty() {
            return Decision {
                effects,
                next: Next::AwaitChange,
            };
        }
    }
    let stored = context.seen.hook.status.as_ref();
    let generation = context.seen.hook.metadata.generation;
    status.observed_generation = generation;
    status.phase = match phase {
        Some(Said::Found(phase) | Said::Suggested(phase)) => Some(phase),
        Some(Said::Kept | Said::AsBefore) | None => stored.and_then(|stored| stored.phase),
    };
    let before = &status.conditions;
    let told = conditions
        .into_iter()
        .filter_map(|(kind, said)| match said {
            Said::Found(finding) | Said::Suggested(finding) => Some(condition::condition(
                &finding,
                before,
                generation,
                context.now,
            )),
            Said::Kept | Said::AsBefore => condition::find(before, kind).cloned(),
        });
    let mut told: Vec<_> = told.collect();
    told.sort_by(|a, b| a.type_.cmp(&b.type_));
    status.conditions = told;
    let mut effects = Vec::new();
    if stored != Some(&status) {
        effects.push(Effect::WriteStatus(Box::new(status)));
        effects.extend(notices.into_iter().map(Effect::Event));
    }
    effects.extend(then);
    Decision { effects, next }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::build::{self, NAME};
    use crate::testing::world::World;

    const KIND: ConditionType = ConditionType::Ready;

    fn found(message: &str) -> Finding {
        Finding::no(KIND, Reason::Arming, message)
    }

    /// What `Ready` says after these, where the stored status says "stored".
    fn told(steps: impl IntoIterator<Item = Step>) -> Option<String> {
        let mut world = World::new();
        world.create_hook(build::hook(NAME).shutdown());
        let mut seen = world.observe(NAME).expect("the hook is there");
        let mut status = KrakeHookStatus::default();
        let stored = condition::condition(&found("stored"), &[], None, build::at(0));
        status.conditions.push(stored);
        seen.hook.status = Some(status.clone());
        let settings = build::settings("leader-0", true);
        let context = Context {
            seen: &seen,
            settings: &settings,
            now: build::at(1),
        };
        let all = steps.into_iter().fold(Step::default(), Step::and);
        let decision = merge(&context, status, all);
        let written = decision
            .effects
            .into_iter()
            .find_map(|effect| match effect {
                Effect::WriteStatus(status) => Some(status),
                _ => None,
            });
        let conditions = written.expect("its generation is new").conditions;
        condition::find(&conditions, KIND).map(|condition| condition.message.clone())
    }

    /// The second table of this module, with each pair in its order.
    #[test]
    fn what_counts_of_two_that_say_something_of_one_condition() {
        let nothing = || Step::default();
        let say = |say: fn(&mut Step)| {
            let mut step = Step::default();
            say(&mut step);
            step
        };
        let one = || say(|step| step.find(found("one")));
        let two = || say(|step| step.find(found("two")));
        let suggested = || say(|step| step.suggest(found("suggested")));
        let kept = || say(|step| step.keep([KIND]));
        let as_before = || say(Step::keep_told);
        let lines = [
            ([nothing(), nothing()], None),
            ([one(), two()], Some("two")),
            ([as_before(), one()], Some("one")),
            ([suggested(), one()], Some("one")),
            ([kept(), one()], Some("one")),
            ([one(), as_before()], Some("stored")),
            ([suggested(), as_before()], Some("stored")),
            ([nothing(), suggested()], Some("suggested")),
            ([kept(), suggested()], Some("suggested")),
            ([one(), suggested()], Some("one")),
            ([as_before(), suggested()], Some("stored")),
            ([nothing(), kept()], Some("stored")),
            ([one(), kept()], Some("one")),
            ([suggested(), kept()], Some("suggested")),
        ];
        for (number, (steps, expected)) in lines.into_iter().enumerate() {
            assert_eq!(told(steps).as_deref(), expected, "line {number}");
        }
    }

    #[test]
    fn what_holds_is_carried_out_before_all_else_and_once() {
        let world = {
            let mut world = World::new();
            world.create_hook(build::hook(NAME).shutdown());
            world
        };
        let seen = world.observe(NAME).expect("the hook is there");
        let settings = build::settings("leader-0", true);
        let context = Context {
            seen: &seen,
            settings: &settings,
            now: build::at(1),
        };
        let canary = || Effect::CreateCanary {
            workload_uid: "w".into(),
        };
        let step = |hold: bool, first: bool| {
            let mut step = Step::default();
            step.hold.extend(hold.then(canary));
            step.first.extend(first.then_some(Effect::CreateGuard));
            step.then.push(Effect::ApplyCertificate);
            step.notice(false, "Told", "of the status");
            step
        };
        let effects = |steps: [Step; 2]| {
            let all = steps.into_iter().fold(Step::default(), Step::and);
            merge(&context, seen.status(), all).effects
        };
        assert_eq!(effects([step(true, true), step(true, false)]), [canary()]);
        let first = effects([step(false, true), step(false, false)]);
        assert_eq!(first, [Effect::CreateGuard]);
        let rest = effects([step(false, false), Step::default()]);
        assert!(matches!(
            rest[..],
            [
                Effect::WriteStatus(_),
                Effect::Event(_),
                Effect::ApplyCertificate
            ]
        ));
    }
}
