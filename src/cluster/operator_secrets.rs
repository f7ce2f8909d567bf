//! The Secrets of the operator's own namespace that it may read, each by its name.
//!
//! What is read of one is never shown: not in an error, and not by the client (see
//! `secrets::ask`). A write names the resourceVersion that was read, or creates.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{GetParams, Request};
use secrecy::{ExposeSecret, SecretSlice};

use super::{Act, Error, secrets};
use crate::api::names;
use crate::pki::SecretData;

/// The Secrets of one namespace.
#[derive(Clone)]
pub struct OperatorSecrets {
    /// The API server.
    pub client: Client,
    /// The operator's namespace.
    pub namespace: String,
}

/// A Secret as it was read.
pub struct Read {
    /// What it says.
    pub entries: SecretData,
    /// All but what it says.
    meta: ObjectMeta,
    kind: Option<String>,
}

impl Read {
    /// Value of one of its annotations.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        let all = self.meta.annotations.as_ref()?;
        all.get(name).map(String::as_str)
    }

    /// As it is to be written, with this annotation, or without it.
    pub fn annotate(&mut self, name: &str, value: Option<String>) {
        let all = self.meta.annotations.get_or_insert_default();
        match value {
            Some(value) => all.insert(name.to_owned(), value),
            None => all.remove(name),
        };
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrote {
    /// It is written.
    Yes,
    /// Another writer was faster; the Secret is theirs.
    SomebodyWasFaster,
}

impl OperatorSecrets {
    /// The Secret of that name, if it exists.
    pub async fn read(&self, name: &str) -> Result<Option<Read>, Error> {
        let request = Request::new(secrets::path(&self.namespace))
            .get(name, &GetParams::default())
            .map_err(kube::Error::BuildRequest);
        let answer = match request {
            Ok(request) => secrets::ask::<Secret>(&self.client, request).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(secret) => {
                let entries = secret.data.unwrap_or_default().into_iter();
                let entries = entries.map(|(entry, content)| (entry, SecretSlice::from(content.0)));
                Ok(Some(Read {
                    entries: entries.collect(),
                    meta: secret.metadata,
                    kind: secret.type_,
                }))
            }
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
            Err(source) => Err(Error::of(Act::Get, self.shown(name))(source)),
        }
    }

    /// Creates a Secret.
    pub async fn create(&self, name: &str, entries: &SecretData) -> Result<Wrote, Error> {
        let label = (names::MANAGED_BY_LABEL, names::MANAGED_BY);
        let meta = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(self.namespace.clone()),
            labels: Some([(label.0.to_owned(), label.1.to_owned())].into()),
            ..ObjectMeta::default()
        };
        let secret = secret(meta, Some("Opaque".to_owned()), entries);
        match secrets::post(&self.client, &self.namespace, &secret, false).await {
            Ok(_) => Ok(Wrote::Yes),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                Ok(Wrote::SomebodyWasFaster)
            }
            Err(source) => Err(Error::of(Act::Create, self.shown(name))(source)),
        }
    }

    /// Writes a Secret anew, if it is still as it was read.
    pub async fn replace(
        &self,
        name: &str,
        read: &Read,
        entries: &SecretData,
    ) -> Result<Wrote, Error> {
        let secret = secret(read.meta.clone(), read.kind.clone(), entries);
        match secrets::put(&self.client, &self.namespace, name, &secret).await {
            Ok(_) => Ok(Wrote::Yes),
            // Gone, or another one: what was read of it is no more.
            Err(kube::Error::Api(status)) if status.code == 409 || status.is_not_found() => {
                Ok(Wrote::SomebodyWasFaster)
            }
            Err(source) => Err(Error::of(Act::Update, self.shown(name))(source)),
        }
    }

    fn shown(&self, name: &str) -> String {
        format!("Secret {}/{name}", self.namespace)
    }
}

fn secret(mut meta: ObjectMeta, kind: Option<String>, entries: &SecretData) -> Secret {
    meta.managed_fields = None;
    let entries = entries.iter().map(|(entry, content)| {
        let content = ByteString(content.expose_secret().to_vec());
        (entry.clone(), content)
    });
    Secret {
        metadata: meta,
        type_: kind,
        data: Some(entries.collect()),
        ..Secret::default()
    }
}
