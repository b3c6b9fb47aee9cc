//! The scenarios of MQTT 5's properties.

use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::v5::{LastWillProperties, PublishProperties};

use crate::peer::{Options, Peer, Version, Will};
use crate::settings::{Result, client_id, equal, topic};
use crate::v5::{Filter, RetainForwardRule, filter};

const V5: Version = Version::V5;

async fn pair() -> Result<(Peer, Peer)> {
    Ok((Peer::new(V5).await?, Peer::new(V5).await?))
}

pub async fn user_properties() -> Result<()> {
    let base = topic("user");
    let sent: Vec<_> = [("a", "1"), ("b", "2"), ("a", "3"), ("größe", "5 µm")]
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .into();
    let (publisher, subscriber) = pair().await?;
    subscriber.subscribe(&[(&base, 1)]).await?;
    let properties = PublishProperties { user_properties: sent.clone(), ..Default::default() };
    publisher.publish_with(&base, "x", properties).await?;
    equal("user properties", subscriber.one(&base).await?.properties.user_properties, sent)
}

pub async fn content() -> Result<()> {
    let base = topic("content");
    let sent = PublishProperties {
        content_type: Some("text/plain".into()),
        response_topic: Some(format!("{base}/answers")),
        correlation_data: Some(vec![0, 1, 255].into()),
        payload_format_indicator: Some(1),
        ..Default::default()
    };
    let (publisher, subscriber) = pair().await?;
    subscriber.subscribe(&[(&base, 1)]).await?;
    publisher.publish_with(&base, "text", sent.clone()).await?;
    equal("properties", subscriber.one(&base).await?.properties, sent)
}

pub async fn expiry() -> Result<()> {
    let (base, name) = (topic("expiry"), client_id());
    let first = Peer::start(V5, Options::lasting(&name, V5, 300)).await?;
    first.subscribe(&[(&format!("{base}/#"), 1)]).await?;
    first.stop().await?;
    let publisher = Peer::new(V5).await?;
    let within = |seconds| PublishProperties { message_expiry_interval: Some(seconds), ..Default::default() };
    publisher.publish_with(&format!("{base}/long"), "x", within(100)).await?;
    publisher.publish_with(&format!("{base}/short"), "x", within(1)).await?;
    // The interval itself is what is tried.
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let second = Peer::start(V5, Options::lasting(&name, V5, 0)).await?;
    publisher.publish(&format!("{base}/end"), "x", 1).await?;
    let left = second.one(&format!("{base}/long")).await?.properties.message_expiry_interval;
    if !left.is_some_and(|seconds| (60..=98).contains(&seconds)) {
        return Err(format!("expiry of 100 s after 2.1 s: {left:?}").into());
    }
    second.one(&format!("{base}/end")).await?;
    equal("expired messages", second.on(&format!("{base}/short")).len(), 0)
}

pub async fn subscription_identifiers() -> Result<()> {
    let base = topic("identifiers");
    let (publisher, subscriber) = pair().await?;
    subscriber.subscribe_with(filter((&format!("{base}/one/+"), 1)), Some(1)).await?;
    subscriber.subscribe_with(filter((&format!("{base}/two/#"), 1)), Some(268_435_455)).await?;
    subscriber.subscribe_with(filter((&format!("{base}/none"), 1)), None).await?;
    for (name, wanted) in [("one/a", vec![1]), ("two/b", vec![268_435_455]), ("none", vec![])] {
        let name = format!("{base}/{name}");
        publisher.publish(&name, "x", 1).await?;
        equal(&name, subscriber.one(&name).await?.properties.subscription_identifiers, wanted)?;
    }
    Ok(())
}

pub async fn topic_alias() -> Result<()> {
    let base = topic("alias");
    let (publisher, subscriber) = pair().await?;
    if publisher.connack().topic_alias_maximum < 2 {
        return Err("the broker takes fewer than two topic aliases".into());
    }
    subscriber.subscribe(&[(&format!("{base}/#"), 1)]).await?;
    let (a, b, c) = (format!("{base}/a"), format!("{base}/b"), format!("{base}/c"));
    for (name, alias, payload) in
        [(a.as_str(), 1, "1"), ("", 1, "2"), (&b, 2, "3"), ("", 2, "4"), ("", 1, "5"), (&c, 1, "6"), ("", 1, "7")]
    {
        let properties = PublishProperties { topic_alias: Some(alias), ..Default::default() };
        publisher.publish_with(name, payload, properties).await?;
    }
    for (name, payloads) in [(&a, "125"), (&b, "34"), (&c, "67")] {
        let found: String = subscriber.wait(name, payloads.len()).await?.iter().map(|message| message.text()).collect();
        equal(name, found.as_str(), payloads)?;
    }
    Ok(())
}

