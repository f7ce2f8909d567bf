//! Tokens: `<key id>.<HMAC-SHA-256(master key, hook uid, workload uid)>`.
//!
//! A token is derived, not stored: the callback checks it without reading anything, and a pod of
//! an earlier workload of the same name has one that fits no more. Both uids go in with their
//! length in front, so that no two pairs give the same bytes.
//!
//! # Guarantees
//! - Comparison takes the same time whatever is wrong.
//! - A key is in no `Debug` output and no error; an error names the entry of the Secret.
//!
//! # Caveats
//! Whoever has the ring has every token. Losing it makes every token in a running pod worthless.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretBox, SecretSlice, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{SecretData, hex};

/// The entry that names the key which signs.
const CURRENT: &str = "current";
const KEY_LENGTH: usize = 32;
const ID_LENGTH: usize = 8;

/// Why a Secret is not a ring.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    #[error("the Secret has no entry {CURRENT:?}, which names the key that signs")]
    NoCurrent,
    #[error("the entry {CURRENT:?} names no key of the Secret")]
    UnknownCurrent,
    #[error("the entry {entry:?} is not a key: it must have exactly {KEY_LENGTH} bytes")]
    KeyLength { entry: String },
    #[error("the entry {entry:?} is not named after the key in it")]
    KeyName { entry: String },
}

struct MasterKey {
    id: String,
    bytes: SecretBox<[u8; KEY_LENGTH]>,
}

impl MasterKey {
    fn new(bytes: [u8; KEY_LENGTH]) -> Self {
        // Behind a label of its own, so that an id is never a part of anything else hashed.
        let digest = Sha256::new()
            .chain_update(b"krake-hooks token key id\0")
            .chain_update(bytes)
            .finalize();
        let mut id = hex(&digest);
        id.truncate(ID_LENGTH);
        Self {
            id,
            bytes: SecretBox::new(Box::new(bytes)),
        }
    }

    fn code(&self, hook_uid: &str, workload_uid: &str) -> [u8; 32] {
        let mut code = Hmac::<Sha256>::new_from_slice(self.bytes.expose_secret())
            .expect("HMAC takes a key of any length");
        for uid in [hook_uid, workload_uid] {
            code.update(&(uid.len() as u64).to_be_bytes());
            code.update(uid.as_bytes());
        }
        code.finalize().into_bytes().into()
    }
}

/// The master keys: one signs, any verifies.
pub struct Ring {
    current: MasterKey,
    /// Those that have signed, and the one that is to sign next.
    older: Vec<MasterKey>,
}

impl Ring {
    /// A ring of one new key.
    pub fn generate(random: [u8; 32]) -> Self {
        Self {
            current: MasterKey::new(random),
            older: Vec::new(),
        }
    }

    /// The same ring with one more key, which verifies; and its id.
    #[must_use]
    pub fn with(mut self, random: [u8; KEY_LENGTH]) -> (Self, String) {
        let key = MasterKey::new(random);
        let id = key.id.clone();
        if !self.has(&id) {
            self.older.push(key);
        }
        (self, id)
    }

    /// The same ring, in which this key of it signs.
    #[must_use]
    pub fn signing_with(mut self, key_id: &str) -> Self {
        if let Some(at) = self.older.iter().position(|key| key.id == key_id) {
            std::mem::swap(&mut self.current, &mut self.older[at]);
        }
        self
    }

