//! Nobody is believed but the hook's own pods, and nobody learns why.

use k8s_openapi::api::apps::v1::Deployment;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use serde_json::json;

use krake_hooks::api::HookKind;
use krake_hooks::api::condition::ConditionType;
use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::names;

use crate::support::app::{Answer, App};
use crate::support::manifests;
use crate::support::runner::Story;
use crate::support::stage::Stage;

pub fn stories() -> Vec<Story> {
    crate::stories![Together:
        a_wrong_token_hook_kind_or_certificate_is_refused_in_the_same_words,
        no_certificate_and_a_foreign_one_get_no_answer_at_all,
        a_bad_request_is_told_what_is_bad,
    ]
}

const OWN: &str = "/etc/krake_cert";

async fn a_wrong_token_hook_kind_or_certificate_is_refused_in_the_same_words(stage: Stage) {
    // The other hook is as good as this one, but for another workload.
    let other = manifests::hook("other", "other", json!({"complete": {}}));
    let _: Deployment = stage.create(manifests::app("other")).await;
    let _: KrakeHook = stage.create(other).await;
    let armed = stage.armed_app(json!({"timeoutSeconds": 60})).await;
    stage.await_condition("other", ConditionType::Ready).await;
    let stranger = stage.app("other").await;

    let url = armed.app.environment("KRAKE_SHUTDOWN_URL").await;
    let token = armed.app.environment("KRAKE_TOKEN").await;
    let wrong_end = format!("{}A", &token[..token.len() - 1]);
    let wrong_end = match wrong_end == token {
        true => format!("{}B", &token[..token.len() - 1]),
        false => wrong_end,
    };
    let unknown = url.replace("/applications/app/", "/applications/nobody/");
    let elsewhere = url.replace(&stage.namespace, "default");
    let completed = url.replace("/shutdown/", "/complete/");
    let others_token = stranger.environment("KRAKE_TOKEN").await;

    let control = armed.app.put(&url, &token, OWN).await;
    control.is_refused(409, "NotAsked");
    let refused = [
        ("nonsense", armed.app.put(&url, "nonsense", OWN).await),
        (
            "one wrong letter",
            armed.app.put(&url, &wrong_end, OWN).await,
        ),
        (
            "another hook's token",
            armed.app.put(&url, &others_token, OWN).await,
        ),
        (
            "an unknown hook",
            armed.app.put(&unknown, &token, OWN).await,
        ),
        (
            "another namespace",
            armed.app.put(&elsewhere, &token, OWN).await,
        ),
        (
            "a kind that is not enabled",
            armed.app.put(&completed, &token, OWN).await,
        ),
        (
            "another hook's certificate",
            stranger.put(&url, &token, OWN).await,
        ),
    ];
    for (what, answer) in &refused {
        assert_eq!(answer.code, 401, "{what}: {answer:?}");
        assert_eq!(answer.body, refused[0].1.body, "{what}");
        let said = answer.body.to_string();
        assert!(
            !said.contains(&token) && !said.contains("KrakeHook"),
            "{said}"
        );
    }
}

async fn no_certificate_and_a_foreign_one_get_no_answer_at_all(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 60})).await;
    let without = r#"curl -X PUT -d "{\"token\":\"$KRAKE_TOKEN\"}" $KRAKE_SHUTDOWN_URL \
        --cacert /etc/krake_cert/ca-bundle.pem"#;
    no_answer(armed.app.curl(without).await);
    // With TLS 1.3 curl may find the connection closed before it reads why; with 1.2 it is told.
    let told = armed.app.curl(&format!("{without} --tls-max 1.2")).await;
    assert!(told.complaint.contains("alert"), "{told:?}");

    let uid = armed.hook.metadata.uid.clone().expect("a uid");
    forge(&armed.app, &names::hook_uri(&stage.namespace, "app", &uid)).await;
    let url = armed.app.environment("KRAKE_SHUTDOWN_URL").await;
    let token = armed.app.environment("KRAKE_TOKEN").await;
    no_answer(armed.app.put(&url, &token, "/tmp/forged").await);

    let control = armed.app.acknowledge(HookKind::Shutdown).await;
    control.is_refused(409, "NotAsked");
}

async fn a_bad_request_is_told_what_is_bad(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 60})).await;
    let files = "--cacert /etc/krake_cert/ca-bundle.pem --cert /etc/krake_cert/cert.pem --key /etc/krake_cert/key.pem";
    let big = "head -c 200000 /dev/zero | tr '\\0' a > /tmp/big";
    armed.app.output(big).await;
    for (code, line) in [
        (400, "curl -X PUT -d 'token' $KRAKE_SHUTDOWN_URL"),
        (400, "curl -X PUT -d '{}' $KRAKE_SHUTDOWN_URL"),
        (400, "curl -X PUT -d '{\"token\":\"\"}' $KRAKE_SHUTDOWN_URL"),
        (400, "curl -X PUT -d '[1]' $KRAKE_SHUTDOWN_URL"),
        (
            404,
            "curl -X PUT -d '{}' ${KRAKE_SHUTDOWN_URL%%/kubernetes/*}/",
        ),
        (405, "curl $KRAKE_SHUTDOWN_URL"),
        (405, "curl -X POST -d '{}' $KRAKE_SHUTDOWN_URL"),
        (
            413,
            "curl -X PUT --data-binary @/tmp/big $KRAKE_SHUTDOWN_URL",
        ),
    ] {
        let answer = armed.app.curl(&format!("{line} {files}")).await;
        assert_eq!(answer.code, code, "{line}: {answer:?}");
    }
}

fn no_answer(answer: Answer) {
    assert_eq!(answer.code, 0, "{answer:?}");
    assert!(!answer.complaint.is_empty(), "{answer:?}");
}

/// A certificate that says all that ours say, and comes from nobody.
async fn forge(app: &App, uri: &str) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "system:krake-hook");
    let uri = uri.try_into().expect("a URI");
    params.subject_alt_names.push(SanType::URI(uri));
    let certificate = params.self_signed(&key).expect("a certificate");
    app.output(&format!(
        "mkdir -p /tmp/forged && cp /etc/krake_cert/ca-bundle.pem /tmp/forged/ &&
         printf '%s' '{}' > /tmp/forged/cert.pem && printf '%s' '{}' > /tmp/forged/key.pem",
        certificate.pem(),
        key.serialize_pem()
    ))
    .await;
}
