//! Which life of a node a forwarded publish is meant for.
//!
//! A node's *life* is its boot and the stream of routes under which it serves. A frame is matched against the routes of one life. What waits on a link
//! while that life ends has no receiver any more: its subscribers have moved, and may have got the message elsewhere. So a frame says its
//! life, and a node passes by what is meant for an earlier one of its own.
//!
//! The life is in front of the frame: boot u64, stream u64, little endian. Older programs pass by a kind of frame that they do not know,
//! so it goes only to nodes that know it, see [`Lives::of`].

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use raftmq_meta::{LIVES_LEVEL, MetaState};
use raftmq_routing::{ForwardFrame, frame_has_groups};

/// Boot and stream of routes; later ones are greater.
pub(crate) type Life = (u64, u64);

/// The bytes of a life before a frame.
const PREFIX: usize = 16;

/// The lives of all nodes, for whoever forwards: read with each publish, changed seldom.
#[derive(Default)]
pub(crate) struct Lives {
    /// The last life that the routes group has of each node, over or not.
    last: ArcSwap<BTreeMap<u64, Life>>,
    /// The nodes whose program knows frames with a life, and the boot of which that was said.
    heeding: ArcSwap<BTreeMap<u64, u64>>,
}

impl Lives {
    /// Takes what the routes machine has. To be called after each entry and before the next, so that no route is seen before its life.
    pub(crate) fn set_last(&self, streams: impl Iterator<Item = (u64, Life)> + Clone) {
        let known = self.last.load();
        if !known.iter().map(|(&node, &life)| (node, life)).eq(streams.clone()) {
            self.last.store(Arc::new(streams.collect()));
        }
    }

    /// Takes what the meta group has.
    pub(crate) fn set_members(&self, state: &MetaState) {
        let members = state.members.values();
        let heeding = members.filter(|m| m.feature_level >= LIVES_LEVEL).map(|m| (m.id, m.boot)).collect();
        if **self.heeding.load() != heeding {
            self.heeding.store(Arc::new(heeding));
        }
    }

    /// The life of a node that a frame matched by now is for, if it is to be said.
    ///
    /// What meta has said of that boot or of a later one is enough: whoever runs an older program after it is another life, and passing the
    /// frame by is right. What was said of an earlier boot is not.
    pub(crate) fn of(&self, node: u64) -> Option<Life> {
        let life = *self.last.load().get(&node)?;
        self.heeding.load().get(&node).is_some_and(|boot| *boot >= life.0).then_some(life)
    }
}

/// A frame that says its life.
pub(crate) fn join((boot, stream): Life, frame: &[u8]) -> Bytes {
    let mut joined = Vec::with_capacity(PREFIX + frame.len());
    joined.extend_from_slice(&boot.to_le_bytes());
    joined.extend_from_slice(&stream.to_le_bytes());
    joined.extend_from_slice(frame);
    joined.into()
}

/// The life that a frame says, and the frame. `None`: it is too short.
pub(crate) fn split(joined: &Bytes) -> Option<(Life, Bytes)> {
    let (boot, rest) = joined.split_first_chunk()?;
    let (stream, _) = rest.split_first_chunk()?;
    Some(((u64::from_le_bytes(*boot), u64::from_le_bytes(*stream)), joined.slice(PREFIX..)))
}

/// What a later life of the node still has to do with a frame: nothing for plain subscribers, but of each group somebody gets the
/// message, wherever, and nobody has had it yet: the sender takes back what an earlier life may have had.
pub(crate) fn inherited(frame: &Bytes) -> Option<Bytes> {
    if !frame_has_groups(frame) {
        return None;
    }
    let mut rest = ForwardFrame::decode(frame).ok()?;
    if rest.shared.is_empty() {
        return None;
    }
    rest.plain = false;
    let mut bytes = Vec::with_capacity(frame.len());
    rest.encode(&mut bytes).ok()?;
    Some(bytes.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use raftmq_mqtt::{Message, Origin, Properties, Publish, QoS};
    use raftmq_routing::{SharedForward, Tried};

    #[test]
    fn a_frame_keeps_its_life() {
        let joined = join((3, u64::MAX), b"frame");
        assert_eq!(split(&joined), Some(((3, u64::MAX), Bytes::from_static(b"frame"))));
        assert_eq!(split(&joined.slice(..PREFIX)), Some(((3, u64::MAX), Bytes::new())));
        for short in 0..PREFIX {
            assert_eq!(split(&joined.slice(..short)), None);
        }
    }

    #[test]
    fn a_life_is_said_to_a_program_that_knows_it() {
        let lives = Lives::default();
        let last = |life| lives.set_last([(7, life)].into_iter());
        let heeding = |boot: Option<u64>| {
            lives.heeding.store(Arc::new(boot.map(|boot| (7, boot)).into_iter().collect()));
        };
        assert_eq!(lives.of(7), None);
        last((2, 1));
        assert_eq!(lives.of(7), None);
        // An earlier boot knew it: this one may not.
        heeding(Some(1));
        assert_eq!(lives.of(7), None);
        heeding(Some(2));
        assert_eq!(lives.of(7), Some((2, 1)));
        // It is being started again, and its routes are those of the life before.
        heeding(Some(3));
        assert_eq!(lives.of(7), Some((2, 1)));
        last((3, 1));
        assert_eq!((lives.of(7), lives.of(8)), (Some((3, 1)), None));
    }

    #[test]
    fn groups_are_inherited_and_nothing_else() {
        let publish = Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: "t",
            packet_id: None,
            properties: Properties::EMPTY,
            payload: b"m",
        };
        let message = Message::new(&publish, Origin { node: 2, sequence: 1 }, "p", 0, None).unwrap();
        let shared = vec![SharedForward { key: "$share/g/t".into(), tried: Tried::new() }];
        let encoded = |plain, shared: &[SharedForward]| {
            let mut bytes = Vec::new();
            ForwardFrame { message: message.clone(), plain, shared: shared.to_vec() }.encode(&mut bytes).unwrap();
            Bytes::from(bytes)
        };
        assert_eq!(inherited(&encoded(true, &[])), None);
        assert_eq!(inherited(&encoded(false, &[])), None);
        assert_eq!(inherited(&encoded(true, &shared)), Some(encoded(false, &shared)));
        assert_eq!(inherited(&encoded(false, &shared)), Some(encoded(false, &shared)));
        assert_eq!(inherited(&Bytes::from_static(&[129, 0, 1])), None);
    }
}
