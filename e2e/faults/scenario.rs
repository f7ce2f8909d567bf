//! What is played: each with a beginning that nobody disturbs, an act, and an end that must be
//! reached whatever happens meanwhile.

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use krake_hooks::api::condition::{self, ConditionType};
use krake_hooks::api::status::{Outcome, RequestState};
use krake_hooks::api::{HookCertificate, HookKind, KrakeHook, names};

use crate::client::{App, Said};
use crate::cluster::until;
use crate::subject::{SOON, Subject, deployment, is_rolled_out};

/// A scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scenario {
    /// Workload, then hook, until it is armed.
    Create,
    /// Somebody replaces the workload, all of ours with it, and changes the hook.
    Change,
    /// The app completes, and is removed.
    Complete,
    /// A deletion that waits for its acknowledgement.
    Shutdown,
    /// A deletion that nobody acknowledges.
    Deadline,
    /// Hook and workload are deleted together.
    Sweep,
    /// A certificate is issued anew.
    Renewal,
    /// The hook is deleted, the workload stays.
    Deletion,
    /// The workload is deleted, its pods stay.
    Orphan,
}

/// An act that goes on: the app, and the pod it speaks for.
pub struct Acting {
    app: Option<App>,
    pod: String,
    revision: i64,
}

/// So often an app tries again; it has time.
const RETRIES: usize = 12;

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Create,
        Self::Change,
        Self::Complete,
        Self::Shutdown,
        Self::Deadline,
        Self::Sweep,
        Self::Renewal,
        Self::Deletion,
        Self::Orphan,
    ];

    /// Its name, in small letters.
    pub fn word(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// The beginning: everything is as it is on a quiet day.
    pub async fn begin(self, subject: &Subject) -> Result<Acting, String> {
        let nobody = json!({"mode": "None"});
        let patient = json!({"callOut": nobody, "timeoutSeconds": 120});
        let spec = match self {
            Self::Create => {
                return Ok(Acting {
                    app: None,
                    pod: String::new(),
                    revision: 0,
                });
            }
            Self::Complete => json!({"complete": {}, "shutdown": patient}),
            Self::Deadline => json!({"shutdown": {"callOut": nobody, "timeoutSeconds": 3}}),
            _ => json!({"shutdown": patient}),
        };
        subject.armed(spec).await?;
        let pods = subject.pods().await?;
        let pod = pods.first().and_then(|pod| pod.uid()).ok_or("no pod")?;
        Ok(Acting {
            app: Some(subject.app().await?),
            pod,
            revision: revision(&certificate(subject).await?),
        })
    }

    /// The act. It goes on as far as it goes without the operator; what the app has to say, it says
    /// until it is heard.
    pub async fn act(self, subject: &Subject, acting: &Acting) -> Result<(), String> {
        match self {
            Self::Create => {
                subject.create_workload(1).await?;
                let nobody = json!({"mode": "None"});
                let spec =
                    json!({"complete": {}, "shutdown": {"callOut": nobody, "timeoutSeconds": 120}});
                subject.create_hook(spec).await
            }
            Self::Change => {
                replace_workload(subject).await?;
                let spec = json!({"spec": {"shutdown": {"timeoutSeconds": 121}}});
                subject.patch::<KrakeHook>(&subject.name, spec).await
            }
            Self::Complete => acting.acknowledge(HookKind::Complete).await,
            Self::Shutdown => {
                subject.delete_workload(DeleteParams::foreground()).await?;
                acting.when_asked(subject).await
            }
            Self::Deadline => subject.delete_workload(DeleteParams::background()).await,
            Self::Sweep => {
                let (hook, workload) = futures::join!(
                    subject.delete_hook(),
                    subject.delete_workload(DeleteParams::foreground())
                );
                hook.and(workload)?;
                match acting.when_asked(subject).await {
                    // It counted, the answer got lost, and by now the hook is gone as it should.
                    Err(_) if subject.hook().await?.is_none() => Ok(()),
                    told => told,
                }
            }
            Self::Renewal => {
                let hook = subject.hook().await?.ok_or("no hook")?;
                let name = names::of_hook(&subject.name, &hook.uid().unwrap_or_default());
                let renew = json!({"metadata": {"annotations": {names::RENEW_ANNOTATION: "now"}}});
                subject.patch::<HookCertificate>(&name, renew).await
            }
            Self::Deletion => subject.delete_hook().await,
            Self::Orphan => subject.delete_workload(DeleteParams::orphan()).await,
        }
    }

    /// Waits for the end.
    pub async fn end(self, subject: &Subject, acting: &Acting) -> Result<(), String> {
        match self {
            Self::Create => subject.rolled_out(1).await,
            Self::Change => {
                subject.rolled_out(1).await?;
                let changed = subject
                    .workload()
                    .await?
                    .is_some_and(|workload| is_changed(&workload));
                changed
                    .then_some(())
                    .ok_or_else(|| "somebody's change was lost".to_owned())
            }
            Self::Complete => {
                subject.removed().await?;
                let told = |status: &krake_hooks::api::KrakeHookStatus| {
                    status.completion.is_some()
                        && condition::is_true(&status.conditions, ConditionType::Completed)
                };
                subject.until_status("completed", told).await.map(|_| ())
            }
            Self::Shutdown => ended(subject, Outcome::Acknowledged).await,
            Self::Deadline => ended(subject, Outcome::TimedOut).await,
            Self::Sweep => {
                subject.removed().await?;
                nothing_left(subject).await
            }
            Self::Renewal => renewed(subject, acting.revision).await,
            Self::Deletion => {
                nothing_left(subject).await?;
                let look = async || {
                    let workload = subject.workload().await?.ok_or("the workload went too")?;
                    let ours = workload.finalizers().len()
                        + workload.metadata.owner_references.iter().len();
                    let sets = subject.replica_sets().await?;
                    let guarded = sets
                        .iter()
                        .filter(|set| set.owner_references().len() > 1)
                        .count();
                    match is_rolled_out(&workload, 1) && ours == 0 && guarded == 0 {
                        true => Ok(()),
                        false => Err(format!(
                            "{}: {ours} finalizers, {guarded} guarded",
                            subject.name
                        )),
                    }
                };
                until(SOON, look).await
            }
            Self::Orphan => orphaned(subject).await,
        }
    }
}

