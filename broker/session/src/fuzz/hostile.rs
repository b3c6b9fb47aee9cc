//! Any packets, at any time, and a server that answers anything: what is sent stays in order and within the client's limits, and a
//! connection ends once.

use std::{
    collections::{BTreeSet, VecDeque},
    num::NonZeroU16,
    sync::Arc,
};

use raftmq_mqtt::{
    Ack, DecodeError, Disconnect, Packet, PacketType, Properties, PropertiesBuf, Property, QoS, ReasonCode, SubOptions,
    Subscribe, Subscription, Unsubscribe, Version,
    fuzz::source::{Source, with_packet},
};

use super::{CLIENT, connect, each_packet, kind, message, properties, publish, qos};
use crate::{
    Action, AuthStep, CloseReason, Connection, Forms, Granted, GrantedDelivery, Matched, Now, OpenResult, Origins,
    PublishToken, Secret, SessionLimits, SessionState, TicketDelivery,
};

const FILTERS: [&str; 7] = ["a", "b/+", "#", "$share/g/a", "$queue/a", "$exclusive/b", "$share/g/$queue/x"];
const TOPICS: [&str; 4] = ["a", "topic/long", "topic/other", "m/$x/y"];

/// Any bytes as what happens, one after the other.
pub fn any_packets(data: &[u8]) {
    let mut source = Source::new(data);
    let mut world = World::new(&mut source);
    world.start(&mut source, None);
    for _ in 0..data.len().min(400) {
        world.step(&mut source);
        world.observe();
    }
}

struct World {
    connection: Connection,
    limits: SessionLimits,
    version: Version,
    /// The session is of a shard, which says anything.
    durable: bool,
    window: usize,
    max_packet_size: usize,
    now: Now,
    origins: Origins,
    out: Vec<u8>,
    actions: Vec<Action>,
    tokens: Vec<PublishToken>,
    /// Answers to PUBLISH that are due, in order; and what the last packet may add.
    owed: VecDeque<(QoS, u16)>,
    /// Messages to the client that it has not answered to the end on this connection.
    unanswered: BTreeSet<u16>,
    /// Tickets of messages that the client has not answered.
    tickets: BTreeSet<u64>,
    last_ticket: u64,
    /// The client's messages with QoS 2 that were taken and not released.
    unreleased: BTreeSet<u16>,
    /// Of a durable session: identifiers whose PUBREL was asked for, those that were handed on with the client's PUBREL, and those whose
    /// PUBCOMP is due.
    to_release: BTreeSet<u16>,
    releasing: BTreeSet<u16>,
    to_complete: BTreeSet<u16>,
    greeted: bool,
    over: bool,
}

impl World {
    fn new(source: &mut Source<'_>) -> Self {
        let (version, durable) = kind(source.byte());
        let choices = source.byte();
        let limits = SessionLimits {
            receive_maximum: u16::from(source.byte() % 4) + 1,
            max_in_flight: u16::from(source.byte() % 4) + 1,
            max_queued_messages: 5,
            max_pending_filters: 5,
            max_subscriptions: 3,
            max_topic_aliases: 3,
            max_topic_alias_bytes: 30,
            max_session_expiry_s: 100,
            max_qos: qos(choices),
            retain_available: choices & 4 != 0,
            shared_available: choices & 8 != 0,
            wildcard_available: choices & 16 != 0,
            sub_ids_available: choices & 32 != 0,
            check_payload_format: choices & 64 != 0,
            queue_qos0_offline: choices & 4 != 0,
            mount_point: (choices & 128 != 0).then(|| "m/".into()),
            ..SessionLimits::default()
        };
        let now = Now { ms: 1, unix_ms: 1 };
        Self {
            connection: Connection::new(Arc::new(limits.clone()), now, [1; 16]),
            limits,
            version,
            durable,
            window: 0,
            max_packet_size: 0,
            now,
            origins: Origins { node: 1, next: 1 },
            out: Vec::new(),
            actions: Vec::new(),
            tokens: Vec::new(),
            owed: VecDeque::new(),
            unanswered: BTreeSet::new(),
            tickets: BTreeSet::new(),
            last_ticket: 0,
            unreleased: BTreeSet::new(),
            to_release: BTreeSet::new(),
            releasing: BTreeSet::new(),
            to_complete: BTreeSet::new(),
            greeted: false,
            over: false,
        }
    }

