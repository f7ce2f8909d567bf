//! Which entries of a workload are ours, told by what they look like.
//!
//! The API server's managed fields say who wrote what, but they can be lost: a backup is restored
//! without them, a copied manifest belongs to whoever applies it, and anybody may reset them. What we
//! inject can be told by its form alone, also when it is an earlier hook's:
//!
//! | entry | it is ours if |
//! |---|---|
//! | finalizer `hooks.krake.dev/shutdown` | it has that name |
//! | template's label `hooks.krake.dev/hook` and stamp | the stamp looks like one |
//! | label `hooks.krake.dev/hook` of the workload itself | its template cannot be changed |
//! | variable from a Secret | key `token` of a Secret named `<hook>-krake-<8 hex digits>` |
//! | variable from a ConfigMap | key `complete-url` or `shutdown-url` of one named so |
//! | variable with a value | the value refers to one of our endpoint variables and the pod's uid |
//! | `KRAKE_POD_UID` | from `metadata.uid`, beside another variable that is ours |
//! | volume `krake-cert` | projected from a ConfigMap and a Secret that are named so |
//! | mount | of such a volume |
//!
//! An empty server-side apply takes out what we alone own. Everything else goes by a JSON patch that
//! tests each entry.

use serde_json::{Value, json};

use super::json::list;
use super::{Injection, is_stamp};
use crate::api::names;
use crate::decide::workload::Workload;

/// One entry of ours in a workload.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// Where it stands, as a JSON pointer into the object.
    pointer: String,
    /// What stands there.
    value: Value,
    /// Where managed fields say who owns it.
    fields: Vec<String>,
    what: What,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    Finalizer,
    Label,
    Stamp,
    Env { container: String },
    Mount { container: String },
    Volume,
}

/// All entries of ours in a workload.
pub(super) fn entries(workload: &Workload) -> Vec<Entry> {
    let mut found = Vec::new();
    let meta = &workload.metadata;
    let finalizers = meta.finalizers.iter().flatten();
    if let Some(index) = finalizers
        .clone()
        .position(|finalizer| finalizer == names::SHUTDOWN_FINALIZER)
    {
        let key = format!("v:{}", json!(names::SHUTDOWN_FINALIZER));
        found.push(Entry {
            pointer: format!("/metadata/finalizers/{index}"),
            value: json!(names::SHUTDOWN_FINALIZER),
            fields: path(&["metadata", "finalizers"], [key]),
            what: What::Finalizer,
        });
    }
    if !workload.is_changeable() {
        let labels = meta.labels.as_ref();
        let label = labels.and_then(|labels| labels.get(names::HOOK_LABEL));
        found
            .extend(label.map(|hook| of_map("", &["metadata", "labels"], names::HOOK_LABEL, hook)));
        return found;
    }
    let at = workload.traits().template;
    let template = serde_json::to_value(&workload.template).unwrap_or_default();
    let stamp = template["metadata"]["annotations"][names::STAMP_ANNOTATION].as_str();
    let owners = Owners::of(workload);
    for (map, name) in [
        ("labels", names::HOOK_LABEL),
        ("annotations", names::STAMP_ANNOTATION),
    ] {
        let value = template["metadata"][map][name].as_str();
        let entry = value.map(|value| of_map(at, &["metadata", map], name, value));
        let is_ours = |entry: &Entry| stamp.is_some_and(is_stamp) || owners.own(&entry.fields);
        found.extend(entry.filter(is_ours));
    }
    let pod = &template["spec"];
    let mut volumes = Vec::new();
    for (index, volume) in list(&pod["volumes"]).iter().enumerate() {
        if is_volume(volume) {
            volumes.push(of_list(
                at,
                &["volumes"],
                index,
                volume,
                "name",
                What::Volume,
            ));
        }
    }
    for group in ["containers", "initContainers"] {
        for (index, container) in list(&pod[group]).iter().enumerate() {
            let name = container["name"].as_str().unwrap_or_default();
            let parent = [group.to_owned(), index.to_string()];
            let inside = |kind: &str, index: usize, entry: &Value, key: &str, what: What| {
                let steps = [&parent[0], &parent[1], kind];
                let mut found = of_list(at, &steps, index, entry, key, what);
                // Managed fields have the container's name where the object has its place.
                let place = found.fields.len() - 3;
                found.fields[place] = format!("k:{}", json!({ "name": name }));
                found
            };
            let env = list(&container["env"]);
            let refers = env.iter().any(is_env);
            for (index, entry) in env.iter().enumerate() {
                if is_env(entry) || (refers && is_pod_uid(entry)) {
                    let container = name.to_owned();
                    found.push(inside("env", index, entry, "name", What::Env { container }));
                }
            }
            for (index, mount) in list(&container["volumeMounts"]).iter().enumerate() {
                if !volumes.is_empty() && mount["name"] == json!(names::CERT_VOLUME) {
                    let what = What::Mount {
                        container: name.to_owned(),
                    };
                    found.push(inside("volumeMounts", index, mount, "mountPath", what));
                }
            }
        }
    }
    found.extend(volumes);
    found
}

