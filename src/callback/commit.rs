//! Group commit: acknowledgements of one hook go to the API server together.
//!
//! One write is in flight per hook. Acknowledgements that arrive meanwhile wait for the next one; each is
//! answered after the write with its own key has succeeded, and only then. A queue exists only while
//! something waits in it, and its length is bounded.
//!
//! The writing task is independent of the callers: one that hangs up takes back neither its own
//! acknowledgement nor another one's.
//!
//! A round judges all waiters by the newest hook seen. A waiter judged against a hook older than its
//! arrival ([`Look::Cached`]) is never refused; it is judged again in the next round. The answer to a write
//! is a newer hook, too. The hook is read only where there is nothing to write, and pods only where the
//! caches do not know which workload a pod belongs to. Rounds are at least as far apart as [`Pace`] wants.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::Client;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::crew::{self, Crews, PodCaches};
use super::pace::{Pace, stored_bytes};
use crate::api::KrakeHook;
use crate::api::status::{AckResult, Acknowledgement, KrakeHookStatus};
use crate::cluster::acknowledge::{self, AcknowledgeError};
use crate::decide::ack::{self, Around, Incoming, Look, Speaker, Verdict, Write};
use crate::metrics::{CommitOutcome, LookupReason, Metrics};

/// The most acknowledgements that can wait for one hook.
const MOST_WAITING: usize = 1024;
/// The most that can wait in all. A hook takes at most a quarter of what is left, so that something
/// is left for each, however many others are flooded.
const MOST_WAITING_IN_ALL: usize = 8192;
/// Bytes of all messages that a hook holds, as they are stored; with everything else in it, it has to
/// stay well below what etcd takes.
const MOST_MESSAGE_BYTES: usize = 64 * 1024;
/// How often a write of an acknowledgement is refused before its caller is answered 503.
const MOST_ATTEMPTS: u32 = 5;

/// A hook by its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HookName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A hook as it was read, and when.
#[derive(Clone, Debug)]
pub struct Sight {
    /// The hook.
    pub hook: Arc<KrakeHook>,
    /// When the server was asked; `None`: it is from a cache.
    pub asked: Option<Instant>,
}

/// The outcome of an acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is written.
    Written {
        /// The request it answers.
        request: Option<String>,
        /// What it says; a Failure does not count.
        result: AckResult,
    },
    /// It was stored before.
    Replayed {
        /// The request it answered.
        request: Option<String>,
    },
    /// There is no shutdown request.
    NotAsked,
    /// The request is closed.
    Late,
    /// Pods are counted, and it does not name its pod.
    Anonymous,
    /// A Success counted already.
    AlreadyAcknowledged,
    /// The pod that the URL names is not the workload's.
    ForeignPod,
    /// The hook is gone, or another than the token is for.
    Superseded,
    /// The hook can hold no more.
    Full,
    /// Too many wait.
    Busy,
    /// A Failure, too soon after the last one of this pod or this hook.
    TooOften,
    /// It could not be written, or it is not known whether it was.
    Unavailable,
}

/// Writes acknowledgements; clones share the queues.
#[derive(Clone)]
pub struct Committer {
    client: Client,
    metrics: Metrics,
    tasks: TaskTracker,
    queues: Arc<Mutex<Queues>>,
    pace: Arc<Pace>,
    crews: Arc<Crews>,
}

#[derive(Default)]
struct Queues {
    by_hook: HashMap<HookName, Queue>,
    in_all: usize,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// How many the worker has taken and not yet answered.
    held: usize,
}

struct Waiting {
    incoming: Incoming,
    arrived: Instant,
    attempts: u32,
    answer: oneshot::Sender<Outcome>,
}

impl fmt::Display for HookName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

impl Committer {
    /// A committer with empty queues.
    pub fn new(client: Client, pods: PodCaches, metrics: Metrics) -> Self {
        Self {
            crews: Arc::new(Crews::new(pods, client.clone())),
            client,
            metrics,
            tasks: TaskTracker::new(),
            queues: Arc::default(),
            pace: Arc::new(Pace::new()),
        }
    }

    /// Accepts an acknowledgement that had `arrived` before its hook was read for it, and returns
    /// when it is written or will not be.
    pub async fn acknowledge(
        &self,
        hook: &HookName,
        sight: Sight,
        incoming: Incoming,
        arrived: Instant,
    ) -> Outcome {
        if incoming.result == AckResult::Failure && !self.pace.takes_failure(hook) {
            return Outcome::TooOften;
        }
        let (answer, outcome) = oneshot::channel();
        let waiting = Waiting {
            incoming,
            arrived,
            attempts: 0,
            answer,
        };
        if !self.enqueue(hook, sight, waiting) {
            return Outcome::Busy;
        }
        outcome.await.unwrap_or(Outcome::Unavailable)
    }

