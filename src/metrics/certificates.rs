//! Clients' certificates, read from the cache when somebody asks for the metrics.
//!
//! So what is gone counts no more, and nobody has to take it away. No namespace and no name is told:
//! whoever may ask for the metrics need not be one who may list HookCertificates.

use std::fmt;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use kube::runtime::reflector::Store;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::api::condition::{self, ConditionType};
use crate::api::{HookCertificate, HookCertificateStatus};

/// The cache, once there is one.
#[derive(Clone, Default)]
pub struct Certificates(Arc<OnceLock<Store<HookCertificate>>>);

/// All certificates in some numbers.
#[derive(Default)]
struct Summary {
    ready: i64,
    not_ready: i64,
    /// Of those that are ready, the soonest.
    expiry: Option<Timestamp>,
    renewal: Option<Timestamp>,
}

impl Certificates {
    /// From now on; the first one counts.
    pub fn read_from(&self, store: Store<HookCertificate>) {
        // There is one cache in a process.
        let _ = self.0.set(store);
    }

    fn look(&self) -> Summary {
        let mut summary = Summary::default();
        let all = self.0.get().map(Store::state).unwrap_or_default();
        for status in all.iter().map(|certificate| certificate.status.as_ref()) {
            let ready = |s: &&_| is_ready(s);
            let Some(status) = status.filter(ready) else {
                summary.not_ready += 1;
                continue;
            };
            summary.ready += 1;
            soonest(&mut summary.expiry, status.not_after.as_ref().map(|t| t.0));
            soonest(
                &mut summary.renewal,
                status.renewal_time.as_ref().map(|t| t.0),
            );
        }
        summary
    }
}

fn is_ready(status: &HookCertificateStatus) -> bool {
    condition::is_true(&status.conditions, ConditionType::Ready)
}

fn soonest(known: &mut Option<Timestamp>, at: Option<Timestamp>) {
    *known = known.iter().copied().chain(at).min();
}

impl Collector for Certificates {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let summary = self.look();
        let help = "HookCertificates, by whether they are ready";
        let mut metric =
            encoder.encode_descriptor("certificates", help, None, MetricType::Gauge)?;
        for (ready, count) in [("True", summary.ready), ("False", summary.not_ready)] {
            let labels = [("ready", ready)];
            ConstGauge::new(count).encode(metric.encode_family(&labels)?)?;
        }
        for (name, help, at) in [
            (
                "certificate_expiry_timestamp_seconds",
                "When the first of the ready HookCertificates expires",
                summary.expiry,
            ),
            (
                "certificate_renewal_timestamp_seconds",
                "When the first of them is to be renewed",
                summary.renewal,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            if let Some(at) = at {
                ConstGauge::new(at.as_second()).encode(metric)?;
            }
        }
        Ok(())
    }
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

    fn certificate(name: &str, ready: &str, expiry: i64) -> HookCertificate {
        let time = |second| Timestamp::from_second(second).unwrap();
        serde_json::from_value(json!({
            "apiVersion": "hooks.krake.dev/v1alpha1", "kind": "HookCertificate",
            "metadata": {"namespace": "secret-project", "name": name, "uid": name},
            "spec": {"hook": {"name": "trainer"}},
            "status": {"notAfter": time(expiry), "renewalTime": time(expiry - 100), "conditions": [{
                "type": "Ready", "status": ready, "reason": "Issued", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        }))
        .unwrap()
    }

    #[test]
    fn the_soonest_is_told_until_it_goes_and_no_name() {
        let metrics = Metrics::new();
        let (store, mut writer) = reflector::store();
        metrics.read_certificates_from(store);
        let soon = certificate("their-soon", "True", 1_000);
        let mut never = certificate("their-never", "True", 1);
        never.status = None;
        let failed = certificate("their-failed", "False", 10);
        let late = certificate("their-late", "True", 2_000);
        for object in [&soon, &never, &failed, &late] {
            writer.apply_watcher_event(&watcher::Event::Apply(object.clone()));
        }
        let all = |expiry: i64, ready: i64| {
            [
                format!("krake_hooks_certificate_expiry_timestamp_seconds {expiry}\n"),
                format!(
                    "krake_hooks_certificate_renewal_timestamp_seconds {}\n",
                    expiry - 100
                ),
                format!("krake_hooks_certificates{{ready=\"True\"}} {ready}\n"),
                "krake_hooks_certificates{ready=\"False\"} 2\n".to_owned(),
            ]
        };
        let text = metrics.text();
        for line in all(1_000, 2) {
            assert!(text.contains(&line), "{line} not in\n{text}");
        }
        writer.apply_watcher_event(&watcher::Event::Delete(soon));
        let text = metrics.text();
        for line in all(2_000, 1) {
            assert!(text.contains(&line), "{line} not in\n{text}");
        }
        for word in ["secret-project", "their-late", "their-failed", "trainer"] {
            assert!(!text.contains(word), "{word} in\n{text}");
        }
    }
}
