//! Application hooks for Kubernetes: a removal waits until the app has acknowledged.
//!
//! A workload declares a [`KrakeHook`](api::KrakeHook); the operator gives its pods a token, a URL
//! and a certificate; the pods say "I am complete" or "I have shut down"; and until they say so, or
//! their time is up, a deletion of the workload does not take them away.
//!
//! The map, in reading order; each room's first lines say what it does and must never do:
//!
//! 1. [`api`]: what users write, what the operator answers, and every name.
//! 2. [`decide`]: what should happen. Pure functions from what was seen to a list of effects; the
//!    only room with opinions. Begin with [`decide::hook`] and the table of [`decide::hold`].
//! 3. [`cluster`]: touching the API server. [`cluster::observe`] reads, [`cluster::apply`] writes.
//! 4. [`controllers`]: when to look. Streams, and reconciles that observe, decide and apply.
//! 5. [`callback`]: the mTLS endpoint that takes acknowledgements.
//! 6. [`callout`]: calling the app.
//! 7. [`pki`]: certificates and tokens; bytes in, bytes out.
//! 8. [`run`]: all tasks of the operator, of each replica and of the one that leads. [`release`]:
//!    `release-all`. [`config`], [`cli`], [`clock`], [`admin`], [`metrics`], [`telemetry`]: the rest of a
//!    program.
//!
//! Outside of the crate there are [`api`], the command line, and the little that tests of the whole
//! need: so the compiler knows all callers of the rest, and says what has none.
//!
//! Arrows point one way: a room uses only those before it in this line, and a test says so if it does not:
//! `pki`, `api`, `config`, `decide`, `clock`, `cluster`, `metrics`, `callout`, `callback`, `admin`,
//! `controllers`, `release`, `run`, `telemetry`, `cli`.

// The map is for who reads the code; rooms that nobody outside may enter are on it, too.
#![allow(rustdoc::private_intra_doc_links)]

pub mod api;
pub mod cli;

mod admin;
mod callback;
mod callout;
mod clock;
mod cluster;
mod config;
mod controllers;
mod decide;
mod metrics;
mod pki;
mod release;
#[cfg(test)]
mod rules_tests;
mod run;
mod telemetry;
#[cfg(test)]
mod testing;

/// What the stories in `e2e` and the measurements in `benches` take hold of.
pub mod outside {
    pub use crate::cluster::observe::workloads;
    pub use crate::decide::ack;

    /// Fingerprint of what would sign with these files of a user's Secret, if they are good.
    pub fn signer_of(chain: &[u8], key: &[u8], root: &[u8]) -> Option<String> {
        let now = jiff::Timestamp::now();
        let loaded = crate::pki::Authority::load(chain, key, root, now, &[]);
        loaded.ok().map(|authority| authority.fingerprint())
    }
}

/// What is thrown garbage at.
#[cfg(feature = "fuzz")]
pub mod fuzz {
    pub use crate::pki::{
        Authority, CertificateUri, HookUri, Identity, Ring, SecretData, Succession,
    };
}
