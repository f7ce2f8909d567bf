pub mod api;
pub mod config;
pub mod decide;
pub mod pki;
