//! Whether enough pods have said so.
//!
//! | policy | enough |
//! |---|---|
//! | `Any` | one acknowledgement, whoever says it |
//! | `All` | every asked pod that can still speak |
//! | `AtLeast` n | n of the asked pods, or all of them that can still speak, if those are fewer |
//!
//! *Asked* are the pods that could acknowledge when the request opened. One that has ended since
//! without saying so no longer counts, so nobody waits for it in vain; one that has said so and ended
//! since still does. `All` and `AtLeast` count pods by their uids, so an acknowledgement without a
//! uid cannot be counted, and is refused ([`super::ack`]). At least one pod must have said so:
//! where none is left that could, nothing runs, which is another outcome.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::HookKind;
use crate::api::krake_hook::{Quorum, QuorumPolicy};
use crate::api::status::{AckResult, Acknowledgement};

/// How many pods are named in a message; the others are only counted.
const NAMED: usize = 5;

/// What the pods of one workload have said of one thing, by uid.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// Pods that have said that it is done; `anonymous` among them.
    pub success: BTreeSet<String>,
    /// Pods that have said that it went wrong, and in what words.
    pub failure: BTreeMap<String, Option<String>>,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    /// Acknowledgements that count.
    pub acknowledged: usize,
    /// How many there must be.
    pub needed: usize,
    /// Uids of the pods that could say so and have not.
    pub missing: Vec<String>,
    /// The pods are counted, one by one.
    pub by_pod: bool,
}

impl Said {
    /// What was said about this kind of hook, as far as it is `about` what is counted. A `complete`
    /// is never taken for a `shutdown`.
    pub fn of(
        acknowledgements: &BTreeMap<String, Acknowledgement>,
        kind: HookKind,
        about: impl Fn(&Acknowledgement) -> bool,
    ) -> Self {
        let mut said = Self::default();
        for (key, ack) in acknowledgements {
            let Some((of_kind, pod)) = key.split_once('.') else {
                continue;
            };
            if of_kind != kind.as_str() || !about(ack) {
                continue;
            }
            if ack.result == AckResult::Success {
                said.success.insert(pod.to_owned());
            } else {
                said.failure.insert(pod.to_owned(), ack.message.clone());
            }
        }
        said
    }
}

/// Counts. `asked` are uids of the pods that were asked, `able` of those that can speak now.
pub fn tally(quorum: &Quorum, asked: &[String], able: &[String], said: &Said) -> Tally {
    let has_said = |uid: &&String| said.success.contains(*uid);
    let among = |asked: &[String]| -> Vec<String> {
        let silent = asked.iter().filter(|uid| !has_said(uid));
        silent.filter(|uid| able.contains(uid)).cloned().collect()
    };
    if quorum.policy == QuorumPolicy::Any {
        return Tally {
            acknowledged: said.success.len(),
            needed: 1,
            missing: among(able),
            by_pod: false,
        };
    }
    let acknowledged = asked.iter().filter(has_said).count();
    let missing = among(asked);
    let reachable = acknowledged + missing.len();
    let wanted = match quorum.policy {
        QuorumPolicy::Any => 1,
        QuorumPolicy::All => reachable,
        QuorumPolicy::AtLeast => usize::try_from(quorum.count.unwrap_or(1)).unwrap_or(1),
    };
    Tally {
        acknowledged,
        needed: wanted.min(reachable).max(1),
        missing,
        by_pod: true,
    }
}

impl Tally {
    /// Whether it is enough.
    pub fn is_enough(&self) -> bool {
        self.acknowledged >= self.needed
    }

    /// What is still waited for, in words; `name` gives a pod's name for its uid.
    pub fn in_words(&self, done: &str, name: impl Fn(&str) -> String) -> Option<String> {
        if !self.by_pod {
            return None;
        }
        let missing: Vec<String> = self.missing.iter().map(|uid| name(uid)).collect();
        let lacking = self.needed.saturating_sub(self.acknowledged);
        let whom = match missing.len() {
            0 => "nobody is left who could".to_owned(),
            all if all == lacking => format!("waiting for {}", pods(&missing)),
            _ => format!("waiting for {lacking} of {}", pods(&missing)),
        };
        Some(format!(
            "{} of {} pods have {done}; {whom}",
            self.acknowledged, self.needed
        ))
    }
}

/// Who has said that it went wrong, and in what words; nothing if nobody has.
pub fn failures(said: &Said, name: impl Fn(&str) -> String) -> Option<String> {
    let told = said.failure.iter().take(NAMED).map(|(uid, message)| {
        let words = message.as_deref().unwrap_or("no message");
        format!("{}: {}", name(uid), words.trim())
    });
    let told: Vec<String> = told.collect();
    let more = said.failure.len().saturating_sub(NAMED);
    match (told.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(format!("failed: {}", told.join("; "))),
        (false, more) => Some(format!("failed: {}; and {more} more", told.join("; "))),
    }
}

