//! Every kind of call the operator makes, and every fault: once, three times, and for half a minute.
//!
//! A subject lives its whole life, from its creation to its acknowledged end and the end of its hook;
//! somewhere on the way its calls of one kind meet one fault. Whatever it is, no promise is broken;
//! soon after the fault is over each step of the life has come to its end, later than without any
//! fault by little; and while it lasts the operator asks no more often than a person would bear.

mod judge;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::api::DeleteParams;
use serde_json::json;

use krake_hooks::api::HookKind;
use krake_hooks::api::condition::{self, ConditionType};

use crate::audit::{self, Audit};
use crate::lane::Lane;
use crate::lanes::Lanes;
use crate::proxy::journal::Line;
use crate::proxy::plan::{Fault, Match, Rule, Times};
use crate::report::Report;
use crate::seed::Seed;
use crate::subject::Subject;
use judge::{Judge, Lived, Outcome};

/// The longest fault.
const LONG: Duration = Duration::from_secs(30);
/// Subjects that live side by side in one lane. With more, what is measured is how long everything
/// waits for a core.
const AT_ONCE: usize = 2;
/// Of so many lives one is left undisturbed, to tell what a step takes meanwhile without any fault.
const DISTURBED: usize = 12;
/// So often an app tries again.
const RETRIES: usize = 20;
/// Watches of the operator; each sees one subject's events only by chance, so they are shared.
const WATCHED: [&str; 9] = [
    "krakehooks",
    "deployments",
    "replicasets",
    "pods",
    "configmaps",
    "hookcertificates",
    "hookguards",
    "services",
    "namespaces",
];

/// How long a fault lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The first call.
    Once,
    /// The first three.
    Thrice,
    /// All calls within half a minute.
    Long,
}

/// One field of the matrix.
#[derive(Clone, Debug)]
pub struct Cell {
    kind: String,
    fault: Fault,
    extent: Extent,
}

/// The whole matrix, or a sample of so many fields.
pub async fn prove(
    lanes: &Lanes,
    words: &[String],
    sample: Option<usize>,
    seed: Seed,
    report: &mut Report,
) -> Result<(), String> {
    let mark = audit::mark(&lanes.cluster.audit_log)?;
    let kinds = kinds(lanes.first()).await?;
    let mut cells = cells(kinds.keys());
    cells.retain(|cell| words.iter().all(|word| cell.name().contains(word.as_str())));
    let all = cells.len();
    seed.shuffle(&mut cells);
    cells.truncate(sample.unwrap_or(all));
    println!(
        "fault matrix: {} of {all} fields, {} kinds of call, {seed}",
        cells.len(),
        kinds.len() + WATCHED.len()
    );
    let count = cells.len();
    // What a watch meets is met by all that live in its lane.
    let (shared, own): (Vec<_>, Vec<_>) = cells.into_iter().partition(Cell::is_shared);
    // A sample is played where others work too: how long something takes there proves nothing.
    let mut judge = Judge::new(&kinds, sample.is_none());
    judge.look_at(play(lanes, AT_ONCE, own).await, report);
    judge.look_at(play(lanes, 1, shared).await, report);
    lanes.swept(report).await;
    lanes.silent(report).await;
    let audit = Audit::since(&lanes.cluster.audit_log, mark, &lanes.prefix)?;
    for violation in lanes.violations(&audit) {
        report.violation("audit log", &violation);
    }
    report.line(&format!("fault matrix: {count} fields, {judge}"));
    Ok(())
}

/// Lives the fields, and some lives without any fault among them.
async fn play(lanes: &Lanes, at_once: usize, cells: Vec<Cell>) -> Vec<Outcome> {
    // However few there are, there is something to compare them with.
    let lives = cells
        .chunks(DISTURBED)
        .flat_map(|cells| std::iter::once(None).chain(cells.iter().cloned().map(Some)));
    let job = |cell: Option<Cell>| {
        move |lane: Arc<Lane>| async move {
            let lived = live(&lane, cell.as_ref()).await;
            (cell, lived)
        }
    };
    let jobs: Vec<_> = lives.map(job).collect();
    lanes.each_of(at_once, jobs).await
}