pub async fn session_expiry() -> Result<()> {
    let (last, name) = (topic("over"), client_id());
    let observer = Peer::new(V5).await?;
    observer.subscribe(&[(&last, 1)]).await?;
    // A will whose delay is longer than the session lives is published at the session's end: no clock of ours is needed.
    let will = Will { topic: last.clone(), payload: "over".into(), properties: Some(delayed(300)) };
    Peer::start(V5, Options { will: Some(will), ..Options::lasting(&name, V5, 1) }).await?.cut().await;
    observer.one(&last).await?;
    let after = Peer::start(V5, Options::lasting(&name, V5, 300)).await?;
    equal("session present after its expiry", after.connack().session_present, false)?;
    after.stop().await?;
    let before = Peer::start(V5, Options::lasting(&name, V5, 0)).await?;
    equal("session present before its expiry", before.connack().session_present, true)?;
    // rumqttc's DISCONNECT has no properties: this session ends with its connection.
    before.stop().await?;
    let ended = Peer::start(V5, Options::lasting(&name, V5, 0)).await?;
    equal("session present after a connection with expiry 0", ended.connack().session_present, false)
}

fn delayed(seconds: u32) -> LastWillProperties {
    LastWillProperties {
        delay_interval: Some(seconds),
        payload_format_indicator: None,
        message_expiry_interval: None,
        content_type: None,
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    }
}

pub async fn receive_maximum(level: u8) -> Result<()> {
    let base = topic("maximum");
    let publisher = Peer::new(V5).await?;
    let subscriber = Peer::start(V5, Options { receive_maximum: Some(2), manual: true, ..Options::default() }).await?;
    subscriber.subscribe(&[(&base, 2)]).await?;
    for number in 0..6 {
        publisher.publish(&base, number.to_string(), level).await?;
    }
    let came = |more: usize| {
        let base = &base;
        move |seen: &crate::peer::Seen| seen.messages.iter().filter(|m| &m.topic == base).count() > more
    };
    subscriber.until("two messages", came(1)).await?;
    // A further exchange with the broker, so that a third message would have come before its end.
    subscriber.subscribe(&[(&format!("{base}/other"), 1)]).await?;
    for acknowledged in 0..6 {
        subscriber.until(&format!("message {}", acknowledged + 1), came(acknowledged)).await?;
        let messages = subscriber.on(&base);
        let pending = messages.len() - acknowledged;
        if pending > 2 {
            return Err(format!("{pending} messages without acknowledgement, receive maximum 2").into());
        }
        subscriber.ack(&messages[acknowledged]).await?;
    }
    let found: Vec<_> = subscriber.wait(&base, 6).await?.iter().map(|message| message.text()).collect();
    equal("messages", found.concat().as_str(), "012345")
}

pub async fn reason_codes() -> Result<()> {
    let base = topic("reasons");
    let peer = Peer::new(V5).await?;
    peer.subscribe(&[(&base, 1)]).await?;
    equal("code of UNSUBACK", peer.unsubscribe(&format!("{base}/never")).await?, vec![0x11])?;
    equal("code of UNSUBACK", peer.unsubscribe(&base).await?, vec![0x00])
}

pub async fn protocol_error() -> Result<()> {
    let peer = Peer::new(V5).await?;
    // [MQTT-3.8.3-4]: no local at a shared subscription.
    let wrong = format!("$share/g/{}", topic("error"));
    peer.send_subscribe(Filter { nolocal: true, ..filter((&wrong, 1)) }, None).await?;
    ended(&peer, 0x82).await
}

pub async fn taken_over() -> Result<()> {
    let name = client_id();
    let first = Peer::start(V5, Options::named(&name)).await?;
    let _second = Peer::start(V5, Options::named(&name)).await?;
    ended(&first, 0x8E).await
}

