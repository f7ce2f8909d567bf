//! What is kept of a pod.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::de::IgnoredAny;

use super::read::{Cut, Few, Kept, Text, Words};
use super::{metadata, text};
use crate::api::names;

/// Containers of a pod, of each sort.
const CONTAINERS: usize = 8;
/// Ports of a container.
const PORTS: usize = 64;
/// A variable of ours is short: it may be made of others of ours.
type Name = Cut<128>;
/// Conditions of a pod.
const CONDITIONS: usize = 8;
/// Variables of a container that are ours.
const VARIABLES: usize = 6;

/// A pod.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Pod {
    /// Its metadata.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: Option<Text>,
    host_network: Option<bool>,
    containers: Few<Container, CONTAINERS>,
    init_containers: Few<Container, CONTAINERS>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    name: Text,
    restart_policy: Option<Text>,
    env: Few<Variable, VARIABLES>,
    ports: Few<Port, PORTS>,
}

/// A variable of ours.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Variable {
    name: Name,
    value: Option<Name>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    name: Option<Text>,
    container_port: i32,
    protocol: Option<Text>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: Option<Text>,
    #[serde(rename = "podIP")]
    pod_ip: Option<Text>,
    start_time: Option<Time>,
    conditions: Few<PodCondition, CONDITIONS>,
    container_statuses: Few<ContainerStatus, CONTAINERS>,
    init_container_statuses: Few<ContainerStatus, CONTAINERS>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodCondition {
    #[serde(rename = "type")]
    type_: Text,
    status: Text,
    reason: Option<Text>,
    message: Option<Words>,
    last_transition_time: Option<Time>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerStatus {
    name: Text,
    ready: bool,
    started: Option<bool>,
    restart_count: i32,
    state: Option<ContainerState>,
    last_state: Option<ContainerState>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
struct ContainerState {
    running: Option<IgnoredAny>,
    waiting: Option<Stopped>,
    terminated: Option<Stopped>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Stopped {
    reason: Option<Text>,
    message: Option<Words>,
    exit_code: i32,
}

impl Pod {
    /// The pod as the API has it, with what was kept.
    pub fn whole(&self) -> core::Pod {
        let PodSpec {
            node_name,
            host_network,
            containers,
            init_containers,
        } = &self.spec;
        let all = |few: &Few<Container, CONTAINERS>| few.map(Container::whole);
        let init = all(init_containers);
        let status = &self.status;
        let said = |few: &Few<ContainerStatus, CONTAINERS>| {
            let all = few.map(ContainerStatus::whole);
            Some(all).filter(|all| !all.is_empty())
        };
        core::Pod {
            metadata: self.metadata.clone(),
            spec: Some(core::PodSpec {
                node_name: text(node_name),
                host_network: *host_network,
                containers: all(containers),
                init_containers: Some(init).filter(|init| !init.is_empty()),
                ..Default::default()
            }),
            status: Some(core::PodStatus {
                phase: text(&status.phase),
                pod_ip: text(&status.pod_ip),
                start_time: status.start_time.clone(),
                conditions: Some(status.conditions.map(PodCondition::whole)),
                container_statuses: said(&status.container_statuses),
                init_container_statuses: said(&status.init_container_statuses),
                ..Default::default()
            }),
        }
    }

    /// Whether it runs, or has ended, in the API's words.
    pub fn phase(&self) -> Option<&str> {
        self.status.phase.as_ref().map(|phase| phase.0.as_str())
    }

    /// Leaves what a cache is asked for: ports are asked of pods that are called, and those are read
    /// live.
    pub fn slim(&mut self) {
        let spec = &mut self.spec;
        let containers = spec.containers.0.iter_mut();
        for container in containers.chain(&mut spec.init_containers.0) {
            container.ports = Few::default();
        }
    }
}

impl Container {
    fn whole(&self) -> core::Container {
        let env = self.env.map(|entry| core::EnvVar {
            name: entry.name.0.clone(),
            value: entry.value.as_ref().map(|value| value.0.clone()),
            ..Default::default()
        });
        let ports = self.ports.map(|port| core::ContainerPort {
            name: text(&port.name),
            container_port: port.container_port,
            protocol: text(&port.protocol),
            ..Default::default()
        });
        core::Container {
            name: self.name.0.clone(),
            restart_policy: text(&self.restart_policy),
            env: Some(env).filter(|env| !env.is_empty()),
            ports: Some(ports).filter(|ports| !ports.is_empty()),
            ..Default::default()
        }
    }
}

impl PodCondition {
    fn whole(&self) -> core::PodCondition {
        core::PodCondition {
            type_: self.type_.0.clone(),
            status: self.status.0.clone(),
            reason: text(&self.reason),
            message: words(&self.message),
            last_transition_time: self.last_transition_time.clone(),
            ..Default::default()
        }
    }
}

impl ContainerStatus {
    fn whole(&self) -> core::ContainerStatus {
        core::ContainerStatus {
            name: self.name.0.clone(),
            ready: self.ready,
            started: self.started,
            restart_count: self.restart_count,
            state: self.state.as_ref().map(ContainerState::whole),
            last_state: self.last_state.as_ref().map(ContainerState::whole),
            ..Default::default()
        }
    }
}

impl ContainerState {
    fn whole(&self) -> core::ContainerState {
        core::ContainerState {
            running: self.running.map(|_| core::ContainerStateRunning::default()),
            waiting: self
                .waiting
                .as_ref()
                .map(|stopped| core::ContainerStateWaiting {
                    reason: text(&stopped.reason),
                    message: words(&stopped.message),
                }),
            terminated: self
                .terminated
                .as_ref()
                .map(|stopped| core::ContainerStateTerminated {
                    exit_code: stopped.exit_code,
                    reason: text(&stopped.reason),
                    message: words(&stopped.message),
                    ..Default::default()
                }),
        }
    }
}

impl Kept for Container {}
impl Kept for Port {}
impl Kept for PodCondition {}
impl Kept for ContainerStatus {}

/// What a container is told by us: the others tell what their owners give their apps.
impl Kept for Variable {
    fn is_kept(&self) -> bool {
        let refers = |value: &Name| value.0.contains("$(KRAKE_");
        MADE_OF.contains(&self.name.0.as_str()) || self.value.as_ref().is_some_and(refers)
    }
}

/// What URLs are made of.
const MADE_OF: [&str; 3] = [
    names::POD_UID_ENV,
    names::COMPLETE_ENDPOINT_ENV,
    names::SHUTDOWN_ENDPOINT_ENV,
];

fn words(words: &Option<Words>) -> Option<String> {
    words.as_ref().map(|words| words.0.clone())
}
