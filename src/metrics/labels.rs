//! Labels of the series. A variant's word is the label's value, which alerts match.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};

/// How an acknowledgement was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum AcknowledgementOutcome {
    /// Written: it counts.
    Accepted,
    /// It stood there already.
    Replayed,
    /// Written, and it says that the app failed: it does not count.
    Failure,
    /// 409: nobody asked.
    NotAsked,
    /// 409: the request is closed.
    Late,
    /// 409: pods are counted, and it does not say which one it is.
    Anonymous,
    /// 409: a Success counted already.
    AlreadyAcknowledged,
    /// 409: it names a pod that is not the workload's.
    ForeignPod,
    /// 401.
    Unauthorized,
    /// 503: the hook can hold no more.
    Full,
    /// 503: too many wait.
    Busy,
    /// 503: a failure, said too often.
    TooOften,
    /// 503: it could not be written.
    Unavailable,
}

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum CommitOutcome {
    /// The server has it.
    Written,
    /// Others wrote the hook at the same time.
    Raced,
    /// The hook had changed.
    Refused,
    /// The hook is gone.
    Gone,
    /// The server has not done it.
    Unavailable,
    /// No answer.
    Lost,
}

/// Why a hook was read from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum LookupReason {
    /// A caller was refused by what the cache says.
    Credentials,
    /// An acknowledgement would be refused by what was last seen.
    Decision,
    /// No cache knows whose a pod is.
    Pods,
    /// The answer to a write was lost.
    LostAnswer,
    /// Not read: too many callers were refused in this second.
    Limited,
}

/// Why a TLS handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum HandshakeFailure {
    /// It took too long.
    Timeout,
    /// The client hung up, or spoke no TLS we speak.
    Broken,
    /// No client certificate, or not one of ours.
    Certificate,
    /// There is no server certificate yet.
    NotReady,
}

/// Why a connection had no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum ConnectionLoss {
    /// It had one, and gave way to another connection.
    Displaced,
    /// None gave way to it.
    NoPlace,
}

/// Whose certificate was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Holder {
    /// A client's: a `HookCertificate`.
    Client,
    /// The endpoint's own.
    Endpoint,
}

/// How an issuance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum IssuanceOutcome {
    /// It is in its place.
    Issued,
    /// Its Secret belongs to somebody else.
    SecretConflict,
    /// The authority does not sign it, or the Secret is not taken.
    Failed,
    /// The API server or the way to it had a bad moment: it is tried again.
    Retried,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct IssuanceLabels {
    pub(super) holder: Holder,
    pub(super) cause: &'static str,
    pub(super) outcome: IssuanceOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct AcknowledgementLabels {
    pub(super) kind: &'static str,
    pub(super) outcome: AcknowledgementOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CommitLabels {
    pub(super) outcome: CommitOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LookupLabels {
    pub(super) reason: LookupReason,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct HandshakeLabels {
    pub(super) reason: HandshakeFailure,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LossLabels {
    pub(super) reason: ConnectionLoss,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReconcileLabels {
    pub(super) controller: &'static str,
    pub(super) class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct EffectLabels {
    pub(super) effect: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct KindLabels {
    pub(super) kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReleaseLabels {
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct AuthorityLabels {
    pub(super) fingerprint: String,
    pub(super) phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StepLabels {
    pub(super) step: &'static str,
}
