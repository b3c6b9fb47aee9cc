//! Counters and the state of each peer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::hello::Hello;
use crate::options::Class;

/// Counters of one class, all peers together, both the connections dialled and those accepted.
#[derive(Debug, Default)]
pub struct ClassMetrics {
    /// Requests, answers and one-way frames written (repeats after a reconnect included).
    pub frames_out: AtomicU64,
    /// Requests, answers and one-way frames read.
    pub frames_in: AtomicU64,
    /// Bytes of all frames written, before TLS.
    pub bytes_out: AtomicU64,
    /// Bytes of all frames read, after TLS.
    pub bytes_in: AtomicU64,
    /// Writes to sockets: one for all frames that waited.
    pub writes: AtomicU64,
    /// Bytes that wait in queues to peers now, unacknowledged one-way frames included.
    pub queue_bytes: AtomicU64,
    /// Connections that were made again after one had been lost.
    pub reconnects: AtomicU64,
}

/// Why a frame was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The queue was full when it was handed over.
    QueueFull,
    /// It was larger than a frame may be.
    TooLarge,
    /// Written to a boot of the peer that is gone, and not acknowledged.
    PeerRestarted,
    /// The peer was forgotten or the links shut down with frames waiting.
    Forgotten,
    /// Received a second time after a reconnect; the first was handled.
    Duplicate,
    /// An incoming request refused because too many of its class were waiting.
    Busy,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [DropReason; 6] = [
        DropReason::QueueFull,
        DropReason::TooLarge,
        DropReason::PeerRestarted,
        DropReason::Forgotten,
        DropReason::Duplicate,
        DropReason::Busy,
    ];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            DropReason::QueueFull => "queue_full",
            DropReason::TooLarge => "too_large",
            DropReason::PeerRestarted => "peer_restarted",
            DropReason::Forgotten => "forgotten",
            DropReason::Duplicate => "duplicate",
            DropReason::Busy => "busy",
        }
    }
}

/// Counters of all links of a node. Read them with any ordering; each is exact by itself.
#[derive(Debug, Default)]
pub struct LinkMetrics {
    classes: [ClassMetrics; 4],
    dropped: [AtomicU64; 6],
    /// Handshakes refused by this node, of connections from and to it.
    pub refused: AtomicU64,
    /// Connections from peers open now.
    pub inbound: AtomicU64,
    /// Connections between other nodes that this one passes on now.
    pub relayed: AtomicU64,
}

impl LinkMetrics {
    /// The counters of a class.
    pub fn class(&self, class: Class) -> &ClassMetrics {
        &self.classes[class.index()]
    }

    /// Frames given up for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn count_dropped(&self, reason: DropReason, frames: u64) {
        self.dropped[reason as usize].fetch_add(frames, Ordering::Relaxed);
    }
}

/// What is known of a peer that this node dials.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    /// The advertised address that names it.
    pub address: String,
    /// Its last accepted Hello.
    pub hello: Option<Hello>,
    /// Which of its streams are connected, by [`Class`] number; streams open on first use.
    pub connected: [bool; 4],
    /// The node by which any of its streams goes, where it is not reached straight.
    pub via: Option<String>,
    /// Estimated round trip, when one was measured.
    pub rtt: Option<Duration>,
    /// Bytes that wait for it, unacknowledged one-way frames included.
    pub queue_bytes: usize,
    /// Why the last dial or connection failed; none while all is well.
    pub last_error: Option<String>,
    /// Whether `last_error` is a refusal (certificate, cluster, version, handler), by either side.
    pub refused: bool,
}

impl PeerStatus {
    /// Whether any stream is connected.
    pub fn is_connected(&self) -> bool {
        self.connected.iter().any(|connected| *connected)
    }
}
