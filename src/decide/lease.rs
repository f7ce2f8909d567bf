//! Who leads: one table, read from the top. It is also the test table.
//!
//! | leads | the Lease is | more | step |
//! |---|---|---|---|
//! | yes | another's, released, gone | | StepDown |
//! | yes | ours | now ≥ last renewal + renew deadline | StepDown |
//! | yes | ours | now ≥ last attempt + retry period | Renew |
//! | yes | ours | | Wait |
//! | no | not there, released, ours | | Acquire |
//! | no | another's | unchanged for its lease duration | Acquire |
//! | no | another's | | Wait |
//!
//! # Guarantees
//! - Two never lead at once, whatever wall clocks say. A leader counts from the moment *before* it
//!   sends a renewal, the others from the moment after they have seen it; and it stops at the renew
//!   deadline, they begin at the lease duration, which is longer.
//! - A Lease is taken only in the version it was decided on: whoever loses a race looks again.
//!
//! # Assumptions
//! The clocks that [`Moment`]s are read from run equally fast on two machines, and go on while a process
//! is stopped, and while its machine is suspended ([`crate::clock`]). A request that had left when the
//! deadline came is still carried out: every write of the leader is safe when another was faster.
//!
//! "Ours" without leading is an acquisition whose answer was lost, or a term that ended while nobody
//! else took over.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use crate::config::Periods;

/// Time since a beginning that does not matter, on a clock that nobody sets.
pub type Moment = Duration;

/// Longest lease duration that is believed of a Lease: no slip of a person's hand keeps everybody
/// waiting for ever.
const MOST: Duration = Duration::from_secs(3600);

/// What a replica knows when it decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// The Lease as last read or written.
    pub lease: Option<LeaseSpec>,
    /// Since when it has been seen like this.
    pub since: Moment,
    /// When this replica sent the newest renewal that succeeded; `None`: it does not lead.
    pub renewed: Option<Moment>,
    /// When it last tried to renew.
    pub tried: Moment,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// A leader steps down; no other word says so.
#[allow(clippy::enum_variant_names)]
pub enum Step {
    /// Write the Lease with an own identity.
    Acquire,
    /// Write it again.
    Renew,
    /// Nothing until then, unless the Lease changes.
    Wait {
        /// When to decide again.
        until: Moment,
    },
    /// Stop leading.
    StepDown,
}

impl Known {
    /// A replica that has seen nothing yet.
    pub fn nothing(now: Moment) -> Self {
        Self {
            lease: None,
            since: now,
            renewed: None,
            tried: now,
        }
    }

    /// Takes in what was read or written.
    pub fn see(&mut self, lease: Option<LeaseSpec>, now: Moment) {
        if self.lease != lease {
            self.lease = lease;
            self.since = now;
        }
    }

    /// The step of the table.
    pub fn step(&self, identity: &str, periods: &Periods, now: Moment) -> Step {
        let holder = self.lease.as_ref().and_then(holder);
        let Some(renewed) = self.renewed else {
            return match holder {
                Some(other) if other != identity => {
                    let expires = self.since + duration(self.lease.as_ref(), periods);
                    match now >= expires {
                        true => Step::Acquire,
                        false => Step::Wait { until: expires },
                    }
                }
                _ => Step::Acquire,
            };
        };
        let ends = renewed + periods.renew_deadline;
        let due = self.tried + periods.retry;
        match holder {
            Some(ours) if ours == identity && now < ends => match now >= due {
                true => Step::Renew,
                false => Step::Wait {
                    until: due.min(ends),
                },
            },
            _ => Step::StepDown,
        }
    }
}

/// The term before, as the Lease tells of it.
///
/// Both times in it and in what it has written are of one clock, its own: what was left of something
/// when it was last known to lead can be told without asking how that clock differs from ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predecessor {
    /// Its name, as it stands in what it has written.
    pub term: String,
    /// When it was last known to lead, by its own clock.
    pub renewed: Timestamp,
}

impl Predecessor {
    /// What a Lease tells that is about to be taken, and a note on it. Nothing, if the note is of an
    /// earlier holder than the last one, who left none.
    pub fn of(lease: &LeaseSpec, annotation: &str) -> Option<Self> {
        let (term, transitions) = annotation.split_once(' ')?;
        let last = transitions.parse() == Ok(lease.lease_transitions.unwrap_or(0));
        Some(Self {
            term: Some(term).filter(|_| last)?.to_owned(),
            renewed: lease.renew_time.as_ref()?.0,
        })
    }

    /// The note of a term on the Lease that it holds.
    pub fn note(lease: &LeaseSpec, term: &str) -> String {
        format!("{term} {}", lease.lease_transitions.unwrap_or(0))
    }
}

