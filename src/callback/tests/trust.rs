//! Who is let in: certificates over both protocols and both versions of TLS, and trust that
//! changes while connections are open.

use super::*;
use crate::testing::eventually;
use warp::Filter;

const BOTH: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

/// What a caller gets: an answer, or no connection.
async fn attempt(
    served: &Served,
    certificate: Option<&Issued>,
    protocol: &[u8],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Option<(u16, String)> {
    let client = client(&served.authority, certificate, protocol, versions);
    let stream = connect(served.address, &client).await.ok()?;
    let mut sender = Sender::over(stream).await.ok()?;
    let path = format!("{SHUTDOWN}/pod-1");
    sender.put(&path, &served.body()).await.ok()
}

#[tokio::test]
async fn only_the_hooks_own_living_certificate_is_let_in() {
    let now = Timestamp::now();
    let before = now - SignedDuration::from_hours(24);
    let foreign = authority(3);
    for protocol in [tls::HTTP2, tls::HTTP1] {
        for version in BOTH {
            let served = Served::tls().await;
            let ours = &served.authority;
            let issue = |by, name, uid, at| Some(client_certificate(by, name, uid, at));
            let uid = testing::HOOK_UID;
            let right = issue(ours, "trainer", uid, now);
            let serial = right.as_ref().map(|issued| issued.serial.clone());
            for (what, certificate, expected) in [
                ("none", None, None),
                ("foreign", issue(&foreign, "trainer", uid, now), None),
                ("expired", issue(ours, "trainer", uid, before), None),
                ("other hook", issue(ours, "other", uid, now), Some(401)),
                (
                    "earlier hook",
                    issue(ours, "trainer", "earlier", now),
                    Some(401),
                ),
                ("right", right, Some(200)),
            ] {
                let answer = attempt(&served, certificate.as_ref(), protocol, &[*version]).await;
                let row = format!("{what} {version:?} {answer:?}");
                let status = answer.as_ref().map(|(status, _)| *status);
                assert_eq!(status, expected, "{row}");
                if let Some((401, body)) = answer {
                    assert_eq!(body, UNAUTHORIZED, "{row}");
                }
            }
            let failures = served.metrics.text();
            let line = "tls_handshake_failures_total{reason=\"Certificate\"} 3";
            assert!(failures.contains(line), "{failures}");
            let kept = served.api.get("ml", "trainer").status.unwrap();
            let acknowledgement = &kept.acknowledgements["shutdown.pod-1"];
            assert_eq!(acknowledgement.certificate, serial);
            served.stop().await;
        }
    }
}

#[tokio::test]
async fn an_open_connection_follows_the_trust_that_is_replaced() {
    for (protocol, idle) in [
        (tls::HTTP2, false),
        (tls::HTTP2, true),
        (tls::HTTP1, false),
        (tls::HTTP1, true),
    ] {
        let served = Served::tls().await;
        let uid = testing::HOOK_UID;
        let issued = client_certificate(&served.authority, "trainer", uid, Timestamp::now());
        let client = client(&served.authority, Some(&issued), protocol, BOTH);
        let stream = connect(served.address, &client).await.unwrap();
        let before = shown(&stream);
        let mut sender = Sender::over(stream).await.unwrap();
        let first = sender.put(SHUTDOWN, &served.body()).await.unwrap();
        assert_eq!(first.0, 200);
        // A renewed server certificate and the same roots: who is connected does not notice, and
        // who connects from now on is shown the new one.
        let root = served.authority.root().clone();
        served.slot.replace(trust(&served.authority, root));
        let newer = connect(served.address, &client).await.unwrap();
        assert_ne!(shown(&newer), before);
        for stream in [None, Some(newer)] {
            let sender = match stream {
                None => &mut sender,
                Some(stream) => &mut Sender::over(stream).await.unwrap(),
            };
            let second = sender.put(SHUTDOWN, &served.body()).await.unwrap();
            assert_eq!(second.0, 200);
        }
        // The root is withdrawn: the end of the connection, and no answer before.
        let other = authority(3);
        served
            .slot
            .replace(trust(&served.authority, other.root().clone()));
        let writes = served.api.calls().len();
        if idle {
            eventually("the idle connection ends", || sender.is_closed()).await;
        }
        assert!(sender.put(SHUTDOWN, &served.body()).await.is_err());
        assert_eq!(served.api.calls().len(), writes);
        eventually("the connection ends", || sender.is_closed()).await;
        served.stop().await;
    }
}

/// In the middle of a rotation: no answer is lost, and no connection outlives the earlier authority.
#[tokio::test]
async fn a_client_of_an_earlier_authority_is_answered_and_comes_again() {
    for protocol in [tls::HTTP2, tls::HTTP1] {
        let served = Served::tls().await;
        let next = authority(3);
        for (signer, kept) in [(&served.authority, true), (&next, false)] {
            let uid = testing::HOOK_UID;
            let issued = client_certificate(&served.authority, "trainer", uid, Timestamp::now());
            let client = client(&served.authority, Some(&issued), protocol, BOTH);
            let stream = connect(served.address, &client).await.unwrap();
            let mut sender = Sender::over(stream).await.unwrap();
            let (chain, key) = endpoint(signer);
            let both = [&served.authority, &next].map(|trusted| trusted.root().clone());
            served.slot.replace(Trust::new(chain, key, both).unwrap());
            let answer = sender.put(SHUTDOWN, &served.body()).await.unwrap();
            assert_eq!(answer.0, 200);
            if kept {
                let again = sender.put(SHUTDOWN, &served.body()).await.unwrap();
                assert_eq!(again.0, 200);
            } else {
                let closed = || sender.is_closed();
                eventually("the connection ends", closed).await;
            }
        }
        served.stop().await;
    }
}

/// The certificate that the endpoint has shown.
fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    let (_, connection) = stream.get_ref();
    connection.peer_certificates().unwrap()[0].clone()
}

#[tokio::test]
async fn without_a_certificate_of_its_own_the_endpoint_lets_nobody_in() {
    let mut served = Served::tls().await;
    served.slot = TrustSlot::new();
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), Limits::default())
        .await
        .unwrap();
    let address = listener.address();
    let service = warp::service(warp::any().map(|| "here"));
    let shutdown = CancellationToken::new();
    let mode = Mode::Tls(served.slot.clone());
    let serving =
        tokio::spawn(listener.serve(mode, service, served.metrics.clone(), shutdown.clone()));
    let issued = client_certificate(
        &served.authority,
        "trainer",
        testing::HOOK_UID,
        Timestamp::now(),
    );
    let client = client(&served.authority, Some(&issued), tls::HTTP1, BOTH);
    assert!(connect(address, &client).await.is_err());
    let line = "tls_handshake_failures_total{reason=\"NotReady\"} 1";
    eventually("it is counted", || served.metrics.text().contains(line)).await;
    let root = served.authority.root().clone();
    served.slot.replace(trust(&served.authority, root));
    assert!(connect(address, &client).await.is_ok());
    shutdown.cancel();
    serving.await.unwrap();
    served.stop().await;
}
