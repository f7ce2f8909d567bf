//! Templates and Services as people have them: what does not fit is told before anything is changed;
//! what goes wrong all the same is told in the words of whoever says so, with the way back.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota, Service};
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::{Value, json};

use krake_hooks::api::condition::{self, ConditionType};
use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::names;
use krake_hooks::api::status::Outcome;

use crate::support::manifests;
use crate::support::runner::Story;
use crate::support::stage::{Stage, is_ready, status};
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Together:
        a_users_volume_that_is_named_as_ours_stays_as_it_is,
        a_file_mounted_below_our_directory_is_told_before_anything_changes,
        variables_that_a_tool_sorts_are_put_in_order_again,
        secrets_come_back_for_pods_with_init_containers,
        the_first_port_for_tcp_is_called_or_none,
        a_call_that_fails_is_told_until_the_end,
        pods_that_cannot_be_made_are_told_in_the_servers_words,
        pods_that_cannot_start_are_told_with_the_way_back,
    ]
}

async fn create_hook(stage: &Stage, shutdown: Value) {
    let hook = manifests::hook("app", "app", manifests::shutdown(shutdown));
    let _: KrakeHook = stage.create(hook).await;
}

async fn generation(stage: &Stage) -> Option<i64> {
    let deployment = stage.all::<Deployment>().get("app").await.unwrap();
    deployment.metadata.generation
}

