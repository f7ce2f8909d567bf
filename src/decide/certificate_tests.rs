use super::*;
use serde_json::{Value, json};

const HOOK: &str = "0f3a9c1e-77aa-4c0f-9b1a-2f6d1e7c8b90";
const LATER_HOOK: &str = "aaaaaaaa-77aa-4c0f-9b1a-2f6d1e7c8b90";
const OWN: &str = "cccccccc-77aa-4c0f-9b1a-2f6d1e7c8b90";
const GENERATED: &str = "trainer-krake-0f3a9c1e";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn settings() -> CertificateSettings {
    CertificateSettings {
        user: "system:krake-hook".into(),
        duration_seconds: 9000,
        key_algorithm: KeyAlgorithm::EcdsaP256,
        authority: "first".into(),
    }
}

fn certificate(name: &str, change: impl FnOnce(&mut Value)) -> HookCertificate {
    let mut value = json!({
        "apiVersion": "hooks.krake.dev/v1alpha1", "kind": "HookCertificate",
        "metadata": {"namespace": "ml", "name": name, "uid": OWN, "generation": 1},
        "spec": {"hook": {"name": "trainer"}},
    });
    if name == GENERATED {
        value["spec"]["secretName"] = json!(format!("{GENERATED}-tls"));
        value["metadata"]["ownerReferences"] = json!([{"apiVersion": "hooks.krake.dev/v1alpha1",
            "kind": "HookGuard", "name": HOOK, "uid": "guard-uid"}]);
    }
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn generated() -> HookCertificate {
    certificate(GENERATED, |_| {})
}

fn look(
    certificate: &HookCertificate,
    hook_uid: Option<&str>,
    outcome: Option<&Outcome>,
    now: i64,
) -> CertificateDecision {
    let seen = CertificateSeen {
        certificate,
        hook_uid,
        outcome,
    };
    decide(&seen, &settings(), at(now), 0.0)
}

fn ordered(decision: &CertificateDecision) -> &IssueOrder {
    match decision.effects.as_slice() {
        [CertificateEffect::Issue(order)] => order,
        other => panic!("{other:?}"),
    }
}

fn written(decision: &CertificateDecision) -> &HookCertificateStatus {
    match decision.effects.as_slice() {
        [CertificateEffect::WriteStatus(status), ..] => status,
        other => panic!("{other:?}"),
    }
}

fn said(status: &HookCertificateStatus, kind: ConditionType) -> (&str, &str) {
    let condition = condition::find(&status.conditions, kind).unwrap();
    (&condition.status, &condition.reason)
}

/// Issued at 1000 for 9000 s: valid from 700 until 10000, renewed at 7000.
fn issued(order: &IssueOrder) -> Outcome {
    Outcome::Issued(Box::new(Issuance {
        cause: order.cause,
        generation: order.generation,
        renewed_for: order.renewed_for.clone(),
        hook_uid: order.hook_uid.clone(),
        secret: IssuedSecret {
            name: order.secret_name.clone(),
            uid: "secret-uid".into(),
            resource_version: "7".into(),
        },
        overwrote_edit: false,
        serial: "4a".into(),
        not_before: at(700),
        not_after: at(10_000),
        issuer: "first".into(),
        issuer_name: "The first".into(),
    }))
}

/// The same certificate after it was issued and recorded.
fn settled_one(mut certificate: HookCertificate) -> HookCertificate {
    let decision = look(&certificate, Some(HOOK), None, 1000);
    let outcome = issued(ordered(&decision));
    let decision = look(&certificate, Some(HOOK), Some(&outcome), 1000);
    certificate.status = Some(written(&decision).clone());
    certificate
}

#[test]
fn a_generated_certificate_is_issued_for_its_hook_into_a_secret_of_its_guard() {
    let certificate = generated();
    let decision = look(&certificate, Some(HOOK), None, 1000);
    let order = ordered(&decision);
    assert_eq!(order.cause, Cause::New);
    assert_eq!(
        order.leaf.uris,
        [format!("urn:krake:hook:ml:trainer:{HOOK}")]
    );
    assert_eq!(order.leaf.user, "system:krake-hook");
    assert_eq!(order.leaf.duration, Duration::from_secs(9000));
    assert_eq!(order.secret_name, format!("{GENERATED}-tls"));
    assert_eq!(order.owner_label, HOOK);
    assert_eq!(
        (order.owner.kind.as_str(), order.owner.uid.as_str()),
        ("HookGuard", "guard-uid")
    );
    assert_eq!(order.owner.controller, Some(false));
    assert_eq!(order.owner.block_owner_deletion, Some(false));
    assert_eq!(order.recorded, None);

    let outcome = issued(order);
    let decision = look(&certificate, Some(HOOK), Some(&outcome), 1000);
    let status = written(&decision);
    assert_eq!(said(status, ConditionType::Ready), ("True", "Issued"));
    assert_eq!(said(status, ConditionType::Issuing), ("False", "Issued"));
    assert_eq!(status.renewal_time, Some(Time(at(7000))));
    assert_eq!(status.revision, Some(1));
    assert_eq!(status.issuer_name.as_deref(), Some("The first"));
    assert_eq!(status.observed_generation, Some(1));
    assert_eq!(decision.next, Next::At(at(7000)));
    assert!(matches!(&decision.effects[1], CertificateEffect::Event(n) if !n.warning));
}

#[test]
fn a_users_own_names_itself_too_and_owns_its_secret() {
    let certificate = certificate("laptop", |value| {
        value["spec"]["durationSeconds"] = json!(600);
        value["spec"]["privateKey"] = json!({"algorithm": "Ed25519"});
    });
    let decision = look(&certificate, Some(HOOK), None, 1000);
    let order = ordered(&decision);
    let uris = [
        format!("urn:krake:hook:ml:trainer:{HOOK}"),
        format!("urn:krake:certificate:{OWN}"),
    ];
    assert_eq!(order.leaf.uris, uris);
    assert_eq!(order.leaf.duration, Duration::from_secs(600));
    assert_eq!(order.leaf.algorithm, KeyAlgorithm::Ed25519);
    assert_eq!(order.secret_name, "laptop-tls");
    assert_eq!(order.owner_label, OWN);
    assert_eq!(
        (order.owner.kind.as_str(), order.owner.uid.as_str()),
        ("HookCertificate", OWN)
    );
}

#[test]
fn nobody_leads_us_to_the_token_or_takes_anothers_name() {
    // A generated one whose spec somebody has turned to the hook's token Secret.
    let turned = certificate(GENERATED, |v| v["spec"]["secretName"] = json!(GENERATED));
    let decision = look(&turned, Some(HOOK), None, 1000);
    assert_eq!(ordered(&decision).secret_name, format!("{GENERATED}-tls"));
    // A user's own that says it is the guard's: it stays his, by label, owner and second name.
    let forged = certificate("laptop", |value| {
        value["spec"]["secretName"] = json!(GENERATED);
        value["metadata"]["ownerReferences"] = json!([{"apiVersion": "hooks.krake.dev/v1alpha1",
            "kind": "HookGuard", "name": HOOK, "uid": "guard-uid"}]);
    });
    let decision = look(&forged, Some(HOOK), None, 1000);
    assert_eq!(ordered(&decision).owner_label, OWN);
    assert_eq!(ordered(&decision).leaf.uris.len(), 2);
}

#[test]
fn what_is_recorded_is_left_alone_until_something_is_due() {
    type Change = fn(&mut HookCertificate, &mut CertificateSettings);
    let nothing: Change = |_, _| {};
    let table: [(&str, i64, Change, Option<Cause>); 16] = [
        ("at once", 1000, nothing, None),
        ("a second before", 6999, nothing, None),
        ("renewal", 7000, nothing, Some(Cause::RenewalTime)),
        ("long after", 90_000, nothing, Some(Cause::RenewalTime)),
        (
            "issued by a clock that was ahead",
            699,
            nothing,
            Some(Cause::NotYetValid),
        ),
        ("just valid", 700, nothing, None),
        (
            "spec",
            1000,
            |c, _| c.metadata.generation = Some(2),
            Some(Cause::SpecChanged),
        ),
        (
            "secret name",
            1000,
            |c, _| c.spec.secret_name = Some("other".into()),
            Some(Cause::SpecChanged),
        ),
        (
            "authority",
            1000,
            |_, s| s.authority = "second".into(),
            Some(Cause::AuthorityChanged),
        ),
        ("defaults", 1000, |_, s| s.duration_seconds = 60, None),
        (
            "annotation",
            1000,
            |c, _| annotate(c, Some("now")),
            Some(Cause::Asked),
        ),
        (
            "annotation acted on",
            1000,
            |c, _| {
                annotate(c, Some("now"));
                c.status.as_mut().unwrap().renewed_for = Some("now".into());
            },
            None,
        ),
        (
            "another annotation",
            1000,
            |c, _| {
                annotate(c, Some("again"));
                c.status.as_mut().unwrap().renewed_for = Some("now".into());
            },
            Some(Cause::Asked),
        ),
        (
            "record lost",
            1000,
            |c, _| c.status = None,
            Some(Cause::New),
        ),
        (
            "Secret unrecorded",
            1000,
            |c, _| c.status.as_mut().unwrap().secret = None,
            Some(Cause::New),
        ),
        (
            "hook created again",
            1000,
            |c, _| c.status.as_mut().unwrap().hook_uid = Some("old".into()),
            Some(Cause::HookReplaced),
        ),
    ];
    for (what, now, change, expected) in table {
        let mut certificate = settled_one(certificate("laptop", |_| {}));
        let mut settings = settings();
        change(&mut certificate, &mut settings);
        let seen = CertificateSeen {
            certificate: &certificate,
            hook_uid: Some(HOOK),
            outcome: None,
        };
        let decision = decide(&seen, &settings, at(now), 0.0);
        match expected {
            Some(cause) => assert_eq!(ordered(&decision).cause, cause, "{what}"),
            None => {
                assert_eq!(decision.effects, [], "{what}");
                assert_eq!(decision.next, Next::At(at(7000)), "{what}");
            }
        }
    }
}

fn annotate(certificate: &mut HookCertificate, value: Option<&str>) {
    certificate.metadata.annotations =
        value.map(|value| [(names::RENEW_ANNOTATION.to_owned(), value.to_owned())].into());
}

#[test]
fn a_renewal_updates_the_recorded_secret_and_another_name_forgets_it() {
    let certificate = settled_one(certificate("laptop", |_| {}));
    let decision = look(&certificate, Some(HOOK), None, 7000);
    let order = ordered(&decision);
    assert_eq!(order.recorded.as_ref().unwrap().uid, "secret-uid");
    let again = look(&certificate, Some(HOOK), Some(&issued(order)), 7000);
    assert_eq!(written(&again).revision, Some(2));

    let mut renamed = certificate.clone();
    renamed.spec.secret_name = Some("other".into());
    assert_eq!(
        ordered(&look(&renamed, Some(HOOK), None, 1000)).recorded,
        None
    );
}

#[test]
fn an_annotation_taken_away_and_set_again_asks_again() {
    let mut certificate = settled_one(generated());
    annotate(&mut certificate, Some("now"));
    let decision = look(&certificate, Some(HOOK), None, 2000);
    let outcome = issued(ordered(&decision));
    let decision = look(&certificate, Some(HOOK), Some(&outcome), 2000);
    certificate.status = Some(written(&decision).clone());
    assert_eq!(look(&certificate, Some(HOOK), None, 2000).effects, []);

    annotate(&mut certificate, None);
    let decision = look(&certificate, Some(HOOK), None, 2000);
    assert_eq!(written(&decision).renewed_for, None);
    certificate.status = Some(written(&decision).clone());
    annotate(&mut certificate, Some("now"));
    let decision = look(&certificate, Some(HOOK), None, 2000);
    assert_eq!(ordered(&decision).cause, Cause::Asked);
}

#[test]
fn a_spec_that_changed_while_it_was_issued_is_due_again() {
    let mut certificate = generated();
    let outcome = issued(ordered(&look(&certificate, Some(HOOK), None, 1000)));
    certificate.metadata.generation = Some(2);
    annotate(&mut certificate, Some("now"));
    let decision = look(&certificate, Some(HOOK), Some(&outcome), 1000);
    let status = written(&decision);
    assert_eq!(
        (status.observed_generation, &status.renewed_for),
        (Some(1), &None)
    );
    certificate.status = Some(status.clone());
    let again = look(&certificate, Some(HOOK), None, 1000);
    assert_eq!(ordered(&again).cause, Cause::SpecChanged);
}

#[test]
fn without_its_hook_nothing_is_issued_and_it_says_so_once() {
    for (mut certificate, hook_uid, word) in [
        (generated(), None, "create it"),
        (generated(), Some(LATER_HOOK), "gone"),
        (certificate("laptop", |_| {}), None, "create it"),
        (settled_one(generated()), Some(LATER_HOOK), "gone"),
    ] {
        let decision = look(&certificate, hook_uid, None, 8000);
        let status = written(&decision).clone();
        assert_eq!(
            said(&status, ConditionType::Ready),
            ("False", "HookNotFound")
        );
        let message = &condition::find(&status.conditions, ConditionType::Ready)
            .unwrap()
            .message;
        assert!(message.contains(word), "{message}");
        assert_eq!(decision.next, Next::AwaitChange);
        certificate.status = Some(status);
        assert_eq!(look(&certificate, hook_uid, None, 9000).effects, []);
    }
    // It comes back, and what is recorded is still good.
    let mut certificate = settled_one(generated());
    let gone = look(&certificate, None, None, 2000);
    certificate.status = Some(written(&gone).clone());
    let back = look(&certificate, Some(HOOK), None, 2001);
    assert_eq!(
        said(written(&back), ConditionType::Ready),
        ("True", "Issued")
    );
}

#[test]
fn a_refusal_is_told_once_and_what_is_still_good_stays_ready() {
    let refusal = |reason| Outcome::Refused {
        reason,
        message: "because".into(),
        order: None,
    };
    let fresh = || certificate("laptop", |_| {});
    let good = || settled_one(fresh());
    for (mut certificate, reason, now, ready) in [
        (fresh(), Reason::IssueFailed, 1000, ("False", "IssueFailed")),
        (
            fresh(),
            Reason::SecretConflict,
            1000,
            ("False", "SecretConflict"),
        ),
        (good(), Reason::IssueFailed, 9999, ("True", "Issued")),
        (
            good(),
            Reason::IssueFailed,
            10_000,
            ("False", "IssueFailed"),
        ),
        (
            good(),
            Reason::SecretConflict,
            9999,
            ("False", "SecretConflict"),
        ),
    ] {
        let before = certificate.status.clone().unwrap_or_default();
        let decision = look(&certificate, Some(HOOK), Some(&refusal(reason)), now);
        let status = written(&decision).clone();
        assert_eq!(said(&status, ConditionType::Ready), ready);
        assert_eq!(
            said(&status, ConditionType::Issuing),
            ("True", reason.as_str())
        );
        assert_eq!(decision.effects.len(), 2, "one Event");
        // Nothing of what is recorded is forgotten, or a later success would be an edit of a stranger.
        let kept = HookCertificateStatus {
            conditions: before.conditions.clone(),
            ..status.clone()
        };
        assert_eq!(kept, before);

        certificate.status = Some(status);
        let again = look(&certificate, Some(HOOK), Some(&refusal(reason)), now);
        assert_eq!(again.effects, []);
    }
}

#[test]
fn an_edit_of_the_secret_is_told_when_it_was_overwritten() {
    let certificate = generated();
    let decision = look(&certificate, Some(HOOK), None, 1000);
    let Outcome::Issued(issuance) = issued(ordered(&decision)) else {
        unreachable!()
    };
    let outcome = Outcome::Issued(Box::new(Issuance {
        overwrote_edit: true,
        ..*issuance
    }));
    let decision = look(&certificate, Some(HOOK), Some(&outcome), 1000);
    assert!(matches!(
        decision.effects.as_slice(),
        [
            _,
            _,
            CertificateEffect::Event(Notice {
                warning: true,
                reason: "SecretOverwritten",
                ..
            })
        ]
    ));
}

#[test]
fn a_certificate_that_is_being_deleted_is_left_alone() {
    let mut certificate = generated();
    certificate.metadata.deletion_timestamp = Some(Time(at(1)));
    assert_eq!(
        look(&certificate, Some(HOOK), None, 1000),
        only(Vec::new(), Next::AwaitChange)
    );
}

/// The certificate after its order was refused at this time.
fn refused_at(mut certificate: HookCertificate, now: i64) -> HookCertificate {
    let decision = look(&certificate, Some(HOOK), None, now);
    let outcome = Outcome::Refused {
        reason: Reason::SecretConflict,
        message: "because".into(),
        order: Some(ordered(&decision).id.clone()),
    };
    let decision = look(&certificate, Some(HOOK), Some(&outcome), now);
    certificate.status = Some(written(&decision).clone());
    certificate
}

/// What a restart or another leader finds is the status alone.
#[test]
fn what_was_refused_is_tried_again_ever_later_and_anything_new_at_once() {
    let mut certificate = certificate("laptop", |_| {});
    let mut now = 1000;
    for wait in [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600] {
        certificate = refused_at(certificate, now);
        let waiting = look(&certificate, Some(HOOK), None, now + wait - 1);
        assert_eq!(
            (waiting.effects.len(), waiting.next),
            (0, Next::At(at(now + wait)))
        );
        now += wait;
    }
    let changes: [fn(&mut HookCertificate); 2] = [
        |certificate| certificate.metadata.generation = Some(2),
        |certificate| {
            let asked = (names::RENEW_ANNOTATION.to_owned(), "now".to_owned());
            certificate.metadata.annotations = Some([asked].into());
        },
    ];
    certificate = refused_at(certificate, now);
    for change in changes {
        let mut changed = certificate.clone();
        change(&mut changed);
        ordered(&look(&changed, Some(HOOK), None, now + 1));
        // And waits for its own refusals.
        let status = refused_at(changed, now + 1).status.unwrap();
        assert_eq!(status.failed_attempts, Some(1));
    }
    ordered(&look(&certificate, Some(LATER_HOOK), None, now + 1));
    let seen = CertificateSeen {
        certificate: &certificate,
        hook_uid: Some(HOOK),
        outcome: None,
    };
    let authority = CertificateSettings {
        authority: "second".into(),
        ..settings()
    };
    ordered(&decide(&seen, &authority, at(now + 1), 0.0));
    let status = settled_one(certificate_without_wait(certificate))
        .status
        .unwrap();
    assert_eq!((status.failed_attempts, status.failed_order), (None, None));
}

fn certificate_without_wait(mut certificate: HookCertificate) -> HookCertificate {
    certificate.metadata.generation = Some(3);
    certificate
}

/// Whatever the clock does, it comes to rest after at most two issues.
#[test]
fn wrong_clocks_make_no_storm() {
    const DAY: i64 = 86_400;
    let start = 100 * DAY;
    for jump in [-3600, 3600, 1800, 400 * DAY, -90 * DAY] {
        let mut certificate = generated();
        let mut issues = Vec::new();
        // Right, then wrong, then right again; ten looks at each.
        for clock in [start, start + jump, start + 60] {
            let mut count = 0;
            for second in 0..10 {
                let now = clock + second;
                let decision = look(&certificate, Some(HOOK), None, now);
                let [CertificateEffect::Issue(order)] = decision.effects.as_slice() else {
                    continue;
                };
                count += 1;
                let outcome = Outcome::Issued(Box::new(Issuance {
                    not_before: at(now - 300),
                    not_after: at(now + 90 * DAY),
                    ..match issued(order) {
                        Outcome::Issued(issuance) => *issuance,
                        Outcome::Refused { .. } => unreachable!(),
                    }
                }));
                let decision = look(&certificate, Some(HOOK), Some(&outcome), now);
                certificate.status = Some(written(&decision).clone());
            }
            issues.push(count);
        }
        assert_eq!(issues[0], 1, "{jump}");
        assert!(issues[1] + issues[2] <= 2, "{jump}: {issues:?}");
        assert!(issues.iter().all(|count| *count <= 1), "{jump}: {issues:?}");
    }
}
