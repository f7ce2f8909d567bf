//! Users' own `HookCertificate`s: whether the one that a certificate was issued for still stands.
//!
//! Its deletion is how a laptop is locked out and nobody else. The cache is believed when it has
//! the object; when it has not, it may only be behind, so the server is asked. It must never let
//! anybody in for want of an answer.

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use kube::Client;
use kube::runtime::reflector::Store;

use crate::api::HookCertificate;
use crate::cluster::acknowledge;

/// How many questions a second go to the server: each is a list of a namespace's certificates, and
/// one that stands is asked about only in its first moments.
const QUESTIONS_A_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("10 is not zero");

/// What is known of users' own certificates.
pub struct UserCertificates {
    cache: Store<HookCertificate>,
    client: Client,
    questions: DefaultDirectRateLimiter,
}

/// What is known of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is there.
    Stands,
    /// It was deleted, or is being deleted.
    Gone,
    /// Nobody knows at present.
    Unknown,
}

impl UserCertificates {
    /// By a cache, and a server where the cache is behind.
    pub fn new(cache: Store<HookCertificate>, client: Client) -> Self {
        Self {
            cache,
            client,
            questions: RateLimiter::direct(Quota::per_second(QUESTIONS_A_SECOND)),
        }
    }

    /// Whether the one with this uid still stands.
    pub async fn standing(&self, namespace: &str, uid: &str) -> Standing {
        let cached = self.cache.find(|certificate| {
            let meta = &certificate.metadata;
            meta.uid.as_deref() == Some(uid) && meta.namespace.as_deref() == Some(namespace)
        });
        if let Some(certificate) = cached {
            return match certificate.metadata.deletion_timestamp {
                None => Standing::Stands,
                Some(_) => Standing::Gone,
            };
        }
        if self.questions.check().is_err() {
            return Standing::Unknown;
        }
        match acknowledge::has_certificate(&self.client, namespace, uid).await {
            Ok(true) => Standing::Stands,
            Ok(false) => Standing::Gone,
            Err(error) => {
                tracing::warn!(%error, "could not look up a user's HookCertificate; answering 503");
                Standing::Unknown
            }
        }
    }
}
