use super::*;
use crate::pki::{
    AuthorityNames, AuthoritySerials, AuthorityValidity, HookUri, Identity, fingerprint,
};
use proptest::prelude::*;
use rustls::pki_types::pem::PemObject;
use std::process::Command;
use std::sync::LazyLock;
use x509_parser::prelude::{FromDer, X509Certificate};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const HOOK: &str = "urn:krake:hook:ml:trainer:0b6ff2a4-5f0f-4d5f-9f8f-2f6f3f1c8f11";

fn now() -> Timestamp {
    "2040-06-01T12:00:00.5Z".parse().unwrap()
}

/// The whole second in which `now` lies.
fn second() -> Timestamp {
    "2040-06-01T12:00:00Z".parse().unwrap()
}

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
    Authority::generate(
        &AuthorityNames::default(),
        second(),
        AuthorityValidity::default(),
        AuthoritySerials {
            root: [1; 16],
            intermediate: [2; 16],
        },
    )
    .unwrap()
});

fn client(algorithm: KeyAlgorithm, duration: Duration) -> ClientLeaf {
    ClientLeaf {
        user: "system:krake-hook".to_owned(),
        uris: vec![HOOK.to_owned(), "urn:krake:certificate:abc".to_owned()],
        duration,
        algorithm,
    }
}

fn server(names: &[&str]) -> ServerLeaf {
    ServerLeaf {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        duration: DAY,
    }
}

fn ders(issued: &Issued) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes())
        .map(Result::unwrap)
        .collect()
}

fn roots() -> [CertificateDer<'static>; 1] {
    [AUTHORITY.root().clone()]
}

#[test]
fn a_client_leaf_is_good_for_clients_alone() {
    for algorithm in KeyAlgorithm::ALL {
        let issued = AUTHORITY
            .issue_client(&client(algorithm, DAY * 90), now(), [0xff; 16])
            .unwrap();
        let chain = ders(&issued);
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.expose_secret().as_bytes()).unwrap();
        assert_eq!(chain.len(), 2);
        assert!(public_key_matches(&chain[0], &key));
        assert!(!public_key_matches(&chain[1], &key));
        verify_chain(&chain, &roots(), Purpose::Client, now()).unwrap();
        assert_eq!(
            verify_chain(&chain, &roots(), Purpose::Server, now()),
            Err(VerifyError::Usage)
        );

        let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
        assert!(!leaf.is_ca());
        assert!(leaf.basic_constraints().unwrap().is_some());
        assert_eq!(leaf.key_usage().unwrap().unwrap().value.flags, 1);
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any);
        assert!(
            leaf.extensions()
                .iter()
                .any(|extension| extension.oid.to_id_string() == "2.5.29.35")
        );

        let identity = Identity::from_der(&chain[0]).unwrap();
        assert_eq!(identity.uris, [HOOK, "urn:krake:certificate:abc"]);
        assert_eq!(identity.hook().unwrap(), HOOK.parse::<HookUri>().unwrap());
        assert_eq!(identity.certificate().unwrap().unwrap().uid, "abc");
        assert_eq!(identity.common_name.as_deref(), Some("system:krake-hook"));
        assert_eq!(identity.serial, issued.serial);
        assert_eq!(identity.serial, format!("7f{}", "ff".repeat(15)));
        assert_eq!(identity.not_after, issued.not_after);
        assert_eq!(issued.not_after, second() + DAY * 90);
        assert_eq!(issued.issuer, fingerprint(&chain[1]));
    }
}

#[test]
fn every_leaf_has_a_key_of_its_own() {
    let issue = || {
        let leaf = client(KeyAlgorithm::EcdsaP256, DAY);
        AUTHORITY.issue_client(&leaf, now(), [1; 16]).unwrap()
    };
    assert_ne!(
        issue().key_pem.expose_secret(),
        issue().key_pem.expose_secret()
    );
}

