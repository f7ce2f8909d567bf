//! In what role a call is made: each has a user agent of its own, so that the API server's audit
//! log tells them apart, and the leader's writes pass the fence of its term.
//!
//! The fence is in the client, below everything that writes: no code path can go around it.

use hyper::header::{HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response};
use kube::Client;
use kube::client::Body;

use super::term::{NotLeading, Term};

/// What a process is when it calls the API server.
#[derive(Clone)]
pub enum Role {
    /// Any replica: its start, and what it watches.
    Replica,
    /// Any replica, on behalf of the apps that acknowledge.
    Callback,
    /// A candidate for the lease, or its holder.
    Election,
    /// The holder of the lease, in one term.
    Leader(Term),
    /// A person's `release-all`.
    ReleaseAll,
}

impl Role {
    /// The user agent.
    pub fn user_agent(&self) -> &'static str {
        macro_rules! agent {
            ($($role:literal)?) => {
                concat!("krake-hooks/", env!("CARGO_PKG_VERSION") $(, " (", $role, ")")?)
            };
        }
        match self {
            Self::Replica => agent!(),
            Self::Callback => agent!("callback"),
            Self::Election => agent!("election"),
            Self::Leader(_) => agent!("leader"),
            Self::ReleaseAll => agent!("release-all"),
        }
    }

    /// A client that calls in this role, over the connections of another.
    pub fn client(self, calls: &Client) -> Client {
        let agent = HeaderValue::from_static(self.user_agent());
        let inner = calls.clone();
        let service = tower::service_fn(move |mut request: Request<Body>| {
            // The first one to name itself: clients may be made of clients.
            let headers = request.headers_mut();
            headers.entry(USER_AGENT).or_insert_with(|| agent.clone());
            let (role, inner) = (self.clone(), inner.clone());
            async move { role.send(&inner, request).await }
        });
        Client::new(service, calls.default_namespace())
    }

    async fn send(
        &self,
        inner: &Client,
        request: Request<Body>,
    ) -> Result<Response<Body>, kube::Error> {
        match self {
            Self::Leader(term) if writes(request.method()) => term
                .fence(inner.send(request))
                .await
                .unwrap_or_else(|refused| Err(kube::Error::Service(refused.into()))),
            _ => inner.send(request).await,
        }
    }
}

/// Whether a call failed because its term is over.
pub fn is_not_leading(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Service(source) if source.is::<NotLeading>())
}

fn writes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use crate::testing::clock::Machine;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    type Log = Arc<Mutex<Vec<(Method, String)>>>;

    /// An API server that answers everything with the same ConfigMap.
    fn server() -> (Client, Log) {
        let log = Log::default();
        let kept = log.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let agent = request.headers()[USER_AGENT].to_str().unwrap().to_owned();
            kept.lock().unwrap().push((request.method().clone(), agent));
            let body = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}"#;
            async move { Ok::<_, tower::BoxError>(Response::new(Body::from(body.as_bytes().to_vec()))) }
        });
        (Client::new(service, "default"), log)
    }

    #[tokio::test(start_paused = true)]
    async fn every_write_of_a_leader_passes_the_fence_and_no_read_does() {
        let (calls, log) = server();
        let clocks = Machine::default().clocks();
        let term = Term::begin("me", None, &clocks, clocks.moment() + testing::SOON);
        let api: Api<ConfigMap> =
            Api::default_namespaced(Role::Leader(term.clone()).client(&calls));
        let (create, apply) = (PostParams::default(), PatchParams::apply("me").force());
        let patch = Patch::Apply(serde_json::json!({"data": {}}));
        let delete = DeleteParams::default();
        for goes_on in [true, false] {
            log.lock().unwrap().clear();
            let map = api.get("a").await.unwrap();
            let written = [
                api.create(&create, &map).await.map(|_| ()),
                api.replace("a", &create, &map).await.map(|_| ()),
                api.patch("a", &apply, &patch).await.map(|_| ()),
                api.patch_metadata("a", &apply, &patch).await.map(|_| ()),
                api.delete("a", &delete).await.map(|_| ()),
            ];
            for result in &written {
                match result {
                    Ok(()) => assert!(goes_on),
                    Err(error) => assert!(!goes_on && is_not_leading(error), "{error:?}"),
                }
            }
            let sent: Vec<_> = log.lock().unwrap().clone();
            assert_eq!(sent.len(), if goes_on { 6 } else { 1 }, "{sent:?}");
            assert!(sent.iter().all(|(_, agent)| agent.ends_with(" (leader)")));
            tokio::time::advance(testing::SOON + Duration::from_secs(1)).await;
        }
    }

    #[tokio::test]
    async fn the_outermost_role_names_itself() {
        let (calls, log) = server();
        let replica = Role::Replica.client(&calls);
        let callback = Role::Callback.client(&replica);
        for client in [replica, callback] {
            let api: Api<ConfigMap> = Api::default_namespaced(client);
            api.get("a").await.unwrap();
        }
        let log = log.lock().unwrap();
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(log[0].1, format!("krake-hooks/{version}"));
        assert_eq!(log[1].1, format!("krake-hooks/{version} (callback)"));
    }
}
