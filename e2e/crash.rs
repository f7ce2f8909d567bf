//! The operator is killed, or away: nothing is lost, and the app loses none of its time.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;

use krake_hooks::api::HookKind;
use krake_hooks::api::status::{Outcome, RequestState};

use crate::support::app::{Answer, App};
use crate::support::cluster::Provider;
use crate::support::runner::{Story, skip};
use crate::support::stage::{Stage, status};
use crate::support::wait::{SOON, until};

pub fn stories() -> Vec<Story> {
    crate::stories![Alone:
        a_leader_killed_between_call_and_acknowledgement_loses_nothing,
        an_operator_killed_after_it_has_answered_keeps_the_acknowledgement,
        an_operator_away_for_longer_than_the_timeout_leaves_the_app_its_time,
        a_new_leader_gives_no_time_twice,
        a_process_stopped_for_longer_than_the_timeout_hears_first_what_waits_for_it,
        a_deletion_while_the_operator_is_away_waits_for_it,
        an_api_server_that_goes_away_is_a_503_and_loses_nothing,
    ]
}

async fn a_leader_killed_between_call_and_acknowledgement_loses_nothing(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    let pods = [armed.app.uid.clone()];
    stage.delete_deployment("app", "foreground").await;
    let first = armed.app.called(1).await.remove(0);
    let operator = stage.cluster.operator().await;
    operator.kill().await;

    let again = armed.app.called(2).await.remove(1);
    assert_eq!(again.request, first.request, "a duplicate has the same id");
    operator.ready().await;
    armed
        .pods
        .stay_untouched(&pods, Duration::from_secs(3))
        .await;
    counts_in_the_end(&armed.app).await;
    stage.gone::<Deployment>("app").await;
    armed.pods.gone(&pods).await;
    stage.ended("app", Outcome::Acknowledged).await;
}

/// The answer was read, so the acknowledgement counts, whatever happens next.
async fn an_operator_killed_after_it_has_answered_keeps_the_acknowledgement(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    let pods = [armed.app.uid.clone()];
    stage.delete_deployment("app", "foreground").await;
    armed.app.called(1).await;
    let operator = stage.cluster.operator().await;
    // Whichever replica it was: all are killed by the time the caller has read the answer, or a
    // moment later.
    armed.app.acknowledge(HookKind::Shutdown).await.counts();
    operator.kill_all().await;

    stage.gone::<Deployment>("app").await;
    armed.pods.gone(&pods).await;
    stage.ended("app", Outcome::Acknowledged).await;
}

async fn an_operator_away_for_longer_than_the_timeout_leaves_the_app_its_time(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 12})).await;
    let pods = [armed.app.uid.clone()];
    stage.delete_deployment("app", "foreground").await;
    let first = armed.app.called(1).await.remove(0);
    let deadline = stage.asked("app").await;
    let operator = stage.cluster.operator().await;
    operator.leave().await;
    until("the deadline is over", SOON, async || {
        let now = Timestamp::now();
        match now > deadline {
            true => Ok(()),
            false => Err(format!("{now}")),
        }
    })
    .await;
    armed
        .pods
        .untouched(&pods)
        .expect("nobody is there to release it");

    operator.come_back().await;
    let again = armed.app.called(2).await.remove(1);
    assert_eq!(again.request, first.request);
    let hook = stage.hook("app").await.expect("the hook is there");
    let request = status(&hook)
        .workload_request()
        .cloned()
        .expect("it was asked");
    assert_eq!(request.state, RequestState::Open, "{request:?}");
    counts_in_the_end(&armed.app).await;
    stage.gone::<Deployment>("app").await;
    armed.pods.gone(&pods).await;
    stage.ended("app", Outcome::Acknowledged).await;
}

async fn a_new_leader_gives_no_time_twice(stage: Stage) {
    const GIVEN: i64 = 120;
    let armed = stage.armed_app(json!({"timeoutSeconds": GIVEN})).await;
    let pods = [armed.app.uid.clone()];
    stage.delete_deployment("app", "background").await;
    armed.app.called(1).await;
    let first = stage.asked("app").await;
    // Some of its time goes by.
    armed
        .pods
        .stay_untouched(&pods, Duration::from_secs(5))
        .await;
    let left = first.duration_since(Timestamp::now()).as_secs();
    let operator = stage.cluster.operator().await;
    operator.kill().await;
    armed.app.called(2).await;
    let again = stage.asked("app").await;
    let given = again.duration_since(Timestamp::now()).as_secs();
    // What a Lease that is renewed every two seconds does not tell.
    assert!(given <= left + 3, "{given} s, of which {left} s were left");
    assert!(again > first, "time without a leader is not the app's");
    counts_in_the_end(&armed.app).await;
    stage.gone::<Deployment>("app").await;
    stage.ended("app", Outcome::Acknowledged).await;
}

