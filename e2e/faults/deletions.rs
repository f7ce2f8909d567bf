//! A thousand deletions, each in its own way, with operators killed among them.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::DeleteParams;
use rand::Rng;
use serde_json::json;

use krake_hooks::api::{HookKind, WorkloadKind, names};

use crate::audit::{self, Audit};
use crate::lane::Lane;
use crate::lanes::Lanes;
use crate::report::Report;
use crate::seed::Seed;
use crate::subject::Subject;

/// Subjects that live side by side in one lane. With more the machine is busy with making pods, and
/// what is measured is how long everything waits for a core.
const AT_ONCE: usize = 1;
/// An operator lives so long on the average.
const LIFE: Duration = Duration::from_secs(40);
/// From the answer to the workload's finalizer being gone: 99 of 100 within this.
const RELEASED: Duration = Duration::from_secs(1);
const RETRIES: usize = 12;
/// What is said of the harness's own connection when the API server ends it under a request; it has
/// nothing to do with the operator.
const CONNECTION_ENDED: &str = "client error (SendRequest)";
/// The kinds whose removal waits; every other workload is a Deployment.
const KINDS: [WorkloadKind; 10] = [
    WorkloadKind::Deployment,
    WorkloadKind::Deployment,
    WorkloadKind::Deployment,
    WorkloadKind::Deployment,
    WorkloadKind::Deployment,
    WorkloadKind::StatefulSet,
    WorkloadKind::DaemonSet,
    WorkloadKind::ReplicaSet,
    WorkloadKind::ReplicationController,
    WorkloadKind::Job,
];

/// How one is deleted, and how its app takes it.
#[derive(Clone, Copy, Debug)]
struct Way {
    kind: WorkloadKind,
    cascade: &'static str,
    hook: Hook,
    app: AppDoes,
    /// How long the app takes.
    pause: Duration,
}

/// What becomes of the hook meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Stays,
    GoesToo,
}

/// What the app does when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AppDoes {
    Acknowledges,
    SaysNothing,
    IsSkipped,
}

/// Some deletions.
pub async fn prove(
    lanes: &Lanes,
    count: usize,
    seed: Seed,
    report: &mut Report,
) -> Result<(), String> {
    let mark = audit::mark(&lanes.cluster.audit_log)?;
    println!("{count} random deletions, {seed}");
    let mut chance = seed.chance();
    let ways: Vec<Way> = (0..count)
        .map(|_| Way {
            kind: Seed::one_of(&mut chance, &KINDS),
            cascade: Seed::one_of(
                &mut chance,
                &["background", "foreground", "foreground", "orphan"],
            ),
            hook: Seed::one_of(&mut chance, &[Hook::Stays, Hook::Stays, Hook::GoesToo]),
            app: Seed::one_of(
                &mut chance,
                &[
                    AppDoes::Acknowledges,
                    AppDoes::Acknowledges,
                    AppDoes::Acknowledges,
                    AppDoes::SaysNothing,
                    AppDoes::IsSkipped,
                ],
            ),
            pause: Duration::from_millis(chance.random_range(0..1500)),
        })
        .collect();
    let killing = lanes.beside(|lane| {
        // Each in its own time: operators that all start at once wait for a core.
        let lives: Vec<u64> = (0..64)
            .map(|_| chance.random_range(0..LIFE.as_secs() * 2))
            .collect();
        async move {
            for life in lives.iter().cycle() {
                tokio::time::sleep(Duration::from_secs(5 + life)).await;
                lane.operator.kill().await;
            }
        }
    });
    let jobs = ways.into_iter().map(|way| {
        move |lane: Arc<Lane>| async move {
            let done = match delete(&lane, way).await {
                Err(problem) if problem.contains(CONNECTION_ENDED) => delete(&lane, way).await,
                done => done,
            };
            (way, done)
        }
    });
    let done = lanes.each_of(AT_ONCE, jobs).await;
    killing.iter().for_each(|task| task.abort());
    let mut answered = Vec::new();
    for (way, outcome) in done {
        match outcome {
            Ok(told) => answered.extend(told),
            Err(problem) => report.violation("stuck", &format!("{way:?}: {problem}")),
        }
    }
    lanes.swept(report).await;
    lanes.silent(report).await;
    let audit = Audit::since(&lanes.cluster.audit_log, mark, &lanes.prefix)?;
    for violation in lanes.violations(&audit) {
        report.violation("audit log", &violation);
    }
    let mut took: Vec<f64> = answered
        .iter()
        .filter_map(|told| released_after(&audit, told))
        .collect();
    took.sort_by(f64::total_cmp);
    let quantile = |share: f64| {
        let place = (took.len() as f64 * share).ceil() as usize;
        took.get(place.saturating_sub(1))
            .copied()
            .unwrap_or(f64::NAN)
    };
    let (half, most) = (quantile(0.5), quantile(0.99));
    report.line(&format!(
        "{count} random deletions, {} restarts: {} acknowledged, released after p50 {half:.3} s, p99 {most:.3} s, at most {:.3} s",
        lanes.restarts(),
        took.len(),
        quantile(1.0)
    ));
    if most > RELEASED.as_secs_f64() {
        report.violation(
            "released",
            &format!("p99 {most:.3} s after the acknowledgement"),
        );
    }
    Ok(())
}

