//! When a certificate is issued, for whom, and what its status says.
//!
//! A reconcile decides, carries the order out, and decides again with the [`Outcome`]: the Secret is
//! written before the status that records it, so that a crash between the two leads to one further
//! issue and to nothing else.
//!
//! | what is seen, first match counts | cause |
//! |---|---|
//! | no certificate is recorded | New |
//! | it is recorded for another Secret, or an older spec | SpecChanged |
//! | it names another hook uid than the hook has now | HookReplaced |
//! | another authority signs now | AuthorityChanged |
//! | the annotation `hooks.krake.dev/renew` has another value than the one acted on | Asked |
//! | it is not valid yet, by this clock | NotYetValid |
//! | its renewal time has come | RenewalTime |
//!
//! What was refused waits before it is tried again, see [`attempts`].
//!
//! A certificate that the operator made for a hook is never issued for another hook of the same
//! name: the hook it is for stands in its owner, the `HookGuard` named by the hook's uid. A hook that
//! is being deleted still gets its certificate renewed: its hold may last.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::attempts;
use super::seen::{Next, Notice, annotation};
use crate::api::condition::{self, ConditionType, Finding, Reason};
use crate::api::hook_certificate::IssuedSecret;
use crate::api::{HookCertificate, HookCertificateStatus, names};
use crate::pki::{CertificateUri, ClientLeaf, KeyAlgorithm, renewal_time};

/// What an operator process knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSettings {
    /// Common name of client certificates.
    pub user: String,
    /// How long a certificate is valid where its spec does not say, in seconds.
    pub duration_seconds: i64,
    /// Algorithm of the key where the spec does not say.
    pub key_algorithm: KeyAlgorithm,
    /// Fingerprint of the certificate that signs now.
    pub authority: String,
}

/// A `HookCertificate` and the hook that it names, as seen.
#[derive(Clone, Debug)]
pub struct CertificateSeen<'a> {
    /// The certificate.
    pub certificate: &'a HookCertificate,
    /// Uid of the hook of that name; `None` if there is none.
    pub hook_uid: Option<&'a str>,
    /// What became of the order that was carried out just now.
    pub outcome: Option<&'a Outcome>,
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The Secret is written.
    Issued(Box<Issuance>),
    /// It is not.
    Refused {
        /// `SecretConflict`, `Rejected` or `IssueFailed`.
        reason: Reason,
        /// Why, and what to do.
        message: String,
        /// Which order it was; none without an authority, which is looked for anew at once.
        order: Option<String>,
    },
}

/// A certificate in its Secret, not yet recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Issuance {
    /// Why it was issued.
    pub cause: Cause,
    /// Generation of the spec it was issued by; there may be a newer one by now.
    pub generation: Option<i64>,
    /// Value of the annotation that it answers.
    pub renewed_for: Option<String>,
    /// Uid of the hook it names.
    pub hook_uid: String,
    /// The Secret as written.
    pub secret: IssuedSecret,
    /// Somebody had edited the Secret since our last write.
    pub overwrote_edit: bool,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// It is valid from here.
    pub not_before: Timestamp,
    /// It is valid until here.
    pub not_after: Timestamp,
    /// Fingerprint of the certificate that signed it.
    pub issuer: String,
    /// Its subject, as a person knows it.
    pub issuer_name: String,
}

/// Why a certificate is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// There is none.
    New,
    /// The spec has changed since.
    SpecChanged,
    /// The hook was created again.
    HookReplaced,
    /// Another authority signs now.
    AuthorityChanged,
    /// A user asked for it.
    Asked,
    /// The clock was wrong when it was issued.
    NotYetValid,
    /// It is time.
    RenewalTime,
}

