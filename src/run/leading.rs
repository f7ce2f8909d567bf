//! What only the leader runs: the controllers, for the time of one term.
//!
//! Everything in a term is made anew, as after a restart: what the last leader knew and did not write
//! is not known, and calls of an earlier term of our own are made again like those of another's.

use std::sync::{Arc, Mutex};

use futures::StreamExt;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{UnboundedReceiverStream, WatchStream};
use tokio_util::sync::CancellationToken;

use super::named;
use crate::api::KrakeHook;
use crate::callout::{self, Calls};
use crate::cluster::apply::Writer;
use crate::cluster::certificates::CertificateWriter;
use crate::cluster::connect::Clients;
use crate::cluster::fence::Fence;
use crate::cluster::observe::Caches;
use crate::cluster::role::Role;
use crate::cluster::term::Term;
use crate::config::Config;
use crate::controllers::backoff::Backoff;
use crate::controllers::election::Tasks;
use crate::controllers::feed::Feed;
use crate::controllers::synced::Waiter;
use crate::controllers::{certificate, guard, hook};
use crate::decide::Settings;
use crate::metrics::Metrics;
use crate::pki::{Authority, Ring};

/// What the leader's tasks are made of.
pub struct Leading {
    /// The configuration.
    pub config: Config,
    /// The operator's namespace.
    pub namespace: String,
    /// Calls and watches.
    pub clients: Clients,
    /// Derives tokens.
    pub ring: Arc<Ring>,
    /// The authority that signs now, and every one that will; `None` without TLS.
    pub authority: Option<watch::Receiver<Arc<Authority>>>,
    /// Whether the admission policy fences writes to Secrets.
    pub fence: Fence,
    /// What watches have heard.
    pub caches: Caches,
    /// Decisions wait until every watch has told all there is.
    pub synced: Waiter,
    /// Hooks to look at.
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
            fence: self.fence.clone(),
            recorder: recorder.clone(),
        };
        let (calls, caller, called) = callout::channel();
        tasks.spawn(named("caller", caller.run()));
        self.spawn_guards(&mut tasks, writer.clone(), stop);
        if let Some(authority) = &self.authority {
            let writer = CertificateWriter {
                client,
                fence: self.fence.clone(),
                recorder,
            };
            self.spawn_certificates(&mut tasks, writer, authority.clone(), stop);
        }
        self.spawn_hooks(&mut tasks, writer, term, calls, called, stop);
        tasks
    }

    /// Guards of hooks that are gone.
    fn spawn_guards(&self, tasks: &mut Tasks, writer: Writer, stop: &CancellationToken) {
        let context = Arc::new(guard::Context {
            writer,
            caches: self.caches.clone(),
            synced: self.synced.clone(),
            metrics: self.metrics.clone(),
            backoff: Backoff::new(),
        });
        let watches = Role::Replica.client(&self.clients.watches);
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(named("guards", async move {
            guard::run(context, &watches, stopped).await;
        }));
    }

    /// Client certificates.
    fn spawn_certificates(
        &self,
        tasks: &mut Tasks,
        writer: CertificateWriter,
        authority: watch::Receiver<Arc<Authority>>,
        stop: &CancellationToken,
    ) {
        let metrics = self.metrics.clone();
        let context = certificate::Context::new(writer, authority, &self.config, metrics);
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
        calls: Calls,
        called: mpsc::UnboundedReceiver<ObjectRef<KrakeHook>>,
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
            backoff: Backoff::new(),
            injections: Mutex::default(),
            asked: Mutex::default(),
            written: Mutex::default(),
        });
        let called = UnboundedReceiverStream::new(called);
        let changes = futures::stream::select(self.feed.subscribe(), called);
        let changed = WatchStream::from_changes(settings).map(|_| ());
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(named("hooks", async move {
            hook::run(context, changes, changed, stopped).await;
            drop(keep);
        }));
    }

    fn settings(&self, term: &Term) -> Settings {
        let bundle = self
            .authority
            .as_ref()
            .map(|authority| authority.borrow().bundle().pem().to_owned());
        Settings {
            endpoint: self.config.endpoint(&self.namespace),
            tls: self.config.callback.tls.enabled,
            bundle: bundle.unwrap_or_default(),
            key_id: self.ring.current_id().to_owned(),
            hooks: self.config.hooks.clone(),
            // A term, not a pod: in a new one nobody has been called yet.
            leader: term.identity().to_owned(),
        }
    }
}
