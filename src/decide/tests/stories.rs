//! The stories: who does what, and what stands there in the end.

use serde_json::json;

use crate::api::krake_hook::State;
use crate::api::status::AckResult;
use crate::api::{HookKind, names};
use crate::testing::build::{self, NAME};
use crate::testing::world::{Propagation, World};

/// Something that somebody does.
pub type Step = fn(&mut World);

/// Who does what, and how it ends.
pub struct Story {
    pub name: &'static str,
    pub steps: &'static [Step],
    /// What stands there in the end.
    pub end: &'static str,
}

pub fn hook(world: &mut World) {
    world.create_hook(build::hook(NAME).complete().shutdown().call_out("shutdown"));
}

pub fn quiet_hook(world: &mut World) {
    world.create_hook(build::hook(NAME).shutdown());
}

pub fn complete_hook(world: &mut World) {
    world.create_hook(build::hook(NAME).complete());
}

pub fn retaining_hook(world: &mut World) {
    let hook = build::hook(NAME).shutdown().call_out("shutdown");
    world.create_hook(hook.on_timeout("Retain"));
}

pub fn retrying_hook(world: &mut World) {
    let hook = build::hook(NAME).shutdown().call_out("shutdown");
    world.create_hook(hook.retries(2));
}

pub fn all_hook(world: &mut World) {
    let hook = build::hook(NAME).complete().shutdown().call_out("shutdown");
    world.create_hook(hook.each_pod().quorum(json!({"policy": "All"})));
}

pub fn two_hook(world: &mut World) {
    let hook = build::hook(NAME).shutdown().call_out("shutdown").each_pod();
    let two = json!({"policy": "AtLeast", "count": 2});
    world.create_hook(hook.quorum(two).on_timeout("Retain"));
}

pub fn scaling_hook(world: &mut World) {
    let hook = build::hook(NAME).complete().shutdown();
    world.create_hook(hook.with("/spec/complete/action", json!("ScaleToZero")));
}

pub fn noting_hook(world: &mut World) {
    let hook = build::hook(NAME).complete().shutdown();
    world.create_hook(hook.with("/spec/complete/action", json!("None")));
}

pub fn first_hook(world: &mut World) {
    let hook = build::hook(NAME).complete().shutdown().call_out("shutdown");
    world.create_hook(hook.with("/spec/complete/shutdownFirst", json!(true)));
}

pub fn both_hook(world: &mut World) {
    let all = json!({"policy": "All"});
    let hook = build::hook(NAME).complete();
    world.create_hook(hook.with("/spec/complete/acknowledgements", all));
}

pub fn stop(world: &mut World) {
    world.edit_hook(|hook| hook.spec.state = State::Stopped);
}

pub fn start(world: &mut World) {
    world.edit_hook(|hook| hook.spec.state = State::Running);
}

pub fn scale_up(world: &mut World) {
    scale(world, false);
}

pub fn scale_down(world: &mut World) {
    scale(world, true);
}

fn scale(world: &mut World, to_rest: bool) {
    world.lost_pods |= to_rest;
    world.edit_workload(|workload| {
        let (field, at_rest, running) = workload.rest();
        let value = if to_rest { at_rest } else { running };
        // A write that changes nothing takes nothing over.
        if workload.written[field] != value {
            workload.written[field] = value;
            workload.scaled_by_us = false;
        }
    });
}

pub fn rival(world: &mut World) {
    world.pass(1);
    let hook = build::hook("younger").complete().shutdown();
    world.create_hook(hook.with("/spec/workload/name", NAME.into()));
}

pub fn workload(world: &mut World) {
    world.create_workload(build::deployment(NAME).container("app"));
}

pub fn twin(world: &mut World) {
    world.create_workload(build::deployment("twin").container("app"));
}

pub fn background(world: &mut World) {
    world.delete_workload(NAME, Propagation::Background);
}

pub fn foreground(world: &mut World) {
    world.delete_workload(NAME, Propagation::Foreground);
}

pub fn orphan(world: &mut World) {
    world.delete_workload(NAME, Propagation::Orphan);
}

pub fn delete_hook(world: &mut World) {
    world.delete_hook(NAME);
}

