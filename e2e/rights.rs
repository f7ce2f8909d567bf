//! What the operator's ServiceAccount can do to a tenant's Secret, and what it cannot: first what
//! it is allowed, then what the policy makes of that, then what it really did in all the stories.

use std::collections::BTreeMap;

use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use krake_hooks::api::{WorkloadKind, names};
use krake_hooks::outside::workloads;

use crate::support::cluster::Provider;
use crate::support::manifests;
use crate::support::operator::USER;
use crate::support::runner::{Story, skip};
use crate::support::stage::Stage;
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    let mut stories = crate::stories![Together:
        the_operator_may_create_and_update_a_tenants_secret_and_nothing_else,
        the_policy_refuses_the_operator_every_secret_that_is_not_its_own,
        the_policies_refuse_the_operator_what_no_hook_has_reached,
        of_nodes_and_of_the_api_server_it_may_know_the_addresses,
    ];
    stories.extend(crate::stories![Last: in_all_stories_it_never_read_a_tenants_secret]);
    stories
}

async fn the_operator_may_create_and_update_a_tenants_secret_and_nothing_else(stage: Stage) {
    for (verb, allowed) in [
        ("create", true),
        ("update", true),
        ("get", false),
        ("list", false),
        ("watch", false),
        ("patch", false),
        ("delete", false),
        ("deletecollection", false),
    ] {
        assert_eq!(
            may(&stage, verb, "", "secrets").await,
            allowed,
            "{verb} secrets"
        );
    }
    for (verb, group, resource) in [
        ("impersonate", "", "serviceaccounts"),
        ("create", "", "serviceaccounts/token"),
        ("create", "", "pods"),
        ("patch", "apps", "deployments/scale"),
        ("create", "", "pods/exec"),
        ("create", "rbac.authorization.k8s.io", "rolebindings"),
        ("*", "*", "*"),
    ] {
        assert!(
            !may(&stage, verb, group, resource).await,
            "{verb} {group}/{resource}"
        );
    }
}

async fn the_policy_refuses_the_operator_every_secret_that_is_not_its_own(stage: Stage) {
    let client = stage.cluster.client_as(Some(USER)).await.unwrap();
    let operator: Api<Secret> = Api::namespaced(client, &stage.namespace);
    let tenants: Secret = stage.create(secret("tenants", json!({}))).await;
    let really = PostParams::default();
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };

    let half = json!({names::MANAGED_BY_LABEL: names::MANAGED_BY});
    for labels in [json!({}), half] {
        for how in [&really, &dry] {
            let created = operator
                .create(how, &typed(secret("new", labels.clone())))
                .await;
            refused("create without our labels", created);
        }
    }
    // The old object decides: to give somebody's Secret our labels does not make it ours.
    for labels in [json!({}), ours()] {
        for how in [&really, &dry] {
            let mut stolen = typed(secret("tenants", labels.clone()));
            stolen.metadata.resource_version = tenants.resource_version();
            refused("update", operator.replace("tenants", how, &stolen).await);
        }
    }
    refused("get", operator.get("tenants").await);
    refused("list", operator.list(&Default::default()).await);
    let peek = DeleteParams {
        dry_run: true,
        ..DeleteParams::foreground()
    };
    refused(
        "a deletion that answers with it",
        operator.delete("tenants", &peek).await,
    );

    let own = operator
        .create(&really, &typed(secret("own", ours())))
        .await;
    let mut own = own.expect("its own it may create");
    own.data = Some(BTreeMap::new());
    let updated = operator.replace("own", &really, &own).await;
    updated.expect("its own it may update");
    let untouched = stage.all::<Secret>().get("tenants").await.unwrap();
    assert_eq!(untouched, tenants);
}

