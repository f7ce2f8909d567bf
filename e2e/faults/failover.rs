//! Acknowledgements through failover: apps acknowledge without pause, each with at most three
//! retries, while the leader is killed every fifteen seconds, and the API server and etcd five times
//! each. Half of them say `complete`; the other half are asked to shut down, and one pod of each of
//! those speaks last. What was answered 200 is there in the end, what is there was sent, and no
//! workload goes before its last pod has spoken.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::Role;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::spawn_local;

use krake_hooks::api::condition::{self, ConditionType};
use krake_hooks::api::{HookKind, KrakeHook};

use crate::client::{App, Log};
use crate::cluster::{Cluster, SYSTEM, until};
use crate::operator::{Killer, Operator, Order};
use crate::proxy::Proxy;
use crate::proxy::journal::Journal;
use crate::report::Report;
use crate::seed::Seed;
use crate::subject::{SOON, deployment};

/// The right to lead by a Lease; without it several operators would do each other's work.
const ELECTION: &str = "krake-hooks-leader-election";
/// Hooks, an app for each; a hook can hold 512 acknowledgements.
const HOOKS: usize = 400;
/// Apps that speak at once: more would be a proof of how an API server is overloaded.
const AT_ONCE: usize = 64;
const RETRIES: usize = 3;
/// Between two deaths of the leader.
const LEADER_LIVES: Duration = Duration::from_secs(15);
/// How often API server and etcd are killed.
const OUTAGES: usize = 5;
/// Between one outage and the next.
const BETWEEN: Duration = Duration::from_secs(14);
/// How long the killed one is away.
const AWAY: Duration = Duration::from_secs(2);
/// All that is said takes about so long, so that every outage falls into it.
const LASTS: Duration = Duration::from_secs(180);

struct Replica {
    operator: Operator,
    _proxy: Proxy,
}

/// So many acknowledgements.
pub async fn prove(
    cluster: &Cluster,
    binary: &std::path::Path,
    count: usize,
    seed: Seed,
    report: &mut Report,
) -> Result<(), String> {
    println!("{count} acknowledgements through failover, {seed}");
    let namespace = format!("faults-{:06x}", rand::random::<u32>() >> 8);
    cluster.make_namespace(&namespace).await?;
    let mut replicas = Vec::new();
    let roles: Api<Role> = Api::namespaced(cluster.client.clone(), SYSTEM);
    let election = roles.get_opt(ELECTION).await.map_err(|e| e.to_string())?;
    if election.is_none() {
        return Err(format!(
            "there is no Role {ELECTION}: two operators cannot take turns"
        ));
    }
    for number in 0..2 {
        replicas.push(replica(cluster, binary, &format!("{namespace}-{number}")).await?);
    }
    let replicas = Arc::new(replicas);
    let ports: Vec<u16> = replicas
        .iter()
        .map(|replica| replica.operator.order.port)
        .collect();
    let log = Log::default();
    let apps = apps(cluster, &namespace, &ports, &log).await?;

    let each = count / HOOKS;
    let pods = (0..HOOKS).map(|number| pods_of(cluster, &namespace, number, each));
    let pods: Vec<Vec<String>> = futures::stream::iter(pods)
        .buffered(32)
        .try_collect()
        .await?;
    ask_to_shut_down(cluster, &namespace, each).await?;

    let speaking = Arc::new(AtomicBool::new(true));
    let leaders = spawn_local(kill_leaders(
        cluster.clone(),
        Arc::clone(&replicas),
        Arc::clone(&speaking),
    ));
    let outages = spawn_local(kill_servers(cluster.clone()));
    let began = Instant::now();
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut speakers = tokio::task::JoinSet::new();
    for (number, (app, pods)) in apps.iter().zip(&pods).enumerate() {
        let (app, pods, turns) = (app.clone(), pods.clone(), Arc::clone(&turns));
        speakers.spawn_local(async move {
            let mut line = None;
            for (one, pod) in pods.into_iter().take(each).enumerate() {
                let turn = turns.acquire().await;
                app.insist_over(&mut line, kind_of(number), &pod, RETRIES)
                    .await;
                drop(turn);
                let planned = LASTS.mul_f64((one + 1) as f64 / each as f64);
                tokio::time::sleep(planned.saturating_sub(began.elapsed())).await;
            }
        });
    }
    speakers.join_all().await;
    let took = began.elapsed();
    speaking.store(false, Ordering::Relaxed);
    let outages = outages.await.map_err(|e| e.to_string())??;
    let kills = leaders.await.map_err(|e| e.to_string())?;
    judge(cluster, &namespace, &log, report).await?;
    let released = speak_last(cluster, &namespace, &apps, &pods, &log).await;
    if let Err(left) = released {
        report.violation("stuck", &left);
    }
    report.line(&format!(
        "failover: in {} s, {kills} leaders and {outages} times API server or etcd killed",
        took.as_secs()
    ));
    for replica in replicas.iter() {
        replica.operator.leave().await;
    }
    cluster.drop_namespace(&namespace).await;
    Ok(())
}

