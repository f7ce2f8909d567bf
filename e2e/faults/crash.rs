//! Crash at every call: a scenario is played undisturbed, and the calls that change something are
//! written down; then it is played again for each of them, and the operator is killed there: before
//! the call is sent, when it is carried out and not yet answered, when it is answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::audit::{self, Audit};
use crate::cluster::until;
use crate::lane::Lane;
use crate::lanes::Lanes;
use crate::proxy::plan::{Fault, Match, Moment, Rule, Times};
use crate::report::Report;
use crate::scenario::Scenario;
use crate::seed::Seed;
use crate::state;
use crate::subject::Subject;

/// Nothing is written for so long once all is done.
pub const SILENCE: Duration = Duration::from_millis(1500);
/// And it falls silent within this.
pub const SILENT_WITHIN: Duration = Duration::from_secs(20);
/// A point that a run does not come to, because two writes have become one, is tried again.
const TRIES: usize = 3;

/// A call to be killed at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// What is played.
    pub scenario: Scenario,
    /// The kind of call.
    pub kind: String,
    /// Which of its kind.
    pub number: u64,
    /// When, about that call.
    pub moment: Moment,
}

/// A scenario as it goes undisturbed.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// How often each kind of call was made.
    pub calls: BTreeMap<String, u64>,
    /// How it has ended, each time it was played.
    pub ends: Vec<Vec<String>>,
}

/// Every point of some scenarios, or a sample of so many.
pub async fn prove(
    lanes: &Lanes,
    scenarios: &[Scenario],
    sample: Option<usize>,
    seed: Seed,
    report: &mut Report,
) -> Result<(), String> {
    let mark = audit::mark(&lanes.cluster.audit_log)?;
    // A sample is to be fast.
    let times = if sample.is_some() { 1 } else { 2 };
    let recordings = record(lanes, scenarios, times).await?;
    let mut points = Vec::new();
    for (scenario, recording) in &recordings {
        for (kind, count) in &recording.calls {
            for number in 1..=*count {
                for moment in Moment::ALL {
                    points.push(Point {
                        scenario: *scenario,
                        kind: kind.clone(),
                        number,
                        moment,
                    });
                }
            }
        }
    }
    let all = points.len();
    seed.shuffle(&mut points);
    points.truncate(sample.unwrap_or(all));
    println!(
        "crash at every call: {} of {all} points, {seed}",
        points.len()
    );
    let recordings = Arc::new(recordings);
    let jobs = points.into_iter().map(|point| {
        let recordings = Arc::clone(&recordings);
        move |lane: Arc<Lane>| async move {
            let name = format!(
                "{} {} {} {:?}",
                point.scenario.word(),
                point.kind,
                point.number,
                point.moment
            );
            let outcome = play(&lane, &point, &recordings[&point.scenario]).await;
            (name, point.scenario, outcome)
        }
    });
    let outcomes = lanes.each(jobs).await;
    let mut counted: BTreeMap<Scenario, [usize; 3]> = BTreeMap::new();
    for (name, scenario, outcome) in outcomes {
        let counts = counted.entry(scenario).or_default();
        match outcome {
            Ok(true) => counts[0] += 1,
            Ok(false) => counts[1] += 1,
            Err(problem) => {
                counts[2] += 1;
                report.violation(&name, &problem);
            }
        }
    }
    lanes.swept(report).await;
    let audit = Audit::since(&lanes.cluster.audit_log, mark, &lanes.prefix)?;
    for violation in lanes.violations(&audit) {
        report.violation("audit log", &violation);
    }
    for (scenario, [kept, missed, broken]) in counted {
        let calls: u64 = recordings[&scenario].calls.values().sum();
        report.line(&format!(
            "crash, {}: {calls} calls; {kept} points kept, {missed} not come to, {broken} violated",
            scenario.word()
        ));
    }
    Ok(())
}

/// Plays each scenario so often, undisturbed.
pub async fn record(
    lanes: &Lanes,
    scenarios: &[Scenario],
    times: usize,
) -> Result<BTreeMap<Scenario, Recording>, String> {
    let jobs = scenarios
        .iter()
        .flat_map(|scenario| std::iter::repeat_n(*scenario, times))
        .map(|scenario| {
            move |lane: Arc<Lane>| async move { (scenario, undisturbed(&lane, scenario).await) }
        });
    let mut recordings: BTreeMap<Scenario, Recording> = BTreeMap::new();
    for (scenario, played) in lanes.each(jobs).await {
        let (calls, end) = played.map_err(|e| format!("{} undisturbed: {e}", scenario.word()))?;
        let recording = recordings.entry(scenario).or_default();
        for (kind, count) in calls {
            let most = recording.calls.entry(kind).or_default();
            *most = (*most).max(count);
        }
        recording.ends.push(end);
    }
    Ok(recordings)
}

async fn undisturbed(
    lane: &Arc<Lane>,
    scenario: Scenario,
) -> Result<(BTreeMap<String, u64>, Vec<String>), String> {
    let subject = Subject::new(lane, &scenario.word());
    let acting = scenario.begin(&subject).await?;
    silence(&subject).await?;
    let mark = lane.proxy.journal.mark();
    scenario.act(&subject, &acting).await?;
    scenario.end(&subject, &acting).await?;
    silence(&subject).await?;
    let mut calls = BTreeMap::new();
    for line in lane.proxy.journal.since(mark, &subject.needles) {
        if line.changes() {
            *calls.entry(line.kind()).or_default() += 1;
        }
    }
    let end = state::of(&subject).await?;
    lane.sweep(subject);
    Ok((calls, end))
}

/// Plays a scenario with a crash; whether it came to the point.
async fn play(lane: &Arc<Lane>, point: &Point, recording: &Recording) -> Result<bool, String> {
    for _ in 0..TRIES {
        lane.operator.ready().await?;
        let subject = Subject::new(lane, &point.scenario.word());
        let acting = point.scenario.begin(&subject).await?;
        silence(&subject).await?;
        let on = Match::of(&point.kind, &subject.needles);
        let rule = Rule::new(on, Times::Nth(point.number), Fault::Kill(point.moment));
        let rule = lane.proxy.plan.add(rule);
        let played = async {
            point.scenario.act(&subject, &acting).await?;
            point.scenario.end(&subject, &acting).await?;
            silence(&subject).await
        };
        let played = played.await;
        let applied = lane.proxy.plan.applied(rule).count;
        lane.proxy.plan.remove(rule);
        played.map_err(|e| format!("{}: {e}", subject.name))?;
        let end = state::of(&subject).await?;
        let alike = recording
            .ends
            .iter()
            .any(|wanted| state::difference(wanted, &end).is_empty());
        if !alike {
            let difference = state::difference(&recording.ends[0], &end).join("\n  ");
            return Err(format!("{} ended otherwise:\n  {difference}", subject.name));
        }
        lane.sweep(subject);
        if applied > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Waits until nothing has been written about a subject for a while.
pub async fn silence(subject: &Subject) -> Result<(), String> {
    let journal = &subject.lane.proxy.journal;
    until(SILENT_WITHIN, async || {
        // One that is being started says nothing either.
        subject.lane.operator.ready().await?;
        let mark = journal.mark();
        tokio::time::sleep(SILENCE).await;
        let written = journal.since(mark, &subject.needles);
        let written: Vec<_> = written
            .iter()
            .filter(|line| line.changes())
            .map(|line| line.object())
            .collect();
        match written.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "{} is not silent: {}",
                subject.name,
                written.join(", ")
            )),
        }
    })
    .await
}
