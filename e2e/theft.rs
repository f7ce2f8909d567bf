//! What a token of the operator's ServiceAccount is worth to a thief: every theft that could be
//! thought of, tried with a real one. docs/security.md says the same in words.

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::{HookGuard, WorkloadKind, names};
use krake_hooks::outside::workloads;

use crate::support::manifests;
use crate::support::operator;
use crate::support::runner::Story;
use crate::support::stage::Stage;
use crate::support::thief::{dry_delete, fenced, made, patched, refused, tried};
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Together:
        a_thief_runs_nothing_in_anybodys_pods,
        a_thief_deletes_nothing_that_no_hook_names,
        a_thief_ends_no_pod_that_no_hook_holds,
        a_thief_makes_no_secret_that_kubernetes_acts_on,
        a_thief_puts_nothing_into_pods_by_a_config_map,
        a_thief_changes_no_hook,
        a_thief_does_nothing_in_kube_system_nor_in_krake_system,
    ]
}

const CHANGES: &str = "krake-hooks-changes";

/// What is wrong with a pod template, and with a container of it.
fn loot() -> Vec<(&'static str, Value)> {
    let container = |change: Value| {
        let mut container = json!({"name": "app"});
        for (field, value) in change.as_object().expect("fields") {
            container[field] = value.clone();
        }
        json!({"containers": [container]})
    };
    let secret = json!({"name": "loot", "secret": {"secretName": "db-root"}});
    let ours = |sources: Value| json!({"volumes": [{"name": names::CERT_VOLUME, "projected": {"sources": sources}}]});
    let token = json!({"secretKeyRef": {"name": "db-root", "key": "token"}});
    let theirs = json!({"secretKeyRef": {"name": "app-krake-00000000", "key": "token"}});
    vec![
        ("a Secret as volume", json!({"volumes": [secret]})),
        (
            "a Secret as our volume",
            ours(json!([{"secret": {"name": "db-root"}}])),
        ),
        (
            "a Secret with our name, and its own files",
            ours(json!([{"secret": {"name": "app-krake-00000000-tls",
                "items": [{"key": "cert.pem", "path": "sitecustomize.py"}]}}])),
        ),
        (
            "a token of the ServiceAccount as our volume",
            ours(json!([{"serviceAccountToken": {"path": "token"}}])),
        ),
        (
            "the node's disk as our volume",
            json!({"volumes": [{"name": names::CERT_VOLUME, "hostPath": {"path": "/"}}]}),
        ),
        (
            "the node's disk",
            json!({"volumes": [{"name": "loot", "hostPath": {"path": "/"}}]}),
        ),
        (
            "envFrom",
            container(json!({"envFrom": [{"secretRef": {"name": "db-root"}}]})),
        ),
        (
            "a variable from a Secret",
            container(json!({"env": [{"name": "LOOT", "valueFrom": token}]})),
        ),
        (
            "a variable of the user's from a Secret of ours",
            container(json!({"env": [{"name": "OWN", "value": null, "valueFrom": theirs}]})),
        ),
        (
            "a variable that the shell runs",
            container(json!({"env": [{"name": "BASH_ENV", "value": "/tmp/x"}]})),
        ),
        (
            "the same, from a Secret of ours",
            container(json!({"env": [{"name": "BASH_ENV", "valueFrom": theirs}]})),
        ),
        (
            "another command in the place of ours",
            container(
                json!({"env": [{"name": "KRAKE_URL", "value": "$(KRAKE_X)/$(KRAKE_POD_UID) rm"}]}),
            ),
        ),
        (
            "a command",
            container(json!({"command": ["sh", "-c", "cat /loot/*"]})),
        ),
        (
            "an image",
            container(json!({"image": "docker.io/library/busybox:1"})),
        ),
        (
            "privileged",
            container(json!({"securityContext": {"privileged": true}})),
        ),
        (
            "one more container",
            json!({"containers": [{"name": "more", "image": "busybox"}]}),
        ),
        (
            "one more init container",
            json!({"initContainers": [{"name": "more", "image": "busybox"}]}),
        ),
        (
            "another ServiceAccount",
            json!({"serviceAccountName": "admin"}),
        ),
        ("the node's network", json!({"hostNetwork": true})),
        ("the node's processes", json!({"hostPID": true})),
    ]
}

