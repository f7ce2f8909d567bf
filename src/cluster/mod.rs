//! TOUCHING THE SERVER: the only module that writes to the API server.
//!
//! [`observe`] reads, [`apply`] writes what `decide` asked for, [`secrets`] is the one way a
//! tenant's Secret is written, [`acknowledge`] the one way an acknowledgement is. Nothing here has
//! an opinion; every write is safe when another writer, or a second self, was faster. What the
//! leader writes passes the fence of its [`term`] before it is sent.

pub mod acknowledge;
pub mod addresses;
pub mod apply;
pub mod authority;
pub mod certificates;
pub mod connect;
pub mod error;
pub mod lease;
pub mod objects;
pub mod observe;
pub mod operator_secrets;
pub mod pages;
pub mod remains;
pub mod ring;
pub mod role;
pub mod secret_policy;
pub mod secrets;
pub mod slim;
pub mod strays;
pub mod term;

pub use error::{Act, Class, Error, class_of, said};
