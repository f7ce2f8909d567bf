//! `HookCertificate`s: issues what was decided into its Secret, records it, and tells people.
//!
//! Only one task writes a `HookCertificate`'s status, and each write names the resourceVersion it
//! was decided on. A private key is in memory from its making until the Secret is written, and
//! nowhere else.

use std::sync::Arc;

use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Resource};
use secrecy::{ExposeSecret, SecretSlice};
use serde_json::json;
use thiserror::Error as ThisError;
use tokio::sync::Semaphore;

use super::secret_policy::PolicyProbe;
use super::secrets::{self, Recorded, SecretError, SecretOrder};
use super::{Act, Class, Error};
use crate::api::condition::Reason;
use crate::api::hook_certificate::IssuedSecret;
use crate::api::{HookCertificate, HookCertificateStatus, KrakeHook, names};
use crate::decide::certificate::{Issuance, IssueOrder, Outcome};
use crate::decide::seen::Notice;
use crate::pki::{Authority, IssueError, Issued, KeyAlgorithm, SecretData};

/// What is needed to write.
#[derive(Clone)]
pub struct CertificateWriter {
    /// The API server.
    pub client: Client,
    /// Whether the admission policy confines our writes to Secrets.
    pub policy: PolicyProbe,
    /// Makes Events.
    pub recorder: Recorder,
    /// A place for each RSA key that is made at a time.
    pub rsa: Arc<Semaphore>,
}

