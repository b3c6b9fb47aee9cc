//! Certificates: a CA a cluster, a certificate a node, certificates for those who use the control API.
//!
//! | Certificate | Names | Extended key usage | Valid |
//! |---|---|---|---|
//! | CA | CN `RaftMQ CLUSTER CA` | – (signs only, no CA below it) | 10 years |
//! | node | DNS `NODE.CLUSTER.nodes.raftmq.io`, then what was asked for | server and client | 1 year |
//! | control client | URI `raftmq:control:NAME` | client | 1 year |
//!
//! All are back-dated by an hour, for clocks that differ. Keys are ECDSA P-256; the caller writes them to disk.
//! Certificates from elsewhere work when they carry the same names; `*.CLUSTER.nodes.raftmq.io` fits every node of a cluster.

mod ca;
mod identity;
mod tls;

pub use ca::{ClusterCa, Issued};
pub use identity::{CertIdentity, NODE_DOMAIN, NameError, check_cluster_name, check_node_name, node_dns_name};
pub use tls::{SecretPem, TlsMaterial, client_config, server_config};

use thiserror::Error;

/// What is wrong with a certificate, key or CA.
#[derive(Debug, Error)]
pub enum PkiError {
    /// A name that cannot be in a certificate of ours.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A subject alternative name that is neither an address nor a DNS name.
    #[error("{0:?} is neither an IP address nor a DNS name")]
    San(String),
    /// Making or signing a certificate failed.
    #[error("cannot make the certificate: {0}")]
    Issue(#[from] rcgen::Error),
    /// PEM text that holds nothing usable. Never shows the text.
    #[error("the {what} is not usable PEM: {reason}")]
    Pem {
        /// CA, certificate or key.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// rustls does not take it: the key does not fit the certificate, say.
    #[error("the TLS material cannot be used: {0}")]
    Tls(#[from] rustls::Error),
    /// A certificate that cannot be parsed.
    #[error("a certificate cannot be parsed: {0}")]
    Certificate(String),
}
