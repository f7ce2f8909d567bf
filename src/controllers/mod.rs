//! WHEN TO RECONCILE: streams of changes, and short reconciles that observe, decide and apply.
//!
//! Every replica watches and keeps its own endpoint; [`hook`], [`guard`], [`strays`], [`certificate`]
//! and [`authority_rotation`] run where the [`election`] says.
//!
//! # What wakes the reconcile of a hook
//!
//! [`caches`] opens each watch once, on every replica, and turns each change into the hooks it concerns
//! ([`belongs`]). They go into the [`feed`], which only the leader subscribes to: a new leader receives every
//! hook once, and then what changes. Besides, a hook is reconciled
//! - when a call to its app has ended;
//! - when the settings change (the CA bundle, the master key): all hooks;
//! - when its decision has asked for it ([`Next`](crate::decide::Next)): a deadline, a repeated call;
//! - after an error, with a [`backoff`] by its class; before that is over no change counts;
//! - every ten minutes in any case.
//!
//! A change of a hook by which nothing would be decided differently wakes nothing: an app can repeat its
//! acknowledgement as often as it likes ([`news`](crate::decide::news)).
//!
//! # What a decision is made from
//!
//! | | read | because |
//! |---|---|---|
//! | the hook | from the cache, or as this process has last written it ([`overlay`]) | every write names its resourceVersion: one that was decided on an old one is refused |
//! | workload, Service | live, each time | whether the workload is being deleted must not depend on how far a cache is behind |
//! | pods, ReplicaSets, guard, canaries | from the caches; live while a removal, a stop or a completion is decided | what a cache lacks could end pods |
//! | guard, ConfigMap, certificate, canaries, where the caches lack them | as created by this process a moment ago ([`overlay`]) | they would be created again |
//!
//! Nothing is decided before all watches have completed their initial list ([`synced`]). A conflict with the
//! callback's write, or with the workload's controller, is decided anew at once, on the object read live; a
//! conflict with anything else waits a moment.

pub mod authority;
pub mod authority_rotation;
pub mod backoff;
mod belongs;
pub mod caches;
pub mod certificate;
pub mod election;
pub mod endpoint;
pub mod feed;
pub mod guard;
pub mod guarding;
pub mod hook;
pub mod keys;
pub mod outcomes;
pub mod overlay;
pub mod readable;
pub mod refused;
pub mod strays;
pub mod synced;

use kube::runtime::watcher;

use crate::cluster::pages;

/// A watch that receives nothing for this long (s) is reopened, so that a half-open connection is
/// noticed.
const WATCH_SECONDS: u32 = 120;

/// A watch of everything of a kind.
pub(crate) fn everything() -> watcher::Config {
    watcher::Config::default()
        .timeout(WATCH_SECONDS)
        .page_size(pages::PAGE)
}
