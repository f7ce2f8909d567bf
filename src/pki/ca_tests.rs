use super::*;
use crate::pki::{Purpose, verify_chain};
use proptest::prelude::*;
use rcgen::{ExtendedKeyUsagePurpose, GeneralSubtree, NameConstraints};
use rustls::pki_types::pem::PemObject;
use std::sync::LazyLock;

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("testdata/", $name)).as_slice()
    };
}

/// The files of `testdata` are valid from 2026 to 2126.
fn now() -> Timestamp {
    "2040-06-01T12:00:00Z".parse().unwrap()
}

fn chain_pem(authority: &Authority) -> String {
    pem_of(authority.intermediates())
}

fn generated(seed: u8) -> Authority {
    Authority::generate(
        &AuthorityNames::default(),
        now(),
        AuthorityValidity::default(),
        AuthoritySerials {
            root: [seed; 16],
            intermediate: [seed.wrapping_add(1); 16],
        },
    )
    .unwrap()
}

fn parsed(der: &CertificateDer<'static>) -> X509Certificate<'static> {
    let bytes: &'static [u8] = Box::leak(der.to_vec().into_boxed_slice());
    X509Certificate::from_der(bytes).unwrap().1
}

/// What it is (or the reason it is refused for), then tls.crt, tls.key and ca.crt.
type Case<File> = (&'static str, File, File, File);

/// A certificate of a test, with what is needed to sign the next one.
struct Made {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Made {
    fn new(name: &str, above: Option<&Made>, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params =
            authority_params(name, now(), DAY * 100, [name.len() as u8; 16], 5).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = match above {
            Some(above) => params
                .signed_by(&key, &Issuer::from_params(&above.params, &above.key))
                .unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        Self {
            params,
            key,
            pem: certificate.pem(),
        }
    }

    fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

fn load(tls_crt: &str, tls_key: &str, ca_crt: &str) -> Result<Authority, AuthorityFault> {
    load_for(tls_crt, tls_key, ca_crt, &["hooks.krake-system.svc"])
}

fn load_for(
    tls_crt: &str,
    tls_key: &str,
    ca_crt: &str,
    names: &[&str],
) -> Result<Authority, AuthorityFault> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    Authority::load(
        tls_crt.as_bytes(),
        tls_key.as_bytes(),
        ca_crt.as_bytes(),
        now(),
        &names,
    )
}

/// The reason for refusing an intermediate, below a good root, that differs in one respect.
fn refusal(change: impl FnOnce(&mut CertificateParams)) -> &'static str {
    let root = Made::new("root", None, |_| {});
    let signer = Made::new("signer", Some(&root), change);
    load(&signer.pem, &signer.key_pem(), &root.pem)
        .unwrap_err()
        .reason()
}

#[test]
fn a_generated_authority_is_what_strict_clients_want() {
    let authority = generated(1);
    let root = parsed(authority.root());
    let intermediate = parsed(authority.signer());
    for (certificate, path_length, days) in [(&root, 1, 3652), (&intermediate, 0, 1096)] {
        let constraints = certificate.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(path_length));
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical);
        assert_eq!(
            usage.value.flags, 0b110_0000,
            "keyCertSign and cRLSign alone"
        );
        let oids: Vec<String> = certificate
            .extensions()
            .iter()
            .map(|extension| extension.oid.to_id_string())
            .collect();
        assert!(oids.contains(&"2.5.29.14".to_owned()), "subject key id");
        assert!(oids.contains(&"2.5.29.35".to_owned()), "authority key id");
        assert_eq!(
            timestamp(certificate.validity().not_after.timestamp()),
            now() + DAY * days
        );
        assert_eq!(
            timestamp(certificate.validity().not_before.timestamp()),
            now() - AUTHORITY_BACKDATE
        );
        assert_eq!(certificate.raw_serial().len(), 16);
    }
    assert_eq!(authority.not_after(), now() + DAY * 1096);
    assert_eq!(authority.not_before(), now() - AUTHORITY_BACKDATE);
    assert_eq!(authority.bundle().pem().matches("BEGIN").count(), 2);
    assert_eq!(chain_pem(&authority).matches("BEGIN").count(), 1);
    assert!(authority.bundle().pem().ends_with(&chain_pem(&authority)));
}

#[test]
fn two_generated_authorities_share_no_name() {
    let subjects: Vec<String> = [generated(1), generated(7)]
        .iter()
        .flat_map(|authority| {
            [authority.root(), authority.signer()].map(|der| parsed(der).subject().to_string())
        })
        .collect();
    for (index, subject) in subjects.iter().enumerate() {
        assert!(!subjects[..index].contains(subject), "{subjects:?}");
    }
}

#[test]
fn a_secret_written_is_a_secret_read() {
    let authority = generated(1);
    let secret = authority.to_secret();
    assert_eq!(
        secret.keys().collect::<Vec<_>>(),
        ["ca.crt", "tls.crt", "tls.key"]
    );
    let again = Authority::load(
        secret["tls.crt"].expose_secret(),
        secret["tls.key"].expose_secret(),
        secret["ca.crt"].expose_secret(),
        now(),
        &["hooks.svc".to_owned(), "10.0.0.1".to_owned()],
    )
    .unwrap();
    assert_eq!(again.fingerprint(), authority.fingerprint());
    assert_eq!(again.bundle(), authority.bundle());
    assert!(
        secret["tls.key"]
            .expose_secret()
            .starts_with(b"-----BEGIN PRIVATE KEY-----\n")
    );
}

#[test]
fn nothing_secret_is_shown() {
    let authority = generated(1);
    let secret = authority.to_secret();
    let key = String::from_utf8(secret["tls.key"].expose_secret().to_vec()).unwrap();
    let shown = format!("{authority:?} {secret:?}");
    assert!(!shown.contains(key.lines().nth(1).unwrap()), "{shown}");
    assert!(!shown.contains("45, 45, 45"), "{shown}");
}

#[test]
fn what_tools_write_is_read() {
    let crlf = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes)
            .replace('\n', "\r\n")
            .into_bytes()
    };
    let joined = |parts: &[&[u8]]| parts.concat();
    let root = fixture!("root.crt").to_vec();
    let cases: Vec<Case<Vec<u8>>> = vec![
        (
            "P-256 as PKCS#8",
            fixture!("p256.crt").into(),
            fixture!("p256.key").into(),
            root.clone(),
        ),
        (
            "P-256 as SEC1",
            fixture!("p256.crt").into(),
            fixture!("p256-sec1.key").into(),
            root.clone(),
        ),
        (
            "EC PARAMETERS first",
            fixture!("p256.crt").into(),
            fixture!("p256-parameters.key").into(),
            root.clone(),
        ),
        (
            "P-384 as PKCS#8",
            fixture!("p384.crt").into(),
            fixture!("p384.key").into(),
            root.clone(),
        ),
        (
            "P-384 as SEC1",
            fixture!("p384.crt").into(),
            fixture!("p384-sec1.key").into(),
            root.clone(),
        ),
        (
            "Ed25519",
            fixture!("ed25519.crt").into(),
            fixture!("ed25519.key").into(),
            root.clone(),
        ),
        (
            "RSA-2048 as PKCS#8",
            fixture!("rsa2048.crt").into(),
            fixture!("rsa2048.key").into(),
            root.clone(),
        ),
        (
            "RSA-2048 as PKCS#1",
            fixture!("rsa2048.crt").into(),
            fixture!("rsa2048-pkcs1.key").into(),
            root.clone(),
        ),
        (
            "RSA-3072",
            fixture!("rsa3072.crt").into(),
            fixture!("rsa3072.key").into(),
            root.clone(),
        ),
        (
            "RSA-4096",
            fixture!("rsa4096.crt").into(),
            fixture!("rsa4096.key").into(),
            root.clone(),
        ),
        (
            "CRLF",
            crlf(fixture!("p256.crt")),
            crlf(fixture!("p256-parameters.key")),
            crlf(&root),
        ),
        (
            "text around",
            fixture!("p256-text.crt").into(),
            joined(&[b"# key\n", fixture!("p256.key"), b"\nend"]),
            root.clone(),
        ),
        (
            "full chain with the root",
            joined(&[fixture!("p256.crt"), &root]),
            fixture!("p256.key").into(),
            root.clone(),
        ),
        (
            "root first",
            joined(&[&root, fixture!("p256.crt")]),
            fixture!("p256.key").into(),
            root.clone(),
        ),
        (
            "chain beside the key",
            fixture!("p256.crt").into(),
            joined(&[fixture!("p256.crt"), fixture!("p256.key")]),
            root.clone(),
        ),
        (
            "intermediate also in ca.crt",
            fixture!("p256.crt").into(),
            fixture!("p256.key").into(),
            joined(&[fixture!("p256.crt"), &root]),
        ),
        (
            "another root in ca.crt",
            fixture!("p256.crt").into(),
            fixture!("p256.key").into(),
            joined(&[fixture!("plain.crt"), &root]),
        ),
        (
            "the same certificate twice",
            joined(&[fixture!("p256.crt"), fixture!("p256.crt")]),
            fixture!("p256.key").into(),
            joined(&[&root, &root]),
        ),
        (
            "self-signed, no keyUsage",
            fixture!("plain.crt").into(),
            fixture!("plain.key").into(),
            fixture!("plain.crt").into(),
        ),
    ];
    for (name, tls_crt, tls_key, ca_crt) in cases {
        let authority = Authority::load(
            &tls_crt,
            &tls_key,
            &ca_crt,
            now(),
            &["hooks.svc".to_owned(), "2001:db8::1".to_owned()],
        )
        .unwrap_or_else(|fault| panic!("{name}: {fault}"));
        let self_signed = name.starts_with("self-signed");
        let certificates = if self_signed { 1 } else { 2 };
        assert_eq!(
            authority.bundle().pem().matches("BEGIN").count(),
            certificates,
            "{name}"
        );
        let leaf = ClientLeaf {
            user: "user".to_owned(),
            uris: vec!["urn:krake:hook:a:b:c".to_owned()],
            duration: DAY,
            algorithm: KeyAlgorithm::EcdsaP256,
        };
        let issued = authority.issue_client(&leaf, now(), [3; 16]).unwrap();
        assert_eq!(
            issued.chain_pem.matches("BEGIN").count(),
            certificates,
            "{name}"
        );
    }
}

