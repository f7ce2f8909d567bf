//! THE mTLS ENDPOINT: takes an app's "I am complete" and "I have shut down".
//!
//! It must never answer 200 before the acknowledgement is written, and never reveal a secret in an
//! answer, a log or an error.
//!
//! | file | noun |
//! |---|---|
//! | `listener.rs` | the accept loop and its limits |
//! | `places.rs` | who has how many connections, and which one gives way |
//! | `connection.rs` | one connection and its end |
//! | `activity.rs` | what goes on on it |
//! | `tls.rs` | what the endpoint shows and whom it lets in |
//! | `identity.rs` | who is calling |
//! | `own.rs` | users' own certificates, and whether they still stand |
//! | `routes.rs` | the one route, from a request to an answer |
//! | `body.rs` | what the app says |
//! | `crew.rs` | whose a pod is |
//! | `commit.rs` | the write, for all who wait for it at once |
//! | `pace.rs` | what the pods of one hook may make us write, and how often |

mod activity;
mod body;
mod commit;
mod connection;
mod crew;
mod identity;
pub mod listener;
mod pace;
mod places;
mod routes;
#[cfg(test)]
mod tests;
mod tls;
mod user_certificates;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use kube::Client;
use kube::runtime::reflector::Store;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use user_certificates::UserCertificates;

pub use commit::{Committer, HookName};
pub use crew::PodCaches;
pub use listener::{BindError, Limits, Listener, Mode, Share};
pub use tls::{Trust, TrustError, TrustSlot};

use crate::api::{HookCertificate, HookKind, KrakeHook};
use crate::metrics::Metrics;
use crate::pki::Ring;

/// The endpoint that apps call.
pub struct Endpoint {
    hooks: Store<KrakeHook>,
    user_certificates: UserCertificates,
    ring: Arc<ArcSwap<Ring>>,
    certificates_required: bool,
    path_prefix: String,
    body_within: Duration,
    committer: Committer,
    events: mpsc::Sender<Refused>,
    metrics: Metrics,
}

/// What an [`Endpoint`] is made of.
pub struct Parts {
    /// The cache of hooks.
    pub hooks: Store<KrakeHook>,
    /// The cache of certificates.
    pub certificates: Store<HookCertificate>,
    /// The caches of pods and their owners.
    pub pods: PodCaches,
    /// A client that does not try again by itself.
    pub client: Client,
    /// The ring of master keys; may be replaced at any time.
    pub ring: Arc<ArcSwap<Ring>>,
    /// The endpoint as callers know it; its path, if it has one, is accepted as a prefix.
    pub endpoint: String,
    /// Gets what should become an Event on the hook.
    pub events: mpsc::Sender<Refused>,
    /// Where everything is counted.
    pub metrics: Metrics,
}

/// An acknowledgement that did not count, or that repeated an earlier one, for an Event on its
/// hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The hook.
    pub hook: HookName,
    /// What was acknowledged.
    pub kind: HookKind,
    /// Why it did not count.
    pub reason: Refusal,
    /// Its pod, if the URL named one.
    pub pod: Option<String>,
    /// Its message.
    pub message: Option<String>,
}

/// Why an acknowledgement did not count, or that it repeated an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// There was no shutdown request.
    NotAsked,
    /// The request was closed.
    Late,
    /// Pods are counted, and it did not name its pod.
    Anonymous,
    /// A Failure after a Success.
    AlreadyAcknowledged,
    /// It had the hook's token, and is not a pod of its workload.
    ForeignPod,
    /// Its token is not for this hook and workload.
    WrongToken,
    /// The hook does not have this kind enabled.
    NotEnabled,
    /// The same had counted before.
    Repeated,
    /// It said that the app has failed.
    Failure,
}

impl Refusal {
    /// The word in the Event's `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAsked => "NotAsked",
            Self::Late => "Late",
            Self::Anonymous => "Anonymous",
            Self::AlreadyAcknowledged => "AlreadyAcknowledged",
            Self::ForeignPod => "ForeignPod",
            Self::WrongToken => "WrongToken",
            Self::NotEnabled => "NotEnabled",
            Self::Repeated => "Repeated",
            Self::Failure => "Failure",
        }
    }
}

impl Endpoint {
    /// An endpoint; nothing happens until [`serve`](Self::serve).
    pub fn new(parts: Parts) -> Self {
        Self {
            hooks: parts.hooks,
            user_certificates: UserCertificates::new(parts.certificates, parts.client.clone()),
            ring: parts.ring,
            // Until `serve` knows better: nobody without a certificate.
            certificates_required: true,
            body_within: Limits::default().body,
            path_prefix: path_of(&parts.endpoint),
            committer: Committer::new(parts.client, parts.pods, parts.metrics.clone()),
            events: parts.events,
            metrics: parts.metrics,
        }
    }

    /// Serves until `shutdown`; then lets requests under way finish and everything that waits to
    /// be written be written.
    pub async fn serve(mut self, listener: Listener, mode: Mode, shutdown: CancellationToken) {
        self.certificates_required = matches!(mode, Mode::Tls(_));
        self.body_within = listener.limits().body;
        let (committer, metrics) = (self.committer.clone(), self.metrics.clone());
        let service = warp::service(routes::filter(Arc::new(self)));
        listener.serve(mode, service, metrics, shutdown).await;
        committer.drained().await;
    }
}

/// Path of a URL without its trailing slash.
fn path_of(endpoint: &str) -> String {
    endpoint
        .parse::<hyper::Uri>()
        .map(|uri| uri.path().trim_end_matches('/').to_owned())
        .unwrap_or_default()
}
