//! How long to wait after an error, object by object.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::Class;

const FIRST: Duration = Duration::from_secs(1);
/// Once what was wrong is over, all is well within ten seconds; and until then an object costs no
/// more than ten tries a minute.
const MOST: Duration = Duration::from_secs(8);
/// Another writer was faster: the cache needs a moment to receive that.
const CONFLICT: Duration = Duration::from_millis(250);

/// So many errors in a row, and even a change is only looked at when the wait is over: each event of a
/// busy object would be a try of its own.
const NO_LONGER_WOKEN: u32 = 3;

/// Errors in a row, by object.
#[derive(Debug)]
pub struct Backoff<K> {
    failures: Mutex<HashMap<K, Failures>>,
    /// The longest wait for what stays so until a person acts.
    patience: Duration,
}

#[derive(Debug)]
struct Failures {
    count: u32,
    until: Instant,
}

impl<K: Hash + Eq> Backoff<K> {
    /// Starts with no errors.
    pub fn new() -> Self {
        Self::up_to(MOST)
    }

    /// The same, for what costs so much that in the end it is tried only as often as this, while it
    /// stays so until a person acts.
    pub fn up_to(patience: Duration) -> Self {
        Self {
            failures: Mutex::default(),
            patience,
        }
    }

    /// The wait after one more error of this class.
    pub fn after(&self, object: K, class: Class) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = failures.entry(object).or_insert(Failures {
            count: 0,
            until: Instant::now(),
        });
        failures.count = failures.count.saturating_add(1);
        let count = failures.count;
        let wait = match class {
            Class::Conflict => CONFLICT
                .saturating_mul(1 << (2 * (count - 1)).min(8))
                .min(MOST),
            Class::Retry => FIRST.saturating_mul(1 << (count - 1).min(6)).min(MOST),
            Class::User | Class::Bug => MOST
                .saturating_mul(1 << (count - 1).min(16))
                .min(self.patience),
        };
        failures.until = Instant::now() + wait;
        wait
    }

    /// What is left of the wait of an object that has failed again and again.
    pub fn pending(&self, object: &K) -> Option<Duration> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = failures.get(object)?;
        let left = failures.until.saturating_duration_since(Instant::now());
        (failures.count >= NO_LONGER_WOKEN && !left.is_zero()).then_some(left)
    }

    /// It went well.
    pub fn reset(&self, object: &K) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.remove(object);
    }
}

/// How long a watch waits before it is opened again. kube-runtime's own goes up to a minute: for
/// that long after an outage of some seconds, a new ReplicaSet would get no guard. This one ends at
/// some seconds, and starts over once a watch has held for as long: one that lists well and then is
/// told each time that it is too old would list everything twice a second.
#[derive(Clone, Debug, Default)]
pub struct Reopen {
    failures: u32,
    reopened: Option<Instant>,
}

const REOPEN_FIRST: Duration = Duration::from_millis(500);
const REOPEN_MOST: Duration = Duration::from_secs(8);

impl Iterator for Reopen {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if self.reopened.is_none_or(|at| now >= at + REOPEN_MOST) {
            self.failures = 0;
        }
        let wait = REOPEN_FIRST
            .saturating_mul(1 << self.failures.min(8))
            .min(REOPEN_MOST);
        self.failures = self.failures.saturating_add(1);
        // A quarter of chance, so that all watches do not come back in the same moment.
        let wait = wait.mul_f64(0.75 + rand::random::<f64>() / 4.0);
        self.reopened = Some(now + wait);
        Some(wait)
    }
}

impl kube::runtime::utils::Backoff for Reopen {
    /// Something was heard, which says nothing yet: a list is heard each time.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_watch_never_stays_shut_for_long_and_starts_over_once_it_has_held() {
        use kube::runtime::utils::Backoff as _;
        let mut reopen = Reopen::default();
        let mut waits = Vec::new();
        for _ in 0..50 {
            let wait = reopen.next().expect("always one");
            tokio::time::advance(wait + Duration::from_secs(1)).await;
            reopen.reset();
            waits.push(wait);
        }
        assert!(
            waits[0] <= REOPEN_FIRST && waits[49] > REOPEN_MOST / 2,
            "{waits:?}"
        );
        assert!(waits.iter().all(|wait| *wait <= REOPEN_MOST), "{waits:?}");
        tokio::time::advance(REOPEN_MOST).await;
        assert!(reopen.next() <= Some(REOPEN_FIRST));
    }

    #[test]
    fn no_class_costs_more_than_ten_tries_a_minute() {
        for class in [Class::Conflict, Class::Retry, Class::User, Class::Bug] {
            let backoff = Backoff::new();
            let (mut tries, mut passed) = (0, Duration::ZERO);
            while passed < Duration::from_secs(60) {
                tries += 1;
                passed += backoff.after("a", class);
            }
            assert!(tries <= 10, "{class:?}: {tries}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_looked_at_at_once_unless_it_has_failed_again_and_again() {
        let backoff = Backoff::new();
        for _ in 0..2 {
            backoff.after("a", Class::Retry);
            assert_eq!(backoff.pending(&"a"), None);
        }
        let wait = backoff.after("a", Class::Retry);
        assert_eq!(backoff.pending(&"a"), Some(wait));
        assert_eq!(backoff.pending(&"b"), None);
        tokio::time::advance(wait).await;
        assert_eq!(backoff.pending(&"a"), None);
        backoff.after("a", Class::Retry);
        backoff.reset(&"a");
        assert_eq!(backoff.pending(&"a"), None, "it went well");
    }

    #[test]
    fn what_is_dear_is_tried_ever_less_often_while_a_person_has_to_act() {
        let backoff = Backoff::up_to(Duration::from_secs(3600));
        let wait = |class| backoff.after("a", class).as_secs();
        let waits: Vec<_> = (0..12).map(|_| wait(Class::User)).collect();
        assert_eq!(waits[..4], [8, 16, 32, 64]);
        assert_eq!(waits[11], 3600);
        assert!(wait(Class::Retry) <= MOST.as_secs());
    }

    #[test]
    fn waits_grow_object_by_object_and_start_anew() {
        let backoff = Backoff::new();
        assert_eq!(backoff.after("a", Class::Retry), Duration::from_secs(1));
        assert_eq!(backoff.after("a", Class::Retry), Duration::from_secs(2));
        assert_eq!(backoff.after("b", Class::Retry), Duration::from_secs(1));
        assert!(backoff.after("c", Class::Conflict) < Duration::from_secs(1));
        for _ in 0..100 {
            assert!(backoff.after("a", Class::Retry) <= MOST);
        }
        backoff.reset(&"a");
        assert_eq!(backoff.after("a", Class::Retry), Duration::from_secs(1));
    }
}
