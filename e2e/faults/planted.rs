//! Mistakes on purpose (the patches in `planted`): a harness that finds none of them proves nothing. Each
//! has a play in which it shows; the same play is kept by an operator that makes no mistake.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;

use krake_hooks::api::HookKind;
use krake_hooks::api::condition::{self, ConditionType};

use crate::audit::{self, Audit};
use crate::cluster::{Cluster, until};
use crate::lane::Lane;
use crate::proxy::plan::{Fault, Match, Rule, Times};
use crate::report::Report;
use crate::scenario::{Acting, Scenario};
use crate::seed::Seed;
use crate::subject::{SOON, Subject};

/// So many operators side by side.
const AT_ONCE: usize = 4;
/// Between a hook's deletion and its workload's; less than the operator's `disarmDelaySeconds`.
const BETWEEN: Duration = Duration::from_millis(1200);
/// How long calls are refused, and how many of a kind the operator may make meanwhile.
const REFUSED: Duration = Duration::from_secs(10);
const MOST_CALLS: usize = 10;
/// What a write of acknowledgements has in it, and one that closes a request for lack of one.
const ACKNOWLEDGEMENT: &str = "/status/acknowledgements/";
const TIMED_OUT: &str = "TimedOut";
const STATUS: &str = "patch krakehooks/status";

/// What is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Play {
    /// An acknowledgement before anybody has asked.
    Unasked,
    /// An acknowledgement after the deadline.
    Late,
    /// The write of an acknowledgement never reaches the API server.
    WriteLost,
    /// An acknowledgement comes while a close is on its way.
    CloseDelayed,
    /// A close comes while an acknowledgement is on its way.
    AcknowledgementDelayed,
    /// A removal as it should be.
    Removal,
    /// A removal whose decisions have to do without some reads.
    ReadsFail,
    /// A foreground deletion of what says that it is armed.
    Armed,
    /// The pods are to live on.
    Orphan,
    /// The same, while the operator is away.
    OrphanMeanwhile,
    /// The operator is away when the deadline passes.
    Away,
    /// The hook is deleted a moment before its workload.
    Staggered,
    /// The API server refuses a write for a while.
    Refused,
}

/// A mistake, by the name of its patch, and the play that shows it.
pub const BUGS: [(&str, Play); 16] = [
    ("AnswerBeforeWrite", Play::WriteLost),
    ("LateCounts", Play::Late),
    ("RequestNotTested", Play::AcknowledgementDelayed),
    ("FinalizerFirst", Play::Removal),
    ("DeadlineKept", Play::Away),
    ("UnaskedCounts", Play::Unasked),
    ("LostAnswerCounts", Play::WriteLost),
    ("StatusForced", Play::CloseDelayed),
    ("ReleaseUnclosed", Play::Removal),
    ("OrphansDeleted", Play::Orphan),
    ("GuardNotStripped", Play::Orphan),
    ("DisarmedAtOnce", Play::Staggered),
    ("CanaryForgotten", Play::OrphanMeanwhile),
    ("GuardForgotten", Play::Armed),
    ("FinalizerDroppedOnError", Play::ReadsFail),
    ("RetryWithoutPause", Play::Refused),
];

/// What the unit tests find: the first would be kept from any effect by the admission policy, the second
/// by what every write names beside (`hack/faults`).
const UNIT_TESTED: [&str; 2] = ["SecretOverwritten", "WriteAfterLeaseLoss"];
const PATCHES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/faults/planted");

/// The names of the patches that there are.
fn patches() -> std::io::Result<BTreeSet<String>> {
    let files = std::fs::read_dir(PATCHES)?;
    let names = files.map(|file| Ok(file?.file_name().to_string_lossy().into_owned()));
    let names: Vec<String> = names.collect::<std::io::Result<_>>()?;
    let patches = names.iter().filter_map(|name| name.strip_suffix(".patch"));
    Ok(patches.map(str::to_owned).collect())
}

