//! What is measured on: a namespace with hooks and Deployments that no pod runs for.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use hyper::{Method, Uri};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use krake_hooks::api::condition::{self, ConditionType};
use krake_hooks::api::status::AckResult;
use krake_hooks::api::{HookKind, KrakeHook, names};
use krake_hooks::outside::ack::{self, Around, Incoming, Look, Verdict};

use crate::connection::Target;
use crate::load::NUMBER;

const WITHIN: Duration = Duration::from_secs(75);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a hook has enabled.
#[derive(Clone, Copy)]
pub enum Kinds {
    /// Nothing to hold.
    Complete,
    /// Nobody is called.
    Shutdown,
    /// Both.
    Both,
}

/// A namespace, seen as the cluster's administrator.
pub struct Stage {
    client: Client,
    namespace: String,
}

/// A hook that acknowledgements can be sent for, with what its pods would have.
pub struct Subject {
    /// The endpoint, with this hook's client certificate.
    pub endpoint: Target,
    hook: KrakeHook,
    workload_uid: String,
    token: String,
    /// Uids of its workload's pods, for which it speaks.
    pods: Vec<String>,
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

    /// Makes a hook and a Deployment without replicas for each name, some at a time. A paused
    /// Deployment costs the Deployment controller, which may make few calls, next to nothing.
    pub async fn create(
        &self,
        all: Vec<String>,
        kinds: Kinds,
        paused: bool,
        at_once: usize,
    ) -> Result<(), String> {
        let hooks: Api<KrakeHook> = self.all();
        let deployments: Api<Deployment> = self.all();
        let (hooks, deployments) = (&hooks, &deployments);
        futures::stream::iter(all)
            .map(|name| async move {
                let parameters = PostParams::default();
                let deployment = object(deployment(&name, paused));
                deployments.create(&parameters, &deployment).await?;
                let hook = object(hook(&name, kinds));
                hooks.create(&parameters, &hook).await.map(|_| ())
            })
            .buffer_unordered(at_once)
            .try_collect()
            .await
            .map_err(|error: kube::Error| error.to_string())
    }

    /// Waits until so many hooks whose names begin so are ready.
    pub async fn all_ready(&self, prefix: &str, count: usize) -> Result<(), String> {
        match self.until(prefix, ConditionType::Ready, count).await? {
            ready if ready >= count => Ok(()),
            ready => Err(format!("only {ready} of {count} hooks {prefix} are ready")),
        }
    }

    /// How many have their certificate, once they are so many or the time is up.
    pub async fn certified(&self, prefix: &str, count: usize) -> Result<usize, String> {
        self.until(prefix, ConditionType::CertificateReady, count)
            .await
    }

    /// Reads what the pods of these hooks would have. The first has as many pods as there are hooks, for
    /// many clients of one hook; each of the others has one.
    pub async fn subjects(&self, all: &[String], endpoint: &Uri) -> Result<Vec<Subject>, String> {
        let mut subjects = Vec::new();
        for (number, name) in all.iter().enumerate() {
            let pods = if number == 0 { all.len() } else { 1 };
            let subject = self.subject(name, endpoint, pods).await;
            subjects.push(subject.map_err(|problem| format!("hook {name}: {problem}"))?);
        }
        Ok(subjects)
    }

