//! Whether a pod that acknowledges is one of the workload's, or one of a copy with the same token.
//!
//! A pod that the caches know as the workload's is accepted. One that they do not know may only be
//! too new for them: the server is asked before it is refused.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::Client;
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::time::Instant;

use super::commit::HookName;
use crate::api::{HookGuard, KrakeHook, names};
use crate::cluster::acknowledge::{self, Crew};
use crate::cluster::{Error, slim};
use crate::decide::ack::{Around, Incoming, Speaker};
use crate::decide::pods::{Owners, Whose};

/// Caches of pods and their owners.
#[derive(Clone)]
pub struct PodCaches {
    /// Pods with a hook's label.
    pub pods: Store<slim::Pod>,
    /// ReplicaSets with a hook's label.
    pub replica_sets: Store<slim::Metadata<ReplicaSet>>,
    /// All guards.
    pub guards: Store<HookGuard>,
}

/// Finds out which workload a pod belongs to.
pub struct Crews {
    caches: PodCaches,
    client: Client,
}

/// A crew, and when the server was asked for it.
pub struct Seen {
    crew: Crew,
    asked: Instant,
}

impl Crews {
    /// By caches, and a server where they are behind.
    pub fn new(caches: PodCaches, client: Client) -> Self {
        Self { caches, client }
    }

    /// Which of these pods the caches know as pods of the workload that the tokens were verified
    /// for.
    pub fn known(&self, hook: &HookName, wanted: &[&Incoming]) -> BTreeSet<String> {
        let Some(first) = wanted.first() else {
            return BTreeSet::new();
        };
        let uids: BTreeSet<&str> = wanted.iter().filter_map(|one| one.pod.as_deref()).collect();
        let here = |namespace: &Option<String>| namespace.as_deref() == Some(&hook.namespace);
        // One walk over all pods, for all who wait.
        let pods = self.caches.pods.state_filter(|pod| {
            let uid = pod.metadata.uid.as_deref();
            here(&pod.metadata.namespace) && uid.is_some_and(|uid| uids.contains(uid))
        });
        if pods.is_empty() {
            return BTreeSet::new();
        }
        let sets = self.caches.replica_sets.state_filter(|set| {
            let labels = set.metadata.labels.as_ref();
            let label = labels.and_then(|labels| labels.get(names::HOOK_LABEL));
            here(&set.metadata.namespace) && label == Some(&hook.name)
        });
        let sets: Vec<_> = sets.iter().map(|set| set.metadata.clone()).collect();
        let guard = self.caches.guards.get(&ObjectRef::new(&first.hook_uid));
        let owners = Owners {
            workload: &first.workload_uid,
            guard: guard
                .as_ref()
                .and_then(|guard| guard.metadata.uid.as_deref()),
            replica_sets: &sets,
        };
        let own = pods
            .iter()
            .filter(|pod| owners.whose(&pod.metadata) == Whose::Own);
        own.filter_map(|pod| pod.metadata.uid.clone()).collect()
    }

    /// Asks the server.
    pub async fn look(&self, hook: &KrakeHook) -> Result<Seen, Error> {
        let asked = Instant::now();
        let crew = acknowledge::crew(&self.client, hook).await?;
        Ok(Seen { crew, asked })
    }
}

impl Seen {
    /// What it tells about a pod whose acknowledgement arrived before it; nothing about later ones.
    pub fn tells(&self, incoming: &Incoming, arrived: Instant) -> Option<Around> {
        let own = incoming
            .pod
            .as_ref()
            .is_none_or(|pod| self.crew.own.contains(pod));
        (arrived <= self.asked).then_some(Around {
            speaker: if own { Speaker::Own } else { Speaker::Foreign },
            runs: Some(self.crew.runs),
        })
    }
}
