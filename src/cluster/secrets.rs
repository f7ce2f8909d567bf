//! The one way a tenant's Secret is written.
//!
//! # Guarantees
//! - `create` and `update` are the only verbs; nothing of a Secret is ever read. Answers are asked
//!   for as metadata alone, so that not even the answer to our own write holds the content.
//! - A Secret that belongs to somebody else is never overwritten. What is ours is told by what was
//!   recorded of it (its uid), or by the admission policy in `config/policies`, which lets an update
//!   through only if the object already carries our two labels.
//!
//! | recorded | answer | then |
//! |---|---|---|
//! | yes | 200 | written |
//! | yes | 409: edited since, or another object | PUT with its uid alone: 200 = an edit was overwritten, once |
//! | yes | 404, or 409 again: it is gone, or another one has its name | as if nothing were recorded |
//! | yes | 403, 422 | taken |
//! | no | POST 201 | written |
//! | no | POST 409, no policy | taken |
//! | no | POST 409, policy, asked about again | PUT: 200 = ours after a crash; 403, 422 = taken |
//! | no | POST 403 in a terminating namespace | nothing to be done, and nothing to be retried |
//!
//! # Assumptions
//! A policy that was in force a moment ago ([`PolicyProbe::stands`]) is in force for the PUT that follows.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Client;
use kube::api::{PartialObjectMeta, PostParams, Request};
use kube::core::Status;
use secrecy::ExposeSecret;
use thiserror::Error;

use super::secret_policy::PolicyProbe;
use super::{Class, class_of, objects, said};
use crate::api::names;
use crate::pki::SecretData;

/// Answers hold metadata, never content.
const METADATA_ALONE: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// Name of the Secret that [`is_policy_in_force`] asks about and that never comes to be.
const PROBE: &str = "krake-hooks-policy-probe";

/// A Secret as it shall be.
#[derive(Debug)]
pub struct SecretOrder<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Uid of the hook, or of the user's own `HookCertificate`, it belongs to.
    pub owner_label: &'a str,
    /// What it goes with.
    pub owner: OwnerReference,
    /// Its entries.
    pub data: SecretData,
    /// The Secret as last written, if it was.
    pub recorded: Option<Recorded>,
}

/// A Secret as last written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its uid.
    pub uid: String,
    /// Its resourceVersion after our last write.
    pub resource_version: String,
}

/// A Secret that has just been written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its uid.
    pub uid: String,
    /// Its resourceVersion.
    pub resource_version: String,
    /// When it was created, by the API server's clock.
    pub created: Option<Time>,
    /// When it was last changed, by the API server's clock.
    pub at: Option<Time>,
    /// It had been edited since our last write, and was overwritten.
    pub overwrote_edit: bool,
}

