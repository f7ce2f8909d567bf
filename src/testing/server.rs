//! Carries out effects on the [`World`] as the API server would, conflicts included.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::build::NAMESPACE;
use super::merge;
use super::world::{Propagation, World, mark_deleted};
use crate::api::kind::Change;
use crate::api::status::TokenSecret;
use crate::api::{KrakeHookStatus, names};
use crate::cluster::objects;
use crate::decide::entries::Entries;
use crate::decide::pods::guard_uid;
use crate::decide::seen::{Dependent, Refusal, Rejection, has_finalizer};
use crate::decide::{Effect, Fact, Seen};

/// Somebody was faster, or what was meant is not there.
#[derive(Debug)]
pub struct Conflict;

impl World {
    /// Carries out one effect. A call to the app is the caller's.
    pub fn apply(&mut self, seen: &Seen, effect: &Effect) -> Result<Fact, Conflict> {
        if self.rejects.is_some_and(|rejects| rejects(effect)) {
            return Ok(Fact::Rejected(Box::new(Rejection {
                effect: effect.clone(),
                object: "the object".into(),
                message: "exceeded quota".into(),
            })));
        }
        match effect {
            Effect::AddHookFinalizer => self.change_hook(seen, |meta| {
                let finalizers = meta.finalizers.get_or_insert_default();
                finalizers.push(names::HOOK_FINALIZER.into());
            }),
            Effect::RemoveHookFinalizer => {
                let version = self.hooks.get(seen.hook_name());
                let version = version.and_then(|hook| hook.metadata.resource_version.as_ref());
                if version != seen.hook.metadata.resource_version.as_ref() {
                    return Err(Conflict);
                }
                self.change_hook(seen, |meta| drop_finalizer(meta, names::HOOK_FINALIZER))
            }
            Effect::CreateGuard => {
                let guard = self.made(seen.hook_uid(), objects::guard(seen), |w| &mut w.guards);
                guard.map(|guard| Fact::Guard(Box::new(guard)))
            }
            Effect::ApplyConfigMap(entries) => {
                let object = objects::config_map(seen, guard_of(seen), &json!(entries));
                let applied = self.applied(object, |w| &mut w.config_maps)?;
                let data = applied.data.unwrap_or_default();
                Ok(Fact::ConfigMap(Entries::of(&data)))
            }
            Effect::WriteToken { derived_for, .. } => Ok(self.write_token(seen, derived_for)),
            Effect::AskAboutSecrets | Effect::RenewCertificate { .. } => Ok(Fact::Nothing),
            Effect::ApplyCertificate => {
                let object = objects::certificate(seen, guard_of(seen));
                let applied = self.applied(object, |w| &mut w.certificates)?;
                Ok(Fact::Certificate(Box::new(applied)))
            }
            Effect::WriteStatus(status) => self.write_status(seen, status),
            Effect::ApplyInjection(patch) => self.inject(patch),
            Effect::RemoveEntries(patch) => {
                let name = seen.hook.spec.workload.name.clone();
                self.remove_entries(&name, patch)
            }
            Effect::CreateCanary { workload_uid } => {
                let object = objects::canary(seen, workload_uid);
                let canary = self.applied(object, |w| &mut w.config_maps);
                canary.map(|canary| Fact::Canary(Box::new(canary)))
            }
            Effect::RemoveCanary { name } => {
                self.config_maps.remove(name);
                self.next_version();
                Ok(Fact::CanaryGone(name.clone()))
            }
            Effect::Guard(set) => {
                let owner = objects::guard_reference(seen.hook_uid(), guard_of(seen));
                self.guard(set, Some((seen.hook_name(), owner)))
            }
            Effect::Control(set) => {
                let version = seen.version_of(set).map(ToOwned::to_owned);
                let mut owner = objects::guard_reference(seen.hook_uid(), guard_of(seen));
                owner["controller"] = json!(true);
                match self.dependent(set) {
                    Some(meta) if meta.resource_version != version => Err(Conflict),
                    _ => self.guard(set, Some((seen.hook_name(), owner))),
                }
            }
            Effect::Unguard(set) => self.guard(set, None),
            Effect::DeleteDependent {
                dependent,
                resource_version,
                foreground,
            } => self.delete_dependent(dependent, resource_version, *foreground),
            Effect::ReleaseWorkload { uid } => {
                self.release(seen.workload.as_ref().map(|w| &w.metadata), uid)
            }
            Effect::DeleteWorkload { uid } => {
                let name = seen.hook.spec.workload.name.clone();
                let same = |w: &Self| {
                    w.workloads
                        .get(&name)
                        .is_some_and(|w| w.meta.uid.as_ref() == Some(uid))
                };
                if !same(self) {
                    return Err(Conflict);
                }
                self.delete_workload(&name, Propagation::Background);
                self.sweep();
                let left = self.workload(&name);
                Ok(left.map_or(Fact::WorkloadGone, |w| Fact::Workload(Box::new(w))))
            }
            Effect::Stop { resource_version } => self.scale_by_us(seen, resource_version, None),
            Effect::Resume {
                resource_version,
                replicas,
            } => self.scale_by_us(seen, resource_version, Some(*replicas)),
            Effect::Prune(old) => self.prune(seen, old),
            Effect::Event(_) => Ok(Fact::Nothing),
            Effect::CallOut(_) => Ok(Fact::Nothing),
            Effect::DeleteGuard => {
                self.guards.remove(seen.hook_uid());
                self.next_version();
                Ok(Fact::GuardGone)
            }
        }
    }

