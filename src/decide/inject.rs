//! Injection: what goes into a pod template, and how it is removed again.
//!
//! The change is one server-side apply of hand-shaped JSON by a field manager of our own, so that
//! exactly our entries are ours: the same payload again changes nothing, an empty payload leaves the
//! template byte for byte as it was before. What others own beside us, because a manifest was copied,
//! restored or applied with our entries in it, is told by its form and goes by a JSON patch: see
//! [`ours`]. Typed objects are only read here: written, a typed workload would claim `selector: {}`
//! too.

mod entries;
mod json;
mod mounts;
mod ours;
mod sight;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use entries::{chosen, env, mount_paths, volume};
use json::{covers, has_all, list, strip_list, strip_map};
use sight::shows;

use super::seen::{Effect, Seen, Settings, annotation, has_finalizer};
use super::workload::Workload;
use crate::api::condition::Reason;
use crate::api::{HookKind, KrakeHookSpec, names};

/// Exactly our entries for one workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    /// Name of the hook; value of the label.
    pub hook: String,
    /// Annotation that tells current pods from others.
    pub stamp: String,
    /// Names of the app containers that get the entries.
    pub containers: Vec<String>,
    /// Names of the init containers that get them.
    pub init_containers: Vec<String>,
    /// Environment variables, in an order in which they expand.
    pub env: Vec<Value>,
    /// Mounts of the certificate; empty without TLS.
    pub mounts: Vec<Value>,
    /// Volume of the certificate; none without TLS.
    pub volume: Option<Value>,
}

/// Why a template cannot be injected into; a person has to act.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// Reason of the condition.
    pub reason: Reason,
    /// Message of the condition.
    pub message: String,
}

/// The identity of a hook that everything injected is named after.
#[derive(Clone, Copy, Debug)]
pub struct HookIdentity<'a> {
    /// Name.
    pub name: &'a str,
    /// Uid.
    pub uid: &'a str,
}

/// First part of the stamps of a hook: tells its pods from those of another one of the same name.
pub fn stamp_prefix(hook_uid: &str) -> String {
    digest(&[hook_uid])
}

/// The injection for a workload, or why it cannot be.
pub fn injection(
    hook: HookIdentity<'_>,
    spec: &KrakeHookSpec,
    settings: &Settings,
    workload: &Workload,
) -> Result<Injection, Conflict> {
    let pod = workload.template.spec.as_ref();
    let app: &[Container] = pod.map_or(&[], |p| &p.containers);
    let init: &[Container] = pod
        .and_then(|p| p.init_containers.as_deref())
        .unwrap_or_default();
    let (containers, init_containers) = chosen(spec, workload, app, init)?;
    let object = names::of_hook(hook.name, hook.uid);
    let env = env(spec, settings, &object);
    let mounts: Vec<Value> = mount_paths(spec, settings)
        .into_iter()
        .map(|path| json!({"name": names::CERT_VOLUME, "mountPath": path, "readOnly": true}))
        .collect();
    let volume = settings.tls.then(|| volume(hook, &object));
    let workload_uid = workload.metadata.uid.as_deref().unwrap_or_default();
    let shape = json!([containers, init_containers, env, mounts]).to_string();
    let tls = if settings.tls { "tls" } else { "plain" };
    let injection = Injection {
        hook: hook.name.to_owned(),
        stamp: format!(
            "{}-{}-{}",
            stamp_prefix(hook.uid),
            digest(&[hook.uid, workload_uid, tls, &shape]),
            settings.key_id
        ),
        containers,
        init_containers,
        env,
        mounts,
        volume,
    };
    // What is not changed cannot conflict: who refers to our objects by name uses our names.
    if workload.is_changeable() {
        injection.check(workload, app.iter().chain(init))?;
    }
    Ok(injection)
}

/// The server-side apply that takes all our entries out, with or without our finalizer left.
pub fn ejection(workload: &Workload, keep_finalizer: bool) -> Value {
    let mut patch = identity(workload);
    if keep_finalizer {
        patch["metadata"]["finalizers"] = json!([names::SHUTDOWN_FINALIZER]);
    }
    patch
}

/// Takes everything of ours out: by an apply what we alone own, by a JSON patch where others own it
/// too. After the second there may still be something for the first.
pub fn eject(workload: &Workload) -> Effect {
    match ours::beyond_apply(workload).is_empty() {
        true => Effect::ApplyInjection(ejection(workload, false)),
        false => Effect::RemoveEntries(ours::removal(workload, &ours::entries(workload))),
    }
}

