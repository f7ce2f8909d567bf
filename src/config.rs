//! The configuration: one YAML file. Unknown fields are refused, each field has a default.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use crate::api::krake_hook::OnTimeout;
use crate::decide::lease::Periods;
use crate::pki::{KeyAlgorithm, is_endpoint_name};

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// The endpoint that apps call.
    pub callback: CallbackConfig,
    /// Health and metrics.
    pub admin: AdminConfig,
    /// Defaults of the hooks.
    pub hooks: HooksConfig,
    /// Defaults of the certificates.
    pub certificates: CertificatesConfig,
    /// Which replica leads.
    pub leader_election: LeaderElectionConfig,
}

/// The endpoint that apps call.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CallbackConfig {
    /// Address and port to listen on. Default `[::]:8443`.
    pub listen: SocketAddr,
    /// URL that apps are given in place of the Service's, for example behind a load balancer.
    /// Default empty: `https://krake-hooks.<namespace>.svc:8443`.
    pub external_endpoint: String,
    /// Further DNS names and IP addresses for the endpoint's certificate. Default none.
    pub extra_names: Vec<String>,
    /// How long a replica that is told to end still takes new connections, in seconds: until
    /// nobody sends it any. Default 5.
    pub linger_seconds: i64,
    /// TLS.
    pub tls: TlsConfig,
}

/// TLS of the callback endpoint.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TlsConfig {
    /// Whether the endpoint speaks mutual TLS. Default true; false is plain HTTP.
    pub enabled: bool,
    /// Secret of the operator's namespace with the user's own intermediate (`tls.crt`, `tls.key`,
    /// `ca.crt`). Default empty: the operator makes a root and an intermediate.
    pub intermediate_src: String,
}

/// Health and metrics.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Address and port of `/livez`, `/readyz` and `/metrics`. Default `[::]:8080`.
    pub listen: SocketAddr,
}

/// Defaults of the hooks.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HooksConfig {
    /// Common name of client certificates. Default `system:krake-hook`.
    pub user: String,
    /// Defaults of `spec.complete`.
    pub complete: CompleteDefaults,
    /// Defaults of `spec.shutdown`.
    pub shutdown: ShutdownDefaults,
    /// How long a deleted hook keeps watching whether its workload is deleted too, in seconds.
    /// Default 30.
    pub disarm_delay_seconds: i64,
}

/// Defaults of `spec.complete`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CompleteDefaults {
    /// Names of the environment variables. Default `KRAKE_TOKEN`, `KRAKE_COMPLETE_URL`.
    pub env: CompleteEnv,
    /// Directory of the certificate in the containers. Default `/etc/krake_cert`.
    pub cert_mount_path: String,
}

/// Defaults of `spec.shutdown`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ShutdownDefaults {
    /// Names of the environment variables. Default `KRAKE_TOKEN`, `KRAKE_SHUTDOWN_URL`.
    pub env: ShutdownEnv,
    /// Directory of the certificate in the containers. Default `/etc/krake_cert`.
    pub cert_mount_path: String,
    /// Length of a round in seconds. Default 30.
    pub timeout_seconds: i64,
    /// Further rounds. Default 0.
    pub retries: i64,
    /// What happens when the time of the last round is up. Default `Delete`.
    pub on_timeout: OnTimeout,
}

/// Names of the complete hook's environment variables.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CompleteEnv {
    /// Variable with the token.
    pub token: String,
    /// Variable with the URL.
    pub url: String,
}

/// Names of the shutdown hook's environment variables.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ShutdownEnv {
    /// Variable with the token.
    pub token: String,
    /// Variable with the URL.
    pub url: String,
}

/// Defaults of the certificates.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CertificatesConfig {
    /// How long a client certificate is valid, in seconds. Default 7776000 (90 days).
    pub duration_seconds: i64,
    /// Algorithm of the private keys. Default `ECDSA-P256`.
    pub key_algorithm: KeyAlgorithm,
    /// How long an authority that the operator makes is valid, in seconds. Default 94694400 (1096
    /// days). It is replaced before its end.
    pub authority_duration_seconds: i64,
    /// How long until every pod has been given what a ConfigMap or Secret says, in seconds. Default
    /// 150: a kubelet looks once a minute, at what it may have kept for another one.
    pub propagation_seconds: i64,
}

/// Which replica leads.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LeaderElectionConfig {
    /// How long a lease is unchanged before another replica may take it, in seconds. Default 15.
    pub lease_duration_seconds: i64,
    /// How long a leader that cannot renew its lease goes on writing, in seconds. Default 10.
    pub renew_deadline_seconds: i64,
    /// Pause between attempts, in seconds. Default 2.
    pub retry_period_seconds: i64,
}

impl LeaderElectionConfig {
    /// The periods.
    pub fn periods(&self) -> Periods {
        let seconds = |value: i64| Duration::from_secs(u64::try_from(value).unwrap_or(0));
        Periods {
            lease: seconds(self.lease_duration_seconds),
            renew_deadline: seconds(self.renew_deadline_seconds),
            retry: seconds(self.retry_period_seconds),
        }
    }
}

