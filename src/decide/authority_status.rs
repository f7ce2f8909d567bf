//! What the `HookAuthority` says, and which changes of it people are told of.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::authority::{AuthorityEffect, Kept, Look};
use super::seen::Notice;
use crate::api::HookAuthorityStatus;
use crate::api::condition::{self, ConditionType, Finding, Reason};
use crate::api::hook_authority::{AuthorityInUse, AuthorityPhase};
use crate::api::names;
use crate::pki::{Entry, Ledger, Step};

/// Name of the operator as a source.
const OPERATOR: &str = "Operator";

/// The status where it differs from what it was, with what people are told.
pub(super) fn effects(look: &Look<'_>) -> Vec<AuthorityEffect> {
    let old = look.seen.status;
    let new = status(look);
    if &new == old {
        return Vec::new();
    }
    let mut effects = vec![AuthorityEffect::WriteStatus(Box::new(new.clone()))];
    let told = [
        (ConditionType::Ready, false),
        (ConditionType::SourceReady, false),
        (ConditionType::Expiring, true),
    ];
    for (kind, alarming) in told {
        effects.extend(notice(&new.conditions, &old.conditions, kind, alarming));
    }
    effects
}

/// What people are told of a step that has been taken.
pub fn taken(step: &Step, ledger: &Ledger, before: Option<&Ledger>) -> Option<Notice> {
    let source = |entry: &Entry| match &entry.source {
        Some(name) => format!("imported from Secret {name}"),
        None => "made by the operator".to_owned(),
    };
    let active = &ledger.active;
    let (reason, note) = match step {
        Step::Begin { .. } => (
            "AuthorityActive",
            format!("{} ({}) signs", shown(active), source(active)),
        ),
        Step::Prepare { .. } => {
            let next = ledger.next.as_ref()?;
            (
                "AuthorityPrepared",
                format!(
                    "{} ({}) is trusted, and signs when every pod knows it",
                    shown(next),
                    source(next)
                ),
            )
        }
        Step::Activate | Step::Supersede => {
            let old = before
                .map(|before| shown(&before.active))
                .unwrap_or_default();
            (
                "AuthorityActive",
                format!(
                    "{} ({}) signs in place of {old}",
                    shown(active),
                    source(active)
                ),
            )
        }
        Step::Discard => {
            let next = before.and_then(|before| before.next.as_ref())?;
            (
                "AuthorityDiscarded",
                format!(
                    "{} has signed nothing and is not wanted any more",
                    shown(next)
                ),
            )
        }
        Step::Retire { fingerprint } => {
            let mut gone = before?.retiring.iter();
            let gone = gone.find(|entry| &entry.fingerprint == fingerprint)?;
            (
                "AuthorityRetired",
                format!(
                    "{} is trusted no longer: no certificate of it is in use",
                    shown(gone)
                ),
            )
        }
        Step::Settle { .. }
        | Step::Unsettle { .. }
        | Step::Attribute { .. }
        | Step::Answer { .. } => return None,
    };
    Some(Notice {
        warning: matches!(step, Step::Supersede),
        reason,
        note,
        on_workload: false,
    })
}

fn status(look: &Look<'_>) -> HookAuthorityStatus {
    let findings = [
        ready(look),
        source_ready(look),
        rotating(look),
        expiring(look),
    ];
    let old = look.seen.status;
    let conditions = condition::conditions(&findings, &old.conditions, None, look.now);
    let Kept::Ledger(ledger) = look.seen.kept else {
        // What was in use when the state could be read is not known to be in use.
        return HookAuthorityStatus {
            conditions,
            rotated_for: old.rotated_for.clone(),
            ..HookAuthorityStatus::default()
        };
    };
    let active = &ledger.active;
    let made = look.seen.source.is_none();
    let one = |phase| move |entry: &Entry| in_use(entry, phase);
    // One that is taken up again is shown as what it is about to be.
    let retiring = ledger.retiring.iter().filter(|entry| {
        let next = ledger.next.as_ref();
        next.is_none_or(|next| next.fingerprint != entry.fingerprint)
    });
    HookAuthorityStatus {
        conditions,
        signer: Some(digits(active)),
        source: Some(source_of(active)),
        not_after: Some(time(active.not_after)),
        rotation_time: made.then(|| time(look.rotation_time(active))),
        rotated_for: ledger.rotated_for.clone(),
        authorities: retiring
            .map(one(AuthorityPhase::Retiring))
            .chain([in_use(active, AuthorityPhase::Active)])
            .chain(ledger.next.as_ref().map(one(AuthorityPhase::Prepared)))
            .collect(),
        ..HookAuthorityStatus::default()
    }
}

