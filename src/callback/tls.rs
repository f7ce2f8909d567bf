//! TLS of the endpoint: its own certificate, and which clients it accepts.
//!
//! Certificate, key and trust are replaced as one, without a restart: new connections use the
//! newest. On connections that are open already the client is verified again by the new trust, at
//! once and at its next request. Sessions are never resumed, because a resumed one is not verified.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use thiserror::Error;
use tokio::sync::watch;

/// HTTP/2, as ALPN names it.
pub const HTTP2: &[u8] = b"h2";
/// HTTP/1.1, as ALPN names it.
pub const HTTP1: &[u8] = b"http/1.1";

/// The certificate of the endpoint and its trusted roots, at one time.
#[derive(Debug)]
pub struct Trust {
    config: Arc<ServerConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
    /// Which intermediate has signed the endpoint's certificate; none if a root has.
    signer: Option<CertificateDer<'static>>,
}

/// The place where the newest [`Trust`] is kept; empty until there is one.
#[derive(Default)]
pub struct TrustSlot(watch::Sender<Option<Arc<Trust>>>);

/// Why TLS cannot be set up.
#[derive(Debug, Error)]
pub enum TrustError {
    /// A certificate that clients are to be verified with is unusable.
    #[error("callback TLS: a certificate to verify clients with: {0}")]
    Root(rustls::Error),
    /// Clients cannot be verified with these certificates.
    #[error("callback TLS: the certificates to verify clients with: {0}")]
    Verifier(#[from] VerifierBuilderError),
    /// Certificate and key of the endpoint do not go together.
    #[error("callback TLS: the endpoint's certificate and key: {0}")]
    Certificate(rustls::Error),
    /// The TLS library cannot do what is asked of it.
    #[error("callback TLS: protocol versions: {0}")]
    Versions(rustls::Error),
}

impl Trust {
    /// The endpoint's chain (leaf first) and key, and the roots that clients are verified with.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        client_roots: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, TrustError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let signer = chain.get(1).cloned();
        let mut roots = RootCertStore::empty();
        for root in client_roots {
            roots.add(root).map_err(TrustError::Root)?;
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(TrustError::Versions)?
            .with_client_cert_verifier(verifier.clone())
            .with_single_cert(chain, key)
            .map_err(TrustError::Certificate)?;
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        // The strongest that both have, in our order.
        config.ignore_client_order = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        // A replayed early request is a replayed acknowledgement.
        config.max_early_data_size = 0;
        let config = Arc::new(config);
        Ok(Self {
            config,
            verifier,
            signer,
        })
    }

    /// For the handshake of a new connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Whether a client with this chain (leaf first) would be accepted now.
    pub fn lets_in(&self, chain: &[CertificateDer<'_>]) -> bool {
        chain.split_first().is_some_and(|(leaf, intermediates)| {
            self.verifier
                .verify_client_cert(leaf, intermediates, UnixTime::now())
                .is_ok()
        })
    }

    /// Whether a client's chain (leaf first) is of another intermediate than the one that signs now.
    pub fn is_of_another(&self, chain: &[CertificateDer<'_>]) -> bool {
        let signers = chain.get(1).zip(self.signer.as_ref());
        signers.is_some_and(|(theirs, ours)| theirs != ours)
    }
}

impl TrustSlot {
    /// An empty slot: every connection is refused until [`replace`](Self::replace).
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// From now on.
    pub fn replace(&self, trust: Trust) {
        self.0.send_replace(Some(Arc::new(trust)));
    }

    /// The newest.
    pub fn newest(&self) -> Option<Arc<Trust>> {
        self.0.borrow().clone()
    }

    /// Hears of each replacement from now on.
    pub fn replacements(&self) -> watch::Receiver<Option<Arc<Trust>>> {
        self.0.subscribe()
    }
}

impl fmt::Debug for TrustSlot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_set = self.0.borrow().is_some();
        formatter.debug_tuple("TrustSlot").field(&is_set).finish()
    }
}