/// In a namespace without a hook, and again with one that names just this workload.
async fn a_thief_runs_nothing_in_anybodys_pods(stage: Stage) {
    let thief = stage.thief().await;
    let changeable =
        WorkloadKind::all().filter(|kind| !["Job", "Pod"].contains(&kind.traits().name));
    for kind in changeable {
        let name = kind.traits().name.to_lowercase();
        let mut workload = crate::support::thief::idle(kind, &name);
        workload.data["spec"]["template"]["spec"]["containers"][0]["env"] =
            json!([{"name": "OWN", "value": "1"}]);
        let tenants = workloads(&stage.client, kind, &stage.namespace);
        let created = tenants.create(&PostParams::default(), &workload).await;
        created.expect("a tenant may");
        let thiefs = workloads(&thief, kind, &stage.namespace);
        for hooked in [false, true] {
            if hooked {
                let hook = manifests::hook_of(kind, &name, &name, json!({"complete": {}}));
                let _: KrakeHook = stage.create(hook).await;
            }
            for (what, pod) in loot() {
                let patch = json!({"spec": {"template": {"spec": pod}}});
                fenced(
                    CHANGES,
                    &format!("{kind}: {what}"),
                    tried(&thiefs, &name, &patch).await,
                );
            }
            for (what, patch) in [
                (
                    "a label",
                    json!({"metadata": {"labels": {"app": "another"}}}),
                ),
                (
                    "an annotation",
                    json!({"metadata": {"annotations": {"of": "somebody"}}}),
                ),
                (
                    "a finalizer",
                    json!({"metadata": {"finalizers": ["of.some/body"]}}),
                ),
                (
                    "an owner",
                    json!({"metadata": {"ownerReferences": [{"apiVersion": "v1",
                    "kind": "ConfigMap", "name": "none", "uid": "none"}]}}),
                ),
                ("a guard that is not there", invented_guard()),
                (
                    "pods of its own",
                    json!({"spec": {"template": {"metadata": {
                    "annotations": {"of": "somebody"}}}}}),
                ),
                (
                    "how long a pod must be ready",
                    json!({"spec": {"minReadySeconds": 7}}),
                ),
            ] {
                fenced(
                    CHANGES,
                    &format!("{kind}: {what}"),
                    tried(&thiefs, &name, &patch).await,
                );
            }
        }
    }
    // Into a pod that runs, nothing gets at all.
    made(&stage, WorkloadKind::Pod, "bare").await;
    let pods: Api<Pod> = Api::namespaced(thief.clone(), &stage.namespace);
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "busybox"}]}});
    let (how, debug) = (PatchParams::default(), Patch::Strategic(&debug));
    let into = pods.patch_ephemeral_containers("bare", &how, &debug);
    refused("an ephemeral container", into.await);
    let pods = workloads(&thief, WorkloadKind::Pod, &stage.namespace);
    let image = json!({"spec": {"containers": [{"name": "app", "image": "busybox"}]}});
    fenced(CHANGES, "a pod's image", tried(&pods, "bare", &image).await);
}

