//! The scenarios that both versions have.

use crate::peer::{Options, Peer, Version, Will};
use crate::settings::{Result, Transport, client_id, equal, topic};

async fn pair(version: Version) -> Result<(Peer, Peer)> {
    Ok((Peer::new(version).await?, Peer::new(version).await?))
}

pub async fn connect(version: Version) -> Result<()> {
    let peer = Peer::new(version).await?;
    equal("session present", peer.connack().session_present, false)?;
    peer.stop().await?;
    let nameless = Peer::start(version, Options::named("")).await?;
    if version == Version::V5 && nameless.connack().assigned.is_none_or(|name| name.is_empty()) {
        return Err("no assigned client identifier".into());
    }
    nameless.stop().await
}

pub async fn qos(version: Version) -> Result<()> {
    let (publisher, subscriber) = pair(version).await?;
    for level in 0..=2 {
        let name = topic("qos");
        equal("granted", subscriber.subscribe(&[(&name, level)]).await?, vec![level])?;
        for published in 0..=2 {
            publisher.publish(&name, published.to_string(), published).await?;
        }
        // Messages of different QoS may overtake one another.
        let mut found: Vec<_> = subscriber.wait(&name, 3).await?.iter().map(|m| (m.text(), m.qos)).collect();
        found.sort();
        let wanted = (0..=2).map(|published: u8| (published.to_string(), published.min(level))).collect();
        equal(&format!("QoS at a subscription of QoS {level}"), found, wanted)?;
    }
    Ok(())
}

pub async fn several(version: Version) -> Result<()> {
    let base = topic("several");
    let (publisher, subscriber) = pair(version).await?;
    let filters = [format!("{base}/a"), format!("{base}/+/b"), format!("{base}/c/#")];
    let granted = subscriber.subscribe(&[(&filters[0], 0), (&filters[1], 1), (&filters[2], 2)]).await?;
    equal("granted", granted, vec![0, 1, 2])?;
    for (level, name) in ["a", "x/b", "c/d/e"].into_iter().enumerate() {
        publisher.publish(&format!("{base}/{name}"), name, 2).await?;
        let message = subscriber.one(&format!("{base}/{name}")).await?;
        equal(name, (message.text().as_str(), usize::from(message.qos)), (name, level))?;
    }
    Ok(())
}

pub async fn unsubscribe(version: Version) -> Result<()> {
    let (gone, kept) = (topic("gone"), topic("kept"));
    let (publisher, subscriber) = pair(version).await?;
    subscriber.subscribe(&[(&gone, 1), (&kept, 1)]).await?;
    publisher.publish(&gone, "1", 1).await?;
    subscriber.one(&gone).await?;
    subscriber.unsubscribe(&gone).await?;
    publisher.publish(&gone, "2", 1).await?;
    publisher.publish(&kept, "end", 1).await?;
    subscriber.one(&kept).await?;
    equal("messages on the filter given up", subscriber.on(&gone).len(), 1)
}

pub async fn retained(version: Version) -> Result<()> {
    let (kept, end) = (topic("retained"), topic("end"));
    let (publisher, early) = pair(version).await?;
    early.subscribe(&[(&kept, 1)]).await?;
    publisher.publish_retained(&kept, "value").await?;
    equal("RETAIN at an old subscription", early.one(&kept).await?.retain, false)?;
    let (late, last) = pair(version).await?;
    late.subscribe(&[(&kept, 1)]).await?;
    let message = late.one(&kept).await?;
    equal("RETAIN at a new subscription", (message.retain, message.text()), (true, "value".into()))?;
    publisher.publish_retained(&kept, "").await?;
    last.subscribe(&[(&kept, 1), (&end, 1)]).await?;
    publisher.publish(&end, "end", 1).await?;
    last.one(&end).await?;
    equal("messages after it was cleared", last.on(&kept).len(), 0)
}

fn gone(topic: &str) -> Option<Will> {
    Some(Will { topic: topic.into(), payload: "gone".into(), properties: None })
}

pub async fn will(version: Version) -> Result<()> {
    let last = topic("will");
    let observer = Peer::new(version).await?;
    observer.subscribe(&[(&last, 1)]).await?;
    Peer::start(version, Options { will: gone(&last), ..Options::default() }).await?.cut().await;
    let message = observer.one(&last).await?;
    equal("will", (message.text(), message.qos, message.retain), ("gone".into(), 1, false))
}

