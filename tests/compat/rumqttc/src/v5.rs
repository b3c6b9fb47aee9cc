//! rumqttc's client of MQTT 5.

pub use rumqttc::v5::mqttbytes::v5::{Filter, RetainForwardRule};

use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::v5::{
    ConnectProperties, ConnectReturnCode, LastWill, Packet, Publish, SubscribeProperties, SubscribeReasonCode,
    UnsubAckReason,
};
use rumqttc::v5::mqttbytes::{self, QoS};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, MqttOptions, StateError};
use tokio::task::JoinHandle;

use crate::peer::{Connack, Message, Options, Shared};
use crate::settings::Result;

pub type Client = AsyncClient;

pub fn qos(level: u8) -> QoS {
    mqttbytes::qos(level).expect("0, 1 or 2")
}

pub fn start(options: &Options, seen: Shared) -> Result<(Client, JoinHandle<()>)> {
    let (host, port, transport) = options.transport.address(options.ca)?;
    let mut wanted = MqttOptions::new(&options.name, host, port);
    let properties = ConnectProperties {
        session_expiry_interval: options.session_expiry,
        receive_maximum: options.receive_maximum,
        max_packet_size: Some(1 << 20),
        ..ConnectProperties::new()
    };
    wanted
        .set_transport(transport)
        .set_clean_start(options.clean)
        .set_connect_properties(properties)
        .set_manual_acks(options.manual);
    if let Some(will) = &options.will {
        let properties = will.properties.clone();
        wanted.set_last_will(LastWill::new(&will.topic, will.payload.as_str(), QoS::AtLeastOnce, false, properties));
    }
    let (client, mut events) = AsyncClient::new(wanted, 10);
    let task = tokio::spawn(async move {
        loop {
            let event = events.poll().await;
            let mut seen = seen.lock().expect("no thread panics with it");
            match event {
                Ok(Event::Incoming(Packet::ConnAck(connack))) if connack.code == ConnectReturnCode::Success => {
                    let session_present = connack.session_present;
                    let properties = connack.properties;
                    seen.connack = Some(Connack {
                        session_present,
                        topic_alias_maximum: properties.as_ref().and_then(|p| p.topic_alias_max).unwrap_or(0),
                        assigned: properties.and_then(|p| p.assigned_client_identifier),
                    });
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => seen.messages.push(message(publish)),
                Ok(Event::Incoming(Packet::SubAck(suback))) => {
                    seen.granted.push(suback.return_codes.iter().map(granted).collect())
                }
                Ok(Event::Incoming(Packet::UnsubAck(unsuback))) => {
                    seen.unsubscribed.push(unsuback.reasons.iter().map(unsubscribed).collect())
                }
                Ok(Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_))) => seen.complete += 1,
                // QoS 0 has no packet identifier.
                Ok(Event::Outgoing(Outgoing::Publish(0))) => seen.complete += 1,
                Ok(Event::Outgoing(Outgoing::Disconnect)) => return,
                Ok(_) => {}
                Err(error) => {
                    let code = match &error {
                        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => {
                            Some(*reason_code as u8)
                        }
                        _ => None,
                    };
                    seen.end = Some((code, error.to_string()));
                    return;
                }
            }
        }
    });
    Ok((client, task))
}

fn message(publish: Publish) -> Message {
    Message {
        topic: String::from_utf8_lossy(&publish.topic).into(),
        payload: publish.payload.to_vec(),
        qos: publish.qos as u8,
        retain: publish.retain,
        id: publish.pkid,
        properties: publish.properties.unwrap_or_default(),
    }
}

fn granted(code: &SubscribeReasonCode) -> u8 {
    match code {
        SubscribeReasonCode::Success(qos) => *qos as u8,
        _ => 0x80,
    }
}

fn unsubscribed(code: &UnsubAckReason) -> u8 {
    match code {
        UnsubAckReason::Success => 0,
        UnsubAckReason::NoSubscriptionExisted => 0x11,
        _ => 0x80,
    }
}

pub fn filter((path, level): (&str, u8)) -> Filter {
    Filter::new(path, qos(level))
}

pub async fn subscribe(client: &Client, filters: Vec<Filter>, identifier: Option<usize>) -> Result<()> {
    match identifier {
        None => client.subscribe_many(filters).await?,
        Some(_) => {
            let properties = SubscribeProperties { id: identifier, user_properties: Vec::new() };
            client.subscribe_many_with_properties(filters, properties).await?;
        }
    }
    Ok(())
}

pub async fn ack(client: &Client, message: &Message) -> Result<()> {
    let mut publish = Publish::new(message.topic.as_str(), qos(message.qos), Vec::new(), None);
    publish.pkid = message.id;
    Ok(client.ack(&publish).await?)
}
