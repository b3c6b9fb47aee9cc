//! MQTT, the client's side: what is sent first, and what is made of each packet that comes.

use std::num::NonZeroU16;

use raftmq_mqtt::{
    Ack, Connect, Decoded, Limits, Packet, PacketType, Properties, PropertiesBuf, Property, QoS, ReasonCode,
    SubOptions, Subscribe, Subscription, decode, encode,
};

use crate::client::{Client, State};
use crate::context::Context;
use crate::failure::Failure;
use crate::plan::{Kind, Plan, Side};
use crate::process::SECOND;
use crate::wire::{Frame, MAX_PACKET, write_ack};

/// Filters of one SUBSCRIBE.
const FILTERS: u16 = 64;
/// For packets off the hot path.
const LIMITS: Limits = Limits { max_packet_size: MAX_PACKET, ..Limits::PROTOCOL };

/// Appends CONNECT.
pub(crate) fn write_connect(plan: &Plan, client: &mut Client) {
    let options = &plan.options;
    let client_id = plan.client_id(client.side, client.index);
    let mut properties = PropertiesBuf::new();
    let expiry = u32::try_from(options.session_expiry.as_secs()).unwrap_or(u32::MAX);
    if expiry > 0 {
        properties.push(Property::SessionExpiryInterval(expiry)).expect("a number fits");
    }
    client.keep_alive = u16::try_from(options.keep_alive.as_secs()).unwrap_or(u16::MAX);
    let packet = Packet::Connect(Box::new(Connect {
        version: plan.version,
        clean_start: options.clean_start,
        keep_alive: client.keep_alive,
        client_id: &client_id,
        will: None,
        username: options.username.as_deref(),
        password: plan.password.as_deref().map(str::as_bytes),
        properties: properties.as_properties(),
    }));
    // Only a text of more than 64 KiB does not fit, and then the server says what it thinks of half a connection.
    let _ = encode(&packet, plan.version, &mut client.out);
}

/// Appends DISCONNECT.
pub(crate) fn write_disconnect(plan: &Plan, out: &mut Vec<u8>) {
    let reason = ReasonCode::NORMAL_DISCONNECTION;
    let packet = Packet::Disconnect(raftmq_mqtt::Disconnect { reason, properties: Properties::EMPTY });
    let _ = encode(&packet, plan.version, out);
}

/// Appends what a client subscribes to: how many SUBACKs have to come.
fn write_subscribe(plan: &Plan, client: &mut Client) -> u16 {
    if client.side == Side::Publisher || plan.subscriptions == 0 {
        return 0;
    }
    let filter = plan.filter.fill(client.index, &plan.client_id(client.side, client.index), plan.run);
    let filters: Vec<String> = match plan.kind {
        Kind::Conn => (0..plan.subscriptions).map(|n| format!("{filter}/{n}")).collect(),
        _ => vec![filter],
    };
    let options = SubOptions { qos: plan.qos, ..SubOptions::default() };
    let mut packets = 0;
    for filters in filters.chunks(usize::from(FILTERS)) {
        packets += 1;
        let packet = Packet::Subscribe(Subscribe {
            packet_id: NonZeroU16::new(packets).unwrap_or(NonZeroU16::MIN),
            properties: Properties::EMPTY,
            subscriptions: filters.iter().map(|filter| Subscription { filter, options }).collect(),
        });
        // The filter was checked before.
        let _ = encode(&packet, plan.version, &mut client.out);
    }
    packets
}

/// Takes one packet. Answers are appended to the client's packets to be sent.
pub(crate) fn receive(
    client: &mut Client,
    context: &mut Context<'_>,
    frame: Frame<'_>,
    now: u64,
) -> Result<(), Failure> {
    let version = context.plan().version;
    match frame.packet() {
        Some(PacketType::Publish) => {
            let (qos, id, payload) = frame.publish(version)?;
            let Some(receiver) = &mut client.receiver else {
                return Err(Failure::Unexpected(PacketType::Publish));
            };
            match (qos, id) {
                (QoS::AtLeastOnce, Some(id)) => write_ack(PacketType::PubAck, id, &mut client.out),
                (QoS::ExactlyOnce, Some(id)) => {
                    write_ack(PacketType::PubRec, id, &mut client.out);
                    if !receiver.unreleased.publish(id) {
                        context.counts.repeated += 1;
                        return Ok(());
                    }
                }
                _ => {}
            }
            context.delivered(&mut receiver.tracks, payload, now);
            return Ok(());
        }
        Some(PacketType::PubRel) if frame.first & 0x0F == 2 => {
            if let (Some(id), Some(receiver)) = (frame.plain_ack(), &mut client.receiver) {
                receiver.unreleased.release(id);
                write_ack(PacketType::PubComp, id, &mut client.out);
                return Ok(());
            }
        }
        Some(packet @ (PacketType::PubAck | PacketType::PubRec | PacketType::PubComp)) if frame.first & 0x0F == 0 => {
            if let Some(id) = frame.plain_ack() {
                return acknowledge(client, context, packet, &Ack::success(id), now);
            }
        }
        _ => {}
    }
    // The frame is whole, so it is the packet.
    let mut bytes = Vec::with_capacity(frame.length);
    whole(&frame, &mut bytes);
    match decode(&bytes, Some(version), &LIMITS).map_err(Failure::Malformed)? {
        Decoded::Packet { packet, .. } => other(client, context, &packet, now),
        Decoded::Incomplete { .. } => Ok(()),
    }
}

