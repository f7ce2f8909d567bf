//! `HookAuthority`: what there is to see of the certificate authority; one, made by the operator.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::condition::ConditionType;

/// The HookAuthority `krake-hooks` in the operator's namespace shows which certificate authority
/// signs, until when, and whether a rotation is in progress. The operator creates it and writes its
/// status; the authorities themselves are in the Secret `krake-hooks-ca`. The annotation
/// `hooks.krake.dev/rotate=now` (any value other than the last one) replaces the operator's own
/// authority without a failed acknowledgement; `hooks.krake.dev/rotate-master-key` likewise
/// replaces the master key that tokens are derived from.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "hooks.krake.dev",
    version = "v1alpha1",
    kind = "HookAuthority",
    plural = "hookauthorities",
    namespaced,
    status = "HookAuthorityStatus",
    derive = "PartialEq",
    shortname = "ha",
    category = "krake",
    doc = "The certificate authority of the callback and its clients, shown by the operator.",
    validation = Rule::new("self.metadata.name == 'krake-hooks'").message("metadata.name: the operator shows its authority in the HookAuthority krake-hooks of its own namespace, and reads no other"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Signer", type_ = "string", json_path = ".status.signer"),
    printcolumn(name = "Source", type_ = "string", json_path = ".status.source"),
    printcolumn(name = "SourceReady", type_ = "string", json_path = r#".status.conditions[?(@.type=="SourceReady")].status"#),
    printcolumn(name = "Until", type_ = "string", json_path = ".status.notAfter"),
    printcolumn(name = "Rotation", type_ = "string", json_path = r#".status.conditions[?(@.type=="Rotating")].reason"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct HookAuthoritySpec {}

/// The authorities and keys in use.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HookAuthorityStatus {
    /// `Ready`: there is an authority that signs. `SourceReady`: the user's own authority is valid,
    /// or none is configured. `Rotating`: a new authority is about to sign, or an earlier one is
    /// still trusted. `Expiring`: the user's own authority is about to expire, and only the user
    /// can replace it. `KeysRotating`: a new master key is about to be used, or tokens of an
    /// earlier one are still valid.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// First 16 digits of the SHA-256 fingerprint of the certificate that signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// Where the signing authority comes from: `Operator`, or the name of the user's Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The end of its validity; it signs nothing beyond that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
    /// When the operator's own authority is due to be replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation_time: Option<Time>,
    /// Value of `hooks.krake.dev/rotate` that was last acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_for: Option<String>,
    /// All authorities in use, in the order in which they sign.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["fingerprint"]))]
    pub authorities: Vec<AuthorityInUse>,
    /// The master keys that tokens are derived from, in the order in which they are used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id"]))]
    pub master_keys: Vec<MasterKeyInUse>,
}

impl HookAuthorityStatus {
    /// What it says of the certificate authority: the master keys have another writer.
    pub fn without_keys(&self) -> Self {
        let mut rest = self.clone();
        rest.master_keys.clear();
        let keys = ConditionType::KeysRotating.as_str();
        rest.conditions.retain(|condition| condition.type_ != keys);
        rest
    }
}

/// One master key.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MasterKeyInUse {
    /// Its id, which its tokens begin with; it reveals nothing about the key.
    pub id: String,
    /// What it is used for.
    pub phase: AuthorityPhase,
}

/// One authority.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityInUse {
    /// SHA-256 fingerprint of the certificate that signs, hexadecimal.
    pub fingerprint: String,
    /// Subject of that certificate.
    pub subject: String,
    /// What it is used for.
    pub phase: AuthorityPhase,
    /// Where it comes from: `Operator`, or the name of the user's Secret.
    pub source: String,
    /// Start of its validity.
    pub not_before: Time,
    /// End of its validity.
    pub not_after: Time,
    /// When it entered this phase.
    pub since: Time,
}

/// What an authority, or a master key, is used for.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthorityPhase {
    /// It is trusted, and does not sign yet.
    Prepared,
    /// It signs.
    Active,
    /// It no longer signs, and is trusted until nothing that it has signed is in use.
    Retiring,
}

impl AuthorityPhase {
    /// The word in status and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "Prepared",
            Self::Active => "Active",
            Self::Retiring => "Retiring",
        }
    }
}