pub fn acknowledge(world: &mut World) {
    world.acknowledge(HookKind::Shutdown);
}

pub fn acknowledge_second(world: &mut World) {
    world.acknowledge_by(HookKind::Shutdown, 1, AckResult::Success);
}

pub fn fail(world: &mut World) {
    world.acknowledge_by(HookKind::Shutdown, 0, AckResult::Failure);
}

/// A pod is deleted directly; its ReplicaSet makes another one.
pub fn replace_first_pod(world: &mut World) {
    if let Some(name) = world.pods.keys().next().cloned() {
        world.pods.remove(&name);
        world.version += 1;
        world.lost_pods = true;
    }
}

pub fn replace_pods(world: &mut World) {
    world.pods.clear();
    world.version += 1;
    world.lost_pods = true;
}

pub fn another_port(world: &mut World) {
    if let Some(service) = world.services.get_mut("shutdown") {
        let port = json!({"name": "http", "port": 80, "targetPort": 9090});
        let ports = serde_json::from_value(json!([port])).unwrap();
        service.spec.get_or_insert_default().ports = ports;
        world.version += 1;
    }
}

pub fn complete(world: &mut World) {
    world.acknowledge(HookKind::Complete);
}

pub fn complete_second(world: &mut World) {
    world.acknowledge_by(HookKind::Complete, 1, AckResult::Success);
}

pub fn acknowledges_when_called(world: &mut World) {
    world.app = ("200", true);
}

pub fn refuses_calls(world: &mut World) {
    world.app = ("404", false);
}

pub fn fails_calls(world: &mut World) {
    world.app = ("ConnectFailed", false);
}

pub fn skip(world: &mut World) {
    skip_because(world, "on call says so");
}

pub fn skip_without_reason(world: &mut World) {
    skip_because(world, " ");
}

fn skip_because(world: &mut World, reason: &str) {
    world.edit_hook(|hook| {
        let annotations = hook.metadata.annotations.get_or_insert_default();
        annotations.insert(names::SKIP_ANNOTATION.into(), reason.into());
    });
}

pub fn disable(world: &mut World) {
    world.edit_workload(|workload| {
        let annotations = workload.meta.annotations.get_or_insert_default();
        annotations.insert(names::HOOK_ANNOTATION.into(), names::DISABLED.into());
    });
}

pub fn enable(world: &mut World) {
    world.edit_workload(|workload| workload.meta.annotations = None);
}

pub fn no_shutdown(world: &mut World) {
    world.edit_hook(|hook| {
        hook.spec.shutdown = None;
        hook.metadata.generation = hook.metadata.generation.map(|g| g + 1);
    });
}

pub fn new_image(world: &mut World) {
    world.edit_workload(|workload| {
        workload.written["template"]["spec"]["containers"][0]["image"] = "newer".into();
    });
}

pub fn replace(world: &mut World) {
    // On a workload that is being deleted this is how somebody tears the finalizer off.
    let deleting = |w: &crate::testing::world::Workload| w.meta.deletion_timestamp.is_some();
    world.torn |= world.workloads.get(NAME).is_some_and(deleting);
    world.edit_workload(|workload| {
        workload.applied = None;
        workload.meta.finalizers = None;
    });
}

/// Past the injection: the template is what it was, and the finalizer stays.
pub fn undo(world: &mut World) {
    world.edit_workload(|workload| {
        if let Some(applied) = &mut workload.applied {
            applied.as_object_mut().expect("a patch").remove("spec");
        }
    });
}

pub fn tear_workload(world: &mut World) {
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

pub fn tear_hook(world: &mut World) {
    world.torn = true;
    world.edit_hook(|hook| hook.metadata.finalizers = None);
}

pub fn terminate(world: &mut World) {
    world.delete_namespace();
}

pub fn delete_service(world: &mut World) {
    world.services.clear();
    world.version += 1;
}

pub fn on_delete(world: &mut World) {
    world.edit_workload(|w| w.written["updateStrategy"] = json!({"type": "OnDelete"}));
}

pub fn partition(world: &mut World) {
    world.edit_workload(|workload| {
        workload.written["updateStrategy"] =
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}});
    });
}