/// Who holds a Lease; one that was released has nobody.
pub fn holder(lease: &LeaseSpec) -> Option<&str> {
    lease
        .holder_identity
        .as_deref()
        .filter(|holder| !holder.is_empty())
}

/// The Lease as its holder writes it.
pub fn held(
    before: Option<&LeaseSpec>,
    identity: &str,
    periods: &Periods,
    now: Timestamp,
) -> LeaseSpec {
    let mut lease = before.cloned().unwrap_or_default();
    if lease.holder_identity.as_deref() != Some(identity) {
        // The first holder of a Lease has taken it from nobody.
        lease.lease_transitions =
            Some(before.map_or(0, |b| b.lease_transitions.unwrap_or(0).saturating_add(1)));
        lease.acquire_time = Some(MicroTime(now));
        lease.holder_identity = Some(identity.to_owned());
    }
    lease.lease_duration_seconds = i32::try_from(periods.lease.as_secs()).ok();
    lease.renew_time = Some(MicroTime(now));
    lease
}

/// The Lease as its holder leaves it: the next one need not wait.
pub fn released(before: &LeaseSpec, now: Timestamp) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(String::new()),
        // As others write it, who wait for it to expire rather than read that nobody holds it.
        lease_duration_seconds: Some(1),
        renew_time: Some(MicroTime(now)),
        ..before.clone()
    }
}

