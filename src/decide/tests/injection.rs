//! What is injected, byte for byte, and that it comes out again without a trace.

use serde_json::{Value, json};

use crate::api::WorkloadKind;
use crate::api::condition::Reason;
use crate::decide::inject::{self, Conflict, HookIdentity, Injection};
use crate::decide::{Effect, Settings};
use crate::testing::build::{self, Build, NAME};
use crate::testing::merge;

const HOOK: HookIdentity<'_> = HookIdentity {
    name: NAME,
    uid: "aaaaaaaa-0000",
};

fn both() -> Build {
    build::hook(NAME).complete().shutdown()
}

fn workload() -> Build {
    let workload = build::deployment(NAME).uid("bbbbbbbb-0000");
    workload.container("app").container("sidecar")
}

fn inject(hook: Build, workload: &Build, settings: &Settings) -> Result<Injection, Conflict> {
    inject::injection(
        HOOK,
        &hook.hook().spec,
        settings,
        &workload.clone().workload(),
    )
}

fn tls() -> Settings {
    build::settings("me", true)
}

fn plain() -> Settings {
    build::settings("me", false)
}

fn patch(hook: Build, workload: &Build, settings: &Settings, hold: bool) -> Value {
    let injection = inject(hook, workload, settings).unwrap();
    injection.patch(&workload.clone().workload(), hold)
}

/// A workload as it is after server-side apply of a patch by our field manager.
fn applied(workload: &Build, patch: &Value) -> Build {
    let mut object = workload.0.clone();
    merge::merge(&mut object["spec"], &patch["spec"]);
    object["metadata"]["managedFields"] = json!([{"manager": crate::api::names::INJECT_MANAGER,
        "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": merge::managed(patch)}]);
    let injected = Build(object);
    match patch["metadata"]["finalizers"].is_null() {
        true => injected,
        false => injected.finalizer(crate::api::names::SHUTDOWN_FINALIZER),
    }
}

#[test]
fn both_kinds_with_tls() {
    insta::assert_json_snapshot!(patch(both(), &workload(), &tls(), true));
}

#[test]
fn both_kinds_without_tls() {
    insta::assert_json_snapshot!(patch(both(), &workload(), &plain(), true));
}

#[test]
fn complete_only() {
    insta::assert_json_snapshot!(patch(
        build::hook(NAME).complete(),
        &workload(),
        &tls(),
        false
    ));
}

#[test]
fn own_names_own_directories_and_an_init_container() {
    let hook = both()
        .with("/spec/containers", json!(["setup", "app"]))
        .with(
            "/spec/complete/env",
            json!({"token": "DONE_TOKEN", "url": "DONE_URL"}),
        )
        .with(
            "/spec/shutdown/env",
            json!({"token": "STOP_TOKEN", "url": "STOP_URL"}),
        )
        .with("/spec/complete/certMountPath", json!("/done"))
        .with("/spec/shutdown/certMountPath", json!("/stop"));
    let workload = workload().init_container("setup");
    insta::assert_json_snapshot!(patch(hook, &workload, &tls(), true));
}

#[test]
fn the_ejection() {
    let workload = workload().workload();
    insta::assert_json_snapshot!([
        inject::ejection(&workload, false),
        inject::ejection(&workload, true)
    ]);
}

/// A workload of a kind whose template is that of [`workload`].
fn of_kind(kind: WorkloadKind) -> Build {
    let traits = kind.traits();
    let mut build = build::deployment(NAME)
        .uid("bbbbbbbb-0000")
        .container("app");
    build.0["apiVersion"] = json!(traits.api_version);
    build.0["kind"] = json!(traits.name);
    build
}

#[test]
fn each_kind_is_injected_and_ejected_in_its_own_name() {
    let patches = WorkloadKind::all().map(|kind| {
        let workload = of_kind(kind);
        let hold = kind.traits().guarded.is_some();
        let inject = patch(both(), &workload, &plain(), hold);
        (
            kind.to_string(),
            json!([inject, inject::ejection(&workload.workload(), false)]),
        )
    });
    let patches: std::collections::BTreeMap<String, Value> = patches.collect();
    insta::assert_json_snapshot!(patches);
}

