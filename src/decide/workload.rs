//! A workload of any kind, as far as a decision asks. What the kind can do is in its row of the table
//! in [`crate::api::kind`]; what this one object says is here.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use serde_json::Value;

use crate::api::kind::{Change, Stop, Traits, WorkloadKind};
use crate::api::names;

/// A workload, read from the API server's JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// The template of its pods. Only to be read: written, a typed one would claim more than ours.
    pub template: PodTemplateSpec,
    /// Labels of its pods, as far as they are a plain list.
    pub selector: BTreeMap<String, String>,
    /// How many pods there are and should be.
    pub pods: Pods,
    /// Its spec says that it is to run nothing: no replicas, or suspended.
    pub stopped: bool,
    /// Newest generation that its controller has seen.
    pub observed_generation: Option<i64>,
    /// Why pods do not get a changed template by themselves, if they do not.
    pub pace: Pace,
    /// What its controller complains of.
    pub complaints: Complaints,
}

/// What a controller says in the workload's status that it cannot do, in its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Complaints {
    /// Why it makes no pods: what a quota, a policy or a webhook has answered it.
    pub not_created: Option<String>,
    /// That the present rollout has run out of its time.
    pub stuck: Option<String>,
}

/// How many pods a workload has, as its controller counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    /// It should have so many.
    pub desired: usize,
    /// It has so many.
    pub current: usize,
    /// So many of them are of the newest template.
    pub updated: usize,
}

/// When pods get a changed template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// At once, one after the other.
    Rolling,
    /// When somebody resumes the rollout.
    Paused,
    /// When somebody deletes the old ones.
    OnDelete,
    /// Those below this number do not.
    Partition(i64),
}

impl Workload {
    /// Reads an object; `data` is all of it but its metadata.
    pub fn read(
        kind: WorkloadKind,
        metadata: ObjectMeta,
        data: &Value,
    ) -> Result<Self, serde_json::Error> {
        let traits = kind.traits();
        let template = data.pointer(traits.template).unwrap_or(&Value::Null);
        let mut template: PodTemplateSpec = match template {
            Value::Null => PodTemplateSpec::default(),
            template => serde_json::from_value(template.clone())?,
        };
        if traits.template.is_empty() {
            template.metadata = Some(ObjectMeta {
                labels: metadata.labels.clone(),
                annotations: metadata.annotations.clone(),
                ..ObjectMeta::default()
            });
        }
        Ok(Self {
            selector: selector(data),
            pods: Pods::read(kind, data),
            stopped: is_stopped(traits.stop, data),
            observed_generation: number(data, "/status/observedGeneration"),
            pace: Pace::read(data),
            complaints: Complaints::read(&metadata, data),
            kind,
            metadata,
            template,
        })
    }

    /// What its kind can do.
    pub fn traits(&self) -> &'static Traits {
        self.kind.traits()
    }

    /// Name, or nothing.
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Whether its template can be changed.
    pub fn is_changeable(&self) -> bool {
        self.traits().change != Change::Refused
    }

    /// What it gets back after it was stopped: so many replicas, unless it was suspended.
    pub fn replicas(&self) -> Option<i64> {
        let replicas = i64::try_from(self.pods.desired).unwrap_or(i64::MAX);
        (self.traits().stop == Stop::Replicas).then_some(replicas)
    }

    /// Whether it is we who have stopped it, as far as the API server remembers: nobody else has
    /// written that field since. Where it does not, because somebody has reset or strips the managed
    /// fields, it is at zero as we left it.
    pub fn is_stopped_by_us(&self) -> bool {
        let field = match self.traits().stop {
            Stop::Replicas => "f:replicas",
            Stop::Suspend => "f:suspend",
            Stop::Cannot => return false,
        };
        let owns = |entry: &&ManagedFieldsEntry| {
            let fields = entry.fields_v1.as_ref().and_then(|f| f.0.get("f:spec"));
            fields.is_some_and(|spec| spec.get(field).is_some())
        };
        let managers = self.metadata.managed_fields.iter().flatten();
        let mut owners = managers.filter(owns).map(|entry| entry.manager.as_deref());
        let ours = |manager| manager == Some(names::SCALE_MANAGER);
        // The API server's name for whoever it was before it began to keep books (anew).
        let unknown = |manager| manager == Some("before-first-apply");
        self.stopped && (owners.clone().any(ours) || owners.all(unknown))
    }

    /// Whether its controller knows the object as it is now.
    pub fn is_observed(&self) -> bool {
        self.observed_generation >= self.metadata.generation
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name())
    }
}

