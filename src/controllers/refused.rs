//! Acknowledgements that did not count, or not anew, as Events on their hook: at most one a minute
//! for each hook and reason, because an app may repeat itself without end. What has failed is told
//! for each pod, since each has words of its own.
//!
//! Those that were rejected and that a person has to mend are counted on the hook while a removal waits:
//! at most one write in half a minute for each hook, whoever comes and however often.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource, ResourceExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::KrakeHook;
use crate::callback::{HookName, Refusal, Refused};
use crate::cluster::acknowledge;
use crate::decide::rejected;

const PAUSE: Duration = Duration::from_secs(60);
/// The most that are remembered at once. A client can claim any pod's uid: beyond this no Event is
/// written.
const MOST: usize = 1024;
/// Characters of an Event's note that the API server takes.
const NOTE: usize = 1000;

/// The least time between two writes of a hook's count.
const BETWEEN_COUNTS: Duration = Duration::from_secs(30);
/// How often counts are looked through: what comes in one burst is counted at once.
const COUNT_EVERY: Duration = Duration::from_secs(2);

/// Which Events have been written lately: one of a kind for each hook, and for each pod that failed.
#[derive(Default)]
struct EventThrottle(HashMap<(String, Option<String>, Refusal), Instant>);

/// Runs until `shutdown`.
pub async fn run(
    mut refused: mpsc::Receiver<Refused>,
    hooks: Store<KrakeHook>,
    client: Client,
    recorder: Recorder,
    shutdown: CancellationToken,
) {
    let (mut throttle, mut counts) = (EventThrottle::default(), Counts::default());
    let mut ticks = tokio::time::interval(COUNT_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let refusal = tokio::select! {
            refusal = refused.recv() => match refusal {
                Some(refusal) => refusal,
                None => return shutdown.cancelled().await,
            },
            _ = ticks.tick() => {
                for (name, more) in counts.due(Instant::now()) {
                    write_count(&client, &hooks, &name, more).await;
                }
                continue;
            }
            () = shutdown.cancelled() => return,
        };
        let object = ObjectRef::new(&refusal.hook.name).within(&refusal.hook.namespace);
        let Some(hook) = hooks.get(&object) else {
            continue;
        };
        if is_to_be_mended(refusal.reason) && rejected::is_read(&hook) {
            counts.add(&refusal.hook, Instant::now());
        }
        if !throttle.admit(&object.to_string(), &refusal, Instant::now()) {
            continue;
        }
        let event = event(&refusal);
        if let Err(error) = recorder.publish(&event, &hook.object_ref(&())).await {
            tracing::debug!(%error, "could not write an Event");
        }
    }
}

/// Whether a removal waits on because of it until a person mends it.
fn is_to_be_mended(reason: Refusal) -> bool {
    match reason {
        Refusal::Anonymous | Refusal::ForeignPod | Refusal::WrongToken | Refusal::NotEnabled => {
            true
        }
        Refusal::NotAsked
        | Refusal::Late
        | Refusal::AlreadyAcknowledged
        | Refusal::Repeated
        | Refusal::Failure => false,
    }
}

async fn write_count(client: &Client, hooks: &Store<KrakeHook>, name: &HookName, more: i64) {
    let object = ObjectRef::new(&name.name).within(&name.namespace);
    let Some(hook) = hooks.get(&object) else {
        return;
    };
    let Some(patch) = rejected::patch(&hook, more, Timestamp::now()) else {
        return;
    };
    let namespace = hook.namespace().unwrap_or_default();
    if let Err(error) = acknowledge::write(client, &namespace, &hook.name_any(), patch).await {
        tracing::debug!(%error, "could not count rejected acknowledgements");
    }
}

/// How many were rejected that are not counted on their hook yet.
#[derive(Default)]
struct Counts(HashMap<HookName, Count>);

#[derive(Default)]
struct Count {
    more: i64,
    written: Option<Instant>,
}

