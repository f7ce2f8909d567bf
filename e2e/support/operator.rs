//! The installed operator, and what is done to it by the stories that have a cluster to
//! themselves.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use krake_hooks::api::names;

use super::cluster::Cluster;
use super::wait::{SOON, until};

/// Deployment, container and binary of the operator.
pub const NAME: &str = "krake-hooks";
/// Its configuration.
pub const CONFIG_MAP: &str = "krake-hooks-config";
/// Where it is installed.
pub const NAMESPACE: &str = names::OPERATOR_NAMESPACE;
/// How many replicas config/default has.
pub const REPLICAS: usize = 2;
/// Who it is.
pub const USER: &str = "system:serviceaccount:krake-system:krake-hooks";

/// The installed operator.
pub struct Operator {
    client: Client,
}

impl Operator {
    /// The operator of a cluster.
    pub fn of(client: Client) -> Self {
        Self { client }
    }

    /// Waits until the Deployment's newest pods, and no others, are ready and one of them leads.
    pub async fn ready(&self) -> Vec<Pod> {
        let pods = until("the operator is ready", SOON * 2, async || {
            let deployment = self.deployments().get(NAME).await;
            let deployment = deployment.map_err(|e| e.to_string())?;
            let status = deployment.status.clone().unwrap_or_default();
            let all = Some(REPLICAS as i32);
            let pods = self.pods().await;
            let done = status.observed_generation == deployment.metadata.generation
                && status.updated_replicas == all
                && status.ready_replicas == all
                && status.available_replicas == all
                && pods.len() == REPLICAS
                && pods
                    .iter()
                    .all(|pod| pod.metadata.deletion_timestamp.is_none());
            match done {
                true => Ok(pods),
                false => Err(format!(
                    "{status:?}, pods {:?}",
                    pods.iter()
                        .map(|pod| pod.status.clone())
                        .collect::<Vec<_>>()
                )),
            }
        })
        .await;
        self.leader().await;
        pods
    }

    /// Waits until a pod that lives holds the lease.
    pub async fn leader(&self) -> Pod {
        until("a replica leads", SOON, async || {
            let holder = self.lease_holder().await?;
            let mut pods = self.pods().await;
            pods.retain(|pod| holder.starts_with(&format!("{}_", pod.name_any())));
            pods.pop().ok_or(format!("the lease is held by {holder:?}"))
        })
        .await
    }