impl Pods {
    fn read(kind: WorkloadKind, data: &Value) -> Self {
        let first = |pointers: &[&str]| {
            let found = pointers.iter().find_map(|pointer| number(data, pointer));
            found.and_then(|n| usize::try_from(n).ok())
        };
        let current = first(&[
            "/status/replicas",
            "/status/currentNumberScheduled",
            "/status/active",
        ])
        .unwrap_or(0);
        let updated = match kind.traits().change {
            Change::RollsOut => {
                first(&["/status/updatedReplicas", "/status/updatedNumberScheduled"]).unwrap_or(0)
            }
            // Nobody counts them.
            Change::NewPodsOnly | Change::Refused => current,
        };
        let desired = first(&[
            "/spec/replicas",
            "/status/desiredNumberScheduled",
            "/spec/parallelism",
        ]);
        Self {
            desired: match is_stopped(kind.traits().stop, data) {
                true => 0,
                false => desired.unwrap_or(1),
            },
            current,
            updated,
        }
    }
}

impl Pace {
    fn read(data: &Value) -> Self {
        let partition = number(data, "/spec/updateStrategy/rollingUpdate/partition");
        if data.pointer("/spec/paused") == Some(&Value::Bool(true)) {
            Self::Paused
        } else if data.pointer("/spec/updateStrategy/type") == Some(&"OnDelete".into()) {
            Self::OnDelete
        } else if let Some(partition) = partition.filter(|partition| *partition > 0) {
            Self::Partition(partition)
        } else {
            Self::Rolling
        }
    }
}

impl Complaints {
    /// Only what is said of the object as it is now.
    fn read(metadata: &ObjectMeta, data: &Value) -> Self {
        let observed = number(data, "/status/observedGeneration");
        if observed < metadata.generation {
            return Self::default();
        }
        let conditions = data.pointer("/status/conditions").and_then(Value::as_array);
        let says = |kind: &str, status: &str, reason: Option<&str>| {
            let condition = conditions?.iter().find(|condition| {
                condition["type"] == kind
                    && condition["status"] == status
                    && reason.is_none_or(|reason| condition["reason"] == reason)
            })?;
            Some(condition["message"].as_str()?.to_owned())
        };
        Self {
            not_created: says("ReplicaFailure", "True", None),
            stuck: says("Progressing", "False", Some("ProgressDeadlineExceeded")),
        }
    }
}

fn selector(data: &Value) -> BTreeMap<String, String> {
    let labels = data.pointer("/spec/selector/matchLabels");
    let labels = labels.or(data.pointer("/spec/selector"));
    let labels = labels.and_then(Value::as_object).into_iter().flatten();
    let plain = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    labels.filter_map(plain).collect()
}

fn is_stopped(stop: Stop, data: &Value) -> bool {
    match stop {
        Stop::Replicas => number(data, "/spec/replicas") == Some(0),
        Stop::Suspend => data.pointer("/spec/suspend") == Some(&Value::Bool(true)),
        Stop::Cannot => false,
    }
}

