//! Writes to workloads and what they own: injected, guarded, scaled, released, deleted.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::{DynamicObject, PartialObjectMeta};
use serde_json::{Value, json};

use super::{Writer, deleted, guard, without_finalizer};
use crate::api::kind::Stop;
use crate::api::{DependentKind, WorkloadKind, names};
use crate::cluster::error::faults;
use crate::cluster::{Act, Error, objects, observe, said};
use crate::decide::seen::{Dependent, Refusal};
use crate::decide::{Fact, Seen, Workload};

impl Writer {
    pub(super) async fn inject(&self, seen: &Seen, patch: &Value) -> Result<Fact, Error> {
        let Some(workload) = &seen.workload else {
            return Ok(Fact::WorkloadGone);
        };
        changed(self.change(seen.namespace(), workload.kind, patch).await)
    }

    pub(super) async fn take_out(&self, seen: &Seen, patch: &[Value]) -> Result<Fact, Error> {
        let Some(workload) = &seen.workload else {
            return Ok(Fact::WorkloadGone);
        };
        match self.remove_entries(workload, patch).await {
            Ok(None) => Ok(Fact::WorkloadGone),
            Ok(Some(workload)) => Ok(Fact::Workload(Box::new(workload))),
            Err(error) if error.code() == 403 => changed(Err(error)),
            Err(error) => Err(error),
        }
    }

    /// A JSON patch that takes entries of ours out of a workload; nothing if it is gone.
    pub async fn remove_entries(
        &self,
        workload: &Workload,
        patch: &[Value],
    ) -> Result<Option<Workload>, Error> {
        let meta = &workload.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let kind = workload.kind;
        let api = observe::workloads(&self.client, kind, namespace);
        let left = self.patched(&api, kind.traits().name, meta, json!(patch));
        let left = left.await?.map(|object| observe::read(kind, object));
        let described = || format!("{workload} in {namespace}");
        left.transpose().map_err(Error::of(Act::Get, described()))
    }

    /// By server-side apply: one that stands there without its labels, by which it is found, gets
    /// them back.
    pub(super) async fn create_canary(
        &self,
        seen: &Seen,
        workload_uid: &str,
    ) -> Result<Fact, Error> {
        let canary = objects::canary(seen, workload_uid);
        let applied = self
            .applied::<ConfigMap>(seen, names::CONTROLLER_MANAGER, &canary)
            .await?;
        Ok(Fact::Canary(Box::new(applied)))
    }

    pub(super) async fn remove_canary(&self, seen: &Seen, name: &str) -> Result<Fact, Error> {
        let canary = seen
            .canaries
            .iter()
            .find(|c| c.metadata.name.as_deref() == Some(name));
        if let Some(canary) = canary {
            self.drop_canary(seen.namespace(), canary).await?;
        }
        Ok(Fact::CanaryGone(name.to_owned()))
    }