async fn replica(
    cluster: &Cluster,
    binary: &std::path::Path,
    name: &str,
) -> Result<Replica, String> {
    let directory = cluster.output.join(name);
    std::fs::create_dir_all(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    let (killer, wishes) = Killer::new();
    let journal = Journal::new(&directory.join("journal.jsonl"))?;
    let proxy = Proxy::start(&cluster.config, None, journal, killer.clone()).await?;
    let order = Order::new(binary, &directory, name)?;
    cluster.lead(&order.kubeconfig(), &proxy)?;
    let operator = Operator::start(order, killer, wishes, None).await?;
    Ok(Replica {
        operator,
        _proxy: proxy,
    })
}

/// What the app of a hook acknowledges.
fn kind_of(number: usize) -> HookKind {
    match number % 2 {
        0 => HookKind::Complete,
        _ => HookKind::Shutdown,
    }
}

/// Hooks of workloads without pods, and a client for each.
async fn apps(
    cluster: &Cluster,
    namespace: &str,
    ports: &[u16],
    log: &Log,
) -> Result<Vec<App>, String> {
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), namespace);
    let hooks: Api<KrakeHook> = Api::namespaced(cluster.client.clone(), namespace);
    for number in 0..HOOKS {
        let name = name_of(number);
        let object: Deployment =
            serde_json::from_value(deployment(&name, 0)).expect("a Deployment");
        let made = deployments.create(&PostParams::default(), &object).await;
        made.map_err(|e| e.to_string())?;
        let hook = json!({
            "apiVersion": "hooks.krake.dev/v1alpha1",
            "kind": "KrakeHook",
            "metadata": {"name": name},
            "spec": {
                "workload": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
                kind_of(number).as_str(): match kind_of(number) {
                    // Each of them counts, and nothing comes of it.
                    HookKind::Complete => json!({"action": "None"}),
                    HookKind::Shutdown => json!({"callOut": {"mode": "None"},
                        "timeoutSeconds": 3600, "acknowledgements": {"policy": "All"}}),
                },
            },
        });
        let hook: KrakeHook = serde_json::from_value(hook).expect("a hook");
        hooks
            .create(&PostParams::default(), &hook)
            .await
            .map_err(|e| e.to_string())?;
    }
    let ready = until(SOON * 2, async || {
        let all = hooks
            .list(&ListParams::default())
            .await
            .map_err(|e| e.to_string())?;
        let is_ready = |hook: &&KrakeHook| {
            let status = hook.status.as_ref();
            status
                .is_some_and(|status| condition::is_true(&status.conditions, ConditionType::Ready))
        };
        match all.items.iter().filter(is_ready).count() {
            HOOKS => Ok(all.items),
            count => Err(format!("{count} hooks of {HOOKS} are ready")),
        }
    });
    let mut apps = Vec::new();
    let ready = ready.await?;
    for name in (0..HOOKS).map(name_of) {
        let hook = ready.iter().find(|hook| hook.name_any() == name);
        let uid = hook.and_then(ResourceExt::uid).unwrap_or_default();
        // Half of them begin with the one operator, half with the other.
        let mut ports = ports.to_vec();
        let turn = apps.len() % ports.len();
        ports.rotate_left(turn);
        apps.push(App::of(&cluster.client, (namespace, &name, &uid), &ports, log).await?);
    }
    Ok(apps)
}

