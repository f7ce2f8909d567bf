//! The promises, each as a story with real pods on a real cluster: `cargo test --test e2e`.
//!
//! A story is a function that gets a namespace of its own ([`support::stage::Stage`]) and panics
//! when a promise is broken. Nothing in it waits for time to pass: it waits for what it expects,
//! watches what must not happen, and makes the app act when it is ready to look.

mod acknowledge;
mod complete;
mod deadline;
mod shutdown;
mod support;
mod sweep;

use std::process::ExitCode;

fn main() -> ExitCode {
    support::runner::main(
        [
            shutdown::stories(),
            complete::stories(),
            deadline::stories(),
            sweep::stories(),
            acknowledge::stories(),
        ]
        .concat(),
    )
}
