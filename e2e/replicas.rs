//! Two replicas of the operator: both answer, one leads, and nobody notices when they change.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::{Api, ResourceExt};
use serde_json::json;

use krake_hooks::api::condition::ConditionType;
use krake_hooks::api::krake_hook::KrakeHook;

use crate::support::audit;
use crate::support::clients::Clients;
use crate::support::manifests;
use crate::support::operator::{NAME, NAMESPACE};
use crate::support::runner::{Story, skip};
use crate::support::stage::{Stage, status};
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    let mut stories = crate::stories![Together:
        both_replicas_write_acknowledgements_of_one_hook_at_once,
    ];
    stories.extend(crate::stories![Alone:
        a_rolling_update_of_the_operator_fails_no_acknowledgement,
        a_drain_takes_one_replica_after_the_other_and_who_goes_gives_the_lease_back,
        a_leader_stopped_for_twice_its_lease_writes_nothing_when_it_goes_on,
    ]);
    stories
}

/// Each replica writes what it is told into the same status, while the leader decides on it.
async fn both_replicas_write_acknowledgements_of_one_hook_at_once(stage: Stage) {
    let _: Deployment = stage.create(manifests::app("app")).await;
    let _: KrakeHook = stage
        .create(manifests::hook(
            "app",
            "app",
            json!({"complete": {"action": "None"}}),
        ))
        .await;
    let hook = stage.await_condition("app", ConditionType::Ready).await;
    let many = stage.bystander(&hook, "unused").await;
    let replicas = stage.cluster.operator().await.ready().await;
    let mut script = String::from("cd /tmp\n");
    for (number, replica) in replicas.iter().enumerate() {
        let address = replica.status.as_ref().and_then(|s| s.pod_ip.clone());
        let address = address.expect("a ready pod has an address");
        let each = stage.pods_that_never_run("app", 100).await.join(",");
        script += &format!(
            r#"curl -sS --no-progress-meter --parallel --parallel-max 50 --max-time 60 \
                --connect-to "::{address}:8443" -w '%{{http_code}}\n' -o "answer-{number}.#1" \
                -X PUT -d "{{\"token\":\"$KRAKE_TOKEN\"}}" \
                "$KRAKE_COMPLETE_ENDPOINT/{{{each}}}" \
                --cacert /etc/krake_cert/ca-bundle.pem \
                --cert /etc/krake_cert/cert.pem --key /etc/krake_cert/key.pem &
            "#
        );
    }
    let ran = many.run(&format!("{script}\nwait")).await;
    let codes: Vec<&str> = ran.out.split_whitespace().collect();
    let counted = codes.iter().filter(|code| **code == "200").count();
    let all = 100 * replicas.len();
    assert_eq!((counted, codes.len()), (all, all), "{ran:?}");
    let hook = stage.hook("app").await.expect("the hook stays");
    let kept = status(&hook).acknowledgements.len();
    assert_eq!(kept, all, "answered 200 and not kept");
}

/// A connection that is refused or breaks off is a failure like any other answer but 200.
async fn a_rolling_update_of_the_operator_fails_no_acknowledgement(stage: Stage) {
    let operator = stage.cluster.operator().await;
    let before = operator.ready().await;
    let clients = Clients::begin(&stage, 20).await;
    let restart = [
        "--namespace",
        NAMESPACE,
        "rollout",
        "restart",
        "deployment",
        NAME,
    ];
    stage
        .cluster
        .kubectl(&restart)
        .await
        .expect("it can be restarted");
    until(
        "the operator has begun to be replaced",
        SOON,
        async || match operator.pods().await.len() > before.len() {
            true => Ok(()),
            false => Err("not yet"),
        },
    )
    .await;
    let after = operator.ready().await;
    let same = after
        .iter()
        .filter(|pod| before.iter().any(|old| old.uid() == pod.uid()));
    assert_eq!(same.count(), 0, "every replica was replaced");

    let answers = clients.end().await;
    println!("a rolling update: {:?}", answers.acknowledged);
    assert_eq!(answers.failed, [], "{:?}", answers.acknowledged);
    assert_eq!(
        answers.acknowledged.len(),
        4,
        "every kind of client was answered"
    );
}

