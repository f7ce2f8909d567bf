//! The master keys: every replica reads them again and again, and one takes the steps of a rotation.
//!
//! They are read by `get` of one name at short intervals: no watch is needed, and a replica that may
//! talk to the API server has what is there within a quarter of the time that each step waits.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::SignedDuration;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::sync::watch;
use tokio::time::Instant;

use super::synced::Waiter;
use crate::api::condition::{self, ConditionType};
use crate::api::status::TokenSecret;
use crate::api::{HookAuthority, KrakeHook, names};
use crate::cluster::authority::AuthorityWriter;
use crate::cluster::observe::Caches;
use crate::cluster::operator_secrets::{OperatorSecrets, Wrote};
use crate::cluster::ring::{self, BootError, Kept};
use crate::cluster::{Class, Error};
use crate::decide::Settings;
use crate::decide::inject;
use crate::decide::keys::{KeysSeen, taken};
use crate::metrics::Metrics;
use crate::pki::Ring;

/// The longest time between two reads of the ring.
const MOST: Duration = Duration::from_secs(10);

/// How often the ring is read, if a step waits for so many seconds.
pub fn every(propagation_seconds: i64) -> Duration {
    Duration::from_secs(propagation_seconds.unsigned_abs())
        .div_f64(4.)
        .min(MOST)
}

/// Reads the ring for one replica.
pub struct Follower {
    /// Where it is.
    pub secrets: OperatorSecrets,
    /// What tokens are made and verified with.
    pub ring: Arc<ArcSwap<Ring>>,
    /// Hears the id of the key that signs.
    pub signing: watch::Sender<String>,
    /// How often.
    pub every: Duration,
}

impl Follower {
    /// Runs until `shutdown`. A ring that is gone or cannot be read changes nothing: what was in use
    /// stays in use, and the operator does not start again without it.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        tokio::pin!(shutdown);
        let mut said = None;
        loop {
            let fault = match ring::read(&self.secrets).await {
                Ok(Some(kept)) => {
                    self.publish(kept.ring);
                    None
                }
                Ok(None) => Some(format!(
                    "Secret {}/{} is gone: restore it from a backup before the operator restarts",
                    self.secrets.namespace,
                    names::RING_SECRET
                )),
                Err(error) => Some(error.to_string()),
            };
            if fault.is_some() && fault != said {
                tracing::error!(
                    fault,
                    "could not load the master keys; keeping those in use"
                );
            }
            said = fault;
            tokio::select! {
                () = &mut shutdown => return,
                () = tokio::time::sleep(self.every) => {}
            }
        }
    }

    fn publish(&self, ring: Ring) {
        let old = self.ring.load();
        if old.ids().eq(ring.ids()) {
            return;
        }
        let signing = ring.current_id().to_owned();
        tracing::info!(signing, keys = ring.ids().count(), "master keys");
        self.ring.store(Arc::new(ring));
        // After it: whoever hears of a key finds it.
        self.signing.send_if_modified(|old| {
            let changed = *old != signing;
            *old = signing;
            changed
        });
    }
}

/// Gives the hook controller the id of the key that signs, until `shutdown`.
pub async fn tell_key(
    mut signing: watch::Receiver<String>,
    settings: watch::Sender<Arc<Settings>>,
    shutdown: impl Future<Output = ()>,
) {
    tokio::pin!(shutdown);
    loop {
        let key_id = signing.borrow_and_update().clone();
        settings.send_if_modified(|old| {
            let changed = old.key_id != key_id;
            if changed {
                *old = Arc::new(Settings {
                    key_id,
                    ..old.as_ref().clone()
                });
            }
            changed
        });
        tokio::select! {
            () = &mut shutdown => return,
            changed = signing.changed() => if changed.is_err() {
                return shutdown.await;
            },
        }
    }
}

