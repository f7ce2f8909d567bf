//! What we sign: client leaves for hooks, the callback's own server leaf, and when to renew them.
//!
//! # Guarantees
//! - Every leaf that is handed out has been verified against the root, and its key against it.
//! - A new key each time; one extended key usage; CA:FALSE; never valid beyond any certificate
//!   above it, nor before.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer, PrivatePkcs8KeyDer};
use secrecy::{ExposeSecret, SecretString};
use time::OffsetDateTime;

use super::chain::subject_of;
use super::verify::{Purpose, VerifyError, public_key_matches, verify_chain, verify_name};
use super::{Authority, KeyAlgorithm, certificate_pem, hex, key};

/// A leaf is valid from this long ago, for peers whose clock is behind ours.
pub(super) const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// No leaf with less time ahead of it is issued: it would be renewed as fast as it is made.
pub const SHORTEST_DURATION: Duration = Duration::from_secs(60);

/// X.520's limit on a common name; OpenSSL refuses longer ones.
const LONGEST_COMMON_NAME: usize = 64;

/// A certificate with which a client acknowledges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLeaf {
    /// The common name.
    pub user: String,
    pub uris: Vec<String>,
    pub duration: Duration,
    pub algorithm: KeyAlgorithm,
}

/// The certificate of the callback endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLeaf {
    /// DNS names (also with `*.` in front) and IP addresses.
    pub names: Vec<String>,
    pub duration: Duration,
}

/// Why no leaf was issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    #[error(
        "the common name {user:?} must have 1 to {LONGEST_COMMON_NAME} characters, none of them a control character"
    )]
    CommonName { user: String },
    #[error("a client certificate needs at least one URI")]
    NoUri,
    #[error("{uri:?} cannot stand in a certificate: it must be ASCII without spaces")]
    Uri { uri: String },
    #[error("a server certificate needs at least one name")]
    NoName,
    #[error("{name:?} is neither a DNS name nor an IP address")]
    Name { name: String },
    #[error("a certificate for {} seconds is too short: at least {} are needed", .duration.as_secs(), SHORTEST_DURATION.as_secs())]
    TooShort { duration: Duration },
    #[error("the authority itself ends at {at}")]
    AuthorityEnds { at: Timestamp },
    #[error("make a key: {0}")]
    Key(rcgen::Error),
    #[error("sign a certificate: {0}")]
    Sign(rcgen::Error),
    #[error("verify the certificate just issued: {0}")]
    Verify(#[from] VerifyError),
    #[error("the certificate just issued does not belong to its key")]
    KeyMismatch,
}

/// A leaf, its key, and what a status shows of it.
pub struct Issued {
    /// The leaf, then the certificates between it and the root.
    pub chain_pem: String,
    /// PKCS#8.
    pub key_pem: SecretString,
    /// Lowercase hex, 32 digits.
    pub serial: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// Fingerprint of the certificate that signed.
    pub issuer: String,
    /// Its subject, as a person knows it.
    pub issuer_name: String,
}

impl Issued {
    /// Key and chain in one file, which a client can read without a moment in which they differ.
    pub fn bundle_pem(&self) -> SecretString {
        let mut text = String::with_capacity(
            // In one piece, so that no half of the key is left behind by growing.
            self.key_pem.expose_secret().len() + self.chain_pem.len() + 1,
        );
        text.push_str(self.key_pem.expose_secret());
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&self.chain_pem);
        SecretString::from(text)
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Issued")
            .field("serial", &self.serial)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Issues a certificate that is good for client authentication alone.
    pub fn issue_client(
        &self,
        leaf: &ClientLeaf,
        now: Timestamp,
        serial: [u8; 16],
    ) -> Result<Issued, IssueError> {
        if leaf.uris.is_empty() {
            return Err(IssueError::NoUri);
        }
        let names = leaf
            .uris
            .iter()
            .map(|uri| uri_name(uri))
            .collect::<Result<_, _>>()?;
        let params = leaf_params(
            &leaf.user,
            names,
            ExtendedKeyUsagePurpose::ClientAuth,
            serial,
        )?;
        self.issue(params, leaf.duration, leaf.algorithm, Purpose::Client, now)
            .map(|(issued, _)| issued)
    }

