//! Every kind of workload: what it gets, that its removal waits, and what is left of it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use krake_hooks::api::condition::{self, ConditionType};
use krake_hooks::api::kind::Change;
use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::status::{Outcome, Phase};
use krake_hooks::api::{HookKind, WorkloadKind, names};
use krake_hooks::outside::workloads;

use crate::stopped::set_state;
use crate::support::app::{Answer, App};
use crate::support::manifests;
use crate::support::pods::PodWitness;
use crate::support::runner::{Story, is_sample};
use crate::support::stage::{Stage, is_ready, status};
use crate::support::wait::{SOON, until};

macro_rules! kinds {
    ($($name:ident: $kind:ident),+ $(,)?) => {
        $(mod $name {
            use super::{Piece, Stage, Story, WorkloadKind};

            pub fn stories() -> Vec<Story> {
                crate::stories![Together:
                    waits_in_the_background,
                    waits_in_the_foreground,
                    lives_on_when_its_owner_goes_alone,
                    is_given_back_as_it_was,
                ]
            }

            async fn waits_in_the_background(stage: Stage) {
                Piece::armed(stage, WorkloadKind::$kind).await.waits("background").await;
            }

            async fn waits_in_the_foreground(stage: Stage) {
                Piece::armed(stage, WorkloadKind::$kind).await.waits("foreground").await;
            }

            async fn lives_on_when_its_owner_goes_alone(stage: Stage) {
                Piece::armed(stage, WorkloadKind::$kind).await.is_orphaned().await;
            }

            async fn is_given_back_as_it_was(stage: Stage) {
                Piece::armed(stage, WorkloadKind::$kind).await.is_given_back().await;
            }
        })+

        fn of_each_kind() -> Vec<Vec<Story>> {
            vec![$($name::stories()),+]
        }
    };
}

kinds! {
    stateful_set: StatefulSet,
    daemon_set: DaemonSet,
    replica_set: ReplicaSet,
    replication_controller: ReplicationController,
    job: Job,
}

pub fn stories() -> Vec<Story> {
    let mut stories = Vec::new();
    for (number, of_one) in of_each_kind().into_iter().enumerate() {
        let ways = of_one.len();
        let mine = |(way, _): &(usize, Story)| !is_sample() || way % ways == number % ways;
        let of_one = of_one.into_iter().enumerate().filter(mine);
        stories.extend(of_one.map(|(_, story)| story));
    }
    stories.extend(crate::stories![Together:
        a_stateful_set_in_the_middle_of_a_rollout_waits_in_the_foreground,
        a_stateful_set_that_updates_on_delete_says_so,
        a_stateful_set_completes_and_goes,
        a_job_completes_and_goes,
        a_pod_completes_and_goes,
        a_stateful_set_stops_and_starts,
        a_replica_set_stops_and_starts,
        a_replication_controller_stops_and_starts,
        a_job_stops_and_starts,
        a_replica_set_of_a_deployment_is_left_to_it,
        what_a_kind_cannot_do_is_refused,
    ]);
    stories
}

/// A workload of the app called `app`, and its hook of that name.
pub struct Piece {
    stage: Stage,
    kind: WorkloadKind,
    hook: KrakeHook,
    /// Its template, or labels and finalizers where that is all that is changed, before the hook.
    before: String,
    /// All its pods.
    pub pods: PodWitness,
    /// Those that are ready.
    pub apps: Vec<App>,
}

impl Piece {
    /// One of a kind, armed.
    pub async fn armed(stage: Stage, kind: WorkloadKind) -> Self {
        let hook = manifests::shutdown(json!({"timeoutSeconds": 120}));
        let piece = Self::made(stage, kind, manifests::workload(kind, "app"), hook).await;
        piece.await_pods(1, ConditionType::Armed).await
    }

