pub mod admin;
pub mod api;
pub mod callback;
pub mod cluster;
pub mod config;
pub mod decide;
pub mod metrics;
pub mod pki;
#[cfg(test)]
pub mod testing;
