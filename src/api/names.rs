//! Every name this project writes into a cluster: labels, annotations, finalizers, field
//! managers, and the names of the objects it makes. A name that stands anywhere else is a bug.

/// API group of the custom resources, and prefix of every label and annotation.
pub const GROUP: &str = "hooks.krake.dev";

/// On the pod template, and so on ReplicaSets and pods: name of the hook. Watches are filtered by it.
pub const HOOK_LABEL: &str = "hooks.krake.dev/hook";
/// On the pod template, and so on pods: what was injected, see `decide::inject`.
pub const STAMP_ANNOTATION: &str = "hooks.krake.dev/stamp";
/// On hook or workload: release a removal now; the value is the reason, kept in the history.
pub const SKIP_ANNOTATION: &str = "hooks.krake.dev/skip";
/// On the workload, with the value [`DISABLED`]: eject and disarm.
pub const HOOK_ANNOTATION: &str = "hooks.krake.dev/hook";
/// On a workload that is complete, in the moment before it is deleted: name of the hook that says so.
/// The admission policies let nothing else be deleted but what a guard has held.
pub const COMPLETED_LABEL: &str = "hooks.krake.dev/completed";
/// Value of [`HOOK_ANNOTATION`] that takes a workload out of its hook's reach.
pub const DISABLED: &str = "disabled";
/// On a `HookCertificate`: issue anew now.
pub const RENEW_ANNOTATION: &str = "hooks.krake.dev/renew";
/// On the `HookAuthority`: put another master key in the place of the one that signs tokens.
pub const ROTATE_KEY_ANNOTATION: &str = "hooks.krake.dev/rotate-master-key";
/// On the `HookAuthority`: put another authority in the place of the one the operator has made.
pub const ROTATE_ANNOTATION: &str = "hooks.krake.dev/rotate";
/// On the Lease: the term in which it was last written.
pub const TERM_ANNOTATION: &str = "hooks.krake.dev/term";
/// On our Secrets: uid of the hook, or of the user's own `HookCertificate`, they belong to.
pub const OWNER_LABEL: &str = "hooks.krake.dev/owner";
/// On canaries: uid of the hook they stand for.
pub const CANARY_LABEL: &str = "hooks.krake.dev/canary";
/// The recommended Kubernetes label that says who made an object.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY_LABEL`] on every object this operator makes.
pub const MANAGED_BY: &str = "krake-hooks";

/// Finalizer on the workload while its removal has to wait.
pub const SHUTDOWN_FINALIZER: &str = "hooks.krake.dev/shutdown";
/// Finalizer on the hook: it outlives the sweep that deletes it together with its workload.
pub const HOOK_FINALIZER: &str = "hooks.krake.dev/hook";
/// Finalizer on the `HookGuard`: it outlives everything it guards.
pub const GUARD_FINALIZER: &str = "hooks.krake.dev/guard";
/// Finalizer on the canary: what becomes of its ownerReference stays readable.
pub const CANARY_FINALIZER: &str = "hooks.krake.dev/canary";
/// Kubernetes' own finalizer: dependents are to be orphaned.
pub const ORPHAN_FINALIZER: &str = "orphan";
/// Kubernetes' own finalizer: dependents go first.
pub const FOREGROUND_FINALIZER: &str = "foregroundDeletion";

/// Kubernetes' own taint: the node is down, and nobody expects anything of it.
pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Field manager of everything injected into a workload. An empty apply by it ejects.
pub const INJECT_MANAGER: &str = "krake-hooks/inject";
/// Field manager of replicas that we have set.
pub const SCALE_MANAGER: &str = "krake-hooks/scale";
/// Field manager of guards on what the workload owns.
pub const GUARD_MANAGER: &str = "krake-hooks/guard";
/// Field manager of objects that are ours alone, and of the hook's status.
pub const CONTROLLER_MANAGER: &str = "krake-hooks";
/// Field manager of acknowledgements.
pub const CALLBACK_MANAGER: &str = "krake-hooks/callback";
/// Field manager of the certificate controller.
pub const CERTIFICATE_MANAGER: &str = "krake-hooks/certificate";

/// Field manager of the `HookAuthority`.
pub const AUTHORITY_MANAGER: &str = "krake-hooks/authority";
/// Field manager of what the `HookAuthority` says of the master keys.
pub const KEYS_MANAGER: &str = "krake-hooks/keys";

