//! Who is at the other end.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use bytes::Buf;
use thiserror::Error;

use crate::pki::{self, CertIdentity};

/// Protocol versions that this build speaks.
pub(crate) const PROTOCOL: RangeInclusive<u16> = 1..=1;

/// What a node says about itself at the start of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Lowest and highest protocol version spoken; filled in by [`Hello::new`].
    pub versions: (u16, u16),
    /// Name of the cluster: DNS labels.
    pub cluster: String,
    /// Name of the node: one DNS label.
    pub node: String,
    /// Random number of the data directory.
    pub incarnation: u128,
    /// Start counter of the data directory.
    pub boot: u64,
    /// Raft id, 0 when it has none yet.
    pub raft_id: u64,
    /// Highest feature level that the node's build can switch on.
    pub feature_level: u32,
}

impl Hello {
    /// A Hello of this build, without a Raft id.
    pub fn new(cluster: impl Into<String>, node: impl Into<String>, incarnation: u128, boot: u64) -> Self {
        Hello {
            versions: (*PROTOCOL.start(), *PROTOCOL.end()),
            cluster: cluster.into(),
            node: node.into(),
            incarnation,
            boot,
            raft_id: 0,
            feature_level: 0,
        }
    }

    /// Same process of the same node: what may not change over a connection.
    pub fn same_boot(&self, other: &Hello) -> bool {
        self.cluster == other.cluster
            && self.node == other.node
            && self.incarnation == other.incarnation
            && self.boot == other.boot
    }
}

/// Which side dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The peer dialled this node.
    Inbound,
    /// This node dialled the peer.
    Outbound,
}

/// A peer as seen on one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerHello {
    /// What it said; node and cluster agree with its certificate.
    pub hello: Hello,
    /// Which side dialled.
    pub direction: Direction,
    /// The socket at its end.
    pub remote: SocketAddr,
    /// The advertised address that was dialled; none for inbound connections.
    pub address: Option<String>,
}

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalCode {
    /// No common protocol version.
    Version,
    /// Another cluster.
    Cluster,
    /// The certificate does not name the node.
    Certificate,
    /// The owner of the links said no.
    Handler,
    /// Too many connections.
    Busy,
    /// The Hello or the opening of the stream makes no sense.
    Protocol,
}

/// Why a peer is not talked to. The reason is told to the peer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct Refusal {
    /// What it is about.
    pub code: RefusalCode,
    /// For people; up to 512 bytes are sent.
    pub reason: String,
}

impl Refusal {
    /// A refusal by the owner of the links.
    pub fn new(reason: impl Into<String>) -> Self {
        Refusal { code: RefusalCode::Handler, reason: reason.into() }
    }
}

