//! An app that acknowledges: it has what a pod of its hook has, and writes down what it was told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use krake_hooks::api::{HookKind, names};

/// An answer takes no longer than this, or there is none.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// One try, and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Said {
    /// Namespace and name of the hook.
    pub hook: (String, String),
    /// What was acknowledged.
    pub kind: HookKind,
    /// Uid of the pod that says so.
    pub pod: String,
    /// When it was sent.
    pub sent: Timestamp,
    /// When the answer was read.
    pub answered: Option<Timestamp>,
    /// Its code; none: there was no answer.
    pub status: Option<u16>,
    /// Its body.
    pub body: Value,
}

/// What all clients were told.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Said>>>);

/// A client with the credentials of one hook.
#[derive(Clone)]
pub struct App {
    hook: (String, String),
    ports: Vec<u16>,
    token: String,
    tls: Arc<ClientConfig>,
    log: Log,
}

/// A connection that is kept.
pub struct Line {
    port: u16,
    sender: SendRequest<Full<Bytes>>,
}

impl Log {
    /// Everything so far.
    pub fn all(&self) -> Vec<Said> {
        let said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.clone()
    }

    fn add(&self, said: Said) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(said);
    }
}

impl Said {
    /// Whether it counts.
    pub fn counts(&self) -> bool {
        self.status == Some(200)
    }
}

impl App {
    /// Reads what the pods of a hook have.
    pub async fn of(
        client: &Client,
        hook: (&str, &str, &str),
        ports: &[u16],
        log: &Log,
    ) -> Result<Self, String> {
        let (namespace, name, uid) = hook;
        let (ours, tls) = (names::of_hook(name, uid), names::tls_secret(name, uid));
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let secret = async |secret: &str, key: &str| {
            let found = secrets.get(secret).await.map_err(|e| e.to_string())?;
            let value = found.data.unwrap_or_default().remove(key);
            let value = value.ok_or_else(|| format!("Secret {secret} has no {key}"))?;
            Ok::<_, String>(value.0)
        };
        let map = maps.get(&ours).await.map_err(|e| e.to_string())?;
        let bundle = map.data.unwrap_or_default().remove(names::CA_BUNDLE);
        let bundle = bundle.ok_or("no bundle")?;
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            let root = root.map_err(|e| e.to_string())?;
            roots.add(root).map_err(|e| e.to_string())?;
        }
        let certificate = secret(&tls, names::CERT).await?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate).collect();
        let key = PrivateKeyDer::from_pem_slice(&secret(&tls, names::KEY).await?);
        let tls = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                chain.map_err(|e| e.to_string())?,
                key.map_err(|e| e.to_string())?,
            )
            .map_err(|e| e.to_string())?;
        let token = secret(&ours, names::TOKEN).await?;
        Ok(Self {
            hook: (namespace.to_owned(), name.to_owned()),
            ports: ports.to_vec(),
            token: String::from_utf8(token).map_err(|e| e.to_string())?,
            tls: Arc::new(tls),
            log: log.clone(),
        })
    }

    /// One try.
    pub async fn tell(&self, kind: HookKind, pod: &str) -> Said {
        self.tell_over(&mut None, 0, kind, pod).await
    }

    /// Tries until it is told something: at most so often again, a second later, then two, then four.
    pub async fn insist(&self, kind: HookKind, pod: &str, retries: usize) -> Said {
        self.insist_over(&mut None, kind, pod, retries).await
    }

    /// The same, over a connection that is kept if it can be. Each try goes to another operator.
    pub async fn insist_over(
        &self,
        line: &mut Option<Line>,
        kind: HookKind,
        pod: &str,
        retries: usize,
    ) -> Said {
        let mut pause = Duration::from_secs(1);
        let mut attempt = 0;
        loop {
            let said = self.tell_over(line, attempt, kind, pod).await;
            let is_told = said.status.is_some_and(|code| code < 500 && code != 429);
            if is_told || attempt == retries {
                return said;
            }
            *line = None;
            attempt += 1;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(4));
        }
    }

    async fn tell_over(
        &self,
        line: &mut Option<Line>,
        attempt: usize,
        kind: HookKind,
        pod: &str,
    ) -> Said {
        let mut said = Said {
            hook: self.hook.clone(),
            kind,
            pod: pod.to_owned(),
            sent: Timestamp::now(),
            answered: None,
            status: None,
            body: Value::Null,
        };
        let answer = tokio::time::timeout(ANSWER_WITHIN, self.ask(line, attempt, kind, pod)).await;
        match answer {
            Ok(Ok((status, body))) => {
                said.answered = Some(Timestamp::now());
                said.status = Some(status);
                said.body = serde_json::from_slice(&body).unwrap_or_default();
            }
            Ok(Err(complaint)) => {
                *line = None;
                said.body = json!(complaint);
            }
            Err(_) => {
                *line = None;
                said.body = json!("no answer in time");
            }
        }
        self.log.add(said.clone());
        said
    }

    async fn ask(
        &self,
        line: &mut Option<Line>,
        attempt: usize,
        kind: HookKind,
        pod: &str,
    ) -> Result<(u16, Bytes), String> {
        if line.as_ref().is_some_and(|line| line.sender.is_closed()) {
            *line = None;
        }
        if line.is_none() {
            *line = Some(self.connect(self.ports[attempt % self.ports.len()]).await?);
        }
        let Some(open) = line else {
            return Err("no connection".to_owned());
        };
        let (namespace, name) = &self.hook;
        let path = format!("{}/{pod}", names::callback_path(namespace, name, kind));
        let request = Request::put(path)
            .header(HOST, format!("127.0.0.1:{}", open.port))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(json!({"token": self.token}).to_string()))
            .map_err(|e| e.to_string())?;
        open.sender.ready().await.map_err(|e| e.to_string())?;
        let answer = open.sender.send_request(request).await;
        let answer = answer.map_err(|e| e.to_string())?;
        let status = answer.status().as_u16();
        let last = answer.headers().get(CONNECTION);
        let is_last = last.is_some_and(|value| value == "close");
        let body = answer
            .into_body()
            .collect()
            .await
            .map_err(|e| e.to_string())?;
        if is_last {
            *line = None;
        }
        Ok((status, body.to_bytes()))
    }

    async fn connect(&self, port: u16) -> Result<Line, String> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await;
        let stream = stream.map_err(|e| e.to_string())?;
        let name = ServerName::try_from("127.0.0.1").map_err(|e| e.to_string())?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|e| e.to_string())?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
        // It ends with its sender; what went wrong, the sender says.
        tokio::spawn(connection);
        Ok(Line { port, sender })
    }
}
