//! The API server's audit log: who really called what, and how that ended.

use std::io::{BufRead, BufReader};

use jiff::Timestamp;
use serde_json::Value;

use super::cluster::{Cluster, Provider};
use super::operator::USER;
use super::runner::skip;

/// One call of the operator that was answered.
#[derive(Clone, Debug)]
pub struct Call {
    /// When it was received.
    pub at: Timestamp,
    /// The pod that made it.
    pub pod: String,
    /// What it said it was, as `leader`; empty if it said nothing.
    pub role: String,
    /// What it did, as `patch krakehooks/status`.
    pub act: String,
    /// How it was answered.
    pub code: u64,
}

impl Call {
    /// Whether it was a write that was carried out.
    pub fn took_effect(&self) -> bool {
        let reads = ["get ", "list ", "watch "];
        self.code < 400 && !reads.iter().any(|read| self.act.starts_with(read))
    }
}

/// What the operator has called since then, in the order of its answers.
pub async fn calls(cluster: &Cluster, since: Timestamp) -> Vec<Call> {
    if cluster.provider != Provider::Local {
        skip("only the local cluster keeps an audit log that can be read here");
    }
    let path = cluster.script(&["audit-log"]).await.expect("it has a path");
    let file = std::fs::File::open(path).expect("the audit log can be read");
    BufReader::new(file)
        .lines()
        .map(|line| line.expect("the audit log can be read"))
        .filter(|line| line.contains(USER))
        // The server may be in the middle of its last line.
        .filter_map(|line| serde_json::from_str(&line).ok())
        .filter_map(|entry| call(&entry))
        .filter(|call| call.at >= since)
        .collect()
}

fn call(entry: &Value) -> Option<Call> {
    let text = |pointer| entry.pointer(pointer).and_then(Value::as_str);
    // Stories play the operator too, by impersonation.
    if text("/user/username") != Some(USER) || text("/stage") != Some("ResponseComplete") {
        return None;
    }
    let pod = &entry["user"]["extra"]["authentication.kubernetes.io/pod-name"][0];
    let role = text("/userAgent").and_then(|agent| agent.split_once('('));
    let part = text("/objectRef/subresource").map(|part| format!("/{part}"));
    Some(Call {
        at: text("/requestReceivedTimestamp")?.parse().ok()?,
        pod: pod.as_str().unwrap_or_default().to_owned(),
        role: role
            .map_or("", |(_, role)| role.trim_end_matches(')'))
            .to_owned(),
        act: format!(
            "{} {}{}",
            text("/verb")?,
            text("/objectRef/resource").unwrap_or("-"),
            part.unwrap_or_default()
        ),
        code: entry["responseStatus"]["code"].as_u64()?,
    })
}
