//! `KrakeHook`: what a user writes about one workload. What the operator answers is in
//! [`super::status`].
//!
//! Where the operator's configuration has a default, the schema has none; a field that this
//! version does not act on is refused by a CEL rule that says so, never ignored in silence.

use std::fmt;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kind::WorkloadKind;
use super::status::KrakeHookStatus;

/// A KrakeHook gives the pods of one workload a token, a URL and a client certificate. With them
/// the app says "I am complete" or "I have shut down"; until it has, or its time is up, a deletion
/// of the workload does not take its pods away.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "hooks.krake.dev",
    version = "v1alpha1",
    kind = "KrakeHook",
    namespaced,
    status = "KrakeHookStatus",
    derive = "PartialEq",
    shortname = "kh",
    category = "krake",
    doc = "A KrakeHook lets an app say when its workload is complete, and holds the workload's removal until the app has shut down.",
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name: at most 63 characters, because it becomes a label value"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Workload", type_ = "string", json_path = ".spec.workload.name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Requests", type_ = "integer", json_path = ".status.openRequests"),
    printcolumn(name = "Deadline", type_ = "string", json_path = ".status.deadline"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#, priority = "1")
)]
#[x_kube(
    validation = Rule::new("!has(self.complete) || !self.complete.shutdownFirst || has(self.shutdown)").message("spec.complete.shutdownFirst needs spec.shutdown: that is the hook which runs first"),
    validation = Rule::new("self.state == 'Running' || !(self.workload.kind in ['DaemonSet', 'Pod'])").message("spec.state: a DaemonSet or a Pod cannot be stopped; delete it"),
    validation = Rule::new("!has(self.complete) || self.complete.action != 'ScaleToZero' || !(self.workload.kind in ['DaemonSet', 'Pod'])").message("spec.complete.action: a DaemonSet or a Pod cannot be scaled; use Delete or None"),
    validation = Rule::new("has(self.complete) || has(self.shutdown)").message("spec: at least one of complete and shutdown is needed; an empty object ({}) enables one with its defaults"),
    validation = Rule::new("!has(self.complete) || !has(self.shutdown) || !has(self.complete.env) || !has(self.shutdown.env) || !has(self.complete.env.url) || !has(self.shutdown.env.url) || self.complete.env.url != self.shutdown.env.url").message("spec.shutdown.env.url must differ from spec.complete.env.url: both URLs are injected into the same containers"),
    validation = Rule::new("self.workload.kind != 'Pod' || !has(self.shutdown)").message("spec.shutdown: the removal of a Pod cannot be made to wait, because nothing keeps the containers of a deleted Pod running; let a Deployment, StatefulSet or Job make it"),
    validation = Rule::new("!(self.workload.kind in ['Job', 'Pod']) || (size(self.containers) == 0 && (!has(self.complete) || (!has(self.complete.env) && !has(self.complete.certMountPath))) && (!has(self.shutdown) || (!has(self.shutdown.env) && !has(self.shutdown.certMountPath))))").message("spec.containers, env and certMountPath: nothing is injected into a Job or a Pod, because the API server takes no change of their containers; leave them out")
)]
#[serde(rename_all = "camelCase")]
pub struct KrakeHookSpec {
    /// The workload whose pods get the hook and whose removal waits. Immutable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.workload is immutable: delete the hook and create another one"))]
    pub workload: WorkloadReference,
    /// Names of the containers that get token, URL and certificate. Empty (default): all containers
    /// but init containers, which get them only if they are named here.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub containers: Vec<String>,
    /// How pods get token, URL and certificate. Default: `Template`.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == 'Template'").message("spec.injection: this version supports Template only"))]
    pub injection: Injection,
    /// Lets the app report that its work is complete. Enabled if present; `{}` enables it with its
    /// defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete: Option<CompleteHook>,
    /// Tells the app that it is about to be removed, and holds the removal until the app has
    /// acknowledged that it has shut down, or until its deadline. Enabled if present; `{}` enables
    /// it with its defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<ShutdownHook>,
    /// Whether the workload should run. Default: `Running`.
    #[serde(default)]
    pub state: State,
}