/// An acknowledgement that was answered.
struct Told {
    namespace: String,
    name: String,
    plural: &'static str,
    at: Timestamp,
}

async fn delete(lane: &Arc<Lane>, way: Way) -> Result<Option<Told>, String> {
    let word = format!("random-{}", way.kind.traits().name.to_lowercase());
    let subject = Subject::of(lane, &word, way.kind);
    let timeout = if way.app == AppDoes::SaysNothing {
        4
    } else {
        240
    };
    let shutdown = json!({"callOut": {"mode": "None"}, "timeoutSeconds": timeout});
    let spec = json!({"shutdown": shutdown});
    subject.armed_of_its_kind(spec).await?;
    let app = subject.app().await?;
    let pods = subject.pods().await?;
    let pod = pods
        .first()
        .and_then(|pod| pod.metadata.uid.clone())
        .ok_or("no pod")?;
    subject
        .delete_workload(match way.cascade {
            "foreground" => DeleteParams::foreground(),
            "orphan" => DeleteParams::orphan(),
            _ => DeleteParams::background(),
        })
        .await?;
    if way.hook == Hook::GoesToo {
        subject.delete_hook().await?;
    }
    if way.cascade == "orphan" {
        // Its pods live on; what is left is swept away.
        orphaned(&subject).await?;
        lane.sweep(subject);
        return Ok(None);
    }
    let mut told = None;
    match way.app {
        AppDoes::SaysNothing => {}
        AppDoes::IsSkipped => {
            subject.asked().await?;
            let skip = json!({"metadata": {"annotations": {names::SKIP_ANNOTATION: "by chance"}}});
            subject.patch_workload(skip).await?;
        }
        AppDoes::Acknowledges => {
            subject.asked().await?;
            tokio::time::sleep(way.pause).await;
            let said = app.insist(HookKind::Shutdown, &pod, RETRIES).await;
            // Where the hook goes too, an answer that got lost cannot be had again.
            let is_gone = way.hook == Hook::GoesToo && said.status == Some(401);
            if !(said.counts() || is_gone) {
                return Err(format!("{}: {:?} {}", subject.name, said.status, said.body));
            }
            told = said.answered.filter(|_| said.counts()).map(|at| Told {
                namespace: lane.namespace.clone(),
                name: subject.name.clone(),
                plural: way.kind.traits().plural,
                at,
            });
        }
    }
    subject.removed().await?;
    lane.sweep(subject);
    Ok(told)
}

async fn orphaned(subject: &Subject) -> Result<(), String> {
    crate::cluster::until(crate::subject::SOON, async || {
        let there = subject.object().await?.is_some();
        let free = match subject.kind {
            WorkloadKind::Deployment => subject
                .replica_sets()
                .await?
                .iter()
                .all(|set| set.metadata.owner_references.is_none()),
            _ => subject
                .pods()
                .await?
                .iter()
                .all(|pod| pod.metadata.owner_references.is_none()),
        };
        match (there, free, subject.pods().await?.len()) {
            (false, true, 1) => Ok(()),
            (there, free, pods) => Err(format!(
                "{}: there {there}, free {free}, {pods} pods",
                subject.name
            )),
        }
    })
    .await
}

/// From the answer to the write that let the removal go on.
fn released_after(audit: &Audit, told: &Told) -> Option<f64> {
    let released = audit.events.iter().rfind(|event| {
        event.by_operator()
            && event.succeeded()
            && event.verb == "patch"
            && event.resource == told.plural
            && event.namespace == told.namespace
            && event.name == told.name
    })?;
    // It may have been faster than the answer was read.
    Some(released.done.duration_since(told.at).as_secs_f64().max(0.0))
}
