//! Why a connection ends.

use raftmq_mqtt::ReasonCode;

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The client sent DISCONNECT, with this reason (0x00 from MQTT 3 clients).
    Client(ReasonCode),
    /// The socket was closed or failed.
    Lost,
    /// No CONNECT came in time.
    ConnectTimeout,
    /// The CONNECT was refused, or what came first is no CONNECT.
    Refused(ReasonCode),
    /// The client broke a rule, or nothing was heard of it ([`ReasonCode::KeepAliveTimeout`]).
    Fault(ReasonCode),
    /// The server ends it: [`ReasonCode::SessionTakenOver`], [`ReasonCode::ServerShuttingDown`], [`ReasonCode::ServerBusy`],
    /// [`ReasonCode::AdministrativeAction`]…
    Server(ReasonCode),
}

impl CloseReason {
    /// Whether the will, if there is one, is to be published (at once or after its delay) [MQTT-3.1.2-8].
    #[must_use]
    pub fn publishes_will(self) -> bool {
        match self {
            Self::Client(reason) => reason != ReasonCode::NORMAL_DISCONNECTION,
            Self::Lost | Self::Fault(_) | Self::Server(_) => true,
            Self::ConnectTimeout | Self::Refused(_) => false,
        }
    }

    /// The reason to tell an MQTT 5 client by DISCONNECT; `None` if nothing is to be sent.
    pub(crate) fn to_send(self) -> Option<ReasonCode> {
        match self {
            Self::Client(_) | Self::Lost | Self::ConnectTimeout | Self::Refused(_) => None,
            Self::Fault(reason) | Self::Server(reason) => Some(reason),
        }
    }
}