    /// Pods of a Deployment's that nobody schedules.
    async fn pods(&self, name: &str, count: usize) -> Result<Vec<String>, String> {
        let owner = self.all::<Deployment>().get(name).await;
        let owner = owner.map_err(|e| e.to_string())?;
        let mut pod = json!(owner.spec.as_ref().map(|spec| &spec.template));
        pod["spec"]["schedulerName"] = "nobody".into();
        pod["metadata"]["generateName"] = format!("{name}-").into();
        pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1",
            "kind": "Deployment", "name": name, "uid": owner.uid(), "controller": true}]);
        let pod: Pod = object(pod);
        let mut uids = Vec::new();
        for _ in 0..count {
            let made = self.all::<Pod>().create(&PostParams::default(), &pod).await;
            uids.extend(made.map_err(|e| e.to_string())?.uid());
        }
        Ok(uids)
    }

    async fn subject(&self, name: &str, endpoint: &Uri, pods: usize) -> Result<Subject, String> {
        let hook = self.all::<KrakeHook>().get(name).await;
        let hook = hook.map_err(|e| e.to_string())?;
        let uid = hook.uid().unwrap_or_default();
        let status = hook.status.as_ref();
        let workload = status.and_then(|status| status.workload.as_ref());
        let workload_uid = workload.ok_or("it has no workload")?.uid.clone();
        let (ours, tls) = (names::of_hook(name, &uid), names::tls_secret(name, &uid));
        let secret = async |secret: &str, key: &str| {
            let found = self.all::<Secret>().get(secret).await;
            let data = found.map_err(|e| e.to_string())?.data.unwrap_or_default();
            let value = data.get(key).map(|value| value.0.clone());
            value.ok_or_else(|| format!("Secret {secret} has no {key}"))
        };
        let map = self.all::<ConfigMap>().get(&ours).await;
        let map = map.map_err(|e| e.to_string())?.data.unwrap_or_default();
        let bundle = map.get(names::CA_BUNDLE).ok_or("no bundle")?;
        let cert = secret(&tls, names::CERT).await?;
        let key = secret(&tls, names::KEY).await?;
        let token = secret(&ours, names::TOKEN).await?;
        Ok(Subject {
            endpoint: Target::endpoint(endpoint, bundle.as_bytes(), &cert, &key)?,
            hook,
            workload_uid,
            pods: self.pods(name, pods).await?,
            token: String::from_utf8(token).map_err(|e| e.to_string())?,
        })
    }

    async fn until(
        &self,
        prefix: &str,
        kind: ConditionType,
        count: usize,
    ) -> Result<usize, String> {
        let began = Instant::now();
        let hooks: Api<KrakeHook> = self.all();
        loop {
            let seen = hooks.list(&ListParams::default()).await;
            let seen = seen.map_err(|e| e.to_string())?.items;
            let so = seen.iter().filter(|hook| {
                let status = hook.status.as_ref();
                hook.name_any().starts_with(prefix)
                    && status.is_some_and(|status| condition::is_true(&status.conditions, kind))
            });
            let so = so.count();
            if so >= count || began.elapsed() > WITHIN {
                return Ok(so);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

impl Subject {
    /// An acknowledgement by one of its pods: method, path, body.
    pub fn acknowledgement(&self, client: usize) -> (Method, String, String) {
        let path = names::callback_path(
            &self.hook.namespace().unwrap_or_default(),
            &self.hook.name_any(),
            HookKind::Complete,
        );
        let body = json!({"token": self.token, "message": NUMBER});
        let path = format!("{path}/{}", self.pod(client));
        (Method::PUT, path, body.to_string())
    }

    /// The write that the operator makes of it: method, path, body.
    pub fn patch(&self, client: usize) -> Result<(Method, String, String), String> {
        let incoming = Incoming {
            kind: HookKind::Complete,
            hook_uid: self.hook.uid().unwrap_or_default(),
            workload_uid: self.workload_uid.clone(),
            pod: Some(self.pod(client).to_owned()),
            result: AckResult::Success,
            message: Some(NUMBER.to_owned()),
            // As long as a serial number is.
            certificate: Some("0123456789abcdef0123456789abcdef".to_owned()),
            at: Timestamp::now(),
        };
        let Verdict::Write(write) = ack::decide(&self.hook, &incoming, Look::Live, Around::OWN)
        else {
            return Err(format!(
                "hook {} takes no acknowledgement",
                self.hook.name_any()
            ));
        };
        let path = format!(
            "/apis/{}/v1alpha1/namespaces/{}/krakehooks/{}/status?fieldManager={}",
            names::GROUP,
            self.hook.namespace().unwrap_or_default(),
            self.hook.name_any(),
            names::CALLBACK_MANAGER,
        );
        let body = ack::patch(&write.tests, [&write]);
        Ok((Method::PATCH, path, body.to_string()))
    }

    fn pod(&self, client: usize) -> &str {
        &self.pods[client % self.pods.len()]
    }
}

fn hook(name: &str, kinds: Kinds) -> Value {
    let mut spec = json!({
        "workload": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
    });
    if matches!(kinds, Kinds::Complete | Kinds::Both) {
        // Each of them counts, and nothing comes of it.
        spec["complete"] = json!({"action": "None"});
    }
    if matches!(kinds, Kinds::Shutdown | Kinds::Both) {
        spec["shutdown"] = json!({});
    }
    json!({
        "apiVersion": "hooks.krake.dev/v1alpha1",
        "kind": "KrakeHook",
        "metadata": {"name": name},
        "spec": spec,
    })
}

fn deployment(name: &str, paused: bool) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": 0,
            "paused": paused,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "app", "image": "app"}]},
            },
        },
    })
}

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object of that kind")
}
