//! The promises, each as a story with real pods on a real cluster: `cargo test --test e2e`.
//!
//! A story is a function that gets a namespace of its own ([`support::stage::Stage`]) and panics
//! when a promise is broken. It does not wait for time to pass: it waits for what it expects,
//! watches what must not happen, and makes the app act when it is ready to look.

// A story that panics has failed: that is how it says so. It has a runner of its own, so clippy does
// not see that these are tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod acknowledge;
mod authority;
mod callout;
mod certificate;
mod clients;
mod complete;
mod copies;
mod crash;
mod crowd;
mod deadline;
mod endpoint;
mod fields;
mod flood;
mod injection;
mod invalid;
mod keys;
mod kinds;
mod metrics;
mod namespace;
mod orphan;
mod quorum;
mod rebirth;
mod refusals;
mod release_all;
mod replicas;
mod rights;
mod shutdown;
mod startup;
mod stopped;
mod strays;
mod support;
mod sweep;
mod templates;
mod theft;
mod undo;
mod unreadable;
mod ways_out;

use std::process::ExitCode;

fn main() -> ExitCode {
    // In reading order, but for what takes longest: that begins first.
    let stories = [
        injection::stories(),
        templates::stories(),
        rebirth::stories(),
        kinds::stories(),
        complete::stories(),
        shutdown::stories(),
        deadline::stories(),
        quorum::stories(),
        stopped::stories(),
        callout::stories(),
        sweep::stories(),
        acknowledge::stories(),
        copies::stories(),
        orphan::stories(),
        strays::stories(),
        namespace::stories(),
        refusals::stories(),
        invalid::stories(),
        certificate::stories(),
        clients::stories(),
        ways_out::stories(),
        rights::stories(),
        theft::stories(),
        fields::stories(),
        startup::stories(),
        endpoint::stories(),
        replicas::stories(),
        flood::stories(),
        metrics::stories(),
        unreadable::stories(),
        authority::stories(),
        keys::stories(),
        crash::stories(),
        undo::stories(),
        crowd::stories(),
        // Last: the operator has been taken away in it, with everything.
        release_all::stories(),
    ];
    support::runner::main(stories.concat())
}
