//! What an acknowledgement costs, measured on a real API server: `make bench`.
//!
//! The operator is a process of its own, the very binary of the image, with the rights it is
//! installed with. Everything is asked from outside it: the callback endpoint, its log of system
//! calls (`/proc`), and the API server's audit log. The measure of all is the same guarded JSON
//! patch, sent by a client that does nothing else, as the same ServiceAccount to the same API
//! server, while the operator watches: so both sides pay for what a write sets in motion.
//!
//! It asserts nothing: it prints a table, and writes the same to `target/bench.json`.

mod audit;
mod connection;
mod load;
mod operator;
mod place;
mod report;
mod stage;

use std::time::{Duration, Instant};

use audit::AuditLog;
use connection::Target;
use load::{Lane, Run};
use operator::Operator;
use place::Place;
use report::{Goal, Report, median};
use stage::{Kinds, Stage, Subject};

/// Each measurement takes this long, so that all of them fit into some minutes.
const WINDOW: Duration = Duration::from_secs(2);
/// Endpoint and raw take turns this often.
const TURNS: usize = 3;
const CONNECTIONS: [usize; 3] = [1, 8, 32];
/// Hooks whose way to `Ready` is counted, of each kind.
const COUNTED: usize = 10;
const MANY: usize = 1000;

/// What a reader of the table has to know.
const WHAT: &str = "acknowledgements are `complete`, of hooks that have completed, each with another \
    message: each is one write. Raw is the same guarded JSON patch, by a bare HTTP/1.1 client as the \
    operator's ServiceAccount, to the same hooks, while the operator watches; both sides pay for \
    the controllers' looks that follow. CPU per acknowledgement has these looks in it. Load, \
    operator, API server and etcd share this machine.";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let outcome = runtime.block_on(async {
        let mut report = Report::default();
        let outcome = measure(&Place::from_environment()?, &mut report).await;
        // What was measured before something went wrong is worth seeing.
        report.print();
        outcome.and(report.write(&Place::from_environment()?.output))
    });
    if let Err(complaint) = outcome {
        eprintln!("bench: {complaint}");
        std::process::exit(1);
    }
}

async fn measure(place: &Place, report: &mut Report) -> Result<(), String> {
    let stage = Stage::open().await?;
    let audit = AuditLog::new(&place.audit_log);
    let operator = Operator::start(&place.binary, &place.operator_kubeconfig).await?;
    operator.quiet().await;
    report.value("resident memory, idle", "MiB", operator.resident()?, None);

    for (kinds, word) in [(Kinds::Complete, "complete"), (Kinds::Shutdown, "shutdown")] {
        let mark = audit.mark()?;
        let names = (0..COUNTED).map(|i| format!("counted-{word}-{i}"));
        stage.create(names.collect(), kinds, false, 1).await?;
        stage
            .all_ready(&format!("counted-{word}-"), COUNTED)
            .await?;
        operator.quiet().await;
        let calls = audit.since(mark)?;
        report.calls(
            &format!("apply to Ready, {word} hook"),
            &calls,
            COUNTED,
            None,
        );
    }

    let most = *CONNECTIONS.iter().max().unwrap_or(&1);
    let names: Vec<String> = (0..most).map(|i| format!("load-{i}")).collect();
    stage
        .create(names.clone(), Kinds::Complete, false, 8)
        .await?;
    stage.all_ready("load-", most).await?;
    let subjects = stage.subjects(&names, &operator.endpoint()).await?;
    let raw = Target::api_server(&place.operator_kubeconfig).await?;
    count_acknowledgements(&operator, &audit, &subjects, report).await?;
    throughput(&operator, &subjects, &raw, report).await?;
    let with_operator = operator.resident()?;
    report.value(
        "resident memory, after the load",
        "MiB",
        with_operator,
        None,
    );

    let (began, mark) = (Instant::now(), audit.mark()?);
    let names = (0..MANY).map(|i| format!("many-{i}")).collect();
    stage.create(names, Kinds::Both, true, 16).await?;
    let certified = stage.certified("many-", MANY).await?;
    report.value(
        &format!("{MANY} hooks with certificate, after"),
        "s",
        began.elapsed().as_secs_f64(),
        None,
    );
    if certified < MANY {
        report.note(format!(
            "only {certified} of {MANY} hooks had their certificate in time"
        ));
    }
    let calls = audit.since(mark)?;
    report.calls(&format!("{MANY} hooks"), &calls, MANY, None);
    operator.quiet().await;
    let name = format!("resident memory, {MANY} hooks");
    report.value(&name, "MiB", operator.resident()?, None);
    operator.stop().await;

    for connections in CONNECTIONS {
        let run = load::run(raw_lanes(&raw, &subjects, connections)?, WINDOW).await?;
        let name = format!("raw, no operator running, {connections} connections");
        report.value(&name, "/s", run.per_second(), None);
    }
    Ok(())
}

