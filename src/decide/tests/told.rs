//! What a person reads in each phase: the conditions, as `kubectl` shows them, and the Events.

use std::fmt::Write;

use super::operator::Operator;
use super::stories;
use crate::api::WorkloadKind;
use crate::testing::build::NAME;
use crate::testing::world::World;

fn conditions(world: &World) -> String {
    let mut text = String::new();
    let status = world.hooks[NAME].status.clone().unwrap_or_default();
    let _ = writeln!(text, "phase {:?}", status.phase);
    for condition in &status.conditions {
        let (kind, reason) = (&condition.type_, &condition.reason);
        let _ = writeln!(
            text,
            "{kind} {} {reason}: {}",
            condition.status, condition.message
        );
    }
    text
}

/// What is told after each step of a story.
fn told(steps: &[stories::Step]) -> String {
    told_of(WorkloadKind::Deployment, steps)
}

fn told_of(kind: WorkloadKind, steps: &[stories::Step]) -> String {
    let mut operator = Operator::new(true, false, None, false).of(kind);
    let mut text = String::new();
    for step in steps {
        operator.act(*step);
        let notices = std::mem::take(&mut operator.notices);
        if operator.world.hooks.contains_key(NAME) {
            let _ = writeln!(
                text,
                "---\n{}{}",
                conditions(&operator.world),
                notices.join("\n")
            );
        }
    }
    text
}

#[test]
fn from_arming_to_release() {
    use stories::{acknowledge, foreground, hook, workload};
    insta::assert_snapshot!(told(&[hook, workload, foreground, acknowledge]));
}

#[test]
fn retries_and_the_end() {
    use stories::{background, half_a_minute, refuses_calls, retrying_hook, workload};
    let (late, end) = (half_a_minute, half_a_minute);
    insta::assert_snapshot!(told(&[
        refuses_calls,
        workload,
        retrying_hook,
        background,
        late,
        half_a_minute,
        end
    ]));
}

#[test]
fn retained() {
    use stories::{background, half_a_minute, retaining_hook, skip, workload};
    insta::assert_snapshot!(told(&[
        workload,
        retaining_hook,
        background,
        half_a_minute,
        skip
    ]));
}

/// Nobody could be asked, and that is told while it waits and when it is over.
#[test]
fn why_the_app_was_not_called() {
    use stories::{background, delete_service, fails_calls, half_a_minute, hook, workload};
    for (fault, at_first, word) in [
        (
            fails_calls as stories::Step,
            "Ready True AsSpecified",
            "ShutdownServiceUnreachable: The app could not be asked to shut down",
        ),
        (
            delete_service,
            "Ready False ShutdownServiceNotFound: Service shutdown does not exist",
            "ShutdownServiceNotFound: Service shutdown does not exist, so nobody has been called",
        ),
    ] {
        let told = told(&[fault, workload, hook, background, half_a_minute]);
        let parts: Vec<&str> = told.split("---\n").collect();
        let [.., armed, waits, over] = parts.as_slice() else {
            panic!("{told}");
        };
        assert!(armed.contains(at_first), "{armed}");
        let (_, words) = word.split_once(": ").unwrap();
        assert!(waits.contains(&format!("Ready False {word}")), "{waits}");
        let blocking = format!("Blocking True AwaitingAcknowledgement: {words}");
        assert!(waits.contains(&blocking), "{waits}");
        assert!(over.contains("Ready True Released"), "{over}");
        assert!(over.contains("TimedOut"), "{over}");
        assert!(over.contains(words), "{over}");
    }
}

#[test]
fn a_skip_needs_a_reason() {
    use stories::{half_a_minute, retaining_hook, skip, skip_without_reason, workload};
    insta::assert_snapshot!(told(&[
        workload,
        retaining_hook,
        skip_without_reason,
        stories::background,
        half_a_minute,
        skip
    ]));
}

