//! An operator process over a [`World`]: the loop of the controllers, crashes, and everything that
//! must be so at every single step.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::api::condition::{self, ConditionType, Reason};
use crate::api::krake_hook::{OnTimeout, Quorum, QuorumPolicy, State};
use crate::api::status::{AckResult, Attempt, Phase, RequestState};
use crate::api::{HookKind, KrakeHook, KrakeHookStatus, WorkloadKind, names};
use crate::decide::hook::whole;
use crate::decide::lease::Predecessor;
use crate::decide::seen::{
    CallOutOrder, CallsMade, Next, Seen, annotation, has_finalizer, is_owned_by,
};
use crate::decide::{Effect, Fact, Settings, farewell, hook};
use crate::testing::build::{self, NAME};
use crate::testing::world::{World, has_dead_guard, is_guarded};

/// As many rounds as the controller allows.
const MOST_ROUNDS: usize = 32;
/// So many reconciles in one moment are a loop without end.
const MOST_RECONCILES: usize = 60;

/// What happened to a reconcile.
enum Stop {
    /// The process is gone.
    Crashed,
    /// Somebody was faster.
    Conflict,
}

/// A process that may crash, and the cluster it works on.
#[derive(Clone)]
pub struct Operator {
    /// The cluster.
    pub world: World,
    /// Effects that were carried out so far.
    pub spent: usize,
    /// What people were told by Events.
    pub notices: Vec<String>,
    settings: Settings,
    /// It crashes before the effect after so many.
    pub crash_after: Option<usize>,
    /// After a crash it stays away until it is started again.
    stays_down: bool,
    down: bool,
    /// Kubernetes' controllers work between any two effects, or only between two reconciles.
    eager: bool,
    calls: Option<(String, i64, CallsMade)>,
    /// Names of the pods that were called.
    pub called: Vec<String>,
    injections: Vec<Timestamp>,
    leaving: BTreeMap<String, Timestamp>,
    terms: usize,
    witness: Witness,
}

/// Remembers what was promised, independently of what is decided.
#[derive(Clone, Default)]
struct Witness {
    armed: bool,
    ending: bool,
    /// Template, and whether it is injected.
    shape: Option<(Value, bool)>,
    pods: BTreeSet<String>,
    promise: Option<Promise>,
}

#[derive(Clone)]
struct Promise {
    pods: BTreeSet<String>,
    since: Timestamp,
    orphan: bool,
    fulfilled: bool,
}

impl Operator {
    /// A process on an empty cluster that crashes after so many effects.
    pub fn new(tls: bool, eager: bool, crash_after: Option<usize>, stays_down: bool) -> Self {
        Self {
            world: World::new(),
            spent: 0,
            notices: Vec::new(),
            settings: build::settings("leader-0", tls),
            crash_after,
            stays_down,
            down: false,
            eager,
            calls: None,
            called: Vec::new(),
            injections: Vec::new(),
            leaving: BTreeMap::new(),
            terms: 0,
            witness: Witness::default(),
        }
    }

    /// The same, where users create workloads of this kind.
    pub fn of(mut self, kind: WorkloadKind) -> Self {
        self.world.kind = kind;
        self
    }

    /// Pods are to trust something else from now on; an empty bundle: nothing is known to sign.
    pub fn trust(&mut self, bundle: &str) {
        bundle.clone_into(&mut self.settings.bundle);
    }

    /// Somebody does something; then operator and cluster work until they rest.
    pub fn act(&mut self, act: impl FnOnce(&mut World)) -> Next {
        // A rollout while the operator is away makes pods that nobody guards yet: a stated limit.
        self.witness.armed &= !self.down || all_guarded(&self.world);
        act(&mut self.world);
        self.witness.look(&self.world);
        self.down = false;
        self.rest()
    }

