//! Whether a directory of ours fits beside what a container mounts already.
//!
//! Tried on a node. Kubelet makes a directory for whatever is mounted inside of what it fills itself,
//! our volume among it; where a file is to be mounted, that directory is in the way, and the container
//! does not start. In anybody's read-only volume no directory can be made.
//!
//! | the container has | |
//! |---|---|
//! | a mount at our directory, however it is spelt | one hides the other |
//! | a mount at one of our files | it hides the file |
//! | a file below our directory: a key of a ConfigMap or Secret by `subPath`, a `hostPath` that is a file, a device, its termination log, `/etc/hosts` and the like | does not start |
//! | a directory below it | fits |
//! | a writable volume, or all of a ConfigMap or the like, above it | fits |
//! | a read-only volume above it, or a file | does not start |
//! | our directory in `/proc` or `/sys`, or at `/dev` | does not start |

use k8s_openapi::api::core::v1::{Container, KeyToPath, Volume, VolumeMount};
use serde_json::Value;

use crate::api::names;

const FILES: [&str; 4] = [names::CA_BUNDLE, names::CERT, names::KEY, names::BUNDLE];
/// What every container has, whatever its template says.
const EVERYWHERE: [&str; 4] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev"];
/// Nothing can be mounted in there.
const KERNELS: [&str; 2] = ["/proc", "/sys"];

/// What keeps a directory of ours out of a container, in words.
pub(super) fn conflict(container: &Container, volumes: &[Volume], ours: &str) -> Option<String> {
    let at = steps(ours);
    let name = &container.name;
    let of = |mount: &VolumeMount| volumes.iter().find(|volume| volume.name == mount.name);
    for mount in container.volume_mounts.iter().flatten() {
        let volume = of(mount);
        let path = steps(&mount.mount_path);
        let own = mount.name == names::CERT_VOLUME;
        let whole = sub_path(mount).is_none();
        let why = match (below(&path, &at), below(&at, &path)) {
            (Some([]), _) if own && whole => continue,
            (Some([]), _) => "where",
            (Some([file, ..]), _) if FILES.contains(file) => "over one of the files of",
            (Some(_), _) if !own && is_file(mount, volume) => "as a file below",
            (_, Some(_)) if !own && is_file(mount, volume) => "as a file above",
            (_, Some(_)) if !own && is_read_only(mount, volume) => "read-only above",
            _ => continue,
        };
        return Some(match why {
            "where" => format!(
                "container {name} already mounts volume {} at {}",
                mount.name, mount.mount_path
            ),
            why => format!(
                "container {name} mounts volume {} at {}, {why} {ours}: the two do not fit together",
                mount.name, mount.mount_path
            ),
        });
    }
    let devices = container.volume_devices.iter().flatten();
    let devices = devices.map(|device| device.device_path.as_str());
    let log = container.termination_message_path.as_deref();
    let mut files = devices.chain(log).chain(EVERYWHERE);
    if let Some(file) = files.find(|file| below(&steps(file), &at).is_some()) {
        return Some(format!(
            "container {name} has {file}, which does not fit into {ours}"
        ));
    }
    let mut kernels = KERNELS.into_iter();
    let kernel = kernels.find(|kernel| below(&at, &steps(kernel)).is_some())?;
    Some(format!(
        "container {name}: nothing can be mounted in {kernel}, and {ours} is there"
    ))
}

/// The names that lead to a path, as the container's own resolution goes through them.
fn steps(path: &str) -> Vec<&str> {
    let mut steps = Vec::new();
    for step in path.split('/') {
        match step {
            "" | "." => {}
            ".." => drop(steps.pop()),
            step => steps.push(step),
        }
    }
    steps
}

/// What leads from `parent` to `path`; nothing if it is elsewhere.
fn below<'a>(path: &'a [&'a str], parent: &[&'a str]) -> Option<&'a [&'a str]> {
    path.strip_prefix(parent)
}

fn sub_path(mount: &VolumeMount) -> Option<&str> {
    let paths = [&mount.sub_path, &mount.sub_path_expr];
    let mut paths = paths.into_iter().flatten();
    paths.find(|path| !path.is_empty()).map(String::as_str)
}

