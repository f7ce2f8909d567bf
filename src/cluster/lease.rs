//! The Lease: read, created, and replaced in the version that was read, never anything else.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Resource, ResourceExt};

use super::{Act, Error};
use crate::api::names;
use crate::decide::lease::Predecessor;

/// The term before, as a Lease tells that is about to be taken.
pub fn predecessor(lease: &Lease) -> Option<Predecessor> {
    let note = lease.annotations().get(names::TERM_ANNOTATION)?;
    Predecessor::of(lease.spec.as_ref()?, note)
}

/// The Lease of one namespace.
pub struct LeaseApi {
    api: Api<Lease>,
    recorder: Recorder,
    described: String,
}

impl LeaseApi {
    /// The Lease of the operator in this namespace.
    pub fn new(client: Client, namespace: &str, recorder: Recorder) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            recorder,
            described: format!("Lease {namespace}/{}", names::LEASE),
        }
    }

    /// The Lease, if it is there.
    pub async fn read(&self, within: Duration) -> Result<Option<Lease>, Error> {
        self.call(Act::Get, within, self.api.get_opt(names::LEASE))
            .await
    }

    /// Writes a Lease, and in which term: replaces exactly the one that was seen, or creates it.
    pub async fn write(
        &self,
        seen: Option<&Lease>,
        spec: LeaseSpec,
        term: &str,
        within: Duration,
    ) -> Result<Lease, Error> {
        let parameters = PostParams {
            field_manager: Some(names::CONTROLLER_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let note = Predecessor::note(&spec, term);
        let metadata = seen.map(|seen| seen.metadata.clone());
        let mut lease = Lease {
            metadata: metadata.unwrap_or_else(|| ObjectMeta {
                name: Some(names::LEASE.to_owned()),
                ..ObjectMeta::default()
            }),
            spec: Some(spec),
        };
        lease
            .annotations_mut()
            .insert(names::TERM_ANNOTATION.to_owned(), note);
        match seen {
            Some(_) => {
                let written = self.api.replace(names::LEASE, &parameters, &lease);
                self.call(Act::Update, within, written).await
            }
            None => {
                let written = self.api.create(&parameters, &lease);
                self.call(Act::Create, within, written).await
            }
        }
    }

    /// An Event on the Lease; losing one has no consequence. Those with the same action are one
    /// that is counted.
    pub async fn tell(&self, lease: &Lease, action: &str, note: String, within: Duration) {
        let event = Event {
            type_: EventType::Normal,
            reason: "LeaderElection".into(),
            note: Some(note),
            action: action.to_owned(),
            secondary: None,
        };
        let reference = lease.object_ref(&());
        let published = self.recorder.publish(&event, &reference);
        if let Ok(Err(error)) = tokio::time::timeout(within, published).await {
            tracing::debug!(%error, "could not write an Event");
        }
    }

    async fn call<T>(
        &self,
        act: Act,
        within: Duration,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Error> {
        tokio::time::timeout(within, call)
            .await
            .unwrap_or_else(|elapsed| Err(kube::Error::Service(elapsed.into())))
            .map_err(Error::of(act, self.described.clone()))
    }
}