/// Whether anything in the workload is ours.
pub fn is_touched(workload: &Workload) -> bool {
    ours::Owners::of(workload).own_any() || !ours::entries(workload).is_empty()
}

/// Who else has written env of the workload's containers lately; for `InjectionContested`.
pub fn last_other_manager(workload: &Workload) -> Option<String> {
    workload
        .metadata
        .managed_fields
        .iter()
        .flatten()
        .filter(|entry| entry.subresource.as_deref().unwrap_or_default().is_empty())
        .filter(|entry| entry.manager.as_deref() != Some(names::INJECT_MANAGER))
        .max_by_key(|entry| entry.time.clone())
        .and_then(|entry| entry.manager.clone())
}

/// Hash of the template without our entries: the same work created again has the same one.
pub fn template_hash(workload: &Workload, injection: Option<&Injection>) -> String {
    let mut template = serde_json::to_value(&workload.template).unwrap_or_default();
    if let Some(injection) = injection {
        injection.strip(&mut template);
    }
    // The API server labels a Job's template with the Job's own uid.
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.retain(|_, value| json!(workload.metadata.uid) != *value);
    }
    digest(&[&template.to_string()])
}

/// Whether a pod has what this injection gives.
pub fn carries_stamp(meta: &ObjectMeta, stamp: &str) -> bool {
    annotation(meta, names::STAMP_ANNOTATION) == Some(stamp)
}

/// Id of the master key that the token of a pod is made with; nothing where nothing is injected.
pub fn key_of(meta: &ObjectMeta) -> Option<&str> {
    let stamp = annotation(meta, names::STAMP_ANNOTATION)?;
    stamp.splitn(3, '-').nth(2)
}

/// Whether a pod has what some injection of this hook gave.
pub fn carries_stamp_of(meta: &ObjectMeta, hook_uid: &str) -> bool {
    annotation(meta, names::STAMP_ANNOTATION)
        .and_then(|stamp| stamp.split_once('-'))
        .is_some_and(|(prefix, _)| prefix == stamp_prefix(hook_uid))
}

impl Injection {
    /// The server-side apply, with our finalizer or without. A workload whose template cannot be
    /// changed gets only a label that says whose it is.
    pub fn patch(&self, workload: &Workload, hold: bool) -> Value {
        if !workload.is_changeable() {
            let mut patch = ejection(workload, hold);
            patch["metadata"]["labels"] = json!({names::HOOK_LABEL: self.hook});
            return patch;
        }
        let container = |name: &String| {
            let mut entry = json!({"name": name, "env": self.env});
            if !self.mounts.is_empty() {
                entry["volumeMounts"] = json!(self.mounts);
            }
            entry
        };
        let mut pod = json!({});
        if !self.containers.is_empty() {
            pod["containers"] = self.containers.iter().map(container).collect();
        }
        if !self.init_containers.is_empty() {
            pod["initContainers"] = self.init_containers.iter().map(container).collect();
        }
        if let Some(volume) = &self.volume {
            pod["volumes"] = json!([volume]);
        }
        let mut patch = ejection(workload, hold);
        let template = json!({
            "metadata": {
                "labels": {names::HOOK_LABEL: self.hook},
                "annotations": {names::STAMP_ANNOTATION: self.stamp},
            },
            "spec": pod,
        });
        let steps = workload.traits().template.rsplit('/');
        let nested = steps
            .filter(|step| !step.is_empty())
            .fold(template, |inner, step| json!({step: inner}));
        if let (Some(patch), Value::Object(nested)) = (patch.as_object_mut(), nested) {
            patch.extend(nested);
        }
        patch
    }

    /// Takes out what is ours by its form, is not in this injection, and would stay if it were applied:
    /// an earlier hook's entries in a restored or copied manifest.
    pub fn remove_leftovers(&self, workload: &Workload, hold: bool) -> Option<Effect> {
        let mut leftovers = ours::beyond_apply(workload);
        leftovers.retain(|entry| !entry.is_wanted(self, hold));
        let removal = || Effect::RemoveEntries(ours::removal(workload, &leftovers));
        (!leftovers.is_empty()).then(removal)
    }

    /// Whether the workload has all of it, and our finalizer exactly if a hold is wanted.
    pub fn is_in_place(&self, workload: &Workload, hold: bool) -> bool {
        has_finalizer(&workload.metadata, names::SHUTDOWN_FINALIZER) == hold
            && self.is_in_template(workload)
    }