#[test]
fn a_long_chain_is_sorted_out() {
    let root = Made::new("root", None, |_| {});
    let upper = Made::new("upper", Some(&root), |_| {});
    let lower = Made::new("lower", Some(&upper), |_| {});
    let signer = Made::new("signer", Some(&lower), |_| {});
    let straight = [&signer, &lower, &upper]
        .map(|made| made.pem.as_str())
        .concat();
    let expected = load(&straight, &signer.key_pem(), &root.pem).unwrap();
    assert_eq!(chain_pem(&expected), straight);
    for order in [[&upper, &lower, &signer], [&lower, &signer, &upper]] {
        let shuffled = order.map(|made| made.pem.as_str()).concat();
        let authority = load(&shuffled, &signer.key_pem(), &root.pem).unwrap();
        assert_eq!(chain_pem(&authority), straight);
    }
}

#[test]
fn files_that_clients_could_not_use_are_refused() {
    let root = fixture!("root.crt");
    let p256: (&[u8], &[u8]) = (fixture!("p256.crt"), fixture!("p256.key"));
    let garbage = vec![b'x'; 1_000_000];
    let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".as_slice();
    let cut = &p256.0[..p256.0.len() - 40];
    let cases: Vec<Case<&[u8]>> = vec![
        ("AuthorityEmpty", b"", p256.1, root),
        ("AuthorityEmpty", b" \n", p256.1, root),
        ("AuthorityEmpty", p256.0, b"", root),
        ("AuthorityRootMissing", p256.0, p256.1, b""),
        ("AuthorityRootMissing", p256.0, p256.1, p256.0),
        ("AuthorityTooLarge", &garbage, p256.1, root),
        ("AuthorityTooLarge", p256.0, &garbage, root),
        ("AuthorityTooLarge", p256.0, p256.1, &garbage),
        ("AuthorityNotPem", b"garbage", p256.1, root),
        ("AuthorityNotPem", b"\xff\x00\xfe", p256.1, root),
        ("AuthorityNotPem", cut, p256.1, root),
        ("AuthorityNotPem", p256.1, p256.1, root),
        ("AuthorityNotPem", p256.0, p256.0, root),
        ("AuthorityNotPem", p256.0, p256.1, b"garbage"),
        ("AuthorityUnreadable", broken, p256.1, root),
        ("AuthorityUnreadable", p256.0, p256.1, broken),
        (
            "AuthorityKeyEncrypted",
            p256.0,
            fixture!("p256-encrypted.key"),
            root,
        ),
        (
            "AuthorityKeyEncrypted",
            p256.0,
            fixture!("p256-sec1-encrypted.key"),
            root,
        ),
        (
            "AuthorityKeyUnreadable",
            p256.0,
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            root,
        ),
        ("AuthorityKeyMismatch", p256.0, fixture!("p384.key"), root),
        (
            "AuthorityKeyMismatch",
            p256.0,
            fixture!("rsa2048.key"),
            root,
        ),
        (
            "AuthorityChainBroken",
            p256.0,
            p256.1,
            fixture!("plain.crt"),
        ),
        (
            "AuthorityWeakKey",
            fixture!("rsa1024.crt"),
            fixture!("rsa1024.key"),
            root,
        ),
        (
            "AuthorityWeakSignature",
            fixture!("sha1.crt"),
            fixture!("sha1.key"),
            root,
        ),
        (
            "AuthorityWeakSignature",
            fixture!("md5.crt"),
            fixture!("md5.key"),
            root,
        ),
        (
            "AuthorityWeakSignature",
            fixture!("oldroot.crt"),
            fixture!("oldroot.key"),
            fixture!("oldroot.crt"),
        ),
        (
            "AuthoritySubjectJoined",
            fixture!("multivalued.crt"),
            fixture!("multivalued.key"),
            root,
        ),
        (
            "AuthoritySubjectRepeated",
            fixture!("repeated.crt"),
            fixture!("repeated.key"),
            root,
        ),
    ];
    for (index, (reason, tls_crt, tls_key, ca_crt)) in cases.into_iter().enumerate() {
        let fault = Authority::load(tls_crt, tls_key, ca_crt, now(), &[]).unwrap_err();
        assert_eq!(fault.reason(), reason, "case {index}: {fault}");
    }
    let two = [fixture!("p256.crt"), fixture!("p384.crt")].concat();
    let fault = Authority::load(&two, p256.1, root, now(), &[]).unwrap_err();
    assert_eq!(fault.reason(), "AuthorityChainStray");
    assert!(fault.to_string().contains("CN=Example P-384"), "{fault}");
}

