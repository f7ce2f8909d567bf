//! Which values can be used. Field and problem of the first that cannot.

use super::{Config, LeaderElectionConfig};
use crate::pki::is_endpoint_name;

impl Config {
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
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
        range(
            "callback.maxConnections",
            self.callback.max_connections,
            16,
            65_536,
        )?;
        range(
            "callback.maxConnectionsPerSource",
            self.callback.max_connections_per_source,
            1,
            65_536,
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