/// Whether a variable refers to what a hook is given, or is made of such.
pub(super) fn is_env(entry: &Value) -> bool {
    let reference = |kind: &str, keys: &[&str]| {
        let from = &entry["valueFrom"][kind];
        let key = from["key"].as_str().unwrap_or_default();
        keys.contains(&key) && from["name"].as_str().is_some_and(is_object)
    };
    let made = |endpoint: &str| {
        let url = format!("$({endpoint})/$({})", names::POD_UID_ENV);
        entry["value"] == json!(url)
    };
    reference("secretKeyRef", &[names::TOKEN])
        || reference(
            "configMapKeyRef",
            &[names::COMPLETE_URL_KEY, names::SHUTDOWN_URL_KEY],
        )
        || made(names::COMPLETE_ENDPOINT_ENV)
        || made(names::SHUTDOWN_ENDPOINT_ENV)
}

fn is_pod_uid(entry: &Value) -> bool {
    entry["name"] == json!(names::POD_UID_ENV)
        && entry["valueFrom"]["fieldRef"]["fieldPath"] == json!("metadata.uid")
}

/// Whether a volume shows a hook's certificate, and nothing else.
pub(super) fn is_volume(volume: &Value) -> bool {
    let sources = list(&volume["projected"]["sources"]);
    let ours = |source: &Value| {
        let name = |kind: &str| source[kind]["name"].as_str();
        name("configMap").is_some_and(is_object)
            || name("secret")
                .and_then(|secret| secret.strip_suffix("-tls"))
                .is_some_and(is_object)
    };
    volume["name"] == json!(names::CERT_VOLUME) && !sources.is_empty() && sources.iter().all(ours)
}

/// Whether it is the name of what some hook is given, see [`names::of_hook`].
fn is_object(name: &str) -> bool {
    name.rsplit_once("-krake-").is_some_and(|(hook, uid)| {
        let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        !hook.is_empty() && uid.len() == 8 && uid.chars().all(hex)
    })
}

/// Entries that an apply by our field manager would not take out.
pub(super) fn beyond_apply(workload: &Workload) -> Vec<Entry> {
    let mut all = entries(workload);
    all.retain(|entry| !Owners::of(workload).is_ours_alone(&entry.fields));
    all
}

/// The JSON patch that takes these entries out of a workload that is still as it was seen.
pub(super) fn removal(workload: &Workload, entries: &[Entry]) -> Vec<Value> {
    let meta = &workload.metadata;
    let is = |path: &str, value: &Value| json!({"op": "test", "path": path, "value": value});
    let mut operations = vec![
        is("/metadata/uid", &json!(meta.uid)),
        is("/metadata/resourceVersion", &json!(meta.resource_version)),
    ];
    operations.extend(entries.iter().map(|entry| is(&entry.pointer, &entry.value)));
    // From behind, so that what comes before stays in its place.
    let from_behind = entries.iter().rev();
    operations.extend(from_behind.map(|entry| json!({"op": "remove", "path": entry.pointer})));
    operations
}