/// What is wrong with a Hello.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HelloError {
    /// A name that cannot be part of a DNS name.
    #[error(transparent)]
    Name(#[from] pki::NameError),
    /// [`Links::set_hello`](crate::Links::set_hello) was given another node, cluster, incarnation or boot.
    #[error("cluster, node, incarnation and boot cannot change while links run")]
    Changed,
    /// Fewer or other bytes than a Hello has.
    #[error("malformed hello: {0}")]
    Malformed(&'static str),
}

impl Hello {
    pub(crate) fn check(&self) -> Result<(), HelloError> {
        pki::check_cluster_name(&self.cluster)?;
        pki::check_node_name(&self.node)?;
        Ok(())
    }

    /// Layout, fixed for all versions (later ones add at the end): versions 2 × u16, incarnation u128, boot u64, Raft id
    /// u64, feature level u32, then cluster and node, each a length in one byte and the text. Little-endian.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.cluster.len() + self.node.len());
        out.extend_from_slice(&self.versions.0.to_le_bytes());
        out.extend_from_slice(&self.versions.1.to_le_bytes());
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        out.extend_from_slice(&self.boot.to_le_bytes());
        out.extend_from_slice(&self.raft_id.to_le_bytes());
        out.extend_from_slice(&self.feature_level.to_le_bytes());
        for name in [&self.cluster, &self.node] {
            out.push(u8::try_from(name.len()).expect("names were checked to be shorter than 256"));
            out.extend_from_slice(name.as_bytes());
        }
        out
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Self, HelloError> {
        const FIXED: usize = 2 + 2 + 16 + 8 + 8 + 4;
        if bytes.len() < FIXED {
            return Err(HelloError::Malformed("too short"));
        }
        let mut hello = Hello {
            versions: (bytes.get_u16_le(), bytes.get_u16_le()),
            incarnation: bytes.get_u128_le(),
            boot: bytes.get_u64_le(),
            raft_id: bytes.get_u64_le(),
            feature_level: bytes.get_u32_le(),
            cluster: String::new(),
            node: String::new(),
        };
        for name in [&mut hello.cluster, &mut hello.node] {
            let (len, rest) = bytes.split_first().ok_or(HelloError::Malformed("a name is missing"))?;
            let (text, rest) =
                rest.split_at_checked(usize::from(*len)).ok_or(HelloError::Malformed("a name is cut off"))?;
            *name = std::str::from_utf8(text).map_err(|_| HelloError::Malformed("a name is not UTF-8"))?.to_owned();
            bytes = rest;
        }
        hello.check()?;
        Ok(hello)
    }

    /// Whether this node talks to `peer`, whose certificate names `identity`.
    pub(crate) fn judge(&self, peer: &Hello, identity: &CertIdentity) -> Result<(), Refusal> {
        let refuse = |code, reason| Err(Refusal { code, reason });
        if peer.versions.0.max(self.versions.0) > peer.versions.1.min(self.versions.1) {
            return refuse(
                RefusalCode::Version,
                format!(
                    "no common protocol version: {} speaks {} to {}, {} speaks {} to {}",
                    self.node, self.versions.0, self.versions.1, peer.node, peer.versions.0, peer.versions.1
                ),
            );
        }
        if peer.cluster != self.cluster {
            return refuse(
                RefusalCode::Cluster,
                format!("{} is of cluster {:?}, {} of {:?}", self.node, self.cluster, peer.node, peer.cluster),
            );
        }
        if !identity.is_node(&peer.cluster, &peer.node) {
            return refuse(
                RefusalCode::Certificate,
                format!(
                    "the certificate of {} does not name {}.{}.{}; it names {:?}",
                    peer.node,
                    peer.node,
                    peer.cluster,
                    pki::NODE_DOMAIN,
                    identity.nodes
                ),
            );
        }
        Ok(())
    }
}

impl Refusal {
    pub(crate) fn protocol(reason: impl Into<String>) -> Self {
        Refusal { code: RefusalCode::Protocol, reason: reason.into() }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut end = self.reason.len().min(512);
        while !self.reason.is_char_boundary(end) {
            end -= 1;
        }
        let mut out = vec![self.code as u8];
        out.extend_from_slice(&self.reason.as_bytes()[..end]);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Self {
        use RefusalCode::*;
        let (code, text) = bytes.split_first().unwrap_or((&u8::MAX, &[]));
        let code = [Version, Cluster, Certificate, Handler, Busy, Protocol]
            .into_iter()
            .find(|c| *c as u8 == *code)
            .unwrap_or(Protocol);
        // Goes to logs: nothing that could draw on a terminal.
        let reason =
            String::from_utf8_lossy(text).chars().map(|c| if c.is_control() { ' ' } else { c }).take(512).collect();
        Refusal { code, reason }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hello_round_trip(
            node in "[a-z0-9]{1,20}", cluster in "[a-z]{1,9}(\\.[a-z]{1,9})?",
            incarnation: u128, boot: u64, raft_id: u64, feature_level: u32, versions: (u16, u16),
        ) {
            let hello = Hello { versions, cluster, node, incarnation, boot, raft_id, feature_level };
            let mut wire = hello.encode();
            prop_assert_eq!(Hello::decode(&wire).unwrap(), hello.clone());
            wire.extend([1, 2, 3]);
            prop_assert_eq!(Hello::decode(&wire).unwrap(), hello, "what later versions add is passed over");
        }

        #[test]
        fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Hello::decode(&bytes);
            let _ = Refusal::decode(&bytes);
        }
    }

    #[test]
    fn judged_by_version_cluster_and_certificate() {
        let own = Hello::new("prod", "n0", 1, 1);
        let identity = |nodes: &[(&str, &str)]| CertIdentity {
            nodes: nodes.iter().map(|(n, c)| (n.to_string(), c.to_string())).collect(),
            control: None,
        };
        let good = identity(&[("n1", "prod")]);
        let peer = Hello::new("prod", "n1", 2, 1);
        let newer = Hello { versions: (2, 3), ..peer.clone() };
        let both = Hello { versions: (1, 3), ..peer.clone() };
        let other_cluster = Hello::new("test", "n1", 2, 1);
        let table = [
            (&peer, &good, None),
            (&both, &good, None),
            (&peer, &identity(&[("*", "prod")]), None),
            (&newer, &good, Some(RefusalCode::Version)),
            (&other_cluster, &good, Some(RefusalCode::Cluster)),
            (&peer, &identity(&[("n2", "prod")]), Some(RefusalCode::Certificate)),
            (&peer, &identity(&[("n1", "test")]), Some(RefusalCode::Certificate)),
            (&peer, &identity(&[]), Some(RefusalCode::Certificate)),
        ];
        for (hello, identity, expected) in table {
            let refusal = own.judge(hello, identity).err();
            assert_eq!(refusal.as_ref().map(|r| r.code), expected, "{hello:?} {identity:?}");
            if let Some(refusal) = refusal {
                assert_eq!(Refusal::decode(&refusal.encode()), refusal);
            }
        }
    }
}
