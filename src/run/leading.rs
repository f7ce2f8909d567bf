//! What only the leader runs: the controllers, for the time of one term.
//!
//! Everything in a term is made anew, as after a restart: what the last leader knew and did not write
//! is not known, and calls of an earlier term of our own are made again like those of another's.

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::{UnboundedReceiverStream, WatchStream};
use tokio_util::sync::CancellationToken;

use super::named;
use crate::api::KrakeHook;
use crate::callout::{self, Calls};
use crate::cluster::apply::Writer;
use crate::cluster::authority::AuthorityWriter;
use crate::cluster::certificates::CertificateWriter;
use crate::cluster::connect::Clients;
use crate::cluster::observe::Caches;
use crate::cluster::role::Role;
use crate::cluster::secret_policy::PolicyProbe;
use crate::cluster::term::Term;
use crate::config::Config;
use crate::controllers::authority::{self, InUse};
use crate::controllers::backoff::Backoff;
use crate::controllers::election::Tasks;
use crate::controllers::feed::Feed;
use crate::controllers::outcomes::Outcomes;
use crate::controllers::overlay::Overlay;
use crate::controllers::synced::Waiter;
use crate::controllers::{authority_rotation, certificate, guard, guarding, hook, keys, strays};
use crate::decide::Settings;
use crate::decide::authority::AuthoritySettings;
use crate::metrics::Metrics;
use crate::pki::{AuthorityValidity, Ring};

/// What the leader's tasks are made of.
pub struct Leading {
    /// The configuration.
    pub config: Config,
    /// The operator's namespace.
    pub namespace: String,
    /// Calls and watches.
    pub clients: Clients,
    /// Derives tokens.
    pub ring: Arc<ArcSwap<Ring>>,
    /// Id of the master key that signs now, and whichever will.
    pub signing: watch::Receiver<String>,
    /// The authorities in use now, and whatever will be; `None` without TLS.
    pub in_use: Option<watch::Sender<Arc<InUse>>>,
    /// Whether the admission policy confines our writes to Secrets.
    pub secret_policy: PolicyProbe,
    /// What watches have received.
    pub caches: Caches,
    /// Decisions wait until all watches have completed their initial list.
    pub synced: Waiter,
    /// Hooks to reconcile.
    pub feed: Feed,
    /// Counters.
    pub metrics: Metrics,
    /// Who makes Events.
    pub reporter: Reporter,
}

impl Leading {
    /// Starts the tasks of a term. All that they write passes its fence.
    pub fn start(&self, term: &Term, stop: &CancellationToken) -> Tasks {
        let mut tasks = Tasks::new();
        let client = Role::Leader(term.clone()).client(&self.clients.calls);
        let recorder = Recorder::new(client.clone(), self.reporter.clone());
        let writer = Writer {
            client: client.clone(),
            ring: Some(Arc::clone(&self.ring)),
            policy: self.secret_policy.clone(),
            recorder: recorder.clone(),
        };
        let (calls, caller, called) = callout::channel(term.clock().clone());
        tasks.spawn(named("caller", caller.run()));
        self.spawn_guards(&mut tasks, writer.clone(), stop);
        self.spawn_strays(&mut tasks, writer.clone(), stop);
        self.spawn_keys(&mut tasks, &client, &recorder, stop);
        if let Some(in_use) = &self.in_use {
            let keeping = AuthorityWriter {
                client: client.clone(),
                namespace: self.namespace.clone(),
                recorder: recorder.clone(),
            };
            self.spawn_authority_rotation(&mut tasks, keeping, in_use.clone(), stop);
            let writer = CertificateWriter {
                client,
                policy: self.secret_policy.clone(),
                recorder,
                // With one at a time the other reconciles have processors left.
                rsa: Arc::new(Semaphore::new(1)),
            };
            self.spawn_certificates(&mut tasks, writer, in_use.subscribe(), stop);
        }
        let guarded = self.spawn_guarding(&mut tasks, writer.clone(), stop);
        self.spawn_hooks(&mut tasks, writer, term, (calls, called), guarded, stop);
        tasks
    }

    /// Guards on what armed workloads make; cancelled is what is waited for: the first of them stand.
    fn spawn_guarding(
        &self,
        tasks: &mut Tasks,
        writer: Writer,
        stop: &CancellationToken,
    ) -> CancellationToken {
        let context = guarding::Context {
            writer,
            caches: self.caches.clone(),
            synced: self.synced.clone(),
            metrics: self.metrics.clone(),
        };
        let guarded = CancellationToken::new();
        let (first, changes) = (guarded.clone(), self.feed.subscribe());
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(named("guarding", async move {
            guarding::run(context, changes, first, stopped).await;
        }));
        guarded
    }

    /// Guards of hooks that are gone.
    fn spawn_guards(&self, tasks: &mut Tasks, writer: Writer, stop: &CancellationToken) {
        let context = Arc::new(guard::Context {
            writer,
            caches: self.caches.clone(),
            synced: self.synced.clone(),
            metrics: self.metrics.clone(),
            backoff: Backoff::new(),
            looks: guard::Looks::default(),
            living: guard::Living::default(),
        });
        let watches = Role::Replica.client(&self.clients.watches);
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(named("guards", async move {
            guard::run(context, &watches, stopped).await;
        }));
    }

