//! One cluster: where its kubeconfig is, a client for it, and the real `kubectl` and `helm`.
//!
//! `e2e/cluster/cluster` knows which cluster there is and how to make one; this only asks it.

use std::path::{Path, PathBuf};
use std::process::Output;

use k8s_openapi::api::core::v1::Node;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::process::Command;

/// Where a cluster comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// The processes on this machine that `make cluster` starts.
    Local,
    /// A kind cluster.
    Kind,
    /// Whatever `E2E_KUBECONFIG` names.
    External,
}

/// A cluster to play stories on.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// What `CLUSTER_NAME` is for it.
    pub name: String,
    /// Where it comes from.
    pub provider: Provider,
    kubeconfig: PathBuf,
    binaries: PathBuf,
}

/// The top of this repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Cluster {
    /// The cluster of that name, if the script can say where its kubeconfig is.
    pub async fn find(name: &str) -> Result<Self, String> {
        let provider = match script(name, &["resolve"]).await?.as_str() {
            "external" => Provider::External,
            "kind" => Provider::Kind,
            _ => Provider::Local,
        };
        Ok(Self {
            name: name.to_owned(),
            provider,
            kubeconfig: script(name, &["kubeconfig"]).await?.into(),
            binaries: script(name, &["path"]).await?.into(),
        })
    }

    /// Runs a command of `e2e/cluster/cluster` for this cluster.
    pub async fn script(&self, arguments: &[&str]) -> Result<String, String> {
        script(&self.name, arguments).await
    }

    /// A client of the runtime it is called in.
    pub async fn client(&self) -> Result<Client, String> {
        self.client_as(None).await
    }

    /// A client that acts as somebody else.
    pub async fn client_as(&self, user: Option<&str>) -> Result<Client, String> {
        let mut config = self.config().await?;
        config.auth_info.impersonate = user.map(str::to_owned);
        Client::try_from(config).map_err(|e| e.to_string())
    }

    /// A client that has nothing but this token.
    pub async fn client_with(&self, token: String) -> Result<Client, String> {
        let mut config = self.config().await?;
        config.auth_info = AuthInfo {
            token: Some(token.into()),
            ..AuthInfo::default()
        };
        Client::try_from(config).map_err(|e| e.to_string())
    }

    /// A client that takes a 503 for an answer, where others ask again for minutes.
    pub async fn client_once(&self) -> Result<Client, String> {
        let mut config = self.config().await?;
        config.default_retry = false;
        Client::try_from(config).map_err(|e| e.to_string())
    }

    async fn config(&self) -> Result<Config, String> {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).map_err(|e| e.to_string())?;
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(|e| e.to_string())
    }

    /// Whether the API server answers, and how many nodes can run pods.
    pub async fn nodes(&self) -> Result<usize, String> {
        let nodes: Api<Node> = Api::all(self.client().await?);
        let nodes = nodes.list(&Default::default()).await;
        Ok(nodes.map_err(|e| e.to_string())?.items.len())
    }

    /// Runs the real `kubectl`; its standard output, or all it said when it failed.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        said(self.command("kubectl", arguments).output().await)
    }

    /// Runs the real `helm`.
    pub async fn helm(&self, arguments: &[&str]) -> Result<String, String> {
        said(self.command("helm", arguments).output().await)
    }

    /// Runs a script of commands as a person has them.
    pub async fn bash(&self, script: &str) -> Result<String, String> {
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", self.binaries.display());
        said(
            self.command("bash", &["-c", script])
                .env("PATH", path)
                .output()
                .await,
        )
    }

    /// A program that finds this cluster by `KUBECONFIG`.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let ours = self.binaries.join(program);
        let mut command = if ours.exists() {
            Command::new(ours)
        } else {
            Command::new(program)
        };
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true);
        command
    }
}

async fn script(name: &str, arguments: &[&str]) -> Result<String, String> {
    said(
        Command::new(repository().join("e2e/cluster/cluster"))
            .args(arguments)
            .env("CLUSTER_NAME", name)
            .stdin(std::process::Stdio::null())
            .output()
            .await,
    )
}

/// What a program said: standard output if it succeeded, everything if not.
pub fn said(output: std::io::Result<Output>) -> Result<String, String> {
    let output = output.map_err(|error| format!("cannot be started: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        Ok(text)
    } else {
        let complaint = String::from_utf8_lossy(&output.stderr);
        Err(format!("{text}\n{}", complaint.trim()).trim().to_owned())
    }
}
