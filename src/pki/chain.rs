//! What a user's three files must hold, found out before anything is signed with them.
//!
//! # What is accepted
//! - `tls.crt` in any order, with or without the root, also with text between the blocks: the
//!   certificate of `tls.key` is the one that signs, and each next one is found by name and
//!   signature. Order carries no information that these two do not.
//! - A self-signed authority that signs leaves itself (cert-manager's SelfSigned issuer).
//! - A root without keyUsage, and a root whose own signature is SHA-1 or MD5: nobody relies on
//!   either (`openssl req -x509` writes the first, old company roots have the second).
//! - Several roots in `ca.crt`: the one that the chain ends at is used, the others are not.
//!
//! # What is not
//! - Two certificates that both fit at the same place (cross-signed ones), unless exactly one of
//!   them is a root in `ca.crt`: which of them clients should get is not ours to guess.
//! - A certificate in `tls.crt` that has no place in the chain: it would be sent with every
//!   handshake, and is more often a mistake than a wish.
//! - A root that is in `tls.crt` only: trust is what `ca.crt` states.
//!
//! It must never conclude anything about names, usages and lengths that webpki concludes too: a
//! trial leaf is issued for that (`ca.rs`). What is here, webpki does not check or cannot tell.

use jiff::Timestamp;
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::error::X509Error;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};
use x509_parser::public_key::PublicKey;

use super::fault::{AuthorityFault, LARGEST_PART, Part, quoted};
use super::{key, timestamp, verify};

/// The signatures that tools may still write and no client accepts.
const WEAK_SIGNATURES: [(&str, &str); 5] = [
    ("1.2.840.113549.1.1.4", "MD5"),
    ("1.3.14.3.2.3", "MD5"),
    ("1.2.840.113549.1.1.5", "SHA-1"),
    ("1.3.14.3.2.29", "SHA-1"),
    ("1.2.840.10045.4.1", "SHA-1"),
];

/// An authority's files, read, sorted and checked.
#[derive(Debug)]
pub(super) struct Loaded {
    pub root: CertificateDer<'static>,
    /// The certificate that signs, and those between it and the root; empty if the root signs.
    pub intermediates: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
}

/// Reads, sorts and checks the three files.
pub(super) fn load(
    tls_crt: &[u8],
    tls_key: &[u8],
    ca_crt: &[u8],
    now: Timestamp,
) -> Result<Loaded, AuthorityFault> {
    check_size(Part::Chain, tls_crt)?;
    check_size(Part::Key, tls_key)?;
    let offered_der = read_certificates(Part::Chain, tls_crt)?;
    let offered = parse_certificates(Part::Chain, &offered_der)?;
    // Before the key is read: aws-lc refuses a short key without saying that it is short.
    offered.iter().try_for_each(check_key_size)?;
    let key = key::read(tls_key)?;
    let signer = find_signer(&offered, &key)?;
    check_subject(signer)?;

    check_size(Part::Root, ca_crt).map_err(|fault| match fault {
        AuthorityFault::Empty { .. } => AuthorityFault::RootMissing {
            subject: name(signer),
        },
        other => other,
    })?;
    let trusted_der = read_certificates(Part::Root, ca_crt)?;
    let trusted = parse_certificates(Part::Root, &trusted_der)?;

    let path = climb(signer, &offered, &trusted, now)?;
    if let Some(stray) = offered
        .iter()
        .find(|certificate| !contains(&path, certificate))
    {
        return Err(AuthorityFault::ChainStray {
            subject: name(stray),
        });
    }
    let mut ders: Vec<CertificateDer<'static>> = path
        .iter()
        .map(|certificate| CertificateDer::from(certificate.as_raw().to_vec()))
        .collect();
    let root = ders.pop().expect("a path begins with its signer");
    Ok(Loaded {
        root,
        intermediates: ders,
        key,
    })
}

/// The subject as a person knows it.
pub(super) fn subject_of(der: &CertificateDer<'_>) -> String {
    X509Certificate::from_der(der).map_or_else(
        |_| "an unreadable certificate".to_owned(),
        |(_, parsed)| name(&parsed),
    )
}

fn check_size(part: Part, bytes: &[u8]) -> Result<(), AuthorityFault> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(AuthorityFault::Empty { part });
    }
    if bytes.len() > LARGEST_PART {
        return Err(AuthorityFault::TooLarge {
            part,
            bytes: bytes.len(),
        });
    }
    Ok(())
}