/// A certificate to be issued, and the Secret to put it into.
#[derive(Clone, Debug, PartialEq)]
pub struct IssueOrder {
    /// Equal for two that would be refused alike.
    pub id: String,
    /// Why.
    pub cause: Cause,
    /// Generation of the spec.
    pub generation: Option<i64>,
    /// Value of the annotation `hooks.krake.dev/renew`.
    pub renewed_for: Option<String>,
    /// What stands in the certificate.
    pub leaf: ClientLeaf,
    /// Uid of the hook it names.
    pub hook_uid: String,
    /// Name of the Secret.
    pub secret_name: String,
    /// Uid in the Secret's owner label.
    pub owner_label: String,
    /// What the Secret goes with.
    pub owner: OwnerReference,
    /// The Secret as last written, if it was.
    pub recorded: Option<IssuedSecret>,
}

/// Something to be done; carried out by `cluster::certificates`.
#[derive(Clone, Debug, PartialEq)]
pub enum CertificateEffect {
    /// Issue a certificate into its Secret, then decide again with the outcome.
    Issue(Box<IssueOrder>),
    /// Write the status, if nobody else has meanwhile.
    WriteStatus(Box<HookCertificateStatus>),
    /// Tell people.
    Event(Notice),
}

/// What is to be done, in this order, and when to look again.
#[derive(Clone, Debug, PartialEq)]
pub struct CertificateDecision {
    /// What is to be done.
    pub effects: Vec<CertificateEffect>,
    /// When to look again.
    pub next: Next,
}

impl Cause {
    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "New",
            Self::SpecChanged => "SpecChanged",
            Self::HookReplaced => "HookReplaced",
            Self::AuthorityChanged => "AuthorityChanged",
            Self::Asked => "Asked",
            Self::NotYetValid => "NotYetValid",
            Self::RenewalTime => "RenewalTime",
        }
    }
}

/// What is to be done about a certificate. `jitter`, from 0 to 1, spreads the renewals of
/// certificates that were issued together.
pub fn decide(
    seen: &CertificateSeen<'_>,
    settings: &CertificateSettings,
    now: Timestamp,
    jitter: f64,
) -> CertificateDecision {
    if seen.certificate.metadata.deletion_timestamp.is_some() {
        return only(Vec::new(), Next::AwaitChange);
    }
    let subject = Subject::of(seen.certificate);
    let status = seen.certificate.status.clone().unwrap_or_default();
    match (seen.outcome, subject.hook_uid(seen.hook_uid)) {
        (Some(Outcome::Issued(issuance)), _) => recorded(seen, &status, issuance, now, jitter),
        (
            Some(Outcome::Refused {
                reason,
                message,
                order,
            }),
            hook_uid,
        ) => {
            let refusal = (*reason, message.as_str(), order.as_deref());
            refused(seen, &status, hook_uid, refusal, now)
        }
        (None, None) => no_hook(seen, &subject, &status, now),
        (None, Some(hook_uid)) => match due(seen, &subject, &status, hook_uid, settings, now) {
            Some(cause) => {
                let order = order(seen, &subject, &status, hook_uid, settings, (cause, now));
                if let Some(until) = attempts::until(&status, &order.id, now) {
                    return only(Vec::new(), Next::At(until));
                }
                let issue = CertificateEffect::Issue(Box::new(order));
                only(vec![issue], Next::AwaitChange)
            }
            None => settled(seen, &status, now),
        },
    }
}

/// Uid of the hook that the operator made a certificate for; none of a user's.
pub fn made_for(certificate: &HookCertificate) -> Option<&str> {
    match Subject::of(certificate) {
        Subject::Generated { hook_uid, .. } => Some(hook_uid),
        Subject::Users => None,
    }
}

/// Whose certificate it is.
enum Subject<'a> {
    /// The operator made it for the hook of this uid.
    Generated {
        hook_uid: &'a str,
        guard: &'a OwnerReference,
    },
    /// A user made it.
    Users,
}

impl<'a> Subject<'a> {
    /// A user can write any owner into an object of his; the name that goes with it as well, but
    /// then he has the one certificate that the operator would have made anyway.
    fn of(certificate: &'a HookCertificate) -> Self {
        let meta = &certificate.metadata;
        let hook = &certificate.spec.hook.name;
        meta.owner_references
            .iter()
            .flatten()
            .filter(|owner| owner.kind == "HookGuard")
            .filter(|owner| owner.api_version.split('/').next() == Some(names::GROUP))
            .find(|owner| meta.name.as_ref() == Some(&names::of_hook(hook, &owner.name)))
            .map_or(Self::Users, |guard| Self::Generated {
                hook_uid: &guard.name,
                guard,
            })
    }

