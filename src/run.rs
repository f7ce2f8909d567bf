//! The operator: everything it runs, in one `JoinSet`; the first task to end ends the process.
//!
//! Before the first task starts, whatever cannot be mended by waiting has been tried: the API
//! server answers, both ports are bound, master keys and CA are there.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt;
use kube::api::{Api, ListParams};
use kube::runtime::events::{Recorder, Reporter};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::{UnboundedReceiverStream, WatchStream};
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Part, Readiness};
use crate::api::{HookGuard, names};
use crate::callback::{BindError, Endpoint, Limits, Listener, Mode, Parts, TrustSlot};
use crate::callout;
use crate::cluster::apply::Writer;
use crate::cluster::authority::{self, BootError};
use crate::cluster::certificates::CertificateWriter;
use crate::cluster::connect::{self, Clients, ConnectError};
use crate::cluster::fence::Fence;
use crate::cluster::secrets::SecretError;
use crate::config::Config;
use crate::controllers::backoff::Backoff;
use crate::controllers::synced::Waiter;
use crate::controllers::{caches, certificate, endpoint, guard, hook, refused};
use crate::decide::Settings;
use crate::metrics::Metrics;
use crate::pki::{Authority, Ring};

/// How long tasks have to end after SIGTERM; below the grace period of the Deployment.
const DRAIN: Duration = Duration::from_secs(25);