    /// Issues a certificate that is good for server authentication alone (ECDSA P-256).
    pub fn issue_server(
        &self,
        leaf: &ServerLeaf,
        now: Timestamp,
        serial: [u8; 16],
    ) -> Result<Issued, IssueError> {
        // With a space it can be no host name, so that no client takes it for one.
        const COMMON_NAME: &str = "krake-hooks callback";
        if leaf.names.is_empty() {
            return Err(IssueError::NoName);
        }
        let mut names = Vec::new();
        for name in &leaf.names {
            let name = server_name(name)?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let params = leaf_params(
            COMMON_NAME,
            names,
            ExtendedKeyUsagePurpose::ServerAuth,
            serial,
        )?;
        let (issued, der) = self.issue(
            params,
            leaf.duration,
            KeyAlgorithm::EcdsaP256,
            Purpose::Server,
            now,
        )?;
        for name in &leaf.names {
            verify_name(&der, &name.replacen('*', "any", 1))?;
        }
        Ok(issued)
    }

    fn issue(
        &self,
        mut params: CertificateParams,
        duration: Duration,
        algorithm: KeyAlgorithm,
        purpose: Purpose,
        now: Timestamp,
    ) -> Result<(Issued, CertificateDer<'static>), IssueError> {
        let (not_before, not_after) = self.leaf_validity(now, duration)?;
        params.not_before = offset_date_time(not_before);
        params.not_after = offset_date_time(not_after);
        let serial = params
            .serial_number
            .as_ref()
            .map(|serial| hex(serial.as_ref()))
            .unwrap_or_default();

        let key = key::generate(algorithm).map_err(IssueError::Key)?;
        let leaf = params
            .signed_by(&key, &self.issuer)
            .map_err(IssueError::Sign)?;

        let chain: Vec<CertificateDer<'static>> = [leaf.der().clone()]
            .into_iter()
            .chain(self.intermediates().iter().cloned())
            .collect();
        verify_chain(&chain, std::slice::from_ref(self.root()), purpose, now)?;
        check_key(leaf.der(), &key)?;

        let issued = Issued {
            chain_pem: chain.iter().map(|der| certificate_pem(der)).collect(),
            key_pem: SecretString::from(key.serialize_pem()),
            serial,
            not_before,
            not_after,
            issuer: self.fingerprint(),
            issuer_name: subject_of(self.signer()),
        };
        Ok((issued, leaf.der().clone()))
    }

    /// Whole seconds, as certificates have them.
    fn leaf_validity(
        &self,
        now: Timestamp,
        duration: Duration,
    ) -> Result<(Timestamp, Timestamp), IssueError> {
        if duration < SHORTEST_DURATION {
            return Err(IssueError::TooShort { duration });
        }
        let now = super::timestamp(now.as_second());
        let not_before = now
            .checked_sub(BACKDATE)
            .unwrap_or(Timestamp::MIN)
            .max(self.not_before());
        let not_after = now
            .checked_add(duration)
            .unwrap_or(Timestamp::MAX)
            .min(self.not_after());
        let ahead = not_after.duration_since(now);
        if ahead < SignedDuration::try_from(SHORTEST_DURATION).unwrap_or(SignedDuration::MAX) {
            return Err(IssueError::AuthorityEnds {
                at: self.not_after(),
            });
        }
        Ok((not_before, super::timestamp(not_after.as_second())))
    }
}

/// When to renew: two thirds into a certificate's time, or `renew_before` its end.
///
/// `jitter` (0 to 1, anything else counts as the nearer of them) brings that forward by up to a
/// tenth of its time, so that what was issued together is not renewed together; never back, so
/// that `renew_before` is kept. Whatever is asked for, nothing is renewed in the first tenth of
/// its time: no setting makes a loop.
///
/// A certificate's time begins at its issue, which is five minutes after its `not_before`.
pub fn renewal_time(
    not_before: Timestamp,
    not_after: Timestamp,
    renew_before: Option<Duration>,
    jitter: f64,
) -> Timestamp {
    let end = not_after.as_second();
    let start = not_before
        .as_second()
        .saturating_add(BACKDATE.as_secs().cast_signed())
        .min(end);
    let lifetime = end.saturating_sub(start);
    let wanted = match renew_before {
        Some(before) => end.saturating_sub(i64::try_from(before.as_secs()).unwrap_or(i64::MAX)),
        None => start + lifetime / 3 * 2,
    };
    let jitter = if jitter.is_nan() {
        0.0
    } else {
        jitter.clamp(0.0, 1.0)
    };
    // A tenth of any calendar's seconds is exact in a float.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    let forward = (lifetime as f64 / 10.0 * jitter) as i64;
    super::timestamp(
        wanted
            .saturating_sub(forward)
            .max(start + lifetime / 10)
            .min(end),
    )
}

/// Positive, never zero, and sixteen bytes long whatever it is made of: 126 bits of it are random.
pub(super) fn serial_bytes(mut random: [u8; 16]) -> [u8; 16] {
    random[0] = (random[0] & 0x7f) | 0x40;
    random
}

pub(super) fn offset_date_time(at: Timestamp) -> OffsetDateTime {
    // Both calendars end with the year 9999.
    OffsetDateTime::from_unix_timestamp(at.as_second()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn leaf_params(
    common_name: &str,
    names: Vec<SanType>,
    usage: ExtendedKeyUsagePurpose,
    serial: [u8; 16],
) -> Result<CertificateParams, IssueError> {
    let length = common_name.chars().count();
    if length == 0 || length > LONGEST_COMMON_NAME || common_name.contains(char::is_control) {
        return Err(IssueError::CommonName {
            user: common_name.to_owned(),
        });
    }
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.subject_alt_names = names;
    params.serial_number = Some(serial_bytes(serial).to_vec().into());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn uri_name(uri: &str) -> Result<SanType, IssueError> {
    let refused = || IssueError::Uri {
        uri: uri.to_owned(),
    };
    if uri.is_empty() || !uri.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refused());
    }
    Ok(SanType::URI(uri.try_into().map_err(|_| refused())?))
}

/// Whether a certificate can be made for this name of an endpoint.
pub fn is_endpoint_name(name: &str) -> bool {
    server_name(name).is_ok()
}

fn server_name(name: &str) -> Result<SanType, IssueError> {
    let refused = || IssueError::Name {
        name: super::fault::quoted(name),
    };
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let host = name.strip_prefix("*.").unwrap_or(name);
    // A name with the final dot of DNS is one that no client compares with.
    if host.ends_with('.') || DnsName::try_from(host).is_err() {
        return Err(refused());
    }
    Ok(SanType::DnsName(name.try_into().map_err(|_| refused())?))
}

fn check_key(certificate: &CertificateDer<'_>, key: &KeyPair) -> Result<(), IssueError> {
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialized_der()));
    if public_key_matches(certificate, &der) {
        Ok(())
    } else {
        Err(IssueError::KeyMismatch)
    }
}

#[cfg(test)]
#[path = "leaf_tests.rs"]
mod tests;
