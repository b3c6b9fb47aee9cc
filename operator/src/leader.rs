//! One of several operators acts: a Lease of the API server says which.

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Seconds after which another may act when this one was not heard.
const DURATION: u64 = 15;
/// Seconds before that in which it is renewed.
const GRACE: u64 = 5;

/// A place in the queue for the Lease.
pub struct Leadership {
    state: watch::Receiver<bool>,
    task: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
}

impl Leadership {
    /// Takes the Lease when it is free, and keeps it. `identity` is unique, such as the pod's name.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn join(client: Client, namespace: &str, lease: &str, identity: &str) -> Result<Self, LeaseManagerError> {
        let manager = LeaseManagerBuilder::new(client, lease)
            .with_namespace(namespace)
            .with_identity(identity)
            .with_field_manager(format!("{}-{identity}", crate::FIELD_MANAGER))
            .with_duration(DURATION)
            .with_grace(GRACE)
            .build()
            .await?;
        let (state, task) = manager.watch().await;
        Ok(Self { state, task })
    }

    /// Returns when this process acts; `false` if it never will.
    pub async fn gained(&mut self) -> bool {
        self.state.wait_for(|leads| *leads).await.is_ok()
    }

    /// Returns when it no longer does.
    pub async fn lost(&mut self) {
        let _ = self.state.wait_for(|leads| !*leads).await;
    }

    /// Gives the Lease back, so that another one need not wait for its end.
    pub async fn release(self) {
        drop(self.state);
        match self.task.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the lease could not be given back; it ends by itself"),
            Err(error) => tracing::warn!(%error, "the lease's task failed"),
        }
    }
}
