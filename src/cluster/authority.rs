//! The operator's own Secrets: the ring of master keys and the certificate authority.
//!
//! # Guarantees
//! - Both are made once: `create` alone, and whoever loses the race reads what the winner wrote, so
//!   two replicas never have two.
//! - No new ring while any `HookGuard` exists: pods hold tokens that a new one would not know.
//! - Nothing is created that has not been found good first; nothing found bad is replaced.
//!
//! These, and the Secret that `callback.tls.intermediateSrc` names, are the only ones ever read.

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{GetParams, Request};
use secrecy::ExposeSecret;
use thiserror::Error;

use super::{said, secrets};
use crate::api::names;
use crate::config::Config;
use crate::pki::{
    Authority, AuthorityFault, AuthorityNames, AuthoritySerials, AuthorityValidity, GenerateError,
    Ring, RingError, SecretData,
};

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
    /// The Secret that the configuration names does not exist.
    #[error(
        "callback.tls.intermediateSrc: Secret {namespace}/{name} does not exist; create it with tls.crt, tls.key and ca.crt, or leave the field empty and the operator makes an authority of its own"
    )]
    AuthorityMissing {
        /// The operator's namespace.
        namespace: String,
        /// Name of the Secret.
        name: String,
    },
    /// The authority cannot be used.
    #[error("certificate authority in Secret {namespace}/{name}: {source}")]
    Authority {
        /// The operator's namespace.
        namespace: String,
        /// Name of the Secret.
        name: String,
        /// What is wrong.
        source: AuthorityFault,
    },
    /// No authority could be made.
    #[error("make a certificate authority: {0}")]
    Generate(#[from] GenerateError),
    /// The authority just made cannot sign for the endpoint.
    #[error(
        "make a certificate authority for the endpoint: {0} (see callback.externalEndpoint and callback.extraNames)"
    )]
    EndpointNames(AuthorityFault),
    /// A Secret cannot be read.
    #[error("read Secret {namespace}/{name}: {}", said(.source))]
    Read {
        /// The operator's namespace.
        namespace: String,
        /// Name of the Secret.
        name: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// A Secret cannot be created.
    #[error("create Secret {namespace}/{name}: {}", said(.source))]
    Create {
        /// The operator's namespace.
        namespace: String,
        /// Name of the Secret.
        name: String,
        /// What the API server said.
        source: kube::Error,
    },
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

impl BootError {
    /// The reason of a condition, log line or metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::MasterKeyLost { .. } => "MasterKeyLost",
            Self::Ring { .. } => "MasterKeyUnusable",
            Self::AuthorityMissing { .. } => "AuthorityMissing",
            Self::Authority { source, .. } | Self::EndpointNames(source) => source.reason(),
            Self::Generate(_) => "AuthorityNotMade",
            Self::Read { .. } => "SecretUnreadable",
            Self::Create { .. } => "SecretNotCreated",
            Self::Guards(_) => "GuardsUnreadable",
            Self::Vanishing { .. } => "SecretVanishing",
        }
    }
}

