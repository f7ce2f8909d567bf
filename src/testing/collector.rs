//! What Kubernetes' own controllers do to the [`World`]: the garbage collector as measured (design
//! 5.1), Deployments and ReplicaSets, the kubelet; and the certificate controller, in one line.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};

use super::build::NAMESPACE;
use super::server::drop_finalizer;
use super::world::{Propagation, World, mark_deleted};
use crate::api::{DependentKind, names};
use crate::decide::Workload;
use crate::decide::seen::{annotation, has_finalizer, is_controlled, is_owned_by};
use crate::decide::workload::Pace;

impl World {
    /// Lets Kubernetes work until it rests.
    pub fn settle(&mut self) {
        let ends = self.namespace_ends.is_some_and(|end| self.now >= end);
        if self.rested_at == self.version && !ends {
            return;
        }
        loop {
            let before = self.version;
            self.issue();
            self.roll_out();
            self.scale();
            self.collect();
            self.sweep();
            if self.namespace_ends.is_some_and(|end| self.now >= end) {
                self.end_namespace();
            }
            if self.version == before {
                self.rested_at = before;
                return;
            }
        }
    }

    /// Objects that are deleted and that nothing keeps are gone.
    pub fn sweep(&mut self) {
        let before = self.objects();
        let stays = |meta: &ObjectMeta| {
            meta.deletion_timestamp.is_none() || meta.finalizers.iter().flatten().count() > 0
        };
        self.hooks.retain(|_, o| stays(&o.metadata));
        self.workloads.retain(|_, o| stays(&o.meta));
        self.replica_sets.retain(|_, o| stays(&o.metadata));
        self.pods.retain(|_, o| stays(&o.metadata));
        self.config_maps.retain(|_, o| stays(&o.metadata));
        self.certificates.retain(|_, o| stays(&o.metadata));
        if self.objects() != before {
            self.next_version();
        }
    }

    fn objects(&self) -> usize {
        self.hooks.len()
            + self.workloads.len()
            + self.replica_sets.len()
            + self.pods.len()
            + self.config_maps.len()
            + self.certificates.len()
    }

    fn dependents(&mut self) -> Vec<&mut ObjectMeta> {
        let sets = self.replica_sets.values_mut().map(|o| &mut o.metadata);
        let pods = self.pods.values_mut().map(|o| &mut o.metadata);
        let maps = self.config_maps.values_mut().map(|o| &mut o.metadata);
        let certificates = self.certificates.values_mut().map(|o| &mut o.metadata);
        sets.chain(pods).chain(maps).chain(certificates).collect()
    }

