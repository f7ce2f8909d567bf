//! What every story stands on. Nothing here asserts a promise; it only finds, makes, waits and
//! watches.

pub mod app;
pub mod audit;
pub mod authority;
pub mod certificates;
pub mod clients;
pub mod cluster;
pub mod install;
pub mod issued;
pub mod manifests;
pub mod operator;
pub mod pods;
pub mod process;
pub mod report;
pub mod runner;
pub mod seed;
pub mod stage;
pub mod thief;
pub mod wait;
