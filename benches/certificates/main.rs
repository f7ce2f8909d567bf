//! How many HookCertificates a second come from apply to `Ready`: `make bench-certificates`.
//!
//! The operator is a process of its own, the very binary of the image, with the rights it is
//! installed with. The measure is a bare client that makes the same writes, as the same
//! ServiceAccount, to the same API server, without making a key, a signature or a decision: for
//! each certificate a Secret, a status and an Event of the same size. Both follow the same apply,
//! and the same watch says when a certificate is ready.
//!
//! It asserts nothing: it prints a table, and writes the same to `target/bench-certificates.json`.

#[path = "../acknowledgements/audit.rs"]
mod audit;
mod bare;
// Some of what both benchmarks share is for the other one alone.
#[allow(dead_code)]
#[path = "../acknowledgements/connection.rs"]
mod connection;
#[allow(dead_code)]
#[path = "../acknowledgements/operator.rs"]
mod operator;
#[path = "../acknowledgements/place.rs"]
mod place;
#[path = "../acknowledgements/report.rs"]
mod report;
mod stage;

use audit::AuditLog;
use bare::Bare;
use operator::Operator;
use place::Place;
use report::{Goal, Report, median};
use stage::Stage;

const MANY: usize = 1000;
/// Operator and bare client take turns this often.
const TURNS: usize = 3;
/// What the bare client does at once; the best of them counts.
const AT_ONCE: [usize; 3] = [4, 8, 16];

/// What a reader of the table has to know.
const WHAT: &str = "a certificate is a user's own for one hook that is there, ECDSA P-256. Bare: the \
    operator's writes (Secret, status, Event) by keep-alive HTTP/1.1 connections, without the \
    operator. The ratio is to the bare client's best. Apply, watch, operator, API server and etcd \
    share this machine.";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let outcome = runtime.block_on(async {
        let place = Place::from_environment()?;
        let mut report = Report::default();
        let outcome = measure(&place, &mut report).await;
        // What was measured before something went wrong is worth seeing.
        report.print();
        outcome.and(report.write(&place.output))
    });
    if let Err(complaint) = outcome {
        eprintln!("bench: {complaint}");
        std::process::exit(1);
    }
}

async fn measure(place: &Place, report: &mut Report) -> Result<(), String> {
    let stage = Stage::open().await?;
    let audit = AuditLog::new(&place.audit_log);
    let start = async || Operator::start(&place.binary, &place.operator_kubeconfig).await;
    let operator = start().await?;
    stage.hook_is_there().await?;
    operator.stop().await;

    let mut ours = Vec::new();
    let (mut processor, mut memory) = (Vec::new(), Vec::new());
    let mut theirs = vec![Vec::new(); AT_ONCE.len()];
    for turn in 0..TURNS {
        let operator = start().await?;
        operator.quiet().await;
        let (before, mark) = (operator.processor()?, audit.mark()?);
        let took = stage
            .certificates(&format!("operator-{turn}"), MANY)
            .await?;
        ours.push(MANY as f64 / took.as_secs_f64());
        // What it still has to look at belongs to it.
        operator.quiet().await;
        let used = operator.processor()? - before;
        processor.push(used.as_secs_f64() * 1e3 / MANY as f64);
        memory.push(operator.resident()?);
        if turn == 0 {
            let calls = audit.since(mark)?;
            report.calls("apply to Ready", &calls, MANY, Some((3.0, 0.0)));
        }
        operator.stop().await;

        let example = stage.example(&format!("operator-{turn}-0")).await?;
        for (number, at_once) in AT_ONCE.into_iter().enumerate() {
            let bare = Bare::connect(&place.operator_kubeconfig, &example, at_once).await?;
            let prefix = format!("bare-{turn}-{at_once}");
            let took = stage.certificates_by(&prefix, MANY, bare).await?;
            theirs[number].push(MANY as f64 / took.as_secs_f64());
        }
    }

    report.note(WHAT.to_owned());
    report.note(format!("each turn: {ours:.0?} /s, bare {theirs:.0?} /s"));
    let certificates = median(ours);
    report.value("certificates", "/s", certificates, None);
    let mut best = 0.0_f64;
    for (at_once, rates) in AT_ONCE.into_iter().zip(theirs) {
        let rate = median(rates);
        best = best.max(rate);
        report.value(&format!("bare, {at_once} at once"), "/s", rate, None);
    }
    let goal = Some(Goal::AtLeast(0.8));
    report.value("ratio", "", certificates / best, goal);
    let name = "operator's CPU per certificate";
    report.value(name, "ms", median(processor), None);
    let name = "resident memory after each turn, of a new process";
    report.value(name, "MiB", median(memory), None);
    Ok(())
}