#[test]
fn an_authority_that_may_not_do_its_work_is_refused() {
    assert_eq!(
        refusal(|params| params.is_ca = IsCa::ExplicitNoCa),
        "NotAnAuthority"
    );
    assert_eq!(
        refusal(|params| params.is_ca = IsCa::NoCa),
        "NotAnAuthority"
    );
    assert_eq!(
        refusal(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]),
        "AuthorityMayNotSign"
    );
    assert_eq!(
        refusal(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        "AuthorityUsageForbidden"
    );
    assert_eq!(
        refusal(|params| {
            params.distinguished_name = DistinguishedName::new();
        }),
        "AuthoritySubject"
    );
}

#[test]
fn validity_is_judged_at_the_given_time() {
    let root = Made::new("root", None, |_| {});
    let signer = Made::new("signer", Some(&root), |params| {
        params.not_before = offset_date_time(now());
        params.not_after = offset_date_time(now() + DAY);
    });
    let second = Duration::from_secs(1);
    for (at, reason) in [
        (now() - second, Some("AuthorityNotYetValid")),
        (now(), None),
        (now() + DAY - Duration::from_secs(60), None),
        (now() + DAY - second, Some("AuthorityExpired")),
        (now() + DAY, Some("AuthorityExpired")),
    ] {
        let result = Authority::load(
            signer.pem.as_bytes(),
            signer.key_pem().as_bytes(),
            root.pem.as_bytes(),
            at,
            &[],
        );
        assert_eq!(result.err().map(|fault| fault.reason()), reason, "{at}");
    }
    let old = Made::new("old root", None, |params| {
        params.not_after = offset_date_time(now() - second);
    });
    let signer = Made::new("signer", Some(&old), |_| {});
    let fault = load(&signer.pem, &signer.key_pem(), &old.pem).unwrap_err();
    assert_eq!(fault.reason(), "AuthorityExpired");
    assert!(fault.to_string().contains("old root"), "{fault}");
}