    fn start(&mut self, source: &mut Source<'_>, session: Option<Box<SessionState>>) {
        let receive_maximum = u16::from(source.byte() % 4) + 1;
        let size = u32::from(source.byte()) + 60;
        let method = source.byte().is_multiple_of(4);
        let mut list = vec![
            Property::SessionExpiryInterval(50),
            Property::ReceiveMaximum(receive_maximum),
            Property::MaximumPacketSize(size),
            Property::TopicAliasMaximum(2),
        ];
        if method {
            list.push(Property::AuthenticationMethod("M"));
        }
        let v5 = self.version.is_v5();
        let own = if v5 { properties(&list) } else { PropertiesBuf::new() };
        self.window = usize::from(self.limits.max_in_flight.min(if v5 { receive_maximum } else { u16::MAX }));
        self.max_packet_size = if v5 { size as usize } else { usize::MAX };
        self.connection = Connection::new(Arc::new(self.limits.clone()), self.now, [1; 16]);
        self.owed.clear();
        self.tickets.clear();
        for ids in [&mut self.unanswered, &mut self.to_release, &mut self.releasing, &mut self.to_complete] {
            ids.clear();
        }
        (self.greeted, self.over) = (false, false);
        self.give(Packet::Connect(Box::new(connect(self.version, false, &own))));
        if v5 && method {
            self.authenticate(AuthStep::Continue(Secret::new(b"?")));
            let answer = properties(&[Property::AuthenticationMethod("M")]);
            let reason = ReasonCode::ContinueAuthentication;
            self.give(Packet::Auth(raftmq_mqtt::Auth { reason, properties: answer.as_properties() }));
            self.authenticate(AuthStep::Success(Secret::default()));
        }
        let opened = if self.durable { self.of_shard(session, size) } else { OpenResult::Accepted { session } };
        self.connection.on_opened(self.now, opened, &mut self.out, &mut self.actions);
        self.observe();
    }

    /// The shard knows some of the identifiers that the client has not released.
    fn of_shard(&mut self, session: Option<Box<SessionState>>, choice: u32) -> OpenResult {
        let session_present = session.is_some();
        self.unreleased.retain(|id| session_present && choice >> (id % 8) & 1 == 0);
        let received = self.unreleased.iter().filter_map(|id| NonZeroU16::new(*id)).collect();
        OpenResult::Durable { session_present, session: session.filter(|_| choice & 1 == 0), received }
    }

    fn give(&mut self, packet: Packet<'_>) {
        if !self.connection.can_read() {
            return;
        }
        let due = match &packet {
            Packet::Publish(publish) => publish.packet_id.map(|id| (publish.qos, id.get())),
            Packet::PubAck(ack) | Packet::PubComp(ack) => {
                self.unanswered.remove(&ack.packet_id.get());
                None
            }
            Packet::PubRec(ack) if ack.reason.is_error() => {
                self.unanswered.remove(&ack.packet_id.get());
                None
            }
            _ => None,
        };
        let open = self.connection.is_open();
        // Due before it is seen whether the packet ends the connection: then nothing is sent of it.
        self.owed.extend(due.filter(|_| open));
        let released = if let Packet::PubRel(ack) = &packet { Some(ack.packet_id.get()) } else { None };
        let known = due.is_some_and(|(qos, id)| qos == QoS::ExactlyOnce && self.unreleased.contains(&id));
        let before = self.actions.len();
        self.connection.on_packet(self.now, &mut self.origins, packet, &mut self.out, &mut self.actions);
        let handed_on = |action: &Action| matches!(action, Action::Publish { .. } | Action::Received { .. });
        let handed_on = self.actions[before..].iter().any(handed_on);
        assert!(!(known && handed_on), "handed on twice");
        if let (Some((QoS::ExactlyOnce, id)), true) = (due, handed_on) {
            self.unreleased.insert(id);
        }
        // The identifier of a durable session is free when its shard has said so.
        if let Some(id) = released.filter(|_| self.connection.is_open() && !self.durable) {
            self.unreleased.remove(&id);
        }
    }