#[test]
fn a_server_leaf_answers_to_its_names_alone() {
    let names = [
        "hooks.svc",
        "*.example.org",
        "10.0.0.1",
        "2001:db8::1",
        "hooks.svc",
    ];
    let issued = AUTHORITY
        .issue_server(&server(&names), now(), [0; 16])
        .unwrap();
    let chain = ders(&issued);
    verify_chain(&chain, &roots(), Purpose::Server, now()).unwrap();
    assert_eq!(
        verify_chain(&chain, &roots(), Purpose::Client, now()),
        Err(VerifyError::Usage)
    );
    for name in ["hooks.svc", "a.example.org", "10.0.0.1", "2001:db8::1"] {
        verify_name(&chain[0], name).unwrap();
    }
    for name in [
        "other.svc",
        "example.org",
        "a.b.example.org",
        "10.0.0.2",
        "krake-hooks callback",
    ] {
        assert!(verify_name(&chain[0], name).is_err(), "{name}");
    }
    assert_eq!(issued.serial, format!("40{}", "00".repeat(15)));
}

#[test]
fn a_leaf_lives_within_its_authority() {
    let leaf = |duration| client(KeyAlgorithm::EcdsaP256, duration);
    let ends = AUTHORITY.not_after();
    let young = AUTHORITY
        .issue_client(&leaf(DAY), AUTHORITY.not_before() + BACKDATE / 5, [1; 16])
        .unwrap();
    assert_eq!(young.not_before, AUTHORITY.not_before());
    let later = now() + DAY;
    let issued = AUTHORITY.issue_client(&leaf(DAY), later, [1; 16]).unwrap();
    assert_eq!(issued.not_before, second() + DAY - BACKDATE);
    let clamped = AUTHORITY
        .issue_client(&leaf(DAY * 9999), now(), [1; 16])
        .unwrap();
    assert_eq!(clamped.not_after, ends);
    let for_ever = AUTHORITY
        .issue_client(&leaf(Duration::MAX), now(), [1; 16])
        .unwrap();
    assert_eq!(for_ever.not_after, ends);

    let last = ends - SHORTEST_DURATION;
    assert_eq!(
        AUTHORITY
            .issue_client(&leaf(DAY), last, [1; 16])
            .unwrap()
            .not_after,
        ends
    );
    for late in [last + Duration::from_secs(1), ends, ends + DAY] {
        assert_eq!(
            AUTHORITY
                .issue_client(&leaf(DAY), late, [1; 16])
                .unwrap_err(),
            IssueError::AuthorityEnds { at: ends },
            "{late}"
        );
    }
    assert_eq!(
        AUTHORITY
            .issue_client(&leaf(DAY), AUTHORITY.not_before() - DAY, [1; 16])
            .unwrap_err(),
        IssueError::Verify(VerifyError::NotYetValid)
    );
}

#[test]
fn what_no_certificate_can_hold_is_refused() {
    let good = client(KeyAlgorithm::EcdsaP256, DAY);
    let long = "u".repeat(65);
    for (leaf, error) in [
        (
            ClientLeaf {
                user: String::new(),
                ..good.clone()
            },
            IssueError::CommonName {
                user: String::new(),
            },
        ),
        (
            ClientLeaf {
                user: long.clone(),
                ..good.clone()
            },
            IssueError::CommonName { user: long.clone() },
        ),
        (
            ClientLeaf {
                user: "a\n".into(),
                ..good.clone()
            },
            IssueError::CommonName { user: "a\n".into() },
        ),
        (
            ClientLeaf {
                uris: vec![],
                ..good.clone()
            },
            IssueError::NoUri,
        ),
        (
            ClientLeaf {
                uris: vec!["urn:ü".into()],
                ..good.clone()
            },
            IssueError::Uri {
                uri: "urn:ü".into(),
            },
        ),
        (
            ClientLeaf {
                uris: vec!["a b".into()],
                ..good.clone()
            },
            IssueError::Uri { uri: "a b".into() },
        ),
        (
            ClientLeaf {
                duration: Duration::from_secs(59),
                ..good.clone()
            },
            IssueError::TooShort {
                duration: Duration::from_secs(59),
            },
        ),
    ] {
        assert_eq!(
            AUTHORITY.issue_client(&leaf, now(), [1; 16]).unwrap_err(),
            error
        );
    }
    assert_eq!(
        AUTHORITY
            .issue_server(&server(&[]), now(), [1; 16])
            .unwrap_err(),
        IssueError::NoName
    );
}

