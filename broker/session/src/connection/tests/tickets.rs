//! Messages that somebody else wants to know the end of.

use super::*;
use crate::TicketDelivery;
use crate::TicketDelivery::{NoCredit, Sent, Skipped};

impl Peer {
    fn ticket(&mut self, payload: &str, qos: QoS, ticket: u64) -> TicketDelivery {
        let mut forms = Forms::new(message(payload, qos), self.now);
        self.connection.deliver_ticket(&mut forms, &at(QoS::ExactlyOnce), ticket, &mut self.out)
    }

    fn answered(&mut self) -> Vec<u64> {
        let answered = |action| if let Action::Answered { ticket } = action { Some(ticket) } else { None };
        self.actions.drain(..).filter_map(answered).collect()
    }
}

const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

#[test]
fn a_ticket_comes_back_with_the_answer() {
    for version in [V4, V5] {
        let mut peer = Peer::simple(version);
        assert_eq!((peer.ticket("a", Q1, 70), peer.ticket("b", Q2, 71)), (Sent(Q1), Sent(Q2)));
        peer.deliver(&message("own", Q1), &at(Q1));
        assert_eq!(peer.ticket("c", Q1, 72), Sent(Q1));
        assert_eq!(peer.trace(), ["PUBLISH 1 q1 a", "PUBLISH 2 q2 b", "PUBLISH 3 q1 own", "PUBLISH 4 q1 c"]);
        peer.puback(3);
        peer.puback(4);
        assert_eq!(peer.answered(), [72]);
        // What does not answer it, and what answers it again.
        peer.puback(4);
        peer.pubcomp(4);
        assert_eq!(peer.answered(), []);
        peer.pubrec(2);
        assert_eq!(peer.answered(), [71]);
        peer.pubrec(2);
        peer.pubcomp(2);
        peer.puback(1);
        assert_eq!(peer.answered(), [70]);
        assert_eq!(peer.connection.session().messages(), (0, 0));
    }
}

#[test]
fn a_refusal_is_an_answer() {
    let mut peer = Peer::simple(V5);
    assert_eq!((peer.ticket("a", Q1, 1), peer.ticket("b", Q2, 2)), (Sent(Q1), Sent(Q2)));
    let refused = |id| Ack { reason: ReasonCode::QuotaExceeded, ..Ack::success(id_of(id)) };
    peer.give(Packet::PubRec(refused(2)));
    peer.give(Packet::PubAck(refused(1)));
    assert_eq!(peer.answered(), [2, 1]);
}

/// They are sent at once or not at all, and nobody is given what the connection leaves.
#[test]
fn nothing_waits_here() {
    let limits = SessionLimits { max_in_flight: 2, max_packet_size: 200, ..SessionLimits::default() };
    let mut peer = Peer::open(V5, limits, &properties(&[Property::MaximumPacketSize(60)]), None);
    assert_eq!(peer.connection.ticket_room(), 2);
    assert_eq!((peer.ticket("a", Q1, 1), peer.ticket(&"x".repeat(80), Q1, 2)), (Sent(Q1), Skipped));
    assert_eq!(peer.ticket("q0", QoS::AtMostOnce, 3), Skipped);
    assert_eq!((peer.ticket("b", Q1, 4), peer.ticket("c", Q1, 5)), (Sent(Q1), NoCredit));
    peer.puback(1);
    assert_eq!((peer.answered(), peer.connection.ticket_room()), (vec![1], 1));
    peer.connection.set_congested();
    assert_eq!((peer.ticket("c", Q1, 5), peer.connection.ticket_room()), (NoCredit, 0));
    // Behind what waits for the client.
    peer.deliver(&message("own", Q1), &at(Q1));
    peer.connection.on_writable(peer.now, &mut peer.out, &mut peer.actions);
    assert_eq!(peer.ticket("c", Q1, 5), NoCredit);
    let mut session = peer.lose();
    assert!(session.take_shared().is_empty());
}

/// A durable session has a queue of its own for that.
#[test]
fn not_on_a_connection_of_a_durable_session() {
    let mut peer = Peer::connecting(V5, SessionLimits::default());
    let result = OpenResult::Durable { session_present: false, session: None, received: Vec::new() };
    peer.opened(result);
    assert_eq!((peer.ticket("a", Q1, 1), peer.connection.ticket_room()), (NoCredit, 0));
}
