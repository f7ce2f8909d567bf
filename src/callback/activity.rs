//! The activity of one connection, from the moment it is accepted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::listener::Limits;

/// The activity of a connection.
#[derive(Debug)]
pub struct Activity {
    under_way: AtomicUsize,
    has_asked: AtomicBool,
    last: Mutex<Instant>,
    /// It ends after the request in progress.
    pub end: Notify,
    /// It has to give way to another connection, at once.
    pub displaced: CancellationToken,
}

/// Which connection gives way first: one that has not sent a request, then one that is idle; among
/// these the one that has been so for longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// A request is being answered.
    pub is_busy: bool,
    has_asked: bool,
    since: Instant,
}

impl Activity {
    /// A connection that has just been accepted.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            under_way: AtomicUsize::new(0),
            has_asked: AtomicBool::new(false),
            last: Mutex::new(Instant::now()),
            end: Notify::new(),
            displaced: CancellationToken::new(),
        })
    }

    /// How readily it gives way.
    pub fn rank(&self) -> Rank {
        Rank {
            is_busy: self.is_busy(),
            has_asked: self.has_asked(),
            since: self.last(),
        }
    }

    /// Whether it has sent a request.
    pub fn has_asked(&self) -> bool {
        self.has_asked.load(Ordering::Acquire)
    }

    /// When it ends, if nothing happens until then.
    pub fn next_look(&self, opened: Instant, limits: &Limits) -> Instant {
        let over = match (self.has_asked(), self.is_busy()) {
            (false, _) => opened + limits.head,
            (true, true) => Instant::now() + limits.idle,
            (true, false) => self.last() + limits.idle,
        };
        over.min(opened + limits.age)
    }

    /// Whether it has been idle or open for too long.
    pub fn is_over(&self, opened: Instant, limits: &Limits) -> bool {
        let busy = self.has_asked() && self.is_busy();
        let now = Instant::now();
        now >= opened + limits.age || !busy && now >= self.next_look(opened, limits)
    }

    fn is_busy(&self) -> bool {
        self.under_way.load(Ordering::Acquire) > 0
    }

    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request in progress; it is over when this is dropped.
pub struct UnderWay(pub Arc<Activity>);

impl UnderWay {
    /// A request begins.
    pub fn new(activity: Arc<Activity>) -> Self {
        activity.under_way.fetch_add(1, Ordering::AcqRel);
        activity.has_asked.store(true, Ordering::Release);
        Self(activity)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}
