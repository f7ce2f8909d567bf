//! What went through the proxy: one JSON line for each call, without headers and bodies, so that no
//! token and no Secret is in it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use super::call::{Call, Needles};
use super::plan::Fault;

/// A line.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Number of the call, from 1.
    pub number: u64,
    /// When it came.
    pub at: Timestamp,
    /// Its verb.
    pub verb: String,
    /// `resource` or `resource/subresource`.
    pub resource: String,
    /// Path and query.
    pub path: String,
    /// Who says it made the call.
    pub agent: String,
    /// What was done to it; nothing: it was passed on.
    pub done: Option<String>,
    /// Code of the answer that the operator got; none: it got none.
    pub status: Option<u16>,
    #[serde(skip)]
    call: Option<Call>,
}

/// The lines so far; the same are in a file.
pub struct Journal {
    lines: Mutex<(Vec<Line>, File)>,
}

impl Journal {
    /// A journal in a new file.
    pub fn new(path: &Path) -> Result<Self, String> {
        let file = File::create(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self {
            lines: Mutex::new((Vec::new(), file)),
        })
    }

    /// Notes a call that has come; its number.
    pub fn note(&self, call: &Call, fault: Option<Fault>) -> u64 {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let number = lines.0.len() as u64 + 1;
        let mut kept = call.clone();
        if kept.resource.starts_with("secrets") {
            kept.body = hyper::body::Bytes::new();
        }
        lines.0.push(Line {
            number,
            at: Timestamp::now(),
            verb: call.verb.clone(),
            resource: call.resource.clone(),
            path: call.path.clone(),
            agent: call.agent.clone(),
            done: fault.map(|fault| format!("{fault:?}")),
            status: None,
            call: Some(kept),
        });
        number
    }

    /// Notes the answer, and writes the line.
    pub fn answered(&self, number: u64, status: Option<u16>) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, file) = &mut *lines;
        let place = usize::try_from(number)
            .unwrap_or(usize::MAX)
            .wrapping_sub(1);
        let Some(line) = all.get_mut(place) else {
            return;
        };
        line.status = status;
        if let Ok(text) = serde_json::to_string(line) {
            // A journal that cannot be written must not change what is tested.
            let _ = writeln!(file, "{text}");
        }
    }

    /// How many lines there are: a place to look from.
    pub fn mark(&self) -> usize {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.0.len()
    }

    /// The calls of a subject since a mark.
    pub fn since(&self, mark: usize, subject: &Needles) -> Vec<Line> {
        let ours = |line: &Line| {
            let call = line.call.as_ref();
            call.is_some_and(|call| call.concerns(subject))
        };
        self.filtered(mark, ours)
    }

    /// What was written since a mark, leases aside.
    pub fn written_since(&self, mark: usize) -> Vec<Line> {
        self.filtered(mark, |line| line.changes() && line.resource != "leases")
    }

    fn filtered(&self, mark: usize, wanted: impl Fn(&Line) -> bool) -> Vec<Line> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let since = lines.0[mark.min(lines.0.len())..].iter();
        since.filter(|line| wanted(line)).cloned().collect()
    }
}

impl Line {
    /// `verb resource/subresource`.
    pub fn kind(&self) -> String {
        format!("{} {}", self.verb, self.resource)
    }

    /// Whether it may have changed something.
    pub fn changes(&self) -> bool {
        self.call.as_ref().is_some_and(Call::changes)
    }

    /// Kind and object.
    pub fn object(&self) -> String {
        self.call.as_ref().map(Call::object).unwrap_or_default()
    }
}
