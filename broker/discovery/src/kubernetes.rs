//! The Kubernetes strategy: a watch on the EndpointSlices of the headless Service.
//!
//! Endpoints that are not ready count as peers, whatever the Service's `publishNotReadyAddresses` says:
//! a node becomes ready only *after* it found the others. Terminating ones count too, until their pod
//! is gone: they still know the cluster.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Config};
use tokio::sync::Notify;
use tracing::debug;

use crate::address::HostPort;
use crate::peers::{Peer, Publisher};
use crate::settings::KubernetesSettings;

/// The label that ties a slice to its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// A connection that says nothing for so long is dead. The API server ends a watch sooner (290 s).
const READ_TIMEOUT: Duration = Duration::from_secs(300);
/// The pause after the first failure to make a client; it doubles with each one.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest such pause.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Watches until it is aborted.
pub(crate) async fn run(settings: KubernetesSettings, publisher: Publisher, now: Arc<Notify>) {
    let mut pause = FIRST_RETRY;
    let api = loop {
        match connect(&settings).await {
            Ok(api) => break api,
            Err(error) => publisher.failed(error),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_RETRY),
            () = now.notified() => {}
        }
    };
    let selector = format!("{SERVICE_LABEL}={}", settings.service);
    loop {
        let config = watcher::Config::default().labels(&selector);
        let mut events = pin!(watcher(api.clone(), config).default_backoff());
        let mut slices = Slices::new(&settings);
        // The stream reconnects by itself and does not end.
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    if slices.take(event) {
                        publisher.succeeded(slices.peers());
                    }
                }
                Err(error) => publisher.failed(describe(&error)),
            }
        }
        tokio::time::sleep(FIRST_RETRY).await;
    }
}

async fn connect(settings: &KubernetesSettings) -> Result<Api<EndpointSlice>, String> {
    let mut config = match &settings.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| describe(&error))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|error| describe(&error))?
        }
        None => Config::infer().await.map_err(|error| describe(&error))?,
    };
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    let client = Client::try_from(config).map_err(|error| describe(&error))?;
    Ok(match &settings.namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::default_namespaced(client),
    })
}

/// An error with its causes, each once.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// The slices of the Service as the watch has told them.
struct Slices {
    port_name: String,
    /// Service and domain for addresses by name.
    names: Option<(String, String)>,
    known: BTreeMap<String, Vec<Peer>>,
    /// The list that is being read; it replaces `known` when it is complete.
    listing: Option<BTreeMap<String, Vec<Peer>>>,
}

impl Slices {
    fn new(settings: &KubernetesSettings) -> Self {
        let domain = settings.cluster_domain.as_deref();
        Self {
            port_name: settings.port_name.clone(),
            names: domain.map(|domain| (settings.service.clone(), domain.to_owned())),
            known: BTreeMap::new(),
            listing: None,
        }
    }

    /// Takes an event in, and says whether there is something to publish.
    fn take(&mut self, event: Event<EndpointSlice>) -> bool {
        match event {
            Event::Init => {
                self.listing = Some(BTreeMap::new());
                false
            }
            Event::InitApply(slice) => {
                let (name, peers) = self.read(&slice);
                self.listing.get_or_insert_default().insert(name, peers);
                false
            }
            Event::InitDone => {
                self.known = self.listing.take().unwrap_or_default();
                true
            }
            Event::Apply(slice) => {
                let (name, peers) = self.read(&slice);
                self.known.insert(name, peers);
                true
            }
            Event::Delete(slice) => {
                let name = slice.metadata.name.unwrap_or_default();
                self.known.remove(&name);
                true
            }
        }
    }

    fn peers(&self) -> Vec<Peer> {
        self.known.values().flatten().cloned().collect()
    }

    /// The name by which cluster DNS knows an endpoint of a headless Service.
    fn host_name(&self, slice: &EndpointSlice, endpoint: &Endpoint) -> Option<String> {
        let (service, domain) = self.names.as_ref()?;
        let hostname = endpoint.hostname.as_ref()?;
        let namespace = slice.metadata.namespace.as_ref()?;
        Some(format!("{hostname}.{service}.{namespace}.svc.{domain}"))
    }

    fn read(&self, slice: &EndpointSlice) -> (String, Vec<Peer>) {
        let name = slice.metadata.name.clone().unwrap_or_default();
        let port = slice
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(self.port_name.as_str()))
            .and_then(|port| u16::try_from(port.port?).ok())
            .filter(|port| *port > 0);
        let Some(port) = port else {
            if !slice.endpoints.is_empty() {
                debug!(slice = name, port = self.port_name, "an EndpointSlice has no such port");
            }
            return (name, Vec::new());
        };
        let peers = slice.endpoints.iter().filter_map(|endpoint| {
            // All addresses of one endpoint are equal in meaning, and consumers shall use the first
            // (EndpointSlice API, `addresses`).
            let ip = endpoint.addresses.first()?.clone();
            let host = self.host_name(slice, endpoint).unwrap_or(ip);
            let address = HostPort { host, port }.to_string();
            let address = address.parse::<HostPort>().ok()?.to_string();
            let pod = endpoint.target_ref.as_ref();
            let node = endpoint
                .hostname
                .clone()
                .or_else(|| pod.filter(|target| target.kind.as_deref() == Some("Pod"))?.name.clone());
            Some(Peer { address, node })
        });
        (name, peers.collect())
    }
}

#[cfg(test)]
#[path = "kubernetes_tests.rs"]
mod tests;
