//! Why connected clients are gone.

use raftmq_mqtt::ReasonCode;
use raftmq_session::CloseReason;

/// Why a client whose CONNECT had been accepted is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// It said so, by DISCONNECT.
    Disconnect,
    /// It, or the network, closed the socket without a word.
    Closed,
    /// Nothing came for one and a half times its Keep Alive.
    KeepAlive,
    /// What it sent is no packet.
    MalformedPacket,
    /// It announced a packet beyond the limit.
    PacketTooLarge,
    /// It broke a protocol below MQTT: TLS or WebSocket.
    Transport,
    /// It broke another rule of the protocol.
    ProtocolError,
    /// Another connection came with its client identifier.
    TakenOver,
    /// It did not keep up with its messages, and its limits want that it is disconnected then.
    SlowConsumer,
    /// The server ended it for reasons of its own.
    Server,
}

impl EndReason {
    /// All reasons.
    pub const ALL: [Self; 10] = [
        Self::Disconnect,
        Self::Closed,
        Self::KeepAlive,
        Self::MalformedPacket,
        Self::PacketTooLarge,
        Self::Transport,
        Self::ProtocolError,
        Self::TakenOver,
        Self::SlowConsumer,
        Self::Server,
    ];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disconnect => "disconnect",
            Self::Closed => "closed",
            Self::KeepAlive => "keep_alive",
            Self::MalformedPacket => "malformed_packet",
            Self::PacketTooLarge => "packet_too_large",
            Self::Transport => "transport",
            Self::ProtocolError => "protocol_error",
            Self::TakenOver => "taken_over",
            Self::SlowConsumer => "slow_consumer",
            Self::Server => "server",
        }
    }
}

impl From<CloseReason> for EndReason {
    fn from(reason: CloseReason) -> Self {
        match reason {
            CloseReason::Client(_) => Self::Disconnect,
            CloseReason::Lost => Self::Closed,
            CloseReason::Broken => Self::Transport,
            CloseReason::Fault(ReasonCode::KeepAliveTimeout) => Self::KeepAlive,
            CloseReason::Fault(ReasonCode::MalformedPacket) => Self::MalformedPacket,
            CloseReason::Fault(ReasonCode::PacketTooLarge) => Self::PacketTooLarge,
            CloseReason::Fault(_) => Self::ProtocolError,
            CloseReason::Server(ReasonCode::SessionTakenOver) => Self::TakenOver,
            CloseReason::Server(ReasonCode::QuotaExceeded) => Self::SlowConsumer,
            // The first two end before a client is connected.
            CloseReason::ConnectTimeout | CloseReason::Refused(_) | CloseReason::Server(_) => Self::Server,
        }
    }
}
