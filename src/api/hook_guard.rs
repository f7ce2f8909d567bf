//! `HookGuard`: one per hook, made and deleted by the operator alone.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::kind::WorkloadKind;

/// A HookGuard represents one hook: it owns the hook's Secrets and ConfigMap, and as a second owner
/// it keeps the pods of the workload while a removal waits. It is cluster-scoped, so that write
/// access to the namespace is not enough to delete it. The operator creates and deletes it; its
/// name is the hook's uid. `kubectl get hookguards` lists every hold in the cluster.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "hooks.krake.dev",
    version = "v1alpha1",
    kind = "HookGuard",
    derive = "PartialEq",
    category = "krake",
    doc = "The hold of one KrakeHook, made and deleted by the operator alone.",
    printcolumn(
        name = "Namespace",
        type_ = "string",
        json_path = ".spec.hook.namespace"
    ),
    printcolumn(name = "Hook", type_ = "string", json_path = ".spec.hook.name"),
    printcolumn(name = "Workload", type_ = "string", json_path = ".spec.workload.name"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct HookGuardSpec {
    /// The hook that this guard represents.
    pub hook: GuardedHook,
    /// The workload whose removal waits.
    pub workload: GuardedWorkload,
}

/// The hook that a guard represents.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GuardedHook {
    /// Namespace of the hook and its workload.
    pub namespace: String,
    /// Name of the hook.
    pub name: String,
    /// Uid of the hook; also the name of the guard.
    pub uid: String,
}

/// The workload of the hook that a guard represents.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GuardedWorkload {
    /// API version of the workload, for example `apps/v1`.
    pub api_version: String,
    /// Kind of the workload, for example `Deployment`.
    pub kind: String,
    /// Name of the workload.
    pub name: String,
}

impl HookGuard {
    /// The kind that an ownerReference to a guard has.
    pub const KIND: &'static str = "HookGuard";
}

impl GuardedWorkload {
    /// Its kind, unless only another version knows it.
    pub fn known_kind(&self) -> Option<WorkloadKind> {
        WorkloadKind::find(&self.api_version, &self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::Resource;

    #[test]
    fn its_kind_is_the_one_that_is_served() {
        assert_eq!(HookGuard::KIND, HookGuard::kind(&()));
    }
}
