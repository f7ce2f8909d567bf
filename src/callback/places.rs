//! Places for connections: how many each source has, and which one gives way.
//!
//! | places | a newcomer whose source has | |
//! |---|---|---|
//! | some are free | fewer than one source may have | gets one |
//! | | as many as one source may have | takes that of an idle one of its own source; if none is idle, gets none |
//! | all are taken | fewer than another source | takes that of the source that has most: an idle one's, or, if that source has two more, also that of one with a request under way |
//! | | as many as any other source | takes that of an idle one of its own source, or of another with as many; if none is idle, gets none |
//!
//! So one source, or a few, cannot keep the others out, however fast they connect. A connection
//! that has not sent a request gives way before one that has, and among equals the one that has
//! been idle for longest.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::activity::Activity;

/// The source of a connection: an IPv4 address, or the first 64 bits of an IPv6 address, because a
/// client that has one address of such a network has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(IpAddr);

/// How many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Of all sources.
    pub total: usize,
    /// Of one source.
    pub per_source: usize,
}

/// Places; clones share them.
#[derive(Clone, Debug)]
pub struct Places(Arc<Mutex<Book>>);

/// A place that is taken; dropped, it is free.
#[derive(Debug)]
pub struct Place {
    places: Places,
    source: Source,
    number: u64,
}

/// Requests at once; clones share the count.
#[derive(Clone, Debug)]
pub struct Requests(Arc<Mutex<Count>>);

/// A request that is counted; dropped, it is counted no more.
#[derive(Debug)]
pub struct Counted {
    requests: Requests,
    source: Source,
}

#[derive(Debug)]
struct Book {
    share: Share,
    taken: usize,
    next: u64,
    by_source: HashMap<Source, HashMap<u64, Arc<Activity>>>,
}

#[derive(Debug)]
struct Count {
    share: Share,
    taken: usize,
    by_source: HashMap<Source, usize>,
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        const NETWORK: u128 = !(u64::MAX as u128);
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & NETWORK)),
            v4 => v4,
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(formatter),
            IpAddr::V6(network) => write!(formatter, "{network}/64"),
        }
    }
}

impl Places {
    /// Places that are free.
    pub fn new(share: Share) -> Self {
        Self(Arc::new(Mutex::new(Book {
            share,
            taken: 0,
            next: 0,
            by_source: HashMap::new(),
        })))
    }

    /// A place for a connection, if need be that of another one, which is told to give way.
    pub fn take(&self, source: Source, activity: &Arc<Activity>) -> Option<Place> {
        let mut book = self.book();
        let held = book.held_by(source);
        let own_only = held >= book.share.per_source;
        if (own_only || book.taken >= book.share.total) && !book.displace(source, own_only) {
            return None;
        }
        let number = book.next;
        book.next += 1;
        book.taken += 1;
        let own = book.by_source.entry(source).or_default();
        own.insert(number, Arc::clone(activity));
        Some(Place {
            places: self.clone(),
            source,
            number,
        })
    }

    /// Makes one connection of any source give way: another resource has run out.
    pub fn shed(&self) {
        let nobody = Source(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        self.book().displace(nobody, false);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn held_by(&self, source: Source) -> usize {
        self.by_source.get(&source).map_or(0, HashMap::len)
    }

    /// Whether there was one that can give way to a newcomer from this source.
    fn displace(&mut self, newcomer: Source, own_only: bool) -> bool {
        let held = self.held_by(newcomer);
        let candidates = self.by_source.iter().filter(|(source, all)| {
            **source == newcomer || (!own_only && all.len() >= held.max(1))
        });
        let victim = candidates.filter_map(|(source, all)| {
            let ranked = all.iter().map(|(number, one)| (one.rank(), *number));
            let (rank, number) = ranked.min()?;
            let yields = !rank.is_busy || all.len() > held + 1;
            yields.then_some((Reverse(all.len()), rank, *source, number))
        });
        let Some((_, _, source, number)) = victim.min() else {
            return false;
        };
        if let Some(activity) = self.remove(source, number) {
            activity.displaced.cancel();
        }
        true
    }

    fn remove(&mut self, source: Source, number: u64) -> Option<Arc<Activity>> {
        let all = self.by_source.get_mut(&source)?;
        let removed = all.remove(&number)?;
        if all.is_empty() {
            self.by_source.remove(&source);
        }
        self.taken -= 1;
        Some(removed)
    }
}

impl Drop for Place {
    /// One that has given way is not there any more.
    fn drop(&mut self) {
        self.places.book().remove(self.source, self.number);
    }
}

impl Requests {
    /// Nobody asks.
    pub fn new(share: Share) -> Self {
        Self(Arc::new(Mutex::new(Count {
            share,
            taken: 0,
            by_source: HashMap::new(),
        })))
    }

    /// Counts a request, unless there are too many.
    pub fn begin(&self, source: Source) -> Option<Counted> {
        let mut count = self.count();
        let Share { total, per_source } = count.share;
        let own = count.by_source.get(&source).copied().unwrap_or(0);
        if own >= per_source || count.taken >= total {
            return None;
        }
        count.taken += 1;
        count.by_source.insert(source, own + 1);
        Some(Counted {
            requests: self.clone(),
            source,
        })
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut count = self.requests.count();
        count.taken -= 1;
        if let Some(own) = count.by_source.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                count.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
#[path = "tests/places.rs"]
mod tests;
