//! Health and metrics over plain HTTP: `/livez`, `/readyz`, `/metrics`.
//!
//! Nothing here tells a secret or a name that a user chose. Anybody who reaches the port may ask, so
//! what one source can take is little: a probe comes from the node's address, and has its place beside
//! whatever comes from pods.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use tokio_util::sync::CancellationToken;
use warp::Filter;
use warp::filters::BoxedFilter;

use crate::callback::{Limits, Listener, Mode, Share};
use crate::metrics::Metrics;

/// The parts of the program that have to be ready before it is; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<Vec<Part>>>);

/// One part; it starts not ready.
#[derive(Clone, Debug)]
pub struct Part {
    name: &'static str,
    ready: Arc<AtomicBool>,
    because: Arc<Mutex<Option<&'static str>>>,
}

impl Readiness {
    /// Adds a part.
    pub fn part(&self, name: &'static str) -> Part {
        let part = Part {
            name,
            ready: Arc::default(),
            because: Arc::default(),
        };
        self.parts().push(part.clone());
        part
    }

    /// Names of the parts that are not ready, with the reason where one is known.
    pub fn missing(&self) -> Vec<String> {
        self.parts()
            .iter()
            .filter(|part| !part.ready.load(Ordering::Acquire))
            .map(|part| match *part.reason() {
                Some(reason) => format!("{} ({reason})", part.name),
                None => part.name.to_owned(),
            })
            .collect()
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, Vec<Part>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    /// Says whether the part is ready.
    pub fn set(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Says why the part is not ready, or nothing more about it.
    pub fn because(&self, reason: Option<&'static str>) {
        *self.reason() = reason;
    }

    fn reason(&self) -> std::sync::MutexGuard<'_, Option<&'static str>> {
        self.because.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a client may use up: a probe or a scrape is one short request.
pub fn limits() -> Limits {
    Limits {
        head: Duration::from_secs(5),
        idle: Duration::from_secs(15),
        age: Duration::from_secs(120),
        streams: 4,
        ..Limits::default()
    }
    .of(Share {
        total: 128,
        per_source: 32,
    })
}

/// Serves until `shutdown`.
pub async fn serve(
    listener: Listener,
    readiness: Readiness,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    let service = warp::service(filter(readiness, metrics.clone()));
    // A gauge of its own: the callback's counts the callback's connections alone.
    let own = Metrics::new();
    listener.serve(Mode::Plain, service, own, shutdown).await;
}

fn filter(readiness: Readiness, metrics: Metrics) -> BoxedFilter<(Response<String>,)> {
    warp::method()
        .and(warp::path::full())
        .map(move |method: Method, path: warp::path::FullPath| {
            answer(&method, path.as_str(), &readiness, &metrics)
        })
        .boxed()
}

fn answer(
    method: &Method,
    path: &str,
    readiness: &Readiness,
    metrics: &Metrics,
) -> Response<String> {
    const PLAIN: &str = "text/plain; charset=utf-8";
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let (status, content_type, body) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/livez") => (StatusCode::OK, PLAIN, "ok\n".to_owned()),
        (&Method::GET | &Method::HEAD, "/readyz") => {
            let missing = readiness.missing();
            if missing.is_empty() {
                (StatusCode::OK, PLAIN, "ok\n".to_owned())
            } else {
                let body = format!("not ready: {}\n", missing.join(", "));
                (StatusCode::SERVICE_UNAVAILABLE, PLAIN, body)
            }
        }
        (&Method::GET | &Method::HEAD, "/metrics") => {
            (StatusCode::OK, OPEN_METRICS, metrics.text())
        }
        (_, "/livez" | "/readyz" | "/metrics") => {
            let body = "only GET and HEAD\n".to_owned();
            (StatusCode::METHOD_NOT_ALLOWED, PLAIN, body)
        }
        _ => {
            let body = "/livez, /readyz or /metrics\n".to_owned();
            (StatusCode::NOT_FOUND, PLAIN, body)
        }
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpSocket, TcpStream};

    #[tokio::test]
    async fn health_and_metrics_at_a_real_socket() {
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), limits())
            .await
            .unwrap();
        let address = listener.address();
        let (readiness, shutdown) = (Readiness::default(), CancellationToken::new());
        let (cache, port) = (readiness.part("hook cache"), readiness.part("callback"));
        let serving = tokio::spawn(serve(listener, readiness, Metrics::new(), shutdown.clone()));
        let get = |path| testing::plain(address, Method::GET, path, "");
        assert_eq!(get("/livez").await.0, 200);
        assert_eq!(
            get("/readyz").await,
            (503, "not ready: hook cache, callback\n".into())
        );
        cache.set(true);
        assert_eq!(get("/readyz").await, (503, "not ready: callback\n".into()));
        port.set(true);
        assert_eq!(get("/readyz").await, (200, "ok\n".into()));
        cache.set(false);
        cache.because(Some("AuthorityExpired"));
        assert_eq!(
            get("/readyz").await,
            (503, "not ready: hook cache (AuthorityExpired)\n".into())
        );
        assert!(get("/metrics").await.1.ends_with("# EOF\n"));
        assert_eq!(get("/").await.0, 404);
        let put = testing::plain(address, Method::PUT, "/livez", "").await;
        assert_eq!(put.0, 405);
        shutdown.cancel();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn a_flood_from_a_pod_keeps_no_probe_of_the_node_out() {
        let all = limits().of(Share {
            total: 8,
            per_source: 4,
        });
        let loopback = ([127, 0, 0, 1], 0).into();
        let listener = Listener::bind(loopback, all).await.unwrap();
        let address = listener.address();
        let shutdown = CancellationToken::new();
        let serving = serve(
            listener,
            Readiness::default(),
            Metrics::new(),
            shutdown.clone(),
        );
        let serving = tokio::spawn(serving);
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        for _ in 0..10 {
            let node = TcpSocket::new_v4().unwrap();
            node.bind(([127, 0, 0, 2], 0).into()).unwrap();
            let mut probe = node.connect(address).await.unwrap();
            let request = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            probe.write_all(request).await.unwrap();
            let mut answer = String::new();
            let read = probe.read_to_string(&mut answer);
            let read = tokio::time::timeout(testing::SOON, read).await;
            assert!(read.is_ok_and(|read| read.is_ok()), "no answer");
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        shutdown.cancel();
        serving.await.unwrap();
    }
}
