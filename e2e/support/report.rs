//! What a person needs to see when a story went wrong.

use super::operator::{NAME, NAMESPACE};
use super::stage::Stage;

/// The story's objects, Events, and what the operator said about its namespace.
pub async fn describe(stage: &Stage) -> String {
    let mut report = format!("namespace {}\n", stage.namespace);
    let looks: [&[&str]; 3] = [
        &[
            "get",
            "krakehooks,deployments,replicasets,pods",
            "--output=wide",
        ],
        &[
            "get",
            "events",
            "--sort-by=.metadata.creationTimestamp",
            "--output=custom-columns=:.lastTimestamp,:.involvedObject.kind,:.involvedObject.name,:.reason,:.message",
        ],
        &[
            "get",
            "krakehooks",
            "--output=jsonpath={range .items[*]}{.metadata.name}{\"\\t\"}{.status}{\"\\n\"}{end}",
        ],
    ];
    for look in looks {
        let seen = stage.try_kubectl(look).await;
        report += &seen.unwrap_or_else(|complaint| complaint);
        report += "\n\n";
    }
    let log = stage
        .cluster
        .kubectl(&[
            "--namespace",
            NAMESPACE,
            "logs",
            &format!("deployment/{NAME}"),
            "--tail=4000",
        ])
        .await
        .unwrap_or_else(|complaint| complaint);
    let about: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(&stage.namespace))
        .collect();
    report += "the operator:\n";
    report += &about[about.len().saturating_sub(40)..].join("\n");
    report
}
