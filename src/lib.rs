pub mod api;
pub mod cluster;
pub mod config;
pub mod decide;
pub mod pki;
