//! What can go wrong at the API server, and what to do about it.

use std::fmt;

use thiserror::Error as ThisError;

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Reading an object.
    Get,
    /// Listing objects.
    List,
    /// Creating an object.
    Create,
    /// Server-side apply.
    Apply,
    /// A guarded JSON patch.
    Patch,
    /// Deleting an object.
    Delete,
}

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The server or the way to it: try again, ever more slowly.
    Retry,
    /// Somebody was faster: look again at once.
    Conflict,
    /// A person has to act; trying again is for the case that they have.
    User,
    /// We asked for something that makes no sense.
    Bug,
}

/// A call to the API server failed.
#[derive(Debug, ThisError)]
#[error("cannot {act} {object}: {source}")]
pub struct Error {
    /// What was being done.
    pub act: Act,
    /// To what: kind, namespace and name.
    pub object: String,
    /// What the server or the way to it said.
    #[source]
    pub source: kube::Error,
}

impl Error {
    /// Makes an error that names its object.
    pub fn of(act: Act, object: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let object = object.into();
        move |source| Self {
            act,
            object,
            source,
        }
    }

    /// HTTP status of the answer; 0 without one.
    pub fn code(&self) -> u16 {
        code(&self.source)
    }

    /// What to do about it.
    pub fn class(&self) -> Class {
        match self.code() {
            404 | 409 => Class::Conflict,
            // A guarded JSON patch whose test failed; anything else that is refused is a person's.
            422 if self.act == Act::Patch => Class::Conflict,
            401 | 403 | 422 => Class::User,
            400 | 405 | 415 => Class::Bug,
            _ => Class::Retry,
        }
    }
}

/// HTTP status of an answer; 0 without one.
pub fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

/// What the server said, without wrapping.
pub fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Create => "create",
            Self::Apply => "apply",
            Self::Patch => "patch",
            Self::Delete => "delete",
        })
    }
}