fn name_of(number: usize) -> String {
    format!("hook-{number}")
}

/// Uids of so many pods of a Deployment's that nobody schedules: they are its own, and the app speaks for
/// them. Where they are to be asked, they say that they run, and there is one more that speaks last.
async fn pods_of(
    cluster: &Cluster,
    namespace: &str,
    number: usize,
    count: usize,
) -> Result<Vec<String>, String> {
    let name = name_of(number);
    let asked = kind_of(number) == HookKind::Shutdown;
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), namespace);
    let owner = deployments.get(&name).await.map_err(|e| e.to_string())?;
    let mut pod = json!(owner.spec.as_ref().map(|spec| &spec.template));
    pod["spec"]["schedulerName"] = "nobody".into();
    pod["metadata"]["generateName"] = format!("{name}-").into();
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "Deployment",
        "name": name, "uid": owner.uid(), "controller": true}]);
    let pod: Pod = serde_json::from_value(pod).map_err(|e| e.to_string())?;
    let runs = Patch::Merge(json!({"status": {"phase": "Running", "containerStatuses": [
        {"name": "app", "image": "app", "imageID": "app", "ready": true, "restartCount": 0,
            "state": {"running": {}}}]}}));
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let mut uids = Vec::new();
    for _ in 0..count + usize::from(asked) {
        let made = pods.create(&PostParams::default(), &pod).await;
        let made = made.map_err(|e| e.to_string())?;
        if asked {
            let (name, how) = (made.name_any(), PatchParams::default());
            let told = pods.patch_status(&name, &how, &runs).await;
            told.map_err(|e| e.to_string())?;
        }
        uids.extend(made.uid());
    }
    Ok(uids)
}

/// Deletes the workloads whose apps acknowledge that, and waits until each of their pods is asked.
async fn ask_to_shut_down(cluster: &Cluster, namespace: &str, each: usize) -> Result<(), String> {
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), namespace);
    let hooks: Api<KrakeHook> = Api::namespaced(cluster.client.clone(), namespace);
    for number in asked() {
        let how = DeleteParams::background();
        let deleted = deployments.delete(&name_of(number), &how).await;
        deleted.map_err(|e| e.to_string())?;
    }
    until(SOON * 2, async || {
        let all = hooks.list(&ListParams::default()).await;
        let all = all.map_err(|e| e.to_string())?;
        let asked_all = |hook: &&KrakeHook| {
            let request = hook.status.as_ref().and_then(|s| s.workload_request());
            request.is_some_and(|request| request.pods.len() == each + 1)
        };
        match all.items.iter().filter(asked_all).count() {
            count if count == asked().count() => Ok(()),
            count => Err(format!("the pods of {count} hooks are asked")),
        }
    })
    .await
}

fn asked() -> impl Iterator<Item = usize> {
    (0..HOOKS).filter(|number| kind_of(*number) == HookKind::Shutdown)
}

/// No workload has gone. Those who were told nothing speak again, then the last pod of each, and it goes.
async fn speak_last(
    cluster: &Cluster,
    namespace: &str,
    apps: &[App],
    pods: &[Vec<String>],
    log: &Log,
) -> Result<(), String> {
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), namespace);
    let count = async || {
        let all = deployments.list(&ListParams::default()).await;
        all.map(|all| all.items.len()).map_err(|e| e.to_string())
    };
    match until(SOON, count).await? {
        HOOKS => {}
        left => return Err(format!("{left} workloads of {HOOKS} are there too early")),
    }
    let told: BTreeSet<String> = log
        .all()
        .into_iter()
        .filter(crate::client::Said::counts)
        .map(|said| said.pod)
        .collect();
    for number in asked() {
        for pod in pods[number].iter().filter(|pod| !told.contains(*pod)) {
            apps[number].insist(HookKind::Shutdown, pod, RETRIES).await;
        }
    }
    until(SOON * 2, async || match count().await? {
        left if left == HOOKS - asked().count() => Ok(()),
        left => Err(format!("{left} workloads are left of {HOOKS}")),
    })
    .await
}