fn read_certificates(
    part: Part,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, AuthorityFault> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| AuthorityFault::NotPem { part })?;
    if certificates.is_empty() {
        return Err(AuthorityFault::NotPem { part });
    }
    Ok(certificates)
}

fn parse_certificates<'a>(
    part: Part,
    ders: &'a [CertificateDer<'static>],
) -> Result<Vec<X509Certificate<'a>>, AuthorityFault> {
    ders.iter()
        .enumerate()
        .map(|(index, der)| match X509Certificate::from_der(der) {
            Ok(([], parsed)) => Ok(parsed),
            _ => Err(AuthorityFault::CertificateUnreadable {
                part,
                position: index + 1,
            }),
        })
        .collect()
}

fn find_signer<'a, 'der>(
    offered: &'a [X509Certificate<'der>],
    key: &KeyPair,
) -> Result<&'a X509Certificate<'der>, AuthorityFault> {
    let mut fitting = distinct(
        offered
            .iter()
            .filter(|certificate| verify::is_key_of(certificate, key)),
    );
    match (fitting.pop(), fitting.is_empty()) {
        (Some(signer), true) => Ok(signer),
        (Some(signer), false) => Err(AuthorityFault::ChainAmbiguous {
            subject: name(signer),
        }),
        (None, _) => Err(AuthorityFault::KeyMismatch {
            subject: offered.first().map(name).unwrap_or_default(),
        }),
    }
}

/// From the certificate that signs up to a root in `ca.crt`, each step checked.
fn climb<'a, 'der>(
    signer: &'a X509Certificate<'der>,
    offered: &'a [X509Certificate<'der>],
    trusted: &'a [X509Certificate<'der>],
    now: Timestamp,
) -> Result<Vec<&'a X509Certificate<'der>>, AuthorityFault> {
    let mut path = vec![signer];
    let mut top = signer;
    loop {
        let is_root = is_self_issued(top);
        check_authority(top, now)?;
        check_path_length(top, path.len() - 1)?;
        if !is_root || path.len() == 1 {
            check_signature_algorithm(top)?;
        }
        if is_root {
            return if contains(&trusted.iter().collect::<Vec<_>>(), top) {
                Ok(path)
            } else {
                Err(AuthorityFault::RootMissing {
                    subject: name(signer),
                })
            };
        }
        top = issuer_of(top, &path, offered, trusted)?;
        path.push(top);
    }
}

fn issuer_of<'a, 'der>(
    certificate: &X509Certificate<'_>,
    path: &[&'a X509Certificate<'der>],
    offered: &'a [X509Certificate<'der>],
    trusted: &'a [X509Certificate<'der>],
) -> Result<&'a X509Certificate<'der>, AuthorityFault> {
    let named = distinct(offered.iter().chain(trusted).filter(|candidate| {
        candidate.subject().as_raw() == certificate.issuer().as_raw() && !contains(path, candidate)
    }));
    let mut fitting = Vec::new();
    for candidate in &named {
        check_key_size(candidate)?;
        match certificate.verify_signature(Some(candidate.public_key())) {
            Ok(()) => fitting.push(*candidate),
            Err(X509Error::SignatureUnsupportedAlgorithm) => {
                return Err(AuthorityFault::SignatureUnsupported {
                    subject: name(certificate),
                    algorithm: certificate.signature_algorithm.algorithm.to_id_string(),
                });
            }
            Err(_) => {}
        }
    }
    if fitting.len() > 1 {
        fitting.retain(|candidate| is_self_issued(candidate) && trusted.contains(candidate));
        if fitting.len() != 1 {
            return Err(AuthorityFault::ChainAmbiguous {
                subject: quoted(&certificate.issuer().to_string()),
            });
        }
    }
    fitting.pop().ok_or_else(|| {
        // Something with the right name that did not sign it is a broken chain, not a missing root.
        if named.is_empty() && !trusted.iter().any(is_self_issued) {
            AuthorityFault::RootMissing {
                subject: name(certificate),
            }
        } else {
            AuthorityFault::ChainBroken {
                subject: name(certificate),
                issuer: quoted(&certificate.issuer().to_string()),
            }
        }
    })
}

