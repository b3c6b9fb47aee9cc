#![allow(clippy::unwrap_used)]

//! Flows between a client and a [`Connection`], written as tables where there are many of a kind.

mod aliases;
mod auth;
mod connect;
mod deliver;
mod flows;
mod granted;
mod inbound;
mod options;
mod publish;
mod shared;
mod subscribe;
mod tickets;
mod unasked;

use std::{num::NonZeroU16, sync::Arc};

use raftmq_mqtt::{
    Ack, ConnAck, Connect, Decoded, Disconnect, Limits, Message, Origin, Packet, Properties, PropertiesBuf, Property,
    Publish, QoS, ReasonCode, SubOptions, Subscribe, Subscription, Unsubscribe, Version, decode, encode,
};

use crate::{
    Action, CloseReason, Connection, Delivery, Forms, Matched, Now, OpenRequest, OpenResult, Origins, PublishToken,
    SessionLimits, SessionState,
};

const V4: Version = Version::V3_1_1;
const V5: Version = Version::V5;

/// A connection with its server at hand.
struct Peer {
    connection: Connection,
    now: Now,
    origins: Origins,
    out: Vec<u8>,
    actions: Vec<Action>,
}

impl Peer {
    fn new(limits: SessionLimits) -> Self {
        let now = Now { ms: 1_000, unix_ms: 1_700_000_000_000 };
        Self {
            connection: Connection::new(Arc::new(limits), now, [7; 16]),
            now,
            origins: Origins { node: 1, next: 1 },
            out: Vec::new(),
            actions: Vec::new(),
        }
    }

    /// Connected, with a session if there is one.
    fn open(
        version: Version,
        limits: SessionLimits,
        properties: &PropertiesBuf,
        session: Option<Box<SessionState>>,
    ) -> Self {
        let mut peer = Self::new(limits);
        let connect = Connect { properties: properties.as_properties(), clean_start: false, ..connect(version) };
        peer.give(Packet::Connect(Box::new(connect)));
        assert!(matches!(peer.actions.as_slice(), [Action::Open(_)]), "{:?}", peer.actions);
        peer.actions.clear();
        peer.opened(OpenResult::Accepted { session });
        let sent = peer.sent();
        assert!(sent[0].starts_with("ConnAck(ConnAck { session_present"), "{sent:?}");
        peer.out.clear();
        peer
    }

    fn simple(version: Version) -> Self {
        Self::open(version, SessionLimits::default(), &PropertiesBuf::new(), None)
    }

    fn give(&mut self, packet: Packet<'_>) {
        self.connection.on_packet(self.now, &mut self.origins, packet, &mut self.out, &mut self.actions);
    }

    fn opened(&mut self, result: OpenResult) {
        self.connection.on_opened(self.now, result, &mut self.out, &mut self.actions);
    }

    fn publish(&mut self, topic: &str, qos: QoS, packet_id: u16) {
        self.give(Packet::Publish(publish(topic, qos, packet_id)));
    }

    /// The tokens of the PUBLISH packets that the server got since, and forgets the actions.
    fn tokens(&mut self) -> Vec<PublishToken> {
        self.actions
            .drain(..)
            .filter_map(|action| match action {
                Action::Publish { token, .. } => token,
                _ => None,
            })
            .collect()
    }

    fn published(&mut self, token: PublishToken, reason: ReasonCode) {
        self.connection.on_published(token, reason, &mut self.out, &mut self.actions);
    }

    fn deliver(&mut self, message: &Message, matched: &Matched) -> Delivery {
        let mut forms = Forms::new(message.clone(), self.now);
        self.connection.deliver(&mut forms, self.now, matched, &mut self.out)
    }

    fn puback(&mut self, id: u16) {
        self.give(Packet::PubAck(Ack::success(id_of(id))));
    }

    fn pubrec(&mut self, id: u16) {
        self.give(Packet::PubRec(Ack::success(id_of(id))));
    }

    fn pubrel(&mut self, id: u16) {
        self.give(Packet::PubRel(Ack::success(id_of(id))));
    }

    fn pubcomp(&mut self, id: u16) {
        self.give(Packet::PubComp(Ack::success(id_of(id))));
    }

    /// What was sent, a line a packet, and forgets it.
    fn trace(&mut self) -> Vec<String> {
        let out = std::mem::take(&mut self.out);
        let mut lines = Vec::new();
        each_packet(&out, self.connection.version, |packet| lines.push(line(packet)));
        lines
    }

