//! WHAT SHOULD HAPPEN: pure functions from what was seen (with `now`) to a list of effects.
//!
//! No I/O, no client, no clock, no randomness, no environment, no logging: everything a decision
//! depends on is an argument, so that every decision can be a line of a test table. The rooms:
//!
//! - [`seen`]: what a decision is made from, and the effects it can have;
//! - [`workload`]: a workload of any kind, as far as a decision asks;
//! - [`hook`]: the whole decision about one hook and its workload, in reading order;
//! - [`situation`]: where they stand; [`step`]: what follows from that, and what comes of several steps;
//! - [`absent`]: the workload is not there, or belongs to another hook;
//! - [`inject`]: what goes into a pod template, and how it is taken out again;
//! - [`presence`]: the workload is there: [`providing`], [`injecting`], [`arming`];
//! - [`guarding`]: what nobody guards yet, ahead of the rest;
//! - [`trouble`]: pods that do not come to have what they are given;
//! - [`removal`]: the workload is being deleted: ask, wait, release;
//! - [`entries`]: the hook's ConfigMap, by digests;
//! - [`mend`]: Secrets that somebody has taken away or edited;
//! - [`pods`]: which pods count, and which can be called;
//! - [`service`]: how the app is called, and why it cannot be;
//! - [`requests`]: which request to shut down serves which purpose;
//! - [`asking`]: one request of the app to shut down, for whatever reason;
//! - [`waiting`]: what people read meanwhile;
//! - [`stopping`]: `state: Stopped` and back;
//! - [`completion`]: the app says that its work is complete;
//! - [`hold`]: whether a removal waits, as one table;
//! - [`quorum`]: whether enough pods have acknowledged;
//! - [`calling`]: whom to call, and when;
//! - `disposition`: what becomes of what carries a guard;
//! - [`farewell`]: what is left to do for a hook that is gone;
//! - [`strays`]: what was copied or restored without its hook;
//! - [`ack`]: whether an acknowledgement counts;
//! - [`rejected`]: how those are counted that do not;
//! - [`certificate`]: when a certificate is issued; [`attempts`]: when again, if it was refused;
//! - [`authority`]: which authority signs, and when another one takes its place;
//! - [`authority_status`]: what people are shown of that;
//! - [`lease`]: which replica leads.

mod absent;
pub mod ack;
pub mod arming;
pub mod asking;
pub mod attempts;
pub mod authority;
pub mod authority_status;
pub mod bare;
pub mod calling;
pub mod certificate;
pub mod completion;
mod disposition;
pub mod entries;
pub mod farewell;
pub mod guarding;
pub mod hold;
pub mod hook;
pub mod inject;
pub mod injecting;
pub mod keys;
pub mod lease;
pub mod mend;
pub mod news;
pub mod pods;
pub mod presence;
pub mod providing;
pub mod quorum;
pub mod rejected;
pub mod removal;
pub mod requests;
pub mod seen;
pub mod service;
mod situation;
mod step;
pub mod stopping;
pub mod strays;
pub mod trouble;
pub mod waiting;
pub mod workload;

pub use seen::{Effect, Fact, Next, Seen, Settings};
pub use workload::Workload;

#[cfg(test)]
mod tests;
