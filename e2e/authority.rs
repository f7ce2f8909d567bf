//! The certificate authority: the user's own in every form, every fault named, and rotations that
//! no acknowledgement fails in.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use rcgen::{IsCa, KeyUsagePurpose};
use serde_json::{Value, json};

use krake_hooks::api::condition::{self, ConditionType};
use krake_hooks::api::hook_authority::AuthorityPhase;
use krake_hooks::api::krake_hook::KrakeHook;
use krake_hooks::api::{HookAuthorityStatus, HookCertificate, HookCertificateStatus, HookKind};

use crate::support::app::App;
use crate::support::authority::{Authorities, Files};
use crate::support::issued;
use crate::support::manifests;
use crate::support::operator::{NAMESPACE, Operator};
use crate::support::process::Process;
use crate::support::runner::Story;
use crate::support::stage::Stage;
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Alone:
        a_users_own_is_waited_for_used_in_every_form_and_kept_through_every_fault,
        twenty_clients_acknowledge_through_rotations_and_none_fails,
        an_operator_killed_in_any_phase_of_a_rotation_ends_with_one_authority,
        an_authority_is_replaced_long_before_it_expires_and_nobody_asks_for_it,
    ]
}

macro_rules! file {
    ($name:literal) => {
        include_bytes!(concat!("../src/pki/testdata/", $name)).as_slice()
    };
}

/// One of the authorities that openssl has made.
macro_rules! files {
    ($chain:literal, $key:literal) => {
        Files::new(file!($chain), file!($key), file!("root.crt"))
    };
}

/// With the user's own; it signs a second after every ConfigMap has it.
const OWN: &str =
    "{callback: {tls: {intermediateSrc: corp-ca}}, certificates: {propagationSeconds: 1}}";

/// A rotation within seconds, and a dead leader that is followed at once.
const IMPATIENT: &str = "certificates: {propagationSeconds: 2}\n\
    leaderElection: {leaseDurationSeconds: 3, renewDeadlineSeconds: 2, retryPeriodSeconds: 1}\n";

/// Half of an authority's life is a minute.
const SHORT_LIVED: &str = "certificates: {propagationSeconds: 2, authorityDurationSeconds: 120}\n\
    leaderElection: {leaseDurationSeconds: 3, renewDeadlineSeconds: 2, retryPeriodSeconds: 1}\n";

/// In one operator that is not restarted before the end.
async fn a_users_own_is_waited_for_used_in_every_form_and_kept_through_every_fault(stage: Stage) {
    let (operator, authorities) = scene(&stage).await;
    let client = waited_for(&stage, &operator, &authorities).await;
    used_in_every_form(&stage, &authorities, &client).await;
    kept_through_every_fault(&stage, &operator, &authorities, &client).await;
    fresh(&operator, &authorities).await;
}

