//! What can be wrong with a certificate authority that a user gives us.
//!
//! A fault names the file, the certificate and the way out. It must never quote key material, and
//! what it quotes of a certificate (subjects) is shortened and stripped of control characters,
//! because it ends in a condition that others read in a terminal.

use std::fmt;

use jiff::Timestamp;

/// The largest file we read. A chain of ten certificates has some 20 KiB.
pub(super) const LARGEST_PART: usize = 64 * 1024;

/// One of the three entries of the Secret that holds an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Chain,
    Key,
    Root,
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Chain => "tls.crt",
            Self::Key => "tls.key",
            Self::Root => "ca.crt",
        })
    }
}

/// Why an authority is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityFault {
    #[error("{part} is missing or empty: put the {} there", content(*.part))]
    Empty { part: Part },
    #[error("{part} has {bytes} bytes, more than {LARGEST_PART}: it shall hold the {} alone", content(*.part))]
    TooLarge { part: Part, bytes: usize },
    #[error("{part} holds no readable PEM block with the {}", content(*.part))]
    NotPem { part: Part },
    #[error("certificate {position} in {part} is not a readable X.509 certificate")]
    CertificateUnreadable { part: Part, position: usize },
    #[error(
        "the key in tls.key is encrypted: store it decrypted, for example with `openssl pkey -in tls.key`"
    )]
    KeyEncrypted,
    #[error(
        "the key in tls.key cannot be used: it must be RSA (2048 bits or more), ECDSA P-256 or P-384, or Ed25519, as PKCS#8, PKCS#1 or SEC1"
    )]
    KeyUnreadable,
    #[error("the key in tls.key belongs to none of the certificates in tls.crt (first: {subject})")]
    KeyMismatch { subject: String },
    #[error(
        "ca.crt does not hold the self-signed root above {subject}: clients need it to trust the chain"
    )]
    RootMissing { subject: String },
    #[error(
        "{subject} is not a certificate authority: it needs basicConstraints CA:TRUE to sign certificates"
    )]
    NotAuthority { subject: String },
    #[error("{subject} may not sign certificates: its keyUsage lacks keyCertSign")]
    NoKeyCertSign { subject: String },
    #[error("{subject} expired at {at}: renew it")]
    Expired { subject: String, at: Timestamp },
    #[error("{subject} is not valid before {from}: wait, or check the clocks of both machines")]
    NotYetValid { subject: String, from: Timestamp },
    #[error(
        "{subject} allows {allowed} further authorities below it and the chain has {present}: use a chain that is no longer than its pathlen allows"
    )]
    PathLength {
        subject: String,
        allowed: u32,
        present: usize,
    },
    #[error(
        "the name constraints of the chain of {subject} forbid what must be signed ({names}, and hook addresses that begin with urn:krake:): permit them"
    )]
    NameConstraints { subject: String, names: String },
    #[error(
        "the extended key usage of the chain of {subject} allows not both serverAuth and clientAuth: allow both, or leave it out"
    )]
    UsageForbidden { subject: String },
    #[error(
        "the chain ends at {subject}: no certificate given has signed it (its issuer is {issuer})"
    )]
    ChainBroken { subject: String, issuer: String },
    #[error("more than one certificate given fits as {subject}: leave only the one that is meant")]
    ChainAmbiguous { subject: String },
    #[error("tls.crt holds {subject}, which is not part of the chain: remove it")]
    ChainStray { subject: String },
    #[error(
        "{subject} is signed with {algorithm}, which clients refuse: issue it again with SHA-256"
    )]
    WeakSignature { subject: String, algorithm: String },
    #[error("{subject} has an RSA key of {bits} bits, and clients refuse less than 2048")]
    WeakKey { subject: String, bits: usize },
    #[error(
        "{subject} is signed with an algorithm that cannot be checked here ({algorithm}): use RSA or ECDSA with SHA-256 or SHA-384, or Ed25519"
    )]
    SignatureUnsupported { subject: String, algorithm: String },
    #[error(
        "the subject {subject:?} cannot be used as an issuer: it has the same attribute type more than once; use a subject that has each only once"
    )]
    SubjectRepeated { subject: String },
    #[error(
        "the subject {subject:?} cannot be used as an issuer: it joins several attributes with a plus sign; use one that lists them one by one"
    )]
    SubjectJoined { subject: String },
    #[error("the subject {subject:?} cannot be used as an issuer: {why}")]
    SubjectNotCopyable { subject: String, why: &'static str },
    #[error(
        "{name:?} is neither a DNS name nor an IP address, so no certificate can be made for it"
    )]
    EndpointName { name: String },
    #[error(
        "ledger.json cannot be read: it tells which authority is in which phase; restore the Secret from a backup, or take that entry out and the one in tls.crt counts alone"
    )]
    Ledger,
    #[error("a certificate signed by {subject} does not pass verification: {why}")]
    Unusable { subject: String, why: String },
}

