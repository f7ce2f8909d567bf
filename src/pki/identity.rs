//! Who a peer's certificate says it is.
//!
//! This reads; it does not trust. It must be asked only about a leaf that the TLS handshake has
//! verified, and it answers with what stands there, or refuses: a certificate that names two hooks
//! names none.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{hex, timestamp};

const HOOK_PREFIX: &str = "urn:krake:hook:";
const CERTIFICATE_PREFIX: &str = "urn:krake:certificate:";

/// Why a certificate, or an address in one, is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("the certificate cannot be read")]
    Unreadable,
    #[error("the certificate names no hook")]
    NoHook,
    #[error("the certificate names more than one hook or more than one HookCertificate")]
    Ambiguous,
    #[error("not of the form urn:krake:hook:<namespace>:<hook>:<hook uid>")]
    HookUri,
    #[error("not of the form urn:krake:certificate:<uid>")]
    CertificateUri,
}

/// What a leaf says about its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uris: Vec<String>,
    /// Absent unless there is exactly one.
    pub common_name: Option<String>,
    /// Lowercase hex, as in [`Issued`](super::Issued).
    pub serial: String,
    pub not_after: Timestamp,
}

impl Identity {
    /// Reads a leaf.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| IdentityError::Unreadable)?;
        if !rest.is_empty() {
            return Err(IdentityError::Unreadable);
        }
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| IdentityError::Unreadable)?
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default();
        let uris = names
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some((*uri).to_owned()),
                _ => None,
            })
            .collect();
        let mut common_names = certificate.subject().iter_common_name();
        let common_name = match (common_names.next(), common_names.next()) {
            (Some(only), None) => only.as_str().ok().map(str::to_owned),
            _ => None,
        };
        let serial = certificate.raw_serial();
        Ok(Self {
            uris,
            common_name,
            // DER puts a zero in front of a number that would else look negative.
            serial: hex(serial.strip_prefix(&[0]).unwrap_or(serial)),
            not_after: timestamp(certificate.validity().not_after.timestamp()),
        })
    }

    /// The one hook that this certificate is for.
    pub fn hook(&self) -> Result<HookUri, IdentityError> {
        self.only(HOOK_PREFIX)?
            .ok_or(IdentityError::NoHook)?
            .parse()
    }

    /// The user's own HookCertificate that it was issued for, if it was.
    pub fn certificate(&self) -> Result<Option<CertificateUri>, IdentityError> {
        self.only(CERTIFICATE_PREFIX)?.map(str::parse).transpose()
    }

    fn only(&self, prefix: &str) -> Result<Option<&str>, IdentityError> {
        let mut found = self.uris.iter().filter(|uri| uri.starts_with(prefix));
        match (found.next(), found.next()) {
            (_, Some(_)) => Err(IdentityError::Ambiguous),
            (first, None) => Ok(first.map(String::as_str)),
        }
    }
}

/// `urn:krake:hook:<namespace>:<hook>:<hook uid>`: a hook, and the very one of that name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HookUri {
    pub namespace: String,
    pub hook: String,
    pub hook_uid: String,
}

impl fmt::Display for HookUri {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{HOOK_PREFIX}{}:{}:{}",
            self.namespace, self.hook, self.hook_uid
        )
    }
}

impl FromStr for HookUri {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text
            .strip_prefix(HOOK_PREFIX)
            .ok_or(IdentityError::HookUri)?
            .split(':')
            .collect();
        match parts.as_slice() {
            [namespace, hook, hook_uid]
                if is_label(namespace) && is_name(hook) && is_uid(hook_uid) =>
            {
                Ok(Self {
                    namespace: (*namespace).to_owned(),
                    hook: (*hook).to_owned(),
                    hook_uid: (*hook_uid).to_owned(),
                })
            }
            _ => Err(IdentityError::HookUri),
        }
    }
}

/// `urn:krake:certificate:<uid>`: a user's own HookCertificate, so that it alone can be refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateUri {
    pub uid: String,
}

impl fmt::Display for CertificateUri {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{CERTIFICATE_PREFIX}{}", self.uid)
    }
}

impl FromStr for CertificateUri {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix(CERTIFICATE_PREFIX)
            .filter(|uid| is_uid(uid))
            .map(|uid| Self {
                uid: uid.to_owned(),
            })
            .ok_or(IdentityError::CertificateUri)
    }
}

