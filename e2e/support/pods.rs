//! A witness of pods: a watch that is open from before the deletion and misses nothing that a poll
//! would miss.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt};

use super::wait::{SOON, stays, until};

/// What the watch has seen of the pods of one Deployment, by uid.
#[derive(Clone)]
pub struct PodWitness {
    seen: Arc<Mutex<BTreeMap<String, Seen>>>,
    _watch: Arc<Watch>,
}

/// What became of one pod.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// Its phase when last seen.
    pub phase: String,
    /// When somebody asked for its end.
    pub deleting: Option<Timestamp>,
    /// It is gone.
    pub gone: bool,
}

struct Watch(tokio::task::JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl PodWitness {
    /// Begins to watch the pods with a label, and returns when all present ones were seen.
    pub async fn begin(pods: Api<Pod>, selector: &str) -> Self {
        let seen = Arc::new(Mutex::new(BTreeMap::new()));
        let (ready, first) = tokio::sync::oneshot::channel();
        let watch = tokio::spawn(follow(pods, selector.to_owned(), seen.clone(), ready));
        let witness = Self {
            seen,
            _watch: Arc::new(Watch(watch)),
        };
        first.await.expect("the pods can be watched");
        witness
    }

    /// Uids of the pods that live: Running, and nobody has asked for their end.
    pub fn living(&self) -> Vec<String> {
        let lives = |seen: &Seen| seen.deleting.is_none() && !seen.gone && seen.phase == "Running";
        self.all()
            .into_iter()
            .filter(|(_, seen)| lives(seen))
            .map(|(uid, _)| uid)
            .collect()
    }

    /// Everything that was ever seen.
    pub fn all(&self) -> BTreeMap<String, Seen> {
        self.seen.lock().expect("no story panics here").clone()
    }

    /// `Ok` while each of the pods runs and nobody has ever asked for its end.
    pub fn untouched(&self, uids: &[String]) -> Result<(), String> {
        assert!(!uids.is_empty(), "a story about no pod proves nothing");
        let living = self.living();
        if uids.iter().all(|uid| living.contains(uid)) {
            Ok(())
        } else {
            Err(format!("pods {uids:?}, of these: {:#?}", self.all()))
        }
    }

    /// Panics unless each of the pods stays untouched for that long.
    pub async fn stay_untouched(&self, uids: &[String], span: Duration) {
        stays("Running, without deletionTimestamp", span, async || {
            self.untouched(uids)
        })
        .await;
    }

    /// Waits until all of the pods are gone; when somebody first asked for the end of one of them.
    pub async fn gone(&self, uids: &[String]) -> Timestamp {
        until(format!("pods {uids:?} gone"), SOON, async || {
            let all = self.all();
            let mut asked = Vec::new();
            for uid in uids {
                match all.get(uid) {
                    Some(seen) if seen.gone => asked.extend(seen.deleting),
                    seen => return Err(format!("{seen:?}")),
                }
            }
            asked.into_iter().min().ok_or(format!("{all:?}"))
        })
        .await
    }
}

async fn follow(
    pods: Api<Pod>,
    selector: String,
    seen: Arc<Mutex<BTreeMap<String, Seen>>>,
    ready: tokio::sync::oneshot::Sender<()>,
) {
    let mut ready = Some(ready);
    let watcher = watcher::watcher(pods, watcher::Config::default().labels(&selector));
    let mut events = std::pin::pin!(watcher);
    while let Some(event) = events.next().await {
        let mut seen = seen.lock().expect("no story panics here");
        match event {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) => note(&mut seen, &pod, false),
            Ok(Event::Delete(pod)) => note(&mut seen, &pod, true),
            Ok(Event::InitDone) => {
                if let Some(ready) = ready.take() {
                    // A story that is over no longer listens.
                    let _ = ready.send(());
                }
            }
            Ok(Event::Init) | Err(_) => {}
        }
    }
}

fn note(seen: &mut BTreeMap<String, Seen>, pod: &Pod, gone: bool) {
    let entry = seen.entry(pod.uid().unwrap_or_default()).or_default();
    entry.name = pod.name_any();
    entry.phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.clone())
        .unwrap_or_default();
    // deletionTimestamp is when the grace period ends; what counts is when it began.
    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
    let asked = pod
        .metadata
        .deletion_timestamp
        .as_ref()
        .map(|time| time.0 - jiff::SignedDuration::from_secs(grace));
    entry.deleting = entry
        .deleting
        .or(asked)
        .or_else(|| gone.then(Timestamp::now));
    entry.gone |= gone;
}
