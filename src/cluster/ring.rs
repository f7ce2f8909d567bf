//! The ring of master keys, in a Secret of the operator's own.
//!
//! # Guarantees
//! - It is made once: `create` alone, and whoever loses the race reads what the winner wrote, so two
//!   replicas never have two.
//! - No new ring while any `HookGuard` exists: pods hold tokens that a new one would not know.
//! - Nothing found bad is replaced.
//! - Each step of a rotation is one `update` that names the resourceVersion it was decided on.

use kube::Client;
use secrecy::ExposeSecret;
use thiserror::Error;

use super::operator_secrets::{OperatorSecrets, Read, Wrote};
use super::{Error as ServerError, said};
use crate::api::names;
use crate::decide::keys::KeyStep;
use crate::pki::{Ring, RingError, SecretData};

/// Annotation of the Secret: id of the key that is to sign next.
const NEXT: &str = "hooks.krake.dev/next-key";
/// Annotation of the Secret: the value that the last rotation was asked for with.
const ANSWERED: &str = "hooks.krake.dev/rotated-for";

/// The ring as it stands in its Secret.
pub struct Kept {
    /// The keys.
    pub ring: Ring,
    /// Id of the one that is to sign next.
    pub prepared: Option<String>,
    /// What the last rotation was asked for with.
    pub answered: Option<String>,
    read: Read,
}

/// Why the operator does not start; one line that names the object and the way out.
#[derive(Debug, Error)]
pub enum BootError {
    /// The ring is gone and tokens that it made are in use.
    #[error(
        "MasterKeyLost: Secret {namespace}/{} does not exist, but HookGuards do, so pods hold tokens that only its keys can verify. Restore it from a backup; or, if there is none, run `krake-hooks release-all`, delete what `kubectl get hookguards` still shows, and start again: every injected workload then rolls out anew",
        names::RING_SECRET
    )]
    MasterKeyLost {
        /// The operator's namespace.
        namespace: String,
    },
    /// The ring cannot be used.
    #[error(
        "Secret {namespace}/{} is not a ring of master keys: {source}. Restore it from a backup; deleting it makes every token in use worthless",
        names::RING_SECRET
    )]
    Ring {
        /// The operator's namespace.
        namespace: String,
        /// What is wrong.
        source: RingError,
    },
    /// The Secret cannot be read or created.
    #[error(transparent)]
    Secret(#[from] ServerError),
    /// It cannot be found out whether HookGuards exist.
    #[error("list HookGuards: {}", said(.0))]
    Guards(kube::Error),
    /// It is created and deleted by somebody else all the time.
    #[error(
        "Secret {namespace}/{name} exists when it is to be created, and does not when it is to be read; who deletes it?"
    )]
    Vanishing {
        /// The operator's namespace.
        namespace: String,
        /// Name of the Secret.
        name: String,
    },
}

/// Reads the ring of master keys, or makes it if no HookGuard exists.
pub async fn load_or_create_ring(
    client: &Client,
    namespace: &str,
    guards_exist: impl Future<Output = Result<bool, kube::Error>>,
) -> Result<Ring, BootError> {
    let secrets = OperatorSecrets {
        client: client.clone(),
        namespace: namespace.to_owned(),
    };
    if let Some(read) = secrets.read(names::RING_SECRET).await? {
        return ring_of(namespace, &read.entries);
    }
    if guards_exist.await.map_err(BootError::Guards)? {
        // Another replica may just have made the ring and, with it, the first guard.
        return match secrets.read(names::RING_SECRET).await? {
            Some(read) => ring_of(namespace, &read.entries),
            None => Err(BootError::MasterKeyLost {
                namespace: namespace.to_owned(),
            }),
        };
    }
    let ring = Ring::generate(rand::random());
    match secrets
        .create(names::RING_SECRET, &ring.to_secret())
        .await?
    {
        Wrote::Yes => {
            tracing::info!(
                namespace,
                secret = names::RING_SECRET,
                "created new master keys; back them up"
            );
            Ok(ring)
        }
        Wrote::SomebodyWasFaster => match secrets.read(names::RING_SECRET).await? {
            Some(read) => ring_of(namespace, &read.entries),
            None => Err(BootError::Vanishing {
                namespace: namespace.to_owned(),
                name: names::RING_SECRET.to_owned(),
            }),
        },
    }
}

/// Reads the ring; nothing if its Secret is gone.
pub async fn read(secrets: &OperatorSecrets) -> Result<Option<Kept>, BootError> {
    let Some(read) = secrets.read(names::RING_SECRET).await? else {
        return Ok(None);
    };
    let ring = ring_of(&secrets.namespace, &read.entries)?;
    let prepared = read.annotation(NEXT);
    let prepared = prepared.filter(|id| ring.has(id) && ring.current_id() != *id);
    Ok(Some(Kept {
        prepared: prepared.map(ToOwned::to_owned),
        answered: read.annotation(ANSWERED).map(ToOwned::to_owned),
        ring,
        read,
    }))
}

/// Takes a step of a rotation, which `asked` is the reason for.
pub async fn take(
    secrets: &OperatorSecrets,
    kept: Kept,
    step: KeyStep,
    asked: Option<String>,
) -> Result<Wrote, ServerError> {
    let Kept {
        ring,
        prepared,
        mut read,
        ..
    } = kept;
    let ring = match step {
        KeyStep::Prepare => {
            let (ring, id) = ring.with(rand::random());
            read.annotate(NEXT, Some(id));
            read.annotate(ANSWERED, asked);
            ring
        }
        KeyStep::Activate => {
            read.annotate(NEXT, None);
            ring.signing_with(prepared.as_deref().unwrap_or_default())
        }
        KeyStep::Drop => ring.alone(),
    };
    let entries = ring.to_secret();
    secrets.replace(names::RING_SECRET, &read, &entries).await
}

fn ring_of(namespace: &str, entries: &SecretData) -> Result<Ring, BootError> {
    let entries = entries
        .iter()
        .map(|(entry, content)| (entry.as_str(), content.expose_secret()));
    Ring::from_secret(entries).map_err(|source| BootError::Ring {
        namespace: namespace.to_owned(),
        source,
    })
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