impl Counts {
    fn add(&mut self, hook: &HookName, now: Instant) {
        if self.0.len() >= MOST {
            self.0
                .retain(|_, count| count.more > 0 || !count.may_be_written(now));
        }
        if self.0.len() < MOST || self.0.contains_key(hook) {
            self.0.entry(hook.clone()).or_default().more += 1;
        }
    }

    /// What may be written now; it counts as written.
    fn due(&mut self, now: Instant) -> Vec<(HookName, i64)> {
        let due = self.0.iter_mut();
        let due = due.filter(|(_, count)| count.more > 0 && count.may_be_written(now));
        due.map(|(hook, count)| {
            count.written = Some(now);
            (hook.clone(), std::mem::take(&mut count.more))
        })
        .collect()
    }
}

impl Count {
    fn may_be_written(&self, now: Instant) -> bool {
        let last = self.written;
        last.is_none_or(|last| now.duration_since(last) >= BETWEEN_COUNTS)
    }
}

impl EventThrottle {
    fn admit(&mut self, hook: &str, refusal: &Refused, now: Instant) -> bool {
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
        Refusal::ForeignPod => format!(
            "pod {pod} acknowledged {kind} with this hook's token, but is not a pod of its workload: answered 409, nothing was kept. What was injected into a template belongs to one workload: take it out of copies"
        ),
        Refusal::WrongToken => format!(
            "rejected an acknowledgement of {kind} from pod {pod}: the token does not belong to this hook and workload; use the pod's own KRAKE_TOKEN"
        ),
        Refusal::NotEnabled => format!(
            "rejected an acknowledgement from pod {pod}: this hook has no spec.{kind}; add it, or let the app acknowledge what the hook has"
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
        let (mut throttle, now) = (EventThrottle::default(), Instant::now());
        let late = refused("a", Refusal::Late);
        assert!(throttle.admit("ml/trainer", &late, now));
        assert!(!throttle.admit("ml/trainer", &late, now + PAUSE / 2));
        assert!(throttle.admit("ml/other", &late, now));
        assert!(!throttle.admit("ml/trainer", &refused("b", Refusal::Late), now));
        assert!(throttle.admit("ml/trainer", &refused("a", Refusal::NotAsked), now));
        for pod in ["a", "b"] {
            let failure = refused(pod, Refusal::Failure);
            assert!(throttle.admit("ml/trainer", &failure, now));
            assert!(!throttle.admit("ml/trainer", &failure, now));
        }
        assert!(throttle.admit("ml/trainer", &late, now + PAUSE));
    }

    #[test]
    fn a_burst_is_counted_at_once_and_the_next_one_after_half_a_minute() {
        let (mut counts, now) = (Counts::default(), Instant::now());
        let hook = refused("a", Refusal::WrongToken).hook;
        for _ in 0..3 {
            counts.add(&hook, now);
        }
        assert_eq!(counts.due(now), [(hook.clone(), 3)]);
        counts.add(&hook, now);
        assert!(counts.due(now + BETWEEN_COUNTS / 2).is_empty());
        assert_eq!(counts.due(now + BETWEEN_COUNTS), [(hook.clone(), 1)]);
        assert!(counts.due(now + 9 * BETWEEN_COUNTS).is_empty());
        for number in 0..3 * MOST {
            let name = number.to_string();
            counts.add(
                &HookName {
                    name,
                    ..hook.clone()
                },
                now,
            );
        }
        assert_eq!(counts.0.len(), MOST);
    }

    #[test]
    fn invented_pods_fill_no_memory() {
        let (mut throttle, now) = (EventThrottle::default(), Instant::now());
        for number in 0..3 * MOST {
            let failure = refused(&number.to_string(), Refusal::Failure);
            let news = throttle.admit("ml/trainer", &failure, now);
            assert_eq!(news, number < MOST);
        }
        assert_eq!(throttle.0.len(), MOST);
        assert!(throttle.admit("ml/trainer", &refused("x", Refusal::Late), now + PAUSE));
        assert_eq!(throttle.0.len(), 1);
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