    /// Hook and workload, in the order in which the kind's pods can have what they need.
    async fn made(stage: Stage, kind: WorkloadKind, workload: Value, hook: Value) -> Self {
        let _: Service = stage.create(manifests::service("shutdown", "app")).await;
        let pods = stage.witness("app").await;
        let hook = manifests::hook_of(kind, "app", "app", hook);
        let (hook, before) = if kind.traits().change == Change::Refused {
            let hook: KrakeHook = stage.create(hook).await;
            let uid = hook.uid().expect("a uid");
            let workload = manifests::reading(workload, kind, "app", &uid);
            create(&stage, kind, workload).await;
            (hook, String::new())
        } else {
            create(&stage, kind, workload).await;
            let before = given(&stage, kind).await;
            (stage.create(hook).await, before)
        };
        Self {
            stage,
            kind,
            hook,
            before,
            pods,
            apps: Vec::new(),
        }
    }

    /// Waits until it has so many pods that are ready and have what the kind gives them.
    async fn await_pods(self, wanted: usize, kind: ConditionType) -> Self {
        if self.kind.traits().change == Change::NewPodsOnly {
            let message = self.stage.await_refusal("app", "PodsNotReplaced").await;
            assert!(message.contains("delete the others"), "{message}");
            let old = ["delete", "pods", "--selector=app=app", "--wait=false"];
            self.stage.kubectl(&old).await;
        }
        self.await_new_pods(wanted, kind).await
    }

    /// The same, where all pods are new.
    async fn await_new_pods(mut self, wanted: usize, kind: ConditionType) -> Self {
        self.stage.await_condition("app", kind).await;
        self.hook = self
            .stage
            .await_condition("app", ConditionType::Ready)
            .await;
        let injected = self.kind.traits().change != Change::Refused;
        self.apps = until(format!("{wanted} pods"), SOON, async || {
            let all = pods_of(&self.stage).await?;
            let good = |pod: &Pod| {
                is_ready(pod) && pod.annotations().contains_key(names::STAMP_ANNOTATION) == injected
            };
            match all.len() == wanted && all.iter().all(good) {
                true => Ok(all),
                false => Err(format!(
                    "{:?}",
                    all.iter().map(Pod::name_any).collect::<Vec<_>>()
                )),
            }
        })
        .await
        .iter()
        .map(|pod| App::of(pod, self.stage.client.clone()))
        .collect();
        self
    }

    /// Uids of its pods that are ready.
    pub fn uids(&self) -> Vec<String> {
        self.apps.iter().map(|app| app.uid.clone()).collect()
    }

    /// Deletes it as a person does, and comes back at once.
    pub async fn delete(&self, cascade: &str) {
        let (kind, cascade) = (self.kind.traits().plural, format!("--cascade={cascade}"));
        self.stage
            .kubectl(&["delete", kind, "app", &cascade, "--wait=false"])
            .await;
    }

    /// The pods run, untouched, from the deletion to the acknowledgement; then all of it is gone.
    async fn waits(&self, cascade: &str) {
        let guard = self.stage.guard(&self.hook).await.expect("a guard");
        for pod in pods_of(&self.stage).await.unwrap() {
            let owners = pod.owner_references();
            assert!(
                owners
                    .iter()
                    .any(|owner| Some(&owner.uid) == guard.metadata.uid.as_ref()),
                "{owners:?}"
            );
        }
        let workload = self.workload().get("app").await.unwrap();
        self.delete(cascade).await;
        if cascade == "foreground" {
            self.garbage_collector_has_passed(&workload.uid().unwrap())
                .await;
        }
        until("one of the pods was called", SOON, async || {
            let mut calls = 0;
            for app in &self.apps {
                calls += app.calls().await?.len();
            }
            match calls {
                0 => Err("nobody was called".to_owned()),
                _ => Ok(()),
            }
        })
        .await;
        let uids = self.uids();
        self.pods
            .stay_untouched(&uids, Duration::from_secs(2))
            .await;
        self.acknowledge(HookKind::Shutdown).await.counts();
        self.is_gone(Outcome::Acknowledged).await;
    }

    /// It is gone, and all its pods are.
    async fn is_gone(&self, outcome: Outcome) {
        self.gone().await;
        self.pods.gone(&self.uids()).await;
        self.stage.ended("app", outcome).await;
        until("no pod left", SOON, async || {
            let left = pods_of(&self.stage).await?;
            match left.as_slice() {
                [] => Ok(()),
                [pod, ..] => Err(pod.name_any()),
            }
        })
        .await;
    }