    /// Uid of the hook to issue for: the present one, unless the certificate is of an earlier one.
    fn hook_uid<'b>(&self, present: Option<&'b str>) -> Option<&'b str> {
        present.filter(|present| match self {
            Self::Generated { hook_uid, .. } => hook_uid == present,
            Self::Users => true,
        })
    }

    /// The name of a generated one's Secret is ours to choose, whatever somebody wrote there: with
    /// the hook's other Secret in it, we would overwrite the token, which is ours too.
    fn secret_name(&self, certificate: &HookCertificate) -> String {
        match self {
            Self::Generated { hook_uid, .. } => {
                names::tls_secret(&certificate.spec.hook.name, hook_uid)
            }
            Self::Users => certificate
                .spec
                .secret_name
                .clone()
                .unwrap_or_else(|| format!("{}-tls", name_of(certificate))),
        }
    }
}

fn due(
    seen: &CertificateSeen<'_>,
    subject: &Subject<'_>,
    status: &HookCertificateStatus,
    hook_uid: &str,
    settings: &CertificateSettings,
    now: Timestamp,
) -> Option<Cause> {
    let meta = &seen.certificate.metadata;
    let (Some(secret), Some(not_before), Some(_), Some(renewal)) = (
        &status.secret,
        &status.not_before,
        &status.not_after,
        &status.renewal_time,
    ) else {
        return Some(Cause::New);
    };
    let asked = annotation(meta, names::RENEW_ANNOTATION);
    if secret.name != subject.secret_name(seen.certificate)
        || status.observed_generation != meta.generation
    {
        Some(Cause::SpecChanged)
    } else if status.hook_uid.as_deref() != Some(hook_uid) {
        Some(Cause::HookReplaced)
    } else if status.issuer.as_ref() != Some(&settings.authority) {
        Some(Cause::AuthorityChanged)
    } else if asked.is_some() && asked != status.renewed_for.as_deref() {
        Some(Cause::Asked)
    } else if now < not_before.0 {
        Some(Cause::NotYetValid)
    } else if renewal.0 <= now {
        Some(Cause::RenewalTime)
    } else {
        None
    }
}

fn order(
    seen: &CertificateSeen<'_>,
    subject: &Subject<'_>,
    status: &HookCertificateStatus,
    hook_uid: &str,
    settings: &CertificateSettings,
    (cause, now): (Cause, Timestamp),
) -> IssueOrder {
    let certificate = seen.certificate;
    let spec = &certificate.spec;
    let uid = certificate.metadata.uid.clone().unwrap_or_default();
    let namespace = certificate.metadata.namespace.as_deref();
    let hook_uri = names::hook_uri(namespace.unwrap_or_default(), &spec.hook.name, hook_uid);
    let mut uris = vec![hook_uri];
    let (owner_label, owner) = match subject {
        Subject::Generated { guard, .. } => (hook_uid.to_owned(), reference_to(guard)),
        Subject::Users => {
            uris.push(CertificateUri { uid: uid.clone() }.to_string());
            let owner = OwnerReference {
                api_version: format!("{}/v1alpha1", names::GROUP),
                kind: "HookCertificate".into(),
                name: name_of(certificate),
                uid: uid.clone(),
                ..OwnerReference::default()
            };
            (uid, reference_to(&owner))
        }
    };
    let secret_name = subject.secret_name(certificate);
    let key = spec.private_key.as_ref().and_then(|key| key.algorithm);
    let meta = &certificate.metadata;
    let asked = annotation(meta, names::RENEW_ANNOTATION);
    let expired = status.not_after.as_ref().is_some_and(|end| end.0 <= now);
    IssueOrder {
        id: id(&json!([
            meta.generation,
            asked,
            hook_uid,
            settings.authority,
            expired
        ])),
        cause,
        generation: meta.generation,
        renewed_for: asked.map(ToOwned::to_owned),
        leaf: ClientLeaf {
            user: settings.user.clone(),
            uris,
            duration: seconds(spec.duration_seconds.unwrap_or(settings.duration_seconds)),
            algorithm: key.unwrap_or(settings.key_algorithm),
        },
        hook_uid: hook_uid.to_owned(),
        recorded: status
            .secret
            .clone()
            .filter(|secret| secret.name == secret_name),
        secret_name,
        owner_label,
        owner,
    }
}