/// Pods by name, not more than a person reads.
pub fn pods(names: &[String]) -> String {
    let word = if names.len() == 1 { "pod" } else { "pods" };
    let first = names[..names.len().min(NAMED)].join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => format!("{word} {first}"),
        more => format!("{word} {first} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quorum(policy: QuorumPolicy, count: Option<i64>) -> Quorum {
        Quorum { policy, count }
    }

    fn uids(names: &str) -> Vec<String> {
        names.split_whitespace().map(str::to_owned).collect()
    }

    fn said(names: &str) -> Said {
        Said {
            success: uids(names).into_iter().collect(),
            failure: BTreeMap::new(),
        }
    }

    #[test]
    fn the_table() {
        use QuorumPolicy::{All, Any, AtLeast};
        let at_least = |n| quorum(AtLeast, Some(n));
        let (any, all) = (quorum(Any, None), quorum(All, None));
        // Policy, asked, able now, who has said so: how many count, how many are needed, who misses.
        for (policy, asked, able, spoke, acknowledged, needed, missing) in [
            (&any, "a b", "a b", "", 0, 1, "a b"),
            (&any, "a b", "a b", "a", 1, 1, "b"),
            (&any, "a b", "a b", "anonymous", 1, 1, "a b"),
            (&any, "a b", "a b", "stranger", 1, 1, "a b"),
            (&all, "a b c", "a b c", "", 0, 3, "a b c"),
            (&all, "a b c", "a b c", "a c", 2, 3, "b"),
            (&all, "a b c", "a b c", "a b c", 3, 3, ""),
            // One that has ended without a word is not waited for.
            (&all, "a b c", "a c", "a", 1, 2, "c"),
            (&all, "a b c", "a c", "a c", 2, 2, ""),
            // One that has said so and ended counts.
            (&all, "a b c", "b", "a", 1, 2, "b"),
            (&all, "a b c", "", "a b", 2, 2, ""),
            // Nobody is left, and nobody has said so: that is not enough of anything.
            (&all, "a b", "", "", 0, 1, ""),
            (&all, "", "", "", 0, 1, ""),
            // Whoever was not asked, and whoever does not say who he is.
            (&all, "a b", "a b", "anonymous", 0, 2, "a b"),
            (&all, "a b", "a b d", "a d", 1, 2, "b"),
            (&all, "a", "a", "anonymous", 0, 1, "a"),
            (&at_least(2), "a b c", "a b c", "a", 1, 2, "b c"),
            (&at_least(2), "a b c", "a b c", "a c", 2, 2, "b"),
            (&at_least(2), "a b c", "a b c", "a anonymous", 1, 2, "b c"),
            (&at_least(2), "a b c", "b", "a", 1, 2, "b"),
            // Fewer than that are left.
            (&at_least(3), "a b c", "a", "b", 1, 2, "a"),
            (&at_least(3), "a b", "a b", "", 0, 2, "a b"),
            (&at_least(2), "a b", "", "a", 1, 1, ""),
            (&at_least(2), "a b", "", "", 0, 1, ""),
            (&quorum(AtLeast, None), "a b", "a b", "b", 1, 1, "a"),
        ] {
            let tally = tally(policy, &uids(asked), &uids(able), &said(spoke));
            let row = format!("{policy:?} asked {asked}, able {able}, said {spoke}");
            assert_eq!(tally.acknowledged, acknowledged, "{row}");
            assert_eq!(tally.needed, needed, "{row}");
            assert_eq!(tally.missing, uids(missing), "{row}");
        }
    }

    #[test]
    fn what_is_waited_for_is_said_in_words() {
        let name = |uid: &str| format!("app-{uid}");
        let all = quorum(QuorumPolicy::All, None);
        let words = |tally: Tally| tally.in_words("acknowledged", name);
        let asked = uids("a b c");
        assert_eq!(
            words(tally(&all, &asked, &asked, &said("a b"))).unwrap(),
            "2 of 3 pods have acknowledged; waiting for pod app-c"
        );
        let two = quorum(QuorumPolicy::AtLeast, Some(2));
        assert_eq!(
            words(tally(&two, &asked, &asked, &said("a"))).unwrap(),
            "1 of 2 pods have acknowledged; waiting for 1 of pods app-b, app-c"
        );
        let any = quorum(QuorumPolicy::Any, None);
        assert_eq!(words(tally(&any, &asked, &asked, &said(""))), None);
        let many: Vec<String> = (0..40).map(|n| n.to_string()).collect();
        assert_eq!(
            words(tally(&all, &many, &many, &said(""))).unwrap(),
            "0 of 40 pods have acknowledged; waiting for pods app-0, app-1, app-2, app-3, app-4 and 35 more"
        );
        let mut wrong = said("a");
        wrong.failure.insert("b".into(), Some("disk full ".into()));
        wrong.failure.insert("c".into(), None);
        assert_eq!(
            failures(&wrong, name).unwrap(),
            "failed: app-b: disk full; app-c: no message"
        );
        assert_eq!(failures(&said("a"), name), None);
    }

    proptest! {
        /// Never enough without anybody's word; who says more never makes it less; and whatever
        /// `All` takes for enough, each of the others does too.
        #[test]
        fn more_words_are_never_less(
            asked in proptest::collection::btree_set("[a-f]", 0..6),
            able in proptest::collection::btree_set("[a-h]", 0..8),
            spoke in proptest::collection::btree_set("[a-h]", 0..8),
            one_more in "[a-h]",
            count in 1..8_i64,
        ) {
            let asked: Vec<String> = asked.into_iter().collect();
            let able: Vec<String> = able.into_iter().collect();
            let enough = |policy, spoke: &BTreeSet<String>| {
                let said = Said {
                    success: spoke.clone(),
                    failure: BTreeMap::new(),
                };
                tally(&quorum(policy, Some(count)), &asked, &able, &said).is_enough()
            };
            let mut more = spoke.clone();
            more.insert(one_more);
            for policy in [QuorumPolicy::Any, QuorumPolicy::AtLeast, QuorumPolicy::All] {
                prop_assert!(!enough(policy, &BTreeSet::new()));
                prop_assert!(!enough(policy, &spoke) || enough(policy, &more));
                prop_assert!(!enough(QuorumPolicy::All, &spoke) || enough(policy, &spoke));
            }
        }
    }
}
