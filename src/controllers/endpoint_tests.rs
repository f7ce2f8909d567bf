use super::*;
use crate::admin::Readiness;
use crate::pki::{AuthorityNames, AuthoritySerials, AuthorityValidity, ClientLeaf, KeyAlgorithm};
use jiff::SignedDuration;

fn authority(number: u8, now: Timestamp) -> Arc<Authority> {
    let serials = AuthoritySerials {
        root: [number; 16],
        intermediate: [number + 100; 16],
    };
    let validity = AuthorityValidity::default();
    let names = AuthorityNames::default();
    Arc::new(Authority::generate(&names, now, validity, serials).unwrap())
}

fn in_use(authority: &Arc<Authority>) -> Arc<InUse> {
    Arc::new(InUse {
        signer: Some(Arc::clone(authority)),
        anchors: vec![authority.signer().clone()],
        ..InUse::default()
    })
}

struct Setting {
    context: Context,
    readiness: Readiness,
    authorities: watch::Sender<Arc<InUse>>,
    now: Timestamp,
}

fn setting(names: &[&str]) -> Setting {
    // The TLS library looks at the clock itself.
    let now = Timestamp::now();
    let (authorities, receiver) = watch::channel(in_use(&authority(1, now)));
    let readiness = Readiness::default();
    let context = Context {
        in_use: receiver,
        names: names.iter().map(|&name| name.to_owned()).collect(),
        trust: TrustSlot::new(),
        ready: readiness.part("endpoint"),
        metrics: Metrics::new(),
    };
    Setting {
        context,
        readiness,
        authorities,
        now,
    }
}

/// Whether a client with a certificate of this authority would be let in.
fn lets_in(trust: &TrustSlot, in_use: &InUse, now: Timestamp) -> bool {
    let leaf = ClientLeaf {
        user: "u".into(),
        uris: vec!["urn:krake:hook:ml:trainer:1".into()],
        duration: Duration::from_secs(3600),
        algorithm: KeyAlgorithm::EcdsaP256,
    };
    let signer = in_use.signer.as_ref().unwrap();
    let issued = signer.issue_client(&leaf, now, [7; 16]).unwrap();
    let chain: Vec<_> = CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes())
        .collect::<Result<_, _>>()
        .unwrap();
    trust.newest().unwrap().lets_in(&chain)
}

fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

#[test]
fn it_is_issued_at_once_and_renewed_at_two_thirds() {
    let s = setting(&["krake-hooks.krake-system.svc", "*.example.com", "192.0.2.7"]);
    let first = s.context.in_use.borrow().clone();
    let mut keeper = Keeper::default();
    assert_eq!(s.readiness.missing(), ["endpoint"]);
    assert!(keeper.look(&s.context, &first, s.now) <= RESYNC);
    assert!(s.readiness.missing().is_empty());
    assert!(lets_in(&s.context.trust, &first, s.now));

    let shown = keeper.shown.clone().unwrap();
    let newest = || Arc::as_ptr(&s.context.trust.newest().unwrap());
    let before = newest();
    let last_look = shown.renewal - SignedDuration::from_secs(1);
    let wait = keeper.look(&s.context, &first, last_look);
    assert_eq!(newest(), before);
    assert!(wait <= Duration::from_millis(1005), "{wait:?}");
    keeper.look(&s.context, &first, shown.renewal);
    assert_ne!(newest(), before);
    // Two thirds of ninety days, brought forward by up to a tenth of them.
    let after = shown.renewal.duration_since(s.now);
    assert!(days(50) <= after && after <= days(60), "{after}");
}

#[test]
fn another_authority_replaces_certificate_and_trust_as_one() {
    let s = setting(&["krake-hooks"]);
    let first = s.context.in_use.borrow().clone();
    let second = in_use(&authority(2, s.now));
    let mut keeper = Keeper::default();
    keeper.look(&s.context, &first, s.now);
    assert!(!lets_in(&s.context.trust, &second, s.now));
    keeper.look(&s.context, &second, s.now);
    assert_eq!(
        keeper.shown.unwrap().issuer,
        second.signer.as_ref().unwrap().fingerprint()
    );
    assert!(lets_in(&s.context.trust, &second, s.now));
}

/// In the middle of a rotation, clients of both are let in, and no certificate is issued twice.
#[test]
fn whoever_is_trusted_is_let_in_before_it_signs_and_after() {
    let s = setting(&["krake-hooks"]);
    let (first, second) = (authority(1, s.now), authority(2, s.now));
    let anchors = vec![first.signer().clone(), second.signer().clone()];
    let mut keeper = Keeper::default();
    for signer in [&first, &second] {
        let both = InUse {
            anchors: anchors.clone(),
            ..in_use(signer).as_ref().clone()
        };
        keeper.look(&s.context, &both, s.now);
        let shown = keeper.shown.clone().unwrap();
        assert_eq!(shown.issuer, signer.fingerprint());
        assert!(lets_in(&s.context.trust, &in_use(&first), s.now));
        assert!(lets_in(&s.context.trust, &in_use(&second), s.now));
        keeper.look(&s.context, &both, s.now);
        assert_eq!(keeper.shown.as_ref(), Some(&shown));
    }
    keeper.look(&s.context, &in_use(&second), s.now);
    assert!(!lets_in(&s.context.trust, &in_use(&first), s.now));
}