pub async fn will_not(version: Version) -> Result<()> {
    let (last, end, name) = (topic("will"), topic("end"), client_id());
    let observer = Peer::new(version).await?;
    observer.subscribe(&[(&last, 1), (&end, 1)]).await?;
    Peer::start(version, Options { will: gone(&last), ..Options::named(&name) }).await?.stop().await?;
    // The same identifier is served anew only when the broker is done with the first connection.
    let again = Peer::start(version, Options::named(&name)).await?;
    again.publish(&end, "end", 1).await?;
    observer.one(&end).await?;
    equal("wills after DISCONNECT", observer.on(&last).len(), 0)
}

pub async fn session(version: Version) -> Result<()> {
    let (base, name) = (topic("session"), client_id());
    let kept = || Options::lasting(&name, version, 300);
    let first = Peer::start(version, kept()).await?;
    first.subscribe(&[(&format!("{base}/#"), 2)]).await?;
    first.stop().await?;
    let publisher = Peer::new(version).await?;
    for level in 1..=2 {
        publisher.publish(&format!("{base}/{level}"), format!("offline {level}"), level).await?;
    }
    let second = Peer::start(version, kept()).await?;
    equal("session present", second.connack().session_present, true)?;
    for level in 1..=2 {
        let message = second.one(&format!("{base}/{level}")).await?;
        equal("message", (message.text(), message.qos), (format!("offline {level}"), level))?;
    }
    second.stop().await?;
    let third = Peer::start(version, Options::named(&name)).await?;
    equal("session present after a clean start", third.connack().session_present, false)
}

pub async fn shared(version: Version) -> Result<()> {
    let (base, end) = (topic("shared"), topic("end"));
    let filter = format!("$share/group/{base}");
    let publisher = Peer::new(version).await?;
    let (one, two) = pair(version).await?;
    for member in [&one, &two] {
        equal("granted", member.subscribe(&[(&filter, 1), (&end, 1)]).await?, vec![1, 1])?;
    }
    for number in 0..40 {
        publisher.publish(&base, number.to_string(), 1).await?;
    }
    publisher.publish(&end, "end", 1).await?;
    one.one(&end).await?;
    two.one(&end).await?;
    let all = || -> Vec<u32> {
        let mut all: Vec<u32> = [&one, &two]
            .iter()
            .flat_map(|member| member.on(&base))
            .filter_map(|message| message.text().parse().ok())
            .collect();
        all.sort();
        all
    };
    one.until("40 messages", |seen| {
        seen.messages.iter().filter(|message| message.topic == base).count() + two.on(&base).len() >= 40
    })
    .await?;
    equal("messages of both members", all(), (0..40).collect())?;
    if one.on(&base).is_empty() || two.on(&base).is_empty() {
        return Err("one member got all messages".into());
    }
    Ok(())
}

pub async fn large(version: Version) -> Result<()> {
    let base = topic("large");
    let payload: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    let (publisher, subscriber) = pair(version).await?;
    subscriber.subscribe(&[(&base, 2)]).await?;
    for level in 0..=2 {
        publisher.publish(&base, payload.clone(), level).await?;
    }
    for message in subscriber.wait(&base, 3).await? {
        equal("payload is whole", message.payload == payload, true)?;
    }
    Ok(())
}

pub async fn tls_ca() -> Result<()> {
    match Peer::start(Version::V311, Options { ca: "OTHER_CA", ..Options::default() }).await {
        Ok(_) => Err("the broker's certificate was accepted with another authority".into()),
        Err(error) if error.to_string().contains("certificate") => Ok(()),
        Err(error) => Err(error),
    }
}

pub async fn tls_client_certificate() -> Result<()> {
    let base = topic("certificate");
    let with = |certificate| Options { transport: Transport::Mtls { certificate }, ..Options::default() };
    let peer = Peer::start(Version::V311, with(true)).await?;
    peer.subscribe(&[(&base, 1)]).await?;
    peer.publish(&base, "mine", 1).await?;
    peer.one(&base).await?;
    match Peer::start(Version::V311, with(false)).await {
        Ok(_) => Err("served without a client certificate".into()),
        Err(_) => Ok(()),
    }
}
