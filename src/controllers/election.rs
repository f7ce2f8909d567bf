//! Which replica leads: looks at the Lease, decides, writes it, and runs the leader's tasks while
//! this replica holds it.
//!
//! # Expected flow
//! *Candidate*: reads the Lease every retry period, and takes it when it is free or has expired.
//! *Leader*: a [`Term`] begins, the leader's tasks are started with it, and the Lease is renewed
//! every retry period. When that fails until the renew deadline, or another holds the Lease, the
//! term ends, the tasks are cancelled and waited for, and the replica is a candidate again. *Told to
//! stop*: the same, and then the Lease is released, so that the next one need not wait. *The wall clock
//! was set*, or the process stopped for some seconds: the clock of the term, by which apps have their
//! time, is not what people read from theirs any more; a new term begins, which has the new time.
//!
//! # Guarantees
//! The fence of the term is closed before anything else is done about its end; the Lease is released
//! only after every write that had passed it has come back.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clock::Clocks;
use crate::cluster::Class;
use crate::cluster::lease::{LeaseApi, predecessor};
use crate::cluster::term::Term;
use crate::config::Periods;
use crate::decide::lease::{self, Known, Moment, Predecessor, Step};
use crate::metrics::Metrics;

/// How long the leader's tasks have to end by themselves.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// An Event that takes longer is dropped: it must not delay a renewal.
const TELL_WITHIN: Duration = Duration::from_secs(1);

/// A term whose clock is farther away from the wall clock ends.
const MOST_DRIFT: Duration = Duration::from_secs(30);

/// The leader's tasks of one term; each ends when the term's token is cancelled, and none before.
pub type Tasks = JoinSet<&'static str>;

/// What takes part in an election.
pub struct Election<F> {
    /// The Lease.
    pub lease: LeaseApi,
    /// The periods.
    pub periods: Periods,
    /// Who this process is; no other, and no later one, is the same.
    pub identity: String,
    /// What time it is.
    pub clocks: Clocks,
    /// Starts the leader's tasks.
    pub lead: F,
    /// Counters.
    pub metrics: Metrics,
}

/// A candidate, or the leader.
struct Replica {
    clocks: Clocks,
    known: Known,
    /// The Lease as last read or written, to be replaced in exactly this version.
    seen: Option<Lease>,
    terms: u32,
    /// Who led before the term that is tried for.
    predecessor: Option<Predecessor>,
    leading: Option<Leading>,
    /// What went wrong last; the same again is no news.
    fault: Option<String>,
}

struct Leading {
    term: Term,
    stop: CancellationToken,
    tasks: Tasks,
}

