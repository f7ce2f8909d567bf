//! What is said of the lives: which came late, and which asked too often.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Cell;
use crate::report::Report;

/// When the fault is over, every step comes to its end within this, beside what it takes without.
const CONVERGED: Duration = Duration::from_secs(10);
/// Calls of one kind to one object within a minute, beside those that are carried out and so a step
/// of a life.
const MOST_CALLS: usize = 10;

/// What became of a life.
pub struct Lived {
    /// The fault was met.
    pub met: bool,
    /// What each step took, counted from the end of the fault.
    pub took: Vec<(&'static str, Duration)>,
    /// Calls that met the fault, to one object within a minute, at most.
    pub met_most: usize,
    /// Writes of each kind to one object within a minute, at most.
    pub writes: BTreeMap<String, usize>,
}

/// A field, or none for a life without a fault; and what became of it.
pub type Outcome = (Option<Cell>, Result<Lived, String>);

/// What is to be said of the lives.
pub struct Judge<'a> {
    calls: &'a BTreeMap<String, usize>,
    of_time: bool,
    missed: usize,
    slowest: Slowest,
    most: usize,
}

/// The step that took longest after the end of its fault, and what it takes without one.
#[derive(Clone, Copy, Default)]
struct Slowest {
    step: &'static str,
    took: Duration,
    usual: Duration,
}

impl Slowest {
    /// An operator that is slow without any fault is not to be excused by that.
    fn late(&self) -> Duration {
        self.took.saturating_sub(self.usual.min(CONVERGED / 2))
    }
}

impl std::fmt::Display for Slowest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (took, usual) = (self.took.as_secs_f64(), self.usual.as_secs_f64());
        let step = self.step;
        write!(
            f,
            "'{step}' {took:.1} s after the fault's end, and {usual:.1} s without one"
        )
    }
}

impl<'a> Judge<'a> {
    /// Nothing seen yet. `calls`: how many of each kind an undisturbed life makes. `of_time`: whether
    /// what is late counts.
    pub fn new(calls: &'a BTreeMap<String, usize>, of_time: bool) -> Self {
        Self {
            calls,
            of_time,
            missed: 0,
            slowest: Slowest::default(),
            most: 0,
        }
    }

    /// Judges what was played side by side.
    pub fn look_at(&mut self, lives: Vec<Outcome>, report: &mut Report) {
        let undisturbed = lives.iter().filter(|(cell, _)| cell.is_none());
        let usual = Usual::of(undisturbed.filter_map(|(_, lived)| lived.as_ref().ok()));
        if !usual.took.is_empty() {
            report.line(&format!("without any fault: {:.1?}", usual.took));
        }
        for (cell, lived) in lives {
            let name = cell.as_ref().map_or("undisturbed".to_owned(), Cell::name);
            match (lived, &cell) {
                (Err(problem), _) => report.violation(&name, &problem),
                (Ok(lived), Some(cell)) => self.judge(cell, &lived, &usual, report),
                (Ok(_), None) => {}
            }
        }
    }

    fn judge(&mut self, cell: &Cell, lived: &Lived, usual: &Usual, report: &mut Report) {
        let name = cell.name();
        self.missed += usize::from(!lived.met);
        let steps = lived.took.iter().map(|(step, took)| Slowest {
            step,
            took: *took,
            usual: usual.took.get(step).copied().unwrap_or_default(),
        });
        let slowest = steps.max_by_key(Slowest::late).unwrap_or_default();
        if slowest.late() > self.slowest.late() {
            self.slowest = slowest;
        }
        if slowest.late() > CONVERGED && self.of_time {
            report.violation(&name, &slowest.to_string());
        }
        self.most = self.most.max(lived.met_most);
        let steps = match cell.is_carried_out() {
            true => self.calls.get(&cell.kind).copied().unwrap_or(0),
            false => 0,
        };
        if lived.met_most > MOST_CALLS + steps {
            let most = lived.met_most;
            report.violation(&name, &format!("{most} calls within a minute"));
        }
        // And nothing else is written again and again because of it.
        for (kind, count) in &lived.writes {
            let without = usual.writes.get(kind).copied().unwrap_or(0);
            if *count > MOST_CALLS + without {
                let complaint = format!("{count} {kind} within a minute, and {without} without it");
                report.violation(&name, &complaint);
            }
        }
    }
}

impl std::fmt::Display for Judge<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            missed,
            slowest,
            most,
            ..
        } = self;
        write!(
            f,
            "{missed} not met; {slowest}; at most {most} calls per object and minute"
        )
    }
}

/// Lives without any fault.
#[derive(Default)]
struct Usual {
    /// What each step takes, in the middle.
    took: BTreeMap<&'static str, Duration>,
    /// Writes of each kind to one object within a minute, at most.
    writes: BTreeMap<String, usize>,
}

impl Usual {
    fn of<'a>(lives: impl Iterator<Item = &'a Lived>) -> Self {
        let (mut all, mut usual) = (
            BTreeMap::<&'static str, Vec<Duration>>::new(),
            Self::default(),
        );
        for lived in lives {
            for (step, took) in &lived.took {
                all.entry(step).or_default().push(*took);
            }
            for (kind, count) in &lived.writes {
                let most = usual.writes.entry(kind.clone()).or_insert(0);
                *most = (*most).max(*count);
            }
        }
        for (step, mut took) in all {
            took.sort();
            usual.took.insert(step, took[took.len() / 2]);
        }
        usual
    }
}
