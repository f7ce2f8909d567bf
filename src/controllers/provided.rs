//! What this process has created, assumed to exist for a moment while the caches do not have it.
//!
//! A watch may be late, or silent for two minutes until it is found out, and each change of a hook is
//! a look at its caches: without this each look would put the same things in place again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::decide::{Fact, Next, Seen};

/// For this long: what no cache receives is written ten times a minute at most. What is deleted
/// within this time is restored at its end.
const BELIEVED: SignedDuration = SignedDuration::from_secs(6);

/// Facts by the uid of their hook, and since when they are known.
#[derive(Debug, Default)]
pub struct Provided(Mutex<HashMap<String, Vec<(Timestamp, Fact)>>>);

impl Provided {
    /// An effect has made this so.
    pub fn note(&self, hook_uid: &str, fact: &Fact, now: Timestamp) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let made = matches!(
            fact,
            Fact::ConfigMap(_) | Fact::Certificate(_) | Fact::Guard(_) | Fact::Canary(_)
        );
        if made {
            let facts = all.entry(hook_uid.to_owned()).or_default();
            facts.retain(|(_, old)| !is_of_one_object(old, fact));
            facts.push((now, fact.clone()));
        } else if let Some(facts) = all.get_mut(hook_uid) {
            facts.retain(|(_, old)| !is_of_one_object(old, fact));
        }
    }

    /// Fills in what the caches lack, and returns until when that is assumed. Nothing is assumed
    /// while the workload or the hook is being deleted.
    pub fn fill_in(&self, seen: &mut Seen, now: Timestamp) -> Next {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(facts) = all.get_mut(seen.hook_uid()) else {
            return Next::AwaitChange;
        };
        let lives = |workload: &crate::decide::Workload| {
            workload.metadata.deletion_timestamp.is_none() && !seen.namespace_terminating
        };
        let stays = seen.hook.metadata.deletion_timestamp.is_none()
            && seen.workload.as_ref().is_some_and(lives);
        let mut until = Next::AwaitChange;
        facts.retain(|(since, fact)| {
            let end = *since + BELIEVED;
            let believed = stays && end > now && lacks(seen, fact);
            if believed {
                seen.absorb(fact.clone());
                until = until.earliest(Next::At(end));
            }
            believed
        });
        until
    }

    /// The hook is gone.
    pub fn forget(&self, hook_uid: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(hook_uid);
    }
}

/// Whether the second takes the place of the first.
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
    use crate::decide::Effect;
    use crate::decide::hook::decide;
    use crate::testing::build::{self, NAME};
    use crate::testing::world::{Propagation, World};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("a time")
    }

    /// A hook whose caches hear of nothing: the effects of each of the looks.
    fn looks(world: &mut World, provided: &Provided, seconds: &[i64]) -> Vec<Vec<Effect>> {
        let settings = build::settings("leader-0", true);
        let mut all = Vec::new();
        for second in seconds {
            let mut seen = world.observe(NAME).expect("the hook");
            seen.config_map = None;
            seen.certificate = None;
            seen.guard = None;
            seen.canaries.clear();
            provided.fill_in(&mut seen, at(*second));
            let mut effects = Vec::new();
            loop {
                let decision = decide(&seen, &settings, world.now);
                if decision.effects.is_empty() {
                    break;
                }
                for effect in decision.effects {
                    let fact = world.apply(&seen, &effect).expect("nobody is faster");
                    provided.note(seen.hook_uid(), &fact, at(*second));
                    seen.absorb(fact);
                    effects.push(effect);
                }
            }
            all.push(effects);
        }
        all
    }

    fn armed() -> (World, Provided) {
        let mut world = World::new();
        world.create_workload(build::deployment(NAME));
        world.create_hook(build::hook(NAME).shutdown());
        let provided = Provided::default();
        looks(&mut world, &provided, &[0]);
        (world, provided)
    }

    #[test]
    fn what_nobody_has_heard_of_is_made_ten_times_a_minute_at_most() {
        let (mut world, provided) = armed();
        let seconds: Vec<i64> = (0..60).collect();
        let busy = looks(&mut world, &provided, &seconds);
        let busy = busy.iter().filter(|effects| !effects.is_empty()).count();
        assert!((5..=10).contains(&busy), "{busy}");
    }

    #[test]
    fn it_is_believed_until_then_only_and_not_of_what_goes() {
        let (world, provided) = armed();
        let mut seen = world.observe(NAME).expect("the hook");
        seen.config_map = None;
        let until = provided.fill_in(&mut seen, at(1));
        assert!(seen.config_map.is_some());
        assert_eq!(until, Next::At(at(0) + BELIEVED));
        seen.config_map = None;
        assert_eq!(provided.fill_in(&mut seen, at(6)), Next::AwaitChange);
        assert!(seen.config_map.is_none());

        let (mut world, provided) = armed();
        world.delete_workload(NAME, Propagation::Foreground);
        let mut seen = world.observe(NAME).expect("the hook");
        seen.guard = None;
        provided.fill_in(&mut seen, at(1));
        assert!(seen.guard.is_none());
    }
}
