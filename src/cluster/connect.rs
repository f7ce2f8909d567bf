//! Clients: one for calls, which must end, and one for watches, which must not.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use kube::{Client, Config};
use thiserror::Error;

use super::addresses::address;
use super::pages;

/// How long any one call may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// The two clients of a process.
#[derive(Clone)]
pub struct Clients {
    /// For reads and writes.
    pub calls: Client,
    /// For watches: the watcher has its own idle time-out.
    pub watches: Client,
    /// Namespace of the kubeconfig or of the ServiceAccount.
    pub namespace: String,
    /// Addresses by which the API server is called.
    pub api_servers: BTreeSet<IpAddr>,
}

/// Why there is no cluster to talk to; one line.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Nothing says where it is.
    #[error("no cluster: {}; set KUBECONFIG, or run as a pod with a ServiceAccount", cause(.0))]
    NoCluster(#[source] kube::config::InferConfigError),
    /// The client cannot be made.
    #[error("cannot talk to the API server {server}: {}; is the kubeconfig right?", cause(.source))]
    Client {
        /// URL of the API server.
        server: String,
        /// What is wrong.
        source: kube::Error,
    },
    /// It does not answer, or not us.
    #[error("cannot reach the API server {server}: {}; is KUBECONFIG right?", cause(.source))]
    Unreachable {
        /// URL of the API server.
        server: String,
        /// What went wrong.
        source: kube::Error,
    },
}

/// Connects as `KUBECONFIG` or the pod's ServiceAccount say, and asks the server for its version.
pub async fn connect() -> Result<(Clients, String), ConnectError> {
    let mut config = Config::infer().await.map_err(ConnectError::NoCluster)?;
    // Who tries again is decided where it is known who waits: never silently, down here.
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    let server = config.cluster_url.to_string();
    let client = |config| {
        Client::try_from(config).map_err(|source| ConnectError::Client {
            server: server.clone(),
            source,
        })
    };
    let namespace = config.default_namespace.clone();
    let in_cluster = std::env::var("KUBERNETES_SERVICE_HOST").ok();
    let by_url = config.cluster_url.host().map(ToOwned::to_owned);
    let api_servers = [in_cluster, by_url].into_iter().flatten();
    let api_servers = api_servers.filter_map(|host| address(&host)).collect();
    // Apart, so that caches are not kept waiting by live looks, which are many while caches are not there.
    let watches = pages::in_turn(&client(config.clone())?, &pages::turns());
    config.read_timeout = Some(ANSWER_WITHIN);
    config.reset_reader_on_write = true;
    config.write_timeout = Some(ANSWER_WITHIN);
    let calls = pages::in_turn(&client(config)?, &pages::turns());
    let version = calls.apiserver_version().await;
    let version = version.map_err(|source| ConnectError::Unreachable { server, source })?;
    let clients = Clients {
        calls,
        watches,
        namespace,
        api_servers,
    };
    Ok((clients, version.git_version))
}

/// What is at the bottom of an error: the layers above only say that there is one.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut bottom = error;
    while let Some(below) = bottom.source() {
        bottom = below;
    }
    bottom.to_string()
}
