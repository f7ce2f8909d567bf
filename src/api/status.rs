//! Status of a `KrakeHook`: everything the operator has to remember. No other memory outlives a
//! restart, so that killing the operator at any moment loses nothing.
//!
//! Two writers: the callback adds keys to `acknowledgements` and counts what it has `rejected`, the hook
//! controller writes the rest.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::krake_hook::{CompleteAction, FanOut, OnTimeout, Quorum, QuorumPolicy, Scheme};

/// What the operator reports about the hook.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KrakeHookStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Injected`, `CertificateReady`, `Armed`, `Blocking`, and where they apply
    /// `Completed` and `InjectionContested`.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The state of the hook in one word, for `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The workload this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<ObservedWorkload>,
    /// The Secret with the token, as the operator last wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenSecret>,
    /// How the app is called. Kept while the hook is armed, because the Service may be deleted
    /// before the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_out: Option<RememberedCallOut>,
    /// How the workload is being deleted, once that has been observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion: Option<Deletion>,
    /// Shutdown requests by id: all that are open, and the most recent one of the workload until
    /// the next one is opened.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, ShutdownRequest>,
    /// Number of open requests; absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_requests: Option<i64>,
    /// The nearest deadline of the open requests; absent if all have passed, or if none is known
    /// yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Time>,
    /// The workload ran to completion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion: Option<Completion>,
    /// The workload was scaled to zero, or is about to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// Acknowledgements by `<kind>.<pod uid or anonymous>`. Only the callback adds to them.
    #[serde(default)]
    pub acknowledgements: BTreeMap<String, Acknowledgement>,
    /// Acknowledgements that were rejected while the current request was open; counted by the
    /// callback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Rejected>,
    /// The ten most recent outcomes, newest first.
    #[serde(default)]
    #[schemars(length(max = 10))]
    pub history: Vec<HistoryEntry>,
}

impl KrakeHookStatus {
    /// The request that is about the whole workload; there is one at most.
    pub fn workload_request(&self) -> Option<&ShutdownRequest> {
        let mut requests = self.requests.values();
        requests.find(|request| request.scope == Scope::Workload)
    }

    /// The same, to be changed.
    pub fn workload_request_mut(&mut self) -> Option<&mut ShutdownRequest> {
        let mut requests = self.requests.values_mut();
        requests.find(|request| request.scope == Scope::Workload)
    }

    /// Puts a request about the whole workload in the place of the one before.
    pub fn set_workload_request(&mut self, request: Option<ShutdownRequest>) {
        self.requests
            .retain(|_, request| request.scope != Scope::Workload);
        let request = request.map(|request| (request.id.clone(), request));
        self.requests.extend(request);
    }
}

/// The state of a hook.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The workload does not exist (yet), or the hook cannot act on it; the condition `Ready` says
    /// why.
    Pending,
    /// Pods are being given token, URL and certificate.
    Injecting,
    /// Pods have all they need; the hook holds no removals.
    Ready,
    /// A removal of the workload will wait.
    Armed,
    /// A removal is waiting for the acknowledgement.
    Waiting,
    /// The deadline has passed, and the removal keeps waiting.
    Retained,
    /// `state: Stopped`: the app has been asked to shut down, or the workload is being scaled to
    /// zero.
    Stopping,
    /// `state: Stopped`: the workload is stopped.
    Stopped,
    /// A removal was released.
    Released,
    /// The workload ran to completion.
    Completed,
    /// The hook is being deleted.
    Deleting,
}

/// The workload a status is about.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ObservedWorkload {
    /// Uid of the workload. When it changes, requests, completion and deletion are cleared.
    pub uid: String,
}

/// The token Secret as the operator last wrote it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TokenSecret {
    /// Uid of the Secret.
    pub secret_uid: String,
    /// resourceVersion of the Secret after the operator's last write.
    pub resource_version: String,
    /// What its token was derived from: id of the master key and uid of the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub derived_for: Option<String>,
    /// When the token of this master key replaced one of another key, by the API server's clock:
    /// older pods may still have that one. Absent if there never was another key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// How the app is called.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RememberedCallOut {
    /// Target port: a number, or the name of a container port.
    pub port: IntOrString,
    /// Path of the request.
    pub path: String,
    /// Scheme of the request.
    pub scheme: Scheme,
    /// Labels of the pods to call.
    pub selector: BTreeMap<String, String>,
}

/// How a workload is being deleted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// Background: its dependents are deleted after it.
    Background,
    /// Foreground: its dependents are deleted before it.
    Foreground,
    /// Orphan: its dependents are left.
    Orphan,
}

/// One shutdown request.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ShutdownRequest {
    /// Id of the request; the app sees it as `Krake-Request-Id`.
    pub id: String,
    /// What has to shut down.
    pub scope: Scope,
    /// Whether it is still waiting.
    pub state: RequestState,
    /// Why the app was asked to shut down.
    pub trigger: Trigger,
    /// How many requests this workload had before.
    #[serde(default)]
    pub ordinal: i64,
    /// Uid of the workload that was asked.
    #[serde(rename = "workloadUID")]
    pub workload_uid: String,
    /// Uids of the pods that could acknowledge when the request opened.
    #[serde(default)]
    pub pods: Vec<String>,
    /// When it was opened.
    pub opened_at: Time,
    /// What the spec said when the request was opened; it applies until the request is closed.
    pub terms: Terms,
    /// The leader that counts the deadline. When another replica takes over, it calls the app again
    /// and grants the rest of the time.
    pub leader: String,
    /// The end of the round, by the leader's clock. Absent until the first call of the round has
    /// ended, and once the request is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Time>,
    /// Number of the round, starting at 1.
    pub round: i64,
    /// The most recent call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_attempt: Option<Attempt>,
    /// How many calls of this round have ended, of those made by this leader.
    #[serde(default)]
    pub attempts: i64,
    /// With `fanOut: EachPod`, the result of calling each pod in this round: at most 32 pods,
    /// failed ones first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub called_pods: Vec<CalledPod>,
    /// The annotation `hooks.krake.dev/skip` has no reason, and an Event has reported that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skip_lacks_reason: bool,
    /// Its outcome, once closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Details of the outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What a request is about.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The workload with all its pods.
    Workload,
}