/// webpki alone would accept it, and OpenSSL would not.
#[test]
fn a_chain_to_an_expired_root_does_not_verify() {
    let second = Duration::from_secs(1);
    for (root_ends, verdict) in [
        (now() + second, Ok(())),
        (now() - second, Err(VerifyError::Expired)),
    ] {
        let root = Made::new("root", None, |params| {
            params.not_after = offset_date_time(root_ends);
        });
        let signer = Made::new("signer", Some(&root), |_| {});
        let leaf = Made::new("leaf", Some(&signer), |params| {
            params.is_ca = IsCa::ExplicitNoCa;
        });
        let [leaf, signer, root] = [&leaf, &signer, &root]
            .map(|made| CertificateDer::from_pem_slice(made.pem.as_bytes()).unwrap());
        assert_eq!(
            verify_chain(&[leaf, signer], &[root], Purpose::Client, now()),
            verdict
        );
    }
}

#[test]
fn a_path_length_counts_every_authority_below() {
    let constrained = |length| {
        move |params: &mut CertificateParams| {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
        }
    };
    for (root_length, upper_length, fits) in
        [(2, 1, true), (1, 1, false), (2, 0, false), (0, 0, false)]
    {
        let root = Made::new("root", None, constrained(root_length));
        let upper = Made::new("upper", Some(&root), constrained(upper_length));
        let signer = Made::new("signer", Some(&upper), constrained(0));
        let result = load(
            &[signer.pem.as_str(), &upper.pem].concat(),
            &signer.key_pem(),
            &root.pem,
        );
        let reason = result.err().map(|fault| fault.reason());
        let expected = (!fits).then_some("AuthorityPathLength");
        assert_eq!(reason, expected, "{root_length} {upper_length}");
    }
}

