//! `HookCertificate`: a client certificate for a hook. The operator makes one for each hook; users
//! may make their own, for a client outside the cluster that acknowledges for a hook.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::pki::KeyAlgorithm;

/// A HookCertificate requests a client certificate. The callback endpoint accepts acknowledgements
/// for one hook of the same namespace from its holder. The certificate is kept in a Secret. There
/// is no `commonName`: it is `hooks.user` of the operator's configuration.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "hooks.krake.dev",
    version = "v1alpha1",
    kind = "HookCertificate",
    namespaced,
    status = "HookCertificateStatus",
    derive = "PartialEq",
    shortname = "hc",
    category = "krake",
    doc = "A client certificate that may acknowledge for one KrakeHook of the same namespace.",
    validation = Rule::new("size(self.metadata.name) <= 250").message("metadata.name: at most 250 characters, so that the Secret's name fits"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Hook", type_ = "string", json_path = ".spec.hook.name"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.notAfter"),
    printcolumn(name = "Renewal", type_ = "string", json_path = ".status.renewalTime"),
    printcolumn(name = "Issuer", type_ = "string", json_path = ".status.issuerName"),
    printcolumn(name = "Secret", type_ = "string", json_path = ".status.secret.name", priority = "1"),
    printcolumn(name = "Fingerprint", type_ = "string", json_path = ".status.issuer", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("!has(self.durationSeconds) || !has(self.renewBeforeSeconds) || self.renewBeforeSeconds < self.durationSeconds").message("spec.renewBeforeSeconds must be less than spec.durationSeconds"),
    validation = Rule::new("self.hook == oldSelf.hook").message("spec.hook is immutable: delete the HookCertificate and create another one")
)]
#[serde(rename_all = "camelCase")]
pub struct HookCertificateSpec {
    /// The hook that this certificate may acknowledge for, in the same namespace. Immutable.
    pub hook: HookReference,
    /// Name of the Secret for `cert.pem`, `key.pem` and `bundle.pem`. A Secret that exists already
    /// must be the operator's. Default: the name of this object followed by `-tls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub secret_name: Option<String>,
    /// Lifetime of a certificate in seconds; it never outlives its issuer. Default:
    /// `certificates.durationSeconds` of the operator's configuration (90 days).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 600, max = 31_536_000))]
    pub duration_seconds: Option<i64>,
    /// How many seconds before it expires a certificate is renewed. Default: a third of its
    /// lifetime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 31_536_000))]
    pub renew_before_seconds: Option<i64>,
    /// The private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<PrivateKey>,
}

/// A hook in the same namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HookReference {
    /// Name of the `KrakeHook`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// How the private key is generated.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PrivateKey {
    /// Algorithm of the key. Default: `certificates.keyAlgorithm` of the operator's configuration
    /// (`ECDSA-P256`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<KeyAlgorithm>,
}

/// What was issued.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HookCertificateStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` and `Issuing`.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The Secret as the operator last wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<IssuedSecret>,
    /// Serial number of the certificate, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial_number: Option<String>,
    /// Start of the certificate's validity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
    /// End of the certificate's validity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
    /// When the certificate will be renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal_time: Option<Time>,
    /// How many certificates have been issued for this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// SHA-256 fingerprint of the certificate that signed it, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Subject of the certificate that signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_name: Option<String>,
    /// Uid of the hook the certificate names.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "hookUID")]
    pub hook_uid: Option<String>,
    /// Value of `hooks.krake.dev/renew` that was last acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewed_for: Option<String>,
    /// How many attempts in a row have been refused. The delay before the next one doubles each
    /// time, up to an hour; a changed spec is tried at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_attempts: Option<i64>,
    /// When the last attempt was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure_time: Option<Time>,
    /// Hash of the order that was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_order: Option<String>,
}

/// A Secret as the operator last wrote it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct IssuedSecret {
    /// Name of the Secret.
    pub name: String,
    /// Uid of the Secret.
    pub uid: String,
    /// resourceVersion of the Secret after the operator's last write.
    pub resource_version: String,
}
