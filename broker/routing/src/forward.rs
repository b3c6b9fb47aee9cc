//! What a node sends another with a message: whom it is for.
//!
//! A frame for the other node's plain subscribers only is the message in its own layout ([`Message::to_wire`]), whose first byte is the
//! layout's version, below 128. A frame with groups begins with a byte from 128 on:
//!
//! version u8 (129), flags u8 (bit 0: for plain subscribers too), number of groups u16; for each group: length of its key u32, number of tried
//! nodes u8, key, tried nodes (Raft id u64, flags u8: bit 0 has an offline member); then the message in its own layout, to the end.
//! Numbers are little endian.

use std::sync::Arc;

use raftmq_mqtt::{Message, MessageError};
use smallvec::SmallVec;
use thiserror::Error;

use crate::{
    groups::{Tried, TriedNode},
    key::{FilterKind, filter_of_group},
};

const VERSION: u8 = 129;
/// The first byte that is no version of the message's layout.
const FRAMES: u8 = 128;
const PLAIN: u8 = 1;
const OFFLINE: u8 = 1;

/// The most groups in a frame; [`Forwards`] makes several frames of more.
pub const MAX_GROUPS: usize = 1024;

/// The longest key: that of `$queue/…` is longer than the longest filter.
const MAX_KEY: usize = 1 << 17;

/// The most nodes that a message of a group can have been on.
const MAX_TRIED: usize = u8::MAX as usize;

/// A group whose message the other node is to give to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedForward {
    /// The group's [`crate::group_key`].
    pub key: Arc<str>,
    /// The nodes that have had the message for this group, for [`crate::Ask::tried`].
    pub tried: Tried,
}

/// A message from another node and whom it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardFrame {
    /// The message.
    pub message: Message,
    /// For all subscribers of this node that are in no group.
    pub plain: bool,
    /// For a member of each of these groups.
    pub shared: Vec<SharedForward>,
}

/// Why a frame cannot be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ForwardError {
    /// A later version than this program's.
    #[error("forwarded frame of version {version} is not known")]
    Version {
        /// The version.
        version: u8,
    },
    /// It ends before its message.
    #[error("forwarded frame is cut off")]
    Truncated,
    /// A value that this version does not have.
    #[error("forwarded frame has invalid {field}")]
    Invalid {
        /// The field.
        field: &'static str,
    },
    /// More groups, tried nodes or bytes of a key than a frame can say.
    #[error("forwarded frame has too many {field}")]
    TooMany {
        /// Of what.
        field: &'static str,
    },
    /// The message is not valid.
    #[error(transparent)]
    Message(#[from] MessageError),
}

impl ForwardFrame {
    /// Appends the frame.
    ///
    /// # Errors
    /// If it has more than [`MAX_GROUPS`] groups, or a key or list that no group has. Nothing is appended then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), ForwardError> {
        encode(&self.message, self.plain, &self.shared, out)
    }

    /// Reads a frame that is the whole of `bytes`, and checks all of it.
    ///
    /// # Errors
    /// If it is none, or of a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self, ForwardError> {
        let mut rest = match bytes.first() {
            None => return Err(ForwardError::Truncated),
            Some(&version) if version < FRAMES => {
                return Ok(Self { message: Message::from_wire(bytes)?, plain: true, shared: Vec::new() });
            }
            Some(&VERSION) => &bytes[1..],
            Some(&version) => return Err(ForwardError::Version { version }),
        };
        let [flags] = take(&mut rest)?;
        if flags & !PLAIN != 0 {
            return Err(ForwardError::Invalid { field: "flags" });
        }
        let groups = usize::from(u16::from_le_bytes(take(&mut rest)?));
        if groups > MAX_GROUPS {
            return Err(ForwardError::TooMany { field: "groups" });
        }
        // Not reserved by what the frame says, but grown by what is there.
        let mut shared = Vec::new();
        for _ in 0..groups {
            shared.push(take_group(&mut rest)?);
        }
        Ok(Self { message: Message::from_wire(rest)?, plain: flags & PLAIN != 0, shared })
    }
}

/// Whether a frame is for groups. It may still be malformed.
#[must_use]
pub fn frame_has_groups(frame: &[u8]) -> bool {
    frame.first().is_some_and(|first| *first >= FRAMES)
}

