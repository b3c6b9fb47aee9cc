#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use raftmq_mqtt::topic::validate_topic;
use raftmq_mqtt::{Origin, ReasonCode, RetainHandling};
use serde_json::{Value, json};

use super::*;

const DOCUMENT: &str = include_str!("../../../../docs/events.md");

fn events() -> Events {
    Events::new(EventSettings::default(), "raftmq-0")
}

fn client<'a>() -> EventClient<'a> {
    EventClient {
        client_id: "sensor-7",
        username: Some("foo"),
        peer: "127.0.0.1:50000".parse().unwrap(),
        local_port: 1883,
        version: Version::V3_1_1,
        connected_at_ms: 1_625_572_213_000,
    }
}

const WITH: ConnectedWith = ConnectedWith { keep_alive: 60, clean_start: true, session_expiry: 0 };

fn json_of(message: &ServerMessage) -> Value {
    serde_json::from_slice(&message.payload).unwrap()
}

fn all(events: &Events, client: &EventClient<'_>) -> [Option<ServerMessage>; 4] {
    [
        events.connected(client, WITH, 1),
        events.disconnected(client, DisconnectReason::Normal, 2),
        events.subscribed(client, "a/#", SubOptions::default(), None, true, 3),
        events.unsubscribed(client, "a/#", 4),
    ]
}

/// The fields of EMQX's documentation.
#[test]
fn connected() {
    let event = events().connected(&client(), WITH, 1_625_572_213_873).unwrap();
    assert_eq!(event.topic, "$SYS/brokers/raftmq-0/clients/sensor-7/connected");
    assert_eq!((event.qos, event.retain), (QoS::AtLeastOnce, false));
    let expected = json!({
        "username": "foo",
        "ts": 1_625_572_213_873_u64,
        "sockport": 1883,
        "protocol": "mqtt",
        "proto_ver": 4,
        "proto_name": "MQTT",
        "keepalive": 60,
        "ipaddress": "127.0.0.1",
        "expiry_interval": 0,
        "connected_at": 1_625_572_213_000_u64,
        "connack": 0,
        "clientid": "sensor-7",
        "clean_start": true
    });
    assert_eq!(json_of(&event), expected);
}

#[test]
fn disconnected() {
    let client = EventClient { username: None, version: Version::V3_1, peer: "[::1]:9".parse().unwrap(), ..client() };
    let event = events().disconnected(&client, DisconnectReason::ConnectionClosed, 1_625_572_213_873).unwrap();
    assert_eq!(event.topic, "$SYS/brokers/raftmq-0/clients/sensor-7/disconnected");
    let expected = json!({
        "username": null,
        "ts": 1_625_572_213_873_u64,
        "sockport": 1883,
        "reason": "tcp_closed",
        "protocol": "mqtt",
        "proto_ver": 3,
        "proto_name": "MQIsdp",
        "ipaddress": "::1",
        "connected_at": 1_625_572_213_000_u64,
        "disconnected_at": 1_625_572_213_873_u64,
        "clientid": "sensor-7"
    });
    assert_eq!(json_of(&event), expected);
}

