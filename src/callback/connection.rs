//! One connection: its requests, and when it ends.
//!
//! It ends when the client closes it, when it has been idle or open for too long (at once if no
//! request came in time), when it has to give way to another one, when the process stops, and when
//! its client is no longer trusted: then at once, so that a client that keeps its connection opens
//! another one with its current files; a request that is on its way then is not answered. Before
//! the process stops, and for clients of an earlier authority, each answer announces that it is the
//! last one (`Connection: close`, GOAWAY), so that a client that keeps its connection does not run
//! into a closed one.

use std::convert::Infallible;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::pki_types::CertificateDer;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::activity::{Activity, UnderWay};
use super::identity::Peer;
use super::listener::{Crowded, Limits};
use super::places::{Requests, Source};
use super::tls::{Trust, TrustSlot};

/// How often an HTTP/2 peer is asked whether it is still there, and how long it may take.
const PING: std::time::Duration = std::time::Duration::from_secs(20);
const PONG: std::time::Duration = std::time::Duration::from_secs(10);

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// A connection that is about to be driven.
pub struct Connection<S> {
    service: S,
    verified: Option<Arc<Verified>>,
    terms: Terms,
}

/// What applies to a connection.
#[derive(Clone, Debug)]
pub struct Terms {
    /// What its client may use up.
    pub limits: Limits,
    /// When this is cancelled, its next answer is its last.
    pub closing: CancellationToken,
    /// Its source address.
    pub source: Source,
    /// Its activity.
    pub activity: Arc<Activity>,
    /// The requests of all connections.
    pub requests: Requests,
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Determined by its first bytes.
    Unknown,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// A client whose chain was verified in the handshake, and by what.
pub struct Verified {
    chain: Vec<CertificateDer<'static>>,
    peer: Option<Peer>,
    by: ArcSwap<Trust>,
    slot: Arc<TrustSlot>,
}

/// Ends a connection whose client is no longer trusted.
#[derive(Debug, Error)]
#[error("the client's certificate is not trusted any more")]
struct Withdrawn;

impl Verified {
    /// A client with this chain (leaf first).
    pub fn new(chain: Vec<CertificateDer<'static>>, by: Arc<Trust>, slot: Arc<TrustSlot>) -> Self {
        let read = chain.first().map(Peer::from_certificate);
        if let Some(Err(error)) = &read {
            tracing::debug!(%error, "a client certificate of this operator names no hook");
        }
        Self {
            peer: read.and_then(Result::ok),
            chain,
            by: ArcSwap::new(by),
            slot,
        }
    }

    /// Whether the current trust accepts this client, too.
    fn is_still_trusted(&self) -> bool {
        let Some(newest) = self.slot.newest() else {
            return false;
        };
        if Arc::ptr_eq(&newest, &self.by.load()) {
            return true;
        }
        let trusted = newest.lets_in(&self.chain);
        if trusted {
            self.by.store(newest);
        }
        trusted
    }

    /// Whether this client should reconnect with its next certificate: no client may depend on an
    /// old connection by the time an earlier authority is dropped.
    fn is_of_an_earlier_authority(&self) -> bool {
        let newest = self.slot.newest();
        newest.is_some_and(|newest| newest.is_of_another(&self.chain))
    }

    /// Completes when this client is no longer trusted.
    async fn withdrawn(&self) {
        let mut replacements = self.slot.replacements();
        while self.is_still_trusted() {
            if replacements.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

impl<S, B> Connection<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// A connection for a service; without `verified` its requests have no peer.
    pub fn new(service: S, verified: Option<Verified>, terms: Terms) -> Self {
        Self {
            service,
            verified: verified.map(Arc::new),
            terms,
        }
    }

    /// Serves requests until the connection ends.
    pub async fn drive<I>(self, io: I, protocol: Protocol, shutdown: CancellationToken)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self {
            service,
            verified,
            terms:
                Terms {
                    limits,
                    closing,
                    source,
                    activity,
                    requests,
                },
        } = self;
        let opened = Instant::now();
        let watched = activity.clone();
        let client = verified.clone();
        let withdrawn = async {
            match &client {
                Some(client) => client.withdrawn().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(withdrawn);
        let answer = service_fn(move |mut request: Request<Incoming>| {
            let under_way = UnderWay::new(activity.clone());
            let counted = requests.begin(source);
            if counted.is_none() {
                request.extensions_mut().insert(Crowded);
            }
            let mut service = service.clone();
            let verified = verified.clone();
            let closing = closing.clone();
            let version = request.version();
            async move {
                if let Some(verified) = &verified {
                    if !verified.is_still_trusted() {
                        under_way.0.end.notify_one();
                        return Err(Withdrawn);
                    }
                    if let Some(peer) = &verified.peer {
                        request.extensions_mut().insert(peer.clone());
                    }
                }
                let mut answer = match service.call(request).await {
                    Ok(answer) => answer,
                    Err(never) => match never {},
                };
                let earlier = verified.is_some_and(|v| v.is_of_an_earlier_authority());
                if closing.is_cancelled() || earlier {
                    match version {
                        // HTTP/2 has a frame for it, and answers what comes before that is read.
                        Version::HTTP_2 => under_way.0.end.notify_one(),
                        _ => _ = answer.headers_mut().insert(CONNECTION, CLOSE),
                    }
                }
                drop((under_way, counted));
                Ok(answer)
            }
        });
        let builder = builder(protocol, &limits);
        let connection = builder.serve_connection(TokioIo::new(io), answer);
        tokio::pin!(connection);
        let mut ends_by: Option<Instant> = None;
        loop {
            let wake = ends_by.unwrap_or_else(|| watched.next_look(opened, &limits));
            let ending = ends_by.is_some();
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(error, "connection lost");
                    }
                    return;
                }
                () = shutdown.cancelled(), if !ending => {}
                () = watched.end.notified(), if !ending => {}
                () = withdrawn.as_mut(), if !ending => {}
                () = watched.displaced.cancelled() => {
                    tracing::debug!("closing a connection: its place is needed");
                    return;
                }
                () = tokio::time::sleep_until(wake) => {
                    if ending {
                        tracing::debug!("closing a connection that did not end in time");
                        return;
                    }
                    if !watched.is_over(opened, &limits) {
                        continue;
                    }
                    if !watched.has_asked() {
                        return;
                    }
                }
            }
            connection.as_mut().graceful_shutdown();
            ends_by = Some(Instant::now() + limits.drain);
        }
    }
}

fn builder(protocol: Protocol, limits: &Limits) -> Builder<TokioExecutor> {
    let builder = Builder::new(TokioExecutor::new());
    let mut builder = match protocol {
        Protocol::Unknown => builder,
        Protocol::Http1 => builder.http1_only(),
        Protocol::Http2 => builder.http2_only(),
    };
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.head_bytes)
        .max_headers(64);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        // The largest body fits; more would only be kept for nobody.
        .initial_stream_window_size(16 * 1024)
        .initial_connection_window_size(64 * 1024)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(100)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG);
    builder
}