fn ready(look: &Look<'_>) -> Finding {
    let no = |reason, message: String| {
        Finding::no(ConditionType::Ready, Reason::Authority(reason), message)
    };
    let ledger = match (look.seen.kept, look.seen.source) {
        (Kept::Ledger(ledger), _) => ledger,
        (Kept::Broken(fault), _) => {
            return no(
                fault.reason,
                format!(
                    "Secret {}/{}: {}. It is not replaced; restore it from a backup, or delete it and every certificate is issued anew by another authority",
                    look.settings.namespace,
                    names::AUTHORITY_SECRET,
                    fault.message
                ),
            );
        }
        (Kept::Nothing, Some(Err(fault))) => {
            return no(fault.reason, format!("nothing signs: {}", fault.message));
        }
        (Kept::Nothing, _) => return no("AuthorityMissing", "it is about to be made".to_owned()),
    };
    let active = &ledger.active;
    let validity = (active.not_before, active.not_after);
    if look.now < validity.0 {
        return no(
            "AuthorityNotYetValid",
            format!(
                "{} is not valid before {}: {}",
                shown(active),
                validity.0,
                way_out(look)
            ),
        );
    }
    if validity.1 <= look.now {
        return no(
            "AuthorityExpired",
            format!(
                "{} has expired at {}: {}",
                shown(active),
                validity.1,
                way_out(look)
            ),
        );
    }
    match look.seen.endpoint {
        Some(fault) => no(fault.reason, fault.message.clone()),
        None => Finding::yes(
            ConditionType::Ready,
            Reason::Signing,
            format!("{} signs, until {}", shown(active), validity.1),
        ),
    }
}

fn source_ready(look: &Look<'_>) -> Finding {
    let yes = |reason, message| Finding::yes(ConditionType::SourceReady, reason, message);
    let name = look.settings.source.as_deref().unwrap_or_default();
    let secret = format!("Secret {}/{name}", look.settings.namespace);
    match (look.seen.source, look.seen.kept) {
        (None, _) => yes(
            Reason::OperatorMade,
            "callback.tls.intermediateSrc is empty: the operator makes its own".to_owned(),
        ),
        (Some(Ok(entry)), _) => yes(
            Reason::SourceGood,
            format!(
                "{secret} holds {}, valid until {}",
                shown(entry),
                entry.not_after
            ),
        ),
        (Some(Err(fault)), kept) => {
            let stays = match kept {
                Kept::Ledger(ledger) => format!("; {} stays in use", shown(&ledger.active)),
                _ => String::new(),
            };
            Finding::no(
                ConditionType::SourceReady,
                Reason::Authority(fault.reason),
                format!("{}{stays}", fault.message),
            )
        }
    }
}

