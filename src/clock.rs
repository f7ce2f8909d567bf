//! Clocks that no hand sets.
//!
//! | question | clock | while the machine is suspended | while the process is stopped | when the wall clock is set |
//! |---|---|---|---|---|
//! | does this replica (still) lead? | [`Clocks::moment`] | goes on | goes on | goes on as before |
//! | has an app had its time? | [`SteadyClock`] | stands | stands | goes on as before |
//! | what do people read? | [`Clocks::wall`] | goes on | goes on | is set |
//!
//! A lease is lost to others, whose time goes on. An app's time is time in which this process could
//! have been told that the app is done: while it could not, nothing of that time is used up.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::decide::lease::Moment;

/// How often a steady clock is looked at.
const TICK: Duration = Duration::from_millis(200);
/// Who was not looked at for longer did not run.
const MOST_GAP: Duration = Duration::from_secs(1);
/// Whoever runs again first hears what has been waiting for it meanwhile.
const SETTLE: Duration = Duration::from_secs(2);

type Source<T> = Arc<dyn Fn() -> T + Send + Sync>;

/// The sources of time; clones share them.
#[derive(Clone)]
pub struct Clocks {
    begin: Instant,
    suspended: Source<Duration>,
    wall: Source<Timestamp>,
}

impl Clocks {
    /// Those of this machine.
    pub fn of_the_machine() -> Self {
        Self::new(suspended, Timestamp::now)
    }

    /// Those that somebody else moves: for how long the machine has been suspended, and the wall clock.
    pub fn new(
        suspended: impl Fn() -> Duration + Send + Sync + 'static,
        wall: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        Self {
            begin: Instant::now(),
            suspended: Arc::new(suspended),
            wall: Arc::new(wall),
        }
    }

    /// Time since a beginning that does not matter, suspended or not.
    pub fn moment(&self) -> Moment {
        self.begin.elapsed() + (self.suspended)()
    }

    /// What the wall clock says.
    pub fn wall(&self) -> Timestamp {
        (self.wall)()
    }
}

/// For how long this machine has been suspended since it was started: the monotonic clock, which all
/// timers go by, has stood still for so long.
#[cfg(target_os = "linux")]
fn suspended() -> Duration {
    use rustix::time::{ClockId, Timespec, clock_gettime};
    let since = |clock| {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
        let (seconds, nanos) = (u64::try_from(tv_sec), u32::try_from(tv_nsec));
        Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
    };
    // In this order the difference of two clocks that never stood still is nothing, and not a little.
    let boot = since(ClockId::Boottime);
    boot.saturating_sub(since(ClockId::Monotonic))
}

/// Nobody says.
#[cfg(not(target_os = "linux"))]
fn suspended() -> Duration {
    Duration::ZERO
}

/// A clock that begins as the wall clock and then goes by itself, for as long as this process runs:
/// whoever steps the wall clock, stops the process or suspends the machine makes nobody's time
/// shorter. Clones are the same clock.
#[derive(Clone)]
pub struct SteadyClock {
    clocks: Clocks,
    begun: Timestamp,
    counted: Arc<Mutex<Counted>>,
}

struct Counted {
    time: Duration,
    looked: Moment,
    /// Nothing counts before: it was stopped.
    stands_until: Moment,
}

impl SteadyClock {
    /// Begins now.
    pub fn begin(clocks: &Clocks) -> Self {
        let now = clocks.moment();
        Self {
            begun: clocks.wall(),
            clocks: clocks.clone(),
            counted: Arc::new(Mutex::new(Counted {
                time: Duration::ZERO,
                looked: now,
                stands_until: now,
            })),
        }
    }

    /// What it says.
    pub fn now(&self) -> Timestamp {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.look(self.clocks.moment());
        self.begun + SignedDuration::try_from(counted.time).unwrap_or_default()
    }

    /// How far the wall clock has gone away from it.
    pub fn drift(&self) -> Duration {
        let drift = self.clocks.wall().duration_since(self.now());
        drift.unsigned_abs()
    }

    /// Looks at it until `stop`: while nobody does it stands.
    pub async fn keep(self, stop: CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(TICK))
            .await
            .is_some()
        {
            self.now();
        }
    }
}

impl Counted {
    fn look(&mut self, now: Moment) {
        let gap = now.saturating_sub(self.looked);
        if gap <= MOST_GAP {
            self.time += now.saturating_sub(self.looked.max(self.stands_until));
        } else if self.looked >= self.stands_until {
            self.stands_until = now + SETTLE;
        } else {
            // Late again so soon: nobody stops it, it gets too little of a processor. Its time goes
            // slowly then, and goes on.
            self.time += MOST_GAP;
        }
        self.looked = self.looked.max(now);
    }
}

#[cfg(test)]
#[path = "clock_tests.rs"]
mod tests;
