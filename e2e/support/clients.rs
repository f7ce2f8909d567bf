//! Clients that acknowledge a hook without pause, all in one pod that outlives the workload.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use serde::Deserialize;
use serde_json::json;

use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::status::Outcome;

use super::app::App;
use super::manifests;
use super::stage::{Stage, status};
use super::wait::{SOON, until};

const SCRIPT: &str = include_str!("clients.py");

/// The clients.
pub struct Clients {
    pod: App,
    stage: Stage,
}

/// What they were answered.
#[derive(Debug, Deserialize)]
pub struct Answers {
    /// How many 200, by kind of client.
    pub acknowledged: BTreeMap<String, usize>,
    /// Everything else: kind of client, code (0: no answer), what was said, when.
    pub failed: Vec<(String, u16, String, f64)>,
    /// The last message that was answered 200, by pod.
    pub last: BTreeMap<String, String>,
}

impl Clients {
    /// Makes a hook of their own, and lets them begin. Each speaks for a pod of its own, and what it says
    /// is written each time anew.
    pub async fn begin(stage: &Stage, count: usize) -> Self {
        let _: Deployment = stage.create(manifests::app("acknowledged")).await;
        let hook = manifests::hook(
            "acknowledged",
            "acknowledged",
            json!({"complete": {"action": "None"}}),
        );
        let _: KrakeHook = stage.create(hook).await;
        let hook = stage
            .await_condition(
                "acknowledged",
                krake_hooks::api::condition::ConditionType::Ready,
            )
            .await;
        let pod = stage.bystander(&hook, "unused").await;
        let pods = stage
            .pods_that_never_run("acknowledged", count)
            .await
            .join(" ");
        pod.output(&format!(
            "cat > /tmp/clients.py <<'END'\n{SCRIPT}\nEND\nnohup python3 /tmp/clients.py {pods} > /tmp/clients.log 2>&1 &"
        ))
        .await;
        stage.ended("acknowledged", Outcome::Completed).await;
        Self {
            pod,
            stage: stage.clone(),
        }
    }

    /// Ends them. Panics unless what each was last told is what stands in the hook.
    pub async fn end(self) -> Answers {
        self.pod.output("touch /tmp/clients.stop").await;
        let answers = until("the clients have ended", SOON, async || {
            let ran = self
                .pod
                .run("cat /tmp/clients.json || cat /tmp/clients.log")
                .await;
            serde_json::from_str::<Answers>(&ran.out).map_err(|e| format!("{e}: {ran:?}"))
        })
        .await;
        let hook = self.stage.hook("acknowledged").await.expect("it stays");
        for (pod, message) in &answers.last {
            let kept = &status(&hook).acknowledgements[&format!("complete.{pod}")];
            assert_eq!(
                kept.message.as_ref(),
                Some(message),
                "answered 200 and not kept"
            );
        }
        answers
    }
}