/// The kinds of calls that a life is made of, and how many of each.
async fn kinds(lane: &Arc<Lane>) -> Result<BTreeMap<String, usize>, String> {
    let subject = Subject::new(lane, "life");
    let mark = lane.proxy.journal.mark();
    let mut steps = Steps::new();
    life(&subject, &mut steps).await?;
    let mut kinds = BTreeMap::new();
    for line in lane.proxy.journal.since(mark, &subject.needles) {
        *kinds.entry(line.kind()).or_insert(0) += 1;
    }
    // Nodes are nobody's.
    kinds.insert("get nodes".to_owned(), 1);
    kinds.retain(|kind, _| !kind.starts_with("watch "));
    Ok(kinds)
}

fn cells<'a>(kinds: impl Iterator<Item = &'a String> + Clone) -> Vec<Cell> {
    let calls = [
        Fault::Delay(Duration::from_secs(3)),
        Fault::DropBefore,
        Fault::DropAnswer,
        Fault::Answer(409),
        Fault::Answer(422),
        Fault::Answer(429),
        Fault::Answer(500),
        Fault::Answer(503),
        Fault::Answer(504),
        Fault::ResetInBody,
        Fault::Truncate,
        Fault::Hang,
    ];
    let mut cells = Vec::new();
    for extent in [Extent::Once, Extent::Thrice, Extent::Long] {
        for (kind, fault) in kinds
            .clone()
            .flat_map(|kind| calls.iter().map(move |fault| (kind, *fault)))
        {
            // An answer that the API server never gives to a read.
            let is_read = kind.starts_with("get ") || kind.starts_with("list ");
            if is_read && matches!(fault, Fault::Answer(409 | 422)) {
                continue;
            }
            cells.push(Cell {
                kind: kind.clone(),
                fault,
                extent,
            });
        }
    }
    for resource in WATCHED {
        let time = Duration::from_secs(8);
        for fault in [
            Fault::Hold(time),
            Fault::DropEvent(time),
            Fault::Gone,
            Fault::HalfOpen(time),
        ] {
            cells.push(Cell {
                kind: format!("watch {resource}"),
                fault,
                extent: Extent::Once,
            });
        }
        cells.push(Cell {
            kind: format!("watch {resource}"),
            fault: Fault::Gone,
            extent: Extent::Long,
        });
    }
    cells
}

impl Cell {
    fn name(&self) -> String {
        let fault = format!("{:?}", self.fault).to_lowercase();
        format!("{} {fault} {:?}", self.kind, self.extent).to_lowercase()
    }

    fn rule(&self, subject: &Subject) -> Rule {
        let times = match self.extent {
            Extent::Once => Times::First(1),
            Extent::Thrice => Times::First(3),
            Extent::Long => Times::Within(LONG),
        };
        let on = match self.is_shared() {
            true => Match {
                kind: self.kind.clone(),
                ..Match::default()
            },
            false => Match::of(&self.kind, &subject.needles),
        };
        Rule::new(on, times, self.fault)
    }

    /// Whether what meets the fault is done all the same.
    fn is_carried_out(&self) -> bool {
        matches!(
            self.fault,
            Fault::Delay(_) | Fault::DropAnswer | Fault::ResetInBody | Fault::Truncate
        )
    }

    /// Whether its calls are no subject's own.
    fn is_shared(&self) -> bool {
        self.kind.starts_with("watch ") || self.kind == "get nodes"
    }

    /// How long the fault of one call lasts.
    fn lasts(&self) -> Duration {
        match self.fault {
            Fault::Delay(time)
            | Fault::Hold(time)
            | Fault::DropEvent(time)
            | Fault::HalfOpen(time) => time,
            // The operator's own patience with a call.
            Fault::Hang => Duration::from_secs(15),
            _ => Duration::ZERO,
        }
    }
}

