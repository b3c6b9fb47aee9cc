//! Who may not connect: the list of bans, and looking a client up in it.
//!
//! [`BanList`] is part of the meta group's state. It knows no clock: a ban is in force from the entry that adds it to the entry
//! that ends it, so that all nodes hold the same bans after the same entry. The meta leader proposes the end of what is over by its
//! clock ([`BanList::is_over`]). [`BanIndex`] is made of a list for looking clients up.

mod index;
mod list;
mod range;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use index::{BanIndex, Seen};
pub use list::{BanList, BanRefusal, MAX_BAN_BYTES, MAX_BANS, MAX_BATCH};
pub use range::{AddressRange, RangeError};

/// Longest reason and longest name of who banned, in bytes.
pub const MAX_BAN_TEXT: usize = 256;
/// Longest client identifier or user name, in bytes: what MQTT allows.
pub const MAX_BAN_VALUE: usize = 65_535;
/// What a ban takes of the list's bytes besides its texts, and a range of addresses. Whether there is room is part of applying an entry:
/// all members must count alike, so this is a number of its own and not what a build makes of the types.
const BAN_BYTES: usize = 128;
const ADDRESS_BYTES: usize = 17;

/// By what a ban knows its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BanKind {
    /// The client identifier.
    ClientId,
    /// The user name.
    Username,
    /// The address that the client comes from.
    Address,
}

impl BanKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::ClientId, Self::Username, Self::Address];

    /// The name in the control API, in logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientId => "clientid",
            Self::Username => "username",
            Self::Address => "address",
        }
    }
}

impl fmt::Display for BanKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who is banned.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BanTarget {
    /// The client of this identifier.
    ClientId(String),
    /// All clients of this user name.
    Username(String),
    /// All clients from these addresses.
    Address(AddressRange),
}

impl BanTarget {
    /// By what it knows its clients.
    #[must_use]
    pub const fn kind(&self) -> BanKind {
        match self {
            Self::ClientId(_) => BanKind::ClientId,
            Self::Username(_) => BanKind::Username,
            Self::Address(_) => BanKind::Address,
        }
    }

    /// The identifier, the name or the range, as text.
    #[must_use]
    pub fn value(&self) -> String {
        match self {
            Self::ClientId(text) | Self::Username(text) => text.clone(),
            Self::Address(range) => range.to_string(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::ClientId(text) | Self::Username(text) => text.len(),
            Self::Address(_) => ADDRESS_BYTES,
        }
    }
}

impl fmt::Display for BanTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientId(text) | Self::Username(text) => write!(f, "{} {text:?}", self.kind()),
            Self::Address(range) => write!(f, "address {range}"),
        }
    }
}

/// Where a ban comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BanOrigin {
    /// Somebody asked for it.
    Operator,
    /// A node saw the client come and go too often.
    Flapping,
}

/// One ban.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ban {
    /// Who.
    pub target: BanTarget,
    /// Why, for people; may be empty.
    pub reason: String,
    /// Who says so: the name in a certificate, or of a node.
    pub by: String,
    /// Where it comes from.
    pub origin: BanOrigin,
    /// When it was asked for, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// When it ends; `None`: not by itself.
    pub until_ms: Option<u64>,
}

impl Ban {
    /// What it takes of the list's bytes.
    fn size(&self) -> usize {
        BAN_BYTES + self.target.len() + self.reason.len() + self.by.len()
    }

    /// What is wrong with it.
    fn check(&self) -> Result<(), String> {
        let length = self.target.len();
        if length == 0 || length > MAX_BAN_VALUE {
            return Err(format!("a {} of {length} bytes", self.target.kind()));
        }
        if self.reason.len() > MAX_BAN_TEXT || self.by.len() > MAX_BAN_TEXT {
            return Err(format!("reason and by of a ban may have {MAX_BAN_TEXT} bytes each"));
        }
        Ok(())
    }
}
