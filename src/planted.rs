//! Mistakes on purpose, for the harness in `e2e/faults` to find: a harness that finds none proves
//! nothing.
//!
//! Only a build with the feature `planted-bugs` can make one, and only the one that the environment
//! variable `KRAKE_PLANTED_BUG` names. In every other build [`Planted`] is nothing, and each
//! question to it is `false` when it is compiled. `decide` is told by value, as of everything else.

/// A classic mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// 200 is answered before the write.
    AnswerBeforeWrite,
    /// A write whose answer was lost is taken for written.
    LostAnswerCounts,
    /// An acknowledgement that nobody has asked for is answered 200.
    UnaskedCounts,
    /// So is one that comes when its request is closed.
    LateCounts,
    /// The write of an acknowledgement does not test the request it answers.
    RequestNotTested,
    /// Statuses are written whoever was faster.
    StatusForced,
    /// The finalizer is taken off before what the guard kept is deleted.
    FinalizerFirst,
    /// A release does not close the request first.
    ReleaseUnclosed,
    /// A deletion that leaves the pods running is taken for a removal.
    OrphansDeleted,
    /// What such a deletion leaves keeps its guard.
    GuardNotStripped,
    /// A request is taken over with the deadline of the process that is gone.
    DeadlineKept,
    /// A hook that is deleted disarms its workload at once.
    DisarmedAtOnce,
    /// No canary.
    CanaryForgotten,
    /// No guard.
    GuardForgotten,
    /// An error takes the finalizer off.
    FinalizerDroppedOnError,
    /// What failed is tried again at once, without end.
    RetryWithoutPause,
    /// A leader whose term is over goes on writing.
    WriteAfterLeaseLoss,
    /// A Secret that is there already is overwritten, whosever it is.
    SecretOverwritten,
}

/// The mistake that is made, if any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted(#[cfg(feature = "planted-bugs")] Option<Bug>);

#[cfg(not(feature = "planted-bugs"))]
impl Planted {
    /// None, in this build.
    pub fn of_environment() -> Self {
        Self()
    }

    /// No.
    pub const fn has(self, _: Bug) -> bool {
        false
    }
}

#[cfg(feature = "planted-bugs")]
impl Planted {
    /// What `KRAKE_PLANTED_BUG` names. One that does not exist ends the process: a harness that
    /// misspells it would find nothing, and be content.
    pub fn of_environment() -> Self {
        static PLANTED: std::sync::LazyLock<Option<Bug>> = std::sync::LazyLock::new(|| {
            let name = std::env::var("KRAKE_PLANTED_BUG").unwrap_or_default();
            let bug = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
            assert!(bug.is_some() || name.is_empty(), "no such mistake: {name}");
            bug
        });
        Self(*PLANTED)
    }

    /// Whether it is this one.
    pub fn has(self, bug: Bug) -> bool {
        self.0 == Some(bug)
    }
}

#[cfg(feature = "planted-bugs")]
impl Bug {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::AnswerBeforeWrite,
        Self::LostAnswerCounts,
        Self::UnaskedCounts,
        Self::LateCounts,
        Self::RequestNotTested,
        Self::StatusForced,
        Self::FinalizerFirst,
        Self::ReleaseUnclosed,
        Self::OrphansDeleted,
        Self::GuardNotStripped,
        Self::DeadlineKept,
        Self::DisarmedAtOnce,
        Self::CanaryForgotten,
        Self::GuardForgotten,
        Self::FinalizerDroppedOnError,
        Self::RetryWithoutPause,
        Self::WriteAfterLeaseLoss,
        Self::SecretOverwritten,
    ];
}

/// Whether this process makes this mistake.
pub fn is(bug: Bug) -> bool {
    Planted::of_environment().has(bug)
}
