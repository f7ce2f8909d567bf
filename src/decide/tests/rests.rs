//! Stories of workloads that come to rest without being deleted: `state: Stopped`, and completions.

use super::stories::{
    Story, a_while, acknowledge, acknowledge_second, all_hook, background, both_hook, complete,
    complete_hook, complete_second, delete_hook, disable, first_hook, foreground, half_a_minute,
    hook, noting_hook, quiet_hook, retaining_hook, scale_down, scale_up, scaling_hook, skip, start,
    stop, workload,
};

pub const STORIES: &[Story] = &[
    Story {
        name: "stopped",
        steps: &[workload, hook, stop, acknowledge],
        end: "trainer: Stopped [\"Acknowledged\"]; Deployment trainer injected held at zero; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "stopped, never acknowledged",
        steps: &[workload, hook, stop, a_while],
        end: "trainer: Stopped [\"TimedOut\"]; Deployment trainer injected held at zero; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "stopped, and nobody is called",
        steps: &[workload, quiet_hook, stop, acknowledge],
        end: "trainer: Stopped [\"Acknowledged\"]; Deployment trainer injected held at zero; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "stopped, and each has to acknowledge",
        steps: &[workload, all_hook, stop, acknowledge, acknowledge_second],
        end: "trainer: Stopped [\"Acknowledged\"]; Deployment trainer injected held at zero; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "stopped without a shutdown hook",
        steps: &[workload, complete_hook, stop],
        end: "trainer: Stopped []; Deployment trainer injected at zero; 1 guards",
    },
    Story {
        name: "stopped, and started again",
        steps: &[workload, hook, stop, acknowledge, start],
        end: "trainer: Armed [\"Acknowledged\"]; Deployment trainer injected held; 2 pods; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "stopped twice",
        steps: &[workload, hook, stop, acknowledge, start, stop, acknowledge],
        end: "trainer: Stopped [\"Acknowledged\", \"Acknowledged\"]; Deployment trainer injected held at zero; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "a stop that is cancelled",
        steps: &[workload, hook, stop, start],
        end: "trainer: Armed [\"Cancelled\"]; Deployment trainer injected held; 2 pods; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "a stop that is retained, and acknowledged late",
        steps: &[
            workload,
            retaining_hook,
            stop,
            half_a_minute,
            half_a_minute,
            acknowledge,
        ],
        end: "trainer: Stopped [\"Acknowledged\", \"Retained\"]; Deployment trainer injected held at zero; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "a stop that is skipped",
        steps: &[workload, hook, stop, skip],
        end: "trainer: Stopped [\"Skipped\"]; Deployment trainer injected held at zero; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "stopped, then deleted",
        steps: &[workload, hook, stop, acknowledge, foreground],
        end: "trainer: Released [\"NothingRunning\", \"Acknowledged\"]; 1 guards",
    },
    Story {
        name: "stopped, started, then deleted",
        steps: &[
            workload,
            hook,
            stop,
            acknowledge,
            start,
            foreground,
            acknowledge,
        ],
        end: "trainer: Released [\"Acknowledged\", \"Acknowledged\"]; 1 guards",
    },
    Story {
        name: "deleted while it is to be stopped",
        steps: &[workload, hook, stop, foreground, acknowledge],
        end: "trainer: Released [\"Acknowledged\"]; 1 guards",
    },
    Story {
        name: "to be stopped while a deletion waits",
        steps: &[workload, hook, foreground, stop, acknowledge],
        end: "trainer: Released [\"Acknowledged\"]; 1 guards",
    },
    Story {
        name: "to be stopped, and the hook is deleted",
        steps: &[workload, hook, stop, delete_hook, half_a_minute],
        end: "Deployment trainer plain; 2 pods",
    },
    Story {
        name: "to be stopped, and disabled",
        steps: &[workload, hook, stop, disable],
        end: "trainer: Pending [\"Cancelled\"]; Deployment trainer plain; 2 pods; 1 guards",
    },
    Story {
        name: "stopped, and scaled up by somebody",
        steps: &[workload, hook, stop, acknowledge, scale_up],
        end: "trainer: Armed [\"Acknowledged\"]; Deployment trainer injected held; 2 pods; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "the same, and started",
        steps: &[workload, hook, stop, acknowledge, scale_up, start],
        end: "trainer: Armed [\"Acknowledged\"]; Deployment trainer injected held; 2 pods; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "the same, and deleted",
        steps: &[
            workload,
            hook,
            stop,
            acknowledge,
            scale_up,
            background,
            acknowledge,
        ],
        end: "trainer: Released [\"Acknowledged\", \"Acknowledged\"]; 1 guards",
    },
    Story {
        name: "stopped, scaled up and down by somebody, and started",
        steps: &[
            workload,
            hook,
            stop,
            acknowledge,
            scale_up,
            scale_down,
            start,
        ],
        end: "trainer: Armed [\"Acknowledged\"]; Deployment trainer injected held at zero; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "stopped, created again",
        steps: &[workload, hook, stop, acknowledge, background, workload],
        end: "trainer: Stopped [\"NothingRunning\", \"NothingRunning\", \"Acknowledged\"]; Deployment trainer injected held at zero; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "stopped before there is a workload",
        steps: &[hook, stop, workload],
        end: "trainer: Stopped [\"NothingRunning\"]; Deployment trainer injected held at zero; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "at zero anyway",
        steps: &[workload, hook, scale_down, stop, start],
        end: "trainer: Armed []; Deployment trainer injected held at zero; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "completed, scaled to zero",
        steps: &[workload, scaling_hook, complete],
        end: "trainer: Completed [\"Completed\"]; Deployment trainer injected held at zero; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "the same, deleted",
        steps: &[workload, scaling_hook, complete, background],
        end: "trainer: Completed [\"Completed\"]; 1 guards",
    },
    Story {
        name: "completed, scaled up again",
        steps: &[workload, scaling_hook, complete, scale_up],
        end: "trainer: Armed [\"Completed\"]; Deployment trainer injected held; 2 pods; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "completed, scaled up again, and completed again",
        steps: &[workload, scaling_hook, complete, scale_up, complete],
        end: "trainer: Completed [\"Completed\", \"Completed\"]; Deployment trainer injected held at zero; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "completed, scaled up again, and deleted",
        steps: &[
            workload,
            scaling_hook,
            complete,
            scale_up,
            foreground,
            acknowledge,
        ],
        end: "trainer: Released [\"Acknowledged\", \"Completed\"]; 1 guards",
    },
    Story {
        name: "completed, and that is all",
        steps: &[workload, noting_hook, complete],
        end: "trainer: Completed [\"Completed\"]; Deployment trainer injected held; 2 pods; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "completed, with a shutdown first",
        steps: &[workload, first_hook, complete, acknowledge],
        end: "trainer: Completed [\"Acknowledged\", \"Completed\"]; 1 guards",
    },
    Story {
        name: "completed, with a shutdown first that nobody answers",
        steps: &[workload, first_hook, complete, a_while],
        end: "trainer: Completed [\"TimedOut\", \"Completed\"]; 1 guards",
    },
    Story {
        name: "the same, deleted meanwhile",
        steps: &[workload, first_hook, complete, foreground, acknowledge],
        end: "trainer: Completed [\"Acknowledged\", \"Completed\"]; 1 guards",
    },
    Story {
        name: "completed, with a shutdown first, created again",
        steps: &[workload, first_hook, complete, acknowledge, workload],
        end: "trainer: Armed [\"Acknowledged\", \"Completed\"]; Deployment trainer injected held; 2 pods; 2 guarded; 1 canaries; 1 guards",
    },
    Story {
        name: "completed by one of two that have to say so",
        steps: &[workload, both_hook, complete, complete],
        end: "trainer: Ready []; Deployment trainer injected; 2 pods; 1 guards",
    },
    Story {
        name: "completed by both that have to say so",
        steps: &[workload, both_hook, complete, complete_second],
        end: "trainer: Completed [\"Completed\"]; 1 guards",
    },
];