impl AuthorityFault {
    /// The reason of a condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty { .. } => "AuthorityEmpty",
            Self::TooLarge { .. } => "AuthorityTooLarge",
            Self::NotPem { .. } => "AuthorityNotPem",
            Self::CertificateUnreadable { .. } => "AuthorityUnreadable",
            Self::KeyEncrypted => "AuthorityKeyEncrypted",
            Self::KeyUnreadable => "AuthorityKeyUnreadable",
            Self::KeyMismatch { .. } => "AuthorityKeyMismatch",
            Self::RootMissing { .. } => "AuthorityRootMissing",
            Self::NotAuthority { .. } => "NotAnAuthority",
            Self::NoKeyCertSign { .. } => "AuthorityMayNotSign",
            Self::Expired { .. } => "AuthorityExpired",
            Self::NotYetValid { .. } => "AuthorityNotYetValid",
            Self::PathLength { .. } => "AuthorityPathLength",
            Self::NameConstraints { .. } => "AuthorityNameConstraints",
            Self::UsageForbidden { .. } => "AuthorityUsageForbidden",
            Self::ChainBroken { .. } => "AuthorityChainBroken",
            Self::ChainAmbiguous { .. } => "AuthorityChainAmbiguous",
            Self::ChainStray { .. } => "AuthorityChainStray",
            Self::WeakSignature { .. } => "AuthorityWeakSignature",
            Self::WeakKey { .. } => "AuthorityWeakKey",
            Self::SignatureUnsupported { .. } => "AuthoritySignatureUnsupported",
            Self::SubjectRepeated { .. } => "AuthoritySubjectRepeated",
            Self::SubjectJoined { .. } => "AuthoritySubjectJoined",
            Self::SubjectNotCopyable { .. } => "AuthoritySubject",
            Self::EndpointName { .. } => "EndpointNameInvalid",
            Self::Ledger => "AuthorityLedgerUnreadable",
            Self::Unusable { .. } => "AuthorityUnusable",
        }
    }
}

/// Text of a stranger, made fit for a message.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 120;
    let mut shown: String = text
        .chars()
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .take(LONGEST)
        .collect();
    if text.chars().count() > LONGEST {
        shown.push('…');
    }
    shown
}

fn content(part: Part) -> &'static str {
    match part {
        Part::Chain => "certificate that signs, and those between it and the root",
        Part::Key => "private key of the certificate that signs",
        Part::Root => "root certificate",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_name_is_short_and_cannot_move_the_cursor() {
        assert_eq!(quoted("CN=a\u{1b}[2J\nb"), "CN=a [2J b");
        assert_eq!(quoted(&"ü".repeat(500)).chars().count(), 121);
    }

    #[test]
    fn each_fault_has_a_reason_of_its_own_fit_for_a_condition() {
        use AuthorityFault::*;
        let (part, at, from) = (Part::Chain, Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
        let text = || "text".to_owned();
        let subject = text;
        let faults = [
            Empty { part },
            TooLarge { part, bytes: 1 },
            NotPem { part },
            CertificateUnreadable { part, position: 1 },
            KeyEncrypted,
            KeyUnreadable,
            KeyMismatch { subject: subject() },
            RootMissing { subject: subject() },
            NotAuthority { subject: subject() },
            NoKeyCertSign { subject: subject() },
            Expired {
                subject: subject(),
                at,
            },
            NotYetValid {
                subject: subject(),
                from,
            },
            PathLength {
                subject: subject(),
                allowed: 0,
                present: 1,
            },
            NameConstraints {
                subject: subject(),
                names: text(),
            },
            UsageForbidden { subject: subject() },
            ChainBroken {
                subject: subject(),
                issuer: text(),
            },
            ChainAmbiguous { subject: subject() },
            ChainStray { subject: subject() },
            WeakSignature {
                subject: subject(),
                algorithm: text(),
            },
            WeakKey {
                subject: subject(),
                bits: 1024,
            },
            SignatureUnsupported {
                subject: subject(),
                algorithm: text(),
            },
            SubjectNotCopyable {
                subject: subject(),
                why: "why",
            },
            EndpointName { name: text() },
            Unusable {
                subject: subject(),
                why: text(),
            },
        ];
        let mut reasons: Vec<&str> = faults.iter().map(AuthorityFault::reason).collect();
        reasons.sort_unstable();
        let count = reasons.len();
        reasons.dedup();
        assert_eq!(reasons.len(), count);
        for reason in reasons {
            assert!(reason.starts_with(char::is_uppercase), "{reason}");
            assert!(reason.chars().all(char::is_alphanumeric), "{reason}");
        }
    }

    #[test]
    fn a_message_says_where_and_what() {
        let fault = AuthorityFault::Empty { part: Part::Root };
        assert_eq!(
            fault.to_string(),
            "ca.crt is missing or empty: put the root certificate there"
        );
    }
}