impl Acting {
    /// Waits until the app is asked, then acknowledges.
    async fn when_asked(&self, subject: &Subject) -> Result<(), String> {
        let look = async || {
            let hook = subject.hook().await?.ok_or("no hook")?;
            let request = hook
                .status
                .and_then(|status| status.workload_request().cloned());
            match request.filter(|request| request.state == RequestState::Open) {
                Some(_) => Ok(()),
                None => Err(format!("{}: not asked yet", subject.name)),
            }
        };
        until(SOON, look).await?;
        self.acknowledge(HookKind::Shutdown).await
    }

    /// Acknowledges until it is told something, which must be that it counts.
    pub async fn acknowledge(&self, kind: HookKind) -> Result<(), String> {
        let said = self.insist(kind).await?;
        match said.counts() {
            true => Ok(()),
            false => Err(format!(
                "the app was answered {:?}: {}",
                said.status, said.body
            )),
        }
    }

    async fn insist(&self, kind: HookKind) -> Result<Said, String> {
        let app = self.app.as_ref().ok_or("no app")?;
        Ok(app.insist(kind, &self.pod, RETRIES).await)
    }

    /// One acknowledgement that may be refused.
    pub async fn tell(&self, kind: HookKind) -> Result<Said, String> {
        let app = self.app.as_ref().ok_or("no app")?;
        Ok(app.tell(kind, &self.pod).await)
    }
}

async fn ended(subject: &Subject, outcome: Outcome) -> Result<(), String> {
    subject.removed().await?;
    let so = |status: &krake_hooks::api::KrakeHookStatus| {
        status
            .history
            .first()
            .is_some_and(|entry| entry.outcome == outcome)
            && status.phase == Some(krake_hooks::api::status::Phase::Released)
    };
    subject.until_status(&format!("{outcome:?}"), so).await?;
    // The canary goes with the workload.
    until(SOON, async || {
        let provided = subject.provided().await?;
        let canary = |value: &serde_json::Value| {
            value["metadata"]["labels"]
                .get(names::CANARY_LABEL)
                .is_some()
        };
        match provided.iter().any(|(_, value)| canary(value)) {
            false => Ok(()),
            true => Err(format!("{}: the canary is still there", subject.name)),
        }
    })
    .await
}

