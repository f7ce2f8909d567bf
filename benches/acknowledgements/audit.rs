//! The API server's audit log: which calls the operator made.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// User agent of the bare client, which speaks as the same ServiceAccount.
pub const BARE_CLIENT: &str = "krake-hooks-bench";
const OPERATOR: &str = "system:serviceaccount:krake-system:krake-hooks";

/// The log.
pub struct AuditLog {
    path: PathBuf,
}

/// A place in it.
#[derive(Clone, Copy)]
pub struct Mark(u64);

/// How often the operator did what, watches left out: they are opened again now and then, whatever
/// happens.
#[derive(Default)]
pub struct Calls {
    /// By `verb resource/subresource`.
    pub by_kind: BTreeMap<String, usize>,
    /// Those that change something, dry runs included.
    pub writes: usize,
    /// Those that do not.
    pub reads: usize,
}

impl AuditLog {
    /// The log at that path.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Its end now.
    pub fn mark(&self) -> Result<Mark, String> {
        let size = std::fs::metadata(&self.path).map_err(|e| self.fault(&e))?;
        Ok(Mark(size.len()))
    }

    /// What the operator has called since.
    pub fn since(&self, mark: Mark) -> Result<Calls, String> {
        let mut file = File::open(&self.path).map_err(|e| self.fault(&e))?;
        let size = file.metadata().map_err(|e| self.fault(&e))?.len();
        if size < mark.0 {
            return Err(format!("{} was rotated", self.path.display()));
        }
        file.seek(SeekFrom::Start(mark.0))
            .map_err(|e| self.fault(&e))?;
        let mut calls = Calls::default();
        for line in BufReader::new(file).lines() {
            let line = line.map_err(|e| self.fault(&e))?;
            // The server may be in the middle of its last line.
            if let Ok(entry) = serde_json::from_str(&line) {
                calls.add(&entry);
            }
        }
        Ok(calls)
    }

    fn fault(&self, error: &std::io::Error) -> String {
        format!("audit log {}: {error}", self.path.display())
    }
}

impl Calls {
    fn add(&mut self, entry: &Value) {
        let text = |pointer| entry.pointer(pointer).and_then(Value::as_str);
        let ours = text("/user/username") == Some(OPERATOR)
            && text("/userAgent") != Some(BARE_CLIENT)
            // The lease is renewed whether anybody acknowledges or not.
            && !text("/userAgent").is_some_and(|agent| agent.ends_with("(election)"))
            && text("/stage") == Some("ResponseComplete");
        let verb = text("/verb").unwrap_or_default();
        if !ours || verb == "watch" {
            return;
        }
        let resource = text("/objectRef/resource").unwrap_or("-");
        let part = text("/objectRef/subresource").map(|part| format!("/{part}"));
        let kind = format!("{verb} {resource}{}", part.unwrap_or_default());
        *self.by_kind.entry(kind).or_default() += 1;
        if matches!(verb, "get" | "list") {
            self.reads += 1;
        } else {
            self.writes += 1;
        }
    }
}