    /// Waits until all waiters are answered. None can be added any more.
    pub async fn drained(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Whether a hook of this namespace may be read for a caller that is not authenticated yet.
    pub fn may_look(&self, namespace: &str) -> bool {
        self.pace.takes_look(namespace)
    }

    /// Reads a hook from the server, for a reason.
    pub async fn look(
        &self,
        hook: &HookName,
        reason: LookupReason,
    ) -> Result<Sight, AcknowledgeError> {
        self.metrics.looked_up(reason);
        let asked = Instant::now();
        let seen = acknowledge::look(&self.client, &hook.namespace, &hook.name).await?;
        Ok(Sight {
            hook: Arc::new(seen),
            asked: Some(asked),
        })
    }

    /// How many wait, those in a write included.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.queues().in_all
    }

    fn enqueue(&self, hook: &HookName, sight: Sight, waiting: Waiting) -> bool {
        let mut queues = self.queues();
        let most = (MOST_WAITING_IN_ALL.saturating_sub(queues.in_all) / 4).min(MOST_WAITING);
        match queues.by_hook.get_mut(hook) {
            _ if most == 0 => return false,
            Some(queue) if queue.waiting.len() + queue.held >= most => return false,
            Some(queue) => queue.waiting.push_back(waiting),
            None => {
                let queue = Queue {
                    waiting: VecDeque::from([waiting]),
                    held: 0,
                };
                queues.by_hook.insert(hook.clone(), queue);
                let worker = Worker {
                    hook: hook.clone(),
                    committer: self.clone(),
                };
                self.tasks.spawn(worker.run(sight));
            }
        }
        queues.in_all += 1;
        true
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Committer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Committer").finish_non_exhaustive()
    }
}

/// The task that writes for a hook while there are waiters.
struct Worker {
    hook: HookName,
    committer: Committer,
}

/// A waiter, and the write it needs.
struct Decided {
    waiting: Waiting,
    write: Write,
}

/// What a round has to do.
#[derive(Default)]
struct Round {
    group: Vec<Decided>,
    again: Vec<Waiting>,
    has_to_look: bool,
    has_to_look_around: bool,
}

impl Worker {
    async fn run(self, mut sight: Sight) {
        let mut waiting = Vec::new();
        let mut crew = None;
        while let Some(come) = self.take(waiting.len()) {
            waiting.extend(come);
            if !self.committer.pace.is_turn(&self.hook).await {
                continue;
            }
            let may_fail = |pod: Option<&str>| self.committer.pace.writes_failure(&self.hook, pod);
            let everyone = std::mem::take(&mut waiting);
            let around = self.around(&sight, crew.as_ref(), &everyone);
            let round = decide_all(&sight, everyone.into_iter().zip(around), may_fail);
            waiting = round.again;
            if !round.group.is_empty() {
                let (seen, back) = self.write(round.group).await;
                // In front: who waits longest is decided on first.
                waiting.splice(0..0, back);
                if let Some(seen) = seen {
                    sight = seen;
                }
            } else if round.has_to_look {
                match self
                    .committer
                    .look(&self.hook, LookupReason::Decision)
                    .await
                {
                    Ok(seen) => sight = seen,
                    Err(error) => self.send_away(std::mem::take(&mut waiting), &error),
                }
            } else if round.has_to_look_around {
                match self.look_around(&sight.hook).await {
                    Ok(seen) => crew = Some(seen),
                    Err(error) => self.send_away(std::mem::take(&mut waiting), &error),
                }
            }
        }
    }

    /// What is known of the pod of each: from a read since it arrived, or else from the caches.
    fn around(
        &self,
        sight: &Sight,
        crew: Option<&crew::Seen>,
        everyone: &[Waiting],
    ) -> Vec<Around> {
        let seen = |one: &Waiting| crew.and_then(|crew| crew.tells(&one.incoming, one.arrived));
        let matters = |one: &&Waiting| {
            let verdict = ack::decide(&sight.hook, &one.incoming, Look::Live, Around::default());
            seen(one).is_none() && verdict == Verdict::LookAround
        };
        let unsure = everyone.iter().filter(matters).map(|one| &one.incoming);
        let unsure: Vec<&Incoming> = unsure.collect();
        let own = self.committer.crews.known(&self.hook, &unsure);
        let cached = |one: &Waiting| {
            let pod = one.incoming.pod.as_ref();
            let speaker = match pod.is_none_or(|pod| own.contains(pod)) {
                true => Speaker::Own,
                false => Speaker::Unknown,
            };
            let runs = None;
            Around { speaker, runs }
        };
        let around = |one: &Waiting| seen(one).unwrap_or_else(|| cached(one));
        everyone.iter().map(around).collect()
    }

