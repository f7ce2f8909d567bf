//! What is counted and measured.
//!
//! Labels are enums: a name or uid that users choose is never one, or the number of series would
//! be theirs to choose too, and everybody who may ask would read it. The exception is public and has
//! a bound: the fingerprints of the few authorities in use.

mod certificates;
mod labels;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::runtime::reflector::Store;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use certificates::Certificates;
use labels::*;
pub use labels::{
    AcknowledgementOutcome, CommitOutcome, ConnectionLoss, HandshakeFailure, Holder,
    IssuanceOutcome, LookupReason,
};

use crate::api::hook_authority::AuthorityPhase;
use crate::api::status::Outcome;
use crate::api::{HookCertificate, HookKind};
use crate::cluster::Class;

/// All metrics; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    acknowledgements: Family<AcknowledgementLabels, Counter>,
    commits: Family<CommitLabels, Counter>,
    commit_group: Histogram,
    commit_seconds: Histogram,
    lookups: Family<LookupLabels, Counter>,
    handshake_failures: Family<HandshakeLabels, Counter>,
    connections: Gauge,
    connections_lost: Family<LossLabels, Counter>,
    reconcile_errors: Family<ReconcileLabels, Counter>,
    effects: Family<EffectLabels, Counter>,
    releases: Family<ReleaseLabels, Counter>,
    issuances: Family<IssuanceLabels, Counter>,
    endpoint_expiry: Gauge,
    endpoint_renewal: Gauge,
    certificates: Certificates,
    is_leader: Gauge,
    terms: Counter,
    lease_errors: Counter,
    unreadable: Family<KindLabels, Gauge>,
    authority_expiry: Family<AuthorityLabels, Gauge>,
    authority_phase: Family<AuthorityLabels, Gauge>,
    authority_steps: Family<StepLabels, Counter>,
}

/// One certificate authority in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityGauge {
    /// First digits of the fingerprint of the certificate that signs.
    pub fingerprint: String,
    /// What it is used for.
    pub phase: AuthorityPhase,
    /// When it ends.
    pub expiry: Timestamp,
}

