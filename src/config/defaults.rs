//! What holds where the file says nothing.

use std::net::SocketAddr;

use super::*;

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
            max_connections: 1024,
            max_connections_per_source: 256,
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
