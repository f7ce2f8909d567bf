//! Elections against a Lease in memory, on a clock that the test moves.

use std::sync::{Mutex, PoisonError};

use hyper::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use kube::runtime::events::{Recorder, Reporter};
use serde_json::{Value, json};
use tokio::time::{Instant, advance, sleep};

use super::*;
use crate::testing::clock::Machine;

const PERIODS: Periods = Periods {
    lease: Duration::from_secs(15),
    renew_deadline: Duration::from_secs(10),
    retry: Duration::from_secs(2),
};
const SECOND: Duration = Duration::from_secs(1);

/// An API server that has one Lease; clones share it.
#[derive(Clone, Default)]
struct Server(std::sync::Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lease: Option<Value>,
    version: u64,
    events: Vec<String>,
    fault: Option<Fault>,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// Nobody is answered, and nothing is done.
    Away,
    /// Writes are done, and their answers get lost.
    AnswersLost,
}

impl Server {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                let path = head.uri.path().to_owned();
                let fault = server.state().fault;
                if fault == Some(Fault::Away) {
                    std::future::pending::<()>().await;
                }
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let (code, answer) = server.answer(&head.method, &path, body);
                if fault == Some(Fault::AnswersLost) && head.method != Method::GET {
                    std::future::pending::<()>().await;
                }
                let answer = Body::from(answer.to_string().into_bytes());
                Ok::<_, tower::BoxError>(Response::builder().status(code).body(answer)?)
            }
        });
        Client::new(service, "default")
    }

    fn answer(&self, method: &Method, path: &str, mut body: Value) -> (u16, Value) {
        let mut state = self.state();
        if path.contains("events") {
            let note = body["note"].as_str().unwrap_or_default().to_owned();
            let what = note.split_once(' ').map_or("", |(_, what)| what);
            state.events.push(what.to_owned());
            return (201, body);
        }
        let status = |code: u16, reason: &str| {
            let status = json!({"kind": "Status", "code": code, "reason": reason, "status": "Failure",
                "message": reason, "metadata": {}});
            (code, status)
        };
        let version = state
            .lease
            .as_ref()
            .map(|l| l["metadata"]["resourceVersion"].clone());
        match (method, version) {
            (&Method::GET, None) | (&Method::PUT, None) => return status(404, "NotFound"),
            (&Method::GET, Some(_)) => return (200, state.lease.clone().unwrap()),
            (&Method::POST, Some(_)) => return status(409, "AlreadyExists"),
            (&Method::PUT, Some(version)) if version != body["metadata"]["resourceVersion"] => {
                return status(409, "Conflict");
            }
            _ => {}
        }
        state.version += 1;
        body["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.lease = Some(body.clone());
        (200, body)
    }

    fn holder(&self) -> String {
        let state = self.state();
        let holder = state
            .lease
            .as_ref()
            .map(|l| l["spec"]["holderIdentity"].clone());
        holder
            .and_then(|h| h.as_str().map(str::to_owned))
            .unwrap_or_default()
    }

    fn break_down(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }
}

/// One replica, the terms it had, and what it is told.
struct Player {
    machine: Machine,
    terms: std::sync::Arc<Mutex<Vec<Term>>>,
    running: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
    end_task: CancellationToken,
    metrics: Metrics,
}

