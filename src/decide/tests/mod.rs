//! Tests of whole decisions, and the tables of single rooms.

mod bare;
mod calling;
mod convergence;
mod farewell;
mod faults;
mod injection;
mod leaders;
mod operator;
mod pods;
mod promises;
mod rests;
mod service;

mod stories;
mod told;
mod trouble;
mod trust;
