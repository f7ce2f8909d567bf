//! Which certificate authority signs, and when another one takes its place.
//!
//! One step at a time, each one durable write of the whole state; then it is looked and decided
//! again. So a crash after any step is a pause, and two operators cannot make two authorities.
//! Read from the top, the first row that fits counts:
//!
//! | seen | step |
//! |---|---|
//! | no state; an authority can be had | Begin: it signs at once |
//! | no state, or one that cannot be read; none can be had | none: nothing signs, and the status says why |
//! | the active one is not valid, the prepared one is | Activate |
//! | the active one is not valid, another one can be had | Supersede: waiting would save nobody |
//! | the prepared one is not valid now, or another one is wanted | Prepare that one, or Discard |
//! | the prepared one is not in every hook's ConfigMap (any more), and was prepared less than an hour ago | none (Unsettle) |
//! | it is, or that hour is over, for the first time | Settle |
//! | it has been for as long as kubelets take to give it to pods | Activate |
//! | the active one is the user's wanted one by another name | Attribute |
//! | another one is wanted: the user's Secret holds another, the configuration names another source, a rotation is asked for, the operator-made one nears its end | Prepare |
//! | a rotation is asked for that cannot be, or is under way; or is not asked for any more | Answer |
//! | a retiring one has expired | Retire |
//! | no leaf of a retiring one is in use, for the first time | Settle |
//! | that has been so for as long as pods may hold a replaced file | Retire |
//! | one of them is in use (again) | none (Unsettle) |
//!
//! *Can be had*: the operator makes one, or the user's Secret holds a good one. A user's Secret that
//! is bad, or gone, changes nothing: what was imported from it before stays in use.
//!
//! A ConfigMap that cannot be written (its namespace refuses it, or somebody has made it immutable)
//! holds a rotation up for an hour, and not for ever: no tenant can keep a CA from being replaced.
//!
//! A clock that was wrong costs little: a mark of a time that is still to come is set anew, an
//! authority made for later is replaced as soon as it is seen, and one that is made begins a day
//! before. An operator-made one is replaced when a leaf issued now would be cut short by its end,
//! but never in the first half of its time, so that no setting makes a loop.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::authority_status;
use super::seen::{Next, Notice};
use crate::api::HookAuthorityStatus;
use crate::pki::{AuthorityFault, Entry, Ledger, Step};

/// So many retiring authorities are trusted at most; a further rotation waits for one to go.
const MOST_RETIRING: usize = 8;
/// A rotation takes this long at least, besides its two propagations.
const SLACK: SignedDuration = SignedDuration::from_mins(30);

/// So long the ConfigMap of a hook may hold up a rotation.
const PATIENCE: SignedDuration = SignedDuration::from_hours(1);

/// Why an authority is not there, or not good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The reason of a condition.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// What an operator process knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthoritySettings {
    /// The operator's namespace.
    pub namespace: String,
    /// The user's Secret; none if the operator makes its own.
    pub source: Option<String>,
    /// How long until every pod has been given what a ConfigMap or Secret says.
    pub propagation: SignedDuration,
}

/// What is known of the authorities.
#[derive(Clone, Debug)]
pub struct AuthoritySeen<'a> {
    /// The state.
    pub kept: Kept<'a>,
    /// What the user's Secret holds; none if none is configured.
    pub source: Option<Result<&'a Entry, &'a Fault>>,
    /// Why the active one cannot sign for the endpoint's names.
    pub endpoint: Option<&'a Fault>,
    /// Hooks that have a ConfigMap.
    pub bundles: usize,
    /// Those of them whose ConfigMap does not have the prepared one.
    pub behind: usize,
    /// Leaves in use, by the fingerprint of who has signed them.
    pub leaves: &'a BTreeMap<String, usize>,
    /// The longest life that a leaf is given.
    pub longest_leaf: SignedDuration,
    /// Value of the annotation `hooks.krake.dev/rotate`.
    pub asked: Option<&'a str>,
    /// The status as it stands.
    pub status: &'a HookAuthorityStatus,
}

/// The state, as found.
#[derive(Clone, Copy, Debug)]
pub enum Kept<'a> {
    /// There is none yet.
    Nothing,
    /// There is one that cannot be used; nobody but a person may replace it.
    Broken(&'a Fault),
    /// What it says.
    Ledger(&'a Ledger),
}

/// Where the authority of a step comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The operator makes it.
    Made,
    /// It is in the user's Secret.
    Source,
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum AuthorityEffect {
    /// Write the state after this step, if nobody else has meanwhile; then look again.
    Take {
        /// The step.
        step: Step,
        /// Whence its authority, if it brings one.
        origin: Option<Origin>,
    },
    /// Write the status, if nobody else has meanwhile.
    WriteStatus(Box<HookAuthorityStatus>),
    /// Tell people.
    Event(Notice),
    /// Tell people that what was asked for cannot be done.
    Refuse(Notice),
}

/// What is to be done, in this order, and when to look again.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorityDecision {
    /// What is to be done.
    pub effects: Vec<AuthorityEffect>,
    /// When to look again.
    pub next: Next,
}

