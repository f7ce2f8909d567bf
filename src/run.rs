//! The operator: everything it runs, in one `JoinSet`; the first task to end ends the process.
//!
//! Before the first task starts, whatever cannot be mended by waiting has been tried: the API
//! server answers, both ports are bound, the master keys are there.

mod files;
mod leading;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use kube::Client;
use kube::api::{Api, ListParams};
use kube::runtime::events::{Recorder, Reporter};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::leading::Leading;
use crate::admin::{self, Readiness};
use crate::api::{HookGuard, names};
use crate::callback::{
    BindError, Endpoint, Limits, Listener, Mode, Parts, PodCaches, Share, TrustSlot,
};
use crate::clock::Clocks;
use crate::cluster::connect::{self, Clients, ConnectError};
use crate::cluster::lease::LeaseApi;
use crate::cluster::observe::Caches;
use crate::cluster::operator_secrets::OperatorSecrets;
use crate::cluster::ring::{self, BootError};
use crate::cluster::role::Role;
use crate::cluster::secret_policy::PolicyProbe;
use crate::cluster::secrets::SecretError;
use crate::config::Config;
use crate::controllers::authority::{self, InUse};
use crate::controllers::election::{Election, Tasks};
use crate::controllers::{caches, endpoint, keys, refused};
use crate::metrics::Metrics;
use crate::pki::Ring;

/// How long tasks have to end after they were told to stop. With `callback.lingerSeconds` before it,
/// it has to fit into the grace period of the Deployment.
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
    /// Master keys.
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

/// The two phases of the end: notice, then stop.
#[derive(Clone, Debug, Default)]
struct Ending {
    /// It leads no more, and is not ready for more clients; those that come are answered.
    drain: CancellationToken,
    /// What is under way is finished, and that is all.
    stop: CancellationToken,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(config: Config) -> Result<(), RunError> {
    let ending = Ending::default();
    let signals = signals(ending.stop.clone())?;
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
    let count = |value: i64| usize::try_from(value).unwrap_or(0);
    let limits = Limits::default().of(files::within_limit(Share {
        total: count(config.callback.max_connections),
        per_source: count(config.callback.max_connections_per_source),
    }));
    let callback = Listener::bind(config.callback.listen, limits).await?;
    let admin = Listener::bind(config.admin.listen, admin::limits()).await?;
    let operator = Operator::boot(config, namespace, clients).await?;
    operator.supervise(callback, admin, signals, ending).await
}

/// What has been loaded before the first task starts.
struct Operator {
    config: Config,
    namespace: String,
    clients: Clients,
    ring: Arc<ArcSwap<Ring>>,
    secret_policy: PolicyProbe,
}

impl Operator {
    async fn boot(config: Config, namespace: String, clients: Clients) -> Result<Self, RunError> {
        let client = &Role::Replica.client(&clients.calls);
        let guards = Api::<HookGuard>::all(client.clone())
            .list_metadata(&ListParams::default().limit(1))
            .await
            .map_err(|source| RunError::Install {
                kind: "HookGuards",
                source,
            })?;
        let any = !guards.items.is_empty();
        let ring = ring::load_or_create_ring(client, &namespace, async move { Ok(any) }).await?;
        let secret_policy = PolicyProbe::probe(client, &namespace).await?;
        Ok(Self {
            config,
            namespace,
            clients,
            ring: Arc::new(ArcSwap::from_pointee(ring)),
            secret_policy,
        })
    }

    /// What every replica runs; the election starts what only the leader does.
    async fn supervise(
        self,
        callback: Listener,
        admin: Listener,
        signals: impl Future<Output = ()> + Send + 'static,
        ending: Ending,
    ) -> Result<(), RunError> {
        let metrics = Metrics::new();
        let readiness = Readiness::default();
        let stop = &ending.stop;
        let mut tasks = JoinSet::new();
        tasks.spawn(named("signals", signals));
        let serving = admin::serve(admin, readiness.clone(), metrics.clone(), stop.clone());
        tasks.spawn(named("admin", serving));
        self.spawn_readiness(&mut tasks, &readiness, &ending);

        let watches = caches::watches(
            &Role::Replica.client(&self.clients.watches),
            self.clients.api_servers.clone(),
            &metrics,
        );
        let (caches, synced) = (watches.caches.clone(), watches.synced.clone());
        let feed = watches.feed.clone();
        metrics.read_certificates_from(caches.certificates.clone());
        tasks.spawn(named("caches", watches.run(stop.clone())));
        let policy = self.secret_policy.clone();
        let client = self.calls(Role::Replica);
        tasks.spawn(named("secret policy", policy.watch(client, stop.clone())));

        let tls = self.config.callback.tls.enabled;
        let in_use = tls.then(|| watch::channel(Arc::new(InUse::default())).0);
        let mode = match &in_use {
            None => Mode::Plain,
            Some(in_use) => {
                self.spawn_authority(&mut tasks, in_use, &metrics, stop);
                let trust = TrustSlot::new();
                let keeper = endpoint::Context {
                    in_use: in_use.subscribe(),
                    names: self.config.endpoint_names(&self.namespace),
                    trust: Arc::clone(&trust),
                    ready: readiness.part("certificate"),
                    metrics: metrics.clone(),
                };
                let stopped = stop.clone().cancelled_owned();
                let keeping = endpoint::run(keeper, jiff::Timestamp::now, stopped);
                tasks.spawn(named("endpoint certificate", keeping));
                Mode::Tls(trust)
            }
        };
        self.spawn_callback(&mut tasks, callback, mode, &caches, &metrics, &ending);

        let signing = watch::Sender::new(self.ring.load().current_id().to_owned());
        let follower = keys::Follower {
            secrets: OperatorSecrets {
                client: self.calls(Role::Replica),
                namespace: self.namespace.clone(),
            },
            ring: Arc::clone(&self.ring),
            signing: signing.clone(),
            every: keys::every(self.config.certificates.propagation_seconds),
        };
        tasks.spawn(named(
            "master keys",
            follower.run(stop.clone().cancelled_owned()),
        ));

        let leading = Leading {
            signing: signing.subscribe(),
            clients: self.clients.clone(),
            ring: Arc::clone(&self.ring),
            in_use,
            secret_policy: self.secret_policy.clone(),
            caches,
            synced: synced.clone(),
            feed,
            metrics: metrics.clone(),
            reporter: self.reporter(),
            config: self.config.clone(),
            namespace: self.namespace.clone(),
        };
        let client = self.calls(Role::Election);
        let recorder = Recorder::new(client.clone(), self.reporter());
        let election = Election {
            lease: LeaseApi::new(client, &self.namespace, recorder),
            periods: self.config.leader_election.periods(),
            // A process, not a pod: a restarted container is another candidate.
            identity: format!("{}_{:08x}", pod_name(), rand::random::<u32>()),
            clocks: Clocks::of_the_machine(),
            lead: move |term, stop| leading.start(&term, &stop),
            metrics,
        };
        let part = readiness.part("caches");
        let drain = ending.drain.clone();
        tasks.spawn(named("election", async move {
            // Who could not act yet does not lead.
            tokio::select! {
                told = synced.wait() => part.set(told),
                () = drain.cancelled() => return,
            }
            tracing::info!("all watches have completed their initial list");
            election.run(drain).await;
        }));
        let linger = Duration::from_secs(self.config.callback.linger_seconds.unsigned_abs());
        await_end(tasks, &ending, linger).await
    }