impl<F> Election<F>
where
    F: Fn(Term, CancellationToken) -> Tasks,
{
    /// Runs until `shutdown`, or until one of the leader's tasks ends that never should.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut replica = Replica::candidate(&self.clocks);
        loop {
            if replica.leading.is_none() {
                self.look(&mut replica).await;
            }
            if replica.has_another_time() {
                tracing::warn!(
                    "the wall clock was set, or the process was suspended; beginning a new term"
                );
                self.step_down(&mut replica).await;
            }
            match self.step(&replica) {
                Step::StepDown => self.step_down(&mut replica).await,
                Step::Acquire | Step::Renew => self.write(&mut replica).await,
                Step::Wait { .. } => {}
            }
            let pause = self.pause(&replica);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                ended = replica.task_ended() => {
                    tracing::error!(task = ended, "a task of the leader ended unexpectedly");
                    break;
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
        if let Some(leading) = &replica.leading {
            let term = leading.term.clone();
            self.step_down(&mut replica).await;
            self.release(&mut replica, &term).await;
        }
    }

    fn step(&self, replica: &Replica) -> Step {
        replica
            .known
            .step(&self.identity, &self.periods, replica.now())
    }

    fn pause(&self, replica: &Replica) -> Duration {
        // Chance, so that candidates do not all come back in the same moment.
        let retry = self
            .periods
            .retry
            .mul_f64(0.8 + 0.4 * rand::random::<f64>());
        match (self.step(replica), &replica.leading) {
            (Step::Wait { until }, Some(_)) => until.saturating_sub(replica.now()),
            (Step::Wait { until }, None) => until.saturating_sub(replica.now()).min(retry),
            (_, Some(_)) => Duration::ZERO,
            (_, None) => retry,
        }
    }

    /// How long one call may take: a second one has to fit into the renew deadline.
    fn call_within(&self) -> Duration {
        self.periods.renew_deadline / 2
    }

    async fn look(&self, replica: &mut Replica) {
        match self.lease.read(self.call_within()).await {
            Ok(lease) => replica.saw(lease),
            Err(error) => self.failed(replica, &error),
        }
    }

    async fn write(&self, replica: &mut Replica) {
        let sent = replica.now();
        let ends = replica
            .known
            .renewed
            .map(|r| r + self.periods.renew_deadline);
        let left = ends.map_or(Duration::MAX, |ends| ends.saturating_sub(sent));
        let (term, now) = match &replica.leading {
            Some(Leading { term, .. }) => (term.identity().to_owned(), term.clock().now()),
            None => (self.remember_predecessor(replica), self.clocks.wall()),
        };
        let before = replica.seen.as_ref().and_then(|seen| seen.spec.as_ref());
        let spec = lease::held(before, &self.identity, &self.periods, now);
        replica.known.tried = sent;
        let within = self.call_within().min(left);
        let written = self.lease.write(replica.seen.as_ref(), spec, &term, within);
        let written = written.await;
        match written {
            Ok(lease) => {
                replica.saw(Some(lease));
                replica.known.renewed = Some(sent);
                replica.fault = None;
                self.lead_until(replica, sent + self.periods.renew_deadline)
                    .await;
            }
            Err(error) => {
                self.failed(replica, &error);
                if error.class() == Class::Conflict {
                    self.look(replica).await;
                }
            }
        }
    }

    /// The name of the next term, and its predecessor: the one in the Lease, unless that is an own
    /// write whose answer was lost.
    fn remember_predecessor(&self, replica: &mut Replica) -> String {
        let term = self.term(replica.terms + 1);
        let before = replica.seen.as_ref().and_then(predecessor);
        if before.as_ref().is_none_or(|before| before.term != term) {
            replica.predecessor = before;
        }
        term
    }

    fn term(&self, number: u32) -> String {
        format!("{}.{number}", self.identity)
    }

    /// From before the write was sent, so that no other replica can have begun to wait earlier.
    async fn lead_until(&self, replica: &mut Replica, until: Moment) {
        if let Some(leading) = &replica.leading {
            return leading.term.extend(until);
        }
        replica.terms += 1;
        let identity = self.term(replica.terms);
        let term = Term::begin(&identity, replica.predecessor.take(), &self.clocks, until);
        let stop = CancellationToken::new();
        tracing::info!(leader = term.identity(), "became leader");
        self.metrics.leads(true);
        let mut tasks = (self.lead)(term.clone(), stop.clone());
        let kept = term.clock().clone().keep(stop.clone());
        tasks.spawn(async move {
            kept.await;
            "clock"
        });
        replica.leading = Some(Leading { tasks, term, stop });
        self.tell(replica, "Acquire", "became leader").await;
    }

    /// Ends the term: first the fence, then the tasks.
    async fn step_down(&self, replica: &mut Replica) {
        replica.known.renewed = None;
        let Some(Leading {
            term,
            stop,
            mut tasks,
        }) = replica.leading.take()
        else {
            return;
        };
        term.end();
        stop.cancel();
        let ended = async { while tasks.join_next().await.is_some() {} };
        if timeout(LEAVE_WITHIN, ended).await.is_err() {
            tasks.shutdown().await;
        }
        if timeout(LEAVE_WITHIN, term.settled()).await.is_err() {
            tracing::debug!("a write of the term that ended has not been answered yet");
        }
        self.metrics.leads(false);
        tracing::info!(leader = term.identity(), "lost leadership");
    }

    /// Releases the Lease, so that another replica can take it at once.
    async fn release(&self, replica: &mut Replica, term: &Term) {
        let within = LEAVE_WITHIN.min(self.call_within());
        let spec = replica.seen.as_ref().and_then(|seen| seen.spec.as_ref());
        let Some(spec) = spec.filter(|s| lease::holder(s) == Some(&self.identity)) else {
            return;
        };
        let free = lease::released(spec, term.clock().now());
        let seen = replica.seen.as_ref();
        match self.lease.write(seen, free, term.identity(), within).await {
            Ok(lease) => {
                tracing::info!("released the Lease");
                replica.saw(Some(lease));
                self.tell(replica, "Release", "stopped leading").await;
            }
            Err(error) => tracing::warn!(%error, "could not release the Lease; it expires"),
        }
    }

    /// An Event, as other controllers write it.
    async fn tell(&self, replica: &Replica, action: &str, what: &str) {
        if let Some(lease) = &replica.seen {
            let note = format!("{} {what}", self.identity);
            self.lease.tell(lease, action, note, TELL_WITHIN).await;
        }
    }

    fn failed(&self, replica: &mut Replica, error: &crate::cluster::Error) {
        if replica.leading.is_some() {
            self.metrics.lease_not_renewed();
        }
        let fault = error.to_string();
        if error.class() == Class::Conflict {
            tracing::debug!(%error, "another process wrote the Lease");
        } else if replica.fault.as_ref() != Some(&fault) {
            tracing::warn!(%error, leads = replica.leading.is_some(), "could not read or write the Lease; retrying");
            replica.fault = Some(fault);
        }
    }
}

impl Replica {
    fn candidate(clocks: &Clocks) -> Self {
        Self {
            clocks: clocks.clone(),
            known: Known::nothing(clocks.moment()),
            seen: None,
            terms: 0,
            predecessor: None,
            leading: None,
            fault: None,
        }
    }

    fn now(&self) -> Moment {
        self.clocks.moment()
    }

    /// The clock of its term is not what people read from theirs.
    fn has_another_time(&self) -> bool {
        let leading = self.leading.as_ref();
        leading.is_some_and(|leading| leading.term.clock().drift() > MOST_DRIFT)
    }

    fn saw(&mut self, lease: Option<Lease>) {
        let spec = lease.as_ref().map(|lease| lease.spec.clone());
        self.known
            .see(spec.map(Option::unwrap_or_default), self.clocks.moment());
        self.seen = lease;
    }

    /// The first of the leader's tasks to end; never, while it leads nobody.
    async fn task_ended(&mut self) -> &'static str {
        let Some(leading) = &mut self.leading else {
            return std::future::pending().await;
        };
        match leading.tasks.join_next().await {
            Some(Ok(name)) => name,
            Some(Err(_)) => "(panicked)",
            None => "(none)",
        }
    }
}

#[cfg(test)]
#[path = "election_tests.rs"]
mod tests;