/// Steps of a life: when each was begun, and when it had come to its end.
struct Steps(Vec<(&'static str, Instant, Instant)>);

impl Steps {
    fn new() -> Self {
        Self(Vec::new())
    }

    async fn step<T>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        let began = Instant::now();
        let done = work.await.map_err(|e| format!("{name}: {e}"))?;
        self.0.push((name, began, Instant::now()));
        Ok(done)
    }

    /// What each took, counted from its beginning or from the end of the fault, if that came in it.
    fn after(&self, over: Instant) -> Vec<(&'static str, Duration)> {
        let after = self.0.iter().filter(|(_, _, done)| *done > over);
        after
            .map(|(name, began, done)| (*name, done.duration_since(over.max(*began))))
            .collect()
    }
}

/// One life, and the fault that it meets.
async fn live(lane: &Arc<Lane>, cell: Option<&Cell>) -> Result<Lived, String> {
    lane.operator.ready().await?;
    let subject = Subject::new(lane, "life");
    let (began, mut steps) = (Instant::now(), Steps::new());
    let mark = lane.proxy.journal.mark();
    let Some(cell) = cell else {
        let lived = life(&subject, &mut steps).await;
        lived.map_err(|e| format!("{}: {e}", subject.name))?;
        return Ok(Lived {
            met: false,
            took: steps.after(began),
            met_most: 0,
            writes: busiest(lane, mark, &subject, Line::changes),
        });
    };
    let rule = lane.proxy.plan.add(cell.rule(&subject));
    if cell.kind.starts_with("watch ") {
        // A fault of a watch begins with it.
        lane.proxy.reopen(&cell.kind);
    }
    let lived = life(&subject, &mut steps).await;
    let applied = lane.proxy.plan.applied(rule);
    lane.proxy.plan.remove(rule);
    lived.map_err(|e| format!("{}: {e}", subject.name))?;
    let over = match (cell.extent, applied.first, applied.last) {
        (Extent::Long, Some(first), Some(last)) => (first + LONG).max(last + cell.lasts()),
        (_, _, Some(last)) => last + cell.lasts(),
        _ => began,
    };
    let met = busiest(lane, mark, &subject, |line| {
        line.kind() == cell.kind && line.done.is_some()
    });
    Ok(Lived {
        met: applied.count > 0,
        took: steps.after(over),
        met_most: met.into_values().max().unwrap_or(0),
        writes: busiest(lane, mark, &subject, Line::changes),
    })
}

/// From the creation to the end, and everything swept away.
async fn life(subject: &Subject, steps: &mut Steps) -> Result<(), String> {
    subject.create_workload(0).await?;
    let shutdown = json!({"callOut": {"mode": "None"}, "timeoutSeconds": 300});
    subject
        .create_hook(json!({"complete": {}, "shutdown": shutdown}))
        .await?;
    let ready = subject.until_status("ready without pods", |status| {
        condition::is_true(&status.conditions, ConditionType::Ready)
    });
    steps.step("ready", ready).await?;
    subject.scale(1).await?;
    steps.step("armed", subject.rolled_out(1)).await?;
    let app = subject.app().await?;
    let pods = subject.pods().await?;
    let pod = pods
        .first()
        .and_then(|pod| pod.metadata.uid.clone())
        .ok_or("no pod")?;
    subject.delete_workload(DeleteParams::foreground()).await?;
    steps.step("asked", subject.asked()).await?;
    let acknowledged = async {
        let said = app.insist(HookKind::Shutdown, &pod, RETRIES).await;
        said.counts()
            .then_some(())
            .ok_or_else(|| format!("{:?}: {}", said.status, said.body))
    };
    steps.step("acknowledged", acknowledged).await?;
    steps.step("removed", subject.removed()).await?;
    steps.step("swept away", subject.sweep_away()).await
}

/// Of each kind of call, the busiest minute of the busiest object.
fn busiest(
    lane: &Lane,
    mark: usize,
    subject: &Subject,
    counted: impl Fn(&Line) -> bool,
) -> BTreeMap<String, usize> {
    let mut calls: BTreeMap<(String, String), Vec<Timestamp>> = BTreeMap::new();
    for line in lane.proxy.journal.since(mark, &subject.needles) {
        if counted(&line) {
            let object = (line.kind(), line.object());
            calls.entry(object).or_default().push(line.at);
        }
    }
    let minute = jiff::SignedDuration::from_secs(60);
    let mut kinds = BTreeMap::new();
    for ((kind, _), times) in calls {
        let within = |from: &Timestamp| {
            let after = times.iter().map(|at| at.duration_since(*from));
            after.filter(|d| !d.is_negative() && *d < minute).count()
        };
        let most = times.iter().map(within).max().unwrap_or(0);
        let known = kinds.entry(kind).or_insert(0);
        *known = most.max(*known);
    }
    kinds
}
