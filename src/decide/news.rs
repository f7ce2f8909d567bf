//! Fingerprint of everything in a hook that a reconcile depends on. It ignores message and time of an
//! acknowledgement that already counted, and further acknowledgements of a completion that is decided: an
//! app may repeat itself as often as it likes; that is stored, and wakes nothing.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::api::krake_hook::CompleteAction;
use crate::api::status::AckResult;
use crate::api::{HookKind, KrakeHook, KrakeHookStatus, names};

/// Equal for two that are decided alike, as long as the process lives.
pub fn fingerprint(hook: &KrakeHook) -> u64 {
    let mut hasher = DefaultHasher::new();
    told(hook, without_repetition).to_string().hash(&mut hasher);
    hasher.finish()
}

/// Whether a hook differs from what it was by nothing but acknowledgements: only the callback was
/// faster. What else was seen with the older one can be decided on with the newer.
pub fn only_acknowledged_since(before: &KrakeHook, now: &KrakeHook) -> bool {
    let rest = |hook| {
        told(hook, |status| {
            status.acknowledgements.clear();
            status.rejected = None;
        })
    };
    before.metadata.resource_version != now.metadata.resource_version && rest(before) == rest(now)
}

fn without_repetition(status: &mut KrakeHookStatus) {
    let done = status.completion.as_ref();
    // What is scaled to zero may be scaled up again, and then it matters who said what before.
    let done = done.filter(|done| done.action != CompleteAction::ScaleToZero);
    let done = done.map(|done| done.workload_uid.as_str());
    status.acknowledgements.retain(|key, ack| {
        let repeats = ack.result == AckResult::Success
            && key.starts_with(HookKind::Complete.as_str())
            && done == Some(&ack.workload_uid);
        !repeats
    });
    let counted = status.acknowledgements.values_mut();
    for ack in counted.filter(|ack| ack.result == AckResult::Success) {
        ack.message = None;
        ack.at = Time(Timestamp::UNIX_EPOCH);
    }
}

/// What there is in a hook to decide on, with so much of its acknowledgements.
fn told(hook: &KrakeHook, reduce: fn(&mut KrakeHookStatus)) -> Value {
    let mut status = hook.status.clone().unwrap_or_default();
    reduce(&mut status);
    let meta = &hook.metadata;
    let annotations = meta.annotations.iter().flatten();
    let ours: BTreeMap<_, _> = annotations
        .filter(|(name, _)| names::is_ours(name))
        .collect();
    json!([
        meta.uid,
        meta.generation,
        meta.deletion_timestamp,
        meta.finalizers,
        ours,
        status,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::{Acknowledgement, Completion};
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
    fn one_more_that_says_complete_is_news_unless_that_is_decided() {
        let completed = |action, workload: &str| {
            let mut hook = acknowledged();
            let status = hook.status.as_mut().expect("a status");
            status.completion = Some(Completion {
                workload_uid: workload.into(),
                template_hash: String::new(),
                at: Time(Timestamp::UNIX_EPOCH),
                action,
                request: None,
                pods: Vec::new(),
            });
            hook
        };
        let one_more = |hook: &KrakeHook, key: &str, ack: Acknowledgement| {
            let mut hook = hook.clone();
            let status = hook.status.as_mut().expect("a status");
            status.acknowledgements.insert(key.into(), ack);
            hook
        };
        let failed = Acknowledgement {
            result: AckResult::Failure,
            ..said("disk full")
        };
        let deleted = completed(CompleteAction::Delete, "workload");
        let left = completed(CompleteAction::None, "workload");
        let scaled = completed(CompleteAction::ScaleToZero, "workload");
        let another = completed(CompleteAction::Delete, "another");
        let cases = [
            (&deleted, "complete.other", said("done"), false),
            (&deleted, "shutdown.other", said("saved"), true),
            (&deleted, "complete.other", failed, true),
            (&left, "complete.other", said("done"), false),
            (&scaled, "complete.other", said("done"), true),
            (&another, "complete.other", said("done"), true),
            (&acknowledged(), "complete.other", said("done"), true),
        ];
        for (number, (hook, key, ack, news)) in cases.into_iter().enumerate() {
            let more = one_more(hook, key, ack);
            assert_eq!(fingerprint(&more) != fingerprint(hook), news, "{number}");
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
