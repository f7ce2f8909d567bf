//! Acknowledgements that did not count, as Events on their hook: at most one a minute for each hook
//! and reason, because an app may repeat itself without end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kube::Resource;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::KrakeHook;
use crate::callback::{Refusal, Refused};

const PAUSE: Duration = Duration::from_secs(60);

/// Runs until `shutdown`.
pub async fn run(
    mut refused: mpsc::Receiver<Refused>,
    hooks: Store<KrakeHook>,
    recorder: Recorder,
    shutdown: CancellationToken,
) {
    let mut told: HashMap<(String, Refusal), Instant> = HashMap::new();
    loop {
        let refusal = tokio::select! {
            refusal = refused.recv() => match refusal {
                Some(refusal) => refusal,
                None => return shutdown.cancelled().await,
            },
            () = shutdown.cancelled() => return,
        };
        let object = ObjectRef::new(&refusal.hook.name).within(&refusal.hook.namespace);
        let Some(hook) = hooks.get(&object) else {
            continue;
        };
        told.retain(|_, at| at.elapsed() < PAUSE);
        let key = (object.to_string(), refusal.reason);
        if told.contains_key(&key) {
            continue;
        }
        told.insert(key, Instant::now());
        let event = Event {
            type_: EventType::Warning,
            reason: format!("{:?}", refusal.reason),
            note: Some(note(&refusal)),
            action: "Acknowledge".into(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, &hook.object_ref(&())).await {
            tracing::debug!(%error, "cannot write an Event");
        }
    }
}

fn note(refusal: &Refused) -> String {
    let pod = refusal.pod.as_deref().unwrap_or("unknown");
    let kind = refusal.kind;
    match refusal.reason {
        Refusal::NotAsked => format!(
            "pod {pod} acknowledged {kind}, but nobody had asked for it: answered 409, nothing was kept"
        ),
        Refusal::Late => format!(
            "pod {pod} acknowledged {kind} after its request was closed: answered 409, nothing was kept"
        ),
    }
}