fn rotating(look: &Look<'_>) -> Finding {
    let yes = |reason, message| Finding::yes(ConditionType::Rotating, reason, message);
    let ledger = match look.seen.kept {
        Kept::Ledger(ledger) => Some(ledger),
        _ => None,
    };
    if let Some(next) = ledger.and_then(|ledger| ledger.next.as_ref()) {
        let (bundles, behind) = (look.seen.bundles, look.seen.behind);
        return match next.settled {
            Some(since) => yes(
                Reason::Propagating,
                format!(
                    "{} is in the ConfigMaps of {} of {bundles} hooks; it signs from {} on, when every pod has been given it",
                    shown(next),
                    bundles - behind.min(bundles),
                    time(look.propagated(since)).0
                ),
            ),
            None => yes(
                Reason::Spreading,
                format!(
                    "{} is in the ConfigMaps of {} of {bundles} hooks; it signs when it is in all of them, or an hour after it was prepared",
                    shown(next),
                    bundles - behind.min(bundles)
                ),
            ),
        };
    }
    if let Some(old) = ledger.and_then(|ledger| ledger.retiring.first()) {
        let message = match (look.leaves(old), old.settled) {
            (0, Some(since)) => format!(
                "no certificate of {} is in use; it is trusted until {}",
                shown(old),
                time(look.propagated(since)).0
            ),
            (leaves, _) => format!(
                "{leaves} certificates of {} are in use; it is trusted until they are replaced",
                shown(old)
            ),
        };
        return yes(Reason::Retiring, message);
    }
    Finding::no(
        ConditionType::Rotating,
        Reason::NotRotating,
        "no rotation is under way",
    )
}

fn expiring(look: &Look<'_>) -> Finding {
    match (look.seen.kept, look.seen.source) {
        (Kept::Ledger(ledger), Some(source)) if look.warning_time(&ledger.active) <= look.now => {
            let active = &ledger.active;
            let replaced = source.is_ok_and(|entry| entry.fingerprint != active.fingerprint);
            if !replaced {
                return Finding::yes(
                    ConditionType::Expiring,
                    Reason::Expiring,
                    format!(
                        "{} ends at {}: {}",
                        shown(active),
                        active.not_after,
                        way_out(look)
                    ),
                );
            }
        }
        _ => {}
    }
    Finding::no(
        ConditionType::Expiring,
        Reason::NotExpiring,
        "nothing is to be renewed by hand",
    )
}

fn way_out(look: &Look<'_>) -> String {
    match &look.settings.source {
        Some(source) => format!(
            "put a renewed one into Secret {}/{source}, and check the clocks",
            look.settings.namespace
        ),
        None => "another one is made at once; check the clocks".to_owned(),
    }
}

/// An Event for a condition that has come to be what is alarming, or has ceased to be.
fn notice(
    new: &[Condition],
    old: &[Condition],
    kind: ConditionType,
    alarming: bool,
) -> Option<AuthorityEffect> {
    let (now, before) = (condition::find(new, kind)?, condition::find(old, kind));
    let alarms = |condition: &Condition| (condition.status == "True") == alarming;
    let same = |before: &Condition| {
        before.status == now.status && before.reason == now.reason && before.message == now.message
    };
    let (alarm, alarmed) = (alarms(now), before.is_some_and(alarms));
    if before.is_some_and(same) || (!alarm && !alarmed) {
        return None;
    }
    let reason = match (kind, alarm) {
        (ConditionType::Ready, true) => "AuthorityNotReady",
        (ConditionType::Ready, false) => "AuthorityReady",
        (ConditionType::SourceReady, true) => "SourceRefused",
        (ConditionType::SourceReady, false) => "SourceMended",
        (_, true) => "AuthorityExpiring",
        (_, false) => "AuthorityRenewed",
    };
    Some(AuthorityEffect::Event(Notice {
        warning: alarm,
        reason,
        note: format!("{}: {}", now.reason, now.message),
        on_workload: false,
    }))
}

fn in_use(entry: &Entry, phase: AuthorityPhase) -> AuthorityInUse {
    AuthorityInUse {
        fingerprint: entry.fingerprint.clone(),
        subject: entry.subject.clone(),
        phase,
        source: source_of(entry),
        not_before: time(entry.not_before),
        not_after: time(entry.not_after),
        since: time(entry.since),
    }
}

fn source_of(entry: &Entry) -> String {
    entry.source.clone().unwrap_or_else(|| OPERATOR.to_owned())
}

/// As `kubectl get hc -o wide` shows an issuer, cut to what tells two apart.
fn digits(entry: &Entry) -> String {
    entry.fingerprint.chars().take(16).collect()
}

fn shown(entry: &Entry) -> String {
    format!("{} ({})", entry.subject, digits(entry))
}

/// In whole seconds, as the API keeps it: else each look would find another status.
fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}