/// Why a configuration cannot be used; one line that names file, field and way out.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {path}: cannot be read: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("configuration {path}: {source}")]
    Parse {
        /// The file.
        path: String,
        /// What is wrong, and where.
        source: serde_yaml_ng::Error,
    },
    /// A field has a value that cannot be used.
    #[error("configuration {path}: {field}: {problem}")]
    Field {
        /// The file.
        path: String,
        /// The field.
        field: &'static str,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: name.clone(),
            source,
        })?;
        Self::parse(&text, &name)
    }

    /// Reads and checks a text; `path` is for the error alone. An empty text is all defaults.
    pub fn parse(text: &str, path: &str) -> Result<Self, ConfigError> {
        let config: Option<Self> =
            serde_yaml_ng::from_str(text).map_err(|source| ConfigError::Parse {
                path: path.to_owned(),
                source,
            })?;
        let config = config.unwrap_or_default();
        config
            .check()
            .map_err(|(field, problem)| ConfigError::Field {
                path: path.to_owned(),
                field,
                problem,
            })?;
        Ok(config)
    }

    /// URL that apps are given, without a trailing slash.
    pub fn endpoint(&self, operator_namespace: &str) -> String {
        let external = self.callback.external_endpoint.trim_end_matches('/');
        if !external.is_empty() {
            return external.to_owned();
        }
        let scheme = if self.callback.tls.enabled {
            "https"
        } else {
            "http"
        };
        format!(
            "{scheme}://{}.{operator_namespace}.svc:8443",
            crate::api::names::SERVICE
        )
    }

    /// Every name by which a client may call the endpoint: those of its Service, the host of
    /// `externalEndpoint`, and `extraNames`.
    pub fn endpoint_names(&self, namespace: &str) -> Vec<String> {
        let service = crate::api::names::SERVICE;
        let mut all = vec![
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.cluster.local"),
            format!("{service}.{namespace}"),
            service.to_owned(),
        ];
        let external = self.callback.external_endpoint.parse::<hyper::Uri>();
        // As in a URL, where an IPv6 address stands in brackets and a name may end with the root's dot.
        let host = external.iter().filter_map(|uri| uri.host());
        let host = host.map(|host| host.trim_start_matches('[').trim_end_matches([']', '.']));
        let extra = self.callback.extra_names.iter().map(String::as_str);
        for name in host.chain(extra) {
            if !name.is_empty() && !all.iter().any(|known| known == name) {
                all.push(name.to_owned());
            }
        }
        all
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let range = |field, value: i64, least: i64, most: i64| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err((field, format!("{value} is not between {least} and {most}")))
            }
        };
        let shutdown = &self.hooks.shutdown;
        range(
            "hooks.shutdown.timeoutSeconds",
            shutdown.timeout_seconds,
            1,
            2_592_000,
        )?;
        range(
            "callback.lingerSeconds",
            self.callback.linger_seconds,
            0,
            600,
        )?;
        range("hooks.shutdown.retries", shutdown.retries, 0, 1000)?;
        range(
            "hooks.disarmDelaySeconds",
            self.hooks.disarm_delay_seconds,
            0,
            86_400,
        )?;
        range(
            "certificates.durationSeconds",
            self.certificates.duration_seconds,
            600,
            31_536_000,
        )?;
        let propagation = self.certificates.propagation_seconds;
        range("certificates.propagationSeconds", propagation, 1, 86_400)?;
        // Prepared and retired within its own time, both with room to spare.
        range(
            "certificates.authorityDurationSeconds",
            self.certificates.authority_duration_seconds,
            (6 * propagation).max(120),
            315_360_000,
        )?;
        if self.hooks.user.is_empty() || self.hooks.user.len() > 64 {
            return Err((
                "hooks.user",
                "a certificate's common name has 1 to 64 characters".into(),
            ));
        }
        for (field, path) in [
            (
                "hooks.complete.certMountPath",
                &self.hooks.complete.cert_mount_path,
            ),
            ("hooks.shutdown.certMountPath", &shutdown.cert_mount_path),
        ] {
            if !path.starts_with('/') || path.len() < 2 || path.contains(':') {
                return Err((
                    field,
                    format!("{path:?} is not an absolute path without a colon"),
                ));
            }
        }
        for (field, name) in [
            ("hooks.complete.env.token", &self.hooks.complete.env.token),
            ("hooks.complete.env.url", &self.hooks.complete.env.url),
            ("hooks.shutdown.env.token", &shutdown.env.token),
            ("hooks.shutdown.env.url", &shutdown.env.url),
        ] {
            if !is_env_name(name) {
                return Err((
                    field,
                    format!("{name:?} is not a name of an environment variable"),
                ));
            }
        }
        self.check_election()?;
        self.check_endpoint()?;
        self.check_names()
    }

    /// A leader has to have stopped, by some margin, before another can begin.
    fn check_election(&self) -> Result<(), (&'static str, String)> {
        let LeaderElectionConfig {
            lease_duration_seconds: lease,
            renew_deadline_seconds: renew,
            retry_period_seconds: retry,
        } = self.leader_election;
        if !(1..=60).contains(&retry) {
            let problem = format!("{retry} is not between 1 and 60");
            return Err(("leaderElection.retryPeriodSeconds", problem));
        }
        if !(2 * retry..=600).contains(&renew) {
            let problem = format!(
                "{renew} is not between {} (twice retryPeriodSeconds) and 600",
                2 * retry
            );
            return Err(("leaderElection.renewDeadlineSeconds", problem));
        }
        if !(renew + retry..=1200).contains(&lease) {
            let problem = format!(
                "{lease} is not between {} (renewDeadlineSeconds + retryPeriodSeconds) and 1200",
                renew + retry
            );
            return Err(("leaderElection.leaseDurationSeconds", problem));
        }
        Ok(())
    }

    fn check_endpoint(&self) -> Result<(), (&'static str, String)> {
        let external = &self.callback.external_endpoint;
        if external.is_empty() {
            return Ok(());
        }
        let field = "callback.externalEndpoint";
        let wanted = if self.callback.tls.enabled {
            "https"
        } else {
            "http"
        };
        let uri: hyper::Uri = external
            .parse()
            .map_err(|error| (field, format!("{external:?} is not a URL: {error}")))?;
        if uri.scheme_str() != Some(wanted) || uri.host().is_none_or(str::is_empty) {
            return Err((
                field,
                format!(
                    "{external:?} is not a URL of the form {wanted}://HOST[:PORT] (callback.tls.enabled is {})",
                    self.callback.tls.enabled
                ),
            ));
        }
        if uri.query().is_some() {
            return Err((field, format!("{external:?} must not have a query")));
        }
        Ok(())
    }
}