/// Plays for each mistake, or for so many: with it there must be a violation, without none.
pub async fn prove(
    cluster: &Cluster,
    binary: &Path,
    sample: Option<usize>,
    seed: Seed,
    report: &mut Report,
) -> Result<(), String> {
    let found = patches().map_err(|e| format!("{PATCHES}: {e}"))?;
    let played = BUGS.iter().map(|(bug, _)| *bug).chain(UNIT_TESTED);
    let played: BTreeSet<_> = played.map(str::to_owned).collect();
    if played != found {
        let differ: Vec<_> = played.symmetric_difference(&found).collect();
        return Err(format!("played, or a patch, but not both: {differ:?}"));
    }
    let mut bugs = BUGS.to_vec();
    seed.shuffle(&mut bugs);
    bugs.truncate(sample.unwrap_or(bugs.len()));
    println!("mistakes: {} of {}, {seed}", bugs.len(), BUGS.len());
    let mut plays: Vec<(Option<&str>, Play)> = Vec::new();
    for (bug, play) in &bugs {
        plays.push((Some(*bug), *play));
        if !plays.contains(&(None, *play)) {
            plays.push((None, *play));
        }
    }
    let mut played = futures::stream::iter(plays)
        .map(|(bug, play)| async move { (bug, play, alone(cluster, binary, bug, play).await) })
        .buffer_unordered(AT_ONCE);
    let mut caught = 0;
    while let Some((bug, play, found)) = played.next().await {
        let found = found?;
        match bug {
            None => found
                .iter()
                .for_each(|problem| report.violation(&format!("{play:?}, no mistake"), problem)),
            Some(bug) => match found.first() {
                Some(problem) => {
                    caught += 1;
                    println!("caught {bug}: {problem}");
                }
                None => report.violation(bug, "nobody has noticed"),
            },
        }
    }
    report.line(&format!("planted bugs: {caught} of {} caught", bugs.len()));
    Ok(())
}

/// Plays on a lane of its own; what was wrong.
async fn alone(
    cluster: &Cluster,
    binary: &Path,
    bug: Option<&str>,
    play: Play,
) -> Result<Vec<String>, String> {
    let mark = audit::mark(&cluster.audit_log)?;
    let prefix = format!("faults-{:06x}", rand::random::<u32>() >> 8);
    let lane = Arc::new(Lane::open(cluster, binary, &prefix, 0, bug).await?);
    // An operator that cannot even begin shows no mistake: it would be found in any play.
    let (subject, acting) = play
        .begin(&lane)
        .await
        .map_err(|e| format!("{} has not begun: {e}", bug.unwrap_or("no mistake")))?;
    let played = play.on(&lane, &subject, &acting).await;
    let audit = Audit::since(&cluster.audit_log, mark, &prefix)?;
    let mut found = lane.violations(&audit);
    found.extend(played.err());
    lane.end().await;
    Ok(found)
}

impl Play {
    fn scenario(self) -> Scenario {
        match self {
            Self::Late | Self::CloseDelayed | Self::AcknowledgementDelayed | Self::Away => {
                Scenario::Deadline
            }
            Self::Orphan | Self::OrphanMeanwhile => Scenario::Orphan,
            Self::Refused | Self::Armed => Scenario::Create,
            Self::Staggered => Scenario::Sweep,
            _ => Scenario::Shutdown,
        }
    }

    async fn begin(self, lane: &Arc<Lane>) -> Result<(Subject, Acting), String> {
        let subject = Subject::new(lane, &format!("{self:?}").to_lowercase());
        let acting = self.scenario().begin(&subject).await?;
        Ok((subject, acting))
    }