/// Of the only replica: nobody else can be told meanwhile.
async fn a_process_stopped_for_longer_than_the_timeout_hears_first_what_waits_for_it(stage: Stage) {
    let operator = stage.cluster.operator().await;
    operator.leave_one().await;
    let armed = stage.armed_app(json!({"timeoutSeconds": 8})).await;
    let pods = [armed.app.uid.clone()];
    stage.delete_deployment("app", "foreground").await;
    armed.app.called(1).await;
    let deadline = stage.asked("app").await;
    let leader = operator.leader().await;
    if !operator.signal(&leader, "STOP") {
        skip("the operator's process cannot be reached from here");
    }
    let goes_on = async {
        until("the deadline is over", SOON, async || {
            let past = Timestamp::now().duration_since(deadline);
            (past.as_secs() >= 2).then_some(()).ok_or(format!("{past}"))
        })
        .await;
        assert!(operator.signal(&leader, "CONT"));
    };
    tokio::join!(counts_in_the_end(&armed.app), goes_on);
    stage.gone::<Deployment>("app").await;
    armed.pods.gone(&pods).await;
    stage.ended("app", Outcome::Acknowledged).await;
}

async fn a_deletion_while_the_operator_is_away_waits_for_it(stage: Stage) {
    let armed = stage.armed_app(json!({"timeoutSeconds": 60})).await;
    let pods = [armed.app.uid.clone()];
    let deployment = stage.all::<Deployment>().get("app").await.unwrap();
    let operator = stage.cluster.operator().await;
    operator.leave().await;
    stage.delete_deployment("app", "foreground").await;
    let uid = deployment.metadata.uid.expect("a uid");
    stage.garbage_collector_has_passed(&uid).await;
    armed
        .pods
        .stay_untouched(&pods, Duration::from_secs(4))
        .await;

    operator.come_back().await;
    armed.app.called(1).await;
    armed
        .pods
        .untouched(&pods)
        .expect("it has not acknowledged");
    counts_in_the_end(&armed.app).await;
    stage.gone::<Deployment>("app").await;
    stage.ended("app", Outcome::Acknowledged).await;
}

async fn an_api_server_that_goes_away_is_a_503_and_loses_nothing(stage: Stage) {
    if stage.cluster.provider != Provider::Local {
        skip("only the local cluster's API server can be stopped");
    }
    let armed = stage.armed_app(json!({"timeoutSeconds": 120})).await;
    let pods = [armed.app.uid.clone()];
    stage.delete_deployment("app", "background").await;
    armed.app.called(1).await;
    // The test reaches pods through the API server, so one of them has to act by itself; and the
    // app's own would be gone before it could tell.
    let teller = stage.bystander(&armed.hook, &armed.app.uid).await;
    teller.output(KEEP_TRYING).await;
    stage
        .cluster
        .script(&["stop", "kube-apiserver"])
        .await
        .expect("it can be stopped");
    tokio::time::sleep(AWAY).await;
    stage
        .cluster
        .script(&["start", "kube-apiserver"])
        .await
        .expect("it can be started");

    let tries = until("the app's tries are written down", SOON, async || {
        let tries = teller.run("cat /tmp/tries").await.out;
        match tries.contains("200") {
            true => Ok(tries),
            false => Err(tries),
        }
    })
    .await;
    let refused: Vec<&str> = tries.lines().filter(|one| one.starts_with("503")).collect();
    assert!(!refused.is_empty(), "{tries}");
    assert!(
        refused
            .iter()
            .all(|one| one.to_lowercase().contains("retry-after")),
        "{tries}"
    );
    // Watches that have failed for a while are opened again after a pause.
    stage
        .await_hook("app", "an end in its history", SOON * 2, |status| {
            !status.history.is_empty()
        })
        .await;
    stage.gone::<Deployment>("app").await;
    armed.pods.gone(&pods).await;
    stage.ended("app", Outcome::Acknowledged).await;
}

/// How long the API server is away: longer than the operator may take to answer.
const AWAY: Duration = Duration::from_secs(15);

/// Acknowledges every second from some seconds on, until it counts.
const KEEP_TRYING: &str = r#"cat > /tmp/try.sh <<'END'
sleep 4
while sleep 1; do
  code=$(curl -sS -X PUT -d "{\"token\":\"$KRAKE_TOKEN\"}" $KRAKE_SHUTDOWN_URL -D /tmp/headers \
    --max-time 20 -o /dev/null -w '%{http_code}' --cacert /etc/krake_cert/ca-bundle.pem \
    --cert /etc/krake_cert/cert.pem --key /etc/krake_cert/key.pem)
  echo "$code $(grep -i '^retry-after' /tmp/headers | tr -d '\r')" >> /tmp/tries
  [ "$code" = 200 ] && exit
done
END
nohup sh /tmp/try.sh > /dev/null 2>&1 &"#;

/// An acknowledgement that meets no operator yet is sent again, as an app does.
pub async fn counts_in_the_end(app: &App) -> Answer {
    until("an acknowledgement that counts", SOON, async || {
        let answer = app.acknowledge(HookKind::Shutdown).await;
        match answer.code {
            200 => Ok(answer),
            0 | 503 => Err(format!("{answer:?}")),
            _ => panic!("{answer:?}"),
        }
    })
    .await
}