async fn nothing_left(subject: &Subject) -> Result<(), String> {
    until(SOON, async || {
        let hook = subject.hook().await?.is_some();
        let provided = subject.provided().await?;
        match !hook && provided.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "{}: hook {hook}, {:?}",
                subject.name,
                provided
                    .iter()
                    .map(|(kind, value)| format!("{kind} {}", value["metadata"]["name"]))
                    .collect::<Vec<_>>()
            )),
        }
    })
    .await
}

async fn certificate(subject: &Subject) -> Result<HookCertificate, String> {
    let hook = subject.hook().await?.ok_or("no hook")?;
    let name = names::of_hook(&subject.name, &hook.uid().unwrap_or_default());
    let found = subject.lane.all::<HookCertificate>().get(&name).await;
    found.map_err(|e| e.to_string())
}

fn revision(certificate: &HookCertificate) -> i64 {
    let status = certificate.status.as_ref();
    status.and_then(|status| status.revision).unwrap_or(0)
}

async fn renewed(subject: &Subject, before: i64) -> Result<(), String> {
    let secrets = subject.lane.all::<k8s_openapi::api::core::v1::Secret>();
    until(SOON, async || {
        let certificate = certificate(subject).await?;
        let revision = revision(&certificate);
        let status = certificate.status.unwrap_or_default();
        let recorded = status.secret.clone().ok_or("no Secret")?;
        let secret = secrets
            .get(&recorded.name)
            .await
            .map_err(|e| e.to_string())?;
        let same = secret.metadata.resource_version.as_ref() == Some(&recorded.resource_version);
        match revision > before && same {
            true => Ok(()),
            false => Err(format!(
                "revision {revision} after {before}, recorded as it is: {same}"
            )),
        }
    })
    .await
}

async fn orphaned(subject: &Subject) -> Result<(), String> {
    until(SOON, async || {
        let (sets, pods) = (subject.replica_sets().await?, subject.pods().await?);
        let free = sets
            .iter()
            .filter(|set| set.owner_references().is_empty())
            .count();
        let there = subject.workload().await?.is_some();
        let status = subject
            .hook()
            .await?
            .and_then(|hook| hook.status)
            .unwrap_or_default();
        let told = status
            .history
            .first()
            .is_some_and(|entry| entry.outcome == Outcome::Orphaned);
        match !there && told && free == sets.len() && !sets.is_empty() && pods.len() == 1 {
            true => Ok(()),
            false => Err(format!(
                "{}: Deployment {there}, told {told}, {free} of {} ReplicaSets free, {} pods",
                subject.name,
                sets.len(),
                pods.len()
            )),
        }
    })
    .await
}

/// What `kubectl replace` does: whatever is not in the file goes.
async fn replace_workload(subject: &Subject) -> Result<(), String> {
    let api = subject.lane.all::<Deployment>();
    until(SOON, async || {
        let there = api.get(&subject.name).await.map_err(|e| e.to_string())?;
        let mut object = deployment(&subject.name, 1);
        object["metadata"]["resourceVersion"] = json!(there.metadata.resource_version);
        object["spec"]["template"]["metadata"]["annotations"] = json!({"changed": "yes"});
        let object: Deployment = serde_json::from_value(object).expect("a Deployment");
        let replaced = api
            .replace(&subject.name, &PostParams::default(), &object)
            .await;
        replaced.map(|_| ()).map_err(|e| e.to_string())
    })
    .await
}

fn is_changed(workload: &Deployment) -> bool {
    let template = workload
        .spec
        .as_ref()
        .and_then(|spec| spec.template.metadata.as_ref());
    let annotations = template.and_then(|meta| meta.annotations.as_ref());
    annotations.is_some_and(|annotations| annotations.contains_key("changed"))
}
