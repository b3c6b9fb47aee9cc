//! A rumqttc client of either version that keeps what it was told: what the scenarios are written with.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::v5::{LastWillProperties, PublishProperties};
use tokio::task::JoinHandle;

use crate::settings::{Result, Transport, client_id, equal};
use crate::{v4, v5};

pub const DEADLINE: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V311,
    V5,
}

#[derive(Clone, Default)]
pub struct Will {
    pub topic: String,
    pub payload: String,
    pub properties: Option<LastWillProperties>,
}

#[derive(Clone)]
pub struct Options {
    pub name: String,
    pub clean: bool,
    pub will: Option<Will>,
    pub session_expiry: Option<u32>,
    pub receive_maximum: Option<u16>,
    /// Messages are acknowledged by [`Peer::ack`] only.
    pub manual: bool,
    pub transport: Transport,
    /// Which setting names the file with the authority.
    pub ca: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: client_id(),
            clean: true,
            will: None,
            session_expiry: None,
            receive_maximum: None,
            manual: false,
            transport: Transport::from_argument(),
            ca: "CA",
        }
    }
}

impl Options {
    pub fn named(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// A session that outlives its connection.
    pub fn lasting(name: &str, version: Version, seconds: u32) -> Self {
        let session_expiry = (version == Version::V5).then_some(seconds);
        Self { clean: false, session_expiry, ..Self::named(name) }
    }
}

/// A message that came.
#[derive(Clone)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub id: u16,
    /// Empty for 3.1.1.
    pub properties: PublishProperties,
}

impl Message {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into()
    }
}

/// CONNACK, as far as a scenario asks.
#[derive(Clone, Default)]
pub struct Connack {
    pub session_present: bool,
    pub assigned: Option<String>,
    pub topic_alias_maximum: u16,
}

/// What the event loop was told.
#[derive(Default)]
pub struct Seen {
    pub connack: Option<Connack>,
    pub messages: Vec<Message>,
    /// Codes of each SUBACK and UNSUBACK, in order.
    pub granted: Vec<Vec<u8>>,
    pub unsubscribed: Vec<Vec<u8>>,
    /// Publications that are complete: written for QoS 0, PUBACK, PUBCOMP.
    pub complete: usize,
    /// The end of the connection: the reason code of the broker's DISCONNECT, and what rumqttc says.
    pub end: Option<(Option<u8>, String)>,
}

pub type Shared = Arc<Mutex<Seen>>;

enum Client {
    V311(v4::Client),
    V5(v5::Client),
}

