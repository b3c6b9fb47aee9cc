//! Where in the order of topics the next match of a filter can be.

use super::order::AFTER;

/// What a topic is to a filter.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It matches.
    Match,
    /// It does not; the next one may.
    Next,
    /// It does not, nor does any topic before the one that was written.
    Seek,
    /// It does not, nor does any topic after it.
    End,
}

/// The first place where a match may be: the levels before the first wildcard.
pub(super) fn start(filter: &str, place: &mut Vec<u8>) {
    place.clear();
    let fixed = filter.find(['+', '#']).map_or(filter, |at| &filter[..at]);
    // `a/#` matches `a` too.
    place.extend_from_slice(fixed.strip_suffix('/').unwrap_or(fixed).as_bytes());
}

/// Compares a topic with a valid filter (MQTT 5, 4.7); for [`Step::Seek`], `place` is where to go on.
pub(super) fn step(filter: &str, topic: &str, place: &mut Vec<u8>) -> Step {
    // [MQTT-4.7.2-1]: the topics that begin with `$` are one stretch, ending before `%`.
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        place.clear();
        place.push(b'$' + 1);
        return Step::Seek;
    }
    let mut topic_levels = Levels { topic, at: Some(0) };
    // The end of the last level that a `+` matched: from there another level can be tried.
    let mut last_plus = None;
    for filter_level in filter.split('/') {
        if filter_level == "#" {
            return Step::Match;
        }
        let Some((level, end)) = topic_levels.next() else {
            // What matches is below this topic, which is what comes next.
            if filter_level != "+" {
                place.clear();
                place.extend_from_slice(topic.as_bytes());
                place.push(b'/');
                place.extend_from_slice(filter_level.as_bytes());
                return Step::Seek;
            }
            return Step::Next;
        };
        if filter_level == "+" {
            last_plus = Some(end);
        } else if level < filter_level {
            place.clear();
            place.extend_from_slice(&topic.as_bytes()[..end - level.len()]);
            place.extend_from_slice(filter_level.as_bytes());
            return Step::Seek;
        } else if level > filter_level {
            return after(topic, last_plus, place);
        }
    }
    match topic_levels.next() {
        None => Step::Match,
        Some(_) => after(topic, last_plus, place),
    }
}

/// Past the subtree of the last level that may be another one.
fn after(topic: &str, end: Option<usize>, place: &mut Vec<u8>) -> Step {
    let Some(end) = end else {
        return Step::End;
    };
    place.clear();
    place.extend_from_slice(&topic.as_bytes()[..end]);
    place.push(AFTER);
    Step::Seek
}

/// The levels of a topic with the places where they end.
struct Levels<'a> {
    topic: &'a str,
    at: Option<usize>,
}

impl<'a> Iterator for Levels<'a> {
    type Item = (&'a str, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.at?;
        let rest = &self.topic[start..];
        let length = rest.bytes().position(|byte| byte == b'/');
        self.at = length.map(|length| start + length + 1);
        let level = &rest[..length.unwrap_or(rest.len())];
        Some((level, start + level.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps() {
        let table = [
            ("#", "a/b", Step::Match, ""),
            ("#", "$SYS/x", Step::Seek, "%"),
            ("+/x", "$SYS/x", Step::Seek, "%"),
            ("$SYS/#", "$SYS/x", Step::Match, ""),
            ("a/#", "a", Step::Match, ""),
            ("a/#", "b", Step::End, ""),
            ("a/+", "a", Step::Next, ""),
            ("a/+", "a/b", Step::Match, ""),
            ("a/+", "a/b/c", Step::Seek, "a/b\u{1}"),
            ("a/+/c", "a/b/b", Step::Seek, "a/b/c"),
            ("a/+/c", "a/b", Step::Seek, "a/b/c"),
            ("a/+/c", "a/b/d/e", Step::Seek, "a/b\u{1}"),
            ("+/+/c", "a/b/d/e", Step::Seek, "a/b\u{1}"),
            ("+/b/c", "a/c", Step::Seek, "a\u{1}"),
            ("a/b", "a/b/c", Step::End, ""),
            ("b", "a/x", Step::Seek, "b"),
            ("/+", "/x", Step::Match, ""),
        ];
        for (filter, topic, expected, to) in table {
            let mut place = Vec::new();
            assert_eq!(step(filter, topic, &mut place), expected, "{filter} {topic}");
            assert_eq!(String::from_utf8(place).as_deref(), Ok(to), "{filter} {topic}");
        }
        for (filter, from) in [("#", ""), ("a/b/#", "a/b"), ("/a/+", "/a"), ("//#", "/"), ("a//+/b", "a/"), ("/#", "")]
        {
            let mut place = Vec::new();
            start(filter, &mut place);
            assert_eq!(String::from_utf8(place).as_deref(), Ok(from), "{filter}");
        }
    }
}
