//! Where a hook and its workload stand: what is to be done follows from it. Read from the top, the first
//! that is true; it is the test table, too.
//!
//! | | situation |
//! |---|---|
//! | the hook is gone, or goes and nothing of ours keeps it | `Over` |
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
    /// What is provided for a hook must be taken back when it goes: our finalizer comes first.
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