impl Player {
    /// A replica with a client of its own; it may be cut off from others' server.
    fn joins(server: &Server, name: &str) -> Self {
        let client = server.client();
        let recorder = Recorder::new(client.clone(), Reporter::from("test"));
        let (stop, end_task) = (CancellationToken::new(), CancellationToken::new());
        let terms = std::sync::Arc::new(Mutex::new(Vec::new()));
        let (kept, ends) = (terms.clone(), end_task.clone());
        let metrics = Metrics::new();
        let machine = Machine::default();
        let election = Election {
            lease: LeaseApi::new(client, "krake-system", recorder),
            periods: PERIODS,
            identity: name.to_owned(),
            clocks: machine.clocks(),
            lead: move |term: Term, stop: CancellationToken| {
                kept.lock().unwrap().push(term);
                let ends = ends.clone();
                let mut tasks = Tasks::new();
                tasks.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = ends.cancelled() => {}
                    }
                    "task"
                });
                tasks
            },
            metrics: metrics.clone(),
        };
        Self {
            metrics,
            machine,
            terms,
            running: tokio::spawn(election.run(stop.clone())),
            stop,
            end_task,
        }
    }

    fn leads(&self) -> bool {
        self.terms().last().is_some_and(Term::goes_on)
    }

    /// What is counted of its terms.
    fn counts(&self) -> [u64; 3] {
        let text = self.metrics.text();
        [
            "is_leader",
            "leader_transitions_total",
            "lease_renew_errors_total",
        ]
        .map(|name| {
            let series = format!("krake_hooks_{name} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&series));
            line.unwrap_or_default().parse().expect("a number")
        })
    }

    fn terms(&self) -> Vec<Term> {
        self.terms.lock().unwrap().clone()
    }

    async fn begins_to_lead(&self, within: Duration) -> Duration {
        let begin = Instant::now();
        let count = self.terms().len();
        while self.terms().len() == count {
            assert!(begin.elapsed() <= within, "it does not lead");
            sleep(SECOND / 10).await;
        }
        begin.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_the_other_takes_over_at_once_when_it_is_told_to_stop() {
    let server = Server::default();
    let mut first = Player::joins(&server, "first");
    first.begins_to_lead(SECOND).await;
    let second = Player::joins(&server, "second");
    sleep(60 * SECOND).await;
    assert!(first.leads() && !second.leads());
    assert_eq!(first.terms().len(), 1);
    assert_eq!(server.holder(), "first");

    first.stop.cancel();
    let took = second.begins_to_lead(3 * SECOND).await;
    assert!(took <= 3 * SECOND, "{took:?}");
    (&mut first.running).await.unwrap();
    assert!(!first.leads());
    assert_eq!(server.holder(), "second");
    assert_eq!(second.terms()[0].identity(), "second.1");
    let transitions = server.state().lease.as_ref().unwrap()["spec"]["leaseTransitions"].clone();
    assert_eq!(transitions, 1);
    let events = server.state().events.clone();
    assert_eq!(
        events,
        ["became leader", "stopped leading", "became leader"]
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_dies_is_followed_when_its_lease_has_expired_and_not_before() {
    let server = Server::default();
    let first = Player::joins(&server, "first");
    first.begins_to_lead(SECOND).await;
    let second = Player::joins(&server, "second");
    sleep(30 * SECOND).await;
    first.running.abort();
    let took = second.begins_to_lead(20 * SECOND).await;
    assert!(took > PERIODS.lease - PERIODS.retry - SECOND, "{took:?}");
    assert!(
        !first.leads(),
        "its term is over by then, whoever still has it"
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_renew_stops_before_the_lease_can_be_taken() {
    let server = Server::default();
    let first = Player::joins(&server, "first");
    first.begins_to_lead(SECOND).await;
    sleep(5 * SECOND).await;
    assert_eq!(first.counts(), [1, 1, 0]);
    server.break_down(Some(Fault::Away));
    let away = Instant::now();
    while first.leads() {
        sleep(SECOND / 10).await;
    }
    assert!(
        away.elapsed() <= PERIODS.renew_deadline,
        "{:?}",
        away.elapsed()
    );
    assert!(away.elapsed() > PERIODS.renew_deadline - 3 * SECOND);
    sleep(20 * SECOND).await;
    assert_eq!(
        first.terms().len(),
        1,
        "and it stays so while nobody is there"
    );
    let [leads, begun, not_renewed] = first.counts();
    assert!((leads, begun) == (0, 1) && not_renewed > 0, "{not_renewed}");

    // Nobody took over: it goes on as soon as it can, in another term.
    server.break_down(None);
    first.begins_to_lead(PERIODS.renew_deadline).await;
    assert!(!first.terms()[0].goes_on());
    assert_eq!(first.terms()[1].identity(), "first.2");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_whose_answer_was_lost_harms_nobody() {
    let server = Server::default();
    let first = Player::joins(&server, "first");
    first.begins_to_lead(SECOND).await;
    sleep(SECOND).await;
    server.break_down(Some(Fault::AnswersLost));
    sleep(5 * SECOND).await;
    server.break_down(None);
    sleep(30 * SECOND).await;
    assert!(first.leads());
    assert_eq!(first.terms().len(), 1);
}

/// Stopped for twice the lease: the clock goes on, and nothing of the process does.
#[tokio::test(start_paused = true)]
async fn one_that_was_stopped_for_twice_the_lease_leads_no_more_when_it_goes_on() {
    let server = Server::default();
    let first = Player::joins(&server, "first");
    first.begins_to_lead(SECOND).await;
    sleep(5 * SECOND).await;
    let (term, mut taken) = (
        first.terms()[0].clone(),
        server.state().lease.clone().unwrap(),
    );
    taken["spec"]["holderIdentity"] = json!("second");
    assert_eq!(server.answer(&Method::PUT, "/", taken).0, 200);
    advance(2 * PERIODS.lease).await;
    assert!(!term.goes_on(), "before anything of it had its turn");
    sleep(5 * SECOND).await;
    assert!(!first.leads());
    assert_eq!(server.holder(), "second");
}

/// Which term was before, and when it was last known to lead by its own clock.
#[tokio::test(start_paused = true)]
async fn a_new_leader_knows_who_was_before_and_until_when() {
    let server = Server::default();
    let mut first = Player::joins(&server, "first");
    first.begins_to_lead(SECOND).await;
    let first_term = first.terms()[0].clone();
    assert_eq!(first_term.predecessor(), None, "there was none");
    let second = Player::joins(&server, "second");
    sleep(60 * SECOND).await;
    // Whatever time it is on the other machine.
    second.machine.set_wall_clock(-86_400);
    let before = |term: &Term| term.predecessor().expect("somebody led before").clone();

    // It ends in order.
    first.stop.cancel();
    second.begins_to_lead(3 * SECOND).await;
    (&mut first.running).await.unwrap();
    let told = before(&second.terms()[0]);
    assert_eq!(told.term, "first.1");
    let since = first_term.clock().now().duration_since(told.renewed);
    assert!(since.as_secs() <= 3, "{since}");

    // It dies, and was last heard of at its last renewal.
    let second_term = second.terms()[0].clone();
    let third = Player::joins(&server, "third");
    sleep(60 * SECOND).await;
    second.running.abort();
    let died = second_term.clock().now();
    third.begins_to_lead(20 * SECOND).await;
    let told = before(&third.terms()[0]);
    assert_eq!(told.term, "second.1");
    let since = died.duration_since(told.renewed);
    assert!((0..=3).contains(&since.as_secs()), "{since}");
}

/// Its monotonic clock has stood still, and others' have not.
#[tokio::test(start_paused = true)]
async fn one_whose_machine_was_suspended_leads_no_more_when_it_goes_on() {
    let server = Server::default();
    let first = Player::joins(&server, "first");
    first.begins_to_lead(SECOND).await;
    sleep(5 * SECOND).await;
    let term = first.terms()[0].clone();
    let before = term.clock().now();
    first.machine.suspend(2 * PERIODS.lease);
    assert!(!term.goes_on(), "before anything of it had its turn");
    first.begins_to_lead(5 * SECOND).await;
    let next = first.terms()[1].clone();
    let told = next.predecessor().expect("its own last term");
    assert_eq!(told.term, "first.1");
    assert!(
        told.renewed <= before,
        "nothing of the time between is counted"
    );
    assert!(
        next.clock().now() >= before + 2 * PERIODS.lease,
        "it has the new time"
    );
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_is_set_begins_a_new_term_and_moves_nothing_in_the_old_one() {
    for step in [3600, -3600] {
        let server = Server::default();
        let first = Player::joins(&server, "first");
        first.begins_to_lead(SECOND).await;
        sleep(5 * SECOND).await;
        let term = first.terms()[0].clone();
        let before = term.clock().now();
        first.machine.set_wall_clock(step);
        first.begins_to_lead(5 * SECOND).await;
        let next = first.terms()[1].clone();
        let told = next.predecessor().expect("its own last term");
        let since = told.renewed.duration_since(before);
        assert!((-3..=3).contains(&since.as_secs()), "{since}");
        let set = next.clock().now().duration_since(before).as_secs() - step;
        assert!((0..=5).contains(&set), "{set}");
        sleep(60 * SECOND).await;
        assert!(next.goes_on());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_else_writes_on_stays_and_one_that_is_taken_away_is_left() {
    let server = Server::default();
    let first = Player::joins(&server, "first");
    first.begins_to_lead(SECOND).await;
    let change = |change: fn(&mut Value)| {
        let mut lease = server.state().lease.clone().unwrap();
        change(&mut lease);
        assert_eq!(server.answer(&Method::PUT, "/", lease).0, 200);
    };
    change(|lease| lease["metadata"]["annotations"] = json!({"seen": "yes"}));
    sleep(20 * SECOND).await;
    assert!(first.leads());
    assert_eq!(
        server.state().lease.as_ref().unwrap()["metadata"]["annotations"]["seen"],
        "yes"
    );

    change(|lease| lease["spec"]["holderIdentity"] = json!("second"));
    sleep(3 * SECOND).await;
    assert!(!first.leads());
    assert_eq!(server.holder(), "second");
}

#[tokio::test(start_paused = true)]
async fn a_leaders_task_that_ends_ends_the_election_and_the_lease_is_free() {
    let server = Server::default();
    let first = Player::joins(&server, "first");
    first.begins_to_lead(SECOND).await;
    first.end_task.cancel();
    first.running.await.unwrap();
    assert_eq!(server.holder(), "");
}

/// A task that does not end is aborted, so that the lease is not given away under it.
#[tokio::test(start_paused = true)]
async fn nothing_of_a_term_outlives_its_end() {
    struct Flag(std::sync::Arc<Mutex<bool>>);
    impl Drop for Flag {
        fn drop(&mut self) {
            *self.0.lock().unwrap() = true;
        }
    }
    let server = Server::default();
    let client = server.client();
    let recorder = Recorder::new(client.clone(), Reporter::from("test"));
    let (dropped, begun) = (
        std::sync::Arc::new(Mutex::new(false)),
        CancellationToken::new(),
    );
    let (kept, begins) = (dropped.clone(), begun.clone());
    let election = Election {
        lease: LeaseApi::new(client, "krake-system", recorder),
        periods: PERIODS,
        identity: "first".into(),
        clocks: Machine::default().clocks(),
        lead: move |_: Term, _: CancellationToken| {
            let flag = Flag(kept.clone());
            begins.cancel();
            let mut tasks = Tasks::new();
            tasks.spawn(async move {
                let _flag = flag;
                std::future::pending().await
            });
            tasks
        },
        metrics: Metrics::new(),
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn(election.run(stop.clone()));
    begun.cancelled().await;
    stop.cancel();
    running.await.unwrap();
    assert!(*dropped.lock().unwrap());
    assert_eq!(server.holder(), "");
}
