//! Clocks that a test moves. Timers and the monotonic clock are tokio's, which a test can pause.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::clock::Clocks;

/// A machine whose wall clock somebody sets, and that somebody suspends; clones are the same one.
#[derive(Clone)]
pub struct Machine {
    begin: Instant,
    suspended: Arc<AtomicU64>,
    set: Arc<AtomicI64>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            begin: Instant::now(),
            suspended: Arc::default(),
            set: Arc::default(),
        }
    }
}

impl Machine {
    /// Its clocks.
    pub fn clocks(&self) -> Clocks {
        let (here, there) = (self.clone(), self.clone());
        Clocks::new(move || here.slept(), move || there.wall())
    }

    /// It is suspended for so long, now: the wall clock goes on, the monotonic one does not.
    pub fn suspend(&self, time: Duration) {
        let seconds = time.as_secs();
        self.suspended.fetch_add(seconds, Ordering::Relaxed);
    }

    /// Somebody sets the wall clock by so many seconds.
    pub fn set_wall_clock(&self, seconds: i64) {
        self.set.fetch_add(seconds, Ordering::Relaxed);
    }

    fn slept(&self) -> Duration {
        Duration::from_secs(self.suspended.load(Ordering::Relaxed))
    }

    fn wall(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.begin.elapsed() + self.slept());
        let set = SignedDuration::from_secs(self.set.load(Ordering::Relaxed));
        let begin = Timestamp::from_second(1_800_000_000).expect("a time");
        begin + passed.expect("a test ends") + set
    }
}