impl Metrics {
    /// Metrics that stand at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("krake_hooks");
        let acknowledgements = Family::default();
        let commits = Family::default();
        let commit_group = Histogram::new([1., 2., 4., 8., 16., 32., 64., 128., 256., 512., 1024.]);
        let commit_seconds = Histogram::new([0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1., 5.]);
        let lookups = Family::default();
        let handshake_failures = Family::default();
        let connections = Gauge::default();
        let connections_lost = Family::default();
        let reconcile_errors = Family::default();
        let effects = Family::default();
        let releases = Family::default();
        let issuances = Family::default();
        let endpoint_expiry = Gauge::default();
        let endpoint_renewal = Gauge::default();
        let certificates = Certificates::default();
        registry.register_collector(Box::new(certificates.clone()));
        registry.register(
            "issuances",
            "Certificates issued or not, by whose, why and how it ended",
            issuances.clone(),
        );
        registry.register(
            "endpoint_certificate_expiry_timestamp_seconds",
            "When the endpoint's own certificate expires; 0 until there is one",
            endpoint_expiry.clone(),
        );
        registry.register(
            "endpoint_certificate_renewal_timestamp_seconds",
            "When it will be renewed",
            endpoint_renewal.clone(),
        );
        let is_leader = Gauge::default();
        let terms = Counter::default();
        let lease_errors = Counter::default();
        let unreadable = Family::default();
        registry.register(
            "unreadable_objects",
            "Objects that cannot be read and are left alone, by kind",
            unreadable.clone(),
        );
        registry.register(
            "is_leader",
            "Whether this replica leads: 1 or 0",
            is_leader.clone(),
        );
        registry.register(
            "leader_transitions",
            "How often this replica has begun to lead",
            terms.clone(),
        );
        registry.register(
            "lease_renew_errors",
            "Renewals of the lease that failed while this replica led",
            lease_errors.clone(),
        );
        let authority_expiry = Family::default();
        let authority_phase = Family::default();
        let authority_steps = Family::default();
        registry.register(
            "authority_expiry_timestamp_seconds",
            "End of each certificate authority in use, by fingerprint and phase",
            authority_expiry.clone(),
        );
        registry.register(
            "authority_phase",
            "1 for the phase that each certificate authority in use is in",
            authority_phase.clone(),
        );
        registry.register(
            "authority_steps",
            "Steps of certificate authorities, by kind; `Refused` and `Failed` are those that were not taken",
            authority_steps.clone(),
        );
        registry.register(
            "reconcile_errors",
            "Reconciles that ended in an error, by controller and what the error calls for",
            reconcile_errors.clone(),
        );
        registry.register(
            "effects",
            "What the hook controller has done, by kind",
            effects.clone(),
        );
        registry.register(
            "outcomes",
            "Outcomes of removals and completions, by outcome",
            releases.clone(),
        );
        registry.register(
            "acknowledgements",
            "Acknowledgements, by kind of hook and how they were answered",
            acknowledgements.clone(),
        );
        registry.register(
            "commits",
            "Writes of acknowledgements, by how they ended",
            commits.clone(),
        );
        registry.register(
            "commit_group_size",
            "Acknowledgements in one write",
            commit_group.clone(),
        );
        registry.register(
            "commit_duration_seconds",
            "Time of one write of acknowledgements",
            commit_seconds.clone(),
        );
        registry.register(
            "live_lookups",
            "Hooks read from the API server by the callback, by reason",
            lookups.clone(),
        );
        registry.register(
            "tls_handshake_failures",
            "TLS handshakes of the callback that failed, by reason",
            handshake_failures.clone(),
        );
        registry.register(
            "callback_connections",
            "Open connections of the callback",
            connections.clone(),
        );
        registry.register(
            "callback_connections_lost",
            "Connections of the callback that found no place, or gave theirs to another, by reason",
            connections_lost.clone(),
        );
        Self {
            registry: Arc::new(registry),
            acknowledgements,
            commits,
            commit_group,
            commit_seconds,
            lookups,
            handshake_failures,
            connections,
            connections_lost,
            reconcile_errors,
            effects,
            releases,
            issuances,
            endpoint_expiry,
            endpoint_renewal,
            certificates,
            is_leader,
            terms,
            lease_errors,
            unreadable,
            authority_expiry,
            authority_phase,
            authority_steps,
        }
    }

    /// All metrics in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String cannot fail");
        text
    }

    /// An acknowledgement was answered.
    pub fn acknowledged(&self, kind: HookKind, outcome: AcknowledgementOutcome) {
        let kind = kind.as_str();
        self.acknowledgements
            .get_or_create(&AcknowledgementLabels { kind, outcome })
            .inc();
    }

    /// A group was written, or was not.
    pub fn committed(&self, outcome: CommitOutcome, group: usize, took: Duration) {
        self.commits.get_or_create(&CommitLabels { outcome }).inc();
        self.commit_group.observe(group as f64);
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// A hook was read from the server.
    pub fn looked_up(&self, reason: LookupReason) {
        self.lookups.get_or_create(&LookupLabels { reason }).inc();
    }

    /// A TLS handshake failed.
    pub fn handshake_failed(&self, reason: HandshakeFailure) {
        self.handshake_failures
            .get_or_create(&HandshakeLabels { reason })
            .inc();
    }

    /// A connection had no place.
    pub fn connection_lost(&self, reason: ConnectionLoss) {
        self.connections_lost
            .get_or_create(&LossLabels { reason })
            .inc();
    }

    /// A reconcile ended in an error.
    pub fn reconcile_failed(&self, controller: &'static str, class: Class) {
        let class = class.as_str();
        self.reconcile_errors
            .get_or_create(&ReconcileLabels { controller, class })
            .inc();
    }

    /// The hook controller has done something.
    pub fn effect(&self, effect: &'static str) {
        self.effects.get_or_create(&EffectLabels { effect }).inc();
    }

    /// A removal was let go on, or a workload completed.
    pub fn outcome(&self, outcome: Outcome) {
        let outcome = outcome.as_str();
        self.releases
            .get_or_create(&ReleaseLabels { outcome })
            .inc();
    }

    /// A certificate was to be issued for this cause.
    pub fn issuance(&self, holder: Holder, cause: &'static str, outcome: IssuanceOutcome) {
        self.issuances
            .get_or_create(&IssuanceLabels {
                holder,
                cause,
                outcome,
            })
            .inc();
    }

    /// The endpoint has a new certificate.
    pub fn endpoint_certificate(&self, expiry: Timestamp, renewal: Timestamp) {
        self.endpoint_expiry.set(expiry.as_second());
        self.endpoint_renewal.set(renewal.as_second());
    }

    /// Where to read clients' certificates from when somebody asks.
    pub fn read_certificates_from(&self, store: Store<HookCertificate>) {
        self.certificates.read_from(store);
    }

    /// This replica begins to lead, or ceases to.
    pub fn leads(&self, leads: bool) {
        self.is_leader.set(i64::from(leads));
        if leads {
            self.terms.inc();
        }
    }

    /// The lease was not renewed at an attempt.
    pub fn lease_not_renewed(&self) {
        self.lease_errors.inc();
    }

    /// So many objects of a kind cannot be read.
    pub fn unreadable(&self, kind: &str, count: usize) {
        let kind = kind.to_owned();
        self.unreadable
            .get_or_create(&KindLabels { kind })
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The certificate authorities in use, all of them.
    pub fn authorities(&self, all: Vec<AuthorityGauge>) {
        self.authority_expiry.clear();
        self.authority_phase.clear();
        for one in all {
            let labels = AuthorityLabels {
                fingerprint: one.fingerprint,
                phase: one.phase.as_str(),
            };
            let expiry = self.authority_expiry.get_or_create(&labels);
            expiry.set(one.expiry.as_second());
            self.authority_phase.get_or_create(&labels).set(1);
        }
    }

    /// A step of the certificate authorities was taken, or was not.
    pub fn authority_step(&self, step: &'static str) {
        self.authority_steps
            .get_or_create(&StepLabels { step })
            .inc();
    }

    /// The gauge of open connections.
    pub fn connections(&self) -> &Gauge {
        &self.connections
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Alerts match them.
    #[test]
    fn the_words_of_labels_are_kept() {
        use {
            AcknowledgementOutcome as Ack, CommitOutcome as Commit, HandshakeFailure as Handshake,
            IssuanceOutcome as Issuance, LookupReason as Lookup,
        };
        let metrics = Metrics::new();
        let acknowledgements = [
            (Ack::Accepted, "Accepted"),
            (Ack::Replayed, "Replayed"),
            (Ack::Failure, "Failure"),
            (Ack::NotAsked, "NotAsked"),
            (Ack::Late, "Late"),
            (Ack::Anonymous, "Anonymous"),
            (Ack::AlreadyAcknowledged, "AlreadyAcknowledged"),
            (Ack::ForeignPod, "ForeignPod"),
            (Ack::Unauthorized, "Unauthorized"),
            (Ack::Full, "Full"),
            (Ack::Busy, "Busy"),
            (Ack::Unavailable, "Unavailable"),
            (Ack::TooOften, "TooOften"),
        ];
        let mut lines = Vec::new();
        for (outcome, word) in acknowledgements {
            metrics.acknowledged(HookKind::Complete, outcome);
            lines.push(format!(
                "acknowledgements_total{{kind=\"complete\",outcome=\"{word}\"}} 1"
            ));
        }
        let commits = [
            (Commit::Written, "Written"),
            (Commit::Raced, "Raced"),
            (Commit::Refused, "Refused"),
            (Commit::Gone, "Gone"),
            (Commit::Unavailable, "Unavailable"),
            (Commit::Lost, "Lost"),
        ];
        for (outcome, word) in commits {
            metrics.committed(outcome, 1, Duration::ZERO);
            lines.push(format!("commits_total{{outcome=\"{word}\"}} 1"));
        }
        let lookups = [
            (Lookup::Credentials, "Credentials"),
            (Lookup::Decision, "Decision"),
            (Lookup::Pods, "Pods"),
            (Lookup::LostAnswer, "LostAnswer"),
            (Lookup::Limited, "Limited"),
        ];
        for (reason, word) in lookups {
            metrics.looked_up(reason);
            lines.push(format!("live_lookups_total{{reason=\"{word}\"}} 1"));
        }
        let handshakes = [
            (Handshake::Timeout, "Timeout"),
            (Handshake::Broken, "Broken"),
            (Handshake::Certificate, "Certificate"),
            (Handshake::NotReady, "NotReady"),
        ];
        for (reason, word) in handshakes {
            metrics.handshake_failed(reason);
            lines.push(format!(
                "tls_handshake_failures_total{{reason=\"{word}\"}} 1"
            ));
        }
        let losses = [
            (ConnectionLoss::Displaced, "Displaced"),
            (ConnectionLoss::NoPlace, "NoPlace"),
        ];
        for (reason, word) in losses {
            metrics.connection_lost(reason);
            let line = format!("callback_connections_lost_total{{reason=\"{word}\"}} 1");
            lines.push(line);
        }
        let issuances = [
            (Holder::Client, "Client", Issuance::Issued, "Issued"),
            (
                Holder::Endpoint,
                "Endpoint",
                Issuance::SecretConflict,
                "SecretConflict",
            ),
            (Holder::Client, "Client", Issuance::Failed, "Failed"),
            (Holder::Client, "Client", Issuance::Retried, "Retried"),
        ];
        for (holder, whose, outcome, word) in issuances {
            metrics.issuance(holder, "New", outcome);
            lines.push(format!(
                "issuances_total{{holder=\"{whose}\",cause=\"New\",outcome=\"{word}\"}} 1"
            ));
        }
        let text = metrics.text();
        for line in lines {
            assert!(
                text.contains(&format!("krake_hooks_{line}\n")),
                "{line} not in\n{text}"
            );
        }
    }

    /// The table of docs/operations.md, and what there is.
    #[test]
    fn what_is_documented_is_what_there_is() {
        let docs = include_str!("../docs/operations.md");
        let (_, section) = docs.split_once("\n## Metrics\n").unwrap();
        let section = section.split("\n## ").next().unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
        let cells = rows.map(|row| row.split(" | ").next().unwrap());
        let names = cells.flat_map(|cell| cell.split('`').step_by(2));
        let documented: Vec<_> = names.filter(|name| !name.is_empty()).collect();
        let metrics = Metrics::new();
        // A family is there when it has a member.
        metrics.acknowledged(HookKind::Complete, AcknowledgementOutcome::Late);
        metrics.committed(CommitOutcome::Written, 1, Duration::ZERO);
        metrics.looked_up(LookupReason::Decision);
        metrics.handshake_failed(HandshakeFailure::Timeout);
        metrics.connection_lost(ConnectionLoss::NoPlace);
        metrics.reconcile_failed("hook", Class::Bug);
        metrics.effect("Event");
        metrics.outcome(Outcome::TimedOut);
        metrics.issuance(Holder::Client, "New", IssuanceOutcome::Issued);
        metrics.unreadable("KrakeHook", 1);
        metrics.authority_step("Begin");
        metrics.authorities(vec![AuthorityGauge {
            fingerprint: "f".into(),
            phase: AuthorityPhase::Active,
            expiry: Timestamp::UNIX_EPOCH,
        }]);
        let text = metrics.text();
        let types = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE krake_hooks_"));
        let there = types.map(|line| match line.split_once(' ').unwrap() {
            (name, "counter") => format!("{name}_total"),
            (name, _) => name.to_owned(),
        });
        let there: std::collections::BTreeSet<_> = there.collect();
        let bare = documented
            .iter()
            .map(|name| name.split('{').next().unwrap().to_owned());
        assert_eq!(bare.collect::<std::collections::BTreeSet<_>>(), there);
    }

    #[test]
    fn clones_count_into_the_same_text() {
        let metrics = Metrics::new();
        let clone = metrics.clone();
        clone.acknowledged(HookKind::Shutdown, AcknowledgementOutcome::Late);
        clone.committed(CommitOutcome::Written, 3, Duration::from_millis(4));
        clone.looked_up(LookupReason::Decision);
        clone.handshake_failed(HandshakeFailure::Certificate);
        let text = metrics.text();
        for line in [
            "krake_hooks_acknowledgements_total{kind=\"shutdown\",outcome=\"Late\"} 1",
            "krake_hooks_commits_total{outcome=\"Written\"} 1",
            "krake_hooks_commit_group_size_bucket{le=\"2.0\"} 0",
            "krake_hooks_commit_group_size_bucket{le=\"4.0\"} 1",
            "krake_hooks_commit_duration_seconds_bucket{le=\"0.005\"} 1",
            "krake_hooks_live_lookups_total{reason=\"Decision\"} 1",
            "krake_hooks_tls_handshake_failures_total{reason=\"Certificate\"} 1",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
    }
}
