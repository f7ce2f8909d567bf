//! The one write of the callback: acknowledgements into a hook's status, and the look before it.
//!
//! It never tries again by itself: whether a write that failed may be repeated is for the caller
//! to decide, who knows who waits for it.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, Error, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error as ThisError;

use super::{Act, observe};
use crate::api::{HookCertificate, HookGuard, KrakeHook, names};
use crate::decide::pods::{Owners, Whose};

/// How long a call may take in all; the client's own timeouts are about connections.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Why acknowledgements could not be written, or a hook not be read.
#[derive(Debug, ThisError)]
pub enum AcknowledgeError {
    /// What was decided on is no longer so; nothing was written.
    #[error("hook {hook}: it has changed: {source}")]
    Refused {
        /// The hook, as `namespace/name`.
        hook: String,
        /// What the server says.
        source: Box<Error>,
    },
    /// Others wrote the hook at the same time, again and again; nothing was written, and nothing
    /// that was decided on was found to be otherwise.
    #[error("hook {hook}: others write it at the same time: {source}")]
    Raced {
        /// The hook, as `namespace/name`.
        hook: String,
        /// What the server says.
        source: Box<Error>,
    },
    /// The hook does not exist.
    #[error("hook {hook}: it does not exist")]
    Gone {
        /// The hook, as `namespace/name`.
        hook: String,
    },
    /// The server has not done it.
    #[error("hook {hook}: the API server refuses: {source}")]
    Unavailable {
        /// The hook, as `namespace/name`.
        hook: String,
        /// What the server says.
        source: Box<Error>,
    },
    /// It cannot be found out which workload the pods belong to.
    #[error("hook {hook}: whose a pod is cannot be told: {source}")]
    Unknown {
        /// The hook, as `namespace/name`.
        hook: String,
        /// What went wrong.
        source: Box<super::Error>,
    },
    /// No usable answer: whether it was written is not known.
    #[error("hook {hook}: no answer from the API server: {source}")]
    Lost {
        /// The hook, as `namespace/name`.
        hook: String,
        /// What went wrong.
        source: Box<Error>,
    },
}

/// Reads one hook from the server.
pub async fn look(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<KrakeHook, AcknowledgeError> {
    let api: Api<KrakeHook> = Api::namespaced(client.clone(), namespace);
    within(api.get(name))
        .await
        .map_err(|source| classify(namespace, name, source))
}

/// Whether a namespace has a `HookCertificate` with this uid that nobody has asked to go.
pub async fn has_certificate(
    client: &Client,
    namespace: &str,
    uid: &str,
) -> Result<bool, super::Error> {
    let api: Api<HookCertificate> = Api::namespaced(client.clone(), namespace);
    let mut page = ListParams::default().limit(500);
    loop {
        let list = within(api.list_metadata(&page)).await;
        let list = list.map_err(super::Error::of(
            Act::List,
            format!("HookCertificates of {namespace}"),
        ))?;
        let found = list
            .items
            .iter()
            .find(|c| c.metadata.uid.as_deref() == Some(uid));
        if let Some(certificate) = found {
            return Ok(certificate.metadata.deletion_timestamp.is_none());
        }
        match list.metadata.continue_ {
            Some(next) if !next.is_empty() => page = page.continue_token(&next),
            _ => return Ok(false),
        }
    }
}

/// A hook's workload and its pods as they are just now.
#[derive(Clone, Debug)]
pub struct Crew {
    /// Uids of the pods that are the workload's own.
    pub own: BTreeSet<String>,
    /// Whether it is to run at all; it may be at zero, or gone.
    pub runs: bool,
}

/// Reads the pods of a hook's workload from the server.
pub async fn crew(client: &Client, hook: &KrakeHook) -> Result<Crew, super::Error> {
    let namespace = hook.metadata.namespace.as_deref().unwrap_or_default();
    let name = hook.metadata.name.as_deref().unwrap_or_default();
    let uid = hook.metadata.uid.as_deref().unwrap_or_default();
    let reference = &hook.spec.workload;
    let guards: Api<HookGuard> = Api::all(client.clone());
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), namespace);
    let labelled = observe::hook_selector(name);
    let all = async {
        let (workload, guard, mut found, mut known) = futures::try_join!(
            observe::workload(client, reference.known_kind(), namespace, &reference.name),
            async {
                let guard = guards.get_metadata_opt(uid).await;
                guard.map_err(super::Error::of(Act::Get, format!("HookGuard {uid}")))
            },
            metadata(&pods, namespace, &labelled),
            metadata(&sets, namespace, &labelled),
        )?;
        // Nothing is injected into some kinds, and somebody may have taken the label off.
        if let Some(selector) = workload.as_ref().map(|w| observe::selector(&w.selector))
            && !selector.is_empty()
        {
            let (more, others) = futures::try_join!(
                metadata(&pods, namespace, &selector),
                metadata(&sets, namespace, &selector),
            )?;
            found.extend(more);
            known.extend(others);
        }
        let met = hook.status.as_ref().and_then(|s| s.workload.as_ref());
        let met = met.map_or("", |met| met.uid.as_str());
        let owners = Owners {
            workload: met,
            guard: guard
                .as_ref()
                .and_then(|guard| guard.metadata.uid.as_deref()),
            replica_sets: &known,
        };
        let own = found
            .into_iter()
            .chain(workload.as_ref().map(|w| w.metadata.clone()));
        let own = own.filter(|pod| owners.whose(pod) == Whose::Own);
        let same = workload.filter(|w| w.metadata.uid.as_deref() == Some(met));
        Ok(Crew {
            own: own.filter_map(|pod| pod.uid).collect(),
            runs: same.is_some_and(|workload| !workload.stopped),
        })
    };
    match tokio::time::timeout(ANSWER_WITHIN, all).await {
        Ok(crew) => crew,
        Err(elapsed) => Err(super::Error::of(Act::List, format!("pods in {namespace}"))(
            Error::Service(elapsed.into()),
        )),
    }
}

