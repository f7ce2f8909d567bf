//! What wakes the reconciles of hooks: every replica hears it, and only the leader acts on it.
//!
//! Caches are kept up all the time, so that a replica that begins to lead need not list the cluster
//! first. A subscriber receives every hook once, and then those that change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt};
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::api::KrakeHook;
use crate::decide::news;

type Subscribers = Vec<mpsc::UnboundedSender<ObjectRef<KrakeHook>>>;

/// Hooks that are to be looked at; clones are the same feed.
#[derive(Clone)]
pub struct Feed {
    hooks: Store<KrakeHook>,
    subscribers: Arc<Mutex<Subscribers>>,
    settled: Arc<Mutex<HashMap<ObjectRef<KrakeHook>, u64>>>,
}

impl Feed {
    /// A feed without subscribers.
    pub fn new(hooks: Store<KrakeHook>) -> Self {
        Self {
            hooks,
            subscribers: Arc::default(),
            settled: Arc::default(),
        }
    }

    /// Every hook in the cache, and then every one that changes.
    pub fn subscribe(&self) -> impl Stream<Item = ObjectRef<KrakeHook>> + Send + use<> {
        let (sender, changes) = mpsc::unbounded_channel();
        self.settled().clear();
        // First, so that a change meanwhile is received twice rather than not at all.
        self.subscribers().push(sender);
        let present: Vec<_> = self
            .hooks
            .state()
            .iter()
            .map(|hook| ObjectRef::from_obj(hook.as_ref()))
            .collect();
        futures::stream::iter(present).chain(UnboundedReceiverStream::new(changes))
    }

    /// Wakes all subscribers; those that are gone are dropped.
    pub fn tell(&self, hooks: &[ObjectRef<KrakeHook>]) {
        self.subscribers()
            .retain(|to| hooks.iter().all(|hook| to.send(hook.clone()).is_ok()));
    }

    /// A reconcile begins: until it succeeds, every change of the hook wakes the next one.
    pub fn look(&self, hook: &ObjectRef<KrakeHook>) {
        self.settled().remove(hook);
    }

    /// A reconcile of a hook with this [fingerprint](crate::decide::news) found nothing to do.
    pub fn settle(&self, hook: ObjectRef<KrakeHook>, fingerprint: u64) {
        self.settled().insert(hook, fingerprint);
    }

    /// The hook, unless its reconcile would find nothing to do.
    pub fn news(&self, hook: &KrakeHook) -> Option<ObjectRef<KrakeHook>> {
        let object = ObjectRef::from_obj(hook);
        if self.hooks.get(&object).is_none() {
            self.settled().remove(&object);
        }
        // Only where a look has ended, which is on the leader, is a hook worth its fingerprint; and
        // nobody waits while it is made.
        let settled = self.settled().get(&object).copied();
        let same = settled.is_some_and(|settled| settled == news::fingerprint(hook));
        (!same).then_some(object)
    }

    fn settled(&self) -> MutexGuard<'_, HashMap<ObjectRef<KrakeHook>, u64>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscribers(&self) -> MutexGuard<'_, Subscribers> {
        self.subscribers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use kube::runtime::{reflector, watcher};

    #[tokio::test]
    async fn each_subscriber_hears_of_what_is_there_and_of_what_changes() {
        let (hooks, mut writer) = reflector::store();
        let feed = Feed::new(hooks);
        writer.apply_watcher_event(&watcher::Event::Apply(testing::hook("ml", "old")));
        let named = |name| ObjectRef::<KrakeHook>::new(name).within("ml");
        let first = feed.subscribe();
        feed.tell(&[named("a"), named("b")]);
        let second = feed.subscribe();
        feed.tell(&[named("c")]);
        let heard: Vec<_> = first.take(4).collect().await;
        assert_eq!(heard, ["old", "a", "b", "c"].map(named));
        let heard: Vec<_> = second.take(2).collect().await;
        assert_eq!(heard, ["old", "c"].map(named));
        feed.tell(&[named("d")]);
        assert!(feed.subscribers().is_empty());
    }
    #[test]
    fn what_was_looked_at_is_no_news_until_it_changes_or_a_look_fails() {
        let (hooks, mut writer) = reflector::store();
        let feed = Feed::new(hooks);
        let mut hook = testing::hook("ml", "trainer");
        writer.apply_watcher_event(&watcher::Event::Apply(hook.clone()));
        let object = ObjectRef::from_obj(&hook);
        assert_eq!(feed.news(&hook), Some(object.clone()), "never looked at");
        feed.look(&object);
        feed.settle(object.clone(), news::fingerprint(&hook));
        assert_eq!(feed.news(&hook), None);
        feed.look(&object);
        let again = "a look that has not ended, or has failed";
        assert_eq!(feed.news(&hook), Some(object.clone()), "{again}");
        feed.settle(object.clone(), news::fingerprint(&hook));
        hook.metadata.generation = Some(7);
        assert_eq!(feed.news(&hook), Some(object.clone()), "changed");
        feed.settle(object.clone(), news::fingerprint(&hook));
        let _next_term = feed.subscribe();
        assert_eq!(
            feed.news(&hook),
            Some(object),
            "somebody else led meanwhile"
        );
    }
}
