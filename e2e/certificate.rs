//! Client certificates: renewed in running pods, a user's own beside them, and each refused with
//! whom it was for.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use serde_json::json;

use krake_hooks::api::condition::ConditionType;
use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::names;
use krake_hooks::api::{HookCertificate, HookKind};

use crate::support::app::App;
use crate::support::manifests;
use crate::support::operator::{NAME, NAMESPACE};
use crate::support::runner::Story;
use crate::support::stage::{Stage, status};
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Together:
        a_renewal_reaches_a_running_pod_and_never_half_of_it,
        what_a_user_sets_on_the_generated_certificate_stays,
        a_users_own_certificate_is_refused_once_it_is_deleted_or_made_again,
        a_certificate_is_refused_with_the_hook_it_was_for,
        a_machine_outside_takes_what_it_needs_by_the_documented_commands,
    ]
}

/// Reads `bundle.pem` over and over, as fast as it can, until it is told to stop; OpenSSL says of
/// each reading whether key and certificate go together. It prints how many did not, and how many
/// certificates it has seen.
const READER: &str = r#"
import os, ssl
differed, seen, told = 0, set(), False
open("/tmp/reading", "w").close()
while not told:
    # Once more after it is told.
    told = os.path.exists("/tmp/stop")
    try:
        # One open: what OpenSSL does with a file's name is two.
        with open("/etc/krake_cert/bundle.pem", "rb") as file:
            bundle = file.read()
    except FileNotFoundError:
        # The directory it was on the way to has just been replaced.
        told = False
        continue
    with open("/tmp/bundle.pem", "wb") as file:
        file.write(bundle)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain("/tmp/bundle.pem")
    except ssl.SSLError:
        differed += 1
    seen.add(bundle)
with open("/tmp/count.part", "w") as file:
    file.write(f"{differed} {len(seen)}")
os.rename("/tmp/count.part", "/tmp/count")
"#;

async fn a_renewal_reaches_a_running_pod_and_never_half_of_it(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    let (app, name) = (&armed.app, generated(&armed.hook));
    let before = stage.certificate(&name).await;
    assert_eq!(serial_in(app).await, before.serial_number);
    let template = deployment(&stage).await.spec.unwrap().template;

    let begin = format!(
        "cat > /tmp/reader.py <<'END'\n{READER}END\nnohup python3 /tmp/reader.py >/tmp/said 2>&1 &"
    );
    app.run(&begin).await;
    until("the reader has begun", SOON, async || {
        let ran = app
            .run("test -e /tmp/reading || cat /tmp/said >&2; test -e /tmp/reading")
            .await;
        if ran.status == 0 {
            Ok(())
        } else {
            Err(format!("{ran:?}"))
        }
    })
    .await;
    stage
        .kubectl(&["annotate", "hc", &name, "hooks.krake.dev/renew=now"])
        .await;
    let after = stage
        .await_certificate(&name, "renewed", |status| status.revision == Some(2))
        .await;
    assert_ne!(after.serial_number, before.serial_number);
    until(
        "the pod has the new files",
        SOON * 3,
        async || match serial_in(app).await {
            serial if serial == after.serial_number => Ok(()),
            serial => Err(format!("{serial:?}")),
        },
    )
    .await;
    app.output("touch /tmp/stop").await;
    let counted = until("the reader has ended", SOON, async || {
        let ran = app.run("cat /tmp/count").await;
        if ran.status == 0 {
            Ok(ran.out)
        } else {
            Err(ran.err)
        }
    })
    .await;
    assert_eq!(
        counted, "0 2",
        "key and certificate differed, certificates seen"
    );

    // Nothing was rolled out, and what the pod says with the new one counts.
    assert_eq!(deployment(&stage).await.spec.unwrap().template, template);
    assert_eq!(stage.app("app").await.uid, app.uid);
    stage.delete_deployment("app", "foreground").await;
    app.called(1).await;
    app.acknowledge(HookKind::Shutdown).await.counts();
    let hook = stage.hook("app").await.expect("the hook is the receipt");
    let mut given = status(&hook).acknowledgements.values();
    let given = given
        .next()
        .expect("one acknowledgement")
        .certificate
        .clone();
    assert_eq!(given, after.serial_number);
}