fn recorded(
    seen: &CertificateSeen<'_>,
    status: &HookCertificateStatus,
    issuance: &Issuance,
    now: Timestamp,
    jitter: f64,
) -> CertificateDecision {
    let before = seen.certificate.spec.renew_before_seconds.map(seconds);
    let renewal = renewal_time(issuance.not_before, issuance.not_after, before, jitter);
    let (until, name) = (issuance.not_after, &issuance.secret.name);
    let message = format!("Secret {name} holds a certificate that is valid until {until}");
    let new = HookCertificateStatus {
        observed_generation: issuance.generation,
        conditions: conditions(
            seen,
            status,
            &[
                Finding::yes(ConditionType::Ready, Reason::Issued, message.clone()),
                Finding::no(
                    ConditionType::Issuing,
                    Reason::Issued,
                    format!("the next one is issued at {renewal}"),
                ),
            ],
            now,
        ),
        secret: Some(issuance.secret.clone()),
        serial_number: Some(issuance.serial.clone()),
        not_before: Some(Time(issuance.not_before)),
        not_after: Some(Time(until)),
        renewal_time: Some(Time(renewal)),
        revision: Some(status.revision.unwrap_or(0).saturating_add(1)),
        issuer: Some(issuance.issuer.clone()),
        issuer_name: Some(issuance.issuer_name.clone()),
        hook_uid: Some(issuance.hook_uid.clone()),
        renewed_for: issuance.renewed_for.clone(),
        failed_attempts: None,
        last_failure_time: None,
        failed_order: None,
    };
    let mut effects = vec![
        CertificateEffect::WriteStatus(Box::new(new)),
        notice(
            false,
            "Issued",
            format!("{message} ({})", issuance.cause.as_str()),
        ),
    ];
    if issuance.overwrote_edit {
        let note = format!("Secret {name} had been edited by somebody else and was written again");
        effects.push(notice(true, "SecretOverwritten", note));
    }
    only(effects, Next::At(renewal))
}

/// The order was refused. What was issued before stays in use as long as it is good.
fn refused(
    seen: &CertificateSeen<'_>,
    status: &HookCertificateStatus,
    hook_uid: Option<&str>,
    (reason, message, order): (Reason, &str, Option<&str>),
    now: Timestamp,
) -> CertificateDecision {
    let ours = Subject::of(seen.certificate).secret_name(seen.certificate);
    let secret = status.secret.as_ref().map(|secret| secret.name.as_str());
    let good_until = status
        .not_after
        .as_ref()
        .map(|until| until.0)
        .filter(|until| now < *until)
        .filter(|_| secret == Some(&ours) && reason != Reason::SecretConflict)
        .filter(|_| hook_uid.is_some() && status.hook_uid.as_deref() == hook_uid);
    let ready = match good_until {
        Some(until) => Finding::yes(
            ConditionType::Ready,
            Reason::Issued,
            format!("Secret {ours} holds a certificate that is valid until {until}"),
        ),
        None => Finding::no(ConditionType::Ready, reason, message),
    };
    let issuing = Finding::yes(ConditionType::Issuing, reason, message);
    let known = condition::find(&status.conditions, ConditionType::Issuing);
    let told = known.is_some_and(|c| c.reason == reason.as_str() && c.message == message);
    let findings = [ready, issuing];
    let mut new = status.clone();
    new.conditions = conditions(seen, status, &findings, now);
    let mut next = Next::AwaitChange;
    if let Some(order) = order {
        attempts::note(&mut new, order, now);
        next = attempts::until(&new, order, now).map_or(next, Next::At);
    }
    let mut effects = write_if_changed(status, new);
    if !told {
        let word = match reason {
            Reason::SecretConflict => "SecretConflict",
            Reason::Rejected => "Refused",
            _ => "IssueFailed",
        };
        effects.push(notice(true, word, message.to_owned()));
    }
    only(effects, next)
}

