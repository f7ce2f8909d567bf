//! Certificates of hooks: look when a `HookCertificate` or its hook changes, when a renewal is due,
//! and when another authority signs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use kube::api::Api;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

use super::authority::InUse;
use super::backoff::{Backoff, Reopen};
use super::everything;
use super::readable;
use super::synced::{Synced, Waiter};
use crate::api::condition::Reason;
use crate::api::{HookCertificate, KrakeHook};
use crate::cluster::Class;
use crate::cluster::certificates::{CertificateError, CertificateWriter};
use crate::cluster::slim::{self, Metadata};
use crate::config::Config as Configuration;
use crate::decide::Next;
use crate::decide::certificate::{
    CertificateEffect, CertificateSeen, CertificateSettings, IssueOrder, Outcome, decide, made_for,
};
use crate::metrics::{Holder, IssuanceOutcome, Metrics};
use crate::pki::{Authority, KeyAlgorithm};

/// Issues that run at once; each waits for the API server most of its time.
const AT_ONCE: u16 = 16;
/// Everything is looked at now and then: the timer of a renewal counts on while a machine sleeps
/// or its clock is set.
const RESYNC: Duration = Duration::from_secs(600);
/// How often the record of an issuance is retried after a conflict before it is left to the next
/// reconcile.
const RECORD_ATTEMPTS: usize = 3;

/// What time it is; the tests have clocks that are wrong.
type Clock = Box<dyn Fn() -> Timestamp + Send + Sync>;

/// What a reconcile needs.
pub struct Context {
    now: Clock,
    writer: CertificateWriter,
    in_use: watch::Receiver<Arc<InUse>>,
    user: String,
    duration_seconds: i64,
    key_algorithm: KeyAlgorithm,
    metrics: Metrics,
    backoff: Backoff<ObjectRef<HookCertificate>>,
    /// resourceVersion of each certificate after our last write, by uid: the cache may not have
    /// heard of it yet, and what it does not know of would be issued again.
    written: Mutex<HashMap<String, String>>,
}

/// A reconcile's view of the caches.
struct Look {
    context: Arc<Context>,
    hooks: Store<Metadata<KrakeHook>>,
    synced: Waiter,
}

/// What became of an order: what to record, and the error after which it is tried again.
struct Carried {
    outcome: Outcome,
    error: Option<CertificateError>,
}

impl Context {
    /// With the authorities in use now, and whatever will be.
    pub fn new(
        writer: CertificateWriter,
        in_use: watch::Receiver<Arc<InUse>>,
        configuration: &Configuration,
        metrics: Metrics,
    ) -> Self {
        Self {
            now: Box::new(Timestamp::now),
            writer,
            in_use,
            user: configuration.hooks.user.clone(),
            duration_seconds: configuration.certificates.duration_seconds,
            key_algorithm: configuration.certificates.key_algorithm,
            metrics,
            backoff: Backoff::up_to(Duration::from_secs(3600)),
            written: Mutex::default(),
        }
    }
}

/// Runs until `shutdown`.
pub async fn run(
    context: Arc<Context>,
    watches: &Client,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let (hooks, writer) = reflector::store();
    let config = everything();
    // Their metadata alone.
    let hooks_api = Api::<Metadata<KrakeHook>>::all(watches.clone());
    let hook_changes = watcher(hooks_api, config.clone())
        .backoff(Reopen::default())
        .reflect(writer);
    let mut synced = Synced::new();
    let hook_changes = synced.counting(hook_changes).touched_objects();
    let signer_changes = WatchStream::from_changes(context.in_use.clone()).map(|_| ());
    let (store, writer) = reflector::store();
    let certificates = readable::watch(watches, config, &store, &context.metrics)
        .backoff(Reopen::default())
        .modify(slim::slim)
        .reflect(writer)
        .touched_objects();
    let controller = Controller::for_stream(certificates, store.clone());
    let synced = synced.waiter();
    let look = Arc::new(Look {
        context,
        hooks,
        synced,
    });
    controller
        .with_config(Config::default().concurrency(AT_ONCE))
        .watches_stream(hook_changes, move |hook| naming(&store, &hook))
        .reconcile_all_on(signer_changes)
        .trigger_backoff(Reopen::default())
        .graceful_shutdown_on(shutdown)
        .run(reconcile, on_error, look)
        .for_each(|_| std::future::ready(()))
        .await;
}