/// Why the operator does not run (any more); one line.
#[derive(Debug, Error)]
pub enum RunError {
    /// There is no cluster to talk to.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The CustomResourceDefinitions are not there, or may not be read.
    #[error(
        "cannot read {kind}: {source}; are the CustomResourceDefinitions and the ClusterRole of config/default installed?"
    )]
    Install {
        /// Which.
        kind: &'static str,
        /// What the API server said.
        source: kube::Error,
    },
    /// A port is taken, or not ours to take.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Master keys or CA.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Secrets.
    #[error(transparent)]
    Secrets(#[from] SecretError),
    /// Signals cannot be listened for.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] std::io::Error),
    /// A task ended that never should.
    #[error("the task {0} ended; the operator restarts")]
    Ended(&'static str),
    /// A task panicked.
    #[error("a task panicked: {0}")]
    Panicked(#[source] tokio::task::JoinError),
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(config: Config) -> Result<(), RunError> {
    let stop = CancellationToken::new();
    let signals = signals(stop.clone())?;
    let (clients, version) = connect::connect().await?;
    let namespace = operator_namespace(&clients);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        kubernetes = version,
        namespace,
        endpoint = config.endpoint(&namespace),
        tls = config.callback.tls.enabled,
        "krake-hooks starts"
    );
    let callback = Listener::bind(config.callback.listen, Limits::default()).await?;
    let admin = Listener::bind(config.admin.listen, Limits::default()).await?;
    let operator = Operator::boot(config, namespace, clients).await?;
    operator.supervise(callback, admin, signals, stop).await
}

/// What has been loaded before the first task starts.
struct Operator {
    config: Config,
    namespace: String,
    clients: Clients,
    ring: Arc<Ring>,
    authority: Option<Arc<Authority>>,
    fence: Fence,
}

impl Operator {
    async fn boot(config: Config, namespace: String, clients: Clients) -> Result<Self, RunError> {
        let client = &clients.calls;
        let guards = Api::<HookGuard>::all(client.clone())
            .list_metadata(&ListParams::default().limit(1))
            .await
            .map_err(|source| RunError::Install {
                kind: "HookGuards",
                source,
            })?;
        let any = !guards.items.is_empty();
        let ring =
            authority::load_or_create_ring(client, &namespace, async move { Ok(any) }).await?;
        let authority = if config.callback.tls.enabled {
            let names = authority::endpoint_names(&config, &namespace);
            let now = jiff::Timestamp::now();
            let authority =
                authority::load_or_create_authority(client, &namespace, &config, &names, now)
                    .await?;
            Some(Arc::new(authority))
        } else {
            None
        };
        let fence = Fence::probe(client, &namespace).await?;
        Ok(Self {
            config,
            namespace,
            clients,
            ring: Arc::new(ring),
            authority,
            fence,
        })
    }

    async fn supervise(
        self,
        callback: Listener,
        admin: Listener,
        signals: impl Future<Output = ()> + Send + 'static,
        stop: CancellationToken,
    ) -> Result<(), RunError> {
        let metrics = Metrics::new();
        let readiness = Readiness::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(named("signals", signals));
        let serving = admin::serve(admin, readiness.clone(), metrics.clone(), stop.clone());
        tasks.spawn(named("admin", serving));
        let watches = caches::watches(&self.clients.watches);
        let caches = watches.caches.clone();
        metrics.read_certificates_from(caches.certificates.clone());
        let (settings, settings_rx) = watch::channel(Arc::new(self.settings()));
        let synced = watches.synced.clone();
        self.spawn_ready(&mut tasks, &readiness, synced.clone(), &stop);

        let trust = TrustSlot::new();
        let mode = match &self.authority {
            None => Mode::Plain,
            Some(authority) => {
                let part = readiness.part("certificate");
                self.spawn_certificates(&mut tasks, authority, &trust, part, &metrics, &stop);
                Mode::Tls(trust)
            }
        };
        let watching = self.fence.clone().watch(
            self.clients.calls.clone(),
            self.namespace.clone(),
            stop.clone(),
        );
        tasks.spawn(named("fence", watching));
        let (refusals, refused) = mpsc::channel(256);
        let endpoint = Endpoint::new(Parts {
            hooks: caches.hooks.clone(),
            certificates: caches.certificates.clone(),
            client: self.clients.calls.clone(),
            ring: Arc::new(ArcSwap::new(Arc::clone(&self.ring))),
            endpoint: self.config.endpoint(&self.namespace),
            events: refusals,
            metrics: metrics.clone(),
        });
        tasks.spawn(named(
            "callback",
            endpoint.serve(callback, mode, stop.clone()),
        ));

        let writer = Writer {
            client: self.clients.calls.clone(),
            ring: Some(Arc::clone(&self.ring)),
            fence: self.fence.clone(),
            recorder: self.recorder(),
        };
        tasks.spawn(named(
            "refused",
            refused::run(refused, caches.hooks.clone(), self.recorder(), stop.clone()),
        ));
        let (calls, caller, called) = callout::channel();
        tasks.spawn(named("caller", caller.run()));
        let guards = Arc::new(guard::Context {
            writer: writer.clone(),
            caches: caches.clone(),
            synced: synced.clone(),
            metrics: metrics.clone(),
            backoff: Backoff::new(),
        });
        let watching = self.clients.watches.clone();
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(named("guards", async move {
            guard::run(guards, &watching, stopped).await;
        }));
        let context = Arc::new(hook::Context {
            writer,
            caches,
            settings: settings_rx.clone(),
            calls,
            synced,
            metrics,
            backoff: Backoff::new(),
            injections: Mutex::default(),
            asked: Mutex::default(),
            written: Mutex::default(),
        });
        let changed = WatchStream::from_changes(settings_rx).map(|_| ());
        let called = UnboundedReceiverStream::new(called);
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(named(
            "hooks",
            hook::run(context, watches, called, changed, stopped),
        ));
        let ended = await_end(&mut tasks, &stop).await;
        drop(settings);
        ended
    }

    /// The controller of client certificates, and the keeper of the endpoint's own.
    fn spawn_certificates(
        &self,
        tasks: &mut JoinSet<&'static str>,
        authority: &Arc<Authority>,
        trust: &Arc<TrustSlot>,
        ready: Part,
        metrics: &Metrics,
        stop: &CancellationToken,
    ) {
        let (sender, authority) = watch::channel(Arc::clone(authority));
        let keeper = endpoint::Context {
            authority: authority.clone(),
            names: authority::endpoint_names(&self.config, &self.namespace),
            trust: Arc::clone(trust),
            ready,
            metrics: metrics.clone(),
        };
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(named("endpoint certificate", async move {
            endpoint::run(keeper, jiff::Timestamp::now, stopped).await;
            // Whoever replaces the authority will hold this end; until then it lives here.
            drop(sender);
        }));
        let writer = CertificateWriter {
            client: self.clients.calls.clone(),
            fence: self.fence.clone(),
            recorder: self.recorder(),
        };
        let context = Arc::new(certificate::Context::new(
            writer,
            authority,
            &self.config,
            metrics.clone(),
        ));
        let watches = self.clients.watches.clone();
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(named("certificates", async move {
            certificate::run(context, &watches, stopped).await;
        }));
    }

    fn settings(&self) -> Settings {
        let bundle = self.authority.as_ref().map(|a| a.bundle().pem().to_owned());
        let pod = std::env::var("POD_NAME").unwrap_or_else(|_| "krake-hooks".into());
        Settings {
            endpoint: self.config.endpoint(&self.namespace),
            tls: self.config.callback.tls.enabled,
            bundle: bundle.unwrap_or_default(),
            key_id: self.ring.current_id().to_owned(),
            hooks: self.config.hooks.clone(),
            // A process, not a pod: a restarted container has not called anybody yet.
            leader: format!("{pod}-{:08x}", rand::random::<u32>()),
        }
    }

    fn recorder(&self) -> Recorder {
        let reporter = Reporter {
            controller: "krake-hooks".into(),
            instance: std::env::var("POD_NAME").ok(),
        };
        Recorder::new(self.clients.calls.clone(), reporter)
    }

    /// Ready when every watch has told all there is.
    fn spawn_ready(
        &self,
        tasks: &mut JoinSet<&'static str>,
        readiness: &Readiness,
        synced: Waiter,
        stop: &CancellationToken,
    ) {
        let part = readiness.part("caches");
        let stop = stop.clone();
        tasks.spawn(named("readiness", async move {
            tokio::select! {
                told = synced.wait() => {
                    part.set(told);
                    tracing::info!("every watch has told all there is");
                    stop.cancelled().await;
                }
                () = stop.cancelled() => {}
            }
        }));
    }
}

/// Waits for the first task to end, tells the others to, and for them.
async fn await_end(
    tasks: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    let first = tasks.join_next().await;
    stop.cancel();
    let outcome = match first {
        Some(Ok("signals")) | None => Ok(()),
        Some(Ok(name)) => Err(RunError::Ended(name)),
        Some(Err(error)) => Err(RunError::Panicked(error)),
    };
    let drained = tokio::time::timeout(DRAIN, async { while tasks.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::warn!("not every task has ended in time");
    }
    tracing::info!("krake-hooks ends");
    outcome
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    tracing::debug!(task = name, "ended");
    name
}

fn operator_namespace(clients: &Clients) -> String {
    std::env::var("POD_NAMESPACE")
        .ok()
        .filter(|ns| !ns.is_empty())
        .unwrap_or_else(|| {
            // A person's kubeconfig mostly says `default`, which is not where the operator lives.
            match clients.namespace.as_str() {
                "default" | "" => names::OPERATOR_NAMESPACE.to_owned(),
                other => other.to_owned(),
            }
        })
}

fn signals(stop: CancellationToken) -> Result<impl Future<Output = ()>, RunError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM"),
            _ = interrupt.recv() => tracing::info!("SIGINT"),
            () = stop.cancelled() => {}
        }
    })
}