#[test]
fn verification_refuses_what_is_not_vouched_for_now() {
    let issued = AUTHORITY
        .issue_client(&client(KeyAlgorithm::EcdsaP256, DAY), now(), [1; 16])
        .unwrap();
    let chain = ders(&issued);
    let at = |now| verify_chain(&chain, &roots(), Purpose::Client, now);
    assert_eq!(at(issued.not_after), Ok(()));
    assert_eq!(
        at(issued.not_after + Duration::from_secs(1)),
        Err(VerifyError::Expired)
    );
    assert_eq!(at(issued.not_before), Ok(()));
    assert_eq!(
        at(issued.not_before - Duration::from_secs(1)),
        Err(VerifyError::NotYetValid)
    );
    assert_eq!(at(Timestamp::MAX), Err(VerifyError::Expired));
    assert_eq!(at(Timestamp::MIN), Err(VerifyError::NotYetValid));

    let verify = |chain: &[CertificateDer<'_>], roots: &[CertificateDer<'_>]| {
        verify_chain(chain, roots, Purpose::Client, now())
    };
    assert_eq!(verify(&[], &roots()), Err(VerifyError::Empty));
    assert_eq!(verify(&chain, &[]), Err(VerifyError::UnknownIssuer));
    assert_eq!(
        verify(&chain[..1], &roots()),
        Err(VerifyError::UnknownIssuer)
    );
    assert_eq!(verify(&chain[..1], &[AUTHORITY.signer().clone()]), Ok(()));
    let mut forged = chain[0].to_vec();
    *forged.last_mut().unwrap() ^= 1;
    assert!(verify(&[forged.into(), chain[1].clone()], &roots()).is_err());
}

#[test]
fn nothing_secret_is_shown() {
    let issued = AUTHORITY
        .issue_client(&client(KeyAlgorithm::EcdsaP256, DAY), now(), [1; 16])
        .unwrap();
    let shown = format!("{issued:?} {:?} {:?}", issued.key_pem, issued.bundle_pem());
    let key = issued.key_pem.expose_secret();
    assert!(
        key.starts_with("-----BEGIN PRIVATE KEY-----\n")
            && key.ends_with("-----END PRIVATE KEY-----\n")
    );
    assert!(!shown.contains(key.lines().nth(1).unwrap()));
    assert_eq!(
        issued.bundle_pem().expose_secret(),
        format!("{key}{}", issued.chain_pem)
    );
}

#[test]
fn renewal_is_at_two_thirds_or_when_asked_never_at_once() {
    let issue = second();
    let not_before = issue - BACKDATE;
    let not_after = issue + DAY * 90;
    let at = |renew_before, jitter| renewal_time(not_before, not_after, renew_before, jitter);
    for (renew_before, jitter, days) in [
        (None, 0.0, 60),
        (None, 1.0, 51),
        (None, 7.0, 51),
        (None, -1.0, 60),
        (None, f64::NAN, 60),
        (Some(DAY * 10), 0.0, 80),
        (Some(DAY * 10), 1.0, 71),
        (Some(Duration::ZERO), 0.0, 90),
        (Some(DAY * 80), 1.0, 9),
        (Some(DAY * 90), 0.0, 9),
        (Some(Duration::MAX), 1.0, 9),
    ] {
        assert_eq!(
            at(renew_before, jitter),
            issue + DAY * days,
            "{renew_before:?} {jitter}"
        );
    }
    // A certificate that is already at its end has its renewal there, not beyond.
    assert_eq!(renewal_time(issue, issue, None, 0.5), issue);
    assert_eq!(
        renewal_time(Timestamp::MIN, Timestamp::MIN, Some(Duration::MAX), 1.0),
        Timestamp::MIN
    );
    renewal_time(Timestamp::MIN, Timestamp::MAX, None, 1.0);
    renewal_time(Timestamp::MAX, Timestamp::MIN, None, 1.0);
}

