//! Conditions: their types and reasons as enums, and the one way to set them.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Type of a condition on a `KrakeHook` or `HookCertificate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionType {
    /// The hook does what its spec asks for.
    Ready,
    /// Every running pod of the workload has token, URL and certificate.
    Injected,
    /// The client certificate is issued and recorded.
    CertificateReady,
    /// A removal of the workload will wait.
    Armed,
    /// A removal is waiting right now.
    Blocking,
    /// This workload, created again, ran to completion once before.
    Completed,
    /// Somebody else keeps taking our entries out of the workload.
    InjectionContested,
    /// `HookCertificate`: a certificate is being issued.
    Issuing,
    /// `HookAuthority`: the user's own authority is good, or none is configured.
    SourceReady,
    /// `HookAuthority`: another authority is about to sign, or one that did is still trusted.
    Rotating,
    /// `HookAuthority`: the user's own authority nears its end.
    Expiring,
    /// `HookAuthority`: another master key is about to sign, or tokens of an earlier one are good.
    KeysRotating,
}

/// Why a condition has its status: stable words that alerts and scripts can match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// All is as the spec asks.
    AsSpecified,
    /// The workload does not exist (yet).
    WorkloadNotFound,
    /// An older hook has this workload.
    WorkloadTaken,
    /// Only another version knows workloads of this kind.
    WorkloadUnsupported,
    /// Another object controls the workload, and would undo what is done to it.
    WorkloadControlled,
    /// The workload is being deleted and was not armed in time.
    WorkloadDeleting,
    /// The workload carries `hooks.krake.dev/hook: disabled`.
    Disabled,
    /// The user's template sets an environment variable that would be injected.
    EnvConflict,
    /// The user's template mounts something where the certificate would go.
    MountConflict,
    /// A container named in the spec is not in the template.
    ContainerNotFound,
    /// A Secret of the needed name belongs to somebody else.
    SecretConflict,
    /// The user's template has a label or an annotation that would be injected.
    LabelConflict,
    /// The pods with the injected template are not all there yet.
    RollingOut,
    /// The workload's controller cannot make pods.
    PodsNotCreated,
    /// Pods with the injected template do not start.
    PodsNotStarting,
    /// Pods with the injected template run, and do not become ready.
    PodsNotReady,
    /// The rollout has run out of its time.
    RolloutStuck,
    /// A container lists a variable before what it is made of.
    EnvOrder,
    /// The Deployment is paused: no pod gets the new template.
    RolloutPaused,
    /// The workload's strategy is `OnDelete`: only new pods get the new template.
    OnDelete,
    /// The workload's strategy has a partition: pods below it do not get the new template.
    Partitioned,
    /// The workload replaces no running pod: only new pods get the new template.
    PodsNotReplaced,
    /// The API server takes no change of the template: nothing is injected.
    TemplateImmutable,
    /// The template is not injected yet.
    NotInjected,
    /// The certificate is being issued.
    Issuing,
    /// The certificate is issued.
    Issued,
    /// The certificate could not be issued.
    IssueFailed,
    /// The hook has no `shutdown`: nothing to arm.
    NotWanted,
    /// Guards, canary or finalizer are not all in place yet.
    Arming,
    /// Finalizer, guards and canary are in place.
    InPlace,
    /// The Service to call does not exist.
    ShutdownServiceNotFound,
    /// The Service is none by which pods can be called.
    ShutdownServiceUnsupported,
    /// The app's shutdown service answered 404 or 405.
    ShutdownServiceRefused,
    /// The app could not be called: no connection, no answer, or one that is no success.
    ShutdownServiceUnreachable,
    /// No pod can be called.
    NobodyToCall,
    /// Waiting for the app's acknowledgement.
    AwaitingAcknowledgement,
    /// The time is up and the removal is kept waiting (`onTimeout: Retain`).
    Retained,
    /// No removal is waiting.
    NothingHeld,
    /// `state: Stopped`, and it is.
    Stopped,
    /// `state: Stopped`, and somebody else has scaled the workload up again.
    StopContested,
    /// The removal was let go on.
    Released,
    /// The workload ran to completion.
    Complete,
    /// The hook is being deleted.
    HookDeleting,
    /// Another field manager takes our entries out.
    Contested,
    /// The API server refused our change to the workload.
    Rejected,
    /// The hook named by a `HookCertificate` does not exist.
    HookNotFound,
    /// What is wrong with the certificate authority, in the fault's own word.
    Authority(&'static str),
    /// The authority signs.
    Signing,
    /// No authority of the user's is configured: the operator makes its own.
    OperatorMade,
    /// The authority of the user's Secret is good, and in use or about to be.
    SourceGood,
    /// One authority is in use, and no other.
    NotRotating,
    /// The next authority is being written into every hook's ConfigMap.
    Spreading,
    /// Every hook's ConfigMap has the next authority; pods are being given it.
    Propagating,
    /// An earlier authority is trusted for what it has signed.
    Retiring,
    /// The authority does not near its end.
    NotExpiring,
    /// The authority nears its end.
    Expiring,
}

