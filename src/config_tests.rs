use super::*;

#[test]
fn nothing_said_is_the_defaults_of_the_manual() {
    let config = Config::parse("", "c").unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(
        config.endpoint("krake-system"),
        "https://krake-hooks.krake-system.svc:8443"
    );
    assert_eq!(config.hooks.shutdown.env.url, "KRAKE_SHUTDOWN_URL");
    assert_eq!(config.callback.listen.to_string(), "[::]:8443");
    let periods = config.leader_election.periods();
    assert_eq!(periods.renew_deadline, Duration::from_secs(10));
}

#[test]
fn the_external_endpoint_wins_without_its_trailing_slash() {
    let config = Config::parse("callback: {externalEndpoint: 'https://k.example/'}", "c").unwrap();
    assert_eq!(config.endpoint("x"), "https://k.example");
}

#[test]
fn every_refusal_names_file_and_field() {
    for (text, expected) in [
        ("callbak: {}", "callbak"),
        ("callback: {listen: here}", "listen"),
        (
            "callback: {externalEndpoint: 'http://k'}",
            "callback.externalEndpoint",
        ),
        (
            "callback: {externalEndpoint: 'k:8443'}",
            "callback.externalEndpoint",
        ),
        (
            "hooks: {shutdown: {timeoutSeconds: 0}}",
            "hooks.shutdown.timeoutSeconds",
        ),
        (
            "hooks: {shutdown: {env: {token: 'A B'}}}",
            "hooks.shutdown.env.token",
        ),
        (
            "hooks: {complete: {certMountPath: tmp}}",
            "hooks.complete.certMountPath",
        ),
        (
            "callback: {extraNames: ['not a name']}",
            "callback.extraNames",
        ),
        (
            "callback: {externalEndpoint: 'https://-'}",
            "callback.externalEndpoint",
        ),
        (
            "certificates: {authorityDurationSeconds: 600}",
            "certificates.authorityDurationSeconds",
        ),
        (
            "certificates: {propagationSeconds: 0}",
            "certificates.propagationSeconds",
        ),
        ("hooks: {shutdown: {onTimeout: Explode}}", "Explode"),
        (
            "certificates: {durationSeconds: 5}",
            "certificates.durationSeconds",
        ),
        (
            "callback: {maxConnections: 1}",
            "callback.maxConnections: 1 is not between 16 and 65536",
        ),
        (
            "callback: {maxConnectionsPerSource: 0}",
            "callback.maxConnectionsPerSource",
        ),
        (
            "callback: {lingerSeconds: -1}",
            "callback.lingerSeconds: -1 is not between 0 and 600",
        ),
        (
            "leaderElection: {leaseDurationSeconds: 11}",
            "leaderElection.leaseDurationSeconds: 11 is not between 12",
        ),
        (
            "leaderElection: {renewDeadlineSeconds: 3}",
            "leaderElection.renewDeadlineSeconds: 3 is not between 4",
        ),
        (
            "leaderElection: {retryPeriodSeconds: 0}",
            "leaderElection.retryPeriodSeconds",
        ),
    ] {
        let refusal = Config::parse(text, "config.yaml").unwrap_err().to_string();
        assert!(refusal.contains("config.yaml"), "{refusal}");
        assert!(refusal.contains(expected), "{text}: {refusal}");
        assert!(!refusal.contains('\n'), "{refusal}");
    }
}

#[test]
fn the_endpoint_has_the_names_of_its_service_and_those_of_the_configuration() {
    let of = |external: &str, extra: &[&str]| {
        let mut config = Config::default();
        config.callback.external_endpoint = external.to_owned();
        config.callback.extra_names = extra.iter().map(|&name| name.to_owned()).collect();
        config.endpoint_names("krake-system").split_off(4)
    };
    let all = Config::default().endpoint_names("krake-system");
    assert_eq!(
        all,
        [
            "krake-hooks.krake-system.svc",
            "krake-hooks.krake-system.svc.cluster.local",
            "krake-hooks.krake-system",
            "krake-hooks"
        ]
    );
    for (external, extra, expected) in [
        ("https://k.example", &[][..], vec!["k.example"]),
        ("https://k.example.:8443/", &[], vec!["k.example"]),
        ("https://192.0.2.7:8443", &[], vec!["192.0.2.7"]),
        ("https://[2001:db8::7]:8443", &[], vec!["2001:db8::7"]),
        (
            "https://k.example",
            &["k.example", "l.example", ""],
            vec!["k.example", "l.example"],
        ),
        ("https://krake-hooks", &[], vec![]),
    ] {
        assert_eq!(of(external, extra), expected, "{external}");
    }
}
