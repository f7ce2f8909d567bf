//! Rotates the certificate authorities; runs on the leader only. It observes the state, the user's Secret,
//! the `HookAuthority` and, while a rotation is under way, the cached ConfigMaps and certificates; takes
//! the steps that are decided; and reports them in the `HookAuthority`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};
use tokio::sync::watch;

use super::authority::{InUse, changes};
use super::backoff::Backoff;
use super::synced::Waiter;
use crate::api::{HookAuthority, HookAuthorityStatus, names};
use crate::cluster::authority::{AuthorityWriter, State, make, read};
use crate::cluster::observe::Caches;
use crate::cluster::{Class, Error};
use crate::decide::Next;
use crate::decide::authority::{
    AuthorityEffect, AuthoritySeen, AuthoritySettings, Fault, Kept, Origin, decide,
};
use crate::decide::authority_status::taken;
use crate::decide::entries::Entries;
use crate::decide::seen::Notice;
use crate::metrics::Metrics;
use crate::pki::{Authority, AuthorityValidity, Bundle, Entry, Step};

/// Everything is looked at now and then: a timer counts on while a machine sleeps or its clock is
/// set, and a watch of the user's Secret may not be allowed.
const RESYNC: Duration = Duration::from_secs(600);
/// The same while something is wrong that only a person can mend.
const RESYNC_FAULT: Duration = Duration::from_secs(15);
/// How often the caches are asked while a rotation waits for what they know.
const POLL: Duration = Duration::from_secs(1);
/// More steps in a row than that are a bug.
const MOST_STEPS: usize = 32;

/// What a reconcile needs.
pub struct Context {
    /// Reads and writes.
    pub writer: AuthorityWriter,
    /// For watches.
    pub watches: Client,
    /// ConfigMaps, certificates and hooks.
    pub caches: Caches,
    /// Nothing is decided before all watches have completed their initial list: what is not known of yet would
    /// look as if it were not in use.
    pub synced: Waiter,
    /// Namespace, source and waits.
    pub settings: AuthoritySettings,
    /// DNS names and IP addresses of the endpoint.
    pub endpoint_names: Vec<String>,
    /// How long an authority made here is valid.
    pub validity: AuthorityValidity,
    /// How long a leaf is valid where its `HookCertificate` does not say.
    pub leaf: SignedDuration,
    /// Hears why nothing can be used, where nothing is in use.
    pub in_use: watch::Sender<Arc<InUse>>,
    /// Counters.
    pub metrics: Metrics,
}

/// What the caches know.
#[derive(Clone, Debug, Default, PartialEq)]
struct Observed {
    bundles: usize,
    behind: usize,
    leaves: BTreeMap<String, usize>,
    longest_leaf: SignedDuration,
}

/// When to look again.
struct Wait {
    most: Duration,
    /// What the caches knew, where a rotation waits for a change of it.
    observed: Option<(Option<Bundle>, Observed)>,
}

/// Runs until `shutdown`.
pub async fn run(
    context: Context,
    now: impl Fn() -> Timestamp,
    shutdown: impl Future<Output = ()>,
) {
    tokio::pin!(shutdown);
    tokio::select! {
        () = &mut shutdown => return,
        told = context.synced.wait() => if !told { return },
    }
    let backoff = Backoff::new();
    let mut triggers = context.triggers();
    loop {
        let wait = match context.look(&now).await {
            Ok(wait) => {
                backoff.reset(&());
                wait
            }
            Err(error) => {
                context.metrics.reconcile_failed("authority", error.class());
                if error.class() == Class::Conflict {
                    tracing::debug!(%error, "somebody was faster; looking again");
                } else {
                    tracing::warn!(%error, "rotating the certificate authorities failed; retrying");
                }
                Wait {
                    most: backoff.after((), error.class()),
                    observed: None,
                }
            }
        };
        tokio::select! {
            () = &mut shutdown => return,
            () = tokio::time::sleep(wait.most) => {}
            Some(()) = triggers.next() => {}
            () = context.changed(wait.observed, &now) => {}
        }
    }
}

impl Context {
    fn triggers(&self) -> impl Stream<Item = ()> + Unpin + use<> {
        let namespace = &self.settings.namespace;
        let mut all = vec![
            changes::<Secret>(&self.watches, namespace, names::AUTHORITY_SECRET).boxed(),
            changes::<HookAuthority>(&self.watches, namespace, names::AUTHORITY).boxed(),
        ];
        if let Some(source) = &self.settings.source {
            all.push(changes::<Secret>(&self.watches, namespace, source).boxed());
        }
        stream::select_all(all)
    }