    async fn look_around(&self, hook: &KrakeHook) -> Result<crew::Seen, AcknowledgeError> {
        self.committer.metrics.looked_up(LookupReason::Pods);
        let seen = self.committer.crews.look(hook).await;
        seen.map_err(|error| AcknowledgeError::Unknown {
            hook: self.hook.to_string(),
            source: Box::new(error),
        })
    }

    /// All that arrived since the last round; `held` are the ones not yet answered. When none is
    /// left, the queue is removed; the next one to arrive starts a new worker.
    fn take(&self, held: usize) -> Option<VecDeque<Waiting>> {
        let mut queues = self.committer.queues();
        let queue = queues.by_hook.get_mut(&self.hook)?;
        let come = std::mem::take(&mut queue.waiting);
        let answered = queue.held.saturating_sub(held);
        queue.held = held + come.len();
        let nobody = queue.held == 0;
        queues.in_all = queues.in_all.saturating_sub(answered);
        if nobody {
            queues.by_hook.remove(&self.hook);
            return None;
        }
        Some(come)
    }

    /// One write. Returns the hook as it is after it, and the waiters to be judged again.
    async fn write(&self, group: Vec<Decided>) -> (Option<Sight>, Vec<Waiting>) {
        let HookName { namespace, name } = &self.hook;
        let committer = &self.committer;
        let tests = &group[0].write.tests;
        let patch = ack::patch(tests, group.iter().map(|decided| &decided.write));
        let asked = Instant::now();
        let answer = acknowledge::write(&committer.client, namespace, name, patch).await;
        let outcome = match &answer {
            Ok(_) => CommitOutcome::Written,
            Err(AcknowledgeError::Raced { .. }) => CommitOutcome::Raced,
            Err(AcknowledgeError::Refused { .. }) => CommitOutcome::Refused,
            Err(AcknowledgeError::Gone { .. }) => CommitOutcome::Gone,
            Err(AcknowledgeError::Unavailable { .. } | AcknowledgeError::Unknown { .. }) => {
                CommitOutcome::Unavailable
            }
            Err(AcknowledgeError::Lost { .. }) => CommitOutcome::Lost,
        };
        committer
            .metrics
            .committed(outcome, group.len(), asked.elapsed());
        match answer {
            Ok(hook) => {
                group.into_iter().for_each(Decided::written);
                let seen = Sight {
                    hook: Arc::new(hook),
                    asked: Some(asked),
                };
                (Some(seen), Vec::new())
            }
            // The other replica, or the leader, was faster. What was decided on still stands.
            Err(error @ AcknowledgeError::Raced { .. }) => (None, self.try_again(group, &error)),
            Err(error @ AcknowledgeError::Refused { .. }) => {
                tracing::debug!(%error, "the hook has changed; judging the acknowledgements again");
                let back = self.try_again(group, &error);
                self.look_after(LookupReason::Decision, back).await
            }
            Err(error @ AcknowledgeError::Lost { .. }) => {
                tracing::warn!(%error, "the answer to a write of acknowledgements was lost; reading the hook");
                let seen = committer.look(&self.hook, LookupReason::LostAnswer).await;
                let seen = seen.ok();
                for decided in group {
                    match &seen {
                        Some(seen) if decided.stands_in(&seen.hook) => decided.written(),
                        _ => decided.waiting.answer(Outcome::Unavailable),
                    }
                }
                (seen, Vec::new())
            }
            Err(error) => {
                let group = group.into_iter().map(|decided| decided.waiting).collect();
                self.send_away(group, &error);
                (None, Vec::new())
            }
        }
    }

    /// The waiters that are tried once more; the others are answered.
    fn try_again(&self, group: Vec<Decided>, error: &AcknowledgeError) -> Vec<Waiting> {
        let (mut back, mut sent_away) = (Vec::new(), Vec::new());
        for Decided { mut waiting, .. } in group {
            waiting.attempts += 1;
            match waiting.attempts < MOST_ATTEMPTS {
                true => back.push(waiting),
                false => sent_away.push(waiting),
            }
        }
        self.send_away(sent_away, error);
        back
    }

    async fn look_after(
        &self,
        reason: LookupReason,
        back: Vec<Waiting>,
    ) -> (Option<Sight>, Vec<Waiting>) {
        if back.is_empty() {
            return (None, back);
        }
        match self.committer.look(&self.hook, reason).await {
            Ok(seen) => (Some(seen), back),
            Err(error) => {
                self.send_away(back, &error);
                (None, Vec::new())
            }
        }
    }

    fn send_away(&self, all: Vec<Waiting>, error: &AcknowledgeError) {
        if all.is_empty() {
            return;
        }
        let outcome = match error {
            AcknowledgeError::Gone { .. } => Outcome::Superseded,
            _ => Outcome::Unavailable,
        };
        tracing::warn!(%error, waiting = all.len(), "could not write acknowledgements; answering 503");
        for waiting in all {
            waiting.answer(outcome.clone());
        }
    }
}

