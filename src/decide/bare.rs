//! What a workload may have made without the hook's label. Watches are filtered by the label, so
//! nothing tells of these until the guard, which brings the label, is on them: they are looked for.

use k8s_openapi::api::core::v1::Pod;

use super::pods::is_finished;
use super::seen::{Seen, controller_of, is_owned_by};
use super::workload::Workload;
use crate::api::condition::{self, ConditionType};
use crate::api::{DependentKind, HookKind, names};

/// ReplicaSets from before the injection, to which a rollout can be undone, and those of a template
/// out of which somebody took the injection. Once the hook is armed, and for as long as the template
/// has the label, all there are have it.
pub fn may_have_sets(seen: &Seen, workload: &Workload) -> bool {
    let template = workload.template.metadata.as_ref();
    let labels = template.and_then(|meta| meta.labels.as_ref());
    let labelled = labels
        .and_then(|labels| labels.get(names::HOOK_LABEL))
        .is_some_and(|hook| hook == seen.hook_name());
    let armed = condition::is_true(&seen.status().conditions, ConditionType::Armed);
    let leaving = workload.metadata.deletion_timestamp.is_some();
    workload.traits().guarded == Some(DependentKind::ReplicaSet)
        && seen.hook.spec.enables(HookKind::Shutdown)
        && (leaving || !armed || !labelled || counts_more(seen, workload))
}

/// Pods into which nothing is injected, or was not yet, or not any more.
pub fn may_have_pods(seen: &Seen, workload: &Workload) -> bool {
    workload.traits().guarded.is_some()
        && seen.hook.spec.enables(HookKind::Shutdown)
        && (!workload.is_changeable() || counts_more(seen, workload))
}

/// Whether the workload's controller counts more pods than are known.
fn counts_more(seen: &Seen, workload: &Workload) -> bool {
    let uid = workload.metadata.uid.as_deref().unwrap_or_default();
    let counts_leaving = workload.traits().counts_leaving;
    let counted = |pod: &&Pod| {
        (counts_leaving || pod.metadata.deletion_timestamp.is_none()) && !is_finished(pod)
    };
    let made = |pod: &&Pod| {
        let owner = controller_of(&pod.metadata).map(|owner| &owner.uid);
        let mut sets = seen.replica_sets.iter().filter(|set| is_owned_by(set, uid));
        is_owned_by(&pod.metadata, uid) || sets.any(|set| set.uid.as_ref() == owner)
    };
    let known = seen.pods.iter().filter(counted).filter(made).count();
    workload.pods.current > known
}
