//! Lists, in pages that fit into memory whatever is in them.
//!
//! An object has at most 1.5 MB, the API server's own limit, so a page of [`PAGE`] has 30 MB at
//! most. Where objects are small, the pages that follow are larger, or a cluster of ten thousand
//! ReplicaSets would be a thousand requests before a new leader can begin; one that has more than
//! [`MOST`] all the same is not read to its end, but asked for again as a small one. Pages are read one
//! at a time for all caches, and one at a time for all live looks: however many watches begin anew at
//! once, no more than two such pages are on their way, and two being read.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::Bytes;
use hyper::http::response::Parts;
use hyper::{Method, Request, Response, Uri};
use kube::Client;
use kube::api::{Api, ListParams};
use kube::client::Body;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

/// Objects of the first page of a list of whole objects, and of every page where they are large.
pub const PAGE: u32 = 20;
/// Objects of one page at most.
const LARGEST: u32 = 500;
/// Bytes of one page at most: what [`PAGE`] objects can have.
const MOST: usize = 32 << 20;
/// The next page may have twice as many objects, if this one had fewer bytes.
const SMALL: usize = 2 << 20;
/// How many lists are remembered.
const LISTS: usize = 64;
/// A page that takes longer gives up its turn.
const PAGE_WITHIN: Duration = Duration::from_secs(30);

/// Whose turn it is, and how many objects the next page of each list has.
#[derive(Debug)]
pub struct Turns {
    one: Semaphore,
    sizes: Mutex<HashMap<String, u32>>,
}