    /// Whether the template has all of it, or the workload the label that stands for it.
    pub fn is_in_template(&self, workload: &Workload) -> bool {
        if !workload.is_changeable() {
            let labels = workload.metadata.labels.as_ref();
            return labels.and_then(|labels| labels.get(names::HOOK_LABEL)) == Some(&self.hook);
        }
        let template = serde_json::to_value(&workload.template).unwrap_or_default();
        let meta = &template["metadata"];
        if meta["labels"][names::HOOK_LABEL] != json!(self.hook)
            || meta["annotations"][names::STAMP_ANNOTATION] != json!(self.stamp)
        {
            return false;
        }
        let pod = &template["spec"];
        let volumes = list(&pod["volumes"]);
        if self
            .volume
            .as_ref()
            .is_some_and(|volume| !volumes.iter().any(|v| covers(v, volume)))
        {
            return false;
        }
        let all_in = |list_of: &Value, names: &[String]| {
            names.iter().all(|name| {
                list(list_of).iter().any(|container| {
                    container["name"] == json!(name)
                        && shows(list(&container["env"]), &self.env)
                        && has_all(&container["volumeMounts"], &self.mounts)
                })
            })
        };
        all_in(&pod["containers"], &self.containers)
            && all_in(&pod["initContainers"], &self.init_containers)
    }

    /// What keeps a container of a pod from seeing what it is given; only the order of `env` is asked
    /// about, of which caches keep our entries.
    pub fn unexpanded(&self, pod: &Pod) -> Option<String> {
        let made_of = [
            names::POD_UID_ENV,
            names::COMPLETE_ENDPOINT_ENV,
            names::SHUTDOWN_ENDPOINT_ENV,
        ];
        let spec = pod.spec.as_ref()?;
        let init = spec.init_containers.iter().flatten();
        let chosen = |container: &&Container| {
            let mut names = self.containers.iter().chain(&self.init_containers);
            names.any(|name| *name == container.name)
        };
        let mut all = spec.containers.iter().chain(init).filter(chosen);
        all.find_map(|container| {
            let env = container.env.as_deref().unwrap_or_default();
            let given = |name: &&str| self.env.iter().any(|entry| entry["name"] == json!(name));
            let made_of = made_of.into_iter().filter(given).collect();
            let variable = sight::out_of_order(env, &made_of)?;
            Some(format!(
                "container {}: {variable} is listed before what it is made of, and does not expand",
                container.name
            ))
        })
    }