#[test]
fn name_constraints_must_permit_the_endpoint() {
    let permitted = |subtree: GeneralSubtree| NameConstraints {
        permitted_subtrees: vec![subtree],
        excluded_subtrees: Vec::new(),
    };
    let svc = permitted(GeneralSubtree::DnsName("svc".to_owned()));
    let example = permitted(GeneralSubtree::DnsName("example.org".to_owned()));
    let no_svc = NameConstraints {
        permitted_subtrees: Vec::new(),
        excluded_subtrees: vec![GeneralSubtree::DnsName("svc".to_owned())],
    };
    let people = permitted(GeneralSubtree::DirectoryName(DistinguishedName::new()));
    for (constraints, names, fits) in [
        (&svc, vec!["hooks.krake-system.svc"], true),
        (
            &svc,
            vec!["hooks.krake-system.svc", "hooks.example.org"],
            false,
        ),
        (&example, vec!["hooks.krake-system.svc"], false),
        (&example, vec!["hooks.example.org"], true),
        (&no_svc, vec!["hooks.krake-system.svc"], false),
        (&people, vec!["hooks.krake-system.svc"], false),
    ] {
        for on_root in [false, true] {
            let with = |params: &mut CertificateParams| {
                params.name_constraints = Some((*constraints).clone());
            };
            let root = Made::new("root", None, |params| {
                if on_root {
                    with(params);
                }
            });
            let signer = Made::new("signer", Some(&root), |params| {
                if !on_root {
                    with(params);
                }
            });
            let result = load_for(&signer.pem, &signer.key_pem(), &root.pem, &names);
            let reason = result.err().map(|fault| fault.reason());
            let expected = (!fits).then_some("AuthorityNameConstraints");
            assert_eq!(reason, expected, "{constraints:?} {names:?} {on_root}");
        }
    }
}

