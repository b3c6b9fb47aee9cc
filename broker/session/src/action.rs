//! What a connection asks the server to do.

use std::{num::NonZeroU16, sync::Arc};

use raftmq_mqtt::{Message, SubOptions};

use crate::{AuthRequest, CloseReason, Limit, OpenRequest, Settlement, SubscriptionInfo};

/// What the server has to do. The worker keeps one list, hands it to each call and empties it.
#[derive(Debug)]
pub enum Action {
    /// Take a step of enhanced authentication, then call [`crate::Connection::on_authenticated`].
    Authenticate(Box<AuthRequest>),
    /// Decide about a CONNECT, close another connection of the client identifier, look for its session; then call
    /// [`crate::Connection::on_opened`].
    Open(Box<OpenRequest>),
    /// Route a message, and keep it if it is to be retained. With a token, [`crate::Connection::on_published`] must be called
    /// when it is safe to acknowledge.
    Publish {
        /// The message, with a new origin, this client as publisher, and its RETAIN flag as the client set it.
        message: Message,
        /// `Some` with QoS 1 and 2.
        token: Option<PublishToken>,
    },
    /// Subscribe to these filters, then, behind the barrier, call [`crate::Connection::on_subscribed`].
    Subscribe {
        /// To be given back.
        packet_id: NonZeroU16,
        /// At least one. A filter may be there twice: the later one counts.
        items: Vec<SubscribeItem>,
    },
    /// End these subscriptions, then call [`crate::Connection::on_unsubscribed`]. If shared ones are among them,
    /// [`crate::Connection::take_unsubscribed`] has messages for the others of the group.
    Unsubscribe {
        /// To be given back.
        packet_id: NonZeroU16,
        /// At least one; subscriptions that existed.
        filters: Vec<Arc<str>>,
    },
    /// Waiting messages were sent or dropped; for the metrics.
    Flushed(Flushed),
    /// The client has met a limit, and what it asked for is refused; for the metrics.
    LimitMet(Limit),
    /// Write what is in `out`, close the socket, take [`crate::Connection::into_state`].
    Close {
        /// Why; it says as well whether the will is to be published.
        reason: CloseReason,
    },
    /// A message with QoS 2 on a connection of a durable session: as [`Action::Publish`], but [`crate::Connection::on_published`] must not be
    /// called before the shard has committed the identifier with the message. After that it is called even if the shard had the identifier
    /// before: the message is then none that is new.
    Received {
        /// The client's packet identifier.
        packet_id: NonZeroU16,
        /// The message, as with [`Action::Publish`].
        message: Message,
        /// To be given back.
        token: PublishToken,
    },
    /// PUBREL on a connection of a durable session: have the shard release the identifier, then call [`crate::Connection::on_released`].
    Released {
        /// The client's packet identifier.
        packet_id: NonZeroU16,
    },
    /// The client has answered a message of [`crate::Connection::on_granted`]: the shard is to be told.
    Settled {
        /// The identifier under which it was sent.
        packet_id: NonZeroU16,
        /// What it has answered.
        what: Settlement,
    },
    /// The client has answered a message of [`crate::Connection::deliver_ticket`], with PUBACK or PUBREC, whatever it says.
    Answered {
        /// What was given with the message.
        ticket: u64,
    },
}

/// Names a PUBLISH above QoS 0 that waits for its acknowledgement. It stays valid when the connection ends: the server
/// gives the answer to whatever holds the session then, [`crate::Connection::on_published`] or
/// [`crate::SessionState::on_published`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublishToken(pub(crate) u64);

/// One filter of a SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribeItem {
    /// The full filter as the session has it: `$share/group/`, `$queue/` or `$exclusive/` if it has one of them, then the listener's
    /// mount point, then the client's filter. As an allocation it is of this request alone, by which [`crate::SessionState::settle`] tells equal
    /// ones apart: a copy is not as good.
    pub filter: Arc<str>,
    /// Its options, with the granted QoS. Retain handling is the server's to follow.
    pub options: SubOptions,
    /// The subscription identifier; 0 for none.
    pub sub_id: u32,
    /// What the session had by this filter when it was asked for.
    pub replaced: Option<SubscriptionInfo>,
}

impl SubscribeItem {
    /// Whether the session did not have the subscription before.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.replaced.is_none()
    }

    /// What the session has by it.
    #[must_use]
    pub fn info(&self) -> SubscriptionInfo {
        SubscriptionInfo { options: self.options, sub_id: self.sub_id }
    }
}

/// What became of messages that waited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Sent with QoS 0.
    pub sent_qos0: u32,
    /// Sent with QoS 1, repeated ones included.
    pub sent_qos1: u32,
    /// Sent with QoS 2, repeated ones included.
    pub sent_qos2: u32,
    /// Dropped: expired.
    pub expired: u32,
    /// Dropped: larger than the client's maximum packet size.
    pub too_large: u32,
}
