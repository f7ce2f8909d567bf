//! What a decision about a hook is made from ([`Seen`]), what it can ask for ([`Effect`]), and what
//! becomes known when an effect has been carried out ([`Fact`]).
//!
//! A reconcile repeats *decide, carry out, absorb the facts* until there is nothing left to do, and
//! the convergence test does the same without a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

use super::entries::Entries;
use super::lease::Predecessor;
use super::workload::Workload;
use crate::api::kind::{DependentKind, WorkloadKind};
use crate::api::krake_hook::State;
use crate::api::status::{Attempt, RequestState, ShutdownRequest, TokenSecret};
use crate::api::{HookCertificate, HookGuard, HookKind, KrakeHook, KrakeHookStatus, names};
use crate::config::HooksConfig;

/// What an operator process knows of itself.
#[derive(Clone, Debug)]
pub struct Settings {
    /// URL that apps are given, without a trailing slash.
    pub endpoint: String,
    /// Whether the callback speaks TLS.
    pub tls: bool,
    /// PEM of the certificates that the callback's own is verified with.
    pub bundle: String,
    /// Id of the master key that signs tokens now.
    pub key_id: String,
    /// Defaults of the hooks.
    pub hooks: HooksConfig,
    /// This operator process; another one takes its requests over.
    pub leader: String,
    /// The one before it, and when it was last known to be there.
    pub predecessor: Option<Predecessor>,
}

/// A hook and everything that belongs to it, as seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The hook.
    pub hook: KrakeHook,
    /// The hook has gone since: nothing can be asked of it any more.
    pub hook_gone: bool,
    /// An older hook for the same workload.
    pub rival: Option<String>,
    /// The workload, read live.
    pub workload: Option<Workload>,
    /// ReplicaSets that carry the hook's label; read live while the workload is being deleted.
    pub replica_sets: Vec<ObjectMeta>,
    /// Pods that carry the hook's label, but for those of other workloads; read live while the workload
    /// is being deleted.
    pub pods: Vec<Pod>,
    /// Whether those were read live, and so after the workload; else before.
    pub looked_live: bool,
    /// Nodes of those pods that are gone or out of service; looked up while a removal is decided.
    pub lost_nodes: Vec<String>,
    /// The hook's guard.
    pub guard: Option<HookGuard>,
    /// The entries of the hook's ConfigMap.
    pub config_map: Option<Entries>,
    /// The hook's certificate.
    pub certificate: Option<HookCertificate>,
    /// The hook's canaries; read live while the workload is being deleted.
    pub canaries: Vec<ConfigMap>,
    /// The Service to call, if the spec names one and it exists.
    pub service: Option<Service>,
    /// Pods behind the Service; read live while a removal waits.
    pub callable: Vec<Pod>,
    /// Whether the namespace is being deleted.
    pub namespace_terminating: bool,
    /// Addresses that are never called, whatever a pod claims: of nodes and of the API server.
    pub never_called: BTreeSet<IpAddr>,
    /// What this process knows of its calls for the present request and round.
    pub calls: CallsMade,
    /// What is known of the hook's Secrets, which are never read.
    pub secrets: Secrets,
    /// When this process first saw that the hook is being deleted.
    pub leaving_since: Option<Timestamp>,
    /// When this process injected into the workload lately, oldest first.
    pub injections: Vec<Timestamp>,
    /// The token Secret, written but not yet recorded in the status.
    pub token: Option<TokenSecret>,
    /// A refusal of the API server or of the token Secret that the user has to hear about.
    pub refusal: Option<Refusal>,
    /// Effects that the API server has just refused.
    pub rejections: Vec<Rejection>,
}

/// This process's calls for one request and round, by uid of the pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CallsMade(pub BTreeMap<String, Called>);

/// This process's calls of one pod for one request and round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Called {
    /// One is open.
    pub open: bool,
    /// How many have ended.
    pub attempts: i64,
    /// The newest one that has ended.
    pub last: Option<Attempt>,
}

/// What is known of the hook's Secrets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Secrets {
    /// They were asked about a moment ago.
    #[default]
    AskedLately,
    /// They may be asked about.
    MayBeAsked,
    /// They were asked about just now: whether each is as it was written.
    Asked {
        /// The Secret with the token.
        token: bool,
        /// The Secret with the certificate.
        certificate: bool,
    },
}

