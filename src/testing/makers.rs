//! Controllers of workloads that make their pods themselves, in the [`World`].

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::collector::controller;
use super::world::World;
use crate::api::kind::Change;
use crate::decide::Workload;
use crate::decide::seen::{annotation, is_controlled, is_owned_by};
use crate::decide::workload::Pace;

/// Annotation with the template that a pod was made from.
const TEMPLATE: &str = "test/template";

impl World {
    /// Adopts what has no controller, replaces what the kind replaces, makes what is missing. How many
    /// pods there are then, and how many of the present template.
    pub(super) fn make_pods(&mut self, workload: &Workload) -> (usize, usize) {
        let uid = workload.metadata.uid.clone().unwrap_or_default();
        let template = json!(workload.template).to_string();
        let active = workload.metadata.deletion_timestamp.is_none() && !self.namespace_terminating;
        if active {
            self.adopt_pods(workload, &uid);
            let replaces = workload.traits().change == Change::RollsOut;
            if replaces && workload.pace == Pace::Rolling {
                let old = |pod: &Pod| annotation(&pod.metadata, TEMPLATE) != Some(&template);
                self.end_pods(|pod| is_owned_by(&pod.metadata, &uid) && old(pod));
            }
            let mut left = workload.pods.desired;
            self.end_pods(|pod| {
                let own = is_owned_by(&pod.metadata, &uid);
                let too_many = own && left == 0;
                left = left.saturating_sub(usize::from(own));
                too_many
            });
            for _ in 0..left {
                let template = json!(workload.template);
                let owner = (workload.traits().name, uid.as_str());
                let name = self.start_pod(workload.name(), owner, &template, &uid);
                let pod = self.pods.get_mut(&name).expect("it was just made");
                let annotations = pod.metadata.annotations.get_or_insert_default();
                annotations.insert(TEMPLATE.into(), template.to_string());
            }
        }
        let own: Vec<&Pod> = self
            .pods
            .values()
            .filter(|pod| is_owned_by(&pod.metadata, &uid))
            .collect();
        let current = |pod: &&&Pod| annotation(&pod.metadata, TEMPLATE) == Some(&template);
        (own.len(), own.iter().filter(current).count())
    }

    /// A Job selects by its own uid, and adopts nobody.
    fn adopt_pods(&mut self, workload: &Workload, uid: &str) {
        if !workload.is_changeable() {
            return;
        }
        let version = self.version + 1;
        for pod in self.pods.values_mut() {
            let meta = &mut pod.metadata;
            if !is_controlled(meta) && meta.deletion_timestamp.is_none() {
                let owners = meta.owner_references.get_or_insert_default();
                owners.push(controller(workload.traits().name, uid));
                meta.resource_version = Some(version.to_string());
                self.version = version;
            }
        }
    }

    fn end_pods(&mut self, mut ends: impl FnMut(&Pod) -> bool) {
        let before = self.pods.len();
        self.pods.retain(|_, pod| !ends(pod));
        if self.pods.len() != before {
            self.next_version();
        }
    }

    /// A kubelet that starts containers at once. The name of the pod.
    pub(super) fn start_pod(
        &mut self,
        prefix: &str,
        owner: (&str, &str),
        template: &Value,
        workload_uid: &str,
    ) -> String {
        let name = format!("{prefix}-{}", self.version);
        let mut pod = super::build::pod(&name).0;
        let labels = &template["metadata"]["labels"];
        pod["metadata"]["labels"].clone_from(labels);
        pod["metadata"]["annotations"] = template["metadata"]["annotations"].clone();
        // Which workload its token is for: the one that its Secret was written for.
        pod["metadata"]["annotations"]["test/workload"] = json!(workload_uid);
        pod["spec"] = template["spec"].clone();
        pod["spec"]["nodeName"] = json!("node-1");
        let first = template["spec"]["containers"][0]["name"]
            .as_str()
            .unwrap_or_default();
        pod["status"]["containerStatuses"] = json!([super::build::running(first)]);
        let mut pod: Pod = serde_json::from_value(pod).expect("a pod");
        self.born(&mut pod.metadata);
        pod.metadata.owner_references = Some(vec![controller(owner.0, owner.1)]);
        self.pods.insert(name.clone(), pod);
        name
    }

    /// Metadata of what carries the guard, of one name and uid.
    pub(super) fn dependent(
        &mut self,
        dependent: &crate::decide::seen::Dependent,
    ) -> Option<&mut ObjectMeta> {
        use crate::api::DependentKind;
        let meta = match dependent.kind {
            DependentKind::ReplicaSet => &mut self.replica_sets.get_mut(&dependent.name)?.metadata,
            DependentKind::Pod => &mut self.pods.get_mut(&dependent.name)?.metadata,
        };
        Some(meta).filter(|meta| meta.uid.as_ref() == Some(&dependent.uid))
    }
}
