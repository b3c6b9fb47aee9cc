//! A client by the book, a server that takes its time, and a network that breaks. The queue of its session is the session's own or in a shard,
//! which takes its time, too.
//!
//! What the client publishes and what is delivered to it must arrive: with QoS 2 exactly once, with QoS 1 at least once, in order;
//! and neither side may have reason to complain of the other.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    num::NonZeroU16,
    sync::Arc,
};

use raftmq_mqtt::{
    Ack, Packet, PropertiesBuf, Property, Publish, QoS, ReasonCode, Version, encode, fuzz::source::Source,
};

use super::{connect, each_packet, kind, message, properties, publish, qos, shard::Shard};
use crate::{
    Action, CloseReason, Connection, Delivery, Forms, Matched, Now, OpenResult, Origins, PublishToken, SessionLimits,
    SessionState,
};

const TOPICS: [&str; 3] = ["topic/a", "topic/b", "t"];

/// Any bytes as what happens, one after the other.
pub fn any_network(data: &[u8]) {
    let mut source = Source::new(data);
    let (version, durable) = kind(source.byte());
    let limits = SessionLimits {
        receive_maximum: u16::from(source.byte() % 4) + 1,
        max_in_flight: u16::from(source.byte() % 4) + 1,
        max_queued_messages: 8,
        ..SessionLimits::default()
    };
    let receive_maximum = u16::from(source.byte() % 4) + 1;
    let aliases = u16::from(source.byte() % 3);
    let mut world = World::new(version, limits, receive_maximum, aliases, durable);
    for _ in 0..data.len().min(400) {
        let (step, choice) = (source.byte(), source.byte());
        match step % 12 {
            0 | 1 => world.client_publishes(qos(choice)),
            2 | 3 => world.server_delivers(qos(choice)),
            4 | 5 => world.packet_to_server(),
            6 | 7 => world.packet_to_client(),
            8 => world.server_done(usize::from(choice)),
            9 => world.connection.set_congested(),
            10 => world.writable(),
            _ => world.reconnect(choice),
        }
        world.server_acts();
    }
    world.settle();
    world.check();
}

/// A packet of the client on its way.
#[derive(Debug, Clone, Copy)]
enum Up {
    Publish { id: Option<NonZeroU16>, qos: QoS, number: u32, dup: bool },
    PubAck(NonZeroU16),
    PubRec(NonZeroU16),
    PubRel(NonZeroU16),
    PubComp(NonZeroU16),
}

/// A message of the client above QoS 0 that is not acknowledged to the end.
#[derive(Debug)]
struct Outgoing {
    id: NonZeroU16,
    qos: QoS,
    number: u32,
    released: bool,
    /// Sent on this connection.
    here: bool,
    /// Its PUBLISH was sent on this connection.
    counted: bool,
    /// Sent at all.
    before: bool,
}

struct World {
    connection: Connection,
    /// Of a durable session.
    shard: Option<Shard>,
    limits: SessionLimits,
    version: Version,
    connect_properties: PropertiesBuf,
    /// Towards the client.
    window: usize,
    aliases: u16,
    now: Now,
    origins: Origins,
    out: Vec<u8>,
    actions: Vec<Action>,
    /// What the server has in hand.
    tokens: VecDeque<PublishToken>,
    up: VecDeque<Up>,
    down: VecDeque<Vec<u8>>,
    last_id: u16,
    next_number: u32,
    outgoing: VecDeque<Outgoing>,
    /// The client's: QoS 2 messages that it has and that are not released.
    incoming: BTreeSet<u16>,
    /// Messages of this connection that the client has not answered to the end.
    unanswered: BTreeSet<u16>,
    known_aliases: BTreeMap<u16, String>,
    connections: u32,
    sent: [Vec<u32>; 3],
    handed_on: [Vec<u32>; 3],
    taken: [Vec<u32>; 3],
    delivered: [Vec<u32>; 3],
}

