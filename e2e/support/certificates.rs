//! Client certificates: made by a user, awaited, and taken along.

use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use krake_hooks::api::condition::{self, ConditionType};
use krake_hooks::api::{HookCertificate, HookCertificateStatus, names};

use super::app::App;
use super::manifests;
use super::stage::Stage;
use super::wait::{SOON, until};

impl Stage {
    /// A user's own certificate for a hook, issued.
    pub async fn own_certificate(
        &self,
        name: &str,
        hook: &str,
        more: Value,
    ) -> HookCertificateStatus {
        let object = manifests::certificate(name, hook, more);
        let _: HookCertificate = self.create(object).await;
        self.certificate(name).await
    }

    /// Waits until a certificate is ready.
    pub async fn certificate(&self, name: &str) -> HookCertificateStatus {
        self.await_certificate(name, "Ready=True", |status| {
            condition::is_true(&status.conditions, ConditionType::Ready)
        })
        .await
    }

    /// Waits until a certificate's status is as wanted.
    pub async fn await_certificate(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&HookCertificateStatus) -> bool,
    ) -> HookCertificateStatus {
        until(format!("certificate {name}: {what}"), SOON, async || {
            let certificate = self.all::<HookCertificate>().get(name).await;
            let certificate = certificate.map_err(|error| error.to_string())?;
            match certificate.status {
                Some(status) if wanted(&status) => Ok(status),
                status => Err(serde_json::to_string_pretty(&status).unwrap()),
            }
        })
        .await
    }

    /// What a person does who takes a Secret along: its files are in `/tmp/{directory}` of a pod
    /// from now on.
    pub async fn carry(&self, app: &App, secret: &str, directory: &str) {
        let found = self.all::<Secret>().get(secret).await;
        let data = found.expect("the Secret is there").data.unwrap_or_default();
        let mut script = format!(
            "mkdir -p /tmp/{directory} && cp /etc/krake_cert/ca-bundle.pem /tmp/{directory}/"
        );
        for file in [names::CERT, names::KEY, names::BUNDLE] {
            let content = String::from_utf8(data[file].0.clone()).expect("PEM");
            script += &format!(" && printf '%s' '{content}' > /tmp/{directory}/{file}");
        }
        app.output(&script).await;
    }
}