    /// The key that signs, and no other.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.older.clear();
        self
    }

    /// One entry of 32 bytes for each key, under its id, and `current`, which names the one that signs.
    pub fn to_secret(&self) -> SecretData {
        let mut entries: SecretData = self
            .keys()
            .map(|key| {
                let bytes = key.bytes.expose_secret().to_vec();
                (key.id.clone(), SecretSlice::from(bytes))
            })
            .collect();
        entries.insert(
            CURRENT.to_owned(),
            SecretSlice::from(self.current.id.clone().into_bytes()),
        );
        entries
    }

    /// Reads what [`to_secret`](Self::to_secret) wrote; anything beside it is refused, because a
    /// key that is passed over in silence is one that somebody believes to be in use.
    pub fn from_secret<'a>(
        entries: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, RingError> {
        let mut keys = BTreeMap::new();
        let mut current = None;
        for (entry, content) in entries {
            if entry == CURRENT {
                current = Some(content.trim_ascii().to_vec());
                continue;
            }
            let bytes = content.try_into().map_err(|_| RingError::KeyLength {
                entry: entry.to_owned(),
            })?;
            let key = MasterKey::new(bytes);
            if key.id != entry {
                return Err(RingError::KeyName {
                    entry: entry.to_owned(),
                });
            }
            keys.insert(key.id.clone(), key);
        }
        let named = String::from_utf8(current.ok_or(RingError::NoCurrent)?)
            .map_err(|_| RingError::UnknownCurrent)?;
        let current = keys.remove(&named).ok_or(RingError::UnknownCurrent)?;
        Ok(Self {
            current,
            older: keys.into_values().collect(),
        })
    }

    /// The id of the key that signs. It tells nothing about the key.
    pub fn current_id(&self) -> &str {
        &self.current.id
    }

    /// The ids of all keys, the one that signs first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys().map(|key| key.id.as_str())
    }

    /// Whether this key is one of them.
    pub fn has(&self, key_id: &str) -> bool {
        self.ids().any(|id| id == key_id)
    }

    /// The token of the pods of this workload for this hook, by this key, if it is there.
    pub fn token_by(
        &self,
        key_id: &str,
        hook_uid: &str,
        workload_uid: &str,
    ) -> Option<SecretString> {
        let key = self.keys().find(|key| key.id == key_id)?;
        let code = URL_SAFE_NO_PAD.encode(key.code(hook_uid, workload_uid));
        Some(SecretString::from(format!("{}.{code}", key.id)))
    }

    /// The same by the key that signs.
    #[cfg(test)]
    pub fn token(&self, hook_uid: &str, workload_uid: &str) -> SecretString {
        self.token_by(&self.current.id, hook_uid, workload_uid)
            .expect("the key that signs is there")
    }

    /// Whether this is a token of the pods of this workload for this hook, by any key.
    pub fn verify(&self, token: &str, hook_uid: &str, workload_uid: &str) -> bool {
        let Some((id, code)) = token.split_once('.') else {
            return false;
        };
        // Of each byte string there is one spelling: the decoder refuses padding and stray bits.
        let Ok(presented) = URL_SAFE_NO_PAD.decode(code) else {
            return false;
        };
        // Every key is tried, so that the time does not tell which ids there are.
        let mut accepted = subtle::Choice::from(0);
        for key in self.keys() {
            let expected = key.code(hook_uid, workload_uid);
            accepted |= key.id.as_bytes().ct_eq(id.as_bytes()) & expected.ct_eq(&presented);
        }
        accepted.into()
    }

    fn keys(&self) -> impl Iterator<Item = &MasterKey> {
        [&self.current].into_iter().chain(&self.older)
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Ring")
            .field("ids", &self.ids().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reread(ring: &Ring) -> Result<Ring, RingError> {
        let secret = ring.to_secret();
        Ring::from_secret(
            secret
                .iter()
                .map(|(entry, content)| (entry.as_str(), content.expose_secret())),
        )
    }

    fn token(ring: &Ring, hook: &str, workload: &str) -> String {
        ring.token(hook, workload).expose_secret().to_owned()
    }

    #[test]
    fn a_token_fits_its_own_hook_and_workload_only() {
        let ring = Ring::generate([7; 32]);
        let given = token(&ring, "hook", "workload");
        assert!(ring.verify(&given, "hook", "workload"));
        for (hook, workload) in [
            ("hook", "other"),
            ("other", "workload"),
            ("hookw", "orkload"),
            ("", "hookworkload"),
            ("workload", "hook"),
        ] {
            assert!(!ring.verify(&given, hook, workload), "{hook}/{workload}");
        }
        assert!(!Ring::generate([8; 32]).verify(&given, "hook", "workload"));
    }

    /// Held against an independent computation (Python's hmac): it must not change, because pods
    /// hold tokens across every upgrade.
    #[test]
    fn the_form_of_a_token_is_kept() {
        let given = token(&Ring::generate([7; 32]), "hook", "workload");
        assert_eq!(
            given,
            "fc580e93.WG72JgxSRVVZKAb7E9asTYBDw1WABwWHEiM_uNJv1IQ"
        );
    }

    #[test]
    fn a_bent_token_is_refused() {
        let ring = Ring::generate([7; 32]);
        let given = token(&ring, "hook", "workload");
        let (id, code) = given.split_once('.').unwrap();
        for bent in [
            String::new(),
            ".".to_owned(),
            id.to_owned(),
            code.to_owned(),
            format!("{id}."),
            format!(".{code}"),
            format!("{id}.{code}="),
            format!("{id}.{code}\n"),
            format!("{id}.{}", &code[..42]),
            format!("{id}.{code}A"),
            format!("{}.{code}", id.to_uppercase()),
            format!("00000000.{code}"),
            format!("{id}.{id}.{code}"),
        ] {
            assert!(
                !ring.verify(&bent, "hook", "workload") || bent == given,
                "{bent:?}"
            );
        }
    }

    #[test]
    fn one_signs_and_any_verifies_until_it_is_dropped() {
        let first = Ring::generate([1; 32]);
        let old_id = first.current_id().to_owned();
        let old = token(&first, "hook", "workload");

        let (ring, new_id) = first.with([2; 32]);
        assert_eq!(ring.current_id(), old_id);
        assert_ne!(new_id, old_id);
        let new = ring.token_by(&new_id, "hook", "workload").unwrap();
        let new = new.expose_secret().to_owned();
        assert!(ring.verify(&new, "hook", "workload"), "prepared");

        let ring = reread(&ring.signing_with(&new_id)).unwrap();
        assert_eq!(ring.current_id(), new_id);
        assert!(ring.verify(&old, "hook", "workload"));
        assert_eq!(token(&ring, "hook", "workload"), new);

        let ring = ring.signing_with("unknown").alone();
        assert_eq!(ring.ids().collect::<Vec<_>>(), [new_id.as_str()]);
        assert!(!ring.verify(&old, "hook", "workload"));
        assert!(ring.verify(&new, "hook", "workload"));
        assert!(ring.token_by(&old_id, "hook", "workload").is_none());
    }

    #[test]
    fn a_malformed_secret_names_the_entry_and_never_its_content() {
        let id = Ring::generate([5; 32]).current_id().to_owned();
        let key: &[u8] = &[5; 32];
        let entry = |name: &str| name.to_owned();
        for (entries, error) in [
            (vec![], RingError::NoCurrent),
            (vec![(id.as_str(), key)], RingError::NoCurrent),
            (
                vec![(id.as_str(), key), ("current", b"")],
                RingError::UnknownCurrent,
            ),
            (
                vec![(id.as_str(), key), ("current", b"\xff")],
                RingError::UnknownCurrent,
            ),
            (vec![("current", id.as_bytes())], RingError::UnknownCurrent),
            (
                vec![(id.as_str(), &key[1..]), ("current", id.as_bytes())],
                RingError::KeyLength { entry: entry(&id) },
            ),
            (
                vec![("0badc0de", key), ("current", b"0badc0de")],
                RingError::KeyName {
                    entry: entry("0badc0de"),
                },
            ),
        ] {
            assert_eq!(Ring::from_secret(entries).unwrap_err(), error);
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let ring = Ring::generate(*b"abcdefghijklmnopqrstuvwxyz012345");
        let shown = format!("{ring:?} {:?} {:?}", ring.to_secret(), ring.token("a", "b"));
        assert!(!shown.contains("abcdef"), "{shown}");
        assert!(!shown.contains("97, 98"), "{shown}");
        assert!(!shown.contains(&token(&ring, "a", "b")), "{shown}");
    }

    proptest! {
        #[test]
        fn no_secret_panics(
            entries in proptest::collection::btree_map(
                "[a-z0-9]{0,8}|current",
                proptest::collection::vec(any::<u8>(), 0..40),
                0..4,
            ),
        ) {
            let _ = Ring::from_secret(entries.iter().map(|(entry, content)| (entry.as_str(), content.as_slice())));
        }

        #[test]
        fn only_the_token_itself_is_accepted(presented in "\\PC{0,60}|[0-9a-f]{8}\\.[A-Za-z0-9_-]{43}") {
            prop_assert!(!Ring::generate([7; 32]).verify(&presented, "hook", "workload"));
        }

        #[test]
        fn different_pairs_have_different_tokens(a in "[a-c]{0,3}", b in "[a-c]{0,3}", c in "[a-c]{0,3}", d in "[a-c]{0,3}") {
            let ring = Ring::generate([7; 32]);
            prop_assert_eq!(ring.verify(&token(&ring, &a, &b), &c, &d), (a, b) == (c, d));
        }
    }
}