impl ConditionType {
    /// The word in `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Injected => "Injected",
            Self::CertificateReady => "CertificateReady",
            Self::Armed => "Armed",
            Self::Blocking => "Blocking",
            Self::Completed => "Completed",
            Self::InjectionContested => "InjectionContested",
            Self::Issuing => "Issuing",
            Self::SourceReady => "SourceReady",
            Self::Rotating => "Rotating",
            Self::Expiring => "Expiring",
            Self::KeysRotating => "KeysRotating",
        }
    }
}

impl Reason {
    /// The word in `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authority(word) => word,
            Self::AsSpecified => "AsSpecified",
            Self::WorkloadNotFound => "WorkloadNotFound",
            Self::WorkloadTaken => "WorkloadTaken",
            Self::WorkloadUnsupported => "WorkloadUnsupported",
            Self::WorkloadControlled => "WorkloadControlled",
            Self::WorkloadDeleting => "WorkloadDeleting",
            Self::Disabled => "Disabled",
            Self::EnvConflict => "EnvConflict",
            Self::MountConflict => "MountConflict",
            Self::ContainerNotFound => "ContainerNotFound",
            Self::LabelConflict => "LabelConflict",
            Self::PodsNotCreated => "PodsNotCreated",
            Self::PodsNotStarting => "PodsNotStarting",
            Self::PodsNotReady => "PodsNotReady",
            Self::RolloutStuck => "RolloutStuck",
            Self::EnvOrder => "EnvOrder",
            Self::ShutdownServiceUnreachable => "ShutdownServiceUnreachable",
            Self::SecretConflict => "SecretConflict",
            Self::RollingOut => "RollingOut",
            Self::RolloutPaused => "RolloutPaused",
            Self::OnDelete => "OnDelete",
            Self::Partitioned => "Partitioned",
            Self::PodsNotReplaced => "PodsNotReplaced",
            Self::TemplateImmutable => "TemplateImmutable",
            Self::NotInjected => "NotInjected",
            Self::Issuing => "Issuing",
            Self::Issued => "Issued",
            Self::IssueFailed => "IssueFailed",
            Self::NotWanted => "NotWanted",
            Self::Arming => "Arming",
            Self::InPlace => "InPlace",
            Self::ShutdownServiceNotFound => "ShutdownServiceNotFound",
            Self::ShutdownServiceUnsupported => "ShutdownServiceUnsupported",
            Self::ShutdownServiceRefused => "ShutdownServiceRefused",
            Self::NobodyToCall => "NobodyToCall",
            Self::AwaitingAcknowledgement => "AwaitingAcknowledgement",
            Self::Retained => "Retained",
            Self::NothingHeld => "NothingHeld",
            Self::Stopped => "Stopped",
            Self::StopContested => "StopContested",
            Self::Released => "Released",
            Self::Complete => "Complete",
            Self::HookDeleting => "HookDeleting",
            Self::Contested => "Contested",
            Self::Rejected => "Rejected",
            Self::HookNotFound => "HookNotFound",
            Self::Signing => "Signing",
            Self::OperatorMade => "OperatorMade",
            Self::SourceGood => "SourceGood",
            Self::NotRotating => "NotRotating",
            Self::Spreading => "Spreading",
            Self::Propagating => "Propagating",
            Self::Retiring => "Retiring",
            Self::NotExpiring => "NotExpiring",
            Self::Expiring => "Expiring",
        }
    }
}

/// A condition before it knows when it last changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which condition.
    pub kind: ConditionType,
    /// True or False; there is no Unknown: not knowing is a reason to be False.
    pub holds: bool,
    /// Why, for machines.
    pub reason: Reason,
    /// Why and what to do, for people.
    pub message: String,
}

impl Finding {
    /// A condition that is True.
    pub fn yes(kind: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            kind,
            holds: true,
            reason,
            message: message.into(),
        }
    }

    /// A condition that is False.
    pub fn no(kind: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            kind,
            holds: false,
            reason,
            message: message.into(),
        }
    }
}

/// Turns findings into conditions.
pub fn conditions(
    findings: &[Finding],
    previous: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    findings
        .iter()
        .map(|finding| condition(finding, previous, generation, now))
        .collect()
}

/// Turns a finding into a condition: `lastTransitionTime` moves only when the status does.
pub fn condition(
    finding: &Finding,
    previous: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let status = if finding.holds { "True" } else { "False" };
    let since = find(previous, finding.kind).filter(|old| old.status == status);
    Condition {
        type_: finding.kind.as_str().to_owned(),
        status: status.to_owned(),
        reason: finding.reason.as_str().to_owned(),
        message: finding.message.clone(),
        last_transition_time: since.map_or(Time(now), |old| old.last_transition_time.clone()),
        observed_generation: generation,
    }
}

