//! A proxy between the operator and the API server, driven by a plan: it passes calls on as they
//! are, the operator's token in them, except for those that the plan has something in mind for.

pub mod call;
pub mod journal;
mod narrow;
pub mod plan;
mod upstream;
mod watch;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, broadcast};
use tokio_rustls::TlsAcceptor;

use crate::operator::Killer;
use call::Call;
use journal::Journal;
use plan::{Fault, Moment, Plan};
use upstream::{ApiServer, Upstream};

/// What ends a connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Broken(String);
type Body = UnsyncBoxBody<Bytes, Broken>;

/// After the answer has left, the operator may read it, and not much more.
const AFTER: Duration = Duration::from_millis(4);

/// A running proxy; it ends with this.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    /// What the operator trusts, as PEM.
    pub authority: String,
    /// What is done to which calls.
    pub plan: Arc<Plan>,
    /// What came through.
    pub journal: Arc<Journal>,
    ends: broadcast::Sender<String>,
    task: tokio::task::JoinHandle<()>,
}

/// What each connection knows.
struct Shared {
    server: ApiServer,
    /// The one namespace that the operator sees; none: all of them.
    namespace: Option<String>,
    plan: Arc<Plan>,
    journal: Arc<Journal>,
    killer: Killer,
    /// Kinds of watches that end now.
    ends: broadcast::Sender<String>,
}

/// One connection of the operator.
struct Connection {
    shared: Arc<Shared>,
    upstream: Mutex<Upstream>,
    socket: Arc<Reset>,
}

/// A second handle of a connection's socket, to reset it.
pub(crate) struct Reset(TcpStream);

impl Broken {
    fn by(what: impl std::fmt::Display) -> Self {
        Self(what.to_string())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Starts one on a free port of this machine.
    pub async fn start(
        config: &kube::Config,
        namespace: Option<String>,
        journal: Journal,
        killer: Killer,
    ) -> Result<Self, String> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .map_err(|e| e.to_string())?;
        let address = listener.local_addr().map_err(|e| e.to_string())?;
        let (tls, authority) = identity().map_err(|e| e.to_string())?;
        let (plan, journal) = (Arc::new(Plan::default()), Arc::new(journal));
        let (ends, _) = broadcast::channel(16);
        let shared = Arc::new(Shared {
            ends: ends.clone(),
            server: ApiServer::of(config)?,
            namespace,
            plan: Arc::clone(&plan),
            journal: Arc::clone(&journal),
            killer,
        });
        let task = tokio::spawn(accept(listener, TlsAcceptor::from(tls), shared));
        Ok(Self {
            address,
            authority,
            plan,
            journal,
            ends,
            task,
        })
    }

    /// Ends every open watch of a kind: it is opened again, and may meet a fault.
    pub fn reopen(&self, kind: &str) {
        // Nobody may be watching.
        let _ = self.ends.send(kind.to_owned());
    }
}

/// A certificate for this machine, and the authority that has signed it.
fn identity() -> Result<(Arc<ServerConfig>, String), Broken> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority =
        CertifiedIssuer::self_signed(authority, KeyPair::generate().map_err(Broken::by)?)
            .map_err(Broken::by)?;
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    let key = KeyPair::generate().map_err(Broken::by)?;
    let certificate = leaf.signed_by(&key, &authority).map_err(Broken::by)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .map_err(Broken::by)?;
    Ok((Arc::new(config), authority.pem()))
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    // Connections end with the listener.
    let mut open = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        open.spawn(serve(stream, tls.clone(), Arc::clone(&shared)));
        while open.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let Ok(socket) = Reset::of(&stream) else {
        return;
    };
    let Ok(stream) = tls.accept(stream).await else {
        return;
    };
    let connection = Arc::new(Connection {
        upstream: Mutex::new(Upstream::new(shared.server.clone())),
        shared,
        socket: Arc::new(socket),
    });
    let service = service_fn(move |request| {
        let connection = Arc::clone(&connection);
        let answer: BoxFuture<'static, _> = Box::pin(connection.answer(request));
        answer
    });
    // A connection that was ended on purpose is an error here, and none of ours.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl Reset {
    fn of(stream: &TcpStream) -> std::io::Result<Self> {
        let second = std::net::TcpStream::from(stream.as_fd().try_clone_to_owned()?);
        TcpStream::from_std(second).map(Self)
    }

    /// When the connection is closed, the peer is told by a reset.
    pub(crate) fn arm(&self) {
        let _ = self.0.set_zero_linger();
    }
}

impl Connection {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Broken> {
        let (mut parts, body) = request.into_parts();
        let body = body.collect().await.map_err(Broken::by)?.to_bytes();
        if let Some(namespace) = &self.shared.namespace {
            parts.uri = narrow::narrowed(&parts.uri, namespace)
                .parse()
                .map_err(Broken::by)?;
        }
        let call = Call::of(&parts, body);
        let fault = self.shared.plan.decide(&call);
        let number = self.shared.journal.note(&call, fault);
        let answer = self.carry_out(&parts, &call, fault).await;
        let status = answer.as_ref().ok().map(|answer| answer.status().as_u16());
        self.shared.journal.answered(number, status);
        answer
    }

