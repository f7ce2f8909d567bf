//! Writing: applies what was decided, one effect at a time, and returns what became known.
//!
//! Every write is safe when another writer, or a second self, was faster: it names the uid or the
//! resourceVersion it was decided on, or a JSON patch tests what it is about to change.

mod hold;
mod provide;
mod record;

use std::sync::Arc;

use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use record::Regarding;

use super::secret_policy::PolicyProbe;
use super::{Act, Error, objects};
use crate::api::{HookCertificate, HookGuard, KrakeHook, names};
use crate::decide::entries::Entries;
use crate::decide::pods::guard_uid;
use crate::decide::{Effect, Fact, Seen};
use crate::pki::Ring;

/// What is needed to write.
#[derive(Clone)]
pub struct Writer {
    /// The API server.
    pub client: Client,
    /// Derives tokens; `release-all` has none.
    pub ring: Option<Arc<ArcSwap<Ring>>>,
    /// Whether the admission policy confines our writes to Secrets.
    pub policy: PolicyProbe,
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
            policy: PolicyProbe::default(),
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
                let applied: ConfigMap = self
                    .applied(seen, names::CONTROLLER_MANAGER, &object)
                    .await?;
                let data = applied.data.unwrap_or_default();
                Ok(Fact::ConfigMap(Entries::of(&data)))
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
            Effect::RemoveEntries(patch) => self.take_out(seen, patch).await,
            Effect::CreateCanary { workload_uid } => self.create_canary(seen, workload_uid).await,
            Effect::RemoveCanary { name } => self.remove_canary(seen, name).await,
            Effect::Guard(dependent) => self.guard(seen, dependent).await,
            Effect::Control(dependent) => self.control(seen, dependent).await,
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

    /// Deletes what a guard that is gone has owned.
    pub async fn drop_owned<K>(&self, meta: &ObjectMeta) -> Result<(), Error>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug,
    {
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        // Its metadata alone: what is in a Secret is nothing to know.
        let api: Api<PartialObjectMeta<K>> = Api::namespaced(self.client.clone(), namespace);
        self.deleted(&api, meta).await
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

/// What is gone already need not be deleted.
fn deleted<T>(answer: kube::Result<T>) -> kube::Result<()> {
    match answer {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(source) => Err(source),
    }
}

fn guard(seen: &Seen) -> String {
    guard_uid(seen).unwrap_or_default().to_owned()
}