    /// Refuses to touch a template that has entries of the user's where ours would go.
    fn check<'a>(
        &self,
        workload: &Workload,
        containers: impl Iterator<Item = &'a Container>,
    ) -> Result<(), Conflict> {
        if let Some(name) = self.taken_name(workload) {
            return Err(Conflict {
                reason: Reason::LabelConflict,
                message: format!(
                    "{workload}: the template has {name} already, which is not a hook's; nothing was changed. Remove it"
                ),
            });
        }
        let owners = ours::Owners::of(workload);
        let is_owned = |container: &str, entry: &EnvVar| {
            let mut groups = ["containers", "initContainers"].into_iter();
            groups.any(|group| owners.own(&ours::env_path(workload, group, container, &entry.name)))
        };
        let is_ours =
            |entry: &EnvVar| serde_json::to_value(entry).is_ok_and(|entry| ours::is_env(&entry));
        let pod = workload.template.spec.as_ref();
        let volumes = pod.and_then(|pod| pod.volumes.as_deref());
        let volumes = volumes.unwrap_or_default();
        for container in containers {
            let chosen = self.containers.contains(&container.name)
                || self.init_containers.contains(&container.name);
            if !chosen {
                continue;
            }
            let env = container.env.as_deref().unwrap_or_default();
            // Managed fields speak of a name: of several entries they do not tell whose is whose.
            let once = |entry: &EnvVar| env.iter().filter(|e| e.name == entry.name).count() == 1;
            let known = |entry: &EnvVar| {
                self.is_entry(entry)
                    || is_ours(entry)
                    || (once(entry) && is_owned(&container.name, entry))
            };
            let taken = env.iter().find(|entry| {
                self.env.iter().any(|our| our["name"] == json!(entry.name)) && !known(entry)
            });
            if let Some(entry) = taken {
                return Err(Conflict {
                    reason: Reason::EnvConflict,
                    message: format!(
                        "{workload}: container {} already sets {}; nothing was changed. Remove it there, or choose another name in the hook's spec.complete.env or spec.shutdown.env",
                        container.name, entry.name
                    ),
                });
            }
            let paths = self.mounts.iter();
            let mut paths = paths.filter_map(|mount| mount["mountPath"].as_str());
            if let Some(what) = paths.find_map(|path| mounts::conflict(container, volumes, path)) {
                return Err(Conflict {
                    reason: Reason::MountConflict,
                    message: format!(
                        "{workload}: {what}; nothing was changed. Choose another directory in the hook's certMountPath"
                    ),
                });
            }
        }
        let others = |volume: &&Volume| {
            volume.name == names::CERT_VOLUME
                && !serde_json::to_value(volume).is_ok_and(|volume| ours::is_volume(&volume))
        };
        if self.volume.is_some() && volumes.iter().any(|volume| others(&volume)) {
            return Err(Conflict {
                reason: Reason::MountConflict,
                message: format!(
                    "{workload}: there is a volume named {} already; nothing was changed. Rename it",
                    names::CERT_VOLUME
                ),
            });
        }
        Ok(())
    }

    /// A label or an annotation of the user's where ours would go. What comes with a stamp was injected
    /// once, by this hook or another one, and is replaced.
    fn taken_name(&self, workload: &Workload) -> Option<String> {
        let meta = workload.template.metadata.as_ref()?;
        let label = meta.labels.as_ref().and_then(|l| l.get(names::HOOK_LABEL));
        match (annotation(meta, names::STAMP_ANNOTATION), label) {
            (Some(stamp), _) if is_stamp(stamp) => None,
            (Some(stamp), _) => Some(format!(
                "the annotation {}={stamp}",
                names::STAMP_ANNOTATION
            )),
            (None, Some(label)) if *label != self.hook => {
                Some(format!("the label {}={label}", names::HOOK_LABEL))
            }
            (None, _) => None,
        }
    }

    fn is_entry(&self, entry: &EnvVar) -> bool {
        serde_json::to_value(entry).is_ok_and(|entry| self.env.contains(&entry))
    }

    /// Takes our entries out of a template in JSON.
    fn strip(&self, template: &mut Value) {
        strip_map(template, &["metadata", "labels"], names::HOOK_LABEL);
        strip_map(
            template,
            &["metadata", "annotations"],
            names::STAMP_ANNOTATION,
        );
        let ours: BTreeSet<&str> = self.env.iter().filter_map(|e| e["name"].as_str()).collect();
        let Some(pod) = template.get_mut("spec") else {
            return;
        };
        strip_list(pod, "volumes", |v| v["name"] == json!(names::CERT_VOLUME));
        for group in ["containers", "initContainers"] {
            for container in pod
                .get_mut(group)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                strip_list(container, "env", |e| {
                    e["name"].as_str().is_some_and(|n| ours.contains(n))
                });
                strip_list(container, "volumeMounts", |m| {
                    m["name"] == json!(names::CERT_VOLUME)
                });
            }
        }
    }
}

fn identity(workload: &Workload) -> Value {
    let (traits, meta) = (workload.traits(), &workload.metadata);
    let mut identity = json!({
        "apiVersion": traits.api_version,
        "kind": traits.name,
        "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
    });
    if let Some(version) = &meta.resource_version {
        // What arrives late must not bring back what has been taken away meanwhile.
        identity["metadata"]["resourceVersion"] = json!(version);
    }
    identity
}

/// Whether it is one that [`injection`] makes.
fn is_stamp(stamp: &str) -> bool {
    let digest = |part: &str| part.len() == 8 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let mut parts = stamp.splitn(3, '-');
    let [hook, all, key] = [parts.next(), parts.next(), parts.next()];
    hook.is_some_and(digest) && all.is_some_and(digest) && key.is_some()
}

fn digest(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        // The length keeps ("ab", "c") apart from ("a", "bc").
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hasher
        .finalize()
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What the ConfigMap of a hook says: public things only. Both URLs, always: a container of an
/// earlier template that restarts must still find the one it refers to.
///
/// Where the operator has no certificate authority there is nothing to be said yet.
pub fn config_map(seen: &Seen, settings: &Settings) -> Option<BTreeMap<String, String>> {
    let url = |kind| {
        let path = names::callback_path(seen.namespace(), seen.hook_name(), kind);
        format!("{}{path}", settings.endpoint)
    };
    let mut entries = BTreeMap::from([
        (names::COMPLETE_URL_KEY.to_owned(), url(HookKind::Complete)),
        (names::SHUTDOWN_URL_KEY.to_owned(), url(HookKind::Shutdown)),
    ]);
    if settings.tls {
        let bundle = Some(settings.bundle.clone()).filter(|bundle| !bundle.is_empty());
        entries.insert(names::CA_BUNDLE.to_owned(), bundle?);
    }
    Some(entries)
}
