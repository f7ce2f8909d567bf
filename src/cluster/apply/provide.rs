//! Writes what pods are given.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::api::{Api, Patch, PatchParams};
use secrecy::{ExposeSecret, SecretBox};
use serde_json::{Value, json};

use super::{Writer, guard};
use crate::api::status::TokenSecret;
use crate::api::{HookCertificate, HookGuard, names};
use crate::cluster::secrets::{self, SecretError, SecretOrder, Written};
use crate::cluster::{Act, Error, objects};
use crate::decide::seen::{Notice, Refusal, Secrets};
use crate::decide::{Fact, Seen};
use crate::pki::SecretData;

impl Writer {
    pub(super) async fn create_guard(&self, seen: &Seen) -> Result<Fact, Error> {
        let api: Api<HookGuard> = Api::all(self.client.clone());
        let guard = self
            .created(&api, seen.hook_uid(), objects::guard(seen))
            .await?;
        Ok(Fact::Guard(Box::new(guard)))
    }

    pub(super) async fn write_token(
        &self,
        seen: &Seen,
        workload_uid: &str,
        derived_for: &str,
        recorded: Option<&TokenSecret>,
    ) -> Result<Fact, Error> {
        let name = names::of_hook(seen.hook_name(), seen.hook_uid());
        let Some(ring) = &self.ring else {
            return Ok(Fact::Nothing);
        };
        let key = derived_for.split_once('.').map_or("", |(key, _)| key);
        let Some(token) = ring.load().token_by(key, seen.hook_uid(), workload_uid) else {
            let gone = format!("master key {key} is not in the ring any more");
            let object = format!("Secret {}/{name}", seen.namespace());
            return Err(Error::of(Act::Create, object)(kube::Error::Service(
                gone.into(),
            )));
        };
        let bytes: Box<[u8]> = token.expose_secret().as_bytes().into();
        let order = SecretOrder {
            namespace: seen.namespace(),
            name: &name,
            owner_label: seen.hook_uid(),
            owner: owner(&objects::guard_reference(seen.hook_uid(), &guard(seen))),
            data: SecretData::from([(names::TOKEN.to_owned(), SecretBox::new(bytes))]),
            recorded: recorded.map(|recorded| secrets::Recorded {
                uid: recorded.secret_uid.clone(),
                resource_version: recorded.resource_version.clone(),
            }),
        };
        match secrets::write(&self.client, order, &self.policy).await {
            Ok(written) => {
                if written.overwrote_edit {
                    let note = format!(
                        "Secret {name} had been edited by somebody else and was written again"
                    );
                    self.tell(seen, &warning("SecretOverwritten", note)).await;
                }
                Ok(Fact::Token(TokenSecret {
                    since: since(recorded, derived_for, &written),
                    secret_uid: written.uid,
                    resource_version: written.resource_version,
                    derived_for: Some(derived_for.to_owned()),
                }))
            }
            Err(SecretError::Taken { name, message }) => {
                Ok(Fact::Refused(Refusal::SecretTaken { name, message }))
            }
            Err(other) => Err(unwritten(other)),
        }
    }

    pub(super) async fn ask_about_secrets(&self, seen: &Seen) -> Result<Fact, Error> {
        let token = seen.hook.status.as_ref().and_then(|s| s.token.as_ref());
        let token = token.map(|t| secrets::Recorded {
            uid: t.secret_uid.clone(),
            resource_version: t.resource_version.clone(),
        });
        let certificate = seen.certificate.as_ref();
        let certificate = certificate
            .and_then(|c| c.status.as_ref()?.secret.as_ref())
            .map(|s| secrets::Recorded {
                uid: s.uid.clone(),
                resource_version: s.resource_version.clone(),
            });
        let name = names::of_hook(seen.hook_name(), seen.hook_uid());
        let tls = names::tls_secret(seen.hook_name(), seen.hook_uid());
        let order = |name, recorded| SecretOrder {
            namespace: seen.namespace(),
            name,
            owner_label: seen.hook_uid(),
            owner: owner(&objects::guard_reference(seen.hook_uid(), &guard(seen))),
            data: SecretData::new(),
            recorded,
        };
        // What was never written is somebody else's to write, not to be mended.
        let mut kept = [true, true];
        for (kept, (name, recorded)) in kept.iter_mut().zip([(&name, token), (&tls, certificate)]) {
            if recorded.is_some() {
                *kept = secrets::is_as_written(&self.client, &order(name, recorded))
                    .await
                    .map_err(unwritten)?;
            }
        }
        let [token, certificate] = kept;
        Ok(Fact::Secrets(Secrets::Asked { token, certificate }))
    }

