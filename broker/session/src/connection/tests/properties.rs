//! Any sequence of packets and answers: no panic, the window is kept, acknowledgements come in order, each once.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Publish { qos: u8, id: u16, retain: bool },
    PubAck(u16),
    OtherAck(u8, u16),
    Subscribe(u16, Vec<u8>),
    Unsubscribe(u16, Vec<u8>),
    Ping,
    Odd(u8),
    Disconnect,
    Published(usize, bool),
    Subscribed(u16, bool),
    Unsubscribed(u16),
    Deliver { qos: u8, size: usize },
    Congested,
    Writable,
    Time(u64),
    Reconnect(bool),
}

const FILTERS: [&str; 5] = ["a", "b/+", "#", "$share/g/a", "c"];

fn step() -> impl Strategy<Value = Step> {
    let id = || 1_u16..6;
    let filters = || prop::collection::vec(0_u8..5, 1..4);
    prop_oneof![
        6 => (0_u8..40, id(), 0_u8..40).prop_map(|(qos, id, retain)| Step::Publish { qos: if qos == 0 { 2 } else { qos % 2 }, id, retain: retain == 0 }),
        6 => id().prop_map(Step::PubAck),
        1 => (0_u8..3, id()).prop_map(|(kind, id)| Step::OtherAck(kind, id)),
        2 => (id(), filters()).prop_map(|(id, filters)| Step::Subscribe(id, filters)),
        2 => (id(), filters()).prop_map(|(id, filters)| Step::Unsubscribe(id, filters)),
        1 => Just(Step::Ping),
        1 => (0_u8..40).prop_map(Step::Odd),
        1 => Just(Step::Disconnect),
        6 => (0_usize..8, any::<bool>()).prop_map(|(at, ok)| Step::Published(at, ok)),
        2 => (id(), any::<bool>()).prop_map(|(id, ok)| Step::Subscribed(id, ok)),
        2 => id().prop_map(Step::Unsubscribed),
        8 => (0_u8..3, 0_usize..200).prop_map(|(qos, size)| Step::Deliver { qos, size }),
        1 => Just(Step::Congested),
        2 => Just(Step::Writable),
        1 => (0_u64..30_000).prop_map(Step::Time),
        1 => any::<bool>().prop_map(Step::Reconnect),
    ]
}

/// What the outside may rely on.
#[derive(Default)]
struct Watch {
    /// Identifiers of PUBLISH packets that are owed a PUBACK, in order.
    owed: std::collections::VecDeque<u16>,
    /// Identifiers that the client has not acknowledged.
    unacknowledged: Vec<u16>,
    tokens: Vec<PublishToken>,
    max_seen: usize,
}

impl Watch {
    /// Reads what was sent and done.
    fn observe(&mut self, peer: &mut Peer, window: usize, max_packet_size: usize) {
        let out = std::mem::take(&mut peer.out);
        let mut rest = &out[..];
        while !rest.is_empty() {
            let Decoded::Packet { packet, consumed } =
                decode(rest, Some(peer.connection.version), &Limits::default()).unwrap()
            else {
                panic!("half a packet")
            };
            assert!(consumed <= max_packet_size, "{packet:?}");
            match packet {
                Packet::PubAck(ack) => assert_eq!(self.owed.pop_front(), Some(ack.packet_id.get())),
                Packet::Publish(publish) => {
                    if let Some(id) = publish.packet_id {
                        assert!(!self.unacknowledged.contains(&id.get()));
                        self.unacknowledged.push(id.get());
                        self.max_seen = self.max_seen.max(self.unacknowledged.len());
                        assert!(self.unacknowledged.len() <= window);
                    }
                }
                _ => {}
            }
            rest = &rest[consumed..];
        }
        for action in peer.actions.drain(..) {
            if let Action::Publish { token: Some(token), .. } = action {
                self.tokens.push(token);
            }
        }
        assert_eq!(peer.connection.state.outbound.sent_now().min(window), self.unacknowledged.len().min(window));
    }
}