    async fn on(self, lane: &Arc<Lane>, subject: &Subject, acting: &Acting) -> Result<(), String> {
        let scenario = self.scenario();
        let plan = &lane.proxy.plan;
        let rule = |on: Match, times, fault| plan.add(Rule::new(on, times, fault));
        let status = |word| Match::of(STATUS, &subject.needles).saying(word);
        match self {
            Self::Unasked => refused(acting, "nobody had asked").await,
            Self::Late => {
                scenario.act(subject, acting).await?;
                scenario.end(subject, acting).await?;
                refused(acting, "it was late").await
            }
            Self::WriteLost => {
                subject.delete_workload(DeleteParams::background()).await?;
                subject.asked().await?;
                rule(status(ACKNOWLEDGEMENT), Times::First(1), Fault::DropBefore);
                acting.tell(HookKind::Shutdown).await?;
                acting.acknowledge(HookKind::Shutdown).await?;
                scenario.end(subject, acting).await
            }
            Self::CloseDelayed => {
                let late = rule(
                    status(TIMED_OUT),
                    Times::First(1),
                    Fault::Delay(Duration::from_millis(2500)),
                );
                scenario.act(subject, acting).await?;
                until(SOON, async || match plan.applied(late).count {
                    0 => Err("no close is on its way".to_owned()),
                    _ => Ok(()),
                })
                .await?;
                acting.tell(HookKind::Shutdown).await?;
                subject.removed().await
            }
            Self::AcknowledgementDelayed => {
                scenario.act(subject, acting).await?;
                subject.asked().await?;
                // Longer than the deadline is away, shorter than the endpoint's patience.
                rule(
                    status(ACKNOWLEDGEMENT),
                    Times::First(1),
                    Fault::Delay(Duration::from_secs(4)),
                );
                acting.tell(HookKind::Shutdown).await?;
                subject.removed().await
            }
            Self::ReadsFail => {
                let reads = Match::of("list pods", &subject.needles);
                rule(reads, Times::First(2), Fault::Answer(500));
                scenario.act(subject, acting).await?;
                scenario.end(subject, acting).await
            }
            Self::Armed => armed(subject).await,
            Self::OrphanMeanwhile => {
                lane.operator.leave().await;
                scenario.act(subject, acting).await?;
                until(SOON, async || {
                    let workload = subject.workload().await?.ok_or("no Deployment")?;
                    match workload.finalizers() {
                        [_] => Ok(()),
                        more => Err(format!("{more:?}")),
                    }
                })
                .await?;
                lane.operator.come_back().await?;
                scenario.end(subject, acting).await
            }
            Self::Away => {
                scenario.act(subject, acting).await?;
                let request = subject.asked().await?;
                lane.operator.leave().await;
                until(SOON, async || {
                    let over = request
                        .deadline
                        .as_ref()
                        .is_none_or(|at| at.0 < jiff::Timestamp::now());
                    over.then_some(())
                        .ok_or_else(|| "the deadline is to come".to_owned())
                })
                .await?;
                lane.operator.come_back().await?;
                scenario.end(subject, acting).await
            }
            Self::Staggered => {
                subject.delete_hook().await?;
                tokio::time::sleep(BETWEEN).await;
                subject.delete_workload(DeleteParams::foreground()).await?;
                subject.asked().await?;
                acting.acknowledge(HookKind::Shutdown).await?;
                scenario.end(subject, acting).await
            }
            Self::Refused => {
                let writes = Match::of("create hookguards", &subject.needles);
                rule(writes, Times::Within(REFUSED), Fault::Answer(500));
                let mark = lane.proxy.journal.mark();
                scenario.act(subject, acting).await?;
                scenario.end(subject, acting).await?;
                let calls = lane.proxy.journal.since(mark, &subject.needles);
                let calls = calls
                    .iter()
                    .filter(|line| line.kind() == "create hookguards");
                match calls.count() {
                    count if count > MOST_CALLS => {
                        Err(format!("{count} calls in {} s", REFUSED.as_secs()))
                    }
                    _ => Ok(()),
                }
            }
            Self::Removal | Self::Orphan => {
                scenario.act(subject, acting).await?;
                scenario.end(subject, acting).await
            }
        }
    }
}

/// What the hook says is what counts here: nothing else is looked at.
async fn armed(subject: &Subject) -> Result<(), String> {
    subject.create_workload(1).await?;
    let shutdown = json!({"callOut": {"mode": "None"}, "timeoutSeconds": 3});
    subject.create_hook(json!({"shutdown": shutdown})).await?;
    subject
        .until_status("armed", |status| {
            let is = |kind| condition::is_true(&status.conditions, kind);
            is(ConditionType::Ready) && is(ConditionType::Armed)
        })
        .await?;
    subject.delete_workload(DeleteParams::foreground()).await?;
    subject.removed().await
}

async fn refused(acting: &Acting, because: &str) -> Result<(), String> {
    let said = acting.tell(HookKind::Shutdown).await?;
    match said.status {
        Some(409) => Ok(()),
        status => Err(format!(
            "{because}, and the answer was {status:?}: {}",
            said.body
        )),
    }
}
