//! What this process has done itself, laid over what its caches say. It is the controller's only memory
//! beside the caches, and a restart may lose it.
//!
//! | remembered of a hook | used | until |
//! |---|---|---|
//! | the hook as last written | in the place of a version that it has replaced: a decision on that one would be refused by the API server | the cache has it, or a newer one |
//! | guard, ConfigMap, certificate, canaries | where the cache has none, unless hook or workload is being deleted | [`ASSUMED`] |
//! | when it was injected | to notice another field manager that keeps undoing it | [`LATELY`] |
//! | when its Secrets were asked about | not to ask more often than a pod takes to start | [`mend::PAUSE`] |
//! | effects that the API server has refused | they are not tried again, whatever wakes the reconcile: what goes with them may be a write that wakes it | [`AFTER_REFUSAL`] |
//! | when it was first seen being deleted | its `disarmDelaySeconds`; the deletionTimestamp is of another clock | the hook is gone |
//!
//! A watch may be behind, or silent for two minutes until that is noticed, and each change of a hook is a
//! reconcile: without this each of them would create the same objects again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use crate::api::KrakeHook;
use crate::decide::presence::AFTER_REFUSAL;
use crate::decide::seen::{Rejection, Secrets};
use crate::decide::{Effect, Fact, Next, Seen, Workload, mend};

/// How long something is assumed to exist that was created and no cache has received: such an object is
/// written ten times a minute at most. One that is deleted within this time is restored at its end.
const ASSUMED: SignedDuration = SignedDuration::from_secs(6);
/// How long an injection counts as lately.
const LATELY: SignedDuration = SignedDuration::from_mins(10);

/// What this process has done, by the uid of the hook.
#[derive(Debug, Default)]
pub struct Overlay(Mutex<HashMap<String, Own>>);

/// What it has done for one hook.
#[derive(Debug, Default)]
struct Own {
    /// The resourceVersions that its writes have replaced.
    replaced: Vec<String>,
    /// The hook after the last of them.
    latest: Option<Arc<KrakeHook>>,
    /// What it has created, and when.
    created: Vec<(Timestamp, Fact)>,
    injected: Vec<Timestamp>,
    rejections: Vec<(Timestamp, Rejection)>,
    asked: Option<Timestamp>,
    deleted: Option<Timestamp>,
}

impl Overlay {
    /// The hook as this process has written it, if the cached version is older than that.
    pub fn newest(&self, cached: Arc<KrakeHook>) -> Arc<KrakeHook> {
        let uid = cached.uid().unwrap_or_default();
        let version = cached.resource_version().unwrap_or_default();
        let mut all = self.lock();
        let Some(own) = all.get_mut(&uid) else {
            return cached;
        };
        if own.replaced.contains(&version)
            && let Some(latest) = &own.latest
        {
            return Arc::clone(latest);
        }
        own.replaced.clear();
        own.latest = None;
        cached
    }

    /// Lays it over what was seen. Returns when that is no longer so.
    pub fn lay_over(&self, seen: &mut Seen, now: Timestamp) -> Next {
        seen.secrets = Secrets::MayBeAsked;
        let mut all = self.lock();
        let deleting = seen.hook.metadata.deletion_timestamp.is_some();
        let own = match deleting {
            true => Some(all.entry(seen.hook_uid().to_owned()).or_default()),
            false => all.get_mut(seen.hook_uid()),
        };
        let Some(own) = own else {
            return Next::AwaitChange;
        };
        if deleting {
            seen.leaving_since = Some(*own.deleted.get_or_insert(now));
        }
        own.injected.retain(|at| now.duration_since(*at) < LATELY);
        seen.injections = own.injected.clone();
        if own
            .asked
            .is_some_and(|at| now.duration_since(at) < mend::PAUSE)
        {
            seen.secrets = Secrets::AskedLately;
        }
        let lives = |workload: &Workload| {
            workload.metadata.deletion_timestamp.is_none() && !seen.namespace_terminating
        };
        let stays = !deleting && seen.workload.as_ref().is_some_and(lives);
        let mut until = Next::AwaitChange;
        own.rejections.retain(|(at, _)| now < *at + AFTER_REFUSAL);
        for (at, rejection) in &own.rejections {
            seen.rejections.push(rejection.clone());
            until = until.earliest(Next::At(*at + AFTER_REFUSAL));
        }
        own.created.retain(|(since, fact)| {
            let end = *since + ASSUMED;
            let assumed = stays && end > now && lacks(seen, fact);
            if assumed {
                seen.absorb(fact.clone());
                until = until.earliest(Next::At(end));
            }
            assumed
        });
        until
    }

