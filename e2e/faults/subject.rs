//! One hook and its workload, made, looked at, and swept away.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use krake_hooks::api::condition::{self, ConditionType};
use krake_hooks::api::kind::Change;
use krake_hooks::api::status::{RequestState, ShutdownRequest};
use krake_hooks::api::{
    DependentKind, HookCertificate, HookGuard, KrakeHook, KrakeHookStatus, WorkloadKind, names,
};
use krake_hooks::outside::workloads;

use crate::client::App;
use crate::cluster::until;
use crate::lane::Lane;
use crate::proxy::call::Needles;

/// Of an image that every node of the local cluster has.
const IMAGE: &str = "docker.io/library/krake-hooks-pause:dev";
/// How long anything that ought to happen soon may take on a busy machine, where three calls in a
/// row may never be answered: the operator gives each 15 s.
pub const SOON: Duration = Duration::from_secs(90);

/// A hook and its workload; both have the same name.
#[derive(Clone)]
pub struct Subject {
    /// Where it is.
    pub lane: Arc<Lane>,
    /// Name of hook and workload.
    pub name: String,
    /// Kind of the workload.
    pub kind: WorkloadKind,
    /// What its calls can be told by.
    pub needles: Needles,
}

impl Subject {
    /// One that does not exist yet, of a Deployment.
    pub fn new(lane: &Arc<Lane>, word: &str) -> Self {
        Self::of(lane, word, WorkloadKind::Deployment)
    }

    /// One that does not exist yet.
    pub fn of(lane: &Arc<Lane>, word: &str, kind: WorkloadKind) -> Self {
        let name = lane.name(word, kind);
        Self {
            needles: Needles::new(&name),
            lane: Arc::clone(lane),
            name,
            kind,
        }
    }

    /// Creates the workload.
    pub async fn create_workload(&self, replicas: i32) -> Result<(), String> {
        let object = object(workload(self.kind, &self.name, replicas));
        let workloads = self.workloads();
        let made = workloads.create(&PostParams::default(), &object).await;
        made.map(|_| ())
            .map_err(|e| format!("{} {}: {e}", self.kind, self.name))
    }

    /// Creates the hook; `spec` is what it has beside the workload.
    pub async fn create_hook(&self, mut spec: Value) -> Result<(), String> {
        let traits = self.kind.traits();
        spec["workload"] =
            json!({"apiVersion": traits.api_version, "kind": traits.name, "name": self.name});
        let hook = json!({
            "apiVersion": "hooks.krake.dev/v1alpha1",
            "kind": "KrakeHook",
            "metadata": {"name": self.name},
            "spec": spec,
        });
        let made = self
            .lane
            .all::<KrakeHook>()
            .create(&PostParams::default(), &object(hook))
            .await;
        let made = made.map_err(|e| format!("hook {}: {e}", self.name))?;
        self.needles.add(&made.uid().unwrap_or_default());
        Ok(())
    }

    /// Makes both, injects while there is no pod, then has one pod that runs: a pod less to start
    /// than the usual way.
    pub async fn armed(&self, spec: Value) -> Result<(), String> {
        self.create_workload(0).await?;
        self.create_hook(spec).await?;
        self.until_status("ready without pods", |status| {
            condition::is_true(&status.conditions, ConditionType::Ready)
        })
        .await?;
        self.scale(1).await?;
        self.rolled_out(1).await
    }

    /// One pod that runs and is guarded, of a workload of any kind.
    pub async fn armed_of_its_kind(&self, spec: Value) -> Result<(), String> {
        match self.kind {
            WorkloadKind::Deployment => return self.armed(spec).await,
            // Nothing can be injected into the pods of one, so it is there when they begin.
            WorkloadKind::Job => {
                self.create_hook(spec).await?;
                self.create_workload(1).await?;
            }
            WorkloadKind::DaemonSet => {
                self.create_workload(1).await?;
                self.create_hook(spec).await?;
            }
            _ => {
                self.create_workload(0).await?;
                self.create_hook(spec).await?;
                self.until_status("ready without pods", |status| {
                    condition::is_true(&status.conditions, ConditionType::Ready)
                })
                .await?;
                self.scale(1).await?;
            }
        }
        let injects = self.kind.traits().change != Change::Refused;
        until(SOON, async || {
            let hook = self.hook().await?.ok_or("no hook")?;
            let status = hook.status.unwrap_or_default();
            let is = |kind| condition::is_true(&status.conditions, kind);
            let pods = self.pods().await?;
            let good = |pod: &Pod| {
                phase(pod) == "Running"
                    && pod.metadata.deletion_timestamp.is_none()
                    && pod.annotations().contains_key(names::STAMP_ANNOTATION) == injects
            };
            let guarded = self.all_guarded().await?;
            let armed = is(ConditionType::Ready) && is(ConditionType::Armed);
            match armed && guarded && pods.len() == 1 && pods.iter().all(good) {
                true => Ok(()),
                false => Err(format!(
                    "{} {}: armed {armed}, guarded {guarded}, {} pods; {}",
                    self.kind,
                    self.name,
                    pods.len(),
                    say(&status)
                )),
            }
        })
        .await
    }

