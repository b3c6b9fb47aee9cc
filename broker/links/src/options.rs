//! What a node chooses about its links.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::pki::TlsMaterial;
use crate::resolver::{Resolver, SystemResolver};

/// The stream that a frame travels on: one TCP connection each, so that none waits for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Heartbeats, votes, leases, small calls.
    Control,
    /// Raft append, proposals.
    Log,
    /// Snapshots.
    Bulk,
    /// One-way frames of [`Links::send`](crate::Links::send); takes no requests.
    Data,
}

impl Class {
    /// All classes, in the order of their numbers.
    pub const ALL: [Class; 4] = [Class::Control, Class::Log, Class::Bulk, Class::Data];

    /// The name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Control => "control",
            Class::Log => "log",
            Class::Bulk => "bulk",
            Class::Data => "data",
        }
    }

    pub(crate) const fn index(self) -> usize {
        match self {
            Class::Control => 0,
            Class::Log => 1,
            Class::Bulk => 2,
            Class::Data => 3,
        }
    }

    pub(crate) fn from_index(number: u8) -> Option<Class> {
        Class::ALL.get(usize::from(number)).copied()
    }
}

/// Bounds and times. All sizes in bytes.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// Largest payload of a frame, both ways.
    pub max_frame_bytes: usize,
    /// Requests of one class waiting to be written to one peer.
    pub request_queue_bytes: usize,
    /// One-way frames kept for one peer until they are acknowledged.
    pub send_queue_bytes: usize,
    /// Requests of one class to one peer that were written and wait for their answer.
    pub max_outstanding: usize,
    /// Handlers of one class that run at once, for all peers together.
    pub handlers_per_class: usize,
    /// Payload of incoming requests of one class that wait or run, for all peers together; more is answered *busy*.
    pub handler_bytes_per_class: usize,
    /// Connections from peers at once, those in their handshake included.
    pub max_inbound: usize,
    /// Time for resolving, TCP and TLS and Hello together.
    pub connect_timeout: Duration,
    /// How often the dialling side pings (it measures the round trip and finds dead peers), but for where an answer takes its time; at most half of `dead_after`.
    pub ping_interval: Duration,
    /// Without a byte for this long while something is outstanding, a connection is cut and dialled again. After a fifth of it another
    /// way to the peer is looked for; after twice as long a way by another node is left for a straight one.
    pub dead_after: Duration,
    /// First and longest pause between dials; the actual one is random between half of it and all of it.
    pub backoff_min: Duration,
    /// See `backoff_min`.
    pub backoff_max: Duration,
}

impl Default for LinkOptions {
    fn default() -> Self {
        LinkOptions {
            max_frame_bytes: 16 << 20,
            request_queue_bytes: 64 << 20,
            send_queue_bytes: 64 << 20,
            max_outstanding: 4096,
            handlers_per_class: 256,
            handler_bytes_per_class: 128 << 20,
            max_inbound: 1024,
            connect_timeout: Duration::from_secs(3),
            ping_interval: Duration::from_secs(2),
            dead_after: Duration::from_secs(5),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
        }
    }
}

impl LinkOptions {
    /// Brings values that would spin, overflow or stop everything to the nearest ones that do not.
    pub(crate) fn sane(mut self) -> Self {
        let shortest = Duration::from_millis(100);
        self.max_frame_bytes = self.max_frame_bytes.clamp(4096, 1 << 30);
        self.connect_timeout = self.connect_timeout.max(shortest);
        self.dead_after = self.dead_after.max(shortest);
        self.ping_interval = self.ping_interval.clamp(shortest / 2, self.dead_after / 2);
        self.backoff_min = self.backoff_min.max(Duration::from_millis(1));
        self.backoff_max = self.backoff_max.max(self.backoff_min);
        self
    }

    /// How often a connection is looked at.
    pub(crate) fn tick(&self) -> Duration {
        (self.dead_after / 10).min(self.ping_interval)
    }

    /// Without an answer, to a ping too, for this long another way to the peer is looked for.
    pub(crate) fn suspect_after(&self) -> Duration {
        self.dead_after / 5
    }

    /// Without a byte from a side that pings for this long, it is gone.
    pub(crate) fn silence(&self) -> Duration {
        (self.dead_after * 3).max(Duration::from_secs(15))
    }
}

/// How to start [`Links`](crate::Links).
#[derive(Clone)]
pub struct LinkConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// This node's certificate and key, and the cluster's CA.
    pub tls: TlsMaterial,
    /// Bounds and times.
    pub options: LinkOptions,
    /// Finds the sockets of an advertised address, at each dial.
    pub resolver: Arc<dyn Resolver>,
}

impl LinkConfig {
    /// Default options and the system's resolver.
    pub fn new(listen: SocketAddr, tls: TlsMaterial) -> Self {
        LinkConfig { listen, tls, options: LinkOptions::default(), resolver: Arc::new(SystemResolver) }
    }
}
