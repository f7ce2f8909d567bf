//! An API server of what the operator has for itself: its Secrets and its HookAuthority.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, Response, StatusCode};
use kube::Client;
use serde_json::{Value, json};

use super::Fault;

/// Where the operator lives.
pub const NAMESPACE: &str = "krake-system";

/// The server; clones are the same one.
#[derive(Clone, Default)]
pub struct Server(Arc<Mutex<State>>);

/// What it has.
#[derive(Default)]
pub struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    /// What somebody else creates at the moment of the next create.
    pub rival: Option<Value>,
    /// Writes that were carried out, as `METHOD name`.
    pub writes: Vec<String>,
    /// Reasons of Events.
    pub events: Vec<String>,
    /// What goes wrong with the next writes.
    pub faults: VecDeque<Fault>,
    /// The name of a Secret that may not be read.
    pub forbidden: Option<String>,
}

impl Server {
    /// A client of it.
    pub fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let server = server.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.map_err(std::io::Error::other)?;
                let body = serde_json::from_slice(&body.to_bytes()).unwrap_or(Value::Null);
                let path = head.uri.path().to_owned();
                let (code, answer) = server.state().answer(&head.method, &path, body)?;
                let mut response = Response::new(Full::<Bytes>::from(answer.to_string()));
                *response.status_mut() = StatusCode::from_u16(code).expect("a status code");
                Ok::<_, std::io::Error>(response)
            }
        });
        Client::new(service, NAMESPACE)
    }

    /// What it has.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a Secret there, as somebody else would.
    pub fn put(&self, name: &str, entries: &Value) {
        self.put_annotated(name, entries, json!({}));
    }

    /// The same with annotations.
    pub fn put_annotated(&self, name: &str, entries: &Value, annotations: Value) {
        let meta = json!({"name": name, "annotations": annotations});
        let secret = json!({"metadata": meta, "data": entries});
        self.state().keep(&path_of(name), secret);
    }

    /// Takes a Secret away.
    pub fn remove(&self, name: &str) {
        self.state().objects.remove(&path_of(name));
    }

    /// A Secret as it stands.
    pub fn get(&self, name: &str) -> Option<Value> {
        self.state().objects.get(&path_of(name)).cloned()
    }

    /// The HookAuthority as it stands.
    pub fn shown(&self) -> Value {
        let state = self.state();
        let shown = state
            .objects
            .iter()
            .find(|(path, _)| path.contains("hookauthorities"));
        shown.map(|(_, object)| object.clone()).unwrap_or_default()
    }

    /// Annotates the HookAuthority.
    pub fn annotate(&self, annotations: Value) {
        let mut state = self.state();
        let path = state
            .objects
            .keys()
            .find(|path| path.contains("hookauthorities"));
        let path = path.cloned().expect("a HookAuthority");
        let mut object = state.objects[&path].clone();
        object["metadata"]["annotations"] = annotations;
        state.keep(&path, object);
    }
}

impl State {
    fn answer(
        &mut self,
        method: &Method,
        path: &str,
        body: Value,
    ) -> Result<(u16, Value), std::io::Error> {
        if path.contains("/events") {
            self.events
                .push(body["reason"].as_str().unwrap_or_default().to_owned());
            return Ok((201, body));
        }
        if *method == Method::GET {
            let forbidden = self
                .forbidden
                .as_ref()
                .is_some_and(|name| path.ends_with(name.as_str()));
            return Ok(match self.objects.get(path) {
                _ if forbidden => refusal(403, "Forbidden"),
                Some(object) => (200, object.clone()),
                None => refusal(404, "NotFound"),
            });
        }
        let fault = self.faults.pop_front();
        if matches!(fault, Some(Fault::LostRequest)) {
            return Err(std::io::Error::other("connection reset"));
        }
        if let Some(Fault::Code(code)) = fault {
            return Ok(refusal(code, "Mock"));
        }
        let answer = match *method {
            Method::POST => self.create(path, body),
            Method::PUT => self.replace(path, body),
            _ => self.apply(path, &body),
        };
        if matches!(fault, Some(Fault::LostAnswer)) {
            return Err(std::io::Error::other("connection reset"));
        }
        Ok(answer)
    }

    fn create(&mut self, path: &str, object: Value) -> (u16, Value) {
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let path = format!("{path}/{name}");
        if let Some(rival) = self.rival.take() {
            self.keep(&path, rival);
        }
        if self.objects.contains_key(&path) {
            return refusal(409, "AlreadyExists");
        }
        self.writes.push(format!("POST {name}"));
        (201, self.keep(&path, object))
    }

    fn replace(&mut self, path: &str, object: Value) -> (u16, Value) {
        let Some(there) = self.objects.get(path) else {
            return refusal(404, "NotFound");
        };
        if there["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            return refusal(409, "Conflict");
        }
        self.writes.push(format!("PUT {}", name_of(path)));
        (200, self.keep(path, object))
    }

    fn apply(&mut self, path: &str, patch: &Value) -> (u16, Value) {
        let status = path.ends_with("/status");
        let path = path.trim_end_matches("/status");
        let mut object = match self.objects.get(path) {
            Some(there) => there.clone(),
            None if status => return refusal(404, "NotFound"),
            None => json!({"metadata": {"uid": "shown-uid"}}),
        };
        let version = &patch["metadata"]["resourceVersion"];
        if !version.is_null() && *version != object["metadata"]["resourceVersion"] {
            return refusal(409, "Conflict");
        }
        let what = if status { "status of " } else { "" };
        self.writes.push(format!("PATCH {what}{}", name_of(path)));
        if status {
            object["status"] = patch["status"].clone();
        } else {
            super::merge::merge(&mut object, patch);
        }
        (200, self.keep(path, object))
    }

    fn keep(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path.to_owned(), object.clone());
        object
    }
}

fn path_of(secret: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/secrets/{secret}")
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn refusal(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": reason, "message": "no"});
    (code, status)
}
