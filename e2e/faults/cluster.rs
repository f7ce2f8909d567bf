//! The cluster: as its administrator sees it, and what the operator is given to see it with.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, Config};
use serde_json::json;
use tokio::process::Command;

/// The operator's namespace.
pub const SYSTEM: &str = "krake-system";
/// Its ServiceAccount.
const ACCOUNT: &str = "krake-hooks";
/// Its user.
pub const USER: &str = "system:serviceaccount:krake-system:krake-hooks";
/// The whole of it takes less.
const VALID_SECONDS: i64 = 6 * 3600;

/// A cluster.
#[derive(Clone)]
pub struct Cluster {
    /// The administrator's client.
    pub client: Client,
    /// The same, as a configuration.
    pub config: Config,
    /// The API server's audit log.
    pub audit_log: PathBuf,
    /// Where runs leave their files.
    pub output: PathBuf,
    /// The operator's token.
    token: String,
}

impl Cluster {
    /// The cluster of `KUBECONFIG`.
    pub async fn find(audit_log: PathBuf, output: PathBuf) -> Result<Self, String> {
        let mut config = Config::infer().await.map_err(|e| e.to_string())?;
        config.read_timeout = Some(Duration::from_secs(20));
        let client = Client::try_from(config.clone()).map_err(|e| e.to_string())?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), SYSTEM);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![],
                expiration_seconds: Some(VALID_SECONDS),
                bound_object_ref: None,
            },
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(ACCOUNT, &PostParams::default(), &request)
            .await
            .map_err(|e| format!("a token for {ACCOUNT}: {e}; is config/default installed?"))?;
        let token = answer.status.ok_or("the API server gave no token")?.token;
        Ok(Self {
            client,
            config,
            audit_log,
            output,
            token,
        })
    }

    /// Writes the kubeconfig that leads an operator to a proxy.
    pub fn lead(&self, kubeconfig: &Path, proxy: &crate::proxy::Proxy) -> Result<(), String> {
        use base64::Engine;
        use base64::engine::general_purpose::STANDARD;
        let text = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": {
                "server": format!("https://{}", proxy.address),
                "certificate-authority-data": STANDARD.encode(&proxy.authority),
            }}],
            "users": [{"name": "operator", "user": {"token": self.token}}],
            "contexts": [{"name": "it", "context": {"cluster": "proxy", "user": "operator"}}],
            "current-context": "it",
        });
        write_private(kubeconfig, &text.to_string())
    }

    /// Makes a namespace.
    pub async fn make_namespace(&self, name: &str) -> Result<(), String> {
        let object = json!({"metadata": {"name": name, "labels": {"krake-hooks-faults": ""}}});
        let object: Namespace = serde_json::from_value(object).expect("a namespace");
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let made = namespaces.create(&PostParams::default(), &object).await;
        made.map(|_| ())
            .map_err(|e| format!("namespace {name}: {e}"))
    }

    /// Lets the operator lead by a Lease in a namespace that is not its own.
    pub async fn allow_leases(&self, namespace: &str) -> Result<(), String> {
        let role = json!({
            "metadata": {"name": "leases"},
            "rules": [{
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "verbs": ["create", "get", "update"],
            }],
        });
        let binding = json!({
            "metadata": {"name": "leases"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "leases"},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": SYSTEM}],
        });
        let role: Role = serde_json::from_value(role).expect("a Role");
        let binding: RoleBinding = serde_json::from_value(binding).expect("a RoleBinding");
        let parameters = PostParams::default();
        let roles: Api<Role> = Api::namespaced(self.client.clone(), namespace);
        let bindings: Api<RoleBinding> = Api::namespaced(self.client.clone(), namespace);
        let fault = |e: kube::Error| format!("rights in {namespace}: {e}");
        roles.create(&parameters, &role).await.map_err(fault)?;
        let bound = bindings.create(&parameters, &binding).await;
        bound.map(|_| ()).map_err(fault)
    }

    /// Asks for a namespace's end, and does not wait for it.
    pub async fn drop_namespace(&self, name: &str) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        // What is left of it is no part of any promise.
        let _ = namespaces.delete(name, &DeleteParams::default()).await;
    }

    /// A command of `e2e/cluster/cluster`.
    pub async fn script(&self, arguments: &[&str]) -> Result<(), String> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/cluster/cluster");
        let output = Command::new(program)
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .output()
            .await
            .map_err(|e| e.to_string())?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

/// A token is in it.
fn write_private(path: &Path, text: &str) -> Result<(), String> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let fault = |e: std::io::Error| format!("{}: {e}", path.display());
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(fault)
}

/// Between two looks, at first and in the end: what tens of subjects look for would otherwise be most
/// of what the API server does.
const LOOKS_FIRST: Duration = Duration::from_millis(100);
const LOOKS_LAST: Duration = Duration::from_millis(800);

/// Looks until `look` answers `Ok`, or the time is up: what it saw last.
pub async fn until<T>(
    most: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, String> {
    let began = Instant::now();
    let mut pause = LOOKS_FIRST;
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(seen) if began.elapsed() > most => {
                return Err(format!("waited {} s; last seen: {seen}", most.as_secs()));
            }
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause = pause.mul_f64(1.3).min(LOOKS_LAST);
    }
}
