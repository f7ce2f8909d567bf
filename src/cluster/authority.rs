//! The certificate authorities: reads them, takes the steps that were decided, and shows them.
//!
//! # Guarantees
//! - The state is one Secret. It is created once, by `create` alone, and each step is one `update`
//!   that names the resourceVersion the step was decided on: whoever was slower has done nothing, so
//!   two operators never have two authorities, and no crash leaves half a step.
//! - What is found bad is never replaced. The user's Secret is never written at all.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Resource};
use serde_json::{Value, json};

use super::operator_secrets::{OperatorSecrets, Read, Wrote};
use super::{Act, Error};
use crate::api::hook_authority::MasterKeyInUse;
use crate::api::{HookAuthority, HookAuthorityStatus, names};
use crate::decide::authority::Fault;
use crate::decide::seen::Notice;
use crate::pki::{
    Authority, AuthorityNames, AuthoritySerials, AuthorityValidity, Entry, SecretData, Step,
    Succession,
};

/// The state, as it was read.
pub enum State {
    /// There is none.
    Nothing,
    /// It cannot be used.
    Broken(Fault),
    /// What it says.
    Kept(Box<Kept>),
}

/// A state that can be used.
pub struct Kept {
    /// The authorities.
    pub succession: Succession,
    read: Read,
}

/// What is needed to read and write.
#[derive(Clone)]
pub struct AuthorityWriter {
    /// The API server.
    pub client: Client,
    /// The operator's namespace.
    pub namespace: String,
    /// Makes Events.
    pub recorder: Recorder,
}

/// Reads the state.
pub async fn read(secrets: &OperatorSecrets, now: Timestamp) -> Result<State, Error> {
    let Some(read) = secrets.read(names::AUTHORITY_SECRET).await? else {
        return Ok(State::Nothing);
    };
    Ok(match Succession::from_secret(&read.entries, now) {
        Ok(succession) => State::Kept(Box::new(Kept { succession, read })),
        Err(fault) => State::Broken(Fault::from(&fault)),
    })
}

/// Makes a new authority.
pub fn make(validity: AuthorityValidity, now: Timestamp) -> Result<Authority, Fault> {
    let serials = AuthoritySerials {
        root: rand::random(),
        intermediate: rand::random(),
    };
    let made = Authority::generate(&AuthorityNames::default(), now, validity, serials);
    made.map_err(|error| Fault {
        reason: "AuthorityNotMade",
        message: error.to_string(),
    })
}

impl AuthorityWriter {
    /// What the user's Secret holds, found good or bad.
    pub async fn source(
        &self,
        name: &str,
        endpoint_names: &[String],
        now: Timestamp,
    ) -> Result<Result<Authority, Fault>, Error> {
        let shown = format!("Secret {}/{name}", self.namespace);
        let entries = match self.secrets().read(name).await {
            Ok(Some(read)) => read.entries,
            Ok(None) => {
                return Ok(Err(Fault {
                    reason: "AuthorityMissing",
                    message: format!(
                        "{shown} does not exist: create it with tls.crt, tls.key and ca.crt; or leave callback.tls.intermediateSrc empty, and the operator makes an authority of its own"
                    ),
                }));
            }
            Err(error) if error.code() == 403 => {
                return Ok(Err(Fault {
                    reason: "AuthorityForbidden",
                    message: format!(
                        "{shown} may not be read: give the operator's ServiceAccount get, list and watch of it (docs/configuration.md shows the Role)"
                    ),
                }));
            }
            Err(error) => return Err(error),
        };
        Ok(
            authority_of(&entries, now, endpoint_names).map_err(|fault| Fault {
                reason: fault.reason(),
                message: format!("{shown}: {fault}"),
            }),
        )
    }

    /// Takes a step: the authorities after it, or nothing if somebody was faster.
    pub async fn take(
        &self,
        state: &State,
        step: &Step,
        made: Option<(Arc<Authority>, Entry)>,
        now: Timestamp,
    ) -> Result<Option<Succession>, Error> {
        let name = names::AUTHORITY_SECRET;
        let (after, wrote) = match (state, made) {
            (State::Nothing, Some((authority, entry))) => {
                let answering = match step {
                    Step::Begin { answering } => answering.clone(),
                    _ => None,
                };
                let after = Succession::begin(authority, entry, answering);
                let wrote = self.secrets().create(name, &after.to_secret()).await?;
                (after, wrote)
            }
            (State::Kept(kept), made) => {
                let after = kept.succession.after(step, made, now);
                let mut entries = after.to_secret();
                // What somebody else keeps there is theirs.
                for (entry, content) in &kept.read.entries {
                    if !Succession::is_entry(entry) {
                        entries.insert(entry.clone(), content.clone());
                    }
                }
                let wrote = self.secrets().replace(name, &kept.read, &entries).await?;
                (after, wrote)
            }
            (State::Nothing | State::Broken(_), _) => return Ok(None),
        };
        Ok(match wrote {
            Wrote::Yes => Some(after),
            Wrote::SomebodyWasFaster => None,
        })
    }

