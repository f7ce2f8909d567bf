//! What pods are given: token, addresses, certificate; each is waited for before the next refers to it.

use super::entries::Entries;
use super::hook::{Context, uid_of};
use super::inject;
use super::pods::guard_uid;
use super::seen::{Effect, Refusal};
use super::step::Step;
use super::workload::Workload;
use crate::api::condition::{self, ConditionType, Finding, Reason};
use crate::api::status::Phase;
use crate::api::{KrakeHookStatus, names};

impl Context<'_> {
    /// Guard, ConfigMap, token and certificate; and whether all are recorded as written.
    pub(super) fn provide(&self, status: &KrakeHookStatus, workload: &Workload) -> (bool, Step) {
        let mut step = Step::default();
        if guard_uid(self.seen).is_none() {
            step.first.push(Effect::CreateGuard);
            return (false, step);
        }
        let wanted = inject::config_map(self.seen, self.settings);
        let there = self.seen.config_map.as_ref();
        // Without an authority, what pods were told to trust stays.
        let trusted = wanted.is_some() || there.is_some_and(|there| there.bundle().is_some());
        if let Some(wanted) = wanted.filter(|wanted| there != Some(&Entries::of(wanted))) {
            step.first.push(Effect::ApplyConfigMap(wanted));
        }
        let workload_uid = uid_of(&workload.metadata);
        let derived_for = format!("{}.{workload_uid}", self.settings.key_id);
        let recorded = status.token.clone();
        let refused = match &self.seen.refusal {
            Some(Refusal::SecretTaken { name, message }) => Some(format!(
                "Secret {name} belongs to somebody else and is not overwritten: {message}. Delete or rename it, or create the hook under another name"
            )),
            _ => None,
        };
        if recorded.as_ref().and_then(|t| t.derived_for.as_ref()) != Some(&derived_for)
            && refused.is_none()
        {
            step.first.push(Effect::WriteToken {
                workload_uid,
                derived_for,
                recorded,
            });
        }
        if self.settings.tls && !self.certificate_is_as_wanted() {
            step.first.push(Effect::ApplyCertificate);
        }
        if !step.first.is_empty() {
            return (false, step);
        }
        if let Some(message) = refused {
            step.look_again_at(self.after_refusal());
            step.join(self.refuse(status, Reason::SecretConflict, &message));
            return (false, step);
        }
        let (ready, certificate) = self.certificate_ready(status, trusted);
        (ready, step.and(certificate))
    }

    fn certificate_is_as_wanted(&self) -> bool {
        let name = names::tls_secret(self.seen.hook_name(), self.seen.hook_uid());
        self.seen.certificate.as_ref().is_some_and(|certificate| {
            certificate.spec.hook.name == self.seen.hook_name()
                && certificate.spec.secret_name.as_deref() == Some(&name)
        })
    }

    /// `trusted`: pods are told what the endpoint's certificate is verified with.
    fn certificate_ready(&self, status: &KrakeHookStatus, trusted: bool) -> (bool, Step) {
        let mut step = Step::default();
        if !self.settings.tls {
            step.find(Finding::yes(
                ConditionType::CertificateReady,
                Reason::NotWanted,
                "TLS is off in the operator's configuration: no certificate is needed",
            ));
            return (true, step);
        }
        let certificate = self.seen.certificate.as_ref();
        let issuance = certificate.and_then(|c| c.status.as_ref());
        let ready = issuance.and_then(|s| condition::find(&s.conditions, ConditionType::Ready));
        let name = names::of_hook(self.seen.hook_name(), self.seen.hook_uid());
        let issued = issuance.is_some_and(|s| s.secret.is_some())
            && ready.is_some_and(|c| c.status == "True");
        if issued && trusted {
            step.find(Finding::yes(
                ConditionType::CertificateReady,
                Reason::Issued,
                format!("HookCertificate {name} is ready"),
            ));
            return (true, step);
        }
        let message = match ready {
            Some(c) => format!("HookCertificate {name}: {}", c.message),
            None => format!("HookCertificate {name} is being issued"),
        };
        let because = |reason: Reason| ready.is_none_or(|c| c.reason == reason.as_str());
        let on_its_way = [Reason::Issuing, Reason::Issued, Reason::HookNotFound];
        let reason = if on_its_way.into_iter().any(because) {
            Reason::Issuing
        } else if because(Reason::SecretConflict) {
            Reason::SecretConflict
        } else if because(Reason::Rejected) {
            Reason::Rejected
        } else {
            // `IssueFailed`, or what is wrong with the certificate authority.
            Reason::IssueFailed
        };
        step.find(Finding::no(
            ConditionType::CertificateReady,
            reason,
            message.clone(),
        ));
        // What is injected already stays; only the first injection waits for the certificate.
        let before = &status.conditions;
        let injected = condition::is_true(before, ConditionType::Injected)
            || condition::is_because(before, ConditionType::Injected, Reason::TemplateImmutable);
        if !injected {
            step.phase(Phase::Injecting);
            step.find(Finding::no(ConditionType::Ready, reason, message.clone()));
            step.find(Finding::no(
                ConditionType::Injected,
                Reason::NotInjected,
                message,
            ));
        }
        (injected, step)
    }

    /// What pods need is made all the same, for whoever reads it by himself.
    pub(super) fn where_to_read(&self, workload: &Workload) -> String {
        let object = names::of_hook(self.seen.hook_name(), self.seen.hook_uid());
        let certificate = if self.settings.tls {
            let secret = names::tls_secret(self.seen.hook_name(), self.seen.hook_uid());
            format!(", certificate and key in Secret {secret}")
        } else {
            String::new()
        };
        format!(
            "the API server takes no change of the containers of {workload}: nothing was injected. The token is in Secret {object}{certificate}, URLs and CA bundle are in ConfigMap {object}: mount them in a manifest of your own, as files, since an environment variable is not renewed"
        )
    }
}
