//! For tests alone: builders, an in-memory cluster, a mock API server, and clients at real sockets.

mod answers;
pub mod build;
pub mod clock;
mod collector;
mod makers;
pub mod merge;
pub mod operator_secrets;
mod server;
pub mod world;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::{reflector, watcher};
use serde_json::{Value, json};
use tokio::sync::watch;

pub use answers::{answered_by, caches};

use crate::api::status::{RequestState, ShutdownRequest};
use crate::api::{KrakeHook, names};
use crate::callback::PodCaches;

/// Uid of [`hook`].
pub const HOOK_UID: &str = "11111111-aaaa-4aaa-8aaa-000000000001";
/// Uid of its workload.
pub const WORKLOAD_UID: &str = "22222222-bbbb-4bbb-8bbb-000000000002";
/// How long a test waits for what must happen.
pub const SOON: Duration = Duration::from_secs(20);

/// A hook with both kinds enabled, as the API server would have it, that nobody has asked yet.
pub fn hook(namespace: &str, name: &str) -> KrakeHook {
    serde_json::from_value(json!({
        "apiVersion": "hooks.krake.dev/v1alpha1", "kind": "KrakeHook",
        "metadata": {"namespace": namespace, "name": name, "uid": HOOK_UID, "resourceVersion": "1",
            "finalizers": [names::HOOK_FINALIZER]},
        "spec": {
            "workload": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "complete": {}, "shutdown": {},
        },
        "status": {"workload": {"uid": WORKLOAD_UID}},
    }))
    .expect("a hook")
}

/// A request to the workload of [`hook`].
pub fn request(id: &str, state: RequestState) -> ShutdownRequest {
    let mut request: ShutdownRequest = serde_json::from_value(json!({
        "id": id, "scope": "Workload", "state": state, "trigger": "Delete", "workloadUID": WORKLOAD_UID,
        "openedAt": Time(Timestamp::UNIX_EPOCH), "leader": "me", "round": 1,
        "terms": {"timeoutSeconds": 30, "retries": 0, "onTimeout": "Delete",
            "acknowledgements": {"policy": "Any"}, "calls": true},
    }))
    .expect("a request");
    request.state = state;
    request
}

/// Metadata of a pod that something controls.
pub fn owned(uid: &str, kind: &str, owner: &str) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {
        "namespace": "ml", "name": uid, "uid": uid, "labels": {names::HOOK_LABEL: "trainer"},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": kind, "name": "owner", "uid": owner,
            "controller": true}]}})
}

/// Caches that know these pods for own ones of the workload of [`hook`].
pub fn pod_caches<'a>(own: impl IntoIterator<Item = &'a str>) -> PodCaches {
    let (pods, mut writer) = reflector::store();
    for uid in own {
        let mut pod = owned(uid, "Deployment", WORKLOAD_UID);
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        let pod = serde_json::from_value(pod).expect("a pod");
        writer.apply_watcher_event(&watcher::Event::Apply(pod));
    }
    PodCaches {
        pods,
        replica_sets: reflector::store().0,
        guards: reflector::store().0,
    }
}

/// Waits until something is so.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let all = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    let result = tokio::time::timeout(SOON, all).await;
    assert!(result.is_ok(), "{what}: still not so");
}

/// An API server of hooks alone: GET, and JSON PATCH with its tests. Clones share it.
#[derive(Clone)]
pub struct MockApi {
    state: Arc<Mutex<State>>,
    gate: Arc<watch::Sender<bool>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    log: Vec<Call>,
    faults: VecDeque<Fault>,
    afterwards: Option<Change>,
}

type Change = Box<dyn FnOnce(&mut KrakeHook) + Send>;

/// A request that the mock has got.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// `GET` or `PATCH`.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The body.
    pub body: Value,
    /// What was answered; `None` until then.
    pub code: Option<u16>,
}

/// What goes wrong with the next write.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// It is written, and the answer gets lost.
    LostAnswer,
    /// It gets lost on its way.
    LostRequest,
    /// The server answers with this code and does nothing.
    Code(u16),
}

impl MockApi {
    /// A server that has these hooks.
    pub fn new(hooks: impl IntoIterator<Item = KrakeHook>) -> Self {
        let api = Self {
            state: Arc::default(),
            gate: Arc::new(watch::Sender::new(true)),
        };
        for hook in hooks {
            api.put(&hook);
        }
        api
    }

