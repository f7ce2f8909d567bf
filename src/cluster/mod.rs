//! TOUCHING THE SERVER: the only module that writes to the API server.
//!
//! Here is *how* things are written, each with the condition under which it may be; *whether* they
//! are is decided elsewhere (`decide`), *when* by `controllers`. It must never read a tenant's
//! Secret, and never log or keep what an answer of the server holds beyond its metadata.

pub mod authority;
pub mod secrets;

/// What an error calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The server or the way to it has a bad moment: the same again, ever more slowly.
    Retry,
    /// Somebody else was faster: look again, and say nothing.
    Conflict,
    /// It stays so until a person acts: tell them.
    User,
    /// We have asked for something that cannot be.
    Bug,
}

impl Class {
    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "Retry",
            Self::Conflict => "Conflict",
            Self::User => "User",
            Self::Bug => "Bug",
        }
    }
}

/// What an answer of the API server calls for, where nothing more is known about the call.
pub fn class_of(error: &kube::Error) -> Class {
    match error {
        kube::Error::Api(status) => match status.code {
            409 => Class::Conflict,
            400 | 405 | 406 | 415 => Class::Bug,
            403 | 413 | 422 => Class::User,
            _ => Class::Retry,
        },
        kube::Error::SerdeError(_) | kube::Error::BuildRequest(_) | kube::Error::HttpError(_) => {
            Class::Bug
        }
        _ => Class::Retry,
    }
}

/// What went wrong, in the API server's own words where it has any: the error type shows each
/// answer twice.
pub fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        kube::Error::Api(status) => format!("answered {} {}", status.code, status.reason),
        other => other.to_string(),
    }
}