/// As other clients judge: with every strictness that OpenSSL has.
#[test]
fn openssl_verifies_what_we_issue() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("skipped openssl_verifies_what_we_issue: there is no openssl here");
        return;
    }
    let folder = std::env::temp_dir().join(format!("krake-hooks-pki-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    };
    std::fs::write(path("ca-bundle.pem"), AUTHORITY.bundle().pem()).unwrap();
    std::fs::write(path("root.pem"), certificate_pem(AUTHORITY.root())).unwrap();
    let at = second().as_second().to_string();
    let verify = |purpose: &str, trusted: &str| {
        openssl(&[
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-attime",
            &at,
            "-CAfile",
            &path(trusted),
            "-untrusted",
            &path("cert.pem"),
            &path("cert.pem"),
        ])
    };
    for algorithm in KeyAlgorithm::ALL {
        let issued = AUTHORITY
            .issue_client(&client(algorithm, DAY), now(), [9; 16])
            .unwrap();
        std::fs::write(path("cert.pem"), &issued.chain_pem).unwrap();
        std::fs::write(path("key.pem"), issued.key_pem.expose_secret()).unwrap();
        for trusted in ["ca-bundle.pem", "root.pem"] {
            let (accepted, said) = verify("sslclient", trusted);
            assert!(accepted, "{algorithm}: {said}");
        }
        let (accepted, _) = verify("sslserver", "root.pem");
        assert!(!accepted, "{algorithm} as a server");
        let (read, key) = openssl(&["pkey", "-in", &path("key.pem"), "-pubout"]);
        let (_, certificate) = openssl(&["x509", "-in", &path("cert.pem"), "-noout", "-pubkey"]);
        assert!(read, "{algorithm}: {key}");
        assert_eq!(key, certificate, "{algorithm}");
    }
    let issued = AUTHORITY
        .issue_server(&server(&["hooks.svc"]), now(), [9; 16])
        .unwrap();
    std::fs::write(path("cert.pem"), &issued.chain_pem).unwrap();
    let (accepted, said) = verify("sslserver", "root.pem");
    assert!(accepted, "{said}");
    std::fs::remove_dir_all(&folder).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_issued_chain_always_verifies(
        user in "\\PC{1,64}",
        name in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?",
        seconds in 60..100_000_000_u64,
        after in 0..90_000_000_i64,
        serial in any::<[u8; 16]>(),
        algorithm in prop::sample::select(vec![KeyAlgorithm::EcdsaP256, KeyAlgorithm::Ed25519]),
    ) {
        let at = super::super::timestamp(second().as_second() + after);
        let leaf = ClientLeaf {
            user,
            uris: vec![format!("urn:krake:hook:{name}:{name}:{name}")],
            duration: Duration::from_secs(seconds),
            algorithm,
        };
        let issued = AUTHORITY.issue_client(&leaf, at, serial).unwrap();
        let chain = ders(&issued);
        for moment in [issued.not_before, at, issued.not_after] {
            prop_assert_eq!(verify_chain(&chain, &roots(), Purpose::Client, moment), Ok(()));
        }
        prop_assert!(issued.not_after <= AUTHORITY.not_after());
        let identity = Identity::from_der(&chain[0]).unwrap();
        prop_assert_eq!(identity.uris, leaf.uris);
        prop_assert_eq!(identity.common_name, Some(leaf.user));
        prop_assert_eq!(identity.serial, issued.serial);
    }

    #[test]
    fn no_names_panic(name in "\\PC{0,40}|[a-z0-9.*:-]{0,40}") {
        if let Ok(issued) = AUTHORITY.issue_server(&server(&[&name]), now(), [1; 16]) {
            prop_assert_eq!(verify_chain(&ders(&issued), &roots(), Purpose::Server, now()), Ok(()));
        }
    }

    #[test]
    fn renewal_is_within_the_certificate(
        start in 0..4_000_000_000_i64,
        lifetime in 0..1_000_000_000_i64,
        renew_before in proptest::option::of(any::<u64>()),
        jitter in any::<f64>(),
    ) {
        let not_before = super::super::timestamp(start);
        let not_after = super::super::timestamp(start + lifetime);
        let at = renewal_time(not_before, not_after, renew_before.map(Duration::from_secs), jitter);
        prop_assert!(not_before <= at && at <= not_after);
    }
}