    /// Observes, decides and applies until there is nothing left to do.
    async fn look(&self, now: &impl Fn() -> Timestamp) -> Result<Wait, Error> {
        for _ in 0..MOST_STEPS {
            let state = read(&self.writer.secrets(), now()).await?;
            let source = match &self.settings.source {
                Some(name) => {
                    let names = &self.endpoint_names;
                    Some(self.writer.source(name, names, now()).await?)
                }
                None => None,
            };
            if let Some(wait) = self.step(&state, source, now()).await? {
                return Ok(wait);
            }
        }
        tracing::error!("the rotation of the certificate authorities does not converge");
        Ok(Wait {
            most: RESYNC_FAULT,
            observed: None,
        })
    }

    /// One decision carried out; nothing if it was a step, after which all is looked at again.
    async fn step(
        &self,
        state: &State,
        source: Option<Result<Authority, Fault>>,
        now: Timestamp,
    ) -> Result<Option<Wait>, Error> {
        // Without it there is less to see, and nothing less to do.
        let shown = match self.writer.shown().await {
            Ok(shown) => Some(shown),
            Err(error) => {
                tracing::warn!(%error, "could not write the status of the HookAuthority");
                None
            }
        };
        let (ledger, next) = match state {
            State::Kept(kept) => (
                Some(kept.succession.ledger()),
                kept.succession.next_bundle(),
            ),
            _ => (None, None),
        };
        let observed = self.observe(next.as_ref(), now);
        let candidate = source.as_ref().map(|source| match source {
            Ok(authority) => Ok(authority.entry(self.settings.source.clone(), now)),
            Err(fault) => Err(fault),
        });
        let endpoint = match state {
            State::Kept(kept) => {
                let signer = kept.succession.signer();
                let checked = signer.check_endpoint(&self.endpoint_names, now);
                checked.err().map(|fault| Fault::from(&fault))
            }
            _ => None,
        };
        let none = HookAuthorityStatus::default();
        let status = shown.as_ref().and_then(|shown| shown.status.as_ref());
        let status = status.map(HookAuthorityStatus::without_keys);
        let asked = match &shown {
            Some(shown) => shown.annotations().get(names::ROTATE_ANNOTATION),
            // Not known, so nothing new.
            None => ledger.and_then(|ledger| ledger.rotated_for.as_ref()),
        };
        let seen = AuthoritySeen {
            kept: match state {
                State::Nothing => Kept::Nothing,
                State::Broken(fault) => Kept::Broken(fault),
                State::Kept(kept) => Kept::Ledger(kept.succession.ledger()),
            },
            source: candidate.as_ref().map(|candidate| match candidate {
                Ok(entry) => Ok(entry),
                Err(fault) => Err(*fault),
            }),
            endpoint: endpoint.as_ref(),
            bundles: observed.bundles,
            behind: observed.behind,
            leaves: &observed.leaves,
            longest_leaf: observed.longest_leaf,
            asked: asked.map(String::as_str),
            status: status.as_ref().unwrap_or(&none),
        };
        let decision = decide(&seen, &self.settings, now);
        let fault = seen.source.and_then(Result::err).or(match seen.kept {
            Kept::Broken(fault) => Some(fault),
            _ => None,
        });
        let faulty = fault.is_some();
        let waiting = ledger.is_some_and(|l| l.next.is_some() || !l.retiring.is_empty());
        if ledger.is_none()
            && let Some(fault) = fault
        {
            self.say(fault);
        }
        let mut source = source.and_then(Result::ok);
        for effect in decision.effects {
            match effect {
                AuthorityEffect::Take { step, origin } => {
                    let made = match origin {
                        Some(Origin::Made) => match make(self.validity, now) {
                            Ok(made) => Some((made, None)),
                            Err(fault) => {
                                self.metrics.authority_step("Failed");
                                self.say(&fault);
                                return Ok(Some(Wait {
                                    most: RESYNC_FAULT,
                                    observed: None,
                                }));
                            }
                        },
                        Some(Origin::Source) => {
                            let source = source.take();
                            source.map(|source| (source, self.settings.source.clone()))
                        }
                        None => None,
                    };
                    let made = made.map(|(authority, source)| {
                        let entry = authority.entry(source, now);
                        (Arc::new(authority), entry)
                    });
                    let taken = self.take(state, &step, made, shown.as_ref(), now).await;
                    if taken.is_err() {
                        self.metrics.authority_step("Failed");
                    }
                    taken?;
                    return Ok(None);
                }
                AuthorityEffect::WriteStatus(status) => {
                    if let Some(shown) = &shown {
                        self.writer.write_status(shown, &status).await?;
                    }
                }
                AuthorityEffect::Event(notice) => self.tell(shown.as_ref(), &notice).await,
                AuthorityEffect::Refuse(notice) => {
                    self.metrics.authority_step("Refused");
                    self.tell(shown.as_ref(), &notice).await;
                }
            }
        }
        let most = match decision.next {
            Next::AwaitChange => RESYNC,
            Next::At(at) => {
                let left = Duration::try_from(at.duration_since(now)).unwrap_or_default();
                // A moment later rather than a moment too early.
                (left + Duration::from_millis(5)).min(RESYNC)
            }
        };
        Ok(Some(Wait {
            most: if faulty { most.min(RESYNC_FAULT) } else { most },
            observed: waiting.then_some((next, observed)),
        }))
    }

