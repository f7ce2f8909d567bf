//! Hook and workload, one reconcile for both: observe, then decide and apply until there is nothing
//! left to do.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use jiff::{SignedDuration, Timestamp};
use kube::api::Api;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::ObjectRef;
use tokio::sync::watch;

use super::backoff::{Backoff, Reopen};
use super::feed::Feed;
use super::outcomes::Outcomes;
use super::overlay::Overlay;
use super::synced::Waiter;
use crate::api::KrakeHook;
use crate::callout::Calls;
use crate::clock::SteadyClock;
use crate::cluster::apply::{Regarding, Writer};
use crate::cluster::observe::{Caches, observe, workload};
use crate::cluster::{Act, Class, Error, said};
use crate::decide::news;
use crate::decide::seen::{CallsMade, Notice, Rejection, is_released};
use crate::decide::{self, Effect, Fact, Next, Seen, Settings};
use crate::metrics::Metrics;

/// Reconciles that run at once; each waits for the API server most of its time.
const AT_ONCE: u16 = 16;
/// More rounds of decide and apply in one reconcile than that are a bug.
const MOST_ROUNDS: usize = 32;
/// Immediate retries after a write was lost to the callback's, or to the workload's controller.
const MAX_IMMEDIATE_RETRIES: usize = 12;
/// How often everything is reconciled, whatever a watch may have missed.
const RESYNC: Duration = Duration::from_secs(600);

/// What a reconcile needs.
pub struct Context {
    /// Writes.
    pub writer: Writer,
    /// Caches.
    pub caches: Caches,
    /// Settings; the CA bundle in them changes while running.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// Calls to apps.
    pub calls: Calls,
    /// Decisions wait until all watches have completed their initial list.
    pub synced: Waiter,
    /// Counters.
    pub metrics: Metrics,
    /// Counts how removals and completions end.
    pub outcomes: Outcomes,
    /// Errors in a row.
    pub backoff: Backoff<ObjectRef<KrakeHook>>,
    /// What wakes reconciles; it is told which of them found nothing to do.
    pub feed: Feed,
    /// What this process has done and the caches may not have received yet.
    pub overlay: Overlay,
    /// The clock of the term: what is decided and written has its times.
    pub clock: SteadyClock,
}

/// Reconciles the hooks that `changes` names, until `shutdown`.
pub async fn run(
    context: Arc<Context>,
    changes: impl Stream<Item = ObjectRef<KrakeHook>> + Send + 'static,
    settings_changed: impl Stream<Item = ()> + Send + 'static,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    // A controller holds everything back until its store is filled, and of several that wait for one
    // store only the last would be woken.
    context.synced.wait().await;
    let store = context.caches.hooks.clone();
    // The store is filled elsewhere, whether this replica leads or not.
    Controller::for_stream(futures::stream::pending(), store)
        .with_config(Config::default().concurrency(AT_ONCE))
        .reconcile_on(changes)
        .reconcile_all_on(settings_changed)
        .trigger_backoff(Reopen::default())
        .graceful_shutdown_on(shutdown)
        .run(reconcile, on_error, Arc::clone(&context))
        .for_each(|_| std::future::ready(()))
        .await;
}

async fn reconcile(hook: Arc<KrakeHook>, context: Arc<Context>) -> Result<Action, Error> {
    context.synced.wait().await;
    let object = ObjectRef::from_obj(hook.as_ref());
    if let Some(wait) = context.backoff.pending(&object) {
        return Ok(Action::requeue(wait));
    }
    context.feed.look(&object);
    let hook = context.overlay.newest(hook);
    context.outcomes.look(&hook);
    let fingerprint = news::fingerprint(&hook);
    let mut seen = observe(&context.writer.client, &context.caches, &hook).await?;
    let uid = seen.hook_uid().to_owned();
    let assumed = context.overlay.lay_over(&mut seen, context.clock.now());
    let (mut rounds, mut overtaken) = (0, 0);
    let next = loop {
        let settings = context.settings.borrow().clone();
        seen.calls = context.calls_made(&seen);
        let decision = decide::hook::decide(&seen, &settings, context.clock.now());
        rounds += 1;
        if decision.effects.is_empty() {
            break decision.next;
        }
        if rounds > MOST_ROUNDS {
            let effects: Vec<_> = decision.effects.iter().map(label).collect();
            tracing::error!(
                namespace = object.namespace,
                hook = object.name,
                ?effects,
                "reconcile does not converge"
            );
            context.tell_endless(&seen, &effects).await;
            break Next::At(context.clock.now() + SignedDuration::from_secs(30));
        }
        match context
            .carry_out_all(&object, &mut seen, &decision.effects)
            .await
        {
            // A longer wait could last as long as apps acknowledge, or a rollout goes on.
            Err(error) if error.class() == Class::Conflict && overtaken < MAX_IMMEDIATE_RETRIES => {
                let acknowledged = context.was_acknowledged(&mut seen).await?;
                if !acknowledged && !context.was_written(&mut seen).await? {
                    return Err(error);
                }
                overtaken += 1;
            }
            done => done?,
        }
    };
    context.backoff.reset(&object);
    if rounds == 1 {
        context.feed.settle(object, fingerprint);
    }
    if seen.hook_gone || is_released(&seen.hook.metadata) {
        context.forget(&uid);
    }
    Ok(Action::requeue(match next.earliest(assumed) {
        Next::AwaitChange => RESYNC,
        Next::At(at) => context.wait_until(at).min(RESYNC),
    }))
}