    /// Scales the workload.
    pub async fn scale(&self, replicas: i32) -> Result<(), String> {
        self.patch_workload(json!({"spec": {"replicas": replicas}}))
            .await
    }

    /// Waits until so many pods run, all of them injected, and the hook says so.
    pub async fn rolled_out(&self, replicas: usize) -> Result<(), String> {
        let needs_arming = |hook: &KrakeHook| hook.spec.shutdown.is_some();
        let look = async || {
            let deployment = self.workload().await?.ok_or("no Deployment")?;
            let hook = self.hook().await?.ok_or("no hook")?;
            let pods = self.pods().await?;
            let status = hook.status.clone().unwrap_or_default();
            let is = |kind| condition::is_true(&status.conditions, kind);
            let living = pods.iter().filter(|pod| {
                let injected = pod.annotations().contains_key(names::STAMP_ANNOTATION);
                injected && pod.metadata.deletion_timestamp.is_none() && phase(pod) == "Running"
            });
            let ready = is(ConditionType::Ready)
                && (!needs_arming(&hook) || is(ConditionType::Armed))
                && status.observed_generation == hook.metadata.generation;
            let living = living.count();
            let guarded = !needs_arming(&hook) || self.all_guarded().await?;
            let done = is_rolled_out(&deployment, replicas);
            if ready && done && guarded && living == replicas && pods.len() == replicas {
                return Ok(());
            }
            Err(format!(
                "{}: ready {ready}, rolled out {done}, guarded {guarded}, {living} of {} pods run; {}",
                self.name,
                pods.len(),
                say(&status)
            ))
        };
        until(SOON, look).await
    }

    /// ReplicaSets also from before the injection, to which a rollout can be undone.
    async fn all_guarded(&self) -> Result<bool, String> {
        fn guarded<K: ResourceExt>(all: &[K]) -> bool {
            let mut owners = all.iter().map(|one| one.owner_references());
            owners.all(|owners| owners.iter().any(|owner| owner.kind == "HookGuard"))
        }
        Ok(match self.kind.traits().guarded {
            Some(DependentKind::ReplicaSet) => guarded(&self.replica_sets().await?),
            _ => guarded(&self.pods().await?),
        })
    }

    /// Waits until the hook's status is as wanted.
    pub async fn until_status(
        &self,
        what: &str,
        wanted: impl Fn(&KrakeHookStatus) -> bool,
    ) -> Result<KrakeHook, String> {
        let look = async || {
            let hook = self.hook().await?.ok_or("no hook")?;
            let status = hook.status.clone().unwrap_or_default();
            match wanted(&status) {
                true => Ok(hook),
                false => Err(format!("{}: not {what}; {}", self.name, say(&status))),
            }
        };
        until(SOON, look).await
    }

    /// Waits until the app is asked, and its time runs.
    pub async fn asked(&self) -> Result<ShutdownRequest, String> {
        until(SOON, async || {
            let hook = self.hook().await?.ok_or("no hook")?;
            let request = hook
                .status
                .and_then(|status| status.workload_request().cloned());
            request
                .filter(|request| request.state == RequestState::Open && request.deadline.is_some())
                .ok_or_else(|| format!("{}: not asked", self.name))
        })
        .await
    }

    /// A client with its credentials.
    pub async fn app(&self) -> Result<App, String> {
        let hook = self.hook().await?.ok_or("no hook")?;
        let uid = hook.uid().unwrap_or_default();
        let hook = (
            self.lane.namespace.as_str(),
            self.name.as_str(),
            uid.as_str(),
        );
        let ports = [self.lane.operator.order.port];
        App::of(&self.lane.cluster.client, hook, &ports, &self.lane.log).await
    }