#[test]
fn what_cannot_be_changed_gets_a_label_and_may_use_our_names() {
    for kind in [WorkloadKind::Job, WorkloadKind::Pod] {
        let own = json!([{"name": "KRAKE_TOKEN", "value": "read from a file"}]);
        let bare = of_kind(kind).with("/spec/template/spec/containers/0/env", own);
        let injection = inject(both(), &bare, &tls()).unwrap();
        assert!(
            !injection.is_in_place(&bare.clone().workload(), false),
            "{kind}"
        );
        let patch = injection.patch(&bare.clone().workload(), false);
        let labelled = bare.with("/metadata/labels", patch["metadata"]["labels"].clone());
        assert!(injection.is_in_place(&labelled.workload(), false), "{kind}");
    }
}

/// The API server labels the template of each Job with the Job's uid.
#[test]
fn the_same_job_created_again_has_the_same_hash() {
    let hash = |uid: &str| {
        let labels = json!({"app": NAME, "batch.kubernetes.io/controller-uid": uid});
        let job = of_kind(WorkloadKind::Job).uid(uid);
        let job = job.with("/spec/template/metadata/labels", labels);
        inject::template_hash(&job.workload(), None)
    };
    assert_eq!(hash("one"), hash("another"));
}

#[test]
fn what_is_in_place_is_known_as_such() {
    for settings in [tls(), plain()] {
        let injection = inject(both(), &workload(), &settings).unwrap();
        let bare = workload().workload();
        assert!(!injection.is_in_template(&bare));
        assert!(!inject::is_touched(&bare));
        let injected = applied(&workload(), &injection.patch(&bare, true));
        // What the API server adds is not ours to miss.
        let entry = "/spec/template/spec/containers/0/terminationMessagePath";
        let injected = injected.with(entry, json!("/dev/termination-log"));
        let again = inject(both(), &injected, &settings).unwrap();
        assert_eq!(again, injection, "nothing of ours is taken for the user's");
        let injected = injected.workload();
        assert!(injection.is_in_place(&injected, true));
        assert!(!injection.is_in_place(&injected, false));
        assert!(inject::is_touched(&injected));
    }
}

#[test]
fn each_missing_entry_is_noticed() {
    let injection = inject(both(), &workload(), &tls()).unwrap();
    let injected = applied(&workload(), &injection.patch(&workload().workload(), true));
    let pod = "/spec/template/spec";
    for pointer in [
        "/spec/template/metadata/labels/hooks.krake.dev~1hook",
        "/spec/template/metadata/annotations/hooks.krake.dev~1stamp",
        &format!("{pod}/volumes/0"),
        &format!("{pod}/containers/0/env/0"),
        &format!("{pod}/containers/1/env/4"),
        &format!("{pod}/containers/1/volumeMounts/0"),
    ] {
        let mut object = injected.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match object.0.pointer_mut(parent).unwrap() {
            Value::Array(entries) => drop(entries.remove(key.parse().unwrap())),
            Value::Object(fields) => drop(fields.remove(&key.replace("~1", "/"))),
            other => panic!("{other}"),
        }
        assert!(!injection.is_in_template(&object.workload()), "{pointer}");
    }
}

