//! What the entries of a hook's ConfigMap are, as far as a decision asks: whether they are as they
//! should be. That can be told by digests, and those are all that is kept of what anybody may have
//! written there.

use std::collections::BTreeMap;

use crate::api::names;
use crate::pki::TextDigest;

/// Digests of the entries that are ours; whatever else is in the ConfigMap is none of our business.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    complete_url: Option<TextDigest>,
    shutdown_url: Option<TextDigest>,
    bundle: Option<TextDigest>,
}

impl Entries {
    /// Of a ConfigMap with this data.
    pub fn of(data: &BTreeMap<String, String>) -> Self {
        let digest = |key: &str| data.get(key).map(|text| TextDigest::of(text));
        Self {
            complete_url: digest(names::COMPLETE_URL_KEY),
            shutdown_url: digest(names::SHUTDOWN_URL_KEY),
            bundle: digest(names::CA_BUNDLE),
        }
    }

    /// Whether an entry of this name is one of ours.
    pub fn has(name: &str) -> bool {
        [
            names::COMPLETE_URL_KEY,
            names::SHUTDOWN_URL_KEY,
            names::CA_BUNDLE,
        ]
        .contains(&name)
    }

    /// What the endpoint's certificate is verified with, if pods are told.
    pub fn bundle(&self) -> Option<&TextDigest> {
        self.bundle.as_ref()
    }
}
