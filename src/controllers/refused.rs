//! Acknowledgements that did not count, or not anew, as Events on their hook: at most one a minute
//! for each hook and reason, because an app may repeat itself without end. What has failed is told
//! for each pod, since each has words of its own.

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
/// So many are remembered at once. A client may claim any pod's name: beyond this nobody is told.
const MOST: usize = 1024;
/// Characters of an Event's note that the API server takes.
const NOTE: usize = 1000;

/// Whom people have been told about lately.
#[derive(Default)]
struct Told(HashMap<(String, Option<String>, Refusal), Instant>);

/// Runs until `shutdown`.
pub async fn run(
    mut refused: mpsc::Receiver<Refused>,
    hooks: Store<KrakeHook>,
    recorder: Recorder,
    shutdown: CancellationToken,
) {
    let mut told = Told::default();
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
        if !told.is_news(&object.to_string(), &refusal, Instant::now()) {
            continue;
        }
        let event = event(&refusal);
        if let Err(error) = recorder.publish(&event, &hook.object_ref(&())).await {
            tracing::debug!(%error, "cannot write an Event");
        }
    }
}

impl Told {
    fn is_news(&mut self, hook: &str, refusal: &Refused, now: Instant) -> bool {
        self.0.retain(|_, at| now.duration_since(*at) < PAUSE);
        let pod = (refusal.reason == Refusal::Failure).then(|| refusal.pod.clone());
        let key = (hook.to_owned(), pod.flatten(), refusal.reason);
        if self.0.contains_key(&key) || self.0.len() >= MOST {
            return false;
        }
        self.0.insert(key, now);
        true
    }
}

fn event(refusal: &Refused) -> Event {
    let type_ = match refusal.reason {
        Refusal::Repeated => EventType::Normal,
        _ => EventType::Warning,
    };
    Event {
        type_,
        reason: refusal.reason.as_str().to_owned(),
        note: Some(note(refusal).chars().take(NOTE).collect()),
        action: "Acknowledge".into(),
        secondary: None,
    }
}

fn note(refusal: &Refused) -> String {
    let pod = refusal.pod.as_deref().unwrap_or("unknown");
    let kind = refusal.kind;
    match refusal.reason {
        Refusal::NotAsked => format!(
            "pod {pod} acknowledged {kind}, but it had not been asked: answered 409, nothing was kept"
        ),
        Refusal::Late => format!(
            "pod {pod} acknowledged {kind} after its request was closed: answered 409, nothing was kept"
        ),
        Refusal::Anonymous => format!(
            "somebody acknowledged {kind} without a pod's uid at the end of the URL, and this hook counts pods (acknowledgements.policy): answered 409, nothing was kept. Use the whole URL that is injected"
        ),
        Refusal::AlreadyAcknowledged => format!(
            "pod {pod} had acknowledged {kind}, and now said that it failed: answered 409, the acknowledgement stays"
        ),
        Refusal::Repeated => {
            format!("pod {pod} acknowledged {kind} again: answered 200, it had counted already")
        }
        Refusal::Failure => format!(
            "pod {pod} said that its {kind} failed: {}; this does not count",
            refusal.message.as_deref().unwrap_or("no message")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::HookKind;
    use crate::callback::HookName;

    fn refused(pod: &str, reason: Refusal) -> Refused {
        Refused {
            hook: HookName {
                namespace: "ml".into(),
                name: "trainer".into(),
            },
            kind: HookKind::Shutdown,
            reason,
            pod: Some(pod.to_owned()),
            message: Some("disk full".to_owned()),
        }
    }

    #[test]
    fn who_repeats_himself_is_told_about_once_a_minute() {
        let (mut told, now) = (Told::default(), Instant::now());
        let late = refused("a", Refusal::Late);
        assert!(told.is_news("ml/trainer", &late, now));
        assert!(!told.is_news("ml/trainer", &late, now + PAUSE / 2));
        assert!(told.is_news("ml/other", &late, now));
        assert!(!told.is_news("ml/trainer", &refused("b", Refusal::Late), now));
        assert!(told.is_news("ml/trainer", &refused("a", Refusal::NotAsked), now));
        for pod in ["a", "b"] {
            let failure = refused(pod, Refusal::Failure);
            assert!(told.is_news("ml/trainer", &failure, now));
            assert!(!told.is_news("ml/trainer", &failure, now));
        }
        assert!(told.is_news("ml/trainer", &late, now + PAUSE));
    }

    #[test]
    fn invented_pods_fill_no_memory() {
        let (mut told, now) = (Told::default(), Instant::now());
        for number in 0..3 * MOST {
            let failure = refused(&number.to_string(), Refusal::Failure);
            let news = told.is_news("ml/trainer", &failure, now);
            assert_eq!(news, number < MOST);
        }
        assert_eq!(told.0.len(), MOST);
        assert!(told.is_news("ml/trainer", &refused("x", Refusal::Late), now + PAUSE));
        assert_eq!(told.0.len(), 1);
    }

    #[test]
    fn a_note_says_what_the_app_said_and_fits_into_an_event() {
        let mut failure = refused("a", Refusal::Failure);
        let short = event(&failure).note.unwrap();
        assert!(short.contains("failed: disk full"), "{short}");
        failure.message = Some("é".repeat(1024));
        let long = event(&failure).note.unwrap();
        assert_eq!(long.chars().count(), NOTE);
    }

    #[test]
    fn the_reasons_of_events_are_kept() {
        for (refusal, word) in [
            (Refusal::NotAsked, "NotAsked"),
            (Refusal::Late, "Late"),
            (Refusal::Anonymous, "Anonymous"),
            (Refusal::AlreadyAcknowledged, "AlreadyAcknowledged"),
            (Refusal::Repeated, "Repeated"),
            (Refusal::Failure, "Failure"),
        ] {
            assert_eq!(event(&refused("a", refusal)).reason, word);
        }
    }
}
