//! What the operator's ServiceAccount can do to a tenant's Secret, and what it cannot: first what
//! it is allowed, then what the policy makes of that, then what it really did in all the stories, and
//! whether its own policies were in its way. What a thief of its token tries is in `theft`.

use std::collections::BTreeMap;

use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use krake_hooks::api::names;

use crate::support::cluster::Provider;
use crate::support::operator::USER;
use crate::support::runner::{Story, skip};
use crate::support::stage::Stage;
use crate::support::thief::refused;

pub fn stories() -> Vec<Story> {
    let mut stories = crate::stories![Together:
        the_operator_may_create_and_update_a_tenants_secret_and_nothing_else,
        the_policy_refuses_the_operator_every_secret_that_is_not_its_own,
        of_nodes_and_of_the_api_server_it_may_know_the_addresses,
    ];
    stories.extend(crate::stories![Last:
        in_all_stories_it_never_read_a_tenants_secret,
        in_all_stories_no_policy_of_ours_was_in_its_way,
    ]);
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
    let tenants: Secret = stage.create(unowned(secret("tenants", json!({})))).await;
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

    let created = operator.create(&dry, &typed(secret("own", ours()))).await;
    created.expect("its own it may create");
    // Its guard is none that is there: the garbage collector would take it away.
    let own: Secret = stage.create(unowned(secret("own", ours()))).await;
    let mut again = typed(secret("own", ours()));
    again.metadata.resource_version = own.resource_version();
    let updated = operator.replace("own", &dry, &again).await;
    updated.expect("its own it may update");
    let untouched = stage.all::<Secret>().get("tenants").await.unwrap();
    assert_eq!(untouched, tenants);
}

/// The audit log knows every request of all the stories before this one.
async fn in_all_stories_it_never_read_a_tenants_secret(stage: Stage) {
    let mut verbs = BTreeMap::<String, usize>::new();
    for entry in requests_of_the_operator(&stage).await {
        let object = &entry["objectRef"];
        let tenants = object["namespace"] != names::OPERATOR_NAMESPACE;
        if tenants && object["resource"] == "secrets" {
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

/// Each step that it takes, of every kind and in every order of events, is one that the policies let
/// pass. Of Secrets and ConfigMaps it finds out by a refusal that a name is somebody else's.
async fn in_all_stories_no_policy_of_ours_was_in_its_way(stage: Stage) {
    let found_out = ["secrets", "configmaps"];
    let refused: Vec<String> = requests_of_the_operator(&stage)
        .await
        .into_iter()
        .filter(|entry| {
            !found_out
                .iter()
                .any(|kind| entry["objectRef"]["resource"] == *kind)
        })
        .filter_map(|entry| {
            let said = entry["responseStatus"]["message"].as_str()?;
            let object = &entry["objectRef"];
            said.contains("'krake-hooks-").then(|| {
                format!(
                    "{} {} {}: {said}",
                    entry["verb"], object["namespace"], object["name"]
                )
            })
        })
        .collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

/// What the operator's pods have asked for. Stories play the operator too, by impersonation, and with
/// tokens that no pod has.
async fn requests_of_the_operator(stage: &Stage) -> Vec<Value> {
    if stage.cluster.provider != Provider::Local {
        skip("only the local cluster keeps an audit log that can be read here");
    }
    let log = stage.cluster.script(&["audit-log"]).await.unwrap();
    let log = std::fs::read_to_string(log).expect("the audit log can be read");
    log.lines()
        .filter(|line| line.contains(USER))
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|entry| {
            let user = &entry["user"];
            user["username"] == USER
                && entry["impersonatedUser"].is_null()
                && !user["extra"]["authentication.kubernetes.io/pod-name"].is_null()
        })
        .collect()
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

fn ours() -> Value {
    json!({
        names::MANAGED_BY_LABEL: names::MANAGED_BY,
        names::OWNER_LABEL: "0f3a9c1e-77aa-4c0f-9b1a-2f6d1e7c8b90",
    })
}

fn secret(name: &str, labels: Value) -> Value {
    let guard = json!({"apiVersion": "hooks.krake.dev/v1alpha1", "kind": "HookGuard",
        "name": "x", "uid": "0f3a9c1e-77aa-4c0f-9b1a-2f6d1e7c8b90"});
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "labels": labels, "ownerReferences": [guard]},
        "stringData": {"password": "hunter2"},
    })
}

fn unowned(mut secret: Value) -> Value {
    secret["metadata"]["ownerReferences"] = json!(null);
    secret
}

fn typed(object: Value) -> Secret {
    serde_json::from_value(object).expect("a Secret")
}