/// A workload in the hook's namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(validation = Rule::new("(self.apiVersion == 'apps/v1' && self.kind in ['Deployment', 'StatefulSet', 'DaemonSet', 'ReplicaSet']) || (self.apiVersion == 'v1' && self.kind in ['ReplicationController', 'Pod']) || (self.apiVersion == 'batch/v1' && self.kind == 'Job')").message("spec.workload: one of apiVersion apps/v1 with kind Deployment, StatefulSet, DaemonSet or ReplicaSet; v1 with ReplicationController or Pod; batch/v1 with Job"))]
#[serde(rename_all = "camelCase")]
pub struct WorkloadReference {
    /// API version: `apps/v1`, `batch/v1` or `v1`.
    #[schemars(length(min = 1, max = 64))]
    pub api_version: String,
    /// Kind: `Deployment`, `StatefulSet`, `DaemonSet` or `ReplicaSet` of `apps/v1`; `Job` of
    /// `batch/v1`; `ReplicationController` or `Pod` of `v1`. Nothing is injected into a Job or a Pod,
    /// and the removal of a Pod cannot be made to wait.
    #[schemars(length(min = 1, max = 64))]
    pub kind: String,
    /// Name of the workload. It may be created after the hook.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

impl WorkloadReference {
    /// Its kind, unless only another version knows it.
    pub fn known_kind(&self) -> Option<WorkloadKind> {
        WorkloadKind::find(&self.api_version, &self.kind)
    }
}

/// How pods get what they need.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Injection {
    /// The workload's pod template is patched: one rollout.
    #[default]
    Template,
    /// Pods are changed when they are admitted, and the workload is left as it is. Not supported by
    /// this version.
    Pod,
}

/// Whether the workload is to run.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It runs. If it was stopped before, it gets its former replicas back.
    #[default]
    Running,
    /// The app is asked to shut down, as before a removal; then the workload is scaled to zero (a
    /// Job is suspended).
    Stopped,
}

/// Lets an app report that its work is complete.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CompleteHook {
    /// What happens to the workload once it is complete. Default: `Delete`.
    #[serde(default)]
    pub action: CompleteAction,
    /// How many pods have to report it. Default: `Any`.
    #[serde(default)]
    pub acknowledgements: Quorum,
    /// Whether the shutdown hook runs before a completed workload is deleted or scaled to zero.
    /// Default: false.
    #[serde(default)]
    pub shutdown_first: bool,
    /// Names of the environment variables. Defaults: `hooks.complete.env` of the operator's
    /// configuration (`KRAKE_TOKEN`, `KRAKE_COMPLETE_URL`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<EnvNames>,
    /// Directory of certificate, key and CA bundle in the containers. Default:
    /// `hooks.complete.certMountPath` of the operator's configuration (`/etc/krake_cert`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 256), regex(pattern = "^/[^:]+$"))]
    pub cert_mount_path: Option<String>,
}

/// What happens to a completed workload.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompleteAction {
    /// The workload is deleted; the hook stays as the receipt.
    #[default]
    Delete,
    /// The workload is scaled to zero (a Job: suspended), and stays.
    ScaleToZero,
    /// The workload is left as it is; only the status reports the completion.
    None,
}

/// Tells an app to shut down, and lets it acknowledge that it has.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ShutdownHook {
    /// How the app is called when a removal is requested. Absent: it is not called, and has to find
    /// out by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_out: Option<CallOut>,
    /// Seconds that the app has to acknowledge, from the end of the first call. Default:
    /// `hooks.shutdown.timeoutSeconds` of the operator's configuration (30).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000))]
    pub timeout_seconds: Option<i64>,
    /// How often the whole round (call, then wait `timeoutSeconds`) is repeated after a deadline. Default:
    /// `hooks.shutdown.retries` of the operator's configuration (0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub retries: Option<i64>,
    /// What happens at the deadline of the last round. Default: `hooks.shutdown.onTimeout` of
    /// the operator's configuration (`Delete`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_timeout: Option<OnTimeout>,
    /// How many pods have to acknowledge. Default: `Any`.
    #[serde(default)]
    pub acknowledgements: Quorum,
    /// Names of the environment variables. Defaults: `hooks.shutdown.env` of the operator's
    /// configuration (`KRAKE_TOKEN`, `KRAKE_SHUTDOWN_URL`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<EnvNames>,
    /// Directory of certificate, key and CA bundle in the containers. Default:
    /// `hooks.shutdown.certMountPath` of the operator's configuration (`/etc/krake_cert`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 256), regex(pattern = "^/[^:]+$"))]
    pub cert_mount_path: Option<String>,
}