impl World {
    fn new(version: Version, limits: SessionLimits, receive_maximum: u16, aliases: u16, durable: bool) -> Self {
        let list = [
            Property::SessionExpiryInterval(100),
            Property::ReceiveMaximum(receive_maximum),
            Property::TopicAliasMaximum(aliases),
        ];
        let v5 = version.is_v5();
        let window = if v5 { limits.max_in_flight.min(receive_maximum) } else { limits.max_in_flight };
        let now = Now { ms: 1, unix_ms: 1 };
        let mut world = Self {
            connection: Connection::new(Arc::new(limits.clone()), now, [1; 16]),
            shard: durable.then(Shard::new),
            limits,
            version,
            connect_properties: if v5 { properties(&list) } else { PropertiesBuf::new() },
            window: window.into(),
            aliases: if v5 { aliases } else { 0 },
            now,
            origins: Origins { node: 1, next: 1 },
            out: Vec::new(),
            actions: Vec::new(),
            tokens: VecDeque::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            last_id: 0,
            next_number: 0,
            outgoing: VecDeque::new(),
            incoming: BTreeSet::new(),
            unanswered: BTreeSet::new(),
            known_aliases: BTreeMap::new(),
            connections: 0,
            sent: Default::default(),
            handed_on: Default::default(),
            taken: Default::default(),
            delivered: Default::default(),
        };
        world.open(None, 0);
        world
    }

    fn open(&mut self, session: Option<Box<SessionState>>, committed: u8) {
        let connect = connect(self.version, false, &self.connect_properties);
        let packet = Packet::Connect(Box::new(connect));
        self.connection.on_packet(self.now, &mut self.origins, packet, &mut self.out, &mut self.actions);
        assert!(matches!(self.actions.pop(), Some(Action::Open(_))));
        let opened = match &mut self.shard {
            None => OpenResult::Accepted { session },
            Some(shard) => OpenResult::Durable {
                session_present: session.is_some(),
                // The client may have come from another node.
                session: session.filter(|_| committed.is_multiple_of(2)),
                received: shard.claim(committed.into()),
            },
        };
        self.connection.on_opened(self.now, opened, &mut self.out, &mut self.actions);
        self.connections += 1;
        self.server_acts();
        self.client_sends();
    }

    /// Everything on its way is lost.
    fn reconnect(&mut self, committed: u8) {
        let fresh = Connection::new(Arc::new(self.limits.clone()), self.now, [1; 16]);
        let mut old = std::mem::replace(&mut self.connection, fresh);
        old.close(CloseReason::Lost, &mut Vec::new());
        let (_, session) = old.into_state().expect("it was open");
        assert!(session.messages().1 <= self.limits.max_queued_messages);
        self.up.clear();
        self.down.clear();
        self.unanswered.clear();
        self.known_aliases.clear();
        for outgoing in &mut self.outgoing {
            (outgoing.here, outgoing.counted) = (false, false);
        }
        self.open(Some(session), committed);
    }

    fn client_publishes(&mut self, qos: QoS) {
        let number = self.next_number;
        self.next_number += 1;
        self.sent[qos as usize].push(number);
        if qos == QoS::AtMostOnce {
            return self.up.push_back(Up::Publish { id: None, qos, number, dup: false });
        }
        let id = loop {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(id) = NonZeroU16::new(self.last_id)
                && self.outgoing.iter().all(|outgoing| outgoing.id != id)
            {
                break id;
            }
        };
        let (released, here, counted, before) = (false, false, false, false);
        self.outgoing.push_back(Outgoing { id, qos, number, released, here, counted, before });
        self.client_sends();
    }

    /// What the client has not sent on this connection, in order, as far as the server's receive maximum goes. An MQTT 3 client
    /// knows no such thing.
    fn client_sends(&mut self) {
        let most = if self.version.is_v5() { usize::from(self.limits.receive_maximum) } else { usize::MAX };
        let mut counted = self.outgoing.iter().filter(|outgoing| outgoing.counted).count();
        for outgoing in self.outgoing.iter_mut().filter(|outgoing| !outgoing.here) {
            let Outgoing { id, qos, number, before, .. } = *outgoing;
            if outgoing.released {
                self.up.push_back(Up::PubRel(id));
            } else if counted < most {
                counted += 1;
                self.up.push_back(Up::Publish { id: Some(id), qos, number, dup: before });
                (outgoing.before, outgoing.counted) = (true, true);
            } else {
                break;
            }
            outgoing.here = true;
        }
    }