/// The first acknowledgement of a hook completes it, which is the controller's work; those after it
/// are the callback's alone.
async fn count_acknowledgements(
    operator: &Operator,
    audit: &AuditLog,
    subjects: &[Subject],
    report: &mut Report,
) -> Result<(), String> {
    operator.quiet().await;
    let mark = audit.mark()?;
    for subject in subjects {
        load::once(ack_lane(subject, 0)).await?;
    }
    operator.quiet().await;
    let calls = audit.since(mark)?;
    let name = "acknowledgement that completes";
    report.calls(name, &calls, subjects.len(), None);

    let mark = audit.mark()?;
    for subject in subjects {
        for client in 1..=5 {
            load::once(ack_lane(subject, client)).await?;
        }
    }
    operator.quiet().await;
    let calls = audit.since(mark)?;
    let goal = Some((1.0, 0.0));
    report.calls("acknowledgement", &calls, subjects.len() * 5, goal);
    Ok(())
}

async fn throughput(
    operator: &Operator,
    subjects: &[Subject],
    raw: &Target,
    report: &mut Report,
) -> Result<(), String> {
    report.note(WHAT.to_owned());
    let mut processor = Vec::new();
    for connections in CONNECTIONS {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            operator.quiet().await;
            let lanes = subjects.iter().take(connections);
            let lanes = lanes.map(|subject| ack_lane(subject, 0)).collect();
            let before = operator.processor()?;
            let run = load::run(lanes, WINDOW).await?;
            // What the controller still has to look at belongs to it.
            operator.quiet().await;
            let used = operator.processor()? - before;
            processor.push(used.as_secs_f64() * 1e3 / run.count() as f64);
            ours.push(run);
            let lanes = raw_lanes(raw, subjects, connections)?;
            theirs.push(load::run(lanes, WINDOW).await?);
        }
        compare(
            report,
            &format!("{connections} connections, a hook each"),
            &ours,
            &theirs,
            true,
        );
    }
    let goal = Some(Goal::AtMost(0.3));
    let name = "operator's CPU per acknowledgement";
    report.value(name, "ms", median(processor.clone()), goal);
    report.note(format!(
        "CPU per acknowledgement, each window: {processor:.3?} ms"
    ));

    let (mut ours, mut theirs, mut processor) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS.min(2) {
        operator.quiet().await;
        let lanes = (0..32).map(|client| ack_lane(&subjects[0], client));
        let before = operator.processor()?;
        let run = load::run(lanes.collect(), WINDOW).await?;
        operator.quiet().await;
        let used = operator.processor()? - before;
        processor.push(used.as_secs_f64() * 1e3 / run.count() as f64);
        ours.push(run);
        let lanes = (0..32).map(|client| raw_lane(raw, &subjects[0], client));
        theirs.push(load::run(lanes.collect::<Result<_, _>>()?, WINDOW).await?);
    }
    compare(report, "32 connections on one hook", &ours, &theirs, false);
    let name = "operator's CPU per acknowledgement, one hook";
    report.value(name, "ms", median(processor), None);
    Ok(())
}

fn compare(report: &mut Report, name: &str, ours: &[Run], theirs: &[Run], has_goal: bool) {
    let rate = |runs: &[Run]| median(runs.iter().map(Run::per_second).collect());
    let (acknowledged, raw) = (rate(ours), rate(theirs));
    report.value(
        &format!("{name}: acknowledgements"),
        "/s",
        acknowledged,
        None,
    );
    report.value(&format!("{name}: raw"), "/s", raw, None);
    let goal = has_goal.then_some(Goal::AtLeast(0.8));
    report.value(&format!("{name}: ratio"), "", acknowledged / raw, goal);
    for (word, runs) in [("acknowledgements", ours), ("raw", theirs)] {
        for share in [0.5, 0.99] {
            let took = median(runs.iter().map(|run| run.quantile(share)).collect());
            let percent = share * 100.0;
            report.value(&format!("{name}: {word}, p{percent}"), "ms", took, None);
        }
    }
}

fn ack_lane(subject: &Subject, client: usize) -> Lane {
    let (method, path, body) = subject.acknowledgement(client);
    Lane::new(
        subject.endpoint.clone(),
        method,
        path,
        body,
        "application/json",
    )
}

fn raw_lanes(raw: &Target, subjects: &[Subject], count: usize) -> Result<Vec<Lane>, String> {
    let subjects = subjects.iter().take(count);
    subjects.map(|subject| raw_lane(raw, subject, 0)).collect()
}

fn raw_lane(raw: &Target, subject: &Subject, client: usize) -> Result<Lane, String> {
    let (method, path, body) = subject.patch(client)?;
    let content = "application/json-patch+json";
    Ok(Lane::new(raw.clone(), method, path, body, content))
}