#[test]
fn without_an_authority_it_is_not_ready_and_says_why() {
    let s = setting(&["krake-hooks"]);
    let mut keeper = Keeper::default();
    let fault = crate::decide::authority::Fault {
        reason: "AuthorityEmpty",
        message: "no".into(),
    };
    let mut nothing = InUse {
        fault: Some(fault),
        ..InUse::default()
    };
    keeper.look(&s.context, &nothing, s.now);
    assert_eq!(s.readiness.missing(), ["endpoint (AuthorityEmpty)"]);
    assert!(s.context.trust.newest().is_none());
    // One that signs already goes on, whatever has happened to the state since.
    nothing.signer = s.context.in_use.borrow().signer.clone();
    nothing
        .anchors
        .clone_from(&s.context.in_use.borrow().anchors);
    keeper.look(&s.context, &nothing, s.now);
    assert!(s.readiness.missing().is_empty());
}

#[test]
fn a_failure_keeps_what_is_there_until_it_ends() {
    let mut s = setting(&["krake-hooks"]);
    let first = s.context.in_use.borrow().clone();
    let mut keeper = Keeper::default();
    keeper.look(&s.context, &first, s.now);
    let shown = keeper.shown.clone().unwrap();
    let before = Arc::as_ptr(&s.context.trust.newest().unwrap());

    s.context.names = vec!["not a name".into()];
    let mut waits = Vec::new();
    for _ in 0..12 {
        waits.push(keeper.look(&s.context, &first, shown.renewal));
    }
    assert_eq!(waits[0], FIRST_RETRY);
    assert_eq!(waits[1], FIRST_RETRY * 2);
    assert_eq!(waits[11], LAST_RETRY);
    assert_eq!(keeper.shown.as_ref(), Some(&shown));
    assert_eq!(Arc::as_ptr(&s.context.trust.newest().unwrap()), before);
    assert!(keeper.fault.is_some());
    assert!(s.readiness.missing().is_empty());

    keeper.look(&s.context, &first, shown.not_after);
    assert!(s.readiness.missing().is_empty());
    keeper.look(
        &s.context,
        &first,
        shown.not_after + SignedDuration::from_secs(1),
    );
    assert_eq!(s.readiness.missing(), ["endpoint (IssueFailed)"]);
}

#[test]
fn a_clock_that_was_ahead_makes_no_certificate_for_later() {
    let s = setting(&["krake-hooks"]);
    let first = s.context.in_use.borrow().clone();
    let mut keeper = Keeper::default();
    keeper.look(&s.context, &first, s.now + days(400));
    keeper.look(&s.context, &first, s.now);
    let shown = keeper.shown.clone().unwrap();
    assert!(shown.not_before <= s.now);
    for second in 1..10 {
        keeper.look(
            &s.context,
            &first,
            s.now + SignedDuration::from_secs(second),
        );
    }
    assert_eq!(keeper.shown, Some(shown));
}

#[test]
fn wrong_clocks_cost_two_issues_at_most() {
    let hour = SignedDuration::from_hours(1);
    for jump in [-hour, hour, days(400), days(-400), hour / 2] {
        let mut s = setting(&["krake-hooks"]);
        let authority = in_use(&authority(3, s.now - days(2)));
        let mut keeper = Keeper::default();
        let mut issues = Vec::new();
        for clock in [s.now, s.now + jump, s.now + SignedDuration::from_secs(60)] {
            s.context.metrics = Metrics::new();
            for second in 0..10 {
                let now = clock + SignedDuration::from_secs(second);
                keeper.look(&s.context, &authority, now);
            }
            let text = s.context.metrics.text();
            let issued = text
                .lines()
                .filter(|line| line.contains("outcome=\"Issued\""));
            let counts = issued.filter_map(|line| line.split(' ').next_back()?.parse::<u64>().ok());
            issues.push(counts.sum::<u64>());
        }
        assert_eq!(issues[0], 1, "{jump}: {issues:?}");
        assert!(issues[1] + issues[2] <= 2, "{jump}: {issues:?}");
        let shown = keeper.shown.unwrap();
        assert!(
            shown.not_before <= s.now && s.now < shown.renewal,
            "{jump}: {shown:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_task_follows_the_authority_and_ends_when_told() {
    let s = setting(&["krake-hooks"]);
    let trust = Arc::clone(&s.context.trust);
    let now = s.now;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(run(s.context, move || now, async {
        stopped.await.ok();
    }));
    crate::testing::eventually("the first certificate", || trust.newest().is_some()).await;
    let second = in_use(&authority(2, now));
    s.authorities.send(Arc::clone(&second)).unwrap();
    crate::testing::eventually("the second", || lets_in(&trust, &second, now)).await;
    // Nobody can send another authority any more, and the task goes on.
    drop(s.authorities);
    tokio::task::yield_now().await;
    assert!(!task.is_finished());
    stop.send(()).unwrap();
    task.await.unwrap();
}
