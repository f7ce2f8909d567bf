//! What wakes the reconciles of hooks: every replica hears it, and only the leader acts on it.
//!
//! Caches are kept up all the time, so that a replica that begins to lead need not list the cluster
//! first. Whoever subscribes gets every hook once, and then what changes.

use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt};
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::api::KrakeHook;

type Subscribers = Vec<mpsc::UnboundedSender<ObjectRef<KrakeHook>>>;

/// Hooks that are to be looked at; clones are the same feed.
#[derive(Clone)]
pub struct Feed {
    hooks: Store<KrakeHook>,
    subscribers: Arc<Mutex<Subscribers>>,
}

impl Feed {
    /// A feed without subscribers.
    pub fn new(hooks: Store<KrakeHook>) -> Self {
        Self {
            hooks,
            subscribers: Arc::default(),
        }
    }

    /// Every hook that the cache has now, and then every one that is told about.
    pub fn subscribe(&self) -> impl Stream<Item = ObjectRef<KrakeHook>> + Send + use<> {
        let (sender, changes) = mpsc::unbounded_channel();
        // First: what changes meanwhile is told twice rather than not at all.
        self.subscribers().push(sender);
        let present: Vec<_> = self
            .hooks
            .state()
            .iter()
            .map(|hook| ObjectRef::from_obj(hook.as_ref()))
            .collect();
        futures::stream::iter(present).chain(UnboundedReceiverStream::new(changes))
    }

    /// Tells everybody; who has ceased to listen is forgotten.
    pub fn tell(&self, hooks: &[ObjectRef<KrakeHook>]) {
        self.subscribers()
            .retain(|to| hooks.iter().all(|hook| to.send(hook.clone()).is_ok()));
    }

    fn subscribers(&self) -> std::sync::MutexGuard<'_, Subscribers> {
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
}