/// A client whose pages wait for their turn; those of all clients made with it share the turns.
pub fn in_turn(client: &Client, turns: &Arc<Turns>) -> Client {
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

/// Turns of their own.
pub fn turns() -> Arc<Turns> {
    Arc::new(Turns {
        one: Semaphore::new(1),
        sizes: Mutex::default(),
    })
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
    turns: &Turns,
    request: Request<Body>,
) -> Result<Response<Body>, kube::Error> {
    let _turn = turns.one.acquire().await;
    let (head, _) = request.into_parts();
    let (list, asked) = list_of(&head.uri);
    // The first page is as large as whoever lists expects it to be.
    let mut size = asked.unwrap_or_else(|| turns.size(&list));
    loop {
        let mut head = head.clone();
        head.uri = limited(&head.uri, size);
        let page = read(inner, Request::from_parts(head, Body::empty()));
        match tokio::time::timeout(PAGE_WITHIN, page).await {
            Ok(Ok((head, page))) => {
                turns.next(list, size, page.len());
                return Ok(Response::from_parts(head, Body::from(page)));
            }
            Ok(Err(Unread::NotSent(error))) => return Err(error),
            // Too large, or too slow for its size: else a list would fail at the same place for ever.
            Ok(Err(Unread::Body(_))) | Err(_) if size > PAGE => size = PAGE,
            Ok(Err(Unread::Body(error))) => return Err(kube::Error::Service(error)),
            Err(late) => return Err(kube::Error::Service(late.into())),
        }
    }
}

/// Why there is no page.
enum Unread {
    /// There was no answer.
    NotSent(kube::Error),
    /// It had more than [`MOST`], or its end did not come.
    Body(Box<dyn std::error::Error + Send + Sync>),
}

async fn read(inner: &Client, request: Request<Body>) -> Result<(Parts, Bytes), Unread> {
    let answer = inner.send(request).await.map_err(Unread::NotSent)?;
    let (head, body) = answer.into_parts();
    let page = Limited::new(body, MOST).collect().await;
    Ok((head, page.map_err(Unread::Body)?.to_bytes()))
}

impl Turns {
    fn size(&self, list: &str) -> u32 {
        let sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        sizes.get(list).copied().unwrap_or(PAGE)
    }

    /// After a page of so many objects and bytes.
    fn next(&self, list: String, size: u32, bytes: usize) {
        let next = if bytes < SMALL { size * 2 } else { PAGE };
        let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        if sizes.len() >= LISTS && !sizes.contains_key(&list) {
            sizes.clear();
        }
        sizes.insert(list, next.min(LARGEST));
    }
}

/// What tells a list from others, and how many objects are asked for, if this is its first page.
fn list_of(uri: &Uri) -> (String, Option<u32>) {
    let pairs = || uri.query().unwrap_or_default().split('&');
    let is_page = |pair: &&str| !pair.starts_with("limit=") && !pair.starts_with("continue=");
    let rest: Vec<&str> = pairs().filter(is_page).collect();
    let goes_on = pairs().any(|pair| pair.starts_with("continue="));
    let asked = pairs().find_map(|pair| pair.strip_prefix("limit=")?.parse().ok());
    let list = format!("{}?{}", uri.path(), rest.join("&"));
    (list, asked.filter(|_| !goes_on))
}

/// The same page, of so many objects.
fn limited(uri: &Uri, size: u32) -> Uri {
    let pairs = uri.query().unwrap_or_default().split('&');
    let pairs: Vec<String> = pairs
        .map(|pair| match pair.starts_with("limit=") {
            true => format!("limit={size}"),
            false => pair.to_owned(),
        })
        .collect();
    let mut parts = uri.clone().into_parts();
    let path = format!("{}?{}", uri.path(), pairs.join("&"));
    // It differs from what was one in a number.
    parts.path_and_query = path.parse().ok().or(parts.path_and_query);
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
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

    /// A server of ConfigMaps that counts how many lists are open at once, and which were asked for.
    #[derive(Clone, Default)]
    struct Server {
        /// How many bytes each of them has beside its name, from the first to the last.
        sizes: Arc<Vec<usize>>,
        open: Arc<AtomicUsize>,
        most: Arc<AtomicUsize>,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl Server {
        fn of(sizes: Vec<usize>) -> Self {
            Self {
                sizes: Arc::new(sizes),
                ..Self::default()
            }
        }

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
                    let page = server.page(&query).to_string().into_bytes();
                    server.asked.lock().unwrap().push(query);
                    Ok::<_, std::io::Error>(Response::new(Body::from(page)))
                }
            });
            Client::new(service, "ml")
        }

        fn page(&self, query: &str) -> Value {
            let number = |of: &str| -> Option<usize> {
                let pair = query.split('&').find_map(|pair| pair.strip_prefix(of));
                pair.and_then(|number| number.parse().ok())
            };
            let all = self.sizes.len();
            let first = number("continue=").unwrap_or(0);
            let end = (first + number("limit=").unwrap_or(all)).min(all);
            let items: Vec<_> = (first..end)
                .map(|i| {
                    let annotations = json!({"large": "x".repeat(self.sizes[i])});
                    json!({"metadata": {"name": format!("m{i}"), "namespace": "ml",
                        "annotations": annotations}})
                })
                .collect();
            let more = if end < all {
                end.to_string()
            } else {
                String::new()
            };
            json!({"apiVersion": "v1", "kind": "List", "items": items,
                "metadata": {"resourceVersion": "1", "continue": more}})
        }

        /// First object and number of objects of each page that was asked for.
        fn asked(&self) -> Vec<(usize, usize)> {
            let asked = self.asked.lock().unwrap();
            let number = |query: &str, of: &str| -> usize {
                let pair = query.split('&').find_map(|pair| pair.strip_prefix(of));
                pair.and_then(|number| number.parse().ok()).unwrap_or(0)
            };
            let page = |query: &String| (number(query, "continue="), number(query, "limit="));
            asked.iter().map(page).collect()
        }
    }

    #[tokio::test]
    async fn lists_are_read_in_pages_and_one_at_a_time() {
        let server = Server::of(vec![0; 50]);
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
        let asked = server.asked();
        let first = |(at, size): &&(usize, usize)| *at == 0 && *size == 20;
        assert_eq!(asked.iter().filter(first).count(), 5, "{asked:?}");
    }

    #[tokio::test]
    async fn pages_grow_with_small_objects_and_large_ones_are_asked_for_in_small_pages() {
        // Small ones, and among them 100 that no larger page has room for.
        let mut sizes = vec![0; 2000];
        sizes[700..800].fill(1 << 20);
        let server = Server::of(sizes);
        let client = in_turn(&server.client(), &turns());
        let api = Api::<Metadata<ConfigMap>>::default_namespaced(client);
        let found = all(&api, ListParams::default()).await.unwrap();
        assert_eq!(found.len(), 2000);
        assert_eq!(
            server.asked(),
            [
                (0, 20),
                (20, 40),
                (60, 80),
                (140, 160),
                (300, 320),
                // Too large, and again.
                (620, 500),
                (620, 20),
                (640, 40),
                (680, 80),
                (680, 20),
                (700, 40),
                (700, 20),
                (720, 20),
                (740, 20),
                (760, 20),
                (780, 20),
                (800, 20),
                (820, 40),
                (860, 80),
                (940, 160),
                (1100, 320),
                (1420, 500),
                (1920, 500),
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_page_that_does_not_come_is_asked_for_as_a_small_one() {
        let server = Server::of(vec![0; 200]);
        let quick = server.client();
        let slow = tower::service_fn(move |request: Request<Body>| {
            let quick = quick.clone();
            async move {
                let query = request.uri().query().unwrap_or_default();
                if query.contains("limit=40") {
                    std::future::pending::<()>().await;
                }
                quick.send(request).await
            }
        });
        let client = in_turn(&Client::new(slow, "ml"), &turns());
        let api = Api::<Metadata<ConfigMap>>::default_namespaced(client);
        let found = all(&api, ListParams::default()).await.unwrap();
        assert_eq!(found.len(), 200);
        let sizes: Vec<usize> = server.asked().iter().map(|(_, size)| *size).collect();
        assert_eq!(sizes, [20; 10]);
    }

    #[tokio::test]
    async fn what_is_no_page_waits_for_nobody() {
        let server = Server::of(vec![0; 50]);
        let turns = turns();
        let api: Api<Metadata<ConfigMap>> =
            Api::default_namespaced(in_turn(&server.client(), &turns));
        let _taken = turns.one.acquire().await;
        let got = tokio::time::timeout(crate::testing::SOON, api.get("m1")).await;
        assert!(got.is_ok());
    }
}
