//! Which change of a hook is news: everything but the words and the time of an acknowledgement that
//! counted before. An app may say the same again as often as it likes; it is written down, and
//! nothing is decided by it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::api::KrakeHook;
use crate::api::status::{AckResult, Acknowledgement};

/// Equal for two that are decided alike, as long as the process lives.
pub fn fingerprint(hook: &KrakeHook) -> u64 {
    let mut hasher = DefaultHasher::new();
    told(hook, without_words).to_string().hash(&mut hasher);
    hasher.finish()
}

/// Whether a hook differs from what it was by nothing but acknowledgements: only the callback was
/// faster. What else was seen with the older one can be decided on with the newer.
pub fn only_acknowledged_since(before: &KrakeHook, now: &KrakeHook) -> bool {
    let rest = |hook| told(hook, BTreeMap::clear);
    before.metadata.resource_version != now.metadata.resource_version && rest(before) == rest(now)
}

type Acknowledgements = BTreeMap<String, Acknowledgement>;

fn without_words(acknowledgements: &mut Acknowledgements) {
    let counted = acknowledgements.values_mut();
    for ack in counted.filter(|ack| ack.result == AckResult::Success) {
        ack.message = None;
        ack.at = Time(Timestamp::UNIX_EPOCH);
    }
}

/// What there is in a hook to decide on, with so much of its acknowledgements.
fn told(hook: &KrakeHook, reduce: fn(&mut Acknowledgements)) -> Value {
    let mut status = hook.status.clone().unwrap_or_default();
    reduce(&mut status.acknowledgements);
    let meta = &hook.metadata;
    json!([
        meta.uid,
        meta.generation,
        meta.deletion_timestamp,
        meta.finalizers,
        meta.annotations,
        meta.labels,
        status,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::build::{self, NAME};

    fn acknowledged() -> KrakeHook {
        let mut hook = build::hook(NAME).complete().hook();
        let status = hook.status.get_or_insert_default();
        status
            .acknowledgements
            .insert("complete.pod".into(), said("done"));
        hook
    }

    fn said(message: &str) -> Acknowledgement {
        Acknowledgement {
            at: Time(Timestamp::UNIX_EPOCH),
            request: None,
            workload_uid: "workload".into(),
            action: None,
            policy: None,
            result: AckResult::Success,
            message: Some(message.into()),
            certificate: None,
        }
    }

    fn ack(hook: &mut KrakeHook) -> &mut Acknowledgement {
        let status = hook.status.as_mut().expect("a status");
        status
            .acknowledgements
            .get_mut("complete.pod")
            .expect("one")
    }

    #[test]
    fn what_was_said_again_in_other_words_is_no_news() {
        let said_before = fingerprint(&acknowledged());
        let cases: [(&str, bool, fn(&mut KrakeHook)); 9] = [
            ("other words", false, |h| ack(h).message = None),
            ("later", false, |h| ack(h).at = Time(Timestamp::MAX)),
            ("written by somebody", false, |h| {
                h.metadata.resource_version = Some("7".into());
            }),
            ("failed after all", true, |h| {
                ack(h).result = AckResult::Failure
            }),
            ("of another workload", true, |h| {
                ack(h).workload_uid = "other".into()
            }),
            ("of another pod", true, |h| {
                let status = h.status.as_mut().expect("a status");
                status
                    .acknowledgements
                    .insert("complete.other".into(), said("done"));
            }),
            ("an annotation", true, |h| {
                let annotations = h.metadata.annotations.get_or_insert_default();
                annotations.insert("hooks.krake.dev/skip".into(), "now".into());
            }),
            ("deleted", true, |h| {
                h.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
            }),
            ("created again", true, |h| {
                h.metadata.uid = Some("another".into())
            }),
        ];
        for (what, news, change) in cases {
            let mut hook = acknowledged();
            change(&mut hook);
            assert_eq!(fingerprint(&hook) != said_before, news, "{what}");
        }
    }

    #[test]
    fn the_words_of_a_failure_are_news() {
        let mut hook = acknowledged();
        ack(&mut hook).result = AckResult::Failure;
        let before = fingerprint(&hook);
        ack(&mut hook).message = Some("disk full".into());
        assert_ne!(fingerprint(&hook), before);
    }

    #[test]
    fn only_the_callback_was_faster() {
        let before = acknowledged();
        let later = |change: fn(&mut KrakeHook)| {
            let mut hook = acknowledged();
            hook.metadata.resource_version = Some("7".into());
            change(&mut hook);
            only_acknowledged_since(&before, &hook)
        };
        assert!(later(|hook| ack(hook).message = None));
        assert!(!later(|hook| hook.metadata.generation = Some(7)));
        assert!(!later(
            |hook| hook.metadata.finalizers = Some(vec!["x".into()])
        ));
        assert!(!only_acknowledged_since(&before, &before), "nobody was");
    }
}
