#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use raftmq_mqtt::topic::MAX_LENGTH;

use super::*;

/// 2025-04-01 07:00 UTC.
const NOW: u64 = 1_743_490_800_000;

fn parsed(topic: &str) -> Option<Result<(String, u64), DelayedError>> {
    let parsed = parse(topic, "", NOW, &DelayedSettings::default())?;
    Some(parsed.map(|delayed| (delayed.topic.into_owned(), delayed.due_ms - NOW)))
}

#[test]
fn topics() {
    for (topic, real, after_ms) in [
        ("$delayed/15/x/y", "x/y", 15_000),
        ("$delay/15/x/y", "x/y", 15_000),
        ("$delayed/0/x", "x", 0),
        ("$delayed/007/x", "x", 7000),
        ("$delayed/3600/$SYS/topic", "$SYS/topic", 3_600_000),
        ("$delayed/10//", "/", 10_000),
        ("$delayed/4294967/x", "x", 4_294_967_000),
        // Moments.
        ("$delayed/1743490860/chat/id", "chat/id", 60_000),
        ("$delayed/1747785767/x", "x", 4_294_967_000),
        ("$delayed/1743490740/x", "x", 0),
        ("$delayed/1739195833/x", "x", 0),
    ] {
        assert_eq!(parsed(topic), Some(Ok((real.to_owned(), after_ms))), "{topic}");
    }
}

#[test]
fn errors() {
    let too_long = DelayedError::TooLong { max_delay_s: 4_294_967 };
    for (topic, error) in [
        ("$delayed/", DelayedError::NotANumber),
        ("$delayed//x", DelayedError::NotANumber),
        ("$delayed/five/x", DelayedError::NotANumber),
        ("$delayed/-1/x", DelayedError::NotANumber),
        ("$delayed/+1/x", DelayedError::NotANumber),
        ("$delayed/1.5/x", DelayedError::NotANumber),
        ("$delayed/ 5/x", DelayedError::NotANumber),
        ("$delayed/٣/x", DelayedError::NotANumber),
        ("$delayed/4294968/x", too_long),
        ("$delayed/10000000/x", too_long),
        ("$delayed/1747785768/x", too_long),
        ("$delayed/1739195832/x", too_long),
        ("$delayed/18446744073709551615/x", too_long),
        ("$delayed/99999999999999999999999/x", too_long),
        ("$delayed/5", DelayedError::MissingTopic),
        ("$delayed/5/", DelayedError::MissingTopic),
        ("$delayed/5/a/+", DelayedError::Topic(TopicError::Wildcard)),
        ("$delayed/5/#", DelayedError::Topic(TopicError::Wildcard)),
        ("$delayed/5/a\0", DelayedError::Topic(TopicError::Nul)),
        ("$delayed/5/$delayed/6/x", DelayedError::Nested),
        ("$delay/5/$delayed/6/x", DelayedError::Nested),
    ] {
        assert_eq!(parsed(topic), Some(Err(error)), "{topic}");
        assert_eq!(u8::from(error.reason_code()), 0x90);
    }
    assert_eq!(
        parsed(&format!("$delayed/5/{}", "x".repeat(MAX_LENGTH + 1))),
        Some(Err(DelayedError::Topic(TopicError::TooLong)))
    );
}

#[test]
fn other_topics() {
    for topic in ["a/b", "$delayed", "$delay", "$delayedx/5/a", "x/$delayed/5/a", "$SYS/delayed/5/x", ""] {
        assert_eq!(parsed(topic), None, "{topic}");
    }
    let off = DelayedSettings { enabled: false, ..DelayedSettings::default() };
    assert_eq!(parse("$delayed/5/a", "", NOW, &off), None);
}

#[test]
fn behind_a_mount_point() {
    let settings = DelayedSettings::default();
    let delayed = parse("site/1/$delayed/5/a/b", "site/1/", NOW, &settings).unwrap().unwrap();
    assert_eq!(delayed, Delayed { topic: "site/1/a/b".into(), due_ms: NOW + 5000 });
    assert_eq!(parse("site/1/a/b", "site/1/", NOW, &settings), None);
    assert_eq!(parse("$delayed/5/a", "site/1/", NOW, &settings), None);
}

proptest! {
    /// No text makes it panic, and what it accepts is a valid topic, due between now and the longest delay.
    #[test]
    fn any_topic(
        delay in "[0-9]{0,22}|\\PC{0,5}",
        topic in "([$a-z/+#]|\\PC){0,20}",
        now_ms in any::<u64>(),
        max_delay_s in any::<u32>(),
    ) {
        let settings = DelayedSettings { max_delay_s, ..DelayedSettings::default() };
        let full = format!("$delayed/{delay}/{topic}");
        if let Some(Ok(delayed)) = parse(&full, "", now_ms, &settings) {
            prop_assert!(validate_topic(&delayed.topic).is_ok());
            prop_assert!(delayed.due_ms >= now_ms);
            prop_assert!(delayed.due_ms <= now_ms.saturating_add(u64::from(max_delay_s) * 1000));
        }
    }

    #[test]
    fn every_delay_that_is_allowed(seconds in 0_u64..=4_294_967, topic in "[a-z/]{1,10}") {
        prop_assert_eq!(parsed(&format!("$delay/{seconds}/{topic}")), Some(Ok((topic, seconds * 1000))));
    }
}