/// Who holds the lease is killed, again and again.
async fn kill_leaders(
    cluster: Cluster,
    replicas: Arc<Vec<Replica>>,
    speaking: Arc<AtomicBool>,
) -> usize {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), SYSTEM);
    let mut kills = 0;
    loop {
        tokio::time::sleep(LEADER_LIVES).await;
        if !speaking.load(Ordering::Relaxed) {
            return kills;
        }
        let holders = leases
            .list(&ListParams::default())
            .await
            .map(|list| list.items);
        let holders = holders.unwrap_or_default();
        let holds = |replica: &&Replica| {
            holders.iter().any(|lease| {
                let spec = lease.spec.as_ref();
                let holder = spec.and_then(|spec| spec.holder_identity.as_ref());
                holder.is_some_and(|holder| holder.starts_with(&replica.operator.order.pod))
            })
        };
        let leader = replicas.iter().find(holds);
        if let Some(leader) = leader.or(replicas.get(kills % replicas.len())) {
            leader.operator.kill().await;
            kills += 1;
        }
    }
}

/// API server and etcd in turn.
async fn kill_servers(cluster: Cluster) -> Result<usize, String> {
    let mut outages = 0;
    for component in ["kube-apiserver", "etcd"]
        .into_iter()
        .cycle()
        .take(2 * OUTAGES)
    {
        tokio::time::sleep(BETWEEN).await;
        cluster.script(&["stop", component]).await?;
        tokio::time::sleep(AWAY).await;
        cluster.script(&["start", component]).await?;
        outages += 1;
    }
    Ok(outages)
}

async fn judge(
    cluster: &Cluster,
    namespace: &str,
    log: &Log,
    report: &mut Report,
) -> Result<(), String> {
    let hooks: Api<KrakeHook> = Api::namespaced(cluster.client.clone(), namespace);
    let list = until(SOON, async || {
        hooks
            .list(&ListParams::default())
            .await
            .map_err(|e| e.to_string())
    });
    let stored: BTreeSet<(String, String)> = list
        .await?
        .items
        .iter()
        .flat_map(|hook| {
            let status = hook.status.clone().unwrap_or_default();
            let name = hook.name_any();
            status
                .acknowledgements
                .into_keys()
                .map(move |key| (name.clone(), key))
        })
        .collect();
    let said = log.all();
    let key =
        |said: &crate::client::Said| (said.hook.1.clone(), format!("{}.{}", said.kind, said.pod));
    let counted: BTreeSet<_> = said.iter().filter(|said| said.counts()).map(key).collect();
    let all: BTreeSet<_> = said.iter().map(key).collect();
    let refused = said
        .iter()
        .filter(|said| said.status.is_some_and(|code| (400..500).contains(&code)));
    for lost in counted.difference(&stored) {
        report.violation(
            "lost",
            &format!("{lost:?} was answered 200 and is not there"),
        );
    }
    for refused in refused {
        report.violation(
            "false",
            &format!("{:?}: {:?} {}", key(refused), refused.status, refused.body),
        );
    }
    let unsent = stored.difference(&all).count();
    if unsent > 0 {
        report.violation("false", &format!("{unsent} are there that nobody has sent"));
    }
    report.line(&format!(
        "failover: {} acknowledgements in {} tries, {} answered 200, {} told nothing after three retries, {} stored",
        all.len(),
        said.len(),
        counted.len(),
        all.difference(&counted).count(),
        stored.len()
    ));
    Ok(())
}
