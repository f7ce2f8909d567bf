//! WHEN TO RECONCILE: streams of changes, and short reconciles that observe, decide and apply.
//!
//! Every replica watches and keeps its own endpoint; [`hook`], [`guard`], [`strays`], [`certificate`]
//! and [`authority_rotation`] run where the [`election`] says.

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
