//! BYTES IN, BYTES OUT: keys, certificates and tokens.
//!
//! | file | noun |
//! |---|---|
//! | `ca.rs` | [`Authority`]: the certificate authority, made here or given by the user |
//! | `chain.rs` | what a user's three files must hold, found out before anything is signed with them |
//! | `fault.rs` | [`AuthorityFault`]: one variant, one reason and one way out for each thing wrong with them |
//! | `key.rs` | private keys: read in every form that tools write, made in the one that all tools read |
//! | `leaf.rs` | [`ClientLeaf`] and [`ServerLeaf`]: what we sign, and when it is renewed |
//! | `ledger.rs` | [`Ledger`]: which authorities are in use together, and in which phase |
//! | `succession.rs` | [`Succession`]: the same with certificates and keys, as one Secret keeps it |
//! | `verify.rs` | the judgement of a peer on what we signed, made before anybody else makes it |
//! | `identity.rs` | [`Identity`] and [`HookUri`]: who a verified certificate says it is |
//! | `token.rs` | [`Ring`]: tokens derived from a master key, never stored |
//!
//! It depends on nothing of ours, reads no clock and touches no server: time, serial numbers and
//! jitter are arguments. (Key generation alone uses the generator of aws-lc.) It must never put a
//! private key or a token into `Debug`, a log or an error, and never hand out a certificate that
//! it has not verified.

// A fault's message says what a variant and its fields are; a doc comment would say it again.
#![allow(missing_docs)]

mod ca;
mod chain;
mod fault;
mod identity;
mod key;
mod leaf;
mod ledger;
mod succession;
mod token;
mod verify;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use secrecy::SecretBox;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use ca::{Authority, AuthorityNames, AuthoritySerials, AuthorityValidity};
pub use fault::AuthorityFault;
pub use identity::{CertificateUri, HookUri, Identity, IdentityError};
pub use leaf::{ClientLeaf, IssueError, Issued, ServerLeaf, is_endpoint_name, renewal_time};
pub use ledger::{Entry, Ledger, Step};
pub use succession::Succession;
pub use token::{Ring, RingError};
pub use verify::{Purpose, VerifyError, public_key_matches, verify_chain, verify_name};

const BEGIN_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n";
const END_CERTIFICATE: &str = "-----END CERTIFICATE-----\n";

/// The entries of a Secret, on their way to the API server.
pub type SecretData = BTreeMap<String, SecretBox<[u8]>>;

/// Certificates that a client is told to trust, as the text of one PEM file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle(String);

impl Bundle {
    /// A bundle of these certificates, in this order, each of them once.
    pub fn new<'a, 'der: 'a>(
        certificates: impl IntoIterator<Item = &'a CertificateDer<'der>>,
    ) -> Self {
        let mut blocks: Vec<String> = Vec::new();
        for certificate in certificates {
            let block = certificate_pem(certificate);
            if !blocks.contains(&block) {
                blocks.push(block);
            }
        }
        Self(blocks.concat())
    }

    pub fn pem(&self) -> &str {
        &self.0
    }

    /// Whether a file has each of these certificates, wherever they stand in it.
    pub fn is_in(&self, file: &TextDigest) -> bool {
        blocks(&self.0).all(|block| file.blocks.contains(&sha256(block)))
    }
}

/// A text as far as it can be compared: its SHA-256, and that of each certificate in it.
#[derive(Clone, PartialEq, Eq)]
pub struct TextDigest {
    whole: [u8; 32],
    blocks: Vec<[u8; 32]>,
}

impl TextDigest {
    /// More certificates than any operator has in use at a time.
    const MOST: usize = 8;

    /// Of this text.
    pub fn of(text: &str) -> Self {
        Self {
            whole: sha256(text),
            blocks: blocks(text).map(sha256).take(Self::MOST).collect(),
        }
    }
}

impl fmt::Debug for TextDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.whole;
        write!(formatter, "{:08x}", u32::from_be_bytes([a, b, c, d]))
    }
}

/// The certificates in a PEM file, whatever stands between them.
fn blocks(pem: &str) -> impl Iterator<Item = &str> {
    pem.split_inclusive(END_CERTIFICATE)
        .filter_map(|block| Some(&block[block.find(BEGIN_CERTIFICATE)?..]))
        .filter(|block| block.ends_with(END_CERTIFICATE))
}

fn sha256(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

impl fmt::Display for Bundle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The kind of private key that a leaf gets.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
pub enum KeyAlgorithm {
    #[default]
    #[serde(rename = "ECDSA-P256")]
    EcdsaP256,
    #[serde(rename = "Ed25519")]
    Ed25519,
    #[serde(rename = "RSA-2048")]
    Rsa2048,
}

impl KeyAlgorithm {
    pub const ALL: [Self; 3] = [Self::EcdsaP256, Self::Ed25519, Self::Rsa2048];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ECDSA-P256",
            Self::Ed25519 => "Ed25519",
            Self::Rsa2048 => "RSA-2048",
        }
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Text that names no key algorithm.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a key algorithm: choose ECDSA-P256, Ed25519 or RSA-2048")]
pub struct UnknownKeyAlgorithm(String);

impl FromStr for KeyAlgorithm {
    type Err = UnknownKeyAlgorithm;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.as_str() == text)
            .ok_or_else(|| UnknownKeyAlgorithm(text.to_owned()))
    }
}

/// SHA-256 of a certificate, in lowercase hex, as `openssl x509 -fingerprint -sha256` shows it
/// without its colons.
pub fn fingerprint(der: &[u8]) -> String {
    hex(&Sha256::digest(der))
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn certificate_pem(der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = String::from(BEGIN_CERTIFICATE);
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, following) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = following;
    }
    text.push_str(END_CERTIFICATE);
    text
}

/// RFC 5280's "no expiry date" (the last second of 9999) lies beyond what a [`Timestamp`] holds,
/// so both ends are clamped rather than refused.
fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(if seconds < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_have_one_spelling() {
        for algorithm in KeyAlgorithm::ALL {
            let text = algorithm.to_string();
            assert_eq!(text.parse::<KeyAlgorithm>().unwrap(), algorithm);
            assert_eq!(serde_json::to_value(algorithm).unwrap(), text);
        }
        assert!("ecdsa-p256".parse::<KeyAlgorithm>().is_err());
    }

    #[test]
    fn fingerprint_is_sha256_in_hex() {
        assert_eq!(
            fingerprint(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn bundle_holds_each_certificate_once() {
        let first = CertificateDer::from(vec![1; 100]);
        let second = CertificateDer::from(vec![2; 100]);
        let bundle = Bundle::new([&first, &second, &first]);
        assert_eq!(
            bundle.pem(),
            format!("{}{}", certificate_pem(&first), certificate_pem(&second))
        );
        assert!(bundle.pem().lines().all(|line| line.len() <= 64));
        let both = [&second, &first].map(|der| certificate_pem(der));
        assert!(bundle.is_in(&TextDigest::of(&both.concat())));
        let mut each = both.iter().map(|one| TextDigest::of(one));
        assert!(each.all(|one| !bundle.is_in(&one)));
    }

    #[test]
    fn dates_beyond_the_calendar_are_clamped() {
        assert_eq!(timestamp(253_402_300_799), Timestamp::MAX);
        assert_eq!(timestamp(i64::MIN), Timestamp::MIN);
        assert_eq!(timestamp(0), Timestamp::UNIX_EPOCH);
    }
}
