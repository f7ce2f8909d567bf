//! The bare client: the operator's writes for a certificate, and nothing else.

use std::path::Path;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request};
use kube::ResourceExt;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use krake_hooks::api::{HookCertificate, names};

use crate::audit;
use crate::connection::{Connection, Target};
use crate::stage::Example;

/// Some connections, and what is written over them.
pub struct Bare {
    target: Target,
    connections: Vec<Connection>,
    secret: Value,
    status: Value,
}

impl Bare {
    /// Opens that many connections to the API server, as the kubeconfig's user.
    pub async fn connect(
        kubeconfig: &Path,
        example: &Example,
        at_once: usize,
    ) -> Result<Self, String> {
        let target = Target::api_server(kubeconfig).await?;
        let mut connections = Vec::new();
        for _ in 0..at_once {
            connections.push(target.connect().await?);
        }
        let secret = serde_json::to_value(&example.secret).map_err(|e| e.to_string())?;
        let status = serde_json::to_value(&example.certificate.status);
        Ok(Self {
            target,
            connections,
            secret,
            status: status.map_err(|e| e.to_string())?,
        })
    }

    /// Makes every certificate ready that comes, until no more do.
    pub async fn write_all(
        self,
        applied: mpsc::UnboundedReceiver<HookCertificate>,
    ) -> Result<(), String> {
        let applied = Arc::new(Mutex::new(applied));
        let (target, secret, status) = (self.target, self.secret, self.status);
        let mut tasks: JoinSet<Result<(), String>> = JoinSet::new();
        for mut connection in self.connections {
            let applied = Arc::clone(&applied);
            let (target, secret, status) = (target.clone(), secret.clone(), status.clone());
            tasks.spawn(async move {
                loop {
                    let next = applied.lock().await.recv().await;
                    let Some(certificate) = next else {
                        return Ok(());
                    };
                    for request in requests(&target, &certificate, &secret, &status) {
                        connection.ask(request).await?;
                    }
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(|e| e.to_string())??;
        }
        Ok(())
    }
}

fn requests(
    target: &Target,
    certificate: &HookCertificate,
    secret: &Value,
    status: &Value,
) -> [Request<Full<Bytes>>; 3] {
    let name = certificate.name_any();
    let namespace = certificate.namespace().unwrap_or_default();
    let uid = certificate.uid().unwrap_or_default();
    let reference = json!({
        "apiVersion": "hooks.krake.dev/v1alpha1", "kind": "HookCertificate",
        "name": name, "uid": uid, "controller": false, "blockOwnerDeletion": false,
    });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": secret["data"],
        "metadata": {
            "namespace": namespace, "name": format!("{name}-tls"),
            "labels": {names::MANAGED_BY_LABEL: names::MANAGED_BY, names::OWNER_LABEL: uid},
            "ownerReferences": [reference],
        },
    });
    let mut status = status.clone();
    status["secret"]["name"] = json!(format!("{name}-tls"));
    let status = json!({
        "apiVersion": "hooks.krake.dev/v1alpha1", "kind": "HookCertificate",
        "metadata": {"name": name, "resourceVersion": certificate.resource_version()},
        "status": status,
    });
    let note = status["status"]["conditions"][0]["message"].clone();
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"namespace": namespace, "name": format!("{name}.{:016x}", rand::random::<u64>())},
        "eventTime": format!("{:.6}", jiff::Timestamp::now()), "type": "Normal",
        "reason": "Issued", "action": "Issue", "note": note,
        "reportingController": "krake-hooks", "reportingInstance": "krake-hooks-bench",
        "regarding": {
            "apiVersion": "hooks.krake.dev/v1alpha1", "kind": "HookCertificate",
            "namespace": namespace, "name": name, "uid": uid,
        },
    });
    let json = "application/json";
    [
        request(
            target,
            Method::POST,
            format!(
                "/api/v1/namespaces/{namespace}/secrets?fieldManager={}",
                names::CONTROLLER_MANAGER
            ),
            json,
            &secret,
        ),
        request(
            target,
            Method::PATCH,
            format!(
                "/apis/{}/v1alpha1/namespaces/{namespace}/hookcertificates/{name}/status?force=true&fieldManager={}",
                names::GROUP,
                names::CERTIFICATE_MANAGER,
            ),
            "application/apply-patch+yaml",
            &status,
        ),
        request(
            target,
            Method::POST,
            format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events"),
            json,
            &event,
        ),
    ]
}

fn request(
    target: &Target,
    method: Method,
    path: String,
    content: &str,
    body: &Value,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, target.authority())
        .header(USER_AGENT, audit::BARE_CLIENT)
        .header(CONTENT_TYPE, content);
    if let Some(token) = &target.token {
        let token = format!("Bearer {}", token.expose_secret());
        request = request.header(AUTHORIZATION, token);
    }
    request
        .body(Full::from(body.to_string()))
        .expect("a request of known parts")
}
