//! Each line of what is left to do for a hook that is gone.

use crate::decide::farewell::{Remains, decide};
use crate::decide::seen::{Dependent, Effect, Next};
use crate::decide::{inject, seen};
use crate::testing::build::{self, Build, NAME, at};

const HOOK: &str = "aaaaaaaa-1";
const GUARD: &str = "guard";
const WORKLOAD: &str = "bbbbbbbb-1";

fn remains() -> Remains {
    Remains {
        guard: build::guard(NAME, HOOK, GUARD).guard(),
        workload: None,
        replica_sets: Vec::new(),
        pods: Vec::new(),
        canaries: Vec::new(),
    }
}

/// A workload that still has our finalizer.
fn held() -> Build {
    let workload = build::deployment(NAME).container("app").uid(WORKLOAD);
    workload.finalizer(crate::api::names::SHUTDOWN_FINALIZER)
}

fn guarded() -> Build {
    build::replica_set("set").owner("HookGuard", GUARD)
}

fn stamped(hook: &str) -> Build {
    build::pod("pod").stamp(&format!("{}-1", inject::stamp_prefix(hook)))
}

fn set() -> Dependent {
    Dependent {
        kind: crate::api::DependentKind::ReplicaSet,
        name: "set".into(),
        uid: "set".into(),
    }
}

fn delete() -> Effect {
    Effect::DeleteDependent {
        dependent: set(),
        resource_version: "7".into(),
        foreground: false,
    }
}

fn eject(workload: &Build) -> Effect {
    inject::eject(&workload.clone().workload())
}

fn release() -> Effect {
    Effect::ReleaseWorkload {
        uid: WORKLOAD.into(),
    }
}

fn remove_canary() -> Effect {
    let name = crate::api::names::canary(NAME, WORKLOAD);
    Effect::RemoveCanary { name }
}

type Change = fn(&mut Remains);

#[test]
fn guards_on_pods_go_like_guards_on_replica_sets() {
    let mut remains = remains();
    remains.guard.spec.workload.kind = "StatefulSet".into();
    let pod = build::pod("pod").owner("HookGuard", GUARD);
    let pod = pod.with("/metadata/resourceVersion", "7".into());
    let named = Dependent {
        kind: crate::api::DependentKind::Pod,
        name: "pod".into(),
        uid: "pod".into(),
    };
    remains.pods = vec![pod.clone().owner("StatefulSet", "other").pod()];
    assert_eq!(
        decide(&remains, at(0)).effects,
        [Effect::Unguard(named.clone())]
    );
    remains.pods = vec![pod.pod()];
    let delete = Effect::DeleteDependent {
        dependent: named,
        resource_version: "7".into(),
        foreground: false,
    };
    assert_eq!(decide(&remains, at(0)).effects, [delete]);
}

#[test]
fn line_by_line() {
    let owned = || guarded().owner("Deployment", WORKLOAD);
    let rows: &[(&str, Change, Vec<Effect>)] = &[
        ("nothing left", |_| {}, vec![Effect::DeleteGuard]),
        (
            "a live workload is ejected, its ReplicaSets live on",
            |r| {
                r.workload = Some(held().workload());
                r.replica_sets = vec![guarded().owner("Deployment", WORKLOAD).meta()];
            },
            vec![eject(&held()), Effect::Unguard(set())],
        ),
        (
            "a workload that is nothing of ours stays as it is",
            |r| r.workload = Some(build::deployment(NAME).uid("other").workload()),
            vec![Effect::DeleteGuard],
        ),
        (
            "a removal that waits goes on: pods first, then the finalizer",
            |r| {
                r.workload = Some(held().deleting().workload());
                r.replica_sets = vec![guarded().owner("Deployment", WORKLOAD).meta()];
            },
            vec![delete(), release()],
        ),
        (
            "kept by the guard alone: the removal goes on",
            |r| {
                r.workload = Some(held().deleting().workload());
                r.replica_sets = vec![guarded().meta()];
            },
            vec![delete(), release()],
        ),
        (
            "orphaned, by the finalizer: the pods live on",
            |r| {
                let workload = held().deleting().finalizer("orphan");
                r.workload = Some(workload.workload());
                r.replica_sets = vec![guarded().meta()];
            },
            vec![Effect::Unguard(set()), release()],
        ),
        (
            "orphaned, by the canary: the pods live on",
            |r| {
                r.replica_sets = vec![guarded().meta()];
                r.canaries = vec![build::canary(NAME, WORKLOAD).config_map()];
            },
            vec![Effect::Unguard(set())],
        ),
        (
            "the workload is gone: what only the guard kept goes, too",
            |r| {
                r.replica_sets = vec![guarded().meta()];
                // The garbage collector deletes it, and leaves the reference to what is gone.
                let canary = build::canary(NAME, WORKLOAD).owner("Deployment", WORKLOAD);
                r.canaries = vec![canary.deleting().config_map()];
            },
            vec![delete()],
        ),
        (
            "adopted by another Deployment: it lives on",
            |r| r.replica_sets = vec![guarded().owner("Deployment", "other").meta()],
            vec![Effect::Unguard(set())],
        ),
        (
            "on its way out already: nothing to do but wait",
            |r| r.replica_sets = vec![guarded().deleting().meta()],
            vec![],
        ),
        (
            "another hook's ReplicaSets are not ours",
            |r| r.replica_sets = vec![build::replica_set("set").owner("HookGuard", "x").meta()],
            vec![Effect::DeleteGuard],
        ),
        (
            "canaries go last",
            |r| r.canaries = vec![build::canary(NAME, WORKLOAD).config_map()],
            vec![remove_canary()],
        ),
        (
            "a running pod needs its Secrets",
            |r| r.pods = vec![stamped(HOOK).pod()],
            vec![],
        ),
        (
            "a finished one does not",
            |r| {
                let pod = stamped(HOOK).with("/status/phase", "Failed".into());
                r.pods = vec![pod.pod()];
            },
            vec![Effect::DeleteGuard],
        ),
        (
            "nor does one of a hook that was created again",
            |r| r.pods = vec![stamped("another").pod()],
            vec![Effect::DeleteGuard],
        ),
    ];
    for (name, change, expected) in rows {
        let mut remains = remains();
        change(&mut remains);
        let decision = decide(&remains, at(0));
        assert_eq!(&decision.effects, expected, "{name}");
        let waits = Next::At(at(10));
        let next = if expected.is_empty() {
            waits
        } else {
            Next::AwaitChange
        };
        assert_eq!(decision.next, next, "{name}");
    }
    assert!(seen::is_owned_by(&owned().meta(), GUARD));
}
