//! Objects that anybody may write, as this program reads them: only the fields that something is
//! decided from, and of each list and text no more than it takes. What else there is never comes to
//! be in memory, so that an object costs a few kilobytes whatever its author put into it.
//!
//! | read as | of | kept |
//! |---|---|---|
//! | [`Metadata`] | ReplicaSets, Namespaces, workloads, hooks of the certificate controller | [`ObjectMeta`], see below |
//! | [`Pod`] | pods | containers and what the kubelet says of them; of `env` our own entries; address and node |
//! | [`ConfigMap`] | ConfigMaps | digests of our entries, if a guard is the owner |
//! | [`Service`] | Services | type, selector and ports |
//!
//! Of metadata: names, uid, versions, times, finalizers, owners, and our labels and the stamp. The custom resources are read whole: their schemas say how much there can be.

mod pod;
mod read;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;
use serde::de::{Deserialize, Deserializer};

pub use self::pod::Pod;
use self::read::{Data, Few, Kept, Labels, Selector, Text};
use crate::api::names::is_ours;
use crate::decide::entries::Entries;

/// Owners, of which ours is one at most.
const OWNERS: usize = 4;
/// Finalizers; nobody has so many.
const FINALIZERS: usize = 16;
/// Ports of a Service, which is read for a moment and not kept.
const SERVICE_PORTS: usize = 1024;

/// Metadata of an object of kind `K`, and nothing else of it.
pub struct Metadata<K> {
    /// The metadata.
    pub metadata: ObjectMeta,
    of: PhantomData<fn() -> K>,
}

/// A ConfigMap: a hook's, or a canary.
#[derive(Clone, Debug)]
pub struct ConfigMap {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// What it tells pods; nothing, if no guard owns it.
    pub entries: Option<Entries>,
}

/// A Service.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Service {
    /// Its metadata.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    #[serde(default)]
    spec: ServiceSpec,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    #[serde(rename = "type")]
    type_: Option<Text>,
    selector: Option<Selector>,
    ports: Few<ServicePort, SERVICE_PORTS>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServicePort {
    name: Option<Text>,
    port: i32,
    protocol: Option<Text>,
    app_protocol: Option<Text>,
    target_port: Option<IntOrString>,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    name: Option<Text>,
    namespace: Option<Text>,
    uid: Option<Text>,
    resource_version: Option<Text>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Few<Text, FINALIZERS>>,
    owner_references: Option<Few<Owner, OWNERS>>,
    labels: Option<Labels>,
    annotations: Option<Labels>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Owner {
    api_version: Text,
    kind: Text,
    name: Text,
    uid: Text,
    controller: Option<bool>,
    block_owner_deletion: Option<bool>,
}

/// Leaves of the metadata of a custom resource what of other objects is read at all.
pub fn slim<K: Resource>(object: &mut K) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    for map in [&mut meta.labels, &mut meta.annotations]
        .into_iter()
        .flatten()
    {
        map.retain(|name, _| is_ours(name));
    }
}

impl ConfigMap {
    fn with(metadata: ObjectMeta, data: &BTreeMap<String, String>) -> Self {
        let mut owners = metadata.owner_references.iter().flatten();
        let guarded = owners.any(|owner| owner.kind == "HookGuard");
        Self {
            entries: guarded.then(|| Entries::of(data)),
            metadata,
        }
    }

    /// The ConfigMap as the API has it, without its data.
    pub fn bare(&self) -> core::ConfigMap {
        core::ConfigMap {
            metadata: self.metadata.clone(),
            ..Default::default()
        }
    }
}

impl Service {
    /// The Service as the API has it, with what was kept.
    pub fn whole(self) -> core::Service {
        let ports = self.spec.ports.map(|port| core::ServicePort {
            name: text(&port.name),
            port: port.port,
            protocol: text(&port.protocol),
            app_protocol: text(&port.app_protocol),
            target_port: port.target_port.clone(),
            ..Default::default()
        });
        core::Service {
            metadata: self.metadata,
            spec: Some(core::ServiceSpec {
                type_: text(&self.spec.type_),
                selector: self.spec.selector.map(|selector| selector.0),
                ports: Some(ports),
                ..Default::default()
            }),
            status: None,
        }
    }
}

impl<K> Metadata<K> {
    /// This metadata.
    pub fn of(metadata: ObjectMeta) -> Self {
        Self {
            metadata,
            of: PhantomData,
        }
    }
}

impl<K> Clone for Metadata<K> {
    fn clone(&self) -> Self {
        Self::of(self.metadata.clone())
    }
}

impl<K> fmt::Debug for Metadata<K> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.metadata.fmt(formatter)
    }
}

impl<K: Resource> Resource for Metadata<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &K::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &K::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &K::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &K::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    /// The rest is not even sent.
    fn metadata_api() -> bool {
        true
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

macro_rules! is_a {
    ($($kept:ident)*) => {$(
        impl Resource for $kept {
            type DynamicType = ();
            type Scope = <core::$kept as Resource>::Scope;

            fn kind((): &()) -> Cow<'_, str> {
                core::$kept::kind(&())
            }

            fn group((): &()) -> Cow<'_, str> {
                core::$kept::group(&())
            }

            fn version((): &()) -> Cow<'_, str> {
                core::$kept::version(&())
            }

            fn plural((): &()) -> Cow<'_, str> {
                core::$kept::plural(&())
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    )*};
}
is_a!(Pod ConfigMap Service);

impl From<Meta> for ObjectMeta {
    fn from(meta: Meta) -> Self {
        let owners = meta.owner_references.map(|few| {
            few.map(|owner| OwnerReference {
                api_version: owner.api_version.0.clone(),
                kind: owner.kind.0.clone(),
                name: owner.name.0.clone(),
                uid: owner.uid.0.clone(),
                controller: owner.controller,
                block_owner_deletion: owner.block_owner_deletion,
            })
        });
        Self {
            name: meta.name.map(|text| text.0),
            namespace: meta.namespace.map(|text| text.0),
            uid: meta.uid.map(|text| text.0),
            resource_version: meta.resource_version.map(|text| text.0),
            generation: meta.generation,
            creation_timestamp: meta.creation_timestamp,
            deletion_timestamp: meta.deletion_timestamp,
            finalizers: meta.finalizers.map(|few| few.map(|text| text.0.clone())),
            owner_references: owners,
            labels: meta
                .labels
                .map(|labels| labels.0)
                .filter(|labels| !labels.is_empty()),
            annotations: meta
                .annotations
                .map(|labels| labels.0)
                .filter(|labels| !labels.is_empty()),
            ..Self::default()
        }
    }
}

fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    Meta::deserialize(deserializer).map(ObjectMeta::from)
}

impl<'de, K> Deserialize<'de> for Metadata<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        struct Read {
            #[serde(deserialize_with = "metadata")]
            metadata: ObjectMeta,
        }
        Read::deserialize(deserializer).map(|read| Self::of(read.metadata))
    }
}

impl<'de> Deserialize<'de> for ConfigMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        struct Read {
            #[serde(deserialize_with = "metadata")]
            metadata: ObjectMeta,
            data: Option<Data>,
        }
        Read::deserialize(deserializer).map(|read| {
            let data = read.data.map(|data| data.0).unwrap_or_default();
            Self::with(read.metadata, &data)
        })
    }
}

fn text(text: &Option<Text>) -> Option<String> {
    text.as_ref().map(|text| text.0.clone())
}

impl Kept for Owner {}
impl Kept for ServicePort {}

#[cfg(test)]
#[path = "slim_tests.rs"]
mod tests;