    async fn is_orphaned(&self) {
        self.delete("orphan").await;
        self.gone().await;
        self.stage.ended("app", Outcome::Orphaned).await;
        self.pods
            .stay_untouched(&self.uids(), Duration::from_secs(3))
            .await;
        for pod in pods_of(&self.stage).await.unwrap() {
            assert_eq!(pod.owner_references(), [], "{}", pod.name_any());
        }
    }

    /// The annotation takes everything of ours off at once; what made the pods still owns them.
    async fn is_given_back(&self) {
        assert_ne!(given(&self.stage, self.kind).await, self.before);
        let resource = format!("{}/app", self.kind.traits().plural);
        let disabled = format!("{}={}", names::HOOK_ANNOTATION, names::DISABLED);
        self.stage
            .kubectl(&["annotate", &resource, &disabled])
            .await;
        until("nothing of ours on the workload", SOON, async || {
            let workload = self
                .workload()
                .get("app")
                .await
                .map_err(|e| e.to_string())?;
            let now = given(&self.stage, self.kind).await;
            let same = self.before.is_empty() || now == self.before;
            let bare = workload.finalizers().is_empty()
                && !workload.labels().contains_key(names::HOOK_LABEL);
            match same && bare {
                true => Ok(()),
                false => Err(format!("{now} {:?}", workload.metadata)),
            }
        })
        .await;
        until("no pod with a guard", SOON, async || {
            let guarded = pods_of(&self.stage).await?.into_iter().find(|pod| {
                let mut owners = pod.owner_references().iter();
                owners.any(|owner| owner.kind == "HookGuard")
            });
            guarded.map_or(Ok(()), |pod| Err(format!("{:?}", pod.metadata)))
        })
        .await;
    }

    /// Those into which nothing is injected speak with what they have mounted, for nobody's pod.
    async fn acknowledge(&self, kind: HookKind) -> Answer {
        let app = &self.apps[0];
        if self.kind.traits().change != Change::Refused {
            return app.acknowledge(kind).await;
        }
        let directory = "/etc/krake_cert";
        let token = app
            .output(&format!("cat {directory}/{}", names::TOKEN))
            .await;
        let url = app.output(&format!("cat {directory}/{kind}-url")).await;
        app.put(&url, &token, directory).await
    }

    /// The garbage collector has let go of every pod; without the guard it would have deleted them.
    async fn garbage_collector_has_passed(&self, workload_uid: &str) {
        until("pods let go by the garbage collector", SOON, async || {
            let all = pods_of(&self.stage).await?;
            assert!(!all.is_empty(), "the garbage collector took the pods");
            let held = |pod: &&Pod| {
                let mut owners = pod.owner_references().iter();
                owners.any(|owner| owner.uid == workload_uid)
            };
            match all.iter().find(held) {
                None => Ok(()),
                Some(pod) => Err(format!("{:?}", pod.metadata.owner_references)),
            }
        })
        .await;
    }

    fn workload(&self) -> Api<DynamicObject> {
        workloads(&self.stage.client, self.kind, &self.stage.namespace)
    }