fn on_error(hook: Arc<KrakeHook>, error: &Error, context: Arc<Context>) -> Action {
    let object = ObjectRef::from_obj(hook.as_ref());
    let class = error.class();
    context.metrics.reconcile_failed("hook", class);
    let (namespace, hook) = (&object.namespace, &object.name);
    match class {
        Class::Conflict => tracing::debug!(namespace, hook, %error, "conflict; retrying"),
        Class::Retry => tracing::warn!(namespace, hook, %error, "reconcile failed; retrying"),
        Class::User => tracing::warn!(namespace, hook, %error, "reconcile refused; retrying"),
        Class::Bug => tracing::error!(namespace, hook, %error, "reconcile failed; retrying"),
    }
    Action::requeue(context.backoff.after(object, class))
}

impl Context {
    /// One after the other, until one fails. Events follow the status that they tell of, and nothing
    /// waits for them: what comes after it is done meanwhile.
    async fn carry_out_all(
        &self,
        object: &ObjectRef<KrakeHook>,
        seen: &mut Seen,
        effects: &[Effect],
    ) -> Result<(), Error> {
        let is_event = |effect: &&Effect| matches!(effect, Effect::Event(_));
        let first = effects.iter().position(|effect| is_event(&effect));
        let (before, rest) = effects.split_at(first.unwrap_or(effects.len()));
        let (events, after): (Vec<_>, Vec<_>) = rest.iter().partition(is_event);
        for effect in before {
            if !self.carry_out(object, seen, effect).await? {
                return Ok(());
            }
        }
        // The workload may be gone when they are made.
        let about = Regarding::of(seen);
        let told = async {
            for event in events {
                self.tell(object, &about, event).await;
            }
        };
        let acted = async {
            for effect in after {
                if !self.carry_out(object, seen, effect).await? {
                    break;
                }
            }
            Ok(())
        };
        futures::join!(told, acted).1
    }

    async fn tell(&self, object: &ObjectRef<KrakeHook>, about: &Regarding, event: &Effect) {
        if let Effect::Event(notice) = event {
            self.writer.tell_of(about, notice).await;
            tracing::info!(
                namespace = object.namespace,
                hook = object.name,
                reason = notice.reason,
                note = notice.note,
                "event"
            );
            self.metrics.effect(label(event));
        }
    }

    /// True unless the API server refuses it, which is for the next decision to deal with.
    async fn carry_out(
        &self,
        object: &ObjectRef<KrakeHook>,
        seen: &mut Seen,
        effect: &Effect,
    ) -> Result<bool, Error> {
        if let Effect::CallOut(order) = effect {
            self.calls
                .start(object.clone(), seen.hook_uid(), order.as_ref().clone());
            return Ok(true);
        }
        let done = self.writer.apply(seen, effect).await;
        if let Effect::WriteStatus(status) = effect {
            self.outcomes.wrote(&seen.hook, status, done.is_ok());
        }
        let fact = match done {
            Err(error) if error.class() == Class::User => {
                self.rejected(seen, effect, error).await?;
                return Ok(false);
            }
            done => done?,
        };
        tracing::debug!(
            namespace = object.namespace,
            hook = object.name,
            effect = label(effect),
            "applied"
        );
        self.metrics.effect(label(effect));
        let now = self.clock.now();
        self.overlay.note(seen, effect, &fact, now);
        // One that was refused is no quarrel with another field manager.
        if matches!(
            (effect, &fact),
            (Effect::ApplyInjection(_), Fact::Workload(_))
        ) {
            seen.injections.push(now);
        }
        seen.absorb(fact);
        Ok(true)
    }

    /// The API server refuses an effect. The status reports that, unless it is the status itself
    /// that is refused.
    async fn rejected(&self, seen: &mut Seen, effect: &Effect, error: Error) -> Result<(), Error> {
        let message = said(&error.source);
        if matches!(effect, Effect::WriteStatus(_) | Effect::AddHookFinalizer) {
            let note = format!("the API server refuses {}: {message}", error.object);
            self.warn(seen, "Refused", note).await;
            return Err(error);
        }
        tracing::warn!(hook = seen.hook_name(), namespace = seen.namespace(), effect = label(effect), %error, "the API server refused an effect; retrying");
        self.metrics.reconcile_failed("hook", Class::User);
        let rejected = Fact::Rejected(Box::new(Rejection {
            effect: effect.clone(),
            object: error.object,
            message,
        }));
        self.overlay.note(seen, effect, &rejected, self.clock.now());
        seen.absorb(rejected);
        Ok(())
    }

