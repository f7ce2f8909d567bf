//! The callback's own certificate: issued from the authority that signs now, renewed before it
//! ends and when another authority signs, and put to use without a restart; and with it whom the
//! callback trusts, which changes whenever an authority is prepared or retired.
//!
//! What is put to use has been verified as a client would verify it. What cannot be is not: the
//! endpoint goes on with what it has, and says so once for each new reason.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::ExposeSecret;
use thiserror::Error;
use tokio::sync::watch;

use super::authority::InUse;
use crate::admin::Part;
use crate::callback::{Trust, TrustError, TrustSlot};
use crate::decide::certificate::Cause;
use crate::metrics::{Holder, IssuanceOutcome, Metrics};
use crate::pki::{
    Authority, IssueError, Purpose, ServerLeaf, VerifyError, public_key_matches, renewal_time,
    verify_chain, verify_name,
};

/// How long the endpoint's certificate is valid.
const DURATION: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// The clock is looked at now and then: a timer counts on while a machine sleeps.
const RESYNC: Duration = Duration::from_secs(600);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(300);

/// The inputs of the endpoint's certificate, and its destination.
pub struct Context {
    /// The authorities in use now, and whatever will be.
    pub in_use: watch::Receiver<Arc<InUse>>,
    /// DNS names and IP addresses of the endpoint.
    pub names: Vec<String>,
    /// What the endpoint depends on.
    pub trust: Arc<TrustSlot>,
    /// Ready while the endpoint has a certificate that is valid.
    pub ready: Part,
    /// Counters.
    pub metrics: Metrics,
}

/// Why the endpoint has no new certificate.
#[derive(Debug, Error)]
pub enum EndpointError {
    /// The authority does not sign it.
    #[error("issue the endpoint's certificate: {0}")]
    Issue(#[from] IssueError),
    /// What was issued cannot be read again.
    #[error("read the endpoint's certificate: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// A client would not accept it.
    #[error("verify the endpoint's certificate: {0}")]
    Verify(#[from] VerifyError),
    /// Key and certificate do not belong together.
    #[error("verify the endpoint's certificate: it does not belong to its key")]
    KeyMismatch,
    /// The TLS library does not take it.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// What the endpoint shows at present.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    issuer: String,
    trusted: Vec<CertificateDer<'static>>,
    not_before: Timestamp,
    not_after: Timestamp,
    renewal: Timestamp,
}

/// Runs until `shutdown`.
pub async fn run(
    mut context: Context,
    now: impl Fn() -> Timestamp,
    shutdown: impl Future<Output = ()>,
) {
    tokio::pin!(shutdown);
    let mut keeper = Keeper::default();
    loop {
        let in_use = context.in_use.borrow_and_update().clone();
        let wait = keeper.look(&context, &in_use, now());
        tokio::select! {
            () = &mut shutdown => return,
            () = tokio::time::sleep(wait) => {}
            () = changed(&mut context.in_use) => keeper.failures = 0,
        }
    }
}

/// Remembers what is shown, and what went wrong since.
#[derive(Default)]
struct Keeper {
    shown: Option<Shown>,
    fault: Option<String>,
    failures: u32,
}

impl Keeper {
    /// Renews if it is due, and returns how long to wait before the next check.
    fn look(&mut self, context: &Context, in_use: &InUse, now: Timestamp) -> Duration {
        let mut wait = RESYNC;
        let fault = in_use.fault.as_ref().map(|fault| fault.reason);
        let Some(authority) = &in_use.signer else {
            context.ready.because(fault);
            return wait;
        };
        let trusted = &in_use.anchors;
        if let Some(cause) = due(self.shown.as_ref(), authority, trusted, now) {
            let counted = |outcome| {
                let cause = cause.as_str();
                context.metrics.issuance(Holder::Endpoint, cause, outcome);
            };
            match renew(authority, trusted, &context.names, now, rand::random()) {
                Ok((trust, shown)) => {
                    context.trust.replace(trust);
                    counted(IssuanceOutcome::Issued);
                    context
                        .metrics
                        .endpoint_certificate(shown.not_after, shown.renewal);
                    tracing::info!(
                        issuer = shown.issuer,
                        until = %shown.not_after,
                        renewal = %shown.renewal,
                        names = context.names.join(" "),
                        "the endpoint has a new certificate"
                    );
                    *self = Self {
                        shown: Some(shown),
                        ..Self::default()
                    };
                }
                Err(error) => {
                    wait = FIRST_RETRY
                        .saturating_mul(1 << self.failures.min(9))
                        .min(LAST_RETRY);
                    self.failures = self.failures.saturating_add(1);
                    counted(IssuanceOutcome::Failed);
                    let fault = error.to_string();
                    if self.fault.as_ref() != Some(&fault) {
                        tracing::error!(
                            error = fault,
                            until = self.shown.as_ref().map(|s| s.not_after.to_string()),
                            "could not renew the endpoint's certificate; keeping the current one"
                        );
                        self.fault = Some(fault);
                    }
                }
            }
        }
        let valid = |shown: &Shown| (shown.not_before..=shown.not_after).contains(&now);
        context.ready.set(self.shown.as_ref().is_some_and(valid));
        let failed = self.fault.as_ref().map(|_| "IssueFailed");
        context.ready.because(fault.or(failed));
        match &self.shown {
            Some(shown) if self.fault.is_none() => {
                let left = shown.renewal.duration_since(now);
                wait.min(Duration::try_from(left).unwrap_or_default() + Duration::from_millis(5))
            }
            _ => wait,
        }
    }
}

fn due(
    shown: Option<&Shown>,
    authority: &Authority,
    trusted: &[CertificateDer<'static>],
    now: Timestamp,
) -> Option<Cause> {
    match shown {
        None => Some(Cause::New),
        Some(shown) if shown.issuer != authority.fingerprint() || shown.trusted != trusted => {
            Some(Cause::AuthorityChanged)
        }
        Some(shown) if shown.renewal <= now => Some(Cause::RenewalTime),
        // It was issued by a clock that was ahead.
        Some(shown) if now < shown.not_before => Some(Cause::NotYetValid),
        Some(_) => None,
    }
}

fn renew(
    authority: &Authority,
    trusted: &[CertificateDer<'static>],
    names: &[String],
    now: Timestamp,
    jitter: f64,
) -> Result<(Trust, Shown), EndpointError> {
    let leaf = ServerLeaf {
        names: names.to_vec(),
        duration: DURATION,
    };
    let issued = authority.issue_server(&leaf, now, rand::random())?;
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.expose_secret().as_bytes())?;
    let root = std::slice::from_ref(authority.root());
    verify_chain(&chain, root, Purpose::Server, now)?;
    let leaf = chain.first().ok_or(VerifyError::Empty)?;
    for name in names {
        verify_name(leaf, &name.replacen('*', "any", 1))?;
    }
    if !public_key_matches(leaf, &key) {
        return Err(EndpointError::KeyMismatch);
    }
    // Those that sign as anchors, not their roots: a company's root vouches for others too.
    let trust = Trust::new(chain, key, trusted.iter().cloned())?;
    let shown = Shown {
        trusted: trusted.to_vec(),
        issuer: issued.issuer,
        not_before: issued.not_before,
        not_after: issued.not_after,
        renewal: renewal_time(issued.not_before, issued.not_after, None, jitter),
    };
    Ok((trust, shown))
}

/// Ends when something else is in use; never, if nothing else will be.
async fn changed(in_use: &mut watch::Receiver<Arc<InUse>>) {
    if in_use.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
#[path = "endpoint_tests.rs"]
mod tests;
