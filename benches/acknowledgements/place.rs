//! Where everything is; `hack/bench` says so by environment variables.

use std::path::PathBuf;

/// Where everything is.
pub struct Place {
    /// The operator.
    pub binary: PathBuf,
    /// Its kubeconfig.
    pub operator_kubeconfig: PathBuf,
    /// The API server's.
    pub audit_log: PathBuf,
    /// Where the numbers go.
    pub output: PathBuf,
}

impl Place {
    /// What the environment says.
    pub fn from_environment() -> Result<Self, String> {
        let path = |name: &str| {
            let value = std::env::var_os(name);
            let value = value.ok_or_else(|| format!("{name} is not set: run `make bench`"))?;
            Ok::<_, String>(PathBuf::from(value))
        };
        Ok(Self {
            binary: path("BENCH_OPERATOR")?,
            operator_kubeconfig: path("BENCH_OPERATOR_KUBECONFIG")?,
            audit_log: path("BENCH_AUDIT_LOG")?,
            output: path("BENCH_OUTPUT")?,
        })
    }
}
