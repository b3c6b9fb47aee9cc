//! Which limit makes a connection wait.

/// A rate that a client, or all clients of a listener, would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Throttle {
    /// Messages of one client.
    ClientMessages,
    /// Bytes of one client.
    ClientBytes,
    /// Messages of all clients of a listener.
    ListenerMessages,
    /// Bytes of all clients of a listener.
    ListenerBytes,
}

impl Throttle {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::ClientMessages, Self::ClientBytes, Self::ListenerMessages, Self::ListenerBytes];

    /// The label `limit` in metrics.
    #[must_use]
    pub const fn limit(self) -> &'static str {
        match self {
            Self::ClientMessages | Self::ListenerMessages => "messages",
            Self::ClientBytes | Self::ListenerBytes => "bytes",
        }
    }

    /// The label `scope` in metrics.
    #[must_use]
    pub const fn scope(self) -> &'static str {
        match self {
            Self::ClientMessages | Self::ClientBytes => "client",
            Self::ListenerMessages | Self::ListenerBytes => "listener",
        }
    }
}
