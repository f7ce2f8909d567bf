//! The authorities in use with their certificates and keys, as one Secret keeps them.
//!
//! | entry | content |
//! |---|---|
//! | `tls.crt`, `tls.key`, `ca.crt` | the active authority |
//! | `next.crt`, `next.key`, `next-ca.crt` | the prepared one, if there is one |
//! | `retiring-<16 digits of its fingerprint>.crt` | each retiring one: its certificates, the root last, and no key |
//! | `ledger.json` | phases and times; a Secret without it holds an authority that has always been active |
//!
//! # Guarantees
//! - What is read back is what was written; what a certificate says of itself is taken from the
//!   certificate, whatever the ledger says.
//! - A key is kept no longer than it may sign.
//! - An authority is read whatever the time is: whether it is valid now is for others to judge.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretSlice};

use super::fault::LARGEST_PART;
use super::{
    Authority, AuthorityFault, Bundle, Entry, Ledger, SecretData, Step, certificate_pem,
    fingerprint,
};

const ACTIVE: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];
const NEXT: [&str; 3] = ["next.crt", "next.key", "next-ca.crt"];
const LEDGER: &str = "ledger.json";
const RETIRING: &str = "retiring-";

/// The authorities in use.
#[derive(Clone)]
pub struct Succession {
    ledger: Ledger,
    active: Arc<Authority>,
    next: Option<Arc<Authority>>,
    /// By fingerprint: the certificate that has signed, those above it, the root.
    retiring: BTreeMap<String, Vec<CertificateDer<'static>>>,
}

impl Succession {
    /// The first authority, which answers whatever was asked for before.
    pub fn begin(active: Arc<Authority>, entry: Entry, answering: Option<String>) -> Self {
        Self {
            ledger: Ledger::begin(entry, answering),
            active,
            next: None,
            retiring: BTreeMap::new(),
        }
    }

    /// Reads the Secret.
    pub fn from_secret(entries: &SecretData, now: Timestamp) -> Result<Self, AuthorityFault> {
        let active = restore(entries, ACTIVE, now)?;
        let mut ledger = match entries.get(LEDGER).map(ExposeSecret::expose_secret) {
            None => Ledger::begin(active.entry(None, active.not_before()), None),
            Some(text) if text.len() > LARGEST_PART => return Err(AuthorityFault::Ledger),
            Some(text) => serde_json::from_slice(text).map_err(|_| AuthorityFault::Ledger)?,
        };
        ledger.active = if ledger.active.fingerprint == active.fingerprint() {
            active.entry(ledger.active.source.clone(), ledger.active.since)
        } else {
            // Put there by somebody, in place of what the ledger is about.
            active.entry(None, active.not_before())
        };
        // One that somebody has damaged has signed nothing yet, and is made or imported again.
        let next = restore(entries, NEXT, now).ok();
        let fits = |entry: &Entry| {
            let next = next.as_ref()?;
            (entry.fingerprint == next.fingerprint()).then(|| Entry {
                settled: entry.settled,
                ..next.entry(entry.source.clone(), entry.since)
            })
        };
        ledger.next = ledger.next.as_ref().and_then(fits);
        let mut retiring = BTreeMap::new();
        for entry in &ledger.retiring {
            let pem = entries.get(&retiring_key(entry));
            if let Some(chain) = pem.and_then(|pem| chain_of(pem.expose_secret(), entry)) {
                retiring.insert(entry.fingerprint.clone(), chain);
            }
        }
        ledger
            .retiring
            .retain(|entry| retiring.contains_key(&entry.fingerprint));
        Ok(Self {
            next: ledger
                .next
                .is_some()
                .then_some(next)
                .flatten()
                .map(Arc::new),
            active: Arc::new(active),
            ledger,
            retiring,
        })
    }

    /// The entries of the Secret.
    pub fn to_secret(&self) -> SecretData {
        let mut entries = self.active.to_secret();
        for (name, content) in self.next.iter().flat_map(|next| next.to_secret()) {
            if let Some(at) = ACTIVE.iter().position(|active| *active == name) {
                entries.insert(NEXT[at].to_owned(), content);
            }
        }
        for entry in &self.ledger.retiring {
            let chain = self.retiring.get(&entry.fingerprint).into_iter().flatten();
            let pem: String = chain.map(|der| certificate_pem(der)).collect();
            entries.insert(retiring_key(entry), SecretSlice::from(pem.into_bytes()));
        }
        let ledger = serde_json::to_vec(&self.ledger).expect("plain data is always valid JSON");
        entries.insert(LEDGER.to_owned(), SecretSlice::from(ledger));
        entries
    }

