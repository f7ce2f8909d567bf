//! Guards of hooks that are gone: each is deleted once nothing needs it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use jiff::Timestamp;
use kube::api::Api;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};

use super::backoff::{Backoff, Reopen};
use super::everything;
use super::readable;
use super::synced::Waiter;
use crate::api::{HookGuard, KrakeHook};
use crate::cluster::apply::Writer;
use crate::cluster::observe::{Caches, Canaries, canaries};
use crate::cluster::slim::{self, Metadata};
use crate::cluster::{Class, Error, remains};
use crate::decide::seen::is_released;
use crate::decide::{Effect, Next, farewell};
use crate::metrics::Metrics;

const RESYNC: Duration = Duration::from_secs(600);

/// What a reconcile needs.
pub struct Context {
    /// Writes.
    pub writer: Writer,
    /// Caches of the hook controller.
    pub caches: Caches,
    /// Decisions wait until all watches have completed their initial list.
    pub synced: Waiter,
    /// Counters.
    pub metrics: Metrics,
    /// Errors in a row.
    pub backoff: Backoff<String>,
    /// Consecutive checks of guards that are still needed.
    pub looks: Looks,
    /// Hooks that need none of this.
    pub living: Living,
}

/// Uids of the hooks that are there and looked after, as the watch of this controller has told.
///
/// What is woken for each that goes comes from the same watch: a guard whose hook is here needs no
/// question to the API server, and one whose hook has gone is never taken for such.
#[derive(Clone, Default)]
pub struct Living(Arc<Mutex<BTreeSet<String>>>);

impl Living {
    fn has(&self, uid: &str) -> bool {
        self.all().contains(uid)
    }