/// What the thief can write itself proves nothing: hooks are written by people.
async fn a_thief_deletes_nothing_that_no_hook_names(stage: Stage) {
    let thief = stage.thief().await;
    let kinds = WorkloadKind::all().collect::<Vec<_>>();
    let name_of = |kind: WorkloadKind| kind.traits().name.to_lowercase();
    let completed = |hook: &str| json!({"metadata": {"labels": {names::COMPLETED_LABEL: hook}}});
    for kind in &kinds {
        let name = name_of(*kind);
        made(&stage, *kind, &name).await;
        let thiefs = workloads(&thief, *kind, &stage.namespace);
        for (sign, patch) in [
            ("nothing", json!({})),
            (
                "finalizer",
                json!({"metadata": {"finalizers": [names::SHUTDOWN_FINALIZER]}}),
            ),
            (
                "label",
                json!({"metadata": {"labels": {names::HOOK_LABEL: "app"}}}),
            ),
            ("label that it is complete", completed("app")),
        ] {
            let marked = patched(&thiefs, &name, &patch).await;
            if (*kind, sign) == (WorkloadKind::Pod, "finalizer") {
                fenced(CHANGES, "a pod that never ends", marked);
            } else {
                marked.unwrap_or_else(|error| panic!("{kind}: {sign}: {error}"));
            }
            refused(
                &format!("{kind} with {sign}"),
                thiefs.delete(&name, &dry_delete()).await,
            );
        }
    }
    // A hook, but for another workload.
    let other = manifests::hook("app", "another", json!({"complete": {}}));
    let _: KrakeHook = stage.create(other).await;
    for kind in &kinds {
        let thiefs = workloads(&thief, *kind, &stage.namespace);
        // The operator takes the label off what no hook names.
        let marked = patched(&thiefs, &name_of(*kind), &completed("app")).await;
        marked.expect("its own label");
        let deleted = thiefs.delete(&name_of(*kind), &dry_delete()).await;
        fenced("krake-hooks-completions", &kind.to_string(), deleted);
    }
    // A hook that holds it, but completes nothing; and one that does.
    let name = name_of(WorkloadKind::Deployment);
    let thiefs = workloads(&thief, WorkloadKind::Deployment, &stage.namespace);
    let hook = manifests::hook("named", &name, json!({"shutdown": {"timeoutSeconds": 1}}));
    let _: KrakeHook = stage.create(hook).await;
    let marked = patched(&thiefs, &name, &completed("named")).await;
    marked.expect("its own label");
    let deleted = thiefs.delete(&name, &dry_delete()).await;
    fenced("krake-hooks-completions", "what nothing completes", deleted);
    let complete = json!({"spec": {"complete": {}}});
    let hooks = stage.all::<KrakeHook>();
    hooks
        .patch("named", &PatchParams::default(), &Patch::Merge(&complete))
        .await
        .expect("a tenant may");
    until("it may delete what is complete", SOON, async || {
        let deleted = thiefs.delete(&name, &dry_delete()).await;
        deleted.map(|_| ()).map_err(|error| error.to_string())
    })
    .await;
}

/// Pods that nobody schedules: what counts is what is written on them.
async fn a_thief_ends_no_pod_that_no_hook_holds(stage: Stage) {
    let thief = stage.thief().await;
    let pods = workloads(&thief, WorkloadKind::Pod, &stage.namespace);
    made(&stage, WorkloadKind::Pod, "bare").await;
    let mut all = vec!["bare".to_owned()];
    for kind in [
        WorkloadKind::Job,
        WorkloadKind::StatefulSet,
        WorkloadKind::Deployment,
    ] {
        let owner = made(&stage, kind, &kind.traits().name.to_lowercase()).await;
        let tenants = stage.all::<Pod>();
        let pod = until(format!("a pod of the {kind}"), SOON, async || {
            let labels = ListParams::default().labels(&format!("app={}", owner.name_any()));
            let found = tenants.list(&labels).await.map_err(|e| e.to_string())?;
            let mut found = found
                .items
                .into_iter()
                .filter(|pod| pod.name_any() != "bare");
            found
                .next()
                .map(|pod| pod.name_any())
                .ok_or("none yet".to_owned())
        })
        .await;
        all.push(pod);
    }
    let label = json!({"metadata": {"labels": {names::HOOK_LABEL: "app"}}});
    let complete = json!({"metadata": {"labels": {names::COMPLETED_LABEL: "app"}}});
    for name in &all {
        refused("delete", pods.delete(name, &dry_delete()).await);
        patched(&pods, name, &label).await.expect("our label");
        refused("delete with label", pods.delete(name, &dry_delete()).await);
        if name == "bare" {
            // The garbage collector deletes what nobody else owns than one that is not there.
            fenced(
                CHANGES,
                "a guard",
                tried(&pods, name, &invented_guard()).await,
            );
        } else {
            fenced(CHANGES, "complete", tried(&pods, name, &complete).await);
        }
        for (what, patch) in [
            ("controller", json!({"metadata": {"ownerReferences": null}})),
            ("deadline", json!({"spec": {"activeDeadlineSeconds": 1}})),
            ("label", json!({"metadata": {"labels": {"app": "another"}}})),
        ] {
            let answer = pods
                .patch(
                    name,
                    &PatchParams {
                        dry_run: true,
                        ..PatchParams::default()
                    },
                    &Patch::Merge(&patch),
                )
                .await;
            if name != "bare" || what != "controller" {
                fenced(CHANGES, &format!("{name}: {what}"), answer);
            }
        }
    }
}