    async fn tell(&self, shown: Option<&HookAuthority>, notice: &Notice) {
        tracing::info!(reason = notice.reason, note = notice.note, "event");
        if let Some(shown) = shown {
            self.writer.tell(shown, notice).await;
        }
    }

    async fn take(
        &self,
        state: &State,
        step: &Step,
        made: Option<(Arc<Authority>, Entry)>,
        shown: Option<&HookAuthority>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(after) = self.writer.take(state, step, made, now).await? else {
            tracing::debug!(step = step.as_str(), "somebody was faster; looking again");
            return Ok(());
        };
        self.metrics.authority_step(step.as_str());
        let before = match state {
            State::Kept(kept) => Some(kept.succession.ledger()),
            _ => None,
        };
        let ledger = after.ledger();
        tracing::info!(
            step = step.as_str(),
            signer = ledger.active.fingerprint,
            next = ledger.next.as_ref().map(|next| next.fingerprint.as_str()),
            retiring = ledger.retiring.len(),
            "certificate authorities"
        );
        if let (Some(shown), Some(notice)) = (shown, taken(step, ledger, before)) {
            self.writer.tell(shown, &notice).await;
        }
        Ok(())
    }

    /// Nothing is in use: whoever waits for it hears why.
    fn say(&self, fault: &Fault) {
        self.in_use.send_if_modified(|old| {
            if old.signer.is_some() || old.fault.as_ref() == Some(fault) {
                return false;
            }
            tracing::error!(
                reason = fault.reason,
                fault = fault.message,
                "no certificate authority"
            );
            *old = Arc::new(InUse {
                fault: Some(fault.clone()),
                ..old.as_ref().clone()
            });
            true
        });
    }

    /// What the caches know, of hooks that exist: a certificate of one that is gone is refused
    /// whoever has signed it.
    fn observe(&self, next: Option<&Bundle>, now: Timestamp) -> Observed {
        let mut observed = Observed {
            longest_leaf: self.leaf,
            ..Observed::default()
        };
        let hooks: BTreeSet<String> = self
            .caches
            .hooks
            .state()
            .iter()
            .filter_map(|hook| hook.uid())
            .collect();
        for config_map in self.caches.config_maps.state() {
            let labels = config_map.labels();
            let bundle = config_map.entries.as_ref().and_then(Entries::bundle);
            let owner = labels.get(names::OWNER_LABEL);
            if self.is_ending(config_map.metadata.namespace.as_deref()) {
                continue;
            }
            let (Some(bundle), Some(true)) = (bundle, owner.map(|uid| hooks.contains(uid))) else {
                continue;
            };
            observed.bundles += 1;
            if next.is_some_and(|next| !next.is_in(bundle)) {
                observed.behind += 1;
            }
        }
        for certificate in self.caches.certificates.state() {
            let longest = certificate.spec.duration_seconds.unwrap_or(0);
            observed.longest_leaf = observed
                .longest_leaf
                .max(SignedDuration::from_secs(longest));
            let Some(status) = &certificate.status else {
                continue;
            };
            let lives = status.not_after.as_ref().is_none_or(|end| now < end.0)
                && status
                    .hook_uid
                    .as_ref()
                    .is_none_or(|uid| hooks.contains(uid));
            if let (Some(issuer), true) = (&status.issuer, lives) {
                *observed.leaves.entry(issuer.clone()).or_default() += 1;
            }
        }
        observed
    }

    /// Nothing is written any more where everything goes.
    fn is_ending(&self, namespace: Option<&str>) -> bool {
        let namespace = ObjectRef::new(namespace.unwrap_or_default());
        let namespace = self.caches.namespaces.get(&namespace);
        namespace.is_some_and(|found| found.metadata.deletion_timestamp.is_some())
    }

    /// Ends when the caches know something else; never, where nothing waits for it.
    async fn changed(
        &self,
        since: Option<(Option<Bundle>, Observed)>,
        now: &impl Fn() -> Timestamp,
    ) {
        let Some((next, observed)) = since else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(POLL).await;
            if self.observe(next.as_ref(), now()) != observed {
                return;
            }
        }
    }
}

#[cfg(test)]
#[path = "authority_rotation_tests.rs"]
mod tests;
