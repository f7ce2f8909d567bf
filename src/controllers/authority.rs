//! Which authorities are in use, read by every replica: hears of each change of their Secret, and
//! hands on who signs, whom the callback trusts, and what is in the hooks' bundles.
//!
//! It must never write: [`super::authority_rotation`] does, in one replica. A state that cannot be read changes
//! nothing but what is said of it: what was in use stays in use.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, future};
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use super::backoff::{Backoff, Reopen};
use super::everything;
use crate::api::hook_authority::AuthorityPhase;
use crate::api::names;
use crate::cluster::authority::{State, read};
use crate::cluster::operator_secrets::OperatorSecrets;
use crate::decide::Settings;
use crate::decide::authority::Fault;
use crate::metrics::{AuthorityGauge, Metrics};
use crate::pki::{Authority, Ledger, Succession};

/// The Secret is read now and then, whatever a watch may have missed.
const RESYNC: Duration = Duration::from_secs(600);

/// The authorities as a replica uses them.
#[derive(Clone, Debug, Default)]
pub struct InUse {
    /// The one that signs; none until there is one.
    pub signer: Option<Arc<Authority>>,
    /// What clients' certificates are verified with.
    pub anchors: Vec<CertificateDer<'static>>,
    /// PEM of what clients are given to trust.
    pub bundle: String,
    /// Why there is none, or why the authority in use is not the one in the state.
    pub fault: Option<Fault>,
}

/// What is followed, and who hears of it.
pub struct Context {
    /// The operator's own Secrets.
    pub secrets: OperatorSecrets,
    /// For the watch.
    pub watches: Client,
    /// Gets what is in use.
    pub in_use: watch::Sender<Arc<InUse>>,
    /// Gauges.
    pub metrics: Metrics,
}

/// Runs until `shutdown`.
pub async fn run(
    context: Context,
    now: impl Fn() -> Timestamp,
    shutdown: impl Future<Output = ()>,
) {
    tokio::pin!(shutdown);
    let backoff = Backoff::new();
    let changes = changes::<k8s_openapi::api::core::v1::Secret>(
        &context.watches,
        &context.secrets.namespace,
        names::AUTHORITY_SECRET,
    );
    tokio::pin!(changes);
    loop {
        let wait = match read(&context.secrets, now()).await {
            Ok(state) => {
                backoff.reset(&());
                context.publish(&state);
                RESYNC
            }
            Err(error) => {
                tracing::warn!(%error, "could not read the certificate authorities; keeping those in use");
                backoff.after((), error.class())
            }
        };
        tokio::select! {
            () = &mut shutdown => return,
            () = tokio::time::sleep(wait) => {}
            Some(()) = changes.next() => {}
        }
    }
}

impl InUse {
    /// What a succession means for a replica.
    pub fn of(succession: &Succession) -> Self {
        Self {
            signer: Some(Arc::clone(succession.signer())),
            anchors: succession.anchors(),
            bundle: succession.bundle().pem().to_owned(),
            fault: None,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        let signer = |in_use: &Self| in_use.signer.as_ref().map(|signer| signer.fingerprint());
        self.anchors == other.anchors
            && self.bundle == other.bundle
            && self.fault == other.fault
            && signer(self) == signer(other)
    }
}

impl Context {
    fn publish(&self, state: &State) {
        let fault = match state {
            State::Kept(kept) => {
                let in_use = InUse::of(&kept.succession);
                self.metrics.authorities(gauges(kept.succession.ledger()));
                self.in_use.send_if_modified(|old| {
                    let changed = !old.is_same(&in_use);
                    if changed {
                        tell(old, &in_use);
                        *old = Arc::new(in_use);
                    }
                    changed
                });
                return;
            }
            State::Broken(fault) => fault.clone(),
            State::Nothing => Fault {
                reason: "AuthorityMissing",
                message: format!(
                    "there is no certificate authority yet; `kubectl -n {} describe hookauthority` says why",
                    self.secrets.namespace
                ),
            },
        };
        // What the rotation has found wrong says more than that there is nothing.
        let missing = matches!(state, State::Nothing);
        self.in_use.send_if_modified(|old| {
            if old.fault.as_ref() == Some(&fault) || (missing && old.fault.is_some()) {
                return false;
            }
            if missing {
                tracing::info!(fault = fault.message, "waiting for a certificate authority");
            } else {
                let reason = fault.reason;
                tracing::error!(reason, fault = fault.message, "no certificate authority");
            }
            *old = Arc::new(InUse {
                fault: Some(fault),
                ..old.as_ref().clone()
            });
            true
        });
    }
}

/// Gives the hook controller what it writes into every ConfigMap, until `shutdown`.
pub async fn tell_bundle(
    mut in_use: watch::Receiver<Arc<InUse>>,
    settings: watch::Sender<Arc<Settings>>,
    shutdown: impl Future<Output = ()>,
) {
    tokio::pin!(shutdown);
    loop {
        let bundle = in_use.borrow_and_update().bundle.clone();
        settings.send_if_modified(|old| {
            let changed = old.bundle != bundle;
            if changed {
                *old = Arc::new(Settings {
                    bundle,
                    ..old.as_ref().clone()
                });
            }
            changed
        });
        tokio::select! {
            () = &mut shutdown => return,
            changed = in_use.changed() => if changed.is_err() {
                return shutdown.await;
            },
        }
    }
}

fn tell(old: &InUse, new: &InUse) {
    let fingerprint = |in_use: &InUse| in_use.signer.as_ref().map(|signer| signer.fingerprint());
    let (before, signer) = (fingerprint(old), fingerprint(new));
    tracing::info!(
        signer,
        before,
        trusted = new.anchors.len(),
        "certificate authorities in use"
    );
}

fn gauges(ledger: &Ledger) -> Vec<AuthorityGauge> {
    let phase = |fingerprint: &str| {
        if ledger.active.fingerprint == fingerprint {
            AuthorityPhase::Active
        } else if ledger
            .next
            .as_ref()
            .is_some_and(|n| n.fingerprint == fingerprint)
        {
            AuthorityPhase::Prepared
        } else {
            AuthorityPhase::Retiring
        }
    };
    ledger
        .all()
        .map(|entry| AuthorityGauge {
            fingerprint: entry.fingerprint.chars().take(16).collect(),
            phase: phase(&entry.fingerprint),
            expiry: entry.not_after,
        })
        .collect()
}

/// Says when one object has changed, by a watch of its metadata alone; of what a Secret says, the
/// client would log what it cannot parse.
pub(super) fn changes<K>(
    client: &Client,
    namespace: &str,
    name: &str,
) -> impl Stream<Item = ()> + Send + use<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + Send
        + 'static,
{
    let api = Api::<PartialObjectMeta<K>>::namespaced(client.clone(), namespace);
    let config = everything().fields(&format!("metadata.name={name}"));
    let object = format!("{} {namespace}/{name}", K::kind(&()));
    let mut said = None;
    watcher(api, config)
        .backoff(Reopen::default())
        .filter_map(move |event| {
            future::ready(match event {
                // A first look is made anyway; one more is made when the watch has begun, for what
                // happened in between.
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => None,
                Ok(_) => {
                    said = None;
                    Some(())
                }
                Err(error) => {
                    let error = error.to_string();
                    if said.as_ref() != Some(&error) {
                        tracing::warn!(object, error, "watch keeps failing; reopening it");
                        said = Some(error);
                    }
                    None
                }
            })
        })
        // What happens at once is looked at once.
        .ready_chunks(64)
        .map(|_| ())
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