    /// The process is gone with all it knew, and another one takes its place.
    pub fn crash(&mut self) {
        self.terms += 1;
        let next = format!("leader-{}", self.terms);
        self.settings.predecessor = Some(Predecessor {
            term: std::mem::replace(&mut self.settings.leader, next),
            renewed: self.world.now,
        });
        self.calls = None;
        self.injections.clear();
        self.leaving.clear();
        self.down = self.stays_down;
    }

    /// Whoever led before is not known: somebody deleted the Lease, or held it in between.
    pub fn forget_predecessor(&mut self) {
        self.settings.predecessor = None;
    }

    /// Lets time pass until nothing is left to do.
    pub fn run_out(&mut self) {
        self.down = false;
        for round in 0..400 {
            let next = self.rest();
            if round > 5 && self.is_refused() {
                // It is tried again for ever, and nothing comes of it.
                return;
            }
            let Next::At(at) = next else {
                // The guard controller looks for pods every ten seconds.
                self.act(|world| world.pass(10));
                return;
            };
            assert!(
                at > self.world.now,
                "it would look again without end: {at} is not after {}",
                self.world.now
            );
            self.stays_quiet_until(at);
            self.world.now = at;
        }
        panic!("time goes by and nothing comes to an end");
    }

    fn rest(&mut self) -> Next {
        for _ in 0..MOST_RECONCILES {
            self.settle();
            if self.down {
                return Next::AwaitChange;
            }
            let before = self.world.version;
            let Some(next) = self.reconcile_all() else {
                continue;
            };
            let called = self.finish_calls();
            self.settle();
            if self.world.version == before && !called {
                for hook in self.world.hooks.values() {
                    consistent(&hook.status.clone().unwrap_or_default(), self.world.now);
                }
                let guarded = !self.witness.armed || all_guarded(&self.world);
                assert!(
                    guarded,
                    "armed, and not all guarded: {}",
                    self.world.summary()
                );
                return next;
            }
        }
        panic!("reconciles do not come to an end: {}", self.world.summary());
    }

    /// Every hook and every guard once. Nothing if the process crashed meanwhile.
    fn reconcile_all(&mut self) -> Option<Next> {
        let mut next = Next::AwaitChange;
        for name in self.world.hooks.keys().cloned().collect::<Vec<_>>() {
            match self.reconcile(&name) {
                Ok(at) => next = next.earliest(at),
                Err(Stop::Conflict) => next = next.earliest(Next::At(self.world.now)),
                Err(Stop::Crashed) => return None,
            }
        }
        for name in self.world.guards.keys().cloned().collect::<Vec<_>>() {
            if let Err(Stop::Crashed) = self.reconcile_guard(&name) {
                return None;
            }
        }
        Some(next)
    }

    fn reconcile(&mut self, name: &str) -> Result<Next, Stop> {
        let Some(mut seen) = self.world.observe(name) else {
            return Ok(Next::AwaitChange);
        };
        self.remember(&mut seen);
        for _ in 0..MOST_ROUNDS {
            seen.calls = self.calls_of(&seen.status());
            let decision = hook::decide(&seen, &self.settings, self.world.now);
            let again = hook::decide(&seen, &self.settings, self.world.now);
            assert_eq!(decision, again, "the same look, another decision");
            if decision.effects.is_empty() {
                return Ok(decision.next);
            }
            for effect in &decision.effects {
                self.spend()?;
                self.is_recorded(name, effect);
                let fact = self.world.apply(&seen, effect);
                self.after_effect();
                match effect {
                    Effect::WriteStatus(status) => consistent(status, self.world.now),
                    Effect::CallOut(order) => {
                        self.begin_call(order);
                        continue;
                    }
                    Effect::ApplyInjection(_) if matches!(fact, Ok(Fact::Workload(_))) => {
                        self.injections.push(self.world.now);
                        seen.injections.push(self.world.now);
                    }
                    Effect::Event(notice) => {
                        let kind = if notice.warning { "Warning" } else { "Normal" };
                        let note = format!("{kind} {}: {}", notice.reason, notice.note);
                        self.notices.push(note);
                    }
                    _ => {}
                }
                let fact = fact.map_err(|_| Stop::Conflict)?;
                let rejected = matches!(fact, Fact::Rejected(_));
                seen.absorb(fact);
                if rejected {
                    break;
                }
            }
        }
        panic!("decisions do not come to an end: {}", self.world.summary());
    }

