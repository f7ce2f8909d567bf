//! TOUCHING THE SERVER: the only module that writes to the API server.

pub mod acknowledge;
