//! What a look is made from: an API server that is a function, and caches that have heard of nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request, Response, StatusCode};
use kube::runtime::reflector;
use serde_json::Value;

use crate::cluster::addresses::Addresses;
use crate::cluster::observe::Caches;

/// Caches that have heard of nothing.
pub fn caches() -> Caches {
    fn empty<K>() -> reflector::Store<K>
    where
        K: reflector::Lookup + Clone + 'static,
        K::DynamicType: Default + Eq + std::hash::Hash + Clone,
    {
        reflector::store().0
    }
    Caches {
        hooks: empty(),
        config_maps: empty(),
        certificates: empty(),
        replica_sets: empty(),
        pods: empty(),
        guards: empty(),
        addresses: Addresses {
            api_servers: BTreeSet::new(),
            nodes: empty(),
            endpoint_slices: empty(),
            services: empty(),
        },
        namespaces: empty(),
    }
}

/// A client of an API server that answers method, path and query with code and object.
pub fn answered_by(
    answer: impl Fn(&Method, &str) -> (u16, Value) + Send + Sync + 'static,
) -> kube::Client {
    let answer = Arc::new(answer);
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let path = request
            .uri()
            .path_and_query()
            .map_or("", |path| path.as_str());
        let (code, object) = answer(request.method(), path);
        let mut response = Response::new(Full::<Bytes>::from(object.to_string()));
        *response.status_mut() = StatusCode::from_u16(code).expect("a code");
        async move { Ok::<_, std::io::Error>(response) }
    });
    kube::Client::new(service, "default")
}