#[test]
fn a_chain_that_does_not_hold_together_is_refused() {
    let root = Made::new("root", None, |_| {});
    let namesake = Made::new("root", None, |_| {});
    let signer = Made::new("signer", Some(&root), |_| {});
    let reason = |tls_crt: &str, ca_crt: &str| {
        load(tls_crt, &signer.key_pem(), ca_crt)
            .unwrap_err()
            .reason()
    };
    // The right name, but the key of another.
    assert_eq!(reason(&signer.pem, &namesake.pem), "AuthorityChainBroken");
    // Trust is what ca.crt states.
    let full = [signer.pem.as_str(), &root.pem].concat();
    assert_eq!(reason(&full, &namesake.pem), "AuthorityRootMissing");
    assert_eq!(reason(&full, ""), "AuthorityRootMissing");
    // One missing in the middle.
    let lower = Made::new("lower", Some(&signer), |_| {});
    let fault = load(&lower.pem, &lower.key_pem(), &root.pem).unwrap_err();
    assert_eq!(fault.reason(), "AuthorityChainBroken");
    assert!(fault.to_string().contains("CN=signer"), "{fault}");
    // A root beside its namesake is told apart by its signature.
    let both = [namesake.pem.as_str(), &root.pem].concat();
    assert!(load(&signer.pem, &signer.key_pem(), &both).is_ok());
    // Signed anew with another lifetime: both fit, and which is meant is not said.
    let again = signer
        .params
        .signed_by(
            &signer.key,
            &Issuer::from_params(&namesake.params, &namesake.key),
        )
        .unwrap();
    let twice = [signer.pem.as_str(), &again.pem()].concat();
    assert_eq!(reason(&twice, &root.pem), "AuthorityChainAmbiguous");
}

#[test]
fn an_endpoint_name_that_no_certificate_can_hold_is_named() {
    let root = Made::new("root", None, |_| {});
    for name in [
        "",
        "a b",
        "https://example.org",
        "example.org.",
        "-",
        "*.*.a",
        "[::1]",
    ] {
        let fault = load_for(&root.pem, &root.key_pem(), &root.pem, &[name]).unwrap_err();
        assert_eq!(
            fault,
            AuthorityFault::EndpointName {
                name: name.to_owned()
            }
        );
    }
}

#[test]
fn the_root_may_be_old_as_nobody_relies_on_its_own_signature() {
    let der = CertificateDer::from_pem_slice(fixture!("oldroot.crt")).unwrap();
    let params_issuer =
        Issuer::from_ca_cert_der(&der, key::read(fixture!("oldroot.key")).unwrap()).unwrap();
    let made = Made::new("signer", None, |_| {});
    let signer = made.params.signed_by(&made.key, &params_issuer).unwrap();
    let oldroot = std::str::from_utf8(fixture!("oldroot.crt")).unwrap();
    load(&signer.pem(), &made.key_pem(), oldroot).unwrap();
}

static VALID: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    [fixture!("p256.crt"), fixture!("root.crt")]
        .map(|pem| CertificateDer::from_pem_slice(pem).unwrap().to_vec())
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_files_panic(
        tls_crt in proptest::collection::vec(any::<u8>(), 0..200),
        tls_key in "\\PC{0,80}",
        ca_crt in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = Authority::load(&tls_crt, tls_key.as_bytes(), &ca_crt, now(), &[]);
        let wrapped = certificate_pem(&tls_crt);
        let _ = Authority::load(wrapped.as_bytes(), fixture!("p256.key"), wrapped.as_bytes(), now(), &[]);
    }

    /// One byte of a good chain changed: refused or harmless, never a panic.
    #[test]
    fn no_bent_certificate_panics(
        which in 0..2_usize, at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut ders = VALID.clone();
        let position = at.index(ders[which].len());
        ders[which][position] = byte;
        let _ = crate::pki::Identity::from_der(&ders[which]);
        let [tls_crt, ca_crt] = ders.map(|der| certificate_pem(&der));
        let _ = Authority::load(tls_crt.as_bytes(), fixture!("p256.key"), ca_crt.as_bytes(), now(), &[]);
    }
}