async fn what_a_user_sets_on_the_generated_certificate_stays(stage: Stage) {
    let _: Deployment = stage.create(manifests::app("app")).await;
    let hook: KrakeHook = stage
        .create(manifests::hook("app", "app", json!({"complete": {}})))
        .await;
    stage.await_condition("app", ConditionType::Ready).await;
    let name = generated(&hook);
    let wish = json!({"spec": {
        "durationSeconds": 3600, "renewBeforeSeconds": 600, "privateKey": {"algorithm": "Ed25519"},
    }});
    stage
        .kubectl(&[
            "patch",
            "hc",
            &name,
            "--type=merge",
            "--patch",
            &wish.to_string(),
        ])
        .await;
    let issued = stage
        .await_certificate(&name, "issued as wished", |status| {
            status.revision == Some(2)
        })
        .await;
    let (begin, end) = (issued.not_before.unwrap().0, issued.not_after.unwrap().0);
    // It begins five minutes ago, for clocks that are behind.
    assert_eq!(end.duration_since(begin).as_secs(), 3900);
    let left = end.duration_since(issued.renewal_time.unwrap().0).as_secs();
    assert!((600..=960).contains(&left), "{left}");

    // The operator writes its own two fields again: when somebody takes them, and at its next look.
    let taken = json!({"spec": {"secretName": "another"}, "metadata": {"labels": {
        names::OWNER_LABEL: null}}});
    stage
        .kubectl(&[
            "patch",
            "hc",
            &name,
            "--type=merge",
            "--patch",
            &taken.to_string(),
        ])
        .await;
    let tls = names::tls_secret("app", &hook.uid().unwrap());
    let spec = until("its own fields are back", SOON, async || {
        let now = stage.all::<HookCertificate>().get(&name).await.unwrap();
        match now.spec.secret_name == Some(tls.clone()) {
            true => Ok(now.spec),
            false => Err(format!("{:?}", now.spec)),
        }
    })
    .await;
    let kept = serde_json::to_value(spec).unwrap();
    for (field, value) in wish["spec"].as_object().unwrap() {
        assert_eq!(&kept[field], value, "{field}");
    }
    let app = stage.app("app").await;
    app.acknowledge(HookKind::Complete).await.counts();
}

/// A laptop of somebody who may acknowledge for a hook, played by a pod that belongs to nobody.
async fn a_users_own_certificate_is_refused_once_it_is_deleted_or_made_again(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    let bystander = stage.bystander(&armed.hook, &armed.app.uid).await;
    let url = bystander.environment("KRAKE_SHUTDOWN_ENDPOINT").await;
    let token = bystander.environment("KRAKE_TOKEN").await;
    for name in ["laptop", "other-laptop"] {
        stage.own_certificate(name, "app", json!({})).await;
        stage.carry(&bystander, &format!("{name}-tls"), name).await;
    }
    let laptop = bystander.put(&url, &token, "/tmp/laptop").await;
    laptop.is_refused(409, "NotAsked");

    let metrics = metrics(&stage).await;
    assert!(metrics.contains("krake_hooks_certificate_expiry_timestamp_seconds "));
    assert!(!metrics.contains(&stage.namespace), "no name of a tenant's");

    // It was made again under its name: another certificate, and the old one is nobody's.
    stage.kubectl(&["delete", "hc", "laptop"]).await;
    refused_soon(&bystander, &url, &token, "/tmp/laptop").await;
    stage.gone::<Secret>("laptop-tls").await;
    stage.own_certificate("laptop", "app", json!({})).await;
    refused_soon(&bystander, &url, &token, "/tmp/laptop").await;
    stage.carry(&bystander, "laptop-tls", "laptop-again").await;

    stage.delete_deployment("app", "background").await;
    armed.app.called(1).await;
    let old = bystander.put(&url, &token, "/tmp/laptop").await;
    assert_eq!(old.code, 401, "{old:?}");
    // The other laptop's, and the new one of the same name, were never in doubt.
    bystander
        .put(&url, &token, "/tmp/other-laptop")
        .await
        .counts();
    let again = bystander.put(&url, &token, "/tmp/laptop-again").await;
    assert_eq!(again.counts().body["replayed"], true, "{again:?}");
    let hook = stage.hook("app").await.expect("the hook is the receipt");
    let keys: Vec<&String> = status(&hook).acknowledgements.keys().collect();
    assert_eq!(keys, ["shutdown.anonymous"]);
}