/// Metadata of all that match a label selector.
async fn metadata<K>(
    api: &Api<K>,
    namespace: &str,
    labels: &str,
) -> Result<Vec<ObjectMeta>, super::Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let mut page = ListParams::default().labels(labels).limit(500);
    let mut all = Vec::new();
    loop {
        let list = api.list_metadata(&page).await.map_err(super::Error::of(
            Act::List,
            format!("{} in {namespace}", K::plural(&())),
        ))?;
        all.extend(list.items.into_iter().map(|item| item.metadata));
        match list.metadata.continue_ {
            Some(next) if !next.is_empty() => page = page.continue_token(&next),
            _ => return Ok(all),
        }
    }
}

/// Writes acknowledgements; returns the hook as it is after the write.
pub async fn write(
    client: &Client,
    namespace: &str,
    name: &str,
    patch: Value,
) -> Result<KrakeHook, AcknowledgeError> {
    let api: Api<KrakeHook> = Api::namespaced(client.clone(), namespace);
    let parameters = PatchParams {
        field_manager: Some(names::CALLBACK_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch: json_patch::Patch =
        serde_json::from_value(patch).expect("decide::ack makes only valid JSON patches");
    within(api.patch_status(name, &parameters, &Patch::Json::<()>(patch)))
        .await
        .map_err(|source| classify(namespace, name, source))
}

async fn within<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(ANSWER_WITHIN, call)
        .await
        .unwrap_or_else(|elapsed| Err(Error::Service(elapsed.into())))
}

fn classify(namespace: &str, name: &str, source: Error) -> AcknowledgeError {
    let hook = format!("{namespace}/{name}");
    let code = match &source {
        Error::Api(status) => status.code,
        _ => 0,
    };
    let source = Box::new(source);
    match code {
        404 => AcknowledgeError::Gone { hook },
        // The server has tried some times by itself to carry the patch out on what it found then.
        409 => AcknowledgeError::Raced { hook, source },
        // A test of the patch failed.
        422 => AcknowledgeError::Refused { hook, source },
        400..=499 => AcknowledgeError::Unavailable { hook, source },
        // 5xx too: an API server that gave up on etcd does not know either.
        _ => AcknowledgeError::Lost { hook, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    #[test]
    fn what_a_code_says_about_the_write() {
        for (code, expected) in [
            (404, "Gone"),
            (409, "Raced"),
            (422, "Refused"),
            (403, "Unavailable"),
            (429, "Unavailable"),
            (500, "Lost"),
            (504, "Lost"),
        ] {
            let status = Status {
                code,
                ..Status::default()
            };
            let error = classify("ml", "trainer", Error::Api(Box::new(status)));
            let word = format!("{error:?}");
            assert!(word.starts_with(expected), "{code}: {word}");
            assert!(error.to_string().contains("ml/trainer"), "{error}");
        }
        let broken = classify("ml", "trainer", Error::Service("connection reset".into()));
        assert!(
            matches!(broken, AcknowledgeError::Lost { .. }),
            "{broken:?}"
        );
    }
}