/// How long a Lease has to stay unchanged before another may take it: as its holder has written,
/// whose periods may be others than ours.
fn duration(lease: Option<&LeaseSpec>, periods: &Periods) -> Duration {
    lease
        .and_then(|lease| lease.lease_duration_seconds)
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(periods.lease, Duration::from_secs)
        .min(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PERIODS: Periods = Periods {
        lease: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry: Duration::from_secs(2),
    };

    fn at(second: u64) -> Moment {
        Duration::from_secs(1000 + second)
    }

    fn lease_of(holder: &str) -> LeaseSpec {
        held(None, holder, &PERIODS, Timestamp::UNIX_EPOCH)
    }

    fn known(lease: Option<LeaseSpec>, renewed: Option<u64>) -> Known {
        Known {
            lease,
            since: at(0),
            renewed: renewed.map(at),
            tried: at(0),
        }
    }

    #[test]
    fn the_table_line_by_line() {
        let (ours, others) = (lease_of("me"), lease_of("you"));
        let free = released(&others, Timestamp::UNIX_EPOCH);
        let wait = |second| Step::Wait { until: at(second) };
        for (what, lease, renewed, now, expected) in [
            ("taken", Some(&others), Some(0), 1, Step::StepDown),
            ("released by hand", Some(&free), Some(0), 1, Step::StepDown),
            ("deleted by hand", None, Some(0), 1, Step::StepDown),
            ("at the deadline", Some(&ours), Some(0), 10, Step::StepDown),
            ("a moment before it", Some(&ours), Some(1), 10, Step::Renew),
            ("due", Some(&ours), Some(0), 2, Step::Renew),
            ("not due", Some(&ours), Some(0), 1, wait(2)),
            ("no Lease", None, None, 1, Step::Acquire),
            ("released", Some(&free), None, 1, Step::Acquire),
            ("our lost answer", Some(&ours), None, 1, Step::Acquire),
            ("expired", Some(&others), None, 15, Step::Acquire),
            ("not expired", Some(&others), None, 14, wait(15)),
        ] {
            let known = known(lease.cloned(), renewed);
            assert_eq!(known.step("me", &PERIODS, at(now)), expected, "{what}");
        }
    }

    #[test]
    fn it_expires_by_what_its_holder_wrote_within_reason() {
        let mut lease = lease_of("you");
        for (seconds, expires) in [
            (Some(60), 60),
            (None, 15),
            (Some(-1), 15),
            (Some(i32::MAX), 3600),
        ] {
            lease.lease_duration_seconds = seconds;
            let known = known(Some(lease.clone()), None);
            let step = |now| known.step("me", &PERIODS, at(now));
            assert_eq!(step(expires - 1), Step::Wait { until: at(expires) });
            assert_eq!(step(expires), Step::Acquire, "{seconds:?}");
        }
    }

    #[test]
    fn only_a_change_counts_as_a_sign_of_life() {
        let mut known = Known::nothing(at(0));
        known.see(Some(lease_of("you")), at(5));
        known.see(Some(lease_of("you")), at(19));
        assert_eq!(known.step("me", &PERIODS, at(20)), Step::Acquire);
        let later = Timestamp::from_second(3).unwrap();
        known.see(Some(held(None, "you", &PERIODS, later)), at(19));
        assert_eq!(
            known.step("me", &PERIODS, at(20)),
            Step::Wait { until: at(34) }
        );
    }

    #[test]
    fn what_is_written() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = held(None, "you", &PERIODS, at(1));
        assert_eq!(first.lease_transitions, Some(0));
        assert_eq!(first.lease_duration_seconds, Some(15));
        let renewed = held(Some(&first), "you", &PERIODS, at(3));
        assert_eq!(renewed.acquire_time, first.acquire_time);
        assert_eq!(renewed.renew_time, Some(MicroTime(at(3))));
        assert_eq!(renewed.lease_transitions, Some(0));
        let left = released(&renewed, at(4));
        assert_eq!(holder(&left), None);
        let taken = held(Some(&left), "me", &PERIODS, at(5));
        assert_eq!(taken.lease_transitions, Some(1));
        assert_eq!(taken.acquire_time, Some(MicroTime(at(5))));
        assert_eq!(holder(&taken), Some("me"));
    }

    #[test]
    fn the_last_term_is_told_by_its_own_note_alone() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = held(None, "you", &PERIODS, at(1));
        let note = Predecessor::note(&first, "you.3");
        let expected = |renewed| {
            Some(Predecessor {
                term: "you.3".into(),
                renewed: at(renewed),
            })
        };
        let renewed = held(Some(&first), "you", &PERIODS, at(9));
        assert_eq!(Predecessor::of(&renewed, &note), expected(9));
        // Given away, or released by hand.
        assert_eq!(
            Predecessor::of(&released(&renewed, at(10)), &note),
            expected(10)
        );
        // Another one came, who writes no notes: its time says nothing about the term before.
        let others = held(Some(&renewed), "another", &PERIODS, at(20));
        assert_eq!(Predecessor::of(&others, &note), None);
        assert_eq!(Predecessor::of(&released(&others, at(21)), &note), None);
        assert_eq!(Predecessor::of(&renewed, "somebody's words"), None);
        assert_eq!(Predecessor::of(&renewed, ""), None);
    }

    /// Two replicas, one Lease, clocks that began at different times, and renewals that are lost,
    /// late or stopped for any time: at no moment do both believe that they lead.
    #[derive(Clone, Copy, Debug)]
    enum Turn {
        Pause(u64),
        Look(usize),
        Write { who: usize, lost: bool, takes: u64 },
    }

    fn turns() -> impl Strategy<Value = Vec<Turn>> {
        let turn =
            prop_oneof![
                (1_u64..6000).prop_map(Turn::Pause),
                (0_usize..2).prop_map(Turn::Look),
                (0_usize..2, any::<bool>(), 0_u64..4000)
                    .prop_map(|(who, lost, takes)| Turn::Write { who, lost, takes }),
            ];
        prop::collection::vec(turn, 1..200)
    }

    proptest! {
        #[test]
        fn two_never_lead_at_once(turns in turns(), ahead in 0_u64..100_000) {
            let (mut time, mut version) = (0_u64, 0_u64);
            let mut lease: Option<LeaseSpec> = None;
            let names = ["me", "you"];
            let clock = |who: usize, time: u64| {
                Duration::from_millis(time + if who == 0 { ahead } else { 7 })
            };
            let mut known = [Known::nothing(clock(0, 0)), Known::nothing(clock(1, 0))];
            let mut seen = [0_u64, 0];
            for turn in turns {
                match turn {
                    Turn::Pause(millis) => time += millis,
                    Turn::Look(who) => {
                        known[who].see(lease.clone(), clock(who, time));
                        seen[who] = version;
                    }
                    Turn::Write { who, lost, takes } => {
                        let sent = clock(who, time);
                        let step = known[who].step(names[who], &PERIODS, sent);
                        if step == Step::StepDown {
                            known[who].renewed = None;
                        }
                        if !matches!(step, Step::Acquire | Step::Renew) {
                            continue;
                        }
                        known[who].tried = sent;
                        // It arrives later, in the version it was decided on or not at all.
                        time += takes;
                        if seen[who] == version {
                            version += 1;
                            let wall = Timestamp::from_millisecond(version as i64).unwrap();
                            let new = held(lease.as_ref(), names[who], &PERIODS, wall);
                            lease = Some(new);
                            if !lost {
                                known[who].see(lease.clone(), clock(who, time));
                                known[who].renewed = Some(sent);
                                seen[who] = version;
                            }
                        }
                    }
                }
                let leads = |who: usize| {
                    known[who].renewed.is_some_and(|renewed| {
                        clock(who, time) < renewed + PERIODS.renew_deadline
                    })
                };
                prop_assert!(!(leads(0) && leads(1)), "at {time} ms");
            }
        }
    }
}
