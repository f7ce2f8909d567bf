//! The way out when the operator is gone for good: `krake-hooks release-all`.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::io::AsyncBufReadExt;

use krake_hooks::api::condition::{self, ConditionType};
use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::{HookGuard, WorkloadKind, names};
use krake_hooks::outside::workloads;

use crate::kinds;
use crate::support::cluster::{repository, said};
use crate::support::install::install;
use crate::support::manifests;
use crate::support::runner::{Story, skip};
use crate::support::stage::{Stage, status};
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Alone:
        release_all_leaves_nothing_of_us_on_anything_that_lives,
        what_is_uninstalled_in_order_leaves_nothing_of_a_thousand_hooks_however_often_interrupted,
        release_all_releases_what_makes_its_pods_itself,
        what_was_uninstalled_without_release_all_is_repaired_by_it,
    ]
}

/// Requests of the test itself that are open at once.
const AT_ONCE: usize = 16;

/// By the README's order, with `release-all` killed twice in its middle. The workloads have no pods:
/// what is written is the same, and a thousand pods would be about something else.
async fn what_is_uninstalled_in_order_leaves_nothing_of_a_thousand_hooks_however_often_interrupted(
    stage: Stage,
) {
    let asked = std::env::var("E2E_HOOKS").ok();
    let Some(count) = asked.and_then(|count| count.parse().ok()) else {
        skip("it takes minutes; `make uninstall-story` plays it");
    };
    let mut took = Stopwatch::start();
    stream::iter(0..count)
        .for_each_concurrent(AT_ONCE, |number| make(&stage, number))
        .await;
    until("every hook is armed", SOON * 10, async || {
        let hooks = stage.all::<KrakeHook>().list(&ListParams::default()).await;
        let hooks = hooks.map_err(|error| error.to_string())?.items;
        let armed =
            |hook: &&KrakeHook| condition::is_true(&status(hook).conditions, ConditionType::Armed);
        match hooks.iter().filter(armed).count() {
            all if all == count => Ok(()),
            some => Err(format!("{some} of {count}")),
        }
    })
    .await;
    took.lap("armed");
    let operator = stage.cluster.operator().await;
    operator.leave().await;

    took.lap("the operator has left");
    killed_after(&stage, "workloads released").await;
    killed_after(&stage, "guards removed").await;
    release_all(&stage).await;
    took.lap("released");
    nothing_given_is_left(&stage).await;

    for deployment in all::<Deployment>(&stage).await {
        assert_eq!(deployment.finalizers(), [] as [String; 0]);
        let template = serde_json::to_string(&deployment.spec.unwrap().template).unwrap();
        for ours in ["KRAKE_", names::GROUP, names::CERT_VOLUME] {
            assert!(!template.contains(ours), "{template}");
        }
    }
    for set in all::<ReplicaSet>(&stage).await {
        let owners = set.owner_references().iter();
        assert!(
            owners.clone().all(|owner| owner.kind == "Deployment"),
            "{owners:?}"
        );
    }
    let default = repository().join("config/default").display().to_string();
    let delete = ["delete", "--kustomize", &default, "--timeout=120s"];
    let deleted = stage.cluster.kubectl(&delete).await;
    deleted.expect("everything of config/default can be deleted");
    took.lap("uninstalled");
    until("nothing of us is left", SOON, async || {
        let mut left = Vec::new();
        for kinds in [
            "namespaces,clusterroles,clusterrolebindings,customresourcedefinitions",
            "validatingadmissionpolicies,validatingadmissionpolicybindings",
            "configmaps,secrets",
        ] {
            let found = stage.try_kubectl(&["get", kinds, "--output=name"]).await?;
            left.extend(
                found
                    .lines()
                    .filter(|l| l.contains("krake"))
                    .map(str::to_owned),
            );
        }
        // The opt-in policies, and the stories' own namespaces, are not part of it.
        left.retain(|name| !name.contains("protected") && !name.contains("armed-workloads"));
        match left.is_empty() {
            true => Ok(()),
            false => Err(left.join(" ")),
        }
    })
    .await;
    stage
        .kubectl(&["delete", "deployments", "--all", "--cascade=foreground"])
        .await;
    took.lap("the workloads are deleted");
    install(&stage.cluster)
        .await
        .expect("it can be installed again");
    operator.ready().await;
    println!("{count} hooks: {took}");
}

async fn make(stage: &Stage, number: usize) {
    let name = format!("idle-{number}");
    let mut workload = manifests::deployment(&name, &["sleep", "9999"]);
    workload["spec"]["replicas"] = json!(0);
    let _: Deployment = stage.create(workload).await;
    let hook = manifests::hook(&name, &name, json!({"complete": {}, "shutdown": {}}));
    let _: KrakeHook = stage.create(hook).await;
}

