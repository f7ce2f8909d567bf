//! Which authorities are in use together, in which phase, and since when: plain data.
//!
//! A rotation is a walk of one authority through *Prepared* (trusted, and in every bundle), *Active*
//! (signs) and *Retiring* (trusted for what it has signed); it is retired when it is gone from here.
//! Each [`Step`] is one write of one Secret, so that a crash between any two leaves a ledger that
//! the next process goes on from. It must never decide when a step is due: `decide::authority` does.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The authorities in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// The one that signs.
    pub active: Entry,
    /// The one that will.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Entry>,
    /// Those that did, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retiring: Vec<Entry>,
    /// The user's request for a rotation that was last answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_for: Option<String>,
}

/// One authority, without key or certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Of the certificate that signs.
    pub fingerprint: String,
    /// Of the certificate that signs.
    pub subject: String,
    /// The Secret it was imported from; none if the operator made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// Since when it is in its phase.
    pub since: Timestamp,
    /// Since when what its phase waits for is so: a prepared one is in every bundle; no leaf of a
    /// retiring one is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<Timestamp>,
}

/// A change of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The first authority; it signs at once.
    Begin { answering: Option<String> },
    /// A new one is trusted from now on, in place of one that was only prepared.
    Prepare { answering: Option<String> },
    /// What the prepared one's, or a retiring one's, phase waits for is so.
    Settle { fingerprint: String },
    /// It is so no longer.
    Unsettle { fingerprint: String },
    /// The prepared one signs from now on.
    Activate,
    /// A new one signs at once, in place of one that cannot.
    Supersede,
    /// The prepared one is not wanted any more; it has signed nothing.
    Discard,
    /// A retiring one is not trusted any more.
    Retire { fingerprint: String },
    /// The active one has been given as another Secret, too.
    Attribute { source: Option<String> },
    /// A request for a rotation is answered, or is gone.
    Answer { request: Option<String> },
}

impl Step {
    /// The word in logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Begin { .. } => "Begin",
            Self::Prepare { .. } => "Prepare",
            Self::Settle { .. } => "Settle",
            Self::Unsettle { .. } => "Unsettle",
            Self::Activate => "Activate",
            Self::Supersede => "Supersede",
            Self::Discard => "Discard",
            Self::Retire { .. } => "Retire",
            Self::Attribute { .. } => "Attribute",
            Self::Answer { .. } => "Answer",
        }
    }
}

impl Entry {
    /// Whether it is valid then.
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        (self.not_before..self.not_after).contains(&now)
    }
}

impl Ledger {
    /// The ledger of one authority, which answers whatever was asked for before.
    pub fn begin(active: Entry, rotated_for: Option<String>) -> Self {
        Self {
            active,
            next: None,
            retiring: Vec::new(),
            rotated_for,
        }
    }

    /// All of them, in the order in which they have signed or will. It is the order of bundles: no
    /// step but one that adds or takes away changes a bundle's text.
    pub fn all(&self) -> impl Iterator<Item = &Entry> {
        self.retiring.iter().chain([&self.active]).chain(&self.next)
    }

    /// The ledger after a step; `made` is the new authority where the step brings one.
    pub fn after(&self, step: &Step, made: Option<Entry>, now: Timestamp) -> Self {
        let mut ledger = self.clone();
        match step {
            Step::Begin { answering } => {
                if let Some(made) = made {
                    ledger = Self::begin(made, answering.clone());
                }
            }
            Step::Prepare { answering } => {
                ledger.next = made;
                if answering.is_some() {
                    ledger.rotated_for.clone_from(answering);
                }
            }
            Step::Settle { fingerprint } => ledger.settle(fingerprint, Some(now)),
            Step::Unsettle { fingerprint } => ledger.settle(fingerprint, None),
            Step::Activate => {
                let next = ledger.next.take();
                ledger.succeed(next, now);
            }
            Step::Supersede => {
                ledger.next = None;
                ledger.succeed(made, now);
            }
            Step::Discard => ledger.next = None,
            Step::Retire { fingerprint } => {
                ledger.retiring.retain(|e| &e.fingerprint != fingerprint);
            }
            Step::Attribute { source } => ledger.active.source.clone_from(source),
            Step::Answer { request } => ledger.rotated_for.clone_from(request),
        }
        ledger
    }

    fn succeed(&mut self, heir: Option<Entry>, now: Timestamp) {
        let Some(heir) = heir else { return };
        let in_this_phase = |entry| Entry {
            since: now,
            settled: None,
            ..entry
        };
        // One that is taken up again has left what it was.
        self.retiring
            .retain(|entry| entry.fingerprint != heir.fingerprint);
        let old = std::mem::replace(&mut self.active, in_this_phase(heir));
        if old.fingerprint != self.active.fingerprint {
            self.retiring.push(in_this_phase(old));
        }
    }

    fn settle(&mut self, fingerprint: &str, at: Option<Timestamp>) {
        // The prepared one first: it may be one that is also still retiring.
        let entry = self
            .next
            .iter_mut()
            .chain(&mut self.retiring)
            .find(|entry| entry.fingerprint == fingerprint);
        if let Some(entry) = entry {
            entry.settled = at;
        }
    }
}
