//! Clients: one for calls, which must end, and one for watches, which must not.

use std::time::Duration;

use kube::{Client, Config};

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
}

/// Connects as `KUBECONFIG` or the pod's ServiceAccount say.
pub async fn connect() -> Result<Clients, kube::Error> {
    let mut config = Config::infer().await.map_err(kube::Error::InferConfig)?;
    // Who tries again is decided where it is known who waits: never silently, down here.
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    let namespace = config.default_namespace.clone();
    let watches = Client::try_from(config.clone())?;
    config.read_timeout = Some(ANSWER_WITHIN);
    config.reset_reader_on_write = true;
    config.write_timeout = Some(ANSWER_WITHIN);
    Ok(Clients {
        calls: Client::try_from(config)?,
        watches,
        namespace,
    })
}