/// Something that was asked for and refused for good until a person acts.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// A Secret of the needed name belongs to somebody else.
    SecretTaken {
        /// Name of the Secret.
        name: String,
        /// What the API server said.
        message: String,
    },
    /// The API server refuses to scale the workload.
    ScaleRejected {
        /// What the API server said.
        message: String,
    },
    /// The API server refuses the change to the workload.
    InjectionRejected {
        /// What the API server said.
        message: String,
    },
}

/// An effect that the API server refuses until a person acts: a quota, a policy, a webhook, a limit, or
/// a right that is missing.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejection {
    /// What was to be done.
    pub effect: Effect,
    /// To what.
    pub object: String,
    /// What the API server said.
    pub message: String,
}

/// Something to be done; data, carried out by `cluster::apply`.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Put our finalizer on the hook.
    AddHookFinalizer,
    /// Take our finalizer off the hook.
    RemoveHookFinalizer,
    /// Create the guard, or find that it is there.
    CreateGuard,
    /// Apply the ConfigMap with these entries.
    ApplyConfigMap(BTreeMap<String, String>),
    /// Write the token Secret; the token itself is derived where it is written.
    WriteToken {
        /// Uid of the workload the token is for.
        workload_uid: String,
        /// What to record about the derivation.
        derived_for: String,
        /// The Secret as last written, if it was.
        recorded: Option<TokenSecret>,
    },
    /// Ask, by dry runs, whether the hook's Secrets are as they were written.
    AskAboutSecrets,
    /// Have the certificate issued again: its Secret is gone, or somebody's edit stands in it.
    RenewCertificate {
        /// Value of the annotation that asks for it.
        because: String,
    },
    /// Apply the hook's certificate.
    ApplyCertificate,
    /// Write the status, if nobody else has meanwhile.
    WriteStatus(Box<KrakeHookStatus>),
    /// Server-side apply of injection and finalizer to the workload.
    ApplyInjection(Value),
    /// A JSON patch that takes entries of ours out of the workload, which others own too.
    RemoveEntries(Vec<Value>),
    /// Create the canary of this workload.
    CreateCanary {
        /// Uid of the workload.
        workload_uid: String,
    },
    /// Take finalizer and canary away.
    RemoveCanary {
        /// Name of the ConfigMap.
        name: String,
    },
    /// Add the guard to what the workload made.
    Guard(Dependent),
    /// Make the guard the controller of what the workload made, if it still has none: nobody else can
    /// adopt it then.
    Control(Dependent),
    /// Take the guard off what the workload made.
    Unguard(Dependent),
    /// Delete what the workload made, if it is still the one that was seen.
    DeleteDependent {
        /// Which.
        dependent: Dependent,
        /// resourceVersion it was seen with.
        resource_version: String,
        /// Whether its pods go first.
        foreground: bool,
    },
    /// Take our finalizer off the workload.
    ReleaseWorkload {
        /// Uid of the workload.
        uid: String,
    },
    /// Delete the workload, in the background.
    DeleteWorkload {
        /// Uid of the workload.
        uid: String,
    },
    /// Scale the workload to zero, or suspend it, if it is still as it was seen.
    Stop {
        /// resourceVersion it was seen with.
        resource_version: String,
    },
    /// Let the stopped workload run again, if it is still as it was seen.
    Resume {
        /// resourceVersion it was seen with.
        resource_version: String,
        /// How many replicas it gets; none for one that was suspended.
        replicas: Option<i64>,
    },
    /// Call the app; the answer becomes known later.
    CallOut(Box<CallOutOrder>),
    /// Remove acknowledgements that are decided on, each only if it still has this value.
    Prune(Vec<(String, Value)>),
    /// Tell people.
    Event(Notice),
    /// Take the guard's finalizer off and delete the guard.
    DeleteGuard,
}

impl Effect {
    /// Whether it makes a removal wait.
    pub fn holds(&self) -> bool {
        matches!(
            self,
            Self::Guard(_) | Self::Control(_) | Self::CreateCanary { .. }
        )
    }
}

/// Something that the workload made and a guard is put on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependent {
    /// Kind.
    pub kind: DependentKind,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

/// A call to the app.
#[derive(Clone, Debug, PartialEq)]
pub struct CallOutOrder {
    /// Id of the request.
    pub request: String,
    /// Number of the round.
    pub round: i64,
    /// Name of the pod.
    pub pod: String,
    /// Uid of the pod.
    pub pod_uid: String,
    /// Address of the pod.
    pub address: IpAddr,
    /// Port of the pod.
    pub port: u16,
    /// Path of the request.
    pub path: String,
    /// The round ends here, or would if this were its first call.
    pub deadline: Timestamp,
}