impl From<&AuthorityFault> for Fault {
    fn from(fault: &AuthorityFault) -> Self {
        Self {
            reason: fault.reason(),
            message: fault.to_string(),
        }
    }
}

/// What is to be done about the authorities.
pub fn decide(
    seen: &AuthoritySeen<'_>,
    settings: &AuthoritySettings,
    now: Timestamp,
) -> AuthorityDecision {
    let look = Look {
        seen,
        settings,
        now,
    };
    let due = match seen.kept {
        Kept::Nothing => look.can_be_had().map(|origin| {
            let answering = seen.asked.map(ToOwned::to_owned);
            (Step::Begin { answering }, Some(origin))
        }),
        Kept::Broken(_) => None,
        Kept::Ledger(ledger) => look.step(ledger),
    };
    match due {
        Some((step, origin)) => {
            let mut effects = Vec::new();
            effects.extend(look.refusal(&step));
            effects.push(AuthorityEffect::Take { step, origin });
            let next = Next::At(now);
            AuthorityDecision { effects, next }
        }
        None => AuthorityDecision {
            effects: authority_status::effects(&look),
            next: look.next(),
        },
    }
}

type Due = (Step, Option<Origin>);

/// One look, and the rows of the table.
pub(super) struct Look<'a> {
    pub seen: &'a AuthoritySeen<'a>,
    pub settings: &'a AuthoritySettings,
    pub now: Timestamp,
}

