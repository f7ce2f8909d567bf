//! The workload is there: provide what pods need, inject it, and arm.
//!
//! Each step waits until what it refers to is recorded as written, so that a crash between any two
//! leaves nothing that a pod could trip over.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::hook::{Plan, dependent, uid_of};
use super::inject::{self, Injection};
use super::pods::{self, guard_uid};
use super::seen::{Effect, Refusal, controller_of, has_finalizer, is_owned_by};
use super::workload::{Pace, Workload};
use crate::api::condition::{self, ConditionType, Finding, Reason};
use crate::api::kind::Change;
use crate::api::status::{AckResult, Phase};
use crate::api::{HookKind, names};
use crate::planted::Bug;

/// How long after a refusal that only a person can mend it is tried again.
const AFTER_REFUSAL: SignedDuration = SignedDuration::from_secs(8);
/// So many injections into one workload within some minutes are a quarrel.
const CONTESTED_AFTER: usize = 4;

impl Plan<'_> {
    /// What to do about a workload that nobody deletes.
    pub(super) fn presence(&mut self, workload: &Workload) {
        self.prune(workload);
        self.settle_strays(Some(&uid_of(&workload.metadata)));
        if self.seen.namespace_terminating && self.is_held(workload) {
            return self.removal(workload);
        }
        self.find(Finding::no(
            ConditionType::Blocking,
            Reason::NothingHeld,
            "no removal is waiting",
        ));
        // Before everything that keeps out: whoever was answered 200 has been promised this.
        if self.completed(workload) {
            return;
        }
        if self.hook_deleting() {
            self.cancel_stop("the hook is being deleted: the workload is not stopped");
            return self.farewell(workload);
        }
        if self.disabled(workload) {
            self.cancel_stop("the hook is to keep out: the workload is not stopped");
            return self.stand_down(workload);
        }
        if self.seen.namespace_terminating {
            // Nothing can be created there any more.
            return self.refuse(
                Reason::WorkloadDeleting,
                "the namespace is being deleted; Kubernetes waits for nobody there",
            );
        }
        if let Some(message) = self.controlled(workload) {
            return self.refuse(Reason::WorkloadControlled, &message);
        }
        if self.is_held(workload) {
            // Whatever becomes of the rest.
            self.guard_dependents(workload);
        }
        if self.settle_state(workload) {
            // Nothing that would end pods before their time.
            return;
        }
        self.equip(workload);
        self.report_state(workload);
        self.report_completion(workload);
    }

    /// Provides, injects and arms.
    fn equip(&mut self, workload: &Workload) {
        if !self.provide(workload) {
            return;
        }
        let wants_hold = self.seen.hook.spec.enables(HookKind::Shutdown);
        match self.injection(workload) {
            Err(conflict) => self.refuse(conflict.reason, &conflict.message),
            Ok(injection) => {
                if let Some(message) = self.rejection() {
                    self.refuse(Reason::Rejected, &message);
                } else {
                    self.inject(workload, &injection, wants_hold);
                }
            }
        }
    }

    /// What is done to it would be undone by whoever made it.
    fn controlled(&self, workload: &Workload) -> Option<String> {
        let owner = controller_of(&workload.metadata).filter(|_| workload.traits().only_alone)?;
        Some(format!(
            "{workload} is controlled by {} {}, which would undo what is done to it, or make it again; nothing was changed. Delete this hook and name {0} {1} in another one, if it is a workload",
            owner.kind, owner.name
        ))
    }

    fn is_held(&self, workload: &Workload) -> bool {
        has_finalizer(&workload.metadata, names::SHUTDOWN_FINALIZER)
            && self.seen.hook.spec.enables(HookKind::Shutdown)
            && !self.disabled(workload)
    }

    /// The hook is deleted. It stays for a while and only watches: a sweep deletes hook and
    /// workload in any order, and the workload must not be disarmed a moment before its own turn.
    fn farewell(&mut self, workload: &Workload) {
        let since = self.seen.hook.metadata.deletion_timestamp.as_ref();
        let delay = SignedDuration::from_secs(self.settings.hooks.disarm_delay_seconds);
        let until = since.map_or(self.now, |at| at.0 + delay);
        if self.now < until {
            self.status.phase = Some(Phase::Deleting);
            let message = format!(
                "the hook is being deleted; unless its workload is deleted too, the workload is ejected and disarmed at {until}"
            );
            self.find(Finding::no(
                ConditionType::Ready,
                Reason::HookDeleting,
                message,
            ));
            self.guard_dependents(workload);
            self.keep_armed(workload);
            self.keep(ConditionType::Injected);
            self.look_again_at(until);
        } else if inject::is_touched(workload) {
            self.eject(workload);
        } else {
            self.then.push(Effect::RemoveHookFinalizer);
        }
    }

    /// Takes our entries out. If the API server refuses that, a person has to hear of it.
    fn eject(&mut self, workload: &Workload) {
        if let Some(message) = self.rejection() {
            self.tell_refusal(Reason::Rejected, &message);
            return;
        }
        if self.was_rejected() {
            self.keep_told();
        }
        let mut patch = inject::ejection(workload, false);
        // Of exactly what was seen: one that somebody deletes meanwhile is held, not ejected.
        patch["metadata"]["resourceVersion"] = json!(workload.metadata.resource_version);
        self.then.push(Effect::ApplyInjection(patch));
    }

    /// Hook or workload says that the hook is to keep out: take everything of ours off.
    fn stand_down(&mut self, workload: &Workload) {
        self.status.phase = Some(Phase::Pending);
        let message = format!(
            "{}: {} takes {} out of this hook's reach; remove the annotation to inject and arm again",
            names::HOOK_ANNOTATION,
            names::DISABLED,
            self.seen.hook.spec.workload.name
        );
        self.find(Finding::no(
            ConditionType::Ready,
            Reason::Disabled,
            message.clone(),
        ));
        self.find(Finding::no(ConditionType::Armed, Reason::Disabled, message));
        // The finalizer goes last: a deletion in between must find everything, or nothing.
        self.disarm();
        if inject::is_touched(workload) {
            self.eject(workload);
        }
    }

    /// Guard, ConfigMap, token and certificate. True when all are recorded as written.
    fn provide(&mut self, workload: &Workload) -> bool {
        if guard_uid(self.seen).is_none() {
            self.first.push(Effect::CreateGuard);
            return false;
        }
        let wanted = inject::config_map(self.seen, self.settings);
        let trusted = wanted.is_some();
        let data = self.seen.config_map.as_ref().and_then(|c| c.data.as_ref());
        if let Some(wanted) = wanted.filter(|wanted| data != Some(wanted)) {
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
        if let Some(Refusal::ProvisionRejected { object, message }) = &self.seen.refusal {
            self.first.clear();
            self.look_again_at(self.now + AFTER_REFUSAL);
            let message = format!("the API server refuses {object}: {message}");
            self.refuse(Reason::Rejected, &message);
            return false;
        }
        if self.settings.tls && !self.certificate_is_as_wanted() {
            self.first.push(Effect::ApplyCertificate);
        }
        if !self.first.is_empty() {
            return false;
        }
        if let Some(message) = refused {
            self.look_again_at(self.now + AFTER_REFUSAL);
            self.refuse(Reason::SecretConflict, &message);
            return false;
        }
        self.certificate_ready(trusted)
    }

    fn certificate_is_as_wanted(&self) -> bool {
        let name = names::tls_secret(self.seen.hook_name(), self.seen.hook_uid());
        self.seen.certificate.as_ref().is_some_and(|certificate| {
            certificate.spec.hook.name == self.seen.hook_name()
                && certificate.spec.secret_name.as_deref() == Some(&name)
        })
    }

    /// `trusted`: pods are told what the endpoint's certificate is verified with.
    fn certificate_ready(&mut self, trusted: bool) -> bool {
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
        let reason = match ready.map(|c| c.reason.as_str()) {
            Some("SecretConflict") => Reason::SecretConflict,
            None | Some("Issuing" | "Issued" | "HookNotFound") => Reason::Issuing,
            // `IssueFailed`, or what is wrong with the certificate authority.
            Some(_) => Reason::IssueFailed,
        };
        self.find(Finding::no(
            ConditionType::CertificateReady,
            reason,
            message.clone(),
        ));
        // What is injected already stays; only the first injection waits for the certificate.
        let before = condition::find(&self.status.conditions, ConditionType::Injected);
        let injected = before.is_some_and(|before| {
            before.status == "True" || before.reason == Reason::TemplateImmutable.as_str()
        });
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

    fn inject(&mut self, workload: &Workload, injection: &Injection, wants_hold: bool) {
        let in_place = injection.is_in_place(workload, wants_hold);
        if !in_place && self.was_rejected() {
            return self.try_again(workload, injection, wants_hold);
        }
        if !wants_hold {
            self.disarm();
        }
        if !in_place {
            if let Some(at) = self.contested(workload) {
                self.look_again_at(at);
            } else {
                let patch = injection.patch(workload, wants_hold);
                self.then.push(Effect::ApplyInjection(patch));
            }
        }
        let service = self.call_out();
        let injected = in_place && self.report_injected(workload, injection);
        let armed = !wants_hold || (self.arm(workload) && injected);
        let was_armed = condition::is_true(&self.status.conditions, ConditionType::Armed);
        if wants_hold {
            let message = "finalizer, guards and canary are in place; a removal will wait";
            self.find(if armed {
                Finding::yes(ConditionType::Armed, Reason::InPlace, message)
            } else {
                Finding::no(
                    ConditionType::Armed,
                    Reason::Arming,
                    "not everything that makes a removal wait is in place yet",
                )
            });
        }
        if armed && wants_hold && !was_armed {
            self.notice(false, "Armed", "a removal of the workload will wait");
        }
        let ready = injected && armed;
        self.status.phase = Some(match (ready, wants_hold) {
            (true, true) => Phase::Armed,
            (true, false) => Phase::Ready,
            (false, _) => Phase::Injecting,
        });
        self.find(match (ready, service) {
            (true, Err((reason, message))) => Finding::no(ConditionType::Ready, reason, message),
            (true, Ok(())) => {
                let has = if workload.is_changeable() {
                    "pods have token, URL and certificate"
                } else {
                    "token, URL and certificate are there to be read"
                };
                let waits = if wants_hold {
                    "; a removal will wait"
                } else {
                    ""
                };
                let message = format!("{has}{waits}");
                Finding::yes(ConditionType::Ready, Reason::AsSpecified, message)
            }
            (false, _) => {
                let (reason, message) = self.why_not_injected(workload, injected);
                Finding::no(ConditionType::Ready, reason, message)
            }
        });
    }

    /// What the API server has just said to our change of the workload; it is tried again later.
    fn rejection(&mut self) -> Option<String> {
        let Some(Refusal::InjectionRejected { message }) = &self.seen.refusal else {
            return None;
        };
        self.look_again_at(self.now + AFTER_REFUSAL);
        Some(format!("the API server refuses the change: {message}"))
    }

    fn was_rejected(&self) -> bool {
        condition::find(&self.status.conditions, ConditionType::Ready)
            .is_some_and(|ready| ready.reason == Reason::Rejected.as_str())
    }

    /// The API server has refused the change before. Until it takes it, what people were told
    /// stays: to take it back before each attempt would wake the next attempt, without end.
    fn try_again(&mut self, workload: &Workload, injection: &Injection, wants_hold: bool) {
        self.guard_dependents(workload);
        self.keep_armed(workload);
        self.keep_told();
        let patch = injection.patch(workload, wants_hold);
        self.then.push(Effect::ApplyInjection(patch));
    }

    /// Keeps what people were told before, whatever was found since.
    fn keep_told(&mut self) {
        self.status.phase = self.seen.status().phase;
        for kind in [ConditionType::Ready, ConditionType::Injected] {
            self.findings.remove(&kind);
            self.keep(kind);
        }
    }

    /// Somebody else keeps taking our entries out: name them, and put them back ever more slowly.
    fn contested(&mut self, workload: &Workload) -> Option<Timestamp> {
        let lately = &self.seen.injections;
        let (Some(last), true) = (lately.last(), lately.len() >= CONTESTED_AFTER) else {
            return None;
        };
        let doublings = u32::try_from(lately.len() - CONTESTED_AFTER)
            .unwrap_or(8)
            .min(6);
        let pause = SignedDuration::from_secs(5_i64 << doublings);
        let other = inject::last_other_manager(workload).unwrap_or_else(|| "unknown".into());
        self.find(Finding::yes(
            ConditionType::InjectionContested,
            Reason::Contested,
            format!(
                "our entries were taken out of {workload} {} times lately, last by field manager {other}; they are put back every {} s. Let it keep them, or annotate the workload {}: {}",
                lately.len(),
                pause.as_secs(),
                names::HOOK_ANNOTATION,
                names::DISABLED
            ),
        ));
        let at = *last + pause;
        (self.now < at).then_some(at)
    }

    fn why_not_injected(&self, workload: &Workload, injected: bool) -> (Reason, String) {
        if injected {
            return (
                Reason::Arming,
                "not everything that makes a removal wait is in place yet".into(),
            );
        }
        let name = workload.name();
        if workload.traits().change == Change::NewPodsOnly {
            return (
                Reason::PodsNotReplaced,
                format!(
                    "{workload} replaces no running pod, and only new ones get what was injected: delete the others one by one"
                ),
            );
        }
        match workload.pace {
            Pace::Paused => (
                Reason::RolloutPaused,
                format!(
                    "{workload} is paused: no pod gets what was injected; `kubectl rollout resume deployment {name}`"
                ),
            ),
            Pace::OnDelete => (
                Reason::OnDelete,
                format!(
                    "{workload} has updateStrategy OnDelete: a running pod does not get what was injected; delete its pods one by one, or set updateStrategy RollingUpdate"
                ),
            ),
            Pace::Partition(partition) => (
                Reason::Partitioned,
                format!(
                    "{workload} has a partition of {partition}: pods below it do not get what was injected; lower updateStrategy.rollingUpdate.partition to 0"
                ),
            ),
            Pace::Rolling => (
                Reason::RollingOut,
                format!("{workload}: pods without the present injection still run"),
            ),
        }
    }

    fn report_injected(&mut self, workload: &Workload, injection: &Injection) -> bool {
        if !workload.is_changeable() {
            self.find(Finding::no(
                ConditionType::Injected,
                Reason::TemplateImmutable,
                self.where_to_read(workload),
            ));
            return true;
        }
        let (current, all) = pods::injected(self.seen, workload, &injection.stamp);
        let before = condition::is_true(&self.status.conditions, ConditionType::Injected);
        // A `Recreate` passes through no pod at all.
        let begun = all > 0 || workload.pods.desired == 0;
        // The first time, the workload's controller must have seen the new template: before that,
        // its count of pods may still be the old one, and match by accident.
        let counted = workload.is_observed() && workload.pods.updated == all;
        // Afterwards every template there was had our entries, and the count may still be that of
        // before a pod came or went.
        let injected = if before {
            !pods::any_without(self.seen, &injection.stamp)
        } else {
            begun && counted && current >= all
        };
        self.find(if injected {
            let message = format!("{current} pods have token, URL and certificate");
            Finding::yes(ConditionType::Injected, Reason::InPlace, message)
        } else {
            let (reason, why) = self.why_not_injected(workload, false);
            let message = format!("{current} of {all} pods have token, URL and certificate; {why}");
            Finding::no(ConditionType::Injected, reason, message)
        });
        injected
    }

    /// What pods need is made all the same, for whoever reads it by himself.
    fn where_to_read(&self, workload: &Workload) -> String {
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

    /// Remembers how the app is called, while the Service is there to be asked.
    fn call_out(&mut self) -> Result<(), (Reason, String)> {
        let shutdown = self.seen.hook.spec.shutdown.as_ref();
        let Some(call_out) = shutdown.and_then(|s| s.call_out.as_ref()) else {
            self.status.call_out = None;
            return Ok(());
        };
        self.status.call_out = pods::remember(call_out, self.seen.service.as_ref())?;
        Ok(())
    }

    /// Guards and canary. True when they and the finalizer are in place.
    fn arm(&mut self, workload: &Workload) -> bool {
        let uid = uid_of(&workload.metadata);
        let held = has_finalizer(&workload.metadata, names::SHUTDOWN_FINALIZER);
        let guarded = self.guard_dependents(workload);
        let canary = names::canary(self.seen.hook_name(), &uid);
        let watched = self.seen.canaries.iter().any(|c| {
            c.metadata.name.as_deref() == Some(&canary)
                && c.metadata.deletion_timestamp.is_none()
                && is_owned_by(&c.metadata, &uid)
        });
        let watched = watched || self.settings.planted.has(Bug::CanaryForgotten);
        if held && !watched {
            // One that somebody deletes stands there by its finalizer alone, and is of no use.
            if self.seen.canaries.iter().any(|c| {
                c.metadata.name.as_deref() == Some(&canary)
                    && c.metadata.deletion_timestamp.is_some()
            }) {
                self.then.push(Effect::RemoveCanary { name: canary });
            }
            self.then.push(Effect::CreateCanary { workload_uid: uid });
        }
        held && guarded && watched
    }

    /// Puts the guard on everything the workload has made that lacks it. True when nothing does, and
    /// every live pod is, or belongs to, one of them.
    pub(super) fn guard_dependents(&mut self, workload: &Workload) -> bool {
        if self.settings.planted.has(Bug::GuardForgotten) {
            return true;
        }
        let Some(guard) = guard_uid(self.seen).map(ToOwned::to_owned) else {
            return false;
        };
        if !has_finalizer(&workload.metadata, names::SHUTDOWN_FINALIZER) {
            return false;
        }
        let uid = uid_of(&workload.metadata);
        let mut lacking: Vec<_> = self
            .seen
            .dependents()
            .filter(|(_, meta)| meta.deletion_timestamp.is_none())
            .filter(|(_, meta)| controller_of(meta).is_some_and(|owner| owner.uid == uid))
            .filter(|(_, meta)| !is_owned_by(meta, &guard))
            .map(|(kind, meta)| Effect::Guard(dependent(kind, meta)))
            .collect();
        let all_known = self
            .seen
            .pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .filter_map(|pod| controller_of(&pod.metadata))
            .all(|owner| {
                let mut sets = self.seen.replica_sets.iter();
                owner.uid == uid || sets.any(|set| set.uid.as_deref() == Some(&owner.uid))
            });
        let complete = lacking.is_empty() && all_known;
        lacking.retain(|effect| !self.then.contains(effect));
        self.then.extend(lacking);
        complete
    }

    /// Takes guards and canary away; the finalizer goes with the injection.
    fn disarm(&mut self) {
        let Some(guard) = guard_uid(self.seen).map(ToOwned::to_owned) else {
            return;
        };
        for (kind, meta) in self.seen.dependents() {
            if is_owned_by(meta, &guard) {
                self.then.push(Effect::Unguard(dependent(kind, meta)));
            }
        }
        for canary in &self.seen.canaries {
            self.then.push(Effect::RemoveCanary {
                name: canary.metadata.name.clone().unwrap_or_default(),
            });
        }
    }

    /// Acknowledgements of other workloads and of superseded requests are decided on: they go.
    fn prune(&mut self, workload: &Workload) {
        let uid = uid_of(&workload.metadata);
        let request = self.status.request.as_ref().map(|r| r.id.as_str());
        let old: Vec<(String, Value)> = self
            .status
            .acknowledgements
            .iter()
            .filter(|(key, ack)| {
                let failed_for_good = ack.result == AckResult::Failure
                    && ack.request.is_none()
                    && key.split_once('.').is_some_and(|(_, pod)| {
                        pod != "anonymous"
                            && !self
                                .seen
                                .pods
                                .iter()
                                .any(|p| p.metadata.uid.as_deref() == Some(pod))
                    });
                failed_for_good
                    || ack.workload_uid != uid
                    || ack.request.as_deref().is_some_and(|id| Some(id) != request)
            })
            .filter_map(|(key, ack)| Some((key.clone(), serde_json::to_value(ack).ok()?)))
            .collect();
        if !old.is_empty() {
            self.then.push(Effect::Prune(old));
        }
    }

    fn refuse(&mut self, reason: Reason, message: &str) {
        // The rollout that cannot be injected into makes a ReplicaSet all the same, and what is armed
        // stays armed.
        if let Some(workload) = &self.seen.workload {
            self.guard_dependents(workload);
        }
        self.tell_refusal(reason, message);
    }

    pub(super) fn look_again_after_refusal(&mut self) {
        self.look_again_at(self.now + AFTER_REFUSAL);
    }

    pub(super) fn tell_refusal(&mut self, reason: Reason, message: &str) {
        let before = condition::find(&self.status.conditions, ConditionType::Ready);
        if before.is_none_or(|c| c.reason != reason.as_str()) {
            self.notice(true, "Refused", message);
        }
        self.status.phase = Some(Phase::Pending);
        self.find(Finding::no(ConditionType::Ready, reason, message));
        self.find(Finding::no(ConditionType::Injected, reason, message));
        match &self.seen.workload {
            Some(workload) => self.keep_armed(workload),
            None => self.keep(ConditionType::Armed),
        }
        self.keep(ConditionType::CertificateReady);
    }

    /// Keeps what was said about arming, unless it is no longer so.
    pub(super) fn keep_armed(&mut self, workload: &Workload) {
        if !self.seen.hook.spec.enables(HookKind::Shutdown) {
            return;
        }
        let not_any_more = if !has_finalizer(&workload.metadata, names::SHUTDOWN_FINALIZER) {
            Some("the finalizer was taken off the workload: a removal will not wait")
        } else if workload.is_changeable() && pods::any_bare(self.seen) {
            Some(
                "pods run that cannot acknowledge, because what was injected was taken out of the template: a removal will not wait for them",
            )
        } else {
            None
        };
        if condition::is_true(&self.status.conditions, ConditionType::Armed)
            && let Some(message) = not_any_more
        {
            self.find(Finding::no(ConditionType::Armed, Reason::Arming, message));
        }
        self.keep(ConditionType::Armed);
    }

    /// Keeps what a condition said before.
    pub(super) fn keep(&mut self, kind: ConditionType) {
        let kept = self.kept.iter().any(|c| c.type_ == kind.as_str());
        if kept || self.findings.contains_key(&kind) {
            return;
        }
        if let Some(old) = condition::find(&self.status.conditions, kind) {
            self.kept.push(old.clone());
        }
    }
}
