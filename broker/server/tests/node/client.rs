//! A small MQTT client on a blocking socket, that can also send what no client should.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU16;
use std::time::Duration;

use raftmq_mqtt::{
    Ack, Connect, Decoded, Disconnect, Limits, Packet, Properties, PropertiesBuf, Property, Publish, QoS, ReasonCode,
    SubOptions, Subscribe, Subscription, Version, decode, encode,
};

/// No test waits longer for a packet.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What came from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Got {
    ConnAck {
        present: bool,
        reason: ReasonCode,
    },
    Publish {
        topic: String,
        payload: Vec<u8>,
        qos: QoS,
        retain: bool,
        packet_id: Option<NonZeroU16>,
    },
    PubAck {
        packet_id: u16,
        reason: ReasonCode,
    },
    SubAck(Vec<ReasonCode>),
    PingResp,
    Disconnect(ReasonCode),
    /// AUTH, with its data.
    Auth(Vec<u8>),
    Other(String),
    /// The connection is closed.
    Closed,
    /// Nothing came in the time given.
    Nothing,
}

/// What carries the bytes of MQTT.
pub(crate) trait Stream: Read + Write {
    /// A read gives up after this time, by `WouldBlock` or `TimedOut`.
    fn give_up_after(&mut self, time: Duration);
}

impl Stream for TcpStream {
    fn give_up_after(&mut self, time: Duration) {
        self.set_read_timeout(Some(time)).unwrap();
    }
}

impl Stream for Box<dyn Stream> {
    fn give_up_after(&mut self, time: Duration) {
        (**self).give_up_after(time);
    }
}

pub(crate) struct Client<S = TcpStream> {
    pub(crate) socket: S,
    buffer: Vec<u8>,
    start: usize,
}

impl Client {
    /// A socket, and nothing sent.
    pub(crate) fn open(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        Self::over(socket)
    }

    /// Connected with a clean start and no keep-alive.
    pub(crate) fn connect(address: SocketAddr, id: &str) -> Self {
        let (client, present) = Self::connect_with(address, &connect(id, true, 0, 0));
        assert!(!present);
        client
    }

    /// Connected; says whether there was a session.
    pub(crate) fn connect_with(address: SocketAddr, packet: &[u8]) -> (Self, bool) {
        let mut client = Self::open(address);
        let present = client.start(packet);
        (client, present)
    }
}

impl<S: Stream> Client<S> {
    /// A client on a stream of another kind, and nothing sent.
    pub(crate) fn over(socket: S) -> Self {
        Self { socket, buffer: Vec::new(), start: 0 }
    }

