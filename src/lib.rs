pub mod api;
pub mod config;
pub mod pki;
pub mod admin;
pub mod callback;
pub mod cluster;
pub mod decide;
pub mod metrics;
#[cfg(test)]
pub mod testing;