fn invented_guard() -> Value {
    json!({"metadata": {"ownerReferences": [{"apiVersion": "hooks.krake.dev/v1alpha1",
        "kind": "HookGuard", "name": "invented", "uid": "0f3a9c1e-77aa-4c0f-9b1a-2f6d1e7c8b90"}]}})
}

async fn a_thief_makes_no_secret_that_kubernetes_acts_on(stage: Stage) {
    let thief = stage.thief().await;
    let owned = |kind: &str| {
        json!([{"apiVersion": "hooks.krake.dev/v1alpha1", "kind": kind,
        "name": "x", "uid": "0f3a9c1e-77aa-4c0f-9b1a-2f6d1e7c8b90"}])
    };
    let secret = |name: &str, kind: &str, owners: Value, annotations: Value| {
        let labels = json!({names::MANAGED_BY_LABEL: names::MANAGED_BY, names::OWNER_LABEL: "x"});
        let object = json!({"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": {
            "name": name, "labels": labels, "ownerReferences": owners, "annotations": annotations}});
        serde_json::from_value::<Secret>(object).expect("a Secret")
    };
    let guard = owned("HookGuard");
    let own = stage.namespace.as_str();
    let account = json!({"kubernetes.io/service-account.name": "default"});
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    for (what, namespace, secret) in [
        (
            "a token that a node joins with",
            "kube-system",
            secret(
                "bootstrap-token-abcdef",
                "bootstrap.kubernetes.io/token",
                guard.clone(),
                json!({}),
            ),
        ),
        (
            "any Secret of Kubernetes' own namespace",
            "kube-system",
            secret("any", "Opaque", guard.clone(), json!({})),
        ),
        (
            "a ServiceAccount's token",
            own,
            secret(
                "t",
                "kubernetes.io/service-account-token",
                guard.clone(),
                account.clone(),
            ),
        ),
        (
            "what names a ServiceAccount",
            own,
            secret("t", "Opaque", guard.clone(), account),
        ),
        (
            "a registry's password",
            own,
            secret("t", "example.com/own", guard.clone(), json!({})),
        ),
        (
            "what nobody owns",
            own,
            secret("t", "Opaque", json!(null), json!({})),
        ),
        (
            "what somebody else owns",
            own,
            secret(
                "t",
                "Opaque",
                json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "x",
                "uid": "x"}]),
                json!({}),
            ),
        ),
    ] {
        let secrets: Api<Secret> = Api::namespaced(thief.clone(), namespace);
        fenced(
            "krake-hooks-secrets",
            what,
            secrets.create(&dry, &secret).await,
        );
    }
    let secrets: Api<Secret> = Api::namespaced(thief.clone(), own);
    for kind in ["HookGuard", "HookCertificate"] {
        let own = secret("t", "Opaque", owned(kind), json!({}));
        secrets
            .create(&dry, &own)
            .await
            .expect("its own it may make");
    }
}

