//! Whether a guarded dependent is deleted, unguarded, or kept. A mistake here ends pods that should
//! live, so everything uses this one table. The first line that matches counts; it is also the test
//! table.
//!
//! | workload | deletion | others' finalizers on it | controlled by | result |
//! |---|---|---|---|---|
//! | lives, and is held | | | anybody, nobody | Keep |
//! | lives, its hook is gone | | | anybody, nobody | Unguard |
//! | leaves, or is gone | orphans | any | anybody, nobody | Unguard |
//! | leaves, or is gone | any other | any | somebody else | Unguard: it was adopted |
//! | leaves | background | some | the workload | Unguard: the garbage collector takes it with the workload |
//! | leaves | background | none | the workload | Delete |
//! | leaves | any other | any | nobody | Delete: only the guard has kept it |
//! | leaves | foreground | any | the workload | Delete, its pods first |
//! | is gone | any other | | the workload, nobody | Delete |
//!
//! A dependent of a held workload that has no controller is the first sign of a deletion, which is
//! observed a moment later; or a user has changed its labels. If it is certainly the latter, it is
//! not held. In the foreground Kubernetes deletes dependents whatever finalizers their owner has;
//! in the background it waits until the owner is gone, and so do pods whose workload another
//! controller still holds.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::hook::{dependent, is_left_alone};
use super::seen::{Effect, controller_of, has_finalizer};
use crate::api::status::Deletion;
use crate::api::{DependentKind, names};

/// Where the life of the workload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It lives, and its removal will wait.
    Held,
    /// It lives, and nobody holds it any more.
    Forsaken,
    /// Its removal goes on.
    Leaves {
        /// How it is deleted.
        deletion: Deletion,
        /// Somebody else's finalizer keeps it there.
        held_by_others: bool,
    },
    /// It is not there any more.
    Gone {
        /// Its deletion left its dependents alone.
        orphaned: bool,
    },
}

/// Who controls a dependent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controller {
    /// Nobody.
    Nobody,
    /// The workload.
    Workload,
    /// Somebody else.
    Another,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disposition {
    /// Nothing.
    Keep,
    /// The guard goes, and it lives on without us.
    Unguard,
    /// Its deletion, which the guard has kept waiting, goes on.
    Delete {
        /// Its pods go first.
        foreground: bool,
    },
}

/// The answer of the table.
pub(super) fn disposition(fate: Fate, controller: Controller) -> Disposition {
    use Disposition::{Delete, Keep, Unguard};
    match (fate, controller) {
        (Fate::Held, _) => Keep,
        (Fate::Forsaken, _)
        | (Fate::Gone { orphaned: true }, _)
        | (
            Fate::Leaves {
                deletion: Deletion::Orphan,
                ..
            },
            _,
        )
        | (_, Controller::Another) => Unguard,
        (
            Fate::Leaves {
                deletion: Deletion::Background,
                held_by_others: true,
            },
            Controller::Workload,
        ) => Unguard,
        (Fate::Leaves { deletion, .. }, _) => Delete {
            foreground: deletion == Deletion::Foreground,
        },
        (Fate::Gone { orphaned: false }, _) => Delete { foreground: false },
    }
}

impl Fate {
    /// Of a workload whose removal goes on.
    pub(super) fn leaves(workload: &ObjectMeta, deletion: Deletion) -> Self {
        let theirs = |finalizer: &String| {
            ![
                names::SHUTDOWN_FINALIZER,
                names::FOREGROUND_FINALIZER,
                names::ORPHAN_FINALIZER,
            ]
            .contains(&finalizer.as_str())
        };
        Self::Leaves {
            deletion,
            held_by_others: workload.finalizers.iter().flatten().any(theirs),
        }
    }
}

impl Controller {
    /// Of a dependent, where the workload has, or had, this uid.
    pub(super) fn of(dependent: &ObjectMeta, workload: Option<&str>) -> Self {
        match controller_of(dependent) {
            None => Self::Nobody,
            Some(owner) if workload == Some(owner.uid.as_str()) => Self::Workload,
            Some(_) => Self::Another,
        }
    }
}

impl Disposition {
    /// What is to be done, if anything.
    pub(super) fn effect(self, kind: DependentKind, meta: &ObjectMeta) -> Option<Effect> {
        match self {
            Self::Keep => None,
            Self::Unguard => Some(Effect::Unguard(dependent(kind, meta))),
            Self::Delete { foreground } => Some(Effect::DeleteDependent {
                dependent: dependent(kind, meta),
                resource_version: meta.resource_version.clone().unwrap_or_default(),
                foreground,
            }),
        }
    }
}

/// How a workload is being deleted. `orphan` and `foregroundDeletion` stand in its finalizers for some
/// milliseconds only; what became of its canary tells afterwards.
pub(super) fn deletion(workload: &ObjectMeta, canary: Option<&ObjectMeta>) -> Deletion {
    if has_finalizer(workload, names::ORPHAN_FINALIZER) || canary.is_some_and(is_left_alone) {
        Deletion::Orphan
    } else if has_finalizer(workload, names::FOREGROUND_FINALIZER)
        || canary.is_some_and(|canary| canary.deletion_timestamp.is_some())
    {
        Deletion::Foreground
    } else {
        Deletion::Background
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::build::{self, NAME};

    #[test]
    fn line_by_line() {
        use Controller::{Another, Nobody, Workload};
        use Deletion::{Background, Foreground, Orphan};
        use Disposition::{Delete, Keep, Unguard};
        let leaves = |deletion, held_by_others| Fate::Leaves {
            deletion,
            held_by_others,
        };
        let gone = |orphaned| Fate::Gone { orphaned };
        let delete = |foreground| Delete { foreground };
        let all = [Nobody, Workload, Another];
        for (fate, expected) in [
            (Fate::Held, [Keep; 3]),
            (Fate::Forsaken, [Unguard; 3]),
            (leaves(Orphan, false), [Unguard; 3]),
            (leaves(Orphan, true), [Unguard; 3]),
            (gone(true), [Unguard; 3]),
            (leaves(Background, true), [delete(false), Unguard, Unguard]),
            (
                leaves(Background, false),
                [delete(false), delete(false), Unguard],
            ),
            (
                leaves(Foreground, true),
                [delete(true), delete(true), Unguard],
            ),
            (
                leaves(Foreground, false),
                [delete(true), delete(true), Unguard],
            ),
            (gone(false), [delete(false), delete(false), Unguard]),
        ] {
            assert_eq!(
                all.map(|controller| disposition(fate, controller)),
                expected,
                "{fate:?}"
            );
        }
    }

    #[test]
    fn only_a_strangers_finalizer_holds_a_workload_beside_us() {
        for (finalizer, expected) in [
            (names::SHUTDOWN_FINALIZER, false),
            (names::FOREGROUND_FINALIZER, false),
            (names::ORPHAN_FINALIZER, false),
            ("example.com/keep", true),
        ] {
            let workload = build::deployment(NAME).finalizer(finalizer).meta();
            let Fate::Leaves { held_by_others, .. } = Fate::leaves(&workload, Deletion::Background)
            else {
                panic!("it leaves");
            };
            assert_eq!(held_by_others, expected, "{finalizer}");
        }
    }
}
