//! Convergence: for every story and every *k*, the first *k* effects are carried out, the process
//! crashes, another one looks and decides again, and it ends with nothing to do and as expected.
//!
//! Each step of a story is followed by as many reconciles as there is work for. What must be so at
//! every step stands in [`super::operator`]. Every third *k* is played, of one story another third than
//! of the next; `make convergence` plays all.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::operator::Operator;
use super::rests;
use super::stories::{self, ACTS, HOOKS, STORIES, Step, Story};
use crate::api::WorkloadKind;
use crate::api::kind::Stop;

/// Plays a story with a workload of a kind; what stood there in the end.
fn play(story: &Story, kind: WorkloadKind, tls: bool, eager: bool) -> String {
    let mut operator = Operator::new(tls, eager, None, false).of(kind);
    for step in story.steps {
        operator.act(*step);
    }
    operator.run_out();
    operator.world.summary()
}

/// The process crashes after each of the effects it takes, and another one takes its place at once.
///
/// What several stories begin with is crashed through in the first of them.
fn crash_everywhere(stories: &[Story], tls: bool, eager: bool) {
    let mut known = BTreeSet::new();
    let every = if std::env::var_os("CONVERGENCE_ALL").is_some() {
        1
    } else {
        3
    };
    for (turn, story) in stories.iter().enumerate() {
        let mut operator = Operator::new(tls, eager, None, false);
        for number in 0..=story.steps.len() {
            // Where a step begins, so that what came before it is not played again.
            let start = operator.clone();
            match story.steps.get(number) {
                Some(step) => drop(operator.act(*step)),
                None => operator.run_out(),
            }
            let played = story.steps.iter().take(number + 1);
            let beginning: Vec<usize> = played.map(|step| *step as usize).collect();
            if !known.insert((beginning, number == story.steps.len())) {
                continue;
            }
            for crash_after in (start.spent + turn % every..operator.spent).step_by(every) {
                let mut crashing = start.clone();
                crashing.crash_after = Some(crash_after);
                for step in &story.steps[number..] {
                    crashing.act(*step);
                }
                crashing.run_out();
                let end = crashing.world.summary();
                assert_eq!(end, story.end, "{}, {crash_after} effects", story.name);
            }
        }
    }
}

#[test]
fn a_crash_after_any_effect_changes_no_end() {
    crash_everywhere(STORIES, true, false);
}

#[test]
fn a_crash_after_any_effect_changes_no_end_of_a_workload_that_comes_to_rest() {
    crash_everywhere(rests::STORIES, true, false);
}

#[test]
fn a_crash_after_any_effect_changes_no_end_without_tls_and_with_quick_controllers() {
    crash_everywhere(STORIES, false, true);
}

#[test]
fn the_operators_absence_never_eats_the_apps_time() {
    for pause in [25, 100, 100_000] {
        let mut operator = Operator::new(true, false, None, true);
        operator.act(stories::workload);
        operator.act(stories::hook);
        operator.act(stories::foreground);
        operator.crash();
        operator.act(|world| world.pass(pause));
        operator.act(|world| world.pass(29));
        let held = operator.world.summary();
        assert!(held.starts_with("trainer: Waiting []"), "{pause} s: {held}");
        operator.act(stories::acknowledge);
        operator.run_out();
        let end = operator.world.summary();
        assert_eq!(
            end, "trainer: Released [\"Acknowledged\"]; 1 guards",
            "{pause} s"
        );
    }
}