async fn reconcile(
    certificate: Arc<HookCertificate>,
    look: Arc<Look>,
) -> Result<Action, CertificateError> {
    look.synced.wait().await;
    let object = ObjectRef::from_obj(certificate.as_ref());
    let context = &look.context;
    let Some(certificate) = context.newest(&certificate).await? else {
        return Ok(Action::await_change());
    };
    if look.is_left_behind(&certificate) {
        return Ok(Action::requeue(RESYNC));
    }
    let hook_uid = look.hook_uid(&certificate).await?;
    let in_use = context.in_use.borrow().clone();
    let Some(authority) = in_use.signer.clone() else {
        return context
            .refuse(&certificate, hook_uid.as_deref(), &in_use)
            .await;
    };
    let settings = context.settings(&authority);
    let seen = CertificateSeen {
        certificate: &certificate,
        hook_uid: hook_uid.as_deref(),
        outcome: None,
    };
    let decision = decide(&seen, &settings, (context.now)(), 0.0);
    let next = if let [CertificateEffect::Issue(order)] = decision.effects.as_slice() {
        let issued = context.issue(&object, order, authority).await?;
        let next = context.record(seen, &settings, &issued.outcome).await?;
        if let Some(error) = issued.error {
            let (class, next) = (error.class(), format!("{next:?}"));
            context.metrics.reconcile_failed("certificate", class);
            tracing::warn!(namespace = object.namespace, certificate = object.name, %error, next, "the certificate was refused; retrying");
        }
        next
    } else {
        context.carry_out(&certificate, &decision.effects).await?;
        decision.next
    };
    context.backoff.reset(&object);
    Ok(Action::requeue(match next {
        Next::AwaitChange => RESYNC,
        Next::At(at) => wait(at.duration_since((context.now)())).min(RESYNC),
    }))
}

fn on_error(
    certificate: Arc<HookCertificate>,
    error: &CertificateError,
    look: Arc<Look>,
) -> Action {
    let object = ObjectRef::from_obj(certificate.as_ref());
    let class = error.class();
    look.context.metrics.reconcile_failed("certificate", class);
    match class {
        Class::Conflict => {
            tracing::debug!(namespace = object.namespace, certificate = object.name, %error, "conflict; retrying");
        }
        Class::Retry => {
            tracing::warn!(namespace = object.namespace, certificate = object.name, %error, "reconcile failed; retrying")
        }
        Class::User => {
            tracing::warn!(namespace = object.namespace, certificate = object.name, %error, "reconcile refused; retrying")
        }
        Class::Bug => {
            tracing::error!(namespace = object.namespace, certificate = object.name, %error, "reconcile failed; retrying")
        }
    }
    Action::requeue(look.context.backoff.after(object, class))
}

impl Context {
    fn settings(&self, authority: &Authority) -> CertificateSettings {
        CertificateSettings {
            user: self.user.clone(),
            duration_seconds: self.duration_seconds,
            key_algorithm: self.key_algorithm,
            authority: authority.fingerprint(),
        }
    }

    /// The certificate from the cache, or live if the cache has not received our last write yet.
    async fn newest(
        &self,
        cached: &Arc<HookCertificate>,
    ) -> Result<Option<HookCertificate>, CertificateError> {
        let uid = cached.uid().unwrap_or_default();
        let written = self.written().get(&uid).cloned();
        if written.is_none() || written == cached.resource_version() {
            return Ok(Some(cached.as_ref().clone()));
        }
        let live = self.read(cached).await?;
        match &live {
            Some(live) => self.remember(live),
            None => _ = self.written().remove(&uid),
        }
        Ok(live)
    }

    /// There is no signing authority, and the certificate's condition says why. It is reconciled
    /// again when there is one.
    async fn refuse(
        &self,
        certificate: &HookCertificate,
        hook_uid: Option<&str>,
        in_use: &InUse,
    ) -> Result<Action, CertificateError> {
        let Some(fault) = &in_use.fault else {
            // Nothing is known yet.
            return Ok(Action::await_change());
        };
        let outcome = Outcome::Refused {
            reason: Reason::Authority(fault.reason),
            message: format!("no certificate authority: {}", fault.message),
            order: None,
        };
        let seen = CertificateSeen {
            certificate,
            hook_uid,
            outcome: Some(&outcome),
        };
        let settings = CertificateSettings {
            user: self.user.clone(),
            duration_seconds: self.duration_seconds,
            key_algorithm: self.key_algorithm,
            authority: String::new(),
        };
        let decision = decide(&seen, &settings, (self.now)(), 0.0);
        self.carry_out(certificate, &decision.effects).await?;
        Ok(Action::requeue(RESYNC))
    }

    async fn issue(
        &self,
        object: &ObjectRef<HookCertificate>,
        order: &IssueOrder,
        authority: Arc<Authority>,
    ) -> Result<Carried, CertificateError> {
        let namespace = object.namespace.as_deref().unwrap_or_default();
        let issued = self
            .writer
            .issue(namespace, order, authority, (self.now)())
            .await;
        let counted = |outcome| {
            let cause = order.cause.as_str();
            self.metrics.issuance(Holder::Client, cause, outcome);
        };
        match issued {
            Ok(issuance) => {
                tracing::info!(
                    namespace = object.namespace,
                    certificate = object.name,
                    secret = issuance.secret.name,
                    cause = order.cause.as_str(),
                    serial = issuance.serial,
                    until = %issuance.not_after,
                    "issued"
                );
                counted(IssuanceOutcome::Issued);
                Ok(Carried {
                    outcome: Outcome::Issued(Box::new(issuance)),
                    error: None,
                })
            }
            Err(error) => {
                let outcome = error.outcome(&order.id);
                counted(match &outcome {
                    Some(Outcome::Refused {
                        reason: Reason::SecretConflict,
                        ..
                    }) => IssuanceOutcome::SecretConflict,
                    Some(_) => IssuanceOutcome::Failed,
                    None => IssuanceOutcome::Retried,
                });
                match outcome {
                    Some(outcome) => Ok(Carried {
                        outcome,
                        error: Some(error),
                    }),
                    None => Err(error),
                }
            }
        }
    }