/// An operator of another version has put the same into other words.
#[test]
fn nothing_is_told_again_because_it_was_worded_otherwise() {
    use stories::{
        background, complete, conflicting_container, disable, half_a_minute, hook,
        refuse_injection, retaining_hook, scale_up, scaling_hook, skip_without_reason, stop,
        workload,
    };
    let stories: [&[stories::Step]; 5] = [
        &[workload, retaining_hook, skip_without_reason, background],
        &[workload, retaining_hook, background, half_a_minute],
        &[workload, hook, stop, half_a_minute, half_a_minute, scale_up],
        &[workload, scaling_hook, complete, scale_up, disable],
        &[workload, hook, refuse_injection, conflicting_container],
    ];
    for (number, story) in stories.into_iter().enumerate() {
        let mut operator = Operator::new(true, false, None, false);
        for step in story {
            operator.act(*step);
            operator.notices.clear();
            operator.act(reword);
            assert!(
                operator.notices.is_empty(),
                "{number}: {:?}",
                operator.notices
            );
        }
    }
}

fn reword(world: &mut World) {
    let Some(hook) = world.hooks.get_mut(NAME) else {
        return;
    };
    let status = hook.status.get_or_insert_default();
    for condition in &mut status.conditions {
        condition.message = "in other words".into();
    }
    if let Some(request) = status.workload_request_mut() {
        request.message = request.message.as_ref().map(|_| "in other words".into());
    }
    world.version += 1;
    hook.metadata.resource_version = Some(world.version.to_string());
}

#[test]
fn stopped_and_started() {
    use stories::{acknowledge, hook, scale_up, start, stop, workload};
    insta::assert_snapshot!(told(&[
        workload,
        hook,
        stop,
        acknowledge,
        start,
        stop,
        acknowledge,
        scale_up
    ]));
}

#[test]
fn completed_scaled_to_zero_and_scaled_up_again() {
    use stories::{complete, scale_up, scaling_hook, workload};
    insta::assert_snapshot!(told(&[workload, scaling_hook, complete, scale_up]));
}

#[test]
fn completed_and_created_again() {
    use stories::{complete, hook, workload};
    insta::assert_snapshot!(told(&[workload, hook, complete, workload]));
}

#[test]
fn what_people_can_change() {
    use stories::{
        allow_injection, conflicting_container, delete_hook, delete_service, disable, enable,
        half_a_minute, hook, refuse_injection, replace, workload,
    };
    insta::assert_snapshot!(told(&[
        workload,
        hook,
        delete_service,
        disable,
        refuse_injection,
        enable,
        allow_injection,
        half_a_minute,
        replace,
        conflicting_container,
        delete_hook,
    ]));
}

#[test]
fn too_late_and_taken() {
    use stories::{background, hook, orphan, take_secret, workload};
    insta::assert_snapshot!(told(&[workload, background, hook]));
    insta::assert_snapshot!(told(&[take_secret, workload, hook]));
    insta::assert_snapshot!(told(&[workload, hook, orphan]));
}

#[test]
fn what_each_kind_says_of_itself() {
    use WorkloadKind::{DaemonSet, Job, Pod, ReplicaSet, StatefulSet};
    use stories::{
        complete, complete_hook, on_delete, one_by_one, partition, quiet_hook, workload,
    };
    insta::assert_snapshot!(told_of(Job, &[quiet_hook, workload]));
    insta::assert_snapshot!(told_of(Pod, &[complete_hook, workload, complete]));
    insta::assert_snapshot!(told_of(ReplicaSet, &[workload, quiet_hook, one_by_one]));
    insta::assert_snapshot!(told_of(
        DaemonSet,
        &[workload, on_delete, quiet_hook, one_by_one]
    ));
    insta::assert_snapshot!(told_of(StatefulSet, &[workload, partition, quiet_hook]));
}

#[test]
fn what_another_object_controls_is_left_alone() {
    use stories::{controlled, quiet_hook, workload};
    let told = told_of(
        WorkloadKind::ReplicaSet,
        &[workload, controlled, quiet_hook],
    );
    assert!(
        told.contains("Ready False WorkloadControlled: ReplicaSet trainer"),
        "{told}"
    );
    let fine = told_of(
        WorkloadKind::StatefulSet,
        &[workload, controlled, quiet_hook],
    );
    assert!(fine.contains("Armed True"), "{fine}");
}

/// One that a newer version has written, after a step back to this one.
#[test]
fn a_kind_that_nobody_knows_is_said_to_be_so() {
    let unknown = |world: &mut World| {
        world.edit_hook(|hook| hook.spec.workload.kind = "CronJob".into());
    };
    let told = told(&[stories::quiet_hook, unknown]);
    assert!(told.contains("Ready False WorkloadUnsupported"), "{told}");
}