/// Why a certificate is not in its Secret, or not in its status.
#[derive(Debug, ThisError)]
pub enum CertificateError {
    /// The authority does not sign it.
    #[error("issue a certificate: {0}")]
    Issue(#[from] IssueError),
    /// Others' keys are being made.
    #[error("issue a certificate: another RSA key is being made, and they are made one at a time")]
    Busy,
    /// The thread that made it ended.
    #[error("issue a certificate: the task ended: {0}")]
    Ended(#[from] tokio::task::JoinError),
    /// The Secret was not written.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The certificate or its hook was not read or written.
    #[error(transparent)]
    Server(#[from] Error),
}

impl CertificateError {
    /// What it calls for.
    pub fn class(&self) -> Class {
        match self {
            Self::Issue(_) => Class::User,
            Self::Ended(_) => Class::Bug,
            Self::Busy => Class::Conflict,
            Self::Secret(error) => error.class(),
            Self::Server(error) => error.class(),
        }
    }

    /// What the status says of it; `None` while it may pass by itself.
    pub fn outcome(&self, order: &str) -> Option<Outcome> {
        let reason = match (self, self.class()) {
            (Self::Secret(SecretError::Taken { .. }), _) => Reason::SecretConflict,
            (
                Self::Secret(SecretError::Create { .. } | SecretError::Update { .. }),
                Class::User,
            ) => Reason::Rejected,
            (Self::Server(_), _) | (_, Class::Retry | Class::Conflict) => return None,
            (_, Class::User | Class::Bug) => Reason::IssueFailed,
        };
        let way_out = match reason {
            Reason::SecretConflict => {
                ". Choose another spec.secretName; or delete or rename that Secret, and annotate this HookCertificate with hooks.krake.dev/renew, any new value, to have it tried at once"
            }
            _ => "",
        };
        Some(Outcome::Refused {
            reason,
            message: format!("{self}{way_out}"),
            order: Some(order.to_owned()),
        })
    }
}

impl CertificateWriter {
    /// Makes key and certificate, and writes them as one Secret.
    pub async fn issue(
        &self,
        namespace: &str,
        order: &IssueOrder,
        authority: Arc<Authority>,
        now: Timestamp,
    ) -> Result<Issuance, CertificateError> {
        let mut secret = SecretOrder {
            namespace,
            name: &order.secret_name,
            owner_label: &order.owner_label,
            owner: order.owner.clone(),
            data: SecretData::new(),
            recorded: order.recorded.as_ref().map(|secret| Recorded {
                uid: secret.uid.clone(),
                resource_version: secret.resource_version.clone(),
            }),
        };
        let leaf = order.leaf.clone();
        // Its key takes a good part of a second of a processor, which is not spent for a Secret that
        // cannot be written; and whoever would have to wait for others' lets the next one go on.
        let _place = if leaf.algorithm == KeyAlgorithm::Rsa2048 {
            secrets::may_write(&self.client, &secret, &self.policy).await?;
            let place = Arc::clone(&self.rsa).try_acquire_owned();
            Some(place.map_err(|_| CertificateError::Busy)?)
        } else {
            None
        };
        let making =
            tokio::task::spawn_blocking(move || authority.issue_client(&leaf, now, rand::random()));
        let issued = making.await??;
        secret.data = entries(&issued);
        let written = secrets::write(&self.client, secret, &self.policy).await?;
        Ok(Issuance {
            cause: order.cause,
            generation: order.generation,
            renewed_for: order.renewed_for.clone(),
            hook_uid: order.hook_uid.clone(),
            secret: IssuedSecret {
                name: order.secret_name.clone(),
                uid: written.uid,
                resource_version: written.resource_version,
            },
            overwrote_edit: written.overwrote_edit,
            serial: issued.serial,
            not_before: issued.not_before,
            not_after: issued.not_after,
            issuer: issued.issuer,
            issuer_name: issued.issuer_name,
        })
    }

    /// Writes the status, if the certificate is still as it was seen.
    pub async fn write_status(
        &self,
        certificate: &HookCertificate,
        status: &HookCertificateStatus,
    ) -> Result<HookCertificate, Error> {
        let meta = &certificate.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let name = meta.name.as_deref().unwrap_or_default();
        let patch = json!({
            "apiVersion": HookCertificate::api_version(&()),
            "kind": HookCertificate::kind(&()),
            "metadata": {"name": name, "resourceVersion": meta.resource_version},
            "status": status,
        });
        let params = PatchParams::apply(names::CERTIFICATE_MANAGER).force();
        Api::<HookCertificate>::namespaced(self.client.clone(), namespace)
            .patch_status(name, &params, &Patch::Apply(&patch))
            .await
            .map_err(Error::of(
                Act::Apply,
                format!("status of HookCertificate {namespace}/{name}"),
            ))
    }

    /// The certificate as it is now.
    pub async fn read(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<HookCertificate>, Error> {
        Api::<HookCertificate>::namespaced(self.client.clone(), namespace)
            .get_opt(name)
            .await
            .map_err(Error::of(
                Act::Get,
                format!("HookCertificate {namespace}/{name}"),
            ))
    }

    /// Uid of the hook of this name, as it is now.
    pub async fn hook_uid(&self, namespace: &str, name: &str) -> Result<Option<String>, Error> {
        let hook = Api::<KrakeHook>::namespaced(self.client.clone(), namespace)
            .get_metadata_opt(name)
            .await
            .map_err(Error::of(Act::Get, format!("KrakeHook {namespace}/{name}")))?;
        Ok(hook.and_then(|hook| hook.metadata.uid))
    }

    /// An Event on the certificate. One that gets lost is no reason to do anything again.
    pub async fn tell(&self, certificate: &HookCertificate, notice: &Notice) {
        let event = Event {
            type_: if notice.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: notice.reason.into(),
            // The API server takes 1024 characters.
            note: Some(notice.note.chars().take(1000).collect()),
            action: "Issue".into(),
            secondary: None,
        };
        let reference = certificate.object_ref(&());
        if let Err(error) = self.recorder.publish(&event, &reference).await {
            tracing::debug!(
                reason = notice.reason,
                error = super::said(&error),
                "could not write an Event"
            );
        }
    }
}

/// What pods find in their volume.
fn entries(issued: &Issued) -> SecretData {
    let bytes = |text: &str| SecretSlice::from(text.as_bytes().to_vec());
    [
        (names::CERT, bytes(&issued.chain_pem)),
        (names::KEY, bytes(issued.key_pem.expose_secret())),
        (names::BUNDLE, bytes(issued.bundle_pem().expose_secret())),
    ]
    .into_iter()
    .map(|(name, content)| (name.to_owned(), content))
    .collect()
}