    fn server_delivers(&mut self, qos: QoS) {
        let number = self.next_number;
        self.next_number += 1;
        let topic = TOPICS[number as usize % TOPICS.len()];
        let message = message(topic, qos, &number.to_be_bytes(), None);
        let matched = Matched { qos: QoS::ExactlyOnce, ..Matched::default() };
        if let Some(shard) = &mut self.shard
            && qos != QoS::AtMostOnce
            && shard.offer(number, qos, self.limits.max_queued_messages)
        {
            self.taken[qos as usize].push(number);
        }
        let delivery = self.connection.deliver(&mut Forms::new(message, self.now), self.now, &matched, &mut self.out);
        match delivery {
            Delivery::Sent(_) | Delivery::Queued | Delivery::Displaced(_) => self.taken[qos as usize].push(number),
            Delivery::Dropped(_) => {}
            Delivery::Skipped => assert!(self.shard.is_some() && qos != QoS::AtMostOnce, "it is wanted"),
        }
    }

    /// The next packet of the client reaches the server, if the server reads.
    fn packet_to_server(&mut self) {
        if !self.connection.can_read() {
            return;
        }
        let Some(packet) = self.up.pop_front() else {
            return;
        };
        let payload;
        let packet = match packet {
            Up::Publish { id, qos, number, dup } => {
                payload = number.to_be_bytes();
                Packet::Publish(Publish { dup, ..publish("t", qos, id, &payload) })
            }
            Up::PubAck(id) => Packet::PubAck(Ack::success(id)),
            Up::PubRec(id) => Packet::PubRec(Ack::success(id)),
            Up::PubRel(id) => Packet::PubRel(Ack::success(id)),
            Up::PubComp(id) => Packet::PubComp(Ack::success(id)),
        };
        self.connection.on_packet(self.now, &mut self.origins, packet, &mut self.out, &mut self.actions);
    }

    fn server_acts(&mut self) {
        for action in self.actions.drain(..) {
            let Some(action) = (match &mut self.shard {
                Some(shard) => shard.propose(action),
                None => Some(action),
            }) else {
                continue;
            };
            match action {
                Action::Publish { message, token } => {
                    let number = u32::from_be_bytes(message.payload().try_into().expect("four bytes"));
                    self.handed_on[message.qos() as usize].push(number);
                    assert_eq!(token.is_some(), message.qos() != QoS::AtMostOnce);
                    self.tokens.extend(token);
                }
                Action::Flushed(flushed) => assert_eq!((flushed.expired, flushed.too_large), (0, 0)),
                other => panic!("nothing else was asked for: {other:?}"),
            }
        }
        assert!(self.connection.is_open(), "there is no reason to close");
        assert!(self.connection.state.outbound.counted() <= self.window);
        if let Some(shard) = &mut self.shard {
            shard.send(&TOPICS, self.now, &mut self.connection, &mut self.out, &mut self.actions);
            assert!(self.actions.is_empty());
        }
        let (version, down, shard) = (self.version, &mut self.down, &self.shard);
        each_packet(&self.out, version, |packet, _| {
            if let Some(shard) = shard {
                match &packet {
                    Packet::PubRel(ack) => assert!(shard.may_release(ack.packet_id), "before PUBREC is committed"),
                    Packet::PubRec(ack) => assert!(shard.has(ack.packet_id), "before it is committed"),
                    Packet::PubComp(ack) => assert!(!shard.has(ack.packet_id), "before its release is committed"),
                    _ => {}
                }
            }
            let mut bytes = Vec::new();
            encode(&packet, version, &mut bytes).expect("it was decoded");
            down.push_back(bytes);
        });
        self.out.clear();
    }

    fn server_done(&mut self, at: usize) {
        if let Some(shard) = &mut self.shard {
            shard.commit(&mut self.connection, &mut self.out, &mut self.actions);
        }
        if !self.tokens.is_empty() {
            let at = at % self.tokens.len();
            let token = self.tokens.remove(at).expect("it is there");
            self.connection.on_published(token, ReasonCode::Success, &mut self.out, &mut self.actions);
        }
    }

    fn writable(&mut self) {
        self.connection.on_writable(self.now, &mut self.out, &mut self.actions);
    }

