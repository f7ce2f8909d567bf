use proptest::prelude::*;

use super::*;
use crate::api::condition::{self, ConditionType};
use crate::testing::build::at;

const DAY: i64 = 86_400;
const P: i64 = 150;

fn entry(name: &str, source: Option<&str>, from: i64, until: i64) -> Entry {
    Entry {
        fingerprint: name.into(),
        subject: format!("CN={name}"),
        source: source.map(ToOwned::to_owned),
        not_before: at(from),
        not_after: at(until),
        since: at(from.max(0)),
        settled: None,
    }
}

/// Made on the first day, good for three years.
fn made(name: &str) -> Entry {
    entry(name, None, -DAY, 1096 * DAY)
}

fn given(name: &str) -> Entry {
    entry(name, Some("corp"), -DAY, 1096 * DAY)
}

fn settled(entry: Entry, second: i64) -> Entry {
    Entry {
        settled: Some(at(second)),
        ..entry
    }
}

fn fault() -> Fault {
    Fault {
        reason: "AuthorityEmpty",
        message: "Secret krake-system/corp: tls.crt is missing or empty".into(),
    }
}

/// What is seen, by default: an operator-made `a` signs, and nothing else is.
#[derive(Clone)]
struct Case {
    ledger: Option<Ledger>,
    broken: Option<Fault>,
    source: Option<Result<Entry, Fault>>,
    behind: usize,
    leaves: BTreeMap<String, usize>,
    asked: Option<&'static str>,
    now: i64,
}

impl Case {
    fn new(change: impl FnOnce(&mut Self)) -> Self {
        let mut case = Self {
            ledger: Some(Ledger::begin(made("a"), None)),
            broken: None,
            source: None,
            behind: 0,
            leaves: BTreeMap::from([("a".to_owned(), 3)]),
            asked: None,
            now: 1000,
        };
        change(&mut case);
        case
    }

    fn ledger(&mut self) -> &mut Ledger {
        self.ledger.as_mut().unwrap()
    }

    fn decide(&self, status: &HookAuthorityStatus) -> AuthorityDecision {
        let fault = fault();
        let seen = AuthoritySeen {
            kept: match (&self.broken, &self.ledger) {
                (Some(fault), _) => Kept::Broken(fault),
                (_, Some(ledger)) => Kept::Ledger(ledger),
                _ => Kept::Nothing,
            },
            source: self.source.as_ref().map(|s| s.as_ref().map_err(|_| &fault)),
            endpoint: None,
            bundles: 5,
            behind: self.behind,
            leaves: &self.leaves,
            longest_leaf: SignedDuration::from_hours(90 * 24),
            asked: self.asked,
            status,
        };
        decide(&seen, &self.settings(), at(self.now))
    }

    fn settings(&self) -> AuthoritySettings {
        AuthoritySettings {
            namespace: "krake-system".into(),
            source: self.source.as_ref().map(|_| "corp".into()),
            propagation: SignedDuration::from_secs(P),
        }
    }

    fn step(&self) -> String {
        let decision = self.decide(&HookAuthorityStatus::default());
        let step = decision.effects.iter().find_map(|effect| match effect {
            AuthorityEffect::Take { step, origin } => Some((step.clone(), *origin)),
            _ => None,
        });
        step.map_or_else(
            || "none".to_owned(),
            |(step, origin)| match (&step, origin) {
                (
                    Step::Settle { fingerprint }
                    | Step::Unsettle { fingerprint }
                    | Step::Retire { fingerprint },
                    None,
                ) => format!("{} {fingerprint}", step.as_str()),
                (_, Some(origin)) => format!("{} {origin:?}", step.as_str()),
                _ => step.as_str().to_owned(),
            },
        )
    }

    fn status(&self) -> HookAuthorityStatus {
        let decision = self.decide(&HookAuthorityStatus::default());
        let status = decision
            .effects
            .into_iter()
            .find_map(|effect| match effect {
                AuthorityEffect::WriteStatus(status) => Some(*status),
                _ => None,
            });
        status.expect("nothing else to do")
    }
}

