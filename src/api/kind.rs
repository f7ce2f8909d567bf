//! The kinds of workloads, and what each can do: one table. Nothing else in the code asks which
//! kind a workload is of.

use std::fmt;

/// A kind of workload that a hook can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadKind {
    /// Makes ReplicaSets, which make pods.
    Deployment,
    /// Makes pods with a stable identity.
    StatefulSet,
    /// Makes a pod on each node.
    DaemonSet,
    /// Makes interchangeable pods.
    ReplicaSet,
    /// The legacy predecessor of ReplicaSet.
    ReplicationController,
    /// Makes pods that run to completion.
    Job,
    /// A single pod without a controller.
    Pod,
}

/// What one kind of workload is, and can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// The kind.
    pub kind: WorkloadKind,
    /// Its API version.
    pub api_version: &'static str,
    /// Its name in manifests.
    pub name: &'static str,
    /// Its name in URLs.
    pub plural: &'static str,
    /// JSON pointer to the pod template, or to what stands for it.
    pub template: &'static str,
    /// What a change of the template does.
    pub change: Change,
    /// What carries the guard; nothing if a removal cannot be made to wait.
    pub guarded: Option<DependentKind>,
    /// How it is stopped.
    pub stop: Stop,
    /// Whether its status counts pods that are on their way out, too.
    pub counts_leaving: bool,
    /// Whether one that another object controls is refused: the controller would undo what is done
    /// to it, or make it again.
    pub only_alone: bool,
    /// Whether all of them are watched. There are too many pods: one that a hook waits for is looked
    /// for now and then.
    pub watched: bool,
}

/// What a change of the pod template does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Running pods are replaced, as the workload's own strategy says.
    RollsOut,
    /// Only pods that are made from now on have it.
    NewPodsOnly,
    /// The API server refuses it.
    Refused,
}

/// How a workload is stopped without being deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// `spec.replicas: 0`.
    Replicas,
    /// `spec.suspend: true`.
    Suspend,
    /// It cannot be.
    Cannot,
}

/// What a workload makes, and a guard is put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DependentKind {
    /// A Deployment's ReplicaSets; their pods follow them.
    ReplicaSet,
    /// The pods themselves.
    Pod,
}

const TABLE: [Traits; 7] = [
    Traits {
        kind: WorkloadKind::Deployment,
        api_version: "apps/v1",
        name: "Deployment",
        plural: "deployments",
        template: "/spec/template",
        change: Change::RollsOut,
        guarded: Some(DependentKind::ReplicaSet),
        stop: Stop::Replicas,
        counts_leaving: false,
        only_alone: false,
        watched: true,
    },
    Traits {
        kind: WorkloadKind::StatefulSet,
        api_version: "apps/v1",
        name: "StatefulSet",
        plural: "statefulsets",
        template: "/spec/template",
        change: Change::RollsOut,
        guarded: Some(DependentKind::Pod),
        stop: Stop::Replicas,
        counts_leaving: true,
        only_alone: false,
        watched: true,
    },
    Traits {
        kind: WorkloadKind::DaemonSet,
        api_version: "apps/v1",
        name: "DaemonSet",
        plural: "daemonsets",
        template: "/spec/template",
        change: Change::RollsOut,
        guarded: Some(DependentKind::Pod),
        stop: Stop::Cannot,
        counts_leaving: true,
        only_alone: false,
        watched: true,
    },
    Traits {
        kind: WorkloadKind::ReplicaSet,
        api_version: "apps/v1",
        name: "ReplicaSet",
        plural: "replicasets",
        template: "/spec/template",
        change: Change::NewPodsOnly,
        guarded: Some(DependentKind::Pod),
        stop: Stop::Replicas,
        counts_leaving: false,
        only_alone: true,
        watched: true,
    },
    Traits {
        kind: WorkloadKind::ReplicationController,
        api_version: "v1",
        name: "ReplicationController",
        plural: "replicationcontrollers",
        template: "/spec/template",
        change: Change::NewPodsOnly,
        guarded: Some(DependentKind::Pod),
        stop: Stop::Replicas,
        counts_leaving: false,
        only_alone: true,
        watched: true,
    },
    Traits {
        kind: WorkloadKind::Job,
        api_version: "batch/v1",
        name: "Job",
        plural: "jobs",
        template: "/spec/template",
        change: Change::Refused,
        guarded: Some(DependentKind::Pod),
        stop: Stop::Suspend,
        counts_leaving: false,
        only_alone: false,
        watched: true,
    },
    Traits {
        kind: WorkloadKind::Pod,
        api_version: "v1",
        name: "Pod",
        plural: "pods",
        template: "",
        change: Change::Refused,
        guarded: None,
        stop: Stop::Cannot,
        counts_leaving: false,
        only_alone: true,
        watched: false,
    },
];

impl WorkloadKind {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.kind)
    }

    /// The kind of that API version and name, if it is one of them.
    pub fn find(api_version: &str, name: &str) -> Option<Self> {
        let mut rows = TABLE.iter();
        let row = rows.find(|row| row.api_version == api_version && row.name == name)?;
        Some(row.kind)
    }

    /// Its row of the table.
    pub fn traits(self) -> &'static Traits {
        let mut rows = TABLE.iter();
        rows.find(|row| row.kind == self)
            .expect("every kind has its row")
    }
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.traits().name)
    }
}

impl DependentKind {
    /// Its API version.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::ReplicaSet => "apps/v1",
            Self::Pod => "v1",
        }
    }

    /// Its name in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReplicaSet => "ReplicaSet",
            Self::Pod => "Pod",
        }
    }

    /// Its name in URLs.
    pub fn plural(self) -> &'static str {
        match self {
            Self::ReplicaSet => "replicasets",
            Self::Pod => "pods",
        }
    }
}

impl fmt::Display for DependentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_what_a_manifest_says() {
        for kind in WorkloadKind::all() {
            let row = kind.traits();
            assert_eq!(WorkloadKind::find(row.api_version, row.name), Some(kind));
            assert_eq!(row.plural, format!("{}s", row.name.to_lowercase()));
        }
        assert_eq!(WorkloadKind::find("extensions/v1beta1", "Deployment"), None);
        assert_eq!(WorkloadKind::find("apps/v1", "Job"), None);
    }
}
