//! The judgement of a peer, made before a certificate leaves the house.
//!
//! This is the path building of rustls (webpki with aws-lc), so what passes here passes in the
//! callback. It must never accept what it could not check.

use jiff::Timestamp;
use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, TrustAnchor, UnixTime};
use std::time::Duration;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::timestamp;

/// What the leaf of a chain is presented for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Client,
    Server,
}

/// Why a chain is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("there is no certificate to verify")]
    Empty,
    #[error("a certificate cannot be read")]
    Unreadable,
    #[error("a certificate has expired")]
    Expired,
    #[error("a certificate is not valid yet")]
    NotYetValid,
    #[error("no trusted authority has signed it")]
    UnknownIssuer,
    #[error("a signature does not fit the key of its issuer")]
    Signature,
    #[error("a name constraint forbids one of its names")]
    NameConstraint,
    #[error("there are more authorities in the chain than a path length allows")]
    PathLength,
    #[error("its extended key usage does not allow this use")]
    Usage,
    #[error("it is not valid for the name {name:?}")]
    Name { name: String },
    #[error("{0}")]
    Other(String),
}

/// Accepts the chain (leaf first) if one of the roots, itself valid at `now`, vouches for it.
///
/// Roots are looked at as certificates, not as bare keys: webpki alone would go on trusting an
/// expired one, and OpenSSL would not.
pub fn verify_chain(
    chain: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
    purpose: Purpose,
    now: Timestamp,
) -> Result<(), VerifyError> {
    let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::Empty)?;
    let anchors = anchors_valid_at(roots, now)?;
    let usage = match purpose {
        Purpose::Client => KeyUsage::client_auth(),
        Purpose::Server => KeyUsage::server_auth(),
    };
    // A clock before 1970 is no time at which anything of ours is valid.
    let seconds = u64::try_from(now.as_second()).map_err(|_| VerifyError::NotYetValid)?;
    EndEntityCert::try_from(leaf)
        .map_err(|_| VerifyError::Unreadable)?
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            intermediates,
            UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
            usage,
            None,
            None,
        )
        .map(|_| ())
        .map_err(VerifyError::from)
}

/// Accepts the leaf if a client that asked for `name` (DNS name or IP address) would.
pub fn verify_name(leaf: &CertificateDer<'_>, name: &str) -> Result<(), VerifyError> {
    let refused = || VerifyError::Name {
        name: name.to_owned(),
    };
    let server_name = ServerName::try_from(name).map_err(|_| refused())?;
    EndEntityCert::try_from(leaf)
        .map_err(|_| VerifyError::Unreadable)?
        .verify_is_valid_for_subject_name(&server_name)
        .map_err(|_| refused())
}

/// Whether the certificate is about this private key. rcgen would sign with any.
pub fn public_key_matches(certificate: &CertificateDer<'_>, key: &PrivateKeyDer<'_>) -> bool {
    let Ok(key) = KeyPair::try_from(key) else {
        return false;
    };
    X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| is_key_of(&parsed, &key))
}

/// Compares the key bits, not the whole SubjectPublicKeyInfo: tools differ in how they write the
/// parameters of the same algorithm.
pub(super) fn is_key_of(certificate: &X509Certificate<'_>, key: &KeyPair) -> bool {
    certificate.public_key().subject_public_key.data.as_ref() == key.der_bytes()
}

fn anchors_valid_at<'a>(
    roots: &'a [CertificateDer<'_>],
    now: Timestamp,
) -> Result<Vec<TrustAnchor<'a>>, VerifyError> {
    let mut anchors = Vec::new();
    let mut refusal = VerifyError::UnknownIssuer;
    for root in roots {
        let (_, parsed) = X509Certificate::from_der(root).map_err(|_| VerifyError::Unreadable)?;
        if now < timestamp(parsed.validity().not_before.timestamp()) {
            refusal = VerifyError::NotYetValid;
        } else if now > timestamp(parsed.validity().not_after.timestamp()) {
            refusal = VerifyError::Expired;
        } else {
            anchors.push(anchor_from_trusted_cert(root).map_err(|_| VerifyError::Unreadable)?);
        }
    }
    if anchors.is_empty() {
        return Err(refusal);
    }
    Ok(anchors)
}

impl From<webpki::Error> for VerifyError {
    fn from(error: webpki::Error) -> Self {
        use webpki::Error;
        match error {
            Error::CertExpired { .. } => Self::Expired,
            Error::CertNotValidYet { .. } => Self::NotYetValid,
            Error::UnknownIssuer => Self::UnknownIssuer,
            Error::InvalidSignatureForPublicKey => Self::Signature,
            Error::NameConstraintViolation => Self::NameConstraint,
            Error::PathLenConstraintViolated => Self::PathLength,
            Error::RequiredEkuNotFoundContext(_) => Self::Usage,
            Error::BadDer | Error::BadDerTime => Self::Unreadable,
            other => Self::Other(other.to_string()),
        }
    }
}