async fn a_certificate_is_refused_with_the_hook_it_was_for(stage: Stage) {
    let hooks = ["app", "other"];
    for name in hooks {
        let _: Deployment = stage.create(manifests::app(name)).await;
        let hook = manifests::hook(name, name, json!({"complete": {}}));
        let _: KrakeHook = stage.create(hook).await;
    }
    for name in hooks {
        stage.await_condition(name, ConditionType::Ready).await;
    }
    let hook = stage.hook("app").await.unwrap();
    let bystander = stage.bystander(&hook, "unused").await;
    let url = bystander.environment("KRAKE_COMPLETE_ENDPOINT").await;
    let token = bystander.environment("KRAKE_TOKEN").await;
    // Of another hook: a user's own as little as the hook's.
    stage.own_certificate("for-other", "other", json!({})).await;
    stage.own_certificate("for-app", "app", json!({})).await;
    let other = stage.hook("other").await.unwrap();
    let others = names::tls_secret("other", &other.uid().unwrap());
    stage
        .carry(&bystander, "for-other-tls", "users-for-other")
        .await;
    stage
        .carry(&bystander, "for-app-tls", "users-for-app")
        .await;
    stage.carry(&bystander, &others, "others").await;
    for directory in ["/tmp/users-for-other", "/tmp/others"] {
        let answer = bystander.put(&url, &token, directory).await;
        assert_eq!(answer.code, 401, "{directory}: {answer:?}");
    }
    // Of another namespace, where everything has the same name.
    let elsewhere = url.replace(&stage.namespace, "default");
    for directory in ["/etc/krake_cert", "/tmp/users-for-app"] {
        let answer = bystander.put(&elsewhere, &token, directory).await;
        assert_eq!(answer.code, 401, "{directory}: {answer:?}");
    }

    // Its hook goes, and comes again under its name.
    stage.kubectl(&["delete", "kh", "app"]).await;
    for directory in ["/etc/krake_cert", "/tmp/users-for-app"] {
        refused_soon(&bystander, &url, &token, directory).await;
    }
    let again = manifests::hook("app", "app", json!({"complete": {}}));
    let again: KrakeHook = stage.create(again).await;
    stage.await_condition("app", ConditionType::Ready).await;
    let new = names::of_hook("app", &again.uid().unwrap());
    let new = stage.all::<Secret>().get(&new).await.unwrap();
    let token = String::from_utf8(new.data.unwrap()[names::TOKEN].0.clone()).unwrap();
    for directory in ["/etc/krake_cert", "/tmp/users-for-app"] {
        let answer = bystander.put(&url, &token, directory).await;
        assert_eq!(
            answer.code, 401,
            "{directory} with the new token: {answer:?}"
        );
    }
    // A user's own follows the new hook by itself, as a new certificate.
    stage
        .await_certificate("for-app", "for the new hook", |status| {
            status.hook_uid == again.uid()
        })
        .await;
    stage
        .carry(&bystander, "for-app-tls", "users-for-new")
        .await;
    bystander
        .put(&url, &token, "/tmp/users-for-new")
        .await
        .counts();
    stage.gone::<Deployment>("app").await;
}