impl Config {
    fn check_names(&self) -> Result<(), (&'static str, String)> {
        let names = self.endpoint_names("n");
        let Some(name) = names.iter().find(|name| !is_endpoint_name(name)) else {
            return Ok(());
        };
        let field = if self.callback.extra_names.contains(name) {
            "callback.extraNames"
        } else {
            "callback.externalEndpoint"
        };
        let problem = format!(
            "{name:?} is neither a DNS name nor an IP address, so no certificate can be made for it"
        );
        match self.callback.tls.enabled {
            true => Err((field, problem)),
            false => Ok(()),
        }
    }
}

fn is_env_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn any_address(port: u16) -> SocketAddr {
    SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port))
}

impl Default for CallbackConfig {
    fn default() -> Self {
        Self {
            listen: any_address(8443),
            external_endpoint: String::new(),
            extra_names: Vec::new(),
            linger_seconds: 5,
            tls: TlsConfig::default(),
        }
    }
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            intermediate_src: String::new(),
        }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: any_address(8080),
        }
    }
}

impl Default for HooksConfig {
    fn default() -> Self {
        Self {
            user: "system:krake-hook".into(),
            complete: CompleteDefaults::default(),
            shutdown: ShutdownDefaults::default(),
            disarm_delay_seconds: 30,
        }
    }
}

impl Default for CompleteDefaults {
    fn default() -> Self {
        Self {
            env: CompleteEnv::default(),
            cert_mount_path: "/etc/krake_cert".into(),
        }
    }
}

impl Default for ShutdownDefaults {
    fn default() -> Self {
        Self {
            env: ShutdownEnv::default(),
            cert_mount_path: "/etc/krake_cert".into(),
            timeout_seconds: 30,
            retries: 0,
            on_timeout: OnTimeout::Delete,
        }
    }
}

impl Default for CompleteEnv {
    fn default() -> Self {
        Self {
            token: "KRAKE_TOKEN".into(),
            url: "KRAKE_COMPLETE_URL".into(),
        }
    }
}

impl Default for ShutdownEnv {
    fn default() -> Self {
        Self {
            token: "KRAKE_TOKEN".into(),
            url: "KRAKE_SHUTDOWN_URL".into(),
        }
    }
}

impl Default for LeaderElectionConfig {
    fn default() -> Self {
        Self {
            lease_duration_seconds: 15,
            renew_deadline_seconds: 10,
            retry_period_seconds: 2,
        }
    }
}

impl Default for CertificatesConfig {
    fn default() -> Self {
        Self {
            duration_seconds: 7_776_000,
            key_algorithm: KeyAlgorithm::default(),
            authority_duration_seconds: 94_694_400,
            propagation_seconds: 150,
        }
    }
}

#[cfg(test)]
mod tests {
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
        let config =
            Config::parse("callback: {externalEndpoint: 'https://k.example/'}", "c").unwrap();
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
}