/// Runs `release-all`, and kills it when it first says how far it is with this.
async fn killed_after(stage: &Stage, line: &str) {
    let mut running = stage
        .cluster
        .command(env!("CARGO_BIN_EXE_krake-hooks"), &["release-all"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("release-all can be started");
    let output = running.stdout.take().expect("it is piped");
    let mut lines = tokio::io::BufReader::new(output).lines();
    let mut seen = String::new();
    while !seen.starts_with(line) {
        match lines.next_line().await.expect("its output can be read") {
            Some(next) => seen = next,
            // With few hooks it has nothing to say on its way.
            None => return,
        }
    }
    running.kill().await.expect("it can be killed");
}

async fn all<K>(stage: &Stage) -> Vec<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + serde::de::DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let all = stage.all::<K>().list(&ListParams::default()).await;
    all.expect("can be listed").items
}

/// What took how long.
struct Stopwatch {
    last: Instant,
    laps: Vec<String>,
}

impl Stopwatch {
    fn start() -> Self {
        Self {
            last: Instant::now(),
            laps: Vec::new(),
        }
    }

    fn lap(&mut self, what: &str) {
        let took = std::mem::replace(&mut self.last, Instant::now()).elapsed();
        self.laps
            .push(format!("{what} {:.0} s", took.as_secs_f32()));
    }
}

impl std::fmt::Display for Stopwatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.laps.join(", "))
    }
}

async fn release_all_leaves_nothing_of_us_on_anything_that_lives(stage: Stage) {
    // One workload that lives on, and one whose removal is being held.
    let _: Deployment = stage.create(manifests::app("lives")).await;
    let before = template(&stage, "lives").await;
    let _: Service = stage.create(manifests::service("calls", "lives")).await;
    let callable = json!({"shutdown": {"callOut": {"service": {"name": "calls"}}}});
    let _: KrakeHook = stage
        .create(manifests::hook("lives", "lives", callable))
        .await;
    let held = stage
        .armed_app(json!({"timeoutSeconds": 600, "onTimeout": "Retain"}))
        .await;
    let lives = stage.armed("lives").await;
    stage.delete_deployment("app", "foreground").await;
    held.app.called(1).await;
    let operator = stage.cluster.operator().await;
    operator.leave().await;

    release_all(&stage).await;
    nothing_given_is_left(&stage).await;
    stage.gone::<Deployment>("app").await;
    held.pods.gone(std::slice::from_ref(&held.app.uid)).await;
    let deployment = stage.all::<Deployment>().get("lives").await.unwrap();
    assert_eq!(deployment.finalizers(), [] as [String; 0]);
    assert_eq!(template(&stage, "lives").await, before);
    for set in sets(&stage).await {
        let owners: Vec<String> = set
            .owner_references()
            .iter()
            .map(|o| o.kind.clone())
            .collect();
        assert_eq!(owners, ["Deployment"], "{}", set.name_any());
    }
    // The rollout back to the user's template goes its way, and nothing stands in it.
    lives.pods.gone(std::slice::from_ref(&lives.app.uid)).await;
    until("a pod of the user's template", SOON, async || {
        match lives.pods.living().len() {
            1 => Ok(()),
            _ => Err(format!("{:#?}", lives.pods.all())),
        }
    })
    .await;
    stage.delete_deployment("lives", "foreground").await;
    stage.gone::<Deployment>("lives").await;
    no_finalizer_of_ours(&stage).await;
}

/// A StatefulSet whose removal is being held, and a Job that lives on.
async fn release_all_releases_what_makes_its_pods_itself(stage: Stage) {
    let kind = WorkloadKind::Job;
    let hook = manifests::hook_of(kind, "work", "work", json!({"shutdown": {}}));
    let _: KrakeHook = stage.create(hook).await;
    kinds::create(&stage, kind, manifests::workload(kind, "work")).await;
    let held = kinds::Piece::armed(stage.clone(), WorkloadKind::StatefulSet).await;
    stage.await_condition("work", ConditionType::Armed).await;
    let pods = stage.witness("work").await;
    held.delete("foreground").await;
    held.apps[0].called(1).await;
    stage.cluster.operator().await.leave().await;

    release_all(&stage).await;
    held.gone().await;
    held.pods.gone(&held.uids()).await;
    let jobs = workloads(&stage.client, kind, &stage.namespace);
    let job = jobs.get("work").await.unwrap();
    assert_eq!(job.finalizers(), [] as [String; 0]);
    assert_eq!(job.labels().get(names::HOOK_LABEL), None);
    let all = pods.all().into_keys().collect::<Vec<_>>();
    pods.stay_untouched(&all, Duration::from_secs(3)).await;
    let ours = ListParams::default().labels("app=work");
    for pod in stage.all::<Pod>().list(&ours).await.unwrap() {
        let owners = pod.owner_references().iter();
        assert_eq!(owners.map(|o| &o.kind).collect::<Vec<_>>(), ["Job"]);
        assert_eq!(pod.labels().get(names::HOOK_LABEL), None);
    }
    no_finalizer_of_ours(&stage).await;
}