    fn authenticate(&mut self, step: AuthStep) {
        self.connection.on_authenticated(self.now, step, &mut self.out, &mut self.actions);
    }

    fn step(&mut self, source: &mut Source<'_>) {
        let (step, choice) = (source.byte(), source.byte());
        let id = NonZeroU16::new(u16::from(choice % 5) + 1).expect("1 to 5");
        let ack = Ack::success(id);
        let now = self.now;
        match step % 32 {
            0..=4 => {
                let level = qos(choice / 5);
                let id = (level != QoS::AtMostOnce).then_some(id);
                self.give(Packet::Publish(publish(TOPICS[usize::from(choice) % 4], level, id, b"payload")));
            }
            5 | 6 => self.give(Packet::PubAck(ack)),
            7 => self.give(Packet::PubRec(Ack { reason: reason(self.version, choice), ..ack })),
            8 | 9 => self.give(Packet::PubRel(ack)),
            10 => self.give(Packet::PubComp(ack)),
            11 => {
                let options = SubOptions { qos: qos(choice), no_local: choice & 64 != 0, ..SubOptions::default() };
                let filters = [usize::from(choice) % 7, usize::from(choice / 7) % 7];
                let subscriptions = filters.map(|at| Subscription { filter: FILTERS[at], options }).to_vec();
                self.give(Packet::Subscribe(Subscribe { packet_id: id, properties: Properties::EMPTY, subscriptions }));
            }
            12 => {
                let filters = vec![FILTERS[usize::from(choice) % 7]];
                self.give(Packet::Unsubscribe(Unsubscribe { packet_id: id, properties: Properties::EMPTY, filters }));
                self.connection.take_unsubscribed();
            }
            13 => self.give(Packet::PingReq),
            14 => {
                let end = Disconnect { reason: ReasonCode::Success, properties: Properties::EMPTY };
                self.give(Packet::Disconnect(end));
            }
            // Whatever the codec takes.
            15..=17 => {
                let kind = PacketType::ALL[usize::from(choice) % 15];
                with_packet(source, kind, self.version, |packet| self.give(packet.clone()));
            }
            18..=20 if !self.tokens.is_empty() => self.published(choice),
            21 | 22 if self.durable && choice & 32 != 0 => self.shard_says(id, choice),
            21 => {
                let refused = [(0, ReasonCode::NotAuthorized), (9, ReasonCode::Success)];
                let refused = if choice & 64 == 0 { &[][..] } else { &refused };
                self.connection.on_subscribed(id, refused, &mut self.out, &mut self.actions);
            }
            22 => self.connection.on_unsubscribed(id, &mut self.out, &mut self.actions),
            23..=26 if self.durable && choice & 8 != 0 => self.grant(source, id, choice),
            23..=26 => self.deliver(source, choice),
            27 => self.connection.set_congested(),
            28 => self.connection.on_writable(now, &mut self.out, &mut self.actions),
            29 => {
                self.now.ms += u64::from(choice) * 300;
                self.now.unix_ms += u64::from(choice) * 300;
                self.connection.on_timer(self.now, &mut self.out, &mut self.actions);
            }
            30 => self.odd(choice),
            _ => self.reconnect(source, choice & 1 == 0),
        }
    }

    fn published(&mut self, choice: u8) {
        let at = usize::from(choice) % self.tokens.len();
        let token = if choice & 64 == 0 { self.tokens.swap_remove(at) } else { self.tokens[at] };
        let reason = if choice & 128 == 0 { ReasonCode::Success } else { ReasonCode::QuotaExceeded };
        self.connection.on_published(token, reason, &mut self.out, &mut self.actions);
        self.unreleased.retain(|id| NonZeroU16::new(*id).is_some_and(|id| known(&self.connection, id)));
    }

