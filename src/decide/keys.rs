//! How another master key takes the place of the one that signs tokens, and what is shown of it.
//!
//! | prepared | earlier ones | and | step |
//! |---|---|---|---|
//! | none | none | a rotation is asked for | a new key is prepared: it verifies, and signs nothing |
//! | one | | every replica has had the time to read it | it signs |
//! | none | some | no pod holds a token of theirs, for as long | they are dropped |
//! | none | some | a rotation is asked for | it waits until they are dropped |
//!
//! Which key a pod's token is of is not written anywhere: a pod that was created before its hook's
//! token was last derived anew holds the one from before, until it is gone.

use jiff::SignedDuration;

use super::seen::Notice;
use crate::api::condition::{ConditionType, Finding, Reason};
use crate::api::hook_authority::{AuthorityPhase, MasterKeyInUse};

/// How many pods are named.
const NAMED: usize = 5;

/// What is known of the master keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysSeen {
    /// Id of the one that signs.
    pub current: String,
    /// Id of the one that is to sign next.
    pub prepared: Option<String>,
    /// Ids of those that have signed before.
    pub earlier: Vec<String>,
    /// The value of the annotation that was last acted on.
    pub answered: Option<String>,
    /// The value that it has now.
    pub asked: Option<String>,
    /// Pods that hold tokens of earlier ones.
    pub holders: Vec<String>,
}

/// What is done to the ring: each is one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStep {
    /// A new key, which verifies.
    Prepare,
    /// It signs.
    Activate,
    /// Earlier ones are dropped.
    Drop,
}

impl KeyStep {
    /// The word in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "Prepare",
            Self::Activate => "Activate",
            Self::Drop => "Drop",
        }
    }
}

impl KeysSeen {
    /// What is due. `since`: for how long this process has seen it as it is.
    pub fn step(&self, since: SignedDuration, propagation: SignedDuration) -> Option<KeyStep> {
        let settled = since >= propagation;
        if self.prepared.is_some() {
            return settled.then_some(KeyStep::Activate);
        }
        if !self.earlier.is_empty() {
            return (self.holders.is_empty() && settled).then_some(KeyStep::Drop);
        }
        self.is_asked().then_some(KeyStep::Prepare)
    }

    fn is_asked(&self) -> bool {
        self.asked.is_some() && self.asked != self.answered
    }

    /// What people read.
    pub fn finding(&self) -> Finding {
        let yes = |reason, message| Finding::yes(ConditionType::KeysRotating, reason, message);
        let waits = match self.is_asked() && (self.prepared.is_some() || !self.earlier.is_empty()) {
            true => "; the rotation that was asked for begins then",
            false => "",
        };
        match (&self.prepared, self.earlier.first()) {
            (Some(next), _) => yes(
                Reason::Propagating,
                format!(
                    "master key {next} is prepared; it signs tokens when every replica has had the time to read it"
                ),
            ),
            (None, Some(_)) if self.holders.is_empty() => yes(
                Reason::Retiring,
                format!(
                    "no pod holds a token of {}; dropped if that stays so{waits}",
                    self.earlier.join(", ")
                ),
            ),
            (None, Some(_)) => {
                let named = self.holders.iter().take(NAMED).map(String::as_str);
                let named = named.collect::<Vec<_>>().join(", ");
                let all = self.holders.len();
                let more = if all > NAMED { " and others" } else { "" };
                yes(
                    Reason::Retiring,
                    format!(
                        "{all} pods hold tokens of {}, which stay good until these pods are gone: {named}{more}{waits}",
                        self.earlier.join(", ")
                    ),
                )
            }
            (None, None) => Finding::no(
                ConditionType::KeysRotating,
                Reason::NotRotating,
                format!("all tokens are of master key {}", self.current),
            ),
        }
    }

    /// The keys in the order in which they sign.
    pub fn shown(&self) -> Vec<MasterKeyInUse> {
        let one = |phase| {
            move |id: &String| MasterKeyInUse {
                id: id.clone(),
                phase,
            }
        };
        let earlier = self.earlier.iter().map(one(AuthorityPhase::Retiring));
        earlier
            .chain([one(AuthorityPhase::Active)(&self.current)])
            .chain(self.prepared.iter().map(one(AuthorityPhase::Prepared)))
            .collect()
    }
}

/// What people are told of a step, by what is seen after it and what was before.
pub fn taken(step: KeyStep, before: &KeysSeen, after: &KeysSeen) -> Notice {
    let (reason, note) = match step {
        KeyStep::Prepare => (
            "MasterKeyPrepared",
            format!(
                "master key {} verifies tokens, and signs them when every replica has read it",
                after.prepared.as_deref().unwrap_or_default()
            ),
        ),
        KeyStep::Activate => (
            "MasterKeyActive",
            format!(
                "master key {} signs tokens in place of {}; every injected workload rolls out anew, and tokens of the earlier key are good until their pods are gone",
                after.current, before.current
            ),
        ),
        KeyStep::Drop => (
            "MasterKeyDropped",
            format!(
                "tokens of master key {} are worthless from now on: no pod holds one",
                before.earlier.join(", ")
            ),
        ),
    };
    Notice {
        warning: false,
        reason,
        note,
        on_workload: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(prepared: &str, earlier: &str, asked: &str, holders: &str) -> KeysSeen {
        let words = |text: &str| -> Vec<String> {
            text.split_whitespace().map(ToOwned::to_owned).collect()
        };
        KeysSeen {
            current: "b".into(),
            prepared: words(prepared).pop(),
            earlier: words(earlier),
            answered: Some("last".into()),
            asked: words(asked).pop(),
            holders: words(holders),
        }
    }

    #[test]
    fn the_table() {
        use KeyStep::{Activate, Drop, Prepare};
        let rows = [
            ("", "", "", "", true, None),
            ("", "", "last", "", true, None),
            ("", "", "now", "", false, Some(Prepare)),
            ("c", "", "last", "", false, None),
            ("c", "", "last", "", true, Some(Activate)),
            ("", "a", "last", "ml/pod", true, None),
            ("", "a", "last", "", false, None),
            ("", "a", "last", "", true, Some(Drop)),
            ("", "a", "again", "ml/pod", true, None),
            ("", "a z", "again", "", true, Some(Drop)),
            ("c", "a", "last", "ml/pod", true, Some(Activate)),
        ];
        for (prepared, earlier, asked, holders, settled, step) in rows {
            let seen = seen(prepared, earlier, asked, holders);
            let wait = SignedDuration::from_secs(60);
            let since = wait - SignedDuration::from_secs(i64::from(!settled));
            assert_eq!(seen.step(since, wait), step, "{seen:?}");
        }
    }

    #[test]
    fn what_people_read() {
        let rows = [
            (
                seen("", "", "", ""),
                "False NotRotating: all tokens are of master key b",
            ),
            (
                seen("c", "", "", ""),
                "True Propagating: master key c is prepared; it signs tokens when every replica has had the time to read it",
            ),
            (
                seen("", "a", "again", "ml/pod"),
                "True Retiring: 1 pods hold tokens of a, which stay good until these pods are gone: ml/pod; the rotation that was asked for begins then",
            ),
            (
                seen("", "a", "", ""),
                "True Retiring: no pod holds a token of a; dropped if that stays so",
            ),
        ];
        for (seen, expected) in rows {
            let found = seen.finding();
            let status = if found.holds { "True" } else { "False" };
            let told = format!("{status} {}: {}", found.reason.as_str(), found.message);
            assert_eq!(told, expected);
        }
    }
}
