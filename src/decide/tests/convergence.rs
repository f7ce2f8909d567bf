//! Convergence: for every story and every *k*, the first *k* effects are carried out, the process
//! crashes, another one looks and decides again, and it ends with nothing to do and as expected.
//!
//! Each step of a story is followed by as many reconciles as there is work for. What must be so at
//! every step stands in [`super::operator`].

use proptest::prelude::*;

use super::operator::Operator;
use crate::api::{HookKind, names};
use crate::testing::build::{self, NAME};
use crate::testing::world::{Propagation, World};

type Step = fn(&mut World);

struct Story {
    name: &'static str,
    steps: &'static [Step],
    /// What stands there in the end.
    end: &'static str,
}

fn hook(world: &mut World) {
    world.create_hook(build::hook(NAME).complete().shutdown().call_out("shutdown"));
}

fn quiet_hook(world: &mut World) {
    world.create_hook(build::hook(NAME).shutdown());
}

fn complete_hook(world: &mut World) {
    world.create_hook(build::hook(NAME).complete());
}

fn retaining_hook(world: &mut World) {
    let hook = build::hook(NAME).shutdown().call_out("shutdown");
    world.create_hook(hook.on_timeout("Retain"));
}

fn retrying_hook(world: &mut World) {
    let hook = build::hook(NAME).shutdown().call_out("shutdown");
    world.create_hook(hook.retries(2));
}

fn rival(world: &mut World) {
    world.pass(1);
    let hook = build::hook("younger").complete().shutdown();
    world.create_hook(hook.with("/spec/workload/name", NAME.into()));
}

fn workload(world: &mut World) {
    world.create_workload(build::deployment(NAME).container("app"));
}

fn twin(world: &mut World) {
    world.torn = true;
    world.create_workload(build::deployment("twin").container("app"));
}

fn background(world: &mut World) {
    world.delete_workload(NAME, Propagation::Background);
}

fn foreground(world: &mut World) {
    world.delete_workload(NAME, Propagation::Foreground);
}

fn orphan(world: &mut World) {
    world.delete_workload(NAME, Propagation::Orphan);
}

fn delete_hook(world: &mut World) {
    world.delete_hook(NAME);
}

fn acknowledge(world: &mut World) {
    world.acknowledge(HookKind::Shutdown);
}

fn complete(world: &mut World) {
    world.acknowledge(HookKind::Complete);
}

fn acknowledges_when_called(world: &mut World) {
    world.app = ("200", true);
}

fn refuses_calls(world: &mut World) {
    world.app = ("404", false);
}

fn fails_calls(world: &mut World) {
    world.app = ("ConnectFailed", false);
}

fn skip(world: &mut World) {
    world.edit_hook(|hook| {
        let annotations = hook.metadata.annotations.get_or_insert_default();
        annotations.insert(names::SKIP_ANNOTATION.into(), "on call says so".into());
    });
}

fn disable(world: &mut World) {
    world.edit_workload(|workload| {
        let annotations = workload.meta.annotations.get_or_insert_default();
        annotations.insert(names::HOOK_ANNOTATION.into(), names::DISABLED.into());
    });
}

fn enable(world: &mut World) {
    world.edit_workload(|workload| workload.meta.annotations = None);
}

fn no_shutdown(world: &mut World) {
    world.edit_hook(|hook| {
        hook.spec.shutdown = None;
        hook.metadata.generation = hook.metadata.generation.map(|g| g + 1);
    });
}

fn new_image(world: &mut World) {
    world.edit_workload(|workload| {
        workload.written["template"]["spec"]["containers"][0]["image"] = "newer".into();
    });
}

fn replace(world: &mut World) {
    world.edit_workload(|workload| {
        workload.applied = None;
        workload.meta.finalizers = None;
    });
}

fn tear_workload(world: &mut World) {
    world.torn = true;
    world.edit_workload(|workload| {
        if let Some(finalizers) = &mut workload.meta.finalizers {
            finalizers.retain(|f| f != names::SHUTDOWN_FINALIZER);
        }
        if let Some(applied) = &mut workload.applied {
            applied["metadata"]["finalizers"] = serde_json::Value::Null;
        }
    });
}

fn tear_hook(world: &mut World) {
    world.torn = true;
    world.edit_hook(|hook| hook.metadata.finalizers = None);
}

fn terminate(world: &mut World) {
    world.delete_namespace();
}

fn delete_service(world: &mut World) {
    world.services.clear();
    world.version += 1;
}

fn refuse_injection(world: &mut World) {
    world.refuses_injection = true;
}

fn allow_injection(world: &mut World) {
    world.refuses_injection = false;
}

fn take_secret(world: &mut World) {
    world.secret_taken = true;
}

fn free_secret(world: &mut World) {
    world.secret_taken = false;
}

fn a_while(world: &mut World) {
    world.pass(5);
}

fn half_a_minute(world: &mut World) {
    world.pass(31);
}

fn long(world: &mut World) {
    world.pass(3600);
}

fn conflicting_container(world: &mut World) {
    world.edit_workload(|workload| {
        let containers = &mut workload.written["template"]["spec"]["containers"];
        let conflicting = serde_json::json!({"name": "sidecar", "image": "x",
            "env": [{"name": "KRAKE_TOKEN", "value": "mine"}]});
        containers.as_array_mut().unwrap().push(conflicting);
    });
}

include!("stories.rs");

/// Plays a story; the number of effects it took and what stood there in the end.
fn play(story: &Story, tls: bool, eager: bool, crash_after: Option<usize>) -> (usize, String) {
    let mut operator = Operator::new(tls, eager, crash_after, false);
    for step in story.steps {
        operator.act(*step);
    }
    operator.run_out();
    (operator.spent, operator.world.summary())
}

/// The process crashes after each of the effects it takes, and another one takes its place.
#[test]
fn every_story_ends_as_expected_wherever_the_operator_crashes() {
    for story in STORIES {
        for (tls, eager) in [(true, false), (false, true)] {
            let (effects, _) = play(story, tls, eager, None);
            for crash_after in 0..effects {
                let end = play(story, tls, eager, Some(crash_after)).1;
                let name = story.name;
                assert_eq!(end, story.end, "{name} (tls {tls}, eager {eager}, {crash_after})");
            }
        }
    }
}

#[test]
fn every_story_ends_as_expected() {
    let mut wrong = Vec::new();
    for story in STORIES {
        for (tls, eager) in [(true, false), (false, true)] {
            let played = std::panic::catch_unwind(|| play(story, tls, eager, None).1);
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