    /// Whether an entry of the Secret is one of those written here.
    pub fn is_entry(name: &str) -> bool {
        ACTIVE.contains(&name)
            || NEXT.contains(&name)
            || name == LEDGER
            || name.starts_with(RETIRING)
    }

    /// The succession after a step; `made` is the new authority where the step brings one.
    pub fn after(
        &self,
        step: &Step,
        made: Option<(Arc<Authority>, Entry)>,
        now: Timestamp,
    ) -> Self {
        let (authority, entry) = made.unzip();
        let ledger = self.ledger.after(step, entry, now);
        let known = [Some(&self.active), self.next.as_ref(), authority.as_ref()];
        let find = |wanted: &Entry| {
            let mut known = known.iter().flatten();
            known.find(|one| one.fingerprint() == wanted.fingerprint)
        };
        let chain = |entry: &Entry| {
            let kept = self.retiring.get(&entry.fingerprint).cloned();
            let chain = kept.or_else(|| find(entry).map(|authority| authority.chain()))?;
            Some((entry.fingerprint.clone(), chain))
        };
        Self {
            active: find(&ledger.active)
                .map_or_else(|| Arc::clone(&self.active), |active| Arc::clone(active)),
            next: ledger
                .next
                .as_ref()
                .and_then(find)
                .map(|next| Arc::clone(next)),
            retiring: ledger.retiring.iter().filter_map(chain).collect(),
            ledger,
        }
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The one that signs.
    pub fn signer(&self) -> &Arc<Authority> {
        &self.active
    }

    /// What clients' certificates are verified with: whatever is or may be signed by any of them.
    pub fn anchors(&self) -> Vec<CertificateDer<'static>> {
        let mut anchors: Vec<_> = self
            .chains()
            .filter_map(|chain| chain.into_iter().next())
            .collect();
        anchors.dedup();
        anchors
    }

    /// What clients are given to trust.
    pub fn bundle(&self) -> Bundle {
        let all: Vec<_> = self
            .chains()
            .flat_map(|mut chain| {
                // The root first.
                chain.rotate_right(1);
                chain
            })
            .collect();
        Bundle::new(&all)
    }

    /// What of [`bundle`](Self::bundle) is the prepared one's.
    pub fn next_bundle(&self) -> Option<Bundle> {
        self.next.as_ref().map(|next| next.bundle())
    }

    fn chains(&self) -> impl Iterator<Item = Vec<CertificateDer<'static>>> {
        let retiring = self.ledger.retiring.iter();
        retiring
            .filter_map(|entry| self.retiring.get(&entry.fingerprint).cloned())
            .chain([self.active.chain()])
            .chain(self.next.as_ref().map(|next| next.chain()))
    }
}

impl fmt::Debug for Succession {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Succession")
            .field("ledger", &self.ledger)
            .finish_non_exhaustive()
    }
}

fn restore(
    entries: &SecretData,
    [chain, key, root]: [&str; 3],
    now: Timestamp,
) -> Result<Authority, AuthorityFault> {
    let entry = |name| {
        let entry = entries.get(name).map(ExposeSecret::expose_secret);
        entry.unwrap_or_default()
    };
    Authority::restore(entry(chain), entry(key), entry(root), now)
}

fn chain_of(pem: &[u8], entry: &Entry) -> Option<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .ok()?;
    let signer = chain.first()?;
    // A trust anchor that cannot be read would keep the endpoint from every other one.
    webpki::anchor_from_trusted_cert(signer).ok()?;
    (fingerprint(signer) == entry.fingerprint).then_some(chain)
}

fn retiring_key(entry: &Entry) -> String {
    let digits: String = entry.fingerprint.chars().take(16).collect();
    format!("{RETIRING}{digits}.crt")
}

#[cfg(test)]
#[path = "succession_tests.rs"]
mod tests;
