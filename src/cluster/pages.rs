//! Lists, in pages that fit into memory whatever is in them.
//!
//! An object has at most 1.5 MB, the API server's own limit, so a page of [`PAGE`] has 30 MB at
//! most. Pages are read one at a time in the whole process, for caches and for live looks alike:
//! however many watches begin anew at once, no more than one such page is on its way, and one being
//! read.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::{Method, Request, Response};
use kube::Client;
use kube::api::{Api, ListParams};
use kube::client::Body;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

/// Objects of one page.
pub const PAGE: u32 = 20;
/// Whoever has waited so long for a page lets the next one have its turn.
const PAGE_WITHIN: Duration = Duration::from_secs(30);

/// A client whose pages wait for their turn; those of all clients made with it share the turns.
pub fn in_turn(client: &Client, turns: &Arc<Semaphore>) -> Client {
    let (inner, turns) = (client.clone(), Arc::clone(turns));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (inner, turns) = (inner.clone(), Arc::clone(&turns));
        async move {
            if is_page(&request) {
                whole(&inner, &turns, request).await
            } else {
                inner.send(request).await
            }
        }
    });
    Client::new(service, client.default_namespace())
}

/// The turns of a process.
pub fn turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(1))
}

/// Everything that a list has, page by page.
pub async fn all<K>(api: &Api<K>, params: ListParams) -> Result<Vec<K>, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    map(api, params, |found| found).await
}

/// What is to be kept of everything that a list has: no more than a page of the rest is there at a
/// time.
pub async fn map<K, T>(
    api: &Api<K>,
    params: ListParams,
    keep: impl Fn(K) -> T,
) -> Result<Vec<T>, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut params = params.limit(PAGE);
    let mut found = Vec::new();
    loop {
        let page = api.list(&params).await?;
        found.extend(page.items.into_iter().map(&keep));
        match page.metadata.continue_.filter(|more| !more.is_empty()) {
            Some(more) => params = params.continue_token(&more),
            None => return Ok(found),
        }
    }
}

fn is_page(request: &Request<Body>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    request.method() == Method::GET && query.split('&').any(|pair| pair.starts_with("limit="))
}

/// Holds the turn until the whole page is here.
async fn whole(
    inner: &Client,
    turns: &Semaphore,
    request: Request<Body>,
) -> Result<Response<Body>, kube::Error> {
    let _turn = turns.acquire().await;
    let read = async {
        let (head, body) = inner.send(request).await?.into_parts();
        let page = body.collect().await?.to_bytes();
        Ok(Response::from_parts(head, Body::from(page)))
    };
    tokio::time::timeout(PAGE_WITHIN, read)
        .await
        .unwrap_or_else(|late| Err(kube::Error::Service(late.into())))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::StreamExt;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::runtime::watcher::{Event, watcher};
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::slim::Metadata;

    /// A server of 50 ConfigMaps that counts how many lists are open at once, and which were asked for.
    #[derive(Clone, Default)]
    struct Server {
        open: Arc<AtomicUsize>,
        most: Arc<AtomicUsize>,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl Server {
        fn client(&self) -> Client {
            let server = self.clone();
            let service = tower::service_fn(move |request: Request<Body>| {
                let server = server.clone();
                async move {
                    let open = server.open.fetch_add(1, Ordering::SeqCst) + 1;
                    server.most.fetch_max(open, Ordering::SeqCst);
                    // Others get their chance to come in between.
                    for _ in 0..100 {
                        tokio::task::yield_now().await;
                    }
                    server.open.fetch_sub(1, Ordering::SeqCst);
                    let query = request.uri().query().unwrap_or_default().to_owned();
                    let page = page(&query).to_string().into_bytes();
                    server.asked.lock().unwrap().push(query);
                    Ok::<_, std::io::Error>(Response::new(Body::from(page)))
                }
            });
            Client::new(service, "ml")
        }
    }

    fn page(query: &str) -> Value {
        let number = |of: &str| -> Option<usize> {
            let pair = query.split('&').find_map(|pair| pair.strip_prefix(of));
            pair.and_then(|number| number.parse().ok())
        };
        let first = number("continue=").unwrap_or(0);
        let end = (first + number("limit=").unwrap_or(50)).min(50);
        let items: Vec<_> = (first..end)
            .map(|i| json!({"metadata": {"name": format!("m{i}"), "namespace": "ml"}}))
            .collect();
        let more = if end < 50 {
            end.to_string()
        } else {
            String::new()
        };
        json!({"apiVersion": "v1", "kind": "List", "items": items,
            "metadata": {"resourceVersion": "1", "continue": more}})
    }

    #[tokio::test]
    async fn lists_are_read_in_small_pages_and_one_at_a_time() {
        let server = Server::default();
        let turns = turns();
        let clients = [0, 1].map(|_| in_turn(&server.client(), &turns));
        let api = |i: usize| Api::<Metadata<ConfigMap>>::default_namespaced(clients[i].clone());
        let looks = (0..4).map(|i| {
            let api = api(i % 2);
            async move { all(&api, ListParams::default()).await.unwrap().len() }
        });
        let listed = watcher(api(0), crate::controllers::everything())
            .map(Result::unwrap)
            .take_while(|event| std::future::ready(!matches!(event, Event::InitDone)))
            .count();
        let (looks, listed) = futures::join!(futures::future::join_all(looks), listed);
        assert_eq!((looks, listed), (vec![50; 4], 51));
        assert_eq!(server.most.load(Ordering::SeqCst), 1);
        let asked = server.asked.lock().unwrap();
        let limit = format!("limit={PAGE}");
        assert!(
            asked.iter().all(|query| query.contains(&limit)),
            "{asked:?}"
        );
        assert_eq!(asked.len(), 5 * 3);
    }

    #[tokio::test]
    async fn what_is_no_page_waits_for_nobody() {
        let server = Server::default();
        let turns = turns();
        let api: Api<Metadata<ConfigMap>> =
            Api::default_namespaced(in_turn(&server.client(), &turns));
        let _taken = turns.acquire().await;
        let got = tokio::time::timeout(crate::testing::SOON, api.get("m1")).await;
        assert!(got.is_ok());
    }
}
