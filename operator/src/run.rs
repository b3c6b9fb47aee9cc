//! From start to stop.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::api::Clients;
use crate::brokers::HttpBrokers;
use crate::controller::{self, Context};
use crate::http::{self, Health};
use crate::leader::{Claim, Leadership};
use crate::options::{LogFormat, Options};

/// For what has begun when the process is to stop. With the time to give the Lease back less than the half minute that Kubernetes gives it.
const FINISH: Duration = Duration::from_secs(15);

/// Why the operator ends.
#[derive(Debug, Error)]
pub enum RunError {
    /// What is to be logged cannot be understood.
    #[error("--log {filter}: {reason}")]
    Log {
        /// As it was given.
        filter: String,
        /// What is wrong.
        reason: String,
    },
    /// Logging was set up before.
    #[error("logging was set up twice: {0}")]
    LogTwice(Box<dyn std::error::Error + Send + Sync>),
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(std::io::Error),
    /// The address of the probes is taken, say.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// There is no API server.
    #[error("cannot reach the API server: {0}")]
    Client(Box<kube::Error>),
    /// The Lease cannot be had.
    #[error("cannot take part in the election: {0}")]
    Lease(#[from] kube_lease_manager::LeaseManagerError),
    /// The operator that was asked is not ready.
    #[error(transparent)]
    Probe(#[from] crate::probe::ProbeError),
    /// Another one acts by now: this process must not go on.
    #[error("the lease was lost; the process ends so that it starts afresh")]
    Deposed,
}

/// Runs until a signal.
///
/// # Errors
/// [`RunError`].
pub async fn run(options: Options) -> Result<(), RunError> {
    if let Some(address) = &options.probe {
        return Ok(crate::probe::probe(address).await?);
    }
    log(&options)?;
    let stop = stop_on_signals()?;
    let clients = Clients::infer().await.map_err(|error| RunError::Client(Box::new(error)))?;
    let claim = options
        .lease_namespace
        .as_ref()
        .map(|namespace| Claim::new(clients.lease.clone(), namespace, &options.lease, &options.identity));
    let (image, identity) = (options.broker_image.clone(), options.identity.clone());
    let context = Context::new(clients.requests.clone(), Arc::new(HttpBrokers), image, Some(identity))
        .with_watches(clients.watches.clone())
        .with_claim(claim.clone());
    let context = Arc::new(context);
    let (health, probed) = watch::channel(Health::Starting);
    http::serve(options.listen, Arc::clone(&context.metrics), Arc::clone(&context.progress), probed)
        .await
        .map_err(|source| RunError::Listen { address: options.listen, source })?;
    let version = clients.requests.apiserver_version().await.map_err(|error| RunError::Client(Box::new(error)))?;
    health.send_replace(Health::Ready);
    tracing::info!(operator = env!("CARGO_PKG_VERSION"), kubernetes = version.git_version, "started");
    match claim {
        None => act(&context, &options, stop).await,
        Some(claim) => {
            let leadership = Leadership::join(clients.lease, claim).await?;
            elected(&context, &options, stop, leadership).await?;
        }
    }
    tracing::info!("stopped");
    Ok(())
}

/// Acts while the Lease is held.
async fn elected(
    context: &Arc<Context>,
    options: &Options,
    mut stop: watch::Receiver<bool>,
    mut leadership: Leadership,
) -> Result<(), RunError> {
    tracing::info!("waiting for the lease");
    let gained = tokio::select! {
        gained = leadership.gained() => gained,
        _ = stop.wait_for(|stop| *stop) => false,
    };
    if gained {
        tokio::select! {
            () = act(context, options, stop.clone()) => {}
            // Without finishing what has begun: another one has begun as well.
            () = leadership.lost(&context.progress) => return Err(RunError::Deposed),
        }
    }
    leadership.release().await;
    Ok(())
}

async fn act(context: &Arc<Context>, options: &Options, stop: watch::Receiver<bool>) {
    let namespaces = options.namespaces();
    tracing::info!(?namespaces, "looking after clusters");
    context.metrics.set_leader(true);
    let running = controller::run(Arc::clone(context), &namespaces, stop.clone());
    if !until_stopped(running, stop, FINISH).await {
        tracing::warn!("not all that had begun was finished in time; the next operator goes on from what is");
    }
    context.metrics.set_leader(false);
}

/// Runs this to its end, but once it is to stop no longer than that. Whether it came to its end.
async fn until_stopped(running: impl Future<Output = ()>, mut stop: watch::Receiver<bool>, finish: Duration) -> bool {
    let late = async {
        if stop.wait_for(|stop| *stop).await.is_err() {
            // Nobody is left who could ask for it.
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(finish).await;
    };
    tokio::select! {
        () = running => true,
        () = late => false,
    }
}

fn log(options: &Options) -> Result<(), RunError> {
    let wrong =
        |error: &dyn std::fmt::Display| RunError::Log { filter: options.log.clone(), reason: error.to_string() };
    let filter = EnvFilter::builder().parse(&options.log).map_err(|error| wrong(&error))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Text => subscriber.with_ansi(false).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).with_span_list(false).try_init(),
    }
    .map_err(RunError::LogTwice)
}

/// True from the first SIGTERM or SIGINT on.
fn stop_on_signals() -> Result<watch::Receiver<bool>, RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        sender.send_replace(true);
        // Kept: a channel without its sender would read as one that never stops.
        std::future::pending::<()>().await;
    });
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_hangs_is_left_when_the_process_is_to_stop() {
        let (sender, stop) = watch::channel(false);
        let hanging = tokio::spawn(until_stopped(std::future::pending(), stop.clone(), FINISH));
        let mut stopping = stop.clone();
        let gently = async move { stopping.wait_for(|stop| *stop).await.map(drop).unwrap() };
        let gently = tokio::spawn(until_stopped(gently, stop, FINISH));
        tokio::time::sleep(FINISH * 10).await;
        assert!(!hanging.is_finished() && !gently.is_finished());
        sender.send_replace(true);
        let begun = tokio::time::Instant::now();
        assert!(gently.await.unwrap());
        assert!(!hanging.await.unwrap());
        assert_eq!(begun.elapsed().as_secs(), FINISH.as_secs());
    }
}
