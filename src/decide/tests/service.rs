//! How the app is to be called, from the Service; and why it cannot be.

use serde_json::{Value, json};

use crate::decide::service::{none_ready, remember, unreachable};
use crate::testing::build::{self, Build, NAME};
use crate::testing::world::World;

fn service() -> Build {
    let ports = json!([{"name": "http", "port": 80, "targetPort": "web"},
        {"name": "admin", "port": 81}]);
    build::service("shutdown").with("/spec/ports", ports)
}

/// The port as the spec names it, the Service, and the target port or the reason.
type Row = (
    &'static str,
    Value,
    Option<Build>,
    Result<Value, &'static str>,
);

#[test]
fn how_the_app_is_to_be_called() {
    let no_selector = service().with("/spec/selector", json!({}));
    let no_ports = service().with("/spec/ports", json!([]));
    let elsewhere = service().with("/spec/type", json!("ExternalName"));
    let headless = service().with("/spec/clusterIP", json!("None"));
    let dns = || {
        let ports = json!([
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 5353},
            {"name": "sctp", "port": 54, "protocol": "SCTP"}]);
        service().with("/spec/ports", ports)
    };
    let only_udp = service().with("/spec/ports", json!([{"port": 53, "protocol": "UDP"}]));
    let (missing, unsupported) = (
        Err("ShutdownServiceNotFound"),
        Err("ShutdownServiceUnsupported"),
    );
    let web = || Ok(json!("web"));
    let rows: Vec<Row> = vec![
        ("the first one", json!(null), Some(service()), web()),
        ("by number", json!(80), Some(service()), web()),
        ("no targetPort", json!(81), Some(service()), Ok(json!(81))),
        ("by name", json!("admin"), Some(service()), Ok(json!(81))),
        (
            "no such number",
            json!(82),
            Some(service()),
            missing.clone(),
        ),
        ("no such name", json!("x"), Some(service()), missing.clone()),
        ("no ports", json!(null), Some(no_ports), missing.clone()),
        (
            "no selector",
            json!(null),
            Some(no_selector),
            unsupported.clone(),
        ),
        (
            "elsewhere",
            json!(null),
            Some(elsewhere),
            unsupported.clone(),
        ),
        ("headless", json!(null), Some(headless), web()),
        (
            "the first TCP one",
            json!(null),
            Some(dns()),
            Ok(json!(5353)),
        ),
        ("a number twice", json!(53), Some(dns()), Ok(json!(5353))),
        (
            "UDP by name",
            json!("dns"),
            Some(dns()),
            unsupported.clone(),
        ),
        ("SCTP", json!(54), Some(dns()), unsupported.clone()),
        ("only UDP", json!(null), Some(only_udp), unsupported),
        ("no Service", json!(null), None, missing),
    ];
    for (name, port, service, expected) in rows {
        let call_out = json!({"service": {"name": "shutdown", "port": port, "path": "/save"}});
        let call_out = serde_json::from_value(call_out).unwrap();
        let service = service.map(Build::service);
        let found = remember(&call_out, service.as_ref());
        let told = match &found {
            Ok(call_out) => Ok(json!(call_out.as_ref().unwrap().port)),
            Err(fault) => {
                let message = fault.ahead_of_time();
                let whole = message.contains("shutdown") && message.contains("will wait");
                assert!(whole, "{message}");
                Err(fault.reason.as_str().to_owned())
            }
        };
        assert_eq!(told, expected.map_err(str::to_owned), "{name}");
        if let Ok(Some(call_out)) = found {
            assert_eq!(call_out.path, "/save");
            assert_eq!(call_out.selector["app"], NAME);
        }
    }
    let nobody = serde_json::from_value(json!({"mode": "None"})).unwrap();
    assert_eq!(remember(&nobody, None), Ok(None));
}