/// What the leader needs.
pub struct Context {
    /// Reads and writes.
    pub writer: AuthorityWriter,
    /// Hooks and their pods.
    pub caches: Caches,
    /// A pod that is not known of yet would look as if it held no token.
    pub synced: Waiter,
    /// How long each step waits.
    pub propagation: SignedDuration,
    /// Counters.
    pub metrics: Metrics,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    #[error(transparent)]
    Ring(#[from] BootError),
    #[error(transparent)]
    Server(#[from] Error),
}

impl KeysError {
    fn class(&self) -> Class {
        match self {
            Self::Ring(BootError::Secret(error)) | Self::Server(error) => error.class(),
            Self::Ring(_) => Class::User,
        }
    }
}

/// Runs until `shutdown`.
pub async fn run(context: Context, shutdown: impl Future<Output = ()>) {
    tokio::pin!(shutdown);
    tokio::select! {
        () = &mut shutdown => return,
        told = context.synced.wait() => if !told { return },
    }
    let every = every(context.propagation.as_secs());
    // As it was seen, and since when: a step waits until nothing has changed for so long.
    let mut last = None;
    loop {
        if let Err(error) = context.look(&mut last).await {
            context.metrics.reconcile_failed("keys", error.class());
            tracing::warn!(%error, "reconciling the master keys failed; retrying");
        }
        tokio::select! {
            () = &mut shutdown => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}

impl Context {
    async fn look(&self, last: &mut Option<(KeysSeen, Instant)>) -> Result<(), KeysError> {
        let secrets = self.writer.secrets();
        let shown = self.writer.shown().await?;
        // Whoever reads the ring for this replica says that it is gone.
        let Some(kept) = ring::read(&secrets).await? else {
            return Ok(());
        };
        let before = self.seen(&shown, &kept);
        let since = match last.take() {
            Some((seen, since)) if seen == before => since,
            _ => Instant::now(),
        };
        let waited = SignedDuration::try_from(since.elapsed()).unwrap_or(SignedDuration::MAX);
        let step = before.step(waited, self.propagation);
        let Some(step) = step else {
            self.show(&shown, &before).await?;
            *last = Some((before, since));
            return Ok(());
        };
        if ring::take(&secrets, kept, step, before.asked.clone()).await? != Wrote::Yes {
            return Ok(());
        }
        let Some(kept) = ring::read(&secrets).await? else {
            return Ok(());
        };
        let after = self.seen(&shown, &kept);
        tracing::info!(step = step.as_str(), signing = after.current, "master keys");
        self.show(&shown, &after).await?;
        self.writer
            .tell(&shown, &taken(step, &before, &after))
            .await;
        *last = Some((after, Instant::now()));
        Ok(())
    }

    async fn show(&self, shown: &HookAuthority, seen: &KeysSeen) -> Result<(), Error> {
        let status = shown.status.clone().unwrap_or_default();
        let findings = [seen.finding()];
        let now = Timestamp::now();
        let conditions = condition::conditions(&findings, &status.conditions, None, now);
        let old = condition::find(&status.conditions, ConditionType::KeysRotating);
        let keys = seen.shown();
        if old == conditions.first() && status.master_keys == keys {
            return Ok(());
        }
        self.writer.show_keys(shown, &conditions, &keys).await
    }

    fn seen(&self, shown: &HookAuthority, kept: &Kept) -> KeysSeen {
        let current = kept.ring.current_id();
        let others = kept.ring.ids().filter(|id| *id != current);
        let earlier = others.filter(|id| kept.prepared.as_deref() != Some(*id));
        let earlier: Vec<String> = earlier.map(ToOwned::to_owned).collect();
        KeysSeen {
            holders: match earlier.is_empty() {
                true => Vec::new(),
                false => holders(&self.caches, current, &earlier),
            },
            current: current.to_owned(),
            prepared: kept.prepared.clone(),
            earlier,
            answered: kept.answered.clone(),
            asked: shown
                .annotations()
                .get(names::ROTATE_KEY_ANNOTATION)
                .cloned(),
        }
    }
}

/// Pods that live and hold a token of another key than this one.
///
/// A pod's stamp names the key. Pods without one hold what their hook's Secret held when they were made.
fn holders(caches: &Caches, current: &str, earlier: &[String]) -> Vec<String> {
    let pods = caches.pods.state();
    let pods = pods
        .iter()
        .filter(|pod| !matches!(pod.phase(), Some("Succeeded" | "Failed")));
    let holders = pods.filter(|pod| {
        let token = token_of(&caches.hooks, pod.as_ref());
        // One whose hook is gone, or has never had a token, holds none that is good for anything.
        token.is_some_and(|token| {
            if let Some(key) = inject::key_of(&pod.metadata) {
                return earlier.iter().any(|earlier| earlier == key);
            }
            let derived_for = token.derived_for.as_deref().unwrap_or_default();
            let key = derived_for.split_once('.').map(|(key, _)| key);
            let created = pod.creation_timestamp();
            key != Some(current) || token.since.is_some_and(|since| created <= Some(since))
        })
    });
    let mut holders: Vec<String> = holders
        .map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()))
        .collect();
    holders.sort_unstable();
    holders
}

fn token_of(hooks: &Store<KrakeHook>, pod: &impl ResourceExt) -> Option<TokenSecret> {
    let hook = pod.labels().get(names::HOOK_LABEL)?;
    let object = ObjectRef::new(hook).within(&pod.namespace()?);
    hooks.get(&object)?.status.as_ref()?.token.clone()
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
