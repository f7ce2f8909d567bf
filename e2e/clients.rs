//! The clients that people have: each acknowledges over TLS with the files as they are, with every
//! algorithm of key, and OpenSSL finds nothing wrong in them.

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;

use krake_hooks::api::KeyAlgorithm;
use krake_hooks::api::condition::ConditionType;
use krake_hooks::api::krake_hook::KrakeHook;

use crate::support::app::App;
use crate::support::runner::Story;
use crate::support::stage::{Stage, status};
use crate::support::{manifests, seed};

pub fn stories() -> Vec<Story> {
    crate::stories![Together:
        openssl_gnutls_python_go_and_java_acknowledge_with_every_kind_of_key,
    ]
}

/// Each prints status and body of the answer, as the examples of docs/clients do.
const CLIENTS: [(&str, &str); 6] = [
    ("curl, OpenSSL", CURL),
    ("curl, OpenSSL, one file", CURL_BUNDLE),
    ("curl, GnuTLS", "python3 /opt/krake/acknowledge_curl.py"),
    ("Python", PYTHON),
    ("Go", "acknowledge-go"),
    (
        "Java",
        "java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC /opt/krake/Acknowledge.java",
    ),
];

const CURL: &str = r#"curl -sS -w '\n%{http_code}' -X PUT -d "{\"token\":\"$KRAKE_TOKEN\"}" $KRAKE_COMPLETE_URL \
    --cacert $KRAKE_CERT/ca-bundle.pem --cert $KRAKE_CERT/cert.pem --key $KRAKE_CERT/key.pem"#;

const CURL_BUNDLE: &str = r#"curl -sS -w '\n%{http_code}' -X PUT -d "{\"token\":\"$KRAKE_TOKEN\"}" $KRAKE_COMPLETE_URL \
    --cacert $KRAKE_CERT/ca-bundle.pem --cert $KRAKE_CERT/bundle.pem"#;

/// The manual's lines do not look at the answer.
const PYTHON: &str = r##"python3 -c '
import os, requests
requests.Response.__del__ = lambda answer: print(answer.status_code, answer.text)
'"$MANUAL""##;

async fn openssl_gnutls_python_go_and_java_acknowledge_with_every_kind_of_key(stage: Stage) {
    let script = stage.cluster.script(&["load-clients"]).await;
    script.unwrap_or_else(|complaint| panic!("the image of the clients: {complaint}"));
    let _: Deployment = stage.create(manifests::app("app")).await;
    let _: KrakeHook = stage
        .create(manifests::hook(
            "app",
            "app",
            json!({"complete": {"action": "None"}}),
        ))
        .await;
    for algorithm in KeyAlgorithm::ALL {
        let wish = json!({"privateKey": {"algorithm": algorithm}});
        stage.own_certificate(&name(algorithm), "app", wish).await;
    }
    let hook = stage.await_condition("app", ConditionType::Ready).await;
    let clients = stage
        .bystander_of(&hook, "unused", manifests::CLIENTS_IMAGE)
        .await;

    let gnutls = clients
        .output("python3 -c 'import pycurl; print(pycurl.version)'")
        .await;
    assert!(gnutls.contains("GnuTLS"), "{gnutls}");
    let openssl = clients.output("curl --version").await;
    assert!(openssl.contains("OpenSSL"), "{openssl}");

    let endpoint = clients.environment("KRAKE_COMPLETE_ENDPOINT").await;
    // Each speaks for a pod of its own, so that each is written and none is a repetition.
    let count = KeyAlgorithm::ALL.len() * CLIENTS.len();
    let mut pods = stage.pods_that_never_run("app", count).await.into_iter();
    let mut expected = Vec::new();
    for algorithm in KeyAlgorithm::ALL {
        let name = name(algorithm);
        stage.carry(&clients, &format!("{name}-tls"), &name).await;
        verified_strictly(&clients, &format!("/tmp/{name}")).await;
        for (client, line) in CLIENTS {
            let pod = pods.next().expect("one for each");
            let manual = seed::PYTHON_TLS.replace("/etc/krake_cert", &format!("/tmp/{name}"));
            let ran = clients
                .run(&format!(
                    "export HOME=/tmp KRAKE_CERT=/tmp/{name} KRAKE_COMPLETE_URL={endpoint}/{pod}\n\
                     MANUAL='{manual}'\n{line}"
                ))
                .await;
            let told = format!("{client} with {algorithm}: {ran:?}");
            assert_eq!(ran.status, 0, "{told}");
            assert!(ran.out.contains("200"), "{told}");
            assert!(ran.out.contains(r#""acknowledged":true"#), "{told}");
            assert!(ran.out.contains(r#""replayed":false"#), "{told}");
            expected.push(format!("complete.{pod}"));
        }
    }
    expected.sort();
    let hook = stage.hook("app").await.expect("the hook is the receipt");
    let kept: Vec<&String> = status(&hook).acknowledgements.keys().collect();
    assert_eq!(kept, expected.iter().collect::<Vec<_>>());
}

/// With every strictness that OpenSSL has, as a client's; and not as a server's.
async fn verified_strictly(clients: &App, directory: &str) {
    let verify = |purpose| {
        format!(
            "openssl verify -x509_strict -purpose {purpose} \
             -CAfile {directory}/ca-bundle.pem {directory}/cert.pem"
        )
    };
    clients.output(&verify("sslclient")).await;
    let ran = clients.run(&verify("sslserver")).await;
    assert_ne!(ran.status, 0, "as a server: {ran:?}");
    let pair = format!(
        "openssl x509 -in {directory}/cert.pem -noout -pubkey > /tmp/of-certificate &&
         openssl pkey -in {directory}/key.pem -pubout | cmp - /tmp/of-certificate &&
         openssl pkey -in {directory}/bundle.pem -pubout | cmp - /tmp/of-certificate"
    );
    clients.output(&pair).await;
}

fn name(algorithm: KeyAlgorithm) -> String {
    algorithm.to_string().to_lowercase()
}
