//! Where one story plays: a namespace of its own, and what is done and awaited in it.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use krake_hooks::api::HookGuard;
use krake_hooks::api::condition::{self, ConditionType};
use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::names;
use krake_hooks::api::status::{KrakeHookStatus, Outcome, Phase};

use super::app::App;
use super::cluster::Cluster;
use super::manifests;
use super::pods::PodWitness;
use super::wait::{SOON, until};

/// A namespace of a story.
#[derive(Clone)]
pub struct Stage {
    /// The cluster it is in.
    pub cluster: Arc<Cluster>,
    /// A client of the story's own runtime.
    pub client: Client,
    /// Its name.
    pub namespace: String,
}

/// A Deployment of the app, armed, with everything needed to try to remove it.
pub struct Armed {
    /// Its one pod.
    pub app: App,
    /// All its pods.
    pub pods: PodWitness,
    /// The hook when it was armed.
    pub hook: KrakeHook,
}

/// Label of the namespaces of stories; its value is the run they belong to.
pub const RUN_LABEL: &str = "krake-hooks-e2e";

impl Stage {
    /// Makes a namespace.
    pub async fn open(cluster: Arc<Cluster>, run: &str, story: &str) -> Result<Self, String> {
        let client = cluster.client().await?;
        let words: Vec<&str> = story.split(['_', ':']).filter(|w| w.len() > 3).collect();
        let short = words.join("-").chars().take(30).collect::<String>();
        let namespace = format!(
            "e2e-{}-{:06x}",
            short.trim_matches('-'),
            rand::random::<u32>() >> 8
        );
        let object = json!({"metadata": {
            "name": namespace,
            "labels": {RUN_LABEL: run, "pod-security.kubernetes.io/enforce": "baseline"},
        }});
        let object: Namespace = serde_json::from_value(object).expect("a namespace");
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces
            .create(&PostParams::default(), &object)
            .await
            .map_err(|error| format!("namespace {namespace} cannot be created: {error}"))?;
        Ok(Self {
            cluster,
            client,
            namespace,
        })
    }

    /// Asks for the namespace's end, and does not wait for it.
    pub async fn close(&self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        // It may have ended already: there is a story about that.
        let _ = namespaces
            .delete(&self.namespace, &DeleteParams::default())
            .await;
    }

