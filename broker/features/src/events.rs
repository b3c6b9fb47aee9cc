//! What clients do, as JSON under `$SYS/brokers/{node}/clients/{client identifier}/…`.
//!
//! `connected`, `disconnected`, `subscribed` and `unsubscribed`, with the fields that EMQX 5 gives them; docs/events.md has
//! each of them.
//!
//! Decided here
//! - All four are on by default (EMQX: the first two), with QoS 1, so that a session of an observer that was
//!   away gets them (EMQX: QoS 0). They are not retained.
//! - The client identifier is one level of the topic: `/`, `+`, `#` and `%` are percent-encoded
//!   ([`topic_level`](crate::topic_level)), where EMQX writes them as they are. One that would make the topic too long is cut. The
//!   field `clientid` always has it whole, as it is.
//! - No user name is `null`, where EMQX says `"undefined"`.
//! - `expiry_interval` is in seconds, as in the protocol.

mod reason;

use std::net::SocketAddr;

use raftmq_mqtt::topic::MAX_LENGTH;
use raftmq_mqtt::{QoS, SubOptions, Version};
use serde::Serialize;

use crate::ServerMessage;
use crate::level::topic_with_level;
use crate::sys::node_prefix;

pub use reason::DisconnectReason;

/// Settings of the events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSettings {
    /// A CONNECT was accepted.
    pub connected: bool,
    /// A connection whose CONNECT was accepted has ended.
    pub disconnected: bool,
    /// A filter was subscribed to.
    pub subscribed: bool,
    /// A filter was unsubscribed from.
    pub unsubscribed: bool,
    /// The quality of service of the events.
    pub qos: QoS,
}

impl Default for EventSettings {
    fn default() -> Self {
        Self { connected: true, disconnected: true, subscribed: true, unsubscribed: true, qos: QoS::AtLeastOnce }
    }
}

/// The client of an event.
#[derive(Debug, Clone, Copy)]
pub struct EventClient<'a> {
    /// The client identifier.
    pub client_id: &'a str,
    /// The user name.
    pub username: Option<&'a str>,
    /// The client's end of the connection.
    pub peer: SocketAddr,
    /// The port of the listener.
    pub local_port: u16,
    /// The version of the protocol.
    pub version: Version,
    /// When its CONNECT was accepted, in milliseconds since the Unix epoch.
    pub connected_at_ms: u64,
}

/// What a CONNECT said and was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectedWith {
    /// In seconds, as it is in force; 0 for none.
    pub keep_alive: u16,
    /// Clean Start, or Clean Session before MQTT 5.
    pub clean_start: bool,
    /// How long the session is kept without a connection, in seconds; 4,294,967,295 for ever.
    pub session_expiry: u32,
}

/// Makes the events of a node.
#[derive(Debug, Clone)]
pub struct Events {
    settings: EventSettings,
    /// `$SYS/brokers/{node}/clients/`
    prefix: String,
}

impl Events {
    /// Events of a node.
    #[must_use]
    pub fn new(settings: EventSettings, node: &str) -> Self {
        Self { settings, prefix: node_prefix(node) + "clients/" }
    }

    /// A CONNECT was accepted; `None` if this event is off. `now_ms` is Unix time in milliseconds, as in all of them.
    #[must_use]
    pub fn connected(&self, client: &EventClient<'_>, with: ConnectedWith, now_ms: u64) -> Option<ServerMessage> {
        let event = || Connected {
            common: Common::of(client, now_ms),
            connack: 0,
            keepalive: with.keep_alive,
            clean_start: with.clean_start,
            expiry_interval: with.session_expiry,
        };
        self.settings.connected.then(|| self.message(client, "/connected", &event()))
    }

    /// A connection has ended.
    #[must_use]
    pub fn disconnected(
        &self,
        client: &EventClient<'_>,
        reason: DisconnectReason,
        now_ms: u64,
    ) -> Option<ServerMessage> {
        let event =
            || Disconnected { common: Common::of(client, now_ms), reason: reason.name(), disconnected_at: now_ms };
        self.settings.disconnected.then(|| self.message(client, "/disconnected", &event()))
    }

