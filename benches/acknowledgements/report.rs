//! What was measured: a table for people, and `bench.json` for comparing.

use std::path::Path;

use serde_json::{Value, json};

use crate::audit::Calls;

/// What a number should be.
#[derive(Clone, Copy)]
pub enum Goal {
    /// No less.
    AtLeast(f64),
    /// No more.
    AtMost(f64),
}

/// All numbers, in the order they were measured.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
    notes: Vec<String>,
}

struct Row {
    name: String,
    unit: &'static str,
    value: f64,
    goal: Option<Goal>,
}

impl Report {
    /// One number.
    pub fn value(&mut self, name: &str, unit: &'static str, value: f64, goal: Option<Goal>) {
        eprintln!("  {name}: {}", shown(value, unit));
        self.rows.push(Row {
            name: name.to_owned(),
            unit,
            value,
            goal,
        });
    }

    /// What was called, for each of `count`; the goal is writes and reads.
    pub fn calls(&mut self, name: &str, calls: &Calls, count: usize, goal: Option<(f64, f64)>) {
        let each = |number: usize| number as f64 / count as f64;
        let most = |number| Some(Goal::AtMost(number));
        let (writes, reads) = goal.map_or((None, None), |(w, r)| (most(w), most(r)));
        self.value(
            &format!("{name}: writes"),
            "each",
            each(calls.writes),
            writes,
        );
        self.value(&format!("{name}: reads"), "each", each(calls.reads), reads);
        let kinds = calls.by_kind.iter();
        let kinds: Vec<_> = kinds
            .map(|(kind, number)| format!("{kind} {:.2}", each(*number)))
            .collect();
        self.note(format!(
            "{name}, calls for each of {count}: {}",
            kinds.join(", ")
        ));
    }

    /// What a person has to know besides.
    pub fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// To standard output.
    pub fn print(&self) {
        let widest = self.rows.iter().map(|row| row.name.chars().count()).max();
        let widest = widest.unwrap_or_default();
        println!("\n{:widest$}  {:>13}  goal", "", "measured");
        for row in &self.rows {
            let value = shown(row.value, row.unit);
            println!("{:widest$}  {value:>13}  {}", row.name, row.verdict());
        }
        for note in &self.notes {
            println!("* {note}");
        }
    }

    /// As JSON.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let rows = self.rows.iter().map(|row| {
            json!({
                "name": row.name, "unit": row.unit, "value": row.value,
                "goal": row.goal.map(Goal::shown), "met": row.is_met(),
            })
        });
        let all = json!({"rows": rows.collect::<Vec<Value>>(), "notes": self.notes});
        std::fs::write(path, format!("{all:#}\n")).map_err(|e| format!("{}: {e}", path.display()))
    }
}

impl Row {
    fn is_met(&self) -> Option<bool> {
        Some(match self.goal? {
            Goal::AtLeast(least) => self.value >= least,
            Goal::AtMost(most) => self.value <= most,
        })
    }

    fn verdict(&self) -> String {
        let word = match self.is_met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        let goal = self.goal.map(Goal::shown).unwrap_or_default();
        format!("{goal} {word}").trim().to_owned()
    }
}

impl Goal {
    fn shown(self) -> String {
        match self {
            Self::AtLeast(least) => format!(">= {least}"),
            Self::AtMost(most) => format!("<= {most}"),
        }
    }
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    match (values.get(low), values.get(high)) {
        (Some(low), Some(high)) => f64::midpoint(*low, *high),
        _ => f64::NAN,
    }
}

fn shown(value: f64, unit: &str) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}").trim_end().to_owned()
}