    /// Objects of one kind in this namespace.
    pub fn all<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates an object.
    pub async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        self.try_create(object).await.expect("can be created")
    }

    /// Creates an object, or says why not.
    pub async fn try_create<K>(&self, object: Value) -> Result<K, kube::Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let object: K = serde_json::from_value(object).expect("an object of that kind");
        self.all().create(&PostParams::default(), &object).await
    }

    /// The real `kubectl`, in this namespace.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments)
            .await
            .unwrap_or_else(|complaint| panic!("kubectl {arguments:?}: {complaint}"))
    }

    /// The real `kubectl`, which may fail.
    pub async fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let mut all = vec!["--namespace", &self.namespace];
        all.extend(arguments);
        self.cluster.kubectl(&all).await
    }

    /// Deletes a Deployment as a person does, and comes back at once.
    pub async fn delete_deployment(&self, name: &str, cascade: &str) {
        let cascade = format!("--cascade={cascade}");
        self.kubectl(&["delete", "deployment", name, &cascade, "--wait=false"])
            .await;
    }

    /// Makes Service, Deployment and shutdown hook, all called `app` (the Service `shutdown`), and
    /// waits until a removal would be held.
    pub async fn armed_app(&self, more: Value) -> Armed {
        let _: k8s_openapi::api::core::v1::Service =
            self.create(manifests::service("shutdown", "app")).await;
        let _: Deployment = self.create(manifests::app("app")).await;
        let _: KrakeHook = self
            .create(manifests::hook("app", "app", manifests::shutdown(more)))
            .await;
        self.armed("app").await
    }

    /// Uids of so many pods of a Deployment that never run: it owns them, and nobody schedules them. Whoever
    /// has the token may speak for them.
    pub async fn pods_that_never_run(&self, deployment: &str, count: usize) -> Vec<String> {
        let owner: Deployment = self.all().get(deployment).await.expect("it is there");
        let owner_uid = owner.uid().expect("a uid");
        let template = owner.spec.map(|spec| spec.template).expect("a template");
        let mut pod = json!(template);
        pod["spec"]["schedulerName"] = "nobody".into();
        pod["metadata"]["generateName"] = format!("{deployment}-never-").into();
        pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "Deployment",
            "name": deployment, "uid": owner_uid, "controller": true}]);
        let pods = (0..count).map(|_| self.create::<Pod>(pod.clone()));
        let pods = futures::stream::iter(pods).buffered(16);
        pods.map(|pod| pod.uid().expect("a uid")).collect().await
    }

    /// A pod that belongs to nobody and has what the hook's pods have; it outlives them. It speaks
    /// with the uid of a pod that is given.
    pub async fn bystander(&self, hook: &KrakeHook, speaks_for: &str) -> App {
        self.bystander_of(hook, speaks_for, manifests::APP_IMAGE)
            .await
    }

    /// The same, of another image.
    pub async fn bystander_of(&self, hook: &KrakeHook, speaks_for: &str, image: &str) -> App {
        let uid = hook.uid().expect("a hook that was created");
        let objects = names::of_hook(&hook.name_any(), &uid);
        let volume = json!({"name": "credentials", "projected": {"sources": [
            {"secret": {"name": names::tls_secret(&hook.name_any(), &uid)}},
            {"configMap": {"name": objects, "items": [
                {"key": names::CA_BUNDLE, "path": names::CA_BUNDLE},
            ]}},
        ]}});
        let mut environment = vec![json!({
            "name": "KRAKE_TOKEN",
            "valueFrom": {"secretKeyRef": {"name": objects, "key": names::TOKEN}},
        })];
        for (enabled, url, key) in [
            (
                hook.spec.complete.is_some(),
                "KRAKE_COMPLETE",
                names::COMPLETE_URL_KEY,
            ),
            (
                hook.spec.shutdown.is_some(),
                "KRAKE_SHUTDOWN",
                names::SHUTDOWN_URL_KEY,
            ),
        ] {
            if enabled {
                environment.push(json!({
                    "name": format!("{url}_ENDPOINT"),
                    "valueFrom": {"configMapKeyRef": {"name": objects, "key": key}},
                }));
                environment.push(json!({
                    "name": format!("{url}_URL"),
                    "value": format!("$({url}_ENDPOINT)/{speaks_for}"),
                }));
            }
        }
        let mut pod = manifests::bystander(volume, environment.into());
        pod["spec"]["containers"][0]["image"] = image.into();
        let _: Pod = self.create(pod).await;
        let pods: Api<Pod> = self.all();
        until("the bystander is ready", SOON, async || {
            match pods.get("bystander").await {
                Ok(pod) if is_ready(&pod) => Ok(App::of(&pod, self.client.clone())),
                other => Err(format!("{:?}", other.map(|pod| pod.status))),
            }
        })
        .await
    }

    /// Waits until the hook of that name, whose workload has the same name, is armed.
    pub async fn armed(&self, name: &str) -> Armed {
        let hook = self.await_condition(name, ConditionType::Armed).await;
        let hook = match condition::is_true(&status(&hook).conditions, ConditionType::Ready) {
            true => hook,
            false => self.await_condition(name, ConditionType::Ready).await,
        };
        let app = self.app(name).await;
        let pods = self.witness(name).await;
        Armed { app, pods, hook }
    }

    /// Begins to watch the pods of a Deployment.
    pub async fn witness(&self, deployment: &str) -> PodWitness {
        PodWitness::begin(self.all(), &format!("app={deployment}")).await
    }

    /// Waits for the one pod of a Deployment that is injected, ready and here to stay.
    pub async fn app(&self, deployment: &str) -> App {
        let selector = ListParams::default().labels(&format!("app={deployment}"));
        let pods: Api<Pod> = self.all();
        until(
            format!("one injected pod of {deployment}"),
            SOON,
            async || {
                let all = pods.list(&selector).await.map_err(|e| e.to_string())?.items;
                let injected = |pod: &&Pod| pod.annotations().contains_key(names::STAMP_ANNOTATION);
                match all.as_slice() {
                    [pod] if injected(&pod) && is_ready(pod) => {
                        Ok(App::of(pod, self.client.clone()))
                    }
                    pods => Err(describe(pods)),
                }
            },
        )
        .await
    }

    /// The hook, if it is there.
    pub async fn hook(&self, name: &str) -> Option<KrakeHook> {
        let hooks: Api<KrakeHook> = self.all();
        hooks.get_opt(name).await.expect("hooks can be read")
    }

    /// Waits until the hook's status is as wanted.
    pub async fn await_hook(
        &self,
        name: &str,
        what: &str,
        most: Duration,
        wanted: impl Fn(&KrakeHookStatus) -> bool,
    ) -> KrakeHook {
        until(format!("hook {name}: {what}"), most, async || {
            match self.hook(name).await {
                Some(hook) if wanted(status(&hook)) => Ok(hook),
                Some(hook) => Err(serde_json::to_string_pretty(&hook.status).unwrap()),
                None => Err("no such hook".to_owned()),
            }
        })
        .await
    }

    /// Waits until a condition of the hook is True.
    pub async fn await_condition(&self, name: &str, kind: ConditionType) -> KrakeHook {
        self.await_hook(name, &format!("{}=True", kind.as_str()), SOON, |status| {
            condition::is_true(&status.conditions, kind)
        })
        .await
    }

    /// Waits until the hook is not ready, for that reason; what it says to a person.
    pub async fn await_refusal(&self, name: &str, reason: &str) -> String {
        let hook = self
            .await_hook(name, &format!("Ready=False, {reason}"), SOON, |status| {
                condition::find(&status.conditions, ConditionType::Ready)
                    .is_some_and(|ready| ready.status == "False" && ready.reason == reason)
            })
            .await;
        condition::find(&status(&hook).conditions, ConditionType::Ready)
            .map(|ready| ready.message.clone())
            .unwrap_or_default()
    }

    /// Waits until the hook's work has ended; panics if it ended in another way than this.
    pub async fn ended(&self, name: &str, outcome: Outcome) -> KrakeHook {
        let hook = self
            .await_hook(name, "an end in its history", SOON, |status| {
                let newest = status.history.first();
                newest.is_some_and(|entry| entry.outcome != Outcome::Retained)
            })
            .await;
        assert_eq!(
            status(&hook).history[0].outcome,
            outcome,
            "{:#?}",
            hook.status
        );
        hook
    }

    /// Waits until the app was asked, and the time it has is known.
    pub async fn asked(&self, name: &str) -> Timestamp {
        let hook = self
            .await_hook(name, "an open request with a deadline", SOON, |status| {
                let request = status.workload_request();
                request.is_some_and(|request| request.deadline.is_some())
            })
            .await;
        let request = status(&hook)
            .workload_request()
            .cloned()
            .expect("just seen");
        request.deadline.expect("just seen").0
    }

    /// Waits until an Event of a hook says this.
    pub async fn told(&self, reason: &str) {
        until(format!("an Event {reason}"), SOON, async || {
            let events = self.all::<Event>().list(&ListParams::default()).await;
            let events = events.map_err(|error| error.to_string())?.items;
            let of_hooks = events.into_iter().filter(|event| {
                let about = event.regarding.as_ref();
                about.is_some_and(|about| about.kind.as_deref() == Some("KrakeHook"))
            });
            let reasons: Vec<_> = of_hooks.filter_map(|event| event.reason).collect();
            match reasons.iter().any(|told| told == reason) {
                true => Ok(()),
                false => Err(reasons.join(", ")),
            }
        })
        .await;
    }

    /// Waits until the hook is in a phase.
    pub async fn phase(&self, name: &str, phase: Phase) -> KrakeHook {
        self.await_hook(name, &format!("phase {phase:?}"), SOON, |status| {
            status.phase == Some(phase)
        })
        .await
    }

    /// Waits until an object is gone.
    pub async fn gone<K>(&self, name: &str)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let api: Api<K> = self.all();
        until(
            format!("{} {name} gone", K::kind(&())),
            SOON,
            async || match api.get_opt(name).await {
                Ok(None) => Ok(()),
                Ok(Some(there)) => Err(serde_json::to_string(there.meta()).unwrap()),
                Err(error) => Err(error.to_string()),
            },
        )
        .await;
    }

    /// Waits until the garbage collector has dealt with a Deployment that goes in foreground: it
    /// has let go of every ReplicaSet. Without the guard it would have deleted them here.
    pub async fn garbage_collector_has_passed(&self, deployment_uid: &str) {
        let sets: Api<ReplicaSet> = self.all();
        until(
            "ReplicaSets let go by the garbage collector",
            SOON,
            async || {
                let all = sets.list(&ListParams::default()).await;
                let all = all.map_err(|e| e.to_string())?.items;
                let held = |set: &ReplicaSet| {
                    set.owner_references()
                        .iter()
                        .any(|owner| owner.uid == deployment_uid)
                };
                assert!(
                    !all.is_empty(),
                    "the garbage collector took the ReplicaSets"
                );
                match all.iter().find(|set| held(set)) {
                    None => Ok(()),
                    Some(set) => Err(serde_json::to_string(&set.metadata).unwrap()),
                }
            },
        )
        .await;
    }

    /// The guard of a hook, if it is there.
    pub async fn guard(&self, hook: &KrakeHook) -> Option<HookGuard> {
        let guards: Api<HookGuard> = Api::all(self.client.clone());
        let uid = hook.uid().expect("a hook that was created");
        guards.get_opt(&uid).await.expect("guards can be read")
    }
}

/// The hook's status, empty if it has none yet.
pub fn status(hook: &KrakeHook) -> &KrakeHookStatus {
    static NONE: std::sync::LazyLock<KrakeHookStatus> = std::sync::LazyLock::new(Default::default);
    hook.status.as_ref().unwrap_or(&NONE)
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .into_iter()
            .flatten()
            .any(|c| c.type_ == "Ready" && c.status == "True")
}

fn describe(pods: &[Pod]) -> String {
    let one = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|s| s.phase.clone());
        format!(
            "{} {} injected={} ready={} deleting={}",
            pod.name_any(),
            phase.unwrap_or_default(),
            pod.annotations().contains_key(names::STAMP_ANNOTATION),
            is_ready(pod),
            pod.metadata.deletion_timestamp.is_some(),
        )
    };
    pods.iter().map(one).collect::<Vec<_>>().join("; ")
}