/// `kubectl delete -k` alone takes the master keys with it, and hangs on finalizers of ours.
async fn what_was_uninstalled_without_release_all_is_repaired_by_it(stage: Stage) {
    let armed = stage
        .armed_app(json!({"timeoutSeconds": 600, "onTimeout": "Retain"}))
        .await;
    let default = repository().join("config/default").display().to_string();
    let delete = ["delete", "--kustomize", &default, "--wait=false"];
    let deleted = stage.cluster.kubectl(&delete).await;
    deleted.expect("it is asked for");
    let definitions = async || {
        let kind = ["get", "customresourcedefinitions", "--output=name"];
        let found = stage.try_kubectl(&kind).await?;
        let of_us = found.lines().filter(|line| line.contains("krake"));
        Ok::<Vec<String>, String>(of_us.map(str::to_owned).collect())
    };
    until("the operator's namespace is gone", SOON * 2, async || {
        let kind = ["get", "namespace", "krake-system"];
        stage.try_kubectl(&kind).await.map_or_else(|_| Ok(()), Err)
    })
    .await;
    let left = definitions().await.unwrap();
    assert!(!left.is_empty(), "guards and hooks keep their definitions");
    stage.delete_deployment("app", "foreground").await;
    release_all(&stage).await;
    stage.gone::<Deployment>("app").await;
    armed.pods.gone(std::slice::from_ref(&armed.app.uid)).await;
    until(
        "the definitions are gone",
        SOON,
        async || match definitions().await?.as_slice() {
            [] => Ok(()),
            left => Err(left.join(" ")),
        },
    )
    .await;
    install(&stage.cluster)
        .await
        .expect("it can be installed again");
    stage.cluster.operator().await.ready().await;
    stage.kubectl(&["delete", "service", "shutdown"]).await;
    stage.armed_app(json!({"timeoutSeconds": 60})).await;
}

async fn release_all(stage: &Stage) {
    let binary = env!("CARGO_BIN_EXE_krake-hooks");
    let mut command = stage.cluster.command(binary, &["release-all"]);
    said(command.output().await).expect("release-all succeeds");
}

/// Nothing that pods were given waits for the garbage collector, which forgets it when the kind of its
/// owner is uninstalled.
async fn nothing_given_is_left(stage: &Stage) {
    let maps = all::<ConfigMap>(stage).await;
    let secrets = all::<Secret>(stage).await;
    let given = maps.iter().map(|map| &map.metadata);
    let given = given.chain(secrets.iter().map(|secret| &secret.metadata));
    let left: Vec<_> = given
        .filter(|meta| {
            let mut owners = meta.owner_references.iter().flatten();
            owners.any(|owner| owner.kind == "HookGuard")
        })
        .collect();
    assert!(left.is_empty(), "{left:#?}");
}

/// Whatever of ours is still there can be deleted by anybody without us.
async fn no_finalizer_of_ours(stage: &Stage) {
    let guards: Api<HookGuard> = Api::all(stage.client.clone());
    until(
        "no finalizer of ours",
        Duration::from_secs(30),
        async || {
            let all = ListParams::default();
            let mut found: Vec<String> = Vec::new();
            let mut look = |kind: &str, name: String, finalizers: &[String]| {
                if finalizers.iter().any(|one| one.starts_with(names::GROUP)) {
                    found.push(format!("{kind} {name}: {finalizers:?}"));
                }
            };
            for one in stage.all::<KrakeHook>().list(&all).await.unwrap() {
                look("KrakeHook", one.name_any(), one.finalizers());
            }
            for one in stage.all::<ConfigMap>().list(&all).await.unwrap() {
                look("ConfigMap", one.name_any(), one.finalizers());
            }
            for one in stage.all::<Secret>().list(&all).await.unwrap() {
                look("Secret", one.name_any(), one.finalizers());
            }
            for one in guards.list(&all).await.unwrap() {
                if one.spec.hook.namespace == stage.namespace {
                    look("HookGuard", one.name_any(), one.finalizers());
                }
            }
            match found.is_empty() {
                true => Ok(()),
                false => Err(found.join("; ")),
            }
        },
    )
    .await;
}

async fn sets(stage: &Stage) -> Vec<ReplicaSet> {
    let ours = ListParams::default().labels("app=lives");
    let sets = stage.all::<ReplicaSet>().list(&ours).await;
    sets.expect("ReplicaSets can be listed").items
}

async fn template(stage: &Stage, name: &str) -> String {
    stage
        .kubectl(&[
            "get",
            "deployment",
            name,
            "--output=jsonpath={.spec.template}",
        ])
        .await
}
