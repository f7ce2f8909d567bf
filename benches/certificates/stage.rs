//! What is measured on: a namespace with one hook, and certificates for it by the thousand.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;

use krake_hooks::api::condition::{self, ConditionType};
use krake_hooks::api::{HookCertificate, KrakeHook};

use crate::bare::Bare;

const WITHIN: Duration = Duration::from_secs(600);
/// How many a user's tool applies at once.
const APPLIED_AT_ONCE: usize = 16;

/// A namespace, seen as the cluster's administrator.
pub struct Stage {
    client: Client,
    namespace: String,
}

/// What the operator has made of one certificate.
pub struct Example {
    /// The certificate.
    pub certificate: HookCertificate,
    /// Its Secret.
    pub secret: Secret,
}

impl Stage {
    /// Makes a namespace in the cluster of `KUBECONFIG`.
    pub async fn open() -> Result<Self, String> {
        let client = Client::try_default().await.map_err(|e| e.to_string())?;
        let namespace = format!("bench-{:06x}", rand::random::<u32>() >> 8);
        let object = object(json!({"metadata": {"name": namespace}}));
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let made = namespaces.create(&PostParams::default(), &object).await;
        made.map_err(|error| format!("namespace {namespace}: {error}"))?;
        Ok(Self { client, namespace })
    }

    /// Makes the hook, and waits until nothing is left to be done for it.
    pub async fn hook_is_there(&self) -> Result<(), String> {
        let deployment = json!({
            "metadata": {"name": "subject"},
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": {"app": "subject"}},
                "template": {
                    "metadata": {"labels": {"app": "subject"}},
                    "spec": {"containers": [{"name": "app", "image": "app"}]},
                },
            },
        });
        let hook = json!({
            "apiVersion": "hooks.krake.dev/v1alpha1", "kind": "KrakeHook",
            "metadata": {"name": "subject"},
            "spec": {
                "workload": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "subject"},
                "complete": {},
            },
        });
        let params = PostParams::default();
        let deployments: Api<Deployment> = self.all();
        let made = deployments.create(&params, &object(deployment)).await;
        made.map_err(|e| e.to_string())?;
        let hooks: Api<KrakeHook> = self.all();
        let made = hooks.create(&params, &object(hook)).await;
        made.map_err(|e| e.to_string())?;
        let is_ready = |hook: Option<&KrakeHook>| {
            let status = hook.and_then(|hook| hook.status.as_ref());
            status.is_some_and(|s| condition::is_true(&s.conditions, ConditionType::Ready))
        };
        let ready = kube::runtime::wait::await_condition(hooks, "subject", is_ready);
        let ready = tokio::time::timeout(WITHIN, ready).await;
        match ready {
            Ok(Ok(_)) => Ok(()),
            other => Err(format!("the hook is not ready: {:?}", other.err())),
        }
    }

    /// Applies so many certificates; how long until the last of them is ready.
    pub async fn certificates(&self, prefix: &str, count: usize) -> Result<Duration, String> {
        self.measured(prefix, count, |_| Ok(())).await
    }

    /// The same, where a bare client makes them ready.
    pub async fn certificates_by(
        &self,
        prefix: &str,
        count: usize,
        bare: Bare,
    ) -> Result<Duration, String> {
        let (sender, applied) = mpsc::unbounded_channel();
        let writing = tokio::spawn(bare.write_all(applied));
        let took = self
            .measured(prefix, count, |certificate| {
                sender
                    .send(certificate)
                    .map_err(|_| "the bare client has ended".to_owned())
            })
            .await;
        drop(sender);
        writing.await.map_err(|e| e.to_string())??;
        took
    }

    /// What became of one certificate.
    pub async fn example(&self, name: &str) -> Result<Example, String> {
        let certificate = self.all::<HookCertificate>().get(name).await;
        let certificate = certificate.map_err(|e| e.to_string())?;
        let secret = certificate.status.as_ref().and_then(|s| s.secret.as_ref());
        let secret = secret.ok_or("it has no Secret")?.name.clone();
        let secret = self.all::<Secret>().get(&secret).await;
        Ok(Example {
            certificate,
            secret: secret.map_err(|e| e.to_string())?,
        })
    }

    async fn measured(
        &self,
        prefix: &str,
        count: usize,
        then: impl Fn(HookCertificate) -> Result<(), String>,
    ) -> Result<Duration, String> {
        let api: Api<HookCertificate> = self.all();
        let events = watcher(api.clone(), watcher::Config::default()).default_backoff();
        let mut events = std::pin::pin!(events);
        // The watch stands before the first is applied.
        while let Some(event) = events.next().await {
            if matches!(event, Ok(watcher::Event::InitDone)) {
                break;
            }
        }
        let began = Instant::now();
        let (api, then) = (&api, &then);
        let applying = futures::stream::iter((0..count).map(|number| format!("{prefix}-{number}")))
            .map(|name| async move {
                let certificate = json!({
                    "apiVersion": "hooks.krake.dev/v1alpha1", "kind": "HookCertificate",
                    "metadata": {"name": name}, "spec": {"hook": {"name": "subject"}},
                });
                let applied = api
                    .create(&PostParams::default(), &object(certificate))
                    .await;
                then(applied.map_err(|e| e.to_string())?)
            })
            .buffer_unordered(APPLIED_AT_ONCE)
            .try_collect::<()>();
        let watching = async {
            let mut ready = HashSet::new();
            while ready.len() < count {
                match events.next().await {
                    Some(Ok(watcher::Event::Apply(certificate))) if is_ready(&certificate) => {
                        let name = certificate.name_any();
                        if name.starts_with(prefix) {
                            ready.insert(name);
                        }
                    }
                    Some(_) => {}
                    None => return Err("the watch has ended".to_owned()),
                }
            }
            Ok(())
        };
        let both = async { tokio::try_join!(applying, watching) };
        let done = tokio::time::timeout(WITHIN, both).await;
        done.map_err(|_| format!("{prefix}: not all are ready in time"))??;
        Ok(began.elapsed())
    }

    fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

fn is_ready(certificate: &HookCertificate) -> bool {
    let status = certificate.status.as_ref();
    status.is_some_and(|s| condition::is_true(&s.conditions, ConditionType::Ready))
}

fn object<K: serde::de::DeserializeOwned>(value: serde_json::Value) -> K {
    serde_json::from_value(value).expect("an object of that kind")
}