    /// What was copied or restored without its hook.
    fn spawn_strays(&self, tasks: &mut Tasks, writer: Writer, stop: &CancellationToken) {
        let context = strays::Context {
            writer,
            caches: self.caches.clone(),
            synced: self.synced.clone(),
            metrics: self.metrics.clone(),
        };
        let watches = Role::Replica.client(&self.clients.watches);
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(named("strays", async move {
            strays::run(context, &watches, stopped).await;
        }));
    }

    /// The certificate authorities: makes, imports and rotates them.
    fn spawn_authority_rotation(
        &self,
        tasks: &mut Tasks,
        writer: AuthorityWriter,
        in_use: watch::Sender<Arc<InUse>>,
        stop: &CancellationToken,
    ) {
        let certificates = &self.config.certificates;
        let source = &self.config.callback.tls.intermediate_src;
        let seconds = SignedDuration::from_secs;
        let context = authority_rotation::Context {
            writer,
            watches: Role::Replica.client(&self.clients.watches),
            caches: self.caches.clone(),
            synced: self.synced.clone(),
            settings: AuthoritySettings {
                namespace: self.namespace.clone(),
                source: Some(source.clone()).filter(|source| !source.is_empty()),
                propagation: seconds(certificates.propagation_seconds),
            },
            endpoint_names: self.config.endpoint_names(&self.namespace),
            validity: AuthorityValidity::of(certificates.authority_duration_seconds),
            leaf: seconds(certificates.duration_seconds),
            in_use,
            metrics: self.metrics.clone(),
        };
        let stopped = stop.clone().cancelled_owned();
        let keeping = authority_rotation::run(context, Timestamp::now, stopped);
        tasks.spawn(named("authority rotation", keeping));
    }

    /// The master keys: rotates them.
    fn spawn_keys(
        &self,
        tasks: &mut Tasks,
        client: &Client,
        recorder: &Recorder,
        stop: &CancellationToken,
    ) {
        let context = keys::Context {
            writer: AuthorityWriter {
                client: client.clone(),
                namespace: self.namespace.clone(),
                recorder: recorder.clone(),
            },
            caches: self.caches.clone(),
            synced: self.synced.clone(),
            propagation: SignedDuration::from_secs(self.config.certificates.propagation_seconds),
            metrics: self.metrics.clone(),
        };
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(named("keys", keys::run(context, stopped)));
    }

    /// Client certificates.
    fn spawn_certificates(
        &self,
        tasks: &mut Tasks,
        writer: CertificateWriter,
        in_use: watch::Receiver<Arc<InUse>>,
        stop: &CancellationToken,
    ) {
        let metrics = self.metrics.clone();
        let context = certificate::Context::new(writer, in_use, &self.config, metrics);
        let watches = Role::Replica.client(&self.clients.watches);
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(named("certificates", async move {
            certificate::run(Arc::new(context), &watches, stopped).await;
        }));
    }

    /// Hooks and their workloads.
    fn spawn_hooks(
        &self,
        tasks: &mut Tasks,
        writer: Writer,
        term: &Term,
        (calls, called): (Calls, mpsc::UnboundedReceiver<ObjectRef<KrakeHook>>),
        guarded: CancellationToken,
        stop: &CancellationToken,
    ) {
        let (keep, settings) = watch::channel(Arc::new(self.settings(term)));
        let context = Arc::new(hook::Context {
            writer,
            caches: self.caches.clone(),
            settings: settings.clone(),
            calls,
            synced: self.synced.clone(),
            metrics: self.metrics.clone(),
            outcomes: Outcomes::new(self.metrics.clone()),
            backoff: Backoff::new(),
            feed: self.feed.clone(),
            clock: term.clock().clone(),
            overlay: Overlay::default(),
        });
        let called = UnboundedReceiverStream::new(called);
        let changes = futures::stream::select(self.feed.subscribe(), called);
        let changed = WatchStream::from_changes(settings).map(|_| ());
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(named("hooks", async move {
            // Nothing else is begun before: its turn would come too late.
            guarded.cancelled().await;
            hook::run(context, changes, changed, stopped).await;
        }));
        let stopped = stop.clone().cancelled_owned();
        let telling = keys::tell_key(self.signing.clone(), keep.clone(), stopped);
        tasks.spawn(named("key", telling));
        let in_use = self.in_use.as_ref().map(watch::Sender::subscribe);
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(named("bundle", async move {
            match in_use {
                Some(in_use) => authority::tell_bundle(in_use, keep, stopped).await,
                None => {
                    stopped.await;
                    drop(keep);
                }
            }
        }));
    }

    fn settings(&self, term: &Term) -> Settings {
        Settings {
            endpoint: self.config.endpoint(&self.namespace),
            tls: self.config.callback.tls.enabled,
            // Comes from whoever hears which authorities are in use.
            bundle: String::new(),
            key_id: self.ring.load().current_id().to_owned(),
            hooks: self.config.hooks.clone(),
            // A term, not a pod: in a new one nobody has been called yet.
            leader: term.identity().to_owned(),
            predecessor: term.predecessor().cloned(),
        }
    }
}