    /// The same effects are decided again and again, because they are undone or the decision is
    /// wrong.
    async fn tell_endless(&self, seen: &Seen, effects: &[&str]) {
        let note = format!(
            "the operator has done the same {MOST_ROUNDS} times and pauses ({}): does somebody undo it, a webhook or another controller? If not, please report it",
            effects.join(", ")
        );
        self.warn(seen, "NoEnd", note).await;
    }

    async fn warn(&self, seen: &Seen, reason: &'static str, note: String) {
        let notice = Notice {
            warning: true,
            reason,
            note,
            on_workload: false,
        };
        self.writer.tell_of(&Regarding::of(seen), &notice).await;
    }

    /// Whether nothing but acknowledgements has come since the hook was read; then it is read anew.
    async fn was_acknowledged(&self, seen: &mut Seen) -> Result<bool, Error> {
        let hooks: Api<KrakeHook> = Api::namespaced(self.writer.client.clone(), seen.namespace());
        let of = format!("KrakeHook {}/{}", seen.namespace(), seen.hook_name());
        let now = hooks.get_opt(seen.hook_name()).await;
        let now = now.map_err(Error::of(Act::Get, of))?;
        let now = now.filter(|now| news::only_acknowledged_since(&seen.hook, now));
        Ok(now.map(|now| seen.hook = now).is_some())
    }

    /// Whether the workload, and nothing about its life, has changed since it was read; then it is read
    /// anew. Its controller writes its status again and again while pods come and go.
    async fn was_written(&self, seen: &mut Seen) -> Result<bool, Error> {
        let Some(before) = &seen.workload else {
            return Ok(false);
        };
        let (kind, namespace) = (Some(before.kind), seen.namespace());
        let now = workload(&self.writer.client, kind, namespace, before.name()).await?;
        let now = now.filter(|now| {
            let (old, new) = (&before.metadata, &now.metadata);
            old.uid == new.uid
                && old.deletion_timestamp == new.deletion_timestamp
                && old.resource_version != new.resource_version
        });
        Ok(now.map(|now| seen.workload = Some(now)).is_some())
    }

    /// What this process knows of its calls for the request and round that the hook has now.
    fn calls_made(&self, seen: &Seen) -> CallsMade {
        let request = seen.hook.status.as_ref().and_then(|s| s.workload_request());
        request
            .map(|request| self.calls.made(seen.hook_uid(), &request.id, request.round))
            .unwrap_or_default()
    }

    fn wait_until(&self, at: Timestamp) -> Duration {
        let left = at.duration_since(self.clock.now());
        // A moment later rather than a moment too early: the clock that counts is the decision's.
        Duration::try_from(left).unwrap_or_default() + Duration::from_millis(5)
    }

    fn forget(&self, uid: &str) {
        self.calls.forget(uid);
        self.overlay.forget(uid);
        self.outcomes.forget(uid);
    }
}

/// The effect's name, for logs and metrics; never its content.
fn label(effect: &Effect) -> &'static str {
    match effect {
        Effect::AddHookFinalizer => "AddHookFinalizer",
        Effect::RemoveHookFinalizer => "RemoveHookFinalizer",
        Effect::CreateGuard => "CreateGuard",
        Effect::ApplyConfigMap(_) => "ApplyConfigMap",
        Effect::WriteToken { .. } => "WriteToken",
        Effect::AskAboutSecrets => "AskAboutSecrets",
        Effect::RenewCertificate { .. } => "RenewCertificate",
        Effect::ApplyCertificate => "ApplyCertificate",
        Effect::WriteStatus(_) => "WriteStatus",
        Effect::ApplyInjection(_) => "ApplyInjection",
        Effect::RemoveEntries(_) => "RemoveEntries",
        Effect::CreateCanary { .. } => "CreateCanary",
        Effect::RemoveCanary { .. } => "RemoveCanary",
        Effect::Guard(_) => "Guard",
        Effect::Control(_) => "Control",
        Effect::Unguard(_) => "Unguard",
        Effect::DeleteDependent { .. } => "DeleteDependent",
        Effect::ReleaseWorkload { .. } => "ReleaseWorkload",
        Effect::DeleteWorkload { .. } => "DeleteWorkload",
        Effect::Stop { .. } => "Stop",
        Effect::Resume { .. } => "Resume",
        Effect::CallOut(_) => "CallOut",
        Effect::Prune(_) => "Prune",
        Effect::Event(_) => "Event",
        Effect::DeleteGuard => "DeleteGuard",
    }
}

#[cfg(test)]
#[path = "hook_tests.rs"]
mod tests;