    /// Sends CONNECT, which must be accepted; says whether there was a session.
    pub(crate) fn start(&mut self, packet: &[u8]) -> bool {
        self.send(packet);
        match self.receive() {
            Got::ConnAck { present, reason: ReasonCode::Success } => present,
            other => panic!("CONNACK expected: {other:?}"),
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
        self.socket.flush().unwrap();
    }

    pub(crate) fn subscribe(&mut self, filter: &str, qos: QoS) {
        self.send(&subscribe(1, filter, qos));
        assert_eq!(self.receive(), Got::SubAck(vec![ReasonCode::granted(qos)]));
    }

    /// The next packet, within the tests' patience.
    pub(crate) fn receive(&mut self) -> Got {
        let got = self.receive_within(PATIENCE);
        assert_ne!(got, Got::Nothing, "nothing came");
        got
    }

    pub(crate) fn receive_within(&mut self, time: Duration) -> Got {
        self.socket.give_up_after(time);
        loop {
            if let Some(got) = self.parse() {
                return got;
            }
            let mut chunk = vec![0; 256 * 1024];
            match self.socket.read(&mut chunk) {
                Ok(0) => return Got::Closed,
                Ok(count) => {
                    self.buffer.drain(..self.start);
                    self.start = 0;
                    self.buffer.extend_from_slice(&chunk[..count]);
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Got::Nothing;
                }
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) => {
                    return Got::Closed;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The bytes of the next packet, and perhaps of more behind it.
    pub(crate) fn receive_raw(&mut self) -> Vec<u8> {
        self.socket.give_up_after(PATIENCE);
        let mut chunk = vec![0; 64 * 1024];
        let count = self.socket.read(&mut chunk).unwrap();
        chunk.truncate(count);
        chunk
    }

    /// Payloads of the next messages, each acknowledged where it asks for it.
    pub(crate) fn messages(&mut self, count: usize) -> Vec<Vec<u8>> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            match self.receive() {
                Got::Publish { payload, packet_id, .. } => {
                    all.push(payload);
                    if let Some(id) = packet_id {
                        self.send(&puback(id));
                    }
                }
                other => panic!("PUBLISH expected: {other:?}"),
            }
        }
        all
    }

    /// Whether the broker still answers.
    pub(crate) fn ping(&mut self) {
        self.send(&PINGREQ);
        assert_eq!(self.receive(), Got::PingResp);
    }

    /// Reads until the connection is closed; gives the last packet.
    pub(crate) fn last_words(&mut self) -> Got {
        let mut last = Got::Closed;
        loop {
            match self.receive() {
                Got::Closed => return last,
                got => last = got,
            }
        }
    }

    fn parse(&mut self) -> Option<Got> {
        let limits = Limits { max_packet_size: 1 << 28, ..Limits::default() };
        match decode(&self.buffer[self.start..], Some(Version::V5), &limits).unwrap() {
            Decoded::Incomplete { .. } => None,
            Decoded::Packet { packet, consumed } => {
                self.start += consumed;
                Some(match packet {
                    Packet::ConnAck(ack) => Got::ConnAck { present: ack.session_present, reason: ack.reason },
                    Packet::Publish(publish) => Got::Publish {
                        topic: publish.topic.into(),
                        payload: publish.payload.into(),
                        qos: publish.qos,
                        retain: publish.retain,
                        packet_id: publish.packet_id,
                    },
                    Packet::PubAck(ack) => Got::PubAck { packet_id: ack.packet_id.get(), reason: ack.reason },
                    Packet::SubAck(ack) => Got::SubAck(ack.reasons.to_vec()),
                    Packet::PingResp => Got::PingResp,
                    Packet::Disconnect(disconnect) => Got::Disconnect(disconnect.reason),
                    Packet::Auth(auth) => Got::Auth(auth.properties.authentication_data().unwrap_or_default().to_vec()),
                    other => Got::Other(format!("{other:?}")),
                })
            }
        }
    }
}

pub(crate) const PINGREQ: [u8; 2] = [0xC0, 0];

fn bytes(packet: &Packet<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode(packet, Version::V5, &mut out).unwrap();
    out
}

/// CONNECT. The session is kept for `expiry_s`.
pub(crate) fn connect(id: &str, clean_start: bool, keep_alive: u16, expiry_s: u32) -> Vec<u8> {
    let mut properties = PropertiesBuf::new();
    properties.push(Property::SessionExpiryInterval(expiry_s)).unwrap();
    bytes(&Packet::Connect(Box::new(Connect {
        version: Version::V5,
        clean_start,
        keep_alive,
        client_id: id,
        will: None,
        username: None,
        password: None,
        properties: properties.as_properties(),
    })))
}

pub(crate) fn subscribe(packet_id: u16, filter: &str, qos: QoS) -> Vec<u8> {
    bytes(&Packet::Subscribe(Subscribe {
        packet_id: NonZeroU16::new(packet_id).unwrap(),
        properties: Properties::EMPTY,
        subscriptions: vec![Subscription { filter, options: SubOptions { qos, ..SubOptions::default() } }],
    }))
}

/// PUBLISH: with QoS 1 where there is a packet identifier.
pub(crate) fn publish(topic: &str, payload: &[u8], packet_id: Option<u16>) -> Vec<u8> {
    bytes(&Packet::Publish(Publish {
        dup: false,
        qos: if packet_id.is_some() { QoS::AtLeastOnce } else { QoS::AtMostOnce },
        retain: false,
        topic,
        packet_id: packet_id.and_then(NonZeroU16::new),
        properties: Properties::EMPTY,
        payload,
    }))
}

pub(crate) fn puback(packet_id: NonZeroU16) -> Vec<u8> {
    bytes(&Packet::PubAck(Ack { packet_id, reason: ReasonCode::Success, properties: Properties::EMPTY }))
}

pub(crate) fn disconnect() -> Vec<u8> {
    bytes(&Packet::Disconnect(Disconnect { reason: ReasonCode::NORMAL_DISCONNECTION, properties: Properties::EMPTY }))
}