    async fn carry_out(
        &self,
        parts: &hyper::http::request::Parts,
        call: &Call,
        fault: Option<Fault>,
    ) -> Result<Response<Body>, Broken> {
        let killer = &self.shared.killer;
        match fault {
            Some(Fault::DropBefore) => return Err(Broken::by("dropped before it was sent")),
            Some(Fault::Answer(code)) => return Ok(refusal(code, call)),
            Some(Fault::Hang) => return std::future::pending().await,
            Some(Fault::Kill(Moment::Before)) => {
                killer.kill().await;
                return Err(Broken::by("killed before it was sent"));
            }
            Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
            Some(Fault::Gone) => return Ok(watch::gone()),
            _ => {}
        }
        let mut upstream = self.upstream.lock().await;
        let answer = upstream.send(parts, &call.path, call.body.clone()).await;
        let answer = answer.map_err(Broken::by)?;
        drop(upstream);
        let (head, body) = answer.into_parts();
        if call.verb == "watch" && head.status == StatusCode::OK {
            let own = self
                .shared
                .namespace
                .clone()
                .filter(|_| narrow::has_others(&call.resource, "watch"));
            let watch = watch::Watch {
                kind: call.kind(),
                own,
                fault,
                socket: Arc::clone(&self.socket),
                ends: self.shared.ends.subscribe(),
            };
            let lines = watch.pass(body);
            return Ok(Response::from_parts(head, lines));
        }
        let mut body = body.collect().await.map_err(Broken::by)?.to_bytes();
        match fault {
            Some(Fault::DropAnswer) => return Err(Broken::by("the answer was dropped")),
            Some(Fault::Kill(Moment::Unanswered)) => {
                killer.kill().await;
                return Err(Broken::by("killed before it was answered"));
            }
            Some(Fault::ResetInBody) => return Ok(self.reset(head, body)),
            Some(Fault::Truncate) => body = body.slice(..body.len() / 2),
            _ => {}
        }
        if let Some(namespace) = &self.shared.namespace
            && narrow::has_others(&call.resource, &call.verb)
            && let Some(own) = narrow::own_list(&body, namespace)
        {
            body = own.into();
        }
        let mut head = head;
        head.headers.remove(hyper::header::CONTENT_LENGTH);
        head.headers.remove(hyper::header::TRANSFER_ENCODING);
        if fault == Some(Fault::Kill(Moment::After)) {
            let killer = killer.clone();
            tokio::spawn(async move {
                tokio::time::sleep(AFTER).await;
                killer.kill().await;
            });
        }
        Ok(Response::from_parts(head, whole(body)))
    }

    /// Half of the answer, then a reset.
    fn reset(&self, head: hyper::http::response::Parts, body: Bytes) -> Response<Body> {
        let half = body.slice(..body.len() / 2);
        let socket = Arc::clone(&self.socket);
        let broken = futures::stream::once(async move {
            // The first half is on its way when this is asked for.
            tokio::time::sleep(Duration::from_millis(5)).await;
            socket.arm();
            Err::<Frame<Bytes>, Broken>(Broken::by("reset in the body"))
        });
        let frames = futures::stream::iter([Ok(Frame::data(half))]).chain(broken);
        Response::from_parts(head, StreamBody::new(frames).boxed_unsync())
    }
}

fn whole(body: Bytes) -> Body {
    Full::from(body)
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// An answer that the API server could have given.
fn refusal(code: u16, call: &Call) -> Response<Body> {
    let reason = match (code, call.verb.as_str()) {
        (409, "create") => "AlreadyExists",
        (409, _) => "Conflict",
        (422, _) => "Invalid",
        (429, _) => "TooManyRequests",
        (500, _) => "InternalError",
        (503, _) => "ServiceUnavailable",
        (504, _) => "Timeout",
        _ => "Unknown",
    };
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": format!("{} {}: a fault of the proxy", call.kind(), call.name.as_deref().unwrap_or_default()),
        "reason": reason,
        "code": code,
    });
    let mut response = Response::builder()
        .status(code)
        .header(CONTENT_TYPE, "application/json");
    if matches!(code, 429 | 503) {
        response = response.header(RETRY_AFTER, "1");
    }
    response
        .body(whole(status.to_string().into()))
        .expect("a response of known parts")
}

/// The frames of a body that may end early.
fn frames(body: Incoming) -> impl futures::Stream<Item = Result<Bytes, Broken>> + Send {
    BodyStream::new(body).filter_map(|frame| {
        std::future::ready(match frame {
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(error) => Some(Err(Broken::by(error))),
        })
    })
}