/// Pods that nobody schedules: what counts is what is written on them.
async fn the_policies_refuse_the_operator_what_no_hook_has_reached(stage: Stage) {
    let client = stage.cluster.client_as(Some(USER)).await.unwrap();
    let operator = |kind| workloads(&client, kind, &stage.namespace);
    let tenant = |kind| workloads(&stage.client, kind, &stage.namespace);
    let held = WorkloadKind::all().filter(|kind| kind.traits().guarded.is_some());
    for kind in held {
        let api = tenant(kind);
        let made = api
            .create(&PostParams::default(), &idle(kind, "idle"))
            .await;
        made.expect("a tenant may");
        refused("delete", operator(kind).delete("idle", &dry_delete()).await);
        // The finalizer is one of the signs that a hook has reached it.
        let armed = json!({"metadata": {"finalizers": [names::SHUTDOWN_FINALIZER]}});
        patch(&api, "idle", &armed, false)
            .await
            .expect("a tenant may");
        let deleted = operator(kind).delete("idle", &dry_delete()).await;
        deleted.expect("it may delete what it has armed");
        let free = json!({"metadata": {"finalizers": null}});
        patch(&api, "idle", &free, false)
            .await
            .expect("a tenant may");
    }

    let pods = tenant(WorkloadKind::Pod);
    let made = pods
        .create(&PostParams::default(), &idle(WorkloadKind::Pod, "bare"))
        .await;
    made.expect("a tenant may");
    let of = async |owner: &'static str| {
        until(format!("a {owner}'s pod"), SOON, async || {
            let all = pods
                .list(&ListParams::default())
                .await
                .map_err(|e| e.to_string())?;
            let owned =
                |pod: &DynamicObject| pod.owner_references().iter().any(|o| o.kind == owner);
            let found = all.items.into_iter().find(owned);
            found.map(|pod| pod.name_any()).ok_or("none yet".to_owned())
        })
        .await
    };
    let by_operator = operator(WorkloadKind::Pod);
    let label = json!({"metadata": {"labels": {names::HOOK_LABEL: "app"}}});
    for (name, reachable) in [
        ("bare".to_owned(), true),
        (of("Job").await, true),
        (of("StatefulSet").await, false),
        (of("ReplicaSet").await, false),
    ] {
        refused("delete", by_operator.delete(&name, &dry_delete()).await);
        let labelled = patch(&by_operator, &name, &label, true).await;
        assert_eq!(labelled.is_ok(), reachable, "{name}: {labelled:?}");
        patch(&pods, &name, &label, false)
            .await
            .expect("a tenant may");
        let deleted = by_operator.delete(&name, &dry_delete()).await;
        deleted.expect("it may delete what a hook has reached");
        for more in [
            json!({"metadata": {"annotations": {"of": "somebody"}}}),
            json!({"metadata": {"labels": {"app": "another"}}}),
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap",
                "name": "none", "uid": "none"}]}}),
            json!({"spec": {"activeDeadlineSeconds": 1}}),
        ] {
            refused("patch", patch(&by_operator, &name, &more, true).await);
        }
    }
}

/// A workload of that kind whose pods stay where they are.
fn idle(kind: WorkloadKind, name: &str) -> DynamicObject {
    let mut workload = manifests::workload(kind, name);
    let template = kind.traits().template;
    let pod = workload.pointer_mut(&format!("{template}/spec"));
    pod.expect("a pod's spec")["schedulerName"] = json!("nobody");
    serde_json::from_value(workload).expect("an object")
}

async fn patch(
    api: &Api<DynamicObject>,
    name: &str,
    patch: &Value,
    dry_run: bool,
) -> kube::Result<DynamicObject> {
    let how = PatchParams {
        dry_run,
        ..PatchParams::default()
    };
    api.patch(name, &how, &Patch::Merge(patch)).await
}

fn dry_delete() -> DeleteParams {
    DeleteParams {
        dry_run: true,
        ..DeleteParams::background()
    }
}

