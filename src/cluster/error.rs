//! What can go wrong at the API server, and what to do about it.

use std::fmt;

use thiserror::Error as ThisError;

use super::secrets::SecretError;

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
    /// Replacing an object.
    Update,
    /// Deleting an object.
    Delete,
}

/// What an error calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The server or the way to it has a bad moment: the same again, ever more slowly.
    Retry,
    /// Another writer was faster: observe again; not reported.
    Conflict,
    /// It persists until a person acts, and is reported.
    User,
    /// We have asked for something that cannot be.
    Bug,
}

/// A call to the API server failed.
#[derive(Debug, ThisError)]
#[error("cannot {act} {object}: {}", said(.source))]
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
        match (self.code(), self.act) {
            // A guarded JSON patch whose test failed, or an object that is another one now.
            (404, _) => Class::Conflict,
            (422, Act::Patch) if !is_denied(&self.source) => Class::Conflict,
            _ => class_of(&self.source),
        }
    }
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
        // Somebody else leads, and has looked by now or soon will.
        error if super::role::is_not_leading(error) => Class::Conflict,
        kube::Error::SerdeError(_) | kube::Error::BuildRequest(_) | kube::Error::HttpError(_) => {
            Class::Bug
        }
        // A Secret may not have been written for a reason of its own.
        kube::Error::Service(source) => source
            .downcast_ref::<SecretError>()
            .map_or(Class::Retry, SecretError::class),
        _ => Class::Retry,
    }
}

/// Whether an admission policy has said no: it gives a cause without a field, where an object that is
/// not valid has one with its field, and a test that failed has none.
fn is_denied(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let details = status.details.iter();
    let mut causes = details.flat_map(|details| &details.causes);
    causes.any(|cause| cause.field.is_empty())
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

/// Whether the API server found this field of what was sent invalid.
pub fn faults(error: &kube::Error, field: &str) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 422 && causes.any(|cause| cause.field == field)
}

/// HTTP status of an answer; 0 without one.
pub fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
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
            Self::Update => "update",
            Self::Delete => "delete",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// As kube-apiserver answers them.
    #[test]
    fn a_policy_that_refuses_a_patch_is_no_other_writer() {
        let refused = |causes| {
            let status = json!({"status": "Failure", "code": 422, "reason": "Invalid",
                "message": "x", "details": {"causes": causes}});
            let status = serde_json::from_value(status).unwrap();
            Error::of(Act::Patch, "it")(kube::Error::Api(status))
        };
        for (causes, class) in [
            (json!([]), Class::Conflict),
            (
                json!([{"field": "metadata.uid", "message": "x"}]),
                Class::Conflict,
            ),
            (json!([{"message": "no"}]), Class::User),
        ] {
            assert_eq!(refused(causes.clone()).class(), class, "{causes}");
        }
    }
}