impl Drop for Worker {
    /// Also when a bug ends the worker early: a queue without a worker would keep the hook's
    /// callers waiting for ever. Without one they are answered 503.
    fn drop(&mut self) {
        let mut queues = self.committer.queues();
        // A finished worker has removed its own queue; one that stands there by now could be the
        // next worker's, so only a panic may touch it.
        if std::thread::panicking()
            && let Some(left) = queues.by_hook.remove(&self.hook)
        {
            let lost = left.waiting.len() + left.held;
            queues.in_all = queues.in_all.saturating_sub(lost);
        }
    }
}

impl Waiting {
    /// A caller that has hung up needs no answer.
    fn answer(self, outcome: Outcome) {
        let _ = self.answer.send(outcome);
    }
}

impl Decided {
    fn written(self) {
        let outcome = Outcome::Written {
            request: self.write.value.request,
            result: self.write.value.result,
        };
        self.waiting.answer(outcome);
    }

    fn stands_in(&self, hook: &KrakeHook) -> bool {
        hook.metadata.uid.as_deref() == Some(&self.waiting.incoming.hook_uid)
            && hook
                .status
                .as_ref()
                .and_then(|status| status.acknowledgements.get(&self.write.key))
                == Some(&self.write.value)
    }
}

/// Judges all waiters; answers those it can, and groups writes that share their tests, so that a
/// refused write affects only those that would be refused, too.
fn decide_all(
    sight: &Sight,
    everyone: impl Iterator<Item = (Waiting, Around)>,
    may_fail: impl Fn(Option<&str>) -> bool,
) -> Round {
    let mut round = Round::default();
    let kept = sight.hook.status.as_ref();
    let mut keys = kept.map_or(0, |status| status.acknowledgements.len());
    let mut taken = HashSet::new();
    let mut message_bytes = kept.map_or(0, message_bytes);
    for (waiting, around) in everyone {
        let look = match sight.asked {
            Some(asked) if waiting.arrived <= asked => Look::Live,
            _ => Look::Cached,
        };
        let outcome = match ack::decide(&sight.hook, &waiting.incoming, look, around) {
            Verdict::Write(mut write) => {
                let replaced = kept.and_then(|status| status.acknowledgements.get(&write.key));
                let others = message_bytes.saturating_sub(replaced.map_or(0, bytes_of_message));
                let bytes = others + bytes_of_message(&write.value);
                if bytes > MOST_MESSAGE_BYTES {
                    // What counts is kept without its words.
                    match write.value.result {
                        AckResult::Success => write.value.message = None,
                        AckResult::Failure => {
                            waiting.answer(Outcome::Full);
                            continue;
                        }
                    }
                }
                let first: Option<&Decided> = round.group.first();
                let same_tests = first.is_none_or(|first| first.write.tests == write.tests);
                let is_new = replaced.is_none();
                let has_room = !is_new || keys < ack::MOST_KEYS;
                if same_tests && has_room && !taken.contains(&write.key) {
                    let fails_anew =
                        write.value.result == AckResult::Failure && waiting.attempts == 0;
                    if fails_anew && !may_fail(waiting.incoming.pod.as_deref()) {
                        waiting.answer(Outcome::TooOften);
                        continue;
                    }
                    taken.insert(write.key.clone());
                    keys += usize::from(is_new);
                    message_bytes = others + bytes_of_message(&write.value);
                    round.group.push(Decided { waiting, write });
                } else {
                    round.again.push(waiting);
                }
                continue;
            }
            Verdict::LookAgain => {
                round.has_to_look = true;
                round.again.push(waiting);
                continue;
            }
            Verdict::LookAround => {
                round.has_to_look_around = true;
                round.again.push(waiting);
                continue;
            }
            Verdict::Replayed { request } => Outcome::Replayed { request },
            Verdict::NotAsked => Outcome::NotAsked,
            Verdict::Late => Outcome::Late,
            Verdict::Anonymous => Outcome::Anonymous,
            Verdict::AlreadyAcknowledged => Outcome::AlreadyAcknowledged,
            Verdict::ForeignPod => Outcome::ForeignPod,
            Verdict::Unkept => Outcome::Unavailable,
            Verdict::Superseded => Outcome::Superseded,
            Verdict::Full => Outcome::Full,
        };
        waiting.answer(outcome);
    }
    round
}

fn message_bytes(status: &KrakeHookStatus) -> usize {
    status.acknowledgements.values().map(bytes_of_message).sum()
}

fn bytes_of_message(acknowledgement: &Acknowledgement) -> usize {
    acknowledgement.message.as_deref().map_or(0, stored_bytes)
}
