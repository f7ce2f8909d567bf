//! The accept loop: connections in, requests to a service, and a bound on everything.
//!
//! It needs a file descriptor for each of its [`Limits::connections`]; with those of the API
//! client and the admin port a limit of 8,192 open files is enough. Beyond it, connections wait in
//! the kernel's queue. It must never give a request to the service without the peer that the
//! handshake of its connection has verified.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::{Request, Response};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::connection::{Connection, Protocol, Terms, Verified};
use super::tls::TrustSlot;
use crate::metrics::{HandshakeFailure, Metrics};

/// How long to wait after an accept that failed for want of something (file descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    /// Connections at once.
    pub connections: usize,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For the head of a request; over HTTP/1.1 counted from the end of the one before.
    pub head: Duration,
    /// For the body of a request.
    pub body: Duration,
    /// A connection without a request.
    pub idle: Duration,
    /// A connection's life; so long may one outlive its client certificate.
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

/// The address cannot be listened on.
#[derive(Debug, Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// What the system says.
    pub source: io::Error,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            body: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            age: Duration::from_secs(600),
            drain: Duration::from_secs(20),
            head_bytes: 16 * 1024,
            streams: 128,
        }
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

    /// From the moment on that this is cancelled, the next answer on a connection is its last, and
    /// says so: the client's next connection goes elsewhere. New ones are still accepted.
    #[must_use]
    pub fn closing_on(mut self, closing: CancellationToken) -> Self {
        self.closing = closing;
        self
    }

    /// The address it listens on.
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
        let places = Arc::new(Semaphore::new(limits.connections));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let next = tokio::select! {
                () = shutdown.cancelled() => break,
                next = self.accept(&places) => next,
            };
            let Some((stream, place)) = next else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let (mode, service) = (mode.clone(), service.clone());
            let (metrics, shutdown) = (metrics.clone(), shutdown.clone());
            let terms = Terms {
                limits,
                closing: self.closing.clone(),
            };
            connections.spawn(async move {
                metrics.connections().inc();
                converse(stream, mode, service, terms, &metrics, shutdown).await;
                metrics.connections().dec();
                drop(place);
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

    async fn accept(
        &self,
        places: &Arc<Semaphore>,
    ) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
        let place = places.clone().acquire_owned().await.ok()?;
        match self.socket.accept().await {
            Ok((stream, _)) => {
                // Only costs latency where it fails.
                let _ = stream.set_nodelay(true);
                Some((stream, place))
            }
            Err(error) => {
                tracing::warn!(%error, address = %self.address, "no connection could be accepted");
                None
            }
        }
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
    metrics: &Metrics,
    shutdown: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let slot = match mode {
        Mode::Plain => {
            let connection = Connection::new(service, None, terms);
            return connection.drive(stream, Protocol::Unknown, shutdown).await;
        }
        Mode::Tls(slot) => slot,
    };
    let handshake = tokio::select! {
        () = shutdown.cancelled() => return,
        handshake = shake_hands(stream, &slot, terms.limits.handshake) => handshake,
    };
    match handshake {
        Ok((stream, verified)) => {
            let protocol = match stream.get_ref().1.alpn_protocol() {
                Some(super::tls::HTTP2) => Protocol::Http2,
                _ => Protocol::Http1,
            };
            let connection = Connection::new(service, Some(verified), terms);
            connection.drive(stream, protocol, shutdown).await;
        }
        Err((reason, error)) => {
            tracing::debug!(?reason, error, "a TLS handshake failed");
            metrics.handshake_failed(reason);
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
