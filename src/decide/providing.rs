//! What pods are given: token, addresses, certificate; each is waited for before the next refers to it.

use super::entries::Entries;
use super::hook::{Plan, uid_of};
use super::inject;
use super::pods::guard_uid;
use super::seen::{Effect, Refusal};
use super::workload::Workload;
use crate::api::condition::{self, ConditionType, Finding, Reason};
use crate::api::names;
use crate::api::status::Phase;

impl Plan<'_> {
    /// Guard, ConfigMap, token and certificate. True when all are recorded as written.
    pub(super) fn provide(&mut self, workload: &Workload) -> bool {
        if guard_uid(self.seen).is_none() {
            self.first.push(Effect::CreateGuard);
            return false;
        }
        let wanted = inject::config_map(self.seen, self.settings);
        let there = self.seen.config_map.as_ref();
        // Without an authority, what pods were told to trust stays.
        let trusted = wanted.is_some() || there.is_some_and(|there| there.bundle().is_some());
        if let Some(wanted) = wanted.filter(|wanted| there != Some(&Entries::of(wanted))) {
            self.first.push(Effect::ApplyConfigMap(wanted));
        }
        let workload_uid = uid_of(&workload.metadata);
        let derived_for = format!("{}.{workload_uid}", self.settings.key_id);
        let recorded = self.status.token.clone();
        let refused = match &self.seen.refusal {
            Some(Refusal::SecretTaken { name, message }) => Some(format!(
                "Secret {name} belongs to somebody else and is not overwritten: {message}. Delete or rename it, or create the hook under another name"
            )),
            _ => None,
        };
        if recorded.as_ref().and_then(|t| t.derived_for.as_ref()) != Some(&derived_for)
            && refused.is_none()
        {
            self.first.push(Effect::WriteToken {
                workload_uid,
                derived_for,
                recorded,
            });
        }
        if self.settings.tls && !self.certificate_is_as_wanted() {
            self.first.push(Effect::ApplyCertificate);
        }
        if !self.first.is_empty() {
            return false;
        }
        if let Some(message) = refused {
            self.look_again_after_refusal();
            self.refuse(Reason::SecretConflict, &message);
            return false;
        }
        self.certificate_ready(trusted)
    }

    pub(super) fn certificate_is_as_wanted(&self) -> bool {
        let name = names::tls_secret(self.seen.hook_name(), self.seen.hook_uid());
        self.seen.certificate.as_ref().is_some_and(|certificate| {
            certificate.spec.hook.name == self.seen.hook_name()
                && certificate.spec.secret_name.as_deref() == Some(&name)
        })
    }

    /// `trusted`: pods are told what the endpoint's certificate is verified with.
    pub(super) fn certificate_ready(&mut self, trusted: bool) -> bool {
        if !self.settings.tls {
            self.find(Finding::yes(
                ConditionType::CertificateReady,
                Reason::NotWanted,
                "TLS is off in the operator's configuration: no certificate is needed",
            ));
            return true;
        }
        let status = self
            .seen
            .certificate
            .as_ref()
            .and_then(|c| c.status.as_ref());
        let ready = status.and_then(|s| condition::find(&s.conditions, ConditionType::Ready));
        let name = names::of_hook(self.seen.hook_name(), self.seen.hook_uid());
        let issued =
            status.is_some_and(|s| s.secret.is_some()) && ready.is_some_and(|c| c.status == "True");
        if issued && trusted {
            self.find(Finding::yes(
                ConditionType::CertificateReady,
                Reason::Issued,
                format!("HookCertificate {name} is ready"),
            ));
            return true;
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
        self.find(Finding::no(
            ConditionType::CertificateReady,
            reason,
            message.clone(),
        ));
        // What is injected already stays; only the first injection waits for the certificate.
        let before = &self.status.conditions;
        let injected = condition::is_true(before, ConditionType::Injected)
            || condition::is_because(before, ConditionType::Injected, Reason::TemplateImmutable);
        if !injected {
            self.status.phase = Some(Phase::Injecting);
            self.find(Finding::no(ConditionType::Ready, reason, message.clone()));
            self.find(Finding::no(
                ConditionType::Injected,
                Reason::NotInjected,
                message,
            ));
        }
        injected
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
