//! The command line.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use clap::{Parser, ValueEnum};

/// Runs MqttCluster resources on Kubernetes
///
/// It finds the API server by the service account of its pod, or by KUBECONFIG. It stops on SIGTERM or Ctrl-C, and the
/// clusters run on without it.
#[derive(Clone, Debug, Parser)]
#[command(name = "raftmq-operator", version)]
pub struct Options {
    /// Namespaces to look after, separated by commas; none: all
    #[arg(long, env = "RAFTMQ_OPERATOR_NAMESPACES", value_delimiter = ',', value_name = "NAMESPACE")]
    pub namespaces: Vec<String>,
    /// Image of brokers whose MqttCluster names none
    #[arg(long, env = "RAFTMQ_OPERATOR_BROKER_IMAGE", default_value_t = default_image(), value_name = "IMAGE")]
    pub broker_image: String,
    /// Where /healthz, /readyz and /metrics are
    #[arg(long, env = "RAFTMQ_OPERATOR_LISTEN", default_value = "0.0.0.0:8080", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Namespace of the Lease by which one of several operators acts; none: this one always acts
    #[arg(long, env = "RAFTMQ_OPERATOR_LEASE_NAMESPACE", value_name = "NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// Name of that Lease
    #[arg(long, env = "RAFTMQ_OPERATOR_LEASE", default_value = "raftmq-operator", value_name = "NAME")]
    pub lease: String,
    /// Name of this process among all operators, such as its pod's
    #[arg(long, env = "POD_NAME", default_value = "raftmq-operator", value_name = "NAME")]
    pub identity: String,
    /// What is logged: a level, or levels of modules, as info,kube=debug
    #[arg(long, env = "RAFTMQ_OPERATOR_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// How it is logged
    #[arg(long, env = "RAFTMQ_OPERATOR_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
    /// Ask the operator at this address whether it is ready, and end
    #[arg(long, value_name = "HOST:PORT")]
    pub probe: Option<String>,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line of text an event.
    Text,
    /// A JSON object an event.
    Json,
}

/// The image that was released with this operator.
fn default_image() -> String {
    concat!("ghcr.io/raftmq/raftmq:", env!("CARGO_PKG_VERSION")).to_owned()
}

impl Options {
    /// The namespaces, each once and without empty ones: an empty variable of the environment means all.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        let named: BTreeSet<&str> = self.namespaces.iter().map(|n| n.trim()).filter(|n| !n.is_empty()).collect();
        named.into_iter().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Options::command().debug_assert();
        let options = Options::try_parse_from(["raftmq-operator", "--namespaces", "a, b,,a"]).unwrap();
        assert_eq!(options.namespaces(), ["a", "b"]);
        assert!(options.broker_image.starts_with("ghcr.io/raftmq/raftmq:"));
        let options = Options::try_parse_from(["raftmq-operator", "--namespaces", ""]).unwrap();
        assert!(options.namespaces().is_empty());
    }
}
