//! Who is calling: the certificate of the connection and the path of the request.
//!
//! Both are claims until they match each other, the hook that exists now, and the token. A
//! certificate that cannot be parsed, or that names no hook or several, identifies nobody.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use super::commit::HookName;
use crate::api::{HookKind, KrakeHook};
use crate::pki::{CertificateUri, HookUri, Identity, IdentityError};

/// The longest uid that is accepted; those of Kubernetes have 36 characters.
const LONGEST_UID: usize = 64;

/// The client of a TLS connection, identified once for all its requests.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Known>);

#[derive(Debug)]
struct Known {
    hook: HookUri,
    certificate: Option<CertificateUri>,
    serial: String,
}

/// The parsed path of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addressed {
    /// The hook.
    pub hook: HookName,
    /// What is acknowledged.
    pub kind: HookKind,
    /// The pod that acknowledges.
    pub pod: Option<String>,
}

impl Peer {
    /// Reads a client certificate that the handshake has verified.
    pub fn from_certificate(leaf: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let identity = Identity::from_der(leaf)?;
        let hook = identity.hook()?;
        let certificate = identity.certificate()?;
        let serial = identity.serial;
        Ok(Self(Arc::new(Known {
            hook,
            certificate,
            serial,
        })))
    }

    /// Uid of the user's own `HookCertificate` it was issued for, if it was.
    pub fn own_certificate(&self) -> Option<&str> {
        self.0.certificate.as_ref().map(|own| own.uid.as_str())
    }

    /// Serial number of the certificate.
    pub fn serial(&self) -> &str {
        &self.0.serial
    }

    /// Whether the certificate is for a hook of this name.
    pub fn is_named(&self, name: &HookName) -> bool {
        self.0.hook.namespace == name.namespace && self.0.hook.hook == name.name
    }

    /// Whether the certificate is for the hook that exists under its name now.
    pub fn is(&self, hook: &KrakeHook) -> bool {
        hook.metadata.uid.as_deref() == Some(self.0.hook.hook_uid.as_str())
    }
}

impl Addressed {
    /// Reads `/kubernetes/namespaces/{ns}/applications/{hook}/{kind}[/{pod uid}]`. The path prefix
    /// of the external endpoint may be missing, because some load balancers strip it.
    pub fn from_path(path: &str, prefix: &str) -> Option<Self> {
        let path = path
            .strip_prefix(prefix)
            .filter(|rest| rest.starts_with('/'))
            .unwrap_or(path);
        let mut parts = path.strip_prefix('/')?.split('/');
        let mut exactly = |word: &str| (parts.next()? == word).then_some(());
        exactly("kubernetes")?;
        exactly("namespaces")?;
        let namespace = parts.next().filter(|part| is_name(part))?.to_owned();
        (parts.next()? == "applications").then_some(())?;
        let name = parts.next().filter(|part| is_name(part))?.to_owned();
        let word = parts.next()?;
        let kind = [HookKind::Complete, HookKind::Shutdown]
            .into_iter()
            .find(|kind| kind.as_str() == word)?;
        let pod = match parts.next() {
            Some(uid) if is_uid(uid) => Some(uid.to_owned()),
            Some(_) => return None,
            None => None,
        };
        let hook = HookName { namespace, name };
        parts.next().is_none().then_some(Self { hook, kind, pod })
    }
}

/// Whether this can be the name of an object; anything else is refused, and above all never becomes
/// part of the path of a request of ours.
fn is_name(text: &str) -> bool {
    let fits = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.'
    };
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().copied().all(fits)
        && edge(bytes.first())
        && edge(bytes.last())
}

fn is_uid(text: &str) -> bool {
    (1..=LONGEST_UID).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_path_addresses_a_hook() {
        let base = "/kubernetes/namespaces/ml/applications/trainer";
        let hook = HookName {
            namespace: "ml".into(),
            name: "trainer".into(),
        };
        let complete = Addressed {
            hook: hook.clone(),
            kind: HookKind::Complete,
            pod: None,
        };
        let of_pod = Addressed {
            hook,
            kind: HookKind::Shutdown,
            pod: Some("0f3a-1".into()),
        };
        for (prefix, path, expected) in [
            ("", format!("{base}/complete"), Some(&complete)),
            ("", format!("{base}/shutdown/0f3a-1"), Some(&of_pod)),
            ("/krake", format!("/krake{base}/complete"), Some(&complete)),
            ("/krake", format!("{base}/complete"), Some(&complete)),
            ("/krake", format!("/krakex{base}/complete"), None),
            ("", format!("/krake{base}/complete"), None),
            ("", format!("{base}/complete/"), None),
            ("", format!("{base}/complete/a/b"), None),
            ("", format!("{base}/complete/a%20b"), None),
            ("", format!("{base}/Complete"), None),
            ("", format!("/{base}/complete"), None),
            ("", base.to_owned(), None),
            ("", "/".to_owned(), None),
            (
                "",
                "/kubernetes/namespaces/../applications/x/complete".to_owned(),
                None,
            ),
            (
                "",
                "/kubernetes/namespaces//applications/x/complete".to_owned(),
                None,
            ),
            (
                "",
                "/kubernetes/namespaces/A/applications/x/complete".to_owned(),
                None,
            ),
        ] {
            let found = Addressed::from_path(&path, prefix);
            assert_eq!(found.as_ref(), expected, "{prefix} {path}");
        }
    }
}
