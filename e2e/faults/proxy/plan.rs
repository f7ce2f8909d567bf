//! What is done to which calls.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::call::{Call, Needles};

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// It is sent on later.
    Delay(Duration),
    /// It is never sent on, and the connection ends.
    DropBefore,
    /// The API server carries it out, and nobody hears the answer.
    DropAnswer,
    /// The API server never sees it; this code is the answer.
    Answer(u16),
    /// The API server carries it out; the connection is reset in the middle of the answer.
    ResetInBody,
    /// The API server carries it out; the answer is half a JSON document.
    Truncate,
    /// It is never answered.
    Hang,
    /// The operator is killed (SIGKILL).
    Kill(Moment),
    /// A watch: what happens from now on is told when this time is over.
    Hold(Duration),
    /// A watch: its next event is swallowed, and it ends with 410 some time later.
    DropEvent(Duration),
    /// A watch: it ends with 410 Gone.
    Gone,
    /// A watch: nothing is told any more, and the connection stays; after this time it is reset.
    HalfOpen(Duration),
}

/// When the operator is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Moment {
    /// The call never reaches the API server.
    Before,
    /// The API server has carried it out, and the operator has not heard.
    Unanswered,
    /// The operator has the answer, and next to no time to do anything with it.
    After,
}

impl Moment {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Before, Self::Unanswered, Self::After];
}

/// Which calls a rule is about.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// `verb resource/subresource`; empty: every call that changes something.
    pub kind: String,
    /// Calls of one subject alone.
    pub subject: Option<Needles>,
    /// A word that must stand in the body.
    pub body: Option<String>,
}

/// Which of the calls that match.
#[derive(Clone, Copy, Debug)]
pub enum Times {
    /// That one, counted from 1.
    Nth(u64),
    /// So many from the first on.
    First(u64),
    /// All within this time from the first on.
    Within(Duration),
}

/// A rule of a plan.
#[derive(Clone, Debug)]
pub struct Rule {
    on: Match,
    times: Times,
    fault: Fault,
    matched: u64,
    done: u64,
    began: Option<Instant>,
    last: Option<Instant>,
}

/// How often a rule was applied, and when.
#[derive(Clone, Copy, Debug, Default)]
pub struct Applied {
    /// How often.
    pub count: u64,
    /// When the first call came that matched.
    pub first: Option<Instant>,
    /// When it was applied last.
    pub last: Option<Instant>,
}

/// What is done to which calls; changes while the proxy runs.
#[derive(Debug, Default)]
pub struct Plan {
    rules: Mutex<Vec<(u64, Rule)>>,
    next: Mutex<u64>,
}

impl Rule {
    /// A rule.
    pub fn new(on: Match, times: Times, fault: Fault) -> Self {
        Self {
            on,
            times,
            fault,
            matched: 0,
            done: 0,
            began: None,
            last: None,
        }
    }

    /// How often it was applied, when the first call came that matched, and when it was applied last.
    pub fn applied(&self) -> Applied {
        Applied {
            count: self.done,
            first: self.began,
            last: self.last,
        }
    }

    fn decide(&mut self, call: &Call) -> Option<Fault> {
        if !self.on.fits(call) {
            return None;
        }
        self.matched += 1;
        let began = *self.began.get_or_insert_with(Instant::now);
        let applies = match self.times {
            Times::Nth(number) => self.matched == number,
            Times::First(count) => self.matched <= count,
            Times::Within(time) => began.elapsed() < time,
        };
        if applies {
            self.done += 1;
            self.last = Some(Instant::now());
        }
        applies.then_some(self.fault)
    }
}

impl Match {
    /// Calls of one kind that belong to one subject.
    pub fn of(kind: &str, subject: &Needles) -> Self {
        Self {
            kind: kind.to_owned(),
            subject: Some(subject.clone()),
            body: None,
        }
    }

    /// And that say this.
    pub fn saying(mut self, word: &str) -> Self {
        self.body = Some(word.to_owned());
        self
    }

    fn fits(&self, call: &Call) -> bool {
        let kind = match self.kind.as_str() {
            "" => call.changes(),
            kind => call.kind() == kind && (call.verb == "watch" || !call.path.contains("dryRun=")),
        };
        kind && self
            .subject
            .as_ref()
            .is_none_or(|subject| call.concerns(subject))
            && self
                .body
                .as_ref()
                .is_none_or(|word| String::from_utf8_lossy(&call.body).contains(word))
    }
}

impl Plan {
    /// Adds a rule; its number, to ask for it.
    pub fn add(&self, rule: Rule) -> u64 {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next += 1;
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.push((*next, rule));
        *next
    }

    /// Takes a rule away.
    pub fn remove(&self, number: u64) {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.retain(|(own, _)| *own != number);
    }

    /// How often a rule was applied, and when.
    pub fn applied(&self, number: u64) -> Applied {
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let rule = rules.iter().find(|(own, _)| *own == number);
        rule.map(|(_, rule)| rule.applied()).unwrap_or_default()
    }

    /// What is to be done to a call: the first rule that has something to say.
    pub fn decide(&self, call: &Call) -> Option<Fault> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let mut decided = None;
        // Each rule counts for itself, whoever decides.
        for (_, rule) in rules.iter_mut() {
            let fault = rule.decide(call);
            decided = decided.or(fault);
        }
        decided
    }
}