    fn all(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks in a row at guards that are still needed: the pods of a hook that is gone end soon, or not at
/// all.
#[derive(Debug, Default)]
pub struct Looks(Mutex<HashMap<String, u32>>);

impl Looks {
    const FIRST: Duration = Duration::from_secs(2);

    /// The wait after one more, twice that of the one before.
    fn again(&self, guard: String) -> Duration {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let looks = all.entry(guard).or_default();
        let wait = Self::FIRST.saturating_mul(1 << (*looks).min(8));
        *looks = looks.saturating_add(1);
        wait
    }

    fn end(&self, guard: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(guard);
    }
}

/// Runs until `shutdown`.
pub async fn run(
    context: Arc<Context>,
    watches: &Client,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let hooks = watcher(
        Api::<Metadata<KrakeHook>>::all(watches.clone()),
        everything(),
    )
    .backoff(Reopen::default());
    let (store, writer) = reflector::store();
    let left_alone = left_alone(hooks, store.clone(), context.living.clone());
    let guards = readable::watch(watches, everything(), &store, &context.metrics)
        .backoff(Reopen::default())
        .modify(slim::slim)
        .reflect(writer)
        .touched_objects();
    Controller::for_stream(guards, store)
        .with_config(Config::default().concurrency(4))
        .reconcile_on(left_alone)
        .trigger_backoff(Reopen::default())
        .graceful_shutdown_on(shutdown)
        .run(reconcile, on_error, context)
        .for_each(|_| std::future::ready(()))
        .await;
}

/// The guards whose hooks are gone, or going without us: a guard has the name of its hook's uid. Each
/// acknowledgement changes a hook, and a guard's reconcile reads: those that the hook controller
/// looks after are not for us. Of a hook that went while the watch was away nobody tells: it is
/// missing in the next list.
fn left_alone<K: Resource>(
    hooks: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
    guards: Store<HookGuard>,
    living: Living,
) -> impl Stream<Item = ObjectRef<HookGuard>> {
    let mut listed = BTreeSet::new();
    let woken = move |event: watcher::Event<K>| match event {
        watcher::Event::Delete(hook) => goes(&living, &hook),
        watcher::Event::Apply(hook) if is_released(hook.meta()) => goes(&living, &hook),
        watcher::Event::Apply(hook) => {
            living.all().extend(hook.meta().uid.clone());
            Vec::new()
        }
        watcher::Event::Init => {
            listed.clear();
            Vec::new()
        }
        watcher::Event::InitApply(hook) => {
            listed.extend(
                hook.meta()
                    .uid
                    .clone()
                    .filter(|_| !is_released(hook.meta())),
            );
            Vec::new()
        }
        watcher::Event::InitDone => {
            *living.all() = std::mem::take(&mut listed);
            let all = guards.state().into_iter().map(|guard| guard.name_any());
            let alone = all.filter(|name| !living.has(name));
            alone.map(|name| ObjectRef::new(&name)).collect()
        }
    };
    hooks
        .filter_map(|event| {
            let event = event.inspect_err(|error| {
                tracing::warn!(kind = "KrakeHook", %error, "watch failed; reopening it");
            });
            std::future::ready(event.ok())
        })
        .map(woken)
        .flat_map(stream::iter)
}

fn goes(living: &Living, hook: &impl Resource) -> Vec<ObjectRef<HookGuard>> {
    let Some(uid) = hook.meta().uid.as_deref() else {
        return Vec::new();
    };
    living.all().remove(uid);
    vec![ObjectRef::new(uid)]
}

async fn reconcile(guard: Arc<HookGuard>, context: Arc<Context>) -> Result<Action, Error> {
    context.synced.wait().await;
    let name = guard.name_any();
    if context.living.has(&name) {
        return Ok(Action::requeue(RESYNC));
    }
    let client = &context.writer.client;
    let Some(mut left) = remains::observe(client, &context.caches, &guard).await? else {
        return Ok(Action::requeue(RESYNC));
    };
    let now = Timestamp::now();
    let mut decision = farewell::decide(&left, now);
    let hook = &guard.spec.hook;
    if decision.effects == [Effect::DeleteGuard] && name == hook.uid {
        // The last one who knows: canaries whose labels were taken off are looked for once.
        let of = (hook.name.as_str(), hook.uid.as_str());
        left.canaries = canaries(client, &hook.namespace, of, Canaries::Everywhere).await?;
        decision = farewell::decide(&left, now);
    }
    for effect in &decision.effects {
        if let Err(error) = remains::apply(&context.writer, &left, effect).await {
            if error.class() == Class::User {
                remains::tell_refusal(&context.writer, &left, &error).await;
            }
            return Err(error);
        }
        tracing::info!(
            guard = name,
            hook = left.guard.spec.hook.name,
            namespace = left.guard.spec.hook.namespace,
            effect = farewell_label(effect),
            "cleaned up after a deleted hook"
        );
    }
    context.backoff.reset(&name);
    if decision.effects == [Effect::DeleteGuard] {
        context.looks.end(&name);
        return Ok(Action::await_change());
    }
    Ok(Action::requeue(match decision.next {
        // What was changed is looked at again rather than believed.
        Next::AwaitChange => Duration::from_secs(1),
        // What it is needed for, a pod that ends most often, wakes nobody.
        Next::At(at) => {
            let most = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            context.looks.again(name).min(most)
        }
    }))
}

fn farewell_label(effect: &Effect) -> &'static str {
    match effect {
        Effect::ApplyInjection(_) | Effect::RemoveEntries(_) => "Eject",
        Effect::Unguard(_) => "Unguard",
        Effect::DeleteDependent { .. } => "DeleteDependent",
        Effect::ReleaseWorkload { .. } => "ReleaseWorkload",
        Effect::RemoveCanary { .. } => "RemoveCanary",
        Effect::DeleteGuard => "DeleteGuard",
        _ => "Nothing",
    }
}

fn on_error(guard: Arc<HookGuard>, error: &Error, context: Arc<Context>) -> Action {
    let class = error.class();
    context.metrics.reconcile_failed("guard", class);
    if class == Class::Conflict {
        tracing::debug!(guard = guard.name_any(), %error, "conflict; retrying");
    } else {
        tracing::warn!(guard = guard.name_any(), %error, "cleaning up after a deleted hook failed; retrying");
    }
    Action::requeue(context.backoff.after(guard.name_any(), class))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::synced::Synced;
    use super::*;
    use crate::api::names;
    use crate::testing;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn hook(uid: &str) -> KrakeHook {
        let mut hook = testing::hook("ml", "trainer");
        hook.metadata.uid = Some(uid.into());
        hook
    }

    fn leaving(uid: &str) -> KrakeHook {
        let mut hook = hook(uid);
        hook.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        hook.metadata.finalizers = None;
        hook
    }

    async fn woken(events: Vec<watcher::Event<KrakeHook>>) -> Vec<String> {
        told(events).await.0
    }

    /// Whom the events wake, and which hooks live after them.
    async fn told(events: Vec<watcher::Event<KrakeHook>>) -> (Vec<String>, BTreeSet<String>) {
        let (guards, mut writer) = reflector::store();
        for uid in ["a", "b", "c"] {
            let guard: HookGuard = serde_json::from_value(serde_json::json!({
                "apiVersion": "hooks.krake.dev/v1alpha1", "kind": "HookGuard",
                "metadata": {"name": uid},
                "spec": {"hook": {"namespace": "ml", "name": "trainer", "uid": uid},
                    "workload": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "trainer"}},
            }))
            .expect("a guard");
            writer.apply_watcher_event(&watcher::Event::Apply(guard));
        }
        let (events, living) = (stream::iter(events.into_iter().map(Ok)), Living::default());
        let woken = left_alone(events, guards, living.clone()).map(|guard| guard.name);
        let mut woken: Vec<_> = woken.collect().await;
        woken.sort();
        let living = living.all().clone();
        (woken, living)
    }

