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

/// What the operator answers.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KrakeHookStatus {
    /// Generation of the spec this status speaks about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Injected`, `CertificateReady`, `Armed`, `Blocking`, and where they apply
    /// `Completed` and `InjectionContested`.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// One word on where the hook stands, for `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The workload this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<ObservedWorkload>,
    /// The Secret with the token, as last written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenSecret>,
    /// How the app is called, remembered while armed: the Service may go before the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_out: Option<RememberedCallOut>,
    /// How the workload is being deleted, once seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion: Option<Deletion>,
    /// Requests to the app to shut down, by their id: those that are open, and the last one of the
    /// workload until another one opens.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, ShutdownRequest>,
    /// How many requests are open; absent if none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_requests: Option<i64>,
    /// The nearest deadline of the open requests; absent if each has passed, or is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Time>,
    /// The workload ran to completion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion: Option<Completion>,
    /// The workload was scaled to zero, or is about to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// Acknowledgements by `<kind>.<pod uid or anonymous>`; added by the callback alone.
    #[serde(default)]
    pub acknowledgements: BTreeMap<String, Acknowledgement>,
    /// Acknowledgements that were rejected while the newest request was open; counted by the callback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Rejected>,
    /// The newest ten outcomes, newest first.
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

/// Where a hook stands.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The workload does not exist (yet), or the hook may not act; see `Ready`.
    Pending,
    /// Pods are getting token, URL and certificate.
    Injecting,
    /// Pods have all they need; there is no removal to hold.
    Ready,
    /// A removal will wait.
    Armed,
    /// A removal waits for the acknowledgement.
    Waiting,
    /// The time is up and the removal keeps waiting.
    Retained,
    /// `state: Stopped`: the app is asked to shut down, or the workload is being scaled to zero.
    Stopping,
    /// `state: Stopped`: it is.
    Stopped,
    /// A removal was let go on.
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
    /// Uid of the workload; a new uid forgets requests, completion and deletion.
    pub uid: String,
}

/// The token Secret as last written.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TokenSecret {
    /// Uid of the Secret.
    pub secret_uid: String,
    /// resourceVersion of the Secret after our last write.
    pub resource_version: String,
    /// What the token in it was derived for: key id and workload uid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub derived_for: Option<String>,
    /// Since when it is made with that key, by the API server's clock: older pods may have the token of
    /// another key. Nothing where there never was another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// How the app is called.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RememberedCallOut {
    /// Target port, by number, or by name as the pods name it.
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
    /// Its dependents go after it.
    Background,
    /// Its dependents go before it.
    Foreground,
    /// Its dependents stay.
    Orphan,
}

/// One request to the app to shut down.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ShutdownRequest {
    /// Id of the request; the app sees it as `Krake-Request-Id`.
    pub id: String,
    /// What is to shut down.
    pub scope: Scope,
    /// Whether it still waits.
    pub state: RequestState,
    /// Why the app was asked.
    pub trigger: Trigger,
    /// How many times this workload had been asked before.
    #[serde(default)]
    pub ordinal: i64,
    /// Uid of the workload that was asked.
    #[serde(rename = "workloadUID")]
    pub workload_uid: String,
    /// Uids of the pods that could acknowledge when the request opened.
    #[serde(default)]
    pub pods: Vec<String>,
    /// When it opened.
    pub opened_at: Time,
    /// What the spec said when the request opened; it holds until the request is closed.
    pub terms: Terms,
    /// The operator process that counts the deadline; another one takes over by calling again, with what
    /// was left of the time.
    pub leader: String,
    /// The round ends here, by the clock of that process. Absent until the round's first call has
    /// finished, and when closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Time>,
    /// Number of the round, from 1.
    pub round: i64,
    /// The newest call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_attempt: Option<Attempt>,
    /// How many calls have ended in this round, made by this leader.
    #[serde(default)]
    pub attempts: i64,
    /// With `fanOut: EachPod`, what came of calling each pod in this round: at most 32, those with
    /// an error first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub called_pods: Vec<CalledPod>,
    /// The annotation `hooks.krake.dev/skip` is there without a reason, and an Event has said so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skip_lacks_reason: bool,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// In what words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What a request asks to shut down.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The workload with all its pods.
    Workload,
}