/// Reads the ring of master keys, or makes it if no HookGuard exists.
pub async fn load_or_create_ring(
    client: &Client,
    namespace: &str,
    guards_exist: impl Future<Output = Result<bool, kube::Error>>,
) -> Result<Ring, BootError> {
    let secrets = OwnSecrets { client, namespace };
    if let Some(entries) = secrets.read(names::RING_SECRET).await? {
        return ring_of(namespace, &entries);
    }
    if guards_exist.await.map_err(BootError::Guards)? {
        // Another replica may just have made the ring and, with it, the first guard.
        return match secrets.read(names::RING_SECRET).await? {
            Some(entries) => ring_of(namespace, &entries),
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
        None => {
            tracing::info!(
                namespace,
                secret = names::RING_SECRET,
                "made a new ring of master keys; back it up"
            );
            Ok(ring)
        }
        Some(entries) => ring_of(namespace, &entries),
    }
}

/// Reads the user's authority where `intermediate_src` names one; else the operator's own, which is
/// made if it is not there. It is checked for these names of the endpoint.
pub async fn load_or_create_authority(
    client: &Client,
    namespace: &str,
    config: &Config,
    endpoint_names: &[String],
    now: Timestamp,
) -> Result<Authority, BootError> {
    let secrets = OwnSecrets { client, namespace };
    let intermediate_src = config.callback.tls.intermediate_src.as_str();
    let load = |name: &str, entries: &SecretData| {
        authority_of(entries, now, endpoint_names).map_err(|source| BootError::Authority {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            source,
        })
    };
    if !intermediate_src.is_empty() {
        return match secrets.read(intermediate_src).await? {
            Some(entries) => load(intermediate_src, &entries),
            None => Err(BootError::AuthorityMissing {
                namespace: namespace.to_owned(),
                name: intermediate_src.to_owned(),
            }),
        };
    }
    if let Some(entries) = secrets.read(names::AUTHORITY_SECRET).await? {
        return load(names::AUTHORITY_SECRET, &entries);
    }
    let serials = AuthoritySerials {
        root: rand::random(),
        intermediate: rand::random(),
    };
    let made = Authority::generate(
        &AuthorityNames::default(),
        now,
        AuthorityValidity::default(),
        serials,
    )?
    .to_secret();
    // Read back as the next start will read it, before anybody is told of it.
    let authority = authority_of(&made, now, endpoint_names).map_err(BootError::EndpointNames)?;
    match secrets.create(names::AUTHORITY_SECRET, &made).await? {
        None => {
            tracing::info!(
                namespace,
                secret = names::AUTHORITY_SECRET,
                fingerprint = authority.fingerprint(),
                until = %authority.not_after(),
                "made a certificate authority"
            );
            Ok(authority)
        }
        Some(entries) => load(names::AUTHORITY_SECRET, &entries),
    }
}

/// Every name by which a client may call the endpoint: those of its Service, the host of
/// `externalEndpoint`, and `extraNames`.
pub fn endpoint_names(config: &Config, namespace: &str) -> Vec<String> {
    let service = names::SERVICE;
    let mut all = vec![
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.cluster.local"),
        format!("{service}.{namespace}"),
        service.to_owned(),
    ];
    let external = config.callback.external_endpoint.parse::<hyper::Uri>();
    // As in a URL, where an IPv6 address stands in brackets and a name may end with the root's dot.
    let host = external.iter().filter_map(|uri| uri.host());
    let host = host.map(|host| host.trim_start_matches('[').trim_end_matches([']', '.']));
    let extra = config.callback.extra_names.iter().map(String::as_str);
    for name in host.chain(extra) {
        if !name.is_empty() && !all.iter().any(|known| known == name) {
            all.push(name.to_owned());
        }
    }
    all
}

/// The Secrets of the operator's own namespace.
struct OwnSecrets<'a> {
    client: &'a Client,
    namespace: &'a str,
}

impl OwnSecrets<'_> {
    async fn read(&self, name: &str) -> Result<Option<SecretData>, BootError> {
        let request = Request::new(secrets::path(self.namespace))
            .get(name, &GetParams::default())
            .map_err(kube::Error::BuildRequest);
        let answer = match request {
            Ok(request) => secrets::ask::<Secret>(self.client, request).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(secret) => {
                let entries = secret.data.unwrap_or_default().into_iter();
                let entries = entries.map(|(entry, content)| (entry, content.0.into()));
                Ok(Some(entries.collect()))
            }
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
            Err(source) => Err(BootError::Read {
                namespace: self.namespace.to_owned(),
                name: name.to_owned(),
                source,
            }),
        }
    }

    /// `None` if it was created; what is there if somebody was faster.
    async fn create(
        &self,
        name: &str,
        entries: &SecretData,
    ) -> Result<Option<SecretData>, BootError> {
        let label = (names::MANAGED_BY_LABEL, names::MANAGED_BY);
        let entries = entries.iter().map(|(entry, content)| {
            let content = ByteString(content.expose_secret().to_vec());
            (entry.clone(), content)
        });
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(self.namespace.to_owned()),
                labels: Some([(label.0.to_owned(), label.1.to_owned())].into()),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            data: Some(entries.collect()),
            ..Secret::default()
        };
        match secrets::post(self.client, self.namespace, &secret, false).await {
            Ok(_) => Ok(None),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                let there = self.read(name).await?;
                there.map(Some).ok_or_else(|| BootError::Vanishing {
                    namespace: self.namespace.to_owned(),
                    name: name.to_owned(),
                })
            }
            Err(source) => Err(BootError::Create {
                namespace: self.namespace.to_owned(),
                name: name.to_owned(),
                source,
            }),
        }
    }
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

fn authority_of(
    entries: &SecretData,
    now: Timestamp,
    endpoint_names: &[String],
) -> Result<Authority, AuthorityFault> {
    let entry = |name: &str| {
        entries
            .get(name)
            .map(ExposeSecret::expose_secret)
            .unwrap_or_default()
    };
    Authority::load(
        entry("tls.crt"),
        entry("tls.key"),
        entry("ca.crt"),
        now,
        endpoint_names,
    )
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