    /// One look of the garbage collector at everything.
    fn collect(&mut self) {
        let (now, version) = (self.now, self.version + 1);
        let mut changed = false;
        let blocks = |owner: &OwnerReference| owner.block_owner_deletion == Some(true);
        // Whether each owner waits for its dependents, and whether any of them blocks it.
        let mut owners: BTreeMap<String, bool> = BTreeMap::new();
        let mut note = |meta: &ObjectMeta| {
            let waits = has_finalizer(meta, names::FOREGROUND_FINALIZER);
            owners.insert(meta.uid.clone().unwrap_or_default(), waits);
        };
        self.workloads.values().for_each(|o| note(&o.meta));
        self.guards.values().for_each(|o| note(&o.metadata));
        self.replica_sets.values().for_each(|o| note(&o.metadata));
        let mut orphaning = Vec::new();
        for workload in self.workloads.values_mut() {
            if has_finalizer(&workload.meta, names::ORPHAN_FINALIZER) {
                drop_finalizer(&mut workload.meta, names::ORPHAN_FINALIZER);
                orphaning.push(workload.meta.uid.clone().unwrap_or_default());
                changed = true;
            }
        }
        let mut blocked = Vec::new();
        for meta in self.dependents() {
            for uid in &orphaning {
                if is_owned_by(meta, uid) {
                    let refs = meta.owner_references.get_or_insert_default();
                    refs.retain(|owner| &owner.uid != uid);
                    meta.resource_version = Some(version.to_string());
                }
            }
            let refs = meta.owner_references.clone().unwrap_or_default();
            blocked.extend(refs.iter().filter(|o| blocks(o)).map(|o| o.uid.clone()));
            if refs.is_empty() || meta.deletion_timestamp.is_some() {
                continue;
            }
            let waiting = |o: &OwnerReference| owners.get(&o.uid) == Some(&true) && blocks(o);
            let dangling = |o: &OwnerReference| !owners.contains_key(&o.uid);
            if !refs.iter().any(|o| waiting(o) || dangling(o)) {
                continue;
            }
            changed = true;
            let solid: Vec<_> = refs
                .iter()
                .filter(|o| !waiting(o) && !dangling(o))
                .cloned()
                .collect();
            if !solid.is_empty() {
                meta.owner_references = Some(solid);
                meta.resource_version = Some(version.to_string());
            } else if refs.iter().any(waiting) {
                mark_deleted(meta, Propagation::Foreground, now, version.to_string());
            } else {
                mark_deleted(meta, Propagation::Background, now, version.to_string());
            }
        }
        let free = |meta: &mut ObjectMeta| {
            let waits = has_finalizer(meta, names::FOREGROUND_FINALIZER);
            let free = waits && !blocked.iter().any(|uid| meta.uid.as_ref() == Some(uid));
            if free {
                drop_finalizer(meta, names::FOREGROUND_FINALIZER);
            }
            free
        };
        for workload in self.workloads.values_mut() {
            changed |= free(&mut workload.meta);
        }
        for meta in self.dependents() {
            changed |= free(meta);
        }
        if changed {
            self.version = version;
        }
    }

    /// The workloads' controllers: adopt what has no controller, make what the template asks for.
    fn roll_out(&mut self) {
        for name in self.workloads.keys().cloned().collect::<Vec<_>>() {
            let live = self.workload(&name).expect("it was listed");
            let uid = live.metadata.uid.clone().unwrap_or_default();
            if live.traits().guarded != Some(DependentKind::ReplicaSet) {
                let (all, current) = self.make_pods(&live);
                self.count(&live, all, current);
                continue;
            }
            let template = json!(live.template);
            let active = live.metadata.deletion_timestamp.is_none()
                && live.pace != Pace::Paused
                && !self.namespace_terminating;
            if active {
                self.adopt(&uid);
                let wanted = i32::try_from(live.pods.desired).expect("not so many");
                self.follow(&name, &uid, &template, wanted);
            }
            let pods = |current: bool| {
                let sets = self
                    .replica_sets
                    .values()
                    .filter(|set| is_owned_by(&set.metadata, &uid));
                let sets = sets.filter(|set| !current || template_of(set) == template);
                sets.map(|set| self.pods_of(&set.metadata).len())
                    .sum::<usize>()
            };
            let (all, current) = (pods(false), pods(true));
            self.count(&live, all, current);
        }
    }

    /// Writes what the workload's controller has counted.
    fn count(&mut self, live: &Workload, all: usize, current: usize) {
        let status = json!({"replicas": all, "updatedReplicas": current,
            "observedGeneration": live.metadata.generation});
        let version = self.version + 1;
        let workload = self.workloads.get_mut(live.name()).expect("it is live");
        if workload.status != status {
            self.version = version;
            workload.status = status;
            workload.meta.resource_version = Some(version.to_string());
        }
    }

    fn adopt(&mut self, uid: &str) {
        let version = self.version + 1;
        for set in self.replica_sets.values_mut() {
            let meta = &mut set.metadata;
            if !is_controlled(meta) && meta.deletion_timestamp.is_none() {
                let owners = meta.owner_references.get_or_insert_default();
                owners.push(controller("Deployment", uid));
                meta.resource_version = Some(version.to_string());
                self.version = version;
            }
        }
    }

