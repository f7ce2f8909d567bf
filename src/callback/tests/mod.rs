//! The endpoint at real sockets, with real certificates, before a mock API server.

mod closing;
mod commit;
mod crew;
mod limits;
mod memory;
mod requests;
mod trust;
mod user_certificates;

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::{SignedDuration, Timestamp};
use kube::runtime::{reflector, watcher};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use secrecy::ExposeSecret;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::{Endpoint, Limits, Listener, Mode, Parts, Refused, Trust, TrustSlot, tls};
use crate::api::status::RequestState;
use crate::api::{HookCertificate, KrakeHook, names};
use crate::metrics::Metrics;
use crate::pki::{
    Authority, AuthorityNames, AuthoritySerials, AuthorityValidity, ClientLeaf, Issued,
    KeyAlgorithm, Ring, ServerLeaf,
};
use crate::testing::{self, MockApi};

const SHUTDOWN: &str = "/kubernetes/namespaces/ml/applications/trainer/shutdown";
const COMPLETE: &str = "/kubernetes/namespaces/ml/applications/trainer/complete";
const UNAUTHORIZED: &str = r#"{"acknowledged":false,"reason":"Unauthorized"}"#;

/// An endpoint that serves, and all that is around it.
struct Served {
    address: SocketAddr,
    api: MockApi,
    cache: reflector::store::Writer<KrakeHook>,
    certificates: reflector::store::Writer<HookCertificate>,
    ring: Arc<ArcSwap<Ring>>,
    events: mpsc::Receiver<Refused>,
    metrics: Metrics,
    slot: Arc<TrustSlot>,
    authority: Authority,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl Served {
    async fn plain() -> Self {
        Self::start(false, Limits::default(), "").await
    }

    async fn tls() -> Self {
        Self::start(true, Limits::default(), "").await
    }

    /// Before a server and with a cache that have one hook, `ml/trainer`, with an open request.
    async fn start(tls: bool, limits: Limits, endpoint: &str) -> Self {
        let mut hook = testing::hook("ml", "trainer");
        hook.status
            .as_mut()
            .unwrap()
            .set_workload_request(Some(testing::request("r1", RequestState::Open)));
        let api = MockApi::new([hook]);
        let (hooks, cache) = reflector::store();
        let (own, certificates) = reflector::store();
        let (sender, events) = mpsc::channel(8);
        let ring = Arc::new(ArcSwap::from_pointee(Ring::generate([7; 32])));
        let metrics = Metrics::new();
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), limits)
            .await
            .unwrap();
        let address = listener.address();
        let authority = authority(1);
        let slot = TrustSlot::new();
        slot.replace(trust(&authority, authority.root().clone()));
        let mode = match tls {
            true => Mode::Tls(slot.clone()),
            false => Mode::Plain,
        };
        let shutdown = CancellationToken::new();
        let endpoint = Endpoint::new(Parts {
            hooks,
            certificates: own,
            pods: testing::pod_caches(["pod-1"]),
            client: api.client(),
            ring: ring.clone(),
            endpoint: endpoint.into(),
            events: sender,
            metrics: metrics.clone(),
        });
        let serving = tokio::spawn(endpoint.serve(listener, mode, shutdown.clone()));
        let mut served = Self {
            address,
            api,
            cache,
            certificates,
            ring,
            events,
            metrics,
            slot,
            authority,
            shutdown,
            serving,
        };
        served.watch();
        served
    }

    /// The cache sees what the server has.
    fn watch(&mut self) {
        let hook = self.api.get("ml", "trainer");
        self.cache.apply_watcher_event(&watcher::Event::Apply(hook));
    }

    fn token(&self) -> String {
        let ring = self.ring.load();
        let token = ring.token(testing::HOOK_UID, testing::WORKLOAD_UID);
        token.expose_secret().to_owned()
    }

    fn body(&self) -> String {
        format!(r#"{{"token":"{}"}}"#, self.token())
    }

    async fn put(&self, path: &str, body: &str) -> (u16, String) {
        testing::plain(self.address, Method::PUT, path, body).await
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.serving.await.unwrap();
    }
}

/// An authority that has been there for two days.
fn authority(number: u8) -> Authority {
    let serials = AuthoritySerials {
        root: [number; 16],
        intermediate: [number + 100; 16],
    };
    let then = Timestamp::now() - SignedDuration::from_hours(48);
    let validity = AuthorityValidity::default();
    Authority::generate(&AuthorityNames::default(), then, validity, serials).unwrap()
}

fn trust(authority: &Authority, client_root: CertificateDer<'static>) -> Trust {
    let (chain, key) = endpoint(authority);
    Trust::new(chain, key, [client_root]).unwrap()
}

fn endpoint(authority: &Authority) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let leaf = ServerLeaf {
        names: vec!["localhost".into()],
        duration: std::time::Duration::from_secs(3600),
    };
    let issued = authority
        .issue_server(&leaf, Timestamp::now(), [9; 16])
        .unwrap();
    der(&issued)
}

fn client_certificate(authority: &Authority, name: &str, uid: &str, at: Timestamp) -> Issued {
    issue_for(authority, vec![names::hook_uri("ml", name, uid)], at)
}

fn issue_for(authority: &Authority, uris: Vec<String>, at: Timestamp) -> Issued {
    let leaf = ClientLeaf {
        user: "system:krake-hook".into(),
        uris,
        duration: std::time::Duration::from_secs(3600),
        algorithm: KeyAlgorithm::EcdsaP256,
    };
    authority.issue_client(&leaf, at, [5; 16]).unwrap()
}

fn der(issued: &Issued) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes())
        .collect::<Result<_, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.expose_secret().as_bytes()).unwrap();
    (chain, key)
}

/// A TLS client that trusts an authority and speaks one protocol.
fn client(
    authority: &Authority,
    certificate: Option<&Issued>,
    protocol: &[u8],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(authority.root().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match certificate {
        Some(issued) => {
            let (chain, key) = der(issued);
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsConnector::from(Arc::new(config))
}

async fn connect(
    address: SocketAddr,
    client: &TlsConnector,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    client.connect(name, stream).await
}

/// A connection that requests are sent over.
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    async fn over(stream: TlsStream<TcpStream>) -> hyper::Result<Self> {
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2);
        let io = TokioIo::new(stream);
        if is_http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            return Ok(Self::Http2(sender));
        }
        let (sender, connection) = http1::handshake(io).await?;
        tokio::spawn(connection);
        Ok(Self::Http1(sender))
    }

    async fn put(&mut self, path: &str, body: &str) -> hyper::Result<(u16, String)> {
        let uri = match self {
            Self::Http1(_) => path.to_owned(),
            Self::Http2(_) => format!("https://localhost{path}"),
        };
        let request = Request::put(uri)
            .header("host", "localhost")
            .body(Full::<Bytes>::from(body.to_owned()))
            .unwrap();
        let response: Response<Incoming> = match self {
            Self::Http1(sender) => sender.send_request(request).await?,
            Self::Http2(sender) => sender.send_request(request).await?,
        };
        testing::read(response).await
    }
}