fn no_hook(
    seen: &CertificateSeen<'_>,
    subject: &Subject<'_>,
    status: &HookCertificateStatus,
    now: Timestamp,
) -> CertificateDecision {
    let hook = &seen.certificate.spec.hook.name;
    let message = match (subject, seen.hook_uid) {
        (Subject::Generated { hook_uid, .. }, Some(present)) => format!(
            "the KrakeHook {hook} this was made for (uid {hook_uid}) is gone; the one of that name now ({present}) has a HookCertificate of its own"
        ),
        (_, _) => format!("there is no KrakeHook {hook} in this namespace; create it"),
    };
    let findings = [
        Finding::no(ConditionType::Ready, Reason::HookNotFound, message.clone()),
        Finding::no(ConditionType::Issuing, Reason::HookNotFound, message),
    ];
    let mut new = status.clone();
    new.conditions = conditions(seen, status, &findings, now);
    only(write_if_changed(status, new), Next::AwaitChange)
}

/// Nothing is due. What an earlier look said about a hook or a failure that is past is taken back,
/// and so is the memory of an annotation that is gone: set again, it asks again.
fn settled(
    seen: &CertificateSeen<'_>,
    status: &HookCertificateStatus,
    now: Timestamp,
) -> CertificateDecision {
    let name = status.secret.as_ref().map_or("", |secret| &secret.name);
    let at = |time: &Option<Time>| time.as_ref().map_or(Timestamp::MAX, |time| time.0);
    let (until, renewal) = (at(&status.not_after), at(&status.renewal_time));
    let findings = [
        Finding::yes(
            ConditionType::Ready,
            Reason::Issued,
            format!("Secret {name} holds a certificate that is valid until {until}"),
        ),
        Finding::no(
            ConditionType::Issuing,
            Reason::Issued,
            format!("the next one is issued at {renewal}"),
        ),
    ];
    let mut new = status.clone();
    new.conditions = conditions(seen, status, &findings, now);
    new.renewed_for =
        annotation(&seen.certificate.metadata, names::RENEW_ANNOTATION).map(ToOwned::to_owned);
    only(write_if_changed(status, new), Next::At(renewal))
}

fn conditions(
    seen: &CertificateSeen<'_>,
    status: &HookCertificateStatus,
    findings: &[Finding],
    now: Timestamp,
) -> Vec<Condition> {
    let generation = seen.certificate.metadata.generation;
    condition::conditions(findings, &status.conditions, generation, now)
}

fn write_if_changed(
    status: &HookCertificateStatus,
    new: HookCertificateStatus,
) -> Vec<CertificateEffect> {
    if status == &new {
        return Vec::new();
    }
    vec![CertificateEffect::WriteStatus(Box::new(new))]
}

fn id(of: &Value) -> String {
    let digest = Sha256::digest(of.to_string());
    digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// An owner that neither controls nor delays.
fn reference_to(owner: &OwnerReference) -> OwnerReference {
    OwnerReference {
        controller: Some(false),
        block_owner_deletion: Some(false),
        ..owner.clone()
    }
}

fn notice(warning: bool, reason: &'static str, note: String) -> CertificateEffect {
    CertificateEffect::Event(Notice {
        warning,
        reason,
        note,
        on_workload: false,
    })
}

fn only(effects: Vec<CertificateEffect>, next: Next) -> CertificateDecision {
    CertificateDecision { effects, next }
}

fn name_of(certificate: &HookCertificate) -> String {
    certificate.metadata.name.clone().unwrap_or_default()
}

fn seconds(seconds: i64) -> Duration {
    Duration::try_from(SignedDuration::from_secs(seconds)).unwrap_or_default()
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
mod tests;