/// The packet's bytes again.
fn whole(frame: &Frame<'_>, to: &mut Vec<u8>) {
    to.push(frame.first);
    let mut left = frame.body.len();
    loop {
        let byte = (left & 0x7F) as u8;
        left >>= 7;
        to.push(if left > 0 { byte | 0x80 } else { byte });
        if left == 0 {
            break;
        }
    }
    to.extend_from_slice(frame.body);
}

fn other(client: &mut Client, context: &mut Context<'_>, packet: &Packet<'_>, now: u64) -> Result<(), Failure> {
    match (packet, client.state) {
        (Packet::ConnAck(ack), State::Connect) => {
            if ack.reason.is_error() {
                return Err(Failure::ConnAck(ack.reason));
            }
            if let Some(seconds) = ack.properties.server_keep_alive() {
                client.keep_alive = seconds;
            }
            if let (Some(publisher), Some(most)) = (&mut client.publisher, ack.properties.receive_maximum()) {
                publisher.flight.limit(most);
            }
            match write_subscribe(context.plan(), client) {
                0 => ready(client, context, now),
                packets => client.state = State::Subscribe(packets),
            }
            Ok(())
        }
        (Packet::SubAck(ack), State::Subscribe(missing)) => {
            for reason in &ack.reasons {
                if reason.is_error() {
                    return Err(Failure::SubAck(*reason));
                }
                if *reason != ReasonCode::granted(context.plan().qos) {
                    return Err(Failure::Granted(*reason as u8));
                }
            }
            if missing > 1 {
                client.state = State::Subscribe(missing - 1);
            } else {
                ready(client, context, now);
            }
            Ok(())
        }
        (Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack), _) => {
            acknowledge(client, context, packet.packet_type(), ack, now)
        }
        (Packet::PubRel(ack), _) => {
            if let Some(receiver) = &mut client.receiver {
                receiver.unreleased.release(ack.packet_id);
            }
            write_ack(PacketType::PubComp, ack.packet_id, &mut client.out);
            Ok(())
        }
        (Packet::PingResp, _) => {
            client.pinged_at = 0;
            Ok(())
        }
        (Packet::Disconnect(disconnect), _) => Err(Failure::Disconnect(disconnect.reason)),
        (packet, _) => Err(Failure::Unexpected(packet.packet_type())),
    }
}

/// The client can be used.
fn ready(client: &mut Client, context: &mut Context<'_>, now: u64) {
    client.state = State::Ready;
    context.counts.connected += 1;
    context.outcome.connect.record(client.began, now);
    context.outcome.connected_at = now;
    context.present(client.side, 1);
}

fn acknowledge(
    client: &mut Client,
    context: &mut Context<'_>,
    packet: PacketType,
    ack: &Ack<'_>,
    now: u64,
) -> Result<(), Failure> {
    let Some(publisher) = &mut client.publisher else {
        return Err(Failure::Unexpected(packet));
    };
    let id = ack.packet_id;
    let refused = ack.reason.is_error();
    let due = match packet {
        PacketType::PubRec if !refused => {
            if !publisher.flight.received(id) {
                return Err(Failure::UnknownId(packet));
            }
            write_ack(PacketType::PubRel, id, &mut client.out);
            return Ok(());
        }
        PacketType::PubAck | PacketType::PubRec => publisher.flight.acknowledged(id),
        _ => publisher.flight.completed(id),
    };
    let due = due.ok_or(Failure::UnknownId(packet))?;
    if refused {
        context.counts.refused += 1;
        context.error(&Failure::Ack(packet, ack.reason));
    } else {
        context.acknowledged(due, now);
    }
    if !publisher.runnable {
        publisher.runnable = true;
        context.own_runnable = true;
    }
    Ok(())
}

/// Appends PINGREQ when nothing was sent for three quarters of the keep-alive.
///
/// # Errors
/// The last one was not answered in time.
pub(crate) fn keep_alive(client: &mut Client, timeout: u64, now: u64) -> Result<(), Failure> {
    if client.pinged_at > 0 {
        return if now.saturating_sub(client.pinged_at) > timeout { Err(Failure::NoPing) } else { Ok(()) };
    }
    let after = u64::from(client.keep_alive) * SECOND / 4 * 3;
    if after > 0 && now.saturating_sub(client.sent_at) >= after {
        client.out.extend_from_slice(&[(PacketType::PingReq as u8) << 4, 0]);
        client.pinged_at = now;
    }
    Ok(())
}