/// The commands of docs/clients.md, as they are: those of whoever grants the rights, and those of a
/// machine that has them and no others. Only the request itself is sent from a pod, because the
/// machine that the stories run on resolves no names of the cluster.
async fn a_machine_outside_takes_what_it_needs_by_the_documented_commands(stage: Stage) {
    let _: Deployment = stage.create(manifests::app("trainer")).await;
    let hook = manifests::hook("trainer", "trainer", json!({"complete": {}}));
    let _: KrakeHook = stage.create(hook).await;
    stage.own_certificate("laptop", "trainer", json!({})).await;
    let hook = stage.await_condition("trainer", ConditionType::Ready).await;

    // Ready, for whom, until when, renewed when, by which CA.
    let row = stage
        .kubectl(&["get", "hc", "laptop", "--no-headers"])
        .await;
    let laptop = stage.certificate("laptop").await;
    let mut rest = row.as_str();
    for cell in [
        "laptop".to_owned(),
        "True".to_owned(),
        "trainer".to_owned(),
        laptop.not_after.unwrap().0.to_string(),
        laptop.renewal_time.unwrap().0.to_string(),
        laptop.issuer_name.unwrap(),
    ] {
        let after = rest.split_once(&cell);
        rest = after
            .unwrap_or_else(|| panic!("no {cell} in its place in {row}"))
            .1;
    }

    let [grant, take] = commands();
    let namespaced = |script: &str| script.replace("-n ml ", &format!("-n {} ", stage.namespace));
    let bash = async |script: String| stage.cluster.bash(&script).await;
    bash(namespaced(grant))
        .await
        .expect("rights can be granted");
    let account = format!("{}:ci", stage.namespace);
    for role in ["trainer-acknowledger", "trainer-endpoint"] {
        let binding = [
            "create",
            "rolebinding",
            role,
            "--role",
            role,
            "--serviceaccount",
            &account,
        ];
        stage.kubectl(&binding).await;
    }

    let objects = generated(&hook);
    let (request, before) = (
        take.find("curl ").expect("a request"),
        "set -eu; cd \"$(mktemp -d)\"",
    );
    let machine = format!(
        "{before}; kubectl() {{ command kubectl --as=system:serviceaccount:{account} \"$@\"; }}
         objects={objects}\n"
    );
    let taken = bash(format!(
        "{machine}{}\nprintf '%s\\n' \"$token\" \"$url\"; cat ca-bundle.pem; echo @; cat bundle.pem",
        namespaced(&take[..request])
    ));
    let taken = taken.await.expect("it may take what it needs");
    for forbidden in [
        "get secrets",
        "get secret laptop-tls --watch",
        "get secret default-token",
    ] {
        let script = format!("{machine}kubectl -n {} {forbidden}", stage.namespace);
        let refusal = bash(script).await.expect_err(forbidden);
        assert!(refusal.contains("Forbidden"), "{forbidden}: {refusal}");
    }

    let (token, rest) = taken.split_once('\n').expect("a token");
    let (url, rest) = rest.split_once('\n').expect("a URL");
    let (authorities, bundle) = rest.split_once("@\n").expect("two files");
    let pod = stage.bystander(&hook, "unused").await;
    let answer = pod
        .curl(&format!(
            "cd /tmp; printf '%s' '{authorities}' > ca-bundle.pem; printf '%s' '{bundle}' > bundle.pem
             token='{token}' url='{url}'\n{}",
            &take[request..].trim()
        ))
        .await;
    answer.counts();
    stage.gone::<Deployment>("trainer").await;
    let hook = stage
        .hook("trainer")
        .await
        .expect("the hook is the receipt");
    assert!(
        status(&hook)
            .acknowledgements
            .contains_key("complete.anonymous")
    );
}

/// The two blocks of commands in docs/clients.md.
fn commands() -> [&'static str; 2] {
    let blocks = include_str!("../docs/clients.md")
        .split("```bash\n")
        .skip(1);
    let blocks: Vec<_> = blocks.filter_map(|rest| rest.split("```").next()).collect();
    blocks.try_into().expect("two blocks of commands")
}

/// Name of the certificate that the operator made for a hook.
fn generated(hook: &KrakeHook) -> String {
    names::of_hook(
        &hook.name_any(),
        &hook.uid().expect("a hook that was created"),
    )
}

async fn deployment(stage: &Stage) -> Deployment {
    stage
        .all()
        .get("app")
        .await
        .expect("the Deployment is there")
}

/// What the operator's metrics say, through the API server's proxy.
async fn metrics(stage: &Stage) -> String {
    let service = format!("/api/v1/namespaces/{NAMESPACE}/services/{NAME}:metrics/proxy/metrics");
    let request = hyper::Request::get(service)
        .body(Vec::new())
        .expect("a request");
    let text = stage.client.request_text(request).await;
    text.expect("the metrics can be read")
}

/// Serial number of the certificate in a pod's files, as a status has it.
async fn serial_in(app: &App) -> Option<String> {
    let script = r#"python3 -c 'import ssl
print(ssl._ssl._test_decode_cert("/etc/krake_cert/cert.pem")["serialNumber"].lower())'"#;
    Some(app.output(script).await)
}

/// The operator hears of a deletion by its watch, a moment later.
async fn refused_soon(app: &App, url: &str, token: &str, directory: &str) {
    until(format!("{directory} is refused"), SOON, async || match app
        .put(url, token, directory)
        .await
    {
        answer if answer.code == 401 => Ok(()),
        answer => Err(format!("{answer:?}")),
    })
    .await;
}