/// The table of the module's doc, row by row.
#[test]
#[allow(clippy::too_many_lines)]
fn the_first_row_that_fits_counts() {
    let good = |name: &str| Some(Ok(given(name)));
    let bad = || Some(Err(fault()));
    let rows: Vec<(&str, Case, &str)> = vec![
        (
            "no state, made",
            Case::new(|c| c.ledger = None),
            "Begin Made",
        ),
        (
            "no state, imported",
            Case::new(|c| (c.ledger, c.source) = (None, good("b"))),
            "Begin Source",
        ),
        (
            "no state, bad source",
            Case::new(|c| (c.ledger, c.source) = (None, bad())),
            "none",
        ),
        (
            "broken state, good source",
            Case::new(|c| (c.broken, c.source) = (Some(fault()), good("b"))),
            "none",
        ),
        ("nothing to do", Case::new(|_| {}), "none"),
        (
            "expired, next prepared",
            Case::new(|c| {
                c.ledger().active = entry("a", None, 0, 999);
                c.ledger().next = Some(made("b"));
                c.behind = 4;
            }),
            "Activate",
        ),
        (
            "expired, next as well",
            Case::new(|c| {
                c.ledger().active = entry("a", None, 0, 999);
                c.ledger().next = Some(entry("b", None, 0, 999));
            }),
            "Supersede Made",
        ),
        (
            "ends this second",
            Case::new(|c| c.ledger().active = entry("a", None, 0, 1000)),
            "Supersede Made",
        ),
        (
            "for later",
            Case::new(|c| c.ledger().active = entry("a", None, 1001, 9_000_000)),
            "Supersede Made",
        ),
        (
            "expired, another source",
            Case::new(|c| {
                c.ledger().active = entry("a", Some("corp"), 0, 999);
                c.source = good("b");
            }),
            "Supersede Source",
        ),
        (
            "expired, bad source",
            Case::new(|c| {
                c.ledger().active = entry("a", Some("corp"), 0, 999);
                c.source = bad();
            }),
            "none",
        ),
        (
            "prepared for later",
            Case::new(|c| c.ledger().next = Some(entry("b", None, 1001, 9_000_000))),
            "Discard",
        ),
        (
            "prepared and another source",
            Case::new(|c| (c.ledger().next, c.source) = (Some(given("b")), good("c"))),
            "Prepare Source",
        ),
        (
            "prepared, and back to the active one",
            Case::new(|c| (c.ledger().next, c.source) = (Some(given("b")), good("a"))),
            "Discard",
        ),
        (
            "prepared, and no source is configured any more",
            Case::new(|c| c.ledger().next = Some(given("b"))),
            "Discard",
        ),
        (
            "prepared, then the source went bad",
            Case::new(|c| {
                c.ledger().next = Some(settled(given("b"), 1000 - P));
                c.source = bad();
            }),
            "Activate",
        ),
        (
            "not in every ConfigMap",
            Case::new(|c| {
                c.ledger().next = Some(made("b"));
                c.behind = 1;
            }),
            "none",
        ),
        (
            "no longer in every ConfigMap",
            Case::new(|c| {
                c.ledger().next = Some(settled(made("b"), 0));
                c.behind = 1;
            }),
            "Unsettle b",
        ),
        (
            "some ConfigMap cannot be written, a second before the hour",
            Case::new(|c| {
                c.ledger().next = Some(made("b"));
                (c.behind, c.now) = (1, 3599);
            }),
            "none",
        ),
        (
            "some ConfigMap cannot be written, and the hour is over",
            Case::new(|c| {
                c.ledger().next = Some(made("b"));
                (c.behind, c.now) = (1, 3600);
            }),
            "Settle b",
        ),
        (
            "in every ConfigMap",
            Case::new(|c| c.ledger().next = Some(made("b"))),
            "Settle b",
        ),
        (
            "in every ConfigMap since tomorrow",
            Case::new(|c| c.ledger().next = Some(settled(made("b"), DAY))),
            "Settle b",
        ),
        (
            "a second before its pods know",
            Case::new(|c| c.ledger().next = Some(settled(made("b"), 1001 - P))),
            "none",
        ),
        (
            "its pods know",
            Case::new(|c| c.ledger().next = Some(settled(made("b"), 1000 - P))),
            "Activate",
        ),
        (
            "the source is the active one, made by the operator before",
            Case::new(|c| c.source = good("a")),
            "Attribute",
        ),
        (
            "another source",
            Case::new(|c| (c.ledger().active, c.source) = (given("a"), good("b"))),
            "Prepare Source",
        ),
        (
            "a source that is for later by now",
            Case::new(|c| {
                c.ledger().active = given("a");
                c.source = Some(Ok(entry("b", Some("corp"), 1001, 9_000_000)));
            }),
            "none",
        ),
        (
            "prepared, and for later by now",
            Case::new(|c| {
                let later = entry("b", Some("corp"), 1001, 9_000_000);
                c.ledger().active = given("a");
                (c.ledger().next, c.source) = (Some(later.clone()), Some(Ok(later)));
            }),
            "Discard",
        ),
        (
            "a bad source changes nothing",
            Case::new(|c| (c.ledger().active, c.source) = (given("a"), bad())),
            "none",
        ),
        (
            "no source is configured any more",
            Case::new(|c| c.ledger().active = given("a")),
            "Prepare Made",
        ),
        (
            "asked",
            Case::new(|c| c.asked = Some("now")),
            "Prepare Made",
        ),
        (
            "asked and answered",
            Case::new(|c| {
                c.asked = Some("now");
                c.ledger().rotated_for = Some("now".into());
            }),
            "none",
        ),
        (
            "asked again",
            Case::new(|c| {
                c.asked = Some("again");
                c.ledger().rotated_for = Some("now".into());
            }),
            "Prepare Made",
        ),
        (
            "not asked any more",
            Case::new(|c| c.ledger().rotated_for = Some("now".into())),
            "Answer",
        ),
        (
            "asked while one is under way",
            Case::new(|c| {
                c.asked = Some("now");
                c.ledger().next = Some(made("b"));
                c.behind = 1;
            }),
            "Answer",
        ),
        (
            "asked of what only the user can do",
            Case::new(|c| {
                c.asked = Some("now");
                (c.ledger().active, c.source) = (given("a"), good("a"));
            }),
            "Answer",
        ),
        (
            "asked while too many retire",
            Case::new(|c| {
                c.asked = Some("now");
                c.ledger().retiring = vec![made("r"); MOST_RETIRING];
                c.leaves.insert("r".into(), 1);
            }),
            "none",
        ),
        (
            "a second before its end cuts a leaf short",
            Case::new(|c| c.now = 1006 * DAY - P - SLACK.as_secs() - 1),
            "none",
        ),
        (
            "its end cuts a leaf short",
            Case::new(|c| c.now = 1006 * DAY - P - SLACK.as_secs()),
            "Prepare Made",
        ),
        (
            "it lives shorter than a leaf, first half",
            Case::new(|c| c.ledger().active = entry("a", None, 0, 2002)),
            "none",
        ),
        (
            "it lives shorter than a leaf, second half",
            Case::new(|c| c.ledger().active = entry("a", None, 0, 2000)),
            "Prepare Made",
        ),
        (
            "the user's own is the user's to renew",
            Case::new(|c| {
                c.ledger().active = entry("a", Some("corp"), 0, 2000);
                c.source = Some(Ok(entry("a", Some("corp"), 0, 2000)));
            }),
            "none",
        ),
        (
            "a retiring one expired",
            Case::new(|c| {
                c.ledger().retiring = vec![entry("r", None, 0, 1000)];
                c.leaves.insert("r".into(), 1);
            }),
            "Retire r",
        ),
        (
            "a retiring one's leaves live",
            Case::new(|c| {
                c.ledger().retiring = vec![made("r")];
                c.leaves.insert("r".into(), 1);
            }),
            "none",
        ),
        (
            "a retiring one's last leaf is gone",
            Case::new(|c| c.ledger().retiring = vec![made("r")]),
            "Settle r",
        ),
        (
            "a leaf of it again",
            Case::new(|c| {
                c.ledger().retiring = vec![settled(made("r"), 0)];
                c.leaves.insert("r".into(), 1);
            }),
            "Unsettle r",
        ),
        (
            "a pod may still hold a replaced file",
            Case::new(|c| c.ledger().retiring = vec![settled(made("r"), 1001 - P)]),
            "none",
        ),
        (
            "no pod can",
            Case::new(|c| c.ledger().retiring = vec![settled(made("r"), 1000 - P)]),
            "Retire r",
        ),
        (
            "one that is taken up again is not retired",
            Case::new(|c| {
                c.ledger().retiring = vec![settled(made("r"), 1000 - P)];
                c.ledger().next = Some(settled(made("r"), 999));
            }),
            "none",
        ),
        (
            "the next one in line, too",
            Case::new(|c| {
                c.ledger().retiring = vec![made("r"), settled(made("s"), 1000 - P)];
                c.leaves.insert("r".into(), 1);
            }),
            "Retire s",
        ),
    ];
    for (what, case, step) in rows {
        assert_eq!(case.step(), step, "{what}");
    }
}

