//! The configuration: one YAML file. Unknown fields are refused, each field has a default.

mod check;
mod defaults;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use crate::api::krake_hook::OnTimeout;
use crate::pki::KeyAlgorithm;

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
    /// Connections at once, and requests at once; half as many more may be in their TLS handshake.
    /// Default 1024, about 64 MiB when each is used to the full.
    pub max_connections: i64,
    /// How many of these may come from one address (of IPv6: one /64). Default 256.
    pub max_connections_per_source: i64,
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

/// The periods of an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Periods {
    /// A Lease that has not changed for this long can be taken by another replica.
    pub lease: Duration,
    /// A leader that has not renewed for this long stops; shorter than `lease`.
    pub renew_deadline: Duration,
    /// Pause between attempts.
    pub retry: Duration,
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
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
