//! WHEN TO LOOK: streams of changes, and short reconciles that observe, decide and apply.

pub mod backoff;
pub mod caches;
pub mod certificate;
pub mod endpoint;
pub mod guard;
pub mod hook;
pub mod refused;
pub mod synced;