    /// Deletes a canary, then takes its finalizer off: until the last write it is found by that.
    pub async fn drop_canary(&self, namespace: &str, canary: &ConfigMap) -> Result<(), Error> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let deleted = self.deleted(&api, &canary.metadata).await;
        match deleted {
            // Without label and finalizer our own policy keeps us from it; it is nobody's burden.
            Err(error) if error.code() == 403 => {}
            done => done?,
        }
        if let Some(patch) = without_finalizer(&canary.metadata, names::CANARY_FINALIZER) {
            self.patched(&api, "ConfigMap", &canary.metadata, patch)
                .await?;
        }
        Ok(())
    }

    /// Server-side apply of injection and finalizer to a workload.
    pub async fn change(
        &self,
        namespace: &str,
        kind: WorkloadKind,
        patch: &Value,
    ) -> Result<Workload, Error> {
        let name = patch["metadata"]["name"].as_str().unwrap_or_default();
        let parameters = PatchParams::apply(names::INJECT_MANAGER).force();
        observe::workloads(&self.client, kind, namespace)
            .patch(name, &parameters, &Patch::Apply(patch))
            .await
            .and_then(|object| observe::read(kind, object))
            .map_err(Error::of(Act::Apply, format!("{kind} {namespace}/{name}")))
    }

    /// Takes the guard off what a workload made, if it is still as it was seen: another hook's guard
    /// may have come, or the workload may have gone and left it to the guard alone.
    pub async fn unguard(
        &self,
        namespace: &str,
        dependent: &Dependent,
        resource_version: Option<&str>,
    ) -> Result<Fact, Error> {
        let mut patch = objects::guarded(namespace, dependent, None);
        if let Some(version) = resource_version {
            patch["metadata"]["resourceVersion"] = json!(version);
        }
        match self.guarded(namespace, dependent, patch).await {
            Ok(metadata) => Ok(Fact::Dependent(dependent.kind, Box::new(metadata))),
            Err(error) if error.code() == 404 => Ok(Fact::DependentGone(dependent.uid.clone())),
            Err(error) => Err(Error {
                act: Act::Patch,
                ..error
            }),
        }
    }

    /// Puts the guard on what a workload made.
    pub(super) async fn guard(&self, seen: &Seen, dependent: &Dependent) -> Result<Fact, Error> {
        let guard = guard(seen);
        let by = (seen.hook_name(), seen.hook_uid(), guard.as_str());
        self.put_guard(seen.namespace(), by, dependent).await
    }

    /// The same; `by` is the hook's name, its uid, and the uid of its guard.
    pub async fn put_guard(
        &self,
        namespace: &str,
        by: (&str, &str, &str),
        dependent: &Dependent,
    ) -> Result<Fact, Error> {
        let (hook, hook_uid, guard) = by;
        let reference = objects::guard_reference(hook_uid, guard);
        let patch = objects::guarded(namespace, dependent, Some((hook, reference)));
        match self.guarded(namespace, dependent, patch).await {
            Ok(metadata) => Ok(Fact::Dependent(dependent.kind, Box::new(metadata))),
            // Gone, or another one of that name: it needs no guard of ours. Or it is there, and
            // somebody refuses: then nothing may be said of it.
            Err(error) if matches!(error.code(), 404 | 409 | 422) => {
                match self.is_there(namespace, dependent).await? {
                    true => Err(error),
                    false => Ok(Fact::DependentGone(dependent.uid.clone())),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the guard the controller of what a workload made, if it is still as it was seen: another
    /// one may have come.
    pub(super) async fn control(&self, seen: &Seen, dependent: &Dependent) -> Result<Fact, Error> {
        let mut reference = objects::guard_reference(seen.hook_uid(), &guard(seen));
        reference["controller"] = json!(true);
        let by = Some((seen.hook_name(), reference));
        let mut patch = objects::guarded(seen.namespace(), dependent, by);
        patch["metadata"]["resourceVersion"] = json!(seen.version_of(dependent));
        match self.guarded(seen.namespace(), dependent, patch).await {
            Ok(metadata) => Ok(Fact::Dependent(dependent.kind, Box::new(metadata))),
            Err(error) if error.code() == 404 => Ok(Fact::DependentGone(dependent.uid.clone())),
            Err(error) => Err(Error {
                act: Act::Patch,
                ..error
            }),
        }
    }

    async fn is_there(&self, namespace: &str, dependent: &Dependent) -> Result<bool, Error> {
        let api = self.dependents(namespace, dependent.kind);
        let there = api.get_metadata_opt(&dependent.name).await;
        let there = there.map_err(Error::of(
            Act::Get,
            format!("{} {namespace}/{}", dependent.kind, dependent.name),
        ))?;
        Ok(there.is_some_and(|there| there.metadata.uid.as_ref() == Some(&dependent.uid)))
    }

    pub(super) async fn guarded(
        &self,
        namespace: &str,
        dependent: &Dependent,
        patch: Value,
    ) -> Result<ObjectMeta, Error> {
        let parameters = PatchParams::apply(names::GUARD_MANAGER).force();
        self.dependents(namespace, dependent.kind)
            .patch_metadata(&dependent.name, &parameters, &Patch::Apply(patch))
            .await
            .map(|PartialObjectMeta { metadata, .. }| metadata)
            .map_err(Error::of(
                Act::Apply,
                format!("guard on {} {namespace}/{}", dependent.kind, dependent.name),
            ))
    }

    /// Deletes what a workload made if it is still the one that was seen.
    pub async fn delete_dependent(
        &self,
        namespace: &str,
        dependent: &Dependent,
        resource_version: &str,
        foreground: bool,
    ) -> Result<Fact, Error> {
        let how = if foreground {
            DeleteParams::foreground()
        } else {
            DeleteParams::background()
        };
        let exactly = how.preconditions(Preconditions {
            uid: Some(dependent.uid.clone()),
            resource_version: Some(resource_version.to_owned()),
        });
        let api = self.dependents(namespace, dependent.kind);
        deleted(api.delete(&dependent.name, &exactly).await).map_err(Error::of(
            Act::Delete,
            format!("{} {namespace}/{}", dependent.kind, dependent.name),
        ))?;
        Ok(Fact::DependentGone(dependent.uid.clone()))
    }

    pub(super) fn dependents(&self, namespace: &str, kind: DependentKind) -> Api<DynamicObject> {
        let resource = observe::dependent_resource(kind);
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    pub(super) async fn release_workload(&self, seen: &Seen, uid: &str) -> Result<Fact, Error> {
        let Some(workload) = &seen.workload else {
            return Ok(Fact::WorkloadGone);
        };
        self.release(seen.namespace(), workload, uid).await
    }

    /// Takes our finalizer off a workload. It tests nothing but the finalizer and the uid: a
    /// Deployment's controller writes the terminating Deployment all the time.
    pub async fn release(
        &self,
        namespace: &str,
        workload: &Workload,
        uid: &str,
    ) -> Result<Fact, Error> {
        let mut meta = workload.metadata.clone();
        meta.uid = Some(uid.to_owned());
        let Some(patch) = without_finalizer(&meta, names::SHUTDOWN_FINALIZER) else {
            return Ok(Fact::Nothing);
        };
        let kind = workload.kind;
        let api = observe::workloads(&self.client, kind, namespace);
        let left = self.patched(&api, kind.traits().name, &meta, patch).await?;
        let left = left.map(|object| observe::read(kind, object)).transpose();
        let left = left.map_err(Error::of(Act::Get, format!("{workload} in {namespace}")))?;
        Ok(left.map_or(Fact::WorkloadGone, |w| Fact::Workload(Box::new(w))))
    }

    pub(super) async fn delete_workload(&self, seen: &Seen, uid: &str) -> Result<Fact, Error> {
        let Some(workload) = &seen.workload else {
            return Ok(Fact::WorkloadGone);
        };
        let (kind, name) = (workload.kind, workload.name());
        let exactly = DeleteParams::background().preconditions(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        });
        let api = observe::workloads(&self.client, kind, seen.namespace());
        let object = || format!("{kind} {}/{name}", seen.namespace());
        if !self
            .label_completed(&api, name, json!({"uid": uid}), Some(seen.hook_name()))
            .await
            .map_err(Error::of(Act::Patch, object()))?
        {
            return Ok(Fact::WorkloadGone);
        }
        if let Err(refused) = deleted(api.delete(name, &exactly).await) {
            // It stays as it was; whoever refuses is asked again.
            let unlabelled = self
                .label_completed(&api, name, json!({"uid": uid}), None)
                .await;
            if let Err(error) = unlabelled {
                tracing::debug!(%error, workload = object(), "could not remove the label of a completed workload");
            }
            return Err(Error::of(Act::Delete, object())(refused));
        }
        // Whether it is gone or waits for its finalizer is seen by looking again.
        let left = observe::workload(&self.client, Some(kind), seen.namespace(), name).await?;
        Ok(
            match left.filter(|w| w.metadata.uid.as_deref() == Some(uid)) {
                Some(left) => Fact::Workload(Box::new(left)),
                None => Fact::WorkloadGone,
            },
        )
    }

    /// Takes the label of a completed workload off, if it is still as it was seen.
    pub async fn unlabel_completed(
        &self,
        namespace: &str,
        workload: &Workload,
    ) -> Result<(), Error> {
        let (kind, name) = (workload.kind, workload.name());
        let api = observe::workloads(&self.client, kind, namespace);
        let exactly = json!({"resourceVersion": workload.metadata.resource_version});
        let unlabelled = self.label_completed(&api, name, exactly, None).await;
        let object = format!("{kind} {namespace}/{name}");
        unlabelled
            .map(|_| ())
            .map_err(Error::of(Act::Patch, object))
    }

    /// Says of the workload of exactly this metadata that it is complete, or no more; whether it is
    /// there.
    async fn label_completed(
        &self,
        api: &Api<DynamicObject>,
        name: &str,
        mut exactly: Value,
        hook: Option<&str>,
    ) -> kube::Result<bool> {
        exactly["labels"] = json!({names::COMPLETED_LABEL: hook});
        let patch = json!({"metadata": exactly});
        let parameters = PatchParams {
            field_manager: Some(names::CONTROLLER_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match api
            .patch_metadata(name, &parameters, &Patch::Merge(patch))
            .await
        {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Scales a workload to zero (`None`) or to so many replicas, or suspends and resumes it; if it is
    /// still as it was seen.
    pub(super) async fn scale(
        &self,
        seen: &Seen,
        resource_version: &str,
        to: Option<i64>,
    ) -> Result<Fact, Error> {
        let Some(workload) = &seen.workload else {
            return Ok(Fact::WorkloadGone);
        };
        let kind = workload.kind;
        let spec = match kind.traits().stop {
            Stop::Replicas => json!({"replicas": to.unwrap_or(0)}),
            Stop::Suspend => json!({"suspend": to.is_none()}),
            Stop::Cannot => return Ok(Fact::Nothing),
        };
        let patch = json!({"metadata": {"resourceVersion": resource_version}, "spec": spec});
        let parameters = PatchParams {
            field_manager: Some(names::SCALE_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api = observe::workloads(&self.client, kind, seen.namespace());
        let scaled = api
            .patch(workload.name(), &parameters, &Patch::Merge(patch))
            .await;
        let object = || format!("{workload} in {}", seen.namespace());
        match scaled {
            Ok(scaled) => {
                let scaled = observe::read(kind, scaled).map_err(Error::of(Act::Get, object()))?;
                Ok(Fact::Workload(Box::new(scaled)))
            }
            Err(error @ kube::Error::Api(_))
                if matches!(crate::cluster::error::code(&error), 403 | 422) =>
            {
                let message = said(&error);
                Ok(Fact::Refused(Refusal::ScaleRejected { message }))
            }
            Err(source) => Err(Error::of(Act::Patch, object())(source)),
        }
    }
}

/// The changed workload; or that the API server refuses the change until a person acts.
fn changed(answer: Result<Workload, Error>) -> Result<Fact, Error> {
    match answer {
        Ok(workload) => Ok(Fact::Workload(Box::new(workload))),
        // Another workload has its name now.
        Err(error) if faults(&error.source, "metadata.uid") => Err(Error {
            act: Act::Patch,
            ..error
        }),
        Err(error) if matches!(error.code(), 403 | 422) => {
            Ok(Fact::Refused(Refusal::InjectionRejected {
                message: said(&error.source),
            }))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Class;
    use crate::testing;
    use crate::testing::build::{self, NAME};
    use crate::testing::world::World;
    use hyper::Method;

    #[tokio::test]
    async fn another_workload_of_that_name_is_told_by_the_field_and_not_by_words() {
        let mut world = World::new();
        world.create_workload(build::deployment(NAME));
        world.create_hook(build::hook(NAME).shutdown());
        let seen = world.observe(NAME).expect("the hook is there");
        let patch = json!({"metadata": {"name": NAME}});
        for (message, field, refused) in [
            ("field is immutable", "metadata.uid", false),
            ("the policy asks for a uid in the label team", "", true),
        ] {
            let status = json!({"kind": "Status", "status": "Failure", "code": 422,
                "reason": "Invalid", "message": message,
                "details": {"causes": [{"field": field, "message": message}]}});
            let client = testing::answered_by(move |_, _| (422, status.clone()));
            let answer = Writer::for_release(client).inject(&seen, &patch).await;
            match refused {
                true => assert!(matches!(answer, Ok(Fact::Refused(_))), "{answer:?}"),
                false => assert_eq!(answer.expect_err(message).class(), Class::Conflict),
            }
        }
    }

    #[tokio::test]
    async fn what_is_complete_says_so_while_it_is_deleted() {
        use std::sync::{Arc, Mutex};
        let mut world = World::new();
        world.create_hook(build::hook(NAME).complete());
        let mut seen = world.observe(NAME).expect("the hook is there");
        let deployment = build::deployment(NAME).with("/metadata/uid", json!("workload"));
        let deployment = serde_json::to_value(deployment.0).expect("an object");
        let object = serde_json::from_value(deployment.clone()).expect("an object");
        seen.workload = observe::read(crate::api::WorkloadKind::Deployment, object).ok();
        // Whether the deletion is let pass, and what is asked for.
        for (passes, wanted) in [
            (true, &["PATCH", "DELETE", "GET"][..]),
            (false, &["PATCH", "DELETE", "PATCH"]),
        ] {
            let asked = Arc::new(Mutex::new(Vec::new()));
            let told = Arc::clone(&asked);
            let answer = deployment.clone();
            let client = testing::answered_by(move |method, _| {
                told.lock().expect("no panic").push(method.to_string());
                let refusal = json!({"kind": "Status", "status": "Failure", "code": 422,
                    "reason": "Invalid", "message": "denied"});
                match method == Method::DELETE && !passes {
                    true => (422, refusal),
                    false => (200, answer.clone()),
                }
            });
            let writer = Writer::for_release(client);
            let fact = writer.delete_workload(&seen, "workload").await;
            assert_eq!(fact.is_ok(), passes, "{fact:?}");
            assert_eq!(*asked.lock().expect("no panic"), wanted);
        }
    }

    #[tokio::test]
    async fn a_guard_that_is_refused_is_not_one_that_is_not_needed() {
        let mut world = World::new();
        world.create_hook(build::hook(NAME).shutdown());
        let seen = world.observe(NAME).expect("the hook is there");
        let set = Dependent {
            kind: DependentKind::ReplicaSet,
            name: "set".into(),
            uid: "uid".into(),
        };
        // Answer to the patch, uid of what has that name now, whether it is gone.
        for (code, there, gone) in [
            (409, Some("uid"), false),
            (422, Some("uid"), false),
            (409, Some("another"), true),
            (422, None, true),
            (404, None, true),
        ] {
            let client = testing::answered_by(move |method, _| {
                let failure = |code| {
                    let reason = if code == 404 { "NotFound" } else { "Invalid" };
                    json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason})
                };
                match (method, there) {
                    (&Method::PATCH, _) => (code, failure(code)),
                    (_, Some(uid)) => (
                        200,
                        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                            "metadata": {"name": "set", "namespace": "ml", "uid": uid}}),
                    ),
                    (_, None) => (404, failure(404)),
                }
            });
            let fact = Writer::for_release(client).guard(&seen, &set).await;
            let row = format!("{code}, {there:?}: {fact:?}");
            match gone {
                true => assert!(matches!(fact, Ok(Fact::DependentGone(_))), "{row}"),
                false => assert!(fact.is_err(), "{row}"),
            }
        }
    }
}