impl Entry {
    /// Whether the injection writes the same entry, whatever it says now.
    pub(super) fn is_wanted(&self, injection: &Injection, hold: bool) -> bool {
        let chosen = |container: &String| {
            injection.containers.contains(container)
                || injection.init_containers.contains(container)
        };
        // What comes from elsewhere cannot be applied over: it would have two sources.
        let source = |entry: &Value| {
            let from = entry["valueFrom"].as_object();
            from.and_then(|from| from.keys().next().cloned())
        };
        match &self.what {
            What::Finalizer => hold,
            What::Label | What::Stamp => true,
            What::Volume => injection.volume.is_some(),
            What::Env { container } => {
                chosen(container)
                    && injection.env.iter().any(|ours| {
                        ours["name"] == self.value["name"] && source(ours) == source(&self.value)
                    })
            }
            What::Mount { container } => {
                let at = &self.value["mountPath"];
                chosen(container) && injection.mounts.iter().any(|ours| &ours["mountPath"] == at)
            }
        }
    }
}

/// Who owns what, by the managed fields.
pub(super) struct Owners {
    ours: Vec<Value>,
    others: Vec<Value>,
}

impl Owners {
    pub(super) fn of(workload: &Workload) -> Self {
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        for entry in workload.metadata.managed_fields.iter().flatten() {
            let fields = entry.fields_v1.as_ref().map(|fields| fields.0.clone());
            let applied = entry.manager.as_deref() == Some(names::INJECT_MANAGER)
                && entry.operation.as_deref() == Some("Apply");
            let of = if applied { &mut ours } else { &mut others };
            of.extend(fields.filter(|fields| *fields != json!({})));
        }
        Self { ours, others }
    }

    /// Whether we own anything.
    pub(super) fn own_any(&self) -> bool {
        !self.ours.is_empty()
    }

    /// Whether we own what stands there, alone or not.
    pub(super) fn own(&self, path: &[String]) -> bool {
        self.ours.iter().any(|fields| has(fields, path))
    }

    fn is_ours_alone(&self, path: &[String]) -> bool {
        self.own(path) && !self.others.iter().any(|fields| has(fields, path))
    }
}

/// Where managed fields have a variable of a container.
pub(super) fn env_path(
    workload: &Workload,
    group: &str,
    container: &str,
    name: &str,
) -> Vec<String> {
    let key = |name: &str| format!("k:{}", json!({ "name": name }));
    let steps = workload.traits().template.split('/').chain(["spec", group]);
    let mut found = path(&steps.collect::<Vec<_>>(), [key(container)]);
    found.extend(["f:env".to_owned(), key(name)]);
    found
}

fn has(fields: &Value, path: &[String]) -> bool {
    let found = path
        .iter()
        .try_fold(fields, |fields, step| fields.get(step.as_str()));
    found.is_some()
}

fn path(fields: &[&str], last: impl IntoIterator<Item = String>) -> Vec<String> {
    let fields = fields.iter().filter(|field| !field.is_empty());
    let fields = fields.map(|field| format!("f:{field}"));
    fields.chain(last).collect()
}

fn of_map(at: &str, maps: &[&str], name: &str, value: &str) -> Entry {
    let steps: Vec<_> = at.split('/').chain(maps.iter().copied()).collect();
    Entry {
        pointer: format!("{at}/{}/{}", maps.join("/"), name.replace('/', "~1")),
        value: json!(value),
        fields: path(&steps, [format!("f:{name}")]),
        what: match name {
            names::STAMP_ANNOTATION => What::Stamp,
            _ => What::Label,
        },
    }
}

fn of_list(at: &str, lists: &[&str], index: usize, entry: &Value, key: &str, what: What) -> Entry {
    let steps: Vec<_> = at
        .split('/')
        .chain(["spec"])
        .chain(lists.iter().copied())
        .collect();
    Entry {
        pointer: format!("{at}/spec/{}/{index}", lists.join("/")),
        value: entry.clone(),
        fields: path(&steps, [format!("k:{}", json!({key: entry[key]}))]),
        what,
    }
}