    /// Fills in what the process remembers.
    fn remember(&mut self, seen: &mut Seen) {
        seen.injections.clone_from(&self.injections);
        if seen.hook.metadata.deletion_timestamp.is_some() {
            let uid = seen.hook_uid().to_owned();
            seen.leaving_since = Some(*self.leaving.entry(uid).or_insert(self.world.now));
        }
    }

    fn reconcile_guard(&mut self, name: &str) -> Result<(), Stop> {
        let Some(left) = self.world.remains(name) else {
            return Ok(());
        };
        let namespace = left.workload.as_ref().map(|w| &w.metadata);
        let workload = left.guard.spec.workload.name.clone();
        for effect in farewell::decide(&left, self.world.now).effects {
            self.spend()?;
            let done = match &effect {
                Effect::ApplyInjection(patch) => self.world.inject(patch),
                Effect::RemoveEntries(patch) => self.world.remove_entries(&workload, patch),
                Effect::Unguard(set) => self.world.guard(set, None),
                Effect::DeleteDependent {
                    dependent,
                    resource_version,
                    foreground,
                } => self
                    .world
                    .delete_dependent(dependent, resource_version, *foreground),
                Effect::ReleaseWorkload { uid } => self.world.release(namespace, uid),
                Effect::RemoveCanary { name } => {
                    self.world.config_maps.remove(name);
                    self.world.version += 1;
                    Ok(Fact::Nothing)
                }
                Effect::DeleteGuard => {
                    self.world.guards.remove(name);
                    self.world.version += 1;
                    Ok(Fact::Nothing)
                }
                other => panic!("a farewell asks for {other:?}"),
            };
            self.after_effect();
            done.map_err(|_| Stop::Conflict)?;
        }
        Ok(())
    }

    fn spend(&mut self) -> Result<(), Stop> {
        if self.crash_after == Some(self.spent) {
            self.crash_after = None;
            self.crash();
            return Err(Stop::Crashed);
        }
        self.spent += 1;
        Ok(())
    }