    #[tokio::test]
    async fn only_a_hook_that_goes_wakes_its_guard() {
        use watcher::Event::{Apply, Delete};
        assert!(woken(vec![Apply(hook("a"))]).await.is_empty());
        let mut looked_after = leaving("a");
        looked_after.metadata.finalizers = Some(vec![names::HOOK_FINALIZER.into()]);
        assert!(woken(vec![Apply(looked_after)]).await.is_empty());
        assert_eq!(woken(vec![Apply(leaving("a"))]).await, ["a"]);
        // Its finalizer was taken by somebody before.
        assert_eq!(woken(vec![Delete(hook("a"))]).await, ["a"]);
    }

    #[tokio::test]
    async fn a_hook_that_went_while_the_watch_was_away_is_missing_in_the_next_list() {
        use watcher::Event::{Init, InitApply, InitDone};
        let list = vec![
            Init,
            InitApply(hook("a")),
            InitApply(leaving("b")),
            InitDone,
        ];
        assert_eq!(woken(list).await, ["b", "c"]);
        let first = [Init, InitApply(hook("c")), InitDone];
        let second = [Init, InitApply(hook("a")), InitDone];
        let both = first.into_iter().chain(second).collect();
        assert_eq!(woken(both).await, ["a", "b", "b", "c"]);
    }

    #[tokio::test]
    async fn only_of_a_hook_that_lives_nothing_is_asked() {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        let list = || vec![Init, InitApply(hook("a")), InitApply(hook("b")), InitDone];
        let lives = |uids: &[&str]| uids.iter().map(|uid| (*uid).to_owned()).collect();
        assert_eq!(told(list()).await.1, lives(&["a", "b"]));
        let then = |event| {
            let mut events = list();
            events.push(event);
            events
        };
        assert_eq!(told(then(Delete(hook("a")))).await.1, lives(&["b"]));
        assert_eq!(told(then(Apply(leaving("a")))).await.1, lives(&["b"]));
        assert_eq!(
            told(then(Apply(hook("c")))).await.1,
            lives(&["a", "b", "c"])
        );
        // What is not in a later list went unseen.
        let mut twice = list();
        twice.extend([Init, InitApply(hook("b")), InitDone]);
        assert_eq!(told(twice).await.1, lives(&["b"]));
        assert!(told(vec![Init, InitApply(hook("a"))]).await.1.is_empty());
    }