/// Somebody deletes the pods, so that others come.
pub fn one_by_one(world: &mut World) {
    world.pods.clear();
    world.version += 1;
}

pub fn controlled(world: &mut World) {
    world.edit_workload(|workload| {
        let owner = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "app",
            "uid": "app", "controller": true}]);
        workload.meta.owner_references = serde_json::from_value(owner).ok();
    });
}

pub fn refuse_injection(world: &mut World) {
    world.refuses_injection = true;
}

pub fn allow_injection(world: &mut World) {
    world.refuses_injection = false;
}

pub fn take_secret(world: &mut World) {
    world.secret_taken = true;
}

pub fn free_secret(world: &mut World) {
    world.secret_taken = false;
}

pub fn a_while(world: &mut World) {
    world.pass(5);
}

pub fn half_a_minute(world: &mut World) {
    world.pass(31);
}

pub fn long(world: &mut World) {
    world.pass(3600);
}

pub fn conflicting_container(world: &mut World) {
    world.edit_workload(|workload| {
        let containers = &mut workload.written["template"]["spec"]["containers"];
        let conflicting = json!({"name": "sidecar", "image": "x",
            "env": [{"name": "KRAKE_TOKEN", "value": "mine"}]});
        containers.as_array_mut().unwrap().push(conflicting);
    });
}

