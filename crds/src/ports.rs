//! Which ports the local nodes of `raftmq up` use.

use std::fmt;

use crate::MqttClusterSpec;

/// Local nodes with fixed ports. Those after them use free ports.
pub const FIXED_NODES: usize = 5;

/// The ports of the first local node. Each next node adds 1,000 to a listener's port, 10,000 to HTTP, 100 to metrics
/// and 100 to links: MQTT 1883, 2883, 3883, 4883, 5883; HTTP 18083, 28083, …, 58083; metrics 9100, 9200, …, 9500;
/// links 9883, 9983, …, 10283.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPlan {
    /// One for each listener of the spec, in its order.
    pub listeners: Vec<u16>,
    /// HTTP API and control API.
    pub http: u16,
    /// Metrics and health.
    pub metrics: u16,
    /// Node links.
    pub links: u16,
}

/// The ports of one local node; `None` is a free port that the starter picks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPorts {
    /// One for each listener of the spec, in its order.
    pub listeners: Vec<Option<u16>>,
    /// HTTP API and control API.
    pub http: Option<u16>,
    /// Metrics and health.
    pub metrics: Option<u16>,
    /// Node links.
    pub links: Option<u16>,
}

/// Two sockets of the plan want one port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("port {port} is wanted by {first} and by {second}; give one of them another port")]
pub struct PortClash {
    /// The port.
    pub port: u16,
    /// Who wants it, as `node 0 listener mqtt`.
    pub first: String,
    /// Who wants it as well.
    pub second: String,
}

impl PortPlan {
    /// The plan that a spec gives by itself: its listeners' ports and metrics port, 18083 and 9883.
    #[must_use]
    pub fn of(spec: &MqttClusterSpec) -> Self {
        Self {
            listeners: spec.listeners.iter().map(|l| l.port).collect(),
            http: 18083,
            metrics: spec.metrics.port,
            links: raftmq_config::Links::DEFAULT_PORT,
        }
    }

    /// The ports of all nodes. A listener of a further node that would have the port of something else than a listener uses a free
    /// one: 8883 and 8083, which people use, would meet the links' ports.
    ///
    /// # Errors
    /// [`PortClash`] where two sockets, of one node or of two, would want the same port.
    pub fn nodes(&self, replicas: usize) -> Result<Vec<LocalPorts>, PortClash> {
        let mut nodes: Vec<_> = (0..replicas).map(|ordinal| self.node(ordinal)).collect();
        let own: Vec<_> = nodes.iter().flat_map(|node| [node.http, node.metrics, node.links]).flatten().collect();
        for listener in nodes.iter_mut().skip(1).flat_map(|node| &mut node.listeners) {
            *listener = listener.filter(|port| !own.contains(port));
        }
        let mut taken: Vec<(u16, String)> = Vec::new();
        for (ordinal, node) in nodes.iter().enumerate() {
            for (port, socket) in node.named() {
                let Some(port) = port else { continue };
                let socket = format!("node {ordinal} {socket}");
                if let Some((_, first)) = taken.iter().find(|(other, _)| *other == port) {
                    return Err(PortClash { port, first: first.clone(), second: socket });
                }
                taken.push((port, socket));
            }
        }
        Ok(nodes)
    }

    fn node(&self, ordinal: usize) -> LocalPorts {
        let port = |first: u16, step: usize| {
            if ordinal >= FIXED_NODES || first == 0 {
                return None;
            }
            // Past the last port there is none to be fixed: a free one.
            u16::try_from(usize::from(first) + ordinal * step).ok()
        };
        LocalPorts {
            listeners: self.listeners.iter().map(|first| port(*first, 1000)).collect(),
            http: port(self.http, 10_000),
            metrics: port(self.metrics, 100),
            links: port(self.links, 100),
        }
    }
}

/// A socket of a node, for messages.
enum Socket {
    Listener(usize),
    Http,
    Metrics,
    Links,
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listener(index) => write!(f, "listener {index}"),
            Self::Http => f.write_str("HTTP"),
            Self::Metrics => f.write_str("metrics"),
            Self::Links => f.write_str("links"),
        }
    }
}

impl LocalPorts {
    /// Replaces each `None` by a port from `free`.
    ///
    /// # Errors
    /// That of `free`.
    pub fn fill<E>(&mut self, mut free: impl FnMut() -> Result<u16, E>) -> Result<(), E> {
        let all = self.listeners.iter_mut().chain([&mut self.http, &mut self.metrics, &mut self.links]);
        for port in all {
            if port.is_none() {
                *port = Some(free()?);
            }
        }
        Ok(())
    }

    fn named(&self) -> impl Iterator<Item = (Option<u16>, Socket)> {
        let listeners = self.listeners.iter().enumerate();
        listeners.map(|(index, port)| (*port, Socket::Listener(index))).chain([
            (self.http, Socket::Http),
            (self.metrics, Socket::Metrics),
            (self.links, Socket::Links),
        ])
    }
}
