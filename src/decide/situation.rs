//! The situation of a hook and its workload, from which the steps follow. The first line that is
//! true counts; it is also the test table.
//!
//! | | situation |
//! |---|---|
//! | the hook is gone, or is terminating without our finalizer | `Over` |
//! | our finalizer is not on the hook | `New` |
//! | an older hook has the workload | `Rivalled` |
//! | there is no workload | `Absent` |
//! | the workload is being deleted | `Removing` |
//! | its namespace is, and the workload is held | `Removing`: its pods get no further warning |
//! | the hook is being deleted | `HookDeleting` |
//! | hook or workload say that the hook is to keep out | `Disabled` |
//! | the namespace is being deleted | `NamespaceTerminating` |
//! | the workload is another one's, which would undo what is done to it | `Controlled` |
//! | else | `Present` |

use super::hook::Context;
use super::seen::has_finalizer;
use super::workload::Workload;
use crate::api::names;

/// Where a hook and its workload stand.
#[derive(Clone, Copy, Debug)]
pub(super) enum Situation<'a> {
    /// There is nothing left to be done.
    Over,
    /// Our finalizer is added first: what is provided for a hook must be taken back when it is
    /// deleted.
    New,
    /// An older hook has the workload: this one.
    Rivalled(&'a str),
    /// The workload is not there (yet, or any more).
    Absent,
    /// The workload is being deleted, or is about to be with its namespace.
    Removing(&'a Workload),
    /// The hook is being deleted, and the workload is not (yet).
    HookDeleting(&'a Workload),
    /// The hook is to keep out.
    Disabled(&'a Workload),
    /// Nothing can be created in the namespace any more.
    NamespaceTerminating(&'a Workload),
    /// What is done to the workload would be undone by its controller.
    Controlled(&'a Workload),
    /// The workload is there, and nobody deletes anything.
    Present(&'a Workload),
}

impl<'a> Context<'a> {
    /// Where the hook stands.
    pub(super) fn situation(&self) -> Situation<'a> {
        let seen = self.seen;
        let meta = &seen.hook.metadata;
        let kept = has_finalizer(meta, names::HOOK_FINALIZER);
        let deleting = meta.deletion_timestamp.is_some();
        match (&seen.rival, &seen.workload) {
            _ if seen.hook_gone || (deleting && !kept) => Situation::Over,
            _ if !kept => Situation::New,
            (Some(rival), _) => Situation::Rivalled(rival),
            (None, None) => Situation::Absent,
            (None, Some(workload)) => {
                let leaves = workload.metadata.deletion_timestamp.is_some();
                if leaves || (seen.namespace_terminating && self.is_held(workload)) {
                    Situation::Removing(workload)
                } else if deleting {
                    Situation::HookDeleting(workload)
                } else if self.disabled(workload) {
                    Situation::Disabled(workload)
                } else if seen.namespace_terminating {
                    Situation::NamespaceTerminating(workload)
                } else if self.controlled(workload).is_some() {
                    Situation::Controlled(workload)
                } else {
                    Situation::Present(workload)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decide::Seen;
    use crate::testing::build::{self, NAME};
    use crate::testing::world::World;

    /// A hook with our finalizer, and its workload, which is held.
    fn held() -> Seen {
        let mut world = World::new();
        let workload = build::deployment(NAME).finalizer(names::SHUTDOWN_FINALIZER);
        world.create_workload(workload);
        let hook = build::hook(NAME).shutdown();
        world.create_hook(hook.finalizer(names::HOOK_FINALIZER));
        world.observe(NAME).expect("the hook is there")
    }

    fn word(seen: &Seen) -> String {
        let settings = build::settings("leader-0", true);
        let context = Context {
            seen,
            settings: &settings,
            now: build::at(0),
        };
        let word = format!("{:?}", context.situation());
        word.split('(').next().unwrap_or_default().to_owned()
    }

    fn delete(workload: &mut Workload) {
        workload.metadata.deletion_timestamp = Some(build::time(1));
    }

    /// From the last line of the table up: whatever else is true, the first line that is counts.
    #[test]
    fn the_first_line_that_is_true_counts() {
        let lines: [(&str, fn(&mut Seen)); 8] = [
            ("Controlled", |seen| {
                let made = build::deployment(NAME).owner("Deployment", "its-owner");
                let made = made.with("/kind", json!("ReplicaSet"));
                seen.workload = Some(made.workload());
            }),
            ("NamespaceTerminating", |seen| {
                seen.namespace_terminating = true;
            }),
            ("Disabled", |seen| {
                let annotations = seen.hook.metadata.annotations.get_or_insert_default();
                annotations.insert(names::HOOK_ANNOTATION.into(), names::DISABLED.into());
            }),
            ("HookDeleting", |seen| {
                seen.hook.metadata.deletion_timestamp = Some(build::time(1));
            }),
            ("Removing", |seen| seen.workload.iter_mut().for_each(delete)),
            ("Absent", |seen| seen.workload = None),
            ("Rivalled", |seen| seen.rival = Some("older".into())),
            ("Over", |seen| seen.hook.metadata.finalizers = None),
        ];
        let mut seen = held();
        assert_eq!(word(&seen), "Present");
        for (expected, change) in lines {
            change(&mut seen);
            assert_eq!(word(&seen), expected);
        }
        let mut seen = held();
        seen.hook_gone = true;
        assert_eq!(word(&seen), "Over");
    }

    #[test]
    fn a_hook_without_our_finalizer_is_new_unless_it_is_being_deleted() {
        let mut seen = held();
        seen.rival = Some("older".into());
        seen.hook.metadata.finalizers = None;
        assert_eq!(word(&seen), "New");
        seen.hook.metadata.deletion_timestamp = Some(build::time(1));
        assert_eq!(word(&seen), "Over");
    }

    #[test]
    fn what_is_held_is_removed_with_its_namespace() {
        let mut seen = held();
        seen.namespace_terminating = true;
        assert_eq!(word(&seen), "Removing");
        seen.hook.metadata.deletion_timestamp = Some(build::time(1));
        assert_eq!(word(&seen), "Removing");
        seen.hook.spec.shutdown = None;
        assert_eq!(word(&seen), "HookDeleting");
    }
}
