//! The time for which this process leads, and the fence in front of everything it writes as leader.
//!
//! # Guarantees
//! - No write leaves after the end of the term: the clock is looked at when it is sent, also after
//!   the process had been stopped, or its machine suspended, for any time.
//! - One that has not been answered by then is let go of, so it cannot leave later either.
//! - A term that is over never begins again. Whoever leads once more does so in a new one, and a
//!   task that the old one left behind can still write nothing.
//!
//! # Caveats
//! What was on its way when the term ended may still arrive. Every apply to a workload, to a hook's
//! status or to a certificate's names the resourceVersion that it was decided on, every JSON patch tests
//! what it takes away, and every deletion names a uid; the rest (guards, ConfigMaps, canaries) changes
//! nothing that the next leader would not, or that the garbage collector does not take back.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use thiserror::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{Clocks, SteadyClock};
use crate::decide::lease::{Moment, Predecessor};

/// A term; clones are the same one.
#[derive(Clone)]
pub struct Term(Arc<Shared>);

struct Shared {
    identity: String,
    predecessor: Option<Predecessor>,
    clocks: Clocks,
    steady: SteadyClock,
    until: Mutex<Moment>,
    ended: CancellationToken,
    writes: TaskTracker,
}

/// A write was not sent, or not waited for.
#[derive(Debug, Error)]
#[error("this replica does not lead (any more)")]
pub struct NotLeading;

impl Term {
    /// A term that ends at this time, unless it is extended before.
    pub fn begin(
        identity: &str,
        predecessor: Option<Predecessor>,
        clocks: &Clocks,
        until: Moment,
    ) -> Self {
        Self(Arc::new(Shared {
            identity: identity.to_owned(),
            predecessor,
            clocks: clocks.clone(),
            steady: SteadyClock::begin(clocks),
            until: Mutex::new(until),
            ended: CancellationToken::new(),
            writes: TaskTracker::new(),
        }))
    }

    /// Who leads in it.
    pub fn identity(&self) -> &str {
        &self.0.identity
    }

    /// Who led before.
    pub fn predecessor(&self) -> Option<&Predecessor> {
        self.0.predecessor.as_ref()
    }

    /// The clock of this term: what is written in it has its times.
    pub fn clock(&self) -> &SteadyClock {
        &self.0.steady
    }

    /// Lets it go on until then.
    pub fn extend(&self, until: Moment) {
        *self.until() = until;
    }

    /// Ends it. Nothing is sent from here on; what is on its way is still waited for.
    pub fn end(&self) {
        self.0.ended.cancel();
        self.0.writes.close();
    }

    /// Whether it has not ended.
    pub fn goes_on(&self) -> bool {
        !self.0.ended.is_cancelled() && self.0.clocks.moment() < *self.until()
    }

    /// Waits until every write that was on its way when the term was ended has come back.
    pub async fn settled(&self) {
        self.0.writes.wait().await;
    }

    /// Sends a write, if the term goes on, and waits for its answer at most until the term is over.
    pub async fn fence<T>(&self, write: impl Future<Output = T>) -> Result<T, NotLeading> {
        let _under_way = self.0.writes.token();
        if !self.goes_on() {
            return Err(NotLeading);
        }
        tokio::pin!(write);
        let left = || self.until().saturating_sub(self.0.clocks.moment());
        let alarm = tokio::time::sleep(left());
        tokio::pin!(alarm);
        std::future::poll_fn(|context| {
            loop {
                // The clock itself, before each step: a process that was stopped goes on with what
                // was ready, before its timers have heard how late it is.
                let left = left();
                if left.is_zero() {
                    return Poll::Ready(Err(NotLeading));
                }
                if alarm.as_mut().poll(context).is_pending() {
                    return write.as_mut().poll(context).map(Ok);
                }
                alarm.as_mut().reset(Instant::now() + left);
            }
        })
        .await
    }

    fn until(&self) -> std::sync::MutexGuard<'_, Moment> {
        self.0.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::clock::Machine;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    /// One that ends after so many seconds.
    fn term(machine: &Machine, seconds: u32) -> (Term, Moment) {
        let clocks = machine.clocks();
        let now = clocks.moment();
        (
            Term::begin("me", None, &clocks, now + seconds * SECOND),
            now,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_is_sent_in_the_term_alone() {
        let (term, _) = term(&Machine::default(), 10);
        assert!(term.fence(async { 1 }).await.is_ok());
        tokio::time::advance(10 * SECOND).await;
        let sent = term.fence(async { panic!("it was sent") });
        assert!(sent.await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_not_answered_is_let_go_of_at_the_end_however_often_that_is_put_off() {
        let (term, now) = term(&Machine::default(), 1);
        let begin = Instant::now();
        term.extend(now + 3 * SECOND);
        let write = tokio::spawn({
            let term = term.clone();
            async move { term.fence(std::future::pending::<()>()).await.is_err() }
        });
        tokio::time::sleep(2 * SECOND).await;
        term.extend(now + 7 * SECOND);
        assert!(write.await.unwrap());
        assert_eq!(begin.elapsed(), 7 * SECOND);
    }

    /// The process was stopped between two steps of one write: when it goes on, the clock is looked
    /// at before the write gets its turn.
    #[tokio::test(start_paused = true)]
    async fn a_stopped_process_sends_nothing_when_it_goes_on() {
        let (term, _) = term(&Machine::default(), 10);
        let mut resumed = false;
        let write = async {
            tokio::task::yield_now().await;
            resumed = true;
        };
        let mut write = Box::pin(term.fence(write));
        assert!(futures::poll!(&mut write).is_pending());
        tokio::time::advance(30 * SECOND).await;
        assert!(write.await.is_err());
        assert!(!resumed);
    }

    /// Its monotonic clock, and with it every timer, has stood still meanwhile.
    #[tokio::test(start_paused = true)]
    async fn a_suspended_machine_sends_nothing_when_it_goes_on() {
        let machine = Machine::default();
        let (term, _) = term(&machine, 10);
        let mut resumed = false;
        let write = async {
            tokio::task::yield_now().await;
            resumed = true;
        };
        let mut write = Box::pin(term.fence(write));
        assert!(futures::poll!(&mut write).is_pending());
        machine.suspend(30 * SECOND);
        assert!(!term.goes_on());
        assert!(write.await.is_err());
        assert!(!resumed);
    }

    #[tokio::test(start_paused = true)]
    async fn after_its_end_nothing_is_sent_and_what_was_under_way_is_waited_for() {
        let (term, now) = term(&Machine::default(), 10);
        let write = tokio::spawn({
            let term = term.clone();
            async move { term.fence(tokio::time::sleep(SECOND)).await.is_ok() }
        });
        tokio::task::yield_now().await;
        let begin = Instant::now();
        term.end();
        assert!(!term.goes_on());
        term.settled().await;
        assert_eq!(begin.elapsed(), SECOND);
        assert!(write.await.unwrap());
        // Nothing brings it back.
        term.extend(now + 100 * SECOND);
        assert!(term.fence(async {}).await.is_err());
    }
}