/// The audit log knows every request of all the stories before this one.
async fn in_all_stories_it_never_read_a_tenants_secret(stage: Stage) {
    if stage.cluster.provider != Provider::Local {
        skip("only the local cluster keeps an audit log that can be read here");
    }
    let log = stage.cluster.script(&["audit-log"]).await.unwrap();
    let log = std::fs::read_to_string(log).expect("the audit log can be read");
    let mut verbs = BTreeMap::<String, usize>::new();
    for line in log.lines().filter(|line| line.contains(USER)) {
        let Ok(entry) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let object = &entry["objectRef"];
        let tenants = object["namespace"] != names::OPERATOR_NAMESPACE;
        // The story above plays the operator by impersonation.
        let itself = entry["user"]["username"] == USER && entry["impersonatedUser"].is_null();
        if itself && tenants && object["resource"] == "secrets" {
            *verbs.entry(entry["verb"].to_string()).or_default() += 1;
        }
    }
    if verbs.is_empty() {
        skip("the operator has not met a tenant's Secret yet");
    }
    verbs.retain(|verb, _| !["\"create\"", "\"update\""].contains(&verb.as_str()));
    assert!(
        verbs.is_empty(),
        "the operator's requests to Secrets: {verbs:?}"
    );
}

/// Those are never called, whatever a pod claims; nothing else follows from knowing them.
async fn of_nodes_and_of_the_api_server_it_may_know_the_addresses(stage: Stage) {
    for (verb, allowed) in [
        ("get", true),
        ("list", true),
        ("watch", true),
        ("create", false),
        ("update", false),
        ("patch", false),
        ("delete", false),
    ] {
        let nodes = may(&stage, verb, "", "nodes").await;
        assert_eq!(nodes, allowed, "{verb} nodes");
    }
    for subresource in ["nodes/status", "nodes/proxy"] {
        for verb in ["get", "create", "patch"] {
            assert!(
                !may(&stage, verb, "", subresource).await,
                "{verb} {subresource}"
            );
        }
    }
    let slices = "endpointslices";
    for (verb, namespace, name, allowed) in [
        ("list", "default", "kubernetes", true),
        ("watch", "default", "kubernetes", true),
        ("patch", "default", "kubernetes", false),
        ("list", "default", "", false),
        ("list", "default", "another", false),
        ("list", stage.namespace.as_str(), "kubernetes", false),
    ] {
        let attributes = json!({"namespace": namespace, "verb": verb,
            "group": "discovery.k8s.io", "resource": slices, "name": name});
        let may = reviewed(&stage, attributes).await;
        assert_eq!(may, allowed, "{verb} {slices} {namespace}/{name}");
    }
}

async fn may(stage: &Stage, verb: &str, group: &str, resource: &str) -> bool {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let attributes = json!({
        "namespace": stage.namespace, "verb": verb, "group": group,
        "resource": resource, "subresource": subresource,
    });
    reviewed(stage, attributes).await
}

async fn reviewed(stage: &Stage, attributes: Value) -> bool {
    let review = json!({"spec": {
        "user": USER,
        "groups": ["system:serviceaccounts", "system:serviceaccounts:krake-system", "system:authenticated"],
        "resourceAttributes": attributes,
    }});
    let review: SubjectAccessReview = serde_json::from_value(review).expect("a review");
    let reviews: Api<SubjectAccessReview> = Api::all(stage.client.clone());
    let reviewed = reviews.create(&PostParams::default(), &review).await;
    reviewed
        .expect("rights can be asked")
        .status
        .is_some_and(|status| status.allowed)
}

fn refused<T: std::fmt::Debug>(what: &str, answer: kube::Result<T>) {
    match answer {
        Err(kube::Error::Api(status)) if [403, 422].contains(&status.code) => {}
        other => panic!("{what}: {other:?}"),
    }
}

fn ours() -> Value {
    json!({
        names::MANAGED_BY_LABEL: names::MANAGED_BY,
        names::OWNER_LABEL: "0f3a9c1e-77aa-4c0f-9b1a-2f6d1e7c8b90",
    })
}

fn secret(name: &str, labels: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "labels": labels},
        "stringData": {"password": "hunter2"},
    })
}

fn typed(object: Value) -> Secret {
    serde_json::from_value(object).expect("a Secret")
}
