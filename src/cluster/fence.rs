//! Whether the admission policy fences our writes to Secrets.
//!
//! Installed in one go, policies come after the operator, and a new one is not in force at once: so
//! it is asked about until it is. Until then a Secret that exists already is never overwritten, not
//! even our own after a crash.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::Client;
use tokio_util::sync::CancellationToken;

use super::secrets::{SecretError, is_fenced};

/// How often a policy that was not there is asked about.
const PAUSE: Duration = Duration::from_secs(10);

/// What is known about the fence; clones know the same.
#[derive(Clone, Debug, Default)]
pub struct Fence(Arc<AtomicBool>);

impl Fence {
    /// Asks once.
    pub async fn probe(client: &Client, namespace: &str) -> Result<Self, SecretError> {
        let fence = Self::default();
        fence.ask(client, namespace).await?;
        Ok(fence)
    }

    /// Whether the policy is in force.
    pub fn stands(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Asks until it stands, then waits for `shutdown`.
    pub async fn watch(self, client: Client, namespace: String, shutdown: CancellationToken) {
        if !self.stands() {
            tracing::warn!(
                "the admission policy that fences this operator's Secrets is not in force (config/policies): a Secret that exists already is never overwritten, not even our own after a crash"
            );
        }
        while !self.stands() {
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = shutdown.cancelled() => return,
            }
            match self.ask(&client, &namespace).await {
                Ok(()) if self.stands() => tracing::info!("the admission policy is in force"),
                Ok(()) => {}
                Err(error) => tracing::debug!(%error, "cannot ask about the admission policy"),
            }
        }
        shutdown.cancelled().await;
    }

    async fn ask(&self, client: &Client, namespace: &str) -> Result<(), SecretError> {
        let stands = is_fenced(client, namespace).await?;
        self.0.store(stands, Ordering::Release);
        Ok(())
    }
}
