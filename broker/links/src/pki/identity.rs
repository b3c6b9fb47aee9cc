//! Names of nodes and clients in certificates.

use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::PkiError;

/// Under which nodes are named: `NODE.CLUSTER.nodes.raftmq.io`.
pub const NODE_DOMAIN: &str = "nodes.raftmq.io";
pub(super) const CONTROL_URI: &str = "raftmq:control:";

/// A name that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{name:?} cannot be the name of a {what}: {rule}")]
pub struct NameError {
    /// Node, cluster or client.
    pub what: &'static str,
    /// The name.
    pub name: String,
    /// What is allowed.
    pub rule: &'static str,
}

/// One DNS label: lower-case letters, digits and hyphens inside, at most 63.
pub fn check_node_name(name: &str) -> Result<(), NameError> {
    if is_label(name) {
        return Ok(());
    }
    Err(NameError { what: "node", name: name.to_owned(), rule: "1 to 63 lower-case letters, digits and inner hyphens" })
}

/// DNS labels joined by dots, at most 150 characters.
pub fn check_cluster_name(name: &str) -> Result<(), NameError> {
    if name.len() <= 150 && name.split('.').all(is_label) {
        return Ok(());
    }
    Err(NameError {
        what: "cluster",
        name: name.to_owned(),
        rule: "lower-case letters, digits and inner hyphens, dots between such labels, at most 150",
    })
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// The DNS name that a node's certificate must hold.
pub fn node_dns_name(cluster: &str, node: &str) -> Result<String, NameError> {
    check_cluster_name(cluster)?;
    check_node_name(node)?;
    Ok(format!("{node}.{cluster}.{NODE_DOMAIN}"))
}

/// Whom a certificate names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertIdentity {
    /// (node, cluster) of each name of the shape `NODE.CLUSTER.nodes.raftmq.io`; the node is `*` in a wildcard.
    pub nodes: Vec<(String, String)>,
    /// The name of a client of the control API.
    pub control: Option<String>,
}

impl CertIdentity {
    /// Reads the subject alternative names of a certificate, whose chain rustls has checked.
    pub fn from_der(certificate: &[u8]) -> Result<Self, PkiError> {
        let malformed = |error: String| PkiError::Certificate(error);
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|e| malformed(e.to_string()))?;
        let mut identity = CertIdentity::default();
        let names = parsed.subject_alternative_name().map_err(|e| malformed(e.to_string()))?;
        for name in names.iter().flat_map(|san| &san.value.general_names) {
            match name {
                GeneralName::DNSName(dns) => identity.nodes.extend(parse_node_name(dns)),
                GeneralName::URI(uri) => {
                    if let Some(client) = uri.strip_prefix(CONTROL_URI) {
                        identity.control = Some(client.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(identity)
    }

    /// Whether the certificate may speak for this node of this cluster.
    pub fn is_node(&self, cluster: &str, node: &str) -> bool {
        self.nodes.iter().any(|(n, c)| c == cluster && (n == node || n == "*"))
    }

    /// Whether it names any node of this cluster.
    pub fn is_member_of(&self, cluster: &str) -> bool {
        self.nodes.iter().any(|(_, c)| c == cluster)
    }
}

fn parse_node_name(dns: &str) -> Option<(String, String)> {
    let dns = dns.to_ascii_lowercase();
    let (node, cluster) = dns.strip_suffix(NODE_DOMAIN)?.strip_suffix('.')?.split_once('.')?;
    if (node == "*" || check_node_name(node).is_ok()) && check_cluster_name(cluster).is_ok() {
        Some((node.to_owned(), cluster.to_owned()))
    } else {
        None
    }
}