    /// Writes down what became of an order. What is in the Secret is recorded whatever else has
    /// changed meanwhile; the change is for the next look.
    async fn record(
        &self,
        seen: CertificateSeen<'_>,
        settings: &CertificateSettings,
        outcome: &Outcome,
    ) -> Result<Next, CertificateError> {
        let jitter = rand::random();
        let mut certificate = seen.certificate.clone();
        let mut attempts = 0;
        loop {
            let seen = CertificateSeen {
                certificate: &certificate,
                hook_uid: seen.hook_uid,
                outcome: Some(outcome),
            };
            let decision = decide(&seen, settings, (self.now)(), jitter);
            attempts += 1;
            match self.carry_out(&certificate, &decision.effects).await {
                Ok(()) => return Ok(decision.next),
                Err(error) if error.class() != Class::Conflict || attempts == RECORD_ATTEMPTS => {
                    return Err(error);
                }
                Err(error) => match self.read(&certificate).await? {
                    // It is as it was: there was no other writer, and to retry at once is of no
                    // use.
                    Some(live) if live.resource_version() == certificate.resource_version() => {
                        return Err(error);
                    }
                    Some(live) if live.uid() == certificate.uid() => certificate = live,
                    _ => return Err(error),
                },
            }
        }
    }

    async fn carry_out(
        &self,
        certificate: &HookCertificate,
        effects: &[CertificateEffect],
    ) -> Result<(), CertificateError> {
        for effect in effects {
            match effect {
                CertificateEffect::WriteStatus(status) => {
                    let new = self.writer.write_status(certificate, status).await?;
                    self.remember(&new);
                    self.metrics.effect("WriteCertificateStatus");
                }
                CertificateEffect::Event(notice) => self.writer.tell(certificate, notice).await,
                // An order stands alone and is carried out by `issue`.
                CertificateEffect::Issue(_) => {}
            }
        }
        Ok(())
    }

    async fn read(
        &self,
        certificate: &HookCertificate,
    ) -> Result<Option<HookCertificate>, CertificateError> {
        let namespace = certificate.namespace().unwrap_or_default();
        Ok(self
            .writer
            .read(&namespace, &certificate.name_any())
            .await?)
    }

    fn remember(&self, certificate: &HookCertificate) {
        if let (Some(uid), Some(version)) = (certificate.uid(), certificate.resource_version()) {
            self.written().insert(uid, version);
        }
    }

    fn written(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Look {
    /// Whether it is the operator's own, of a hook that the cache has no more: it goes with the hook's
    /// guard, and until then nothing is asked or done for it.
    fn is_left_behind(&self, certificate: &HookCertificate) -> bool {
        let status = certificate.status.as_ref();
        let recorded = status.and_then(|status| status.hook_uid.as_deref());
        recorded.is_some()
            && recorded == made_for(certificate)
            && self.cached(certificate).is_none()
    }

    /// Uid of the hook that a certificate names: by the cache, which may not have heard yet of the
    /// hook that the certificate was just made for.
    async fn hook_uid(
        &self,
        certificate: &HookCertificate,
    ) -> Result<Option<String>, CertificateError> {
        let status = certificate.status.as_ref();
        let recorded = status.and_then(|status| status.hook_uid.clone());
        match self.cached(certificate) {
            Some(uid) if recorded.as_ref().is_none_or(|r| *r == uid) => Ok(Some(uid)),
            _ => {
                let namespace = certificate.namespace().unwrap_or_default();
                let name = &certificate.spec.hook.name;
                Ok(self.context.writer.hook_uid(&namespace, name).await?)
            }
        }
    }

    fn cached(&self, certificate: &HookCertificate) -> Option<String> {
        let namespace = certificate.namespace().unwrap_or_default();
        let hook = ObjectRef::new(&certificate.spec.hook.name).within(&namespace);
        self.hooks.get(&hook).and_then(|hook| hook.uid())
    }
}

/// The certificates that name a hook.
fn naming(
    certificates: &Store<HookCertificate>,
    hook: &Metadata<KrakeHook>,
) -> Vec<ObjectRef<HookCertificate>> {
    certificates
        .state_filter(|certificate| {
            certificate.metadata.namespace == hook.metadata.namespace
                && Some(&certificate.spec.hook.name) == hook.metadata.name.as_ref()
        })
        .iter()
        .map(|certificate| ObjectRef::from_obj(certificate.as_ref()))
        .collect()
}

fn wait(left: SignedDuration) -> Duration {
    // A moment later rather than a moment too early: the clock that counts is the decision's.
    Duration::try_from(left).unwrap_or_default() + Duration::from_millis(5)
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
mod tests;