/// The named condition, if it is there.
pub fn find(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|c| c.type_ == kind.as_str())
}

/// Whether the named condition is there for this reason.
pub fn is_because(conditions: &[Condition], kind: ConditionType, reason: Reason) -> bool {
    find(conditions, kind).is_some_and(|c| c.reason == reason.as_str())
}

/// Whether the named condition is True.
pub fn is_true(conditions: &[Condition], kind: ConditionType) -> bool {
    find(conditions, kind).is_some_and(|c| c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let (then, now) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(60).unwrap());
        let wait = Finding::no(ConditionType::Ready, Reason::Arming, "arming");
        let before = conditions(&[wait], &[], Some(1), then);
        let same = Finding::no(ConditionType::Ready, Reason::RollingOut, "rolling");
        let kept = conditions(&[same], &before, Some(2), now);
        assert_eq!(kept[0].last_transition_time, Time(then));
        assert_eq!(kept[0].reason, "RollingOut");
        let ready = Finding::yes(ConditionType::Ready, Reason::InPlace, "armed");
        let moved = conditions(&[ready], &kept, Some(2), now);
        assert_eq!(moved[0].last_transition_time, Time(now));
        assert!(is_true(&moved, ConditionType::Ready));
    }

    /// Alerts, scripts and the next version read them.
    #[test]
    fn the_words_of_reasons_are_kept() {
        for (reason, word) in [
            (Reason::AsSpecified, "AsSpecified"),
            (Reason::WorkloadNotFound, "WorkloadNotFound"),
            (Reason::WorkloadTaken, "WorkloadTaken"),
            (Reason::WorkloadUnsupported, "WorkloadUnsupported"),
            (Reason::WorkloadControlled, "WorkloadControlled"),
            (Reason::WorkloadDeleting, "WorkloadDeleting"),
            (Reason::Disabled, "Disabled"),
            (Reason::EnvConflict, "EnvConflict"),
            (Reason::MountConflict, "MountConflict"),
            (Reason::ContainerNotFound, "ContainerNotFound"),
            (Reason::LabelConflict, "LabelConflict"),
            (Reason::PodsNotCreated, "PodsNotCreated"),
            (Reason::PodsNotStarting, "PodsNotStarting"),
            (Reason::PodsNotReady, "PodsNotReady"),
            (Reason::RolloutStuck, "RolloutStuck"),
            (Reason::EnvOrder, "EnvOrder"),
            (
                Reason::ShutdownServiceUnreachable,
                "ShutdownServiceUnreachable",
            ),
            (Reason::SecretConflict, "SecretConflict"),
            (Reason::RollingOut, "RollingOut"),
            (Reason::RolloutPaused, "RolloutPaused"),
            (Reason::OnDelete, "OnDelete"),
            (Reason::Partitioned, "Partitioned"),
            (Reason::PodsNotReplaced, "PodsNotReplaced"),
            (Reason::TemplateImmutable, "TemplateImmutable"),
            (Reason::NotInjected, "NotInjected"),
            (Reason::Issuing, "Issuing"),
            (Reason::Issued, "Issued"),
            (Reason::IssueFailed, "IssueFailed"),
            (Reason::NotWanted, "NotWanted"),
            (Reason::Arming, "Arming"),
            (Reason::InPlace, "InPlace"),
            (Reason::ShutdownServiceNotFound, "ShutdownServiceNotFound"),
            (
                Reason::ShutdownServiceUnsupported,
                "ShutdownServiceUnsupported",
            ),
            (Reason::ShutdownServiceRefused, "ShutdownServiceRefused"),
            (Reason::NobodyToCall, "NobodyToCall"),
            (Reason::AwaitingAcknowledgement, "AwaitingAcknowledgement"),
            (Reason::Retained, "Retained"),
            (Reason::NothingHeld, "NothingHeld"),
            (Reason::Stopped, "Stopped"),
            (Reason::StopContested, "StopContested"),
            (Reason::Released, "Released"),
            (Reason::Complete, "Complete"),
            (Reason::HookDeleting, "HookDeleting"),
            (Reason::Contested, "Contested"),
            (Reason::Rejected, "Rejected"),
            (Reason::HookNotFound, "HookNotFound"),
            (Reason::Signing, "Signing"),
            (Reason::OperatorMade, "OperatorMade"),
            (Reason::SourceGood, "SourceGood"),
            (Reason::NotRotating, "NotRotating"),
            (Reason::Spreading, "Spreading"),
            (Reason::Propagating, "Propagating"),
            (Reason::Retiring, "Retiring"),
            (Reason::NotExpiring, "NotExpiring"),
            (Reason::Expiring, "Expiring"),
            (Reason::Authority("AuthorityMissing"), "AuthorityMissing"),
        ] {
            assert_eq!(reason.as_str(), word);
        }
    }
}
