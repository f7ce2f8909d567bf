//! The certificate authority of the installed operator, and a user's own.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use krake_hooks::api::condition::{self, ConditionType};
use krake_hooks::api::{HookAuthority, HookAuthorityStatus, names};

use super::operator::{NAME, NAMESPACE};
use super::wait::{SOON, until};

/// Name of the user's Secret.
pub const SOURCE: &str = "corp-ca";

/// What the operator shows and keeps of its authorities, and what a user does about them.
pub struct Authorities {
    client: Client,
}

/// The three files of an authority.
#[derive(Clone)]
pub struct Files {
    /// `tls.crt`.
    pub chain: Vec<u8>,
    /// `tls.key`.
    pub key: Vec<u8>,
    /// `ca.crt`.
    pub root: Vec<u8>,
}

impl Files {
    /// From what they say.
    pub fn new(chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>, root: impl AsRef<[u8]>) -> Self {
        Self {
            chain: chain.as_ref().to_vec(),
            key: key.as_ref().to_vec(),
            root: root.as_ref().to_vec(),
        }
    }
}

impl Authorities {
    /// Those of a cluster.
    pub fn of(client: Client) -> Self {
        Self { client }
    }

    /// Lets the operator read the user's Secret, by the Role that the manual shows.
    pub async fn allow(&self) {
        let name = "krake-hooks-intermediate";
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": name},
            "rules": [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": [SOURCE],
                "verbs": ["get", "list", "watch"]}],
        });
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
        });
        let user = PatchParams::apply("user").force();
        let roles: Api<Role> = Api::namespaced(self.client.clone(), NAMESPACE);
        let role = roles.patch(name, &user, &Patch::Apply(&role)).await;
        role.expect("a Role can be written");
        let bindings: Api<RoleBinding> = Api::namespaced(self.client.clone(), NAMESPACE);
        let binding = bindings.patch(name, &user, &Patch::Apply(&binding)).await;
        binding.expect("a RoleBinding can be written");
    }

    /// Puts these files into the user's Secret.
    pub async fn give(&self, files: &Files) {
        let bytes = |bytes: &[u8]| ByteString(bytes.to_vec());
        let secret = Secret {
            data: Some(
                [
                    ("tls.crt".to_owned(), bytes(&files.chain)),
                    ("tls.key".to_owned(), bytes(&files.key)),
                    ("ca.crt".to_owned(), bytes(&files.root)),
                ]
                .into(),
            ),
            ..serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": SOURCE},
            }))
            .expect("a Secret")
        };
        let user = PatchParams::apply("user").force();
        let given = self
            .secrets()
            .patch(SOURCE, &user, &Patch::Apply(&secret))
            .await;
        given.expect("the user's Secret can be written");
    }

    /// Takes the user's Secret away.
    pub async fn take_back(&self) {
        self.delete(SOURCE).await;
    }

    /// Takes the operator's state away, so that it starts with another authority.
    pub async fn forget(&self) {
        self.delete(names::AUTHORITY_SECRET).await;
    }

    async fn delete(&self, name: &str) {
        // It may be gone already.
        let _ = self.secrets().delete(name, &DeleteParams::default()).await;
    }

    /// The operator's state.
    pub async fn state(&self) -> Option<Secret> {
        let state = self.secrets().get_opt(names::AUTHORITY_SECRET).await;
        state.expect("Secrets can be read")
    }

    /// The ledger in the operator's state; `Null` if there is none.
    pub async fn ledger(&self) -> Value {
        let data = self.state().await.and_then(|state| state.data);
        let ledger = data.and_then(|mut data| data.remove("ledger.json"));
        ledger
            .and_then(|ledger| serde_json::from_slice(&ledger.0).ok())
            .unwrap_or_default()
    }

    /// Asks for a rotation.
    pub async fn rotate(&self, word: &str) {
        let patch = json!({"metadata": {"annotations": {names::ROTATE_ANNOTATION: word}}});
        let asked = self
            .api()
            .patch(
                names::AUTHORITY,
                &PatchParams::default(),
                &Patch::Merge(&patch),
            )
            .await;
        asked.expect("the HookAuthority can be annotated");
    }

    /// What is shown.
    pub async fn shown(&self) -> HookAuthorityStatus {
        let shown = self.api().get_opt(names::AUTHORITY).await;
        let shown = shown.expect("HookAuthorities can be read");
        shown.and_then(|shown| shown.status).unwrap_or_default()
    }

    /// Waits until there is anything to annotate.
    pub async fn shown_exists(&self) {
        until("a HookAuthority", SOON, async || {
            match self.api().get_opt(names::AUTHORITY).await {
                Ok(Some(_)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Waits until a condition has this reason; its message.
    pub async fn reason(&self, kind: ConditionType, reason: &str) -> String {
        let what = format!("HookAuthority {}: {reason}", kind.as_str());
        until(what, SOON, async || {
            let shown = self.shown().await;
            match condition::find(&shown.conditions, kind) {
                Some(found) if found.reason == reason => Ok(found.message.clone()),
                found => Err(format!("{found:?}")),
            }
        })
        .await
    }

    /// Waits until what is shown is as wanted.
    pub async fn await_shown(
        &self,
        what: &str,
        most: Duration,
        wanted: impl Fn(&HookAuthorityStatus) -> bool,
    ) -> HookAuthorityStatus {
        until(format!("HookAuthority: {what}"), most, async || {
            let shown = self.shown().await;
            match wanted(&shown) {
                true => Ok(shown),
                false => Err(serde_json::to_string_pretty(&shown).unwrap()),
            }
        })
        .await
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    fn api(&self) -> Api<HookAuthority> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }
}