/// Name, hook, workload, settings, and what is in the way.
type Row = (
    &'static str,
    Build,
    Build,
    Settings,
    Option<(Reason, &'static str)>,
);

#[test]
fn conflicts_name_what_is_in_the_way() {
    let app = "/spec/template/spec/containers/0";
    let env = |name: &str| {
        workload().with(
            &format!("{app}/env"),
            json!([{"name": name, "value": "mine"}]),
        )
    };
    let mount = |path: &str| {
        let mounts = json!([{"name": "mine", "mountPath": path}]);
        workload().with(&format!("{app}/volumeMounts"), mounts)
    };
    let volume = |volume: Value| workload().with("/spec/template/spec/volumes", json!([volume]));
    let cert = crate::api::names::CERT_VOLUME;
    let named = || both().with("/spec/containers", json!(["app", "none"]));
    let sidecar_only = || both().with("/spec/containers", json!(["sidecar"]));
    let label = |value: &str| {
        let labels = json!({"app": NAME, "hooks.krake.dev/hook": value});
        workload().with("/spec/template/metadata/labels", labels)
    };
    let stamp = |build: Build, value: &str| {
        let annotations = json!({"hooks.krake.dev/stamp": value});
        build.with("/spec/template/metadata/annotations", annotations)
    };
    let rows: Vec<Row> = vec![
        (
            "a label of the user's",
            both(),
            label("disabled"),
            tls(),
            Some((Reason::LabelConflict, "hooks.krake.dev/hook=disabled")),
        ),
        ("the same label", both(), label(NAME), tls(), None),
        (
            "a stamp of the user's",
            both(),
            stamp(workload(), "approved"),
            tls(),
            Some((Reason::LabelConflict, "hooks.krake.dev/stamp=approved")),
        ),
        (
            "another hook's, copied",
            both(),
            stamp(label("other"), "0123abcd-4567cdef-89ab"),
            tls(),
            None,
        ),
        (
            "token",
            both(),
            env("KRAKE_TOKEN"),
            tls(),
            Some((Reason::EnvConflict, "KRAKE_TOKEN")),
        ),
        (
            "url",
            both(),
            env("KRAKE_SHUTDOWN_URL"),
            plain(),
            Some((Reason::EnvConflict, "KRAKE_SHUTDOWN_URL")),
        ),
        (
            "pod uid",
            both(),
            env("KRAKE_POD_UID"),
            plain(),
            Some((Reason::EnvConflict, "KRAKE_POD_UID")),
        ),
        (
            "of a kind that is not enabled",
            build::hook(NAME).complete(),
            env("KRAKE_SHUTDOWN_URL"),
            tls(),
            None,
        ),
        (
            "in a container that is not chosen",
            sidecar_only(),
            env("KRAKE_TOKEN"),
            tls(),
            None,
        ),
        ("another name", both(), env("TOKEN"), tls(), None),
        (
            "directory",
            both(),
            mount("/etc/krake_cert"),
            tls(),
            Some((Reason::MountConflict, "/etc/krake_cert")),
        ),
        (
            "directory, with a slash",
            both(),
            mount("/etc/krake_cert/"),
            tls(),
            Some((Reason::MountConflict, "/etc/krake_cert")),
        ),
        (
            "directory without TLS",
            both(),
            mount("/etc/krake_cert"),
            plain(),
            None,
        ),
        (
            "another directory",
            both(),
            mount("/etc/krake"),
            tls(),
            None,
        ),
        (
            "volume",
            both(),
            volume(json!({"name": cert, "emptyDir": {}})),
            tls(),
            Some((Reason::MountConflict, cert)),
        ),
        (
            "a projected volume of the user's",
            both(),
            volume(json!({"name": cert, "projected": {"sources": [{"secret": {"name": "mine"}}]}})),
            tls(),
            Some((Reason::MountConflict, cert)),
        ),
        (
            "a user's Secret beside ours in the volume",
            both(),
            volume({
                let mut ours = inject(both(), &workload(), &tls()).unwrap().volume.unwrap();
                let sources = ours["projected"]["sources"].as_array_mut().unwrap();
                sources.push(json!({"secret": {"name": "mine"}}));
                ours
            }),
            tls(),
            Some((Reason::MountConflict, cert)),
        ),
        (
            "one file below the directory",
            both(),
            mount("/etc/krake_cert/one.conf")
                .with(&format!("{app}/volumeMounts/0/subPath"), json!("one.conf"))
                .with(
                    "/spec/template/spec/volumes",
                    json!([{"name": "mine", "configMap": {"name": "mine"}}]),
                ),
            tls(),
            Some((Reason::MountConflict, "/etc/krake_cert/one.conf")),
        ),
        (
            "the same in a container that is not chosen",
            sidecar_only(),
            mount("/etc/krake_cert/one.conf")
                .with(&format!("{app}/volumeMounts/0/subPath"), json!("one.conf"))
                .with(
                    "/spec/template/spec/volumes",
                    json!([{"name": "mine", "configMap": {"name": "mine"}}]),
                ),
            tls(),
            None,
        ),
        (
            "a directory below the directory",
            both(),
            mount("/etc/krake_cert/more").with(
                "/spec/template/spec/volumes",
                json!([{"name": "mine", "emptyDir": {}}]),
            ),
            tls(),
            None,
        ),
        (
            "volume without TLS",
            both(),
            volume(json!({"name": cert, "emptyDir": {}})),
            plain(),
            None,
        ),
        (
            "no such container",
            named(),
            workload(),
            tls(),
            Some((Reason::ContainerNotFound, "none")),
        ),
        ("none", both(), workload(), tls(), None),
    ];
    for (name, hook, workload, settings, expected) in rows {
        let conflict = inject(hook, &workload, &settings).err();
        let reason = conflict.as_ref().map(|conflict| conflict.reason);
        assert_eq!(reason, expected.map(|(reason, _)| reason), "{name}");
        if let (Some(conflict), Some((_, word))) = (conflict, expected) {
            assert!(conflict.message.contains(word), "{}", conflict.message);
            assert!(conflict.message.contains(NAME), "{}", conflict.message);
        }
    }
}

#[test]
fn the_same_work_has_the_same_hash_injected_or_not() {
    for settings in [tls(), plain()] {
        for user in [
            workload(),
            workload().with(
                "/spec/template/spec/containers/0/env",
                json!([{"name": "A", "value": "b"}]),
            ),
            workload().with("/spec/template/metadata/annotations", json!({"a": "b"})),
        ] {
            let bare = user.clone().workload();
            let injection = inject(both(), &user, &settings).unwrap();
            let injected = applied(&user, &injection.patch(&bare, true)).workload();
            let before = inject::template_hash(&bare, Some(&injection));
            assert_eq!(before, inject::template_hash(&bare, None));
            assert_eq!(before, inject::template_hash(&injected, Some(&injection)));
            assert_ne!(before, inject::template_hash(&injected, None));
        }
    }
    let other = workload().with("/spec/template/spec/containers/0/image", json!("newer"));
    assert_ne!(
        inject::template_hash(&other.workload(), None),
        inject::template_hash(&workload().workload(), None)
    );
}

#[test]
fn the_stamp_changes_with_what_pods_get_and_with_nothing_else() {
    let stamp = |hook: Build, uid: &str, workload: &Build, settings: &Settings| {
        let identity = HookIdentity { name: NAME, uid };
        let workload = workload.clone().workload();
        let injection = inject::injection(identity, &hook.hook().spec, settings, &workload);
        injection.unwrap().stamp
    };
    let uid = HOOK.uid;
    let first = stamp(both(), uid, &workload(), &tls());
    let newer_key = Settings {
        key_id: "k2".into(),
        ..tls()
    };
    let env = json!({"token": "T"});
    let only = json!(["app"]);
    for (name, other) in [
        ("hook uid", stamp(both(), "cccccccc", &workload(), &tls())),
        (
            "workload uid",
            stamp(both(), uid, &workload().uid("other"), &tls()),
        ),
        ("key id", stamp(both(), uid, &workload(), &newer_key)),
        ("TLS", stamp(both(), uid, &workload(), &plain())),
        (
            "kinds",
            stamp(build::hook(NAME).shutdown(), uid, &workload(), &tls()),
        ),
        (
            "names",
            stamp(
                both().with("/spec/shutdown/env", env),
                uid,
                &workload(),
                &tls(),
            ),
        ),
        (
            "containers",
            stamp(
                both().with("/spec/containers", only),
                uid,
                &workload(),
                &tls(),
            ),
        ),
    ] {
        assert_ne!(first, other, "{name}");
    }
    let elsewhere = Settings {
        endpoint: "https://elsewhere".into(),
        bundle: "another".into(),
        leader: "another".into(),
        ..tls()
    };
    let newer = workload().with("/spec/template/spec/containers/0/image", json!("newer"));
    let patient = both().with("/spec/shutdown/timeoutSeconds", json!(99));
    for (name, same) in [
        (
            "endpoint, bundle, leader",
            stamp(both(), uid, &workload(), &elsewhere),
        ),
        ("image", stamp(both(), uid, &newer, &tls())),
        (
            "timeout",
            stamp(patient.retries(3).call_out("x"), uid, &workload(), &tls()),
        ),
    ] {
        assert_eq!(first, same, "{name}");
    }
    let (prefix, _) = first.split_once('-').unwrap();
    assert_eq!(prefix, inject::stamp_prefix(uid));
}

/// A workload as it comes out of a backup, or is copied: with our entries, and nobody knows whose.
fn restored(workload: &Build, injection: &Injection) -> Build {
    let bare = workload.clone().workload();
    let mut restored = applied(workload, &injection.patch(&bare, true));
    restored.0["metadata"]["managedFields"] = Value::Null;
    restored.0["metadata"]["resourceVersion"] = json!("7");
    restored
}

fn patched(workload: &Build, effect: &Effect) -> Build {
    let Effect::RemoveEntries(patch) = effect else {
        panic!("no JSON patch: {effect:?}");
    };
    let patch: json_patch::Patch = serde_json::from_value(json!(patch)).unwrap();
    let mut object = workload.clone();
    json_patch::patch(&mut object.0, &patch).unwrap();
    object
}

/// What the API server does not tell apart.
fn plainly(build: Build) -> Value {
    let mut template = serde_json::to_value(build.workload().template).unwrap();
    merge::without_empty(&mut template);
    template
}

#[test]
fn every_change_of_a_workload_names_the_version_it_was_decided_on() {
    let seen = workload().with("/metadata/resourceVersion", json!("7"));
    let changes = [
        patch(both(), &seen, &tls(), true),
        inject::ejection(&seen.clone().workload(), false),
    ];
    for change in changes {
        assert_eq!(change["metadata"]["resourceVersion"], json!("7"));
        assert_eq!(change["metadata"]["uid"], json!("bbbbbbbb-0000"));
    }
    let held = seen.finalizer(crate::api::names::SHUTDOWN_FINALIZER);
    let Effect::RemoveEntries(patch) = inject::eject(&held.workload()) else {
        panic!("nobody says that it is ours alone");
    };
    let version = json!({"op": "test", "path": "/metadata/resourceVersion", "value": "7"});
    assert!(patch.contains(&version));
}

#[test]
fn what_a_backup_brings_back_is_taken_over_by_the_hook_that_is_restored() {
    let settings = tls();
    let earlier = HookIdentity {
        name: NAME,
        uid: "eeeeeeee-0000",
    };
    let spec = both().hook().spec;
    let user = workload().with(
        "/spec/template/spec/containers/0/env",
        json!([{"name": "A", "value": "b"}]),
    );
    let of_earlier =
        inject::injection(earlier, &spec, &settings, &user.clone().workload()).unwrap();
    let restored = restored(&user, &of_earlier);
    let now = inject(both(), &restored, &settings).expect("our own entries are in nobody's way");
    assert_eq!(
        now.remove_leftovers(&restored.clone().workload(), true),
        None
    );
    assert!(!now.is_in_place(&restored.clone().workload(), true));
    let taken = applied(&restored, &now.patch(&restored.clone().workload(), true));
    assert!(now.is_in_place(&taken.workload(), true));

    // What the hook wants no more goes, and what is the user's stays.
    let other = both().with("/spec/complete/env", json!({"token": "T", "url": "U"}));
    let other = other.with("/spec/containers", json!(["app"]));
    let wanted = inject(other, &restored, &settings).unwrap();
    let removal = wanted
        .remove_leftovers(&restored.clone().workload(), false)
        .unwrap();
    let left = patched(&restored, &removal);
    assert_eq!(left.0["metadata"]["finalizers"], json!([]));
    assert_eq!(
        left.0["spec"]["template"]["spec"]["containers"][1]["env"],
        json!([])
    );
    assert_eq!(
        wanted.remove_leftovers(&left.clone().workload(), false),
        None
    );
    let names = &left.0["spec"]["template"]["spec"]["containers"][0]["env"];
    let names: Vec<_> = names
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["name"])
        .collect();
    assert!(names.contains(&&json!("A")) && !names.contains(&&json!("KRAKE_COMPLETE_URL")));
}