#[test]
fn every_story_ends_as_expected() {
    let mut wrong = Vec::new();
    for story in STORIES.iter().chain(rests::STORIES) {
        for (tls, eager) in [(true, false), (false, true)] {
            let kind = WorkloadKind::Deployment;
            let played = std::panic::catch_unwind(|| play(story, kind, tls, eager));
            let end = played.unwrap_or_else(|_| "PANIC".into());
            if end != story.end {
                wrong.push(format!(
                    "{} (tls {tls}, eager {eager}):\n  {end}\n  expected\n  {}",
                    story.name, story.end
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whatever makes and replaces its pods by itself ends as a Deployment does.
#[test]
fn every_story_ends_the_same_with_other_kinds() {
    let mut wrong = Vec::new();
    for kind in [WorkloadKind::StatefulSet, WorkloadKind::DaemonSet] {
        let rests = match kind.traits().stop {
            Stop::Cannot => &[],
            Stop::Replicas | Stop::Suspend => rests::STORIES,
        };
        for story in STORIES.iter().chain(rests) {
            for (tls, eager) in [(true, false), (false, true)] {
                let played = std::panic::catch_unwind(|| play(story, kind, tls, eager));
                let end = without_guarded(&played.unwrap_or_else(|_| "PANIC".into()));
                let expected = story.end.replace("Deployment", kind.traits().name);
                let expected = without_guarded(&expected);
                if end != expected {
                    wrong.push(format!(
                        "{} ({kind}, tls {tls}, eager {eager}):\n  {end}\n  expected\n  {expected}",
                        story.name
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Guarded are the pods, or one ReplicaSet and its predecessors.
fn without_guarded(end: &str) -> String {
    let words = end.split("; ").filter(|word| !word.ends_with("guarded"));
    words.collect::<Vec<_>>().join("; ")
}

/// The kinds whose removal can be made to wait.
fn held_kinds() -> Vec<WorkloadKind> {
    let held = |kind: &WorkloadKind| kind.traits().guarded.is_some();
    WorkloadKind::all().filter(held).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 240,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever is done in whatever order, and however the operator is away meanwhile: each step
    /// keeps what was promised, it comes to an end, and nothing of a removed hook stays behind.
    #[test]
    fn any_sequence_keeps_its_promises_and_ends(
        hook in 0..HOOKS.len(),
        acts in proptest::collection::vec(0..ACTS.len(), 1..12),
        crash_after in proptest::option::of(0..60_usize),
        tls in any::<bool>(),
        eager in any::<bool>(),
        kind in proptest::sample::select(held_kinds()),
    ) {
        let acts: Vec<Step> = acts.into_iter().map(|act| ACTS[act]).collect();
        ends_well(HOOKS[hook], &acts, kind, crash_after, tls, eager)?;
    }
}

/// Sequences that were found to end badly once, by the search above.
#[test]
fn sequences_that_once_ended_badly() {
    use stories::{
        background, complete, conflicting_container, delete_hook, disable, hook, new_image,
        no_shutdown, refuse_injection, replace, replace_first_pod, scaling_hook, stop,
        tear_workload, undo,
    };
    let found: [(Step, &[Step]); 9] = [
        (hook, &[hook, refuse_injection, disable]),
        (hook, &[background, replace]),
        (hook, &[delete_hook, replace, background]),
        (hook, &[refuse_injection, replace]),
        (hook, &[delete_hook, no_shutdown, undo]),
        (hook, &[delete_hook, undo, background]),
        (hook, &[stop, tear_workload, new_image]),
        (hook, &[conflicting_container, no_shutdown, replace, hook]),
        (
            scaling_hook,
            &[refuse_injection, replace_first_pod, complete, no_shutdown],
        ),
    ];
    for (hook, acts) in found {
        for (tls, eager) in [(false, false), (true, false), (false, true), (true, true)] {
            for kind in held_kinds() {
                ends_well(hook, acts, kind, None, tls, eager).unwrap();
            }
        }
    }
}

fn ends_well(
    hook: Step,
    acts: &[Step],
    kind: WorkloadKind,
    crash_after: Option<usize>,
    tls: bool,
    eager: bool,
) -> Result<(), TestCaseError> {
    let mut operator = Operator::new(tls, eager, crash_after, true).of(kind);
    operator.act(stories::workload);
    operator.act(hook);
    for act in acts {
        operator.act(*act);
    }
    // Whoever refused or kept something has been talked to by now.
    operator.act(stories::allow_injection);
    operator.act(stories::skip);
    operator.act(stories::half_a_minute);
    operator.act(stories::background);
    operator.act(stories::delete_hook);
    operator.run_out();
    let world = &operator.world;
    let end = world.summary();
    prop_assert!(
        world.hooks.is_empty() && world.workloads.is_empty(),
        "{end}"
    );
    // Only pods that a deletion left alone may still live, and keep their Secrets.
    prop_assert!(world.guards.is_empty() || !world.pods.is_empty(), "{end}");
    prop_assert!(
        !end.contains("canaries") && !end.contains("guarded"),
        "{end}"
    );
    Ok(())
}