    fn after_effect(&mut self) {
        self.witness.look(&self.world);
        if self.eager {
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.world.settle();
        self.witness.look(&self.world);
    }

    fn calls_of(&self, status: &crate::api::KrakeHookStatus) -> CallsMade {
        let request = status.workload_request();
        match (&self.calls, request) {
            (Some((id, round, made)), Some(r)) if *id == r.id && *round == r.round => made.clone(),
            _ => CallsMade::default(),
        }
    }

    fn begin_call(&mut self, order: &CallOutOrder) {
        let of = (order.request.clone(), order.round);
        let known = self.calls.take();
        let known = known.filter(|(id, round, _)| (id, *round) == (&of.0, of.1));
        let mut made = known.map(|(_, _, made)| made).unwrap_or_default();
        made.begin(&order.pod_uid);
        self.calls = Some((of.0, of.1, made));
        self.called.push(order.pod.clone());
    }

    /// Open calls are answered. True if there were any.
    fn finish_calls(&mut self) -> bool {
        let (code, acknowledges) = self.world.app;
        let now = whole(self.world.now);
        let Some((_, _, made)) = &mut self.calls else {
            return false;
        };
        let open = made.0.iter().filter(|(_, called)| called.open);
        let open: Vec<String> = open.map(|(uid, _)| uid.clone()).collect();
        for uid in &open {
            let mut pods = self.world.pods.values();
            let pod = pods.find(|pod| pod.metadata.uid.as_ref() == Some(uid));
            let attempt = Attempt {
                at: now.clone(),
                pod: pod.and_then(|pod| pod.metadata.name.clone()),
                code: code.to_owned(),
            };
            made.end(uid, attempt);
        }
        for uid in &open {
            if acknowledges {
                self.world
                    .acknowledge_as(HookKind::Shutdown, uid, AckResult::Success);
            }
        }
        !open.is_empty()
    }

    fn is_refused(&self) -> bool {
        let world = &self.world;
        world.refuses_injection || world.secret_taken || world.rejects.is_some()
    }

    /// Until then there is nothing to do, whatever the clock says.
    fn stays_quiet_until(&mut self, end: Timestamp) {
        let left = end.duration_since(self.world.now);
        let moments = [
            self.world.now,
            self.world.now + left / 2,
            end - SignedDuration::from_nanos(1),
        ];
        for now in moments {
            for name in self.world.hooks.keys() {
                let mut seen = self.world.observe(name).expect("it was listed");
                seen.calls = self.calls_of(&seen.status());
                seen.leaving_since = self.leaving.get(seen.hook_uid()).copied();
                seen.injections.clone_from(&self.injections);
                let decision = hook::decide(&seen, &self.settings, now);
                assert!(
                    decision.effects.is_empty() || self.is_refused(),
                    "at {now}, before {end}: {:?}",
                    decision.effects
                );
            }
        }
    }

    /// Nothing is done before what it depends on is in the status.
    fn is_recorded(&self, name: &str, effect: &Effect) {
        let stored = self
            .world
            .hooks
            .get(name)
            .and_then(|hook| hook.status.clone());
        let stored = stored.unwrap_or_default();
        let request = stored.workload_request();
        let workload = self.world.workloads.get(NAME);
        let leaves = |meta: &ObjectMeta| meta.deletion_timestamp.is_some();
        let ok = match effect {
            Effect::CallOut(order) => request.is_some_and(|r| {
                r.id == order.request
                    && r.state == RequestState::Open
                    && r.round == order.round
                    && r.leader == self.settings.leader
            }),
            Effect::ReleaseWorkload { uid } => {
                request.is_some_and(|r| r.state == RequestState::Closed && r.workload_uid == *uid)
            }
            Effect::DeleteDependent { .. } => {
                workload.is_none_or(|w| !leaves(&w.meta))
                    || request.is_some_and(|r| r.state == RequestState::Closed)
            }
            Effect::DeleteWorkload { uid } => stored
                .completion
                .is_some_and(|done| done.workload_uid == *uid),
            Effect::ApplyInjection(patch) if patch.get("spec").is_some() => {
                let uid = patch["metadata"]["uid"].as_str().unwrap_or_default();
                let derived_for = format!("{}.{uid}", self.settings.key_id);
                let token = stored.token.and_then(|token| token.derived_for);
                let has_certificate = self.world.certificates.values().any(|c| c.status.is_some());
                token == Some(derived_for)
                    && !self.world.guards.is_empty()
                    && (has_certificate || !self.settings.tls)
            }
            _ => true,
        };
        assert!(ok, "{effect:?} came before what it depends on was written");
    }
}

impl Witness {
    /// Looks at the cluster after every step: what was promised holds.
    fn look(&mut self, world: &World) {
        let sets = world.replica_sets.values().map(|set| &set.metadata);
        let metas = world.pods.values().map(|pod| &pod.metadata).chain(sets);
        for meta in metas {
            let dead = has_dead_guard(world, meta);
            assert!(!dead, "{:?} has a guard that is gone", meta.name);
        }
        let hook = world.hooks.get(NAME);
        let workload = world.workloads.get(NAME);
        let pods: BTreeSet<String> = world
            .pods
            .values()
            .filter_map(|pod| pod.metadata.uid.clone())
            .collect();
        let deleting = workload.is_some_and(|w| w.meta.deletion_timestamp.is_some());
        let stopping = hook.is_some_and(|hook| !deleting && is_to_rest(hook));
        // Somebody's own change replaces pods, and so does ours when the hook is to keep out.
        let shape = workload.map(|w| {
            let applied = w.applied.as_ref();
            let injected = applied.is_some_and(|a| a.get("spec").is_some());
            (w.written["template"].clone(), injected)
        });
        let leaving = hook.is_none_or(|hook| hook.metadata.deletion_timestamp.is_some());
        if stopping && (shape != self.shape || leaving) {
            self.promise = None;
        }
        self.shape = shape;
        let ending = deleting || stopping;
        if ending && !self.ending && self.armed {
            self.promise = Some(Promise {
                pods: self.pods.clone(),
                since: world.now,
                orphan: workload.is_some_and(|w| has_finalizer(&w.meta, names::ORPHAN_FINALIZER)),
                fulfilled: false,
            });
        }
        if workload.is_some() && !ending {
            // Created again: what becomes of pods that it adopts is its own matter.
            self.promise = None;
        }
        if world.lost_pods
            && let Some(promise) = &mut self.promise
        {
            promise
                .pods
                .retain(|pod| pods.contains(pod) || !self.pods.contains(pod));
        }
        if let Some(promise) = &mut self.promise {
            promise.fulfilled |= is_fulfilled(world, promise);
            let gone: Vec<_> = promise.pods.difference(&pods).collect();
            assert!(
                gone.is_empty() || promise.fulfilled,
                "pods {gone:?} were taken away without acknowledgement, deadline or reason: {}",
                world.summary()
            );
        }
        self.ending = ending;
        self.pods = pods;
        self.armed = hook
            .and_then(|hook| hook.status.as_ref())
            .is_some_and(|status| {
                let same = status.workload.as_ref().map(|w| w.uid.clone());
                condition::is_true(&status.conditions, ConditionType::Armed)
                    && workload.is_some_and(|w| w.meta.uid == same)
            });
    }
}

/// What people read says one thing, and it is true at this moment.
fn consistent(status: &KrakeHookStatus, now: Timestamp) {
    let is = |kind| condition::find(&status.conditions, kind).map(|c| c.status == "True");
    let ready = is(ConditionType::Ready);
    let what = || format!("{:?} {:#?}", status.phase, status.conditions);
    let types: BTreeSet<&str> = status.conditions.iter().map(|c| c.type_.as_str()).collect();
    assert_eq!(types.len(), status.conditions.len(), "{}", what());
    // What waits, is under way, or wants a person, is not ready; what is over is.
    let expected = match status.phase {
        None | Some(Phase::Armed | Phase::Ready) => ready,
        Some(Phase::Stopped | Phase::Released | Phase::Completed) => Some(true),
        Some(
            Phase::Pending
            | Phase::Injecting
            | Phase::Waiting
            | Phase::Retained
            | Phase::Stopping
            | Phase::Deleting,
        ) => Some(false),
    };
    // What the API server refuses stands there until it takes it.
    let refused = condition::is_because(&status.conditions, ConditionType::Ready, Reason::Rejected);
    assert!(refused || ready == expected, "{}", what());
    let waits = matches!(status.phase, Some(Phase::Waiting | Phase::Retained));
    let blocking = is(ConditionType::Blocking) == Some(true);
    assert!(!waits || blocking, "{}", what());
    assert!(!blocking || ready == Some(false), "{}", what());
    for condition in &status.conditions {
        assert!(!condition.reason.is_empty() && !condition.message.is_empty());
        let words: Vec<&str> = condition.message.split_whitespace().collect();
        for pair in words.windows(2) {
            let time = pair[1]
                .trim_end_matches([',', ';', '.'])
                .parse::<Timestamp>();
            // A moment that is over may be told, but not as one that is to come.
            let to_come = matches!(pair[0], "until" | "disarmed");
            let over = time.is_ok_and(|time| time < now);
            assert!(!to_come || !over, "{}", what());
        }
    }
}

/// Whether everything that the workload has made carries a guard: its pods, or its ReplicaSets, also
/// those at zero replicas.
fn all_guarded(world: &World) -> bool {
    let workload = world.workloads.get(NAME);
    let Some(workload) = workload.filter(|w| w.kind.traits().guarded.is_some()) else {
        return true;
    };
    let uid = workload.meta.uid.as_deref().unwrap_or_default();
    let sets = world.replica_sets.values().map(|set| &set.metadata);
    let pods = world.pods.values().map(|pod| &pod.metadata);
    let mut made = sets.chain(pods).filter(|meta| is_owned_by(meta, uid));
    made.all(is_guarded)
}

/// Whether something has happened for which armed pods may go.
fn is_fulfilled(world: &World, promise: &Promise) -> bool {
    if world.torn || world.namespace_terminating {
        return true;
    }
    if promise.orphan {
        return false;
    }
    let metas = [
        world.hooks.get(NAME).map(|hook| &hook.metadata),
        world.workloads.get(NAME).map(|w| &w.meta),
    ];
    let says = |name, this: fn(&str) -> bool| {
        let mut metas = metas.iter().flatten();
        metas.any(|meta| annotation(meta, name).is_some_and(this))
    };
    if says(names::SKIP_ANNOTATION, |reason| !reason.trim().is_empty())
        || says(names::HOOK_ANNOTATION, |word| word == names::DISABLED)
    {
        return true;
    }
    let Some(hook) = world.hooks.get(NAME) else {
        return false;
    };
    let Some(shutdown) = &hook.spec.shutdown else {
        return true;
    };
    let status = hook.status.clone().unwrap_or_default();
    let acknowledged = is_acknowledged(world, promise, &shutdown.acknowledgements, &status);
    let rounds = shutdown.retries.unwrap_or(0) + 1;
    let end = promise.since + SignedDuration::from_secs(30 * rounds);
    let over = world.now >= end && shutdown.on_timeout != Some(OnTimeout::Retain);
    let first = hook
        .spec
        .complete
        .as_ref()
        .is_some_and(|c| c.shutdown_first);
    acknowledged || (status.completion.is_some() && !first) || over
}

/// Whether the pods are to go although nobody deletes the workload.
fn is_to_rest(hook: &KrakeHook) -> bool {
    let status = hook.status.as_ref();
    let first = hook
        .spec
        .complete
        .as_ref()
        .is_some_and(|c| c.shutdown_first);
    let done = first && status.is_some_and(|status| status.completion.is_some());
    let stopped = status.and_then(|status| status.stopped.as_ref());
    let rests = stopped.is_some_and(|stopped| stopped.at.is_some());
    (hook.spec.state == State::Stopped || done) && !rests
}

/// Whether enough pods have said so, as a user would count them.
fn is_acknowledged(
    world: &World,
    promise: &Promise,
    quorum: &Quorum,
    status: &KrakeHookStatus,
) -> bool {
    let said: BTreeSet<&str> = status
        .acknowledgements
        .iter()
        .filter(|(_, ack)| ack.result == AckResult::Success)
        .filter_map(|(key, _)| key.strip_prefix("shutdown."))
        .collect();
    let lives = |uid: &&String| {
        let mut pods = world.pods.values();
        pods.any(|pod| pod.metadata.uid.as_ref() == Some(uid))
    };
    let silent = promise.pods.iter().filter(lives);
    let silent = silent.filter(|uid| !said.contains(uid.as_str())).count();
    match quorum.policy {
        QuorumPolicy::Any => !said.is_empty(),
        QuorumPolicy::All => !said.is_empty() && silent == 0,
        QuorumPolicy::AtLeast => {
            let wanted = quorum.count.and_then(|n| usize::try_from(n).ok());
            !said.is_empty() && (silent == 0 || Some(said.len()) >= wanted)
        }
    }
}
