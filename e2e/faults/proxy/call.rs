//! One call of the operator, as the API server would understand it.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Bytes;
use hyper::http::request::Parts;
use serde_json::Value;

/// A call, understood.
#[derive(Clone, Debug)]
pub struct Call {
    /// get, list, watch, create, update, patch, delete, or the method of what is no resource.
    pub verb: String,
    /// `resource` or `resource/subresource`; `-` of what is none.
    pub resource: String,
    /// Name in the path, or in the body of a create.
    pub name: Option<String>,
    /// Path and query, as they go to the API server.
    pub path: String,
    /// Who says it makes the call.
    pub agent: String,
    /// What is sent.
    pub body: Bytes,
}

/// Words that tell which calls belong to one subject: its name, and the uids it gets on the way.
#[derive(Clone, Debug, Default)]
pub struct Needles(Arc<Mutex<Vec<String>>>);

impl Needles {
    /// Calls in which this word stands.
    pub fn new(word: &str) -> Self {
        let needles = Self::default();
        needles.add(word);
        needles
    }

    /// And in which this one stands.
    pub fn add(&self, word: &str) {
        let mut words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        words.push(word.to_owned());
    }

    fn are_in(&self, text: &str) -> bool {
        let words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        words.iter().any(|word| text.contains(word.as_str()))
    }
}

impl Call {
    /// Reads a request; its path is already the one that is sent on.
    pub fn of(parts: &Parts, body: Bytes) -> Self {
        let path = parts.uri.path();
        let query = parts.uri.query().unwrap_or_default();
        let place = Place::of(path);
        let watched = query
            .split('&')
            .any(|pair| pair == "watch=true" || pair == "watch=1");
        let named = place.as_ref().and_then(|place| place.name.clone());
        let verb = match (parts.method.as_str(), &place, named.is_some()) {
            (method, None, _) => method.to_lowercase(),
            ("GET", _, _) if watched => "watch".to_owned(),
            ("GET", _, true) => "get".to_owned(),
            ("GET", ..) => "list".to_owned(),
            ("POST", ..) => "create".to_owned(),
            ("PUT", ..) => "update".to_owned(),
            (method, ..) => method.to_lowercase(),
        };
        let agent = parts.headers.get(hyper::header::USER_AGENT);
        Self {
            verb,
            name: named.or_else(|| name_in(&body)),
            resource: place
                .as_ref()
                .map_or_else(|| "-".to_owned(), Place::resource),
            path: parts
                .uri
                .path_and_query()
                .map_or_else(|| path.to_owned(), ToString::to_string),
            agent: agent
                .and_then(|a| a.to_str().ok())
                .unwrap_or_default()
                .to_owned(),
            body,
        }
    }

    /// `verb resource/subresource`: what one kind of call is called in plans and reports.
    pub fn kind(&self) -> String {
        format!("{} {}", self.verb, self.resource)
    }

    /// Whether it may change something. A dry run changes nothing.
    pub fn changes(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete")
            && !self.path.contains("dryRun=")
            && self.resource != "-"
    }

    /// Whether it belongs to a subject.
    pub fn concerns(&self, subject: &Needles) -> bool {
        subject.are_in(&self.path) || subject.are_in(&String::from_utf8_lossy(&self.body))
    }

    /// Kind and object, for counting how often the operator asks the same.
    pub fn object(&self) -> String {
        let name = self.name.as_deref().unwrap_or(match self.verb.as_str() {
            "list" | "watch" => self.path.as_str(),
            _ => "",
        });
        format!("{} {name}", self.kind())
    }
}

/// Where a path points.
struct Place {
    resource: String,
    name: Option<String>,
    subresource: Option<String>,
}

impl Place {
    fn of(path: &str) -> Option<Self> {
        let mut rest = after_version(path)?
            .split('/')
            .filter(|part| !part.is_empty());
        let mut first = rest.next()?.to_owned();
        let mut after: Vec<String> = rest.map(str::to_owned).collect();
        // `namespaces/NAME` is an object of its own; with more behind it, it is where others are.
        if first == "namespaces"
            && after.len() > 1
            && after[1] != "status"
            && after[1] != "finalize"
        {
            first.clone_from(&after[1]);
            after.drain(..2);
        }
        let mut after = after.into_iter();
        Some(Self {
            resource: first,
            name: after.next(),
            subresource: after.next(),
        })
    }

    fn resource(&self) -> String {
        match &self.subresource {
            Some(part) => format!("{}/{part}", self.resource),
            None => self.resource.clone(),
        }
    }
}

/// What is behind `/api/v1/` or `/apis/GROUP/VERSION/`.
pub fn after_version(path: &str) -> Option<&str> {
    if let Some(rest) = path.strip_prefix("/api/") {
        return rest.split_once('/').map(|(_, rest)| rest);
    }
    let rest = path.strip_prefix("/apis/")?;
    let (_, rest) = rest.split_once('/')?;
    rest.split_once('/').map(|(_, rest)| rest)
}

fn name_in(body: &Bytes) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let metadata = body.get("metadata")?;
    let name = metadata
        .get("name")
        .or_else(|| metadata.get("generateName"))?;
    name.as_str().map(str::to_owned)
}