/// Whether a request still waits.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestState {
    /// Acknowledgements count.
    Open,
    /// Acknowledgements are late.
    Closed,
}

/// Why an app was asked to shut down.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Somebody deletes the workload.
    Delete,
    /// `state: Stopped`.
    Stop,
    /// The work is complete and `shutdownFirst` is set.
    Complete,
}

impl Trigger {
    /// The word in the status. Ids of requests are made of it: with another word, an app would be
    /// asked anew by every upgrade.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "Delete",
            Self::Stop => "Stop",
            Self::Complete => "Complete",
        }
    }
}

/// What the spec said when a request opened.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    /// Length of a round in seconds.
    pub timeout_seconds: i64,
    /// Further rounds.
    pub retries: i64,
    /// What happens when the time of the last round is up.
    pub on_timeout: OnTimeout,
    /// How many pods have to acknowledge.
    pub acknowledgements: Quorum,
    /// Whether the app is called at all.
    pub calls: bool,
    /// How many pods are called.
    #[serde(default)]
    pub fan_out: FanOut,
}

/// One call to the app.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// When it finished.
    pub at: Time,
    /// Name of the pod that was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// HTTP status, or what went wrong: `Timeout`, `ConnectFailed`, `NoAnswer`, `BadPath`,
    /// `NobodyToCall`.
    pub code: String,
}

/// What came of calling one pod.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CalledPod {
    /// Name of the pod.
    pub pod: String,
    /// When its newest call ended.
    pub at: Time,
    /// What came of it, as in `lastAttempt`.
    pub code: String,
    /// How many of its calls have ended.
    pub attempts: i64,
}

/// How a removal was let go on, or a hook's work ended.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The app acknowledged.
    Acknowledged,
    /// The app did not acknowledge in time.
    TimedOut,
    /// The app did not acknowledge in time; the removal keeps waiting.
    Retained,
    /// A person said so by `hooks.krake.dev/skip`.
    Skipped,
    /// No pod ran that could have acknowledged.
    NothingRunning,
    /// The namespace is being deleted; Kubernetes does not wait for anybody there.
    NamespaceTerminating,
    /// The deletion leaves the pods alone.
    Orphaned,
    /// The hook no longer wants a hold.
    HookGone,
    /// The workload had completed.
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
    /// Hash of the pod template without our entries; tells the same work created again.
    pub template_hash: String,
    /// When enough pods had said so.
    pub at: Time,
    /// What was done.
    pub action: CompleteAction,
    /// The request that runs first, with `shutdownFirst`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Uids of the pods that there were, with `ScaleToZero`: what they say is about this run, also
    /// if the workload is scaled up again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<String>,
}

/// A workload that was scaled to zero by this operator, or is about to be.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Stopped {
    /// Uid of the workload.
    #[serde(rename = "workloadUID")]
    pub workload_uid: String,
    /// Why: `Stop` or `Complete`.
    pub because: Trigger,
    /// What it had, and gets back with `state: Running`; absent for a Job, which is suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
    /// When it was seen at zero. Absent: not yet.
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
    /// When it was taken.
    pub at: Time,
    /// The request it answers; shutdown only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Uid of the workload it is about.
    #[serde(rename = "workloadUID")]
    pub workload_uid: String,
    /// What the spec asked for at that moment; complete only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<CompleteAction>,
    /// How many had to say so at that moment; complete only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<QuorumPolicy>,
    /// What the app says of its work. `Failure` does not count.
    pub result: AckResult,
    /// What the app says in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// Serial number of the client certificate; absent without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

/// Acknowledgements that were rejected while a request was open. The Events of the hook say why.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Rejected {
    /// The request that was open.
    pub request: String,
    /// How many, roughly: each replica adds its own every half a minute.
    pub count: i64,
    /// When it was last added to.
    pub at: Time,
}

/// What an app says of its work.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckResult {
    /// It counts.
    #[default]
    Success,
    /// It is stored and shown, and does not count.
    Failure,
}

/// One outcome.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// How it ended.
    pub outcome: Outcome,
    /// Why the app was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    /// Id of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// When it ended.
    pub at: Time,
    /// In what words.
    pub message: String,
}