fn run(version: Version, limits: &SessionLimits, steps: Vec<Step>) {
    let window = usize::from(limits.max_in_flight);
    let own = properties(&[Property::SessionExpiryInterval(60), Property::MaximumPacketSize(150)]);
    let own = if version.is_v5() { own } else { PropertiesBuf::new() };
    let largest = if version.is_v5() { 150 } else { usize::MAX };
    let mut peer = Peer::open(version, limits.clone(), &own, None);
    let mut watch = Watch::default();
    for step in steps {
        match step {
            Step::Publish { qos, id, retain } => {
                if peer.connection.can_read() {
                    let qos = QoS::from_u8(qos).unwrap();
                    let id = if qos == QoS::AtMostOnce { 0 } else { id };
                    peer.give(Packet::Publish(Publish { retain, ..publish("t", qos, id) }));
                    if let Some(Action::Publish { token: Some(_), .. }) = peer.actions.last() {
                        watch.owed.push_back(id);
                    }
                }
            }
            Step::PubAck(id) => {
                if peer.connection.can_read() {
                    watch.unacknowledged.retain(|&other| other != id);
                    peer.puback(id);
                }
            }
            Step::OtherAck(kind, id) => {
                let ack = Ack::success(id_of(id));
                peer.give(match kind {
                    0 => Packet::PubRec(ack),
                    1 => Packet::PubRel(ack),
                    _ => Packet::PubComp(ack),
                });
            }
            Step::Subscribe(id, filters) => {
                let subscriptions = filters
                    .iter()
                    .map(|&f| Subscription { filter: FILTERS[usize::from(f)], options: SubOptions::default() })
                    .collect();
                peer.give(Packet::Subscribe(Subscribe {
                    packet_id: id_of(id),
                    properties: Properties::EMPTY,
                    subscriptions,
                }));
            }
            Step::Unsubscribe(id, filters) => {
                let filters = filters.iter().map(|&f| FILTERS[usize::from(f)]).collect();
                peer.give(Packet::Unsubscribe(Unsubscribe {
                    packet_id: id_of(id),
                    properties: Properties::EMPTY,
                    filters,
                }));
            }
            Step::Ping => peer.give(Packet::PingReq),
            Step::Odd(0) => peer.give(Packet::Connect(Box::new(connect(version)))),
            Step::Odd(1) => peer.give(Packet::PingResp),
            Step::Odd(_) => {}
            Step::Disconnect => {
                peer.give(Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties: Properties::EMPTY }))
            }
            Step::Published(at, ok) => {
                if at < watch.tokens.len() {
                    let token = watch.tokens[at];
                    if at % 2 == 0 {
                        watch.tokens.remove(at);
                    }
                    peer.published(token, if ok { ReasonCode::Success } else { ReasonCode::QuotaExceeded });
                }
            }
            Step::Subscribed(id, ok) => {
                let refused = [(0, ReasonCode::NotAuthorized), (9, ReasonCode::Success)];
                let refused = if ok { &[][..] } else { &refused };
                peer.connection.on_subscribed(id_of(id), refused, &mut peer.out, &mut peer.actions);
            }
            Step::Unsubscribed(id) => peer.connection.on_unsubscribed(id_of(id), &mut peer.out, &mut peer.actions),
            Step::Deliver { qos, size } => {
                peer.deliver(&message(&"x".repeat(size), QoS::from_u8(qos).unwrap()), &at(QoS::AtLeastOnce));
            }
            Step::Congested => peer.connection.set_congested(),
            Step::Writable => peer.connection.on_writable(peer.now, &mut peer.out, &mut peer.actions),
            Step::Time(ms) => {
                peer.now.ms += ms;
                peer.now.unix_ms += ms;
                peer.connection.on_timer(peer.now, &mut peer.out, &mut peer.actions);
            }
            Step::Reconnect(keep) => {
                watch.observe(&mut peer, window, largest);
                let session = peer.end();
                assert!(session.messages().1 <= limits.max_queued_messages);
                peer = Peer::new(limits.clone());
                peer.give(Packet::Connect(Box::new(Connect {
                    properties: own.as_properties(),
                    clean_start: !keep,
                    ..connect(version)
                })));
                peer.opened(OpenResult::Accepted { session: keep.then_some(session) });
                watch = Watch::default();
            }
        }
        watch.observe(&mut peer, window, largest);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_sequence(steps in prop::collection::vec(step(), 0..120), v5 in any::<bool>(), window in 1_u16..4) {
        let limits = SessionLimits {
            max_in_flight: window,
            receive_maximum: 4,
            max_queued_messages: 5,
            max_pending_filters: 5,
            max_subscriptions: 3,
            ..SessionLimits::default()
        };
        run(if v5 { V5 } else { V4 }, &limits, steps);
    }
}