    pub(super) async fn renew_certificate(
        &self,
        seen: &Seen,
        because: &str,
    ) -> Result<Fact, Error> {
        let name = names::of_hook(seen.hook_name(), seen.hook_uid());
        let api: Api<HookCertificate> = Api::namespaced(self.client.clone(), seen.namespace());
        let patch = json!({"metadata": {"annotations": {names::RENEW_ANNOTATION: because}}});
        let parameters = PatchParams {
            field_manager: Some(names::CONTROLLER_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        api.patch(&name, &parameters, &Patch::Merge(patch))
            .await
            .map_err(Error::of(
                Act::Patch,
                format!("HookCertificate {}/{name}", seen.namespace()),
            ))?;
        let note =
            format!("the Secret of HookCertificate {name} was gone or edited and is issued again");
        self.tell(seen, &warning("SecretLost", note)).await;
        let token = !matches!(seen.secrets, Secrets::Asked { token: false, .. });
        Ok(Fact::Secrets(Secrets::Asked {
            token,
            certificate: true,
        }))
    }
}

fn owner(reference: &Value) -> OwnerReference {
    serde_json::from_value(reference.clone()).expect("this is an owner reference")
}

/// Since when the token in a Secret is made with its key, if an older pod may hold that of another key.
/// One that is made anew, and of which nothing is recorded, has never held another: pods that are made
/// in the same second wait for nobody.
fn since(recorded: Option<&TokenSecret>, derived_for: &str, written: &Written) -> Option<Time> {
    let key = |derived_for: &str| derived_for.split_once('.').map(|(key, _)| key.to_owned());
    match recorded {
        Some(recorded) if recorded.derived_for.as_deref().and_then(key) == key(derived_for) => {
            recorded.since.clone()
        }
        None if written.created == written.at => None,
        _ => written.at.clone(),
    }
}

fn unwritten(error: SecretError) -> Error {
    match error {
        SecretError::Create {
            namespace,
            name,
            source,
        } => Error::of(Act::Create, format!("Secret {namespace}/{name}"))(source),
        SecretError::Update {
            namespace,
            name,
            source,
        } => Error::of(Act::Update, format!("Secret {namespace}/{name}"))(source),
        SecretError::Probe { namespace, source } => Error::of(
            Act::Create,
            format!("a Secret in {namespace}, as a dry run"),
        )(source),
        other => Error::of(Act::Create, "a Secret")(kube::Error::Service(other.into())),
    }
}

fn warning(reason: &'static str, note: String) -> Notice {
    Notice {
        warning: true,
        reason,
        note,
        on_workload: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn a_token_counts_from_the_moment_in_which_its_key_took_the_place_of_another() {
        let at = |second| Some(Time(Timestamp::from_second(second).unwrap()));
        let recorded = |derived_for: Option<&str>, since| TokenSecret {
            secret_uid: "secret".into(),
            resource_version: "1".into(),
            derived_for: derived_for.map(Into::into),
            since,
        };
        let written = |created| Written {
            uid: "secret".into(),
            resource_version: "2".into(),
            created,
            at: at(9),
            overwrote_edit: false,
        };
        for (name, recorded, created, expected) in [
            ("the first", None, at(9), None),
            ("nothing recorded of what was there", None, at(1), at(9)),
            (
                "for another workload",
                Some(recorded(Some("new.old"), at(3))),
                at(1),
                at(3),
            ),
            (
                "as ever",
                Some(recorded(Some("new.workload"), None)),
                at(9),
                None,
            ),
            (
                "another key",
                Some(recorded(Some("old.workload"), None)),
                at(1),
                at(9),
            ),
            (
                "another key, a Secret made again",
                Some(recorded(Some("old.workload"), None)),
                at(9),
                at(9),
            ),
            (
                "of nobody knows what",
                Some(recorded(None, None)),
                at(1),
                at(9),
            ),
        ] {
            let since = since(recorded.as_ref(), "new.workload", &written(created));
            assert_eq!(since, expected, "{name}");
        }
    }
}