    #[test]
    fn what_is_still_needed_is_looked_at_ever_less_often() {
        let looks = Looks::default();
        let waits: Vec<_> = (0..4).map(|_| looks.again("a".into()).as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16]);
        assert_eq!(looks.again("b".into()), Looks::FIRST);
        looks.end("a");
        assert_eq!(looks.again("a".into()), Looks::FIRST);
    }

    /// How many calls a look at the guard of hook `a` costs.
    async fn calls_of_a_look(living: &[&str]) -> usize {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let client = testing::answered_by(move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            (500, serde_json::json!({"kind": "Status", "code": 500}))
        });
        let context = Context {
            writer: Writer::for_release(client),
            caches: testing::caches(),
            synced: Synced::new().waiter(),
            metrics: Metrics::new(),
            backoff: Backoff::new(),
            looks: Looks::default(),
            living: Living::default(),
        };
        let uids = living.iter().map(|uid| (*uid).to_owned());
        context.living.all().extend(uids);
        let guard = testing::build::guard(testing::build::NAME, "a", "guard").guard();
        // Refused, or nothing to do: what counts is whether somebody was asked.
        let _ = reconcile(Arc::new(guard), Arc::new(context)).await;
        calls.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn the_guard_of_a_hook_that_lives_costs_nothing() {
        assert_eq!(calls_of_a_look(&["a"]).await, 0);
        assert!(calls_of_a_look(&["b"]).await > 0);
    }

    /// Nothing else knows of it any more, and it would keep its namespace for ever.
    #[tokio::test]
    async fn a_canary_without_its_labels_is_found_before_its_guard_goes() {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&calls);
        let client = testing::answered_by(move |method, path| {
            let call = format!("{method} {}", path.split('?').next().unwrap_or_default());
            log.lock().unwrap().push(call);
            let canary = serde_json::json!({"metadata": {"name": "trainer-canary-0f3a9c1e",
                "namespace": "ml", "uid": "c", "resourceVersion": "1",
                "finalizers": [names::CANARY_FINALIZER]}});
            let everywhere = path.contains("/configmaps?") && !path.contains("labelSelector");
            match (method.as_str(), path) {
                ("GET", path)
                    if path.contains("/krakehooks/") || path.contains("/deployments/") =>
                {
                    (
                        404,
                        serde_json::json!({"kind": "Status", "code": 404, "reason": "NotFound"}),
                    )
                }
                ("GET", _) if everywhere => {
                    (200, serde_json::json!({"metadata": {}, "items": [canary]}))
                }
                ("GET", _) => (200, serde_json::json!({"metadata": {}, "items": []})),
                _ => (200, canary),
            }
        });
        let context = Context {
            writer: Writer::for_release(client),
            caches: testing::caches(),
            synced: Synced::new().waiter(),
            metrics: Metrics::new(),
            backoff: Backoff::new(),
            looks: Looks::default(),
            living: Living::default(),
        };
        let guard = testing::build::guard("trainer", "a", "guard").guard();
        reconcile(Arc::new(guard), Arc::new(context)).await.unwrap();
        let calls = calls.lock().unwrap();
        let writes: Vec<_> = calls
            .iter()
            .filter(|call| !call.starts_with("GET"))
            .collect();
        assert!(!writes.is_empty(), "{calls:?}");
        let of_the_canary = |call: &&String| call.ends_with("/configmaps/trainer-canary-0f3a9c1e");
        assert!(writes.iter().all(of_the_canary), "{writes:?}");
    }
}
