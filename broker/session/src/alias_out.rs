//! Topic aliases towards an MQTT 5 client (MQTT 5, 3.3.2.3.4).

use std::{collections::HashMap, num::NonZeroU16};

use raftmq_mqtt::Alias;

/// A topic this short is no longer than the alias.
const SHORTEST: usize = 4;
/// How many topics that came once are remembered.
const CANDIDATES: usize = 32;

/// The aliases of one connection. A topic gets one when it comes for the second time, as long as there are any and their topics
/// are not too long together; it keeps it until the end of the connection `[MQTT-3.3.2-7]`. Topics that come once, as of a
/// million different devices, leave the aliases to the others.
#[derive(Debug)]
pub(crate) struct OutAliases {
    numbers: HashMap<Box<[u8]>, NonZeroU16>,
    /// Hashes of topics that came once; by hash.
    seen: [u32; CANDIDATES],
    /// The highest number, which is not above the client's maximum.
    most: u16,
    /// Bytes that topics may still take.
    bytes_left: usize,
}

impl OutAliases {
    /// For up to `most` topics of up to `bytes` bytes; `None` if that is none `[MQTT-3.1.2-27]`.
    pub(crate) fn new(most: u16, bytes: usize) -> Option<Box<Self>> {
        (most > 0).then(|| Box::new(Self { numbers: HashMap::new(), seen: [0; CANDIDATES], most, bytes_left: bytes }))
    }

    /// The alias to send a topic with: the one it has, or the one that it will have when [`OutAliases::introduce`] is called.
    pub(crate) fn find(&mut self, topic: &[u8]) -> Option<Alias> {
        if topic.len() < SHORTEST {
            return None;
        }
        if let Some(&number) = self.numbers.get(topic) {
            return Some(Alias { number, introduce: false });
        }
        if topic.len() > self.bytes_left {
            return None;
        }
        // [MQTT-3.1.2-26], [MQTT-3.3.2-8], [MQTT-3.3.2-11]
        let number = NonZeroU16::new(self.next_number()?)?;
        let hash = hash(topic);
        let place = &mut self.seen[hash as usize / 2 % CANDIDATES];
        if *place == hash {
            return Some(Alias { number, introduce: true });
        }
        *place = hash;
        None
    }

    /// The topic was sent with the alias that [`OutAliases::find`] gave it.
    pub(crate) fn introduce(&mut self, topic: &[u8]) {
        if let Some(number) = self.next_number().and_then(NonZeroU16::new) {
            self.bytes_left = self.bytes_left.saturating_sub(topic.len());
            self.numbers.insert(topic.into(), number);
        }
    }

    fn next_number(&self) -> Option<u16> {
        let used = u16::try_from(self.numbers.len()).ok()?;
        (used < self.most).then(|| used + 1)
    }
}

/// FNV-1a. Who makes topics collide keeps them from having aliases, and that is all. The lowest bit is set: it is never the 0 of an
/// empty place.
fn hash(topic: &[u8]) -> u32 {
    topic.iter().fold(0x811C_9DC5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)) | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(aliases: &mut OutAliases, topic: &str) -> Option<(u16, bool)> {
        let alias = aliases.find(topic.as_bytes())?;
        if alias.introduce {
            aliases.introduce(topic.as_bytes());
        }
        Some((alias.number.get(), alias.introduce))
    }

    /// [MQTT-3.1.2-26], [MQTT-3.1.2-27], [MQTT-3.3.2-8], [MQTT-3.3.2-11]
    #[test]
    fn topics_that_come_again_have_aliases() {
        assert!(OutAliases::new(0, 100).is_none());
        let mut aliases = OutAliases::new(2, 100).unwrap_or_else(|| unreachable!("two"));
        assert_eq!(send(&mut aliases, "hot/1"), None, "not yet");
        assert_eq!(send(&mut aliases, "hot/1"), Some((1, true)));
        assert_eq!(send(&mut aliases, "hot/1"), Some((1, false)));
        for _ in 0..3 {
            assert_eq!(send(&mut aliases, "abc"), None, "too short to gain by it");
        }
        // Found, but not sent: it is introduced by the next packet.
        assert_eq!(send(&mut aliases, "hot/2"), None);
        assert!(aliases.find(b"hot/2").is_some());
        assert_eq!(send(&mut aliases, "hot/2"), Some((2, true)));
        for _ in 0..3 {
            assert_eq!(send(&mut aliases, "hot/3"), None, "there are two");
        }
        assert_eq!(send(&mut aliases, "hot/1"), Some((1, false)));
    }

    #[test]
    fn their_topics_are_bounded() {
        let mut aliases = OutAliases::new(100, 12).unwrap_or_else(|| unreachable!("a hundred"));
        let counted = |aliases: &mut OutAliases, topic: &str| (0..2).filter_map(|_| send(aliases, topic)).count();
        assert_eq!(counted(&mut aliases, "12345678"), 1);
        assert_eq!(counted(&mut aliases, "87654321"), 0);
        assert_eq!(counted(&mut aliases, "1234"), 1);
    }

    #[test]
    fn topics_that_come_once_take_none() {
        let mut aliases = OutAliases::new(4, 1_000_000).unwrap_or_else(|| unreachable!("four"));
        for number in 0..10_000 {
            assert_eq!(send(&mut aliases, &format!("device/{number}")), None);
        }
        assert!(aliases.numbers.is_empty());
    }
}
