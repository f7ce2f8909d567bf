//! What is wrong in a spec is refused by the API server, at the right field, in words that help:
//! a table of fields and bad values, tried by dry runs.

use futures::StreamExt;
use serde_json::{Value, json};

use krake_hooks::api::HookCertificate;
use krake_hooks::api::krake_hook::KrakeHook;

use crate::support::manifests;
use crate::support::runner::Story;
use crate::support::stage::Stage;

mod table;

use table::{Attempt, Row};

pub fn stories() -> Vec<Story> {
    crate::stories![Together:
        three_hundred_invalid_specs_are_refused_at_the_right_field,
    ]
}

const AT_ONCE: usize = 16;

async fn three_hundred_invalid_specs_are_refused_at_the_right_field(stage: Stage) {
    // What all of them are made from is good itself, or they would be refused for another reason.
    for good in [table::hook(), table::certificate()] {
        let answer = attempt(&stage, &Attempt::Create(good)).await;
        answer.expect("the base of the table is accepted");
    }
    let _: KrakeHook = stage.create(table::hook()).await;
    let _: HookCertificate = stage
        .create(manifests::certificate("certificate", "hook", json!({})))
        .await;

    let rows = table::rows();
    assert!(rows.len() >= 300, "{} rows", rows.len());
    let wrong = futures::stream::iter(&rows)
        .map(|row| async { complaint(row, attempt(&stage, &row.attempt).await) })
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect::<Vec<String>>()
        .await;
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        rows.len(),
        wrong.join("\n")
    );
}

/// What is wrong with an answer, if anything is.
fn complaint(row: &Row, answer: Result<(), Value>) -> Option<String> {
    let Row { field, message, .. } = row;
    let what = format!("{}: wanted {field}: {message:?}", row.attempt.what());
    let status = match answer {
        Ok(()) => return Some(format!("{what}: was accepted")),
        Err(status) => status,
    };
    let causes = status["details"]["causes"].as_array();
    let fits = |cause: &Value| {
        let text = |key: &str| cause[key].as_str().unwrap_or_default();
        text("field") == field && text("message").contains(message)
    };
    // What no field of the schema has room for is said in the message alone.
    let said = status["message"].as_str().unwrap_or_default();
    let fits = causes.is_some_and(|causes| causes.iter().any(fits))
        || (said.contains(&format!("\"{field}\"")) && said.contains(message));
    (!fits).then(|| format!("{what}: {status}"))
}

/// `Err` is the API server's `Status`.
async fn attempt(stage: &Stage, attempt: &Attempt) -> Result<(), Value> {
    let (method, name, content, object) = match attempt {
        Attempt::Create(object) => ("POST", String::new(), "application/json", object),
        Attempt::Change(object) => {
            let name = format!(
                "/{}",
                object["metadata"]["name"].as_str().unwrap_or_default()
            );
            ("PATCH", name, "application/merge-patch+json", object)
        }
    };
    let plural = match object["kind"].as_str() {
        Some("KrakeHook") => "krakehooks",
        _ => "hookcertificates",
    };
    let request = hyper::Request::builder()
        .method(method)
        .uri(format!(
            "/apis/hooks.krake.dev/v1alpha1/namespaces/{}/{plural}{name}?dryRun=All&fieldValidation=Strict",
            stage.namespace
        ))
        .header("content-type", content)
        .body(object.to_string().into_bytes())
        .expect("a request");
    match stage.client.request::<Value>(request).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(serde_json::to_value(status).expect("a Status")),
        Err(error) => panic!("{}: {error}", attempt.what()),
    }
}
