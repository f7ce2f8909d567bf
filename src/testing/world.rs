//! A cluster in memory, with what matters of its semantics: uids, resourceVersions, finalizers,
//! owners. What a person does to it stands here; [`super::server`] carries out effects, and
//! [`super::collector`] is what Kubernetes' own controllers do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use super::build::{self, Build, NAME};
use super::merge;
use crate::api::kind::{Change, Stop, WorkloadKind};
use crate::api::status::{AckResult, TokenSecret};
use crate::api::{HookCertificate, HookGuard, HookKind, KrakeHook, names};
use crate::cluster::slim;
use crate::decide::ack::{self, Around, Incoming, Look, Speaker, Verdict};
use crate::decide::bare;
use crate::decide::entries::Entries;
use crate::decide::farewell::Remains;
use crate::decide::pods::{Owners, Whose, keep_own};
use crate::decide::seen::{CallsMade, Seen, has_finalizer, is_owned_by, is_released};
use crate::decide::{self, Effect};

/// A workload, kept as who wrote what.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Metadata as it stands.
    pub meta: ObjectMeta,
    /// What the user wrote.
    pub written: Value,
    /// What our field manager applied last.
    pub applied: Option<Value>,
    /// Somebody has reset its managed fields.
    pub reset: bool,
    /// Nobody has written its replicas since we did.
    pub scaled_by_us: bool,
    /// What its controller says.
    pub status: Value,
}

/// How a deletion treats dependents.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Propagation {
    /// They go afterwards.
    Background,
    /// They go first.
    Foreground,
    /// They stay.
    Orphan,
}

