//! WHAT SHOULD HAPPEN: pure functions from what was observed to what is to be done.
//!
//! Nothing in here may wait, ask a server, read a clock or an environment, draw a random number or
//! write a log: everything comes in as an argument, so that every decision has a table as its test.

pub mod ack;
