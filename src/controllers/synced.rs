//! Whether watches have completed their initial list. kube-runtime's own `Store::wait_until_ready` wakes only
//! the last of several waiters (its `DelayedInit` polls one oneshot with whoever came last), so the
//! first full listing is read off the streams themselves.

use futures::{Stream, TryStreamExt};
use kube::runtime::watcher;
use tokio::sync::watch;

/// Counts watches whose first full listing has been told.
#[derive(Debug, Default)]
pub struct Synced {
    done: watch::Sender<usize>,
    watches: usize,
}

/// Waits for them; clones wait for the same.
#[derive(Clone, Debug)]
pub struct Waiter {
    done: watch::Receiver<usize>,
    watches: usize,
}

impl Synced {
    /// Counts nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a watch; put it behind the writer of its store.
    pub fn counting<K, S>(
        &mut self,
        stream: S,
    ) -> impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send + use<K, S>
    where
        S: Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send,
    {
        self.watches += 1;
        let mut done = Some(self.done.clone());
        stream.inspect_ok(move |event| {
            if matches!(event, watcher::Event::InitDone)
                && let Some(done) = done.take()
            {
                done.send_modify(|count| *count += 1);
            }
        })
    }

    /// Waits for all watches added so far.
    pub fn waiter(&self) -> Waiter {
        Waiter {
            done: self.done.subscribe(),
            watches: self.watches,
        }
    }
}

impl Waiter {
    /// Waits until all watches have completed their initial list. False if they have all ended before.
    pub async fn wait(&self) -> bool {
        let (mut done, watches) = (self.done.clone(), self.watches);
        done.wait_for(|count| *count >= watches).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use k8s_openapi::api::core::v1::ConfigMap;

    #[tokio::test]
    async fn every_waiter_is_woken_when_the_last_watch_has_told_all() {
        let mut synced = Synced::new();
        let init = || {
            let events: Vec<Result<watcher::Event<ConfigMap>, watcher::Error>> =
                vec![Ok(watcher::Event::Init), Ok(watcher::Event::InitDone)];
            futures::stream::iter(events)
        };
        let (one, two) = (synced.counting(init()), synced.counting(init()));
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let waiter = synced.waiter();
                tokio::spawn(async move { waiter.wait().await })
            })
            .collect();
        one.for_each(|_| std::future::ready(())).await;
        tokio::task::yield_now().await;
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
        two.for_each(|_| std::future::ready(())).await;
        for waiter in waiters {
            assert!(waiter.await.unwrap());
        }
    }
}