    /// Who holds the lease.
    pub async fn lease_holder(&self) -> Result<String, String> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), NAMESPACE);
        let lease = leases.get(names::LEASE).await.map_err(|e| e.to_string())?;
        let holder = lease.spec.and_then(|spec| spec.holder_identity);
        Ok(holder.unwrap_or_default())
    }

    /// Takes it away, and waits until it is.
    pub async fn leave(&self) {
        self.scale(0).await;
        until("the operator is away", SOON, async || {
            match self.pods().await.len() {
                0 => Ok(()),
                count => Err(format!("{count} pods")),
            }
        })
        .await;
    }

    /// Leaves one replica of it, which leads.
    pub async fn leave_one(&self) {
        self.scale(1).await;
        until("one replica is left", SOON, async || {
            match self.pods().await.len() {
                1 => Ok(()),
                count => Err(format!("{count} pods")),
            }
        })
        .await;
        self.leader().await;
    }

    /// Brings it back.
    pub async fn come_back(&self) {
        self.scale(REPLICAS as i32).await;
        self.ready().await;
    }

    /// Kills the leader's process with SIGKILL, in the middle of whatever it does.
    pub async fn kill(&self) {
        self.kill_pod(&self.leader().await).await;
    }

    /// Kills every replica's process with SIGKILL.
    pub async fn kill_all(&self) {
        for pod in self.pods().await {
            self.kill_pod(&pod).await;
        }
    }

    /// Sends a signal to the process in one of its pods. False where that cannot be reached, as on
    /// a foreign cluster.
    pub fn signal(&self, pod: &Pod, signal: &str) -> bool {
        let uid = pod.uid().expect("a pod of the cluster");
        let Some(process) = process_of(&uid) else {
            return false;
        };
        let sent = std::process::Command::new("kill")
            .args([&format!("-{signal}"), &process])
            .status()
            .expect("kill can be run");
        assert!(sent.success(), "{signal} cannot be sent to {process}");
        true
    }

    /// Memory of the process in one of its pods, where that can be reached.
    pub fn memory(&self, pod: &Pod) -> Option<Memory> {
        let process = process_of(&pod.uid()?)?;
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let of = |field: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
            Some(kibibytes / 1024)
        };
        let container = pod.spec.as_ref()?.containers.first()?;
        let limits = container.resources.as_ref()?.limits.as_ref()?;
        Some(Memory {
            resident: of("VmRSS:")?,
            peak: of("VmHWM:")?,
            limit: limits.get("memory")?.0.strip_suffix("Mi")?.parse().ok()?,
        })
    }

    /// Where the process cannot be reached, the pod is deleted by force, which comes closest.
    async fn kill_pod(&self, pod: &Pod) {
        if !self.signal(pod, "KILL") {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
            let outright = kube::api::DeleteParams::default().grace_period(0);
            pods.delete(&pod.name_any(), &outright)
                .await
                .expect("the operator's pod can be deleted");
        }
    }

    /// Gives it another configuration and restarts it; an empty one is all defaults.
    pub async fn configure(&self, yaml: &str) {
        self.leave().await;
        self.begin(yaml).await;
        self.ready().await;
    }

    /// Brings it back with another configuration, and does not wait until it is ready.
    pub async fn begin(&self, yaml: &str) {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
        let patch = json!({"data": {"config.yaml": yaml}});
        maps.patch(CONFIG_MAP, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .expect("the operator's configuration can be written");
        self.scale(REPLICAS as i32).await;
    }

    /// Undoes what a story did to it, whether or not the story came to its end.
    pub async fn restore(&self, configuration: &str) {
        if self.configuration().await != configuration {
            self.configure(configuration).await;
        }
        self.come_back().await;
    }

    /// Its configuration.
    pub async fn configuration(&self) -> String {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
        let map = maps.get(CONFIG_MAP).await;
        let map = map.expect("the operator has a configuration");
        map.data.unwrap_or_default()["config.yaml"].clone()
    }

    async fn scale(&self, replicas: i32) {
        let patch = json!({"spec": {"replicas": replicas}});
        self.deployments()
            .patch(NAME, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .expect("the operator can be scaled");
    }

    /// Its pods, those that end included.
    pub async fn pods(&self) -> Vec<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let deployment = self.deployments().get(NAME).await;
        let labels = deployment
            .expect("the operator is installed")
            .spec
            .and_then(|spec| spec.selector.match_labels)
            .unwrap_or_default();
        let selector: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let pods = pods
            .list(&ListParams::default().labels(&selector.join(",")))
            .await;
        pods.expect("pods can be listed").items
    }

    fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }
}

/// Memory of a process, in MiB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// What it has now.
    pub resident: u64,
    /// The most it ever had.
    pub peak: u64,
    /// What it may have.
    pub limit: u64,
}

/// The operator's process in the pod, if it runs on this machine: its control group names the pod.
fn process_of(pod_uid: &str) -> Option<String> {
    let marks = [pod_uid.to_owned(), pod_uid.replace('-', "_")];
    std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter(|entry| {
            let read = |file| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            let groups = read("cgroup");
            read("comm").trim() == NAME && marks.iter().any(|mark| groups.contains(mark))
        })
        .find_map(|entry| entry.file_name().into_string().ok())
}

impl Cluster {
    /// The operator of this cluster.
    pub async fn operator(&self) -> Operator {
        Operator::of(self.client().await.expect("the cluster answers"))
    }
}
