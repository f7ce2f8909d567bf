//! A watch in which one object that cannot be read stops nothing else.
//!
//! The API server stores what the schema of its day let pass; after a change of version that may be
//! something this program cannot read. Such an object is named in the log and counted, and is no part
//! of any cache: nothing is decided on what it used to say. What is held by it stays held, until it
//! can be read again.

use std::collections::BTreeMap;
use std::fmt::Debug;

use futures::{Stream, StreamExt, future};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::Api;
use kube::core::{DeserializeGuard, error_boundary::InvalidObject};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::metrics::Metrics;

/// Objects that cannot be read: the version that was complained about, by uid.
type Unreadable = BTreeMap<String, String>;

struct Sorter<K: Resource<DynamicType = ()> + Clone + 'static> {
    cache: Store<K>,
    metrics: Metrics,
}

/// Watches the objects of a kind that the configuration selects. The cache is the one that this
/// watch fills: what it has of an object that cannot be read any more is taken out of it.
pub fn watch<K>(
    client: &Client,
    config: watcher::Config,
    cache: &Store<K>,
    metrics: &Metrics,
) -> impl Stream<Item = Result<Event<K>, watcher::Error>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    watch_in(Api::all(client.clone()), config, cache, metrics)
}

/// The same, of a part of them.
pub fn watch_in<K>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    cache: &Store<K>,
    metrics: &Metrics,
) -> impl Stream<Item = Result<Event<K>, watcher::Error>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let sorter = Sorter {
        cache: cache.clone(),
        metrics: metrics.clone(),
    };
    sorter.sort_out(watcher(api, config))
}

impl<K> Sorter<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    fn sort_out(
        self,
        events: impl Stream<Item = Result<Event<DeserializeGuard<K>>, watcher::Error>> + Send,
    ) -> impl Stream<Item = Result<Event<K>, watcher::Error>> + Send {
        let (mut known, mut listed) = (Unreadable::new(), Unreadable::new());
        events.filter_map(move |event| {
            let event = event.map(|event| match event {
                Event::Init => {
                    listed.clear();
                    Some(Event::Init)
                }
                Event::InitApply(DeserializeGuard(Ok(object))) => Some(Event::InitApply(object)),
                Event::InitApply(DeserializeGuard(Err(invalid))) => {
                    listed.extend([complain::<K>(&known, &invalid)]);
                    None
                }
                Event::InitDone => {
                    known = std::mem::take(&mut listed);
                    self.count(&known);
                    Some(Event::InitDone)
                }
                Event::Apply(DeserializeGuard(Ok(object))) => {
                    if known.remove(&object.uid().unwrap_or_default()).is_some() {
                        self.count(&known);
                    }
                    Some(Event::Apply(object))
                }
                Event::Apply(DeserializeGuard(Err(invalid))) => {
                    let version = complain::<K>(&known, &invalid);
                    known.extend([version]);
                    self.count(&known);
                    self.cached(&invalid.metadata).map(Event::Delete)
                }
                Event::Delete(object) => {
                    if known.remove(&object.uid().unwrap_or_default()).is_some() {
                        self.count(&known);
                    }
                    match object.0 {
                        Ok(object) => Some(Event::Delete(object)),
                        Err(invalid) => self.cached(&invalid.metadata).map(Event::Delete),
                    }
                }
            });
            future::ready(event.transpose())
        })
    }

    fn cached(&self, meta: &ObjectMeta) -> Option<K> {
        let mut object = ObjectRef::new(meta.name.as_deref()?);
        object.namespace.clone_from(&meta.namespace);
        self.cache
            .get(&object)
            .map(|object| object.as_ref().clone())
    }

    fn count(&self, unreadable: &Unreadable) {
        self.metrics.unreadable(&K::kind(&()), unreadable.len());
    }
}

