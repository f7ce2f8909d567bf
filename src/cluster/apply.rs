//! Writing: carries out what was decided, one effect at a time, and says what became known.
//!
//! Every write is safe when another writer, or a second self, was faster: it names the uid or the
//! resourceVersion it was decided on, or a JSON patch tests what it is about to change.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use secrecy::{ExposeSecret, SecretBox};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::fence::Fence;
use super::secrets::{self, SecretError, SecretOrder};
use super::{Act, Error, objects, observe, said};
use crate::api::kind::Stop;
use crate::api::status::TokenSecret;
use crate::api::{DependentKind, HookCertificate, HookGuard, KrakeHook, WorkloadKind, names};
use crate::decide::pods::guard_uid;
use crate::decide::seen::{Dependent, Notice, Refusal, Secrets};
use crate::decide::{Effect, Fact, Seen, Workload};
use crate::pki::{Ring, SecretData};

/// What is needed to write.
#[derive(Clone)]
pub struct Writer {
    /// The API server.
    pub client: Client,
    /// Derives tokens; `release-all` has none.
    pub ring: Option<Arc<Ring>>,
    /// Whether the admission policy fences our writes to Secrets.
    pub fence: Fence,
    /// Makes Events.
    pub recorder: Recorder,
}

impl Writer {
    /// A writer for `release-all`, which gives nobody a token.
    pub fn for_release(client: Client) -> Self {
        let reporter = Reporter::from("krake-hooks-release-all".to_owned());
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            ring: None,
            fence: Fence::default(),
        }
    }

    /// Takes our finalizer off a hook.
    pub async fn free_hook(&self, hook: &ObjectMeta) -> Result<(), Error> {
        let namespace = hook.namespace.as_deref().unwrap_or_default();
        // Its metadata alone: also one that cannot be read is let go.
        let api: Api<PartialObjectMeta<KrakeHook>> =
            Api::namespaced(self.client.clone(), namespace);
        if let Some(patch) = without_finalizer(hook, names::HOOK_FINALIZER) {
            self.patched(&api, "KrakeHook", hook, patch).await?;
        }
        Ok(())
    }

    /// Carries out one effect. A call to the app is not one of its own: `CallOut` is the caller's.
    pub async fn apply(&self, seen: &Seen, effect: &Effect) -> Result<Fact, Error> {
        match effect {
            Effect::AddHookFinalizer => self.add_hook_finalizer(seen).await,
            Effect::RemoveHookFinalizer => self.remove_hook_finalizer(seen).await,
            Effect::CreateGuard => self.create_guard(seen).await,
            Effect::ApplyConfigMap(entries) => {
                let object = objects::config_map(seen, &guard(seen), &json!(entries));
                let applied = self.applied(seen, names::CONTROLLER_MANAGER, &object).await;
                provided(applied, |config_map| Fact::ConfigMap(Box::new(config_map)))
            }
            Effect::WriteToken {
                workload_uid,
                derived_for,
                recorded,
            } => {
                self.write_token(seen, workload_uid, derived_for, recorded.as_ref())
                    .await
            }
            Effect::AskAboutSecrets => self.ask_about_secrets(seen).await,
            Effect::RenewCertificate { because } => self.renew_certificate(seen, because).await,
            Effect::ApplyCertificate => {
                let object = objects::certificate(seen, &guard(seen));
                let applied: HookCertificate = self
                    .applied(seen, names::CONTROLLER_MANAGER, &object)
                    .await?;
                Ok(Fact::Certificate(Box::new(applied)))
            }
            Effect::WriteStatus(status) => self.write_status(seen, status).await,
            Effect::ApplyInjection(patch) => self.inject(seen, patch).await,
            Effect::CreateCanary { workload_uid } => self.create_canary(seen, workload_uid).await,
            Effect::RemoveCanary { name } => self.remove_canary(seen, name).await,
            Effect::Guard(dependent) => self.guard(seen, dependent).await,
            Effect::Unguard(dependent) => {
                let version = seen.version_of(dependent);
                self.unguard(seen.namespace(), dependent, version).await
            }
            Effect::DeleteDependent {
                dependent,
                resource_version,
                foreground,
            } => {
                self.delete_dependent(seen.namespace(), dependent, resource_version, *foreground)
                    .await
            }
            Effect::ReleaseWorkload { uid } => self.release_workload(seen, uid).await,
            Effect::DeleteWorkload { uid } => self.delete_workload(seen, uid).await,
            Effect::Stop { resource_version } => self.scale(seen, resource_version, None).await,
            Effect::Resume {
                resource_version,
                replicas,
            } => {
                let to = Some(replicas.unwrap_or(1));
                self.scale(seen, resource_version, to).await
            }
            Effect::Prune(old) => self.prune(seen, old).await,
            Effect::Event(notice) => {
                self.tell(seen, notice).await;
                Ok(Fact::Nothing)
            }
            Effect::CallOut(_) => Ok(Fact::Nothing),
            Effect::DeleteGuard => match &seen.guard {
                Some(guard) => self.delete_guard(guard).await.map(|()| Fact::GuardGone),
                None => Ok(Fact::GuardGone),
            },
        }
    }

    async fn add_hook_finalizer(&self, seen: &Seen) -> Result<Fact, Error> {
        let meta = &seen.hook.metadata;
        let add = if meta.finalizers.is_some() {
            json!({"op": "add", "path": "/metadata/finalizers/-", "value": names::HOOK_FINALIZER})
        } else {
            json!({"op": "add", "path": "/metadata/finalizers", "value": [names::HOOK_FINALIZER]})
        };
        let test = json!({"op": "test", "path": "/metadata/resourceVersion", "value": meta.resource_version});
        let hook = self
            .patched(&self.hooks(seen), "KrakeHook", meta, json!([test, add]))
            .await?;
        // Gone: nothing can be asked of it any more, and its finalizer least of all.
        let mut gone = seen.hook.clone();
        gone.metadata.deletion_timestamp = gone.metadata.creation_timestamp.clone();
        Ok(Fact::Hook(Box::new(hook.unwrap_or(gone))))
    }

    async fn remove_hook_finalizer(&self, seen: &Seen) -> Result<Fact, Error> {
        let Some(patch) = without_finalizer(&seen.hook.metadata, names::HOOK_FINALIZER) else {
            return Ok(Fact::Nothing);
        };
        let hook = self
            .patched(&self.hooks(seen), "KrakeHook", &seen.hook.metadata, patch)
            .await?;
        // A hook without finalizer that is gone leaves the fact that there is nothing left to do.
        let mut last = seen.hook.clone();
        if let Some(finalizers) = &mut last.metadata.finalizers {
            finalizers.retain(|f| f != names::HOOK_FINALIZER);
        }
        Ok(Fact::Hook(Box::new(hook.unwrap_or(last))))
    }

    async fn create_guard(&self, seen: &Seen) -> Result<Fact, Error> {
        let api: Api<HookGuard> = Api::all(self.client.clone());
        let guard = self
            .created(&api, seen.hook_uid(), objects::guard(seen))
            .await?;
        Ok(Fact::Guard(Box::new(guard)))
    }

    async fn write_token(
        &self,
        seen: &Seen,
        workload_uid: &str,
        derived_for: &str,
        recorded: Option<&TokenSecret>,
    ) -> Result<Fact, Error> {
        let name = names::of_hook(seen.hook_name(), seen.hook_uid());
        let Some(ring) = &self.ring else {
            return Ok(Fact::Nothing);
        };
        let token = ring.token(seen.hook_uid(), workload_uid);
        let bytes: Box<[u8]> = token.expose_secret().as_bytes().into();
        let order = SecretOrder {
            namespace: seen.namespace(),
            name: &name,
            owner_label: seen.hook_uid(),
            owner: owner(&objects::guard_reference(seen.hook_uid(), &guard(seen))),
            data: SecretData::from([(names::TOKEN.to_owned(), SecretBox::new(bytes))]),
            recorded: recorded.map(|recorded| secrets::Recorded {
                uid: recorded.secret_uid.clone(),
                resource_version: recorded.resource_version.clone(),
            }),
        };
        match secrets::write(&self.client, order, self.fence.stands()).await {
            Ok(written) => {
                if written.overwrote_edit {
                    let note = format!(
                        "Secret {name} had been edited by somebody else and was written again"
                    );
                    self.tell(seen, &warning("SecretOverwritten", note)).await;
                }
                Ok(Fact::Token(TokenSecret {
                    secret_uid: written.uid,
                    resource_version: written.resource_version,
                    derived_for: Some(derived_for.to_owned()),
                }))
            }
            Err(SecretError::Taken { name, message }) => {
                Ok(Fact::Refused(Refusal::SecretTaken { name, message }))
            }
            Err(other) => Err(unwritten(other)),
        }
    }

    async fn ask_about_secrets(&self, seen: &Seen) -> Result<Fact, Error> {
        let token = seen.hook.status.as_ref().and_then(|s| s.token.as_ref());
        let token = token.map(|t| secrets::Recorded {
            uid: t.secret_uid.clone(),
            resource_version: t.resource_version.clone(),
        });
        let certificate = seen.certificate.as_ref();
        let certificate = certificate
            .and_then(|c| c.status.as_ref()?.secret.as_ref())
            .map(|s| secrets::Recorded {
                uid: s.uid.clone(),
                resource_version: s.resource_version.clone(),
            });
        let name = names::of_hook(seen.hook_name(), seen.hook_uid());
        let tls = names::tls_secret(seen.hook_name(), seen.hook_uid());
        let order = |name, recorded| SecretOrder {
            namespace: seen.namespace(),
            name,
            owner_label: seen.hook_uid(),
            owner: owner(&objects::guard_reference(seen.hook_uid(), &guard(seen))),
            data: SecretData::new(),
            recorded,
        };
        // What was never written is somebody else's to write, not to be mended.
        let mut kept = [true, true];
        for (kept, (name, recorded)) in kept.iter_mut().zip([(&name, token), (&tls, certificate)]) {
            if recorded.is_some() {
                *kept = secrets::is_as_written(&self.client, &order(name, recorded))
                    .await
                    .map_err(unwritten)?;
            }
        }
        let [token, certificate] = kept;
        Ok(Fact::Secrets(Secrets::Asked { token, certificate }))
    }

    async fn renew_certificate(&self, seen: &Seen, because: &str) -> Result<Fact, Error> {
        let name = names::of_hook(seen.hook_name(), seen.hook_uid());
        let api: Api<HookCertificate> = Api::namespaced(self.client.clone(), seen.namespace());
        let patch = json!({"metadata": {"annotations": {names::RENEW_ANNOTATION: because}}});
        let parameters = PatchParams {
            field_manager: Some(names::CONTROLLER_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        api.patch(&name, &parameters, &Patch::Merge(patch))
            .await
            .map_err(Error::of(
                Act::Patch,
                format!("HookCertificate {}/{name}", seen.namespace()),
            ))?;
        let note =
            format!("the Secret of HookCertificate {name} was gone or edited and is issued again");
        self.tell(seen, &warning("SecretLost", note)).await;
        let token = !matches!(seen.secrets, Secrets::Asked { token: false, .. });
        Ok(Fact::Secrets(Secrets::Asked {
            token,
            certificate: true,
        }))
    }

    async fn write_status(
        &self,
        seen: &Seen,
        status: &crate::api::KrakeHookStatus,
    ) -> Result<Fact, Error> {
        let name = seen.hook_name();
        let parameters = PatchParams::apply(names::CONTROLLER_MANAGER).force();
        let patch = Patch::Apply(objects::status(&seen.hook, status));
        let hook = self
            .hooks(seen)
            .patch_status(name, &parameters, &patch)
            .await
            .map_err(Error::of(
                Act::Apply,
                format!("status of KrakeHook {}/{name}", seen.namespace()),
            ))?;
        Ok(Fact::Hook(Box::new(hook)))
    }

    async fn inject(&self, seen: &Seen, patch: &Value) -> Result<Fact, Error> {
        let Some(workload) = &seen.workload else {
            return Ok(Fact::WorkloadGone);
        };
        match self.change(seen.namespace(), workload.kind, patch).await {
            Ok(workload) => Ok(Fact::Workload(Box::new(workload))),
            // Another workload has its name now.
            Err(error) if error.code() == 422 && said(&error.source).contains("uid") => {
                Err(Error {
                    act: Act::Patch,
                    ..error
                })
            }
            Err(error) if matches!(error.code(), 403 | 422) => {
                Ok(Fact::Refused(Refusal::InjectionRejected {
                    message: said(&error.source),
                }))
            }
            Err(error) => Err(error),
        }
    }

    /// By server-side apply: one that stands there without its labels, by which it is found, gets
    /// them back.
    async fn create_canary(&self, seen: &Seen, workload_uid: &str) -> Result<Fact, Error> {
        let canary = objects::canary(seen, workload_uid);
        let applied = self
            .applied::<ConfigMap>(seen, names::CONTROLLER_MANAGER, &canary)
            .await;
        provided(applied, |canary| Fact::Canary(Box::new(canary)))
    }

    async fn remove_canary(&self, seen: &Seen, name: &str) -> Result<Fact, Error> {
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
    async fn guard(&self, seen: &Seen, dependent: &Dependent) -> Result<Fact, Error> {
        let reference = objects::guard_reference(seen.hook_uid(), &guard(seen));
        let by = Some((seen.hook_name(), reference));
        let patch = objects::guarded(seen.namespace(), dependent, by);
        match self.guarded(seen.namespace(), dependent, patch).await {
            Ok(metadata) => Ok(Fact::Dependent(dependent.kind, Box::new(metadata))),
            // Gone, or another one of that name: it needs no guard of ours.
            Err(error) if matches!(error.code(), 404 | 409 | 422) => {
                Ok(Fact::DependentGone(dependent.uid.clone()))
            }
            Err(error) => Err(error),
        }
    }

    async fn guarded(
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

    fn dependents(&self, namespace: &str, kind: DependentKind) -> Api<DynamicObject> {
        let resource = observe::dependent_resource(kind);
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    async fn release_workload(&self, seen: &Seen, uid: &str) -> Result<Fact, Error> {
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

    async fn delete_workload(&self, seen: &Seen, uid: &str) -> Result<Fact, Error> {
        let Some(workload) = &seen.workload else {
            return Ok(Fact::WorkloadGone);
        };
        let (kind, name) = (workload.kind, workload.name());
        let exactly = DeleteParams::background().preconditions(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        });
        let api = observe::workloads(&self.client, kind, seen.namespace());
        deleted(api.delete(name, &exactly).await).map_err(Error::of(
            Act::Delete,
            format!("{kind} {}/{name}", seen.namespace()),
        ))?;
        // Whether it is gone or waits for its finalizer is seen by looking again.
        let left = observe::workload(&self.client, Some(kind), seen.namespace(), name).await?;
        Ok(
            match left.filter(|w| w.metadata.uid.as_deref() == Some(uid)) {
                Some(left) => Fact::Workload(Box::new(left)),
                None => Fact::WorkloadGone,
            },
        )
    }

    /// Scales a workload to zero (`None`) or to so many replicas, or suspends and resumes it; if it is
    /// still as it was seen.
    async fn scale(
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
            Err(error @ kube::Error::Api(_)) if matches!(super::error::code(&error), 403 | 422) => {
                let message = said(&error);
                Ok(Fact::Refused(Refusal::ScaleRejected { message }))
            }
            Err(source) => Err(Error::of(Act::Patch, object())(source)),
        }
    }

    async fn prune(&self, seen: &Seen, old: &[(String, Value)]) -> Result<Fact, Error> {
        let mut operations = Vec::new();
        for (key, value) in old {
            let key = key.replace('~', "~0").replace('/', "~1");
            let path = format!("/status/acknowledgements/{key}");
            operations.push(json!({"op": "test", "path": path, "value": value}));
            operations.push(json!({"op": "remove", "path": path}));
        }
        let patch: json_patch::Patch = serde_json::from_value(Value::Array(operations))
            .expect("these are JSON patch operations");
        let name = seen.hook_name();
        let parameters = PatchParams {
            field_manager: Some(names::CONTROLLER_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let hook = self
            .hooks(seen)
            .patch_status(name, &parameters, &Patch::Json::<()>(patch))
            .await
            .map_err(Error::of(
                Act::Patch,
                format!("acknowledgements of KrakeHook {}/{name}", seen.namespace()),
            ))?;
        Ok(Fact::Hook(Box::new(hook)))
    }

    /// Events are for people; one that cannot be written stops nothing.
    async fn tell(&self, seen: &Seen, notice: &Notice) {
        let event = |secondary| Event {
            type_: if notice.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: notice.reason.to_owned(),
            note: Some(notice.note.chars().take(1000).collect()),
            action: notice.reason.to_owned(),
            secondary,
        };
        let hook = seen.hook.object_ref(&());
        let workload = seen.workload.as_ref().map(reference);
        let mut regarding: Vec<(ObjectReference, Option<ObjectReference>)> =
            vec![(hook.clone(), workload.clone())];
        if let Some(workload) = workload.filter(|_| notice.on_workload) {
            regarding.push((workload, Some(hook)));
        }
        for (reference, secondary) in regarding {
            if let Err(error) = self.recorder.publish(&event(secondary), &reference).await {
                tracing::debug!(%error, reason = notice.reason, "cannot write an Event");
            }
        }
    }

    /// Takes a guard's finalizer off and deletes it.
    pub async fn delete_guard(&self, guard: &HookGuard) -> Result<(), Error> {
        let api: Api<HookGuard> = Api::all(self.client.clone());
        self.deleted(&api, &guard.metadata).await?;
        if let Some(patch) = without_finalizer(&guard.metadata, names::GUARD_FINALIZER) {
            self.patched(&api, "HookGuard", &guard.metadata, patch)
                .await?;
        }
        Ok(())
    }

    /// Server-side apply of JSON to a namespaced object.
    pub async fn apply_json<K>(
        &self,
        namespace: &str,
        manager: &str,
        object: &Value,
    ) -> Result<K, Error>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let parameters = PatchParams::apply(manager).force();
        api.patch(name, &parameters, &Patch::Apply(object))
            .await
            .map_err(Error::of(
                Act::Apply,
                format!("{} {namespace}/{name}", K::kind(&())),
            ))
    }

    async fn applied<K>(&self, seen: &Seen, manager: &str, object: &Value) -> Result<K, Error>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        self.apply_json(seen.namespace(), manager, object).await
    }

    /// Creates an object, or finds the one that a second self has created.
    async fn created<K>(&self, api: &Api<K>, name: &str, object: Value) -> Result<K, Error>
    where
        K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
    {
        let described = format!("{} {name}", K::kind(&()));
        let object: K = serde_json::from_value(object).map_err(|source| {
            Error::of(Act::Create, described.clone())(kube::Error::SerdeError(source))
        })?;
        let parameters = PostParams {
            field_manager: Some(names::CONTROLLER_MANAGER.to_owned()),
            ..PostParams::default()
        };
        match api.create(&parameters, &object).await {
            Ok(created) => Ok(created),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                api.get(name).await.map_err(Error::of(Act::Get, described))
            }
            Err(source) => Err(Error::of(Act::Create, described)(source)),
        }
    }

    /// A guarded JSON patch; nothing if the object is gone.
    async fn patched<K>(
        &self,
        api: &Api<K>,
        kind: &str,
        meta: &ObjectMeta,
        patch: Value,
    ) -> Result<Option<K>, Error>
    where
        K: Clone + DeserializeOwned + std::fmt::Debug,
    {
        let name = meta.name.as_deref().unwrap_or_default();
        let patch: json_patch::Patch =
            serde_json::from_value(patch).expect("these are JSON patch operations");
        let parameters = PatchParams {
            field_manager: Some(names::CONTROLLER_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match api
            .patch(name, &parameters, &Patch::Json::<()>(patch))
            .await
        {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
            Err(source) => Err(Error::of(
                Act::Patch,
                format!(
                    "{kind} {}/{name}",
                    meta.namespace.as_deref().unwrap_or_default()
                ),
            )(source)),
        }
    }

    /// Deletes the object of this uid; gone is fine. Not of this resourceVersion: a finalizer patch
    /// of our own has just moved it.
    async fn deleted<K>(&self, api: &Api<K>, meta: &ObjectMeta) -> Result<(), Error>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let name = meta.name.as_deref().unwrap_or_default();
        let exactly = DeleteParams::background().preconditions(Preconditions {
            uid: meta.uid.clone(),
            resource_version: None,
        });
        deleted(api.delete(name, &exactly).await).map_err(Error::of(
            Act::Delete,
            format!(
                "{} {}/{name}",
                K::kind(&()),
                meta.namespace.as_deref().unwrap_or_default()
            ),
        ))
    }

    fn hooks(&self, seen: &Seen) -> Api<KrakeHook> {
        Api::namespaced(self.client.clone(), seen.namespace())
    }
}

/// The patch that takes one finalizer off an object as it was seen.
fn without_finalizer(meta: &ObjectMeta, finalizer: &str) -> Option<Value> {
    let index = meta
        .finalizers
        .iter()
        .flatten()
        .position(|f| f == finalizer)?;
    let path = format!("/metadata/finalizers/{index}");
    Some(json!([
        {"op": "test", "path": "/metadata/uid", "value": meta.uid},
        {"op": "test", "path": path, "value": finalizer},
        {"op": "remove", "path": path},
    ]))
}

/// What was provided; or that the API server refuses it until a person acts.
fn provided<T>(applied: Result<T, Error>, fact: impl FnOnce(T) -> Fact) -> Result<Fact, Error> {
    match applied {
        Ok(object) => Ok(fact(object)),
        Err(error) if matches!(error.code(), 403 | 422) => {
            Ok(Fact::Refused(Refusal::ProvisionRejected {
                message: said(&error.source),
                object: error.object,
            }))
        }
        Err(error) => Err(error),
    }
}

/// What is gone already need not be deleted.
fn deleted<T>(answer: kube::Result<T>) -> kube::Result<()> {
    match answer {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(source) => Err(source),
    }
}

fn unwritten(error: SecretError) -> Error {
    let described = error.to_string();
    match error {
        SecretError::Create {
            namespace,
            name,
            source,
        } => Error::of(Act::Create, format!("Secret {namespace}/{name}"))(source),
        SecretError::Update {
            namespace,
            name,
            source,
        } => Error::of(Act::Update, format!("Secret {namespace}/{name}"))(source),
        _ => Error::of(Act::Create, "a Secret")(kube::Error::Service(described.into())),
    }
}

/// A workload as Events refer to it.
fn reference(workload: &Workload) -> ObjectReference {
    let (traits, meta) = (workload.traits(), &workload.metadata);
    ObjectReference {
        api_version: Some(traits.api_version.to_owned()),
        kind: Some(traits.name.to_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        ..ObjectReference::default()
    }
}

fn guard(seen: &Seen) -> String {
    guard_uid(seen).unwrap_or_default().to_owned()
}

fn owner(reference: &Value) -> OwnerReference {
    serde_json::from_value(reference.clone()).expect("this is an owner reference")
}

fn warning(reason: &'static str, note: String) -> Notice {
    Notice {
        warning: true,
        reason,
        note,
        on_workload: false,
    }
}
