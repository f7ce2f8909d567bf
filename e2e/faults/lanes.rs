//! Several lanes side by side, and the work that is given to them.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::audit::Audit;
use crate::cluster::Cluster;
use crate::lane::Lane;
use crate::report::Report;

/// Some lanes.
pub struct Lanes {
    /// The cluster.
    pub cluster: Cluster,
    /// What the names of their namespaces begin with.
    pub prefix: String,
    all: Vec<Arc<Lane>>,
}

impl Lanes {
    /// Opens so many.
    pub async fn open(
        cluster: &Cluster,
        binary: &Path,
        count: usize,
        planted: Option<&str>,
    ) -> Result<Self, String> {
        let prefix = format!("faults-{:06x}", rand::random::<u32>() >> 8);
        let opened = (0..count).map(|number| Lane::open(cluster, binary, &prefix, number, planted));
        let all = futures::future::try_join_all(opened).await?;
        Ok(Self {
            cluster: cluster.clone(),
            all: all.into_iter().map(Arc::new).collect(),
            prefix,
        })
    }

    /// The first lane.
    pub fn first(&self) -> &Arc<Lane> {
        &self.all[0]
    }

    /// Gives each job to the next lane that has nothing to do; what came of them, in any order.
    pub async fn each<J, F, T>(&self, jobs: impl IntoIterator<Item = J>) -> Vec<T>
    where
        J: FnOnce(Arc<Lane>) -> F + 'static,
        F: Future<Output = T> + 'static,
        T: 'static,
    {
        self.each_of(1, jobs).await
    }

    /// The same, so many at a time in each lane.
    pub async fn each_of<J, F, T>(
        &self,
        at_once: usize,
        jobs: impl IntoIterator<Item = J>,
    ) -> Vec<T>
    where
        J: FnOnce(Arc<Lane>) -> F + 'static,
        F: Future<Output = T> + 'static,
        T: 'static,
    {
        let queue: Arc<Mutex<VecDeque<J>>> = Arc::new(Mutex::new(jobs.into_iter().collect()));
        let mut workers = tokio::task::JoinSet::new();
        for lane in self
            .all
            .iter()
            .flat_map(|lane| std::iter::repeat_n(lane, at_once))
        {
            let (lane, queue) = (Arc::clone(lane), Arc::clone(&queue));
            workers.spawn_local(async move {
                let mut done = Vec::new();
                loop {
                    let job = queue
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .pop_front();
                    let Some(job) = job else {
                        return done;
                    };
                    done.push(job(Arc::clone(&lane)).await);
                }
            });
        }
        workers.join_all().await.into_iter().flatten().collect()
    }

    /// Something that goes on in each lane meanwhile, until it is aborted.
    pub fn beside<F>(
        &self,
        mut work: impl FnMut(Arc<Lane>) -> F,
    ) -> Vec<tokio::task::JoinHandle<()>>
    where
        F: Future<Output = ()> + 'static,
    {
        let lanes = self.all.iter();
        lanes
            .map(|lane| tokio::task::spawn_local(work(Arc::clone(lane))))
            .collect()
    }

    /// How often operators were started again.
    pub fn restarts(&self) -> usize {
        self.all
            .iter()
            .map(|lane| lane.operator.starts().len() - 1)
            .sum()
    }

    /// Waits until everything that was to be swept away is.
    pub async fn swept(&self, report: &mut Report) {
        for lane in &self.all {
            for left in lane.swept().await {
                report.violation("left over", &left);
            }
        }
    }

    /// Waits until no operator has anything to write any more.
    pub async fn silent(&self, report: &mut Report) {
        for lane in &self.all {
            if let Err(complaint) = lane.silent().await {
                report.violation("not silent", &complaint);
            }
        }
    }

    /// What the audit log says against the subjects of all lanes.
    pub fn violations(&self, audit: &Audit) -> Vec<String> {
        self.all
            .iter()
            .flat_map(|lane| lane.violations(audit))
            .collect()
    }

    /// Gives all namespaces up.
    pub async fn close(self) {
        for lane in &self.all {
            lane.end().await;
        }
    }
}
