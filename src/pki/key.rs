//! Private keys: read in every form that common tools write, made in the one that all tools read.
//!
//! No error here carries a byte of a key.

use rcgen::KeyPair;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::KeyAlgorithm;
use super::fault::{AuthorityFault, Part};

/// PKCS#8 version 1 of an Ed25519 key, up to its 32 bytes of seed.
const ED25519_VERSION_1: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The first private key of a PEM file. Other blocks (`EC PARAMETERS`, certificates) and text
/// around them are passed over, as every tool that writes them expects.
pub(super) fn read(pem: &[u8]) -> Result<KeyPair, AuthorityFault> {
    if is_encrypted(pem) {
        return Err(AuthorityFault::KeyEncrypted);
    }
    let key = PrivateKeyDer::pem_slice_iter(pem)
        .next()
        .ok_or(AuthorityFault::NotPem { part: Part::Key })?
        .map_err(|_| AuthorityFault::NotPem { part: Part::Key })?;
    KeyPair::try_from(&key).map_err(|_| AuthorityFault::KeyUnreadable)
}

/// A new key, whose serialized form is PKCS#8 version 1.
pub(super) fn generate(algorithm: KeyAlgorithm) -> Result<KeyPair, rcgen::Error> {
    match algorithm {
        KeyAlgorithm::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        KeyAlgorithm::Rsa2048 => KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256),
        KeyAlgorithm::Ed25519 => {
            let key = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
            as_version_1(&key)
        }
    }
}

/// rcgen writes an Ed25519 key as PKCS#8 version 2, which OpenSSL 3.0 (and so curl and Python on
/// Debian 12) does not read; version 1 is the same without the public key at its end.
fn as_version_1(key: &KeyPair) -> Result<KeyPair, rcgen::Error> {
    const ALGORITHM_AND_SEED: std::ops::Range<usize> = 5..48;
    let body = key
        .serialized_der()
        .get(ALGORITHM_AND_SEED)
        .filter(|body| body.starts_with(&ED25519_VERSION_1[5..]))
        .ok_or(rcgen::Error::CouldNotParseKeyPair)?;
    let der = [&ED25519_VERSION_1[..5], body].concat();
    KeyPair::try_from(&PrivatePkcs8KeyDer::from(der.as_slice()))
}

fn is_encrypted(pem: &[u8]) -> bool {
    const MARKS: [&[u8]; 2] = [
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----",
        b"Proc-Type: 4,ENCRYPTED",
    ];
    MARKS
        .iter()
        .any(|mark| pem.windows(mark.len()).any(|window| window == *mark))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::PublicKeyData;

    #[test]
    fn a_new_key_is_read_back_as_the_same_key() {
        for algorithm in KeyAlgorithm::ALL {
            let key = generate(algorithm).unwrap();
            let again = read(key.serialize_pem().as_bytes()).unwrap();
            assert_eq!(key.der_bytes(), again.der_bytes(), "{algorithm}");
            // SEQUENCE, then INTEGER 0: version 1.
            let der = key.serialized_der();
            assert!(
                der.windows(3).take(6).any(|window| window == [2, 1, 0]),
                "{algorithm}"
            );
        }
    }
}
