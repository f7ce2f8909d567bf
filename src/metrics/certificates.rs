//! Clients' certificates, read from the cache when somebody asks for the metrics.
//!
//! So what is gone has no series any more, and nobody has to take it away. Namespace and name are
//! labels, and users choose those, but never how many there are: only the [`MOST`] certificates
//! that expire soonest have series of their own, and those are what an alert is about.

use std::fmt;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use kube::runtime::reflector::Store;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::api::HookCertificate;
use crate::api::condition::{self, ConditionType};

/// How many certificates have series of their own.
const MOST: usize = 1000;

/// The cache, once there is one.
#[derive(Clone, Default)]
pub struct Certificates(Arc<OnceLock<Store<HookCertificate>>>);

/// What is shown of one certificate.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Shown {
    expiry: Timestamp,
    renewal: Option<Timestamp>,
    namespace: String,
    name: String,
}

impl Certificates {
    /// From now on; the first one counts.
    pub fn read_from(&self, store: Store<HookCertificate>) {
        // There is one cache in a process.
        let _ = self.0.set(store);
    }

    /// Those that are shown, soonest first, and how many are ready and not.
    fn look(&self) -> (Vec<Shown>, [(&'static str, usize); 2]) {
        let all = self.0.get().map(Store::state).unwrap_or_default();
        let is_ready = |certificate: &&Arc<HookCertificate>| {
            let status = certificate.status.as_ref();
            status.is_some_and(|s| condition::is_true(&s.conditions, ConditionType::Ready))
        };
        let ready = all.iter().filter(is_ready).count();
        let counts = [("True", ready), ("False", all.len() - ready)];
        let mut shown: Vec<Shown> = all.iter().filter_map(|one| Shown::of(one)).collect();
        shown.sort_unstable();
        shown.truncate(MOST);
        (shown, counts)
    }
}

impl Shown {
    fn of(certificate: &HookCertificate) -> Option<Self> {
        let status = certificate.status.as_ref()?;
        Some(Self {
            expiry: status.not_after.as_ref()?.0,
            renewal: status.renewal_time.as_ref().map(|time| time.0),
            namespace: certificate.metadata.namespace.clone()?,
            name: certificate.metadata.name.clone()?,
        })
    }

    fn labels(&self) -> [(&'static str, &str); 2] {
        [("namespace", &self.namespace), ("name", &self.name)]
    }
}

impl Collector for Certificates {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let (shown, counts) = self.look();
        let counts = counts.map(|(ready, count)| ([("ready", ready)], count as i64));
        gauge(
            &mut encoder,
            "certificates",
            "HookCertificates, by whether they are ready",
            counts,
        )?;
        gauge(
            &mut encoder,
            "certificate_expiry_timestamp_seconds",
            "When a HookCertificate's certificate expires, of those that expire soonest",
            shown
                .iter()
                .map(|one| (one.labels(), one.expiry.as_second())),
        )?;
        let renewals = shown.iter().filter_map(|one| {
            let at = one.renewal?;
            Some((one.labels(), at.as_second()))
        });
        gauge(
            &mut encoder,
            "certificate_renewal_timestamp_seconds",
            "When it will be renewed",
            renewals,
        )
    }
}

fn gauge<'a, const N: usize>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    all: impl IntoIterator<Item = ([(&'static str, &'a str); N], i64)>,
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in all {
        ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

impl fmt::Debug for Certificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_set = self.0.get().is_some();
        formatter
            .debug_tuple("Certificates")
            .field(&is_set)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::{reflector, watcher};
    use serde_json::json;

    use super::*;
    use crate::metrics::Metrics;

    fn certificate(name: &str, expiry: &str) -> HookCertificate {
        serde_json::from_value(json!({
            "apiVersion": "hooks.krake.dev/v1alpha1", "kind": "HookCertificate",
            "metadata": {"namespace": "ml", "name": name, "uid": name},
            "spec": {"hook": {"name": "trainer"}},
            "status": {"notAfter": expiry, "renewalTime": "2026-01-01T00:00:00Z", "conditions": [{
                "type": "Ready", "status": "True", "reason": "Issued", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        }))
        .unwrap()
    }

    #[test]
    fn each_has_its_series_until_it_goes() {
        let metrics = Metrics::new();
        let (store, mut writer) = reflector::store();
        assert!(!metrics.text().contains("trainer"));
        metrics.read_certificates_from(store);
        let one = certificate("trainer-krake-1", "1970-01-02T00:00:00Z");
        let mut never = certificate("never", "1970-01-02T00:00:00Z");
        never.status = None;
        for object in [&one, &never] {
            writer.apply_watcher_event(&watcher::Event::Apply(object.clone()));
        }
        let text = metrics.text();
        let labels = r#"{namespace="ml",name="trainer-krake-1"}"#;
        for line in [
            format!("krake_hooks_certificate_expiry_timestamp_seconds{labels} 86400\n"),
            format!("krake_hooks_certificate_renewal_timestamp_seconds{labels} 1767225600\n"),
            "krake_hooks_certificates{ready=\"True\"} 1\n".to_owned(),
            "krake_hooks_certificates{ready=\"False\"} 1\n".to_owned(),
        ] {
            assert!(text.contains(&line), "{line} not in\n{text}");
        }
        assert!(!text.contains("never"), "{text}");
        writer.apply_watcher_event(&watcher::Event::Delete(one));
        assert!(!metrics.text().contains("trainer"), "{}", metrics.text());
    }

    #[test]
    fn users_do_not_choose_how_many_series_there_are() {
        let metrics = Metrics::new();
        let (store, mut writer) = reflector::store();
        metrics.read_certificates_from(store);
        for number in 0..MOST + 5 {
            // The later a name, the sooner its end.
            let expiry = Timestamp::from_second(1_000_000 - number as i64).unwrap();
            let object = certificate(&format!("hook-{number}"), &expiry.to_string());
            writer.apply_watcher_event(&watcher::Event::Apply(object));
        }
        let text = metrics.text();
        assert_eq!(text.matches("expiry_timestamp_seconds{").count(), MOST);
        assert_eq!(text.matches("renewal_timestamp_seconds{").count(), MOST);
        assert!(
            text.contains(&format!("\"hook-{}\"", MOST + 4)),
            "the soonest is shown"
        );
        assert!(!text.contains("\"hook-4\""), "the latest is not");
        assert!(text.contains(&format!("certificates{{ready=\"True\"}} {}", MOST + 5)));
    }
}