    /// The hook, if it is there.
    pub async fn hook(&self) -> Result<Option<KrakeHook>, String> {
        got(self.lane.all::<KrakeHook>().get_opt(&self.name).await)
    }

    /// Workloads of its kind in the namespace.
    fn workloads(&self) -> Api<DynamicObject> {
        let (client, namespace) = (&self.lane.cluster.client, &self.lane.namespace);
        workloads(client, self.kind, namespace)
    }

    /// A merge patch of the workload.
    pub async fn patch_workload(&self, patch: Value) -> Result<(), String> {
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(patch));
        let workloads = self.workloads();
        let patched = workloads.patch(&self.name, &parameters, &patch).await;
        patched
            .map(|_| ())
            .map_err(|e| format!("{}: {e}", self.name))
    }

    /// The workload, of whatever kind, if it is there.
    pub async fn object(&self) -> Result<Option<DynamicObject>, String> {
        got(self.workloads().get_opt(&self.name).await)
    }

    /// The Deployment, if it is there.
    pub async fn workload(&self) -> Result<Option<Deployment>, String> {
        got(self.lane.all::<Deployment>().get_opt(&self.name).await)
    }

    /// Its pods.
    pub async fn pods(&self) -> Result<Vec<Pod>, String> {
        self.labelled(&format!("app={}", self.name)).await
    }

    /// Its ReplicaSets.
    pub async fn replica_sets(&self) -> Result<Vec<ReplicaSet>, String> {
        self.labelled(&format!("app={}", self.name)).await
    }

    /// What the operator has made in the namespace for it, by kind and name.
    pub async fn provided(&self) -> Result<Vec<(&'static str, Value)>, String> {
        let mut found = Vec::new();
        let ours = |value: Value| {
            let name = value["metadata"]["name"].as_str().unwrap_or_default();
            name.starts_with(&format!("{}-", self.name))
                .then_some(value)
        };
        for map in self.labelled::<ConfigMap>("").await? {
            found.extend(ours(json!(map)).map(|map| ("ConfigMap", map)));
        }
        for secret in self.labelled::<Secret>("").await? {
            found.extend(ours(json!(secret)).map(|secret| ("Secret", secret)));
        }
        for certificate in self.labelled::<HookCertificate>("").await? {
            found.extend(ours(json!(certificate)).map(|one| ("HookCertificate", one)));
        }
        for guard in self.guards().await? {
            found.push(("HookGuard", json!(guard)));
        }
        Ok(found)
    }

    /// Its guards.
    pub async fn guards(&self) -> Result<Vec<HookGuard>, String> {
        let guards: Api<HookGuard> = Api::all(self.lane.cluster.client.clone());
        let guards = got(guards.list(&ListParams::default()).await)?;
        let own = |guard: &HookGuard| {
            let hook = &guard.spec.hook;
            hook.namespace == self.lane.namespace && hook.name == self.name
        };
        Ok(guards.items.into_iter().filter(own).collect())
    }

    /// Asks for the workload's end.
    pub async fn delete_workload(&self, how: DeleteParams) -> Result<(), String> {
        gone(self.workloads().delete(&self.name, &how).await)
    }

    /// Asks for the hook's end.
    pub async fn delete_hook(&self) -> Result<(), String> {
        gone(
            self.lane
                .all::<KrakeHook>()
                .delete(&self.name, &DeleteParams::default())
                .await,
        )
    }

    /// Waits until the workload and all its pods are gone.
    pub async fn removed(&self) -> Result<(), String> {
        until(SOON, async || {
            match (self.object().await?, self.pods().await?.len()) {
                (None, 0) => Ok(()),
                (there, pods) => Err(format!(
                    "{}: {pods} pods, {}: {}; {}",
                    self.name,
                    self.kind,
                    there.map_or("gone".into(), |w| json!(w.metadata).to_string()),
                    self.hook()
                        .await?
                        .and_then(|hook| hook.status)
                        .map_or_else(String::new, |s| say(&s)),
                )),
            }
        })
        .await
    }

    /// Takes everything away as a person does who does not want to wait, and says what is left
    /// after some time.
    pub async fn sweep_away(&self) -> Result<(), String> {
        let skip = json!({"metadata": {"annotations": {names::SKIP_ANNOTATION: "swept away"}}});
        until(SOON, async || {
            if self.object().await?.is_some() {
                self.patch_workload(skip.clone()).await?;
            }
            self.delete_hook().await?;
            self.delete_workload(DeleteParams::background()).await?;
            // What an orphaning deletion has left.
            let sets = self.lane.all::<ReplicaSet>();
            for set in self.replica_sets().await? {
                if set.owner_references().is_empty() {
                    gone(
                        sets.delete(&set.name_any(), &DeleteParams::background())
                            .await,
                    )?;
                }
            }
            let pods = self.lane.all::<Pod>();
            for pod in self.pods().await? {
                if pod.owner_references().is_empty() {
                    gone(pods.delete(&pod.name_any(), &DeleteParams::default()).await)?;
                }
            }
            Ok(())
        })
        .await?;
        until(SOON, async || {
            let mut left: Vec<String> = Vec::new();
            left.extend(
                self.hook()
                    .await?
                    .map(|hook| format!("hook, {:?}", hook.finalizers())),
            );
            left.extend(
                self.object()
                    .await?
                    .map(|w| format!("{}, {:?}", self.kind, w.finalizers())),
            );
            left.extend(
                self.replica_sets()
                    .await?
                    .iter()
                    .map(|set| format!("ReplicaSet {}", set.name_any())),
            );
            left.extend(
                self.pods()
                    .await?
                    .iter()
                    .map(|pod| format!("pod {}", pod.name_any())),
            );
            let name = |value: &Value| value["metadata"]["name"].to_string();
            left.extend(
                self.provided()
                    .await?
                    .iter()
                    .map(|(kind, it)| format!("{kind} {}", name(it))),
            );
            match left.is_empty() {
                true => Ok(()),
                false => Err(format!("left over of {}: {}", self.name, left.join(", "))),
            }
        })
        .await
    }

    /// A merge patch.
    pub async fn patch<K>(&self, name: &str, patch: Value) -> Result<(), String>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let patched = self
            .lane
            .all::<K>()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        patched.map(|_| ()).map_err(|e| format!("{name}: {e}"))
    }

    async fn labelled<K>(&self, selector: &str) -> Result<Vec<K>, String>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let parameters = ListParams::default().labels(selector);
        got(self.lane.all::<K>().list(&parameters).await).map(|list| list.items)
    }
}