/// How the app is called when a removal is requested.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(validation = Rule::new("self.mode == 'None' || has(self.service)").message("spec.shutdown.callOut.service is needed with mode Service; mode None calls nobody"))]
#[serde(rename_all = "camelCase")]
pub struct CallOut {
    /// Whether pods behind a Service are called. Default: `Service`.
    #[serde(default)]
    pub mode: CallOutMode,
    /// The app's shutdown service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ShutdownService>,
    /// How many pods are called. Default: `One`.
    #[serde(default)]
    pub fan_out: FanOut,
}

/// Whether pods are called.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CallOutMode {
    /// Pods behind a Service are called.
    #[default]
    Service,
    /// No pod is called: the app has to find out by itself.
    None,
}

/// How many pods are called.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FanOut {
    /// One ready pod; if the call fails, the next one.
    #[default]
    One,
    /// Every ready pod of the workload, and every one that becomes ready later.
    EachPod,
}

/// The app's shutdown service: `PUT {scheme}://{address of a ready pod}:{target port}{path}`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ShutdownService {
    /// Name of a Service in the same namespace. It needs a selector.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Port of the Service, by number or name. Default: its first TCP port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<IntOrString>,
    /// Path of the request. Default: `/shutdown`.
    #[serde(default = "default_path")]
    #[schemars(
        length(min = 1, max = 1024),
        regex(pattern = "^/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*$")
    )]
    pub path: String,
    /// Scheme of the request. Default and only value: `HTTP`.
    #[serde(default)]
    pub scheme: Scheme,
}

/// Scheme of the call to the app.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP.
    #[default]
    #[serde(rename = "HTTP")]
    Http,
}

/// What happens if the app has not acknowledged by the deadline.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnTimeout {
    /// The removal goes on (Krake's `failure_strategy: delete`).
    #[default]
    Delete,
    /// The removal keeps waiting for a late acknowledgement, or for the annotation
    /// `hooks.krake.dev/skip` (Krake's `failure_strategy: give_up`).
    Retain,
}

/// How many pods have to acknowledge.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("!has(self.count) || self.policy == 'AtLeast'").message("acknowledgements.count goes with policy AtLeast alone"),
    validation = Rule::new("has(self.count) || self.policy != 'AtLeast'").message("acknowledgements.policy AtLeast needs acknowledgements.count")
)]
#[serde(rename_all = "camelCase")]
pub struct Quorum {
    /// Which pods have to acknowledge. Default: `Any`.
    #[serde(default)]
    pub policy: QuorumPolicy,
    /// How many pods, with policy `AtLeast`. If fewer are still running, all of those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 512))]
    pub count: Option<i64>,
}

/// Which pods have to acknowledge.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QuorumPolicy {
    /// One pod; its acknowledgement need not name the pod.
    #[default]
    Any,
    /// Every pod that was asked and still runs; each acknowledges with its own uid.
    All,
    /// At least `count` of them; each acknowledges with its own uid.
    AtLeast,
}

/// Names of the environment variables of one hook.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(validation = Rule::new("!has(self.token) || !has(self.url) || self.token != self.url").message("env.token and env.url must differ"))]
#[serde(rename_all = "camelCase")]
pub struct EnvNames {
    /// Variable with the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = "^[A-Za-z_][A-Za-z0-9_]*$")
    )]
    pub token: Option<String>,
    /// Variable with the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = "^[A-Za-z_][A-Za-z0-9_]*$")
    )]
    pub url: Option<String>,
}

/// A kind of hook. It is a parameter of everything that both kinds share.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[serde(rename_all = "lowercase")]
pub enum HookKind {
    /// The app reports that its work is complete.
    Complete,
    /// The app acknowledges that it has shut down.
    Shutdown,
}

impl HookKind {
    /// The word in URLs, answers and keys.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Shutdown => "shutdown",
        }
    }
}

impl fmt::Display for HookKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl KrakeHookSpec {
    /// Whether a kind of hook is enabled.
    pub fn enables(&self, kind: HookKind) -> bool {
        match kind {
            HookKind::Complete => self.complete.is_some(),
            HookKind::Shutdown => self.shutdown.is_some(),
        }
    }
}

fn default_path() -> String {
    "/shutdown".to_owned()
}
