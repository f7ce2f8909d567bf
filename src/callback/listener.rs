//! The accept loop: connections in, requests to a service, and a bound on everything.
//!
//! Every connection is accepted at once, and needs a place ([`Places`]): first for its handshake,
//! if there is one, and then for its requests. So a client that has not shown a certificate takes
//! no place from those that have. A request must never reach the service without the peer that the
//! handshake of its connection has verified.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use hyper::body::{Body, Incoming};
use hyper::{Request, Response};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::activity::Activity;
use super::connection::{Connection, Protocol, Terms, Verified};
pub use super::places::Share;
use super::places::{Place, Places, Requests, Source};
use super::tls::TrustSlot;
use crate::metrics::{ConnectionLoss, HandshakeFailure, Metrics};

/// How long to wait after an accept that failed for lack of a resource (file descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The least time between two log lines about connections without a place.
const WARNING_PAUSE: Duration = Duration::from_secs(60);

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    limits: Limits,
    closing: CancellationToken,
}

/// What a client may use up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; in mutual TLS those whose handshake is done.
    pub connections: Share,
    /// TLS handshakes at once.
    pub handshakes: Share,
    /// Requests at once.
    pub requests: Share,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For the head of a request; counted from the beginning of the connection, and over HTTP/1.1
    /// from the end of the one before.
    pub head: Duration,
    /// For the body of a request.
    pub body: Duration,
    /// A connection without a request.
    pub idle: Duration,
    /// The lifetime of a connection; it can outlive its client certificate by as much.
    pub age: Duration,
    /// For requests that are under way when a connection is to end.
    pub drain: Duration,
    /// Bytes in the head of a request.
    pub head_bytes: usize,
    /// Requests at once on an HTTP/2 connection.
    pub streams: u32,
}

/// How connections are spoken with.
#[derive(Clone, Debug)]
pub enum Mode {
    /// Plain HTTP.
    Plain,
    /// Mutual TLS.
    Tls(Arc<TrustSlot>),
}

/// Marks a request over the limit: it is refused without being read.
#[derive(Clone, Copy, Debug)]
pub struct Crowded;

/// The address cannot be listened on.
#[derive(Debug, Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// What the system says.
    pub source: io::Error,
}

impl Limits {
    /// This many connections and requests, in all and for each source; half as many handshakes.
    #[must_use]
    pub fn of(self, connections: Share) -> Self {
        let connections = Share {
            per_source: connections.per_source.min(connections.total),
            ..connections
        };
        let half = (connections.total / 2).max(1);
        Self {
            connections,
            requests: connections,
            handshakes: Share {
                total: half,
                per_source: connections.per_source.min(half),
            },
            ..self
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let all = Share {
            total: 1024,
            per_source: 256,
        };
        Self {
            connections: all,
            handshakes: all,
            requests: all,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            body: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            age: Duration::from_secs(600),
            drain: Duration::from_secs(20),
            head_bytes: 8 * 1024,
            streams: 32,
        }
        .of(all)
    }
}

impl Listener {
    /// Binds. Where there is no IPv6, `[::]` means all addresses of IPv4.
    pub async fn bind(address: SocketAddr, limits: Limits) -> Result<Self, BindError> {
        let error = |source| BindError { address, source };
        let socket = match TcpListener::bind(address).await {
            Err(source) if address.is_ipv6() && has_no_ipv6(&source) => {
                if !address.ip().is_unspecified() {
                    return Err(error(source));
                }
                let all = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
                TcpListener::bind(all).await.map_err(error)?
            }
            other => other.map_err(error)?,
        };
        let address = socket.local_addr().map_err(error)?;
        Ok(Self {
            socket,
            address,
            limits,
            closing: CancellationToken::new(),
        })
    }

    /// Once this is cancelled, the next answer on a connection is its last and announces that, so
    /// that the client's next connection goes to another replica. New connections are still
    /// accepted.
    #[must_use]
    pub fn closing_on(mut self, closing: CancellationToken) -> Self {
        self.closing = closing;
        self
    }

    /// The address it listens on.
    #[cfg(test)]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its clients may use up.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Serves until `shutdown`, then lets requests under way finish. Every task it starts has
    /// ended when it returns.
    pub async fn serve<S, B>(
        self,
        mode: Mode,
        service: S,
        metrics: Metrics,
        shutdown: CancellationToken,
    ) where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let limits = self.limits;
        let rooms = Rooms::new(&limits, metrics);
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.socket.accept() => accepted,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, address = %self.address, "could not accept a connection");
                    rooms.shed();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Only costs latency where it fails.
            let _ = stream.set_nodelay(true);
            let (mode, service) = (mode.clone(), service.clone());
            let (rooms, shutdown) = (rooms.clone(), shutdown.clone());
            let terms = Terms {
                limits,
                closing: self.closing.clone(),
                source: Source::from(from.ip()),
                activity: Activity::new(),
                requests: rooms.requests.clone(),
            };
            connections.spawn(async move {
                rooms.metrics.connections().inc();
                converse(stream, mode, service, terms, &rooms, shutdown).await;
                rooms.metrics.connections().dec();
            });
        }
        // New connections are refused from here on, not left to wait.
        drop(self.socket);
        // Each connection ends itself within the drain time; the rest of the second is for tasks
        // that get no turn.
        let all = async { while connections.join_next().await.is_some() {} };
        let deadline = limits.drain + Duration::from_secs(1);
        if tokio::time::timeout(deadline, all).await.is_err() {
            connections.shutdown().await;
        }
    }
}