impl Look<'_> {
    fn step(&self, ledger: &Ledger) -> Option<Due> {
        self.rescue(ledger)
            .or_else(|| match &ledger.next {
                Some(next) => self.succession(ledger, next),
                None => self.preparation(ledger),
            })
            .or_else(|| self.answer(ledger))
            .or_else(|| {
                // One that is taken up again is prepared, and not on its way out any more.
                let next = ledger.next.as_ref().map(|next| &next.fingerprint);
                let mut retiring = ledger.retiring.iter();
                retiring.find_map(|entry| {
                    let leaves = next != Some(&entry.fingerprint);
                    leaves.then(|| self.retirement(entry)).flatten()
                })
            })
    }

    /// The active one cannot sign.
    fn rescue(&self, ledger: &Ledger) -> Option<Due> {
        if ledger.active.is_valid_at(self.now) {
            return None;
        }
        if ledger
            .next
            .as_ref()
            .is_some_and(|n| n.is_valid_at(self.now))
        {
            return Some((Step::Activate, None));
        }
        let origin = self.can_be_had()?;
        let candidate = self.candidate();
        let another = candidate.is_none_or(|c| c.fingerprint != ledger.active.fingerprint);
        another.then_some((Step::Supersede, Some(origin)))
    }

    /// One is prepared.
    fn succession(&self, ledger: &Ledger, next: &Entry) -> Option<Due> {
        let discard = Some((Step::Discard, None));
        if self.seen.source.is_none() && next.source.is_some() {
            return discard;
        }
        if let Some(wanted) = self.candidate() {
            if wanted.fingerprint == ledger.active.fingerprint {
                return discard;
            }
            if wanted.fingerprint != next.fingerprint {
                return self.prepare(Origin::Source, None);
            }
        }
        if !next.is_valid_at(self.now) {
            return discard;
        }
        let fingerprint = next.fingerprint.clone();
        let spread = self.seen.behind == 0 || after(next.since, PATIENCE) <= self.now;
        match (spread, self.settled(next)) {
            (false, _) if next.settled.is_some() => Some((Step::Unsettle { fingerprint }, None)),
            (false, _) => None,
            (true, None) => Some((Step::Settle { fingerprint }, None)),
            (true, Some(since)) => {
                (self.propagated(since) <= self.now).then_some((Step::Activate, None))
            }
        }
    }

    /// None is prepared: is another one wanted?
    fn preparation(&self, ledger: &Ledger) -> Option<Due> {
        let active = &ledger.active;
        if self.seen.source.is_none() {
            let asked = self.asked(ledger);
            let due = self.rotation_time(active) <= self.now;
            let wanted = active.source.is_some() || asked.is_some() || due;
            return self
                .prepare(Origin::Made, asked)
                .filter(|_| wanted && may_prepare(ledger));
        }
        let wanted = self.candidate()?;
        if wanted.fingerprint != active.fingerprint {
            return self
                .prepare(Origin::Source, None)
                .filter(|_| may_prepare(ledger));
        }
        let source = self.settings.source.clone();
        (active.source != source).then_some((Step::Attribute { source }, None))
    }

    fn prepare(&self, origin: Origin, asked: Option<&str>) -> Option<Due> {
        let answering = asked.map(ToOwned::to_owned);
        Some((Step::Prepare { answering }, Some(origin)))
    }

    /// The annotation is gone (set again, it asks again), or asks for what a rotation under way
    /// gives, or nobody but the user can give.
    fn answer(&self, ledger: &Ledger) -> Option<Due> {
        let request = self.seen.asked.map(ToOwned::to_owned);
        let open =
            self.asked(ledger).is_some() && self.seen.source.is_none() && ledger.next.is_none();
        (request != ledger.rotated_for && !open).then_some((Step::Answer { request }, None))
    }

    fn retirement(&self, entry: &Entry) -> Option<Due> {
        let fingerprint = entry.fingerprint.clone();
        if entry.not_after <= self.now {
            return Some((Step::Retire { fingerprint }, None));
        }
        match (self.leaves(entry) == 0, self.settled(entry)) {
            (false, _) if entry.settled.is_some() => Some((Step::Unsettle { fingerprint }, None)),
            (false, _) => None,
            (true, None) => Some((Step::Settle { fingerprint }, None)),
            (true, Some(since)) => {
                (self.propagated(since) <= self.now).then_some((Step::Retire { fingerprint }, None))
            }
        }
    }

    fn can_be_had(&self) -> Option<Origin> {
        match self.seen.source {
            None => Some(Origin::Made),
            Some(_) => self.candidate().map(|_| Origin::Source),
        }
    }

    /// What the user's Secret holds, if it is good, and still valid now that it has been read.
    fn candidate(&self) -> Option<&Entry> {
        let candidate = self.seen.source?.ok()?;
        candidate.is_valid_at(self.now).then_some(candidate)
    }

    fn asked(&self, ledger: &Ledger) -> Option<&str> {
        let asked = self.seen.asked;
        asked.filter(|asked| Some(*asked) != ledger.rotated_for.as_deref())
    }

    /// A request that nobody but the user can fulfil is told.
    fn refusal(&self, step: &Step) -> Option<AuthorityEffect> {
        match (step, &self.settings.source) {
            (Step::Answer { request: Some(_) }, Some(source)) => {
                Some(AuthorityEffect::Refuse(Notice {
                    warning: true,
                    reason: "RotationRefused",
                    note: format!(
                        "the authority comes from Secret {}/{source}, so the operator can make no other: replace what that Secret holds, and it is rotated to",
                        self.settings.namespace
                    ),
                    on_workload: false,
                }))
            }
            _ => None,
        }
    }

    /// Since when what the entry waits for is so; a time that is still to come was a wrong clock's.
    fn settled(&self, entry: &Entry) -> Option<Timestamp> {
        entry.settled.filter(|settled| *settled <= self.now)
    }

    pub fn propagated(&self, since: Timestamp) -> Timestamp {
        after(since, self.settings.propagation)
    }

    pub fn leaves(&self, entry: &Entry) -> usize {
        let leaves = self.seen.leaves.get(&entry.fingerprint);
        leaves.copied().unwrap_or(0)
    }

    /// When an operator-made authority begins to be replaced.
    pub fn rotation_time(&self, active: &Entry) -> Timestamp {
        let rotation = self.settings.propagation.saturating_add(SLACK);
        let before = self.seen.longest_leaf.saturating_add(rotation);
        let uncut = after(active.not_after, -before);
        // A `since` that is still to come was a wrong clock's.
        let half = active.not_after.duration_since(active.since.min(self.now)) / 2;
        uncut.max(after(active.not_after, -half))
    }

    /// When the user is told that an authority of his nears its end.
    pub fn warning_time(&self, active: &Entry) -> Timestamp {
        let life = active.not_after.duration_since(active.not_before);
        let ahead = (life / 4).min(SignedDuration::from_hours(30 * 24));
        after(active.not_after, -ahead)
    }

    /// When time alone changes what is decided.
    fn next(&self) -> Next {
        let Kept::Ledger(ledger) = self.seen.kept else {
            return Next::AwaitChange;
        };
        let active = &ledger.active;
        let waits = ledger.next.iter().chain(&ledger.retiring);
        let ahead = match self.seen.source {
            None => self.rotation_time(active),
            Some(_) => self.warning_time(active),
        };
        waits
            .clone()
            .filter_map(|entry| Some(self.propagated(entry.settled?)))
            .chain(ledger.next.iter().map(|next| after(next.since, PATIENCE)))
            .chain(waits.map(|entry| entry.not_after))
            .chain([ahead, active.not_before, active.not_after])
            .filter(|at| *at > self.now)
            .min()
            .map_or(Next::AwaitChange, Next::At)
    }
}

fn may_prepare(ledger: &Ledger) -> bool {
    ledger.retiring.len() < MOST_RETIRING
}

fn after(at: Timestamp, duration: SignedDuration) -> Timestamp {
    at.checked_add(duration)
        .unwrap_or(if duration.is_negative() {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        })
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