    /// The endpoint that apps call.
    fn spawn_callback(
        &self,
        tasks: &mut Tasks,
        listener: Listener,
        mode: Mode,
        caches: &Caches,
        metrics: &Metrics,
        ending: &Ending,
    ) {
        let client = self.calls(Role::Callback);
        let recorder = Recorder::new(client.clone(), self.reporter());
        let (refusals, refused) = mpsc::channel(256);
        let endpoint = Endpoint::new(Parts {
            hooks: caches.hooks.clone(),
            certificates: caches.certificates.clone(),
            pods: PodCaches {
                pods: caches.pods.clone(),
                replica_sets: caches.replica_sets.clone(),
                guards: caches.guards.clone(),
            },
            client: client.clone(),
            ring: Arc::clone(&self.ring),
            endpoint: self.config.endpoint(&self.namespace),
            events: refusals,
            metrics: metrics.clone(),
        });
        let listener = listener.closing_on(ending.drain.clone());
        let serving = endpoint.serve(listener, mode, ending.stop.clone());
        tasks.spawn(named("callback", serving));
        let hooks = caches.hooks.clone();
        let telling = refused::run(refused, hooks, client, recorder, ending.stop.clone());
        tasks.spawn(named("refused", telling));
    }

    /// Not ready once it has been told to stop.
    fn spawn_readiness(&self, tasks: &mut Tasks, readiness: &Readiness, ending: &Ending) {
        let stays = readiness.part("ending");
        stays.set(true);
        let Ending { drain, stop } = ending.clone();
        tasks.spawn(named("readiness", async move {
            drain.cancelled().await;
            stays.set(false);
            stop.cancelled().await;
        }));
    }

    fn calls(&self, role: Role) -> Client {
        role.client(&self.clients.calls)
    }

    /// Hears which authorities are in use.
    fn spawn_authority(
        &self,
        tasks: &mut Tasks,
        in_use: &watch::Sender<Arc<InUse>>,
        metrics: &Metrics,
        stop: &CancellationToken,
    ) {
        let context = authority::Context {
            secrets: OperatorSecrets {
                client: self.calls(Role::Replica),
                namespace: self.namespace.clone(),
            },
            watches: Role::Replica.client(&self.clients.watches),
            in_use: in_use.clone(),
            metrics: metrics.clone(),
        };
        let stopped = stop.clone().cancelled_owned();
        let hearing = authority::run(context, jiff::Timestamp::now, stopped);
        tasks.spawn(named("authority", hearing));
    }

    fn reporter(&self) -> Reporter {
        Reporter {
            controller: "krake-hooks".into(),
            instance: std::env::var("POD_NAME").ok(),
        }
    }
}

/// Waits for the first task to end, then stops the others and waits for them.
///
/// Told to end by a signal, the endpoint lingers: whoever has not heard yet that this replica goes is
/// still answered, and the election gives the lease away meanwhile.
async fn await_end(mut tasks: Tasks, ending: &Ending, linger: Duration) -> Result<(), RunError> {
    let first = tasks.join_next().await;
    ending.drain.cancel();
    let outcome = match first {
        Some(Ok("signals")) | None => {
            tracing::info!(seconds = linger.as_secs(), "draining");
            tokio::time::sleep(linger).await;
            Ok(())
        }
        Some(Ok(name)) => Err(RunError::Ended(name)),
        Some(Err(error)) => Err(RunError::Panicked(error)),
    };
    ending.stop.cancel();
    let drained = tokio::time::timeout(DRAIN, async { while tasks.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::warn!("not all tasks ended in time");
    }
    tracing::info!("stopped");
    outcome
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    tracing::debug!(task = name, "ended");
    name
}

fn pod_name() -> String {
    std::env::var("POD_NAME").unwrap_or_else(|_| names::SERVICE.into())
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