/// Whether a file is mounted, as far as the template tells: what is in a volume of another kind is not
/// known.
fn is_file(mount: &VolumeMount, volume: Option<&Volume>) -> bool {
    let Some(volume) = volume else { return false };
    match (sub_path(mount), &volume.host_path) {
        (Some(path), _) => {
            let inside = format!("{}/", path.trim_end_matches('/'));
            filled(volume).is_some_and(|paths| !paths.iter().any(|p| p.starts_with(&inside)))
        }
        (None, Some(host)) => host
            .type_
            .as_deref()
            .is_some_and(|kind| !matches!(kind, "" | "Directory" | "DirectoryOrCreate")),
        (None, None) => false,
    }
}

fn is_read_only(mount: &VolumeMount, volume: Option<&Volume>) -> bool {
    if volume.is_some_and(|volume| filled(volume).is_some()) && sub_path(mount).is_none() {
        return false;
    }
    let sources = serde_json::to_value(volume).unwrap_or_default();
    let mut sources = sources.as_object().into_iter().flatten();
    let source = sources.any(|(kind, source)| {
        kind == "image" || source.get("readOnly") == Some(&Value::Bool(true))
    });
    mount.read_only == Some(true) || source || volume.is_some_and(|v| filled(v).is_some())
}

/// The paths by which a volume that kubelet fills says where its files are, as far as it does; nothing
/// for a volume of another kind.
fn filled(volume: &Volume) -> Option<Vec<String>> {
    let items = |items: Option<&Vec<KeyToPath>>| -> Vec<String> {
        let items = items.into_iter().flatten();
        items.map(|item| item.path.clone()).collect()
    };
    if let Some(source) = &volume.config_map {
        return Some(items(source.items.as_ref()));
    }
    if let Some(source) = &volume.secret {
        return Some(items(source.items.as_ref()));
    }
    if let Some(source) = &volume.downward_api {
        let files = source.items.iter().flatten();
        return Some(files.map(|file| file.path.clone()).collect());
    }
    let sources = volume.projected.as_ref()?.sources.iter().flatten();
    let paths = sources.flat_map(|source| {
        let maps = items(source.config_map.as_ref().and_then(|s| s.items.as_ref()));
        let secrets = items(source.secret.as_ref().and_then(|s| s.items.as_ref()));
        let down = source.downward_api.iter().flat_map(|s| s.items.iter());
        let down = down.flatten().map(|file| file.path.clone());
        let token = source.service_account_token.iter().map(|t| t.path.clone());
        maps.into_iter()
            .chain(secrets)
            .chain(down)
            .chain(token)
            .collect::<Vec<_>>()
    });
    Some(paths.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_fits_and_what_does_not_as_tried_on_a_node() {
        let map = || json!({"configMap": {"name": "theirs"}});
        let nested = || {
            json!({"configMap": {"name": "theirs",
            "items": [{"key": "one", "path": "more/one"}]}})
        };
        let empty = || json!({"emptyDir": {}});
        let file = || json!({"hostPath": {"path": "/etc/motd", "type": "File"}});
        let host = || json!({"hostPath": {"path": "/srv"}});
        let claim = || json!({"persistentVolumeClaim": {"claimName": "c", "readOnly": true}});
        let image = || json!({"image": {"reference": "x"}});
        let at = |path: &str| json!({"mountPath": path});
        let sub = |path: &str| json!({"mountPath": path, "subPath": "one"});
        let expr = |path: &str| json!({"mountPath": path, "subPathExpr": "$(POD)"});
        let more = |path: &str| json!({"mountPath": path, "subPath": "more"});
        let only = |path: &str| json!({"mountPath": path, "readOnly": true});
        let ours = "/etc/krake_cert";
        for (name, volume, mount, fits) in [
            ("the same", empty(), at(ours), false),
            (
                "the same, with a slash",
                empty(),
                at("/etc/krake_cert/"),
                false,
            ),
            (
                "the same, spelt otherwise",
                empty(),
                at("/etc/./x/..//krake_cert"),
                false,
            ),
            ("the same, relative", empty(), at("etc/krake_cert"), false),
            ("beside", map(), sub("/etc/krake_cert.conf"), true),
            ("a file below", map(), sub("/etc/krake_cert/one"), false),
            (
                "a file below, by an expression",
                map(),
                expr("/etc/krake_cert/one"),
                false,
            ),
            (
                "a file deep below",
                map(),
                sub("/etc/krake_cert/a/one"),
                false,
            ),
            ("a directory below", map(), at("/etc/krake_cert/more"), true),
            (
                "a directory of items below",
                nested(),
                more("/etc/krake_cert/more"),
                true,
            ),
            (
                "an empty one below",
                empty(),
                at("/etc/krake_cert/more"),
                true,
            ),
            (
                "a part of an empty one below",
                empty(),
                sub("/etc/krake_cert/more"),
                true,
            ),
            (
                "a directory over a file of ours",
                empty(),
                at("/etc/krake_cert/cert.pem"),
                false,
            ),
            (
                "a file over a file of ours",
                map(),
                sub("/etc/krake_cert/key.pem"),
                false,
            ),
            (
                "a node's file below",
                file(),
                at("/etc/krake_cert/motd"),
                false,
            ),
            (
                "a node's directory below",
                host(),
                at("/etc/krake_cert/srv"),
                true,
            ),
            ("writable above", empty(), at("/etc"), true),
            ("a part, writable, above", empty(), sub("/etc"), true),
            ("all of a ConfigMap above", map(), at("/etc"), true),
            (
                "all of a ConfigMap above, said to be read-only",
                map(),
                only("/etc"),
                true,
            ),
            ("a file above", map(), sub("/etc"), false),
            ("a part of a ConfigMap above", nested(), more("/etc"), false),
            ("read-only above", empty(), only("/etc"), false),
            ("a node's, read-only, above", host(), only("/etc"), false),
            ("a claim, read-only, above", claim(), at("/etc"), false),
            ("an image above", image(), at("/etc"), false),
        ] {
            let volume = {
                let mut named = volume;
                named["name"] = json!("theirs");
                serde_json::from_value(named).unwrap()
            };
            let mut mount = mount;
            mount["name"] = json!("theirs");
            let container = json!({"name": "app", "volumeMounts": [mount]});
            let container = serde_json::from_value(container).unwrap();
            let found = conflict(&container, &[volume], ours);
            assert_eq!(found.is_none(), fits, "{name}: {found:?}");
        }
    }

    #[test]
    fn what_every_container_has_is_not_mounted_over() {
        let log = json!({"name": "app", "terminationMessagePath": "/run/krake/log"});
        let device = json!({"name": "app", "volumeDevices": [
            {"name": "disk", "devicePath": "/run/krake/disk"}]});
        let plain = || json!({"name": "app", "terminationMessagePath": "/dev/termination-log"});
        for (container, ours, fits) in [
            (plain(), "/run/krake", true),
            (log.clone(), "/run/krake", false),
            (log, "/run/krake/log/x", true),
            (device, "/run/krake", false),
            (plain(), "/", false),
            (plain(), "/etc", false),
            (plain(), "/etc/hosts", false),
            (plain(), "/dev", false),
            (plain(), "/dev/krake", true),
            (plain(), "/proc/krake", false),
            (plain(), "/sys", false),
            (plain(), "/var/run/secrets", true),
        ] {
            let container = serde_json::from_value(container).unwrap();
            let found = conflict(&container, &[], ours);
            assert_eq!(found.is_none(), fits, "{ours}: {found:?}");
        }
    }

    #[test]
    fn our_own_directories_may_be_in_each_other() {
        let mount = |path: &str| json!({"name": names::CERT_VOLUME, "mountPath": path});
        let container = |more: Value| {
            let mut mount = mount("/run/krake/stop");
            for (field, value) in more.as_object().into_iter().flatten() {
                mount[field] = value.clone();
            }
            serde_json::from_value(json!({"name": "app", "volumeMounts": [mount]})).unwrap()
        };
        let fits = |more, ours| conflict(&container(more), &[], ours).is_none();
        assert!(fits(json!({}), "/run/krake"));
        assert!(fits(json!({}), "/run/krake/stop"));
        assert!(fits(json!({}), "/run/krake/stop/done"));
        // Somebody shows one file of ours where all of them are to be.
        assert!(!fits(json!({"subPath": "key.pem"}), "/run/krake/stop"));
        assert!(!fits(
            json!({"mountPath": "/run/krake/key.pem"}),
            "/run/krake"
        ));
    }
}