    /// A client of it.
    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move { api.answer(request).await }
        });
        kube::Client::new(service, "default")
    }

    /// Puts a hook as somebody else would, with a new resourceVersion.
    pub fn put(&self, hook: &KrakeHook) {
        let mut state = self.state();
        let value = serde_json::to_value(hook).expect("a hook is valid JSON");
        state.keep(path_of(hook), value);
    }

    /// Changes a hook as somebody else would.
    pub fn change(&self, namespace: &str, name: &str, change: impl FnOnce(&mut KrakeHook)) {
        let mut hook = self.get(namespace, name);
        change(&mut hook);
        self.put(&hook);
    }

    /// The certificates that a namespace has, as far as their metadata tells.
    pub fn put_certificates(&self, namespace: &str, certificates: &[Value]) {
        let path =
            format!("/apis/hooks.krake.dev/v1alpha1/namespaces/{namespace}/hookcertificates");
        let list = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
            "metadata": {}, "items": certificates});
        self.state().keep(path, list);
    }

    /// What a live look finds in the namespace `ml` besides hooks: a Deployment, which is the workload of
    /// [`hook`], and metadata of ReplicaSets and pods.
    pub fn put_pods(&self, deployment: Value, replica_sets: &[Value], pods: &[Value]) {
        let list = |items| {
            json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
                "metadata": {}, "items": items})
        };
        let mut state = self.state();
        let apps = "/apis/apps/v1/namespaces/ml";
        state.keep(format!("{apps}/deployments/trainer"), deployment);
        state.keep(format!("{apps}/replicasets"), list(replica_sets));
        state.keep("/api/v1/namespaces/ml/pods".into(), list(pods));
    }

    /// A hook as it stands.
    pub fn get(&self, namespace: &str, name: &str) -> KrakeHook {
        let path = path_of(&hook(namespace, name));
        let object = self.state().objects[&path].clone();
        serde_json::from_value(object).expect("a hook")
    }

    /// From now on writes wait before they are done, until [`open`](Self::open).
    pub fn close(&self) {
        self.gate.send_replace(false);
    }

    /// Lets writes go on.
    pub fn open(&self) {
        self.gate.send_replace(true);
    }

    /// The next write goes wrong; several go wrong one after the other.
    pub fn fail(&self, fault: Fault) {
        self.state().faults.push_back(fault);
    }

    /// Right after the next write has been done, and before anybody can see its answer, somebody
    /// else changes the hook.
    pub fn afterwards(&self, change: impl FnOnce(&mut KrakeHook) + Send + 'static) {
        self.state().afterwards = Some(Box::new(change));
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.state().log.clone()
    }

    /// How many calls of a method there were so far.
    pub fn count(&self, method: Method) -> usize {
        let state = self.state();
        state
            .log
            .iter()
            .filter(|call| call.method == method)
            .count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(
        &self,
        request: Request<kube::client::Body>,
    ) -> Result<Response<Full<Bytes>>, std::io::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(std::io::Error::other)?;
        let body = serde_json::from_slice(&body.to_bytes()).unwrap_or(Value::Null);
        let number = {
            let mut state = self.state();
            state.log.push(Call {
                method: head.method.clone(),
                path: head.uri.to_string(),
                body: body.clone(),
                code: None,
            });
            state.log.len() - 1
        };
        let is_write = head.method != Method::GET;
        if is_write {
            let mut gate = self.gate.subscribe();
            gate.wait_for(|open| *open)
                .await
                .map_err(std::io::Error::other)?;
        }
        let mut state = self.state();
        let fault = if is_write {
            state.faults.pop_front()
        } else {
            None
        };
        let path = head.uri.path();
        let (code, answer) = match fault {
            Some(Fault::LostRequest) => return Err(std::io::Error::other("connection reset")),
            Some(Fault::Code(code)) => (code, Value::Null),
            _ if is_write => state.patch(path.trim_end_matches("/status"), body),
            _ => state.read(path),
        };
        if matches!(fault, Some(Fault::LostAnswer)) {
            return Err(std::io::Error::other("connection reset"));
        }
        state.log[number].code = Some(code);
        let reason = if code == 404 { "NotFound" } else { "Mock" };
        let answer = if code == 200 {
            answer
        } else {
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                "message": "the mock says no", "reason": reason})
        };
        let mut response = Response::new(Full::from(answer.to_string()));
        *response.status_mut() = StatusCode::from_u16(code).expect("a status code");
        Ok(response)
    }
}

impl State {
    fn read(&self, path: &str) -> (u16, Value) {
        match self.objects.get(path) {
            Some(object) => (200, object.clone()),
            None => (404, Value::Null),
        }
    }

    fn patch(&mut self, path: &str, patch: Value) -> (u16, Value) {
        let Some(object) = self.objects.get(path) else {
            return (404, Value::Null);
        };
        let mut object = object.clone();
        let patch: json_patch::Patch = match serde_json::from_value(patch) {
            Ok(patch) => patch,
            Err(_) => return (400, Value::Null),
        };
        if json_patch::patch(&mut object, &patch).is_err() {
            return (422, Value::Null);
        }
        self.keep(path.to_owned(), object);
        let answer = self.objects[path].clone();
        if let Some(change) = self.afterwards.take() {
            let mut hook: KrakeHook = serde_json::from_value(answer.clone()).expect("a hook");
            change(&mut hook);
            let value = serde_json::to_value(hook).expect("a hook is valid JSON");
            self.keep(path.to_owned(), value);
        }
        (200, answer)
    }

    fn keep(&mut self, path: String, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path, object);
    }
}

fn path_of(hook: &KrakeHook) -> String {
    format!(
        "/apis/hooks.krake.dev/v1alpha1/namespaces/{}/krakehooks/{}",
        hook.metadata.namespace.as_deref().unwrap_or_default(),
        hook.metadata.name.as_deref().unwrap_or_default()
    )
}

/// One request over a plain connection of its own; status and body of the answer.
pub async fn plain(address: SocketAddr, method: Method, path: &str, body: &str) -> (u16, String) {
    let stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("the listener accepts");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .expect("HTTP/1.1");
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .body(Full::<Bytes>::from(body.to_owned()))
        .expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    read(response).await.expect("a whole answer")
}

/// Status and body of an answer.
pub async fn read(
    response: Response<hyper::body::Incoming>,
) -> Result<(u16, String), hyper::Error> {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