/// An Event.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// Warning or Normal.
    pub warning: bool,
    /// Stable word.
    pub reason: &'static str,
    /// Sentence.
    pub note: String,
    /// Whether the workload gets it too.
    pub on_workload: bool,
}

/// What is known after an effect.
#[derive(Clone, Debug)]
pub enum Fact {
    /// Nothing that a decision needs.
    Nothing,
    /// The hook is this now.
    Hook(Box<KrakeHook>),
    /// The hook is gone.
    HookGone,
    /// The guard is this now.
    Guard(Box<HookGuard>),
    /// The guard is gone.
    GuardGone,
    /// The entries of the ConfigMap are these now.
    ConfigMap(Entries),
    /// The token Secret was written.
    Token(TokenSecret),
    /// Whether token and certificate Secret are as they were written.
    Secrets(Secrets),
    /// The certificate is this now.
    Certificate(Box<HookCertificate>),
    /// The workload is this now.
    Workload(Box<Workload>),
    /// The workload is gone.
    WorkloadGone,
    /// The canary is this now.
    Canary(Box<ConfigMap>),
    /// The canary is gone.
    CanaryGone(String),
    /// Metadata of what the workload made is this now.
    Dependent(DependentKind, Box<ObjectMeta>),
    /// What the workload made under this uid is gone, or going.
    DependentGone(String),
    /// It was refused for good.
    Refused(Refusal),
    /// So was this effect, and what follows it was not tried.
    Rejected(Box<Rejection>),
}

/// When to look again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Next {
    /// When something changes.
    #[default]
    AwaitChange,
    /// At this time, or when something changes.
    At(Timestamp),
}

impl Next {
    /// The earlier of two.
    pub fn earliest(self, other: Self) -> Self {
        match (self, other) {
            (Self::At(a), Self::At(b)) => Self::At(a.min(b)),
            (Self::At(a), Self::AwaitChange) | (Self::AwaitChange, Self::At(a)) => Self::At(a),
            (Self::AwaitChange, Self::AwaitChange) => Self::AwaitChange,
        }
    }
}

/// What is to be done, in this order, and when to look again.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What is to be done. A status comes before whatever depends on it being written.
    pub effects: Vec<Effect>,
    /// When to look again.
    pub next: Next,
}

impl CallsMade {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.0.values().filter(|called| called.open).count()
    }

    /// How many have ended.
    pub fn ended(&self) -> i64 {
        self.0.values().map(|called| called.attempts).sum()
    }

    /// What came of them: the newest end for each pod.
    pub fn ends(&self) -> impl Iterator<Item = &Attempt> {
        self.0.values().filter_map(|called| called.last.as_ref())
    }

    /// A call of this pod begins.
    pub fn begin(&mut self, pod_uid: &str) {
        self.0.entry(pod_uid.to_owned()).or_default().open = true;
    }

    /// A call of this pod has ended.
    pub fn end(&mut self, pod_uid: &str, attempt: Attempt) {
        let called = self.0.entry(pod_uid.to_owned()).or_default();
        called.open = false;
        called.attempts += 1;
        called.last = Some(attempt);
    }
}

