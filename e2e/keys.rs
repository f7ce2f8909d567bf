//! Another master key takes the place of the one that tokens are made with.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use krake_hooks::api::condition::{self, ConditionType};
use krake_hooks::api::hook_authority::AuthorityPhase;
use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::{HookAuthority, HookAuthorityStatus, HookKind, names};

use crate::support::app::App;
use crate::support::manifests;
use crate::support::operator::NAMESPACE;
use crate::support::runner::Story;
use crate::support::stage::Stage;
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Alone: a_master_key_is_replaced_and_pods_keep_their_tokens]
}

async fn a_master_key_is_replaced_and_pods_keep_their_tokens(stage: Stage) {
    let operator = stage.cluster.operator().await;
    operator
        .configure("certificates: {propagationSeconds: 2}\n")
        .await;
    let rolls = given(&stage, "rolls").await;
    let stays = given(&stage, "stays").await;
    stage
        .kubectl(&["rollout", "pause", "deployment", "stays"])
        .await;
    let first = key_of(&stays).await;
    assert_eq!(key_of(&rolls).await, first);

    rotate(&stage).await;
    let rolled = another(&stage, "rolls", &rolls).await;
    let second = key_of(&rolled).await;
    assert_ne!(second, first);
    // Both are good, and it is said who is waited for.
    stays.acknowledge(HookKind::Complete).await.counts();
    rolled.acknowledge(HookKind::Complete).await.counts();
    let waits = |status: &HookAuthorityStatus| {
        let found = condition::find(&status.conditions, ConditionType::KeysRotating);
        let about = format!("1 pods hold tokens of {first}");
        found.is_some_and(|c| c.message.contains(&about) && c.message.contains(&stays.name))
    };
    shown(&stage, "one pod is waited for", waits).await;

    let url = stays.environment("KRAKE_COMPLETE_URL").await;
    let old = stays.environment("KRAKE_TOKEN").await;
    stage
        .kubectl(&["rollout", "resume", "deployment", "stays"])
        .await;
    let left = another(&stage, "stays", &stays).await;
    assert_eq!(key_of(&left).await, second);
    let alone = |status: &HookAuthorityStatus| {
        let keys: Vec<_> = status
            .master_keys
            .iter()
            .map(|k| (&k.id, k.phase))
            .collect();
        keys == [(&second, AuthorityPhase::Active)]
    };
    shown(&stage, "the old key is dropped", alone).await;
    until("the old token is good for nothing", SOON, async || {
        let answer = left.put(&url, &old, "/etc/krake_cert").await;
        match answer.code {
            401 => Ok(()),
            _ => Err(format!("{answer:?}")),
        }
    })
    .await;
    left.acknowledge(HookKind::Complete).await.counts();
    rolled.acknowledge(HookKind::Complete).await.counts();
}

/// A Deployment whose pod may acknowledge again and again.
async fn given(stage: &Stage, name: &str) -> App {
    let _: Deployment = stage.create(manifests::app(name)).await;
    let kinds = json!({"complete": {"action": "None"}});
    let _: KrakeHook = stage.create(manifests::hook(name, name, kinds)).await;
    stage.await_condition(name, ConditionType::Ready).await;
    stage.app(name).await
}

async fn another(stage: &Stage, name: &str, before: &App) -> App {
    until(format!("another pod of {name}"), SOON, async || {
        let now = stage.app(name).await;
        match now.uid != before.uid {
            true => Ok(now),
            false => Err("the same".to_owned()),
        }
    })
    .await
}

/// Id of the key that a pod's token is of.
async fn key_of(app: &App) -> String {
    let token = app.environment("KRAKE_TOKEN").await;
    token.split('.').next().unwrap_or_default().to_owned()
}

fn authorities(stage: &Stage) -> Api<HookAuthority> {
    Api::namespaced(stage.client.clone(), NAMESPACE)
}

async fn rotate(stage: &Stage) {
    let value = &stage.namespace;
    let patch = json!({"metadata": {"annotations": {names::ROTATE_KEY_ANNOTATION: value}}});
    authorities(stage)
        .patch(
            names::AUTHORITY,
            &PatchParams::default(),
            &Patch::Merge(patch),
        )
        .await
        .expect("the HookAuthority can be annotated");
}

async fn shown(stage: &Stage, what: &str, wanted: impl Fn(&HookAuthorityStatus) -> bool) {
    until(what, SOON + Duration::from_secs(10), async || {
        let shown = authorities(stage).get(names::AUTHORITY).await;
        let status = shown.map_err(|error| error.to_string())?.status;
        match status.unwrap_or_default() {
            status if wanted(&status) => Ok(()),
            status => Err(format!("{status:?}")),
        }
    })
    .await;
}