    /// Takes our finalizer off the workload, if it still is the one that was seen.
    pub fn release(&mut self, seen: Option<&ObjectMeta>, uid: &str) -> Result<Fact, Conflict> {
        let Some(name) = seen.and_then(|meta| meta.name.clone()) else {
            return Ok(Fact::WorkloadGone);
        };
        let version = self.next_version();
        let Some(workload) = self.workloads.get_mut(&name) else {
            return Ok(Fact::WorkloadGone);
        };
        if workload.meta.uid.as_deref() != Some(uid)
            || !has_finalizer(&workload.meta, names::SHUTDOWN_FINALIZER)
        {
            return Err(Conflict);
        }
        drop_finalizer(&mut workload.meta, names::SHUTDOWN_FINALIZER);
        if let Some(applied) = &mut workload.applied {
            // Nobody owns any more what is gone.
            applied["metadata"]["finalizers"] = Value::Null;
        }
        workload.meta.resource_version = Some(version);
        self.sweep();
        let left = self.workload(&name);
        Ok(left.map_or(Fact::WorkloadGone, |w| Fact::Workload(Box::new(w))))
    }

    /// Server-side apply of injection or ejection.
    pub fn inject(&mut self, patch: &Value) -> Result<Fact, Conflict> {
        let name = patch["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let version = self.version + 1;
        let refuses = self.refuses_injection;
        let workload = self.workloads.get_mut(&name).ok_or(Conflict)?;
        let expected = patch["metadata"]["resourceVersion"].as_str();
        if expected
            .is_some_and(|version| workload.meta.resource_version.as_deref() != Some(version))
        {
            return Err(Conflict);
        }
        let holds = has_finalizer(&workload.meta, names::SHUTDOWN_FINALIZER);
        let wants = !patch["metadata"]["finalizers"].is_null();
        let late = wants && !holds && workload.meta.deletion_timestamp.is_some();
        if refuses || late || json!(workload.meta.uid) != patch["metadata"]["uid"] {
            let message = "the policy says no".to_owned();
            return Ok(Fact::Refused(Refusal::InjectionRejected { message }));
        }
        let changeable = workload.kind.traits().change != Change::Refused;
        assert!(
            changeable || patch.get("spec").is_none(),
            "422: the template of a {} is immutable",
            workload.kind
        );
        let before = (workload.meta.finalizers.clone(), workload.applied.clone());
        if wants && !holds {
            let finalizers = workload.meta.finalizers.get_or_insert_default();
            finalizers.push(names::SHUTDOWN_FINALIZER.into());
        } else if !wants {
            let applied = workload.applied.as_ref();
            if applied.is_some_and(|a| !a["metadata"]["finalizers"].is_null()) {
                drop_finalizer(&mut workload.meta, names::SHUTDOWN_FINALIZER);
            }
        }
        workload.applied = Some(patch.clone());
        if before != (workload.meta.finalizers.clone(), workload.applied.clone()) {
            self.version = version;
            workload.meta.generation = workload.meta.generation.map(|g| g + 1);
            workload.meta.resource_version = Some(version.to_string());
        }
        self.sweep();
        let left = self.workload(&name);
        Ok(left.map_or(Fact::WorkloadGone, |w| Fact::Workload(Box::new(w))))
    }

    /// Takes entries out of a workload by a JSON patch. Of what is left nobody asks who applied it.
    pub fn remove_entries(&mut self, name: &str, patch: &[Value]) -> Result<Fact, Conflict> {
        let mut object = self.shown(name).ok_or(Conflict)?;
        let patch: json_patch::Patch = serde_json::from_value(json!(patch)).expect("a patch");
        json_patch::patch(&mut object, &patch).map_err(|_| Conflict)?;
        merge::without_empty(&mut object["spec"]["template"]);
        let version = self.next_version();
        let workload = self.workloads.get_mut(name).ok_or(Conflict)?;
        let uid = workload.meta.uid.clone();
        workload.meta = serde_json::from_value(object["metadata"].clone()).expect("metadata");
        workload.meta.uid = uid;
        workload.meta.managed_fields = None;
        workload.meta.generation = workload.meta.generation.map(|g| g + 1);
        workload.meta.resource_version = Some(version);
        workload.written = object["spec"].clone();
        workload.applied = None;
        self.sweep();
        let left = self.workload(name);
        Ok(left.map_or(Fact::WorkloadGone, |w| Fact::Workload(Box::new(w))))
    }

    /// Puts a guard on what a workload made, or takes it off.
    pub fn guard(
        &mut self,
        dependent: &Dependent,
        by: Option<(&str, Value)>,
    ) -> Result<Fact, Conflict> {
        let version = self.next_version();
        let Some(meta) = self.dependent(dependent) else {
            return Ok(Fact::DependentGone(dependent.uid.clone()));
        };
        let owners = meta.owner_references.get_or_insert_default();
        owners.retain(|owner| owner.kind != "HookGuard");
        let patch = objects::guarded(NAMESPACE, dependent, by);
        let owner = patch["metadata"]["ownerReferences"].get(0);
        owners.extend(owner.map(|o| serde_json::from_value(o.clone()).expect("an owner")));
        if let Some(hook) = patch["metadata"]["labels"][names::HOOK_LABEL].as_str() {
            let labels = meta.labels.get_or_insert_default();
            labels.insert(names::HOOK_LABEL.into(), hook.into());
        }
        meta.resource_version = Some(version);
        Ok(Fact::Dependent(dependent.kind, Box::new(meta.clone())))
    }

    /// Deletes what a workload made, if it is exactly the one that was seen.
    pub fn delete_dependent(
        &mut self,
        dependent: &Dependent,
        resource_version: &str,
        foreground: bool,
    ) -> Result<Fact, Conflict> {
        let (now, version) = (self.now, self.next_version());
        if let Some(meta) = self.dependent(dependent) {
            if meta.resource_version.as_deref() != Some(resource_version) {
                return Err(Conflict);
            }
            let how = if foreground {
                Propagation::Foreground
            } else {
                Propagation::Background
            };
            mark_deleted(meta, how, now, version);
        }
        self.sweep();
        Ok(Fact::DependentGone(dependent.uid.clone()))
    }

    fn change_hook(&mut self, seen: &Seen, change: fn(&mut ObjectMeta)) -> Result<Fact, Conflict> {
        let version = self.next_version();
        let hook = self.hooks.get_mut(seen.hook_name()).ok_or(Conflict)?;
        if hook.metadata.uid.as_deref() != Some(seen.hook_uid()) {
            return Err(Conflict);
        }
        change(&mut hook.metadata);
        hook.metadata.resource_version = Some(version);
        let hook = hook.clone();
        self.sweep();
        Ok(Fact::Hook(Box::new(hook)))
    }

    fn write_token(&mut self, seen: &Seen, derived_for: &str) -> Fact {
        let name = names::of_hook(seen.hook_name(), seen.hook_uid());
        if self.secret_taken {
            let message = "it exists".to_owned();
            return Fact::Refused(Refusal::SecretTaken { name, message });
        }
        let resource_version = self.next_version();
        let token = TokenSecret {
            secret_uid: format!("uid of {name}"),
            resource_version,
            derived_for: Some(derived_for.into()),
            since: None,
        };
        self.secrets.insert(name, token.clone());
        Fact::Token(token)
    }

    fn write_status(&mut self, seen: &Seen, status: &KrakeHookStatus) -> Result<Fact, Conflict> {
        let version = self.version + 1;
        let hook = self.hooks.get_mut(seen.hook_name()).ok_or(Conflict)?;
        if hook.metadata.resource_version != seen.hook.metadata.resource_version {
            return Err(Conflict);
        }
        let written = objects::status(&seen.hook, status)["status"].clone();
        let mut written: KrakeHookStatus = serde_json::from_value(written).expect("a status");
        let kept = hook.status.take().unwrap_or_default();
        let types: std::collections::BTreeSet<_> =
            written.conditions.iter().map(|c| &c.type_).collect();
        assert_eq!(
            types.len(),
            written.conditions.len(),
            "422: duplicate entries"
        );
        written.acknowledgements = kept.acknowledgements.clone();
        written.rejected.clone_from(&kept.rejected);
        if written != kept {
            self.version = version;
            hook.metadata.resource_version = Some(version.to_string());
        }
        hook.status = Some(written);
        Ok(Fact::Hook(Box::new(hook.clone())))
    }

    fn scale_by_us(
        &mut self,
        seen: &Seen,
        resource_version: &str,
        back_to: Option<Option<i64>>,
    ) -> Result<Fact, Conflict> {
        let name = seen.hook.spec.workload.name.clone();
        let version = self.version + 1;
        let workload = self.workloads.get_mut(&name).ok_or(Conflict)?;
        let (field, at_rest, running) = workload.rest();
        let value = match back_to {
            None => at_rest,
            Some(replicas) => replicas.map_or(running, |replicas| json!(replicas)),
        };
        let meta = &mut workload.meta;
        if meta.resource_version.as_deref() != Some(resource_version) {
            return Err(Conflict);
        }
        workload.written[field] = value;
        workload.scaled_by_us = true;
        meta.generation = meta.generation.map(|g| g + 1);
        meta.resource_version = Some(version.to_string());
        self.version = version;
        let left = self.workload(&name);
        Ok(left.map_or(Fact::WorkloadGone, |w| Fact::Workload(Box::new(w))))
    }

    fn prune(&mut self, seen: &Seen, old: &[(String, Value)]) -> Result<Fact, Conflict> {
        let version = self.next_version();
        let hook = self.hooks.get_mut(seen.hook_name()).ok_or(Conflict)?;
        let kept = &mut hook.status.get_or_insert_default().acknowledgements;
        for (key, value) in old {
            let there = kept.get(key).and_then(|ack| serde_json::to_value(ack).ok());
            if there.as_ref() != Some(value) {
                return Err(Conflict);
            }
            kept.remove(key);
        }
        hook.metadata.resource_version = Some(version);
        Ok(Fact::Hook(Box::new(hook.clone())))
    }

    fn made<K: Clone + serde::de::DeserializeOwned>(
        &mut self,
        name: &str,
        mut object: Value,
        kept: fn(&mut Self) -> &mut std::collections::BTreeMap<String, K>,
    ) -> Result<K, Conflict> {
        if let Some(there) = kept(self).get(name) {
            return Ok(there.clone());
        }
        // A guard is in no namespace.
        if self.namespace_terminating && object["kind"] != "HookGuard" {
            return Err(Conflict);
        }
        let mut meta: ObjectMeta =
            serde_json::from_value(object["metadata"].clone()).expect("metadata");
        self.born(&mut meta);
        object["metadata"] = json!(meta);
        let object: K = serde_json::from_value(object).expect("an object");
        kept(self).insert(name.to_owned(), object.clone());
        Ok(object)
    }

    fn applied<K: Clone + serde::Serialize + serde::de::DeserializeOwned>(
        &mut self,
        object: Value,
        kept: fn(&mut Self) -> &mut std::collections::BTreeMap<String, K>,
    ) -> Result<K, Conflict> {
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if object["metadata"]["namespace"] != NAMESPACE {
            return Err(Conflict);
        }
        let Some(there) = kept(self).get(&name).cloned() else {
            return self.made(&name, object, kept);
        };
        let mut there = json!(there);
        super::merge::merge(&mut there, &object);
        there["metadata"]["resourceVersion"] = json!(self.next_version());
        let there: K = serde_json::from_value(there).expect("an object");
        kept(self).insert(name, there.clone());
        Ok(there)
    }
}

pub(super) fn drop_finalizer(meta: &mut ObjectMeta, finalizer: &str) {
    if let Some(finalizers) = &mut meta.finalizers {
        finalizers.retain(|f| f != finalizer);
    }
}

fn guard_of(seen: &Seen) -> &str {
    guard_uid(seen).unwrap_or_default()
}