/// A Deployment of pods that do nothing until they are told to end.
pub fn deployment(name: &str, replicas: i32) -> Value {
    workload(WorkloadKind::Deployment, name, replicas)
}

/// A workload of such pods; of so many, where its kind says how many.
fn workload(kind: WorkloadKind, name: &str, replicas: i32) -> Value {
    let traits = kind.traits();
    let mut pod = json!({
        // Nothing in the promise may rest on a pod's own grace period.
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": false,
        "containers": [{"name": "app", "image": IMAGE, "imagePullPolicy": "IfNotPresent"}],
    });
    let labels = json!({"app": name});
    let (mut selector, mut count) = (json!({"matchLabels": labels}), json!(replicas));
    match kind {
        WorkloadKind::DaemonSet => count = Value::Null,
        WorkloadKind::ReplicationController => selector = labels.clone(),
        WorkloadKind::Job => {
            (selector, count) = (Value::Null, Value::Null);
            pod["restartPolicy"] = json!("Never");
        }
        _ => {}
    }
    json!({
        "apiVersion": traits.api_version,
        "kind": traits.name,
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": count,
            "selector": selector,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    })
}

/// What a Deployment's own controller says of its rollout.
pub fn is_rolled_out(deployment: &Deployment, replicas: usize) -> bool {
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = i32::try_from(replicas).unwrap_or(i32::MAX);
    status.observed_generation == deployment.metadata.generation
        && status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
}

/// The phase of a pod.
pub fn phase(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

fn say(status: &KrakeHookStatus) -> String {
    let conditions = status.conditions.iter();
    let conditions =
        conditions.map(|c| format!("{}={} {}: {}", c.type_, c.status, c.reason, c.message));
    format!(
        "{:?}; {}",
        status.phase,
        conditions.collect::<Vec<_>>().join("; ")
    )
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object of that kind")
}

fn got<T>(answer: kube::Result<T>) -> Result<T, String> {
    answer.map_err(|e| e.to_string())
}

fn gone<T>(answer: kube::Result<T>) -> Result<(), String> {
    match answer {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
