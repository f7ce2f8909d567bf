//! Writes to the hook itself, and tells people.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType};
use serde_json::{Value, json};

use super::{Writer, without_finalizer};
use crate::api::names;
use crate::cluster::{Act, Error, objects};
use crate::decide::seen::Notice;
use crate::decide::{Fact, Seen, Workload};

impl Writer {
    pub(super) async fn add_hook_finalizer(&self, seen: &Seen) -> Result<Fact, Error> {
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
        Ok(hook.map_or(Fact::HookGone, |hook| Fact::Hook(Box::new(hook))))
    }

    pub(super) async fn remove_hook_finalizer(&self, seen: &Seen) -> Result<Fact, Error> {
        let meta = &seen.hook.metadata;
        let Some(mut patch) = without_finalizer(meta, names::HOOK_FINALIZER) else {
            return Ok(Fact::Nothing);
        };
        // What was acknowledged since the hook was seen is acted on before it goes.
        let test = json!({"op": "test", "path": "/metadata/resourceVersion", "value": meta.resource_version});
        if let Value::Array(operations) = &mut patch {
            operations.insert(0, test);
        }
        let hook = self
            .patched(&self.hooks(seen), "KrakeHook", meta, patch)
            .await?;
        Ok(hook.map_or(Fact::HookGone, |hook| Fact::Hook(Box::new(hook))))
    }

    pub(super) async fn write_status(
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

    pub(super) async fn prune(&self, seen: &Seen, old: &[(String, Value)]) -> Result<Fact, Error> {
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
    pub(super) async fn tell(&self, seen: &Seen, notice: &Notice) {
        self.tell_of(&Regarding::of(seen), notice).await;
    }

    /// An Event about a hook and, where the notice says so, its workload.
    pub async fn tell_of(&self, about: &Regarding, notice: &Notice) {
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
        let Regarding { hook, workload } = about.clone();
        let mut regarding: Vec<(ObjectReference, Option<ObjectReference>)> =
            vec![(hook.clone(), workload.clone())];
        if let Some(workload) = workload.filter(|_| notice.on_workload) {
            regarding.push((workload, Some(hook)));
        }
        for (reference, secondary) in regarding {
            if let Err(error) = self.recorder.publish(&event(secondary), &reference).await {
                tracing::debug!(%error, reason = notice.reason, "could not write an Event");
            }
        }
    }
}

/// What Events are about, as it was seen.
#[derive(Clone, Debug)]
pub struct Regarding {
    hook: ObjectReference,
    workload: Option<ObjectReference>,
}

impl Regarding {
    /// The hook and the workload that it has.
    pub fn of(seen: &Seen) -> Self {
        Self {
            hook: seen.hook.object_ref(&()),
            workload: seen.workload.as_ref().map(reference),
        }
    }

    /// A workload without a hook.
    pub fn workload(workload: &Workload) -> Self {
        Self::object(reference(workload))
    }

    /// Any one object.
    pub fn object(object: ObjectReference) -> Self {
        Self {
            hook: object,
            workload: None,
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Class;
    use crate::decide::Effect;
    use crate::testing::build::{self, NAME};
    use crate::testing::world::World;
    use crate::testing::{self, MockApi};

    fn seen(api: &MockApi) -> Seen {
        let mut world = World::new();
        world.create_hook(build::hook(NAME));
        let mut seen = world.observe(NAME).expect("a hook");
        seen.hook = api.get("ml", "trainer");
        seen
    }

    #[tokio::test]
    async fn a_hook_is_let_go_as_it_was_seen_or_not_at_all() {
        let api = MockApi::new([testing::hook("ml", "trainer")]);
        let writer = Writer::for_release(api.client());
        let old = seen(&api);
        api.change("ml", "trainer", |hook| hook.spec.complete = None);
        let refused = writer.apply(&old, &Effect::RemoveHookFinalizer).await;
        assert_eq!(
            refused.expect_err("it has changed").class(),
            Class::Conflict
        );
        let now = seen(&api);
        let gone = writer.apply(&now, &Effect::RemoveHookFinalizer).await;
        assert!(matches!(gone, Ok(Fact::Hook(_))), "{gone:?}");
        assert_eq!(
            api.get("ml", "trainer").metadata.finalizers,
            Some(Vec::new())
        );
    }
}