    /// The `HookAuthority`; made if it is not there.
    pub async fn shown(&self) -> Result<HookAuthority, Error> {
        let api = self.api();
        let failed = |act| Error::of(act, self.object());
        if let Some(there) = api
            .get_opt(names::AUTHORITY)
            .await
            .map_err(failed(Act::Get))?
        {
            return Ok(there);
        }
        let object = json!({
            "apiVersion": HookAuthority::api_version(&()),
            "kind": HookAuthority::kind(&()),
            "metadata": {
                "name": names::AUTHORITY,
                "labels": {names::MANAGED_BY_LABEL: names::MANAGED_BY},
            },
            "spec": {},
        });
        let params = PatchParams::apply(names::AUTHORITY_MANAGER).force();
        api.patch(names::AUTHORITY, &params, &Patch::Apply(&object))
            .await
            .map_err(failed(Act::Apply))
    }

    /// Writes the status, if the object is still as it was seen.
    pub async fn write_status(
        &self,
        shown: &HookAuthority,
        status: &HookAuthorityStatus,
    ) -> Result<(), Error> {
        self.apply_status(shown, names::AUTHORITY_MANAGER, json!(status))
            .await
    }

    async fn apply_status(
        &self,
        shown: &HookAuthority,
        manager: &str,
        status: Value,
    ) -> Result<(), Error> {
        let patch = json!({
            "apiVersion": HookAuthority::api_version(&()),
            "kind": HookAuthority::kind(&()),
            "metadata": {
                "name": names::AUTHORITY,
                "resourceVersion": shown.metadata.resource_version,
            },
            "status": status,
        });
        let params = PatchParams::apply(manager).force();
        self.api()
            .patch_status(names::AUTHORITY, &params, &Patch::Apply(&patch))
            .await
            .map(|_| ())
            .map_err(Error::of(
                Act::Apply,
                format!("status of {}", self.object()),
            ))
    }

    /// Writes what it says of the master keys, if the object is still as it was seen.
    pub async fn show_keys(
        &self,
        shown: &HookAuthority,
        conditions: &[Condition],
        keys: &[MasterKeyInUse],
    ) -> Result<(), Error> {
        let status = json!({"conditions": conditions, "masterKeys": keys});
        self.apply_status(shown, names::KEYS_MANAGER, status).await
    }

    /// An Event on the `HookAuthority`. One that gets lost is no reason to do anything again.
    pub async fn tell(&self, shown: &HookAuthority, notice: &Notice) {
        let event = Event {
            type_: if notice.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: notice.reason.into(),
            // The API server takes 1024 characters.
            note: Some(notice.note.chars().take(1000).collect()),
            action: "Rotate".into(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &shown.object_ref(&())).await {
            tracing::debug!(
                reason = notice.reason,
                error = super::said(&error),
                "an Event got lost"
            );
        }
    }

    /// The Secrets of the operator's own namespace.
    pub fn secrets(&self) -> OperatorSecrets {
        OperatorSecrets {
            client: self.client.clone(),
            namespace: self.namespace.clone(),
        }
    }

    fn api(&self) -> Api<HookAuthority> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn object(&self) -> String {
        format!("HookAuthority {}/{}", self.namespace, names::AUTHORITY)
    }
}

fn authority_of(
    entries: &SecretData,
    now: Timestamp,
    endpoint_names: &[String],
) -> Result<Authority, crate::pki::AuthorityFault> {
    let entry = |name: &str| {
        use secrecy::ExposeSecret;
        let entry = entries.get(name).map(ExposeSecret::expose_secret);
        entry.unwrap_or_default()
    };
    let [chain, key, root] = [entry("tls.crt"), entry("tls.key"), entry("ca.crt")];
    Authority::load(chain, key, root, now, endpoint_names)
}