/// Without a good one the operator is up, not ready, and says why; it goes on by itself.
async fn waited_for(stage: &Stage, operator: &Operator, authorities: &Authorities) -> App {
    operator.leave().await;
    authorities.forget().await;
    authorities.take_back().await;
    operator.begin(OWN).await;
    authorities
        .reason(ConditionType::Ready, "AuthorityMissing")
        .await;
    let pod = operator.leader().await;
    not_ready(stage, &pod, "AuthorityMissing").await;

    authorities.give(&files!("p256.crt", "p384.key")).await;
    let message = authorities
        .reason(ConditionType::Ready, "AuthorityKeyMismatch")
        .await;
    assert!(message.contains("krake-system/corp-ca"), "{message}");
    not_ready(stage, &pod, "AuthorityKeyMismatch").await;
    assert!(
        authorities.state().await.is_none(),
        "none is made in its place"
    );
    let _: Deployment = stage.create(manifests::app("app")).await;
    let _: KrakeHook = stage
        .create(manifests::hook("app", "app", json!({"complete": {}})))
        .await;
    until("the certificate says why", SOON, async || {
        let all = stage
            .all::<HookCertificate>()
            .list(&Default::default())
            .await;
        let all = all.map_err(|e| e.to_string())?.items;
        let status = all
            .first()
            .and_then(|c| c.status.clone())
            .unwrap_or_default();
        match condition::find(&status.conditions, ConditionType::Ready) {
            Some(ready) if ready.reason == "AuthorityKeyMismatch" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    authorities.give(&files!("p256.crt", "p256.key")).await;
    let ready = operator.ready().await;
    let uids: Vec<_> = ready.iter().map(ResourceExt::uid).collect();
    assert!(uids.contains(&pod.uid()), "it went on by itself");
    assert!(ready.iter().all(|pod| restarts(pod) == 0));
    let hook = stage.await_condition("app", ConditionType::Ready).await;
    let app = stage.app("app").await;
    let client = stage.bystander(&hook, &app.uid).await;
    client.acknowledge(HookKind::Complete).await.counts();
    client
}

/// Each is rotated to, without a restart, and an app acknowledges with what it has signed.
async fn used_in_every_form(stage: &Stage, authorities: &Authorities, client: &App) {
    let crlf = |text: &[u8]| {
        let text = String::from_utf8(text.to_vec()).expect("text");
        text.replace('\n', "\r\n")
    };
    let with_root = [file!("p384.crt"), file!("root.crt")].concat();
    // P-256 as PKCS#8, as openssl genpkey writes it, is in use already.
    let forms = [
        // step-ca, cfssl, openssl ec: SEC1. cert-manager: the root in both files.
        (
            "P-384, SEC1, with the root",
            Files::new(&with_root, file!("p384-sec1.key"), file!("root.crt")),
        ),
        ("Ed25519", files!("ed25519.crt", "ed25519.key")),
        // cert-manager's default encoding, openssl genrsa -traditional.
        (
            "RSA-2048, PKCS#1",
            files!("rsa2048.crt", "rsa2048-pkcs1.key"),
        ),
        ("RSA-3072", files!("rsa3072.crt", "rsa3072.key")),
        ("RSA-4096", files!("rsa4096.crt", "rsa4096.key")),
        // openssl ecparam -genkey, openssl x509 -text.
        (
            "EC PARAMETERS first, text around, CRLF",
            Files::new(
                crlf(file!("p256-text.crt")),
                crlf(file!("p256-parameters.key")),
                crlf(file!("root.crt")),
            ),
        ),
        // cert-manager's SelfSigned issuer, openssl req -x509.
        (
            "a root that signs leaves",
            Files::new(file!("plain.crt"), file!("plain.key"), file!("plain.crt")),
        ),
        ("another order", issued::in_another_order()),
    ];
    for (form, files) in forms {
        let expected = signer_of(&files);
        authorities.give(&files).await;
        let most = SOON * 2;
        let shown = authorities
            .await_shown(form, most, |shown| shown.signer.as_ref() == Some(&expected))
            .await;
        assert_eq!(shown.source.as_deref(), Some("corp-ca"), "{form}");
        acknowledges(stage, client, &expected).await;
    }
}

/// Each has a reason of its own; nothing is half-written, and what is in use outlives the process.
async fn kept_through_every_fault(
    stage: &Stage,
    operator: &Operator,
    authorities: &Authorities,
    client: &App,
) {
    authorities.give(&files!("p256.crt", "p256.key")).await;
    let expected = signer_of(&files!("p256.crt", "p256.key"));
    authorities
        .await_shown("the good one alone", SOON * 3, |shown| {
            shown.signer.as_ref() == Some(&expected) && shown.authorities.len() == 1
        })
        .await;
    let version =
        |state: Option<k8s_openapi::api::core::v1::Secret>| state.unwrap().resource_version();
    let before = version(authorities.state().await);

    let root = file!("root.crt");
    let (good, key) = (file!("p256.crt"), file!("p256.key"));
    let huge = vec![b'x'; 1_000_000];
    let faults = [
        (
            "NotAnAuthority",
            issued::files(|p| p.is_ca = IsCa::ExplicitNoCa),
        ),
        (
            "AuthorityMayNotSign",
            issued::files(|p| p.key_usages = vec![KeyUsagePurpose::CrlSign]),
        ),
        (
            "AuthorityExpired",
            issued::files(|p| p.not_after = rcgen::date_time_ymd(2026, 2, 1)),
        ),
        (
            "AuthorityNotYetValid",
            issued::files(|p| p.not_before = rcgen::date_time_ymd(2099, 1, 1)),
        ),
        ("AuthorityPathLength", issued::too_deep()),
        ("AuthorityNameConstraints", issued::constrained()),
        (
            "AuthorityKeyMismatch",
            Files::new(good, file!("p384.key"), root),
        ),
        ("AuthorityChainBroken", issued::broken()),
        ("AuthorityRootMissing", Files::new(good, key, b"")),
        (
            "AuthorityKeyEncrypted",
            Files::new(good, file!("p256-encrypted.key"), root),
        ),
        ("AuthorityWeakSignature", files!("md5.crt", "md5.key")),
        // The reason before is another one, so that this one is seen to come.
        ("AuthorityWeakKey", files!("rsa1024.crt", "rsa1024.key")),
        ("AuthorityWeakSignature", files!("sha1.crt", "sha1.key")),
        (
            "AuthoritySubjectRepeated",
            files!("repeated.crt", "repeated.key"),
        ),
        (
            "AuthoritySubjectJoined",
            files!("multivalued.crt", "multivalued.key"),
        ),
        ("AuthorityNotPem", Files::new(b"garbage", key, root)),
        ("AuthorityEmpty", Files::new(b"", key, root)),
        ("AuthorityTooLarge", Files::new(&huge, key, root)),
    ];
    for (reason, files) in faults {
        authorities.give(&files).await;
        let message = authorities.reason(ConditionType::SourceReady, reason).await;
        let says = message.contains("krake-system/corp-ca") && message.contains("stays in use");
        assert!(says && !message.contains("PRIVATE"), "{message}");
        let shown = authorities.shown().await;
        assert!(
            condition::is_true(&shown.conditions, ConditionType::Ready),
            "{reason}"
        );
        assert_eq!(shown.signer.as_ref(), Some(&expected), "{reason}");
    }
    authorities.take_back().await;
    authorities
        .reason(ConditionType::SourceReady, "AuthorityMissing")
        .await;
    // The state was never touched, and what it says outlives the process.
    assert_eq!(version(authorities.state().await), before);
    operator.configure(&format!("{OWN}\n")).await;
    acknowledges(stage, client, &expected).await;
    assert_eq!(version(authorities.state().await), before);
}

/// Each of them opens a connection for each acknowledgement, with a copy of what its files say now
/// (requests opens what it is given twice, and a renewal may come between); each acknowledgement
/// says something new, so that each is a write that counts.
async fn twenty_clients_acknowledge_through_rotations_and_none_fails(stage: Stage) {
    let (operator, authorities) = scene(&stage).await;
    // A kubelet of these clusters looks every ten seconds or so.
    operator
        .configure("certificates: {propagationSeconds: 25}\n")
        .await;
    let hook = armed_for(&stage, json!({"action": "None"})).await;
    let client = stage.bystander(&hook, "unused").await;
    let pods = stage.pods_that_never_run("app", 20).await.join(" ");
    client
        .output(&format!("cat > /tmp/clients.py <<'END'\n{CLIENTS}\nEND"))
        .await;
    client
        .output(&format!(
            "nohup python3 /tmp/clients.py {pods} > /tmp/clients.log 2>&1 &"
        ))
        .await;
    let tally = async || -> Tally {
        let text = client.run("cat /tmp/tally.json").await.out;
        serde_json::from_str(&text).unwrap_or_default()
    };
    until("every client has acknowledged", SOON, async || {
        let tally = tally().await;
        match tally.clients == 20 {
            true => Ok(()),
            false => Err(format!("{tally:?}")),
        }
    })
    .await;
    let before = authorities.shown().await;
    authorities.rotate("first").await;
    let alone =
        |shown: &HookAuthorityStatus| shown.signer != before.signer && shown.authorities.len() == 1;
    let most = Duration::from_secs(180);
    let after = authorities
        .await_shown("another one, alone", most, alone)
        .await;
    assert_eq!(after.authorities[0].phase, AuthorityPhase::Active);
    // For some moments more, with what is trusted alone now.
    let so_far = tally().await.answered;
    until("each has acknowledged again", SOON, async || {
        let tally = tally().await;
        match tally.answered > so_far + 100 {
            true => Ok(()),
            false => Err(format!("{tally:?}")),
        }
    })
    .await;
    let tally = tally().await;
    assert!(tally.failed.is_empty(), "{tally:?}");
    println!(
        "        {} acknowledgements by 20 clients through a rotation: 0 failed",
        tally.answered
    );
    assert_events(
        &stage,
        &["AuthorityPrepared", "AuthorityActive", "AuthorityRetired"],
    )
    .await;
    fresh(&operator, &authorities).await;
}

/// On this machine and not in its pod, where a container that is killed again and again is started
/// ever later.
async fn an_operator_killed_in_any_phase_of_a_rotation_ends_with_one_authority(stage: Stage) {
    let (operator, authorities) = scene(&stage).await;
    let hook = armed_complete(&stage).await;
    operator.leave().await;
    authorities.forget().await;
    // Not at all of them is somebody there to see it: killed as soon as it is there, or later.
    let process = Process::of(&stage, IMPATIENT);
    let mut makers = std::collections::BTreeSet::new();
    let mut killed = std::collections::BTreeSet::new();
    let mut running = process.start();
    let mut seen = authorities.ledger().await;
    // Two steps may follow one another before anybody looks: then it is rotated again.
    let mut rotations = 0;
    let end = until(
        "the end of a rotation, with a kill in each phase",
        Duration::from_secs(180),
        async || {
            let ledger = authorities.ledger().await;
            for entry in [&ledger["active"], &ledger["next"]] {
                makers.extend(entry["fingerprint"].as_str().map(ToOwned::to_owned));
            }
            if ledger != seen {
                seen = ledger.clone();
                running.kill().await;
                killed.insert(phase_of(&ledger));
                running = process.start();
            }
            let quiet = ledger["next"].is_null() && ledger["retiring"].is_null();
            let over = quiet && ledger["rotatedFor"] == format!("{AGAIN}{rotations}");
            if over && killed.len() == PHASES {
                return Ok(ledger);
            }
            if over || (rotations == 0 && !ledger.is_null()) {
                authorities.shown_exists().await;
                rotations += 1;
                authorities.rotate(&format!("{AGAIN}{rotations}")).await;
            }
            Err(format!("{ledger}, killed at {killed:?}"))
        },
    )
    .await;
    running.kill().await;
    // One to begin with, one for each rotation, and no other.
    assert_eq!(makers.len(), 1 + rotations, "{makers:?}");
    operator.come_back().await;
    let signer = end["active"]["fingerprint"].as_str().unwrap_or_default();
    certificate_of(&stage, signer).await;
    let app = stage.app("app").await;
    let client = stage.bystander(&hook, &app.uid).await;
    client.acknowledge(HookKind::Complete).await.counts();
}

/// On this machine: a pod's kubelet takes longer to hand files on than this authority lives.
async fn an_authority_is_replaced_long_before_it_expires_and_nobody_asks_for_it(stage: Stage) {
    let (operator, authorities) = scene(&stage).await;
    armed_complete(&stage).await;
    operator.leave().await;
    authorities.forget().await;
    let process = Process::of(&stage, SHORT_LIVED);
    let mut running = process.start();
    let alone = |shown: &HookAuthorityStatus| {
        shown.authorities.len() == 1 && shown.authorities[0].phase == AuthorityPhase::Active
    };
    let now = jiff::Timestamp::now;
    let began = now();
    // What stands there until it is written anew is of an authority that is forgotten.
    let first = authorities
        .await_shown("a first one", SOON, |shown| {
            alone(shown) && shown.authorities[0].since.0 >= began - Duration::from_secs(1)
        })
        .await;
    let of_first = certificate_of(&stage, newest(&first)).await;
    let most = Duration::from_secs(110);
    let second = authorities
        .await_shown("another one, alone", most, |shown| {
            alone(shown) && shown.signer != first.signer
        })
        .await;
    let expires = first.not_after.as_ref().expect("the first one's end").0;
    assert!(now() < expires, "it has expired at {expires}");
    let of_second = certificate_of(&stage, newest(&second)).await;
    assert_ne!(of_first.serial_number, of_second.serial_number);
    running.kill().await;
    authorities.forget().await;
    operator.come_back().await;
}

fn newest(shown: &HookAuthorityStatus) -> &str {
    &shown.authorities[0].fingerprint
}

/// What the hook's only certificate says once it is ready by this signer.
async fn certificate_of(stage: &Stage, signer: &str) -> HookCertificateStatus {
    until(
        "the hook's certificate by the one that signs",
        SOON,
        async || {
            let all = stage
                .all::<HookCertificate>()
                .list(&Default::default())
                .await;
            let mut all = all.map_err(|e| e.to_string())?.items;
            let status = all.pop().and_then(|certificate| certificate.status);
            let status = status
                .filter(|_| all.is_empty())
                .ok_or("none, or several")?;
            let ready = condition::is_true(&status.conditions, ConditionType::Ready);
            match ready && status.issuer.as_deref() == Some(signer) {
                true => Ok(status),
                false => Err(format!("{status:?}")),
            }
        },
    )
    .await
}

#[derive(Debug, Default, serde::Deserialize)]
struct Tally {
    clients: usize,
    answered: usize,
    failed: Vec<String>,
}

/// A thread for each pod it is given; `tally.json` says how they do.
const CLIENTS: &str = r#"
import json, os, sys, threading, requests
os.nice(10)
url, token = os.environ["KRAKE_COMPLETE_ENDPOINT"], os.environ["KRAKE_TOKEN"]
answered, failed, lock = {}, [], threading.Lock()
def client(name):
    number, own = 0, f"/tmp/{name}.pem"
    while True:
        number += 1
        with open("/etc/krake_cert/bundle.pem", "rb") as file:
            bundle = file.read()
        with open(own, "wb") as file:
            file.write(bundle)
        try:
            answer = requests.put(f"{url}/{name}", json={"token": token, "message": str(number)},
                verify="/etc/krake_cert/ca-bundle.pem", cert=own, timeout=30)
            failure = None if answer.status_code == 200 else f"{answer.status_code} {answer.text}"
        except Exception as error:
            failure = repr(error)
        with lock:
            if failure:
                failed.append(failure[:300])
            else:
                answered[name] = number
            tally = {"clients": len(answered), "answered": sum(answered.values()), "failed": failed[:5]}
            with open("/tmp/tally.new", "w") as file:
                json.dump(tally, file)
            os.replace("/tmp/tally.new", "/tmp/tally.json")
for pod in sys.argv[1:]:
    threading.Thread(target=client, args=(pod,)).start()
"#;

async fn scene(stage: &Stage) -> (Operator, Authorities) {
    let authorities = Authorities::of(stage.client.clone());
    authorities.allow().await;
    (stage.cluster.operator().await, authorities)
}

/// Leaves an authority that the operator makes, for the stories after this one.
async fn fresh(operator: &Operator, authorities: &Authorities) {
    operator.leave().await;
    authorities.take_back().await;
    authorities.forget().await;
}

async fn armed_complete(stage: &Stage) -> KrakeHook {
    armed_for(stage, json!({})).await
}

async fn armed_for(stage: &Stage, complete: Value) -> KrakeHook {
    let _: Deployment = stage.create(manifests::app("app")).await;
    let _: KrakeHook = stage
        .create(manifests::hook("app", "app", json!({"complete": complete})))
        .await;
    stage.await_condition("app", ConditionType::Ready).await
}

/// With files of this signer's.
async fn acknowledges(stage: &Stage, client: &App, signer: &str) {
    let pods = stage.all::<Pod>();
    let url = client.environment("KRAKE_COMPLETE_URL").await;
    let token = client.environment("KRAKE_TOKEN").await;
    until(format!("an acknowledgement by {signer}"), SOON * 2, async || {
        // A pod that changes is looked at, with its volumes, before its turn.
        let poke = json!({"metadata": {"annotations": {"poked": format!("{:?}", std::time::Instant::now())}}});
        let poked = pods.patch(&client.name, &PatchParams::default(), &Patch::Merge(&poke)).await;
        poked.map_err(|e| e.to_string())?;
        let issuer = client.run(ISSUER).await.out;
        if !issuer.trim().starts_with(signer) {
            return Err(format!("issued by {issuer}"));
        }
        let answer = client.put(&url, &token, "/etc/krake_cert").await;
        match answer.code {
            200 => Ok(()),
            _ => Err(format!("{answer:?}")),
        }
    })
    .await;
}

/// SHA-256 of the second certificate in `cert.pem`, or of the root where there is none.
const ISSUER: &str = r#"python3 - <<'END'
import base64, hashlib, re
blocks = lambda file: re.findall("-----BEGIN CERTIFICATE-----([^-]+)", open("/etc/krake_cert/" + file).read())
chain = blocks("cert.pem")[1:] or blocks("ca-bundle.pem")[-1:]
print(hashlib.sha256(base64.b64decode(chain[0])).hexdigest())
END"#;

/// As it is shown: 16 digits.
fn signer_of(files: &Files) -> String {
    let signer = krake_hooks::outside::signer_of(&files.chain, &files.key, &files.root);
    let mut digits = signer.expect("a good one");
    digits.truncate(16);
    digits
}

async fn not_ready(stage: &Stage, pod: &Pod, reason: &str) {
    let uri = format!(
        "/api/v1/namespaces/{NAMESPACE}/pods/{}:8080/proxy/readyz",
        pod.name_any()
    );
    let client = stage.cluster.client_once().await.expect("a client");
    until(format!("/readyz names {reason}"), SOON, async || {
        let request = hyper::Request::get(&uri)
            .body(Vec::new())
            .expect("a request");
        match client.request_text(request).await {
            Ok(text) => Err(format!("ready: {text}")),
            Err(error) if error.to_string().contains(reason) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref());
    statuses
        .into_iter()
        .flatten()
        .map(|s| s.restart_count)
        .sum()
}

async fn assert_events(stage: &Stage, reasons: &[&str]) {
    let arguments = [
        "--namespace",
        NAMESPACE,
        "get",
        "events.events.k8s.io",
        "-o",
        "jsonpath={range .items[?(@.regarding.kind==\"HookAuthority\")]}{.reason} {end}",
    ];
    until("Events of the rotation", SOON, async || {
        let told = stage.cluster.kubectl(&arguments).await?;
        let missing = reasons.iter().find(|reason| !told.contains(**reason));
        missing.map_or(Ok(()), |missing| Err(format!("no {missing} in {told}")))
    })
    .await;
}

/// What the rotations of one story are asked for with, and a number.
const AGAIN: &str = "again-";
/// How many [`phase_of`] tells apart.
const PHASES: usize = 6;

fn phase_of(ledger: &serde_json::Value) -> &'static str {
    let (next, retiring) = (&ledger["next"], &ledger["retiring"][0]);
    let rotated = ledger["rotatedFor"].as_str();
    let rotated = rotated.is_some_and(|word| word.starts_with(AGAIN));
    match (next.is_null(), retiring.is_null()) {
        (false, _) if next["settled"].is_null() => "prepared",
        (false, _) => "in every bundle",
        (true, false) if retiring["settled"].is_null() => "retiring",
        (true, false) => "without leaves",
        (true, true) if !rotated => "begun",
        (true, true) => "retired",
    }
}
