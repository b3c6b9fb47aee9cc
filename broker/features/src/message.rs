//! Messages that the server makes itself.

use raftmq_mqtt::{Message, MessageError, Origin, Properties, Publish, QoS};

/// A message that the server publishes, not yet named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerMessage {
    /// The topic name.
    pub topic: String,
    /// The payload: text in everything that this crate makes.
    pub payload: Vec<u8>,
    /// The quality of service to publish with.
    pub qos: QoS,
    /// Whether it is kept for later subscribers.
    pub retain: bool,
}

impl ServerMessage {
    /// The envelope, without a publisher and without expiry. `now_ms` is Unix time in milliseconds.
    ///
    /// # Errors
    /// None for what this crate makes: its topics are valid and short enough.
    pub fn to_message(&self, origin: Origin, now_ms: u64) -> Result<Message, MessageError> {
        let publish = Publish {
            dup: false,
            qos: self.qos,
            retain: self.retain,
            topic: &self.topic,
            packet_id: None,
            properties: Properties::EMPTY,
            payload: &self.payload,
        };
        Message::new(&publish, origin, "", now_ms, None)
    }
}

/// The same message under another topic: origin, publisher, times, QoS, retain flag, properties and payload stay.
///
/// # Errors
/// The topic is not valid.
pub fn with_topic(message: &Message, topic: &str) -> Result<Message, MessageError> {
    let publish = Publish {
        dup: false,
        qos: message.qos(),
        retain: message.retain(),
        topic,
        packet_id: None,
        properties: message.properties(),
        payload: message.payload(),
    };
    Message::new(&publish, message.origin(), message.publisher(), message.received_at_ms(), message.expires_at_ms())
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]

    use raftmq_mqtt::{PropertiesBuf, Property};

    use super::*;

    /// A message with something in every field.
    pub(crate) fn sample(topic: &str, payload: &[u8], received_at_ms: u64, expires_at_ms: Option<u64>) -> Message {
        let mut properties = PropertiesBuf::new();
        properties.push(Property::ContentType("text/plain")).unwrap();
        properties.push(Property::UserProperty(("a", "b"))).unwrap();
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: true,
            topic,
            packet_id: None,
            properties: properties.as_properties(),
            payload,
        };
        let origin = Origin { node: 3, sequence: 9 };
        Message::new(&publish, origin, "publisher", received_at_ms, expires_at_ms).unwrap()
    }

    #[test]
    fn another_topic_changes_nothing_else() {
        let message = sample("$delayed/5/t", b"payload", 1000, Some(9000));
        let other = with_topic(&message, "t").unwrap();
        assert_eq!(other.topic(), "t");
        assert_eq!(other, sample("t", b"payload", 1000, Some(9000)));
        assert!(with_topic(&message, "a/#").is_err());
    }

    #[test]
    fn a_server_message_has_no_publisher() {
        let sys =
            ServerMessage { topic: "$SYS/x".to_owned(), payload: b"1".to_vec(), qos: QoS::AtMostOnce, retain: true };
        let message = sys.to_message(Origin { node: 1, sequence: 2 }, 77).unwrap();
        assert_eq!((message.topic(), message.payload(), message.retain()), ("$SYS/x", &b"1"[..], true));
        assert_eq!((message.publisher(), message.received_at_ms(), message.expires_at_ms()), ("", 77, None));
    }
}
