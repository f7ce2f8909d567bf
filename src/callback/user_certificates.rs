//! Users' own `HookCertificate`s: whether the one that a client certificate was issued for still
//! exists.
//!
//! Deleting it locks out its holder and nobody else. An object that is in the cache exists; one
//! that is not may only be too new for it, so the server is asked. Without an answer the caller is
//! never accepted.

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use kube::Client;
use kube::runtime::reflector::Store;

use crate::api::HookCertificate;
use crate::cluster::acknowledge;

/// How many times a second the server is asked: each time is a list of a namespace's certificates,
/// and one that exists is asked about only while it is new.
const QUESTIONS_A_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("10 is not zero");

/// Finds out whether users' own certificates exist.
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
    /// It is not known at present.
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
