//! The registry's record of a client.

use smallvec::SmallVec;

use crate::{
    NodeBoot,
    answer::Older,
    codec::{CodecError, Put, Reader},
    command::{Will, node, put_node, put_will, will},
};

/// The most older connections that a claim waits for. Who connects faster than these are closed is told to wait.
pub(crate) const MAX_OLDER: usize = 8;

/// An older connection that may still be open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Former {
    pub(crate) at: Older,
    /// Its will, which is sent when it is certain that the connection has not said DISCONNECT: its node says how it ended, or is down.
    pub(crate) will: Option<Will>,
}

/// A client: connected, waited for, or with a session that goes on without it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Client {
    /// The node that it is connected to.
    pub(crate) owner: Option<NodeBoot>,
    /// The epoch of the last connection.
    pub(crate) epoch: u64,
    /// The session expiry interval in seconds; `u32::MAX`: never.
    pub(crate) expiry_s: u32,
    /// The will that has not been decided upon.
    pub(crate) will: Option<Will>,
    /// The durable session.
    pub(crate) session: Option<u64>,
    /// Older connections that may still be open.
    pub(crate) older: Vec<Former>,
    /// When the will is published: the client is not connected.
    pub(crate) will_at: Option<u64>,
    /// When the session ends: the client is not connected.
    pub(crate) ends_at: Option<u64>,
}

impl Client {
    /// Whether nothing must be known of the client any more.
    pub(crate) fn is_over(&self) -> bool {
        self.owner.is_none() && self.session.is_none() && self.older.is_empty()
    }

    /// The boots of nodes whose end concerns the client.
    pub(crate) fn mentions(&self) -> SmallVec<[NodeBoot; 2]> {
        let mut nodes: SmallVec<[NodeBoot; 2]> = self.owner.into_iter().collect();
        nodes.extend(self.older.iter().map(|older| older.at.node));
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    pub(crate) fn heap(&self) -> usize {
        let size = |will: &Option<Will>| will.as_ref().map_or(0, |will| will.message.wire_len());
        let wills: usize = self.older.iter().map(|older| size(&older.will)).sum();
        self.older.capacity() * size_of::<Former>() + wills + size(&self.will)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.flag(self.owner.is_some());
        if let Some(owner) = self.owner {
            put_node(out, owner);
        }
        out.number(self.epoch);
        out.number(self.expiry_s.into());
        put_will(out, self.will.as_ref());
        out.option(self.session);
        out.count(self.older.len());
        for older in &self.older {
            put_node(out, older.at.node);
            out.number(older.at.epoch);
        }
        out.option(self.will_at);
        out.option(self.ends_at);
        // Records of earlier programs end here.
        if self.older.iter().any(|older| older.will.is_some()) {
            self.older.iter().for_each(|older| put_will(out, older.will.as_ref()));
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let mut client = Self {
            owner: if reader.flag("owner")? { Some(node(reader)?) } else { None },
            epoch: reader.number("epoch")?,
            expiry_s: reader.small("expiry")?,
            will: will(reader)?,
            session: reader.option("session")?,
            older: reader.list("older connections", MAX_OLDER, |reader| {
                let at = Older { node: node(reader)?, epoch: reader.number("epoch")? };
                Ok(Former { at, will: None })
            })?,
            will_at: reader.option("time of the will")?,
            ends_at: reader.option("end of the session")?,
        };
        if !reader.is_empty() {
            for older in &mut client.older {
                older.will = will(reader)?;
            }
        }
        Ok(client)
    }
}