/// Whether a request is still waiting.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestState {
    /// It is waiting: acknowledgements count.
    Open,
    /// It has ended: acknowledgements come too late.
    Closed,
}

/// Why an app was asked to shut down.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The workload is being deleted.
    Delete,
    /// `state: Stopped`.
    Stop,
    /// The workload is complete, and `shutdownFirst` is set.
    Complete,
}

impl Trigger {
    /// The word in the status. Request ids are derived from it: if it changed, an upgrade would ask
    /// every app again.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "Delete",
            Self::Stop => "Stop",
            Self::Complete => "Complete",
        }
    }
}

/// What the spec said when a request was opened.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    /// Length of a round, in seconds.
    pub timeout_seconds: i64,
    /// How often the round is repeated.
    pub retries: i64,
    /// What happens at the deadline of the last round.
    pub on_timeout: OnTimeout,
    /// How many pods have to acknowledge.
    pub acknowledgements: Quorum,
    /// Whether the app is called.
    pub calls: bool,
    /// How many pods are called.
    #[serde(default)]
    pub fan_out: FanOut,
}

/// One call to the app.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// When it ended.
    pub at: Time,
    /// Name of the pod that was called; absent if there was none to call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// HTTP status, or what went wrong: `Timeout`, `ConnectFailed`, `NoAnswer`, `BadPath`,
    /// `NobodyToCall`.
    pub code: String,
}

/// The result of calling one pod.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CalledPod {
    /// Name of the pod.
    pub pod: String,
    /// When the most recent call ended.
    pub at: Time,
    /// The result of that call, as in `lastAttempt`.
    pub code: String,
    /// How many calls of this pod have ended.
    pub attempts: i64,
}

/// How a removal was released, or a request or completion ended.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The app acknowledged.
    Acknowledged,
    /// The app did not acknowledge in time.
    TimedOut,
    /// The app did not acknowledge in time; the removal keeps waiting.
    Retained,
    /// A person released it with `hooks.krake.dev/skip`.
    Skipped,
    /// No pod was running that could have acknowledged.
    NothingRunning,
    /// The namespace is being deleted, and Kubernetes does not wait for apps there.
    NamespaceTerminating,
    /// The deletion leaves the pods running.
    Orphaned,
    /// The hook was deleted, or no longer holds the workload.
    HookGone,
    /// The workload was complete.
    Completed,
    /// `state` was set back to `Running` before the app had acknowledged.
    Cancelled,
}

impl Outcome {
    /// The word in Events and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acknowledged => "Acknowledged",
            Self::TimedOut => "TimedOut",
            Self::Retained => "Retained",
            Self::Skipped => "Skipped",
            Self::NothingRunning => "NothingRunning",
            Self::NamespaceTerminating => "NamespaceTerminating",
            Self::Orphaned => "Orphaned",
            Self::HookGone => "HookGone",
            Self::Completed => "Completed",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// A workload that ran to completion.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Completion {
    /// Uid of the workload.
    #[serde(rename = "workloadUID")]
    pub workload_uid: String,
    /// Hash of the pod template without the injected entries. It identifies the same work when it
    /// is created again.
    pub template_hash: String,
    /// When enough pods had reported it.
    pub at: Time,
    /// What was done with the workload.
    pub action: CompleteAction,
    /// Id of the shutdown request that comes first, with `shutdownFirst`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// With `ScaleToZero`, uids of the pods of this run: if the workload is scaled up again, their
    /// acknowledgements do not count for the next run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<String>,
}

/// A workload that the operator has scaled to zero, or is about to.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Stopped {
    /// Uid of the workload.
    #[serde(rename = "workloadUID")]
    pub workload_uid: String,
    /// Why: `Stop` or `Complete`.
    pub because: Trigger,
    /// Replicas to restore with `state: Running`; absent for a Job, which is suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
    /// When it was first observed at zero; absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

/// One acknowledgement.
// Written as a whole: field by field, its managed fields would take more room than itself, and each
// further acknowledgement longer.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Acknowledgement {
    /// When it was accepted.
    pub at: Time,
    /// Id of the request that it answers; shutdown only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Uid of the workload it is about.
    #[serde(rename = "workloadUID")]
    pub workload_uid: String,
    /// The action in the spec at that moment; complete only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<CompleteAction>,
    /// The quorum policy in the spec at that moment; complete only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<QuorumPolicy>,
    /// What the app reports. `Failure` does not count.
    pub result: AckResult,
    /// The app's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// Serial number of the client certificate; absent without mTLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

/// Acknowledgements that were rejected while a request was open; the hook's Events say why.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Rejected {
    /// Id of the request that was open.
    pub request: String,
    /// How many, approximately: each replica adds its own count every 30 s.
    pub count: i64,
    /// When the count last changed.
    pub at: Time,
}

/// What an app reports.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckResult {
    /// It has shut down, or is complete: the acknowledgement counts.
    #[default]
    Success,
    /// It has failed: the acknowledgement is stored and shown, and does not count.
    Failure,
}

/// One outcome.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// The outcome.
    pub outcome: Outcome,
    /// Why the app was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    /// Id of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// When it ended.
    pub at: Time,
    /// Details of the outcome.
    pub message: String,
}