/// Why a Secret was not written.
#[derive(Debug, Error)]
pub enum SecretError {
    /// A Secret of this name is not the operator's.
    #[error("Secret {name} belongs to somebody else and is not overwritten: {message}")]
    Taken {
        /// Its name.
        name: String,
        /// What the API server said.
        message: String,
    },
    /// Nothing can be created any more.
    #[error("create Secret {namespace}/{name}: the namespace is being deleted")]
    NamespaceTerminating {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// It could not be created.
    #[error("create Secret {namespace}/{name}: {}", said(.source))]
    Create {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// It could not be updated.
    #[error("update Secret {namespace}/{name}: {}", said(.source))]
    Update {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// The server answered without saying what it has written.
    #[error("write Secret {namespace}/{name}: the answer has no uid or no resourceVersion")]
    Answer {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// It cannot be found out whether the admission policy is there.
    #[error(
        "create (dry run) a Secret in {namespace}, to find out whether the admission policy of config/policies is in force: {}", said(.source)
    )]
    Probe {
        /// The operator's namespace.
        namespace: String,
        /// What the API server said.
        source: kube::Error,
    },
}

impl SecretError {
    /// What it calls for.
    pub fn class(&self) -> Class {
        match self {
            Self::Taken { .. } | Self::NamespaceTerminating { .. } => Class::User,
            Self::Create { source, .. }
            | Self::Update { source, .. }
            | Self::Probe { source, .. } => class_of(source),
            Self::Answer { .. } => Class::Bug,
        }
    }
}

/// Writes a Secret, unless one of that name is not the operator's.
pub async fn write(
    client: &Client,
    order: SecretOrder<'_>,
    policy: &PolicyProbe,
) -> Result<Written, SecretError> {
    let (meta, overwrote_edit) = attempt(client, &order, policy, false).await?;
    order.written(meta, overwrote_edit)
}

/// Whether [`write()`] would: the same, as dry runs, for what takes long to make. What is to be written
/// need not be there yet.
pub async fn may_write(
    client: &Client,
    order: &SecretOrder<'_>,
    policy: &PolicyProbe,
) -> Result<(), SecretError> {
    attempt(client, order, policy, true).await.map(|_| ())
}

/// The table above; also whether somebody's edit was overwritten.
async fn attempt(
    client: &Client,
    order: &SecretOrder<'_>,
    policy: &PolicyProbe,
    dry_run: bool,
) -> Result<(ObjectMeta, bool), SecretError> {
    if let Some(recorded) = order.recorded.clone()
        && let Some(updated) = update_recorded(client, order, recorded, dry_run).await?
    {
        return Ok(updated);
    }
    let secret = order.secret(None, None);
    match post(client, order.namespace, &secret, dry_run).await {
        Ok(meta) => Ok((meta, false)),
        Err(error) if is_already_there(&error) => {
            if !policy.stands(client).await? {
                return Err(order.taken(&error));
            }
            match replace(client, order, None, None, dry_run).await {
                Ok(meta) => Ok((meta, false)),
                Err(error) if is_refused(&error) => Err(order.taken(&error)),
                Err(source) => Err(order.not_updated(source)),
            }
        }
        Err(error) if is_namespace_terminating(&error) => Err(SecretError::NamespaceTerminating {
            namespace: order.namespace.to_owned(),
            name: order.name.to_owned(),
        }),
        Err(source) => Err(SecretError::Create {
            namespace: order.namespace.to_owned(),
            name: order.name.to_owned(),
            source,
        }),
    }
}

/// Whether the admission policy keeps us from Secrets that are not ours: a Secret without our
/// labels is refused where the same one with them is not. (Dry runs: nothing is created.)
pub async fn is_policy_in_force(client: &Client, namespace: &str) -> Result<bool, SecretError> {
    let owner = objects::guard_reference(PROBE, PROBE);
    let mut probe = Secret {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(PROBE.to_owned()),
            owner_references: Some(vec![
                serde_json::from_value(owner).expect("this is an owner reference"),
            ]),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    let failed = |source| SecretError::Probe {
        namespace: namespace.to_owned(),
        source,
    };
    match post(client, namespace, &probe, true).await {
        Ok(_) => return Ok(false),
        Err(error) if is_refused(&error) => {}
        Err(source) => return Err(failed(source)),
    }
    probe.metadata.labels = Some(labels("probe"));
    // Refused as well: then it is not the labels, and nothing is known about the policy.
    post(client, namespace, &probe, true)
        .await
        .map_err(failed)
        .map(|_| true)
}

/// Whether a Secret is as it was written: a dry run of an update that names its uid and
/// resourceVersion. Edited answers 409, gone 404, another one's is refused.
pub async fn is_as_written(client: &Client, order: &SecretOrder<'_>) -> Result<bool, SecretError> {
    let Some(recorded) = &order.recorded else {
        return Ok(false);
    };
    let (uid, version) = (&recorded.uid, &recorded.resource_version);
    match replace(client, order, Some(uid), Some(version), true).await {
        Ok(_) => Ok(true),
        Err(error) if is_code(&error, 404) || is_code(&error, 409) || is_refused(&error) => {
            Ok(false)
        }
        Err(source) => Err(order.not_updated(source)),
    }
}

impl SecretOrder<'_> {
    fn secret(&self, uid: Option<&str>, resource_version: Option<&str>) -> Secret {
        let data = self.data.iter().map(|(name, content)| {
            let content = ByteString(content.expose_secret().to_vec());
            (name.clone(), content)
        });
        Secret {
            metadata: ObjectMeta {
                namespace: Some(self.namespace.to_owned()),
                name: Some(self.name.to_owned()),
                uid: uid.map(ToOwned::to_owned),
                resource_version: resource_version.map(ToOwned::to_owned),
                labels: Some(labels(self.owner_label)),
                owner_references: Some(vec![self.owner.clone()]),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            data: Some(data.collect()),
            ..Secret::default()
        }
    }

    fn written(&self, meta: ObjectMeta, overwrote_edit: bool) -> Result<Written, SecretError> {
        let changes = meta.managed_fields.into_iter().flatten();
        let at = changes.filter_map(|change| change.time).max();
        match (meta.uid, meta.resource_version) {
            (Some(uid), Some(resource_version)) => Ok(Written {
                uid,
                resource_version,
                created: meta.creation_timestamp,
                at,
                overwrote_edit,
            }),
            _ => Err(SecretError::Answer {
                namespace: self.namespace.to_owned(),
                name: self.name.to_owned(),
            }),
        }
    }

    fn taken(&self, error: &kube::Error) -> SecretError {
        SecretError::Taken {
            name: self.name.to_owned(),
            message: said(error),
        }
    }

    fn not_updated(&self, source: kube::Error) -> SecretError {
        SecretError::Update {
            namespace: self.namespace.to_owned(),
            name: self.name.to_owned(),
            source,
        }
    }
}

/// Updates the Secret that was recorded; `None` if there is no such Secret any more.
async fn update_recorded(
    client: &Client,
    order: &SecretOrder<'_>,
    recorded: Recorded,
    dry_run: bool,
) -> Result<Option<(ObjectMeta, bool)>, SecretError> {
    let uid = Some(recorded.uid.as_str());
    let version = Some(recorded.resource_version.as_str());
    let (answer, edited) = match replace(client, order, uid, version, dry_run).await {
        // The server says 409 both for another resourceVersion and for another uid; without a
        // resourceVersion only the uid is left to differ.
        Err(error) if is_code(&error, 409) => {
            (replace(client, order, uid, None, dry_run).await, true)
        }
        answer => (answer, false),
    };
    match answer {
        Ok(meta) => Ok(Some((meta, edited))),
        Err(error) if is_code(&error, 404) || is_code(&error, 409) => Ok(None),
        Err(error) if is_refused(&error) => Err(order.taken(&error)),
        Err(source) => Err(order.not_updated(source)),
    }
}

/// Creates a Secret; only metadata comes back.
pub(super) async fn post(
    client: &Client,
    namespace: &str,
    secret: &Secret,
    dry_run: bool,
) -> Result<ObjectMeta, kube::Error> {
    let body = serde_json::to_vec(secret).map_err(kube::Error::SerdeError)?;
    let request = Request::new(path(namespace))
        .create(&params(dry_run), body)
        .map_err(kube::Error::BuildRequest)?;
    send(client, request).await
}

/// Replaces a Secret of the operator's own; only metadata comes back.
pub(super) async fn put(
    client: &Client,
    namespace: &str,
    name: &str,
    secret: &Secret,
) -> Result<ObjectMeta, kube::Error> {
    let body = serde_json::to_vec(secret).map_err(kube::Error::SerdeError)?;
    let request = Request::new(path(namespace))
        .replace(name, &params(false), body)
        .map_err(kube::Error::BuildRequest)?;
    send(client, request).await
}

async fn replace(
    client: &Client,
    order: &SecretOrder<'_>,
    uid: Option<&str>,
    resource_version: Option<&str>,
    dry_run: bool,
) -> Result<ObjectMeta, kube::Error> {
    let secret = order.secret(uid, resource_version);
    let body = serde_json::to_vec(&secret).map_err(kube::Error::SerdeError)?;
    let request = Request::new(path(order.namespace))
        .replace(order.name, &params(dry_run), body)
        .map_err(kube::Error::BuildRequest)?;
    send(client, request).await
}

async fn send(
    client: &Client,
    mut request: hyper::http::Request<Vec<u8>>,
) -> Result<ObjectMeta, kube::Error> {
    let headers = request.headers_mut();
    headers.insert(
        hyper::http::header::ACCEPT,
        hyper::http::HeaderValue::from_static(METADATA_ALONE),
    );
    let answer: PartialObjectMeta<Secret> = ask(client, request).await?;
    Ok(answer.metadata)
}

/// A request whose answer is never shown. The client's own way logs an answer that does not parse,
/// whole, and the parser's error quotes it: half a Secret is not JSON.
pub(super) async fn ask<T: serde::de::DeserializeOwned>(
    client: &Client,
    request: hyper::http::Request<Vec<u8>>,
) -> Result<T, kube::Error> {
    let text = client.request_text(request).await?;
    serde_json::from_str(&text).map_err(|error| {
        let place = (error.line(), error.column());
        kube::Error::SerdeError(serde::de::Error::custom(format!(
            "the answer is not what was asked for (line {}, column {})",
            place.0, place.1
        )))
    })
}

fn params(dry_run: bool) -> PostParams {
    PostParams {
        dry_run,
        field_manager: Some(names::CONTROLLER_MANAGER.to_owned()),
    }
}

pub(super) fn path(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/secrets")
}

fn labels(owner: &str) -> std::collections::BTreeMap<String, String> {
    [
        (names::MANAGED_BY_LABEL, names::MANAGED_BY),
        (names::OWNER_LABEL, owner),
    ]
    .map(|(label, value)| (label.to_owned(), value.to_owned()))
    .into()
}

fn status_of(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

fn is_code(error: &kube::Error, code: u16) -> bool {
    status_of(error).is_some_and(|status| status.code == code)
}

/// Right or policy says no: 403, or 422 as admission policies answer.
fn is_refused(error: &kube::Error) -> bool {
    is_code(error, 403) || is_code(error, 422)
}

fn is_already_there(error: &kube::Error) -> bool {
    status_of(error).is_some_and(Status::is_already_exists)
}

fn is_namespace_terminating(error: &kube::Error) -> bool {
    is_code(error, 403)
        && status_of(error)
            .and_then(|status| status.details.as_ref())
            .is_some_and(|details| {
                let mut reasons = details.causes.iter().map(|cause| cause.reason.as_str());
                reasons.any(|reason| reason == "NamespaceTerminating")
            })
}

#[cfg(test)]
#[path = "secrets_tests.rs"]
mod tests;
