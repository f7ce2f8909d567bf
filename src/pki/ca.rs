//! The certificate authority that signs every leaf: made here, or the user's own.
//!
//! # Guarantees
//! - An [`Authority`] exists only after a client and a server leaf, issued by it, have passed
//!   [`verify_chain`](super::verify_chain): whatever it holds, it can do its work at that moment.
//! - Its key is in no `Debug` output and no error.
//!
//! # Decision
//! The private key of a generated root is dropped as soon as it has signed the intermediate. What
//! it could be kept for is a next intermediate; but a rotation replaces root and intermediate
//! together (both in the bundle before either signs), so the key would only be one more thing to
//! steal. It exists in memory, once.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use secrecy::{ExposeSecret, SecretBox, SecretSlice};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::fault::{AuthorityFault, quoted};
use super::leaf::{ClientLeaf, IssueError, ServerLeaf, offset_date_time, serial_bytes};
use super::{
    Bundle, Entry, KeyAlgorithm, SecretData, VerifyError, certificate_pem, chain, fingerprint, hex,
    key, timestamp,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An authority made here is valid from this long ago: a peer, or a next process of ours, whose
/// clock is some hours behind shall not find that it is for later.
const AUTHORITY_BACKDATE: Duration = DAY;

/// Before its end an authority signs nothing any more.
const LAST_MOMENT: Duration = Duration::from_secs(120);

/// Common names of a generated root and intermediate; each gets a random suffix, so that no two
/// authorities ever share a name (a client that looks an issuer up by name finds the right one).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityNames {
    pub root: String,
    pub intermediate: String,
}

impl Default for AuthorityNames {
    fn default() -> Self {
        Self {
            root: "Krake hooks root".to_owned(),
            intermediate: "Krake hooks intermediate".to_owned(),
        }
    }
}

/// How long a generated root and intermediate are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthorityValidity {
    pub root: Duration,
    pub intermediate: Duration,
}

impl Default for AuthorityValidity {
    fn default() -> Self {
        Self {
            root: DAY * 3652,
            intermediate: DAY * 1096,
        }
    }
}

impl AuthorityValidity {
    /// An authority that signs for so long. The root outlives it by custom, not by need: its key is
    /// gone.
    pub fn of(seconds: i64) -> Self {
        let intermediate = Duration::from_secs(seconds.unsigned_abs());
        Self {
            root: Self::default().root.max(intermediate),
            intermediate,
        }
    }
}

/// Random numbers for a generated root and intermediate: their serial numbers and name suffixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthoritySerials {
    pub root: [u8; 16],
    pub intermediate: [u8; 16],
}

