//! One keep-alive connection to the endpoint or to the API server: HTTP/1.1 over TLS, and nothing
//! between the caller and it.

use std::path::Path;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where connections go, and as whom.
#[derive(Clone)]
pub struct Target {
    host: String,
    port: u16,
    tls: Arc<ClientConfig>,
    /// For the API server.
    pub token: Option<SecretString>,
}

/// An open connection.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Target {
    /// The API server, as the kubeconfig's user.
    pub async fn api_server(kubeconfig: &Path) -> Result<Self, String> {
        let kubeconfig = Kubeconfig::read_from(kubeconfig).map_err(|e| e.to_string())?;
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(|e| e.to_string())?;
        let mut roots = RootCertStore::empty();
        for root in config.root_cert.into_iter().flatten() {
            roots.add(root.into()).map_err(|e| e.to_string())?;
        }
        let token = config.auth_info.token;
        let token = token.map(|token| SecretString::from(token.expose_secret().to_owned()));
        let (host, port) = place(&config.cluster_url)?;
        let tls = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            host,
            port,
            tls: Arc::new(tls),
            token,
        })
    }

    /// The callback endpoint, with a client certificate, as its files in a pod have them.
    pub fn endpoint(url: &Uri, bundle: &[u8], cert: &[u8], key: &[u8]) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(bundle) {
            let root = root.map_err(|e| e.to_string())?;
            roots.add(root).map_err(|e| e.to_string())?;
        }
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert).collect();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| e.to_string())?;
        let tls = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.map_err(|e| e.to_string())?, key)
            .map_err(|e| e.to_string())?;
        let (host, port) = place(url)?;
        Ok(Self {
            host,
            port,
            tls: Arc::new(tls),
            token: None,
        })
    }

    /// The value of the header `Host`.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Opens a connection.
    pub async fn connect(&self) -> Result<Connection, String> {
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|e| format!("{}: {e}", self.authority()))?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let name = ServerName::try_from(self.host.clone()).map_err(|e| e.to_string())?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(name, stream).await;
        let stream = stream.map_err(|e| format!("{}: {e}", self.authority()))?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
        // It ends with its sender; what went wrong, the sender says.
        tokio::spawn(connection);
        Ok(Connection { sender })
    }
}

impl Connection {
    /// One request and its whole answer.
    pub async fn ask(&mut self, request: Request<Full<Bytes>>) -> Result<(), String> {
        let sent = async {
            self.sender.ready().await?;
            let answer = self.sender.send_request(request).await?;
            let status = answer.status();
            Ok::<_, hyper::Error>((status, answer.into_body().collect().await?.to_bytes()))
        };
        let (status, body) = sent.await.map_err(|e| e.to_string())?;
        if status.is_success() {
            return Ok(());
        }
        Err(format!("{status}: {}", String::from_utf8_lossy(&body)))
    }
}

fn place(url: &Uri) -> Result<(String, u16), String> {
    let host = url.host().ok_or_else(|| format!("{url} has no host"))?;
    let host = host.trim_matches(['[', ']']).to_owned();
    Ok((host, url.port_u16().unwrap_or(443)))
}