#[test]
fn what_is_shown_says_who_signs_and_why_something_is_wrong() {
    type Row = (&'static str, Case, [(&'static str, &'static str); 4]);
    const CALM: (&str, &str) = ("False", "NotExpiring");
    let rows: Vec<Row> = vec![
        (
            "all is well",
            Case::new(|_| {}),
            [
                ("True", "Signing"),
                ("True", "OperatorMade"),
                ("False", "NotRotating"),
                CALM,
            ],
        ),
        (
            "nothing, and a bad source",
            Case::new(|c| (c.ledger, c.source) = (None, Some(Err(fault())))),
            [
                ("False", "AuthorityEmpty"),
                ("False", "AuthorityEmpty"),
                ("False", "NotRotating"),
                CALM,
            ],
        ),
        (
            "a bad source beside a good authority",
            Case::new(|c| c.source = Some(Err(fault()))),
            [
                ("True", "Signing"),
                ("False", "AuthorityEmpty"),
                ("False", "NotRotating"),
                CALM,
            ],
        ),
        (
            "broken",
            Case::new(|c| c.broken = Some(fault())),
            [
                ("False", "AuthorityEmpty"),
                ("True", "OperatorMade"),
                ("False", "NotRotating"),
                CALM,
            ],
        ),
        (
            "spreading",
            Case::new(|c| {
                c.ledger().next = Some(made("b"));
                c.behind = 2;
            }),
            [
                ("True", "Signing"),
                ("True", "OperatorMade"),
                ("True", "Spreading"),
                CALM,
            ],
        ),
        (
            "propagating",
            Case::new(|c| c.ledger().next = Some(settled(made("b"), 999))),
            [
                ("True", "Signing"),
                ("True", "OperatorMade"),
                ("True", "Propagating"),
                CALM,
            ],
        ),
        (
            "retiring",
            Case::new(|c| c.ledger().retiring = vec![settled(made("r"), 999)]),
            [
                ("True", "Signing"),
                ("True", "OperatorMade"),
                ("True", "Retiring"),
                CALM,
            ],
        ),
        (
            "the user's own nears its end",
            Case::new(|c| {
                let own = entry("a", Some("corp"), 0, 1300);
                (c.ledger().active, c.source) = (own.clone(), Some(Ok(own)));
            }),
            [
                ("True", "Signing"),
                ("True", "SourceGood"),
                ("False", "NotRotating"),
                ("True", "Expiring"),
            ],
        ),
        (
            "the user's own has ended",
            Case::new(|c| {
                c.ledger().active = entry("a", Some("corp"), 0, 1000);
                c.source = Some(Err(fault()));
            }),
            [
                ("False", "AuthorityExpired"),
                ("False", "AuthorityEmpty"),
                ("False", "NotRotating"),
                ("True", "Expiring"),
            ],
        ),
    ];
    for (what, case, expected) in rows {
        let status = case.status();
        let types = [
            ConditionType::Ready,
            ConditionType::SourceReady,
            ConditionType::Rotating,
            ConditionType::Expiring,
        ];
        for (kind, (word, reason)) in types.into_iter().zip(expected) {
            let found = condition::find(&status.conditions, kind).unwrap();
            assert_eq!(
                (found.status.as_str(), found.reason.as_str()),
                (word, reason),
                "{what}"
            );
            assert!(!found.message.is_empty(), "{what}");
        }
        // Once said, and nothing changed: nothing more to say.
        assert_eq!(case.decide(&status).effects, [], "{what}");
    }
}

#[test]
fn people_are_told_once_when_something_goes_wrong_and_when_it_ends() {
    let told = |case: &Case, before: &HookAuthorityStatus| -> Vec<String> {
        let effects = case.decide(before).effects.into_iter();
        effects
            .filter_map(|effect| match effect {
                AuthorityEffect::Event(notice) | AuthorityEffect::Refuse(notice) => {
                    Some(notice.reason.to_owned())
                }
                _ => None,
            })
            .collect()
    };
    let own = Case::new(|c| {
        (c.ledger().active, c.source) = (given("a"), Some(Ok(given("a"))));
    });
    let none = HookAuthorityStatus::default();
    assert!(told(&own, &none).is_empty());
    let mut bad = own.clone();
    bad.source = Some(Err(fault()));
    assert_eq!(told(&bad, &own.status()), ["SourceRefused"]);
    assert_eq!(told(&bad, &none), ["SourceRefused"]);
    assert_eq!(told(&own, &bad.status()), ["SourceMended"]);
    let mut late = own.clone();
    late.now = 1090 * DAY;
    assert_eq!(told(&late, &own.status()), ["AuthorityExpiring"]);
    assert_eq!(told(&own, &late.status()), ["AuthorityRenewed"]);
    let mut asked = own.clone();
    asked.asked = Some("now");
    assert_eq!(told(&asked, &own.status()), ["RotationRefused"]);
    let nothing = Case::new(|c| (c.ledger, c.source) = (None, Some(Err(fault()))));
    assert_eq!(
        told(&nothing, &none),
        ["AuthorityNotReady", "SourceRefused"]
    );
    assert_eq!(
        told(&own, &nothing.status()),
        ["AuthorityReady", "SourceMended"]
    );
}

/// A world of authorities and leaves, in which the certificate controller and the hook controller
/// have done their work whenever `rest` is called.
#[derive(Clone)]
struct World {
    case: Case,
    made: usize,
    steps: Vec<&'static str>,
    hooks: usize,
}

impl World {
    fn new() -> Self {
        let case = Case::new(|c| {
            c.ledger = None;
            c.leaves.clear();
        });
        Self {
            case,
            made: 0,
            steps: Vec::new(),
            hooks: 5,
        }
    }

    /// One step, if one is due.
    fn look(&mut self) -> bool {
        let decision = self.case.decide(&HookAuthorityStatus::default());
        let Some((step, origin)) = decision.effects.iter().find_map(|effect| match effect {
            AuthorityEffect::Take { step, origin } => Some((step, *origin)),
            _ => None,
        }) else {
            return false;
        };
        let now = self.case.now;
        let new = match origin {
            Some(Origin::Made) => {
                self.made += 1;
                Some(Entry {
                    since: at(now),
                    ..entry(
                        &format!("made{}", self.made),
                        None,
                        now - DAY,
                        now + 1096 * DAY,
                    )
                })
            }
            Some(Origin::Source) => {
                let source = self.case.source.clone().unwrap().unwrap();
                Some(Entry {
                    since: at(now),
                    ..source
                })
            }
            None => None,
        };
        let brings_one = matches!(
            step,
            Step::Begin { .. } | Step::Prepare { .. } | Step::Supersede
        );
        assert_eq!(brings_one, new.is_some());
        let before = self.case.ledger.clone();
        let after = match (&before, new) {
            (None, Some(new)) => Ledger::begin(new, self.case.asked.map(Into::into)),
            (Some(ledger), new) => ledger.after(step, new, at(now)),
            (None, None) => unreachable!("the first one needs one"),
        };
        if matches!(step, Step::Prepare { .. }) {
            self.case.behind = self.hooks;
        }
        // No leaf that is in use loses its trust, unless time itself has taken it.
        for entry in before.iter().flat_map(Ledger::all) {
            let leaves = self.case.leaves.get(&entry.fingerprint);
            let lives = leaves.is_some_and(|leaves| *leaves > 0) && at(now) < entry.not_after;
            let mut after = after.all();
            let trusted = after.any(|other| other.fingerprint == entry.fingerprint);
            assert!(!lives || trusted, "{step:?}: {:?}", self.case.leaves);
        }
        self.steps.push(step.as_str());
        self.case.ledger = Some(after);
        true
    }

    /// Everything that is due.
    fn look_on(&mut self) {
        for _ in 0..64 {
            if !self.look() {
                return;
            }
        }
        panic!("no end: {:?}", self.steps);
    }

    /// Everything that is due, and what the other controllers make of it.
    fn rest(&mut self) {
        for _ in 0..64 {
            self.look_on();
            let Some(ledger) = &self.case.ledger else {
                return;
            };
            let leaves = BTreeMap::from([(ledger.active.fingerprint.clone(), self.hooks)]);
            if self.case.behind == 0 && self.case.leaves == leaves {
                return;
            }
            self.case.behind = 0;
            self.case.leaves = leaves;
        }
        panic!("no end: {:?}", self.steps);
    }

    fn pass(&mut self, seconds: i64) {
        self.case.now += seconds;
    }

    fn active(&self) -> &str {
        &self.case.ledger.as_ref().unwrap().active.fingerprint
    }

    fn is_quiet(&self) -> bool {
        let ledger = self.case.ledger.as_ref().unwrap();
        ledger.next.is_none() && ledger.retiring.is_empty()
    }
}

#[test]
fn a_rotation_goes_through_its_phases_in_order() {
    let mut world = World::new();
    world.rest();
    world.case.asked = Some("now");
    for _ in 0..4 {
        world.rest();
        world.pass(P);
    }
    world.rest();
    assert_eq!(
        world.steps,
        ["Begin", "Prepare", "Settle", "Activate", "Settle", "Retire"]
    );
    assert_eq!(world.active(), "made2");
    assert!(world.is_quiet());
}

/// A crash after any step, for however long, changes no end and makes no further authority.
#[test]
fn a_crash_after_any_step_changes_no_end() {
    for pause in [0, 1, P, 1800, 10 * DAY] {
        for after in 0..6 {
            let mut world = World::new();
            let mut crashed = false;
            for round in 0..12 {
                if round == 1 {
                    world.case.asked = Some("now");
                }
                // As far as the crash, then nobody for a while; the other controllers neither.
                while !crashed && world.steps.len() < after && world.look() {}
                if !crashed && world.steps.len() == after {
                    world.pass(pause);
                    crashed = true;
                }
                world.rest();
                world.pass(P);
            }
            assert_eq!(
                (world.made, world.active()),
                (2, "made2"),
                "{pause} s after {after}"
            );
            assert!(
                world.is_quiet(),
                "{pause} s after {after}: {:?}",
                world.steps
            );
        }
    }
}

/// The clock goes wrong at any moment of a rotation, and comes right again.
#[test]
fn a_wrong_clock_makes_no_storm() {
    for wrong in [-3600, 3600, -400 * DAY, 400 * DAY, 1800] {
        for moment in 0..8 {
            let mut world = World::new();
            world.rest();
            world.case.asked = Some("now");
            for round in 0..40 {
                if round == moment {
                    world.pass(wrong);
                }
                if round == moment + 6 && wrong != 1800 {
                    world.pass(-wrong);
                }
                world.rest();
                world.pass(P);
            }
            assert!(world.made <= 4, "{wrong} s at {moment}: {:?}", world.steps);
            assert!(world.is_quiet(), "{wrong} s at {moment}: {:?}", world.steps);
            let ledger = world.case.ledger.as_ref().unwrap();
            assert!(ledger.active.is_valid_at(at(world.case.now)));
        }
    }
}

/// In the hours that clocks are off by, nothing at all happens.
#[test]
fn an_hour_more_or_less_rotates_nothing() {
    for wrong in [-3600, 3600, 1800] {
        let mut world = World::new();
        world.rest();
        world.pass(wrong);
        world.rest();
        world.pass(-wrong);
        world.rest();
        assert_eq!(world.steps, ["Begin"], "{wrong}");
    }
}

/// What may happen to a world.
#[derive(Clone, Debug)]
enum Act {
    Pass(i64),
    Clock(i64),
    Ask(&'static str),
    Give(u8),
    Spoil,
    Configure(bool),
    Rest,
    Look,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (1..400_i64).prop_map(Act::Pass),
        prop_oneof![Just(-3600), Just(3600), Just(-400 * DAY), Just(400 * DAY)]
            .prop_map(Act::Clock),
        prop_oneof![Just("now"), Just("again")].prop_map(Act::Ask),
        (0..3_u8).prop_map(Act::Give),
        Just(Act::Spoil),
        any::<bool>().prop_map(Act::Configure),
        Just(Act::Rest),
        Just(Act::Look),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever happens in whatever order: no leaf is left without trust ([`World::look`] looks),
    /// one authority signs, and left alone, it ends with that one and no other.
    #[test]
    fn any_sequence_comes_to_rest(acts in proptest::collection::vec(act(), 1..24)) {
        let mut world = World::new();
        for act in acts {
            match act {
                Act::Pass(seconds) | Act::Clock(seconds) => world.pass(seconds),
                Act::Ask(word) => world.case.asked = Some(word),
                Act::Give(number) => {
                    let now = world.case.now;
                    let name = format!("given{number}");
                    world.case.source = Some(Ok(entry(&name, Some("corp"), now - DAY, now + 900 * DAY)));
                }
                Act::Spoil => world.case.source = world.case.source.is_some().then(|| Err(fault())),
                Act::Configure(own) => if !own { world.case.source = None },
                Act::Rest => world.rest(),
                Act::Look => drop(world.look()),
            }
        }
        if matches!(world.case.source, Some(Err(_))) {
            world.case.source = None;
        }
        // A given one is as old as its last giving; a clock may have left it behind.
        if let Some(Ok(given)) = &mut world.case.source {
            let now = world.case.now;
            *given = entry("given9", Some("corp"), now - DAY, now + 900 * DAY);
        }
        for _ in 0..40 {
            world.rest();
            world.pass(P);
        }
        prop_assert!(world.is_quiet(), "{:?}", world.steps);
        let ledger = world.case.ledger.as_ref().unwrap();
        prop_assert!(ledger.active.is_valid_at(at(world.case.now)));
        prop_assert_eq!(ledger.active.source.is_some(), world.case.source.is_some());
    }
}