/// What is left of a frame without its groups: the message for plain subscribers, or a frame for nobody. `None` if it has no groups, or is
/// malformed.
#[must_use]
pub fn frame_without_groups(frame: &[u8]) -> Option<Vec<u8>> {
    if !frame_has_groups(frame) {
        return None;
    }
    let ForwardFrame { message, plain, shared } = ForwardFrame::decode(frame).ok()?;
    if shared.is_empty() {
        return None;
    }
    let mut rest = Vec::with_capacity(frame.len());
    if plain {
        message.to_wire(&mut rest);
    } else {
        encode(&message, false, &[], &mut rest).ok()?;
    }
    Some(rest)
}

fn take_group(rest: &mut &[u8]) -> Result<SharedForward, ForwardError> {
    let length = u32::from_le_bytes(take(rest)?) as usize;
    if length > MAX_KEY {
        return Err(ForwardError::TooMany { field: "bytes of a group" });
    }
    let [tried_nodes] = take(rest)?;
    let (key, after) = rest.split_at_checked(length).ok_or(ForwardError::Truncated)?;
    *rest = after;
    let key = std::str::from_utf8(key)
        .ok()
        .filter(|key| filter_of_group(key).is_some())
        .ok_or(ForwardError::Invalid { field: "group" })?;
    let mut tried = Tried::new();
    for _ in 0..tried_nodes {
        let node = u64::from_le_bytes(take(rest)?);
        let [flags] = take(rest)?;
        if flags & !OFFLINE != 0 {
            return Err(ForwardError::Invalid { field: "flags of a tried node" });
        }
        tried.push(TriedNode { node, offline: flags & OFFLINE != 0 });
    }
    Ok(SharedForward { key: key.into(), tried })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], ForwardError> {
    let (bytes, after) = rest.split_first_chunk().ok_or(ForwardError::Truncated)?;
    *rest = after;
    Ok(*bytes)
}

fn encode(message: &Message, plain: bool, shared: &[SharedForward], out: &mut Vec<u8>) -> Result<(), ForwardError> {
    if plain && shared.is_empty() {
        out.reserve(message.wire_len());
        message.to_wire(out);
        return Ok(());
    }
    if shared.len() > MAX_GROUPS {
        return Err(ForwardError::TooMany { field: "groups" });
    }
    for group in shared {
        if !matches!(FilterKind::of(&group.key), FilterKind::Shared { queue: false, .. }) {
            return Err(ForwardError::Invalid { field: "group" });
        }
        if group.key.len() > MAX_KEY {
            return Err(ForwardError::TooMany { field: "bytes of a group" });
        }
        if group.tried.len() > MAX_TRIED {
            return Err(ForwardError::TooMany { field: "tried nodes" });
        }
    }
    let groups: usize = shared.iter().map(|group| 5 + group.key.len() + 9 * group.tried.len()).sum();
    out.reserve(4 + groups + message.wire_len());
    out.extend_from_slice(&[VERSION, if plain { PLAIN } else { 0 }]);
    out.extend_from_slice(&(shared.len() as u16).to_le_bytes());
    for group in shared {
        out.extend_from_slice(&(group.key.len() as u32).to_le_bytes());
        out.push(group.tried.len() as u8);
        out.extend_from_slice(group.key.as_bytes());
        for tried in &group.tried {
            out.extend_from_slice(&tried.node.to_le_bytes());
            out.push(if tried.offline { OFFLINE } else { 0 });
        }
    }
    message.to_wire(out);
    Ok(())
}

/// The frames that a message needs: one for each node, whatever is for it there.
#[derive(Debug, Default)]
pub struct Forwards {
    plain: SmallVec<[u64; 4]>,
    groups: SmallVec<[(u64, Vec<SharedForward>); 2]>,
}

impl Forwards {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Nodes with plain subscribers ([`crate::Targets::nodes`]).
    pub fn plain(&mut self, nodes: &[u64]) {
        self.plain.extend_from_slice(nodes);
    }

