//! MQTT packets, codec, topic names and filters, reason codes and the message envelope, without I/O.
//!
//! - [`decode`] reads one packet from the front of a read buffer and borrows from it; [`encode`] appends one.
//!   Both know MQTT 3.1, 3.1.1 and 5.0 ([`Version`]).
//! - [`Properties`] are MQTT 5 properties as raw, validated bytes with typed, lazy access; [`PropertiesBuf`] builds them.
//! - [`Message`] is the envelope in which a published message travels through memory, links and disks: one
//!   allocation, cloned by a reference count. [`PublishForm`] is its encoding for one kind of subscriber.
//! - [`topic`] has the rules for topic names and filters.
//!
//! What a version cannot express (a reason string for a 3.1.1 client, say) is left out by [`encode`], so that a
//! session can build the same answer for every version. Rules that need the state of a session (a second CONNECT,
//! a packet that only the other side may send, topic aliases, an empty client identifier, a subscription
//! identifier in a client's PUBLISH) are the session's.
//!
//! Statements of the specifications are cited where they are implemented: `[MQTT-3.1.2-1]` is of MQTT 5.0,
//! `[MQTT311-3.1.2-1]` of MQTT 3.1.1, where the numbers differ.

mod codec;
mod error;
mod form;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod message;
mod packet;
mod property;
mod reason;
pub mod topic;
mod version;

pub use codec::{Decoded, Limits, connect_version, decode, encode};
pub use error::{DecodeError, EncodeError, FieldError, PropertyError};
pub use form::{Alias, PublishForm};
pub use message::{Message, MessageError, Origin};
pub use packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, PacketType, Publish, RetainHandling, SubAck, SubOptions,
    Subscribe, Subscription, UnsubAck, Unsubscribe, Will,
};
pub use property::{Properties, PropertiesBuf, Property, PropertyId, PropertyIter, PropertyPlace};
pub use reason::ReasonCode;
pub use version::{QoS, Version};