pub struct Peer {
    client: Client,
    seen: Shared,
    task: JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peer {
    /// A client whose CONNACK accepts.
    pub async fn start(version: Version, options: Options) -> Result<Self> {
        let seen = Shared::default();
        let (client, task) = match version {
            Version::V311 => {
                let (client, task) = v4::start(&options, seen.clone())?;
                (Client::V311(client), task)
            }
            Version::V5 => {
                let (client, task) = v5::start(&options, seen.clone())?;
                (Client::V5(client), task)
            }
        };
        let peer = Self { client, seen, task };
        peer.until("CONNACK", |seen| seen.connack.is_some() || seen.end.is_some()).await?;
        if peer.seen().connack.is_none() {
            return Err(format!("not connected: {:?}", peer.seen().end).into());
        }
        Ok(peer)
    }

    pub async fn new(version: Version) -> Result<Self> {
        Self::start(version, Options::default()).await
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no thread panics with it")
    }

    pub fn connack(&self) -> Connack {
        self.seen().connack.clone().unwrap_or_default()
    }

    pub async fn until(&self, what: &str, condition: impl Fn(&Seen) -> bool) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        while !condition(&self.seen()) {
            if Instant::now() > end {
                return Err(format!("not within {} s: {what}; end: {:?}", DEADLINE.as_secs(), self.seen().end).into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Filters with their QoS in one SUBSCRIBE; the codes of SUBACK.
    pub async fn subscribe(&self, filters: &[(&str, u8)]) -> Result<Vec<u8>> {
        let before = self.seen().granted.len();
        match &self.client {
            Client::V311(client) => v4::subscribe(client, filters).await?,
            Client::V5(client) => v5::subscribe(client, filters.iter().map(|f| v5::filter(*f)).collect(), None).await?,
        }
        self.until("SUBACK", |seen| seen.granted.len() > before).await?;
        Ok(self.seen().granted[before].clone())
    }

    /// SUBSCRIBE of MQTT 5 with all its options.
    pub async fn subscribe_with(&self, filter: v5::Filter, identifier: Option<usize>) -> Result<()> {
        let before = self.seen().granted.len();
        self.send_subscribe(filter, identifier).await?;
        self.until("SUBACK", |seen| seen.granted.len() > before).await
    }

    /// The same without waiting for SUBACK.
    pub async fn send_subscribe(&self, filter: v5::Filter, identifier: Option<usize>) -> Result<()> {
        v5::subscribe(self.v5()?, vec![filter], identifier).await
    }

    /// The codes of UNSUBACK; none in 3.1.1.
    pub async fn unsubscribe(&self, filter: &str) -> Result<Vec<u8>> {
        let before = self.seen().unsubscribed.len();
        match &self.client {
            Client::V311(client) => client.unsubscribe(filter).await?,
            Client::V5(client) => client.unsubscribe(filter).await?,
        }
        self.until("UNSUBACK", |seen| seen.unsubscribed.len() > before).await?;
        Ok(self.seen().unsubscribed[before].clone())
    }

    /// Publishes and waits until the exchange of its QoS is complete.
    pub async fn publish(&self, topic: &str, payload: impl Into<Vec<u8>>, qos: u8) -> Result<()> {
        self.publish_all(topic, payload.into(), qos, false, None).await
    }

    pub async fn publish_retained(&self, topic: &str, payload: &str) -> Result<()> {
        self.publish_all(topic, payload.into(), 1, true, None).await
    }

    pub async fn publish_with(&self, topic: &str, payload: &str, properties: PublishProperties) -> Result<()> {
        self.publish_all(topic, payload.into(), 1, false, Some(properties)).await
    }

    async fn publish_all(
        &self,
        topic: &str,
        payload: Vec<u8>,
        qos: u8,
        retain: bool,
        properties: Option<PublishProperties>,
    ) -> Result<()> {
        let before = self.seen().complete;
        match &self.client {
            Client::V311(client) => client.publish(topic, v4::qos(qos), retain, payload).await?,
            Client::V5(client) => {
                let properties = properties.unwrap_or_default();
                client.publish_with_properties(topic, v5::qos(qos), retain, payload, properties).await?;
            }
        }
        self.until(&format!("acknowledgement of QoS {qos}"), |seen| seen.complete > before).await
    }

    pub fn on(&self, topic: &str) -> Vec<Message> {
        self.seen().messages.iter().filter(|message| message.topic == topic).cloned().collect()
    }

    /// The messages of a topic, once there are so many; more than that is a failure.
    pub async fn wait(&self, topic: &str, count: usize) -> Result<Vec<Message>> {
        let of_topic = |seen: &Seen| seen.messages.iter().filter(|message| message.topic == topic).count();
        self.until(&format!("{count} messages on {topic}"), |seen| of_topic(seen) >= count).await?;
        equal(&format!("messages on {topic}"), self.on(topic).len(), count)?;
        Ok(self.on(topic))
    }

    pub async fn one(&self, topic: &str) -> Result<Message> {
        Ok(self.wait(topic, 1).await?.remove(0))
    }

    /// Acknowledges a message of a client with `manual`: PUBACK or PUBREC.
    pub async fn ack(&self, message: &Message) -> Result<()> {
        v5::ack(self.v5()?, message).await
    }

    /// Ends the connection without DISCONNECT: the event loop goes, and its socket with it.
    pub async fn cut(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// DISCONNECT, and waits until it is sent.
    pub async fn stop(mut self) -> Result<()> {
        match &self.client {
            Client::V311(client) => client.disconnect().await?,
            Client::V5(client) => client.disconnect().await?,
        }
        tokio::time::timeout(DEADLINE, &mut self.task).await??;
        Ok(())
    }

    fn v5(&self) -> Result<&v5::Client> {
        match &self.client {
            Client::V5(client) => Ok(client),
            Client::V311(_) => Err("only in version 5".into()),
        }
    }
}