    fn deliver(&mut self, source: &mut Source<'_>, choice: u8) {
        let payload = vec![b'x'; usize::from(source.byte())];
        let expires = (choice & 32 != 0).then(|| self.now.unix_ms + u64::from(choice));
        let message = message(TOPICS[usize::from(choice) % 4], qos(choice), &payload, expires);
        let matched = Matched {
            qos: qos(choice / 3),
            no_local: choice & 1 != 0,
            retain_as_published: choice & 2 != 0,
            retained: choice & 4 != 0,
            sub_ids: (1..=u32::from(choice) % 4).collect(),
            share: (choice & 16 != 0).then(|| "$share/g/a".into()),
        };
        let mut forms = Forms::new(message, self.now);
        if choice & 128 == 0 {
            self.connection.deliver(&mut forms, self.now, &matched, &mut self.out);
            return;
        }
        let (room, length) = (self.connection.ticket_room(), self.out.len());
        let ticket = self.last_ticket + 1;
        let delivery = self.connection.deliver_ticket(&mut forms, &matched, ticket, &mut self.out);
        match delivery {
            TicketDelivery::Sent(_) => {
                self.last_ticket = ticket;
                assert!(self.tickets.insert(ticket) && room > 0 && !self.durable);
                assert_eq!((room - self.connection.ticket_room(), self.out.len() > length), (1, true));
            }
            TicketDelivery::NoCredit => assert_eq!((room, self.out.len()), (0, length)),
            TicketDelivery::Skipped => assert_eq!(self.out.len(), length),
        }
    }

    fn grant(&mut self, source: &mut Source<'_>, packet_id: NonZeroU16, choice: u8) {
        let payload = vec![b'x'; usize::from(source.byte())];
        let message = message(TOPICS[usize::from(choice) % 4], qos(choice), &payload, None);
        let identifiers: Vec<u32> = (1..=u32::from(choice) % 4).collect();
        let granted = Granted {
            packet_id,
            message: &message,
            qos: qos(choice / 3),
            retain: choice & 1 != 0,
            dup: choice & 2 != 0,
            identifiers: &identifiers,
            lifetime_ms: (choice & 64 != 0).then_some(u64::from(choice)),
        };
        let (credits, length) = (self.connection.credits(), self.out.len());
        let delivery = self.connection.on_granted(self.now, &granted, &mut self.out);
        let sent = delivery == GrantedDelivery::Sent;
        assert_eq!((credits - self.connection.credits(), self.out.len() > length), (usize::from(sent), sent));
        match delivery {
            GrantedDelivery::Sent => assert!(!self.unanswered.contains(&packet_id.get())),
            GrantedDelivery::NoCredit => assert_eq!(credits, 0),
            GrantedDelivery::UnderWay => assert!(!self.over),
            GrantedDelivery::TooLarge => assert!(self.version.is_v5()),
            GrantedDelivery::Skipped => assert!(self.limits.mount_point.is_some()),
        }
        self.observe();
        assert!(!sent || self.unanswered.contains(&packet_id.get()), "sent without its identifier");
    }

    /// What the shard has committed, or not.
    fn shard_says(&mut self, id: NonZeroU16, choice: u8) {
        if choice & 64 == 0 {
            self.to_release.insert(id.get());
            return self.connection.on_granted_release(id, &mut self.out, &mut self.actions);
        }
        self.observe();
        if self.releasing.remove(&id.get()) && self.connection.is_open() {
            self.to_complete.insert(id.get());
            self.unreleased.remove(&id.get());
        }
        self.connection.on_released(id, choice & 128 == 0, &mut self.out, &mut self.actions);
    }

    /// What does not fit where the connection is.
    fn odd(&mut self, choice: u8) {
        match choice % 6 {
            0 => self.authenticate(AuthStep::Success(Secret::default())),
            1 => self.authenticate(AuthStep::Refused(ReasonCode::NotAuthorized)),
            2 => {
                let opened = OpenResult::Accepted { session: None };
                self.connection.on_opened(self.now, opened, &mut self.out, &mut self.actions);
            }
            3 => {
                let error = DecodeError::RemainingLength;
                self.connection.on_decode_error(&error, None, &mut self.out, &mut self.actions);
            }
            4 => {
                self.connection.close(CloseReason::Server(ReasonCode::ServerShuttingDown), &mut self.out);
                self.over = true;
            }
            _ => self.connection.excuse_silence(self.now),
        }
    }