impl Seen {
    /// The hook's uid.
    pub fn hook_uid(&self) -> &str {
        self.hook.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The hook's name.
    pub fn hook_name(&self) -> &str {
        self.hook.metadata.name.as_deref().unwrap_or_default()
    }

    /// The hook's namespace.
    pub fn namespace(&self) -> &str {
        self.hook.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Whether what is decided depends on which pods there are just now, so that no cache may tell.
    pub fn depends_on_pods(&self) -> bool {
        let status = self.hook.status.as_ref();
        let open = |request: &ShutdownRequest| request.state == RequestState::Open;
        let completing = |key: &String| key.starts_with(HookKind::Complete.as_str());
        self.hook.spec.state == State::Stopped
            || status.is_some_and(|status| {
                status.stopped.is_some()
                    || status.requests.values().any(open)
                    || status.acknowledgements.keys().any(completing)
            })
    }

    /// The kind of the hook's workload.
    pub fn kind(&self) -> Option<WorkloadKind> {
        self.hook.spec.workload.known_kind()
    }

    /// What carries the guard, or should.
    pub fn dependents(&self) -> impl Iterator<Item = (DependentKind, &ObjectMeta)> {
        dependents(self.kind(), &self.replica_sets, &self.pods)
    }

    /// resourceVersion that what the workload made was seen with.
    pub fn version_of(&self, dependent: &Dependent) -> Option<&str> {
        version_of(self.dependents(), &dependent.uid)
    }

    /// The hook's status, or an empty one.
    pub fn status(&self) -> KrakeHookStatus {
        self.hook.status.clone().unwrap_or_default()
    }

    /// Takes in what became known.
    pub fn absorb(&mut self, fact: Fact) {
        match fact {
            Fact::Nothing => {}
            Fact::Hook(hook) => self.hook = *hook,
            Fact::HookGone => self.hook_gone = true,
            Fact::Guard(guard) => self.guard = Some(*guard),
            Fact::GuardGone => self.guard = None,
            Fact::ConfigMap(entries) => self.config_map = Some(entries),
            Fact::Token(token) => {
                self.token = Some(token);
                if let Secrets::Asked { token, .. } = &mut self.secrets {
                    *token = true;
                }
            }
            Fact::Secrets(secrets) => self.secrets = secrets,
            Fact::Certificate(certificate) => self.certificate = Some(*certificate),
            Fact::Workload(workload) => self.workload = Some(*workload),
            Fact::WorkloadGone => self.workload = None,
            Fact::Canary(canary) => {
                self.canaries
                    .retain(|other| other.metadata.name != canary.metadata.name);
                self.canaries.push(*canary);
            }
            Fact::CanaryGone(name) => self
                .canaries
                .retain(|canary| canary.metadata.name.as_deref() != Some(&name)),
            Fact::Dependent(DependentKind::ReplicaSet, meta) => {
                self.replica_sets.retain(|other| other.uid != meta.uid);
                self.replica_sets.push(*meta);
            }
            Fact::Dependent(DependentKind::Pod, meta) => {
                let mut pods = self.pods.iter_mut();
                if let Some(pod) = pods.find(|pod| pod.metadata.uid == meta.uid) {
                    pod.metadata = *meta;
                }
            }
            Fact::DependentGone(uid) => {
                let other = |meta: &ObjectMeta| meta.uid.as_deref() != Some(&uid);
                self.replica_sets.retain(other);
                self.pods.retain(|pod| other(&pod.metadata));
            }
            Fact::Refused(refusal) => self.refusal = Some(refusal),
            Fact::Rejected(rejection) => self.rejections.push(*rejection),
        }
    }
}

/// resourceVersion of the one with this uid.
pub(super) fn version_of<'a>(
    mut dependents: impl Iterator<Item = (DependentKind, &'a ObjectMeta)>,
    uid: &str,
) -> Option<&'a str> {
    let (_, meta) = dependents.find(|(_, meta)| meta.uid.as_deref() == Some(uid))?;
    meta.resource_version.as_deref()
}

/// What of these carries the guard, or should, of a workload of this kind.
pub(super) fn dependents<'a>(
    kind: Option<WorkloadKind>,
    replica_sets: &'a [ObjectMeta],
    pods: &'a [Pod],
) -> impl Iterator<Item = (DependentKind, &'a ObjectMeta)> {
    let guarded = kind.and_then(|kind| kind.traits().guarded);
    let sets = replica_sets.iter();
    let sets = sets.map(|meta| (DependentKind::ReplicaSet, meta));
    let pods = pods.iter().map(|pod| (DependentKind::Pod, &pod.metadata));
    sets.chain(pods)
        .filter(move |(kind, _)| guarded == Some(*kind))
}

/// The controlling owner of an object, unless that is a guard: one that keeps others from adopting it.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    let mut controllers = controllers(meta);
    controllers.find(|owner| owner.kind != HookGuard::KIND)
}

/// Whether an object has a controller, be it a guard: nobody can adopt it.
pub fn is_controlled(meta: &ObjectMeta) -> bool {
    controllers(meta).next().is_some()
}

fn controllers(meta: &ObjectMeta) -> impl Iterator<Item = &OwnerReference> {
    let owners = meta.owner_references.iter().flatten();
    owners.filter(|owner| owner.controller == Some(true))
}

/// Whether a hook is terminating and no longer carries our finalizer: nothing acts on it any more, even if
/// another finalizer keeps it.
pub fn is_released(hook: &ObjectMeta) -> bool {
    hook.deletion_timestamp.is_some() && !has_finalizer(hook, names::HOOK_FINALIZER)
}

/// Whether an object has an owner of this uid.
pub fn is_owned_by(meta: &ObjectMeta, uid: &str) -> bool {
    meta.owner_references
        .iter()
        .flatten()
        .any(|owner| owner.uid == uid)
}

/// Whether an object carries a finalizer.
pub fn has_finalizer(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|f| f == finalizer)
}

/// An annotation of an object.
pub fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}