#[test]
fn subscribed_and_unsubscribed() {
    let options = SubOptions {
        qos: QoS::ExactlyOnce,
        no_local: false,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let event = events().subscribed(&client(), "$share/g/a/+", options, Some(9), true, 5).unwrap();
    assert_eq!(event.topic, "$SYS/brokers/raftmq-0/clients/sensor-7/subscribed");
    let expected = json!({
        "username": "foo",
        "ts": 5,
        "topic": "$share/g/a/+",
        "subopts": {
            "sub_props": {"Subscription-Identifier": 9}, "rh": 2, "rap": 1, "qos": 2, "nl": 0, "is_new": true
        },
        "protocol": "mqtt",
        "clientid": "sensor-7"
    });
    assert_eq!(json_of(&event), expected);
    let event = events().subscribed(&client(), "a", SubOptions::default(), None, false, 5).unwrap();
    let expected = json!({"sub_props": {}, "rh": 0, "rap": 0, "qos": 0, "nl": 0, "is_new": false});
    assert_eq!(json_of(&event)["subopts"], expected);

    let event = events().unsubscribed(&client(), "a/+", 6).unwrap();
    assert_eq!(event.topic, "$SYS/brokers/raftmq-0/clients/sensor-7/unsubscribed");
    let expected = json!({"username": "foo", "ts": 6, "topic": "a/+", "protocol": "mqtt", "clientid": "sensor-7"});
    assert_eq!(json_of(&event), expected);
}

#[test]
fn each_can_be_off() {
    let on = EventSettings::default();
    for (index, settings) in [
        EventSettings { connected: false, ..on.clone() },
        EventSettings { disconnected: false, ..on.clone() },
        EventSettings { subscribed: false, ..on.clone() },
        EventSettings { unsubscribed: false, ..on },
    ]
    .into_iter()
    .enumerate()
    {
        let events = all(&Events::new(settings, "n"), &client());
        assert_eq!(events.map(|event| event.is_none()), std::array::from_fn(|at| at == index));
    }
}

/// What a client calls itself neither makes levels nor an invalid topic, and is whole in the JSON.
#[test]
fn client_identifiers_in_topics() {
    for (client_id, level) in
        [("plant/7", "plant%2F7"), ("+", "%2B"), ("a#", "a%23"), ("50%", "50%25"), ("\0", "%00"), ("", "")]
    {
        let event = events().connected(&EventClient { client_id, ..client() }, WITH, 1).unwrap();
        assert_eq!(event.topic, format!("$SYS/brokers/raftmq-0/clients/{level}/connected"));
        assert_eq!(json_of(&event)["clientid"], client_id);
    }
}

#[test]
fn reasons() {
    for (reason, name) in [
        (DisconnectReason::Normal, "normal"),
        (DisconnectReason::ConnectionClosed, "tcp_closed"),
        (DisconnectReason::KeepAliveTimeout, "keepalive_timeout"),
        (DisconnectReason::TakenOver, "takenover"),
        (DisconnectReason::Discarded, "discarded"),
        (DisconnectReason::Kicked, "kicked"),
        (DisconnectReason::Internal, "internal_error"),
        (DisconnectReason::Code(ReasonCode::Success), "normal"),
        (DisconnectReason::Code(ReasonCode::DisconnectWithWill), "disconnect_with_will_message"),
        (DisconnectReason::Code(ReasonCode::KeepAliveTimeout), "keepalive_timeout"),
        (DisconnectReason::Code(ReasonCode::SessionTakenOver), "takenover"),
        (DisconnectReason::Code(ReasonCode::NotAuthorized), "not_authorized"),
        (DisconnectReason::Code(ReasonCode::ServerShuttingDown), "server_shutting_down"),
    ] {
        assert_eq!(reason.name(), name);
        assert!(DOCUMENT.contains(&format!("`{name}`")), "{name} is documented");
    }
    let mut names: Vec<&str> = ReasonCode::ALL.iter().map(|code| DisconnectReason::Code(*code).name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ReasonCode::ALL.len());
}

/// Every field of every event is in the document.
#[test]
fn the_document_has_every_field() {
    for event in all(&events(), &client()).into_iter().flatten() {
        for (field, _) in json_of(&event).as_object().unwrap() {
            assert!(DOCUMENT.contains(&format!("| `{field}` |")), "{field} of {}", event.topic);
        }
    }
}

proptest! {
    #[test]
    fn always_valid_topics_and_json(
        client_id in "([a-z/+#%\"\\\\\u{0}]|\\PC){0,40}",
        username in prop::option::of("([\"\\\\\u{0}]|\\PC){0,10}"),
        node in "([a-z/+#.]|\\PC){1,10}",
    ) {
        let events = Events::new(EventSettings::default(), &node);
        let client = EventClient { client_id: &client_id, username: username.as_deref(), ..client() };
        for event in all(&events, &client).into_iter().flatten() {
            prop_assert!(validate_topic(&event.topic).is_ok());
            prop_assert_eq!(event.topic.split('/').count(), 6);
            prop_assert_eq!(&json_of(&event)["clientid"], &json!(client_id));
            prop_assert_eq!(&json_of(&event)["username"], &json!(username));
            let message = event.to_message(Origin { node: 1, sequence: 1 }, 0);
            prop_assert!(message.is_ok());
        }
    }
}

#[test]
fn the_longest_client_identifier() {
    let client_id = "é/".repeat(20_000);
    for event in all(&events(), &EventClient { client_id: &client_id, ..client() }).into_iter().flatten() {
        assert_eq!(validate_topic(&event.topic), Ok(()));
        assert_eq!(json_of(&event)["clientid"], client_id);
    }
}
