//! Restores Secrets that were deleted or edited.
//!
//! We may not read them, and need not watch them: a pod of ours that cannot start is the sign, and a
//! dry run of a write that tests uid and resourceVersion is the question. Mending comes last: nothing
//! that a removal needs waits for it.

use jiff::SignedDuration;

use super::entries::Entries;
use super::hook::{Context, uid_of};
use super::inject;
use super::pods::{self, guard_uid};
use super::seen::{Effect, Refusal, Secrets};
use super::step::Step;
use super::workload::Workload;
use crate::api::KrakeHookStatus;
use crate::api::status::RequestState;

/// How long after a look at a pod that cannot start the next one is due; also how long a pod may
/// take to start before it counts as one that cannot.
pub const PAUSE: SignedDuration = SignedDuration::from_secs(20);

impl Context<'_> {
    /// What pods were given once stays true whatever the hook is in the middle of, its end too: a pod
    /// that lives on must know the authority that signs next. And a container that restarts during a
    /// hold needs its ConfigMap. Before, it is provided anyway.
    pub(super) fn keep_config_map(&self, status: &KrakeHookStatus, decided: &Step) -> Step {
        let mut step = Step::default();
        let mut requests = status.requests.values();
        let held = requests.any(|request| request.state == RequestState::Open);
        let Some(wanted) = inject::config_map(self.seen, self.settings) else {
            return step;
        };
        let there = self.seen.config_map.as_ref();
        let given = held || there.is_some();
        let differs = there != Some(&Entries::of(&wanted));
        let over =
            self.seen.namespace_terminating || decided.then.contains(&Effect::RemoveHookFinalizer);
        if given && !over && guard_uid(self.seen).is_some() && differs {
            step.then.push(Effect::ApplyConfigMap(wanted));
        }
        step
    }

    /// Writes again what pods cannot start without.
    pub(super) fn mend_secrets(&self, status: &KrakeHookStatus, workload: &Workload) -> Step {
        let mut step = Step::default();
        let Some(recorded) = status.token.clone() else {
            return step;
        };
        if self.seen.namespace_terminating {
            return step;
        }
        let Some(since) = pods::stuck_since(self.seen, PAUSE) else {
            return step;
        };
        if self.now < since {
            step.look_again_at(since);
            return step;
        }
        step.look_again_at(self.now + PAUSE);
        match self.seen.secrets {
            Secrets::AskedLately => {}
            Secrets::MayBeAsked => step.then.push(Effect::AskAboutSecrets),
            Secrets::Asked { token, certificate } => {
                let taken = matches!(self.seen.refusal, Some(Refusal::SecretTaken { .. }));
                let workload_uid = uid_of(&workload.metadata);
                if !token && !taken {
                    step.then.push(Effect::WriteToken {
                        derived_for: format!("{}.{workload_uid}", self.settings.key_id),
                        workload_uid,
                        recorded: Some(recorded),
                    });
                }
                if !certificate {
                    step.then.push(Effect::RenewCertificate {
                        because: format!("secret-lost-{}", self.now.as_second()),
                    });
                }
            }
        }
        step
    }
}