async fn a_users_volume_that_is_named_as_ours_stays_as_it_is(stage: Stage) {
    let mut app = manifests::app("app");
    app["spec"]["template"]["spec"]["volumes"] = json!([{"name": names::CERT_VOLUME,
        "projected": {"sources": [{"downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}}]);
    let _: Deployment = stage.create(app).await;
    create_hook(&stage, json!({})).await;
    let message = stage.await_refusal("app", "MountConflict").await;
    assert!(message.contains(names::CERT_VOLUME), "{message}");
    assert_eq!(generation(&stage).await, Some(1), "nothing was changed");
}

async fn a_file_mounted_below_our_directory_is_told_before_anything_changes(stage: Stage) {
    let map = json!({"metadata": {"name": "theirs"}, "data": {"one.conf": "theirs"}});
    let _: ConfigMap = stage.create(map).await;
    let mut app = manifests::app("app");
    let pod = &mut app["spec"]["template"]["spec"];
    pod["volumes"] = json!([{"name": "theirs", "configMap": {"name": "theirs"}}]);
    pod["containers"][0]["volumeMounts"] = json!([{"name": "theirs", "subPath": "one.conf",
        "mountPath": "/etc/krake_cert/one.conf"}]);
    let _: Deployment = stage.create(app).await;
    create_hook(&stage, json!({})).await;
    let message = stage.await_refusal("app", "MountConflict").await;
    assert!(message.contains("/etc/krake_cert/one.conf"), "{message}");
    assert_eq!(generation(&stage).await, Some(1), "nothing was changed");
}

async fn variables_that_a_tool_sorts_are_put_in_order_again(stage: Stage) {
    let _: Service = stage.create(manifests::service("shutdown", "app")).await;
    let _: Deployment = stage.create(manifests::app("app")).await;
    let mut kinds = manifests::shutdown(json!({}));
    kinds["complete"] = json!({});
    let _: KrakeHook = stage.create(manifests::hook("app", "app", kinds)).await;
    stage.armed("app").await;

    let app = stage.all::<Deployment>().get("app").await.unwrap();
    let spec = app.spec.unwrap().template.spec.unwrap();
    let mut env = spec.containers[0].env.clone().unwrap();
    env.sort_by(|a, b| a.name.cmp(&b.name));
    let patch = json!([{"op": "replace", "value": env,
        "path": "/spec/template/spec/containers/0/env"}]);
    let patch = [
        "patch",
        "deployment",
        "app",
        "--type=json",
        "-p",
        &patch.to_string(),
    ];
    stage.kubectl(&patch).await;

    until("a pod that sees its URL", SOON, async || {
        let pods = stage.all::<Pod>().list(&ListParams::default()).await;
        let pods = pods.map_err(|error| error.to_string())?.items;
        let [pod] = pods.as_slice() else {
            return Err(format!("{} pods", pods.len()));
        };
        let names = |pod: &Pod| -> Vec<String> {
            let env = pod.spec.as_ref().and_then(|s| s.containers[0].env.clone());
            env.unwrap_or_default()
                .into_iter()
                .map(|e| e.name)
                .collect()
        };
        let names = names(pod);
        let place = |name: &str| names.iter().position(|other| other == name);
        match place(names::POD_UID_ENV) < place("KRAKE_COMPLETE_URL") && is_ready(pod) {
            true => Ok(()),
            false => Err(format!("{names:?}")),
        }
    })
    .await;
    let armed = stage.armed("app").await;
    let ran = armed.app.run("echo $KRAKE_COMPLETE_URL").await;
    assert!(ran.out.trim().ends_with(&armed.app.uid), "{ran:?}");
}

async fn secrets_come_back_for_pods_with_init_containers(stage: Stage) {
    let mut app = manifests::app("app");
    let pod = &mut app["spec"]["template"]["spec"];
    let mut setup = pod["containers"][0].clone();
    for field in ["ports", "readinessProbe"] {
        setup.as_object_mut().unwrap().remove(field);
    }
    setup["name"] = json!("setup");
    setup["command"] = json!(["true"]);
    let mut sidecar = setup.clone();
    sidecar["name"] = json!("sidecar");
    sidecar["command"] = json!(["sleep", "3600"]);
    sidecar["restartPolicy"] = json!("Always");
    pod["initContainers"] = json!([setup, sidecar]);
    let _: Service = stage.create(manifests::service("shutdown", "app")).await;
    let _: Deployment = stage.create(app).await;
    create_hook(&stage, json!({"timeoutSeconds": 120})).await;
    let armed = stage.armed("app").await;
    stage.kubectl(&["delete", "secret", "--all"]).await;
    stage
        .kubectl(&["delete", "pod", &armed.app.name, "--wait=false"])
        .await;
    // The new pod cannot start: that is the sign. Kubelet then tries again in its own time.
    until("a new pod that runs", SOON * 4, async || {
        let pods = stage.all::<Pod>().list(&ListParams::default()).await;
        let pods = pods.map_err(|error| error.to_string())?;
        let mut new = pods
            .iter()
            .filter(|pod| pod.uid().as_ref() != Some(&armed.app.uid));
        match new.any(is_ready) {
            true => Ok(()),
            false => Err(format!("{:?}", pods.items.last().map(|pod| &pod.status))),
        }
    })
    .await;
}

async fn the_first_port_for_tcp_is_called_or_none(stage: Stage) {
    let udp = json!({"name": "udp", "port": 53, "protocol": "UDP"});
    let tcp = json!({"name": "tcp", "port": 80, "targetPort": 8080});
    let mut service = manifests::service("shutdown", "app");
    service["spec"]["ports"] = json!([udp, tcp]);
    let _: Service = stage.create(service).await;
    let _: Deployment = stage.create(manifests::app("app")).await;
    create_hook(
        &stage,
        json!({"callOut": {"service": {"name": "shutdown"}}}),
    )
    .await;
    let armed = stage.armed("app").await;
    let call_out = status(&armed.hook).call_out.clone().unwrap();
    assert_eq!(json!(call_out.port), json!(8080));

    let only_udp = json!([{"op": "remove", "path": "/spec/ports/1"}]).to_string();
    stage
        .kubectl(&[
            "patch",
            "service",
            "shutdown",
            "--type=json",
            "-p",
            &only_udp,
        ])
        .await;
    let message = stage
        .await_refusal("app", "ShutdownServiceUnsupported")
        .await;
    assert!(message.contains("TCP"), "{message}");
}

async fn a_call_that_fails_is_told_until_the_end(stage: Stage) {
    let mut service = manifests::service("shutdown", "app");
    service["spec"]["ports"] = json!([{"port": 80, "targetPort": 8081}]);
    let _: Service = stage.create(service).await;
    let _: Deployment = stage.create(manifests::app("app")).await;
    create_hook(&stage, json!({"timeoutSeconds": 4})).await;
    stage.armed("app").await;
    stage.delete_deployment("app", "background").await;
    let message = stage
        .await_refusal("app", "ShutdownServiceUnreachable")
        .await;
    assert!(
        message.contains("8081") && message.contains("ConnectFailed"),
        "{message}"
    );
    let hook = stage.hook("app").await.unwrap();
    let blocking = condition::find(&status(&hook).conditions, ConditionType::Blocking).unwrap();
    assert!(blocking.message.contains("ConnectFailed"), "{blocking:?}");

    let hook = stage.ended("app", Outcome::TimedOut).await;
    let told = &status(&hook).history[0].message;
    assert!(told.contains("ConnectFailed"), "{told}");
    let hook = stage.await_condition("app", ConditionType::Ready).await;
    let ready = condition::find(&status(&hook).conditions, ConditionType::Ready).unwrap();
    assert_eq!(ready.reason, "Released");
}

async fn pods_that_cannot_be_made_are_told_in_the_servers_words(stage: Stage) {
    let _: Service = stage.create(manifests::service("shutdown", "app")).await;
    let _: Deployment = stage.create(manifests::app("app")).await;
    until("its pod", SOON, async || {
        let pods = stage.all::<Pod>().list(&ListParams::default()).await;
        let pods = pods.map_err(|error| error.to_string())?;
        match pods.iter().any(is_ready) {
            true => Ok(()),
            false => Err("not yet"),
        }
        .map_err(str::to_owned)
    })
    .await;
    // No room for the second pod of a rollout.
    let quota = json!({"metadata": {"name": "full"}, "spec": {"hard": {"pods": "1"}}});
    let _: ResourceQuota = stage.create(quota).await;
    until("the quota is counted", SOON, async || {
        let quota = stage.all::<ResourceQuota>().get("full").await;
        let used = quota.map_err(|error| error.to_string())?.status;
        match used.and_then(|status| status.used) {
            Some(used) if used.contains_key("pods") => Ok(()),
            used => Err(format!("{used:?}")),
        }
    })
    .await;
    create_hook(&stage, json!({})).await;
    let message = stage.await_refusal("app", "PodsNotCreated").await;
    assert!(message.contains("exceeded quota"), "{message}");
    stage.told("PodsNotCreated").await;
    // The way back, as it is told.
    let way_back = [
        "annotate",
        "deployment",
        "app",
        "hooks.krake.dev/hook=disabled",
    ];
    assert!(message.contains(&way_back[3..].join(" ")), "{message}");
    stage.kubectl(&way_back).await;
    stage.await_refusal("app", "Disabled").await;
    stage.kubectl(&["delete", "resourcequota", "full"]).await;
    stage
        .kubectl(&["annotate", "deployment", "app", "hooks.krake.dev/hook-"])
        .await;
    stage.armed("app").await;
}

async fn pods_that_cannot_start_are_told_with_the_way_back(stage: Stage) {
    let _: Service = stage.create(manifests::service("shutdown", "app")).await;
    let mut app = manifests::app("app");
    app["spec"]["strategy"] = json!({"type": "Recreate"});
    let _: Deployment = stage.create(app).await;
    // A file of the image: only the node can tell.
    create_hook(&stage, json!({"certMountPath": "/etc/passwd"})).await;
    let message = stage.await_refusal("app", "PodsNotStarting").await;
    assert!(message.contains("not a directory"), "{message}");
    let hook = stage.hook("app").await.unwrap();
    let injected = condition::find(&status(&hook).conditions, ConditionType::Injected).unwrap();
    assert_eq!(
        (&*injected.status, &*injected.reason),
        ("False", "PodsNotStarting")
    );
    stage.told("PodsNotStarting").await;
    stage
        .kubectl(&[
            "annotate",
            "deployment",
            "app",
            "hooks.krake.dev/hook=disabled",
        ])
        .await;
    let rolled_out = ["rollout", "status", "deployment", "app", "--timeout=60s"];
    stage.kubectl(&rolled_out).await;
}