fn check_authority(
    certificate: &X509Certificate<'_>,
    now: Timestamp,
) -> Result<(), AuthorityFault> {
    let subject = || name(certificate);
    if !certificate.is_ca() {
        return Err(AuthorityFault::NotAuthority { subject: subject() });
    }
    if let Ok(Some(usage)) = certificate.key_usage()
        && !usage.value.key_cert_sign()
    {
        return Err(AuthorityFault::NoKeyCertSign { subject: subject() });
    }
    let from = timestamp(certificate.validity().not_before.timestamp());
    if now < from {
        return Err(AuthorityFault::NotYetValid {
            subject: subject(),
            from,
        });
    }
    let at = timestamp(certificate.validity().not_after.timestamp());
    if now >= at {
        return Err(AuthorityFault::Expired {
            subject: subject(),
            at,
        });
    }
    check_key_size(certificate)
}

/// webpki knows a trust anchor's name and key only, so a root's path length is ours to check;
/// counting all of them alike also tells the user which one it is.
fn check_path_length(
    certificate: &X509Certificate<'_>,
    below: usize,
) -> Result<(), AuthorityFault> {
    let allowed = match certificate.basic_constraints() {
        Ok(Some(constraints)) => constraints.value.path_len_constraint,
        _ => None,
    };
    match allowed {
        Some(allowed) if usize::try_from(allowed).is_ok_and(|allowed| below > allowed) => {
            Err(AuthorityFault::PathLength {
                subject: name(certificate),
                allowed,
                present: below,
            })
        }
        _ => Ok(()),
    }
}

fn check_signature_algorithm(certificate: &X509Certificate<'_>) -> Result<(), AuthorityFault> {
    let algorithm = certificate.signature_algorithm.algorithm.to_id_string();
    match WEAK_SIGNATURES.iter().find(|(oid, _)| *oid == algorithm) {
        Some((_, weak)) => Err(AuthorityFault::WeakSignature {
            subject: name(certificate),
            algorithm: (*weak).to_owned(),
        }),
        None => Ok(()),
    }
}

fn check_key_size(certificate: &X509Certificate<'_>) -> Result<(), AuthorityFault> {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(rsa)) => {
            let digits = rsa.modulus.iter().skip_while(|byte| **byte == 0);
            let bits = digits.clone().count() * 8
                - digits
                    .clone()
                    .next()
                    .map_or(0, |first| first.leading_zeros() as usize);
            if bits < 2048 {
                return Err(AuthorityFault::WeakKey {
                    subject: name(certificate),
                    bits,
                });
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A leaf repeats its issuer's subject to the byte, and rcgen builds it anew from a map by
/// attribute type: a repeated type collapses, a set of several is refused, an empty one panics.
fn check_subject(certificate: &X509Certificate<'_>) -> Result<(), AuthorityFault> {
    let refuse = |why| {
        Err(AuthorityFault::SubjectNotCopyable {
            subject: name(certificate),
            why,
        })
    };
    let subject: &X509Name<'_> = certificate.subject();
    let mut types = Vec::new();
    for attributes in subject.iter() {
        let mut attributes = attributes.iter();
        match (attributes.next(), attributes.next()) {
            (Some(attribute), None) => types.push(attribute.attr_type().clone()),
            (Some(_), Some(_)) => {
                return Err(AuthorityFault::SubjectJoined {
                    subject: name(certificate),
                });
            }
            (None, _) => return refuse("it has an empty part"),
        }
    }
    if types.is_empty() {
        return refuse("it is empty");
    }
    let repeated = (1..types.len()).any(|index| types[..index].contains(&types[index]));
    if repeated {
        return Err(AuthorityFault::SubjectRepeated {
            subject: name(certificate),
        });
    }
    Ok(())
}

fn is_self_issued(certificate: &X509Certificate<'_>) -> bool {
    certificate.subject().as_raw() == certificate.issuer().as_raw()
}

fn contains(path: &[&X509Certificate<'_>], certificate: &X509Certificate<'_>) -> bool {
    path.iter()
        .any(|other| other.as_raw() == certificate.as_raw())
}

fn distinct<'a, 'der>(
    certificates: impl Iterator<Item = &'a X509Certificate<'der>>,
) -> Vec<&'a X509Certificate<'der>>
where
    'der: 'a,
{
    certificates.fold(Vec::new(), |mut found, certificate| {
        if !contains(&found, certificate) {
            found.push(certificate);
        }
        found
    })
}

fn name(certificate: &X509Certificate<'_>) -> String {
    quoted(&certificate.subject().to_string())
}