    fn follow(&mut self, workload: &str, uid: &str, template: &Value, replicas: i32) {
        let mut found = false;
        let version = self.version + 1;
        for set in self.replica_sets.values_mut() {
            if !is_owned_by(&set.metadata, uid) || set.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let current = template_of(set) == *template;
            found |= current;
            let spec = set.spec.get_or_insert_default();
            let wanted = if current { replicas } else { 0 };
            if spec.replicas != Some(wanted) {
                spec.replicas = Some(wanted);
                set.metadata.resource_version = Some(version.to_string());
                self.version = version;
            }
        }
        if found {
            return;
        }
        let mut meta = ObjectMeta {
            name: Some(format!("{workload}-{}", self.version)),
            namespace: Some(NAMESPACE.into()),
            owner_references: Some(vec![controller("Deployment", uid)]),
            ..ObjectMeta::default()
        };
        meta.labels = serde_json::from_value(template["metadata"]["labels"].clone()).ok();
        meta.annotations = Some(BTreeMap::from([("test/workload".into(), uid.into())]));
        self.born(&mut meta);
        let object = json!({"metadata": meta,
            "spec": {"replicas": replicas, "template": template, "selector": {}}});
        let set: ReplicaSet = serde_json::from_value(object).expect("a ReplicaSet");
        self.replica_sets.insert(meta.name.expect("a name"), set);
    }

    /// The ReplicaSet controller, and a kubelet that starts and ends containers at once.
    fn scale(&mut self) {
        let sets: Vec<ReplicaSet> = self.replica_sets.values().cloned().collect();
        for set in sets {
            let meta = &set.metadata;
            if meta.deletion_timestamp.is_some() || self.namespace_terminating {
                continue;
            }
            let wanted = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
            let wanted = usize::try_from(wanted).unwrap_or(0);
            let have = self.pods_of(meta);
            for name in have.iter().skip(wanted) {
                self.pods.remove(name);
                self.next_version();
            }
            for _ in have.len()..wanted {
                let set_uid = meta.uid.clone().unwrap_or_default();
                let workload = annotation(meta, "test/workload").unwrap_or_default();
                let name = meta.name.as_deref().unwrap_or_default();
                let owner = ("ReplicaSet", set_uid.as_str());
                self.start_pod(name, owner, &template_of(&set), workload);
            }
        }
    }

    /// The certificate controller has issued what was asked for.
    fn issue(&mut self) {
        for certificate in self
            .certificates
            .values_mut()
            .filter(|c| c.status.is_none())
        {
            let status = json!({
                "conditions": [{"type": "Ready", "status": "True", "reason": "Issued",
                    "message": "issued", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                "secret": {"name": "tls", "uid": "tls", "resourceVersion": "1"}});
            certificate.status = serde_json::from_value(status).ok();
            self.version += 1;
        }
    }

    /// F7: everything in the namespace is deleted; finalizers keep objects, but no pod.
    fn end_namespace(&mut self) {
        let (now, version) = (self.now, self.version + 1);
        let before = self.objects();
        let mut changed = false;
        let mut end = |meta: &mut ObjectMeta| {
            changed |= meta.deletion_timestamp.is_none();
            mark_deleted(meta, Propagation::Background, now, version.to_string());
        };
        self.hooks.values_mut().for_each(|o| end(&mut o.metadata));
        self.workloads.values_mut().for_each(|o| end(&mut o.meta));
        self.dependents().into_iter().for_each(end);
        self.pods.clear();
        if changed || self.objects() != before {
            self.version = version;
        }
    }

    fn pods_of(&self, set: &ObjectMeta) -> Vec<String> {
        let uid = set.uid.as_deref().unwrap_or_default();
        let pods = self
            .pods
            .iter()
            .filter(|(_, pod)| is_owned_by(&pod.metadata, uid));
        pods.map(|(name, _)| name.clone()).collect()
    }
}

fn template_of(set: &ReplicaSet) -> Value {
    json!(set.spec.as_ref().and_then(|s| s.template.as_ref()))
}

pub(super) fn controller(kind: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".into(),
        kind: kind.into(),
        name: kind.into(),
        uid: uid.into(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