/// Says so once for each version of an object: its uid, and that version.
fn complain<K: Resource<DynamicType = ()>>(
    known: &Unreadable,
    invalid: &InvalidObject,
) -> (String, String) {
    let meta = &invalid.metadata;
    let uid = meta.uid.clone().unwrap_or_default();
    let version = meta.resource_version.clone().unwrap_or_default();
    if known.get(&uid) != Some(&version) {
        tracing::error!(
            kind = %K::kind(&()),
            namespace = meta.namespace.as_deref().unwrap_or_default(),
            name = meta.name.as_deref().unwrap_or_default(),
            error = invalid.error,
            "cannot be read, and is left alone until it is corrected or deleted; are CustomResourceDefinitions and operator of one version?"
        );
    }
    (uid, version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::KrakeHook;
    use crate::testing;
    use kube::runtime::{WatchStreamExt, reflector};
    use serde_json::{Value, json};

    fn guarded(object: Value) -> DeserializeGuard<KrakeHook> {
        serde_json::from_value(object).expect("a guard takes everything")
    }

    fn hook(name: &str, version: u32, timeout: Value) -> DeserializeGuard<KrakeHook> {
        let mut hook = serde_json::to_value(testing::hook("ml", name)).unwrap();
        hook["metadata"]["uid"] = json!(format!("uid of {name}"));
        hook["metadata"]["resourceVersion"] = json!(version.to_string());
        hook["spec"]["shutdown"]["timeoutSeconds"] = timeout;
        guarded(hook)
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_counted_and_cached_no_more_and_stops_nothing() {
        let metrics = Metrics::new();
        let (cache, writer) = reflector::store();
        let (sender, events) = tokio::sync::mpsc::unbounded_channel();
        let sorter = Sorter {
            cache: cache.clone(),
            metrics: metrics.clone(),
        };
        let events = tokio_stream::wrappers::UnboundedReceiverStream::new(events).map(Ok);
        let mut sorted = Box::pin(sorter.sort_out(events).reflect(writer));
        let mut after = async |told: Vec<Event<DeserializeGuard<KrakeHook>>>, heard: usize| {
            for event in told {
                sender.send(event).unwrap();
            }
            for _ in 0..heard {
                sorted.next().await.unwrap().unwrap();
            }
            let mut names: Vec<_> = cache.state().iter().map(|hook| hook.name_any()).collect();
            names.sort();
            let gauge = "krake_hooks_unreadable_objects{kind=\"KrakeHook\"} ";
            let text = metrics.text();
            let count = text.lines().find_map(|line| line.strip_prefix(gauge));
            (names.join(" "), count.unwrap_or("0").to_owned())
        };
        let is = |names: &str, count: &str| (names.to_owned(), count.to_owned());
        let listing = vec![
            Event::Init,
            Event::InitApply(hook("a", 1, json!(5))),
            Event::InitApply(hook("bad", 1, json!("soon"))),
            Event::InitApply(hook("b", 1, json!(5))),
            Event::InitDone,
        ];
        assert_eq!(after(listing, 4).await, is("a b", "1"));
        // One that could be read is no longer what the cache says of it.
        let spoilt = vec![Event::Apply(hook("a", 2, json!("soon")))];
        assert_eq!(after(spoilt, 1).await, is("b", "2"));
        // Another version of what the cache does not have is nothing to anybody.
        let again = vec![
            Event::Apply(hook("a", 3, json!([]))),
            Event::Apply(hook("c", 1, json!(5))),
        ];
        assert_eq!(after(again, 1).await, is("b c", "2"));
        let corrected = vec![Event::Apply(hook("a", 4, json!(5)))];
        assert_eq!(after(corrected, 1).await, is("a b c", "1"));
        let deleted = vec![
            Event::Delete(hook("bad", 2, json!("soon"))),
            Event::Delete(hook("b", 2, json!(5))),
        ];
        assert_eq!(after(deleted, 1).await, is("a c", "0"));
    }
}