    /// A filter, as the client wrote it, was subscribed to with the granted QoS in `options`. `subscription_id` is the
    /// subscription identifier, `new` whether the session did not have the subscription before.
    #[must_use]
    pub fn subscribed(
        &self,
        client: &EventClient<'_>,
        filter: &str,
        options: SubOptions,
        subscription_id: Option<u32>,
        new: bool,
        now_ms: u64,
    ) -> Option<ServerMessage> {
        let event = || Subscribed {
            filter: Filter::of(client, filter, now_ms),
            subopts: SubOpts {
                sub_props: SubProps { subscription_id },
                qos: options.qos.into(),
                nl: options.no_local.into(),
                rap: options.retain_as_published.into(),
                rh: options.retain_handling as u8,
                is_new: new,
            },
        };
        self.settings.subscribed.then(|| self.message(client, "/subscribed", &event()))
    }

    /// A filter, as the client wrote it, was unsubscribed from.
    #[must_use]
    pub fn unsubscribed(&self, client: &EventClient<'_>, filter: &str, now_ms: u64) -> Option<ServerMessage> {
        let event = || Filter::of(client, filter, now_ms);
        self.settings.unsubscribed.then(|| self.message(client, "/unsubscribed", &event()))
    }

    fn message(&self, client: &EventClient<'_>, name: &str, event: &impl Serialize) -> ServerMessage {
        ServerMessage {
            topic: topic_with_level(&self.prefix, client.client_id, name, MAX_LENGTH),
            payload: serde_json::to_vec(event).expect("texts, numbers and booleans under texts"),
            qos: self.settings.qos,
            retain: false,
        }
    }
}

const PROTOCOL: &str = "mqtt";

#[derive(Serialize)]
struct Common<'a> {
    clientid: &'a str,
    username: Option<&'a str>,
    ipaddress: String,
    sockport: u16,
    protocol: &'static str,
    proto_name: &'static str,
    proto_ver: u8,
    connected_at: u64,
    ts: u64,
}

impl<'a> Common<'a> {
    fn of(client: &EventClient<'a>, now_ms: u64) -> Self {
        Self {
            clientid: client.client_id,
            username: client.username,
            ipaddress: client.peer.ip().to_canonical().to_string(),
            sockport: client.local_port,
            protocol: PROTOCOL,
            proto_name: client.version.protocol_name(),
            proto_ver: client.version.level(),
            connected_at: client.connected_at_ms,
            ts: now_ms,
        }
    }
}

#[derive(Serialize)]
struct Connected<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    connack: u8,
    keepalive: u16,
    clean_start: bool,
    expiry_interval: u32,
}

#[derive(Serialize)]
struct Disconnected<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    reason: &'static str,
    disconnected_at: u64,
}

#[derive(Serialize)]
struct Filter<'a> {
    clientid: &'a str,
    username: Option<&'a str>,
    protocol: &'static str,
    topic: &'a str,
    ts: u64,
}

impl<'a> Filter<'a> {
    fn of(client: &EventClient<'a>, topic: &'a str, now_ms: u64) -> Self {
        Self { clientid: client.client_id, username: client.username, protocol: PROTOCOL, topic, ts: now_ms }
    }
}

#[derive(Serialize)]
struct Subscribed<'a> {
    #[serde(flatten)]
    filter: Filter<'a>,
    subopts: SubOpts,
}

#[derive(Serialize)]
struct SubOpts {
    sub_props: SubProps,
    qos: u8,
    nl: u8,
    rap: u8,
    rh: u8,
    is_new: bool,
}

#[derive(Serialize)]
struct SubProps {
    #[serde(rename = "Subscription-Identifier", skip_serializing_if = "Option::is_none")]
    subscription_id: Option<u32>,
}

#[cfg(test)]
mod tests;