    /// An effect was tried on what was seen, and this became known.
    pub fn note(&self, seen: &Seen, effect: &Effect, fact: &Fact, now: Timestamp) {
        let mut all = self.lock();
        let own = all.entry(seen.hook_uid().to_owned()).or_default();
        match (effect, fact) {
            (Effect::AskAboutSecrets, _) => own.asked = Some(now),
            // What holds is tried again whenever the hook is reconciled.
            (effect, Fact::Rejected(rejection)) if !effect.holds() => {
                own.rejections.push((now, *rejection.clone()));
            }
            (Effect::ApplyInjection(_), Fact::Workload(_)) => own.injected.push(now),
            (_, Fact::Hook(hook)) => {
                let version = seen.hook.resource_version().unwrap_or_default();
                if hook.resource_version().as_ref() != Some(&version) {
                    own.replaced.push(version);
                }
                own.latest = Some(Arc::new(hook.as_ref().clone()));
            }
            _ => {}
        }
        own.created.retain(|(_, old)| !is_of_one_object(old, fact));
        if matches!(
            fact,
            Fact::ConfigMap(_) | Fact::Certificate(_) | Fact::Guard(_) | Fact::Canary(_)
        ) {
            own.created.push((now, fact.clone()));
        }
    }

    /// The hook is gone.
    pub fn forget(&self, hook_uid: &str) {
        self.lock().remove(hook_uid);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Own>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the second fact is about the same object as the first.
fn is_of_one_object(old: &Fact, new: &Fact) -> bool {
    match (old, new) {
        (Fact::ConfigMap(_), Fact::ConfigMap(_))
        | (Fact::Certificate(_), Fact::Certificate(_))
        | (Fact::Guard(_), Fact::Guard(_) | Fact::GuardGone) => true,
        (Fact::Canary(old), Fact::Canary(new)) => old.metadata.name == new.metadata.name,
        (Fact::Canary(old), Fact::CanaryGone(name)) => old.metadata.name.as_ref() == Some(name),
        _ => false,
    }
}

fn lacks(seen: &Seen, fact: &Fact) -> bool {
    match fact {
        Fact::ConfigMap(_) => seen.config_map.is_none(),
        Fact::Certificate(_) => seen.certificate.is_none(),
        Fact::Guard(_) => seen.guard.is_none(),
        Fact::Canary(canary) => {
            let mut known = seen.canaries.iter();
            !known.any(|known| known.metadata.name == canary.metadata.name)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::hook::decide;
    use crate::testing::build::{self, NAME};
    use crate::testing::world::{Propagation, World};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("a time")
    }

    /// A hook whose caches receive nothing: the effects of each reconcile.
    fn looks(world: &mut World, overlay: &Overlay, seconds: &[i64]) -> Vec<Vec<Effect>> {
        let settings = build::settings("leader-0", true);
        let mut all = Vec::new();
        for second in seconds {
            let mut seen = world.observe(NAME).expect("the hook");
            seen.config_map = None;
            seen.certificate = None;
            seen.guard = None;
            seen.canaries.clear();
            overlay.lay_over(&mut seen, at(*second));
            let mut effects = Vec::new();
            loop {
                let decision = decide(&seen, &settings, world.now);
                if decision.effects.is_empty() {
                    break;
                }
                for effect in decision.effects {
                    let fact = world.apply(&seen, &effect).expect("nobody is faster");
                    overlay.note(&seen, &effect, &fact, at(*second));
                    seen.absorb(fact);
                    effects.push(effect);
                }
            }
            all.push(effects);
        }
        all
    }

    fn armed() -> (World, Overlay) {
        let mut world = World::new();
        world.create_workload(build::deployment(NAME));
        world.create_hook(build::hook(NAME).shutdown());
        let overlay = Overlay::default();
        looks(&mut world, &overlay, &[0]);
        (world, overlay)
    }

    #[test]
    fn what_no_cache_receives_is_created_ten_times_a_minute_at_most() {
        let (mut world, overlay) = armed();
        let seconds: Vec<i64> = (0..60).collect();
        let busy = looks(&mut world, &overlay, &seconds);
        let busy = busy.iter().filter(|effects| !effects.is_empty()).count();
        assert!((5..=10).contains(&busy), "{busy}");
    }

    #[test]
    fn it_is_assumed_until_then_only_and_not_during_a_deletion() {
        let (world, overlay) = armed();
        let mut seen = world.observe(NAME).expect("the hook");
        seen.config_map = None;
        let until = overlay.lay_over(&mut seen, at(1));
        assert!(seen.config_map.is_some());
        assert_eq!(until, Next::At(at(0) + ASSUMED));
        seen.config_map = None;
        assert_eq!(overlay.lay_over(&mut seen, at(6)), Next::AwaitChange);
        assert!(seen.config_map.is_none());

        let (mut world, overlay) = armed();
        world.delete_workload(NAME, Propagation::Foreground);
        let mut seen = world.observe(NAME).expect("the hook");
        seen.guard = None;
        overlay.lay_over(&mut seen, at(1));
        assert!(seen.guard.is_none());
    }

    /// A decision on a version that this process has replaced would only be refused.
    #[test]
    fn a_hook_is_the_last_written_one_until_the_cache_has_a_version_that_was_not_replaced() {
        let overlay = Overlay::default();
        let version = |version: &str| {
            let mut hook = build::hook(NAME).uid("hook").hook();
            hook.metadata.resource_version = Some(version.into());
            hook
        };
        let mut world = World::new();
        world.create_hook(build::hook(NAME).uid("hook"));
        let mut seen = world.observe(NAME).expect("the hook");
        for (before, after) in [("1", "2"), ("2", "4")] {
            seen.hook = version(before);
            let written = Fact::Hook(Box::new(version(after)));
            overlay.note(&seen, &Effect::AddHookFinalizer, &written, at(0));
        }
        let newest = |cached: &str| overlay.newest(Arc::new(version(cached))).resource_version();
        assert_eq!(newest("1").as_deref(), Some("4"));
        assert_eq!(newest("2").as_deref(), Some("4"));
        // Somebody else's write in between, or a later one.
        assert_eq!(newest("3").as_deref(), Some("3"));
        assert_eq!(newest("1").as_deref(), Some("1"), "forgotten");
    }

    #[test]
    fn what_was_done_lately_is_seen_for_its_time() {
        let (world, overlay) = armed();
        let injected = Effect::ApplyInjection(serde_json::Value::Null);
        let seen = world.observe(NAME).expect("the hook");
        let workload = Fact::Workload(Box::new(seen.workload.clone().expect("a workload")));
        overlay.note(&seen, &injected, &workload, at(100));
        let asked = Fact::Secrets(Secrets::AskedLately);
        overlay.note(&seen, &Effect::AskAboutSecrets, &asked, at(100));
        let at_time = |second: i64| {
            let mut seen = world.observe(NAME).expect("the hook");
            seen.injections.clear();
            seen.secrets = Secrets::default();
            overlay.lay_over(&mut seen, at(second));
            (seen.injections.contains(&at(100)), seen.secrets)
        };
        let pause = mend::PAUSE.as_secs();
        assert_eq!(at_time(100 + pause - 1), (true, Secrets::AskedLately));
        assert_eq!(at_time(100 + pause), (true, Secrets::MayBeAsked));
        assert_eq!(
            at_time(100 + LATELY.as_secs()),
            (false, Secrets::MayBeAsked)
        );
    }

    #[test]
    fn a_deletion_counts_from_when_this_process_has_seen_it() {
        let (mut world, overlay) = armed();
        world.delete_hook(NAME);
        let since = |second: i64| {
            let mut seen = world.observe(NAME).expect("the hook");
            overlay.lay_over(&mut seen, at(second));
            (seen.leaving_since, seen.hook_uid().to_owned())
        };
        let (first, uid) = since(10);
        assert_eq!(first, Some(at(10)));
        assert_eq!(since(20).0, Some(at(10)));
        overlay.forget(&uid);
        assert_eq!(since(30).0, Some(at(30)));
    }

    /// The write that is refused may come with one that wakes the reconcile, like the label of a completed
    /// workload: each wake would try both again.
    #[test]
    fn what_was_refused_is_not_tried_again_before_its_time() {
        let (world, overlay) = armed();
        let delete = Effect::DeleteWorkload { uid: "w".into() };
        let seen = || world.observe(NAME).expect("the hook");
        let rejected = Fact::Rejected(Box::new(Rejection {
            effect: delete.clone(),
            object: "Deployment".into(),
            message: "not today".into(),
        }));
        overlay.note(&seen(), &delete, &rejected, at(100));
        let refused = |second: i64| {
            let mut seen = seen();
            let until = overlay.lay_over(&mut seen, at(second));
            let effects = seen
                .rejections
                .into_iter()
                .map(|rejection| rejection.effect);
            (effects.collect::<Vec<_>>(), until)
        };
        let end = 100 + AFTER_REFUSAL.as_secs();
        assert_eq!(refused(end - 1), (vec![delete], Next::At(at(end))));
        assert_eq!(refused(end), (Vec::new(), Next::AwaitChange));
    }
}