/// The broker ends the connection with this reason code.
async fn ended(peer: &Peer, code: u8) -> Result<()> {
    peer.until("the end of the connection", |seen| seen.end.is_some()).await?;
    let (found, what) = peer.seen().end.clone().expect("waited for");
    equal(&format!("reason code of DISCONNECT ({what})"), found, Some(code))
}

pub async fn request_response() -> Result<()> {
    let base = topic("request");
    let answers = format!("{base}/answers");
    let (requester, responder) = pair().await?;
    responder.subscribe(&[(&base, 1)]).await?;
    requester.subscribe(&[(&answers, 1)]).await?;
    let asked = PublishProperties {
        response_topic: Some(answers.clone()),
        correlation_data: Some(vec![7, 0].into()),
        ..Default::default()
    };
    requester.publish_with(&base, "question", asked).await?;
    let question = responder.one(&base).await?.properties;
    let properties = PublishProperties { correlation_data: question.correlation_data, ..Default::default() };
    responder.publish_with(&question.response_topic.unwrap_or_default(), "answer", properties).await?;
    let answer = requester.one(&answers).await?;
    equal("answer", (answer.text(), answer.properties.correlation_data), ("answer".into(), Some(vec![7, 0].into())))
}

pub async fn options() -> Result<()> {
    let base = topic("options");
    let name = |last: &str| format!("{base}/{last}");
    let (publisher, peer) = pair().await?;
    peer.subscribe_with(Filter { nolocal: true, ..filter((&name("local"), 1)) }, None).await?;
    peer.publish(&name("local"), "own", 1).await?;
    publisher.publish(&name("local"), "another's", 1).await?;
    equal("no local", peer.one(&name("local")).await?.text().as_str(), "another's")?;

    peer.subscribe_with(Filter { preserve_retain: true, ..filter((&name("kept"), 1)) }, None).await?;
    publisher.publish_retained(&name("kept"), "1").await?;
    equal("RETAIN as published", peer.one(&name("kept")).await?.retain, true)?;

    publisher.publish_retained(&name("never"), "1").await?;
    publisher.publish_retained(&name("once"), "1").await?;
    let never = Filter { retain_forward_rule: RetainForwardRule::Never, ..filter((&name("never"), 1)) };
    peer.subscribe_with(never, None).await?;
    for _ in 0..2 {
        let once = Filter { retain_forward_rule: RetainForwardRule::OnNewSubscribe, ..filter((&name("once"), 1)) };
        peer.subscribe_with(once, None).await?;
    }
    peer.subscribe(&[(&name("end"), 1)]).await?;
    publisher.publish(&name("end"), "end", 1).await?;
    peer.one(&name("end")).await?;
    equal("retain handling 2", peer.on(&name("never")).len(), 0)?;
    peer.one(&name("once")).await?;
    for last in ["kept", "never", "once"] {
        publisher.publish_retained(&name(last), "").await?;
    }
    Ok(())
}

pub async fn will_properties() -> Result<()> {
    let last = topic("will");
    let observer = Peer::new(V5).await?;
    observer.subscribe(&[(&last, 1)]).await?;
    let user = vec![("k".to_string(), "v".to_string())];
    let properties = LastWillProperties {
        content_type: Some("text/plain".into()),
        response_topic: Some(format!("{last}/answers")),
        correlation_data: Some("c".into()),
        payload_format_indicator: Some(1),
        user_properties: user.clone(),
        ..delayed(1)
    };
    let will = Will { topic: last.clone(), payload: "gone".into(), properties: Some(properties) };
    let options = Options { will: Some(will), session_expiry: Some(300), ..Options::default() };
    let dying = Peer::start(V5, options).await?;
    let start = Instant::now();
    dying.cut().await;
    let found = observer.one(&last).await?.properties;
    if start.elapsed() < Duration::from_millis(500) {
        return Err("the will did not wait for its delay of 1 s".into());
    }
    let wanted = PublishProperties {
        content_type: Some("text/plain".into()),
        response_topic: Some(format!("{last}/answers")),
        correlation_data: Some("c".into()),
        payload_format_indicator: Some(1),
        user_properties: user,
        ..Default::default()
    };
    equal("properties", found, wanted)
}