    /// A node that was chosen for a group ([`crate::Choice::Node`]).
    pub fn group(&mut self, node: u64, group: SharedForward) {
        match self.groups.iter_mut().find(|(known, _)| *known == node) {
            Some((_, groups)) => groups.push(group),
            None => self.groups.push((node, vec![group])),
        }
    }

    /// Whether no node gets the message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.groups.is_empty()
    }

    /// Gives each frame with the nodes that it is for, and forgets them. More than one frame for a node only if its groups do not fit one.
    ///
    /// # Errors
    /// As [`ForwardFrame::encode`], for groups that no lookup gave; the other frames were given.
    pub fn frames(&mut self, message: &Message, mut send: impl FnMut(&[u64], Vec<u8>)) -> Result<(), ForwardError> {
        let mut result = Ok(());
        for (node, groups) in self.groups.drain(..) {
            let mut plain =
                self.plain.iter().position(|known| *known == node).map(|at| self.plain.remove(at)).is_some();
            for groups in groups.chunks(MAX_GROUPS) {
                let mut frame = Vec::new();
                let encoded = encode(message, plain, groups, &mut frame).or_else(|error| {
                    result = Err(error);
                    // What is for the others is not lost for it.
                    if plain { encode(message, true, &[], &mut frame) } else { Err(error) }
                });
                if encoded.is_ok() {
                    send(&[node], frame);
                }
                plain = false;
            }
        }
        if !self.plain.is_empty() {
            let mut frame = Vec::new();
            encode(message, true, &[], &mut frame)?;
            send(&self.plain, frame);
            self.plain.clear();
        }
        result
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use raftmq_mqtt::{Origin, Properties, Publish, QoS};

    #[test]
    fn a_frame_without_its_groups() {
        let group = SharedForward { key: "$share/g/t".into(), tried: Tried::new() };
        let frame = |plain, shared: &[SharedForward]| {
            let mut out = Vec::new();
            encode(&message(), plain, shared, &mut out).unwrap();
            out
        };
        for plain in [true, false] {
            let rest = frame_without_groups(&frame(plain, std::slice::from_ref(&group))).unwrap();
            let expected = ForwardFrame { message: message(), plain, shared: Vec::new() };
            assert_eq!(ForwardFrame::decode(&rest).unwrap(), expected);
            assert_eq!(frame_without_groups(&rest), None);
        }
        assert!(!frame_has_groups(&frame(true, &[])));
        assert_eq!(frame_without_groups(&[129, 0, 1]), None);
    }

    fn message() -> Message {
        let publish = Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: "t",
            packet_id: None,
            properties: Properties::default(),
            payload: b"payload",
        };
        Message::new(&publish, Origin { node: 1, sequence: 2 }, "c", 3, None).unwrap()
    }

    fn group(key: &str, tried: &[(u64, bool)]) -> SharedForward {
        let tried = tried.iter().map(|&(node, offline)| TriedNode { node, offline }).collect();
        SharedForward { key: key.into(), tried }
    }

    fn encoded(plain: bool, shared: Vec<SharedForward>) -> Vec<u8> {
        let mut bytes = Vec::new();
        ForwardFrame { message: message(), plain, shared }.encode(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_layout_is_stable() {
        let mut wire = Vec::new();
        message().to_wire(&mut wire);
        assert_eq!(encoded(true, vec![]), wire, "as before there were groups");
        let header = [129, 1, 1, 0, 10, 0, 0, 0, 1];
        let tried = [7, 0, 0, 0, 0, 0, 0, 1, 1];
        let expected = [&header[..], b"$share/g/a", &tried, &wire].concat();
        assert_eq!(encoded(true, vec![group("$share/g/a", &[((1 << 56) + 7, true)])]), expected);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        use ForwardError::{Invalid, Message, TooMany, Truncated, Version};
        let good = encoded(false, vec![group("$share/g/a", &[(7, false)])]);
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            ForwardFrame::decode(&bytes)
        };
        assert_eq!(changed(0, 130), Err(Version { version: 130 }));
        assert_eq!(changed(0, 128), Err(Version { version: 128 }));
        assert!(matches!(changed(0, 2), Err(Message(MessageError::Format { format: 2 }))));
        assert_eq!(changed(1, 2), Err(Invalid { field: "flags" }));
        assert_eq!(changed(3, 5), Err(TooMany { field: "groups" }));
        assert_eq!(changed(6, 3), Err(TooMany { field: "bytes of a group" }));
        assert_eq!(changed(9, b'x'), Err(Invalid { field: "group" }));
        assert_eq!(changed(27, 2), Err(Invalid { field: "flags of a tried node" }));
        for cut in 0..good.len() {
            let error = ForwardFrame::decode(&good[..cut]).unwrap_err();
            assert!(matches!(error, Truncated | Message(_)), "{cut}: {error}");
        }
        let longer = [&good[..], b"x"].concat();
        assert_eq!(ForwardFrame::decode(&longer), Err(Message(MessageError::TrailingBytes { count: 1 })));
        let mut out = Vec::new();
        for key in ["a", "$queue/a", "$share/g"] {
            let frame = ForwardFrame { message: message(), plain: false, shared: vec![group(key, &[])] };
            assert_eq!(frame.encode(&mut out), Err(Invalid { field: "group" }));
        }
        let longest = format!("$queue/{}", "x".repeat(65_535 - 7));
        let longest = group(&crate::group_key(&longest).unwrap(), &[]);
        assert_eq!(ForwardFrame::decode(&encoded(false, vec![longest.clone()])).unwrap().shared, [longest]);
        let many = vec![group("$share/g/a", &[]); MAX_GROUPS + 1];
        let frame = ForwardFrame { message: message(), plain: false, shared: many };
        assert_eq!((frame.encode(&mut out), out.len()), (Err(TooMany { field: "groups" }), 0));
    }

    #[test]
    fn one_frame_a_node() {
        let mut forwards = Forwards::new();
        assert!(forwards.is_empty());
        forwards.plain(&[2, 3, 4]);
        forwards.group(3, group("$share/g/a", &[]));
        forwards.group(5, group("$share/g/b", &[(1, true)]));
        forwards.group(3, group("$share/h/a", &[]));
        for i in 0..=MAX_GROUPS {
            forwards.group(6, group(&format!("$share/g/{i}"), &[]));
        }
        let mut sent = Vec::new();
        forwards
            .frames(&message(), |nodes, frame| {
                let frame = ForwardFrame::decode(&frame).unwrap();
                assert_eq!(frame.message, message());
                sent.push((nodes.to_vec(), frame.plain, frame.shared.len()));
            })
            .unwrap();
        let expected = [(3, true, 2), (5, false, 1), (6, false, MAX_GROUPS), (6, false, 1)];
        let mut expected: Vec<_> = expected.map(|(node, plain, groups)| (vec![node], plain, groups)).into();
        expected.push((vec![2, 4], true, 0));
        assert_eq!(sent, expected);
        assert!(forwards.is_empty());
    }

    #[test]
    fn a_group_that_is_none_takes_nothing_along() {
        let mut forwards = Forwards::new();
        forwards.plain(&[3]);
        forwards.group(3, group("none", &[]));
        let mut sent = Vec::new();
        let result = forwards.frames(&message(), |nodes, frame| sent.push((nodes.to_vec(), frame)));
        assert_eq!(result, Err(ForwardError::Invalid { field: "group" }));
        assert_eq!(sent, [(vec![3], encoded(true, vec![]))]);
    }

    proptest! {
        #[test]
        fn comes_back_as_it_was(
            plain in any::<bool>(),
            groups in prop::collection::vec(("[a-z]{1,4}/[a-z+/]{1,20}", prop::collection::vec(any::<(u64, bool)>(), 0..5)), 0..6),
        ) {
            let shared: Vec<_> = groups.iter().map(|(key, tried)| group(&format!("$share/{key}"), tried)).collect();
            let frame = ForwardFrame { message: message(), plain, shared };
            let mut bytes = Vec::new();
            frame.encode(&mut bytes).unwrap();
            prop_assert_eq!(ForwardFrame::decode(&bytes), Ok(frame));
        }

        #[test]
        fn damage_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let _ = ForwardFrame::decode(&bytes);
            let mut damaged = encoded(true, vec![group("$share/g/a", &[(7, true), (8, false)])]);
            let at = at.index(damaged.len());
            damaged[at] = byte;
            let _ = ForwardFrame::decode(&damaged);
        }
    }
}