/// Why no authority was made.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    #[error("the validity of the authority does not fit into the calendar")]
    Validity,
    #[error("make a key for the authority: {0}")]
    Key(#[source] rcgen::Error),
    #[error("sign the authority's certificate: {0}")]
    Sign(#[source] rcgen::Error),
    #[error("check the authority just made: {0}")]
    Check(#[from] AuthorityFault),
}

/// A root, the certificates below it, and the key of the last of them.
pub struct Authority {
    root: CertificateDer<'static>,
    intermediates: Vec<CertificateDer<'static>>,
    pub(super) issuer: Issuer<'static, KeyPair>,
    key_pem: SecretBox<[u8]>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Authority {
    /// Makes a root and an intermediate (ECDSA P-256) that signs leaves and nothing else.
    pub fn generate(
        names: &AuthorityNames,
        now: Timestamp,
        validity: AuthorityValidity,
        serials: AuthoritySerials,
    ) -> Result<Self, GenerateError> {
        let root_key = key::generate(KeyAlgorithm::EcdsaP256).map_err(GenerateError::Key)?;
        let root_params = authority_params(&names.root, now, validity.root, serials.root, 1)?;
        let root = root_params
            .self_signed(&root_key)
            .map_err(GenerateError::Sign)?;

        let key = key::generate(KeyAlgorithm::EcdsaP256).map_err(GenerateError::Key)?;
        let intermediate = authority_params(
            &names.intermediate,
            now,
            validity.intermediate.min(validity.root),
            serials.intermediate,
            0,
        )?
        .signed_by(&key, &Issuer::from_params(&root_params, &root_key))
        .map_err(GenerateError::Sign)?;
        drop(root_key);

        // Through the same door as a user's own: one set of checks, for both.
        Ok(Self::load(
            certificate_pem(intermediate.der()).as_bytes(),
            key.serialize_pem().as_bytes(),
            certificate_pem(root.der()).as_bytes(),
            now,
            &[],
        )?)
    }

    /// Reads an authority from the three entries of its Secret, and makes sure that it can sign
    /// for these endpoint names (DNS names and IP addresses) and for hooks.
    pub fn load(
        tls_crt: &[u8],
        tls_key: &[u8],
        ca_crt: &[u8],
        now: Timestamp,
        endpoint_names: &[String],
    ) -> Result<Self, AuthorityFault> {
        let chain::Loaded {
            root,
            intermediates,
            key,
        } = chain::load(tls_crt, tls_key, ca_crt, now)?;
        let signer = intermediates.first().unwrap_or(&root);
        let issuer = Issuer::from_ca_cert_der(signer, key).map_err(|_| {
            AuthorityFault::SubjectNotCopyable {
                subject: chain::subject_of(signer),
                why: "it is written in a character set that cannot be repeated",
            }
        })?;
        let (not_before, not_after) = validity_of(intermediates.iter().chain([&root]));
        let authority = Self {
            root,
            intermediates,
            issuer,
            key_pem: SecretSlice::from(tls_key.to_vec()),
            not_before,
            not_after,
        };
        authority.try_out(now, endpoint_names)?;
        Ok(authority)
    }

    /// Reads what was [`load`](Self::load)ed once, and kept since: judged at the moment of its time
    /// that is nearest to `now`, so that what has expired can still be told, trusted and replaced.
    pub fn restore(
        tls_crt: &[u8],
        tls_key: &[u8],
        ca_crt: &[u8],
        now: Timestamp,
    ) -> Result<Self, AuthorityFault> {
        // Each certificate of a chain may move it once in each direction.
        const MOST_MOVES: usize = 8;
        let mut at = now;
        let mut moves = 0;
        loop {
            let fault = match Self::load(tls_crt, tls_key, ca_crt, at, &[]) {
                Ok(authority) => return Ok(authority),
                Err(fault) => fault,
            };
            at = match &fault {
                AuthorityFault::Expired { at: end, .. } => end.checked_sub(LAST_MOMENT).ok(),
                AuthorityFault::NotYetValid { from, .. } => Some(*from),
                _ => None,
            }
            .filter(|_| moves < MOST_MOVES)
            .ok_or(fault)?;
            moves += 1;
        }
    }

    /// Whether it can sign, at this time, for every name of the endpoint.
    pub fn check_endpoint(
        &self,
        endpoint_names: &[String],
        now: Timestamp,
    ) -> Result<(), AuthorityFault> {
        let server = ServerLeaf {
            names: endpoint_names.to_vec(),
            duration: Duration::from_secs(3600),
        };
        self.issue_server(&server, now, [1; 16])
            .map(|_| ())
            .map_err(|error| self.fault_of(error, endpoint_names))
    }

    /// What a ledger says of it.
    pub fn entry(&self, source: Option<String>, since: Timestamp) -> Entry {
        Entry {
            fingerprint: self.fingerprint(),
            subject: chain::subject_of(self.signer()),
            source,
            not_before: self.not_before,
            not_after: self.not_after,
            since,
            settled: None,
        }
    }

    /// The entries of the Secret that [`load`](Self::load) reads: `tls.crt`, `tls.key` (PKCS#8 if
    /// generated, else as it was given) and `ca.crt`.
    pub fn to_secret(&self) -> SecretData {
        let chain = self.intermediates_or_root();
        [
            ("tls.crt", pem_of(chain).into_bytes()),
            ("tls.key", self.key_pem.expose_secret().to_vec()),
            ("ca.crt", certificate_pem(&self.root).into_bytes()),
        ]
        .into_iter()
        .map(|(name, content)| (name.to_owned(), SecretSlice::from(content)))
        .collect()
    }

    /// What clients are given to trust: the root and everything below it.
    pub fn bundle(&self) -> Bundle {
        Bundle::new([&self.root].into_iter().chain(&self.intermediates))
    }

    /// The certificates between a leaf and the root, as a TLS endpoint sends them.
    pub fn intermediates(&self) -> &[CertificateDer<'static>] {
        &self.intermediates
    }

    /// Every certificate, the one that signs first and the root last.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        let above = self.intermediates.iter().cloned();
        above.chain([self.root.clone()]).collect()
    }

    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The certificate whose key signs leaves: the trust anchor for a verifier that should accept
    /// leaves of ours alone, and nothing else that a company's root has vouched for.
    pub fn signer(&self) -> &CertificateDer<'static> {
        self.intermediates.first().unwrap_or(&self.root)
    }

    /// Of the certificate that signs.
    pub fn fingerprint(&self) -> String {
        fingerprint(self.signer())
    }

    /// When the last certificate of the chain became valid.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// When the first certificate of the chain expires: no leaf outlives it.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Issues one leaf of each sort and throws them away. Name constraints, extended key usages
    /// and whatever else webpki knows are found out by the one who will judge the real ones.
    fn try_out(&self, now: Timestamp, endpoint_names: &[String]) -> Result<(), AuthorityFault> {
        const SHORT: Duration = Duration::from_secs(3600);
        let fault = |error| self.fault_of(error, endpoint_names);
        self.check_copied_subject(now)?;
        if !endpoint_names.is_empty() {
            self.check_endpoint(endpoint_names, now)?;
        }
        let client = ClientLeaf {
            user: "trial".to_owned(),
            uris: vec!["urn:krake:hook:trial:trial:trial".to_owned()],
            duration: SHORT,
            algorithm: KeyAlgorithm::EcdsaP256,
        };
        self.issue_client(&client, now, [2; 16]).map_err(fault)?;
        Ok(())
    }

    /// Peers compare the issuer's name byte by byte.
    fn check_copied_subject(&self, now: Timestamp) -> Result<(), AuthorityFault> {
        let refused = |why| AuthorityFault::SubjectNotCopyable {
            subject: chain::subject_of(self.signer()),
            why,
        };
        let mut params = CertificateParams::default();
        params.not_before = offset_date_time(now);
        params.not_after = offset_date_time(now);
        let trial = params
            .signed_by(self.issuer.key(), &self.issuer)
            .map_err(|_| refused("it cannot be repeated in a certificate"))?;
        let issuer = X509Certificate::from_der(trial.der())
            .map(|(_, parsed)| parsed.issuer().as_raw().to_vec());
        let subject = X509Certificate::from_der(self.signer())
            .map(|(_, parsed)| parsed.subject().as_raw().to_vec());
        match (issuer, subject) {
            (Ok(issuer), Ok(subject)) if issuer == subject => Ok(()),
            _ => Err(refused("it is encoded in a way that cannot be repeated")),
        }
    }

    fn fault_of(&self, error: IssueError, endpoint_names: &[String]) -> AuthorityFault {
        let subject = chain::subject_of(self.signer());
        match error {
            IssueError::Name { name } => AuthorityFault::EndpointName { name },
            IssueError::Verify(VerifyError::NameConstraint) => AuthorityFault::NameConstraints {
                subject,
                names: quoted(&endpoint_names.join(", ")),
            },
            IssueError::Verify(VerifyError::Usage) => AuthorityFault::UsageForbidden { subject },
            IssueError::AuthorityEnds { at } => AuthorityFault::Expired { subject, at },
            other => AuthorityFault::Unusable {
                subject,
                why: other.to_string(),
            },
        }
    }

    fn intermediates_or_root(&self) -> &[CertificateDer<'static>] {
        if self.intermediates.is_empty() {
            std::slice::from_ref(&self.root)
        } else {
            &self.intermediates
        }
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Authority")
            .field("fingerprint", &self.fingerprint())
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn authority_params(
    common_name: &str,
    now: Timestamp,
    validity: Duration,
    serial: [u8; 16],
    path_length: u8,
) -> Result<CertificateParams, GenerateError> {
    let from = now
        .checked_sub(AUTHORITY_BACKDATE)
        .map_err(|_| GenerateError::Validity)?;
    let until = now
        .checked_add(validity)
        .map_err(|_| GenerateError::Validity)?;
    let mut subject = DistinguishedName::new();
    let [.., third, second, first, last] = serial;
    subject.push(
        DnType::CommonName,
        format!("{common_name} {}", hex(&[third, second, first, last])),
    );
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.not_before = offset_date_time(from);
    params.not_after = offset_date_time(until);
    params.serial_number = Some(serial_bytes(serial).to_vec().into());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn validity_of<'a>(
    certificates: impl Iterator<Item = &'a CertificateDer<'static>>,
) -> (Timestamp, Timestamp) {
    certificates
        .filter_map(|der| X509Certificate::from_der(der).ok())
        .fold(
            (Timestamp::MIN, Timestamp::MAX),
            |(latest, earliest), (_, certificate)| {
                let validity = certificate.validity();
                (
                    latest.max(timestamp(validity.not_before.timestamp())),
                    earliest.min(timestamp(validity.not_after.timestamp())),
                )
            },
        )
}

fn pem_of(certificates: &[CertificateDer<'_>]) -> String {
    certificates
        .iter()
        .map(|certificate| certificate_pem(certificate))
        .collect()
}

#[cfg(test)]
#[path = "ca_tests.rs"]
mod tests;