/// The cluster: one namespace, and what is cluster-wide.
#[derive(Clone, Debug)]
pub struct World {
    /// Kind of the workloads that users create, and name in their hooks.
    pub kind: WorkloadKind,
    /// What time it is.
    pub now: Timestamp,
    /// Counts writes; the newest resourceVersion.
    pub version: u64,
    /// Kubernetes' own controllers have nothing left to do since then.
    pub rested_at: u64,
    /// Hooks by name.
    pub hooks: BTreeMap<String, KrakeHook>,
    /// Deployments by name.
    pub workloads: BTreeMap<String, Workload>,
    /// ReplicaSets by name.
    pub replica_sets: BTreeMap<String, ReplicaSet>,
    /// Pods by name.
    pub pods: BTreeMap<String, Pod>,
    /// ConfigMaps by name.
    pub config_maps: BTreeMap<String, ConfigMap>,
    /// Certificates by name.
    pub certificates: BTreeMap<String, HookCertificate>,
    /// Guards by name.
    pub guards: BTreeMap<String, HookGuard>,
    /// Services by name.
    pub services: BTreeMap<String, Service>,
    /// Token Secrets by name, as they are now.
    pub secrets: BTreeMap<String, TokenSecret>,
    /// Somebody deletes the namespace.
    pub namespace_terminating: bool,
    /// From then on Kubernetes ends everything in it.
    pub namespace_ends: Option<Timestamp>,
    /// A quota, a policy or a webhook refuses these effects.
    pub rejects: Option<fn(&Effect) -> bool>,
    /// An admission policy refuses our change to workloads.
    pub refuses_injection: bool,
    /// A Secret of the needed name is somebody else's.
    pub secret_taken: bool,
    /// What the app answers to a call, and whether it acknowledges then.
    pub app: (&'static str, bool),
    /// Addresses of nodes and of the API server.
    pub never_called: BTreeSet<IpAddr>,
    /// Nodes that are gone, or out of service.
    pub lost_nodes: BTreeSet<String>,
    /// Somebody deleted pods directly: nobody promised anything about that.
    pub lost_pods: bool,
    /// Somebody tore a finalizer or a guard off: what was promised is off, too.
    pub torn: bool,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Workload {
    /// The field that stops it, its value at rest, and the one with which it runs.
    pub fn rest(&self) -> (&'static str, Value, Value) {
        match self.kind.traits().stop {
            Stop::Suspend => ("suspend", json!(true), json!(false)),
            Stop::Replicas | Stop::Cannot => ("replicas", json!(0), json!(2)),
        }
    }
}

impl World {
    /// An empty cluster with the Service `shutdown`.
    pub fn new() -> Self {
        let service = build::service("shutdown").service();
        Self {
            kind: WorkloadKind::Deployment,
            now: build::at(0),
            version: 1,
            rested_at: 0,
            hooks: BTreeMap::new(),
            workloads: BTreeMap::new(),
            replica_sets: BTreeMap::new(),
            pods: BTreeMap::new(),
            config_maps: BTreeMap::new(),
            certificates: BTreeMap::new(),
            guards: BTreeMap::new(),
            services: BTreeMap::from([("shutdown".into(), service)]),
            secrets: BTreeMap::new(),
            namespace_terminating: false,
            namespace_ends: None,
            rejects: None,
            refuses_injection: false,
            secret_taken: false,
            app: ("200", false),
            never_called: BTreeSet::new(),
            lost_nodes: BTreeSet::new(),
            lost_pods: false,
            torn: false,
        }
    }

    /// Time passes.
    pub fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    /// A user creates a hook.
    pub fn create_hook(&mut self, hook: Build) {
        let mut hook = hook.hook();
        hook.spec.workload.api_version = self.kind.traits().api_version.to_owned();
        hook.spec.workload.kind = self.kind.to_string();
        let name = hook.metadata.name.clone().expect("a name");
        if self.hooks.contains_key(&name) || self.namespace_terminating {
            return;
        }
        hook.status = Some(Default::default());
        self.born(&mut hook.metadata);
        self.hooks.insert(name, hook);
    }

    /// A user creates a workload, given as a Deployment.
    pub fn create_workload(&mut self, deployment: Build) {
        let mut meta = deployment.clone().meta();
        let name = meta.name.clone().expect("a name");
        if self.workloads.contains_key(&name) || self.namespace_terminating {
            return;
        }
        self.born(&mut meta);
        let workload = Workload {
            kind: self.kind,
            meta,
            written: deployment.0["spec"].clone(),
            applied: None,
            reset: false,
            scaled_by_us: false,
            status: json!({}),
        };
        self.workloads.insert(name, workload);
    }

    /// Somebody deletes the namespace; Kubernetes gives it some seconds (F7).
    pub fn delete_namespace(&mut self) {
        self.namespace_terminating = true;
        self.namespace_ends = Some(self.now + SignedDuration::from_secs(5));
        self.next_version();
    }

    /// Somebody deletes the workload.
    pub fn delete_workload(&mut self, name: &str, how: Propagation) {
        let (now, version) = (self.now, self.next_version());
        if let Some(workload) = self.workloads.get_mut(name) {
            mark_deleted(&mut workload.meta, how, now, version);
        }
    }

    /// Somebody deletes the hook.
    pub fn delete_hook(&mut self, name: &str) {
        let (now, version) = (self.now, self.next_version());
        if let Some(hook) = self.hooks.get_mut(name) {
            mark_deleted(&mut hook.metadata, Propagation::Background, now, version);
        }
    }

    /// Changes a hook as a user would.
    pub fn edit_hook(&mut self, change: impl FnOnce(&mut KrakeHook)) {
        let version = self.next_version();
        if let Some(hook) = self.hooks.get_mut(NAME) {
            change(hook);
            hook.metadata.resource_version = Some(version);
        }
    }

    /// Changes a workload as a user would.
    pub fn edit_workload(&mut self, change: impl FnOnce(&mut Workload)) {
        let version = self.next_version();
        if let Some(workload) = self.workloads.get_mut(NAME) {
            let written = workload.written.clone();
            change(workload);
            if workload.kind.traits().change == Change::Refused {
                // The API server takes no change of the template.
                workload.written["template"] = written["template"].clone();
            }
            workload.meta.generation = workload.meta.generation.map(|g| g + 1);
            workload.meta.resource_version = Some(version);
        }
    }

    /// The first pod of the hook's acknowledges; the answer is the callback's status code.
    pub fn acknowledge(&mut self, kind: HookKind) -> u16 {
        self.acknowledge_by(kind, 0, AckResult::Success)
    }

    /// A pod of the hook's acknowledges, by its place among those that live.
    pub fn acknowledge_by(&mut self, kind: HookKind, place: usize, result: AckResult) -> u16 {
        let Some(hook) = self.hooks.get(NAME) else {
            return 401;
        };
        // The token is in the environment of every pod that carries a stamp of this hook; it was
        // made for the pod's own workload, and so was the one that a later one gets.
        let hook_uid = hook.metadata.uid.clone().unwrap_or_default();
        let injects = self.kind.traits().change != Change::Refused;
        let stamped = |pod: &&Pod| {
            (!injects || decide::inject::carries_stamp_of(&pod.metadata, &hook_uid))
                && pod.metadata.deletion_timestamp.is_none()
        };
        let pod = self.pods.values().filter(stamped).nth(place);
        match pod.and_then(|pod| pod.metadata.uid.clone()) {
            Some(uid) => self.acknowledge_as(kind, &uid, result),
            None => 0,
        }
    }

    /// The pod of this uid acknowledges.
    pub fn acknowledge_as(&mut self, kind: HookKind, uid: &str, result: AckResult) -> u16 {
        let Some(hook) = self.hooks.get(NAME) else {
            return 401;
        };
        let hook_uid = hook.metadata.uid.clone().unwrap_or_default();
        let injects = self.kind.traits().change != Change::Refused;
        let mut pods = self.pods.values();
        let Some(pod) = pods.find(|pod| pod.metadata.uid.as_deref() == Some(uid)) else {
            return 0;
        };
        let labels = pod.metadata.annotations.as_ref();
        let workload = labels.and_then(|a| a.get("test/workload")).cloned();
        let met = hook.status.as_ref().and_then(|s| s.workload.as_ref());
        let met = met.map(|met| met.uid.clone());
        // What is injected names Secrets: a copy has the token of the hook's own workload.
        let is_copy = |uid: &String| {
            let mut others = self.workloads.iter();
            others.any(|(name, w)| name != NAME && w.meta.uid.as_ref() == Some(uid))
        };
        let workload = workload.filter(|uid| !is_copy(uid)).or(met);
        let around = self.around(hook, &pod.metadata);
        let incoming = Incoming {
            kind,
            hook_uid,
            workload_uid: workload.unwrap_or_default(),
            // Whoever is not injected has no URL of its own.
            pod: pod.metadata.uid.clone().filter(|_| injects),
            result,
            message: None,
            certificate: None,
            at: self.now,
        };
        let write = match ack::decide(hook, &incoming, Look::Live, around) {
            Verdict::Write(write) => write,
            Verdict::Replayed { .. } => return 200,
            Verdict::Superseded => return 401,
            Verdict::Unkept => return 503,
            _ => return 409,
        };
        let patch: json_patch::Patch =
            serde_json::from_value(ack::patch(&write.tests, [&write])).expect("a patch");
        let mut object = serde_json::to_value(hook).expect("JSON");
        json_patch::patch(&mut object, &patch).expect("it was decided on just now");
        let mut hook: KrakeHook = serde_json::from_value(object).expect("a hook");
        hook.metadata.resource_version = Some(self.next_version());
        self.hooks.insert(NAME.into(), hook);
        200
    }

    /// What a live look tells the callback of a pod and of the workload.
    fn around(&self, hook: &KrakeHook, pod: &ObjectMeta) -> Around {
        let met = hook.status.as_ref().and_then(|s| s.workload.as_ref());
        let met = met.map_or("", |met| met.uid.as_str());
        let guard = hook.metadata.uid.as_ref().and_then(|u| self.guards.get(u));
        let sets = self.replica_sets.values().map(|set| set.metadata.clone());
        let sets: Vec<_> = sets.collect();
        let owners = Owners {
            workload: met,
            guard: guard.and_then(|guard| guard.metadata.uid.as_deref()),
            replica_sets: &sets,
        };
        let workload = self.workload(&hook.spec.workload.name);
        Around {
            speaker: match owners.whose(pod) {
                Whose::Own => Speaker::Own,
                Whose::Another | Whose::Unknown => Speaker::Foreign,
            },
            runs: Some(workload.is_some_and(|workload| !workload.stopped)),
        }
    }

    /// A workload as the API server shows it.
    pub fn workload(&self, name: &str) -> Option<decide::Workload> {
        self.shown(name).map(|object| Build(object).workload())
    }

    /// The same, as JSON.
    pub(super) fn shown(&self, name: &str) -> Option<Value> {
        let kept = self.workloads.get(name)?;
        let traits = kept.kind.traits();
        let mut object = json!({"apiVersion": traits.api_version, "kind": traits.name,
            "metadata": kept.meta, "spec": kept.written, "status": kept.status});
        let mut written = object.clone();
        let applied = kept.applied.as_ref();
        if applied.is_some_and(|applied| !applied["metadata"]["finalizers"].is_null())
            && let Some(meta) = written["metadata"].as_object_mut()
        {
            meta.remove("finalizers");
        }
        let mut managers = vec![json!({"manager": "kubectl", "operation": "Update",
            "fieldsType": "FieldsV1", "fieldsV1": merge::managed(&written)})];
        if let Some(applied) = &kept.applied {
            if let Some(labels) = applied["metadata"].get("labels") {
                let own = json!({"labels": labels});
                merge::merge(&mut object["metadata"], &own);
            }
            if let Some(spec) = applied.get("spec") {
                merge::merge(&mut object["spec"], spec);
            }
            managers.push(json!({
                "manager": names::INJECT_MANAGER, "operation": "Apply", "fieldsType": "FieldsV1",
                "fieldsV1": merge::managed(applied)}));
        }
        if kept.scaled_by_us {
            let field = format!("f:{}", kept.rest().0);
            managers.push(json!({
                "manager": names::SCALE_MANAGER, "operation": "Update",
                "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {field: {}}}}));
        }
        if !kept.reset {
            object["metadata"]["managedFields"] = json!(managers);
        }
        Some(object)
    }

    /// What the hook controller sees of a hook.
    pub fn observe(&self, name: &str) -> Option<Seen> {
        let hook = self.hooks.get(name)?.clone();
        let uid = hook.metadata.uid.clone().unwrap_or_default();
        let object = names::of_hook(name, &uid);
        let age = |hook: &KrakeHook| hook.metadata.creation_timestamp.clone();
        let rival = self.hooks.values().find(|other| {
            other.spec.workload == hook.spec.workload
                && !is_released(&other.metadata)
                && (age(other), &other.metadata.name) < (age(&hook), &hook.metadata.name)
        });
        let called = hook
            .spec
            .shutdown
            .as_ref()
            .and_then(|s| s.call_out.as_ref());
        let service = called.and_then(|c| c.service.as_ref()).map(|s| &s.name);
        let selector = hook.status.as_ref().and_then(|s| s.call_out.as_ref());
        let selector = selector.map(|c| c.selector.clone());
        let mut seen = Seen {
            rival: rival.and_then(|other| other.metadata.name.clone()),
            workload: self.workload(&hook.spec.workload.name),
            replica_sets: self.labelled_sets(name),
            pods: self.labelled_pods(name),
            looked_live: false,
            lost_nodes: self.lost_nodes.iter().cloned().collect(),
            guard: self.guards.get(&uid).cloned(),
            config_map: self.entries(&object),
            certificate: self.certificates.get(&object).cloned(),
            canaries: self.canaries(&uid),
            service: service
                .and_then(|s| self.services.get(s))
                .map(|service| as_read::<slim::Service>(service).whole()),
            callable: self
                .pods
                .values()
                .filter(|pod| {
                    let labels = pod.metadata.labels.clone().unwrap_or_default();
                    selector.as_ref().is_some_and(|selector| {
                        selector.iter().all(|(k, v)| labels.get(k) == Some(v))
                    })
                })
                .map(|pod| as_read::<slim::Pod>(pod).whole())
                .collect(),
            namespace_terminating: self.namespace_terminating,
            never_called: self.never_called.clone(),
            calls: CallsMade::default(),
            secrets: crate::decide::seen::Secrets::default(),
            leaving_since: None,
            injections: Vec::new(),
            token: None,
            refusal: None,
            rejections: Vec::new(),
            hook_gone: false,
            hook,
        };
        self.add_bare(&mut seen);
        keep_own(&mut seen);
        Some(seen)
    }

    /// What the guard controller sees of a guard whose hook is gone.
    pub fn remains(&self, guard: &str) -> Option<Remains> {
        let guard = self.guards.get(guard)?.clone();
        let hook = &guard.spec.hook;
        let living = self.hooks.get(&hook.name);
        let living = living.filter(|h| !is_released(&h.metadata));
        if living.is_some_and(|h| h.metadata.uid.as_ref() == Some(&hook.uid)) {
            return None;
        }
        let name = &guard.spec.workload.name;
        let names_it = |h: &KrakeHook| &h.spec.workload.name == name && !is_released(&h.metadata);
        let taken = self.hooks.values().any(names_it);
        Some(Remains {
            workload: self.workload(name).filter(|_| !taken),
            replica_sets: self.labelled_sets(&hook.name),
            pods: self.labelled_pods(&hook.name),
            canaries: self.canaries(&hook.uid),
            guard,
        })
    }

    /// The whole state in one line.
    pub fn summary(&self) -> String {
        let mut words = Vec::new();
        for (name, hook) in &self.hooks {
            let status = hook.status.clone().unwrap_or_default();
            let phase = status
                .phase
                .map_or("-".into(), |phase| format!("{phase:?}"));
            let outcomes: Vec<_> = status.history.iter().map(|e| e.outcome.as_str()).collect();
            words.push(format!("{name}: {phase} {outcomes:?}"));
        }
        for (name, workload) in &self.workloads {
            let meta = &workload.meta;
            let applied = workload.applied.as_ref();
            let ours = applied
                .is_some_and(|a| a.get("spec").is_some() || a["metadata"].get("labels").is_some());
            let mut state = vec![if ours { "injected" } else { "plain" }];
            if has_finalizer(meta, names::SHUTDOWN_FINALIZER) {
                state.push("held");
            }
            if meta.deletion_timestamp.is_some() {
                state.push("deleting");
            }
            let (field, at_rest, _) = workload.rest();
            if workload.written[field] == at_rest {
                state.push("at zero");
            }
            words.push(format!("{} {name} {}", workload.kind, state.join(" ")));
        }
        let count = |what: &str, number: usize| (number > 0).then(|| format!("{number} {what}"));
        let sets = self.replica_sets.values().map(|set| &set.metadata);
        let pods = self.pods.values().map(|pod| &pod.metadata);
        let guarded = sets.chain(pods).filter(|meta| is_guarded(meta)).count();
        let canaries = self
            .config_maps
            .values()
            .filter(|c| is_canary(&c.metadata))
            .count();
        words.extend(count("pods", self.pods.len()));
        words.extend(count("guarded", guarded));
        words.extend(count("canaries", canaries));
        words.extend(count("guards", self.guards.len()));
        words.join("; ")
    }

    pub(super) fn born(&mut self, meta: &mut ObjectMeta) {
        meta.resource_version = Some(self.next_version());
        meta.uid = Some(format!("{:08x}-0000-4000-8000-000000000000", self.version));
        meta.creation_timestamp = Some(Time(self.now));
    }

    pub(super) fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    fn labelled_sets(&self, hook: &str) -> Vec<ObjectMeta> {
        let sets = self.replica_sets.values().map(|set| &set.metadata);
        sets.filter(|meta| has_label(meta, hook))
            .map(|meta| as_read::<slim::Metadata<ReplicaSet>>(&json!({"metadata": meta})).metadata)
            .collect()
    }

    fn labelled_pods(&self, hook: &str) -> Vec<Pod> {
        let pods = self.pods.values();
        pods.filter(|pod| has_label(&pod.metadata, hook))
            .map(as_cached)
            .collect()
    }

    /// What the workload has made without the hook's label, if it may have.
    fn add_bare(&self, seen: &mut Seen) {
        let Some(workload) = seen.workload.clone() else {
            return;
        };
        let uid = workload.metadata.uid.as_deref().unwrap_or_default();
        let name = seen.hook_name().to_owned();
        if bare::may_have_sets(seen, &workload) {
            let sets = self.replica_sets.values().map(|set| &set.metadata);
            let made = sets.filter(|meta| is_owned_by(meta, uid) && !has_label(meta, &name));
            seen.replica_sets.extend(made.cloned());
        }
        if bare::may_have_pods(seen, &workload) {
            let sets = seen
                .replica_sets
                .iter()
                .filter_map(|set| set.uid.as_deref());
            let owners: Vec<_> = sets.chain([uid]).collect();
            let made = self.pods.values().filter(|pod| {
                let meta = &pod.metadata;
                !has_label(meta, &name) && owners.iter().any(|owner| is_owned_by(meta, owner))
            });
            seen.pods
                .extend(made.map(|pod| as_read::<slim::Pod>(pod).whole()));
        }
    }

    fn entries(&self, config_map: &str) -> Option<Entries> {
        let data = self.config_maps.get(config_map)?.data.as_ref();
        Some(data.map(Entries::of).unwrap_or_default())
    }

    fn canaries(&self, hook_uid: &str) -> Vec<ConfigMap> {
        let label = |c: &&ConfigMap| {
            let labels = c.metadata.labels.as_ref();
            labels
                .and_then(|l| l.get(names::CANARY_LABEL))
                .map(String::as_str)
                == Some(hook_uid)
        };
        self.config_maps.values().filter(label).cloned().collect()
    }
}

fn as_cached(pod: &Pod) -> Pod {
    let mut pod: slim::Pod = as_read(pod);
    pod.slim();
    pod.whole()
}

/// An object with what is read of it, and nothing else.
fn as_read<K: serde::de::DeserializeOwned>(object: &impl serde::Serialize) -> K {
    let object = serde_json::to_vec(object).expect("it is JSON");
    serde_json::from_slice(&object).expect("it can be read")
}

/// Whether something carries some guard.
pub fn is_guarded(meta: &ObjectMeta) -> bool {
    let mut owners = meta.owner_references.iter().flatten();
    owners.any(|owner| owner.kind == "HookGuard")
}

/// Whether something carries a guard that is not there.
pub fn has_dead_guard(world: &World, meta: &ObjectMeta) -> bool {
    is_guarded(meta)
        && !world
            .guards
            .values()
            .any(|guard| is_owned_by(meta, guard.metadata.uid.as_deref().unwrap_or_default()))
}

pub(super) fn mark_deleted(
    meta: &mut ObjectMeta,
    how: Propagation,
    now: Timestamp,
    version: String,
) {
    if meta.deletion_timestamp.is_some() {
        return;
    }
    meta.deletion_timestamp = Some(Time(now));
    meta.resource_version = Some(version);
    let more = match how {
        Propagation::Background => return,
        Propagation::Foreground => names::FOREGROUND_FINALIZER,
        Propagation::Orphan => names::ORPHAN_FINALIZER,
    };
    meta.finalizers.get_or_insert_default().push(more.into());
}

fn has_label(meta: &ObjectMeta, hook: &str) -> bool {
    let labels = meta.labels.as_ref();
    labels
        .and_then(|l| l.get(names::HOOK_LABEL))
        .map(String::as_str)
        == Some(hook)
}

fn is_canary(meta: &ObjectMeta) -> bool {
    meta.labels
        .as_ref()
        .is_some_and(|l| l.contains_key(names::CANARY_LABEL))
}