    /// Waits until it is gone.
    pub async fn gone(&self) {
        until(format!("{} gone", self.kind), SOON, async || {
            match self.workload().get_opt("app").await {
                Ok(None) => Ok(()),
                Ok(Some(there)) => Err(serde_json::to_string(&there.metadata).unwrap()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }
}

/// Two pods that come at once, of which the rollout has replaced one; its successor is never ready.
async fn a_stateful_set_in_the_middle_of_a_rollout_waits_in_the_foreground(stage: Stage) {
    let kind = WorkloadKind::StatefulSet;
    let mut workload = manifests::workload(kind, "app");
    workload["spec"]["replicas"] = json!(2);
    workload["spec"]["podManagementPolicy"] = json!("Parallel");
    let hook = manifests::shutdown(json!({"timeoutSeconds": 120}));
    let piece = Piece::made(stage, kind, workload, hook).await;
    let mut piece = piece.await_pods(2, ConditionType::Armed).await;
    let stuck = json!({"spec": {"template": {"spec": {"containers": [{
        "name": "app",
        "readinessProbe": {"httpGet": {"path": "/calls", "port": 9}},
    }]}}}});
    let patch = ["patch", "statefulset", "app", "--patch", &stuck.to_string()];
    piece.stage.kubectl(&patch).await;
    let both = until("a pod of each template runs", SOON, async || {
        let living = piece.pods.living();
        let new = living
            .iter()
            .filter(|uid| !piece.uids().contains(uid))
            .count();
        match (living.len(), new) {
            (2, 1) => Ok(living),
            _ => Err(format!("{:#?}", piece.pods.all())),
        }
    })
    .await;
    piece
        .stage
        .await_condition("app", ConditionType::Armed)
        .await;
    piece.apps.retain(|app| both.contains(&app.uid));

    let workload = piece.workload().get("app").await.unwrap();
    piece.delete("foreground").await;
    piece
        .garbage_collector_has_passed(&workload.uid().unwrap())
        .await;
    piece.apps[0].called(1).await;
    piece
        .pods
        .stay_untouched(&both, Duration::from_secs(3))
        .await;
    piece.acknowledge(HookKind::Shutdown).await.counts();
    piece.is_gone(Outcome::Acknowledged).await;
}

async fn a_stateful_set_that_updates_on_delete_says_so(stage: Stage) {
    let kind = WorkloadKind::StatefulSet;
    let mut workload = manifests::workload(kind, "app");
    workload["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    let hook = manifests::shutdown(json!({}));
    let piece = Piece::made(stage, kind, workload, hook).await;
    let message = piece.stage.await_refusal("app", "OnDelete").await;
    assert!(message.contains("delete its pods one by one"), "{message}");
    piece
        .stage
        .kubectl(&["delete", "pod", "app-0", "--wait=false"])
        .await;
    piece.await_pods(1, ConditionType::Armed).await;
}

async fn a_stateful_set_completes_and_goes(stage: Stage) {
    completes(stage, WorkloadKind::StatefulSet).await;
}

async fn a_job_completes_and_goes(stage: Stage) {
    completes(stage, WorkloadKind::Job).await;
}

/// Only its own pod can say so, with what it has mounted by itself; nothing holds it.
async fn a_pod_completes_and_goes(stage: Stage) {
    completes(stage, WorkloadKind::Pod).await;
}

async fn a_stateful_set_stops_and_starts(stage: Stage) {
    stops_and_starts(stage, WorkloadKind::StatefulSet).await;
}

async fn a_replica_set_stops_and_starts(stage: Stage) {
    stops_and_starts(stage, WorkloadKind::ReplicaSet).await;
}

async fn a_replication_controller_stops_and_starts(stage: Stage) {
    stops_and_starts(stage, WorkloadKind::ReplicationController).await;
}

/// It is suspended, and goes on.
async fn a_job_stops_and_starts(stage: Stage) {
    stops_and_starts(stage, WorkloadKind::Job).await;
}

/// The app has its say first, and what was there before is there again.
async fn stops_and_starts(stage: Stage, kind: WorkloadKind) {
    let piece = Piece::armed(stage, kind).await;
    set_state(&piece.stage, "Stopped").await;
    piece.apps[0].called(1).await;
    let uids = piece.uids();
    piece
        .pods
        .stay_untouched(&uids, Duration::from_secs(2))
        .await;
    piece.acknowledge(HookKind::Shutdown).await.counts();
    piece.pods.gone(&uids).await;
    piece.stage.phase("app", Phase::Stopped).await;
    assert_eq!(piece.pods.living(), Vec::<String>::new());
    set_state(&piece.stage, "Running").await;
    let piece = piece.await_new_pods(1, ConditionType::Armed).await;
    assert_ne!(piece.uids(), uids);
    piece.waits("background").await;
}

async fn completes(stage: Stage, kind: WorkloadKind) {
    let workload = manifests::workload(kind, "app");
    let piece = Piece::made(stage, kind, workload, json!({"complete": {}})).await;
    let piece = piece.await_pods(1, ConditionType::Ready).await;
    let injected = condition::find(&status(&piece.hook).conditions, ConditionType::Injected);
    let injected = injected.expect("it is said");
    let object = names::of_hook("app", &piece.hook.uid().unwrap());
    if kind.traits().change == Change::Refused {
        assert_eq!(injected.reason, "TemplateImmutable", "{injected:?}");
        assert!(injected.message.contains(&object), "{injected:?}");
    } else {
        assert_eq!(injected.status, "True", "{injected:?}");
    }
    piece.acknowledge(HookKind::Complete).await.counts();
    piece.is_gone(Outcome::Completed).await;
    piece.stage.phase("app", Phase::Completed).await;
}

async fn a_replica_set_of_a_deployment_is_left_to_it(stage: Stage) {
    let kind = WorkloadKind::Deployment;
    create(&stage, kind, manifests::workload(kind, "app")).await;
    let sets = workloads(&stage.client, WorkloadKind::ReplicaSet, &stage.namespace);
    let set = until("a ReplicaSet", SOON, async || {
        let all = sets.list(&ListParams::default()).await;
        let first = all.map_err(|e| e.to_string())?.items.into_iter().next();
        first.ok_or("none yet".to_owned())
    })
    .await;
    let hook = manifests::hook_of(
        WorkloadKind::ReplicaSet,
        "app",
        &set.name_any(),
        manifests::shutdown(json!({})),
    );
    let _: KrakeHook = stage.create(hook).await;
    let message = stage.await_refusal("app", "WorkloadControlled").await;
    assert!(message.contains("Deployment app"), "{message}");
    let now = sets.get(&set.name_any()).await.unwrap();
    assert_eq!(now.finalizers(), [] as [String; 0]);
    assert_eq!(now.data["spec"], set.data["spec"]);
}

async fn what_a_kind_cannot_do_is_refused(stage: Stage) {
    let hook = |kind, spec| manifests::hook_of(kind, "app", "app", spec);
    let mut twisted = hook(WorkloadKind::Job, json!({"complete": {}}));
    twisted["spec"]["workload"]["apiVersion"] = json!("apps/v1");
    let named = json!({"complete": {}, "containers": ["app"]});
    let moved = json!({"shutdown": {"certMountPath": "/krake"}});
    for (hook, words) in [
        (
            hook(WorkloadKind::Pod, json!({"shutdown": {}})),
            "spec.shutdown: the removal of a Pod",
        ),
        (hook(WorkloadKind::Pod, named.clone()), "leave them out"),
        (hook(WorkloadKind::Job, named), "leave them out"),
        (hook(WorkloadKind::Job, moved), "leave them out"),
        (twisted, "spec.workload: one of"),
    ] {
        match stage.try_create::<KrakeHook>(hook.clone()).await {
            Err(kube::Error::Api(status)) => {
                assert!(status.message.contains(words), "{}", status.message);
            }
            other => panic!("{hook}: {other:?}"),
        }
    }
}

/// Creates a workload.
pub async fn create(stage: &Stage, kind: WorkloadKind, workload: Value) {
    let object: DynamicObject = serde_json::from_value(workload).expect("an object");
    let api = workloads(&stage.client, kind, &stage.namespace);
    let created = api.create(&PostParams::default(), &object).await;
    created.expect("can be created");
}

/// What a hook may change of a workload.
async fn given(stage: &Stage, kind: WorkloadKind) -> String {
    let path = match kind.traits().change {
        Change::Refused => "{.metadata.labels}{.metadata.finalizers}",
        Change::RollsOut | Change::NewPodsOnly => "{.spec.template}",
    };
    let output = format!("--output=jsonpath={path}");
    stage
        .kubectl(&["get", kind.traits().plural, "app", &output])
        .await
}

/// The pods of the workload, but those on their way out.
async fn pods_of(stage: &Stage) -> Result<Vec<Pod>, String> {
    let labels = ListParams::default().labels("app=app");
    let all = stage.all::<Pod>().list(&labels).await;
    let mut all = all.map_err(|e| e.to_string())?.items;
    all.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok(all)
}