#[test]
fn nothing_that_is_to_be_taken_out_depends_on_managed_fields() {
    let own_env = json!([{"name": "A", "value": "b"}, {"name": "LATER", "value": "c"}]);
    let own_mount = json!([{"name": "data", "mountPath": "/data"}]);
    let user = workload()
        .with("/spec/template/spec/containers/0/env", own_env)
        .with("/spec/template/spec/containers/0/volumeMounts", own_mount)
        .with(
            "/spec/template/spec/volumes",
            json!([{"name": "data", "emptyDir": {}}]),
        )
        .with("/spec/template/metadata/annotations", json!({"a": "b"}));
    for (settings, user) in [(tls(), workload()), (tls(), user.clone()), (plain(), user)] {
        let injection = inject(both(), &user, &settings).unwrap();
        let restored = restored(&user, &injection);
        assert!(inject::is_touched(&restored.clone().workload()));
        let left = patched(&restored, &inject::eject(&restored.clone().workload()));
        assert_eq!(plainly(left.clone()), plainly(user));
        assert!(!inject::is_touched(&left.workload()));
        // Owned by us and by somebody else: an apply would leave half of each entry.
        let mut shared = applied(&workload(), &injection.patch(&workload().workload(), true));
        assert!(matches!(
            inject::eject(&shared.clone().workload()),
            Effect::ApplyInjection(_)
        ));
        shared.0["metadata"]["resourceVersion"] = json!("7");
        let fields = shared.0["metadata"]["managedFields"].clone();
        shared.0["metadata"]["managedFields"] = json!([fields[0], {"manager": "kubectl",
            "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": fields[0]["fieldsV1"]}]);
        let left = patched(&shared, &inject::eject(&shared.clone().workload()));
        assert_eq!(plainly(left), plainly(workload()));
    }
}