/// RFC 1123 label: the name of a namespace.
fn is_label(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(fits)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// RFC 1123 subdomain of at most 63 characters: the name of a hook.
fn is_name(text: &str) -> bool {
    text.len() <= 63 && text.split('.').all(is_label)
}

/// Kubernetes calls a uid opaque; what it makes is a UUID, of which this is the alphabet.
fn is_uid(text: &str) -> bool {
    is_label(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UID: &str = "0b6ff2a4-5f0f-4d5f-9f8f-2f6f3f1c8f11";

    #[test]
    fn a_hook_uri_has_one_spelling() {
        let text = format!("urn:krake:hook:ml:trainer:{UID}");
        let uri: HookUri = text.parse().unwrap();
        assert_eq!(
            (
                uri.namespace.as_str(),
                uri.hook.as_str(),
                uri.hook_uid.as_str()
            ),
            ("ml", "trainer", UID)
        );
        assert_eq!(uri.to_string(), text);
        assert!(
            format!("urn:krake:hook:ml:v1.trainer:{UID}")
                .parse::<HookUri>()
                .is_ok()
        );
    }

    #[test]
    fn anything_else_is_no_hook_uri() {
        for text in [
            String::new(),
            "urn:krake:hook:".to_owned(),
            "urn:krake:hook:ml:trainer".to_owned(),
            "urn:krake:hook:ml:trainer:".to_owned(),
            format!("urn:krake:hook::trainer:{UID}"),
            format!("urn:krake:hook:ml::{UID}"),
            format!("urn:krake:hook:ml:trainer:{UID}:"),
            format!("urn:krake:hook:ml:trainer:{UID}:more"),
            format!(" urn:krake:hook:ml:trainer:{UID}"),
            format!("URN:krake:hook:ml:trainer:{UID}"),
            format!("urn:krake:hook:ML:trainer:{UID}"),
            format!("urn:krake:hook:m.l:trainer:{UID}"),
            format!("urn:krake:hook:ml:train%65r:{UID}"),
            format!("urn:krake:hook:ml:trainer.:{UID}"),
            format!("urn:krake:hook:ml:trainer/x:{UID}"),
            format!("urn:krake:hook:ml:{}:{UID}", "a".repeat(64)),
            format!("urn:krake:hook:ml:trainer:{UID}\0"),
            format!("urn:krake:certificate:{UID}"),
        ] {
            assert_eq!(
                text.parse::<HookUri>(),
                Err(IdentityError::HookUri),
                "{text:?}"
            );
        }
    }

    fn identity(uris: &[&str]) -> Identity {
        Identity {
            uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
            common_name: None,
            serial: String::new(),
            not_after: Timestamp::MAX,
        }
    }

    #[test]
    fn a_certificate_speaks_for_exactly_one_hook() {
        let hook = format!("urn:krake:hook:ml:trainer:{UID}");
        let other = format!("urn:krake:hook:ml:other:{UID}");
        let certificate = format!("urn:krake:certificate:{UID}");

        let own = identity(&["https://example.org", &hook]);
        assert_eq!(own.hook().unwrap().to_string(), hook);
        assert_eq!(own.certificate(), Ok(None));

        let users = identity(&[&certificate, &hook]);
        assert_eq!(users.hook().unwrap().to_string(), hook);
        assert_eq!(users.certificate().unwrap().unwrap().uid, UID);

        assert_eq!(identity(&[]).hook(), Err(IdentityError::NoHook));
        assert_eq!(identity(&[&certificate]).hook(), Err(IdentityError::NoHook));
        assert_eq!(
            identity(&[&hook, &other]).hook(),
            Err(IdentityError::Ambiguous)
        );
        assert_eq!(
            identity(&[&hook, "urn:krake:hook:x"]).hook(),
            Err(IdentityError::Ambiguous)
        );
        assert_eq!(
            identity(&["urn:krake:hook:x"]).hook(),
            Err(IdentityError::HookUri)
        );
        assert_eq!(
            identity(&[&certificate, "urn:krake:certificate:x"]).certificate(),
            Err(IdentityError::Ambiguous)
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(der in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Identity::from_der(&der);
        }

        #[test]
        fn what_parses_is_written_back_the_same(text in "urn:krake:hook:[a-z0-9.:-]{0,40}") {
            if let Ok(uri) = text.parse::<HookUri>() {
                prop_assert_eq!(uri.to_string(), text);
            }
        }
    }
}
