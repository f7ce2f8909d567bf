//! A pod without any right floods the operator, and no other tenant notices.
//!
//! `E2E_FLOOD_SECONDS` (15): for how long at least. What was sent and what came of it is printed; how
//! much can be sent is up to the machine.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};

use krake_hooks::api::condition::ConditionType;
use krake_hooks::api::krake_hook::KrakeHook;

use crate::support::app::App;
use crate::support::manifests;
use crate::support::operator::Operator;
use crate::support::runner::Story;
use crate::support::stage::{Stage, is_ready};
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Alone:
        ten_thousand_silent_connections_and_half_handshakes_hinder_nobody,
    ]
}

const FLOOD: &str = include_str!("flood.py");
const SILENT: usize = 10_000;
const HALF_A_SECOND: usize = 2_000;
const TENANTS: usize = 4;
const ACKNOWLEDGEMENTS: usize = 50;

async fn ten_thousand_silent_connections_and_half_handshakes_hinder_nobody(stage: Stage) {
    let seconds = std::env::var("E2E_FLOOD_SECONDS");
    let seconds: u64 = seconds.map_or(15, |text| text.parse().expect("a number of seconds"));
    let operator = stage.cluster.operator().await;
    let before = operator.ready().await;
    let tenants = join_all((0..TENANTS).map(|number| tenant(&stage, number))).await;
    let attacker = attacker(&stage).await;
    println!("before: {}", usage(&operator, &before));

    let addresses: Vec<String> = before.iter().filter_map(address).collect();
    // Two processes: what one sends is not to wait for the other.
    let begin = format!(
        "cat > /tmp/flood.py <<'END'\n{FLOOD}\nEND\n\
         export ADDRESSES='{}' SECONDS={} STOP=/tmp/stop\n\
         SILENT={SILENT} HALF=0 nohup python3 /tmp/flood.py > /tmp/silent 2>&1 &\n\
         SILENT=0 HALF={HALF_A_SECOND} nohup python3 /tmp/flood.py > /tmp/half 2>&1 &",
        addresses.join(" "),
        // Should nobody end it.
        seconds + 300,
    );
    attacker.output(&begin).await;
    let begun = Instant::now();
    let flood = Duration::from_secs(seconds);
    let sent = async |what: &str| {
        let ran = attacker.run(&format!("tail -n 1 /tmp/{what}")).await;
        serde_json::from_str::<Value>(&ran.out).map_err(|error| format!("{error}: {ran:?}"))
    };
    until("the flood has come", SOON, async || {
        let silent = sent("silent").await?;
        let enough = silent["opened"].as_u64() >= Some(SILENT as u64 / 10);
        enough.then_some(()).ok_or(silent.to_string())
    })
    .await;
    let acknowledging = async {
        let answers = join_all(tenants.iter().map(acknowledge)).await;
        let answered_after = begun.elapsed();
        tokio::time::sleep_until((begun + flood).into()).await;
        attacker.output("touch /tmp/stop").await;
        (answers, answered_after)
    };
    let (answers, answered_after) = tokio::select! {
        answers = acknowledging => answers,
        never = stay_ready(&operator, &before) => match never {},
    };
    println!("after: {}", usage(&operator, &before));
    for what in ["silent", "half"] {
        let sent = until("the flood has ended", SOON, async || {
            let sent = sent(what).await?;
            let ended = sent["ended"] == 1;
            ended.then(|| sent.clone()).ok_or(sent.to_string())
        })
        .await;
        println!("{what}: {sent}");
    }
    println!("answers: {answers:?}, all after {answered_after:.1?}");
    let counted: usize = answers.iter().map(|(counted, _)| counted).sum();
    assert_eq!(counted, TENANTS * ACKNOWLEDGEMENTS, "{answers:?}");
}

/// A pod that may acknowledge.
async fn tenant(stage: &Stage, number: usize) -> App {
    let name = format!("tenant-{number}");
    let _: Deployment = stage.create(manifests::app(&name)).await;
    let kinds = json!({"complete": {"action": "None"}});
    let _: KrakeHook = stage.create(manifests::hook(&name, &name, kinds)).await;
    stage.await_condition(&name, ConditionType::Ready).await;
    stage.app(&name).await
}

/// A pod without any right, and without a certificate.
async fn attacker(stage: &Stage) -> App {
    let nothing = json!({"name": "credentials", "emptyDir": {}});
    let _: Pod = stage.create(manifests::bystander(nothing, json!([]))).await;
    let pods = stage.all::<Pod>();
    until("the attacker is ready", SOON, async || {
        match pods.get("bystander").await {
            Ok(pod) if is_ready(&pod) => Ok(App::of(&pod, stage.client.clone())),
            other => Err(format!("{:?}", other.map(|pod| pod.status))),
        }
    })
    .await
}

/// Acknowledges again and again, each time once, over a connection of its own; how many were
/// answered 200, and what the others were answered.
async fn acknowledge(app: &App) -> (usize, String) {
    let script = format!(
        r#"for n in $(seq {ACKNOWLEDGEMENTS}); do
            curl -sS --max-time 20 -o /dev/null -w '%{{http_code}}\n' -X PUT \
                -d "{{\"token\":\"$KRAKE_TOKEN\",\"message\":\"$n\"}}" $KRAKE_COMPLETE_URL \
                --cacert /etc/krake_cert/ca-bundle.pem \
                --cert /etc/krake_cert/cert.pem --key /etc/krake_cert/key.pem 2>&1
        done"#
    );
    let ran = app.run(&script).await;
    let (counted, others): (Vec<_>, Vec<_>) = ran.out.lines().partition(|line| *line == "200");
    (counted.len(), others.join(", "))
}

/// No replica is away from its Service, and none is restarted.
async fn stay_ready(operator: &Operator, before: &[Pod]) -> Infallible {
    loop {
        for pod in operator.pods().await {
            let old = before.iter().find(|old| old.uid() == pod.uid());
            let old = old.unwrap_or_else(|| panic!("{} is new", pod.name_any()));
            assert_eq!(restarts(&pod), restarts(old), "{:?}", pod.status);
            assert!(is_ready(&pod), "{:?}", pod.status);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    containers
        .into_iter()
        .flatten()
        .map(|one| one.restart_count)
        .sum()
}

fn address(pod: &Pod) -> Option<String> {
    pod.status.as_ref()?.pod_ip.clone()
}

/// What the operator's processes use now and have used at most, where that can be seen from here.
fn usage(operator: &Operator, pods: &[Pod]) -> String {
    let all = pods.iter().map(|pod| {
        let memory = operator
            .memory(pod)
            .map(|memory| format!("{} MiB now, {} at most", memory.resident, memory.peak));
        let memory = memory.as_deref().unwrap_or("not seen from here");
        format!("{}: {memory}", pod.name_any())
    });
    all.collect::<Vec<_>>().join("; ")
}
