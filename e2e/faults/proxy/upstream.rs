//! The way to the real API server: one connection for each of the operator's.

use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where the API server is, and how it is known.
#[derive(Clone)]
pub struct ApiServer {
    host: String,
    port: u16,
    tls: Arc<ClientConfig>,
}

/// One connection to it, opened when it is needed.
pub struct Upstream {
    server: ApiServer,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl ApiServer {
    /// The API server of a client's configuration. Who calls is in what is passed on.
    pub fn of(config: &kube::Config) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for root in config.root_cert.iter().flatten() {
            roots.add(root.clone().into()).map_err(|e| e.to_string())?;
        }
        let host = config.cluster_url.host().unwrap_or_default();
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: config.cluster_url.port_u16().unwrap_or(443),
            tls: Arc::new(
                ClientConfig::builder()
                    .with_root_certificates(roots)
                    .with_no_client_auth(),
            ),
        })
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let name = ServerName::try_from(self.host.clone()).map_err(|e| e.to_string())?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|e| e.to_string())?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
        // It ends with its sender; what went wrong, the sender says.
        tokio::spawn(connection);
        Ok(sender)
    }
}

impl Upstream {
    /// No connection yet.
    pub fn new(server: ApiServer) -> Self {
        Self {
            server,
            sender: None,
        }
    }

    /// Passes a request on.
    pub async fn send(
        &mut self,
        parts: &Parts,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, String> {
        // One that the API server has closed meanwhile is no use; what was sent is never sent again.
        let usable = match &mut self.sender {
            Some(sender) => !sender.is_closed() && sender.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            self.sender = Some(self.server.connect().await?);
        }
        let Some(sender) = &mut self.sender else {
            return Err("no connection".to_owned());
        };
        let mut request = Request::builder().method(parts.method.clone()).uri(path);
        for (name, value) in &parts.headers {
            if name != HOST {
                request = request.header(name, value);
            }
        }
        let host = format!("{}:{}", self.server.host, self.server.port);
        let host = HeaderValue::from_str(&host).map_err(|e| e.to_string())?;
        let request = request.header(HOST, host).body(Full::from(body));
        let request = request.map_err(|e| e.to_string())?;
        sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string())
    }
}
