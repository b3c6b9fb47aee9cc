use super::*;

/// [MQTT-4.7.0-1], [MQTT-4.7.3-1], [MQTT-4.7.3-2], [MQTT-4.7.3-3], [MQTT311-4.7.1-1], [MQTT311-4.7.3-1], [MQTT311-4.7.3-2],
/// [MQTT311-4.7.3-3]
#[test]
fn names() {
    let long = "x".repeat(MAX_LENGTH);
    for name in ["a", "/", "//", " ", "a/b c/€", "$SYS/x", "$", "\u{FEFF}a", &long] {
        assert_eq!(validate_topic(name), Ok(()), "{name}");
        assert_eq!(TopicName::parse(name).map(TopicName::as_str), Ok(name));
    }
    let too_long = "x".repeat(MAX_LENGTH + 1);
    for (name, error) in [
        ("", TopicError::Empty),
        ("a\0", TopicError::Nul),
        ("+", TopicError::Wildcard),
        ("a/#", TopicError::Wildcard),
        ("a+b", TopicError::Wildcard),
        (&too_long, TopicError::TooLong),
    ] {
        assert_eq!(validate_topic(name), Err(error), "{name}");
    }
}

/// [MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.7.3-1], [MQTT-4.7.3-2], [MQTT311-4.7.1-2], [MQTT311-4.7.1-3]
#[test]
fn filters() {
    for filter in ["#", "+", "/", "a/#", "+/+/#", "/+", "a//b", "$SYS/#", "$shared/x", "$sharex", "$sharename/#"] {
        let parsed = TopicFilter::parse(filter).expect(filter);
        assert_eq!((parsed.as_str(), parsed.group(), parsed.filter()), (filter, None, filter));
    }
    for (filter, error) in [
        ("", TopicError::Empty),
        ("a#", TopicError::MultiLevel),
        ("#a", TopicError::MultiLevel),
        ("#/", TopicError::MultiLevel),
        ("a/#/b", TopicError::MultiLevel),
        ("##", TopicError::MultiLevel),
        ("a+", TopicError::SingleLevel),
        ("a/+b/c", TopicError::SingleLevel),
        ("++", TopicError::SingleLevel),
        ("a\0b", TopicError::Nul),
    ] {
        assert_eq!(validate_filter(filter), Err(error), "{filter}");
    }
}

/// [MQTT-4.8.2-1], [MQTT-4.8.2-2]
#[test]
fn shared_filters() {
    for (full, group, filter) in [
        ("$share/g/a", "g", "a"),
        ("$share/g/#", "g", "#"),
        ("$share/consumer 1//finance", "consumer 1", "/finance"),
        ("$share/g//", "g", "/"),
        ("$share/g/$SYS/#", "g", "$SYS/#"),
    ] {
        let parsed = TopicFilter::parse(full).expect(full);
        assert_eq!((parsed.as_str(), parsed.group(), parsed.filter()), (full, Some(group), filter));
    }
    for (filter, error) in [
        ("$share", TopicError::ShareName),
        ("$share/", TopicError::ShareName),
        ("$share//a", TopicError::ShareName),
        ("$share/+/a", TopicError::ShareName),
        ("$share/a#/a", TopicError::ShareName),
        ("$share/g", TopicError::ShareFilter),
        ("$share/g/", TopicError::ShareFilter),
        ("$share/g/a#", TopicError::MultiLevel),
        ("$share/g\0/a", TopicError::Nul),
    ] {
        assert_eq!(validate_filter(filter), Err(error), "{filter}");
    }
}

/// The examples of 4.7, and their edges: [MQTT-4.7.2-1], [MQTT-4.7.3-4], [MQTT311-4.7.2-1], [MQTT311-4.7.3-4].
#[test]
fn matching() {
    for (filter, topic, expected) in [
        ("sport/tennis/player1/#", "sport/tennis/player1", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
        ("sport/tennis/player1/#", "sport/tennis/player10", false),
        ("sport/#", "sport", true),
        ("sport/#", "sport/", true),
        ("#", "a/b", true),
        ("#", "/", true),
        ("sport/tennis/+", "sport/tennis/player1", true),
        ("sport/tennis/+", "sport/tennis/player1/ranking", false),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+", "/finance", false),
        ("+/#", "a", true),
        ("a", "A", false),
        ("\u{e4}", "a\u{308}", false),
        ("a", "a/", false),
        ("a/", "a", false),
        ("", "a", false),
        ("#", "$SYS/x", false),
        ("+/x", "$SYS/x", false),
        ("+", "$", false),
        ("$SYS/#", "$SYS/x", true),
        ("$SYS/#", "$SYS", true),
        ("$SYS/+", "$SYS/x", true),
        ("a/#", "a/$x", true),
        ("a/+", "a/$x", true),
    ] {
        assert_eq!(filter_matches(filter, topic), expected, "{filter} {topic}");
    }
    let shared = TopicFilter::parse("$share/g/a/+").expect("valid");
    assert!(shared.matches("a/b") && shared.has_wildcard());
    assert!(shared.levels().eq(["a", "+"]));
}

#[test]
fn level_limit() {
    assert_eq!(validate_levels("a/b/c", 3), Ok(()));
    assert_eq!(validate_levels("//", 3), Ok(()));
    assert_eq!(validate_levels("///", 3), Err(TopicError::TooManyLevels { limit: 3 }));
    assert_eq!(validate_levels("a/b", 1), Err(TopicError::TooManyLevels { limit: 1 }));
    assert_eq!(validate_levels("abc", 1), Ok(()));
}