async fn a_drain_takes_one_replica_after_the_other_and_who_goes_gives_the_lease_back(stage: Stage) {
    let operator = stage.cluster.operator().await;
    let before = operator.ready().await;
    // By kubectl: the client of these stories would try again until the budget allows the other.
    let evict = async |pod: &Pod| {
        let name = pod.name_any();
        let file = std::env::temp_dir().join(format!("{}-{name}.json", stage.namespace));
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": name, "namespace": NAMESPACE}});
        std::fs::write(&file, eviction.to_string()).expect("a file can be written");
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction");
        let file_name = file.display().to_string();
        let create = ["create", "--raw", &path, "--filename", &file_name];
        let evicted = stage.cluster.kubectl(&create).await;
        // A file in a temporary directory harms nobody.
        let _ = std::fs::remove_file(&file);
        evicted.map(|_| ())
    };
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(stage.client.clone(), NAMESPACE);
    until("the budget allows one", SOON, async || {
        let budget = budgets.get(NAME).await.map_err(|e| e.to_string())?;
        match budget.status.map(|status| status.disruptions_allowed) {
            Some(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    // At once: another pod takes the place of the first within a second.
    let evicted = futures::join!(evict(&before[0]), evict(&before[1]));
    let refused = match evicted {
        (Ok(()), Err(refused)) | (Err(refused), Ok(())) => refused,
        both => panic!("not one of two: {both:?}"),
    };
    assert!(refused.contains("disruption budget"), "{refused}");
    operator.ready().await;

    operator.leave().await;
    assert_eq!(operator.lease_holder().await, Ok(String::new()));
    operator.come_back().await;
}

/// The leader is stopped as by a hypervisor, and goes on while there is much to do.
async fn a_leader_stopped_for_twice_its_lease_writes_nothing_when_it_goes_on(stage: Stage) {
    let operator = stage.cluster.operator().await;
    operator.configure(PERIODS).await;
    let begin = Timestamp::now();
    let old = operator.leader().await;
    make_hooks(&stage, "before").await;
    if !operator.signal(&old, "STOP") {
        skip("the operator's process cannot be reached from here");
    }
    let stopped = tokio::time::Instant::now();
    let new = until("another replica leads", SOON, async || {
        let leader = operator.leader().await;
        match leader.uid() != old.uid() {
            true => Ok(leader),
            false => Err(leader.name_any()),
        }
    })
    .await;
    // What the old one has been told of meanwhile, and had begun before.
    delete_workloads(&stage, "before").await;
    tokio::time::sleep_until(stopped + TWICE_THE_LEASE).await;
    // And this while it wakes up.
    tokio::join!(
        async { assert!(operator.signal(&old, "CONT")) },
        make_hooks(&stage, "after"),
    );
    delete_workloads(&stage, "after").await;
    for time in ["before", "after"] {
        for name in names(time) {
            stage.gone::<Deployment>(&name).await;
        }
    }
    operator.ready().await;

    let calls = audit::calls(&stage.cluster, begin).await;
    let taken = calls.iter().find(|call| {
        call.pod == new.name_any() && call.took_effect() && call.act == "update leases"
    });
    let taken = taken.expect("the new leader has taken the lease").at;
    let effective = |pod: &str| {
        let writes = calls.iter().filter(|call| {
            call.pod == pod && call.at > taken && call.role == "leader" && call.took_effect()
        });
        writes.cloned().collect::<Vec<_>>()
    };
    assert!(!effective(&new.name_any()).is_empty(), "somebody has led");
    let late = effective(&old.name_any());
    assert!(late.is_empty(), "after {taken}: {late:#?}");
}

/// Short, so that a liveness probe does not end the stopped process first.
const PERIODS: &str =
    "leaderElection: {leaseDurationSeconds: 6, renewDeadlineSeconds: 4, retryPeriodSeconds: 1}\n";
const TWICE_THE_LEASE: Duration = Duration::from_secs(12);

fn names(time: &str) -> Vec<String> {
    (0..8).map(|number| format!("{time}-{number}")).collect()
}

/// Hooks whose workloads have no pods: much for a leader to write, and little else.
async fn make_hooks(stage: &Stage, time: &str) {
    for name in names(time) {
        let mut workload = manifests::app(&name);
        workload["spec"]["replicas"] = json!(0);
        let _: Deployment = stage.create(workload).await;
        let hook = manifests::hook(&name, &name, json!({"shutdown": {}}));
        let _: KrakeHook = stage.create(hook).await;
    }
    for name in names(time) {
        stage.await_condition(&name, ConditionType::Armed).await;
    }
}

async fn delete_workloads(stage: &Stage, time: &str) {
    for name in names(time) {
        stage.delete_deployment(&name, "background").await;
    }
}
