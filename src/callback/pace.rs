//! Rate limits for what the pods of one hook can make the operator write.
//!
//! Each write is of a whole hook, under the operator's identity, so that no quota of the namespace
//! bounds it. A hook is written a few times a second; acknowledgements that arrive meanwhile share
//! the next write, so they are delayed by this and never refused. A `Failure` does not count, and
//! can be refused: each pod has one a second that is not a repetition, and each hook 64.
//!
//! Keys are hooks whose token was verified, pods that such callers claim, and namespaces; those that
//! have not been seen for a while are forgotten.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use super::HookName;

/// Rounds of decisions a second for one hook; each is a write or a look, or both.
const ROUNDS_A_SECOND: NonZeroU32 = NonZeroU32::new(5).expect("5 is not zero");
/// Rounds that a hook may have at once after a time of silence.
const ROUNDS_AT_ONCE: NonZeroU32 = NonZeroU32::new(10).expect("10 is not zero");
/// Failures a second of one pod.
const FAILURES_OF_A_POD: NonZeroU32 = NonZeroU32::new(1).expect("1 is not zero");
/// Failures a second of all pods that callers of one hook claim to be.
const FAILURES_OF_A_HOOK: NonZeroU32 = NonZeroU32::new(64).expect("64 is not zero");
/// Callers a second of one namespace that can be refused after a read from the server. This
/// protects the API server from clients that have a certificate and guess tokens.
const LOOKS_OF_A_NAMESPACE: NonZeroU32 = NonZeroU32::new(25).expect("25 is not zero");
/// The same of all namespaces.
const LOOKS_IN_ALL: NonZeroU32 = NonZeroU32::new(200).expect("200 is not zero");
/// From this many keys on, those that are idle are looked for.
const MANY: usize = 1024;

type Buckets<K> = RateLimiter<K, DefaultKeyedStateStore<K>, Tokio, NoOpMiddleware<Duration>>;

/// The buckets of all hooks.
pub struct Pace {
    rounds: Buckets<HookName>,
    failures: Buckets<HookName>,
    failures_of_pods: Buckets<(HookName, Option<String>)>,
    looks: Buckets<String>,
    looks_in_all: Buckets<()>,
    /// Looking for idle keys takes a while where there are many.
    tidying: Buckets<()>,
    clock: Tokio,
}

/// The runtime's clock, which tests can hold.
#[derive(Clone, Copy, Debug)]
struct Tokio(Instant);

impl Clock for Tokio {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

impl Pace {
    /// Buckets that are full.
    pub fn new() -> Self {
        let clock = Tokio(Instant::now());
        let rounds = Quota::per_second(ROUNDS_A_SECOND).allow_burst(ROUNDS_AT_ONCE);
        Self {
            rounds: buckets(rounds, clock),
            failures: buckets(Quota::per_second(FAILURES_OF_A_HOOK), clock),
            failures_of_pods: buckets(Quota::per_second(FAILURES_OF_A_POD), clock),
            looks: buckets(Quota::per_second(LOOKS_OF_A_NAMESPACE), clock),
            looks_in_all: buckets(Quota::per_second(LOOKS_IN_ALL), clock),
            tidying: buckets(Quota::per_second(NonZeroU32::MIN), clock),
            clock,
        }
    }

    /// Whether it is this hook's turn; if not, when it will be.
    pub async fn is_turn(&self, hook: &HookName) -> bool {
        self.tidy();
        let Err(later) = self.rounds.check_key(hook) else {
            return true;
        };
        tokio::time::sleep(later.wait_time_from(self.clock.now())).await;
        false
    }

    /// Whether one more of a hook's callers may say now that it has failed.
    pub fn takes_failure(&self, hook: &HookName) -> bool {
        self.tidy();
        self.failures.check_key(hook).is_ok()
    }

    /// Whether it may be written now that a pod has failed.
    pub fn writes_failure(&self, hook: &HookName, pod: Option<&str>) -> bool {
        let key = (hook.clone(), pod.map(str::to_owned));
        self.failures_of_pods.check_key(&key).is_ok()
    }

    /// Whether the server may be asked about a hook of this namespace whose token is not known.
    pub fn takes_look(&self, namespace: &str) -> bool {
        self.tidy();
        self.looks.check_key(&namespace.to_owned()).is_ok()
            && self.looks_in_all.check_key(&()).is_ok()
    }

    /// How many keys are remembered.
    fn len(&self) -> usize {
        self.rounds.len() + self.failures.len() + self.failures_of_pods.len() + self.looks.len()
    }

    fn tidy(&self) {
        if self.len() >= MANY && self.tidying.check_key(&()).is_ok() {
            self.rounds.retain_recent();
            self.failures.retain_recent();
            self.failures_of_pods.retain_recent();
            self.looks.retain_recent();
        }
    }
}

fn buckets<K: Clone + Eq + std::hash::Hash>(quota: Quota, clock: Tokio) -> Buckets<K> {
    RateLimiter::new(quota, DefaultKeyedStateStore::default(), clock)
}

/// Bytes of a text in the JSON that the API server stores: Go escapes what HTML would not take.
pub fn stored_bytes(text: &str) -> usize {
    let bytes = |character: char| match character {
        '"' | '\\' | '\n' | '\r' | '\t' => 2,
        '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => 6,
        control if control < ' ' => 6,
        other => other.len_utf8(),
    };
    text.chars().map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(number: usize) -> HookName {
        HookName {
            namespace: "ml".into(),
            name: format!("trainer-{number}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hook_waits_for_its_turn_and_no_other_hook_with_it() {
        let (pace, begin) = (Pace::new(), Instant::now());
        let mut turns = 0;
        while begin.elapsed() < Duration::from_secs(60) {
            turns += usize::from(pace.is_turn(&hook(0)).await);
        }
        assert!((305..=315).contains(&turns), "{turns}");
        let now = Instant::now();
        assert!(pace.is_turn(&hook(1)).await);
        assert_eq!(now.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_fails_once_a_second_and_a_hook_as_often_as_its_pods_need() {
        let (pace, of) = (Pace::new(), hook(0));
        assert!(pace.writes_failure(&of, Some("a")));
        assert!(!pace.writes_failure(&of, Some("a")));
        assert!(pace.writes_failure(&of, Some("b")));
        assert!(pace.writes_failure(&hook(1), Some("a")));
        let taken = (0..10_000).filter(|_| pace.takes_failure(&of));
        assert_eq!(taken.count(), 64);
        assert!(pace.takes_failure(&hook(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(pace.writes_failure(&of, Some("a")) && pace.takes_failure(&of));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_idle_is_forgotten() {
        let pace = Pace::new();
        for number in 0..20_000 {
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(pace.takes_failure(&hook(number)));
            assert!(pace.writes_failure(&hook(number), Some("a")));
        }
        assert!(pace.len() < 4 * MANY, "{}", pace.len());
    }

    #[tokio::test(start_paused = true)]
    async fn who_guesses_in_one_namespace_hinders_no_other() {
        let pace = Pace::new();
        let guesses = (0..1000).filter(|_| pace.takes_look("hostile"));
        assert_eq!(guesses.count(), 25);
        assert!(pace.takes_look("ml"));
    }

    #[test]
    fn a_text_is_measured_as_the_server_stores_it() {
        for (text, bytes) in [
            ("", 0),
            ("disk full", 9),
            ("é€", 5),
            ("\"\\\n\r\t", 10),
            ("<>&", 18),
            ("\u{0}\u{1f}\u{2028}\u{2029}", 24),
        ] {
            assert_eq!(stored_bytes(text), bytes, "{text:?}");
        }
    }
}