    fn reconnect(&mut self, source: &mut Source<'_>, keep: bool) {
        self.observe();
        let fresh = Connection::new(Arc::new(self.limits.clone()), self.now, [1; 16]);
        let old = std::mem::replace(&mut self.connection, fresh);
        let mut session = old.into_state().map(|(_, session)| session).filter(|_| keep);
        if let Some(session) = &mut session {
            let message = message("a", QoS::AtLeastOnce, b"offline", None);
            let matched = Matched { qos: QoS::AtLeastOnce, ..Matched::default() };
            session.deliver_offline(self.now, &self.limits, CLIENT, &message, &matched);
            if let Some(token) = self.tokens.pop() {
                session.on_published(token, ReasonCode::Success);
            }
        } else {
            self.unreleased.clear();
        }
        self.start(source, session);
    }

    /// Reads what was sent and asked.
    fn observe(&mut self) {
        let out = std::mem::take(&mut self.out);
        each_packet(&out, self.version, |packet, size| {
            assert!(
                !self.over || !self.greeted || matches!(packet, Packet::Disconnect(_)),
                "after the end: {packet:?}"
            );
            assert!(size <= self.max_packet_size || !self.greeted, "larger than the client takes: {packet:?}");
            match packet {
                Packet::ConnAck(ack) => {
                    assert!(!self.greeted, "a second CONNACK");
                    self.greeted |= !ack.reason.is_error();
                }
                Packet::Auth(_) => assert!(self.version.is_v5()),
                _ => assert!(self.greeted, "before CONNACK: {packet:?}"),
            }
            match packet {
                Packet::PubAck(ack) => assert_eq!(self.owed.pop_front(), Some((QoS::AtLeastOnce, ack.packet_id.get()))),
                Packet::PubRec(ack) => assert_eq!(self.owed.pop_front(), Some((QoS::ExactlyOnce, ack.packet_id.get()))),
                Packet::PubRel(ack) if self.durable => {
                    // An MQTT 3 client is not told that nothing is known.
                    let known = ack.reason == ReasonCode::Success && self.version.is_v5();
                    assert!(!known || self.to_release.contains(&ack.packet_id.get()), "nobody has said so");
                }
                Packet::PubComp(ack) if self.durable => assert!(self.to_complete.remove(&ack.packet_id.get())),
                Packet::Publish(publish) => {
                    if let Some(id) = publish.packet_id {
                        assert!(self.unanswered.insert(id.get()), "an identifier twice");
                        assert!(self.unanswered.len() <= self.window, "more than the client takes");
                    }
                }
                Packet::Disconnect(_) => {
                    assert!(self.version.is_v5());
                    self.over = true;
                }
                Packet::ConnAck(_)
                | Packet::Auth(_)
                | Packet::PubRel(_)
                | Packet::PubComp(_)
                | Packet::SubAck(_)
                | Packet::UnsubAck(_)
                | Packet::PingResp => {}
                other => panic!("a server does not send {other:?}"),
            }
        });
        for action in self.actions.drain(..) {
            match action {
                Action::Publish { token, .. } => self.tokens.extend(token),
                Action::Received { token, .. } => self.tokens.push(token),
                Action::Released { packet_id } => assert!(self.releasing.insert(packet_id.get()), "handed on twice"),
                Action::Settled { .. } => assert!(self.durable),
                Action::Answered { ticket } => assert!(self.tickets.remove(&ticket), "answered twice"),
                Action::Close { .. } => {
                    assert!(self.connection.is_closed());
                    self.over = true;
                }
                _ => {}
            }
        }
        let session = self.connection.session();
        assert!(session.outbound.counted() <= self.window);
        if let Some(durable) = &self.connection.durable {
            assert!(durable.flights.counted() <= self.window);
            assert_eq!(session.messages().0, 0, "of the session's own");
        }
        assert!(session.messages().1 <= self.limits.max_queued_messages);
        assert!(session.subscriptions().len() <= self.limits.max_subscriptions);
        assert_eq!(session.unreleased(), self.unreleased.len());
        if let Some(unsettled) = &session.unsettled {
            assert!(!unsettled.is_empty(), "memory for nothing");
            for filter in unsettled.filters() {
                assert!(session.subscription(filter).is_some(), "{filter} waits and is not there");
            }
        }
    }
}

fn known(connection: &Connection, id: NonZeroU16) -> bool {
    connection.session().known(id) != crate::received::Known::No
}

fn reason(version: Version, choice: u8) -> ReasonCode {
    if version.is_v5() && choice & 64 != 0 { ReasonCode::QuotaExceeded } else { ReasonCode::Success }
}