    /// The next packet of the server reaches the client.
    fn packet_to_client(&mut self) {
        let Some(bytes) = self.down.pop_front() else {
            return;
        };
        each_packet(&bytes, self.version, |packet, _| match packet {
            Packet::ConnAck(ack) => {
                assert_eq!(ack.session_present, self.connections > 1 && self.version != Version::V3_1);
            }
            Packet::Publish(publish) => self.client_receives(&publish),
            Packet::PubAck(ack) => self.client_ends(ack.packet_id, QoS::AtLeastOnce, false),
            Packet::PubRec(ack) => {
                assert_eq!(ack.reason, ReasonCode::Success);
                let known = self.outgoing.iter_mut().find(|outgoing| outgoing.id == ack.packet_id);
                let outgoing = known.expect("a PUBREC for what was sent");
                assert_eq!(outgoing.qos, QoS::ExactlyOnce);
                (outgoing.released, outgoing.here) = (true, true);
                self.up.push_back(Up::PubRel(ack.packet_id));
            }
            Packet::PubComp(ack) => self.client_ends(ack.packet_id, QoS::ExactlyOnce, true),
            Packet::PubRel(ack) => {
                self.incoming.remove(&ack.packet_id.get());
                self.unanswered.remove(&ack.packet_id.get());
                self.up.push_back(Up::PubComp(ack.packet_id));
            }
            other => panic!("nothing asked for {other:?}"),
        });
        self.client_sends();
    }

    fn client_ends(&mut self, id: NonZeroU16, qos: QoS, released: bool) {
        // A PUBREL that was sent twice has two answers.
        if let Some(at) = self.outgoing.iter().position(|outgoing| outgoing.id == id) {
            assert_eq!((self.outgoing[at].qos, self.outgoing[at].released), (qos, released));
            self.outgoing.remove(at);
        }
    }

    fn client_receives(&mut self, publish: &Publish<'_>) {
        let number = u32::from_be_bytes(publish.payload.try_into().expect("four bytes"));
        let topic = match publish.properties.topic_alias() {
            Some(alias) => {
                assert!(alias <= self.aliases);
                if !publish.topic.is_empty() {
                    self.known_aliases.insert(alias, publish.topic.to_owned());
                }
                &self.known_aliases[&alias]
            }
            None => publish.topic,
        };
        assert_eq!(topic, TOPICS[number as usize % TOPICS.len()]);
        let delivered = &mut self.delivered[publish.qos as usize];
        let Some(id) = publish.packet_id else {
            return delivered.push(number);
        };
        assert!(!publish.dup || self.connections > 1, "sent again on the first connection");
        assert!(self.unanswered.insert(id.get()), "the identifier is in use");
        assert!(self.unanswered.len() <= self.window, "more than the client takes");
        if publish.qos == QoS::AtLeastOnce {
            delivered.push(number);
            self.up.push_back(Up::PubAck(id));
            self.unanswered.remove(&id.get());
        } else {
            if self.incoming.insert(id.get()) {
                delivered.push(number);
            } else {
                assert!(publish.dup, "a new message with an identifier that is in use");
            }
            self.up.push_back(Up::PubRec(id));
        }
    }

    /// Nothing breaks any more, until nothing moves.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            self.server_done(0);
            self.writable();
            self.packet_to_server();
            self.packet_to_client();
            self.server_acts();
            let still = self.tokens.is_empty() && self.up.is_empty() && self.down.is_empty();
            let still = still && self.shard.as_ref().is_none_or(Shard::is_at_rest);
            if still && !self.connection.is_congested() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn check(&self) {
        assert!(self.outgoing.is_empty() && self.incoming.is_empty() && self.unanswered.is_empty());
        assert_eq!((self.connection.session().messages(), self.connection.session().unreleased()), ((0, 0), 0));
        let mut handed_on = self.handed_on.clone();
        if let Some(shard) = &self.shard {
            assert!(shard.is_done());
            assert_eq!(self.connection.credits(), self.window);
            assert!(handed_on[2].is_empty());
            handed_on[2].clone_from(&shard.published);
        }
        for (sent, arrived) in [(&self.sent, &handed_on), (&self.taken, &self.delivered)] {
            // QoS 0: in order, none twice.
            let mut rest = sent[0].iter();
            assert!(arrived[0].iter().all(|number| rest.any(|sent| sent == number)));
            // QoS 1: each, the first time in order.
            let mut firsts = Vec::new();
            arrived[1].iter().for_each(|number| {
                if !firsts.contains(number) {
                    firsts.push(*number);
                }
            });
            assert_eq!(sent[1], firsts);
            // QoS 2: each once, in order.
            assert_eq!(sent[2], arrived[2]);
        }
    }
}
