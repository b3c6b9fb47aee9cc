//! One of several operators acts: a Lease of the API server says which.
//!
//! The library takes the Lease and renews it. Whether it is still held is read beside that, from the API server itself: the library holds on to
//! what it knows while its requests fail, and another operator goes by its own clock.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::progress::{Progress, SILENCE};

/// Seconds after which another may act when this one was not heard.
const DURATION: u64 = 15;
/// Seconds before that in which it is renewed: time for a second try.
const GRACE: u64 = 10;
/// How often it is read whether it is still held.
const LOOK: Duration = Duration::from_secs(3);
/// For giving it back. Without that it ends by itself, a little later.
const RELEASE: Duration = Duration::from_secs(5);

/// A place in the queue for the Lease.
pub struct Leadership {
    state: watch::Receiver<bool>,
    task: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
    claim: Claim,
}

impl Leadership {
    /// Takes the Lease when it is free, and keeps it.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn join(client: Client, claim: Claim) -> Result<Self, LeaseManagerError> {
        let manager = LeaseManagerBuilder::new(client, &claim.name)
            .with_namespace(&claim.namespace)
            .with_identity(&claim.identity)
            .with_field_manager(format!("{}-{}", crate::FIELD_MANAGER, claim.identity))
            .with_duration(DURATION)
            .with_grace(GRACE)
            .build()
            .await?;
        let (state, task) = manager.watch().await;
        Ok(Self { state, task, claim })
    }

    /// Returns when this process acts; `false` if it never will.
    pub async fn gained(&mut self) -> bool {
        self.state.wait_for(|leads| *leads).await.is_ok()
    }

    /// Returns when it no longer does: another one has the Lease, or may have.
    pub async fn lost(&mut self, progress: &Arc<Progress>) {
        tokio::select! {
            _ = self.state.wait_for(|leads| !*leads) => {}
            () = self.claim.ends(progress) => {}
        }
    }

    /// Gives the Lease back, so that another one need not wait for its end.
    pub async fn release(self) {
        drop(self.state);
        match timeout(RELEASE, self.task).await {
            Ok(Ok(Ok(_))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the lease could not be given back; it ends by itself"),
            Ok(Err(error)) => tracing::warn!(%error, "the lease's task failed"),
            Err(_) => tracing::warn!("the lease could not be given back in time; it ends by itself"),
        }
    }
}

/// The Lease, and who would hold it.
#[derive(Clone)]
pub struct Claim {
    api: Api<Lease>,
    namespace: String,
    name: String,
    identity: String,
}

impl Claim {
    /// `identity` is unique, such as the pod's name.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, namespace: namespace.into(), name: name.into(), identity: identity.into() }
    }

    /// Whether the API server says that this process holds the Lease, and that it has not ended.
    ///
    /// # Errors
    /// It does not say.
    pub async fn is_held(&self) -> Result<bool, kube::Error> {
        let asked = Instant::now();
        let mut term = Term { renewed: None, until: asked };
        let lease = self.api.get(&self.name).await?;
        Ok(term.hear(&lease, &self.identity, asked, Timestamp::now()) && Instant::now() < term.until)
    }

    /// Watches over the Lease from the moment on at which it is held. Returns when this process must not act any more: another one holds it, or
    /// for as long as it lasts nobody said that it was renewed.
    pub async fn ends(&self, progress: &Arc<Progress>) {
        let moves = progress.begin("what watches over the Lease", SILENCE);
        // The library may have taken a while to tell.
        let mut term = Term { renewed: None, until: Instant::now() + Duration::from_secs(DURATION - GRACE) };
        while Instant::now() < term.until {
            moves.beat();
            let asked = Instant::now();
            match timeout_at(term.until, self.api.get(&self.name)).await {
                Ok(Ok(lease)) if !term.hear(&lease, &self.identity, asked, Timestamp::now()) => {
                    let holder = lease.spec.and_then(|spec| spec.holder_identity);
                    return tracing::error!(?holder, "another one holds the lease");
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "cannot read the lease"),
                Err(_) => break,
            }
            sleep_until(term.until.min(asked + LOOK)).await;
        }
        tracing::error!("the lease was not renewed within {DURATION} s");
    }
}

/// How long this process may act.
struct Term {
    renewed: Option<Timestamp>,
    until: Instant,
}

impl Term {
    /// Takes in what was read, at `now` by the clock; `asked` is the moment before. Whether this process is the holder.
    ///
    /// The time of the renewal was written by this process, so that its own clock tells how long ago that was. When that clock is set back, what was
    /// not renewed still does not last longer.
    fn hear(&mut self, lease: &Lease, identity: &str, asked: Instant, now: Timestamp) -> bool {
        let Some(spec) = lease.spec.as_ref().filter(|spec| spec.holder_identity.as_deref() == Some(identity)) else {
            return false;
        };
        let Some(renewed) = spec.renew_time.as_ref().map(|time| time.0) else {
            return false;
        };
        let age = Duration::try_from(now.duration_since(renewed)).unwrap_or_default();
        let until = asked + Duration::from_secs(DURATION).saturating_sub(age);
        self.until = if self.renewed == Some(renewed) { self.until.min(until) } else { until };
        self.renewed = Some(renewed);
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    fn lease(holder: Option<&str>, renewed: Option<Timestamp>) -> Lease {
        let spec = LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            renew_time: renewed.map(MicroTime),
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    #[test]
    fn a_term_lasts_as_long_as_it_is_renewed() {
        let (start, clock) = (Instant::now(), Timestamp::now());
        let (at, time) = (|s| start + Duration::from_secs(s), |s: u64| clock + Duration::from_secs(s));
        let mut term = Term { renewed: None, until: at(5) };
        assert!(term.hear(&lease(Some("a"), Some(time(0))), "a", at(3), time(3)));
        assert_eq!(term.until, at(15));
        assert!(term.hear(&lease(Some("a"), Some(time(5))), "a", at(6), time(6)));
        assert_eq!(term.until, at(20));
        // It is not renewed, and the clock is set back.
        assert!(term.hear(&lease(Some("a"), Some(time(5))), "a", at(12), time(2)));
        assert_eq!(term.until, at(20));
        // The clock is set forward.
        assert!(term.hear(&lease(Some("a"), Some(time(5))), "a", at(13), time(300)));
        assert_eq!(term.until, at(13));
        // Somebody else's, nobody's, given back.
        for other in [lease(Some("b"), Some(time(14))), lease(None, Some(time(14))), lease(Some("a"), None)] {
            assert!(!term.hear(&other, "a", at(14), time(14)));
        }
        assert!(!term.hear(&Lease::default(), "a", at(14), time(14)));
    }
}