/// Places of connections, their requests, and counts of those that had no place.
#[derive(Clone)]
struct Rooms {
    handshakes: Places,
    connections: Places,
    requests: Requests,
    metrics: Metrics,
    warnings: Arc<DefaultDirectRateLimiter>,
}

impl Rooms {
    fn new(limits: &Limits, metrics: Metrics) -> Self {
        let once = Quota::with_period(WARNING_PAUSE).expect("a pause that is not zero");
        Self {
            handshakes: Places::new(limits.handshakes),
            connections: Places::new(limits.connections),
            requests: Requests::new(limits.requests),
            metrics,
            warnings: Arc::new(RateLimiter::direct(once)),
        }
    }

    fn take(&self, places: &Places, terms: &Terms) -> Option<Place> {
        let place = places.take(terms.source, &terms.activity);
        if place.is_none() {
            self.lost(ConnectionLoss::NoPlace, terms.source);
        }
        place
    }

    /// Counts a connection that has ended, if it ended because it had to give way.
    fn ended(&self, activity: &Activity, source: Source) {
        if activity.displaced.is_cancelled() {
            self.lost(ConnectionLoss::Displaced, source);
        }
    }

    fn lost(&self, loss: ConnectionLoss, source: Source) {
        self.metrics.connection_lost(loss);
        if self.warnings.check().is_ok() {
            tracing::warn!(%source, ?loss, "refusing connections: all places are taken");
        }
    }

    /// Frees what one connection of each room takes.
    fn shed(&self) {
        self.handshakes.shed();
        self.connections.shed();
    }
}

fn has_no_ipv6(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

/// One connection from its first byte to its last.
async fn converse<S, B>(
    stream: TcpStream,
    mode: Mode,
    service: S,
    terms: Terms,
    rooms: &Rooms,
    shutdown: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (activity, source) = (terms.activity.clone(), terms.source);
    let slot = match mode {
        Mode::Plain => {
            let Some(_place) = rooms.take(&rooms.connections, &terms) else {
                return;
            };
            let connection = Connection::new(service, None, terms);
            connection.drive(stream, Protocol::Unknown, shutdown).await;
            return rooms.ended(&activity, source);
        }
        Mode::Tls(slot) => slot,
    };
    let Some(waiting) = rooms.take(&rooms.handshakes, &terms) else {
        return;
    };
    let handshake = tokio::select! {
        () = shutdown.cancelled() => return,
        () = activity.displaced.cancelled() => return rooms.ended(&activity, source),
        handshake = shake_hands(stream, &slot, terms.limits.handshake) => handshake,
    };
    match handshake {
        Ok((stream, verified)) => {
            let Some(_place) = rooms.take(&rooms.connections, &terms) else {
                return;
            };
            drop(waiting);
            let protocol = match stream.get_ref().1.alpn_protocol() {
                Some(super::tls::HTTP2) => Protocol::Http2,
                _ => Protocol::Http1,
            };
            let connection = Connection::new(service, Some(verified), terms);
            connection.drive(stream, protocol, shutdown).await;
            rooms.ended(&activity, source);
        }
        Err((reason, error)) => {
            tracing::debug!(?reason, error, "TLS handshake failed");
            rooms.metrics.handshake_failed(reason);
        }
    }
}

async fn shake_hands(
    stream: TcpStream,
    slot: &Arc<TrustSlot>,
    within: Duration,
) -> Result<(TlsStream<TcpStream>, Verified), (HandshakeFailure, String)> {
    let trust = slot
        .newest()
        .ok_or((HandshakeFailure::NotReady, String::new()))?;
    let accept = TlsAcceptor::from(trust.config()).accept(stream);
    let stream = tokio::time::timeout(within, accept)
        .await
        .map_err(|elapsed| (HandshakeFailure::Timeout, elapsed.to_string()))?
        .map_err(|error| (why(&error), error.to_string()))?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let verified = Verified::new(chain.to_vec(), trust, slot.clone());
    Ok((stream, verified))
}

fn why(error: &io::Error) -> HandshakeFailure {
    let tls = error
        .get_ref()
        .and_then(|source| source.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_)) => {
            HandshakeFailure::Certificate
        }
        _ => HandshakeFailure::Broken,
    }
}
