//! A namespace with an operator of its own, which sees nothing else.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Resource};

use krake_hooks::api::WorkloadKind;

use crate::audit::Audit;
use crate::check::{self, Case};
use crate::client::Log;
use crate::cluster::{Cluster, until};
use crate::crash::{SILENCE, SILENT_WITHIN};
use crate::operator::{Killer, Operator, Order};
use crate::proxy::Proxy;
use crate::proxy::journal::Journal;
use crate::subject::Subject;

/// A namespace, a proxy and an operator.
pub struct Lane {
    /// The cluster.
    pub cluster: Cluster,
    /// The namespace.
    pub namespace: String,
    /// The way of the operator to the API server.
    pub proxy: Proxy,
    /// The operator.
    pub operator: Operator,
    /// What apps were told here.
    pub log: Log,
    next: AtomicUsize,
    names: Mutex<Vec<(String, WorkloadKind)>>,
    sweeps: Mutex<Vec<tokio::task::JoinHandle<Result<(), String>>>>,
}

impl Lane {
    /// Makes namespace `PREFIX-NUMBER` and starts an operator for it.
    pub async fn open(
        cluster: &Cluster,
        binary: &std::path::Path,
        prefix: &str,
        number: usize,
        planted: Option<&str>,
    ) -> Result<Self, String> {
        let namespace = format!("{prefix}-{number}");
        cluster.make_namespace(&namespace).await?;
        let directory: PathBuf = cluster.output.join(&namespace);
        std::fs::create_dir_all(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
        let (killer, wishes) = Killer::new();
        let journal = Journal::new(&directory.join("journal.jsonl"))?;
        let proxy = Proxy::start(
            &cluster.config,
            Some(namespace.clone()),
            journal,
            killer.clone(),
        );
        let proxy = proxy.await?;
        let mut order = Order::new(binary, &directory, &namespace)?;
        order.planted = planted.map(str::to_owned);
        cluster.lead(&order.kubeconfig(), &proxy)?;
        cluster.allow_leases(&namespace).await?;
        let lease = Api::namespaced(cluster.client.clone(), &namespace);
        let operator = Operator::start(order, killer, wishes, Some(lease)).await?;
        Ok(Self {
            cluster: cluster.clone(),
            namespace,
            proxy,
            operator,
            log: Log::default(),
            next: AtomicUsize::new(0),
            names: Mutex::default(),
            sweeps: Mutex::default(),
        })
    }

    /// Objects of one kind in the namespace.
    pub fn all<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.cluster.client.clone(), &self.namespace)
    }

    /// A name that nobody has had here. No name begins with another one.
    pub fn name(&self, word: &str, kind: WorkloadKind) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{word}-{number:04}x");
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.push((name.clone(), kind));
        name
    }

    /// What the audit log says against all that has been played here.
    pub fn violations(&self, audit: &Audit) -> Vec<String> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let (starts, said) = (self.operator.starts(), self.log.all());
        let case = |(name, kind): &(String, WorkloadKind)| Case {
            namespace: self.namespace.clone(),
            name: name.clone(),
            kind: *kind,
            starts: starts.clone(),
        };
        names
            .iter()
            .flat_map(|name| check::violations(audit, &case(name), &said))
            .collect()
    }

    /// Sweeps a subject away, beside what is played next.
    pub fn sweep(&self, subject: Subject) {
        let sweep = tokio::task::spawn_local(async move { subject.sweep_away().await });
        let mut sweeps = self.sweeps.lock().unwrap_or_else(PoisonError::into_inner);
        sweeps.push(sweep);
    }

    /// Waits for all that is being swept away: what was left over.
    pub async fn swept(&self) -> Vec<String> {
        let sweeps = {
            let mut sweeps = self.sweeps.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *sweeps)
        };
        let mut left = Vec::new();
        for sweep in sweeps {
            match sweep.await {
                Ok(Ok(())) => {}
                Ok(Err(complaint)) => left.push(complaint),
                Err(error) => left.push(error.to_string()),
            }
        }
        left
    }

    /// Waits until its operator has nothing to write any more, beside its lease.
    pub async fn silent(&self) -> Result<(), String> {
        let journal = &self.proxy.journal;
        until(SILENT_WITHIN, async || {
            // One that is being started says nothing either.
            self.operator.ready().await?;
            let mark = journal.mark();
            tokio::time::sleep(SILENCE).await;
            let written = journal.written_since(mark);
            let written: Vec<_> = written
                .iter()
                .map(|line| format!("{} {}", line.kind(), line.object()))
                .collect();
            match written.is_empty() {
                true => Ok(()),
                false => Err(format!("{}: {}", self.namespace, written.join(", "))),
            }
        })
        .await
    }

    /// Gives the operator and the namespace up.
    pub async fn end(&self) {
        self.operator.leave().await;
        self.cluster.drop_namespace(&self.namespace).await;
    }
}
