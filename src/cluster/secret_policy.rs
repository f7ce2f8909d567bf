//! Whether the admission policy confines our writes to Secrets.
//!
//! Installed in one go, policies come after the operator, and a new one is not in force at once: so
//! it is asked about until it is. Until then a Secret that exists already is never overwritten, not
//! even our own after a crash. And since a policy can be removed at any time, it is asked about once
//! more before each such write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::Client;
use tokio_util::sync::CancellationToken;

use super::secrets::{SecretError, is_policy_in_force};

/// How often a policy that was not there is asked about.
const PAUSE: Duration = Duration::from_secs(10);

/// What is known about the policy; clones know the same.
#[derive(Clone, Debug, Default)]
pub struct PolicyProbe {
    /// The operator's namespace, where it is asked about.
    namespace: String,
    stood: Arc<AtomicBool>,
}

impl PolicyProbe {
    /// Asks once.
    pub async fn probe(client: &Client, namespace: &str) -> Result<Self, SecretError> {
        let policy = Self {
            namespace: namespace.to_owned(),
            ..Self::default()
        };
        policy.ask(client).await?;
        Ok(policy)
    }

    /// As it was when it was last asked about.
    #[cfg(test)]
    pub fn known(stood: bool) -> Self {
        Self {
            namespace: "ml".to_owned(),
            stood: Arc::new(stood.into()),
        }
    }

    /// Whether the policy was in force when it was last asked about, and still is. Where it was not,
    /// nothing is asked: [`PolicyProbe::watch`] does.
    pub async fn stands(&self, client: &Client) -> Result<bool, SecretError> {
        Ok(self.stood() && self.ask(client).await?)
    }

    /// Asks from time to time while it is not in force, until `shutdown`.
    pub async fn watch(self, client: Client, shutdown: CancellationToken) {
        let mut told = true;
        loop {
            match (self.stood(), told) {
                (true, false) => tracing::info!("the admission policy is in force"),
                (false, true) => tracing::warn!(
                    "the admission policy that confines this operator's Secrets is not in force (config/policies): a Secret that exists already is never overwritten, not even our own after a crash"
                ),
                _ => {}
            }
            told = self.stood();
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = shutdown.cancelled() => return,
            }
            if !self.stood()
                && let Err(error) = self.ask(&client).await
            {
                tracing::debug!(%error, "cannot ask about the admission policy");
            }
        }
    }

    fn stood(&self) -> bool {
        self.stood.load(Ordering::Acquire)
    }

    async fn ask(&self, client: &Client) -> Result<bool, SecretError> {
        let stands = is_policy_in_force(client, &self.namespace).await?;
        self.stood.store(stands, Ordering::Release);
        Ok(stands)
    }
}
