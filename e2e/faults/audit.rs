//! The API server's audit log: the witness that neither the operator nor this harness can tell what
//! to say. It is written before an answer is given, and never rotated.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;

use crate::cluster::USER;

/// A place in the log.
#[derive(Clone, Copy, Debug)]
pub struct Mark(u64);

/// One request that was answered.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it came.
    pub received: Timestamp,
    /// When it was answered.
    pub done: Timestamp,
    /// Its verb.
    pub verb: String,
    /// Whose it was.
    pub user: String,
    /// Resource.
    pub resource: String,
    /// Subresource, or nothing.
    pub subresource: String,
    /// Namespace, or nothing.
    pub namespace: String,
    /// Name, or nothing.
    pub name: String,
    /// Code of the answer.
    pub code: u64,
    /// Whether it was a dry run.
    pub dry: bool,
    /// What was sent, where the policy has it logged.
    pub request: Value,
    /// What was answered, where the policy has it logged.
    pub response: Value,
}

/// What has happened since a mark.
#[derive(Debug, Default)]
pub struct Audit {
    /// In the order of the answers.
    pub events: Vec<Event>,
}

impl Event {
    /// It was carried out.
    pub fn succeeded(&self) -> bool {
        (200..300).contains(&self.code) && !self.dry
    }

    /// The operator asked for it.
    pub fn by_operator(&self) -> bool {
        self.user == USER
    }

    fn of(entry: &Value) -> Option<Self> {
        let text = |pointer| {
            entry
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let object = |pointer| entry.pointer(pointer).cloned().unwrap_or_default();
        if text("/stage") != "ResponseComplete" {
            return None;
        }
        let mut name = text("/objectRef/name").to_owned();
        if name.is_empty() {
            // A create names its object in what it sends.
            name = text("/responseObject/metadata/name").to_owned();
        }
        Some(Self {
            received: text("/requestReceivedTimestamp").parse().ok()?,
            done: text("/stageTimestamp").parse().ok()?,
            verb: text("/verb").to_owned(),
            user: text("/user/username").to_owned(),
            resource: text("/objectRef/resource").to_owned(),
            subresource: text("/objectRef/subresource").to_owned(),
            namespace: text("/objectRef/namespace").to_owned(),
            name,
            code: entry
                .pointer("/responseStatus/code")
                .and_then(Value::as_u64)
                .unwrap_or(0),
            dry: text("/requestURI").contains("dryRun="),
            request: object("/requestObject"),
            response: object("/responseObject"),
        })
    }
}

/// The log's end now.
pub fn mark(log: &Path) -> Result<Mark, String> {
    let size = std::fs::metadata(log).map_err(|e| format!("{}: {e}", log.display()))?;
    Ok(Mark(size.len()))
}

impl Audit {
    /// What has happened since in the namespaces that begin so, and to what has no namespace.
    pub fn since(log: &Path, mark: Mark, prefix: &str) -> Result<Self, String> {
        let fault = |e: std::io::Error| format!("{}: {e}", log.display());
        let mut file = File::open(log).map_err(fault)?;
        file.seek(SeekFrom::Start(mark.0)).map_err(fault)?;
        let mut events = Vec::new();
        for line in BufReader::new(file).lines() {
            let line = line.map_err(fault)?;
            // Parsing all of it would take longer than reading it.
            if !line.contains(prefix) && !line.contains("hookguards") {
                continue;
            }
            // The server may be in the middle of its last line.
            let Ok(entry) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            events.extend(
                Event::of(&entry).filter(|event| {
                    event.namespace.starts_with(prefix) || event.namespace.is_empty()
                }),
            );
        }
        events.sort_by_key(|event| event.done);
        Ok(Self { events })
    }
}