#[test]
fn what_will_not_reach_the_workloads_pods_is_told_ahead_of_time() {
    let pod = "/spec/template/spec";
    let workload = || build::deployment(NAME).container("app");
    let ports = |port: Value| {
        let ports = json!([port]);
        workload().with(&format!("{pod}/containers/0/ports"), ports)
    };
    let web = || ports(json!({"name": "web", "containerPort": 8080, "protocol": "TCP"}));
    let udp = ports(json!({"name": "web", "containerPort": 8080, "protocol": "UDP"}));
    let on_node = || web().with(&format!("{pod}/hostNetwork"), json!(true));
    let sidecar = |restart: &str| {
        let ports = json!([{"name": "web", "containerPort": 8080}]);
        let init = json!([{"name": "saver", "image": "x", "restartPolicy": restart,
            "ports": ports}]);
        workload().with(&format!("{pod}/initContainers"), init)
    };
    let others = || service().with("/spec/selector", json!({"app": "other"}));
    let speaks = |protocol: &str| {
        let ports = json!([{"port": 80, "targetPort": "web", "appProtocol": protocol}]);
        service().with("/spec/ports", ports)
    };
    let numbered = service().with("/spec/ports", json!([{"port": 80}]));
    let unsupported = Some("ShutdownServiceUnsupported");
    for (name, service, workload, expected) in [
        ("a named port", service(), web(), None),
        ("a number", numbered, workload(), None),
        ("no such name", service(), workload(), unsupported),
        ("of that name for UDP", service(), udp, unsupported),
        ("a sidecar's", service(), sidecar("Always"), None),
        (
            "an init container's",
            service(),
            sidecar("Never"),
            unsupported,
        ),
        ("on the node", service(), on_node(), Some("NobodyToCall")),
        ("other pods", others(), workload(), None),
        ("other pods, ours on the node", others(), on_node(), None),
        ("TLS", speaks("https"), web(), unsupported),
        (
            "TLS of other pods",
            speaks("HTTPS").with("/spec/selector", json!({"app": "other"})),
            web(),
            unsupported,
        ),
        ("HTTP, as it says", speaks("http"), web(), None),
    ] {
        let call_out = serde_json::from_value(json!({"service": {"name": "shutdown"}})).unwrap();
        let service = service.service();
        let remembered = remember(&call_out, Some(&service)).unwrap().unwrap();
        let workload = workload.workload();
        let fault = unreachable(&call_out, &remembered, Some(&service), &workload);
        let reason = fault.as_ref().map(|fault| fault.reason.as_str());
        assert_eq!(reason, expected, "{name}");
        let named = fault.is_none_or(|fault| {
            let message = fault.ahead_of_time();
            message.contains("shutdown") || message.contains(NAME)
        });
        assert!(named, "{name}");
    }
}

#[test]
fn pods_that_are_not_ready_for_a_minute_are_told_ahead_of_time() {
    let at = |second| json!(build::at(second).to_string());
    let pod = |status: &str, since: i64| {
        let ready = json!([{"type": "Ready", "status": status, "lastTransitionTime": at(since)}]);
        build::pod("pod").with("/status/conditions", ready)
    };
    let slim = build::pod("pod").with("/status/startTime", at(5)).with(
        "/status/conditions",
        json!([{"type": "Ready", "status": "False"}]),
    );
    let workload = build::deployment(NAME).container("app").workload();
    for (name, pods, expected) in [
        ("ready", vec![pod("True", 0)], None),
        ("not ready", vec![pod("False", 0)], Some(60)),
        ("one of two", vec![pod("False", 0), pod("True", 0)], None),
        (
            "the younger one counts",
            vec![pod("False", 0), pod("False", 9)],
            Some(69),
        ),
        ("since it was started", vec![slim], Some(65)),
        ("on its way out", vec![pod("False", 0).deleting()], None),
        ("none", vec![], None),
    ] {
        let mut world = World::new();
        world.create_hook(build::hook(NAME).shutdown());
        let mut seen = world.observe(NAME).unwrap();
        seen.pods = pods.into_iter().map(Build::pod).collect();
        let call_out = serde_json::from_value(json!({"service": {"name": "shutdown"}})).unwrap();
        let remembered = remember(&call_out, Some(&service().service()))
            .unwrap()
            .unwrap();
        let found = none_ready(&seen, &remembered, &workload);
        let due = found.map(|(due, _)| due);
        assert_eq!(due, expected.map(build::at), "{name}");
    }
}