    /// Payloads of the messages handed on since, and forgets the actions.
    fn handed_on(&mut self) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        self.actions
            .drain(..)
            .filter_map(|action| match action {
                Action::Publish { message, .. } => Some(text(message.payload())),
                _ => None,
            })
            .collect()
    }

    /// The connection is lost, and the client comes back to its session.
    fn reconnect(self) -> Self {
        let (version, limits) = (self.connection.version, (*self.connection.limits).clone());
        let (now, origins) = (self.now, self.origins);
        let session = self.lose();
        let mut next = Self { now, origins, ..Self::connecting(version, limits) };
        next.opened(OpenResult::Accepted { session: Some(session) });
        next
    }

    /// The connection is lost; its session is left.
    fn lose(mut self) -> Box<SessionState> {
        self.connection.close(CloseReason::Lost, &mut Vec::new());
        self.end()
    }

    /// After a CONNECT that keeps the session.
    fn connecting(version: Version, limits: SessionLimits) -> Self {
        let mut peer = Self::new(limits);
        let keep =
            if version.is_v5() { properties(&[Property::SessionExpiryInterval(60)]) } else { PropertiesBuf::new() };
        let connect = Connect { clean_start: false, properties: keep.as_properties(), ..connect(version) };
        peer.give(Packet::Connect(Box::new(connect)));
        peer.actions.clear();
        peer
    }

    /// What was sent, in debug form; it stays in the buffer.
    fn sent(&self) -> Vec<String> {
        packets(&self.out, self.connection.version)
    }

    /// The PUBLISH packets sent: (payload, packet identifier, dup); the buffer is emptied.
    fn deliveries(&mut self) -> Vec<(String, u16, bool)> {
        let out = std::mem::take(&mut self.out);
        let mut found = Vec::new();
        each_packet(&out, self.connection.version, |packet| {
            if let Packet::Publish(publish) = packet {
                let id = publish.packet_id.map_or(0, NonZeroU16::get);
                found.push((String::from_utf8(publish.payload.to_vec()).unwrap(), id, publish.dup));
            }
        });
        found
    }

    /// The reason of the one `Close` among the actions.
    fn closed(&self) -> Option<CloseReason> {
        let reasons: Vec<_> = self
            .actions
            .iter()
            .filter_map(|action| match action {
                Action::Close { reason } => Some(*reason),
                _ => None,
            })
            .collect();
        assert!(reasons.len() <= 1, "{reasons:?}");
        assert_eq!(self.connection.is_closed(), !reasons.is_empty());
        reasons.first().copied()
    }

    /// The reason of the DISCONNECT that was sent; `None` if nothing was.
    fn told(&self) -> Option<ReasonCode> {
        if self.out.is_empty() {
            return None;
        }
        let Decoded::Packet { packet: Packet::Disconnect(disconnect), consumed } =
            decode(&self.out, Some(self.connection.version), &Limits::default()).unwrap()
        else {
            panic!("{:?}", self.sent())
        };
        assert_eq!(consumed, self.out.len());
        assert!(disconnect.properties.reason_string().is_some());
        Some(disconnect.reason)
    }

    fn end(self) -> Box<SessionState> {
        self.connection.into_state().unwrap().1
    }
}

fn each_packet(mut rest: &[u8], version: Version, mut each: impl FnMut(&Packet<'_>)) {
    while let Decoded::Packet { packet, consumed } = decode(rest, Some(version), &Limits::default()).unwrap() {
        each(&packet);
        rest = &rest[consumed..];
    }
    assert!(rest.is_empty());
}

fn packets(bytes: &[u8], version: Version) -> Vec<String> {
    let mut found = Vec::new();
    each_packet(bytes, version, |packet| found.push(format!("{packet:?}")));
    found
}

/// A packet in a few words.
fn line(packet: &Packet<'_>) -> String {
    let ack = |ack: &Ack<'_>| match ack.reason {
        ReasonCode::Success => format!("{} {}", packet.packet_type(), ack.packet_id),
        reason => format!("{} {} 0x{:02X}", packet.packet_type(), ack.packet_id, reason as u8),
    };
    match packet {
        Packet::Publish(publish) => {
            let payload = String::from_utf8_lossy(publish.payload);
            let id = publish.packet_id.map_or(String::new(), |id| format!(" {id}"));
            let dup = if publish.dup { " dup" } else { "" };
            format!("PUBLISH{id} q{}{dup} {payload}", publish.qos as u8)
        }
        Packet::PubAck(found) | Packet::PubRec(found) | Packet::PubRel(found) | Packet::PubComp(found) => ack(found),
        Packet::ConnAck(connack) if connack.session_present => "CONNACK present".to_owned(),
        Packet::Disconnect(disconnect) => format!("DISCONNECT 0x{:02X}", disconnect.reason as u8),
        other => other.packet_type().to_string(),
    }
}

fn id_of(id: u16) -> NonZeroU16 {
    NonZeroU16::new(id).unwrap()
}

fn connect(version: Version) -> Connect<'static> {
    Connect {
        version,
        clean_start: true,
        keep_alive: 60,
        client_id: "client",
        will: None,
        username: None,
        password: None,
        properties: Properties::EMPTY,
    }
}

fn publish(topic: &str, qos: QoS, packet_id: u16) -> Publish<'_> {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic,
        packet_id: NonZeroU16::new(packet_id),
        properties: Properties::EMPTY,
        payload: b"payload",
    }
}

fn message(payload: &str, qos: QoS) -> Message {
    let publish = Publish { payload: payload.as_bytes(), ..publish("t", qos, 0) };
    Message::new(&publish, Origin { node: 1, sequence: 1 }, "publisher", 0, None).unwrap()
}

fn at(qos: QoS) -> Matched {
    Matched { qos, ..Matched::default() }
}

fn properties(list: &[Property<'_>]) -> PropertiesBuf {
    let mut properties = PropertiesBuf::new();
    for property in list {
        properties.push(*property).unwrap();
    }
    properties
}