pub const STORIES: &[Story] = &[
    Story {
        name: "hook, then workload",
        steps: &[hook, workload],
        end: "trainer: Armed []; Deployment trainer injected held; 2 pods; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "workload, then hook",
        steps: &[workload, hook],
        end: "trainer: Armed []; Deployment trainer injected held; 2 pods; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "complete only",
        steps: &[workload, complete_hook],
        end: "trainer: Ready []; Deployment trainer injected; 2 pods; 1 guards",
    },
    Story {
        name: "complete only, completed",
        steps: &[workload, complete_hook, complete],
        end: "trainer: Completed [\"Completed\"]; 1 guards",
    },
    Story {
        name: "complete only, deleted",
        steps: &[workload, complete_hook, background],
        end: "trainer: Pending []; 1 guards",
    },
    Story {
        name: "completed with a hold",
        steps: &[workload, hook, complete],
        end: "trainer: Completed [\"Completed\"]; 1 guards",
    },
    Story {
        name: "completed in the middle of a hold",
        steps: &[workload, hook, foreground, complete],
        end: "trainer: Completed [\"Completed\"]; 1 guards",
    },
    Story {
        name: "completed while the hook is deleted",
        steps: &[workload, hook, delete_hook, complete],
        end: "",
    },
    Story {
        name: "completed, created again",
        steps: &[workload, hook, complete, workload],
        end: "trainer: Armed [\"Completed\"]; Deployment trainer injected held; 2 pods; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "background, acknowledged",
        steps: &[workload, hook, background, acknowledge],
        end: "trainer: Released [\"Acknowledged\"]; 1 guards",
    },
    Story {
        name: "foreground, acknowledged",
        steps: &[workload, hook, foreground, acknowledge],
        end: "trainer: Released [\"Acknowledged\"]; 1 guards",
    },
    Story {
        name: "acknowledged while called",
        steps: &[acknowledges_when_called, workload, hook, foreground],
        end: "trainer: Released [\"Acknowledged\"]; 1 guards",
    },
    Story {
        name: "acknowledged before it was asked",
        steps: &[workload, hook, acknowledge, foreground, acknowledge],
        end: "trainer: Released [\"Acknowledged\"]; 1 guards",
    },
    Story {
        name: "each pod has to acknowledge, and does",
        steps: &[
            workload,
            all_hook,
            foreground,
            acknowledge,
            acknowledge,
            acknowledge_second,
        ],
        end: "trainer: Released [\"Acknowledged\"]; 1 guards",
    },
    Story {
        name: "each pod acknowledges while called",
        steps: &[acknowledges_when_called, workload, all_hook, foreground],
        end: "trainer: Released [\"Acknowledged\"]; 1 guards",
    },
    Story {
        name: "each pod has to acknowledge, and one does not",
        steps: &[workload, all_hook, foreground, acknowledge, half_a_minute],
        end: "trainer: Released [\"TimedOut\"]; 1 guards",
    },
    Story {
        name: "each pod has to acknowledge, and one fails",
        steps: &[
            workload,
            all_hook,
            foreground,
            fail,
            acknowledge_second,
            acknowledge,
        ],
        end: "trainer: Released [\"Acknowledged\"]; 1 guards",
    },
    Story {
        name: "each pod has to acknowledge, and one ends without a word",
        steps: &[
            workload,
            all_hook,
            background,
            acknowledge_second,
            replace_first_pod,
        ],
        end: "trainer: Released [\"Acknowledged\"]; 1 guards",
    },
    Story {
        name: "two have to acknowledge, and one does",
        steps: &[workload, two_hook, background, acknowledge, half_a_minute],
        end: "trainer: Retained [\"Retained\"]; Deployment trainer injected held deleting; 2 pods; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "two have to acknowledge, and do, one of them late",
        steps: &[
            workload,
            two_hook,
            background,
            acknowledge,
            half_a_minute,
            half_a_minute,
            acknowledge_second,
        ],
        end: "trainer: Released [\"Acknowledged\", \"Retained\"]; 1 guards",
    },
    Story {
        name: "each pod is called, and no call comes through",
        steps: &[
            fails_calls,
            workload,
            all_hook,
            foreground,
            a_while,
            a_while,
        ],
        end: "trainer: Released [\"TimedOut\"]; 1 guards",
    },
    Story {
        name: "never acknowledged",
        steps: &[workload, hook, foreground, a_while],
        end: "trainer: Released [\"TimedOut\"]; 1 guards",
    },
    Story {
        name: "nobody is called",
        steps: &[workload, quiet_hook, background],
        end: "trainer: Released [\"TimedOut\"]; 1 guards",
    },
    Story {
        name: "nobody is called, acknowledged",
        steps: &[workload, quiet_hook, background, acknowledge],
        end: "trainer: Released [\"Acknowledged\"]; 1 guards",
    },
    Story {
        name: "late",
        steps: &[
            workload,
            hook,
            background,
            half_a_minute,
            half_a_minute,
            acknowledge,
        ],
        end: "trainer: Released [\"TimedOut\"]; 1 guards",
    },
    Story {
        name: "retained",
        steps: &[
            workload,
            retaining_hook,
            foreground,
            half_a_minute,
            half_a_minute,
        ],
        end: "trainer: Retained [\"Retained\"]; Deployment trainer injected held deleting; 2 pods; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "retained, then a late acknowledgement",
        steps: &[
            workload,
            retaining_hook,
            foreground,
            half_a_minute,
            half_a_minute,
            acknowledge,
        ],
        end: "trainer: Released [\"Acknowledged\", \"Retained\"]; 1 guards",
    },
    Story {
        name: "retained, hook deleted, then acknowledged",
        steps: &[
            workload,
            retaining_hook,
            foreground,
            delete_hook,
            long,
            acknowledge,
        ],
        end: "",
    },
    Story {
        name: "retries",
        steps: &[workload, retrying_hook, background],
        end: "trainer: Released [\"TimedOut\"]; 1 guards",
    },
    Story {
        name: "acknowledged in the second round",
        steps: &[
            workload,
            retrying_hook,
            background,
            half_a_minute,
            acknowledge,
        ],
        end: "trainer: Released [\"Acknowledged\"]; 1 guards",
    },
    Story {
        name: "the app refuses the call",
        steps: &[refuses_calls, workload, hook, background],
        end: "trainer: Released [\"TimedOut\"]; 1 guards",
    },
    Story {
        name: "the call fails",
        steps: &[fails_calls, workload, hook, background, a_while, a_while],
        end: "trainer: Released [\"TimedOut\"]; 1 guards",
    },
    Story {
        name: "Service gone first",
        steps: &[workload, hook, delete_service, foreground, acknowledge],
        end: "trainer: Released [\"Acknowledged\"]; 1 guards",
    },
    Story {
        name: "no Service at all",
        steps: &[delete_service, workload, hook, foreground],
        end: "trainer: Released [\"TimedOut\"]; 1 guards",
    },
    Story {
        name: "orphaned",
        steps: &[workload, hook, orphan],
        end: "trainer: Released [\"Orphaned\"]; 2 pods; 1 guards",
    },
    Story {
        name: "orphaned, then hook deleted",
        steps: &[workload, hook, orphan, delete_hook],
        end: "2 pods; 1 guards",
    },
    Story {
        name: "orphaned, workload created again",
        steps: &[workload, hook, orphan, workload],
        end: "trainer: Armed [\"Orphaned\"]; Deployment trainer injected held; 2 pods; 3 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "hook deleted",
        steps: &[workload, hook, delete_hook, half_a_minute],
        end: "Deployment trainer plain; 2 pods",
    },
    Story {
        name: "hook and workload, in this order",
        steps: &[workload, hook, delete_hook, foreground, acknowledge],
        end: "",
    },
    Story {
        name: "workload and hook, in this order",
        steps: &[workload, hook, foreground, delete_hook, acknowledge],
        end: "",
    },
    Story {
        name: "hook and workload, never acknowledged",
        steps: &[workload, hook, delete_hook, background],
        end: "",
    },
    Story {
        name: "hook deleted, workload much later",
        steps: &[workload, hook, delete_hook, long, background],
        end: "",
    },
    Story {
        name: "hook deleted without workload",
        steps: &[hook, delete_hook],
        end: "",
    },
    Story {
        name: "hook created again",
        steps: &[workload, hook, delete_hook, half_a_minute, hook],
        end: "trainer: Armed []; Deployment trainer injected held; 2 pods; 3 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "workload created again after a removal",
        steps: &[workload, hook, foreground, acknowledge, workload],
        end: "trainer: Armed [\"Acknowledged\"]; Deployment trainer injected held; 2 pods; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "and removed again",
        steps: &[
            workload,
            hook,
            foreground,
            acknowledge,
            workload,
            background,
            acknowledge,
        ],
        end: "trainer: Released [\"Acknowledged\", \"Acknowledged\"]; 1 guards",
    },
    Story {
        name: "skipped before",
        steps: &[workload, hook, skip, background],
        end: "trainer: Released [\"Skipped\"]; 1 guards",
    },
    Story {
        name: "skipped while it waits",
        steps: &[workload, hook, foreground, skip],
        end: "trainer: Released [\"Skipped\"]; 1 guards",
    },
    Story {
        name: "skipped when retained",
        steps: &[
            workload,
            retaining_hook,
            foreground,
            half_a_minute,
            half_a_minute,
            skip,
        ],
        end: "trainer: Released [\"Skipped\", \"Retained\"]; 1 guards",
    },
    Story {
        name: "disabled",
        steps: &[workload, hook, disable],
        end: "trainer: Pending []; Deployment trainer plain; 2 pods; 1 guards",
    },
    Story {
        name: "disabled, enabled",
        steps: &[workload, hook, disable, enable],
        end: "trainer: Armed []; Deployment trainer injected held; 2 pods; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "disabled while it waits",
        steps: &[workload, hook, foreground, disable],
        end: "trainer: Released [\"HookGone\"]; 1 guards",
    },
    Story {
        name: "shutdown taken out of the spec",
        steps: &[workload, hook, no_shutdown],
        end: "trainer: Ready []; Deployment trainer injected; 2 pods; 1 guards",
    },
    Story {
        name: "shutdown taken out while it waits",
        steps: &[workload, hook, foreground, no_shutdown],
        end: "trainer: Released [\"HookGone\"]; 1 guards",
    },
    Story {
        name: "namespace",
        steps: &[workload, hook, terminate, a_while, a_while],
        end: "",
    },
    Story {
        name: "namespace, in a hold",
        steps: &[workload, hook, foreground, terminate, a_while, a_while],
        end: "",
    },
    Story {
        name: "workload's finalizer torn off",
        steps: &[workload, hook, tear_workload],
        end: "trainer: Armed []; Deployment trainer injected held; 2 pods; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "workload's finalizer torn off in a hold",
        steps: &[workload, hook, background, tear_workload],
        end: "trainer: Released [\"Skipped\"]; 1 guards",
    },
    Story {
        name: "the same, foreground",
        steps: &[workload, hook, foreground, tear_workload],
        end: "trainer: Released [\"Skipped\"]; 1 guards",
    },
    Story {
        name: "hook's finalizer torn off",
        steps: &[workload, hook, delete_hook, tear_hook],
        end: "Deployment trainer plain; 2 pods",
    },
    Story {
        name: "hook's finalizer torn off in a hold",
        steps: &[workload, hook, foreground, delete_hook, tear_hook],
        end: "",
    },
    Story {
        name: "hook's finalizer torn off, hook created again",
        steps: &[workload, hook, delete_hook, tear_hook, hook],
        end: "trainer: Armed []; Deployment trainer injected held; 2 pods; 3 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "a rollout while armed",
        steps: &[workload, hook, new_image],
        end: "trainer: Armed []; Deployment trainer injected held; 2 pods; 3 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "replaced as a whole",
        steps: &[workload, hook, replace],
        end: "trainer: Armed []; Deployment trainer injected held; 2 pods; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "undone past the injection",
        steps: &[workload, hook, undo],
        end: "trainer: Armed []; Deployment trainer injected held; 2 pods; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "undone past the injection, which is then refused, then a removal",
        steps: &[workload, hook, refuse_injection, undo, foreground],
        end: "trainer: Released [\"NothingRunning\"]; 1 guards",
    },
    Story {
        name: "the API server refuses the injection",
        steps: &[refuse_injection, workload, hook],
        end: "trainer: Pending []; Deployment trainer plain; 2 pods; 1 guards",
    },
    Story {
        name: "refuses, then allows",
        steps: &[
            refuse_injection,
            workload,
            hook,
            allow_injection,
            half_a_minute,
        ],
        end: "trainer: Armed []; Deployment trainer injected held; 2 pods; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "the Secret is somebody else's",
        steps: &[take_secret, workload, hook],
        end: "trainer: Pending []; Deployment trainer plain; 2 pods; 1 guards",
    },
    Story {
        name: "somebody else's, then freed",
        steps: &[take_secret, workload, hook, free_secret, half_a_minute],
        end: "trainer: Armed []; Deployment trainer injected held; 2 pods; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "a conflict after arming, then a removal",
        steps: &[
            workload,
            hook,
            conflicting_container,
            foreground,
            acknowledge,
        ],
        end: "trainer: Released [\"Acknowledged\"]; 1 guards",
    },
    Story {
        name: "two hooks",
        steps: &[workload, hook, rival],
        end: "trainer: Armed []; younger: Pending []; Deployment trainer injected held; 2 pods; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "two hooks, the older deleted",
        steps: &[workload, hook, rival, delete_hook, half_a_minute],
        end: "younger: Armed []; Deployment trainer injected held; 2 pods; 3 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "a twin comes while it waits, and adopts nobody",
        steps: &[workload, hook, foreground, twin, acknowledge],
        end: "trainer: Released [\"Acknowledged\"]; Deployment twin plain; 2 pods; 1 guards",
    },
    Story {
        name: "deleted before it was armed",
        steps: &[workload, background, hook],
        end: "trainer: Pending []",
    },
];

/// Hooks of every sort that holds a removal.
pub const HOOKS: &[Step] = &[
    hook,
    quiet_hook,
    retaining_hook,
    retrying_hook,
    all_hook,
    two_hook,
    scaling_hook,
    noting_hook,
    first_hook,
];

/// Everything that somebody may do at any time.
pub const ACTS: &[Step] = &[
    hook,
    workload,
    background,
    foreground,
    orphan,
    delete_hook,
    acknowledge,
    acknowledge_second,
    fail,
    replace_first_pod,
    another_port,
    stop,
    start,
    scale_up,
    scale_down,
    complete,
    complete_second,
    acknowledges_when_called,
    refuses_calls,
    fails_calls,
    skip,
    skip_without_reason,
    disable,
    enable,
    no_shutdown,
    new_image,
    conflicting_container,
    replace,
    undo,
    tear_workload,
    delete_service,
    refuse_injection,
    allow_injection,
    a_while,
    half_a_minute,
    long,
];