fn number(data: &Value, pointer: &str) -> Option<i64> {
    data.pointer(pointer).and_then(Value::as_i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(kind: WorkloadKind, data: &Value) -> Workload {
        let meta = json!({"name": "trainer", "generation": 2, "labels": {"app": "trainer"}});
        Workload::read(kind, serde_json::from_value(meta).unwrap(), data).unwrap()
    }

    #[test]
    fn each_kind_counts_pods_in_words_of_its_own() {
        let pods = |desired, current, updated| Pods {
            desired,
            current,
            updated,
        };
        let replicas = json!({"spec": {"replicas": 3},
            "status": {"replicas": 2, "updatedReplicas": 1}});
        let nodes = json!({"status": {"desiredNumberScheduled": 3,
            "currentNumberScheduled": 2, "updatedNumberScheduled": 1}});
        let jobs = json!({"spec": {"parallelism": 3}, "status": {"active": 2}});
        let suspended = json!({"spec": {"parallelism": 3, "suspend": true},
            "status": {"active": 2}});
        for (kind, data, expected) in [
            (WorkloadKind::Deployment, &replicas, pods(3, 2, 1)),
            (WorkloadKind::StatefulSet, &replicas, pods(3, 2, 1)),
            (WorkloadKind::DaemonSet, &nodes, pods(3, 2, 1)),
            (WorkloadKind::ReplicaSet, &replicas, pods(3, 2, 2)),
            (
                WorkloadKind::ReplicationController,
                &replicas,
                pods(3, 2, 2),
            ),
            (WorkloadKind::Job, &jobs, pods(3, 2, 2)),
            (WorkloadKind::Job, &suspended, pods(0, 2, 2)),
            (WorkloadKind::StatefulSet, &json!({}), pods(1, 0, 0)),
        ] {
            assert_eq!(read(kind, data).pods, expected, "{kind}");
        }
    }

    #[test]
    fn what_keeps_pods_from_a_new_template_is_read() {
        let strategy = |strategy: Value| json!({"spec": {"updateStrategy": strategy}});
        for (data, pace) in [
            (json!({"spec": {}}), Pace::Rolling),
            (json!({"spec": {"paused": true}}), Pace::Paused),
            (strategy(json!({"type": "OnDelete"})), Pace::OnDelete),
            (
                strategy(json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}})),
                Pace::Partition(2),
            ),
            (
                strategy(json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})),
                Pace::Rolling,
            ),
        ] {
            assert_eq!(read(WorkloadKind::StatefulSet, &data).pace, pace, "{data}");
        }
    }

    #[test]
    fn pods_are_selected_as_their_controller_does() {
        let app = BTreeMap::from([("app".to_owned(), "trainer".to_owned())]);
        let labels = json!({"app": "trainer"});
        let expressions = json!([{"key": "app", "operator": "Exists"}]);
        for (selector, expected) in [
            (
                json!({"matchLabels": labels, "matchExpressions": expressions}),
                &app,
            ),
            (labels, &app),
            (json!({"matchExpressions": expressions}), &BTreeMap::new()),
        ] {
            let data = json!({"spec": {"selector": selector}});
            let read = read(WorkloadKind::ReplicationController, &data);
            assert_eq!(&read.selector, expected, "{selector}");
        }
    }

    #[test]
    fn a_pod_is_its_own_template() {
        let spec = json!({"containers": [{"name": "app", "image": "app"}]});
        let pod = read(WorkloadKind::Pod, &json!({"spec": spec}));
        let template = json!({"spec": {"template": {"metadata": {"labels": {"app": "trainer"}},
            "spec": spec}}});
        let job = read(WorkloadKind::Job, &template);
        assert_eq!(pod.template, job.template);
        assert_eq!(pod.to_string(), "Pod trainer");
    }

    #[test]
    fn a_zero_is_ours_unless_somebody_else_has_written_it() {
        let stopped = |managers: &[&str]| {
            let entry = |manager: &&str| {
                json!({"manager": manager, "operation": "Update", "fieldsType": "FieldsV1",
                    "fieldsV1": {"f:spec": {"f:replicas": {}}}})
            };
            let managers: Vec<_> = managers.iter().map(entry).collect();
            let meta = json!({"name": "trainer", "managedFields": managers});
            let meta = serde_json::from_value(meta).unwrap();
            let data = json!({"spec": {"replicas": 0}});
            let read = Workload::read(WorkloadKind::Deployment, meta, &data);
            read.unwrap().is_stopped_by_us()
        };
        assert!(stopped(&[names::SCALE_MANAGER]));
        assert!(stopped(&["kubectl", names::SCALE_MANAGER]));
        assert!(!stopped(&["kubectl"]));
        // Reset, and reset with an apply since.
        assert!(stopped(&[]));
        assert!(stopped(&["before-first-apply"]));
        assert!(!stopped(&["before-first-apply", "kubectl"]));
    }

    #[test]
    fn what_is_no_template_is_an_error() {
        let data = json!({"spec": {"template": {"spec": "containers"}}});
        let kind = WorkloadKind::Deployment;
        assert!(Workload::read(kind, ObjectMeta::default(), &data).is_err());
    }
}
