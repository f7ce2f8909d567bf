//! Counts how removals and completions have ended, each once: when the status that says so is
//! written. Whether a write has reached the API server, although its answer has not come back, is
//! told by the next look at a newer hook.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use kube::ResourceExt;

use crate::api::status::HistoryEntry;
use crate::api::{KrakeHook, KrakeHookStatus};
use crate::metrics::Metrics;

/// Counts outcomes for the time of one term.
pub struct Outcomes {
    metrics: Metrics,
    /// By the hook's uid: writes of which it is not known what became of them.
    unsure: Mutex<HashMap<String, Unsure>>,
}

struct Unsure {
    /// resourceVersion of the hook that was to be replaced.
    version: String,
    entries: Vec<HistoryEntry>,
}

impl Outcomes {
    /// Counts into these metrics.
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            unsure: Mutex::default(),
        }
    }

    /// A hook as it is now.
    pub fn look(&self, hook: &KrakeHook) {
        let mut unsure = self.unsure.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = hook.uid().unwrap_or_default();
        let is_older = |known: &Unsure| Some(&known.version) == hook.resource_version().as_ref();
        if unsure.get(&uid).is_none_or(is_older) {
            return;
        }
        let history = hook.status.iter().flat_map(|status| &status.history);
        let history: Vec<_> = history.collect();
        let entries = unsure.remove(&uid).map(|known| known.entries);
        for entry in entries.into_iter().flatten() {
            if history.contains(&&entry) {
                self.metrics.outcome(entry.outcome);
            }
        }
    }

    /// This status of the hook was sent to the API server, which has said so or has not.
    pub fn wrote(&self, before: &KrakeHook, status: &KrakeHookStatus, done: bool) {
        self.look(before);
        let known = before.status.iter().flat_map(|status| &status.history);
        let entries = new_entries(&known.collect::<Vec<_>>(), &status.history);
        if entries.is_empty() {
            return;
        }
        let uid = before.uid().unwrap_or_default();
        let mut unsure = self.unsure.lock().unwrap_or_else(PoisonError::into_inner);
        if done {
            unsure.remove(&uid);
            for entry in entries {
                self.metrics.outcome(entry.outcome);
            }
        } else {
            // The first one is the one that may have come through.
            unsure.entry(uid).or_insert_with(|| Unsure {
                version: before.resource_version().unwrap_or_default(),
                entries: entries.to_vec(),
            });
        }
    }

    /// A hook is gone.
    pub fn forget(&self, uid: &str) {
        let mut unsure = self.unsure.lock().unwrap_or_else(PoisonError::into_inner);
        unsure.remove(uid);
    }
}

/// Those at the head of the new history, newest first, before what the old one began with.
fn new_entries<'a>(old: &[&HistoryEntry], new: &'a [HistoryEntry]) -> &'a [HistoryEntry] {
    let begins_with = |rest: &[HistoryEntry]| {
        rest.len() <= old.len() && rest.iter().zip(old).all(|(new, old)| new == *old)
    };
    let from = (0..=new.len()).find(|from| begins_with(&new[*from..]));
    &new[..from.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::Outcome;
    use crate::testing;
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn entry(number: i64, outcome: Outcome) -> HistoryEntry {
        HistoryEntry {
            outcome,
            trigger: None,
            request: Some(number.to_string()),
            at: Time(Timestamp::from_second(number).expect("a time")),
            message: String::new(),
        }
    }

    /// Newest first, as it is stored.
    fn hook(version: &str, history: &[HistoryEntry]) -> KrakeHook {
        let mut hook = testing::hook("ml", "trainer");
        hook.metadata.resource_version = Some(version.to_owned());
        hook.status.get_or_insert_default().history = history.to_vec();
        hook
    }

    fn counted(outcomes: &Outcomes, outcome: &str) -> u64 {
        let text = outcomes.metrics.text();
        let series = format!("krake_hooks_outcomes_total{{outcome=\"{outcome}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.map_or(0, |count| count.parse().expect("a number"))
    }

    #[test]
    fn what_is_new_is_counted_when_it_is_written_and_never_again() {
        let outcomes = Outcomes::new(Metrics::new());
        let (acknowledged, timed_out) =
            (entry(1, Outcome::Acknowledged), entry(2, Outcome::TimedOut));
        let (before, after) = (
            hook("1", &[]),
            hook("2", std::slice::from_ref(&acknowledged)),
        );
        let status = after.status.clone().expect("a status");
        outcomes.wrote(&before, &status, true);
        assert_eq!(counted(&outcomes, "Acknowledged"), 1);
        // Another write of a status with the same history.
        outcomes.wrote(&after, &status, true);
        let later = hook("3", &[timed_out, acknowledged]);
        outcomes.wrote(&after, later.status.as_ref().expect("a status"), true);
        outcomes.look(&later);
        assert_eq!(counted(&outcomes, "Acknowledged"), 1);
        assert_eq!(counted(&outcomes, "TimedOut"), 1);
        // Another process has written nothing of it.
        let restarted = Outcomes::new(Metrics::new());
        restarted.look(&later);
        restarted.wrote(&later, later.status.as_ref().expect("a status"), true);
        assert_eq!(counted(&restarted, "Acknowledged"), 0);
    }

    #[test]
    fn a_write_whose_answer_was_lost_counts_if_it_came_through() {
        for came_through in [true, false] {
            let outcomes = Outcomes::new(Metrics::new());
            let ended = [entry(1, Outcome::Acknowledged)];
            let before = hook("1", &[]);
            let after = hook("2", if came_through { &ended } else { &[] });
            outcomes.wrote(
                &before,
                hook("", &ended).status.as_ref().expect("one"),
                false,
            );
            // The cache has not heard of it; the same again is refused.
            outcomes.look(&before);
            let again = [entry(2, Outcome::Acknowledged)];
            outcomes.wrote(
                &before,
                hook("", &again).status.as_ref().expect("one"),
                false,
            );
            outcomes.look(&after);
            outcomes.look(&after);
            assert_eq!(counted(&outcomes, "Acknowledged"), u64::from(came_through));
            // What was not written then is written now.
            outcomes.wrote(&after, hook("", &ended).status.as_ref().expect("one"), true);
            assert_eq!(counted(&outcomes, "Acknowledged"), 1);
        }
    }

    #[test]
    fn a_history_that_is_full_loses_its_oldest() {
        let outcomes = Outcomes::new(Metrics::new());
        let old: Vec<_> = (0..10).rev().map(|n| entry(n, Outcome::Skipped)).collect();
        let mut new = old.clone();
        new.insert(0, entry(10, Outcome::Skipped));
        new.truncate(10);
        let status = hook("", &new).status.expect("a status");
        outcomes.wrote(&hook("1", &old), &status, true);
        assert_eq!(counted(&outcomes, "Skipped"), 1);
    }
}
