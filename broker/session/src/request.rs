//! What the server is asked about a client that connects, and what it answers.

use std::{fmt, num::NonZeroU16, sync::Arc};

use raftmq_mqtt::{Message, MessageError, Origin, PropertiesBuf, Publish, QoS, ReasonCode, Version, Will};

use crate::{Now, SessionState, limits::latest_expiry};

/// A CONNECT that is right as far as the protocol goes, and authenticated if it named an authentication method.
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
    pub password: Option<Secret>,
    /// The authentication method by which the client has been authenticated already ([`AuthStep::Success`]).
    pub auth_method: Option<Box<str>>,
    /// The will. The server keeps it with the session `[MQTT-3.1.2-7]` and publishes it when [`crate::CloseReason::publishes_will`]
    /// says so and its delay has passed.
    pub will: Option<OwnedWill>,
}

/// The server's answer to [`crate::Action::Open`].
#[derive(Debug)]
pub enum OpenResult {
    /// The client is connected.
    Accepted {
        /// Its session, if one exists, has not expired and the client did not ask for a clean start. It is resumed.
        session: Option<Box<SessionState>>,
    },
    /// The same on a node that serves without a quorum. MQTT 5 clients are told by a user property, [`SERVING_LOCAL`].
    AcceptedLocal {
        /// As of [`OpenResult::Accepted`].
        session: Option<Box<SessionState>>,
    },
    /// The client is connected, and the queue of its session is in a shard, which has committed this connection.
    Durable {
        /// Session Present `[MQTT-3.2.2-2]` `[MQTT-3.2.2-3]` `[MQTT311-3.2.2-1]` `[MQTT311-3.2.2-2]`, as the shard says. Without it neither of the
        /// following counts.
        session_present: bool,
        /// The session's subscriptions, and messages with QoS 0 that wait. What it has above QoS 0 is forgotten.
        session: Option<Box<SessionState>>,
        /// Identifiers of QoS 2 messages of the client that the shard has and the client has not released.
        received: Vec<NonZeroU16>,
    },
    /// It is not; the reason must be one of CONNACK.
    Refused(ReasonCode),
    /// The same, with words for people, which MQTT 5 clients get.
    RefusedSaying(ReasonCode, &'static str),
}

/// The user property of a CONNACK of [`OpenResult::AcceptedLocal`].
pub const SERVING_LOCAL: (&str, &str) = ("raftmq-serving", "local");

/// A password, or what an authentication method exchanges: not in `Debug` forms.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Takes bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A step of enhanced authentication (MQTT 5, 4.12) that the server is asked to take.
#[derive(Debug)]
pub struct AuthRequest {
    /// The client identifier, the client's own or assigned.
    pub client_id: Arc<str>,
    /// The method, the same in all steps of a connection.
    pub method: Box<str>,
    /// What the client sent for it; empty if nothing.
    pub data: Secret,
    /// Which step it is.
    pub kind: AuthKind,
}

/// Which step of enhanced authentication it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthKind {
    /// The first, with CONNECT.
    Connect,
    /// The client has answered an AUTH.
    Continue,
    /// The first of a connected client that authenticates itself again (4.12.1).
    Reauthenticate,
}

/// The server's answer to [`crate::Action::Authenticate`]; empty data are not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthStep {
    /// The client is sent this and has to answer.
    Continue(Secret),
    /// The client is authenticated. In CONNECT, [`crate::Action::Open`] follows.
    Success(Secret),
    /// It is not, or the method is not known ([`ReasonCode::BadAuthenticationMethod`]). The reason must be one of CONNACK and
    /// DISCONNECT.
    Refused(ReasonCode),
}

/// A will (MQTT 5, 3.1.2.5).
#[derive(Clone, PartialEq, Eq)]
pub struct OwnedWill {
    /// A valid topic name, with the listener's mount point.
    pub topic: Box<str>,
    /// The message.
    pub payload: Box<[u8]>,
    /// Quality of service.
    pub qos: QoS,
    /// Whether it shall be retained.
    pub retain: bool,
    /// Properties; the will delay is among them.
    pub properties: PropertiesBuf,
    /// The longest time in seconds until its message expires; 0 for any, also none.
    max_expiry_s: u32,
}

impl OwnedWill {
    pub(crate) fn new(will: &Will<'_>, topic: &str, max_expiry_s: u32) -> Self {
        Self {
            topic: topic.into(),
            payload: will.payload.into(),
            qos: will.qos,
            retain: will.retain,
            properties: will.properties.into(),
            max_expiry_s,
        }
    }

    /// Seconds between the end of the connection and the will (MQTT 5, 3.1.3.2.2).
    #[must_use]
    pub fn delay_s(&self) -> u32 {
        self.properties.as_properties().will_delay_interval().unwrap_or(0)
    }

    /// The message to publish, whose expiry counts from `now`. Its QoS and RETAIN flag are the will's `[MQTT-3.1.2-14]`
    /// `[MQTT-3.1.2-15]` `[MQTT311-3.1.2-16]` `[MQTT311-3.1.2-17]`, its properties too `[MQTT-3.1.3-10]`.
    pub fn message(&self, origin: Origin, publisher: &str, now: Now) -> Result<Message, MessageError> {
        let publish = Publish {
            dup: false,
            qos: self.qos,
            retain: self.retain,
            topic: &self.topic,
            packet_id: None,
            properties: self.properties.as_properties(),
            payload: &self.payload,
        };
        let expires = latest_expiry(publish.expires_at_ms(now.unix_ms), self.max_expiry_s, now.unix_ms);
        Message::new(&publish, origin, publisher, now.unix_ms, expires)
    }
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
