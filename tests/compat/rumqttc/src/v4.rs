//! rumqttc's client of 3.1.1.

use rumqttc::{AsyncClient, ConnectReturnCode, Event, LastWill, MqttOptions, Outgoing, Packet, QoS, SubscribeFilter};
use rumqttc::{SubscribeReasonCode, mqttbytes};
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
    wanted.set_transport(transport).set_clean_session(options.clean).set_max_packet_size(1 << 20, 1 << 20);
    if let Some(will) = &options.will {
        wanted.set_last_will(LastWill::new(&will.topic, will.payload.as_str(), QoS::AtLeastOnce, false));
    }
    let (client, mut events) = AsyncClient::new(wanted, 10);
    let task = tokio::spawn(async move {
        loop {
            let event = events.poll().await;
            let mut seen = seen.lock().expect("no thread panics with it");
            match event {
                Ok(Event::Incoming(Packet::ConnAck(connack))) if connack.code == ConnectReturnCode::Success => {
                    seen.connack = Some(Connack { session_present: connack.session_present, ..Connack::default() });
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => seen.messages.push(Message {
                    topic: publish.topic,
                    payload: publish.payload.to_vec(),
                    qos: publish.qos as u8,
                    retain: publish.retain,
                    id: publish.pkid,
                    properties: Default::default(),
                }),
                Ok(Event::Incoming(Packet::SubAck(suback))) => {
                    seen.granted.push(suback.return_codes.iter().map(code).collect())
                }
                Ok(Event::Incoming(Packet::UnsubAck(_))) => seen.unsubscribed.push(Vec::new()),
                Ok(Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_))) => seen.complete += 1,
                // QoS 0 has no packet identifier.
                Ok(Event::Outgoing(Outgoing::Publish(0))) => seen.complete += 1,
                Ok(Event::Outgoing(Outgoing::Disconnect)) => return,
                Ok(_) => {}
                Err(error) => {
                    seen.end = Some((None, error.to_string()));
                    return;
                }
            }
        }
    });
    Ok((client, task))
}

fn code(code: &SubscribeReasonCode) -> u8 {
    match code {
        SubscribeReasonCode::Success(qos) => *qos as u8,
        SubscribeReasonCode::Failure => 0x80,
    }
}

pub async fn subscribe(client: &Client, filters: &[(&str, u8)]) -> Result<()> {
    let filters = filters.iter().map(|(path, level)| SubscribeFilter::new((*path).into(), qos(*level)));
    Ok(client.subscribe_many(filters).await?)
}
