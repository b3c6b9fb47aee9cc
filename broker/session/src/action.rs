//! What a connection asks the server to do.

use std::{fmt, num::NonZeroU16, sync::Arc};

use raftmq_mqtt::{Message, PropertiesBuf, QoS, ReasonCode, SubOptions, Version};

use crate::{CloseReason, SessionState};

/// What the server has to do. The worker keeps one list, hands it to each call and empties it.
#[derive(Debug)]
pub enum Action {
    /// Decide about a CONNECT, close another connection of the client identifier, look for its session; then call
    /// [`crate::Connection::on_opened`].
    Open(Box<OpenRequest>),
    /// Route a message. With a token, [`crate::Connection::on_published`] must be called when it is safe to acknowledge.
    Publish {
        /// The message, with a new origin, this client as publisher.
        message: Message,
        /// `Some` with QoS 1.
        token: Option<PublishToken>,
    },
    /// Subscribe to these filters, then, behind the barrier, call [`crate::Connection::on_subscribed`].
    Subscribe {
        /// To be given back.
        packet_id: NonZeroU16,
        /// At least one. A filter may be there twice: the later one counts.
        items: Vec<SubscribeItem>,
    },
    /// End these subscriptions, then call [`crate::Connection::on_unsubscribed`].
    Unsubscribe {
        /// To be given back.
        packet_id: NonZeroU16,
        /// At least one; subscriptions that existed.
        filters: Vec<Arc<str>>,
    },
    /// Waiting messages were sent or dropped; for the metrics.
    Flushed(Flushed),
    /// Write what is in `out`, close the socket, take [`crate::Connection::into_state`].
    Close {
        /// Why; it says as well whether the will is to be published.
        reason: CloseReason,
    },
}

/// Names a PUBLISH with QoS 1 that waits for its acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublishToken(pub(crate) u64);

/// One filter of a SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribeItem {
    /// The filter, not shared.
    pub filter: Arc<str>,
    /// Its options, with the granted QoS.
    pub options: SubOptions,
    /// The subscription identifier; 0 for none.
    pub sub_id: u32,
    /// The session did not have it before.
    pub new: bool,
}

/// What became of messages that waited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Sent with QoS 0.
    pub sent_qos0: u32,
    /// Sent with QoS 1, repeated ones included.
    pub sent_qos1: u32,
    /// Dropped: expired.
    pub expired: u32,
    /// Dropped: larger than the client's maximum packet size.
    pub too_large: u32,
}

/// A CONNECT that is right as far as the protocol goes.
#[derive(Debug)]
pub struct OpenRequest {
    /// The client identifier, the client's own or assigned.
    pub client_id: Arc<str>,
    /// The server chose the identifier: no session of it can exist.
    pub assigned: bool,
    /// The protocol version.
    pub version: Version,
    /// An existing session must be discarded.
    pub clean_start: bool,
    /// Seconds that the session outlives the connection; `u32::MAX` for ever. Within the limit.
    pub session_expiry_s: u32,
    /// The keep-alive in seconds that will be used; 0 for none.
    pub keep_alive_s: u16,
    /// User name.
    pub username: Option<Box<str>>,
    /// Password.
    pub password: Option<Password>,
    /// The will.
    pub will: Option<OwnedWill>,
}

/// A password: not in `Debug` forms.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Box<[u8]>);

impl Password {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// A will [MQTT5 3.1.2.5].
#[derive(Clone, PartialEq, Eq)]
pub struct OwnedWill {
    /// A valid topic name.
    pub topic: Box<str>,
    /// The message.
    pub payload: Box<[u8]>,
    /// Quality of service.
    pub qos: QoS,
    /// Whether it shall be retained.
    pub retain: bool,
    /// Properties; the will delay is among them.
    pub properties: PropertiesBuf,
}

impl fmt::Debug for OwnedWill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The payload is somebody's data and may be large.
        f.debug_struct("OwnedWill")
            .field("topic", &self.topic)
            .field("payload_bytes", &self.payload.len())
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .finish_non_exhaustive()
    }
}

/// The server's answer to [`Action::Open`].
#[derive(Debug)]
pub enum OpenResult {
    /// The client is connected.
    Accepted {
        /// Its session, if one exists, has not expired and the client did not ask for a clean start. It is resumed.
        session: Option<Box<SessionState>>,
    },
    /// It is not; the reason must be one of CONNACK.
    Refused(ReasonCode),
}