async fn a_thief_puts_nothing_into_pods_by_a_config_map(stage: Stage) {
    let thief = stage.thief().await;
    let maps: Api<ConfigMap> = Api::namespaced(thief, &stage.namespace);
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let map = |name: &str, data: Value| {
        serde_json::from_value::<ConfigMap>(json!({"metadata": {"name": name,
            "labels": {names::MANAGED_BY_LABEL: names::MANAGED_BY}}, "data": data}))
        .expect("a ConfigMap")
    };
    let url = "https://a.b:8443/kubernetes/namespaces/ml/applications/app/complete";
    for (what, name, data) in [
        ("another name", "coredns", json!({})),
        ("another key", "app-krake-0f3a9c1e", json!({"run.sh": "rm"})),
        (
            "no URL",
            "app-krake-0f3a9c1e",
            json!({"complete-url": "--require=/tmp/x"}),
        ),
        (
            "two lines",
            "app-krake-0f3a9c1e",
            json!({"complete-url": format!("{url}\n{url}")}),
        ),
        (
            "no certificate",
            "app-krake-0f3a9c1e",
            json!({"ca-bundle.pem": "import os"}),
        ),
    ] {
        let created = maps.create(&dry, &map(name, data)).await;
        fenced("krake-hooks-configmaps", what, created);
    }
    let good = map(
        "app-krake-0f3a9c1e",
        json!({"complete-url": url, "ca-bundle.pem":
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"}),
    );
    maps.create(&dry, &good).await.expect("its own it may make");
}

async fn a_thief_changes_no_hook(stage: Stage) {
    let thief = stage.thief().await;
    let hook = manifests::hook("app", "app", json!({"complete": {}}));
    let _: KrakeHook = stage.create(hook).await;
    let hooks: Api<KrakeHook> = Api::namespaced(thief.clone(), &stage.namespace);
    for (what, patch) in [
        (
            "what it asks for",
            json!({"spec": {"complete": {"action": "None"}}}),
        ),
        (
            "an annotation",
            json!({"metadata": {"annotations": {names::SKIP_ANNOTATION: "x"}}}),
        ),
        (
            "somebody's finalizer",
            json!({"metadata": {"finalizers": ["of.some/body"]}}),
        ),
    ] {
        let changed = hooks
            .patch("app", &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        fenced("krake-hooks-own-kinds", what, changed);
    }
    refused("delete", hooks.delete("app", &dry_delete()).await);
    let another: KrakeHook =
        serde_json::from_value(manifests::hook("b", "b", json!({"complete": {}}))).unwrap();
    refused(
        "create",
        hooks.create(&PostParams::default(), &another).await,
    );
    let guards: Api<HookGuard> = Api::all(thief);
    let guard = json!({"apiVersion": "hooks.krake.dev/v1alpha1", "kind": "HookGuard",
        "metadata": {"name": "another"}, "spec": {
            "hook": {"namespace": stage.namespace, "name": "app", "uid": "none"},
            "workload": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"}}});
    let guard = serde_json::from_value(guard).expect("a guard");
    let created = guards.create(&PostParams::default(), &guard).await;
    fenced("krake-hooks-own-kinds", "a guard of another name", created);
}

async fn a_thief_does_nothing_in_kube_system_nor_in_krake_system(stage: Stage) {
    let thief = stage.thief().await;
    let kind = WorkloadKind::Deployment;
    let name = stage.namespace.as_str();
    let system = workloads(&stage.client, kind, "kube-system");
    let mut idle = crate::support::thief::idle(kind, name);
    idle.data["spec"]["replicas"] = json!(0);
    let created = system.create(&PostParams::default(), &idle).await;
    created.expect("an administrator may");
    let mut answers = Vec::new();
    for (namespace, name) in [("kube-system", name), (operator::NAMESPACE, operator::NAME)] {
        let api = workloads(&thief, kind, namespace);
        let armed = json!({"metadata": {"finalizers": [names::SHUTDOWN_FINALIZER]}});
        answers.push((CHANGES, "arm", tried(&api, name, &armed).await));
        let zero = json!({"spec": {"replicas": 0}});
        answers.push((CHANGES, "scale", tried(&api, name, &zero).await));
        let label = json!({"metadata": {"labels": {names::HOOK_LABEL: "app"}}});
        answers.push((CHANGES, "label", tried(&api, name, &label).await));
        let deleted = api.delete(name, &dry_delete()).await;
        let deleted = deleted.map(|gone| gone.left().unwrap_or(idle.clone()));
        answers.push(("krake-hooks-workloads", "delete", deleted));
        let maps = ApiResource::erase::<ConfigMap>(&());
        let maps: Api<DynamicObject> = Api::namespaced_with(thief.clone(), namespace, &maps);
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
            "name": "app-krake-0f3a9c1e",
            "labels": {names::MANAGED_BY_LABEL: names::MANAGED_BY}}});
        let map = serde_json::from_value(map).expect("a ConfigMap");
        let dry = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        answers.push((
            "krake-hooks-configmaps",
            "a ConfigMap",
            maps.create(&dry, &map).await,
        ));
    }
    // Not in the story's namespace, so nobody else takes it away.
    let gone = system.delete(name, &Default::default()).await;
    gone.expect("an administrator may");
    // Scaling to what it has is no change, where the operator has been taken away by another story.
    for (policy, what, answer) in answers {
        fenced(policy, what, answer);
    }
}