/// Volume in the pod template.
pub const CERT_VOLUME: &str = "krake-cert";
/// Environment variable with the pod's own uid; ends the URL that a pod is given.
pub const POD_UID_ENV: &str = "KRAKE_POD_UID";
/// Environment variable the complete URL is made of.
pub const COMPLETE_ENDPOINT_ENV: &str = "KRAKE_COMPLETE_ENDPOINT";
/// Environment variable the shutdown URL is made of.
pub const SHUTDOWN_ENDPOINT_ENV: &str = "KRAKE_SHUTDOWN_ENDPOINT";

/// Key in the ConfigMap: endpoint of the complete hook, without a pod's uid.
pub const COMPLETE_URL_KEY: &str = "complete-url";
/// Key in the ConfigMap: endpoint of the shutdown hook, without a pod's uid.
pub const SHUTDOWN_URL_KEY: &str = "shutdown-url";
/// Key in the ConfigMap and file in the pod: what the endpoint's certificate is verified with.
pub const CA_BUNDLE: &str = "ca-bundle.pem";
/// Key in the TLS Secret and file in the pod: the client certificate and its intermediate.
pub const CERT: &str = "cert.pem";
/// Key in the TLS Secret and file in the pod: the private key.
pub const KEY: &str = "key.pem";
/// Key in the TLS Secret and file in the pod: private key and chain in one, read by one `open()`.
pub const BUNDLE: &str = "bundle.pem";
/// Key in the token Secret.
pub const TOKEN: &str = "token";

/// Secret in the operator's namespace: ring of master keys the tokens are derived from.
pub const RING_SECRET: &str = "krake-hooks-master-keys";
/// Secret in the operator's namespace: the certificate authorities in use.
pub const AUTHORITY_SECRET: &str = "krake-hooks-ca";
/// Lease in the operator's namespace: its holder leads.
pub const LEASE: &str = "krake-hooks";
/// The one `HookAuthority`, in the operator's namespace.
pub const AUTHORITY: &str = "krake-hooks";
/// Service of the callback endpoint, in the operator's namespace.
pub const SERVICE: &str = "krake-hooks";
/// The operator's namespace where neither `POD_NAMESPACE` nor a kubeconfig says otherwise.
pub const OPERATOR_NAMESPACE: &str = "krake-system";

/// Name of the hook's ConfigMap, token Secret and HookCertificate.
///
/// It carries the hook's uid, so that a hook that is created again under its name starts at once
/// while pods of the old one still need the old objects.
pub fn of_hook(hook: &str, hook_uid: &str) -> String {
    format!("{hook}-krake-{}", short(hook_uid))
}

/// Name of the Secret with the hook's client certificate.
pub fn tls_secret(hook: &str, hook_uid: &str) -> String {
    format!("{}-tls", of_hook(hook, hook_uid))
}

/// Name of the canary of one workload.
pub fn canary(hook: &str, workload_uid: &str) -> String {
    format!("{hook}-canary-{}", short(workload_uid))
}

/// URI in the subject alternative names of the hook's client certificates.
pub fn hook_uri(namespace: &str, hook: &str, hook_uid: &str) -> String {
    crate::pki::HookUri {
        namespace: namespace.to_owned(),
        hook: hook.to_owned(),
        hook_uid: hook_uid.to_owned(),
    }
    .to_string()
}

/// Path of the callback for one hook and kind, as Krake has it.
pub fn callback_path(namespace: &str, hook: &str, kind: crate::api::HookKind) -> String {
    format!(
        "/kubernetes/namespaces/{namespace}/applications/{hook}/{}",
        kind.as_str()
    )
}

/// Whether a label or an annotation is one of those that this operator writes or reads.
pub fn is_ours(name: &str) -> bool {
    name.split_once('/').is_some_and(|(by, _)| by == GROUP) || name == MANAGED_BY_LABEL
}

fn short(uid: &str) -> String {
    uid.chars()
        .filter(char::is_ascii_hexdigit)
        .take(8)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_eight_digits_of_the_uid() {
        let uid = "0f3a9c1e-77aa-4c0f-9b1a-2f6d1e7c8b90";
        assert_eq!(of_hook("trainer", uid), "trainer-krake-0f3a9c1e");
        assert_eq!(tls_secret("trainer", uid), "trainer-krake-0f3a9c1e-tls");
        assert_eq!(canary("trainer", uid), "trainer-canary-0f3a9c1e");
    }
}