#[test]
fn a_users_own_entries_are_never_taken_for_ours() {
    let env = json!([
        {"name": "KRAKE_TOKEN", "value": "mine"},
        {"name": "KRAKE_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        {"name": "T", "valueFrom": {"secretKeyRef": {"name": "mine-krake-box", "key": "token"}}},
        {"name": "U", "valueFrom": {"secretKeyRef": {"name": "x-krake-01234567", "key": "other"}}},
        {"name": "V", "value": "$(HOST)/$(KRAKE_POD_UID)"},
    ]);
    let mount = json!([{"name": "krake-cert", "mountPath": "/mine"}]);
    let sources =
        json!([{"secret": {"name": "x-krake-01234567-tls"}}, {"secret": {"name": "mine"}}]);
    for volume in [
        json!({"emptyDir": {}}),
        json!({"projected": {"sources": sources}}),
    ] {
        let mut volume = volume;
        volume["name"] = json!("krake-cert");
        let user = workload()
            .with("/spec/template/spec/containers/0/env", env.clone())
            .with(
                "/spec/template/spec/containers/0/volumeMounts",
                mount.clone(),
            )
            .with("/spec/template/spec/volumes", json!([volume]));
        assert!(!inject::is_touched(&user.workload()), "{volume}");
    }
}

/// A template in which a tool has sorted every list of variables.
fn sorted(injected: &Build) -> Build {
    let mut object = injected.clone();
    for container in [0, 1] {
        let env = format!("/spec/template/spec/containers/{container}/env");
        let env = object.0.pointer_mut(&env).and_then(Value::as_array_mut);
        env.unwrap().sort_by_key(|entry| entry["name"].to_string());
    }
    object
}

#[test]
fn what_a_container_sees_is_what_is_in_place() {
    let injection = inject(both(), &workload(), &plain()).unwrap();
    let injected = applied(&workload(), &injection.patch(&workload().workload(), true));
    assert!(injection.is_in_template(&injected.clone().workload()));
    // The URL stands before the pod's uid now: it would end with a literal `$(KRAKE_POD_UID)`.
    assert!(!injection.is_in_template(&sorted(&injected).workload()));
    let shutdown = build::hook(NAME).shutdown();
    let injection = inject(shutdown, &workload(), &plain()).unwrap();
    let injected = applied(&workload(), &injection.patch(&workload().workload(), true));
    assert!(
        injection.is_in_template(&sorted(&injected).workload()),
        "in order all the same"
    );
}

/// Kubernetes takes several entries of one name, and the last one counts. An apply would drop it.
#[test]
fn a_second_entry_of_our_name_is_the_users() {
    let injection = inject(both(), &workload(), &plain()).unwrap();
    let injected = applied(&workload(), &injection.patch(&workload().workload(), true));
    let mine = json!({"name": "KRAKE_TOKEN", "value": "mine"});
    let hidden = injected.with("/spec/template/spec/containers/0/env/-", mine);
    let conflict = inject(both(), &hidden, &plain()).unwrap_err();
    assert_eq!(conflict.reason, Reason::EnvConflict);
    assert!(
        conflict.message.contains("KRAKE_TOKEN"),
        "{}",
        conflict.message
    );
}
